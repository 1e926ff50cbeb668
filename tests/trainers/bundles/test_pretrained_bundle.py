"""EfficientNet-Lite0 from the package to a server: one image, one label, whatever computes it."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from core.bundle import open_bundle, push, tflite_file
from serving.client import connect
from serving.server.lifecycle.server_process import ServerProcess
from trainers.bundles.build import FLOAT_VARIANT, build_bundle
from trainers.config import override
from trainers.loop import fit
from trainers.registry import recipes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared_data,
    pytest.mark.onednn,
    pytest.mark.timeout(1800),
]

#: Images of the sample that float must classify correctly, of 167.
LEAST_RIGHT = 148


@pytest.fixture(scope="module")
def sample(extract):
    """(JPEG bytes, class index) of each image of ImageNet's sample."""
    folder = extract("imagenet_sample_A")
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    files = [folder / "images" / row["file"].rpartition("/")[2] for row in rows]
    return [file.read_bytes() for file in files], [int(row["class_index"]) for row in rows]


@pytest.fixture(scope="module")
def bundles(sample, write_dataset, tmp_path_factory):
    """A folder that a server serves, with the recipe's model as `lite0`."""
    folder = tmp_path_factory.mktemp("lite0")
    classes = ["tench", *(f"class {number}" for number in range(1, 999)), "toilet tissue"]
    records = [
        {"image/encoded": data, "image/class/label": label}
        for data, label in zip(*sample, strict=True)
    ]
    splits = {"train": records, "validation": records[:4], "test": records[:4]}
    write_dataset(folder / "data", splits, classes=classes, foreign=True)
    settings = [f"data.dir={folder / 'data'}", "name=lite0"]
    trained = fit(override(recipes.get("efficientnet_lite0_imagenet")(), settings), folder / "work")
    build_bundle(trained, folder / "draft", ptq=())
    push(folder / "draft", folder / "bundles" / "lite0")
    return folder / "bundles"


def saved_model_scores(path, images):
    """((M, top) classes, (M, top) scores, (M, H, W, 3) pixels) of a bundle's own signatures."""
    signatures = tf.saved_model.load(str(path)).signatures
    parts = []
    for start in range(0, len(images), 16):
        encoded = tf.constant(images[start : start + 16])
        found = signatures["serving_default"](image_bytes=encoded)
        pixels = signatures["preprocess"](image_bytes=encoded)["images"]
        parts.append((found["classes"].numpy(), found["scores"].numpy(), pixels.numpy()))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_saved_model_litert_and_server_give_one_label(sample, bundles):
    images, labels = sample
    assert len(images) == 167
    bundle = open_bundle(bundles / "lite0" / "1")
    classes, scores, pixels = saved_model_scores(bundle.path, images)
    right = int((classes[:, 0] == labels).sum())
    margin = (scores[:, 0] - scores[:, 1]).min()
    print(f"right: {right} of {len(labels)}; least margin between the first two scores: {margin}")
    assert right >= LEAST_RIGHT

    file = bundle.path / tflite_file(FLOAT_VARIANT)
    runner = Interpreter(model_path=str(file), num_threads=1).get_signature_runner("predict_tensor")
    litert = [int(runner(images=image[None])["scores"][0].argmax()) for image in pixels]
    assert litert == classes[:, 0].tolist()

    with ServerProcess(bundles) as server, connect(server.rest_url, retries=0) as client:
        found = [
            one
            for start in range(0, len(images), 16)
            for one in client.predict(images[start : start + 16], model="lite0")
        ]
    assert [one.top[0][1] for one in found] == classes[:, 0].tolist()
