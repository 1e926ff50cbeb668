"""The notebooks that `sightline notebook` lists, and copies of them with parameters filled in.

    notebook = find("errors")
    cells = filled(notebook, {"RUN": "runs/smoke", "SHOWN": "48"})

A notebook's cell with the tag `parameters`, as papermill uses it, assigns plain values. Its
metadata has `sightline`: `description`, one line; `needs`, names of `run_results.NEEDS`; and
`takes_records`, whether the run may be a folder of records.
"""

import ast
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files import write_text
from trainers.registry import nearest

#: The parameter for the run, and that for a second one.
RUN, OTHER = "RUN", "OTHER"
#: Where the wheel holds the notebooks, relative to this module; see `pyproject.toml`.
INSTALLED = Path(__file__).with_name("files")
_REPOSITORY = Path(__file__).parents[2] / "notebooks"
_TAG = "parameters"


class NotebookError(ValueError):
    """A notebook, parameter or file that cannot be used; the message contains the remedy."""


@dataclass(frozen=True)
class Notebook:
    """A notebook of the catalog.

    Attributes:
      name: of the file, without suffix.
      description: one line.
      needs: what it reads of a run; names of `run_results.NEEDS`.
      takes_records: whether it also takes a folder of records.
      parameters: name -> default value.
      content: the notebook as JSON.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    takes_records: bool
    parameters: Mapping[str, str | int | float | bool]
    content: Mapping[str, Any]


def catalog() -> list[Notebook]:
    """All notebooks, by name."""
    folder = INSTALLED if INSTALLED.is_dir() else _REPOSITORY
    return [_read(path) for path in sorted(folder.glob("*.ipynb"))]


def find(name: str) -> Notebook:
    """The notebook of that name.

    Raises:
      NotebookError: there is none; names the nearest.
    """
    known = {one.name: one for one in catalog()}
    wanted = name.removesuffix(".ipynb").replace("-", "_")
    if wanted not in known:
        raise NotebookError(f"unknown notebook {name!r}; {nearest(wanted, list(known))}")
    return known[wanted]


def filled(notebook: Notebook, values: Mapping[str, str]) -> dict[str, Any]:
    """A copy of the notebook's JSON with other values of parameters.

    Args:
      notebook: of the catalog.
      values: name in any case -> value as text, which is converted to the type of the default.

    Raises:
      NotebookError: an unknown parameter, or a value of another type.
    """
    content = copy.deepcopy(dict(notebook.content))
    cell = _parameter_cell(content, notebook.name)
    lines = "".join(cell["source"]).splitlines(keepends=True)
    for name, text in values.items():
        key = name.upper()
        if key not in notebook.parameters:
            known = [one.lower() for one in notebook.parameters if one != RUN]
            raise NotebookError(
                f"the notebook {notebook.name} has no parameter {name!r}; "
                f"{nearest(name.lower(), known) if known else 'it has none'}"
            )
        value = _converted(key, text, notebook.parameters[key])
        at = next(one.lineno for one in _assignments(lines) if one.targets[0].id == key) - 1
        comment = lines[at].partition("  #")
        ending = f"{comment[1]}{comment[2]}" if comment[1] else "\n" * lines[at].endswith("\n")
        lines[at] = f"{key} = {value!r}{ending}"
    cell["source"] = lines
    return content


def write(content: Mapping[str, Any], path: Path) -> None:
    """Writes a notebook to a new file.

    Raises:
      NotebookError: the file exists already, or its suffix is not `.ipynb`.
    """
    if path.suffix != ".ipynb":
        raise NotebookError(f"a notebook's file ends with .ipynb, got {path}; write {path}.ipynb")
    if path.exists():
        raise NotebookError(
            f"{path} exists already and may contain your changes; delete it, or write to another "
            "file with --out FILE"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> Notebook:
    content = json.loads(path.read_text(encoding="utf-8"))
    facts = content["metadata"]["sightline"]
    lines = _parameter_cell(content, path.stem)["source"]
    values = {one.targets[0].id: ast.literal_eval(one.value) for one in _assignments(lines)}
    needs, records = tuple(facts["needs"]), facts["takes_records"]
    return Notebook(path.stem, facts["description"], needs, records, values, content)


def _parameter_cell(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    for cell in content["cells"]:
        if _TAG in cell["metadata"].get("tags", ()):
            return cell
    raise NotebookError(f"the notebook {name} has no cell with the tag {_TAG!r}")


def _assignments(lines: list[str]) -> list[Any]:
    """The assignments `NAME = VALUE` of a cell, one line each."""
    return [one for one in ast.parse("".join(lines)).body if isinstance(one, ast.Assign)]


def _converted(name: str, text: str, default: str | int | float | bool) -> str | int | float | bool:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise NotebookError(f"{name.lower()} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise NotebookError(
            f"{name.lower()} must be {kind}, got {text!r}; the default is {default}"
        ) from None
