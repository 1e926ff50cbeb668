import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from components.data_validation.anomaly import make_settings
from tfx_pipeline.cli.views.validate import validate, write_page
from tfx_pipeline.report import gallery, render_report
from trainers.data.features import DatasetError

HOSTILE = "<script>alert('x')</script>[red]"


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def record(seed, label, name=""):
    encoded = png(seed)
    return {
        "image/encoded": encoded,
        "image/class/label": label,
        "image/filename": name or f"{seed}.png",
    }


@pytest.fixture
def clean(tmp_path, write_dataset):
    splits = {"train": [record(0, 0), record(1, 1)], "test": [record(2, 0), record(3, 1)]}
    return write_dataset(tmp_path / "clean", splits, classes=("cat", "dog"))


@pytest.fixture
def leaky(tmp_path, write_dataset):
    splits = {
        "train": [record(0, 0), record(1, 1)],
        "test": [record(0, 0, HOSTILE), record(3, 1), {**record(4, 1), "image/encoded": b"GIF8"}],
    }
    return write_dataset(tmp_path / "leaky", splits, classes=("cat", f"dog {HOSTILE}"))


def run(folder, **options):
    """(exit status, what was printed)."""
    console = Console(file=io.StringIO(), width=130, record=True)
    return validate(folder, console=console, **options), console.export_text()


def test_a_clean_data_set_is_status_0(clean):
    status, printed = run(clean)
    assert status == 0
    assert "4 records: within the limits" in printed
    assert "every image decodes" in printed


def test_an_exceeded_limit_is_status_3_and_names_the_images(leaky):
    status, printed = run(leaky)
    assert status == 3
    assert "2 over the limit" in printed
    (leak,) = [line for line in printed.splitlines() if line.strip().startswith("leakage")]
    assert re.search(r"error +1 +0 +", leak)
    assert "[red]" in printed


def test_other_limits_give_another_verdict(leaky):
    settings = make_settings({"limits": {"leakage": 1, "corrupt": 1}})
    assert run(leaky, settings=settings)[0] == 0


def test_frames_of_one_object_in_two_splits_fail_with_a_remedy(tmp_path, write_dataset):
    def frame(seed):
        """The image of `seed` with another corner: other bytes, but nearly the same."""
        pixels = np.array(Image.open(io.BytesIO(png(seed))))
        pixels[0, 0] ^= 1
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return {**record(seed, seed % 2, f"{seed} again.png"), "image/encoded": buffer.getvalue()}

    def data(leaks, name):
        test = [*map(frame, range(leaks)), *(record(100 + i, i % 2) for i in range(40 - leaks))]
        train = [record(i, i % 2) for i in range(6)]
        folder = tmp_path / name
        return write_dataset(folder, {"train": train, "test": test}, classes=("cat", "dog"))

    assert run(data(2, "few"))[0] == 0  # 5 % of 40
    many = data(3, "many")
    status, printed = run(many)
    assert status == 3
    assert re.search(r"near_leakage\s+warning\s+3\s+2 ", printed)
    assert "ingest again with --group COLUMN" in " ".join(printed.split())
    assert run(many, settings=make_settings({"max_near_leakage": 0.08}))[0] == 0


def test_the_page_has_its_images_and_no_scripts(leaky, tmp_path):
    out = tmp_path / "pages" / "page.html"
    status, printed = run(leaky, out=out)
    text = out.read_text(encoding="utf-8")
    assert status == 3
    assert str(out) in printed
    assert text.count('<img src="data:image/jpeg;base64,') == 2
    assert '<li class="pair">' in text
    assert "over the limits" in text
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", text)
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_names_that_are_not_utf_8_are_escaped(tmp_path, write_dataset):
    splits = {"train": [record(0, 0), record(1, 1)], "test": [record(0, 0, b"caf\xe9.png")]}
    folder = write_dataset(tmp_path / "data", splits, classes=("cat\udcff", "dog"))
    printed, out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), tmp_path / "page\udcff.html"
    validate(folder, out=out, console=Console(file=printed, width=200))
    printed.seek(0)
    text, page = printed.read(), out.read_text(encoding="utf-8")
    assert r"caf\xe9.png" in text
    assert r"page\udcff.html" in text
    assert r"caf\xe9.png" in page
    assert r"cat\udcff" in page


def test_a_page_that_cannot_be_written_leaves_the_older_one(clean, tmp_path, monkeypatch):
    from components.data_validation.image_anomalies import find_anomalies
    from tfx_pipeline.cli.views import validate as module

    out = tmp_path / "page.html"
    out.write_text("older")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(module, "render_images", lambda *_: "newer")
    monkeypatch.setattr("components.data_validation.gallery.write_gallery", lambda *_, **__: None)
    with pytest.raises(OSError, match="No space"):
        write_page(clean, find_anomalies(clean), out, shown=1)
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.glob("*page*")] == ["page.html"]


def test_a_missing_data_set_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(DatasetError, match="sightline ingest"):
        run(tmp_path)


def test_a_runs_report_shows_the_same_section(leaky, tmp_path, smoke_summary):
    from components.data_validation.gallery import write_gallery
    from components.data_validation.image_anomalies import find_anomalies

    write_gallery(leaky, find_anomalies(leaky), tmp_path / "artifact", shown=5)
    smoke_summary["lineage"].append(
        {"id": 9, "type": "X", "producer": gallery.PRODUCER, "uri": str(tmp_path / "artifact")}
    )
    text = render_report(smoke_summary)
    assert text.count('<img src="data:image/jpeg;base64,') == 2
    assert "the same bytes in two splits" in text


@pytest.mark.parametrize("content", [None, "{}", "[3]", "no JSON"])
def test_a_report_whose_artifacts_are_gone_is_still_a_report(content, tmp_path, smoke_summary):
    if content is not None:
        (tmp_path / "anomalies.json").write_text(content)
    smoke_summary["lineage"].append({"producer": gallery.PRODUCER, "uri": str(tmp_path)})
    assert gallery.images_of_run(smoke_summary) is None
    assert "data:image" not in render_report(smoke_summary)


def test_reading_a_report_does_not_wait_for_tensorflow():
    program = (
        "import sys, tfx_pipeline.report, tfx_pipeline.cli.views.validate\n"
        "print('tensorflow' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[4]
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert found.stdout.strip() == "False"


@pytest.mark.browser
def test_a_browser_opens_the_page_without_messages(leaky, tmp_path, open_page):
    run(leaky, out=tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    assert page.console == []
    assert page.requested == {(tmp_path / "page.html").as_uri()} or not page.requested


def test_a_series_in_two_splits_suggests_groups(tmp_path, write_dataset):
    frames = [record(at, at % 2, f"{at // 4:03d}_{at % 4:03d}.png") for at in range(80)]
    splits = {"train": frames[:-2], "test": frames[-2:]}
    folder = write_dataset(tmp_path / "frames", splits, classes=("cat", "dog"))
    status, printed = run(folder)
    assert status == 0
    assert re.search(r"series_split\s+note\s+2 ", printed)
    assert "by their names, 2 images belong" in printed
    expression = re.search(r"--group '(.*?)'", printed)
    assert expression
    assert re.search(expression[1], "019_003.png")[1] == "019"
