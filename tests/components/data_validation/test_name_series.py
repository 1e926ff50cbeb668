"""Series of images by their names, and what is no series."""

import numpy as np
import pytest

from components.data_validation.name_series import series_of, split_across


def found(names, labels, splits, classes):
    series = np.array([series_of(name, [label]) for name, label in zip(names, labels, strict=True)])
    return split_across(series, np.array(splits), classes=classes)


def test_frames_of_one_object_are_a_series():
    names = [f"images/{at % 2}/{at // 4:05d}_{at % 4:05d}.ppm" for at in range(80)]
    labels = [at // 4 % 2 for at in range(80)]
    whole = [int(at // 4 == 3) for at in range(80)]
    assert found(names, labels, whole, 2) == {}
    torn = [int(at == 14) for at in range(80)]
    assert found(names, labels, torn, 2) == {14: 12}
    first = [int(at == 12) for at in range(80)]
    assert found(names, labels, first, 2) == {13: 12, 14: 12, 15: 12}


@pytest.mark.parametrize(
    "name",
    [
        "cats/cat.{0}.jpg",  # Dogs-vs-cats: one series a class.
        "IMG_{0:04d}.jpg",  # A camera's numbers.
        "n{1:08d}_{0}.JPEG",  # ImageNet: one series a class.
        "{0:012d}.jpg",  # COCO.
        "{0}_a.png",
        "{0}-{0}x.png",
    ],
)
def test_other_names_are_no_series(name):
    names = [name.format(at, at % 30) for at in range(300)]
    labels = [at % 30 for at in range(300)]
    assert found(names, labels, [at // 30 % 2 for at in range(300)], 30) == {}


def test_one_number_of_two_classes_is_two_series():
    assert series_of("a/00001_00002.ppm", [1]) == series_of("b/00001_00007.ppm", [1])
    assert series_of("a/00001_00002.ppm", [1]) != series_of("b/00001_00002.ppm", [2])
    assert series_of("frame.ppm", [1]) == 0
    assert series_of("cam 017.jpg", [1]) == series_of("cam 018.jpg", [1]) != 0
    # Frames of a video show different objects.
    assert series_of("cam3-017.jpg", [1, 2]) == series_of("cam3-018.jpg", [])
