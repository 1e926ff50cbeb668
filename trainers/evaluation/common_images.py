"""Models that were evaluated on almost the same images, on those that all of them share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainers.evaluation.comparison import ComparisonError, ModelPredictions
from trainers.evaluation.stats import LEAST_IMAGES

#: Below this share of a model's images, the others are on other data rather than on a part of it.
LEAST_SHARE = 0.9


@dataclass(frozen=True)
class CommonImages:
    """Models on the images that all of them share.

    Attributes:
      models: as given where all have the same images.
      left_out: name -> images of the model that another one lacks; only of those that have some.
    """

    models: list[ModelPredictions]
    left_out: dict[str, int]

    @property
    def sentence(self) -> str:
        """How many images are compared and left out; empty where all models have the same."""
        if not self.left_out:
            return ""
        parts = ", ".join(f"{count:,} of {name}" for name, count in self.left_out.items())
        return (
            f"compared on the {len(self.models[0].ids):,} images that all models share; left out: "
            f"{parts}"
        )


def on_common_images(models: Sequence[ModelPredictions]) -> CommonImages:
    """The models on the images of all of them; copies of an image count as often as they occur.

    Raises:
      ComparisonError: less than 90 % of the images of a model are shared, or fewer than 30.
    """
    counts = [Counter(model.ids.tolist()) for model in models]
    common = {one for one, count in counts[0].items() if all(c[one] == count for c in counts)}
    rows = [np.array([one in common for one in model.ids.tolist()], bool) for model in models]
    left_out = {
        model.name: int((~kept).sum())
        for model, kept in zip(models, rows, strict=True)
        if not kept.all()
    }
    if not left_out:
        return CommonImages(list(models), {})
    shared = int(rows[0].sum())
    largest = max(models, key=lambda model: len(model.ids))
    if shared < max(LEAST_SHARE * len(largest.ids), LEAST_IMAGES):
        first, second = largest, min(models, key=lambda model: len(model.ids))
        if first is second:
            first, second = models[0], models[1]
        raise ComparisonError(
            f"{second.name} was evaluated on {len(second.ids):,} images and {first.name} on "
            f"{len(first.ids):,}, of which {shared:,} are the same "
            f"({shared / len(first.ids):.0%}); a comparison needs at least {LEAST_SHARE:.0%} and "
            f"{LEAST_IMAGES} common images: give both models the same --data and --split"
        )
    return CommonImages(
        [_part(model, kept) for model, kept in zip(models, rows, strict=True)], left_out
    )


def _part(model: ModelPredictions, kept: np.ndarray) -> ModelPredictions:
    slices = {key: np.asarray(values)[kept] for key, values in model.slices.items()}
    arrays = {name: getattr(model, name)[kept] for name in ("ids", "labels", "scores")}
    return replace(model, **arrays, slices=slices)
