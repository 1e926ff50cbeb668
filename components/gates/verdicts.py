"""The outcome of one gate, and of all gates of a model; standard library only."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Verdict(str, Enum):
    """What the data show about one requirement.

    `UNDECIDED` means that the images at hand show neither that it is met nor that it is not.
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
      value: what was measured.
      threshold: what is required, in words.
      verdict: the outcome.
      variant: the variant that was judged; empty for the whole model.
      slice: `key=value` of the slice that was judged; empty for all images.
      detail: intervals and counts in words.
      waived: why a gate that did not hold does not stop the model; empty where it does.
      images_needed: how many images would decide an undecided gate; 0 where that is not known.
    """

    name: str
    value: float
    threshold: str
    verdict: Verdict
    variant: str = ""
    slice: str = ""
    detail: str = ""
    waived: str = ""
    images_needed: int = 0

    def __post_init__(self) -> None:
        """Raises TypeError for a verdict of another type: `True` would never be held."""
        if not isinstance(self.verdict, Verdict):
            raise TypeError(
                f"gate {self.name}: `verdict` must be a Verdict, got {self.verdict!r}; "
                "write Verdict.of(met)"
            )

    @property
    def passed(self) -> bool:
        """Whether this gate lets the model through."""
        return self.verdict is Verdict.HELD or bool(self.waived)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `verdict.json` holds them; `passed` is there for older readers."""
        return {**asdict(self), "verdict": self.verdict.value, "passed": self.passed}


def overall(gates: Iterable[Gate]) -> Verdict:
    """The verdict of a model: HELD when every gate lets it through, FAILED when one failed."""
    stopping = {gate.verdict for gate in gates if not gate.passed}
    if Verdict.FAILED in stopping:
        return Verdict.FAILED
    return Verdict.UNDECIDED if stopping else Verdict.HELD
