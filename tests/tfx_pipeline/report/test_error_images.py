"""The most confident errors of a run are recorded with their images, and shown."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from core.files import read_json
from tfx_pipeline import report
from tfx_pipeline.report.error_images import ERRORS_FILE, SHOWN, write_errors
from tfx_pipeline.report.summary import write_summary
from tfx_pipeline.request.run import Layout
from trainers.evaluation.predictions import write_table

CLASSES = ("cat", "dog <b>")


@pytest.fixture
def summary(smoke_summary, records, predictions, tmp_path):
    """A finished run whose first model has predictions on 300 images."""
    folder, ids = records
    model = predictions(CLASSES, 300, ids)
    table = tmp_path / "predictions.tfrecord"
    write_table(table, {"saved_model": model, "ptq_int8": model}, CLASSES)
    smoke_summary["data"]["classes"] = CLASSES
    smoke_summary["models"] = smoke_summary["models"][1:2]
    smoke_summary["models"][0] |= {
        "predictions": str(table),
        "recommended_variant": "ptq_int8",
        "config": {"name": "digits_cnn", "data": {"dir": str(folder)}},
    }
    return smoke_summary


def test_the_most_confident_errors_are_shown_with_their_images(
    summary, records, predictions, tmp_path, image_bytes
):
    model = predictions(CLASSES, 300, records[1])
    guess, best = model.scores.argmax(axis=1), model.scores.max(axis=1)
    wrong = [i for i in np.argsort(-best) if guess[i] != model.labels[i]]
    write_errors(summary, tmp_path)

    html = report.render_report(summary, tmp_path)

    body = html.split('<section id="errors"')[1].split("</section>")[0]
    assert f"digits_cnn, ptq_int8: errors on {len(wrong)} of 300 images" in body
    items = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]+)".*?<b>(.*?)</b><span>score (.*?)</span>'
        r'<span class="file">(.*?)</span>',
        body,
    )
    assert len(items) == SHOWN
    names = ("cat", "dog &lt;b&gt;")
    for (data, heading, score, file), i in zip(items, wrong, strict=False):
        assert file == f"{i}.jpg"
        assert heading == f"{names[model.labels[i]]}, predicted {names[guess[i]]}"
        assert float(score) == pytest.approx(best[i], abs=0.0006)
        shown = Image.open(io.BytesIO(base64.b64decode(data))).getpixel((50, 40))
        own = Image.open(io.BytesIO(image_bytes(int(i)))).getpixel((80, 60))
        assert np.allclose(shown, own, atol=4)


def test_records_that_are_gone_are_said(summary, tmp_path):
    summary["models"][0]["config"]["data"]["dir"] = str(tmp_path / "gone")
    write_errors(summary, tmp_path)
    body = report.render_report(summary, tmp_path).split('<section id="errors"')[1]
    assert f"no thumbnails of {SHOWN} images. The records cannot be read" in body
    assert body.count('<span class="blank">not in the records</span>') == SHOWN


def test_a_run_without_predictions_or_of_an_earlier_version_has_no_section(summary, tmp_path):
    assert 'id="errors"' not in report.render_report(summary, tmp_path)
    del summary["models"][0]["predictions"]
    write_errors(summary, tmp_path)
    assert read_json(tmp_path / ERRORS_FILE)["models"] == {}
    assert 'id="errors"' not in report.render_report(summary, tmp_path)
    write_errors({"status": "error"}, tmp_path)


def test_a_run_that_ends_writes_its_errors_and_shows_them(summary, tmp_path):
    folder = write_summary(summary, Layout(tmp_path / "root", "smoke"))
    assert len(read_json(folder / ERRORS_FILE)["models"]["digits_cnn"]["images"]) == SHOWN
    assert (folder / "report.html").read_text().count("<img ") == SHOWN
