"""The command line in a child process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.text import Text

from tfx_pipeline.cli import app

SIGHTLINE = [sys.executable, "-m", "tfx_pipeline.cli"]
VERBS = [
    "ingest",
    "validate",
    "show",
    "train",
    "evaluate",
    "compress",
    "export",
    "benchmark",
    "run",
    "serve",
    "predict",
    "report",
    "notebook",
    "loadtest",
    "deploy",
    "rollback",
]
ROOT = Path(__file__).resolve().parents[3]


def sightline(*arguments, cwd):
    return subprocess.run(
        [*SIGHTLINE, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
    )


def test_help_lists_the_verbs_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; import tfx_pipeline.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'numpy', 'scipy', 'tf_keras'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", found.stdout)


def helps(command, path="sightline"):
    """(command and parameter, help text) of a command and its subcommands."""
    for parameter in command.params:
        yield f"{path} {parameter.name}", getattr(parameter, "help", "") or ""
    yield path, command.help or ""
    for name, sub in getattr(command, "commands", {}).items():
        yield from helps(sub, f"{path} {name}")


def test_help_texts_lose_nothing_as_markup():
    found = dict(helps(typer.main.get_command(app)))
    assert len(found) > 150
    lost = {key: text for key, text in found.items() if Text.from_markup(text).plain != text}
    assert not lost


def arguments_of(command, path="sightline"):
    """(command, name in the usage line) of each argument of a command and its subcommands."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield path, parameter.metavar or parameter.name
    for name, sub in getattr(command, "commands", {}).items():
        yield from arguments_of(sub, f"{path} {name}")


def test_arguments_are_in_capitals():
    found = list(arguments_of(typer.main.get_command(app)))
    assert len(found) > 30
    assert [one for one in found if one[1] != one[1].upper()] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example(verb):
    from typer.testing import CliRunner

    from tfx_pipeline.cli import app

    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: sightline {verb} " in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "smok"), ["unknown pipeline 'smok'", "smoke"]),
        (("train", "digit_cnn"), ["unknown recipe 'digit_cnn'", "digits_cnn"]),
        (("train", "digits_cnn", "train.epoch=3"), ["'train.epoch'", "epochs"]),
        (("train", "digits_cnn", "model.name=resnett20"), ["'resnett20'", "resnet20"]),
        (("run", "smoke", "--data", "nowhere"), ["dataset.json", "sightline ingest"]),
        (("ingest", "digit"), ["unknown ingest job 'digit'", "digits"]),
        (("ingest", "folder", "nowhere"), ["nowhere"]),
        (("ingest", "coco", "nowhere", "caption=true"), ["no option 'caption'", "captions"]),
        (
            ("ingest", "digits", "levels=3"),
            ["`digits` has no option 'levels'", "it has no options"],
        ),
        (("ingest", "digits", "--split", "dev"), ["'dev'", "train, validation, test"]),
        (("ingest", "digits", "--exif", "turned"), ["as_stored or upright", "'turned'"]),
        (("ingest", "digits", "--shards", "0"), ["1..99999, got 0"]),
        (("validate", "nowhere"), ["dataset.json", "sightline ingest"]),
        (("show", "nowhere"), ["dataset.json", "sightline ingest"]),
        (("serve", "nowhere"), ["nowhere"]),
        (("predict", "nowhere", "cat.jpg"), ["nowhere is not a folder"]),
        (("benchmark", "nowhere"), ["nowhere is not a folder"]),
        (("benchmark", "bundle", "nowhere"), ["nowhere is not a folder"]),
        (("benchmark", "data", "nowhere"), ["nowhere"]),
        (("report", "smoke"), ["summary.json does not exist", "none"]),
        (("evaluate", "nowhere"), ["nowhere does not exist", "a bundle", "a server"]),
    ],
)
def test_errors_have_one_line_and_a_remedy(arguments, words, tmp_path, capsys, monkeypatch):
    from tfx_pipeline import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 1
    printed = capsys.readouterr()
    message = " ".join((printed.out + printed.err).split())
    assert "error:" in message
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_ingest_prints_its_findings_and_lists_its_jobs(tmp_path, capsys, monkeypatch):
    from tfx_pipeline import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["ingest", "digits", "--shards", "1"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "digits: 10 classes, 1,072 train, 352 validation, 373 test" in printed
    assert "one channel, kept" in printed
    assert "1,797" in printed
    assert "wrote data/digits" in printed
    with pytest.raises(SystemExit) as ended:
        cli.main(["ingest", "--jobs"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for job in ("coco", "csv", "digits", "folder", "imagenet", "tfds", "tfrecord", "voc", "yolo"):
        assert re.search(rf"^{job} ", printed, re.MULTILINE)


def test_an_error_has_status_1_and_no_stack_trace(tmp_path):
    found = sightline("run", "smok", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("error: unknown pipeline 'smok'")
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "expected"), [([], "refuse"), (["--accept-new-classes"], "accept")]
)
def test_new_classes_are_accepted_by_a_flag(tmp_path, monkeypatch, flags, expected):
    from typer.testing import CliRunner

    from tfx_pipeline.cli import app

    requests = []
    monkeypatch.setattr(
        "tfx_pipeline.cli.views.run.run", lambda request, _: requests.append(request) or 0
    )
    arguments = ["run", "smoke", "--data", str(tmp_path), "--root", str(tmp_path), *flags]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert requests[0].pipeline.gates["new_classes"] == expected
    assert requests[0].pipeline.gates["min_top1"] == 0.93


def test_limits_of_drift_and_skew_can_be_set_for_one_run(tmp_path):
    from tfx_pipeline.pipelines.smoke import smoke
    from tfx_pipeline.request.settings import with_settings
    from trainers.config import ConfigError

    given = ("statistics.drift_distance=0.5", "train.epochs=2", "digits_vit:train.seed=1")
    shape, others = with_settings(smoke(), given)
    assert shape.statistics["drift_distance"] == 0.5
    assert shape.statistics["skew_distance"] == 0.1
    assert others == given[1:]
    with pytest.raises(ConfigError, match="drift_distance"):
        with_settings(smoke(), ("statistics.drift_distnace=0.5",))
    with pytest.raises(ConfigError, match=r"statistics.skew_share must be 0 or more, got -1"):
        with_settings(smoke(), ("statistics.skew_share=-1",))


@pytest.fixture
def user_folder(tmp_path):
    """A folder with modules and a package of the user, named as ours and as Python's."""
    for name in ("core", "trainers", "serving", "random", "signal"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name}.py')\n")
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "__init__.py").write_text("raise SystemExit('imported it')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--help"], "Real-time image recognition"), (["describe", "resnet50"], "4.089 GMAC")],
)
def test_files_of_the_user_in_the_current_folder_are_not_imported(user_folder, arguments, words):
    script = Path(sys.executable).with_name("sightline")
    found = subprocess.run(
        [script, *arguments],
        cwd=user_folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    # TensorFlow 2.21 logs a line to stderr.
    assert (found.returncode, "imported" in found.stderr) == (0, False), found.stderr
    assert words in found.stdout
    # Python itself imports them with `-m`.
    module = [sys.executable, "-m", "tfx_pipeline.cli", "--help"]
    taken = subprocess.run(module, cwd=user_folder, capture_output=True, text=True, check=False)
    assert "imported" in taken.stderr
