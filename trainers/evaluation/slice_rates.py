"""One class against the others within each slice: areas under curves, and rates at any threshold.

NumPy and SciPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.evaluation import curves
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.noninferiority import Array
from trainers.evaluation.stats import LEAST_IMAGES, Interval


@dataclass(frozen=True)
class SliceRates:
    """The images of one slice value, with one class as positive.

    Attributes:
      key: without `slice/`.
      value: of the slice.
      positive: name of the class.
      images: in the slice.
      positives: images of the class among them.
      roc_area: area under the ROC curve; None where `note` is not empty.
      average_precision: None where `note` is not empty.
      rates: at the thresholds of the analysis; empty with fewer than 30 images. A rate without
        images behind it is None.
      note: why there is no area: too few images, or images of one side only.
    """

    key: str
    value: str
    positive: str
    images: int
    positives: int
    roc_area: Interval | None
    average_precision: Interval | None
    rates: list[curves.Rates]
    note: str = ""


def slice_rates(
    model: ModelPredictions,
    values: Array,
    value: str,
    *,
    key: str,
    positive: tuple[int, str],
    thresholds: Sequence[float],
) -> SliceRates:
    """The rates of the images whose slice value is `value`.

    Args:
      model: predictions of M images.
      values: (M,) str.
      value: one of them.
      key: that the values are of, for the result.
      positive: label and name of a class.
      thresholds: scores from which an image is positive.
    """
    label, name = positive
    inside = values == value
    scores, ours = model.scores[inside, label], model.labels[inside] == label
    images, positives = len(ours), int(ours.sum())
    area = average = None
    if note := _note(images, positives, name):
        rates = [] if images < LEAST_IMAGES else curves.rates_table(scores, ours, thresholds)
    else:
        area = curves.roc(scores, ours).area
        average = curves.precision_recall(scores, ours).average_precision
        rates = curves.rates_table(scores, ours, thresholds)
    return SliceRates(key, value, name, images, positives, area, average, rates, note)


def _note(images: int, positives: int, name: str) -> str:
    if images < LEAST_IMAGES:
        return f"fewer than {LEAST_IMAGES} images"
    if not positives:
        return f"no image of {name}"
    return f"all images are of {name}" if positives == images else ""
