"""The table of `sightline compress`, and a method that destroys the model on purpose."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from components.gates.verdicts import Gate, Verdict
from core.bundle import Manifest, Variant, open_bundle
from tfx_pipeline.cli import main
from tfx_pipeline.cli.views.variants import variants_table
from trainers.compression import Method
from trainers.keras import keras
from trainers.registry import compressors

pytestmark = pytest.mark.onednn


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A folder of 150 scanned digits of two classes that a small network can separate."""
    folder, digits = tmp_path_factory.mktemp("scans"), load_digits()
    for index in np.flatnonzero(digits.target < 2)[:150]:
        where = folder / f"number {digits.target[index]}"
        where.mkdir(exist_ok=True)
        pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{index}.png")
    return folder


@pytest.fixture
def zeroed(monkeypatch):
    """A compression method that sets every weight to zero."""
    compressors.names()
    monkeypatch.setattr(compressors, "_entries", dict(compressors._entries))
    monkeypatch.setattr(compressors, "_origins", dict(compressors._origins))

    def run(model, fine_tune, settings):
        copy = keras.models.clone_model(model)
        copy.set_weights([np.zeros_like(one) for one in model.get_weights()])
        return copy

    compressors.register("zeroed")(Method("zeroed", dtypes=("fp32",), run=run))


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(one) for one in arguments])
    return end.value.code or 0


def test_a_collapsed_variant_is_named_and_refused(scans, zeroed, tmp_path, capsys):
    work, draft = tmp_path / "work", tmp_path / "draft"
    small = ["data.image_size=16,16", "data.augment=", "train.epochs=6", "train.global_batch=16"]
    model = ["model.options.width=4", "model.options.stages=1"]
    assert run("train", "digits_cnn", *small, *model, "--data", scans, "--out", work) == 0
    capsys.readouterr()
    status = run("compress", work, "--method", "zeroed", "--ptq", "", "--out", draft)
    said = capsys.readouterr().out
    assert status == 3, said
    assert "every compressed variant collapsed" in said
    (row, _) = [line for line in said.splitlines() if line.startswith("zeroed_fp32")]
    assert row.rstrip().endswith("collapsed")
    assert "100%" in row  # sparsity
    assert "zeroed_fp32 collapsed: it keeps 0.0% of the lead of none_fp32" in said
    assert open_bundle(draft).manifest.variants[1].name == "zeroed_fp32"

    status = run("compress", work, "--method", "zeroed", "--ptq", "dynamic", "--out", draft)
    said = capsys.readouterr().out
    assert status == 0, said
    assert "next: sightline export" in said
    (row,) = [line for line in said.splitlines() if line.startswith("ptq_dynamic")]
    assert "collapsed" not in row


def test_rows_have_the_figures_of_the_manifest_and_are_struck_out():
    variants = (
        Variant("none_fp32", "none", "fp32", 4000, 3000),
        Variant("ptq_int8", "ptq", "int8", 1500, 1000, sparsity=0.25),
    )
    figures = {"ptq_int8": {"partitions": 2, "snr_db": 24.87, "rewrites": []}}
    manifest = Manifest("m", "classification", 2, {}, 1, variants, "none_fp32", conversion=figures)

    def text(collapsed):
        file = io.StringIO()
        console = Console(file=file, width=200, force_terminal=True, color_system="standard")
        console.print(variants_table(manifest, {}, collapsed))
        return file.getvalue().splitlines()

    gate = Gate("collapse/ptq_int8", 0.03, ">= 0.5", Verdict.FAILED, "ptq_int8")
    head, first, second = text({"ptq_int8": gate})
    assert "gzip kB" in head
    assert first.split() == ["none_fp32", "4.0", "3.0", "1.0x", "0%", "-", "-", "-"]
    for figure in ("1.5", "1.0", "3.0x", "25%", "2", "24.9", "collapsed"):
        assert figure in second
    assert "\x1b[9m" in second  # strike
    assert "\x1b[9m" not in first + "".join(text({}))
