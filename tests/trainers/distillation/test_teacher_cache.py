"""Cached logits of a teacher are bit for bit those that it computes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import ConfigError, override
from trainers.data.pipeline import train_batches
from trainers.distillation.teacher import Teacher
from trainers.distillation.teacher_cache import cached_logits, with_teacher
from trainers.keras import keras
from trainers.loop import fit
from trainers.training.trained import save_trained

STEPS, BATCH = 3, 32


@pytest.fixture(scope="module")
def student(config, trained, tmp_path_factory):
    """A configuration with the tiny network as teacher, and a cache."""
    folder = tmp_path_factory.mktemp("taught")
    save_trained(trained, folder / "teacher")
    names = [f"distill.teacher={folder / 'teacher'}", f"distill.cache_dir={folder / 'cache'}"]
    return override(config, [*names, 'data.augment=["shift", "mixup(0.4)"]'])


@pytest.fixture(scope="module")
def teacher(student, trained):
    return Teacher.load(student, trained.info)


@pytest.fixture(autouse=True)
def seeded(student):
    """As in a run: tf.data's shuffling takes TensorFlow's global seed in."""
    keras.utils.set_random_seed(student.train.seed)


@pytest.fixture
def silent(teacher, monkeypatch):
    """The same teacher, that must not run."""

    def asked(images):
        raise AssertionError("the teacher ran")

    twin = Teacher(
        teacher.source,
        asked,
        classes=teacher.classes,
        image_size=teacher.image_size,
        files=teacher._files,
    )
    assert twin.digest == teacher.digest
    return twin


def files(config):
    return sorted(p.name for p in Path(config.distill.cache_dir).rglob("epoch-*.npy"))


def test_cached_logits_are_those_of_the_teacher(student, trained, teacher, silent):
    kept = cached_logits(student, trained.info, teacher, 1)
    assert (kept.shape, kept.dtype) == ((STEPS, BATCH, 10), np.float32)
    assert isinstance(kept, np.memmap)
    compute = tf.function(teacher)
    batches = train_batches(student, trained.info, epoch=1)
    for step, (images, _) in enumerate(batches):
        np.testing.assert_array_equal(kept[step], compute(images))
    assert not np.array_equal(kept[0], kept[1])
    np.testing.assert_array_equal(cached_logits(student, trained.info, silent, 1), kept)
    with pytest.raises(AssertionError, match="the teacher ran"):
        cached_logits(student, trained.info, silent, 2)


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ("model.options.width=4", True),
        ("optim.learning_rate=0.3", True),
        ("distill.temperature=9", True),
        ("train.epochs=90", True),
        ("data.cache_mb=7", True),
        ("train.seed=6", False),
        ("train.global_batch=30", False),
        ('data.augment=["shift"]', False),
        ("data.image_size=[8, 8]", False),
        ("data.resize=bilinear", False),
        ("data.fit=stretch", False),
    ],
)
def test_students_share_logits_for_the_same_images(
    change, shared, student, trained, teacher, silent
):
    cached_logits(student, trained.info, teacher, 0)
    other = override(student, [change])
    if shared:
        cached_logits(other, trained.info, silent, 0)
    else:
        with pytest.raises(AssertionError, match="the teacher ran"):
            cached_logits(other, trained.info, silent, 0)


def test_other_data_is_another_cache(student, trained, teacher, silent, tmp_path):
    cached_logits(student, trained.info, teacher, 0)
    data = shutil.copytree(student.data.dir, tmp_path / "moved")
    moved = override(student, [f"data.dir={data}"])
    cached_logits(moved, trained.info, silent, 0)
    renamed = replace(trained.info, classes=tuple(reversed(trained.info.classes)))
    with pytest.raises(AssertionError, match="the teacher ran"):
        cached_logits(moved, renamed, silent, 0)
    # As long as before: only the order of the records is another.
    (shard,) = data.glob("Split-train/*")
    before = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for one in reversed(before):
            writer.write(one)
    with pytest.raises(AssertionError, match="the teacher ran"):
        cached_logits(moved, trained.info, silent, 0)


def test_other_code_is_another_cache(student, trained, teacher, silent, monkeypatch):
    cached_logits(student, trained.info, teacher, 0)
    monkeypatch.setattr(
        "trainers.distillation.teacher_cache.code_digest", lambda *modules, index: "other"
    )
    with pytest.raises(AssertionError, match="the teacher ran"):
        cached_logits(student, trained.info, silent, 0)


def test_half_a_file_is_made_again(student, trained, teacher, tmp_path):
    config = override(student, [f"distill.cache_dir={tmp_path}"])
    whole = np.array(cached_logits(config, trained.info, teacher, 0))
    (path,) = tmp_path.rglob("epoch-*.npy")
    path.write_bytes(path.read_bytes()[:500])
    np.testing.assert_array_equal(cached_logits(config, trained.info, teacher, 0), whole)


def test_a_failure_leaves_no_file(student, trained, silent, tmp_path):
    config = override(student, [f"distill.cache_dir={tmp_path}"])
    with pytest.raises(AssertionError, match="the teacher ran"):
        cached_logits(config, trained.info, silent, 0)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".npy"]


def test_there_is_none_without_a_folder(student, trained, silent):
    assert cached_logits(override(student, ["distill.cache_dir="]), trained.info, silent, 0) is None


@pytest.mark.parametrize("change", ["data.service=grpc://host:1", "train.strategy=multi_worker"])
def test_images_in_no_fixed_order_are_refused(change, student, trained, silent):
    with pytest.raises(ConfigError, match=r"distill\.cache_dir needs images in one order"):
        cached_logits(override(student, [change]), trained.info, silent, 0)


@pytest.mark.parametrize(("replicas", "start"), [(1, 2), (2, 0), (4, 2)])
def test_each_replica_gets_the_answers_to_its_images(replicas, start, student, trained, teacher):
    kept = cached_logits(student, trained.info, teacher, 0)
    context = tf.distribute.InputContext(1, 0, replicas)
    batches = train_batches(student, trained.info, epoch=0, input_context=context, start_step=start)
    taught = with_teacher(batches, kept, start_step=start)
    assert taught.element_spec[2].shape == (BATCH // replicas, 10)
    count = 0
    for images, labels, logits in taught:
        assert labels.shape == (BATCH // replicas, 10)
        np.testing.assert_allclose(logits, teacher(images), atol=1e-5)
        count += 1
    assert count == (STEPS - start) * replicas


def test_a_run_with_kept_answers_is_the_run_without(student, trained, tmp_path, figures):
    changes = ["train.epochs=2", "distill.weight=0.7"]
    changes.append('model.options={"width": 4, "depth": 1, "stages": 1}')
    short = override(student, changes)
    asked = fit(override(short, ["distill.cache_dir="]), tmp_path / "asked")
    kept = fit(short, tmp_path / "kept")
    np.testing.assert_array_equal(figures(kept.history), figures(asked.history))


def test_a_batch_of_another_size_is_refused(student, trained, teacher):
    kept = cached_logits(student, trained.info, teacher, 0)
    batches = train_batches(override(student, ["train.global_batch=24"]), trained.info, epoch=0)
    with pytest.raises(
        ValueError, match="batches of 24 images are not equal parts of the cached 32"
    ):
        with_teacher(batches, kept)
