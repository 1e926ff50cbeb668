import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from core.files import write_json
from tfx_pipeline.benchmarks import data
from tfx_pipeline.benchmarks.data import measure, ratio, table
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo


def jpeg(level, side=40):
    pixels = np.random.default_rng(level).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six JPEGs at two depths, and a text file."""
    target = tmp_path / "in"
    for number in range(6):
        file = target / str(number % 2) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    (target / "readme.txt").write_text("no image")
    return target


def test_images_come_from_folders_and_tars(folder, tmp_path):
    archive = tmp_path / "in.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "in")
    found = data._images(folder, 100)
    assert sorted(found) == sorted(jpeg(number) for number in range(6))
    assert sorted(data._images(archive, 100)) == sorted(found)
    assert data._images(folder, 4) == found[:4]


def test_unusable_sources_are_named(tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(0))
    with pytest.raises(DatasetError, match="has 1 JPEGs, but at least 2 are needed"):
        measure(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder or a tar"):
        measure(tmp_path / "one.jpg")
    with pytest.raises(ValueError, match="rounds and images must be at least 1"):
        measure(tmp_path, rounds=0)


def test_ratios_are_of_the_same_round():
    rates = {data.DECODE: [100.0, 50.0, 10.0], "x": [90.0, 45.0, 30.0], "ingest": [25.0]}
    limits = stats.ttest_1samp(np.log([0.9, 0.9, 3.0]), 0.0).confidence_interval(0.95)
    found = ratio({"rates": rates}, "x")
    assert found == pytest.approx([stats.gmean([0.9, 0.9, 3.0]), *np.exp(limits)])
    # Measured once, ingest has no interval.
    assert ratio({"rates": rates}, "ingest") == [0.5]
    assert ratio({"rates": rates}, data.DECODE) == [1.0]


@pytest.mark.slow
@pytest.mark.timeout(900)  # 40 s of CPU, on a machine that may be shared.
def test_every_input_is_measured_and_shown(folder, tmp_path):
    # Images of 2 kB: at the default size it would stream 1.7 million of them.
    figures = measure(folder, rounds=1, images=64, image_size=(16, 16), memory_mib=1)
    assert figures["images"] == 6
    names = list(figures["rates"])
    assert len(names) == 9
    assert all(min(rates) > 0 for rates in figures["rates"].values())
    assert all(mb > 50 for mb in figures["memory_mb"].values())
    write_json(tmp_path / "out.json", figures)
    assert json.loads((tmp_path / "out.json").read_text()) == figures
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(figures))
    text = console.export_text()
    assert all(name in text for name in names)
    assert "10x data" in text
    decoding = next(line for line in text.splitlines() if data.DECODE in line)
    assert decoding.split()[-1] == "1.00"


def test_the_table_has_a_row_an_input():
    rates = {"ingest": [25.0], data.DECODE: [100.0, 50.0], "x": [1200.0, 40.0]}
    figures = {
        "machine": {"cpu": "Z80", "cores": "1"},
        "images": 6,
        "mean_kb": 1.5,
        "rounds": 2,
        "rates": rates,
        "memory_mb": {"1x": 400.2, "10x": 410.0},
    }
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(figures))
    lines = console.export_text().splitlines()
    low, high = np.exp(stats.ttest_1samp(np.log([12.0, 0.8]), 0.0).confidence_interval(0.95))
    assert next(line for line in lines if line.startswith("x")).split() == [
        *("x", "620", "40", "1,200", "3.10"),
        *(f"{low:.2f}", "to", f"{high:.2f}"),
    ]
    assert "Z80, 1 cores; 6 JPEGs of 1.5 kB" in " ".join(" ".join(lines).split())
    assert lines[-1].split() == ["peak", "memory,", "10x", "data", "410", "MB"]


def test_reading_counts_whole_batches(folder, tmp_path):
    records, _ = data._ingested(data._images(folder, 6), tmp_path)
    larger = data._repeated(records, tmp_path / "larger", 11)
    assert list(data._read(larger)) == [1, 2]  # 66 images in batches of 32.


def test_repeated_shards_are_a_data_set_so_many_times_as_large(folder, tmp_path):
    records, rate = data._ingested(data._images(folder, 6), tmp_path)
    assert rate > 0
    larger = data._repeated(records, tmp_path / "larger", 3)
    info = DatasetInfo.load(larger)
    assert info.splits["train"].examples == 18
    files = list((larger / "Split-train").iterdir())
    assert len(files) == info.splits["train"].shards
    assert sorted(data._images(larger, 100)) == sorted(data._images(records, 100) * 3)
    assert (larger / DATASET_FILE).is_file()
