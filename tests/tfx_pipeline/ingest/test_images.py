import io
import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.image_header import ImageError, ImageTooLargeError
from tfx_pipeline.ingest.images import load_stored, name_differs
from trainers.data.decode import load_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def save(image, kind, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def kinds(stored):
    return {kind for kind, _ in stored.found}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_what_the_graph_decodes_is_kept_byte_for_byte(kind):
    data = save(RGB, kind)
    stored = load_stored(data)
    assert stored.encoded == data
    assert stored.facts.format == kind
    assert not stored.facts.transcoded


@pytest.mark.parametrize(
    ("kind", "options"), [("PPM", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_other_formats_become_png_losslessly(kind, options):
    stored = load_stored(save(RGB, kind, **options))
    assert stored.facts.format == "PNG"
    assert kinds(stored) == {"transcoded"}
    np.testing.assert_array_equal(load_image(stored.encoded), RGB)


def test_palette_bmp_becomes_png_with_its_colors():
    palette = Image.fromarray(RGB).convert("P")
    stored = load_stored(save(palette, "BMP"))
    assert stored.facts.format == "PNG"
    assert kinds(stored) == {"transcoded"}
    np.testing.assert_array_equal(load_image(stored.encoded), np.asarray(palette.convert("RGB")))


def test_16_bit_tiff_and_pgm_keep_the_high_byte_as_16_bit_png_does():
    values = RNG.integers(0, 2**16, (6, 9), dtype=np.uint16)
    expected = load_image(save(Image.fromarray(values), "PNG"))
    for kind in ("TIFF", "PPM"):
        stored = load_stored(save(Image.fromarray(values), kind))
        assert {"transcoded", "sixteen_bits", "grayscale"} <= kinds(stored)
        np.testing.assert_array_equal(load_image(stored.encoded), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"plain text", "not an image"),
        (save(RGB, "PNG")[:500], "damaged PNG"),
        (save(RGB, "JPEG")[:500], "damaged JPEG"),
        (save(RGB, "TIFF")[:500], "Pillow cannot read it either"),
        (save(np.ones((4, 4), np.float32), "TIFF"), "floating-point"),
        (save(np.full((4, 4), 2**20, np.int32), "TIFF"), "32-bit"),
        (b"P5 9000 9000 255 ", "over the limit"),
    ],
)
def test_refusals_give_the_reason(data, message):
    with pytest.raises(ImageError, match=message):
        load_stored(data)


@pytest.mark.parametrize("kind", ["TGA", "EPS"])
def test_formats_outside_the_list_are_not_tried(kind):
    with pytest.raises(ImageError, match="not an image"):
        load_stored(save(RGB, kind))


def test_a_bomb_is_rejected_by_its_header():
    bomb = save(RGB, "PNG")
    bomb = bomb[:16] + (60_000).to_bytes(4, "big") * 2 + bomb[24:]
    with pytest.raises(ImageTooLargeError, match="over the limit"):
        load_stored(bomb)


def test_a_gif_whose_first_frame_is_smaller_is_redrawn_on_its_canvas():
    frame = Image.fromarray(RGB).convert("P")
    data = save(frame, "GIF")
    canvas = (80).to_bytes(2, "little") + (60).to_bytes(2, "little")
    data = data[:6] + canvas + data[10:]
    # TensorFlow would return only the frame, with another size than the header.
    assert tf.io.decode_image(data, expand_animations=False).shape == (40, 50, 3)
    stored = load_stored(data)
    assert (stored.facts.height, stored.facts.width) == (60, 80)
    assert kinds(stored) >= {"transcoded"}
    assert load_image(stored.encoded).shape == (60, 80, 3)


def test_cmyk_jpeg_is_kept_because_the_graph_turns_it_into_the_same_rgb():
    smooth = np.add.outer(np.arange(64), np.arange(64))[..., None] * np.array([1, 2, 0.5])
    stored = Image.fromarray(smooth.astype(np.uint8)).convert("CMYK")
    data = save(stored, "JPEG", quality=95)
    found = load_stored(data)
    assert found.encoded == data
    assert found.facts.colorspace == "CMYK"
    assert "cmyk" in kinds(found)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(load_image(data) - expected).max() <= 8


def test_what_is_noted_of_kept_images():
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 200)]
    animated = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "animated" in kinds(load_stored(animated))
    assert kinds(load_stored(save(Image.fromarray(RGB[..., 0]), "JPEG"))) == {"grayscale"}
    rgba = Image.fromarray(np.dstack([RGB, RGB[..., 0]]))
    assert kinds(load_stored(save(rgba, "PNG"))) == {"alpha"}
    assert load_stored(save(RGB, "JPEG")).found == ()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turning_upright_is_what_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(RGB, "PNG", exif=exif)
    kept = load_stored(data)
    assert kept.encoded == data
    assert kept.facts.orientation == orientation
    turned = load_stored(data, exif="upright")
    assert turned.facts.orientation == 1
    assert "exif_applied" in kinds(turned)
    operations = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    expected = np.asarray(Image.fromarray(RGB).transpose(operations[orientation]))
    np.testing.assert_array_equal(load_image(turned.encoded), expected)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("a.jpg", "JPEG", ""),
        ("a.JPEG", "PNG", "a PNG is named .jpeg"),
        ("a.png", "JPEG", "a JPEG is named .png"),
        ("a.dat", "PNG", ""),
        ("0001", "PNG", ""),
        ("a.tif", "TIFF", ""),
    ],
)
def test_names_that_say_another_format(name, kind, said):
    assert name_differs(name, kind) == said


@pytest.mark.shared_data
def test_all_of_ingest_training_and_serving_agree_on_every_odd_file(extract):
    """Ingest keeps what the graph decodes, and transcodes or rejects the rest."""
    from core.image_header import check_image

    kept = changed = refused = 0
    for path in sorted(extract("odd_images_A").rglob("*.*")):
        if not path.is_file() or path.stat().st_size > 2_000_000:
            continue
        data = path.read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stored = load_stored(data)
        except ImageError:
            refused += 1
            with pytest.raises(ImageError):
                load_image(data)
            continue
        header = check_image(stored.encoded)
        pixels = load_image(stored.encoded)
        assert pixels.shape[:2] == (header.height, header.width), path.name
        if stored.facts.transcoded:
            changed += 1
            with pytest.raises(ImageError):
                load_image(data)
        else:
            kept += 1
            assert stored.encoded == data
    assert kept > 450
    assert changed > 150
    assert 50 < refused < 150


def test_broken_exif_does_not_cost_the_image():
    data = save(RGB, "WEBP", lossless=True, exif=b"Exif\0\0junk that is no TIFF header")
    stored = load_stored(data)
    np.testing.assert_array_equal(load_image(stored.encoded), RGB)
    assert stored.facts.orientation == 1


def test_a_jpeg_of_too_many_scans_is_rejected_and_not_decoded():
    """It is not transcoded either, because Pillow would take as long as the graph."""
    data = save(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageTooLargeError, match="more than 64 scans"):
        load_stored(data[:-2] + data[last:-2] * 70 + data[-2:])
