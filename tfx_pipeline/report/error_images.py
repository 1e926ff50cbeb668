"""The most confident errors of a run's models, with thumbnails: `errors.json` beside the summary.

They are written once, when a run ends, so that its report renders without TensorFlow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from tfx_pipeline.report.thumbnails import Thumbnails, index_images

ERRORS_FILE = "errors.json"

#: Images per model.
SHOWN = 12
_SPLIT = "test"


def write_errors(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes the errors of the models that were evaluated.

    Args:
      summary: of the run.
      folder: of its report.
    """
    models = [model for model in summary.get("models") or () if model.get("predictions")]
    classes = (summary.get("data") or {}).get("classes") or ()
    thumbnails: dict[str, Thumbnails] = {}
    found = {}
    for model in models:
        data = model["config"]["data"]["dir"]
        if data not in thumbnails:
            thumbnails[data] = Thumbnails(index_images(Path(data), _SPLIT))
        found[model["name"]] = _errors(model, classes, thumbnails[data])
    notes = [one.note() for one in thumbnails.values()]
    write_json(folder / ERRORS_FILE, {"models": found, "note": " ".join(filter(None, notes))})


def read_errors(folder: Path | None) -> dict[str, Any]:
    """What `write_errors` wrote; empty for a run of an earlier version."""
    file = folder / ERRORS_FILE if folder else None
    return read_json(file) if file and file.is_file() else {}


def _errors(
    model: Mapping[str, Any], classes: tuple[str, ...], thumbnails: Thumbnails
) -> dict[str, Any]:
    from trainers.evaluation.error_analysis import confident_errors
    from trainers.evaluation.predictions import read_table

    variant = model["recommended_variant"]
    table = read_table(Path(model["predictions"]))[variant]
    wrong = confident_errors(table.scores, table.labels)
    images = []
    for position in wrong[:SHOWN].tolist():
        image_id, best = str(table.ids[position]), int(table.scores[position].argmax())
        images.append(
            {
                "id": image_id,
                "file": thumbnails.images.files.get(image_id, ""),
                "label": classes[table.labels[position]],
                "predicted": classes[best],
                "score": float(table.scores[position, best]),
                "thumbnail": thumbnails.source(image_id),
                "reason": thumbnails.reason(image_id),
            }
        )
    return {"variant": variant, "errors": len(wrong), "of": len(table.labels), "images": images}
