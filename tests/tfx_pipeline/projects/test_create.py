"""`sightline new`: findings, files, suggestions and errors."""

import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tfx_pipeline.ingest import IngestError, ingest
from tfx_pipeline.projects import create as module
from tfx_pipeline.projects.create import NewProject, create
from tfx_pipeline.projects.find import ProjectError, experiments_of, find
from tfx_pipeline.projects.grouping import find_groups
from tfx_pipeline.projects.sources import inspect_source
from tfx_pipeline.projects.suggest import Suggestion
from tfx_pipeline.projects.text import ProjectFacts, pipeline_text
from trainers import registry
from trainers.config import override
from trainers.data.features import DatasetInfo

pytestmark = pytest.mark.usefixtures("home")


def image(file, seed, side=24):
    """A JPEG of coarse noise, distinct for each seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file)


def photos(folder, counts):
    """A folder of class folders with `counts` images."""
    seed = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            seed += 1
            image(folder / name / f"{chr(97 + number)}.jpg", seed)
    return folder


def quiet():
    return Console(file=StringIO(), width=120)


def test_a_project_is_complete_and_runs_as_it_is_written(home):
    source = photos(home / "my photos", {"cat": 12, "dog": 12})
    console = quiet()
    assert create(NewProject("pets", source), console) == Path("pets")
    assert sorted(one.name for one in (home / "pets").iterdir()) == [
        *("README.md", "data", "pipeline.py")
    ]
    assert sorted(one.name for one in home.iterdir()) == ["my photos", "pets"]
    info = DatasetInfo.load(home / "pets" / "data")
    assert (info.name, info.classes) == ("pets", ("cat", "dog"))
    printed = console.file.getvalue()
    for words in ("found    2 classes", "train.global_batch", "next: sightline run pets"):
        assert words in printed
    assert ".pets.new" not in printed
    text = (home / "pets" / "pipeline.py").read_text()
    assert f"images an epoch of {info.splits['train'].examples}" not in text
    found = find("pets")
    config = experiments_of(found, found.pipeline, ())["pets"]
    wanted = module.suggest(home / "pets" / "data", info)
    for key, value in wanted.overrides.items():
        section, _, field = key.partition(".")
        have = getattr(getattr(config, section), field)
        shown = ",".join(map(str, have)) if isinstance(have, tuple) else str(have)
        assert shown == value, key
        reason = " ".join(wanted.reasons[key].split()[:4])
        assert f"# {reason}" in text, key
    for key, value in wanted.gates.items():
        assert found.pipeline.gates[key] == value
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "pets/pipeline.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert formatted.returncode == 0, formatted.stdout
    readme = (home / "pets" / "README.md").read_text()
    assert "sightline run pets gates.min_top1=0.9" in readme
    assert "'my photos'" in readme or "my photos'" in readme


def test_every_kind_of_value_is_written_as_it_is_read(home):
    overrides = {
        "data.image_size": "128,96",
        "data.augment": "random_resized_crop(area=(0.6, 1), aspect=(0.85, 1.18)),rotate(12),"
        "color_jitter(0.7, 0.7, 0.5)",
        "model.options": '{"width": 32, "name": "a \\"b\\" \'c\'"}',
        "optim.epsilon": "1e-9",
        "optim.nesterov": "false",
        "train.xla": "true",
    }
    reason = "why it is so, in more words than one line of the file holds, " * 3
    suggestion = Suggestion("finetune", overrides, {}, dict.fromkeys(overrides, reason))
    info = DatasetInfo("p", "classification", ("a", "b"), 0, {}, fingerprint="")
    facts = ProjectFacts("pets", info, suggestion, made_by="sightline new pets x")
    (home / "pets").mkdir()
    text = pipeline_text(facts)
    (home / "pets" / "pipeline.py").write_text(text)
    found = find("pets")
    given = [f"{key}={value}" for key, value in overrides.items()]
    wanted = [*given, "name=pets", f"data.dir={home / 'pets' / 'data'}"]
    expected = override(registry.recipes.get("finetune")(), wanted)
    assert experiments_of(found, found.pipeline, ()) == {"pets": expected}
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("# why it is so, in more words") == len(overrides)


def test_records_are_used_where_they_are(home):
    photos(home / "photos", {"cat": 12, "dog": 12})
    ingest("folder", home / "records", where=home / "photos")
    create(NewProject("pets", home / "records", out=home / "deep" / "er"), quiet())
    project = home / "deep" / "er" / "pets"
    assert sorted(one.name for one in project.iterdir()) == ["README.md", "pipeline.py"]
    assert find(str(project)).data == str(home / "records")
    with pytest.raises(ProjectError, match=r"is already a data set, so label=x has no effect"):
        create(NewProject("more", home / "records", options=("label=x",)), quiet())


def test_foreign_shards_are_linked_not_copied(home):
    photos(home / "photos", {"cat": 12, "dog": 12})
    ingest("folder", home / "records", where=home / "photos")
    for split in ("train", "validation", "test"):
        (home / "shards").mkdir(exist_ok=True)
        shard = home / "records" / f"Split-{split}" / "data_tfrecord-00000-of-00001"
        (home / "shards" / f"{split}-00000-of-00001").write_bytes(shard.read_bytes())
    create(NewProject("pets", home / "shards"), quiet())
    links = list((home / "pets" / "data").glob("Split-*/*"))
    assert links
    assert all(one.is_symlink() and one.resolve().parent == home / "shards" for one in links)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 1, "dog": 1}, ["has 2 images", "at least 10", "add images"]),
        (
            {"cat": 12, "dog": 1},
            ["'dog' (1)", "training and tests need one each", "remove the class"],
        ),
        ({"cat": 12}, ["only one class, 'cat'", "add a second class folder"]),
        ({"cat": 0, "dog": 0}, ["no file", "<class>/*.jpg"]),
    ],
)
def test_too_little_is_refused_before_anything_is_written(home, counts, words):
    photos(home / "photos", counts)
    with pytest.raises((ProjectError, IngestError)) as failed:
        create(NewProject("pets", home / "photos"), quiet())
    for word in words:
        assert word in str(failed.value)
    assert [one.name for one in home.iterdir()] == ["photos"]


def test_what_cannot_be_a_project_is_refused(home):
    source = photos(home / "photos", {"cat": 12, "dog": 12})
    for name, words in {
        "smoke": "there already is a pipeline 'smoke'",
        "digits_cnn": "there already is a recipe 'digits_cnn'",
        "a/b": "use --out for the parent folder",
        "pets.py": "not end in .py",
    }.items():
        with pytest.raises(ProjectError, match=words):
            create(NewProject(name, source), quiet())
    with pytest.raises(ProjectError, match=r"would be inside .*photos"):
        create(NewProject("pets", source, out=source), quiet())
    with pytest.raises(ProjectError, match="nowhere does not exist"):
        create(NewProject("pets", home / "nowhere"), quiet())
    (home / "pets").mkdir()
    (home / "pets" / "mine.txt").write_text("mine")
    with pytest.raises(ProjectError, match="pets already exists; choose another"):
        create(NewProject("pets", source), quiet())
    assert (home / "pets" / "mine.txt").read_text() == "mine"
    image(home / "loose" / "a.jpg", 1)
    (home / "loose" / "labels.csv").write_text("file,label\na.jpg,1\n")
    with pytest.raises(ProjectError, match=r"did you mean the table .*labels\.csv\?"):
        create(NewProject("signs", home / "loose"), quiet())
    with pytest.raises(ProjectError, match="Unpack an archive first"):
        create(NewProject("signs", home / "loose" / "a.jpg"), quiet())


def test_a_failure_leaves_nothing_and_an_empty_folder_is_taken(home, monkeypatch):
    source = photos(home / "photos", {"cat": 12, "dog": 12})

    def failing(*_):
        assert (home / "deep" / ".pets.new" / "data" / "dataset.json").is_file()
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(module, "suggest", failing)
        with pytest.raises(OSError, match="disk full"):
            create(NewProject("pets", source, out=home / "deep"), quiet())
    assert [one.name for one in home.iterdir()] == ["photos"]
    (home / "deep" / "pets").mkdir(parents=True)
    # Left by a process that was killed.
    (home / "deep" / ".pets.new" / "data").mkdir(parents=True)
    create(NewProject("pets", source, out=home / "deep"), quiet())
    assert [one.name for one in (home / "deep").iterdir()] == ["pets"]


def frames(folder, tracks=12, each=4):
    """Frames of objects: similar within a track, different between tracks of a class."""
    rows = ["file,label,track,camera,width"]
    for track in range(tracks):
        rng = np.random.default_rng(track)
        scene = rng.integers(0, 255, (6, 6, 3)).astype(float)
        for number in range(each):
            pixels = np.clip(scene + rng.normal(0, 12, scene.shape), 0, 255).astype(np.uint8)
            file = folder / f"{track % 2}" / f"{track:05}_{number:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC).save(file)
            rows.append(f"{file.relative_to(folder)},{track % 2},{track},{number % 2},{number % 7}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_frames_of_one_object_are_kept_together(home):
    source = frames(home / "signs")
    by_name = find_groups(inspect_source(source, ()))
    assert (by_name.groups, by_name.divided) == (12, 0)
    by_column = find_groups(inspect_source(source / "labels.csv", ()))
    assert by_column.spec == "track"
    console = quiet()
    create(NewProject("signs2", source / "labels.csv"), console)
    assert "12 groups by `track`" in console.file.getvalue()
    assert "--group none" in console.file.getvalue()
    assert DatasetInfo.load(home / "signs2" / "data").group == "track"
    create(NewProject("signs3", source / "labels.csv", group="none"), console)
    assert DatasetInfo.load(home / "signs3" / "data").group == ""
    create(NewProject("signs4", source / "labels.csv", group="label,track"), console)
    assert DatasetInfo.load(home / "signs4" / "data").group == "label,track"


def test_groups_that_the_source_tears_are_reported_not_moved(home):
    source = frames(home / "all")
    for split in ("train", "test"):
        for name in "01":
            (home / "signs" / split / name).mkdir(parents=True)
    for file in sorted(source.glob("*/*.png")):
        split = "test" if file.stem.endswith("3") else "train"
        file.rename(home / "signs" / split / file.parent.name / file.name)
    assert find_groups(inspect_source(home / "signs", ())).divided == 12
    console = quiet()
    create(NewProject("signs2", home / "signs"), console)
    assert "12 groups are in two splits of the source" in console.file.getvalue()
    assert DatasetInfo.load(home / "signs2" / "data").group == ""


@pytest.mark.shared_data
def test_real_sets_are_grouped_where_they_have_to_be(extract):
    signs = extract("gtsrb_A")
    assert find_groups(inspect_source(signs / "labels.csv", ())).spec == "label,track"
    assert find_groups(inspect_source(signs / "images", ())).groups == 215
    assert find_groups(inspect_source(extract("cats_dogs_A"), ())) is None
    faces = extract("fairface_A") / "labels.csv"
    assert find_groups(inspect_source(faces, ("label=gender",))) is None
    with pytest.raises(ProjectError, match=r"'images'; did you mean .*/images\?.*labels\.csv\?"):
        inspect_source(signs, ())
