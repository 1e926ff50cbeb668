"""From a trained model to a bundle: whole or not at all."""

import datetime
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from core import bundle
from serving.engines.engine import open_engine
from trainers.bundles import build
from trainers.bundles.build import build_bundle
from trainers.compression import Method
from trainers.compression.convert import ConversionError, ConversionResult
from trainers.config import config_hash, from_dict, override
from trainers.data.pipeline import eval_batches
from trainers.keras import keras
from trainers.registry import UnknownNameError, compressors
from trainers.training.trained import Trained

pytestmark = pytest.mark.onednn

VARIANTS = ("none_fp32", "ptq_dynamic", "ptq_int8")


def test_the_manifest_on_disk_is_the_one_returned(built):
    opened = bundle.open_bundle(built[0])
    assert opened.manifest == built[1]
    assert bundle.content_digest(built[0]) == built[1].content_digest


def test_the_manifest_says_where_the_model_comes_from(built, trained):
    manifest = built[1]
    assert (manifest.name, manifest.task, manifest.num_classes) == ("tiny", "classification", 10)
    assert manifest.input == {
        "height": 16,
        "width": 16,
        "crop_fraction": 0.875,
        "resize": "antialias",
        "fit": "crop",
        "exif": "as_stored",
    }
    assert manifest.top_k == 3
    assert from_dict(manifest.config) == trained.config
    assert manifest.config_hash == config_hash(trained.config)
    assert manifest.data_fingerprint == trained.info.fingerprint
    assert manifest.stack["tensorflow"]
    created = datetime.datetime.fromisoformat(manifest.created)
    assert created.utcoffset() == datetime.timedelta(0)


def test_every_variant_is_measured_as_it_is(built):
    folder, manifest = built
    assert tuple(one.name for one in manifest.variants) == VARIANTS
    for one in manifest.variants:
        assert f"{one.method}_{one.dtype}" == one.name
        assert one.size_bytes == (folder / one.file).stat().st_size
        assert one.gzip_bytes == bundle.gzip_size(folder / one.file)
        assert one.sparsity == pytest.approx(0, abs=1e-3)
    recommended = folder / bundle.tflite_file(manifest.recommended)
    assert (folder / "model.tflite").read_bytes() == recommended.read_bytes()
    sizes = {one.name: one.size_bytes for one in manifest.variants}
    assert sizes["ptq_dynamic"] < sizes["none_fp32"]


def test_the_manifest_has_the_rewrites_of_every_file(built):
    found = built[1].conversion
    assert tuple(found) == VARIANTS
    for one in found.values():
        assert one["partitions"] >= 1
        assert one["snr_db"] > 10
    metadata = {"name": "metadata", "applied": True, "labels": 10}
    assert found["none_fp32"]["rewrites"] == found["ptq_dynamic"]["rewrites"] == [metadata]
    done = {one["name"]: one for one in found["ptq_int8"]["rewrites"]}
    assert list(done) == ["normalize_in_float", "delegate_islands", "correct_biases", "metadata"]
    assert done["normalize_in_float"] == {"name": "normalize_in_float", "applied": True}
    assert done["correct_biases"]["applied"]
    assert not done["delegate_islands"]["applied"]
    assert "refuses no int8" in done["delegate_islands"]["why"]


@pytest.mark.parametrize(("variant", "near"), list(zip(VARIANTS, (1e-4, 0.05, 0.1), strict=True)))
def test_every_variant_answers_like_the_model(built, trained, variant, near):
    batch = next(iter(eval_batches(trained.config, trained.info, "validation", batch=16)))
    expected = softmax(trained.model(batch.images, training=False).numpy(), axis=1)
    with open_engine(bundle.open_bundle(built[0]), variant) as engine:
        found = engine.predict_images(batch.images.numpy())
    np.testing.assert_allclose(found, expected, atol=near)


def test_a_failed_conversion_leaves_everything_as_it_was(trained, tmp_path, monkeypatch):
    def second_fails(jobs):
        return [ConversionResult(job, error="boom" if i == 1 else "") for i, job in enumerate(jobs)]

    monkeypatch.setattr(build, "convert_all", second_fails)
    steps = []
    with pytest.raises(ConversionError, match="ptq_dynamic: boom"):
        build_bundle(trained, tmp_path / "new" / "draft", announce=steps.append)
    assert steps == ["export", "convert"]
    assert list((tmp_path / "new").iterdir()) == []


def test_a_failed_build_keeps_the_old_draft(trained, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(build, "write_saved_model", fails)
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "old").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        build_bundle(trained, tmp_path / "draft")
    assert [path.name for path in tmp_path.rglob("*")] == ["draft", "old"]


def test_an_unknown_method_is_refused_before_any_work(trained, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown compression method 'prun'.*prune"):
        build_bundle(trained, tmp_path / "x" / "draft", methods=("prun",))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_rewrite_is_refused_before_any_work(trained, tmp_path, monkeypatch):
    listed = replace(trained, config=override(trained.config, ["compress.rewrites=metadatax"]))
    with pytest.raises(
        UnknownNameError, match=r"unknown compression rewrite 'metadatax'.*metadata"
    ):
        build_bundle(listed, tmp_path / "x" / "draft", announce=pytest.fail)
    compressors.names()
    monkeypatch.setattr(compressors, "_entries", dict(compressors._entries))
    monkeypatch.setattr(compressors, "_origins", dict(compressors._origins))
    compressors.register("mine")(Method("mine", run=lambda model, *_: model, rewrites=("palete8",)))
    with pytest.raises(UnknownNameError, match=r"unknown compression rewrite 'palete8'.*palette8"):
        build_bundle(trained, tmp_path / "x" / "draft", methods=["mine"], announce=pytest.fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["compress.rate_fraction=0.5", "compress.learning_rate=0.01"])
def test_methods_get_a_rate_that_follows_the_peak(trained, change):
    given = []

    def run(model, fine_tune, settings):
        given.append(settings.learning_rate)
        return model

    method = Method("any", run=run)
    changes = [change, "optim.learning_rate=0.04", "optim.reference_batch=64"]
    changed = replace(trained, config=override(trained.config, changes))
    build._compressed(changed, [method], None, lambda step: None)
    # The fixture trains with batches of 32.
    assert given == pytest.approx([0.5 * 0.04 / 2 if "fraction" in change else 0.01])


def test_methods_come_after_what_they_start_from():
    assert build._in_order(["pqat", "qat", "prune"]) == ["prune", "pqat", "qat"]
    for name in compressors.names():
        assert build._in_order([name])[-1] == name


def test_asking_for_a_plain_variant_by_its_method_adds_nothing_twice(
    trained, tmp_path, monkeypatch
):
    planned = []

    def remember(jobs):
        planned.extend(job.name for job in jobs)
        return [ConversionResult(job, error="enough") for job in jobs]

    monkeypatch.setattr(build, "convert_all", remember)
    monkeypatch.setattr(build, "write_saved_model", lambda *args, **kwargs: None)
    with pytest.raises(ConversionError):
        build_bundle(trained, tmp_path / "draft", methods=("none", "ptq"), ptq=("int8",))
    assert sorted(planned) == ["none_fp32", "ptq_dynamic", "ptq_int8"]


@pytest.fixture
def registered(monkeypatch):
    """Registers a method for one test."""
    compressors.names()
    monkeypatch.setattr(compressors, "_entries", dict(compressors._entries))
    monkeypatch.setattr(compressors, "_origins", dict(compressors._origins))
    return lambda name, method: compressors.register(name)(method)


def test_only_methods_that_need_it_are_calibrated(trained, tmp_path, monkeypatch, registered):
    planned = {}

    def remember(jobs):
        planned.update({job.name: job.calibration is not None for job in jobs})
        return [ConversionResult(job, error="enough") for job in jobs]

    def same(model, fine_tune, settings):
        return model

    monkeypatch.setattr(build, "convert_all", remember)
    monkeypatch.setattr(build, "write_saved_model", lambda *args, **kwargs: None)
    registered(
        "with_it",
        Method("with_it", dtypes=("dynamic", "int8"), run=same, needs_calibration=True),
    )
    registered("without", Method("without", run=same))
    with pytest.raises(ConversionError):
        build_bundle(trained, tmp_path / "draft", methods=("with_it", "without"), ptq=("int8",))
    assert planned == {
        "none_fp32": False,
        "ptq_int8": True,
        "with_it_dynamic": False,
        "with_it_int8": True,
        "without_int8": False,
    }


def test_a_method_that_changes_weights_without_saying_so_is_refused(trained, tmp_path, registered):
    def doubled(model, fine_tune, settings):
        copy = keras.models.clone_model(model)
        copy.set_weights([2 * one for one in model.get_weights()])
        return copy

    method = Method("doubled", changes_weights=False, needs_calibration=True, run=doubled)
    registered("doubled", method)
    with pytest.raises(ValueError, match=r"'doubled' changed weights.*changes_weights=True"):
        build_bundle(trained, tmp_path / "draft", methods=("doubled",))
    assert list(tmp_path.iterdir()) == []


def test_a_method_under_another_name_is_refused(trained, tmp_path, registered):
    registered("one", Method("other", changes_weights=False))
    with pytest.raises(ValueError, match=r"as 'one' \(.*test_build\.py.* calls itself 'other'"):
        build_bundle(trained, tmp_path / "draft", methods=("one",))


def test_methods_that_start_from_each_other_are_refused(trained, tmp_path, registered):
    registered("one", Method("one", start="two", changes_weights=False))
    registered("two", Method("two", start="one", changes_weights=False))
    with pytest.raises(ValueError, match="start from each other: one -> two -> one"):
        build_bundle(trained, tmp_path / "draft", methods=("one",))


@pytest.mark.slow
def test_every_method_makes_its_variants(trained, tmp_path):
    short = override(trained.config, ["compress.prune_epochs=4", "compress.qat_epochs=1"])
    short = Trained(trained.model, short, trained.info, trained.history, trained.best_epoch)
    methods = [name for name in compressors.names() if name not in ("none", "ptq")]
    steps = []
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "old").write_text("old")
    before = [value.copy() for value in trained.model.get_weights()]
    manifest = build_bundle(short, tmp_path / "draft", methods=methods, announce=steps.append)
    assert steps[0] == "export"
    assert steps[-1] == "convert"
    assert set(methods) == set(steps[1:-1])
    wanted = {"none_fp32", "ptq_dynamic"}
    wanted |= {f"{name}_{dtype}" for name in methods for dtype in compressors.get(name).dtypes}
    assert {one.name for one in manifest.variants} == wanted
    sparsities = {one.name: one.sparsity for one in manifest.variants}
    assert sparsities["prune_fp32"] == pytest.approx(0.8, abs=0.01)
    assert sparsities["qat_int8"] < 0.1
    opened = bundle.open_bundle(tmp_path / "draft")
    assert not (tmp_path / "draft" / "old").exists()
    images = np.zeros((1, 16, 16, 3), np.uint8)
    for name in wanted:
        with open_engine(opened, name) as engine:
            assert engine.predict_images(images).sum() == pytest.approx(1, abs=0.02)
    for value, old in zip(trained.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
