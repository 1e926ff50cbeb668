"""Reads YAML documents, and reports errors that PyYAML ignores."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.deploy.check.findings import Findings, Location

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Document:
    """One YAML document.

    Attributes:
      path: of the file.
      data: a mapping; other values are reported and skipped.
      location: where to report.
    """

    path: Path
    data: dict[str, Any]
    location: Location


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, as `kubectl apply` does; PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is duplicated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# A bare `=` is a YAML 1.1 value that PyYAML's safe loader cannot construct.
_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: str(node.value))


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files under `folder`, in order, without folders that start with a dot."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
    ]


def read_documents(path: Path, folder: Path, findings: Findings) -> list[Document]:
    """The mappings in a file; invalid YAML and other values are reported."""
    file = path.relative_to(folder).as_posix()
    findings.looked_at.append(file)
    location = findings.at(file)
    try:
        text = path.read_text(encoding="utf-8")
        loaded = list(yaml.load_all(text, Loader=_Loader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        location.error(f"not YAML: {_in_one_line(error)}", "fix the file at that line")
        return []
    documents = []
    for number, data in enumerate(loaded, 1):
        if isinstance(data, dict):
            documents.append(Document(path, data, findings.at(file, _about(data))))
        elif data is not None:
            location.error(f"document {number} is a {type(data).__name__}", "write a mapping")
    return documents


def _about(data: dict[str, Any]) -> str:
    kind = data.get("kind")
    metadata = data.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return f"{kind}/{name}" if kind and name else str(kind or "")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
