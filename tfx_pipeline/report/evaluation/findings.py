"""What stands out in an analysis, as sentences for the console and the page."""

from collections.abc import Iterator

from core import figures
from trainers.evaluation.analysis import LEAST_IMAGES, Analysis
from trainers.evaluation.comparison import ALPHA
from trainers.evaluation.curves import TEMPERATURES
from trainers.evaluation.error_analysis import WeakSlice
from trainers.evaluation.stats import proportion_interval

_SHOWN_WEAK = 5


def findings(found: Analysis) -> Iterator[str]:
    """Sentences on trivial predictions, calibration, weak slices, errors and suspect labels."""
    yield from trivial(found)
    yield temperature(found)
    weak = significant(found)
    for one in weak[:_SHOWN_WEAK]:
        yield (
            f"weak slice {slice_name(one)}: top-1 {one.accuracy.value:.4f} on {one.images:,} "
            f"images, {one.outside:.4f} on the others (p {one.p_adjusted:.2g}, Holm over "
            f"{found.slices_tried} slices)"
        )
    if not found.slices_tried:
        yield f"no slice has {LEAST_IMAGES} images inside and outside, so none was tested"
    elif not weak:
        yield f"no slice of {found.slices_tried} is significantly less accurate than the others"
    yield errors(found)


def trivial(found: Analysis) -> Iterator[str]:
    """Sentences on a model that predicts one class only, or is worse than guessing one class."""
    names = [one.name for one in found.classes]
    predicted, labels = found.confusion.sum(axis=0), found.confusion.sum(axis=1)
    if predicted.max() == found.images and len(found.errors):
        yield f"the model predicts {names[predicted.argmax()]} for all {found.images:,} images"
    top1, share = found.metrics["top1"], float(labels.max() / found.images)
    if top1.high < share:
        ends = top1.as_list()
        yield (
            f"top-1, {figures.percent(ends)} ({figures.percent_interval(ends)}), is below the "
            f"share of the most common class, {figures.percent(share)} ({names[labels.argmax()]})"
        )


def errors(found: Analysis) -> str:
    """A sentence on the number and share of wrong images, and the number of suspect labels."""
    wrong, suspect = len(found.errors), len(found.suspects)
    ends = proportion_interval(wrong, found.images).as_list()
    return (
        f"{wrong:,} of {found.images:,} images ({figures.percent(ends)}, "
        f"{figures.percent_interval(ends)}) {'is' if wrong == 1 else 'are'} wrong; "
        f"{suspect:,} {'label is' if suspect == 1 else 'labels are'} suspect"
    )


def temperature(found: Analysis) -> str:
    """A sentence on the temperature that fits the images, and its limits."""
    low, high = TEMPERATURES
    at_limit = not 1.01 * low < found.temperature < 0.99 * high
    limit = ", the limit of the search: the scores carry little information" if at_limit else ""
    return (
        f"temperature {found.temperature:.2f} minimizes cross-entropy on these images{limit}; "
        "above 1, scores are too high"
    )


def significant(found: Analysis) -> list[WeakSlice]:
    """The slices that are significantly less accurate than the other images."""
    return [one for one in found.weak if one.p_adjusted < ALPHA]


def slice_name(one: WeakSlice) -> str:
    """The values of a slice, as in `race=Black, age=0-2`."""
    return ", ".join(f"{key.removeprefix('slice/')}={value}" for key, value in one.values.items())
