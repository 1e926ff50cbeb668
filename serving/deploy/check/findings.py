"""What the check has to say: one finding a line, each with its remedy."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any


class CheckError(ValueError):
    """The check cannot look at all; says what is missing and what to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth a look.

    Attributes:
      level: `error` or `warning`.
      file: relative to the folder that was checked.
      about: the object in it, e.g. `Deployment/tensorflow-serving`, or empty.
      finding: what was found.
      remedy: what to do.
    """

    level: str
    file: str
    about: str
    finding: str
    remedy: str


@dataclass
class Findings:
    """The findings so far, and what was looked at."""

    found: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)

    def at(self, file: str, about: str = "") -> "Place":
        """A place to report from."""
        return Place(self, file, about)

    @property
    def errors(self) -> int:
        """How many are errors."""
        return sum(finding.level == "error" for finding in self.found)

    @property
    def warnings(self) -> int:
        """How many are warnings."""
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
class Place:
    """A file, and an object in it, that findings are about."""

    findings: Findings
    file: str
    about: str

    def error(self, finding: str, remedy: str) -> None:
        """Reports what would not work."""
        self._add("error", finding, remedy)

    def warn(self, finding: str, remedy: str) -> None:
        """Reports what works, but not as it should."""
        self._add("warning", finding, remedy)

    def _add(self, level: str, finding: str, remedy: str) -> None:
        new = Finding(level, self.file, self.about, finding, remedy)
        # Two services may mount one file, and one container be two objects' target.
        if new not in self.findings.found:
            self.findings.found.append(new)


def known(names: Iterable[Any]) -> str:
    """The names in words for a remedy."""
    return ", ".join(str(name) for name in names) or "none"


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean ...?` for a name that is not among `names`, or empty."""
    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}?" if close else ""


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, Any] | None) -> bool:
    """Whether a label selector of equalities chooses these labels; an empty one chooses all."""
    return all((labels or {}).get(key) == value for key, value in (selector or {}).items())
