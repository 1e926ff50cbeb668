"""The registered pipelines: their recipes, gates and smoke sizes, without running any."""

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tensorflow as tf

from components.data_validation.anomaly import make_settings
from components.data_validation.statistics_settings import StatisticsSettings
from components.gates import GateSettings
from tfx_pipeline.config import (
    CompressionPlan,
    PipelineConfig,
    SmokeSize,
    Tuning,
    make_experiments,
    pipelines,
    slice_keys,
)
from tfx_pipeline.request.run import RunRequest, request_from_json, request_to_json
from tfx_pipeline.request.settings import with_settings
from tfx_pipeline.request.smoke import sample_of, smoke_size
from trainers.config import ConfigError
from trainers.config_rules import validate
from trainers.data.features import DatasetError, DatasetInfo
from trainers.registry import models

NAMES = ["cifar10", "finetune", "imagenet"]


@pytest.mark.parametrize("name", pipelines.names())
def test_a_pipeline_is_whole(name, tmp_path):
    shape = pipelines.get(name)()
    sizes = [(shape, ())] + ([smoke_size(shape)] if shape.smoke else [])
    for pipeline, overrides in sizes:
        pipeline, others = with_settings(pipeline, overrides)
        experiments = make_experiments(pipeline, tmp_path, others)
        assert len(experiments) == len(pipeline.experiments)
        for config in experiments.values():
            validate(config)
            models.get(config.model.name)
        make_settings(pipeline.images)
        StatisticsSettings(**pipeline.statistics)
        assert set(pipeline.model_gates) <= set(experiments)
        for model in experiments:
            gates = GateSettings(**pipeline.gates_of(model))
            # Every gate can fail.
            assert gates.min_agreement > 0.5
            assert gates.max_latency_ms <= 500
            assert gates.max_size_bytes <= 120_000_000
        request = RunRequest("r", pipeline, experiments, "data", "root")
        assert request_from_json(request_to_json(request)) == request


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_full_sizes_hold_a_cnn_a_resnet_and_a_vit_to_an_accuracy(name):
    shape = pipelines.get(name)()
    found = make_experiments(shape, Path("data"))
    families = [config.model.name for config in found.values()]
    for family, word in zip(families, ("cnn", "resnet", "vit"), strict=True):
        assert family.startswith(word)
    for model in found:
        assert shape.gates_of(model)["min_top1"] > 0.5
        assert shape.gates_of(model)["min_slice_top1"] > 0


def test_every_field_survives_the_way_to_the_runner():
    other = {
        "name": "p",
        "experiments": ("digits_cnn",),
        "data": "records",
        "slices": ("slice/race",),
        "gates": {"min_top1": 0.5},
        "model_gates": {"digits_cnn": {"min_top1": 0.6}},
        "images": {"min_side": 4},
        "statistics": {"skew_share": 0.3},
        "best": CompressionPlan(("prune",), ("int8",)),
        "others": CompressionPlan((), ("int8",)),
        "benchmark_runs": 7,
        "serving_requests": 3,
        "tune": {"digits_cnn": Tuning({"train.ema": "uniform(0, 1)"}, 2, 1)},
        "smoke": SmokeSize(
            ("a.b=c",),
            {"train": 3},
            2,
            {"max_drop": 0.1},
            {"min_side": 2},
            {"skew_share": 0.2},
            CompressionPlan(("qat",)),
            CompressionPlan(ptq=("int8",)),
            5,
            6,
        ),
    }
    pipeline = PipelineConfig(**other)
    assert set(other) >= {one.name for one in fields(PipelineConfig)}
    for one in fields(SmokeSize):
        assert getattr(pipeline.smoke, one.name) != getattr(SmokeSize(), one.name), one.name
    request = RunRequest("r", pipeline, make_experiments(pipeline, Path("d")), "d", "root")
    assert request_from_json(request_to_json(request)) == request


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_can_replace_no_model_that_serves(name):
    full = pipelines.get(name)()
    shape, overrides = smoke_size(full)
    assert shape.name == f"{name}_smoke"
    models_ = make_experiments(shape, Path("data"), with_settings(shape, overrides)[1])
    assert set(models_) == {f"{one}_smoke" for one in make_experiments(full, Path("data"))}


def test_a_pipeline_without_a_smoke_size_says_which_have_one():
    with pytest.raises(ConfigError, match="cifar10, finetune, imagenet"):
        smoke_size(pipelines.get("smoke")())


def test_a_gate_of_the_command_line_holds_for_every_model():
    shape = pipelines.get("cifar10")()
    assert (
        shape.gates_of("cifar10_resnet20")["min_top1"] > shape.gates_of("cifar10_vit")["min_top1"]
    )
    found, _ = with_settings(shape, ["gates.min_top1=0.9"])
    assert {found.gates_of(model)["min_top1"] for model in shape.experiments} == {0.9}
    assert found.gates_of("cifar10_resnet20")["min_slice_top1"] == 0.45


def _info(**facts):
    return DatasetInfo("d", "classification", ("a", "b"), 1, {}, "f", **facts)


def test_evaluation_is_sliced_by_all_that_the_data_set_declares():
    shape = PipelineConfig("p", ("digits_cnn",))
    own = ("slice/brightness", "slice/contrast", "slice/aspect", "slice/size")
    declared = _info(slices=(*own, "slice/race", "slice/age"))
    assert slice_keys(shape, declared) == (*own, "slice/race", "slice/age")
    wanted = replace(shape, slices=("slice/race",))
    assert set(slice_keys(wanted, declared)) == {*own, "slice/race", "slice/age"}
    with pytest.raises(ConfigError, match=r"slices by 'slice/rase'.*did you mean slice/race"):
        slice_keys(replace(shape, slices=("slice/rase",)), declared)


def test_a_slice_that_the_data_lack_is_an_error_before_anything_runs(request_):
    from rich.console import Console

    from tfx_pipeline.cli.views.run import run

    bad = replace(request_, pipeline=replace(request_.pipeline, slices=("slice/race",)))
    with pytest.raises(ConfigError, match="slice/race"):
        run(bad, Console())
    assert not (Path(bad.root) / "runs").exists()


@pytest.fixture
def labeled(tmp_path, write_dataset):
    """200 training and 40 test records of eight classes, class by class; labels from 1."""

    def records(count, start):
        return [
            {"image/encoded": f"{start + n}".encode(), "image/class/label": 1 + n // (count // 8)}
            for n in range(count)
        ]

    folder = write_dataset(
        tmp_path / "records",
        {"train": records(200, 0), "test": records(40, 1000)},
        classes=tuple("abcdefgh"),
        label_offset=1,
    )
    info = DatasetInfo.load(folder)
    splits = {
        split: replace(one, per_class=dict.fromkeys(info.classes, one.examples // 8))
        for split, one in info.splits.items()
    }
    (folder / "dataset.json").write_text(replace(info, splits=splits).to_json())
    return folder


def _read(folder, split):
    files = sorted(str(one) for one in (folder / f"Split-{split}").iterdir())
    found = []
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        found.append(
            (
                feature["image/class/label"].int64_list.value[0],
                int(feature["image/encoded"].bytes_list.value[0]),
            )
        )
    return found


def test_a_sample_takes_the_first_of_each_class(labeled, tmp_path):
    out = sample_of(labeled, tmp_path / "cache", limits={"train": 20})
    info = DatasetInfo.load(out)
    # 20 images of 8 classes: three each, the first of 25 consecutive ones.
    assert _read(out, "train") == [(1 + at, 25 * at + n) for at in range(8) for n in range(3)]
    assert len(_read(out, "test")) == info.splits["test"].examples == 40
    assert info.splits["train"].examples == 24
    assert info.splits["train"].per_class == dict.fromkeys("abcdefgh", 3)
    before = (out / "dataset.json").stat().st_mtime_ns
    assert sample_of(labeled, tmp_path / "cache", limits={"train": 20}) == out
    assert (out / "dataset.json").stat().st_mtime_ns == before
    few = sample_of(labeled, tmp_path / "cache", limits={"train": 20, "test": 8}, classes=2)
    assert few != out
    assert DatasetInfo.load(few).classes == ("a", "b")
    assert [label for label, _ in _read(few, "train")] == [1] * 10 + [2] * 10
    assert [label for label, _ in _read(few, "test")] == [1] * 4 + [2] * 4
    # Two classes have fewer than 60 images, so all are kept.
    all_ = sample_of(labeled, tmp_path / "cache", limits={"train": 60}, classes=2)
    assert DatasetInfo.load(all_).classes == tuple("abcdefgh")


def test_a_sample_of_a_small_set_is_the_set(labeled, tmp_path):
    assert sample_of(labeled, tmp_path / "cache", limits={"train": 200}) == labeled
    assert not (tmp_path / "cache").exists()


def test_a_sample_follows_its_records(labeled, tmp_path, write_dataset):
    out = sample_of(labeled, tmp_path / "cache", limits={"train": 20})
    (shard,) = (labeled / "Split-train").iterdir()
    data = shard.read_bytes()
    shard.write_bytes(data + data)
    info = DatasetInfo.load(labeled)
    digest = hashlib.sha256(data).hexdigest()
    (labeled / "dataset.json").write_text(replace(info, fingerprint=digest).to_json())
    assert sample_of(labeled, tmp_path / "cache", limits={"train": 20}) != out
    detection = tmp_path / "boxes"
    write_dataset(detection, {"train": [{"image/encoded": b"x"}]}, classes=("a",), task="detection")
    with pytest.raises(DatasetError, match="one class each"):
        sample_of(detection, tmp_path / "cache", limits={"train": 1})
