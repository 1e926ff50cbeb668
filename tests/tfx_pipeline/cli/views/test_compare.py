"""`sightline compare` on real predictions, bundles, trained folders and runs."""

import csv
import json
import shutil

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from core.bundle import SAVED_MODEL
from tfx_pipeline.cli import app
from tfx_pipeline.cli.views.compare import compare_seeds
from tfx_pipeline.cli.views.evaluate import evaluate_model
from tfx_pipeline.cli.views.subjects import Subject, load
from trainers.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    to_dict,
)
from trainers.evaluation.comparison import ComparisonError, ModelPredictions
from trainers.evaluation.predictions import Predictions, write_table

CLASSES = ("cat", "dog", "eel")


def predictions(seed, accuracy, count=120):
    """Random predictions, on images and slices that are the same for every seed."""
    labels = (np.arange(count) % 3).astype(np.int32)
    right = np.random.default_rng(seed).random(count) < accuracy
    scores = np.full((count, 3), 0.1, np.float32)
    scores[np.arange(count), np.where(right, labels, (labels + 1) % 3)] = 0.8
    ids = np.array([f"{i:064d}" for i in range(count)], dtype=object)
    light = np.array(["dark", "bright"], dtype=object)[(np.arange(count) // 3) % 2]
    return Predictions(ids, labels, scores, {"slice/brightness": light})


@pytest.fixture
def run(tmp_path):
    """A run's folder with two models of two variants each, as its summary lists them."""
    folder = tmp_path / "runs" / "pets"
    models = []
    for seed, name in enumerate(("cnn", "vit")):
        table = folder / "artifacts" / name / "predictions.tfrecord"
        columns = {
            SAVED_MODEL: predictions(seed, 0.9 - 0.3 * seed),
            "ptq_int8": predictions(seed + 10, 0.5),
        }
        write_table(table, columns, CLASSES)
        config = dict(subject(name, seed, 0.5).config)
        models.append({"name": name, "predictions": str(table), "config": config})
    report = folder / "reports" / "latest"
    report.mkdir(parents=True)
    summary = {"data": {"classes": CLASSES}, "models": models}
    (report / "summary.json").write_text(json.dumps(summary))
    return folder


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_models_of_a_run_with_all_outputs(run, tmp_path):
    out, images = tmp_path / "out" / "found.json", tmp_path / "out" / "changed.csv"
    result = compare(run, "--out", out, "--images", images)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["split"] == "test"
    (one,) = found["comparisons"]
    first, second = predictions(0, 0.9), predictions(1, 0.6)
    ours = second.scores.argmax(1) == second.labels
    theirs = first.scores.argmax(1) == first.labels
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert (one["reference"], one["candidate"]) == ("cnn", "vit")
    assert one["paired"] == {"gained": gained, "lost": lost, "total": 120}
    assert one["top1"][0] == pytest.approx(ours.mean() - theirs.mean())
    assert one["top1"][1] < one["top1"][0] < one["top1"][2]
    assert one["p_value"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert {s["value"] for s in one["slices"]} == {"dark", "bright"}
    assert "vit is worse than cnn by" in result.output
    rows = rows_of(images)
    assert len(rows) == gained + lost
    assert [row["change"] for row in rows] == ["lost"] * lost + ["gained"] * gained
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert all(
        (row["candidate_class"] == row["label"]) == (row["change"] == "gained") for row in rows
    )


def test_a_file_of_another_class_order_is_paired_by_name(run, tmp_path):
    found = predictions(0, 0.9)
    order = [2, 0, 1]
    turned = Predictions(
        found.ids,
        np.argsort(order)[found.labels].astype(np.int32),
        found.scores[:, order],
        found.slices,
    )
    table = tmp_path / "turned" / "predictions.tfrecord"
    write_table(table, {SAVED_MODEL: turned}, tuple(CLASSES[i] for i in order))
    out = tmp_path / "out.json"
    result = compare(f"{run}:cnn", table, "--out", out)
    assert result.exit_code == 0, result.output
    (one,) = json.loads(out.read_text())["comparisons"]
    assert (one["differing"], one["paired"]["gained"], one["paired"]["lost"]) == (0, 0, 0)


def test_one_model_of_a_run_against_a_column_of_a_file(run):
    table = run / "artifacts" / "vit" / "predictions.tfrecord"
    result = compare(f"{run}:cnn", f"{table}:ptq_int8")
    assert result.exit_code == 0, result.output
    assert "reference: cnn, top-1" in result.output
    assert "vit/predictions.tfrecord:ptq_int8" in result.output


def test_a_bundle_and_a_trained_folder_are_evaluated_on_the_records(earlier, tmp_path):
    old = earlier("b54914a")
    bundle, trained, data = old / "bundles/tiny/1", old / "trained", old / "data"
    out, images = tmp_path / "found.json", tmp_path / "changed.csv"
    options = ("--data", data, "--out", out, "--images", images)
    result = compare(trained, bundle, "--variant", "ptq_int8", *options)
    assert result.exit_code == 0, result.output
    (one,) = json.loads(out.read_text())["comparisons"]
    float_top1 = evaluate_model(trained, data, "test")["trained"]["top1"][0]
    int8_top1 = evaluate_model(bundle, data, "test", "ptq_int8")["ptq_int8"]["top1"][0]
    assert one["top1"][0] == pytest.approx(int8_top1 - float_top1)
    assert all(row["file"] for row in rows_of(images)), "the records name each image's file"


def test_models_are_named_by_the_ends_of_their_paths(tmp_path):
    files = [tmp_path / one / "pets" / "predictions.tfrecord" for one in ("old", "new")]
    for seed, file in enumerate(files):
        write_table(file, {SAVED_MODEL: predictions(seed, 0.9 - 0.3 * seed)}, CLASSES)
    out, images = tmp_path / "found.json", tmp_path / "changed.csv"
    result = compare(*files, "--out", out, "--images", images)
    assert result.exit_code == 0, result.exception
    assert "reference: old/pets/predictions.tfrecord, top-1" in result.output
    assert {row["candidate"] for row in rows_of(images)} == {"new/pets/predictions.tfrecord"}
    (one,) = json.loads(out.read_text())["comparisons"]
    assert [one["reference"], one["candidate"]] == list(map(str, files))


def test_one_model_of_two_runs(run, tmp_path):
    other = tmp_path / "later"
    shutil.copytree(run, other)
    out = tmp_path / "found.json"
    result = compare(f"{run}:cnn", f"{other}:cnn", "--out", out)
    assert result.exit_code == 0, result.exception
    assert "reference: pets:cnn, top-1" in result.output
    (one,) = json.loads(out.read_text())["comparisons"]
    assert [one["reference"], one["candidate"]] == [f"{run}:cnn", f"{other}:cnn"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist; give a bundle, a folder of `sightline train`"),
        (["RUN:bird"], "the run has no model 'bird' (its models: cnn, vit)"),
        (["RUN", "--variant", "fp8"], "no predictions of 'fp8' (known: ptq_int8, saved_model)"),
        (["RUN", "--split", "validation"], "cnn has no predictions of the validation split"),
        (["RUN:cnn"], "got 1: cnn; give another, or RUN to compare all its models"),
        (["RUN:cnn", "RUN"], "cnn is given twice"),
        (["RUN/reports:cnn", "RUN"], "neither a run nor a predictions file"),
        (["RUN", "--seeds"], "has the seeds 0 and vit has 1; a paired t-test needs the same two"),
    ],
)
def test_what_cannot_be_compared_says_what_to_do(run, arguments, words):
    arguments = [one.replace("RUN", str(run)) for one in arguments]
    result = compare(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, ComparisonError)
    assert words in str(result.exception)


def test_predictions_of_other_images_are_refused(run, tmp_path):
    table = tmp_path / "other" / "predictions.tfrecord"
    write_table(table, {SAVED_MODEL: predictions(0, 0.9, count=90)}, CLASSES)
    result = compare(f"{run}:cnn", table)
    assert "on 90 images and cnn on 120, of which 90 are the same" in str(result.exception)


def test_almost_the_same_images_are_compared_on_those_in_common(run, tmp_path):
    table, out = tmp_path / "most" / "predictions.tfrecord", tmp_path / "found.json"
    other = predictions(3, 0.7)
    kept = np.random.default_rng(0).permutation(120)[:110]  # Also in another order.
    part = Predictions(
        *(column[kept] for column in (other.ids, other.labels, other.scores)),
        {key: values[kept] for key, values in other.slices.items()},
    )
    write_table(table, {SAVED_MODEL: part}, CLASSES)
    images = tmp_path / "changed.csv"
    result = compare(f"{run}:cnn", table, "--out", out, "--images", images)
    assert result.exit_code == 0, result.exception
    assert "compared on the 110 images that all models share; left out: 10 of cnn" in result.output
    whole = json.loads(out.read_text())
    assert whole["images_left_out"] == {"cnn": 10}
    (one,) = whole["comparisons"]
    first = predictions(0, 0.9)
    theirs = (first.scores.argmax(1) == first.labels)[kept]
    ours = part.scores.argmax(1) == part.labels
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert one["paired"] == {"gained": gained, "lost": lost, "total": 110}
    assert {row["image_sha256"] for row in rows_of(images)} == set(part.ids[ours != theirs])


def test_candidates_of_other_classes_are_refused(run, tmp_path):
    table = tmp_path / "other" / "predictions.tfrecord"
    write_table(table, {SAVED_MODEL: predictions(0, 0.9)}, ("cat", "dog", "owl"))
    result = compare(f"{run}:cnn", table)
    assert "they differ in: eel, owl. Compare models of the same classes" in str(result.exception)


@pytest.mark.parametrize("content", [[], {"models": {"cnn": {}}}, {"models": [{"top1": 0.9}]}, {}])
def test_a_summary_of_another_version_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_text(json.dumps(content))
    result = compare(tmp_path, tmp_path)
    assert isinstance(result.exception, ComparisonError)
    assert "summary.json has no list of models with names: another version" in str(result.exception)


def test_the_tfma_result_of_a_run_is_known(run, tmp_path):
    file = run / "reports" / "latest" / "summary.json"
    summary = json.loads(file.read_text())
    (tmp_path / "tfma").mkdir()
    summary["models"][0]["evaluation"] = str(tmp_path / "tfma")
    summary["models"][1]["evaluation"] = str(tmp_path / "deleted")
    file.write_text(json.dumps(summary))
    found = load(str(run), data=None, split="test", variant="")
    assert [one.tfma for one in found] == [tmp_path / "tfma", None]


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_model_of_a_server_needs_a_server(run, verb):
    result = CliRunner().invoke(app, [verb, str(run), "--model", "cnn"])
    assert result.exit_code == 2
    assert "--model cnn is a model of a server" in " ".join(result.output.split())


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_model_is_not_named_twice(verb):
    address = "http://127.0.0.1:9/v1/models/cnn"
    result = CliRunner().invoke(app, [verb, address, "--model", "vit"])
    assert result.exit_code == 2
    assert "--model vit has no effect, as" in " ".join(result.output.split())


def test_changed_images_and_seeds_exclude_each_other(run, tmp_path):
    result = compare(run, "--seeds", "--images", tmp_path / "changed.csv")
    assert result.exit_code == 2
    assert "leave out --seeds" in result.output


@pytest.mark.parametrize("content", [b"", b"text, no records", b"\x00" * 40])
def test_a_file_that_holds_no_predictions(run, tmp_path, content):
    (tmp_path / "file.tfrecord").write_bytes(content)
    result = compare(f"{run}:cnn", tmp_path / "file.tfrecord")
    assert isinstance(result.exception, ComparisonError)
    assert "file.tfrecord" in str(result.exception)


def subject(recipe, seed, accuracy, **train):
    found = predictions(seed + 100 * len(recipe), accuracy)
    model = ModelPredictions(**vars(found), name=f"{recipe}_{seed}", classes=CLASSES)
    config = Config(
        name=model.name,
        data=DataConfig(dir="data", image_size=(8, 8)),
        model=ModelConfig(recipe),
        optim=OptimConfig(learning_rate=0.1),
        train=TrainConfig(epochs=1, global_batch=8, seed=seed, **train),
    )
    return Subject(model, to_dict(config))


def test_what_does_not_decide_the_weights_does_not_separate_recipes():
    subjects = [subject("cnn", 0, 0.6), subject("cnn", 1, 0.6, tensorboard=True, save_steps=7)]
    subjects += [subject("resnet", s, 0.9) for s in (0, 1)]
    (found,) = compare_seeds(subjects)
    assert found.seeds == (0, 1)


def test_recipes_are_compared_over_seeds_with_the_paired_t_test():
    subjects = [subject("cnn", s, 0.6) for s in (0, 1, 2)]
    subjects += [subject("resnet", s, 0.9) for s in (2, 0, 1)]
    (found,) = compare_seeds(subjects)
    assert (found.reference, found.candidate, found.seeds) == ("cnn_0", "resnet_2", (0, 1, 2))
    top1 = {one.predictions.name: one.predictions.correct.mean() for one in subjects}
    expected = stats.ttest_rel(
        [top1[f"resnet_{s}"] for s in (0, 1, 2)], [top1[f"cnn_{s}"] for s in (0, 1, 2)]
    )
    assert found.tests["top1"].statistic == pytest.approx(expected.statistic)
    assert found.tests["top1"].p_value == pytest.approx(expected.pvalue)


def test_seeds_that_do_not_pair_are_refused():
    with pytest.raises(ComparisonError, match="are runs of one recipe with seed 0"):
        compare_seeds([subject("cnn", 0, 0.5), subject("cnn", 0, 0.5)])
    with pytest.raises(ComparisonError, match="all models are runs of one recipe"):
        compare_seeds([subject("cnn", 0, 0.5), subject("cnn", 1, 0.5)])
    bare = Subject(subject("cnn", 0, 0.5).predictions, {})
    with pytest.raises(ComparisonError, match="no configuration to read its seed from"):
        compare_seeds([bare, subject("cnn", 1, 0.5)])
