"""The pusher as TFX calls it: real artifacts, no TFX run around it."""

import json
import shutil
from dataclasses import replace

import pytest
from tfx.types import standard_artifacts

from components.artifacts import Card
from components.bundle_pusher import BundlePusher, assemble
from serving.deploy.rollback import rollback


@pytest.fixture
def push(tmp_path, write_bundle):
    """`push(content)` sends a blessed bundle to `bundles`; what is recorded, and the artifact."""

    def artifact(kind, folder):
        made = kind()
        made.uri = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return made

    def run(content, *, blessed=True):
        home = tmp_path / "artifacts" / content
        shutil.rmtree(home, ignore_errors=True)
        draft = write_bundle(home / "bundle" / "Format-Serving", content)
        card = artifact(Card, home / "card")
        shutil.copy(draft / "manifest.json", home / "card")
        (home / "card" / "card.html").write_text("<p>m</p>")
        blessing = artifact(standard_artifacts.ModelBlessing, home / "blessing")
        if blessed:
            (home / "blessing" / "BLESSED").touch()
        pushed = artifact(standard_artifacts.PushedModel, home / "pushed")
        BundlePusher.EXECUTOR_SPEC.executor_class._FUNCTION(
            bundle=artifact(standard_artifacts.Model, home / "bundle"),
            card=card,
            blessing=blessing,
            pushed_model=pushed,
            bundles_dir=str(tmp_path / "bundles"),
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


def test_what_a_rollback_withdrew_is_recorded_as_such(push, tmp_path):
    push("first")
    push("second")
    rollback(tmp_path / "bundles" / "m")
    record, artifact = push("second")
    assert (record["version"], record["pushed"], record["withdrawn"]) == (2, False, True)
    assert record["way_back"] == f"sightline rollback m 2 --bundles {tmp_path / 'bundles'}"
    assert artifact.get_int_custom_property("withdrawn") == 1


def test_what_is_not_blessed_is_not_pushed(push, tmp_path):
    assert push("first", blessed=False)[0] is None
    assert not (tmp_path / "bundles").exists()


def test_a_variant_that_the_gates_left_out_is_not_in_the_bundle(tmp_path, write_bundle):
    from components.card_writer import final_manifest
    from serving import bundle as bundles

    draft = write_bundle(tmp_path / "draft", "weights")
    (draft / bundles.tflite_file("ptq_int8")).write_text("collapsed")
    opened = bundles.open_bundle(draft)
    int8 = bundles.Variant("ptq_int8", "ptq", "int8", size_bytes=1, gzip_bytes=1)
    manifest = replace(opened.manifest, variants=(*opened.manifest.variants, int8))
    gate = {"name": "collapse/ptq_int8", "verdict": "failed", "waived": "the variant is left out"}
    verdict = {
        "variants": {"none_fp32": {"metrics": {}}, "ptq_int8": {"metrics": {}}},
        "verdict": "held",
        "recommended": "none_fp32",
        "dropped": ["ptq_int8"],
        "gates": [{"name": "value/top1", "verdict": "held", "waived": ""}, gate],
        "excludable_drop": {"images": 50},
    }
    final = final_manifest(manifest, verdict, {"none_fp32": {}, "ptq_int8": {}})
    card = tmp_path / "card"
    card.mkdir()
    (card / bundles.MANIFEST_FILE).write_text(final.to_json())
    (card / bundles.CARD_FILE).write_text("<p>m</p>")

    assemble(draft, card, tmp_path / "out")

    shipped = bundles.open_bundle(tmp_path / "out")
    assert sorted(p.name for p in shipped.path.glob("*.tflite")) == [
        "model.tflite",
        "model_none_fp32.tflite",
    ]
    assert [variant.name for variant in shipped.manifest.variants] == ["none_fp32"]
    assert set(shipped.manifest.metrics) == set(shipped.manifest.benchmark) == {"none_fp32"}
    assert shipped.manifest.gates["not_held"] == {"collapse/ptq_int8": "the variant is left out"}
    assert bundles.content_digest(shipped.path) == shipped.manifest.content_digest
