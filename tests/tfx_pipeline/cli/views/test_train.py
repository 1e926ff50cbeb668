"""`sightline train` on a folder of real scans, and related verbs."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from serving.deploy.rollback import rollback
from tfx_pipeline.cli import main
from tfx_pipeline.cli.views import live
from tfx_pipeline.cli.views.train import Bar, keys_table, recipes_table, records_of
from trainers.registry import recipes
from trainers.training.epoch import Progress

SMALL = ["data.image_size=16,16", "data.augment=", "train.epochs=1", "train.global_batch=16"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of 90 scanned digits, by class."""
    folder, digits = tmp_path_factory.mktemp("scans"), load_digits()
    for index in np.flatnonzero(digits.target < 3)[:90]:
        where = folder / f"number {digits.target[index]}"
        where.mkdir(exist_ok=True)
        pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{index}.png")
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in arguments])
    return end.value.code


def test_a_folder_of_images_is_all_it_takes(scans, tmp_path, capsys):
    out = tmp_path / "work"
    model = ["model.options.width=4", "model.options.stages=1"]
    assert not run("train", "digits_cnn", *SMALL, *model, "--data", scans, "--out", out)
    said = capsys.readouterr().out
    assert "epoch 1 of 1 is the best" in said
    assert json.loads((out / "dataset.json").read_text())["classes"] == [
        "number 0",
        "number 1",
        "number 2",
    ]
    assert not run("train", "digits_cnn", *SMALL, *model, "--data", scans, "--out", out)
    assert "using the records in" in capsys.readouterr().out


def test_a_mistyped_key_is_an_error_before_images_are_read(scans, tmp_path, capsys):
    out = tmp_path / "work"
    assert run("train", "digits_cnn", "train.epoch=1", "--data", scans, "--out", out) == 1
    assert "did you mean epochs" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_off_a_terminal_a_line_shows_each_epoch_and_every_half_minute(monkeypatch, terminal):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    written = io.StringIO()
    console = Console(file=written, width=60, force_terminal=terminal)
    bar = Bar(console, "tiny", log_every_s=30.0)
    for epoch, step, seconds in [(1, 1, 5), (1, 2, 31), (1, 3, 40), (1, 4, 41), (2, 1, 50)]:
        now[0] = float(seconds)
        bar.report(Progress(epoch, 2, step, 4, 1.5, 0.25, 0.1, 8.0, 0.0, 60.0))
    lines = written.getvalue().splitlines()
    if terminal:
        assert not lines
        return
    # The second step comes 31 s after the start, the fourth ends the epoch.
    assert [line.split(" loss")[0] for line in lines] == [
        "epoch 1/2 step 2/4",
        "epoch 1/2 step 4/4",
    ]
    assert "loss 1.500 top-1 25.0%" in lines[0]


def test_records_are_taken_as_they_are(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    assert records_of(tmp_path, tmp_path / "out", Console(file=io.StringIO())) == tmp_path


def test_withdrawn_content_is_not_exported(write_bundle, tmp_path, capsys):
    bundles, drafts = tmp_path / "bundles", [write_bundle(tmp_path / n, n) for n in "ab"]
    for draft in drafts:
        assert not run("export", draft, bundles)
    rollback(bundles / "m")
    capsys.readouterr()
    assert run("export", drafts[1], bundles) == 1
    said = capsys.readouterr().err
    assert "error: not pushed: version 2 of m has the same content and was withdrawn" in said
    assert f"to serve it again: sightline rollback m 2 --bundles {bundles}\n" in said
    assert not run("export", drafts[0], bundles)
    assert "already pushed:" in capsys.readouterr().out


def test_every_recipe_is_listed():
    shown = recipes_table()
    assert shown.row_count == len(recipes.names())


def test_every_key_is_listed_with_type_range_and_default():
    cells = [list(column.cells) for column in keys_table().columns]
    rows = {row[0]: row[1:] for row in zip(*cells, strict=True)}
    assert rows["train.epochs"] == (
        "int",
        "30",
        "0 or more; 0 uses model.init without training",
        "Passes over the training images.",
    )
    assert rows["data.mean"][:3] == ("list", "[123.675, 116.28, 103.53]", "3 values")
    assert rows["model.options"][:2] == ("mapping", "{}")
    assert rows["name"][1] == "required"
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(keys_table())
    # Brackets are no markup.
    assert "in [0, 1)" in console.export_text()
