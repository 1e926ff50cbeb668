import json

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from scipy.spatial.distance import jensenshannon
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.types import standard_artifacts

from components.data_validation.statistics_checks import (
    ClassNames,
    LiveStatistics,
    check_statistics,
    statistics_options,
    with_thresholds,
)
from components.data_validation.statistics_settings import StatisticsSettings
from components.data_validation.statistics_validator import (
    StatisticsValidator,
    statistics_of,
    validate,
)
from components.gates.significance_gate import anomaly_gate
from components.live import Live, PushedVersion

WIDE_OPEN = {"skew_share": 2.0, "skew_divergence": 2.0, "skew_distance": 1.0}
LABEL = "image/class/label"
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
    before = [LiveStatistics("m 1", other)] if side == "drift" else []
    found = check_statistics(splits, schema, StatisticsSettings(), before)["train"]

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
    before = [LiveStatistics("m 1", like)]
    alike = check_statistics({"train": train, "test": like}, schema, StatisticsSettings(), before)
    assert not any(anomalies.anomaly_info for anomalies in alike.values())

    skewed = check_statistics({"train": train, "test": other}, schema, StatisticsSettings())
    assert set(skewed["train"].anomaly_info) == {TEXT, HEIGHT}
    before = [LiveStatistics("m 7", other), LiveStatistics("n 2", like)]
    drifted = check_statistics({"train": train, "test": like}, schema, StatisticsSettings(), before)
    assert set(drifted["train"].anomaly_info) == {TEXT, HEIGHT}
    for info in drifted["train"].anomaly_info.values():
        assert "m 7" in info.description
        assert "n 2" not in info.description


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


def test_a_large_difference_of_small_samples_is_still_reported():
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


def live(folder, model, version, *, statistics=None, classes=("cat", "dog", "eel"), reason=""):
    """What a LiveModel artifact holds of one version."""
    if statistics is not None:
        (folder / str(version)).mkdir(parents=True)
        data = statistics.SerializeToString()
        (folder / str(version) / "statistics.pb").write_bytes(data)
    one = PushedVersion(version, "d", "none_fp32", classes, label_offset=0, no_lineage=reason)
    about = {"served": version, "baseline": version, "versions": {version: one}}
    return Live(model, {}, folder=folder, **about)


def validated(tmp_path, data, schema, lives, **settings):
    """What `validate` writes for the like of the training data: the gate, and `compared.json`."""
    (tmp_path / "schema").mkdir()
    tfdv.write_schema_text(schema, str(tmp_path / "schema" / "schema.pbtxt"))
    out = artifact(standard_artifacts.ExampleAnomalies, tmp_path / "out")
    validate(
        write_statistics(tmp_path / "now", train=data["train"][1], test=data["like"][1]),
        artifact(standard_artifacts.Schema, tmp_path / "schema"),
        out,
        {"statistics": {}, "classes": ["cat", "dog", "eel"], "label_offset": 0, **settings},
        lives,
    )
    assert out.split_names == '["train", "test"]'
    rows = json.loads((tmp_path / "out" / "compared.json").read_text())
    return anomaly_gate(out.uri), rows


@pytest.mark.parametrize("drifted", [False, True])
def test_the_component_writes_what_the_gate_reads(tmp_path, data, schema, drifted):
    before = data["other"][1] if drifted else data["like"][1]
    lives = [live(tmp_path / "live", "m", 3, statistics=before)]
    gate, rows = validated(tmp_path, data, schema, lives)
    assert gate.passed != drifted
    assert gate.value == (2 if drifted else 0)
    assert ("train image/" in gate.detail) == drifted
    assert ("m 3" in gate.detail) == drifted
    assert rows == [{"model": "m", "version": 3, "compared": True, "reason": ""}]


def test_one_of_several_live_models_that_differs_is_enough(tmp_path, data, schema):
    lives = [
        live(tmp_path / "1", "same", 1, statistics=data["like"][1]),
        live(tmp_path / "2", "other", 4, statistics=data["other"][1]),
        Live("first", {}),
    ]
    gate, rows = validated(tmp_path, data, schema, lives)
    assert not gate.passed
    assert "other 4" in gate.detail
    assert "same 1" not in gate.detail
    assert [row["compared"] for row in rows] == [True, True, False]
    assert rows[2]["reason"] == "no version is live"


def test_a_live_model_without_statistics_is_reported_as_not_compared(tmp_path, data, schema):
    lives = [live(tmp_path / "live", "m", 3, reason="no lineage was kept at its push")]
    gate, rows = validated(tmp_path, data, schema, lives)
    assert gate.passed
    assert rows == [
        {
            **{"model": "m", "version": 3, "compared": False},
            "reason": "no lineage was kept at its push",
        }
    ]


def test_models_of_the_same_data_are_compared_with_once(tmp_path, data):
    lives = [live(tmp_path / n, n, 1, statistics=data["like"][1]) for n in ("m", "n")]
    before, rows = statistics_of(lives, data["train"][1])
    assert [one.name for one in before] == ["m 1"]
    assert all(row["compared"] for row in rows)


def test_a_feature_that_only_one_data_set_has_is_reported_and_no_drift(tmp_path, data, schema):
    older = statistics_pb2.DatasetFeatureStatisticsList()
    older.CopyFrom(data["like"][1])
    (text,) = [f for f in older.datasets[0].features if f.path.step[0] == TEXT]
    del older.datasets[0].features[:]
    older.datasets[0].features.append(text)
    lives = [live(tmp_path / "live", "m", 3, statistics=older)]
    gate, rows = validated(tmp_path, data, schema, lives)
    assert gate.passed
    assert rows[0]["compared"]
    assert rows[0]["reason"] == "only one of the two data sets has image/height"


def test_the_node_has_an_input_for_each_live_model():
    from tfx import types
    from tfx.types.standard_artifacts import ExampleStatistics, Schema

    from components.artifacts import LiveModel

    node = StatisticsValidator(
        statistics=types.Channel(type=ExampleStatistics),
        schema=types.Channel(type=Schema),
        lives=[types.Channel(type=LiveModel) for _ in range(12)],
        settings="{}",
        code_digest="",
    )
    # Sorted by name they are in their order, twelfth included.
    names = [name for name in node.inputs if name.startswith("live_")]
    assert sorted(names) == [f"live_{i:03d}" for i in range(12)]


def labeled(labels, names):
    """TFDV's statistics of labels and class names, as the pipeline's StatisticsGen makes them."""
    import pandas as pd

    labels = np.asarray(labels, np.int64)
    frame = pd.DataFrame({LABEL: labels, TEXT: [names[i] for i in labels]})
    return tfdv.generate_statistics_from_dataframe(frame, stats_options=statistics_options())


@pytest.mark.parametrize("columns", [{LABEL, TEXT}, {LABEL}])
@pytest.mark.parametrize(("classes", "each"), [(10, 110), (100, 200), (1000, 40)])
def test_every_other_class_gone_is_found_and_named(classes, each, columns):
    names = [f"c{i:04d}" for i in range(classes)]
    whole = np.repeat(np.arange(classes), each)
    before = labeled(whole, names)
    for keep in (whole % 2 == 0, (whole % 2 == 0) | (np.arange(len(whole)) % 10 == 0)):
        now = labeled(whole[keep], names)
        for statistics in (before, now):
            kept = [f for f in statistics.datasets[0].features if f.path.step[0] in columns]
            del statistics.datasets[0].features[:]
            statistics.datasets[0].features.extend(kept)
        about = ClassNames(tuple(names), 0)
        found = check_statistics(
            {"train": now, "test": before},
            tfdv.infer_schema(now),
            StatisticsSettings(),
            [LiveStatistics("m 1", before, about)],
            about,
        )["train"]
        assert set(found.anomaly_info) == columns
        for info in found.anomaly_info.values():
            assert "train -> test: distance" in info.description
            assert "training images of m 1 -> now: distance" in info.description
            gone = [name for name in names[1::2] if f"{name} " in info.description]
            assert gone, info.description


def test_labels_are_compared_by_the_names_of_their_classes():
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "eel"]
    before = labeled(rng.choice(3, 3000, p=[0.6, 0.3, 0.1]), names)
    order = [2, 0, 1]  # eel, cat, dog
    now = labeled(rng.choice(3, 3000, p=[0.1, 0.6, 0.3]), [names[i] for i in order])
    schema = tfdv.infer_schema(now)
    renumbered = ClassNames(tuple(names[i] for i in order), 0)

    def drift(its):
        before_ = [LiveStatistics("m 1", before, its)]
        found = check_statistics({"train": now}, schema, StatisticsSettings(), before_, renumbered)
        return set(found["train"].anomaly_info)

    assert drift(ClassNames(tuple(names), 0)) == set()
    # With the wrong names, the same numbers are a drift.
    assert drift(renumbered) == {LABEL}


def test_new_classes_are_no_drift_of_the_others():
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "eel", "fox"]
    before = labeled(rng.choice(3, 3000, p=[0.5, 0.3, 0.2]), names)
    now = labeled(rng.choice(4, 4000, p=[0.25, 0.15, 0.1, 0.5]), names)
    about = LiveStatistics("m 1", before, ClassNames(tuple(names[:3]), 0))
    all_names, settings = ClassNames(tuple(names), 0), StatisticsSettings()
    found = check_statistics({"train": now}, tfdv.infer_schema(now), settings, [about], all_names)
    assert not found["train"].anomaly_info
    # The classes that both have did change.
    now = labeled(rng.choice(4, 4000, p=[0.1, 0.15, 0.25, 0.5]), names)
    found = check_statistics({"train": now}, tfdv.infer_schema(now), settings, [about], all_names)
    assert set(found["train"].anomaly_info) == {LABEL, TEXT}
