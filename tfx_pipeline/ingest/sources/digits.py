"""The handwritten digits of scikit-learn: 1,797 real 8 x 8 scans, included in the package."""

from typing import Any

import numpy as np

from tfx_pipeline.ingest.images import encode_png
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs


@jobs.register("digits")
def source(request: Request) -> Source:
    """The UCI optical recognition test set as gray PNG bytes, classes `0` to `9`.

    Values 0 to 16 are scaled to 0 to 255, so all 17 levels remain distinct.

    Raises:
      IngestError: a SOURCE was given.
    """
    if request.where is not None:
        raise IngestError(
            f"`digits` takes no SOURCE, got {request.where}; ingest your own images with `folder`"
        )
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    levels = np.round(scans.images * (255 / 16)).astype(np.uint8)
    return Source(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        items=tuple(
            Item(
                name=f"{index:04d}.png",
                class_name=str(digit),
                data=encode_png(pixels, compress=False),
            )
            for index, (pixels, digit) in enumerate(zip(levels, scans.target, strict=True))
        ),
        description="sklearn.datasets.load_digits: 8 x 8 scans, UCI optical recognition test set",
        every_class=True,
        total=len(levels),
    )
