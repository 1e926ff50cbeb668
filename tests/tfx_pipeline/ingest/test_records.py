import hashlib
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfx_pipeline.ingest.images import load_stored
from tfx_pipeline.ingest.records import make_example, serialize
from tfx_pipeline.ingest.source import Item, Objects
from trainers.data import features


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def record(item, data, classes=("ant", "bee", "cat")):
    image = load_stored(data)
    return make_example(item, image.facts, image.encoded, classes=classes)


def value(feature):
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def test_a_classification_record_holds_every_declared_key_and_nothing_else():
    data = png()
    item = Item("cat/a.png", "cat", attributes={features.SYNSET: ["n02121808"]})
    example = record(item, data)
    found = {key: value(one) for key, one in example.features.feature.items()}
    assert found == {
        "image/encoded": [data],
        "image/format": [b"PNG"],
        "image/filename": [b"cat/a.png"],
        "image/height": [40],
        "image/width": [50],
        "image/channels": [3],
        "image/colorspace": [b"RGB"],
        "image/exif_orientation": [1],
        "image/key/sha256": [hashlib.sha256(data).hexdigest().encode()],
        "image/class/label": [3],
        "image/class/text": [b"cat"],
        "image/class/synset": [b"n02121808"],
        "slice/brightness": [b"medium"],
        "slice/contrast": found["slice/contrast"],
        "slice/aspect": [b"landscape"],
        "slice/size": [b"medium"],
    }
    assert set(found) >= {*features.BYTES_KEYS, *features.INT_KEYS}
    assert serialize(record(item, data)) == serialize(example)
    assert tf.train.Example.FromString(serialize(example)) == example


def test_a_file_name_that_is_not_utf8_keeps_its_bytes():
    example = record(Item(os.fsdecode(b"caf\xe9.png"), "ant"), png())
    assert example.features.feature["image/filename"].bytes_list.value[0] == b"caf\xe9.png"


def test_a_detection_record_has_lists_of_one_length():
    objects = Objects(
        boxes=((10.0, 8.0, 30.0, 28.0), (-5.0, 0.0, 25.0, 40.0)),
        classes=(1, 2),
        ids=(7, 9),
        areas=(400.0, -1.0),
        is_crowd=(0, 1),
        segmentations=(None, None),
    )
    declared = {features.HEIGHT: [40], features.WIDTH: [50], features.SOURCE_ID: ["42"]}
    example = record(Item("x.png", objects=objects, attributes=declared), png())
    feature = example.features.feature
    assert value(feature[features.XMIN]) == pytest.approx([0.2, 0.0])
    assert value(feature[features.XMAX]) == pytest.approx([0.6, 0.5])
    assert value(feature[features.YMIN]) == pytest.approx([0.2, 0.0])
    assert value(feature[features.OBJECT_LABEL]) == [2, 3]
    assert value(feature[features.OBJECT_TEXT]) == [b"bee", b"cat"]
    assert value(feature[features.AREA]) == [400.0, 1000.0]
    assert value(feature[features.SOURCE_ID]) == [b"42"]
    assert value(feature[features.SLICE_OBJECTS]) == [b"few"]
    assert features.LABEL not in feature


def test_an_image_without_objects_has_empty_lists_of_the_declared_kinds():
    feature = record(Item("x.png", objects=Objects()), png()).features.feature
    for key in features.OBJECT_KEYS:
        assert value(feature[key]) == []
    assert feature[features.XMIN].WhichOneof("kind") == "float_list"
    assert feature[features.OBJECT_LABEL].WhichOneof("kind") == "int64_list"
    assert feature[features.OBJECT_TEXT].WhichOneof("kind") == "bytes_list"
    assert value(feature[features.SLICE_OBJECTS]) == [b"none"]
