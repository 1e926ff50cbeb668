"""Predictions of the reference models: the live model and the best one ever pushed.

They are matched with the candidate's by example and by class name. No TFX.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from components.evaluation.predict_variants import BASELINE, BEST, predict_variant
from components.live import Live
from trainers.evaluation.predictions import Predictions, read_table

#: Score of a class that a reference model does not have.
UNKNOWN = -1.0


@dataclass(frozen=True)
class References:
    """The columns that a candidate is compared with.

    Attributes:
      columns: `BASELINE` and `BEST`, those with images to compare on.
      versions: column -> version.
      how: column -> where its predictions come from, as text.
    """

    columns: dict[str, Predictions] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)


def predict_references(
    live: Live, candidate: Predictions, classes: Sequence[str], data_dir: Path, split: str
) -> References:
    """Predictions of the live model, and of the best one if it is another, for the same examples.

    Predictions stored at the push are used if they are of exactly these examples; otherwise the
    version predicts again. Scores are in the order of the candidate's classes, by name. The best
    model is the contender with the highest top-1 on these examples; it is left out if the live
    model is as good.

    Args:
      live: of the LiveModel.
      candidate: predictions of any of its variants.
      classes: the candidate's, in label order.
      data_dir: the records.
      split: the split to predict.

    Raises:
      DataError, EngineError: as `predict_variant`.
    """
    found = References()
    if live.baseline is None:
        return found

    def predict(version: int) -> tuple[Predictions | None, str]:
        predictions, how = _predictions(live, version, candidate, (data_dir, split))
        return align(predictions, live.versions[version].classes, candidate, classes), how

    def add(column: str, version: int, predicted: tuple[Predictions | None, str]) -> None:
        aligned, how = predicted
        found.versions[column], found.how[column] = version, how
        if aligned is not None:
            found.columns[column] = aligned

    add(BASELINE, live.baseline, predict(live.baseline))
    contenders = {version: predict(version) for version in live.contenders}
    top1 = {version: _top1(aligned) for version, (aligned, _) in contenders.items()}
    best = max(top1, key=lambda version: (top1[version], version), default=None)
    if best is not None and top1[best] > _top1(found.columns.get(BASELINE)):
        add(BEST, best, contenders[best])
    return found


def _top1(found: Predictions | None) -> float:
    """Over all examples: those of a class that the model does not have count as wrong."""
    return -1.0 if found is None else float((found.scores.argmax(1) == found.labels).mean())


def _predictions(
    live: Live, version: int, candidate: Predictions, where: tuple[Path, str]
) -> tuple[Predictions, str]:
    """The predictions of a version, and where they come from."""
    one, path = live.versions[version], live.predictions(version)
    if path is None:
        why = one.no_lineage or "its push kept no predictions"
    else:
        (stored,) = read_table(path).values()
        if Counter(stored.ids) == Counter(candidate.ids):
            row = {example: i for i, example in enumerate(stored.ids)}
            order = [row[example] for example in candidate.ids]
            return replace(candidate, scores=stored.scores[order]), "predictions of its push"
        why = "it was pushed with another test split"
    found = predict_variant(live.bundle(version), one.recommended, *where, paired=False)
    return found, f"predicted again: {why}"


def align(
    found: Predictions, theirs: Sequence[str], candidate: Predictions, classes: Sequence[str]
) -> Predictions | None:
    """Scores in the order of the candidate's classes, by name.

    The column of a class that the other model does not have holds `UNKNOWN`; scores of classes that
    the candidate does not have are dropped. `paired` selects what can be compared fairly.

    Args:
      found: the other model's predictions of the same examples in the same order.
      theirs: its classes.
      candidate: has the identities, labels and slices.
      classes: the candidate's.

    Returns:
      The predictions; None if no example is of a common class.
    """
    position = {name: i for i, name in enumerate(theirs)}
    common = [(i, position[name]) for i, name in enumerate(classes) if name in position]
    scores = np.full((len(found.ids), len(classes)), UNKNOWN, np.float32)
    ours, others = [ours for ours, _ in common], [theirs for _, theirs in common]
    if not np.isin(candidate.labels, ours).any():
        return None
    scores[:, ours] = found.scores[:, others]
    return replace(candidate, scores=scores)


def known(found: Predictions, other: Predictions) -> Predictions:
    """`found` on the examples and classes that both models have; labels index these classes."""
    columns = ((found.scores != UNKNOWN) & (other.scores != UNKNOWN)).all(axis=0)
    rows = columns[found.labels]
    return Predictions(
        ids=found.ids[rows],
        labels=(np.cumsum(columns) - 1)[found.labels[rows]].astype(np.int32),
        scores=found.scores[rows][:, columns],
        slices={key: values[rows] for key, values in found.slices.items()},
    )


def paired(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Both on the examples of the classes that both models have, with scores of these classes only.

    So both solve the same task: a candidate is not worse because of added classes, and not better
    because of images that the other model cannot classify. With equal classes, nothing changes.
    """
    return known(one, other), known(other, one)


def fingerprint(found: Predictions, classes: Sequence[str]) -> str:
    """Sha256 hex of a split: its identities and class names, in any order."""
    rows = (f"{one}\0{classes[label]}" for one, label in zip(found.ids, found.labels, strict=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
