import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from scipy.spatial.distance import jensenshannon
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.types import standard_artifacts

from components.significance_gate import anomaly_gate
from components.statistics_validator import (
    LatestIfAny,
    StatisticsSettings,
    StatisticsValidator,
    check_statistics,
    with_thresholds,
)

WIDE_OPEN = {"skew_share": 2.0, "skew_divergence": 2.0}
TEXT, HEIGHT = "image/class/text", "image/height"


def statistics(texts, heights):
    """TFDV's own statistics of two features."""
    import pandas as pd

    frame = pd.DataFrame({TEXT: texts, HEIGHT: np.asarray(heights, np.int64)})
    return tfdv.generate_statistics_from_dataframe(frame)


def sample(seed, count=2000, shares=(0.5, 0.3, 0.2), power=1.0):
    rng = np.random.default_rng(seed)
    texts = rng.choice(["cat", "dog", "eel"], count, p=shares)
    heights = (100 * rng.random(count) ** power).astype(int)
    heights[:2] = 0, 100  # The same ends, so that the histograms have the same edges.
    return texts, heights


def measured(anomalies, path):
    """(kind, value, threshold) of what was compared of one feature."""
    for info in anomalies.drift_skew_info:
        if info.path.step[0] == path:
            (one,) = [*info.skew_measurements, *info.drift_measurements]
            return one.value, one.threshold
    raise AssertionError(f"{path} was not compared")


@pytest.fixture(scope="module")
def data():
    """Samples and their statistics: train, its like, and one with other shares and heights."""
    samples = {
        "train": sample(0),
        "like": sample(1),
        "other": sample(2, shares=(0.1, 0.3, 0.6), power=0.3),
    }
    return {name: (one, statistics(*one)) for name, one in samples.items()}


@pytest.fixture(scope="module")
def schema(data):
    return tfdv.infer_schema(data["train"][1])


@pytest.mark.parametrize("side", ["skew", "drift"])
@pytest.mark.parametrize("name", ["like", "other"])
def test_distances_are_those_of_numpy_and_scipy(data, schema, side, name):
    (texts, heights), train = data["train"]
    (other_texts, other_heights), other = data[name]
    splits = {"train": train, "test": other} if side == "skew" else {"train": train}
    previous = other if side == "drift" else None
    found = check_statistics(splits, schema, StatisticsSettings(), previous)["train"]

    shares = [
        np.array([(t == v).mean() for v in ("cat", "dog", "eel")]) for t in (texts, other_texts)
    ]
    value, _ = measured(found, TEXT)
    assert value == pytest.approx(np.abs(shares[0] - shares[1]).max(), abs=1e-6)

    histograms = [np.histogram(h, 10, (0, 100))[0] for h in (heights, other_heights)]
    value, _ = measured(found, HEIGHT)
    # TFDV's numeric histograms come from a sketch of the values.
    assert value == pytest.approx(jensenshannon(*histograms, base=2) ** 2, abs=0.01)


def test_what_is_alike_passes_and_what_is_not_is_named(data, schema):
    train, like, other = (data[name][1] for name in ("train", "like", "other"))
    alike = check_statistics({"train": train, "test": like}, schema, StatisticsSettings(), like)
    assert not any(anomalies.anomaly_info for anomalies in alike.values())

    skewed = check_statistics({"train": train, "test": other}, schema, StatisticsSettings())
    assert set(skewed["train"].anomaly_info) == {TEXT, HEIGHT}
    drifted = check_statistics({"train": train, "test": like}, schema, StatisticsSettings(), other)
    assert set(drifted["train"].anomaly_info) == {TEXT, HEIGHT}


def test_thresholds_allow_for_small_samples():
    """Noise alone exceeds a threshold for less than 1 of 200 pairs of small samples."""
    settings = StatisticsSettings(skew_share=0.0, skew_divergence=0.0)
    rng = np.random.default_rng(0)
    train = statistics(*sample(0, 90))
    schema = tfdv.infer_schema(train)
    limited = with_thresholds(schema, settings, train, test=statistics(*sample(1, 25)))
    limits = {one.name: one.skew_comparator for one in limited.feature}
    share = limits[TEXT].infinity_norm.threshold
    divergence = limits[HEIGHT].jensen_shannon_divergence.threshold
    shares, divergences = [], []
    for _ in range(2000):
        a, b = (rng.multinomial(n, [0.5, 0.3, 0.2]) / n for n in (90, 25))
        shares.append(np.abs(a - b).max())
        a, b = (rng.multinomial(n, [0.1] * 10) / n for n in (90, 25))
        divergences.append(jensenshannon(a, b, base=2) ** 2)
    # The 99th percentile is near each threshold, so neither is so wide that it says nothing.
    assert np.mean(np.array(shares) > share) < 0.005
    assert np.mean(np.array(divergences) > divergence) < 0.005
    assert share < 1.6 * np.quantile(shares, 0.99)
    assert divergence < 1.6 * np.quantile(divergences, 0.99)
    assert not schema.feature[0].HasField("skew_comparator")


def test_a_large_difference_of_small_samples_is_still_told():
    found = check_statistics(
        {
            "train": statistics(["cat"] * 90, [5] * 90),
            "test": statistics(["cat"] * 5 + ["dog"] * 20, [5] * 25),
        },
        tfdv.infer_schema(statistics(["cat", "dog"] * 45, [5] * 90)),
        StatisticsSettings(),
    )
    assert TEXT in found["train"].anomaly_info


def test_every_split_is_held_to_the_schema(data, schema):
    strange = statistics(["cat"] * 50 + ["yak"] * 50, [5] * 100)
    settings = StatisticsSettings(**WIDE_OPEN)
    found = check_statistics({"train": data["train"][1], "validation": strange}, schema, settings)
    assert not found["train"].anomaly_info
    assert "yak" in found["validation"].anomaly_info[TEXT].description


def artifact(kind, uri, *splits):
    made = kind()
    made.uri = str(uri)
    if splits:
        made.split_names = "[" + ", ".join(f'"{split}"' for split in splits) + "]"
    return made


def write_statistics(folder, **splits):
    for split, one in splits.items():
        assert isinstance(one, statistics_pb2.DatasetFeatureStatisticsList)
        target = folder / f"Split-{split}" / "FeatureStats.pb"
        target.parent.mkdir(parents=True)
        target.write_bytes(one.SerializeToString())
    return artifact(standard_artifacts.ExampleStatistics, folder, *splits)


@pytest.mark.parametrize("drifted", [False, True])
def test_the_component_writes_what_the_gate_reads(tmp_path, data, schema, drifted):
    train, like = data["train"][1], data["like"][1]
    (tmp_path / "schema").mkdir()
    tfdv.write_schema_text(schema, str(tmp_path / "schema" / "schema.pbtxt"))
    before = data["other"][1] if drifted else like
    out = artifact(standard_artifacts.ExampleAnomalies, tmp_path / "out")
    StatisticsValidator.test_call(
        statistics=write_statistics(tmp_path / "now", train=train, test=like),
        schema=artifact(standard_artifacts.Schema, tmp_path / "schema"),
        anomalies=out,
        settings="{}",
        code_digest="",
        previous=write_statistics(tmp_path / "before", train=before),
    )
    assert out.split_names == '["train", "test"]'
    gate = anomaly_gate(out.uri)
    assert gate.passed != drifted
    assert gate.value == (2 if drifted else 0)
    assert ("train image/" in gate.detail) == drifted


def test_the_newest_statistics_are_the_previous_ones():
    made = [artifact(standard_artifacts.ExampleStatistics, str(i)) for i in range(3)]
    for one, number in zip(made, (4, 9, 7), strict=True):
        one.id = number
    resolve = LatestIfAny().resolve_artifacts
    assert resolve(None, {"statistics": made}) == {"statistics": [made[1]]}
    assert resolve(None, {"statistics": []}) == {"statistics": []}


def test_the_first_run_has_nothing_to_drift_from(tmp_path, data, schema):
    (tmp_path / "schema").mkdir()
    tfdv.write_schema_text(schema, str(tmp_path / "schema" / "schema.pbtxt"))
    out = artifact(standard_artifacts.ExampleAnomalies, tmp_path / "out")
    StatisticsValidator.test_call(
        statistics=write_statistics(tmp_path / "now", train=data["train"][1]),
        schema=artifact(standard_artifacts.Schema, tmp_path / "schema"),
        anomalies=out,
        settings="{}",
        code_digest="",
        previous=None,
    )
    assert anomaly_gate(out.uri).passed
