import pytest

from core.bundle import open_bundle
from core.image_header import check_image
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.images import read_image, sample_jpeg, sample_of


def test_the_sample_is_a_jpeg_and_always_the_same():
    data = sample_jpeg(48, 64)
    header = check_image(data)
    assert (header.height, header.width) == (48, 64)
    assert data == sample_jpeg(48, 64)
    assert data.startswith(b"\xff\xd8\xff")


def test_the_sample_of_a_small_model_is_no_thumbnail(tiny_draft):
    header = check_image(sample_of(open_bundle(tiny_draft)))
    assert (header.height, header.width) == (224, 224)


def test_files_that_are_no_images_are_refused(tmp_path, make_png):
    file = tmp_path / "dot.png"
    file.write_bytes(make_png((1, 2, 3)))
    assert read_image(file) == make_png((1, 2, 3))
    file.write_bytes(b"text")
    with pytest.raises(BenchmarkError, match=r"dot\.png cannot be sent"):
        read_image(file)
    with pytest.raises(BenchmarkError, match="give the path of a file"):
        read_image(tmp_path)
