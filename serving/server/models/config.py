"""Which models are served, and which of their versions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.server.errors import invalid


@dataclass(frozen=True)
class VersionPolicy:
    """The selection of the versions on disk.

    Attributes:
      kind: `latest`, `all` or `specific`.
      num_versions: number of the newest versions, for `latest`.
      versions: the versions, for `specific`.
    """

    kind: str = "latest"
    num_versions: int = 1
    versions: tuple[int, ...] = ()

    def choose(self, on_disk: Collection[int]) -> list[int]:
        """The versions to serve, ascending."""
        if self.kind == "all":
            return sorted(on_disk)
        if self.kind == "specific":
            return sorted(set(self.versions) & set(on_disk))
        return sorted(on_disk)[-self.num_versions :]


@dataclass(frozen=True)
class ServedModel:
    """A model to serve.

    Attributes:
      base_path: the folder that holds its numbered versions.
      labels: label -> version, e.g. `{"stable": 3}`.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def check_names(configs: Sequence[ServedModel]) -> None:
    """Checks that each model is listed once.

    Raises:
      ServingError: a name is listed twice.
    """
    names = [config.name for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"Illegal to list model {name} multiple times in config list")
