"""Tables of test accuracy: metrics, classes, loss, and the kinds of intervals."""

from collections.abc import Callable

import numpy as np

from tfx_pipeline.study.results import Array, Results, RunResult
from tfx_pipeline.study.sets import CORE, ROLES
from tfx_pipeline.study.tables import (
    FRACTION,
    Row,
    Table,
    absent,
    conditions,
    epochs_text,
    over_seeds,
    subject,
)
from tfx_pipeline.study.verdicts import absolute, undecided
from trainers.evaluation.macro import class_counts
from trainers.evaluation.scores import top_k_correct
from trainers.evaluation.stats import (
    Interval,
    bootstrap_interval,
    bootstrap_statistics,
    proportion_interval,
)
from trainers.registry import metrics

#: Resamples of every bootstrap, as in the study.
RESAMPLES = 1000
_MACRO = ("macro_precision", "macro_recall", "macro_f1")
_BOOTSTRAP = "95 %, 1,000 resamples of the test images, mean over the seeds"
# Of a share of images: `bootstrap_interval` resamples no values of 0 and 1.
_EXACT = "95 %, Clopper & Pearson, exact: equal for all seeds on every image"
_EXACT_ONE = "95 %, Clopper & Pearson, exact: one seed"


def accuracy(results: Results) -> Table:
    """Top-1, top-5, macro precision, recall and F1 of every model."""
    rows: list[Row] = []
    for role in ROLES:
        if not results.runs[role]:
            rows.append(absent(results, role, "all metrics", FRACTION, subject(results, role)))
            continue
        for name, (values, found, kind) in _metrics(results.runs[role]).items():
            figure = results.figures.get("accuracy", role, name)
            rows.append(
                Row(
                    subject(results, role),
                    metrics.get(name).title,
                    FRACTION,
                    absolute(found, figure, conditions(results, role)),
                    *(found.value, found.low, found.high),
                    interval=kind,
                    seeds=values,
                    epochs=epochs_text(results, role),
                    study=figure,
                )
            )
    note = (
        "Each value is the mean over the seeds; precision, recall and F1 are averages over the "
        "classes of the class with the highest score. The interval is over the choice of test "
        "images; the standard deviation is over the seeds."
    )
    return Table("accuracy", "Accuracy", note, rows)


def _share(right: Array) -> tuple[Interval, str]:
    """The mean of (seeds, images) 0/1 values with its interval, and the kind of the interval."""
    values = right.mean(axis=0)
    kind = _EXACT_ONE if len(right) == 1 else _EXACT
    return (
        bootstrap_interval(values, resamples=RESAMPLES),
        kind if np.isin(values, (0, 1)).all() else _BOOTSTRAP,
    )


def _metrics(runs: list[RunResult]) -> dict[str, tuple[tuple[float, ...], Interval, str]]:
    """Metric -> the value of each seed, their mean with its interval, and the interval's kind."""
    found = {}
    for name, k in (("top1", 1), ("top5", 5)):
        right = np.stack([top_k_correct(run.test.scores, run.test.labels, k) for run in runs])
        found[name] = (tuple(float(one) for one in right.mean(axis=1)), *_share(right))
    labels = runs[0].test.labels.astype(np.int64)
    guesses = [run.test.predicted for run in runs]
    each = np.array([_macro(labels, guess) for guess in guesses])
    intervals = bootstrap_statistics(
        lambda own, *parts: np.mean([_macro(own, part) for part in parts], axis=0),
        *(labels, *guesses),
        resamples=RESAMPLES,
    )
    for at, name in enumerate(_MACRO):
        found[name] = (tuple(float(one) for one in each[:, at]), intervals[at], _BOOTSTRAP)
    return found


def _macro(labels: Array, guess: Array) -> list[float]:
    """The figures of `_MACRO`, as the registered metrics define them, from one count."""
    hits, actual, predicted = class_counts(labels, guess)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / (actual + predicted)
    return [float(part.mean()) for part in (precision, recall, f1)]


def classes(results: Results) -> Table:
    """The accuracy of each class."""
    rows: list[Row] = []
    for role in CORE:
        runs = results.runs[role]
        if not runs:
            title = subject(results, role)
            rows.append(absent(results, role, "accuracy of every class", FRACTION, title))
            continue
        labels = runs[0].test.labels
        right = np.stack([run.test.correct for run in runs])
        for index, name in enumerate(results.classes):
            own = right[:, labels == index]
            rows.append(_class_row(results, role, name, own))
    note = (
        "The share of a class's test images that are classified correctly (its recall), mean over "
        "the seeds."
    )
    return Table("classes", "Class-wise accuracy", note, rows)


def _class_row(results: Results, role: str, name: str, right: Array) -> Row:
    """The row of a class; `right` is (seeds, images)."""
    figure = results.figures.get("classes", role, name)
    if not right.shape[1]:
        why = f"the test split has no image of {name}"
        return Row(
            *(subject(results, role), name, FRACTION, undecided(why)),
            interval="none",
            epochs=epochs_text(results, role),
            study=figure,
            missing=why,
        )
    found, kind = _share(right)
    return Row(
        *(subject(results, role), name, FRACTION),
        absolute(found, figure, conditions(results, role)),
        *(found.value, found.low, found.high),
        interval=f"{kind}; {right.shape[1]} images",
        seeds=tuple(float(one) for one in right.mean(axis=1)),
        epochs=epochs_text(results, role),
        study=figure,
    )


def loss(results: Results) -> Table:
    """Training and validation loss of the first and the last epoch."""
    rows: list[Row] = []
    parts = (("loss", "training"), ("val_loss", "validation"))
    for role in CORE:
        runs = results.runs[role]
        if not runs:
            rows.append(absent(results, role, "loss", "nats", subject(results, role)))
            continue
        for key, kind in parts:
            for at, end in ((0, "start"), (-1, "end")):
                values = tuple(float(run.history[at][key]) for run in runs)
                found = over_seeds(values)
                is_training = kind == "training"
                figure = results.figures.get("loss", role, end) if is_training else None
                rows.append(
                    Row(
                        subject(results, role),
                        f"{kind} loss, {'first' if end == 'start' else 'last'} epoch",
                        "nats",
                        absolute(found, figure, conditions(results, role)),
                        *_ends(float(np.mean(values)), found),
                        interval="95 %, Student's t over the seeds" if found else "one seed",
                        seeds=values,
                        epochs=epochs_text(results, role),
                        study=figure,
                    )
                )
    note = (
        "Training loss is the mean over the steps of an epoch and contains weight decay's effect "
        "and label smoothing of the recipe; validation loss is the cross-entropy."
    )
    return Table("loss", "Loss at start and end of training", note, rows)


def intervals(results: Results) -> Table:
    """Intervals of top-1 of three kinds: the study's bootstrap, exact, and over seeds."""
    rows: list[Row] = []
    kinds: dict[str, Callable[[list[RunResult]], Interval | None]] = {
        "percentile bootstrap of the images, 1,000 resamples": _percentile,
        "Clopper & Pearson, exact, images of the first seed": _exact,
        "Student's t over the seeds": lambda runs: over_seeds(_top1(runs)),
    }
    for role in CORE:
        runs = results.runs[role]
        if not runs:
            rows.append(absent(results, role, "top-1", FRACTION, subject(results, role)))
            continue
        for name, kind in kinds.items():
            found = kind(runs)
            is_study = name.startswith("percentile")
            figure = results.figures.get("intervals", role, "top1") if is_study else None
            why = "the study has no interval of this kind"
            verdict = undecided(why)
            if is_study:
                verdict = absolute(found, figure, conditions(results, role))
            seeds = _top1(runs[:1] if "first seed" in name else runs)
            rows.append(
                Row(
                    *(subject(results, role), "top-1", FRACTION, verdict),
                    *_ends(float(np.mean(seeds)), found),
                    interval=name if found else f"{name}: needs two seeds",
                    seeds=seeds,
                    epochs=epochs_text(results, role),
                    study=figure,
                )
            )
    note = (
        "The study has bootstrap intervals with 1,000 resamples. They cover the choice of test "
        "images, not that of seeds; the t interval over a few seeds covers the latter."
    )
    return Table("intervals", "Intervals of top-1", note, rows)


def _top1(runs: list[RunResult]) -> tuple[float, ...]:
    return tuple(float(run.test.correct.mean()) for run in runs)


def _exact(runs: list[RunResult]) -> Interval:
    right = runs[0].test.correct
    return proportion_interval(float(right.sum()), len(right))


def _percentile(runs: list[RunResult]) -> Interval:
    """The plain percentile bootstrap of the mean over the seeds."""
    values = np.mean([run.test.correct for run in runs], axis=0)
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def _ends(value: float, found: Interval | None) -> tuple[float, float | None, float | None]:
    return (value, found.low, found.high) if found else (value, None, None)
