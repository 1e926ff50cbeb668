"""Near-duplicates of the images of one split: in another split, or with another label."""

from dataclasses import replace
from pathlib import Path

from components.data_validation.anomaly import Anomaly, ValidatorSettings
from components.data_validation.image_anomalies import Report, find_anomalies

#: Pairs of images, the gravest first.
PAIRS = ("leakage", "label_conflict", "near_leakage", "near_label_conflict")
_LISTED = 10_000


def duplicates_of_split(directory: Path, split: str, report: Report | None = None) -> list[Anomaly]:
    """Pairs with an image of `split`; a pair with several findings is listed with the gravest.

    Args:
      directory: of the data set.
      split: of which every pair has at least one image.
      report: callback for progress.

    Raises:
      DatasetError: `dataset.json` or a shard is missing.
    """
    settings = replace(ValidatorSettings(), listed=_LISTED)
    found = find_anomalies(directory, settings, report)
    pairs: dict[frozenset[str], Anomaly] = {}
    for kind in PAIRS:
        for one in found.of(kind):
            locations = [part for part in (one.location, one.other) if part is not None]
            if any(location.split == split for location in locations):
                pairs.setdefault(frozenset(map(str, locations)), one)
    return list(pairs.values())
