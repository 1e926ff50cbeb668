"""scikit-learn's handwritten digits: 1,797 real 8 x 8 scans that come with the package."""

import io
from typing import Any

import numpy as np
from PIL import Image

from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs


@jobs.register("digits")
def source(request: Request) -> Source:
    """The UCI optical recognition test set as gray PNG bytes, classes `0` to `9`.

    Scans hold 0 to 16; they are scaled to 0 to 255, which keeps all 17 levels apart.

    Raises:
      IngestError: a folder was given, and this job reads none.
    """
    if request.where is not None:
        raise IngestError(
            f"`digits` reads no folder, got {request.where}; your own images go in with `folder`"
        )
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    levels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    return Source(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        items=tuple(
            Item(name=f"{index:04d}.png", class_name=str(digit), data=_png(pixels))
            for index, (pixels, digit) in enumerate(zip(levels, scans.target, strict=True))
        ),
        description="sklearn.datasets.load_digits: 8 x 8 scans, UCI optical recognition test set",
        every_class=True,
        total=len(levels),
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Stored, not deflated: zlib versions differ in their output, and the split hangs on the bytes.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
