"""A file's bytes to an image that the exported graph decodes, and what had to be done for it.

The verdict is the one of training and serving: `core.image_header.check_image` and then the
graph's own decoder. What they refuse but Pillow reads becomes an 8-bit PNG, losslessly.
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

# Only formats people keep photographs in: Pillow also opens EPS (by running Ghostscript) and
# formats without a signature, which take any bytes for an image.
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
class Facts:
    """What a record says of its image, besides the bytes.

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
    """Bytes that the exported graph decodes, their facts, and (kind, detail) of what was found.

    `source_format` is that of the given bytes, before any transcoding; empty where unknown.
    """

    encoded: bytes
    facts: Facts
    source_format: str
    found: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Details:
    """What Pillow reads off a header; the defaults where it can't."""

    format: str = ""
    mode: str = ""
    frames: int = 1
    orientation: int = 1


def load_stored(data: bytes, *, exif: str = AS_STORED) -> StoredImage:
    """The image in a file's bytes.

    Args:
      data: the file's bytes.
      exif: `as_stored` keeps a turned image as TensorFlow decodes it; `upright` turns it and
        stores a PNG.

    Raises:
      ImageTooLargeError: more pixels than the graph takes, by the header.
      ImageError: neither the graph nor Pillow can decode it.
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
    """In words, how a file's name disagrees with its content; empty when it doesn't."""
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
        encoded, transcoded = _png(pixels), True
        found.append(("exif_applied", f"orientation {orientation}"))
        orientation = 1
    elif orientation != 1:
        found.append(("exif_kept", f"orientation {orientation}"))
    header = check_image(encoded)
    colorspace = _COLORSPACES.get(header.channels, "RGB")
    if header.format == "JPEG" and header.channels == 4:
        colorspace = "CMYK"
    facts = Facts(
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
        found.append(("grey", f"mode {mode}"))
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
    """Off the header alone; whatever Pillow thinks of the file, the graph has decoded it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_known(_GRAPH_FORMATS)) as image:
                # What a graph reads of it too, which is not all that Pillow takes for EXIF.
                return replace(_of(image), orientation=orientation_of(data))
    except Exception:  # Pillow's plugins raise whatever broken bytes lead them to.
        return _Details(orientation=orientation_of(data))


def _of(image: Image.Image) -> _Details:
    orientation, frames = 1, 1
    # Broken metadata: the pixels may be fine.
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
    """PNG bytes of the image (the first, where there are several), not turned by EXIF.

    Alpha is dropped without blending and 16 bits keep their high byte, as the graph does for PNG.

    Raises:
      ImageError: Pillow can't read it either (then `refused`, where it does not know the format),
        over the pixel limit, or without a defined range.
    """
    if not data:
        raise refused
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = _known((*_GRAPH_FORMATS, *_OTHER_FORMATS))
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_size(image)
                details = _of(image)
                image.seek(0)
                return _png(_to_rgb(image)), details
    except Image.UnidentifiedImageError:
        raise refused from None
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to.
        reason = f"{refused}; nor can Pillow read it: {type(error).__name__}: {error}"
        raise ImageError(reason) from error


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
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
