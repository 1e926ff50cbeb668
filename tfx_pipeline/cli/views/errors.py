"""`sightline errors`: a gallery of a model's errors, and lists of images for relabeling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.data_validation.anomaly import Anomaly
from core.bundle import BundleError
from core.files import write_text
from tfx_pipeline.cli.views.relabeling import write_lists
from tfx_pipeline.cli.views.subjects import Subject
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.lineage import lineage
from tfx_pipeline.report.evaluation.page import PAGE_FILE, render
from tfx_pipeline.report.evaluation.sections.errors import SHOWN_ERRORS
from tfx_pipeline.report.thumbnails import ImageIndex, Thumbnails, index_images
from trainers.data.features import DatasetError, DatasetInfo
from trainers.evaluation.analysis import AnalysisError, analyze
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.embeddings import PCA, EmbeddingError, EmbeddingMap
from trainers.registry import nearest

SECTIONS = (
    *("errors", "confused-pairs", "suspect-labels", "near-duplicates", "weak-slices"),
    *("embeddings", "lineage"),
)
#: With more records, near-duplicates are not searched: every image would be decoded.
MOST_RECORDS = 100_000
# Bytes of the thumbnails of the split, and of other splits.
_BUDGET, _OTHERS_BUDGET = 3_000_000, 1_000_000
_PREFIX = "slice/"


@dataclass(frozen=True)
class GalleryOptions:
    """What the gallery shows.

    Attributes:
      split: of the records.
      slices: keys of the search for weak slices, with or without `slice/`; empty is all.
      method: `pca` or `tsne`.
    """

    split: str = "test"
    slices: Sequence[str] = ()
    method: str = PCA


def write_gallery(
    subject: Subject,
    folder: Path,
    options: GalleryOptions,
    *,
    given: str,
    data: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Writes `index.html` and the lists into `folder`; returns what they show.

    Args:
      subject: the model and its predictions.
      folder: is created; files in it are replaced.
      options: what to show.
      given: the model as the user gave it.
      data: records with the images; None uses the subject's.
      say: called with each step, and with what the gallery leaves out.

    Raises:
      AnalysisError: a slice that the predictions do not have.
    """
    model = _sliced(subject.predictions, options.slices)
    records = data or subject.data
    evaluation = Evaluation(
        *(analyze(model), model, options.split, records, subject.config),
        thumbnails=Thumbnails(index_images(records, options.split), budget=_BUDGET),
    )
    parts: dict[str, Any] = {"lineage": lineage(given, evaluation)}
    notes, others = {}, ImageIndex(problem="The records are not known.")
    info = _info(records)
    if records is not None and info is not None and not evaluation.thumbnails.images.problem:
        found, notes["near-duplicates"] = _duplicates(records, info, options.split, say)
        parts["duplicates"] = found
        say("embeddings")
        drawn, notes["embeddings"] = _embeddings(subject, evaluation, info, options.method)
        parts["embeddings"] = drawn
        others = _others(records, found, drawn)
    else:
        why = evaluation.thumbnails.images.problem
        notes |= {"near-duplicates": why, "embeddings": why}
    evaluation = replace(
        evaluation, **parts, notes=notes, others=Thumbnails(others, budget=_OTHERS_BUDGET)
    )
    folder.mkdir(parents=True, exist_ok=True)
    left_out = write_lists(evaluation, folder)
    write_text(folder / PAGE_FILE, render(evaluation, SECTIONS))
    for text in (*filter(None, notes.values()), *left_out):
        say(text)
    return evaluation


def _sliced(model: ModelPredictions, keys: Sequence[str]) -> ModelPredictions:
    """`model` with the slices of `keys` only."""
    known = {one.removeprefix(_PREFIX): one for one in model.slices}
    for key in keys:
        name = key.removeprefix(_PREFIX)
        if name not in known:
            raise AnalysisError(
                f"no slice {key!r}; {nearest(name, list(known)) if known else 'there are none'}"
            )
    wanted = [known[key.removeprefix(_PREFIX)] for key in keys] or list(model.slices)
    return replace(model, slices={key: model.slices[key] for key in wanted})


def _info(records: Path | None) -> DatasetInfo | None:
    try:
        return DatasetInfo.load(records) if records else None
    except DatasetError:  # `index_images` reports it.
        return None


def _duplicates(
    records: Path, info: DatasetInfo, split: str, say: Callable[[str], None]
) -> tuple[list[Anomaly] | None, str]:
    """The near-duplicates, or None and why they were not searched."""
    total = sum(one.examples for one in info.splits.values())
    if len([one for one in info.splits.values() if one.examples]) < 2:
        return None, f"Near-duplicates are not searched: {records} has only the {split} split."
    if total > MOST_RECORDS:
        return None, (
            f"Near-duplicates are not searched in {total:,} records, more than {MOST_RECORDS:,}: "
            f"run `sightline validate {records}`."
        )
    from components.data_validation.cross_split import duplicates_of_split

    say(f"near-duplicates among {total:,} images")
    return duplicates_of_split(records, split), ""


def _embeddings(
    subject: Subject, evaluation: Evaluation, info: DatasetInfo, method: str
) -> tuple[EmbeddingMap | None, str]:
    """The map, or None and why it was not made."""
    from tfx_pipeline.report.evaluation import embedding_map as maps

    if subject.model is None or evaluation.data is None:
        return None, (
            "There is no map of the embeddings: predictions alone do not have them. Give the "
            "bundle, the folder of `sightline train` or the run that they come from."
        )
    wanted = evaluation.analysis.errors[:SHOWN_ERRORS].tolist()
    try:
        embed = maps.embedder(subject.model, evaluation.data)
        embedded = embed(evaluation.split)
        why = maps.why_no_neighbors(info, evaluation.split)
        model = evaluation.model
        similar = {} if why else maps.similar_training_images(model, embed, embedded, wanted)
        found = maps.embedding_map(model, embedded, method, similar)
    except (EmbeddingError, BundleError) as error:
        return None, f"There is no map of the embeddings: {error}."
    missing = evaluation.analysis.images - len(np.unique(found.positions))
    if missing and len(found.positions) < maps.MOST_POINTS:
        why = f"{missing:,} images are not in the records and not in the map. {why}".strip()
    return found, why


def _others(
    records: Path, duplicates: Sequence[Anomaly] | None, drawn: EmbeddingMap | None
) -> ImageIndex:
    """The training images that are similar to errors, and all images of near-duplicates."""
    from tfx_pipeline.report.evaluation.embedding_map import TRAIN

    neighbors = drawn.neighbors if drawn is not None else {}
    images = index_images(records, TRAIN) if neighbors else ImageIndex()
    positions = {
        str(place): (records / f"Split-{place.split}" / place.file, place.offset)
        for one in duplicates or ()
        for place in (one.location, one.other)
        if place is not None
    }
    return replace(images, records={**images.records, **positions})
