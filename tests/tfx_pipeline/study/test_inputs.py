"""Arguments of `sightline study` that are refused, each with a remedy, and the figures file."""

import json

import pytest
from typer.testing import CliRunner

from tfx_pipeline.cli import app
from tfx_pipeline.study.figures import BUNDLED, load_figures
from tfx_pipeline.study.run import Study
from tfx_pipeline.study.sets import CORE, SETS, StudyError, choose, set_of_classes
from tfx_pipeline.study.state import State
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.recipes import load_recipe
from trainers.registry import UnknownNameError

HEAD = "table,row,column,value,unit,source\n"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(autouse=True)
def no_study(monkeypatch):
    """Fails a test that would start a study instead of refusing it."""

    def started(self):
        raise AssertionError(f"a study was started in {self.folder}")

    monkeypatch.setattr(Study, "run", started)


def refused(*arguments, **kwargs):
    """The message of a command that fails without a stack trace."""
    found = CliRunner().invoke(app, ["study", *arguments], **kwargs)
    assert found.exit_code, found.output
    assert isinstance(found.exception, Exception)
    return str(found.exception)


def test_the_figures_are_those_quoted_in_the_issue_and_name_it():
    found = load_figures(BUNDLED)
    assert found.get("cost", "vit", "gflop").value == 7.98
    assert found.get("speed", "resnet", "latency_ms").value == 18
    assert found.get("inference", "resnet", "latency_ms").value == 26
    assert (found.get("speed", "resnet", "fps").value, found.get("speed", "vit", "fps").value) == (
        55,
        38,
    )
    assert found.get("accuracy", "vit", "top1") is None
    rows = BUNDLED.read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == len(found)
    assert all("as quoted in the project's issue" in row for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("a,b\n", "the first line must be table,row,column"),
        (HEAD + "accuraci,vit,top1,0.7,fraction,p. 3\n", "line 2: no table 'accuraci'.*accuracy"),
        (HEAD + "accuracy,vitt,top1,0.7,fraction,p. 3\n", "line 2.*no row 'vitt'.*vit"),
        (HEAD + "accuracy,vit,top-1,0.7,fraction,p. 3\n", "no column 'top-1'.*top1"),
        (HEAD + "accuracy,vit,top1,high,fraction,p. 3\n", "'high' is not a number"),
        (HEAD + "accuracy,vit,top1,nan,fraction,p. 3\n", "'nan' is not a number"),
        (HEAD + "accuracy,vit,top1,0.7,fraction,\n", "no source"),
        (HEAD + "accuracy,vit,top1,0.7\n", "4 values, expected 6"),
        (HEAD + "accuracy,vit,top1,76.4,%,p. 3\n", "line 2: top1 is in %, and must be in fraction"),
        (HEAD + "accuracy,vit,top1,76.4,fraction,p. 3\n", "top1 is 76.4, .*from 0 to 1"),
        (HEAD + "classes,vit,cat,76.4,fraction,p. 3\n", "cat is 76.4, .*from 0 to 1"),
        (HEAD + "cost,vit,gflop,7.98,GMAC,p. 3\n", "must be in GFLOP: .*is two FLOPs"),
        (HEAD + "speed,vit,latency_ms,0.026,s,p. 3\n", "latency_ms is in s, and must be in ms"),
        (HEAD + "loss,vit,start,6.9,,p. 3\n", "start is in no unit, and must be in nats"),
        (HEAD + 2 * "accuracy,vit,top1,0.7,fraction,p. 3\n", "line 3.*given twice"),
    ],
)
def test_figures_that_cannot_be_used_name_the_line_and_the_nearest_name(tmp_path, text, message):
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        load_figures(tmp_path / "own.csv")


def test_a_figures_file_of_the_user(tmp_path):
    text = "\ufeff" + HEAD + "classes,vit,cat,0.5,fraction,p. 3\n\n"
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    assert load_figures(tmp_path / "own.csv").get("classes", "vit", "cat").value == 0.5
    with pytest.raises(StudyError, match="cannot be read"):
        load_figures(tmp_path / "other.csv")


def test_every_set_has_recipes_for_the_three_models():
    for one in SETS.values():
        assert set(CORE) <= set(one.recipes)
        for recipe in one.recipes.values():
            load_recipe(recipe)


def test_the_imagenet_recipes_are_the_schedule_quoted_from_the_study():
    for role in ("cnn", "resnet"):
        config = load_recipe(SETS["imagenet"].recipes[role])
        assert (config.optim.name, config.optim.learning_rate) == ("sgd", 0.01)
        assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 5e-4)
        assert config.optim.schedule == "step"
        assert (config.train.epochs, config.train.global_batch) == (100, 128)
    vit = load_recipe(SETS["imagenet"].recipes["vit"])
    assert (vit.model.name, vit.optim.name, vit.optim.schedule) == ("vit_b16", "adam", "cosine")
    assert vit.optim.warmup_steps == 10_000


def test_classes_decide_the_set():
    assert set_of_classes(CIFAR10[::-1]) == "cifar10"
    assert set_of_classes([str(n) for n in range(10)]) == "digits"
    assert set_of_classes([f"n{n}" for n in range(1000)]) == "imagenet"
    assert set_of_classes(["cat", "dog"]) == ""
    assert choose("", CIFAR10) == SETS["cifar10"]
    own = choose("cnn=digits_cnn,resnet=digits_resnet, vit = digits_vit", ["cat", "dog"])
    assert own.recipes == {"cnn": "digits_cnn", "resnet": "digits_resnet", "vit": "digits_vit"}
    assert not own.is_original


@pytest.mark.parametrize(
    ("classes", "images", "expected"),
    [
        (1000, (1_268_356, 12_811, 50_000), True),
        # A few damaged images are left out.
        (1000, (1_268_300, 12_800, 49_990), True),
        # ImageNet's recipes on another data set do not reproduce its figures.
        (10, (45_000, 5_000, 10_000), False),
        (1000, (100_000, 10_000, 50_000), False),
        (1000, (1_268_356, 12_811, 10_000), False),
        (100, (1_268_356, 12_811, 50_000), False),
    ],
)
def test_figures_of_the_study_are_compared_on_imagenet_only(tmp_path, classes, images, expected):
    names = ("train", "validation", "test")
    splits = {name: SplitInfo(count, 1, {}) for name, count in zip(names, images, strict=True)}
    labels = tuple(map(str, range(classes)))
    info = DatasetInfo("own", "classification", labels, 0, splits, "fingerprint")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(info.to_json(), encoding="utf-8")
    for name, one in SETS.items():
        found = State(tmp_path / name, tmp_path / "data", one, seeds=2, budget_s=60.0)
        assert found.values["is_original"] == (expected and name == "imagenet")
        assert found.values["has_study_recipes"] == (name == "imagenet")


@pytest.mark.parametrize(
    ("given", "classes", "error", "message"),
    [
        ("", ["cat", "dog"], StudyError, r"--recipes cifar10\|digits\|imagenet"),
        ("cifar", [], StudyError, "did you mean cifar10"),
        ("cnn=digits_cnn,resnet=digits_resnet", [], StudyError, "no recipe for vit"),
        ("cnn=a,resnets=b,vit=c", [], (StudyError, UnknownNameError), "unknown recipe"),
        ("resnets=digits_resnet", [], StudyError, "no role 'resnets'.*resnet"),
        ("cnn=digits_cmn,resnet=b,vit=c", [], UnknownNameError, "digits_cnn"),
        ("cnn=digits_cnn,cnn=digits_cnn", [], StudyError, "two recipes for cnn"),
    ],
)
def test_recipes_that_do_not_exist(given, classes, error, message):
    with pytest.raises(error, match=message):
        choose(given, classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "60"], "a number with a unit"),
        (["--budget", "60m", "--seeds", "1"], "at least 2"),
        (["--budget", "60m", "--recipes", "cifar"], "cifar10"),
        (["--budget", "60m", "--figures", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_arguments_are_checked_before_any_image_is_read(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("--data", "digits", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar10", "sightline ingest folder PATH --out"),
        ("imagenet", "--data imagenet:PATH"),
        ("nowhere", "does not exist"),
        ("foldr:nowhere", "did you mean folder"),
        ("folder:nowhere", "does not exist"),
    ],
)
def test_data_that_is_not_there(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("--data", data, "--budget", "60m")


def test_a_folder_with_other_files_is_not_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    assert "thesis.tex" in refused("--data", "digits", "--budget", "60m", "--out", "out")
    (tmp_path / "out" / "thesis.tex").unlink()
    (tmp_path / "out" / "study.json").write_text("[]")
    message = refused("--data", "digits", "--budget", "60m", "--out", "out")
    assert "is not the state of a study" in message


def test_the_figures_in_the_folder_can_be_edited_and_given_again(tmp_path):
    splits = {name: SplitInfo(9, 1, {}) for name in ("train", "validation", "test")}
    info = DatasetInfo("own", "classification", tuple("01"), 0, splits, "fingerprint")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(info.to_json(), encoding="utf-8")
    own, out = tmp_path / "own.csv", tmp_path / "out"
    own.write_text(HEAD + "classes,vit,0,0.5,fraction,p. 3\n", encoding="utf-8")
    options = ["--data", str(tmp_path / "data"), "--recipes", "digits", "--out", str(out)]
    for figures in (own, out / "figures.csv"):
        message = refused(*options, "--budget", "60m", "--figures", str(figures))
        assert message == f"a study was started in {out}"
        assert (out / "figures.csv").read_text() == own.read_text()


def test_a_folder_with_another_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    other = {"data": "0", "recipes": {"cnn": "cifar10_cnn"}, "data_name": "cifar10"}
    (tmp_path / "out" / "study.json").write_text(json.dumps(other))
    message = refused("--data", "digits", "--budget", "60m", "--out", "out")
    assert "holds a study of cifar10 with cifar10_cnn" in message
    assert "give another --out" in message
