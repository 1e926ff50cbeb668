"""Everything that one model's predictions show: metrics, classes, slices, curves, groups, errors.

    found = analyze(model, AnalysisOptions(slices=("slice/race",), groups=("slice/race",)))

Plain values that become JSON and tables; see `sightline evaluate --out`. NumPy and SciPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.evaluation import curves, error_analysis, groups
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.group_figures import GroupFigures, group_figures
from trainers.evaluation.metrics import metrics_with_intervals
from trainers.evaluation.noninferiority import Array
from trainers.evaluation.scores import confusion_matrix
from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_interval
from trainers.registry import nearest

#: With more classes, curves and thresholds are computed for the positive class only.
MOST_CURVES = 100
_PREFIX = "slice/"
#: Thresholds of the table: 0.01 to 0.99.
_THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(1, 100))


Curves = tuple[curves.Roc, curves.PrecisionRecall]


class AnalysisError(ValueError):
    """A slice, group or class that the predictions lack; the message names the nearest."""


@dataclass(frozen=True)
class AnalysisOptions:
    """What to compute beside the metrics.

    Attributes:
      slices: keys, with or without `slice/`, and crosses such as `race*gender`; empty is every key.
      groups: keys or crosses whose rates and gaps are compared.
      positive: the class that counts as positive in groups and thresholds; empty is the second of
        two classes, each of up to `MOST_CURVES` classes, and none of more. Accuracy and
        overconfidence of groups need none.
      specificity: at which sensitivity is reported, in (0, 1).
    """

    slices: Sequence[str] = ()
    groups: Sequence[str] = ()
    positive: str = ""
    specificity: float = 0.95


@dataclass(frozen=True)
class ClassFigures:
    """One class against all others; a figure without images behind it is None.

    Attributes:
      name: of the class.
      images: with this label.
      recall: also the class-wise accuracy.
      precision: of the images predicted as this class.
      f1: harmonic mean of the two; 0 where neither has a hit.
      roc_area: area under the ROC curve of the class's score.
      average_precision: of the class's score.
      sensitivity: share of the class's images at `threshold` or above. The other classes' images
        alone decide which of them these are, so the interval holds; the specificity of the
        threshold on other images is an estimate, too.
      threshold: the lowest score at which `specificity` of the other classes' images stay below.
    """

    name: str
    images: int
    recall: Interval | None
    precision: Interval | None
    f1: float | None
    roc_area: Interval | None
    average_precision: Interval | None
    sensitivity: Interval | None
    threshold: float | None


@dataclass(frozen=True)
class SliceFigures:
    """The images of one slice value; `metrics` is empty where there are fewer than 30."""

    key: str
    value: str
    images: int
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Analysis:
    """See the module; parallel to the predictions that it was computed from.

    Attributes:
      model: name.
      images: all of them.
      metrics: name -> value with its interval.
      classes: in label order.
      confusion: (N, N) int, rows are labels and columns predictions.
      slices: in the order of keys and of values.
      calibration: bins of the highest score.
      temperature: that minimizes cross-entropy on these images.
      thresholds: class name -> rates at 0.01 to 0.99; empty with more than `MOST_CURVES` classes
        and no positive one, as are `curves`.
      curves: class name -> (ROC, precision-recall).
      groups: for each key and positive class; with more than two classes, first without one.
      errors: positions of wrong images, the most confident first.
      suspects: labels that are likely to be wrong.
      weak: slices that are less accurate than the rest, and `slices_tried` of them all.
      slices_tried: over which the p-values of `weak` are adjusted.
    """

    model: str
    images: int
    metrics: dict[str, Interval]
    classes: list[ClassFigures]
    confusion: Array
    slices: list[SliceFigures]
    calibration: list[curves.CalibrationBin]
    temperature: float
    thresholds: dict[str, list[curves.Rates]]
    curves: dict[str, Curves]
    groups: list[GroupFigures]
    errors: Array
    suspects: list[error_analysis.SuspectLabel]
    weak: list[error_analysis.WeakSlice]
    slices_tried: int


def analyze(model: ModelPredictions, options: AnalysisOptions | None = None) -> Analysis:
    """All figures of one model's predictions.

    Args:
      model: predictions on images that the model was not trained on, with class names.
      options: slices, groups and the positive class; None is all slices and no groups.

    Raises:
      AnalysisError: a slice, group or class that does not exist.
      ValueError: no images, or an option out of range.
    """
    options = options or AnalysisOptions()
    if not 0 < options.specificity < 1:
        raise ValueError(f"`specificity` must be in (0, 1), got {options.specificity}")
    names = _class_names(model)
    positives = _positives(options.positive, names)
    keys = options.slices or sorted(model.slices)
    sliced = {key: _values(model, key) for key in keys}
    for key in options.groups:
        _values(model, key)
    weak, tried = error_analysis.weak_slices(
        model.correct, {key: np.asarray(v, str) for key, v in model.slices.items()}
    )
    confusion = confusion_matrix(model.scores, model.labels)
    wanted = range(len(names)) if len(names) <= MOST_CURVES else positives
    drawn = {names[one]: _curves(model, one) for one in wanted}
    return Analysis(
        model=model.name,
        images=len(model.labels),
        metrics=metrics_with_intervals(model.scores, model.labels),
        classes=[
            _class(model, confusion, i, drawn.get(name), options.specificity)
            for i, name in enumerate(names)
        ],
        confusion=confusion,
        slices=[one for key, values in sliced.items() for one in _slices(model, key, values)],
        calibration=curves.calibration_curve(model.scores, model.labels),
        temperature=curves.temperature(model.scores, model.labels),
        thresholds={names[one]: _thresholds(model, one) for one in positives},
        curves={names[one]: found for one in positives if (found := drawn[names[one]]) is not None},
        groups=[
            group_figures(model, key, one, names)
            for key in options.groups
            for one in _compared_classes(options.positive, names, positives)
        ],
        errors=error_analysis.confident_errors(model.scores, model.labels),
        suspects=error_analysis.suspect_labels(model.scores, model.labels),
        weak=weak,
        slices_tried=tried,
    )


def _class_names(model: ModelPredictions) -> tuple[str, ...]:
    names = model.classes or [""] * model.scores.shape[1]
    return tuple(name or str(i) for i, name in enumerate(names))


def _positives(given: str, names: Sequence[str]) -> list[int]:
    if not given:
        if len(names) > MOST_CURVES:
            return []
        return [1] if len(names) == 2 else list(range(len(names)))
    if given not in names:
        raise AnalysisError(f"no class {given!r}; {nearest(given, list(names))}")
    return [list(names).index(given)]


def _values(model: ModelPredictions, key: str) -> Array:
    """(M,) str: the values of a key, or of several that `*` joins."""
    try:
        return groups.group_values(model.slices, key)
    except groups.GroupError as error:
        raise AnalysisError(str(error)) from error


def _slices(model: ModelPredictions, key: str, values: Array) -> list[SliceFigures]:
    found = []
    for value in sorted(set(values.tolist()), key=groups.natural):
        inside = values == value
        count = int(inside.sum())
        metrics = (
            metrics_with_intervals(model.scores[inside], model.labels[inside])
            if count >= LEAST_IMAGES
            else {}
        )
        found.append(SliceFigures(key.removeprefix(_PREFIX), value, count, metrics))
    return found


def _class(
    model: ModelPredictions, confusion: Array, label: int, drawn: Curves | None, specificity: float
) -> ClassFigures:
    hits, images = int(confusion[label, label]), int(confusion[label].sum())
    predicted = int(confusion[:, label].sum())
    threshold = sensitivity = None
    if drawn is not None:
        ours = model.labels == label
        threshold = curves.threshold_for_specificity(model.scores[:, label], ours, specificity)
        sensitivity = curves.rates_at(model.scores[:, label], ours, threshold).recall
    return ClassFigures(
        name=_class_names(model)[label],
        images=images,
        recall=proportion_interval(hits, images) if images else None,
        precision=proportion_interval(hits, predicted) if predicted else None,
        f1=2 * hits / (images + predicted) if images + predicted else None,
        roc_area=drawn[0].area if drawn else None,
        average_precision=drawn[1].average_precision if drawn else None,
        sensitivity=sensitivity,
        threshold=threshold,
    )


def _curves(model: ModelPredictions, label: int) -> Curves | None:
    ours = model.labels == label
    if ours.all() or not ours.any():
        return None
    scores = model.scores[:, label]
    return curves.roc(scores, ours), curves.precision_recall(scores, ours)


def _thresholds(model: ModelPredictions, label: int) -> list[curves.Rates]:
    ours = model.labels == label
    return [curves.rates_at(model.scores[:, label], ours, one) for one in _THRESHOLDS]


def _compared_classes(
    given: str, names: Sequence[str], positives: Sequence[int]
) -> Sequence[int | None]:
    """The positive classes of groups; with several, None comes first: rates that need none."""
    return positives if given or len(names) == 2 else [None, *positives]
