import csv
import io
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.image_header import ImageError, check_image


def encoded(kind, shape=(5, 7, 3), mode=None, **options):
    image = Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "shape", "mode", "channels"),
    [
        ("JPEG", (5, 7, 3), None, 3),
        ("JPEG", (5, 7), None, 1),
        ("JPEG", (5, 7, 3), "CMYK", 4),
        ("PNG", (5, 7, 3), None, 3),
        ("PNG", (5, 7), None, 1),
        ("PNG", (5, 7, 3), "LA", 2),
        ("PNG", (5, 7, 4), None, 4),
        ("PNG", (5, 7, 3), "P", 3),
        ("GIF", (5, 7, 3), None, 3),
        ("BMP", (5, 7, 3), None, 3),
        ("BMP", (5, 7), None, 1),
        ("BMP", (5, 7, 4), None, 4),
    ],
)
def test_reads_format_size_and_channels(kind, shape, mode, channels):
    header = check_image(encoded(kind, shape, mode))
    assert (header.format, header.height, header.width) == (kind, 5, 7)
    assert header.channels == channels


def test_progressive_jpeg_with_exif_is_read():
    exif = Image.Exif()
    exif[0x0112] = 6
    header = check_image(encoded("JPEG", progressive=True, exif=exif))
    assert (header.height, header.width) == (5, 7)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, not an image", "not an image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"II*\0" + bytes(20), "TIFF"),
        (b"<html></html>", "text"),
        (b"P6 1 1 255 abc", "PPM"),
        (b"\xff\xd8\xff", "broken"),
        (b"\x89PNG\r\n\x1a\n", "broken"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "broken PNG"),
        (b"GIF89a\x01", "broken"),
        (b"BM", "broken"),
    ],
)
def test_errors_have_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        check_image(data)


def test_pixel_budget_is_checked_from_the_header():
    data = encoded("PNG", (30, 40))
    assert check_image(data, max_pixels=1200).height == 30
    with pytest.raises(ImageError, match=r"30 x 40 = 1,200 pixels is over the limit of 1,199"):
        check_image(data, max_pixels=1199)


@pytest.mark.parametrize("mode", ["P", "1"])
def test_bmp_that_tensorflow_would_misread_is_refused(mode):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    with pytest.raises(ImageError, match="save it as PNG"):
        check_image(buffer.getvalue())


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b""]), st.binary())
def test_any_bytes_end_in_a_header_or_an_image_error(magic, rest):
    try:
        header = check_image(magic + rest)
    except ImageError:
        return
    assert header.height >= 1
    assert header.width >= 1


@pytest.mark.shared_data
def test_sizes_of_real_odd_files_agree_with_pillow(shared_data, tmp_path):
    with tarfile.open(shared_data / "odd_images_A.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    agreed = 0
    for row in csv.DictReader((tmp_path / "manifest.csv").read_text().splitlines()):
        if (
            row["pillow_format"] not in ("JPEG", "PNG", "GIF", "BMP")
            or row["pillow_result"] != "ok"
        ):
            continue
        try:
            header = check_image((tmp_path / row["file"]).read_bytes())
        except ImageError:
            assert row["pillow_format"] in ("BMP", "GIF"), row["file"]
            continue
        assert f"{header.width}x{header.height}" == row["size"], row["file"]
        agreed += 1
    assert agreed > 500


def gif(canvas, frames):
    """A GIF of (height, width) whose frames are (top, left, height, width), one color each."""
    height, width = canvas
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    for top, left, rows, columns in frames:
        data += b"\x21\xf9\x04\0\0\0\0\0"
        data += b"\x2c" + struct.pack("<HHHHB", left, top, columns, rows, 0)
        data += b"\x02\x02\x4c\x01\0"
    return data + b";"


def test_gif_frames_after_the_first_are_checked():
    assert check_image(gif((10, 20), [(0, 0, 10, 20), (2, 3, 4, 5)])).width == 20
    with pytest.raises(ImageError, match="first frame is 5 x 20"):
        check_image(gif((10, 20), [(0, 0, 5, 20)]))
    with pytest.raises(ImageError, match="frame 1 is 60000 x 60000 at 0, 0, past its edge"):
        check_image(gif((10, 10), [(0, 0, 10, 10), (0, 0, 60000, 60000)]))
    with pytest.raises(ImageError, match="first 5 frames have 80,000,000 pixels"):
        check_image(gif((4000, 4000), [(0, 0, 4000, 4000)] * 9))
