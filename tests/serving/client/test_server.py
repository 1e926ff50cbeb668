"""The client against the embedded server, over both transports."""

import asyncio

import numpy as np
import pytest

from serving.client import AsyncClient, Client, ClientError, predict_local
from serving.protocol.types import TensorInfo
from serving.server.lifecycle.server_process import ServerProcess

pytestmark = pytest.mark.onednn

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 10), (3, 4, 250)

CONFIG = """
model_config_list {{
  config {{ name: "colors" base_path: "{colors}" model_platform: "tensorflow" }}
  config {{
    name: "hp2" base_path: "{hp2}" model_platform: "tensorflow"
    version_labels {{ key: "stable" value: 123 }}
  }}
}}
"""


@pytest.fixture(scope="module")
def server(bundles_dir, half_plus_two, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(CONFIG.format(colors=bundles_dir / "colors", hp2=half_plus_two))
    with ServerProcess(flags=[f"--model_config_file={config}"]) as process:
        yield process


@pytest.fixture(params=["rest", "grpc"])
def url(server, request):
    return server.rest_url if request.param == "rest" else f"grpc://{server.grpc_target}"


@pytest.fixture
def client(url):
    with Client(url, retries=0) as opened:
        yield opened


def test_sync_and_async_agree(client, url, bundles_dir, make_png):
    images = [make_png(color) for color in (RED, GREEN, BLUE)] * 3
    found = client.predict(images, model="colors", batch_size=2)

    async def main():
        async with AsyncClient(url, max_concurrency=2) as other:
            return await other.predict(images, model="colors", batch_size=2)

    assert found == asyncio.run(main())
    assert [one.label for one in found] == ["red", "green", "blue"] * 3
    local = predict_local(bundles_dir / "colors", images)
    for one, other in zip(found, local, strict=True):
        np.testing.assert_allclose(one.score, other.score, rtol=1e-5)


def test_run(client, make_png, expected_scores):
    encoded = np.array([make_png(RED), make_png(BLUE)], object)
    images = client.run({"image_bytes": encoded}, model="colors", signature="preprocess")["images"]
    assert (images.dtype, images.shape) == (np.uint8, (2, 4, 4, 3))
    scores = client.run({"images": images}, model="colors", signature="predict_tensor")["scores"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected_scores(images), atol=1e-6)
    top = client.run({"image_bytes": encoded}, model="colors")
    assert top["labels"].tolist() == [[b"red", b"green"], [b"blue", b"green"]]
    assert (top["classes"].dtype, top["classes"].shape) == (np.int32, (2, 2))


def test_labels_examples_and_readiness(client):
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    found = client.run({"x": x}, model="hp2", label="stable")
    np.testing.assert_array_equal(found["y"], x / 2 + 2)
    examples = [{"x": 4.0}, {"x": 6.0}]
    values = client.regress(examples, model="hp2", signature="regress_x_to_y")
    assert (values.dtype, values.tolist()) == (np.float32, [4.0, 5.0])
    pairs = client.classify(examples, model="hp2", signature="classify_x_to_y", label="stable")
    assert pairs == [[("", 4.0)], [("", 5.0)]]
    with pytest.raises(ClientError, match="label"):
        client.run({"x": x}, model="hp2", label="nope")
    client.wait_until_ready("hp2", timeout_s=20)
    assert client.is_ready("hp2", 123)
    assert client.is_ready("hp2", label="stable")
    assert not client.is_ready("hp2", label="nope")
    assert not client.is_ready("hp2", 7)
    assert not client.is_ready("nope")


def test_signatures(client):
    found = client.signatures("colors", 1)
    names = {"serving_default", "preprocess", "predict_tensor", "predict_examples"}
    assert names <= set(found)
    assert found["predict_tensor"].inputs == {"images": TensorInfo("DT_UINT8", (None, 4, 4, 3))}
    assert found["serving_default"].outputs["classes"].dtype == "DT_INT32"


def test_both_transports_return_the_same_metadata(server):
    def without(entry):
        """Only REST returns `defaults`, whose contents the gRPC client does not have."""
        if isinstance(entry, dict):
            return {name: without(value) for name, value in entry.items() if name != "defaults"}
        return entry

    with Client(server.rest_url) as rest, Client(f"grpc://{server.grpc_target}") as grpc:
        assert without(rest.metadata("colors")) == without(grpc.metadata("colors"))
        assert rest.status("hp2") == grpc.status("hp2")
