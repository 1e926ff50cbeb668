"""The figures of `errors.ipynb`: confusions, confident errors, suspect labels and calibration."""

from pathlib import Path

import pandas as pd

from core.figures import Estimate
from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Html, Row, Tile, interval
from tfx_pipeline.notebooks.thumbnails import thumbnails
from trainers.evaluation import curves, error_analysis
from trainers.evaluation.comparison import ModelPredictions

_TEST = "test"


def confusions(model: ModelPredictions) -> pd.DataFrame:
    """One row per confused pair of classes: images, and their share of the class."""
    rows = [
        (
            model.classes[one.label],
            model.classes[one.predicted],
            len(one.images),
            *one.share.as_list(),
        )
        for one in error_analysis.confusions(model.scores, model.labels)
    ]
    return pd.DataFrame(rows, columns=["label", "predicted", "images", "share", "low", "high"])


def confusion_chart(found: pd.DataFrame) -> Html:
    """The confused pairs, the one with most images first."""
    rows = [
        Row(
            f"{one['label']} → {one['predicted']} ({one['images']})",
            Estimate(one["share"], one["low"], one["high"]),
        )
        for one in found.to_dict("records")
    ]
    return charts.forest(
        rows,
        title="Share of a class that is predicted as another, 95 % intervals",
        x_title="share of the images of the class",
    )


def confident_errors(model: ModelPredictions) -> pd.DataFrame:
    """One row per wrong image, the most confident first."""
    rows = [
        (
            model.ids[at],
            model.classes[model.labels[at]],
            model.classes[model.predicted[at]],
            float(model.scores[at].max()),
        )
        for at in error_analysis.confident_errors(model.scores, model.labels).tolist()
    ]
    return pd.DataFrame(rows, columns=["id", "label", "predicted", "score"])


def suspect_labels(model: ModelPredictions) -> pd.DataFrame:
    """One row per image whose label is likely to be wrong, the most suspect first."""
    rows = [
        (
            model.ids[one.image],
            model.classes[one.label],
            model.classes[one.suggested],
            one.margin,
        )
        for one in error_analysis.suspect_labels(model.scores, model.labels)
    ]
    return pd.DataFrame(rows, columns=["id", "label", "suggested", "margin"])


def image_gallery(found: pd.DataFrame, records: Path | None, *, shown: int) -> Html:
    """Thumbnails of the first images of a table with the columns `id`, `label` and two others.

    Args:
      found: of `confident_errors` or `suspect_labels`.
      records: the data set; None shows the table's text without images.
      shown: number of images.
    """
    first = found.head(shown)
    known = thumbnails(records, _TEST, first["id"])
    other, number = list(found.columns[2:4])
    tiles = []
    for one in first.to_dict("records"):
        image, file = known.get(one["id"], ("", ""))
        lines = [f"label: {one['label']}", f"{other}: {one[other]}", f"{number}: {one[number]:.3f}"]
        tiles.append(Tile([image], [*lines, file or one["id"]]))
    return charts.gallery(tiles, empty="No image to show.")


def calibration(model: ModelPredictions) -> pd.DataFrame:
    """One row per bin of confidence: images, mean confidence, accuracy with its interval."""
    rows = [
        (one.low, one.high, one.images, one.confidence, *one.accuracy.as_list())
        for one in curves.calibration_curve(model.scores, model.labels)
    ]
    columns = ["from", "to", "images", "confidence", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def calibration_chart(found: pd.DataFrame) -> Html:
    """Accuracy by confidence; a dashed mark is the mean confidence, which accuracy should equal."""
    rows = [
        Row(
            f"{one['from']:.2f} to {one['to']:.2f} ({one['images']} images)",
            interval([one["accuracy"], one["low"], one["high"]]),
            0,
            one["confidence"],
        )
        for one in found.to_dict("records")
    ]
    return charts.forest(
        rows,
        title="Accuracy by confidence, 95 % intervals; dashed: the mean confidence",
        x_title="accuracy",
    )
