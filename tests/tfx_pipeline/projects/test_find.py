"""`sightline run WHAT`: finds the pipeline and its root, and reports errors in files."""

import pytest

from tfx_pipeline.config import CompressionPlan
from tfx_pipeline.projects.find import ProjectError, experiments_of, find
from tfx_pipeline.request.settings import with_settings
from trainers import plugins
from trainers.config import ConfigError
from trainers.plugins import PluginError
from trainers.registry import UnknownNameError

PROJECT = """
from tfx_pipeline.config import CompressionPlan, PipelineConfig, pipelines
from trainers.config import Config, TrainConfig
from trainers.registry import recipes


@recipes.register("pets")
def recipe():
    return Config(name="pets", train=TrainConfig(epochs=3))


@pipelines.register("pets")
def pipeline():
    return PipelineConfig("pets", ("pets",), data="records")
"""

pytestmark = pytest.mark.usefixtures("home")


def project(home, text=PROJECT, name="pets"):
    (home / name).mkdir()
    (home / name / "pipeline.py").write_text(text)
    return home / name / "pipeline.py"


def test_projects_of_the_previous_version_import_plan(home):
    text = PROJECT.replace("CompressionPlan", "Plan").replace("data=", 'best=Plan(("qat",)), data=')
    project(home, text)
    with pytest.warns(FutureWarning, match="Plan is called CompressionPlan now"):
        found = find("pets")
    assert found.pipeline.best == CompressionPlan(("qat",))


@pytest.mark.parametrize("what", ["pets", "./pets", "pets/pipeline.py"])
def test_a_project_works_in_its_own_folder(home, what):
    file = project(home)
    found = find(what)
    assert (found.pipeline.name, found.file) == ("pets", file)
    assert (found.data, found.root) == (str(home / "pets" / "records"), home / "pets")
    assert plugins.files() == (file,)
    assert experiments_of(found, found.pipeline, ())["pets"].data.dir == str(found.data)
    elsewhere = find(what, data=str(home / "other"), root=home)
    assert (elsewhere.data, elsewhere.root) == (str(home / "other"), home)


def test_a_registered_name_works_in_the_current_folder(home):
    found = find("smoke")
    assert (found.data, found.root, found.file) == (str(home / "data" / "digits"), home, None)


def test_an_ingest_job_stays_as_it_is_written(home):
    project(home)
    assert find("pets", data="tfrecord:~/imagenet").data == "tfrecord:~/imagenet"


def test_a_plugin_gives_pipelines_by_name(home):
    plugins.add(project(home, name="elsewhere"))
    found = find("pets")
    assert (found.root, found.data) == (home, str(home / "elsewhere" / "records"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PROJECT.replace('@pipelines.register("pets")', ""), ["registers no pipeline"]),
        (
            PROJECT.replace('register("pets")\ndef pipeline', 'register("pets", "cats")\ndef p'),
            ["registers 2 pipelines", "'pets' in line 12", "'cats' in line 12", "keep one"],
        ),
        (PROJECT.replace("return Pipe", "return Pipe("), ["line 14", "correct the line"]),
        (
            PROJECT.replace("data=", 'gates={"min_top": 1}, data='),
            ["line 12", "unknown config key 'gates.min_top'", "min_top1"],
        ),
        (
            PROJECT.replace("data=", 'gates={"min_top1": "high"}, data='),
            ["gates.min_top1 takes float, got 'high'"],
        ),
        (
            PROJECT.replace("data=", 'gates={"min_top1": 90}, data='),
            [r"gates.min_top1 must be in [0, 1], got 90"],
        ),
        (PROJECT.replace("data=", "gate={}, data="), ["line 14", "'gate'", "did you mean gates"]),
        (PROJECT.replace("data=", 'images={"min_sid": 1}, data='), ["images.min_sid", "min_side"]),
        (PROJECT.replace("data=", 'best={"ptq": 1}, data='), ["best takes a CompressionPlan"]),
        (
            PROJECT.replace("data=", 'best=CompressionPlan(ptq=("int4",)), data='),
            ["'int4'", "int8"],
        ),
        (PROJECT.replace("epochs=3", "epoch=3"), ["line 9", "'epoch'", "did you mean epochs"]),
        (PROJECT.replace("epochs=3", 'epochs="3"'), ["line 7", "train.epochs takes int, got '3'"]),
        (PROJECT.replace("epochs=3", "epochs=0"), ["train.epochs must be at least 1"]),
        (PROJECT.replace('Config("pets"', 'Config("../pets"'), ["'../pets'", "letters, digits"]),
        (PROJECT.replace('("pets",)', "()"), ["has no experiments"]),
        (PROJECT.replace('("pets",)', '("pet",)'), ["unknown recipe 'pet'", "pets"]),
    ],
)
def test_what_is_wrong_with_a_project_is_named_before_anything_runs(home, text, words):
    file = project(home, text)
    assert text != PROJECT

    def start():
        found = find("pets")
        experiments_of(found, found.pipeline, ())

    with pytest.raises((PluginError, ConfigError, UnknownNameError)) as failed:
        start()
    message = str(failed.value)
    for word in words:
        assert word in message
    if words[0].startswith("line"):
        assert message.startswith(f"{file}, line")
    assert len(message.splitlines()) == 1


def test_what_is_neither_is_refused_with_the_remedy(home):
    with pytest.raises(UnknownNameError, match=r"unknown pipeline 'smok'.*smoke.*sightline new"):
        find("smok")
    with pytest.raises(UnknownNameError, match=r"mine\.py does not exist"):
        find("mine.py")
    (home / "empty").mkdir()
    with pytest.raises(ProjectError, match=r"empty has no pipeline\.py; .*sightline new"):
        find("empty")
    project(home, name="smoke")
    with pytest.raises(ProjectError, match=r"use \./smoke for the folder"):
        find("smoke")
    assert find("./smoke").file == home / "smoke" / "pipeline.py"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["slices=slice/race,slice/age"], ("slices", ("slice/race", "slice/age"))),
        (["benchmark_runs=7"], ("benchmark_runs", 7)),
        (["serving_requests=3"], ("serving_requests", 3)),
        (["best.methods=prune,qat"], ("best.methods", ("prune", "qat"))),
        (["others.ptq=int8"], ("others.ptq", ("int8",))),
        (["images.min_side=4"], ("images", ("min_side", 4))),
        (["images.limits.near_leakage=5"], ("images", ("limits", {"near_leakage": 5}))),
        (["gates.min_top1=0.5"], ("gates", ("min_top1", 0.5))),
        (["statistics.drift_share=0.3"], ("statistics", ("drift_share", 0.3))),
    ],
)
def test_every_setting_of_a_pipeline_can_be_given(overrides, expected):
    shape, others = with_settings(find("smoke").pipeline, overrides)
    key, value = expected
    for part in key.split("."):
        shape = getattr(shape, part)
    assert others == ()
    assert (shape[value[0]] == value[1]) if isinstance(shape, dict) else shape == value


def test_searches_can_be_given():
    given = [
        "tune.digits_cnn.space.optim.learning_rate=log(1e-3, 1e-1)",
        "tune.digits_cnn.trials=3",
        "tune.digits_cnn.epochs=2",
    ]
    search = with_settings(find("smoke").pipeline, given)[0].tune["digits_cnn"]
    assert search.space == {"optim.learning_rate": "log(1e-3, 1e-1)"}
    assert (search.trials, search.epochs) == (3, 2)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "gate.min_top1=0.9",
            r"unknown config key 'gate\.min_top1': no section 'gate'; did you mean gates",
        ),
        ("bench_runs=3", "no section 'bench_runs'; did you mean benchmark_runs"),
        ("trian.epochs=3", "no section 'trian'; did you mean train"),
        ("best.method=qat", r"no 'method'; did you mean methods"),
        ("best.ptq=int4", r"best\.ptq: unknown dtype 'int4'; did you mean int8"),
        ("images.limits.near_leakag=1", "unknown kind 'near_leakag'.*near_leakage"),
        ("images.max_near_leakage=2", r"max_near_leakage must be in \[0, 1\], got 2"),
        ("benchmark_runs=0", "benchmark_runs must be at least 1, got 0"),
        ("tune.digits_cnn=3", r"the keys of a search are tune\.<model>\.trials=5"),
        ("tune.digits_cnn.trials=3", r"tune\.digits_cnn has no space; set one"),
    ],
)
def test_a_mistyped_setting_names_what_there_is(assignment, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(find("smoke").pipeline, [assignment])


def test_one_name_for_all_experiments_drops_none_of_them():
    found = find("smoke")
    with pytest.raises(ConfigError, match=r"digits_cnn and digits_resnet.*digits_cnn:name=pets"):
        experiments_of(found, found.pipeline, ("name=pets",))
    with pytest.raises(ConfigError, match="two experiments named 'digits_vit'"):
        experiments_of(found, found.pipeline, ("digits_cnn:name=digits_vit",))
    named = experiments_of(found, found.pipeline, ("digits_cnn:name=pets",))
    assert set(named) == {"pets", "digits_resnet", "digits_vit"}


def test_a_search_names_a_model_of_the_pipeline():
    found = find("smoke")
    shape, _ = with_settings(found.pipeline, ["tune.digits_rnn.space.train.epochs=int(1, 2)"])
    with pytest.raises(ConfigError, match="smoke tunes 'digits_rnn'"):
        experiments_of(found, shape, ())
