"""The server for the clients, and the data of the test."""

import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import bundle
from serving.server.lifecycle.server_process import ServerProcess

_HALF_PLUS_TWO = "saved_model_half_plus_two_2_versions"
_CONFIG = """
model_config_list {{
  config {{
    name: "half_plus_two" base_path: "{half_plus_two}" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 123 }}
    version_labels {{ key: "canary" value: 124 }}
  }}
  config {{ name: "colors" base_path: "{colors}" model_platform: "tensorflow" }}
}}
"""


def ascii_bmp() -> bytes:
    """A BMP of 4 x 4 pixels with no byte over 127, and so an image that is text as well."""
    pixels = bytes(range(40, 88))
    head = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 24, 0, len(pixels), 0, 0, 0, 0) + pixels


@pytest.fixture(scope="module")
def peer_files(extract, shared_data, tmp_path_factory) -> dict[str, Path]:
    """TF Serving's model of two versions, its recorded metadata, a real JPEG, and the BMP."""
    folder = tmp_path_factory.mktemp("peers")
    with tarfile.open(shared_data / "tfserving_testdata_A.tar") as archive:
        archive.extractall(folder, filter="data")
    text_image = folder / "text.bmp"
    text_image.write_bytes(ascii_bmp())
    return {
        "folder": folder,
        "half_plus_two": folder / _HALF_PLUS_TWO,
        "recorded_metadata": folder / f"{_HALF_PLUS_TWO}_metadata.json",
        "photo": min((extract("imagenet_sample_A") / "images").glob("*.JPEG")),
        "text_image": text_image,
    }


def _bundle_in_tensorflow(saved_model: Path, image: Path) -> dict[str, list]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    outputs = signature(image_bytes=tf.constant([image.read_bytes()]))
    arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
    arrays["labels"] = arrays["labels"].astype(str)
    return {name: array.tolist() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def peer_facts(peer_files, bundles_dir) -> Iterator[Path]:
    """The facts of `asking.read_facts`, in a file, while the server runs."""
    models = {"half_plus_two": peer_files["half_plus_two"], "colors": bundles_dir / "colors"}
    config = peer_files["folder"] / "models.config"
    config.write_text(_CONFIG.format(**models))
    flags = (
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models=true",
        "--open_inference",
    )
    colors = bundles_dir / "colors" / "1"
    answers = {
        name: _bundle_in_tensorflow(colors, peer_files[name]) for name in ("photo", "text_image")
    }
    with ServerProcess(flags=flags, timeout_s=300) as server:
        facts = {
            **{name: str(path) for name, path in peer_files.items()},
            "half_plus_two": str(peer_files["half_plus_two"] / "00000123"),
            "colors": str(colors),
            "warmup": str(colors / bundle.WARMUP_FILE),
            "answers": answers,
            "grpc": server.grpc_target,
            "rest": server.rest_url.removeprefix("http://"),
        }
        file = peer_files["folder"] / "facts.json"
        file.write_text(json.dumps(facts))
        yield file
