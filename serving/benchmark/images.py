"""The encoded images of a benchmark: read from files, or generated."""

from pathlib import Path

import numpy as np

from core import bundle as bundles
from core.image_header import ImageError, check_image
from serving.benchmark.errors import BenchmarkError

#: Smallest side in pixels of the JPEG that is generated if no images are given.
_LEAST_SIDE = 224


def read_image(file: Path) -> bytes:
    """The bytes of an image that models decode.

    Raises:
      BenchmarkError: it cannot be read or decoded.
    """
    try:
        data = file.read_bytes()
        check_image(data)
    except OSError as error:
        raise BenchmarkError(
            f"cannot read the image {file}: {error.strerror}; give the path of a file"
        ) from error
    except ImageError as error:
        raise BenchmarkError(f"{file} cannot be sent: {error}") from error
    return data


def sample_of(bundle: bundles.Bundle) -> bytes:
    """A generated JPEG, at least as large as the model's input. Loads TensorFlow."""
    sides = (int(bundle.manifest.input[side]) for side in ("height", "width"))
    return sample_jpeg(*(max(side, _LEAST_SIDE) for side in sides))


def sample_jpeg(height: int, width: int) -> bytes:
    """A smooth JPEG with some noise, the same one each time. Loads TensorFlow."""
    from serving.engines.saved_model import import_tensorflow

    noise = np.random.default_rng(0)
    corners = noise.integers(40, 216, (4, 4, 3)).astype(np.float32)
    tf = import_tensorflow()
    smooth = tf.image.resize(corners, (height, width), "bicubic").numpy()
    pixels = np.clip(smooth + noise.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return tf.io.encode_jpeg(pixels, quality=90).numpy()
