"""Agreement of a variant with its own float forward pass, counted in images, without labels.

Agreement shows whether the conversion is faithful to the model that it converts. Whether that model
is as good as the float model is decided by the paired test (`components.gates.change`).
"""

import math
from dataclasses import dataclass, field
from typing import Any

from components.evaluation.columns import (
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
      images: number of compared images; 0 if there are none.
      total: images of the data set; more than `images` if the training split was cut to a limit.
      differing: variant -> images that it assigns to another class, without ties.
    """

    images: int = 0
    total: int = 0
    differing: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "AllImages":
        """Reads the content of the Predictor's `agreement.json`."""
        return cls(raw["images"], raw["total"], dict(raw["differing"]))

    def bound(self, variant: str) -> float:
        """Upper bound of the share of differing images, hence of the drop; 1 if not counted."""
        if not self.images or variant not in self.differing:
            return 1.0
        return disagreement_bound(self.differing[variant], self.images)

    def describe(self, variant: str) -> str:
        """The counts as text; empty if the variant was not counted."""
        if not self.images or variant not in self.differing:
            return ""
        of = "all" if self.images == self.total else f"{self.images:,} of all"
        return (
            f"differs from its float pass on {self.differing[variant]} of {of} {self.total:,} "
            f"images of every split: any drop is at most {self.bound(variant):.4f}"
        )


def count(variant: str, table: Table, all_images: AllImages) -> tuple[int, int, int, str]:
    """Differing images, ties, all images, and the column compared with, of one variant.

    They are of all splits if the variant has the trained weights and was counted there, else of the
    table. All are zero and empty if the table does not have the variant's own float pass.
    """
    against = own_float(variant, table)
    if not against:
        return 0, 0, 0, ""
    count, ties = differing(table[variant], table[against])
    if keeps_weights(variant) and variant in all_images.differing:
        return all_images.differing[variant], ties, all_images.images, against
    return count, ties, len(table[variant].labels), against


def allowed(min_agreement: float, images: int) -> int:
    """The number of images that may differ, rounded up: a small set has no finer steps."""
    return math.ceil((1 - min_agreement) * images - 1e-9)


def agrees(variant: str, table: Table, all_images: AllImages, settings: GateSettings) -> bool:
    """Whether a variant is faithful to its own float pass; True if there is none to compare."""
    differ, _, images, _ = count(variant, table, all_images)
    return differ <= allowed(settings.min_agreement, images)


def agreement_gates(
    table: Table, variant: str, all_images: AllImages, settings: GateSettings
) -> list[Gate]:
    """The float file against the SavedModel, and the recommended variant against its float pass."""
    gates = [_export_gate(table)]
    differ, ties, images, against = count(variant, table, all_images)
    if variant != FLOAT and against:
        limit = allowed(settings.min_agreement, images)
        gates.append(
            Gate(
                "agreement/float",
                1 - differ / images,
                f"at most {limit} of {images:,} images differ",
                Verdict.of(differ <= limit),
                variant,
                detail=_counts_text(differ, ties, images, against),
            )
        )
    return gates


def _export_gate(table: Table) -> Gate:
    images = len(table[FLOAT].labels)
    differ, ties = differing(table[FLOAT], table[SAVED_MODEL])
    limit = images // _EXPORT
    return Gate(
        "agreement/saved_model",
        1 - differ / images,
        f"at most {limit} of {images:,} images differ",
        Verdict.of(differ <= limit),
        SAVED_MODEL,
        detail=_counts_text(differ, ties, images, FLOAT),
    )


def _counts_text(differ: int, ties: int, images: int, against: str) -> str:
    text = f"{differ} of {images:,} images differ from {against}"
    return f"{text}, {ties} ties not counted" if ties else text
