"""The pusher with the real artifacts of a TFX call, without a TFX run."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tfx.types import standard_artifacts

from components.artifacts import Card, LiveModel
from components.bundle_pusher import BundlePusher, assemble
from components.live import LiveModelError, find_live, write_live
from core import bundle as bundles
from core.lineage import LineageError, read_lineage
from serving.deploy.rollback import rollback
from trainers.evaluation.predictions import Predictions, read_table, write_table

TABLE = Predictions(
    np.array(["x", "y"], object),
    np.array([1, 0], np.int32),
    np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
    {"slice/brightness": np.array(["dark", "bright"], object)},
)


@pytest.fixture
def push(tmp_path, write_bundle):
    """`push(content)` pushes a blessed bundle to `bundles`; returns the record and the artifact.

    `meanwhile()` is called between the look at the store and the push.
    """

    def artifact(kind, folder):
        made = kind()
        made.uri = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return made

    def run(content, *, blessed=True, meanwhile=lambda: None):
        home = tmp_path / "artifacts" / content
        shutil.rmtree(home, ignore_errors=True)
        draft = write_bundle(home / "bundle" / "Format-Serving", content)
        card = artifact(Card, home / "card")
        shutil.copy(draft / "manifest.json", home / "card")
        for name in bundles.CARD_FILES:
            (home / "card" / name).write_text("<p>m</p>")
        blessing = artifact(standard_artifacts.ModelBlessing, home / "blessing")
        if blessed:
            (home / "blessing" / "BLESSED").touch()
        pushed = artifact(standard_artifacts.PushedModel, home / "pushed")
        statistics = artifact(standard_artifacts.ExampleStatistics, home / "statistics")
        (home / "statistics" / "Split-train").mkdir()
        (home / "statistics" / "Split-train" / "FeatureStats.pb").write_text(content)
        predictions = artifact(standard_artifacts.Examples, home / "predictions")
        table = home / "predictions" / "Split-test" / "data_tfrecord-00000-of-00001"
        write_table(table, dict.fromkeys(("saved_model", "none_fp32"), TABLE), ("a", "b"))
        live = artifact(LiveModel, home / "live")
        model = tmp_path / "bundles" / "m"
        write_live(find_live(model, ("a", "b")), model, home / "live")
        meanwhile()
        BundlePusher.EXECUTOR_SPEC.executor_class._FUNCTION(
            bundle=artifact(standard_artifacts.Model, home / "bundle"),
            card=card,
            blessing=blessing,
            live=live,
            statistics=statistics,
            predictions=predictions,
            pushed_model=pushed,
            bundles_dir=str(tmp_path / "bundles"),
            label_offset=1,
            run="r",
            code_digest="",
        )
        return json.loads((home / "pushed" / "pushed.json").read_text()), pushed

    return run


def test_a_blessed_bundle_is_pushed_once(push, tmp_path):
    where = {"path": str(tmp_path / "bundles" / "m" / "1"), "version": 1}
    record, artifact = push("first")
    assert record == {**where, "pushed": True, "withdrawn": False, "way_back": ""}
    assert artifact.get_int_custom_property("pushed") == 1
    record, artifact = push("first")
    assert record == {**where, "pushed": False, "withdrawn": False, "way_back": ""}
    assert artifact.get_int_custom_property("pushed") == 0
    assert (tmp_path / "bundles" / "m" / "1" / "card.html").read_text() == "<p>m</p>"


def test_a_version_that_was_rolled_back_is_recorded_as_withdrawn(push, tmp_path):
    push("first")
    push("second")
    rollback(tmp_path / "bundles" / "m")
    record, artifact = push("second")
    assert (record["version"], record["pushed"], record["withdrawn"]) == (2, False, True)
    assert record["way_back"] == f"sightline rollback m 2 --bundles {tmp_path / 'bundles'}"
    assert artifact.get_int_custom_property("withdrawn") == 1


def test_a_bundle_without_a_blessing_is_not_pushed(push, tmp_path):
    assert push("first", blessed=False)[0] is None
    assert not (tmp_path / "bundles").exists()


def test_the_lineage_has_what_the_next_version_is_compared_with(push, tmp_path):
    push("first")
    model = tmp_path / "bundles" / "m"
    kept = read_lineage(model, 1, bundles.content_digest(model / "1"))
    assert (kept.classes, kept.label_offset, kept.recommended) == (("a", "b"), 1, "none_fp32")
    assert (kept.run, kept.test_examples) == ("r", 2)
    # Identity and class of the two test images, in the order of their text.
    assert kept.test_fingerprint == hashlib.sha256(b"x\0b\ny\0a").hexdigest()
    assert (model / ".lineage/1/statistics.pb").read_text() == "first"
    (column, found), *others = read_table(model / ".lineage/1/predictions.tfrecord").items()
    assert (column, others) == ("none_fp32", [])
    np.testing.assert_array_equal(found.scores, TABLE.scores)
    assert found.ids.tolist() == ["x", "y"]


def test_content_that_was_pushed_without_a_lineage_gets_one(push, tmp_path):
    push("first")
    model = tmp_path / "bundles" / "m"
    shutil.rmtree(model / ".lineage")
    record, _ = push("first")
    assert (record["version"], record["pushed"]) == (1, False)
    assert read_lineage(model, 1, bundles.content_digest(model / "1")).run == "r"


def test_a_withdrawn_version_gets_no_lineage(push, tmp_path):
    push("first")
    push("second")
    model = tmp_path / "bundles" / "m"
    rollback(model)
    shutil.rmtree(model / ".lineage")
    push("second")
    with pytest.raises(LineageError):
        read_lineage(model, 2, bundles.content_digest(model / ".withdrawn-2"))


def test_nothing_is_pushed_if_the_store_changed_after_the_comparison(push, tmp_path, write_bundle):
    push("first")
    model = tmp_path / "bundles" / "m"

    def somebody_else():
        bundles.push(write_bundle(tmp_path / "theirs", "theirs"), model)

    with pytest.raises(LiveModelError, match=r"during this run \(2\).*Run the same command again"):
        push("mine", meanwhile=somebody_else)
    assert bundles.versions(model) == [1, 2]
    assert push("mine")[0]["version"] == 3


def test_a_variant_that_the_gates_left_out_is_not_in_the_bundle(tmp_path, write_bundle):
    from components.model_card.card_writer import final_manifest

    draft = write_bundle(tmp_path / "draft", "weights")
    (draft / bundles.tflite_file("ptq_int8")).write_text("collapsed")
    opened = bundles.open_bundle(draft)
    int8 = bundles.Variant("ptq_int8", "ptq", "int8", size_bytes=1, gzip_bytes=1)
    manifest = replace(
        opened.manifest,
        variants=(*opened.manifest.variants, int8),
        conversion={"none_fp32": {"snr_db": 120.0}, "ptq_int8": {"snr_db": 1.0}},
    )
    gate = {"name": "collapse/ptq_int8", "verdict": "failed", "waived": "the variant is left out"}
    gaps = [
        {"name": "fairness/accuracy", "verdict": "undecided", "waived": why, "slice": key}
        for key, why in (("race", "accepted"), ("age", "accepted, too"))
    ]
    verdict = {
        "variants": {"none_fp32": {"metrics": {}}, "ptq_int8": {"metrics": {}}},
        "verdict": "held",
        "recommended": "none_fp32",
        "dropped": ["ptq_int8"],
        "gates": [{"name": "value/top1", "verdict": "held", "waived": ""}, gate, *gaps],
        "excludable_drop": {"images": 50},
    }
    final = final_manifest(manifest, verdict, {"none_fp32": {}, "ptq_int8": {}})
    card = tmp_path / "card"
    card.mkdir()
    (card / bundles.MANIFEST_FILE).write_text(final.to_json())
    for name in bundles.CARD_FILES:
        (card / name).write_text("<p>m</p>")

    assemble(draft, card, tmp_path / "out")

    shipped = bundles.open_bundle(tmp_path / "out")
    assert sorted(p.name for p in shipped.path.glob("*.tflite")) == [
        "model.tflite",
        "model_none_fp32.tflite",
    ]
    assert [variant.name for variant in shipped.manifest.variants] == ["none_fp32"]
    assert set(shipped.manifest.metrics) == set(shipped.manifest.benchmark) == {"none_fp32"}
    assert shipped.manifest.conversion == {"none_fp32": {"snr_db": 120.0}}
    assert shipped.manifest.gates["not_held"] == {
        "collapse/ptq_int8": "the variant is left out",
        "fairness/accuracy race": "accepted",
        "fairness/accuracy age": "accepted, too",
    }
    assert bundles.content_digest(shipped.path) == shipped.manifest.content_digest
