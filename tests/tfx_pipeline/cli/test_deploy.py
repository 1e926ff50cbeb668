"""`sightline deploy check` and `sightline rollback` from the command line."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.bundle import push
from tfx_pipeline import cli

DEPLOY = Path(__file__).parents[3] / "serving" / "deploy"


@pytest.fixture
def bundles(tmp_path) -> Path:
    for name in ("digits_cnn", "digits_resnet", "digits_vit"):
        for version in "12":
            path = tmp_path / "bundles" / name / version
            (path / "assets.extra").mkdir(parents=True)
            (path / "saved_model.pb").touch()
            (path / "assets.extra" / "tf_serving_warmup_requests").touch()
    return tmp_path / "bundles"


def sightline(capsys, *arguments):
    """(exit status, what was printed, in one line)."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    printed = capsys.readouterr()
    return ended.value.code, " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize("verb", [["deploy"], ["deploy", "check"], ["rollback"]])
def test_every_verb_has_an_example(verb):
    result = CliRunner().invoke(cli.app, [*verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: sightline {' '.join(verb)} " in result.output


def test_check_of_our_own_files(bundles, capsys):
    pytest.importorskip("kubernetes_validate")
    status, printed = sightline(capsys, "deploy", "check", DEPLOY, "--bundles", bundles)
    assert status == 0
    assert printed == "10 files, 0 errors, 0 warnings"


def test_check_shows_errors_in_a_table_and_as_json(bundles, tmp_path, capsys):
    pytest.importorskip("kubernetes_validate")
    (tmp_path / "d").mkdir()
    file = tmp_path / "d" / "service.yaml"
    file.write_text((DEPLOY / "kubernetes" / "service.yaml").read_text())
    status, printed = sightline(capsys, "deploy", "check", file.parent, "--bundles", bundles)
    assert status == 1
    assert "Service/tensorflow-serving error: the selector" in printed
    assert "1 files, 2 errors, 0 warnings" in printed
    with pytest.raises(SystemExit) as ended:
        cli.main(["deploy", "check", str(file.parent), "--json"])
    assert ended.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["errors"], found["warnings"], found["looked_at"]) == (2, 0, ["service.yaml"])
    assert set(found["findings"][0]) == {"level", "file", "about", "finding", "remedy"}


def test_warnings_have_status_0(tmp_path, capsys):
    pytest.importorskip("kubernetes_validate")
    (tmp_path / "x.yaml").write_text("a: 1\n")
    status, printed = sightline(capsys, "deploy", "check", tmp_path)
    assert status == 0
    assert "warning: neither a Kubernetes object" in printed


def test_rollback_prints_its_changes_and_a_command_that_undoes_them(bundles, capsys):
    where = ["--bundles", bundles]
    status, printed = sightline(capsys, "rollback", "digits_cnn", *where, "--reason", "[b]ad")
    assert status == 0
    assert "digits_cnn: now serves version 1, previously 2 withdrawn: 2 undo: " in printed
    undo = printed.partition("undo: sightline ")[2].partition(" Servers")[0].split()
    status, printed = sightline(capsys, "rollback", "digits_cnn", *where, "--list")
    assert "versions 1; withdrawn 2; served 1" in printed
    assert "2 -> 1 [b]ad" in printed
    assert sightline(capsys, *undo)[0] == 0
    assert sorted(p.name for p in (bundles / "digits_cnn").iterdir() if p.is_dir()) == ["1", "2"]
    status, printed = sightline(capsys, "rollback", "digits_cnn", "2", *where)
    assert (status, "nothing changed" in printed) == (0, True)


def test_the_rollback_command_of_a_push_works(write_bundle, tmp_path, capsys):
    model = tmp_path / "my bundles" / "m"
    drafts = [write_bundle(tmp_path / name, name) for name in ("first", "second")]
    for draft in drafts:
        push(draft, model)
    assert sightline(capsys, "rollback", "m", "--bundles", model.parent)[0] == 0
    withdrawn = push(drafts[1], model)
    assert withdrawn.withdrawn
    program, *arguments = shlex.split(withdrawn.way_back)
    assert program == "sightline"
    assert sightline(capsys, *arguments)[0] == 0
    again = push(drafts[1], model)
    assert (again.path, again.pushed, again.withdrawn) == (model / "2", False, False)


def test_version_0_is_a_version(tmp_path, capsys):
    (tmp_path / "bundles" / "m" / "0").mkdir(parents=True)
    (tmp_path / "bundles" / "m" / "0" / "saved_model.pb").touch()
    listing = ["rollback", "m", "--list", "--bundles", tmp_path / "bundles"]
    assert "m: versions 0; served 0" in sightline(capsys, *listing)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rollback", "digits_cnn", "7"), ["no version 7: versions 1, 2"]),
        (("rollback", "digits"), ["digits is not a folder", "digits_cnn"]),
        (("rollback", "../digits_cnn"), ["must be the name of a folder"]),
        (("rollback", "digits", "--list"), ["is not a folder"]),
        (("deploy", "check", "nowhere"), ["nowhere is not a folder"]),
    ],
)
def test_errors_have_one_line_and_a_remedy(bundles, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(bundles.parent)
    status, printed = sightline(capsys, *arguments)
    assert status == 1
    assert printed.startswith("error:")
    for word in words:
        assert word in printed
