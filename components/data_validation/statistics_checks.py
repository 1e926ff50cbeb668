"""TFDV's checks, with two comparisons that TFX's ExampleValidator does not have.

Each split is checked against the schema, the test split against the training split (skew), and the
training split against that of each live model of the pipeline (drift). A live model without
statistics is reported as not compared. Numbers are compared by the Jensen-Shannon divergence of
their histograms, texts and labels by the largest difference of a value's share (L-infinity) and by
a distance over all values (see `components.data_validation.drift`). Classes are compared by name;
between data sets only those that both have, as the gate `change/classes` checks new class names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.data_validation.drift import ValueCounts, categorical_sample, distance, restricted
from components.data_validation.statistics_settings import StatisticsSettings
from trainers.data import features

#: Features that are compared: properties and contents of images.
COMPARED = (
    *(features.LABEL, features.TEXT, features.OBJECT_LABEL, features.OBJECT_TEXT),
    *(features.FORMAT, features.CHANNELS, features.HEIGHT, features.WIDTH, features.COLORSPACE),
    *features.SLICES,
    features.SLICE_OBJECTS,
)
# Integers that are names, not quantities.
_LABELS = (features.LABEL, features.OBJECT_LABEL)
_CLASSES = (*_LABELS, features.TEXT, features.OBJECT_TEXT)
# More than the classes of any data set; TFDV's default keeps the 1,000 most frequent values.
_MOST_VALUES = 100_000

# Four standard deviations of the difference of two shares near one half.
_SHARE_NOISE = 2.0
# 99.9th percentile of chi-squared with 9 degrees of freedom (TFDV makes 10 buckets), over 8 ln 2:
# two samples of one distribution have a divergence of about chi-squared / 8 * (1/n + 1/m) nats.
_DIVERGENCE_NOISE = 27.88 / (8 * 0.6931)


Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


@dataclass(frozen=True)
class ClassNames:
    """The class names of a data set's labels."""

    classes: tuple[str, ...] = ()
    label_offset: int = 0

    def by_label(self) -> dict[str, str]:
        """Label as TFDV's text -> class name."""
        return {str(i + self.label_offset): name for i, name in enumerate(self.classes)}


@dataclass(frozen=True)
class LiveStatistics:
    """Training statistics of a live model.

    Attributes:
      name: model and version, e.g. `digits_cnn 3`.
      statistics: of the training split.
      names: of the classes.
    """

    name: str
    statistics: Statistics
    names: ClassNames = ClassNames()


def statistics_options() -> tfdv.StatsOptions:
    """TFDV's options: count all values of the compared features, labels as categories.

    Images are excluded: TFDV would count 1,797 images as 1,797 distinct strings.
    """
    schema = schema_pb2.Schema()
    for name in _LABELS:
        feature = schema.feature.add(name=name, type=schema_pb2.INT)
        feature.int_domain.is_categorical = True
    return tfdv.StatsOptions(
        schema=schema,
        feature_allowlist=list(COMPARED),
        num_rank_histogram_buckets=_MOST_VALUES,
    )


def check_statistics(
    splits: dict[str, Statistics],
    schema: schema_pb2.Schema,
    settings: StatisticsSettings,
    before: Sequence[LiveStatistics] = (),
    names: ClassNames = ClassNames(),
) -> dict[str, anomalies_pb2.Anomalies]:
    """Anomalies of each split; skew and drift are reported with `train`.

    Args:
      splits: statistics by split.
      schema: of the data; not changed.
      settings: thresholds.
      before: of the live models; a difference from any of them is an anomaly.
      names: the classes of this data set.
    """
    test = splits.get("test")
    schema = _without_label_domains(schema)
    found = {}
    for split, statistics in splits.items():
        if split != "train":
            found[split] = tfdv.validate_statistics(statistics, schema)
            continue
        limited = with_thresholds(schema, settings, statistics, test=test)
        found[split] = tfdv.validate_statistics(statistics, limited, serving_statistics=test)
        if test is not None:
            _skew(found[split], (statistics, test), names, settings.skew_distance)
        for one in before:
            _drift(found[split], statistics, one, (schema, settings, names))
    return found


def _without_label_domains(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """A copy without the string domains that TFDV infers for labels, which no integer fits."""
    copy = schema_pb2.Schema()
    copy.CopyFrom(schema)
    for feature in copy.feature:
        if feature.name in _LABELS and feature.type == schema_pb2.INT:
            feature.ClearField("domain")
    return copy


def compared_features(statistics: Statistics) -> set[str]:
    """The compared features of a data set."""
    found = {".".join(one.path.step) for one in statistics.datasets[0].features}
    return found.intersection(COMPARED)


def _skew(
    anomalies: anomalies_pb2.Anomalies,
    sides: tuple[Statistics, Statistics],
    names: ClassNames,
    allowed: float,
) -> None:
    for feature in COMPARED:
        train, test = (_by_name(one, feature, names) for one in sides)
        _compare(anomalies, feature, (train, test), allowed, ("skew_distance", "train -> test"))


def _drift(
    anomalies: anomalies_pb2.Anomalies,
    train: Statistics,
    before: LiveStatistics,
    about: tuple[schema_pb2.Schema, StatisticsSettings, ClassNames],
) -> None:
    schema, settings, names = about
    limited = with_thresholds(
        schema, settings, train, previous=before.statistics, same=before.names == names
    )
    found = tfdv.validate_statistics(train, limited, previous_statistics=before.statistics)
    anomalies.drift_skew_info.extend(found.drift_skew_info)
    for feature, info in found.anomaly_info.items():
        for reason in info.reason:
            # Others are anomalies of the schema, which the caller checks, or missing features.
            if _TYPES.Name(reason.type) in _DIFFERENCES:
                _add(
                    anomalies,
                    feature,
                    reason.short_description,
                    f"{before.name}: {reason.description}",
                    reason.type,
                )
    common = set(before.names.classes) & set(names.classes)
    for feature in COMPARED:
        sides = (before.statistics, before.names), (train, names)
        pair = [_by_name(one, feature, its) for one, its in sides]
        if feature in _CLASSES and set(before.names.classes) != set(names.classes):
            pair = [one and restricted(one, common) for one in pair]
        label = f"training images of {before.name} -> now"
        _compare(
            anomalies,
            feature,
            (pair[0], pair[1]),
            settings.drift_distance,
            ("drift_distance", label),
        )


def _by_name(statistics: Statistics, feature: str, names: ClassNames) -> ValueCounts | None:
    return categorical_sample(statistics, feature, names.by_label() if feature in _LABELS else None)


def _compare(
    anomalies: anomalies_pb2.Anomalies,
    feature: str,
    pair: tuple[ValueCounts | None, ValueCounts | None],
    allowed: float,
    words: tuple[str, str],
) -> None:
    """Adds an anomaly for a distance above the threshold; the schema covers missing samples."""
    one, other = pair
    if one is None or other is None:
        return
    found = distance(one, other, allowed)
    if found.exceeded:
        setting, between = words
        _add(
            anomalies,
            feature,
            "Distribution changed",
            f"{between}: distance {found.value:.3f}, above {found.threshold:.3f} "
            f"(statistics.{setting}={allowed:g} and sampling noise); changed most: {found.changed}",
        )


_TYPES = anomalies_pb2.AnomalyInfo.Type
_DIFFERENCES = ("COMPARATOR_L_INFTY_HIGH", "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH")


def _add(
    anomalies: anomalies_pb2.Anomalies,
    feature: str,
    short: str,
    description: str,
    kind: int = anomalies_pb2.AnomalyInfo.CUSTOM_VALIDATION,
) -> None:
    info = anomalies.anomaly_info[feature]
    info.path.step[:] = [feature]
    info.severity = anomalies_pb2.AnomalyInfo.ERROR
    info.reason.add(type=kind, short_description=short, description=description)
    several = len(info.reason) > 1
    info.short_description = "Multiple errors" if several else short
    info.description = " ".join(reason.description for reason in info.reason)


def with_thresholds(
    schema: schema_pb2.Schema,
    settings: StatisticsSettings,
    train: Statistics,
    *,
    test: Statistics | None = None,
    previous: Statistics | None = None,
    same: bool = True,
) -> schema_pb2.Schema:
    """A copy of `schema` whose compared features have skew and drift thresholds.

    Labels have none, because they are compared by class name. With `same=False`, for data sets
    with different classes, class names have no drift threshold either.
    """
    limited = schema_pb2.Schema()
    limited.CopyFrom(schema)
    for feature in limited.feature:
        if feature.name not in COMPARED or feature.name in _LABELS:
            continue
        if test is not None:
            share, divergence = settings.skew_share, settings.skew_divergence
            _limit(feature, feature.skew_comparator, (share, divergence), _inverse(train, test))
        if previous is not None and (same or feature.name not in _CLASSES):
            share, divergence = settings.drift_share, settings.drift_divergence
            noise = _inverse(train, previous)
            _limit(feature, feature.drift_comparator, (share, divergence), noise)
    return limited


def _limit(feature: Any, comparator: Any, limits: tuple[float, float], inverse: float) -> None:
    share, divergence = limits
    if feature.type == schema_pb2.BYTES:
        comparator.infinity_norm.threshold = share + _SHARE_NOISE * inverse**0.5
    else:
        limit = divergence + _DIVERGENCE_NOISE * inverse
        comparator.jensen_shannon_divergence.threshold = limit


def _inverse(one: Statistics, other: Statistics) -> float:
    """1/n + 1/m of two samples; 0 when one is empty, which the schema check reports."""
    counts = [statistics.datasets[0].num_examples for statistics in (one, other)]
    return sum(1 / count for count in counts) if all(counts) else 0.0
