"""Small data sets in COCO's layout."""

import json

import numpy as np
import pytest

from tfx_pipeline.ingest import Request
from tfx_pipeline.ingest.masks import encode_gray_png
from tfx_pipeline.ingest.sources.coco import source

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
HEIGHT, WIDTH = 30, 40
_GREYS = iter(range(1, 10**9))


def _png(height=HEIGHT, width=WIDTH):
    """An image like no other of this process."""
    number = np.frombuffer(next(_GREYS).to_bytes(4, "big"), np.uint8)
    return encode_gray_png(np.resize(number, (height, width)))


def _annotation(ident, image, **other):
    made = {"id": ident, "image_id": image, "category_id": 2, "bbox": [1, 2, 10, 20]}
    made |= {"area": 200.5, "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]]}
    return {key: value for key, value in (made | other).items() if value is not None}


def _image(ident, **other):
    return {"id": ident, "file_name": f"{ident}.png", "height": HEIGHT, "width": WIDTH, **other}


def _coco(folder, tag="train2017", *, images=(1, 2), annotations=None, files=None, **other):
    """Writes one part of a data set in COCO's layout; the content of its JSON."""
    if annotations is None:
        numbers = [one["id"] if isinstance(one, dict) else one for one in images]
        annotations = [_annotation(place, one) for place, one in enumerate(numbers, start=1)]
    content = {
        "images": [one if isinstance(one, dict) else _image(one) for one in images],
        "annotations": annotations,
        "categories": CATEGORIES,
        **other,
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"instances_{tag}.json").write_text(json.dumps(content))
    (folder / tag).mkdir(exist_ok=True)
    for one in images if files is None else files:
        name = one["file_name"] if isinstance(one, dict) else f"{one}.png"
        (folder / tag / name).write_bytes(_png())
    return content


def _read(folder, **options):
    work = folder.parent / "work"
    work.mkdir(exist_ok=True)
    (work / "coco.sqlite").unlink(missing_ok=True)
    made = source(Request(str(folder), work), **options)
    return made, list(made.items)


@pytest.fixture(scope="session")
def png():
    """`png(height, width)`: the bytes of a unique gray image."""
    return _png


@pytest.fixture(scope="session")
def annotation():
    """`annotation(id, image_id, **other)`: an object in COCO's JSON."""
    return _annotation


@pytest.fixture(scope="session")
def image():
    """`image(id, **other)`: an image in COCO's JSON."""
    return _image


@pytest.fixture(scope="session")
def coco():
    """Writes one part of a data set in COCO's layout; the content of its JSON."""
    return _coco


@pytest.fixture(scope="session")
def read():
    """`read(folder, **options)`: the source, and the list of its items."""
    return _read


@pytest.fixture
def folder(tmp_path):
    """The folder for the data set of a test; it does not exist yet."""
    return tmp_path / "coco"
