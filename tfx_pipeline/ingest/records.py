"""One picture to one `tf.train.Example` that holds every key `trainers.data.features` declares.

TensorFlow loads inside the functions: the registry imports this module to find jobs.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfx_pipeline.ingest.transcode import transcode_to_png
from trainers.data import features
from trainers.data.image_header import ImageError, check_image

if TYPE_CHECKING:
    import tensorflow as tf

# ITU-R BT.601 luma.
_LUMA = (0.299, 0.587, 0.114)
_SQUARE = 1.1
# Kept byte for byte or refused: a client would send the same bytes to the same decoder.
_KEPT = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")


@dataclass(frozen=True)
class Picture:
    """A picture that the exported graph decodes.

    Attributes:
      encoded: its bytes, transcoded to PNG where the graph has no decoder for the original.
      format: `JPEG`, `PNG`, `BMP` or `GIF`.
      pixels: (H, W, 3) uint8 RGB as the graph sees it.
      channels: as stored.
    """

    encoded: bytes
    format: str
    pixels: np.ndarray
    channels: int

    @property
    def digest(self) -> str:
        """Sha256 hex of `encoded`: the example's identity."""
        return hashlib.sha256(self.encoded).hexdigest()


def load_picture(data: bytes) -> Picture:
    """The picture in a file's bytes.

    JPEG, PNG, GIF and plain BMP are kept byte for byte, or refused where the graph refuses them.
    BMP flavours that TensorFlow misreads, WebP, TIFF, PPM, AVIF and JPEG 2000 become PNG.

    Raises:
      ImageError: neither the graph nor, for those formats, Pillow can decode it.
    """
    from trainers.data.decode import load_image

    if data and not data.startswith(_KEPT):
        try:
            check_image(data)
        except ImageError as refused:
            data = transcode_to_png(data, refused)
    header, pixels = check_image(data), load_image(data)
    return Picture(data, header.format, pixels, header.channels)


def slices(pixels: np.ndarray) -> dict[str, str]:
    """The `slice/*` strings of a picture.

    | key | values |
    |---|---|
    | slice/brightness | mean luma in thirds of [0, 255]: dark < 85 <= medium < 170 <= bright |
    | slice/contrast | standard deviation of luma: low < 32 <= medium < 64 <= high |
    | slice/aspect | square where neither side is over 1.1 of the other, portrait, landscape |
    | slice/size | shorter side in pixels: small < 32 <= medium < 256 <= large |

    Args:
      pixels: (H, W, 3) uint8 RGB.
    """
    luma = pixels.astype(np.float32) @ np.array(_LUMA, np.float32)
    height, width = pixels.shape[:2]
    aspect = "square"
    if width > _SQUARE * height:
        aspect = "landscape"
    elif height > _SQUARE * width:
        aspect = "portrait"
    return {
        "slice/brightness": _band(float(luma.mean()), (85, 170), ("dark", "medium", "bright")),
        "slice/contrast": _band(float(luma.std()), (32, 64), ("low", "medium", "high")),
        "slice/aspect": aspect,
        "slice/size": _band(min(height, width), (32, 256), ("small", "medium", "large")),
    }


def make_example(
    picture: Picture, *, filename: str, label: int, class_name: str
) -> "tf.train.Example":
    """The record of one picture.

    Args:
      picture: from `load_picture`.
      filename: path relative to the source.
      label: with the label offset already added.
      class_name: in words.
    """
    import tensorflow as tf

    height, width = picture.pixels.shape[:2]
    texts = {
        features.FORMAT: picture.format,
        features.TEXT: class_name,
        features.ID: picture.digest,
        **slices(picture.pixels),
    }
    numbers = {
        features.HEIGHT: height,
        features.WIDTH: width,
        features.CHANNELS: picture.channels,
        features.LABEL: label,
    }
    values = {key: text.encode() for key, text in texts.items()}
    # A file name is bytes to Linux and need not be UTF-8.
    values |= {features.FILENAME: os.fsencode(filename), features.IMAGE: picture.encoded}
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in values.items()
    } | {
        key: tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
        for key, number in numbers.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def serialize(example: "tf.train.Example") -> bytes:
    """The same bytes for the same example, which protobuf's maps do not promise by default."""
    return example.SerializeToString(deterministic=True)


def _band(value: float, limits: tuple[float, float], names: tuple[str, str, str]) -> str:
    return names[sum(value >= limit for limit in limits)]
