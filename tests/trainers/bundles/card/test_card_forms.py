"""`model_card.json` against the toolkit's own schema, and `README.md` against a YAML parser."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from core.bundle import CARD_FILES, BundleError, Manifest, Variant, content_digest, open_bundle
from trainers.bundles.card import write_cards
from trainers.bundles.card.card_html import render_card
from trainers.bundles.card.card_json import toolkit_card
from trainers.bundles.card.card_markdown import markdown_card
from trainers.bundles.push import export
from trainers.evaluation.fairness import LIMITS
from trainers.evaluation.group_figures import group_figures
from trainers.evaluation.predictions import Predictions

SCHEMA = json.loads(
    (Path(__file__).parent / "model_card_toolkit" / "model_card.schema.json").read_text()
)
MANIFEST = Manifest(
    name="faces_cnn",
    task="classification",
    num_classes=2,
    input={"height": 16, "width": 16, "crop_fraction": 1.0, "resize": "antialias"},
    top_k=2,
    variants=(Variant("none_fp32", "none", "fp32", 158_400, 143_900),),
    recommended="none_fp32",
    config={"name": "faces_cnn", "model": {"name": "cnn"}, "data": {"dir": "/data/of/me"}},
    config_hash="0123456789abcdef",
    data_fingerprint="9f2c41aa",
    data={"name": "faces", "source": "500 lines", "splits": {"test": {"examples": 404}}},
    weights_origin={"package": "weights", "license": "Apache-2.0"},
    metrics={
        "saved_model": {"top1": [0.9, 0.87, 0.93]},
        "none_fp32": {"top1": [0.9, 0.87, 0.93], "cross_entropy": 0.25, "top5": [1.0, 0.9, 1.0]},
    },
    benchmark={"none_fp32": {"latency_ms_p50": 0.05}},
    gates={"verdict": "held", "not_held": {}},
    created="2026-11-22T16:03:30+00:00",
)
BARE = Manifest("m", "classification", 3, {}, 3, (), "none_fp32")


def about():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 404).astype(np.int32)
    wrong = random.random(404) < 0.1
    scores = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - labels, labels)]
    race = np.array(["A|b", "<i>B</i>"] * 200 + ["few"] * 4, dtype=object)
    ids = np.arange(404).astype(str).astype(object)
    found = Predictions(ids, labels, scores, {"slice/race": race})
    figures = group_figures(found, "race", 1, ("Female", "Male"))
    gate = {
        "name": "fairness/equal_opportunity",
        "slice": "race",
        "verdict": "not decided",
        "passed": False,
        "threshold": "a gap above 0.1 excluded",
        "detail": "about 900 images would decide it",
    }
    return {
        "architecture": "cnn",
        "slices": [{"key": "slice/race", "value": "few", "examples": 4, "top1": [1.0, 0.4, 1.0]}],
        "fairness": json.loads(json.dumps([figures.to_dict()])),
        "gates": [gate],
    }


@pytest.fixture(scope="module")
def model():
    return about()


def header(text):
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(found.group(1))


@pytest.mark.parametrize("manifest", [MANIFEST, BARE], ids=["run", "bare"])
def test_the_json_card_follows_the_schema(manifest, model):
    for facts in (model, {}):
        card = json.loads(json.dumps(toolkit_card(manifest, facts)))
        validator = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
        assert [error.message for error in validator.iter_errors(card)] == []
        assert card["schema_version"] == "0.0.2"
        _only_known_keys(card, SCHEMA)


def _only_known_keys(value, schema):
    """The schema forbids other keys only at the top; a misspelled key would be lost in silence."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict):
        assert set(value) <= set(schema["properties"])
        for key, one in value.items():
            _only_known_keys(one, schema["properties"][key])
    elif isinstance(value, list):
        for one in value:
            _only_known_keys(one, schema["items"])


def test_the_json_card_has_the_figures(model):
    card = toolkit_card(MANIFEST, model)
    metrics = card["quantitative_analysis"]["performance_metrics"]
    found = {(one["type"], one.get("slice", "")): one for one in metrics}
    assert found["top1", ""]["value"] == "0.9"
    assert found["top1", ""]["confidence_interval"] == {
        "lower_bound": "0.87",
        "upper_bound": "0.93",
    }
    assert found["cross_entropy", ""]["value"] == "0.25"
    assert "confidence_interval" not in found["cross_entropy", ""]
    assert ("top1 (saved_model)", "") in found
    assert ("top5", "") not in found, "top-5 says nothing about two classes"
    assert found["top1", "race=few"]["value"] == "1.0"
    rate = model["fairness"][0]["groups"][0]["rates"]["true_positive_rate"]
    group = found[
        "true_positive_rate",
        f"race={model['fairness'][0]['groups'][0]['name']}, positive class Male",
    ]
    assert group["value"] == repr(rate[0])
    assert ("gap of equalized_odds", "race, positive class Male") in found
    (data,) = card["model_parameters"]["data"]
    assert data["sensitive"] == {"sensitive_data": ["race"]}
    assert "test 404 images" in data["description"]
    assert card["model_details"]["version"] == {"name": "0123456789ab", "date": "2026-11-22"}
    risks = card["considerations"]["ethical_considerations"]
    assert [one["name"] for one in risks] == list(LIMITS)


def test_what_was_not_measured_is_stated_in_each_form():
    card = toolkit_card(BARE, {})
    assert card["quantitative_analysis"]["performance_metrics"] == []
    shown = (json.dumps(card), markdown_card(BARE, {}).replace("\\", ""), render_card(BARE, {}))
    for text in shown:
        for words in (
            "Accuracy and calibration: not measured",
            "Latency: not measured",
            "Differences between groups of people or of images: not recorded",
            "Quality gates: not checked",
            "license of this model is not stated",
        ):
            assert words in text, words
    measured = toolkit_card(MANIFEST, about())["considerations"]["limitations"]
    assert not any("not measured" in one["description"] for one in measured)


def test_commands_are_code_in_markdown():
    assert "`gates.fairness` judges them" in markdown_card(BARE, {})


def test_the_header_is_what_hugging_face_reads(model):
    found = header(markdown_card(MANIFEST, model))
    assert found["pipeline_tag"] == "image-classification"
    assert found["license"] == "unknown"
    assert found["datasets"] == ["faces"]
    assert found["metrics"] == ["accuracy", "cross_entropy"]
    (entry,) = found["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "faces_cnn"
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "faces", "type": "faces", "split": "test"}
    assert result["metrics"][0] == {
        "type": "accuracy",
        "value": 0.9,
        "name": "top-1, 95 % interval 0.8700 to 0.9300",
    }


def test_a_header_without_figures_has_no_results():
    found = header(markdown_card(BARE, {}))
    assert {"model-index", "metrics", "datasets"}.isdisjoint(found)
    named = replace(
        BARE, data={"name": "my faces: 2026 #1 'x'"}, metrics={"saved_model": {"top1": 1}}
    )
    found = header(markdown_card(named, {}))
    assert "datasets" not in found
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == "my faces: 2026 #1 'x'"


def test_groups_are_shown_with_their_limits(model):
    page, text = render_card(MANIFEST, model), markdown_card(MANIFEST, model)
    assert "<i>B" not in page
    assert "&lt;i&gt;B" in page
    assert "<i>" not in text
    assert "| A\\|b | 200 |" in text
    for shown in (page, text.replace("\\", "")):
        assert "fewer than 30 images: shown, not compared; with 4 images" in shown
        assert "fairness/equal_opportunity: not decided (a gap above 0.1 excluded)" in shown
        assert "about 900 images would decide it" in shown
        assert "What these figures cannot show" in shown
        assert "labels are taken as true" in shown
    assert "No groups were compared" in render_card(MANIFEST, {})
    assert "No groups were compared" in markdown_card(MANIFEST, {})


def test_no_card_has_a_folder_of_the_configuration(model):
    assert "/data/of" not in markdown_card(MANIFEST, model)
    assert "/data/of" not in json.dumps(toolkit_card(MANIFEST, model))


def test_export_writes_the_cards_once(write_bundle, tmp_path):
    draft = write_bundle(tmp_path / "draft", "content")
    first = export(draft, tmp_path / "bundles")
    assert first.pushed
    assert all((first.path / name).is_file() for name in CARD_FILES)
    assert not any((draft / name).exists() for name in CARD_FILES)
    again = export(draft, tmp_path / "bundles")
    assert (again.pushed, again.path) == (False, first.path)
    assert content_digest(draft) == content_digest(first.path)
    jsonschema.validate(json.loads((first.path / "model_card.json").read_text()), SCHEMA)
    assert "not measured" in (first.path / "README.md").read_text()


def test_export_keeps_the_card_of_a_run(write_bundle, tmp_path):
    draft = write_bundle(tmp_path / "draft", "content")
    (draft / "card.html").write_text("<p>of a run</p>")
    pushed = export(draft, tmp_path / "bundles").path
    assert (pushed / "card.html").read_text() == "<p>of a run</p>"
    assert (pushed / "README.md").is_file()
    # Another recommended variant makes it wrong.
    manifest = open_bundle(draft).manifest
    other = Variant("ptq_int8", "ptq", "int8", 1, 1)
    manifest = replace(manifest, variants=(*manifest.variants, other), content_digest="")
    (draft / "manifest.json").write_text(manifest.to_json())
    (draft / "model_ptq_int8.tflite").write_text("int8")
    changed = export(draft, tmp_path / "bundles", variant="ptq_int8").path
    assert "of a run" not in (changed / "card.html").read_text()
    assert "ptq_int8" in (changed / "card.html").read_text()
    with pytest.raises(BundleError, match="no variant 'nope'"):
        export(draft, tmp_path / "bundles", variant="nope")


def test_cards_are_written_again_unless_kept(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    write_cards(tmp_path, MANIFEST, {}, keep=True)
    assert (tmp_path / "README.md").read_text() == "mine"
    write_cards(tmp_path, MANIFEST, {})
    assert "faces\\_cnn" in (tmp_path / "README.md").read_text()
