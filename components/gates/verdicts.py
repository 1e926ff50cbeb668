"""The outcome of one gate, and of all gates of a model; standard library only."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Verdict(str, Enum):
    """Whether one requirement is met, according to the data.

    `UNDECIDED` means that these images do not decide whether it is met.
    """

    HELD = "held"
    FAILED = "failed"
    UNDECIDED = "not decided"

    @classmethod
    def of(cls, met: bool) -> "Verdict":
        """HELD or FAILED, for a requirement that is always decided."""
        return cls.HELD if met else cls.FAILED


@dataclass(frozen=True)
class Gate:
    """One gate of one model.

    Attributes:
      name: e.g. `value/top1`.
      value: the measured value; None if there is none.
      threshold: the requirement, as text.
      verdict: the outcome.
      variant: the judged variant; empty for the whole model.
      slice: `key=value` of the judged slice; empty for all images.
      detail: intervals and counts as text.
      waived: why a gate that did not hold does not stop the model; empty if it does.
      images_needed: number of images that would decide an undecided gate; 0 if not known.
      acceptable: whether `undecided=accept` lets an undecided gate pass.
    """

    name: str
    value: float | None
    threshold: str
    verdict: Verdict
    variant: str = ""
    slice: str = ""
    detail: str = ""
    waived: str = ""
    images_needed: int = 0
    acceptable: bool = True

    def __post_init__(self) -> None:
        """Raises TypeError for a verdict of another type: `True` would never be held."""
        if not isinstance(self.verdict, Verdict):
            raise TypeError(
                f"gate {self.name}: `verdict` must be a Verdict, got {self.verdict!r}; "
                "write Verdict.of(met)"
            )

    @property
    def passed(self) -> bool:
        """Whether this gate does not stop the model."""
        return self.verdict is Verdict.HELD or bool(self.waived)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `verdict.json`; `passed` is for older readers."""
        return {**asdict(self), "verdict": self.verdict.value, "passed": self.passed}


def overall(gates: Iterable[Gate]) -> Verdict:
    """The verdict of a model: HELD if every gate passes, FAILED if one failed."""
    stopping = {gate.verdict for gate in gates if not gate.passed}
    if Verdict.FAILED in stopping:
        return Verdict.FAILED
    return Verdict.UNDECIDED if stopping else Verdict.HELD
