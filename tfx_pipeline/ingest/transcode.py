"""Formats that the exported graph does not decode, to PNG that it does, losslessly in 8 bits."""

import io
import warnings

import numpy as np
from PIL import Image

from trainers.data.image_header import MAX_PIXELS, ImageError

# Only formats people keep photographs in: Pillow also opens EPS (by running Ghostscript) and
# formats without a signature, which take any bytes for a picture.
_FORMATS = ("WEBP", "TIFF", "PPM", "BMP", "AVIF", "JPEG2000")


def transcode_to_png(data: bytes, refused: ImageError) -> bytes:
    """PNG bytes of the picture (the first, where there are several).

    Alpha is dropped without blending and 16 bits keep their high byte, as the graph does for PNG;
    EXIF orientation is not applied.

    Args:
      data: an encoded picture in another format.
      refused: why the graph's decoder refused it; raised again where Pillow can't read it either.

    Raises:
      ImageError: not such a format, damaged, over the pixel limit, or without a defined range.
    """
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=known) as picture:
                _check_size(picture)
                rgb = _to_rgb(picture)
    except Image.UnidentifiedImageError:
        raise refused from None
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to.
        raise ImageError(f"Pillow cannot read it: {type(error).__name__}: {error}") from error
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{picture.format} of {height} x {width} = {width * height:,} pixels is over the "
            f"limit of {MAX_PIXELS:,}"
        )


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("F"):
        raise ImageError("floating-point pixels have no defined range; save it as 8-bit PNG")
    if not picture.mode.startswith("I"):
        return np.asarray(picture.convert("RGB"))
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError("32-bit pixels have no defined range; save it as 8-bit PNG")
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
