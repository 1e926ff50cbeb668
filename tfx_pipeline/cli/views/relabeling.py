"""Lists of images for relabeling: CSV files, and imports of FiftyOne and of COCO's tools.

| file | contents |
|---|---|
| `errors.csv` | wrong images, the most confident first |
| `suspect_labels.csv` | images whose label is likely to be wrong |
| `confusions.csv` | pairs of classes that were confused, with shares |
| `near_duplicates.csv` | nearly the same image in two splits or with two labels |
| `weak_slices.csv` | slices with lower accuracy than the other images |
| `fiftyone.json` | the listed images with labels, predictions and tags |
| `coco.json` | the same; the label of an image is an annotation of the whole image |

`fiftyone.Dataset.from_json("fiftyone.json", rel_dir="IMAGES")` reads the first JSON file, where
IMAGES is the folder that was ingested. File names are relative to it.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.data_validation.anomaly import Location
from core.files import write_json, write_text
from core.image_header import ImageError, check_image
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.findings import slice_name
from trainers.evaluation.error_analysis import confusions

ERROR, SUSPECT, DUPLICATE = "error", "suspect_label", "near_duplicate"
FIFTYONE_FILE, COCO_FILE = "fiftyone.json", "coco.json"

_CLASSIFICATION = "fiftyone.core.labels.Classification"
_FIELDS = {
    "filepath": "fiftyone.core.fields.StringField",
    "tags": "fiftyone.core.fields.ListField(fiftyone.core.fields.StringField)",
    "ground_truth": f"fiftyone.core.fields.EmbeddedDocumentField({_CLASSIFICATION})",
    "predictions": f"fiftyone.core.fields.EmbeddedDocumentField({_CLASSIFICATION})",
    "suggested": f"fiftyone.core.fields.EmbeddedDocumentField({_CLASSIFICATION})",
    "image_sha256": "fiftyone.core.fields.StringField",
}


@dataclass
class Listed:
    """An image that is listed for relabeling.

    Attributes:
      position: in the predictions.
      tags: `error`, `suspect_label`, `near_duplicate`.
      suggested: class that its label should probably be, or None.
    """

    position: int
    tags: list[str] = field(default_factory=list)
    suggested: int | None = None


def write_lists(evaluation: Evaluation, folder: Path) -> list[str]:
    """Writes all lists into `folder`; returns sentences on what they leave out.

    `near_duplicates.csv` is written only if near-duplicates were searched, and the JSON files only
    if the records are known.
    """
    tables = {
        **image_tables(evaluation),
        "confusions": [
            (
                "label",
                "predicted",
                "images",
                "images_of_label",
                *_ended("share"),
                "most_confident_file",
            ),
            *_confusions(evaluation),
        ],
        "weak_slices": [
            ("slice", "images", *_ended("top1"), "top1_outside", "p_adjusted", "slices_tried"),
            *_weak(evaluation),
        ],
    }
    if evaluation.duplicates is not None:
        head = ("kind", "split", "file", "label", "other_split", "other_file", "other_label")
        tables["near_duplicates"] = [(*head, "detail"), *_duplicates(evaluation)]
    for stale in ("near_duplicates.csv", FIFTYONE_FILE, COCO_FILE):  # Of an earlier call.
        (folder / stale).unlink(missing_ok=True)
    for name, rows in tables.items():
        _write_csv(folder / f"{name}.csv", rows)
    return _write_imports(evaluation, folder)


def image_tables(evaluation: Evaluation) -> dict[str, list[Sequence[Any]]]:
    """`errors` and `suspect_labels`: rows, the first of which is the header."""
    image = ("file", "image_sha256", "label")
    return {
        "errors": [(*image, "predicted", "score"), *_errors(evaluation)],
        "suspect_labels": [(*image, "suggested", "margin"), *_suspects(evaluation)],
    }


def listed_images(evaluation: Evaluation) -> list[Listed]:
    """The images of errors, suspect labels and near-duplicates, in the order of the predictions."""
    found: dict[int, Listed] = {}

    def add(position: int, tag: str) -> Listed:
        one = found.setdefault(position, Listed(position))
        if tag not in one.tags:
            one.tags.append(tag)
        return one

    for position in evaluation.analysis.errors.tolist():
        add(position, ERROR)
    for suspect in evaluation.analysis.suspects:
        add(suspect.image, SUSPECT).suggested = suspect.suggested
    positions = {str(one): position for position, one in enumerate(evaluation.model.ids)}
    ids = {record: one for one, record in evaluation.thumbnails.images.records.items()}
    for anomaly in evaluation.duplicates or ():
        for location in filter(None, (anomaly.location, anomaly.other)):
            image = ids.get(_record(evaluation, location), "")
            if location.split == evaluation.split and image in positions:
                add(positions[image], DUPLICATE)
    return [found[position] for position in sorted(found)]


def _record(evaluation: Evaluation, location: Location) -> tuple[Path, int]:
    shard = Path(evaluation.data or "") / f"Split-{location.split}" / location.file
    return shard, location.offset


def _write_imports(evaluation: Evaluation, folder: Path) -> list[str]:
    """Writes the JSON files, in which an image needs a file name."""
    images = listed_images(evaluation)
    named = [one for one in images if _file(evaluation, one.position)]
    left_out = len(images) - len(named)
    if images and not named:
        why = evaluation.thumbnails.images.problem or "The records have no file names."
        return [f"{FIFTYONE_FILE} and {COCO_FILE} are not written, as they need file names. {why}"]
    write_json(folder / FIFTYONE_FILE, fiftyone_dataset(evaluation, named))
    write_json(folder / COCO_FILE, coco_dataset(evaluation, named))
    if not left_out:
        return []
    return [
        f"{left_out:,} of {len(images):,} images have no file name in the records, so "
        f"{FIFTYONE_FILE} and {COCO_FILE} leave them out."
    ]


def fiftyone_dataset(evaluation: Evaluation, images: Iterable[Listed]) -> dict[str, Any]:
    """A data set in the JSON format of FiftyOne's `Dataset.write_json`."""
    model, names = evaluation.model, evaluation.classes
    samples = []
    for one in images:
        label, best = int(model.labels[one.position]), int(model.predicted[one.position])
        suggested = None if one.suggested is None else _classification(names[one.suggested])
        sample = {
            "filepath": _file(evaluation, one.position),
            "tags": one.tags,
            "ground_truth": _classification(names[label]),
            "predictions": _classification(names[best], float(model.scores[one.position, best])),
            "suggested": suggested,
            "image_sha256": str(model.ids[one.position]),
        }
        samples.append(sample)
    return {
        "name": f"{model.name} {evaluation.split} errors",
        "media_type": "image",
        "sample_fields": _FIELDS,
        "default_classes": names,
        "samples": samples,
    }


def _classification(label: str, confidence: float | None = None) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": label, "confidence": confidence}


def coco_dataset(evaluation: Evaluation, images: Iterable[Listed]) -> dict[str, Any]:
    """COCO's annotation format: categories in label order from 1, and a box around each image.

    The keys that COCO does not have, `predicted`, `score`, `suggested` and `tags`, are in
    `attributes`, where CVAT and Datumaro read them.
    """
    model, names = evaluation.model, evaluation.classes
    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(images, start=1):
        height, width = _size(evaluation, str(model.ids[one.position]))
        name = _file(evaluation, one.position)
        described.append({"id": number, "file_name": name, "width": width, "height": height})
        best = int(model.predicted[one.position])
        attributes = {
            "predicted": names[best],
            "score": float(model.scores[one.position, best]),
            "suggested": "" if one.suggested is None else names[one.suggested],
            "tags": ",".join(one.tags),
            "image_sha256": str(model.ids[one.position]),
        }
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": int(model.labels[one.position]) + 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "segmentation": [],
                "iscrowd": 0,
                "attributes": attributes,
            }
        )
    return {
        "info": {"description": f"{model.name}, {evaluation.split} split: images to relabel"},
        "licenses": [],
        "images": described,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }


def _size(evaluation: Evaluation, image_id: str) -> tuple[int, int]:
    """(height, width) of an image as stored; (0, 0) if its record cannot be read."""
    from google.protobuf.message import DecodeError

    from components.data_validation.image_anomalies import read_record
    from trainers.data.features import IMAGE

    try:
        feature = read_record(*evaluation.thumbnails.images.records[image_id]).features.feature
        header = check_image(feature[IMAGE].bytes_list.value[0])
    except (ImageError, DecodeError, OSError, IndexError):
        return 0, 0
    return header.height, header.width


def _file(evaluation: Evaluation, position: int) -> str:
    return evaluation.files.get(str(evaluation.model.ids[position]), "")


def _identity(evaluation: Evaluation, position: int) -> tuple[str, str]:
    return _file(evaluation, position), str(evaluation.model.ids[position])


def _errors(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    model, names = evaluation.model, evaluation.classes
    for position in evaluation.analysis.errors.tolist():
        label, best = int(model.labels[position]), int(model.predicted[position])
        score = f"{model.scores[position, best]:.6f}"
        yield (*_identity(evaluation, position), names[label], names[best], score)


def _suspects(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    names = evaluation.classes
    for one in evaluation.analysis.suspects:
        labels = (names[one.label], names[one.suggested])
        yield (*_identity(evaluation, one.image), *labels, f"{one.margin:.6f}")


def _confusions(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    model, names = evaluation.model, evaluation.classes
    totals = np.bincount(model.labels, minlength=len(names))
    for one in confusions(model.scores, model.labels):
        yield (
            names[one.label],
            names[one.predicted],
            len(one.images),
            int(totals[one.label]),
            *one.share.as_list(),
            _file(evaluation, int(one.images[0])),
        )


def _weak(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    tried = evaluation.analysis.slices_tried
    for one in evaluation.analysis.weak:
        numbers = (*one.accuracy.as_list(), one.outside, one.p_adjusted, tried)
        yield (slice_name(one), one.images, *numbers)


def _duplicates(evaluation: Evaluation) -> Iterator[Sequence[Any]]:
    for one in evaluation.duplicates or ():
        places = [part for part in (one.location, one.other) if part is not None]
        cells = [(place.split, place.filename or str(place), place.label) for place in places]
        yield (one.kind, *(cell for three in cells for cell in three), one.detail)


def _ended(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
