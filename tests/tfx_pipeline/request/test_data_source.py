"""`--data JOB:SOURCE`: ingested once, cached, and ingested again when the source changes."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tfx_pipeline.cli import main
from tfx_pipeline.cli.views.train import _reading
from tfx_pipeline.ingest import IngestError
from tfx_pipeline.request.data_source import DataSource, DataSourceError, _files, parse, resolve
from trainers.data.features import DatasetError, DatasetInfo
from trainers.registry import recipes
from trainers.training.trained import Trained

ROOT = Path(__file__).resolve().parents[3]


def image(file, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    # Files that change within seconds are read again, regardless of their times.
    os.utime(file, (1e9 + seed, 1e9 + seed))


@pytest.fixture
def pets(tmp_path):
    for index in range(40):
        image(tmp_path / "pets" / ("cat", "dog")[index % 2] / f"{index}.png", index)
    return tmp_path / "pets"


@pytest.fixture
def table(tmp_path):
    """A table that lists images of another folder."""
    lines = ["file,kind"]
    for index in range(40):
        image(tmp_path / "elsewhere" / f"{index}.png", index)
        lines.append(f"elsewhere/{index}.png,{('cat', 'dog')[index % 2]}")
    (tmp_path / "list").mkdir()
    file = tmp_path / "list" / "pets.csv"
    file.write_text("\n".join(lines).replace("elsewhere", "../elsewhere") + "\n")
    return file


def quiet():
    return Console(file=io.StringIO(), width=200)


def made(data, cache):
    """The folder, and whether the job ran."""
    console = quiet()
    found = resolve(data, cache, console)
    return found, "wrote" in console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/digits", None),
        ("C", None),
        ("folder:/a b/c", DataSource("folder", "/a b/c")),
        ("tfds:oxford_flowers102", DataSource("tfds", "oxford_flowers102")),
        ("tfds:coco/2017", DataSource("tfds", "coco/2017")),
        (
            "csv:a.csv slices=race,age label=gender",
            DataSource("csv", "a.csv", ("label=gender", "slices=race,age")),
        ),
        ("tfrecord:/x/y validation=0.01", DataSource("tfrecord", "/x/y", ("validation=0.01",))),
    ],
)
def test_the_spelling(text, expected):
    assert parse(text) == expected


def test_a_folder_whose_name_looks_like_a_source_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder:x").mkdir()
    assert parse("folder:x") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foldr:/x", "no ingest job 'foldr'.*did you mean folder"),
        ("csv:", "without a source"),
        ("csv: label=gender", "without a source"),
        ("folder:/no/such/folder", "/no/such/folder does not exist"),
    ],
)
def test_errors_say_what_to_give(tmp_path, text, message):
    with pytest.raises(DataSourceError, match=message):
        resolve(text, tmp_path / "data", quiet())


def test_a_cache_within_the_source_is_refused(pets):
    with pytest.raises(DataSourceError, match="inside the source"):
        resolve(f"folder:{pets}", pets / "data", quiet())


def test_an_option_that_the_job_has_not_is_an_error(pets, tmp_path):
    with pytest.raises(IngestError, match="no option 'labl'"):
        resolve(f"folder:{pets} labl=x", tmp_path / "data", quiet())
    assert made(f"folder:{pets}", tmp_path / "data")[1]


def test_it_is_ingested_once_and_again_when_a_file_changes(pets, tmp_path):
    cache, text = tmp_path / "data", f"folder:{pets}"
    out, ran = made(text, cache)
    assert ran
    assert out.parent == cache
    assert out.name.startswith("pets-")
    first = json.loads((out / "dataset.json").read_text())
    assert made(text, cache) == (out, False)
    # An image whose pixels change, but not the size and the time of its file.
    other = bytearray((pets / "cat" / "0.png").read_bytes())
    image(pets / "cat" / "0.png", 4242)
    assert made(text, cache) == (out, True)
    changed = json.loads((out / "dataset.json").read_text())
    assert changed["fingerprint"] != first["fingerprint"]
    assert made(text, cache) == (out, False)
    # The old image yields the old records; added and removed images are noticed, too.
    (pets / "cat" / "0.png").write_bytes(other)
    assert made(text, cache) == (out, True)
    assert json.loads((out / "dataset.json").read_text())["fingerprint"] == first["fingerprint"]
    image(pets / "dog" / "new.png", 99)
    assert made(text, cache) == (out, True)
    (pets / "dog" / "new.png").unlink()
    assert made(text, cache) == (out, True)
    # Other options make another data set; a touched file does not.
    assert made(f"{text} test=0.3", cache)[0] != out
    (pets / "cat" / "2.png").touch()
    assert made(text, cache) == (out, False)


def test_a_link_to_a_folder_above_is_followed_once(pets):
    (pets / "cat" / "up").symlink_to(pets, target_is_directory=True)
    assert len(list(_files(str(pets)))) == 40


def test_files_that_a_table_lists_are_watched_too(table, tmp_path):
    text = f"csv:{table} label=kind"
    out, ran = made(text, tmp_path / "data")
    assert ran
    assert made(text, tmp_path / "data") == (out, False)
    image(table.parent.parent / "elsewhere" / "3.png", 777)
    assert made(text, tmp_path / "data") == (out, True)


def test_a_source_that_went_away_is_an_error_that_names_its_records(pets, tmp_path):
    out, _ = made(f"folder:{pets}", tmp_path / "data")
    shutil.rmtree(pets)
    with pytest.raises(DataSourceError, match=f"does not exist; the records .* {out}"):
        resolve(f"folder:{pets}", tmp_path / "data", quiet())


def test_a_data_set_of_tensorflow_datasets_is_found_again(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    def examples(first, last):
        return [
            (index, {"image": np.full((8, 8, 3), 4 * index, np.uint8), "label": index % 2})
            for index in range(first, last)
        ]

    images = {"train": examples(0, 40), "test": examples(40, 60)}
    store = tmp_path / "tfds"
    tfds.dataset_builders.store_as_tfds_dataset(
        name="shades",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
        ),
        split_datasets=images,
        data_dir=str(store),
        disable_shuffling=True,
    )
    text = f"tfds:shades data_dir={store} validation=0.2"
    out, ran = made(text, tmp_path / "data")
    assert ran
    info = json.loads((out / "dataset.json").read_text())
    assert info["classes"] == ["even", "odd"]
    assert info["splits"]["test"]["examples"] == 20
    assert info["splits"]["train"]["examples"] + info["splits"]["validation"]["examples"] == 40
    assert info["held_out"] == pytest.approx(info["splits"]["validation"]["examples"] / 40)
    assert made(text, tmp_path / "data") == (out, False)
    (shard,) = store.glob("shades/1.0.0/shades-test.tfrecord*")
    os.utime(shard, (1, 1))
    assert made(text, tmp_path / "data") == (out, False)
    with shard.open("ab") as file:
        file.write(shard.read_bytes())
    assert made(text, tmp_path / "data")[1]


def test_what_is_known_needs_no_ingest_code(pets, tmp_path):
    made(f"folder:{pets}", tmp_path / "data")
    code = (
        "import io, sys; from pathlib import Path; from rich.console import Console\n"
        "from tfx_pipeline.request.data_source import resolve\n"
        f"resolve({f'folder:{pets}'!r}, Path({str(tmp_path / 'data')!r}), Console())\n"
        "heavy = {'numpy', 'tensorflow', 'apache_beam', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


SMALL = ["data.image_size=8,8", "data.augment=", "train.epochs=1", "train.global_batch=8"]


def test_every_verb_takes_the_spelling(pets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = f"folder:{pets}"
    work, draft = tmp_path / "work", tmp_path / "draft"
    model = ["model.options.width=4", "model.options.stages=1"]
    for arguments in (
        ["train", "digits_cnn", *SMALL, *model, "--data", text, "--out", str(work)],
        ["lr", "digits_cnn", *SMALL, *model, "--data", text, "--steps", "10"],
        ["compress", str(work), "--out", str(draft), "--ptq", "dynamic", "--data", text],
        ["evaluate", str(work), "--data", text],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code, capsys.readouterr()
    # One data set for all of them.
    (records,) = (one for one in (tmp_path / "data").iterdir() if (one / "dataset.json").is_file())
    assert json.loads((work / "config.json").read_text())["data"]["dir"] == f"data/{records.name}"
    assert capsys.readouterr().out.count("wrote data/") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pets: shutil.rmtree(pets / "owl"), "3 classes, but the data set 'pets' has 2"),
        (lambda pets: (pets / "owl").rename(pets / "zebra"), "'zebra'"),
    ],
)
def test_compression_refuses_data_of_other_classes(pets, tmp_path, change, message):
    for index in range(12):
        image(pets / "owl" / f"{index}.png", 500 + index)
    info = DatasetInfo.load(resolve(f"folder:{pets}", tmp_path / "data", quiet()))
    config = recipes.get("digits_cnn")()
    model = Trained(None, config, info, [], 1)
    change(pets)
    data = resolve(f"folder:{pets}", tmp_path / "data", quiet())
    with pytest.raises(DatasetError, match=message):
        _reading(model, data)
