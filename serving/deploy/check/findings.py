"""Findings of the check, each with its remedy."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any


class CheckError(ValueError):
    """The check cannot run; the message has the reason and what to do."""


@dataclass(frozen=True)
class Finding:
    """An error or a warning.

    Attributes:
      level: `error` or `warning`.
      file: relative to the folder that was checked.
      about: the object in the file, e.g. `Deployment/tensorflow-serving`, or empty.
      finding: the problem.
      remedy: what to do.
    """

    level: str
    file: str
    about: str
    finding: str
    remedy: str


@dataclass
class Findings:
    """The findings so far, and the checked files."""

    found: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)

    def at(self, file: str, about: str = "") -> "Location":
        """The location of findings in a file."""
        return Location(self, file, about)

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(finding.level == "error" for finding in self.found)

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return len(self.found) - self.errors

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `errors`, `warnings`, `looked_at` and `findings`."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "looked_at": self.looked_at,
            "findings": [asdict(finding) for finding in self.found],
        }


@dataclass(frozen=True)
class Location:
    """The file and the object that findings are about."""

    findings: Findings
    file: str
    about: str

    def error(self, finding: str, remedy: str) -> None:
        """Reports an error."""
        self._add("error", finding, remedy)

    def warn(self, finding: str, remedy: str) -> None:
        """Reports a warning."""
        self._add("warning", finding, remedy)

    def _add(self, level: str, finding: str, remedy: str) -> None:
        new = Finding(level, self.file, self.about, finding, remedy)
        # Two services may mount one file, and two objects may refer to one container.
        if new not in self.findings.found:
            self.findings.found.append(new)


def listed(names: Iterable[Any]) -> str:
    """The names with commas, for a remedy."""
    return ", ".join(str(name) for name in names) or "none"


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean ...?` for a name that is not among `names`, or empty."""
    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}?" if close else ""


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, Any] | None) -> bool:
    """Whether a label selector of equalities matches the labels; an empty one matches all."""
    return all((labels or {}).get(key) == value for key, value in (selector or {}).items())
