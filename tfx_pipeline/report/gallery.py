"""The section on anomalies of images, with counts, limits and thumbnails.

It is part of the report of a run and of the page of `sightline validate`.
"""

import base64
from pathlib import Path
from typing import Any

from components.data_validation.anomaly import (
    ERROR,
    KINDS,
    WARNING,
    ImageAnomalies,
    Location,
    blocking,
)
from components.data_validation.gallery import read_gallery, thumbnail_file
from core import figures

#: Producer of the artifact in the lineage of a run.
PRODUCER = "ImageValidator.image_report"

_MAX_LINES = 12
_TONES = {ERROR: "bad", WARNING: "warn"}


def images_of_run(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The section of a finished run, found by its lineage; None when nothing was recorded.

    Args:
      summary: content of `summary.json`.
    """
    lineage = summary.get("lineage")
    for row in lineage if isinstance(lineage, list) else []:
        if isinstance(row, dict) and row.get("producer") == PRODUCER:
            try:
                return images(Path(str(row.get("uri"))))
            except (OSError, ValueError):  # The artifacts of an old run may have been deleted.
                return None
    return None


def images(directory: Path) -> dict[str, Any]:
    """The section as text and inline thumbnails.

    Args:
      directory: written by `components.data_validation.gallery.write_gallery`.

    Raises:
      OSError, ValueError: the gallery is missing or malformed.
    """
    found = read_gallery(directory)
    rows = anomaly_rows(found)
    return {
        "records": ", ".join(f"{figures.count(n)} {name}" for name, n in found.records.items()),
        "rows": rows,
        "over": sum(row["over"] for row in rows),
        "kinds": [_listed(directory, found, row) for row in rows],
    }


def anomaly_rows(found: ImageAnomalies) -> list[dict[str, Any]]:
    """One row per kind that was found, as text; kinds over their limit first, then by severity."""
    over = blocking(found)
    rows = []
    for kind, count in found.counts.items():
        first = next(iter(found.of(kind)), None)
        limit = found.limits.get(kind)
        rows.append(
            {
                "kind": kind,
                "severity": KINDS[kind][0],
                "tone": _TONES.get(KINDS[kind][0], "plain"),
                "meaning": KINDS[kind][1],
                "count": figures.count(count),
                "limit": "any" if limit is None else figures.count(limit),
                "over": kind in over,
                "example": "" if first is None else first.describe(),
            }
        )
    return sorted(rows, key=lambda row: not row["over"])


def _listed(directory: Path, found: ImageAnomalies, row: dict[str, Any]) -> dict[str, Any]:
    """The anomalies of a kind that have images; if none has, the first ones as text."""
    items = [
        {
            "detail": one.detail,
            "text": one.describe(),
            "images": [_image(directory, p) for p in (one.location, one.other) if p is not None],
        }
        for one in found.of(row["kind"])
    ]
    with_images = [one for one in items if any(image["src"] for image in one["images"])]
    shown = with_images or items[:_MAX_LINES]
    hidden = found.counts[row["kind"]] - len(shown)
    return {
        **row,
        "items": shown,
        "with_images": bool(with_images),
        "more": figures.count(hidden) if hidden else "",
    }


def _image(directory: Path, location: Location) -> dict[str, str]:
    file = thumbnail_file(directory, location)
    source = ""
    if file.is_file():
        source = "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()
    return {
        "src": source,
        "label": location.label,
        "name": location.short,
        "location": str(location),
    }
