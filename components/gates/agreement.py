"""A variant against its own float forward pass, counted in images; labels play no part.

Agreement says whether the conversion is faithful to the model it converts. Whether that model is as
good as the float model is the paired test's matter (`components.gates.change`).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from components.gates.columns import (
    FLOAT,
    Table,
    differing,
    own_float,
)
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from core.bundle import SAVED_MODEL
from trainers.compression import keeps_weights
from trainers.evaluation.noninferiority import disagreement_bound

# The float file and the SavedModel hold one network: one image in a thousand may differ.
_EXPORT = 1000


@dataclass(frozen=True)
class AllImages:
    """How often variants with the trained weights differ from the float file, on every split.

    Attributes:
      images: images that were compared; 0 where none were.
      total: images of the data set; more than `images` where a limit cut the training split.
      differing: variant -> images on which its class is another, ties not counted.
    """

    images: int = 0
    total: int = 0
    differing: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "AllImages":
        """What `agreement.json` of the Predictor holds."""
        return cls(raw["images"], raw["total"], dict(raw["differing"]))

    def bound(self, variant: str) -> float:
        """Upper bound of the share of differing images, hence of the drop; 1 where not counted."""
        if not self.images or variant not in self.differing:
            return 1.0
        return disagreement_bound(self.differing[variant], self.images)

    def describe(self, variant: str) -> str:
        """The counts in words; empty where the variant was not counted."""
        if not self.images or variant not in self.differing:
            return ""
        of = "all" if self.images == self.total else f"{self.images:,} of all"
        return (
            f"differs from its float pass on {self.differing[variant]} of {of} {self.total:,} "
            f"images of every split: any drop is at most {self.bound(variant):.4f}"
        )


def counted(variant: str, table: Table, everything: AllImages) -> tuple[int, int, int, str]:
    """Differing images, ties, all images, and the column compared with: for one variant.

    Of every split where the variant has the trained weights and was counted, else of the table.
    All zero and empty when the table lacks the variant's own float pass.
    """
    against = own_float(variant, table)
    if not against:
        return 0, 0, 0, ""
    count, ties = differing(table[variant], table[against])
    if keeps_weights(variant) and variant in everything.differing:
        return everything.differing[variant], ties, everything.images, against
    return count, ties, len(table[variant].labels), against


def allowed(min_agreement: float, images: int) -> int:
    """How many images may differ, rounded up to a whole one: a small set has no finer steps."""
    return math.ceil((1 - min_agreement) * images - 1e-9)


def agrees(variant: str, table: Table, everything: AllImages, settings: GateSettings) -> bool:
    """Whether a variant is faithful to its own float pass; True where there is none to compare."""
    count, _, images, _ = counted(variant, table, everything)
    return count <= allowed(settings.min_agreement, images)


def agreement_gates(
    table: Table, variant: str, everything: AllImages, settings: GateSettings
) -> list[Gate]:
    """The float file against the SavedModel, and the recommended variant against its float pass."""
    gates = [_export_gate(table)]
    count, ties, images, against = counted(variant, table, everything)
    if variant != FLOAT and against:
        limit = allowed(settings.min_agreement, images)
        gates.append(
            Gate(
                "agreement/float",
                1 - count / images,
                f"at most {limit} of {images:,} images differ",
                Verdict.of(count <= limit),
                variant,
                detail=_in_words(count, ties, images, against),
            )
        )
    return gates


def _export_gate(table: Table) -> Gate:
    images = len(table[FLOAT].labels)
    count, ties = differing(table[FLOAT], table[SAVED_MODEL])
    limit = images // _EXPORT
    return Gate(
        "agreement/saved_model",
        1 - count / images,
        f"at most {limit} of {images:,} images differ",
        Verdict.of(count <= limit),
        SAVED_MODEL,
        detail=_in_words(count, ties, images, FLOAT),
    )


def _in_words(count: int, ties: int, images: int, against: str) -> str:
    text = f"{count} of {images:,} images differ from {against}"
    return f"{text}, {ties} ties not counted" if ties else text
