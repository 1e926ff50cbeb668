"""Everything that one model's predictions show: metrics, classes, slices, curves, groups, errors.

    found = analyze(model, AnalysisOptions(slices=("slice/race",), groups=("slice/race",)))

Plain values that become JSON and tables; see `sightline evaluate --out`. NumPy and SciPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainers.evaluation import curves, error_analysis, groups
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.group_figures import GroupFigures, group_figures
from trainers.evaluation.metrics import metrics_of_parts
from trainers.evaluation.noninferiority import Array
from trainers.evaluation.scores import confusion_matrix
from trainers.evaluation.slice_rates import SliceRates, slice_rates
from trainers.evaluation.stats import LEAST_IMAGES, Interval, proportion_intervals
from trainers.registry import nearest

#: With more classes, curves and thresholds are computed for the positive class only.
MOST_CURVES = 100
#: The key of slices by class, unless the data has a slice of this name.
CLASS = "class"
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
        `class` is the class, also in crosses.
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
      slice_rates: of each of them, where there is a single positive class; else empty.
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
    slice_rates: list[SliceRates]
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
    keyed = _with_class(model, names)
    sliced = {key: _values(keyed, key) for key in options.slices or sorted(model.slices)}
    for key in options.groups:
        _values(keyed, key)
    weak, tried = error_analysis.weak_slices(
        model.correct, {key: np.asarray(v, str) for key, v in model.slices.items()}
    )
    confusion = confusion_matrix(model.scores, model.labels)
    wanted = range(len(names)) if len(names) <= MOST_CURVES else positives
    drawn = {names[one]: _curves(model, one) for one in wanted}
    whole, slices = _metrics(model, sliced)
    single = [(one, names[one]) for one in positives] if len(positives) == 1 else []
    return Analysis(
        model=model.name,
        images=len(model.labels),
        metrics=whole,
        classes=_classes(model, names, confusion, drawn, options.specificity),
        confusion=confusion,
        slices=slices,
        slice_rates=[
            slice_rates(
                model,
                values,
                value,
                key=_short(key),
                positive=positive,
                thresholds=_THRESHOLDS,
            )
            for positive in single
            for key, values in sliced.items()
            for value in _ordered(values)
        ],
        calibration=curves.calibration_curve(model.scores, model.labels),
        temperature=curves.temperature(model.scores, model.labels),
        thresholds={names[one]: _thresholds(model, one) for one in positives},
        curves={names[one]: found for one in positives if (found := drawn[names[one]]) is not None},
        groups=[
            group_figures(keyed, key, one, names)
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


def _with_class(model: ModelPredictions, names: Sequence[str]) -> ModelPredictions:
    """The model with the class among its slices."""
    if _PREFIX + CLASS in model.slices:
        return model
    classes = np.array(names, dtype=object)[model.labels]
    return replace(model, slices={**model.slices, _PREFIX + CLASS: classes})


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


def _metrics(
    model: ModelPredictions, sliced: dict[str, Array]
) -> tuple[dict[str, Interval], list[SliceFigures]]:
    """The metrics of all images, and of those slices that are large enough."""
    parts = [
        (_short(key), value, values == value)
        for key, values in sliced.items()
        for value in _ordered(values)
    ]
    everything = np.ones(len(model.labels), bool)
    large = [inside for _, _, inside in parts if inside.sum() >= LEAST_IMAGES]
    found = metrics_of_parts(model.scores, model.labels, [everything, *large])
    whole = next(found)
    return whole, [
        SliceFigures(key, value, count, next(found) if count >= LEAST_IMAGES else {})
        for key, value, inside in parts
        for count in [int(inside.sum())]
    ]


def _ordered(values: Array) -> list[str]:
    return sorted(set(values.tolist()), key=groups.natural)


def _short(key: str) -> str:
    return groups.CROSS.join(part.strip().removeprefix(_PREFIX) for part in key.split(groups.CROSS))


def _classes(
    model: ModelPredictions,
    names: Sequence[str],
    confusion: Array,
    drawn: dict[str, Curves | None],
    specificity: float,
) -> list[ClassFigures]:
    hits, images, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, precision = (proportion_intervals(hits, of) for of in (images, predicted))
    found = []
    for label, name in enumerate(names):
        threshold = sensitivity = area = average = None
        if (shown := drawn.get(name)) is not None:
            ours, scores = model.labels == label, model.scores[:, label]
            threshold = curves.threshold_for_specificity(scores, ours, specificity)
            sensitivity = curves.rates_at(scores, ours, threshold).recall
            area, average = shown[0].area, shown[1].average_precision
        total = int(images[label] + predicted[label])
        found.append(
            ClassFigures(
                name=name,
                images=int(images[label]),
                recall=recall[label],
                precision=precision[label],
                f1=2 * int(hits[label]) / total if total else None,
                roc_area=area,
                average_precision=average,
                sensitivity=sensitivity,
                threshold=threshold,
            )
        )
    return found


def _curves(model: ModelPredictions, label: int) -> Curves | None:
    ours = model.labels == label
    if ours.all() or not ours.any():
        return None
    scores = model.scores[:, label]
    return curves.roc(scores, ours), curves.precision_recall(scores, ours)


def _thresholds(model: ModelPredictions, label: int) -> list[curves.Rates]:
    return curves.rates_table(model.scores[:, label], model.labels == label, _THRESHOLDS)


def _compared_classes(
    given: str, names: Sequence[str], positives: Sequence[int]
) -> Sequence[int | None]:
    """The positive classes of groups; with several, None comes first: rates that need none."""
    return positives if given or len(names) == 2 else [None, *positives]
