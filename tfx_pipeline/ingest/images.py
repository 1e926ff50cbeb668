"""Converts the bytes of a file to an image that the exported graph decodes, with findings.

The checks are the same as in training and serving: `core.image_header.check_image` and the graph's
decoder. Other formats that Pillow reads are stored as 8-bit PNG, without loss.
"""

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from core.image_header import MAX_PIXELS, ImageError, ImageTooLargeError, check_image
from trainers.data.orientation import AS_STORED, UPRIGHT, orientation_of
from trainers.data.slices import slices

# Only formats for photographs: Pillow also opens EPS (by running Ghostscript) and formats without a
# signature, which accept arbitrary bytes.
_GRAPH_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP")
_OTHER_FORMATS = ("WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112
_COLORSPACES = {1: "Grayscale", 2: "Grayscale"}
_NAMES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpc", "j2c"),
}
_KNOWN_SUFFIXES = frozenset(suffix for names in _NAMES.values() for suffix in names)


@dataclass(frozen=True)
class ImageFacts:
    """The facts that a record stores about its image, besides the bytes.

    Attributes:
      digest: sha256 hex of the stored bytes: the example's identity.
      format: `JPEG`, `PNG`, `BMP` or `GIF`, as stored.
      height: rows in pixels, as stored.
      width: columns in pixels, as stored.
      channels: as stored.
      colorspace: `RGB`, `Grayscale` or `CMYK`, as stored.
      orientation: EXIF 1 to 8 of the stored bytes.
      source_orientation: EXIF 1 to 8 of the source's bytes.
      transcoded: the stored bytes are a PNG made of the source's.
      slices: the `slice/*` strings.
    """

    digest: str
    format: str
    height: int
    width: int
    channels: int
    colorspace: str
    orientation: int
    source_orientation: int
    transcoded: bool
    slices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredImage:
    """Bytes that the exported graph decodes, their facts, and the findings as (kind, detail).

    `source_format` is the format of the source's bytes, before transcoding; empty if unknown.
    """

    encoded: bytes
    facts: ImageFacts
    source_format: str
    found: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Details:
    """Facts that Pillow reads from a header; the defaults if it cannot."""

    format: str = ""
    mode: str = ""
    frames: int = 1
    orientation: int = 1


def load_stored(data: bytes, *, exif: str = AS_STORED) -> StoredImage:
    """The image that a record stores for the bytes of a file.

    Args:
      data: the file's bytes.
      exif: `as_stored` ignores the EXIF orientation, as TensorFlow does; `upright` rotates the
        image and stores a PNG.

    Raises:
      ImageTooLargeError: more pixels than the limit, by the header.
      ImageError: the graph and Pillow cannot decode it.
    """
    from trainers.data.decode import load_image

    try:
        pixels = load_image(data)
        found = []
        details = _details(data)
    except ImageTooLargeError:
        raise
    except ImageError as refused:
        encoded, details = _transcode(data, refused)
        found = [("transcoded", f"{details.format or 'unknown format'}: {refused}")]
        return _image(encoded, load_image(encoded), details, found, exif=exif, transcoded=True)
    return _image(data, pixels, details, found, exif=exif, transcoded=False)


def name_differs(name: str, image_format: str) -> str:
    """How the suffix of a file differs from its format, as text; empty if it does not."""
    suffix = name.rpartition(".")[2].lower()
    if suffix in _KNOWN_SUFFIXES and suffix not in _NAMES.get(image_format, (suffix,)):
        return f"a {image_format} is named .{suffix}"
    return ""


def _image(
    encoded: bytes,
    pixels: np.ndarray,
    details: _Details,
    found: list[tuple[str, str]],
    *,
    exif: str,
    transcoded: bool,
) -> StoredImage:
    found = [*found, *_notes(details)]
    orientation = details.orientation
    if orientation != 1 and exif == UPRIGHT:
        pixels = _upright(pixels, orientation)
        encoded, transcoded = encode_png(pixels), True
        found.append(("exif_applied", f"orientation {orientation}"))
        orientation = 1
    elif orientation != 1:
        found.append(("exif_kept", f"orientation {orientation}"))
    header = check_image(encoded)
    colorspace = _COLORSPACES.get(header.channels, "RGB")
    if header.format == "JPEG" and header.channels == 4:
        colorspace = "CMYK"
    facts = ImageFacts(
        digest=hashlib.sha256(encoded).hexdigest(),
        format=header.format,
        height=pixels.shape[0],
        width=pixels.shape[1],
        channels=header.channels,
        colorspace=colorspace,
        orientation=orientation,
        source_orientation=details.orientation,
        transcoded=transcoded,
        slices=slices(pixels),
    )
    source_format = "JPEG" if details.format == "MPO" else details.format
    return StoredImage(encoded, facts, source_format, tuple(found))


def _notes(details: _Details) -> list[tuple[str, str]]:
    mode, found = details.mode, []
    if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;"):
        found.append(("grayscale", f"mode {mode}"))
    if mode == "CMYK":
        found.append(("cmyk", f"{details.format}, mode CMYK"))
    if mode.startswith("I"):
        found.append(("sixteen_bits", f"mode {mode}"))
    if mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        found.append(("alpha", f"mode {mode}"))
    if details.frames > 1:
        found.append(("animated", f"{details.frames} frames"))
    return found


def _details(data: bytes) -> _Details:
    """Facts from the header; the defaults if Pillow fails on a file that the graph can decode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_known(_GRAPH_FORMATS)) as image:
                # The graph's own reader of EXIF, which is stricter than Pillow's.
                return replace(_details_of(image), orientation=orientation_of(data))
    except Exception:  # Pillow's plugins raise arbitrary exceptions.
        return _Details(orientation=orientation_of(data))


def _details_of(image: Image.Image) -> _Details:
    orientation, frames = 1, 1
    # The metadata may be broken while the pixels are fine.
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(_ORIENTATION, 1)
    with contextlib.suppress(Exception):
        frames = getattr(image, "n_frames", 1)
    return _Details(
        format=image.format or "",
        mode=image.mode,
        frames=frames,
        orientation=orientation if orientation in range(1, 9) else 1,
    )


def _known(names: tuple[str, ...]) -> list[str]:
    Image.init()
    return [name for name in names if name in Image.OPEN]


def _transcode(data: bytes, refused: ImageError) -> tuple[bytes, _Details]:
    """PNG bytes of the (first) image, not rotated by EXIF.

    Alpha is dropped without blending and 16-bit values keep their high byte, as in the graph.

    Raises:
      ImageError: Pillow cannot read the image either (`refused`, if it does not know the format),
        it exceeds the pixel limit, or its values have no defined range.
    """
    if not data:
        raise refused
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = _known((*_GRAPH_FORMATS, *_OTHER_FORMATS))
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_size(image)
                details = _details_of(image)
                image.seek(0)
                return encode_png(_to_rgb(image)), details
    except Image.UnidentifiedImageError:
        raise refused from None
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise arbitrary exceptions.
        reason = f"{refused}; Pillow cannot read it either: {type(error).__name__}: {error}"
        raise ImageError(reason) from error


def encode_png(pixels: np.ndarray, *, compress: bool = True) -> bytes:
    """PNG bytes of (H, W) or (H, W, 3) uint8 pixels.

    Without `compress`, the bytes do not depend on the version of zlib, whose output differs; the
    bytes of an image decide its split.
    """
    buffer = io.BytesIO()
    options = {} if compress else {"compress_level": 0}
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{image.format} of {height} x {width} = {width * height:,} pixels is over the "
            f"limit of {MAX_PIXELS:,}"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("F"):
        raise ImageError("floating-point pixels have no defined range; save it as 8-bit PNG")
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError("32-bit pixels have no defined range; save it as 8-bit PNG")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.getexif()[_ORIENTATION] = orientation
    turned: Any = ImageOps.exif_transpose(image)
    return np.ascontiguousarray(np.asarray(turned))
