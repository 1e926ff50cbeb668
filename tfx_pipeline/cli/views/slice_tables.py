"""Tables of one class within each slice: areas, and rates at any threshold.

| file | one row per |
|---|---|
| `slice_areas.csv` | slice value: areas under the ROC and the precision-recall curve, or why not |
| `slice_thresholds.csv` | slice value of 30 images or more, and threshold |
"""

from collections.abc import Iterable, Sequence
from typing import Any

from trainers.evaluation.analysis import Analysis
from trainers.evaluation.stats import Interval

_RATES = ("precision", "recall", "false_positive_rate", "false_negative_rate")
_AREAS = ("roc_area", "average_precision")
_SLICE = ("key", "value", "class", "images", "images_of_class")


def slice_tables(found: Analysis) -> dict[str, list[Sequence[Any]]]:
    """Name of the file -> its rows, the first of which is the header.

    They have no other rows where there is no single positive class.
    """
    return {
        "slice_areas": [(*_SLICE, *_ended(_AREAS), "note"), *_area_rows(found)],
        "slice_thresholds": [(*_SLICE, "threshold", *_ended(_RATES)), *_rate_rows(found)],
    }


def areas_as_json(found: Analysis) -> list[dict[str, Any]]:
    """The areas of each slice value as plain values; null where `note` has the reason."""
    return [
        {
            "key": one.key,
            "value": one.value,
            "positive": one.positive,
            "images": one.images,
            "images_of_class": one.positives,
            "roc_area": one.roc_area and one.roc_area.as_list(),
            "average_precision": one.average_precision and one.average_precision.as_list(),
            "note": one.note,
        }
        for one in found.slice_rates
    ]


def _area_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for one in found.slice_rates:
        parts = [part for name in _AREAS for part in _parts(getattr(one, name))]
        yield (one.key, one.value, one.positive, one.images, one.positives, *parts, one.note)


def _rate_rows(found: Analysis) -> Iterable[Sequence[Any]]:
    for one in found.slice_rates:
        which = (one.key, one.value, one.positive, one.images, one.positives)
        for rates in one.rates:
            parts = [part for name in _RATES for part in _parts(getattr(rates, name))]
            yield (*which, rates.threshold, *parts)


def _ended(names: Iterable[str]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _parts(value: Interval | None) -> list[float | str]:
    return ["", "", ""] if value is None else list(value.as_list())
