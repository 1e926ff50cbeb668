"""What a candidate is compared with: the answers of the live model and of the best ever pushed.

Models are paired by example and by class name. No TFX.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from components.evaluation.predict_variants import BASELINE, BEST, answer
from components.live import Live
from trainers.evaluation.predictions import Predictions, read_table

#: Score of a class that a reference does not know.
UNKNOWN = -1.0


@dataclass(frozen=True)
class References:
    """The columns that a candidate is compared with.

    Attributes:
      columns: `BASELINE` and `BEST`, as far as there is something to compare.
      versions: column -> version.
      how: column -> whether its predictions were kept or made again, in words.
    """

    columns: dict[str, Predictions] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)


def references(
    live: Live, candidate: Predictions, classes: Sequence[str], data_dir: Path, split: str
) -> References:
    """What the live model, and the best one if it is another, answer to the candidate's examples.

    Predictions that were kept at the push serve where they are of exactly these examples; otherwise
    the version predicts again. Scores are in the order of the candidate's classes, by name. The
    best is the contender with the highest top-1 on these examples; it is left out if the live model
    is as good.

    Args:
      live: of the LiveModel.
      candidate: any of its variants' answers.
      classes: the candidate's, in label order.
      data_dir: the records.
      split: which of them.

    Raises:
      DataError, EngineError: as `answer`.
    """
    found = References()
    if live.baseline is None:
        return found

    def add(column: str, version: int, answered: tuple[Predictions, str]) -> None:
        aligned = align(answered[0], live.versions[version].classes, candidate, classes)
        found.versions[column], found.how[column] = version, answered[1]
        if aligned is not None:
            found.columns[column] = aligned

    def look(version: int) -> tuple[Predictions, str]:
        return _answered(live, version, candidate, (data_dir, split))

    add(BASELINE, live.baseline, look(live.baseline))
    looked = {version: look(version) for version in live.contenders}
    top1 = {
        version: _top1(align(one, live.versions[version].classes, candidate, classes))
        for version, (one, _) in looked.items()
    }
    best = max(top1, key=lambda version: (top1[version], version), default=None)
    if best is not None and top1[best] > _top1(found.columns.get(BASELINE)):
        add(BEST, best, looked[best])
    return found


def _top1(found: Predictions | None) -> float:
    """Over all examples: those of an unknown class count as wrong."""
    return -1.0 if found is None else float((found.scores.argmax(1) == found.labels).mean())


def _answered(
    live: Live, version: int, candidate: Predictions, where: tuple[Path, str]
) -> tuple[Predictions, str]:
    one, path = live.versions[version], live.predictions(version)
    if path is None:
        why = one.no_lineage or "its push kept no predictions"
    else:
        (kept,) = read_table(path).values()
        if Counter(kept.ids) == Counter(candidate.ids):
            row = {example: i for i, example in enumerate(kept.ids)}
            order = [row[example] for example in candidate.ids]
            return replace(candidate, scores=kept.scores[order]), "predictions of its push"
        why = "it was pushed with another test split"
    found = answer(live.bundle(version), one.recommended, *where, paired=False)
    return found, f"predicted again: {why}"


def align(
    found: Predictions, theirs: Sequence[str], candidate: Predictions, classes: Sequence[str]
) -> Predictions | None:
    """Scores in the order of the candidate's classes, by name; None without an image in common.

    The column of a class that the other model does not know holds `UNKNOWN`; scores of classes that
    the candidate does not know are dropped. `paired` compares what is left fairly.

    Args:
      found: the other model's answers to the same examples in the same order.
      theirs: its classes.
      candidate: gives identities, labels and slices.
      classes: the candidate's.
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
    """`found` on the examples and the classes that both models know; labels count these classes."""
    columns = ((found.scores != UNKNOWN) & (other.scores != UNKNOWN)).all(axis=0)
    rows = columns[found.labels]
    return Predictions(
        ids=found.ids[rows],
        labels=(np.cumsum(columns) - 1)[found.labels[rows]].astype(np.int32),
        scores=found.scores[rows][:, columns],
        slices={key: values[rows] for key, values in found.slices.items()},
    )


def paired(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Both on the examples whose class both models know, with the scores of these classes only.

    So both solve the same task: a candidate is not worse for the classes that were added, and not
    better for images that the other could not get right. Without unknown classes, both as they are.
    """
    return known(one, other), known(other, one)


def fingerprint(found: Predictions, classes: Sequence[str]) -> str:
    """Sha256 hex of a split: its identities and class names, in any order."""
    rows = (f"{one}\0{classes[label]}" for one, label in zip(found.ids, found.labels, strict=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
