"""TFDV's checks with two comparisons that TFX's ExampleValidator cannot make.

Every split against the schema; the test split against the training split (skew); the training
split against that of the run before (drift). Texts are compared by the largest difference of a
value's share (L-infinity), numbers by the Jensen-Shannon divergence of their histograms.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics, Schema
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component
from tfx.v1.dsl.experimental import ResolverStrategy

from trainers.data import features

#: Features that are compared: what a picture is, and what it shows.
COMPARED = (
    *(features.LABEL, features.TEXT, features.OBJECT_LABEL, features.OBJECT_TEXT),
    *(features.FORMAT, features.CHANNELS, features.HEIGHT, features.WIDTH, features.COLORSPACE),
    *features.SLICES,
    features.SLICE_OBJECTS,
)

# Four standard deviations of the difference of two shares near one half.
_SHARE_NOISE = 2.0
# 99.9th percentile of chi-squared with 9 degrees of freedom (TFDV makes 10 buckets), over 8 ln 2:
# two samples of one distribution have a divergence of about chi-squared / 8 * (1/n + 1/m) nats.
_DIVERGENCE_NOISE = 27.88 / (8 * 0.6931)
_STATISTICS, _SCHEMA, _ANOMALIES = "FeatureStats.pb", "schema.pbtxt", "SchemaDiff.pb"


@dataclass(frozen=True)
class StatisticsSettings:
    """How far distributions may be apart; the noise of small samples is added to each.

    Attributes:
      skew_share: largest difference of a value's share between train and test, in [0, 1].
      skew_divergence: Jensen-Shannon divergence between train and test, in [0, 1] (bits).
      drift_share: as `skew_share`, between the training splits of the run before and this one.
      drift_divergence: as `skew_divergence`, between these.
    """

    skew_share: float = 0.1
    skew_divergence: float = 0.1
    drift_share: float = 0.1
    drift_divergence: float = 0.1


class LatestIfAny(ResolverStrategy):
    """The newest artifact of each channel, or none; TFX's own strategy fails where there is none.

    A first run has nothing to drift from.
    """

    def resolve_artifacts(self, store: Any, input_dict: Any) -> Any:
        """Channel name -> a list of one artifact or of none."""
        return {
            key: sorted(found, key=lambda one: one.id)[-1:] for key, found in input_dict.items()
        }


Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


def check_statistics(
    splits: dict[str, Statistics],
    schema: schema_pb2.Schema,
    settings: StatisticsSettings,
    previous: Statistics | None = None,
) -> dict[str, anomalies_pb2.Anomalies]:
    """Anomalies of each split; skew and drift are told with `train`.

    Args:
      splits: statistics by split.
      schema: is not changed.
      settings: thresholds.
      previous: the training statistics of the run before, if any.
    """
    test = splits.get("test")
    found = {}
    for split, statistics in splits.items():
        if split == "train":
            limited = with_thresholds(schema, settings, statistics, test=test, previous=previous)
            found[split] = tfdv.validate_statistics(
                statistics, limited, previous_statistics=previous, serving_statistics=test
            )
        else:
            found[split] = tfdv.validate_statistics(statistics, schema)
    return found


def with_thresholds(
    schema: schema_pb2.Schema,
    settings: StatisticsSettings,
    train: Statistics,
    *,
    test: Statistics | None = None,
    previous: Statistics | None = None,
) -> schema_pb2.Schema:
    """A copy of `schema` whose compared features have skew and drift thresholds."""
    limited = schema_pb2.Schema()
    limited.CopyFrom(schema)
    for feature in limited.feature:
        if feature.name not in COMPARED:
            continue
        if test is not None:
            share, divergence = settings.skew_share, settings.skew_divergence
            _limit(feature, feature.skew_comparator, (share, divergence), _inverse(train, test))
        if previous is not None:
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
    """1/n + 1/m of two samples; 0 where one is empty, which the schema check tells of."""
    counts = [statistics.datasets[0].num_examples for statistics in (one, other)]
    return sum(1 / count for count in counts) if all(counts) else 0.0


def _load(uri: str, split: str) -> Statistics:
    return tfdv.load_stats_binary(str(Path(uri) / f"Split-{split}" / _STATISTICS))


@component
def StatisticsValidator(
    statistics: InputArtifact[ExampleStatistics],
    schema: InputArtifact[Schema],
    anomalies: OutputArtifact[ExampleAnomalies],
    settings: Parameter[str],
    code_digest: Parameter[str],
    previous: InputArtifact[ExampleStatistics] = None,  # TFX reads None as "may be absent"
) -> None:
    """Writes anomalies in the layout of TFX's ExampleValidator.

    Args:
      statistics: of this run.
      schema: of the data.
      anomalies: `Split-*/SchemaDiff.pb`.
      settings: JSON of `StatisticsSettings`.
      code_digest: part of the cache key.
      previous: of the run before, if any.
    """
    splits = artifact_utils.decode_split_names(statistics.split_names)
    before = None
    if previous and "train" in artifact_utils.decode_split_names(previous.split_names):
        before = _load(previous.uri, "train")
    found = check_statistics(
        {split: _load(statistics.uri, split) for split in splits},
        tfdv.load_schema_text(str(Path(schema.uri) / _SCHEMA)),
        StatisticsSettings(**json.loads(settings)),
        before,
    )
    anomalies.split_names = artifact_utils.encode_split_names(splits)
    for split, one in found.items():
        target = Path(anomalies.uri) / f"Split-{split}" / _ANOMALIES
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(one.SerializeToString())
