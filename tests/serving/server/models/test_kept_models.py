"""What goes missing by accident does not unload what is served; over REST, gRPC and the disk."""

import json
import shutil
import time
import urllib.request
from urllib.parse import urlsplit

import grpc
import pytest
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from core import bundle as bundles
from serving.server.lifecycle.server_process import ServerProcess
from serving.server.models.config import ServedModel
from serving.server.models.manager import ModelManager
from serving.server.models.source import ModelSource

WAIT_S = 60
UNKNOWN = 2**63


@pytest.fixture(scope="module")
def served(half_plus_two, tmp_path_factory):
    """(server, config file, its text, folder of the two models)."""
    root = tmp_path_factory.mktemp("kept")
    for name in ("hp2", "other"):
        shutil.copytree(half_plus_two, root / name)
    config = root / "models.config"
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{root}/{name}" model_platform: "tensorflow" }} '
        for name in ("hp2", "other")
    )
    text = f"model_config_list {{ {entries} }}"
    config.write_text(text)
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0.1",
        "--file_system_poll_wait_seconds=0.1",
    ]
    with ServerProcess(flags=flags) as server:
        yield server, config, text, root


def is_served(server, name="hp2"):
    url = f"{server.rest_url}/v1/models/{name}:predict"
    request = urllib.request.Request(url, b'{"instances": [1.0]}', method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return json.load(opener.open(request, timeout=WAIT_S)) == {"predictions": [2.5]}
    except urllib.error.HTTPError:
        return False


def until_logged(server, words, start=0):
    deadline = time.monotonic() + WAIT_S
    while words not in server.log()[start:]:
        assert time.monotonic() < deadline, server.log()[start:]
        time.sleep(0.05)


@pytest.mark.parametrize("text", ["", "  \n# nothing\n"], ids=["empty", "comment"])
def test_an_empty_config_file_keeps_the_models(served, text):
    server, config, good, _ = served
    start = len(server.log())
    config.write_text(text)
    until_logged(server, "the config is empty", start)
    assert is_served(server)
    assert is_served(server, "other")
    config.write_text(good)


@pytest.fixture(scope="module")
def management(served):
    with grpc.insecure_channel(served[0].grpc_target) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def test_an_empty_reload_request_keeps_the_models(served, management):
    request = model_management_pb2.ReloadConfigRequest()
    assert request.ByteSize() == 0
    with pytest.raises(grpc.RpcError, match="the config is empty") as caught:
        management.HandleReloadConfigRequest(request, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert is_served(served[0])


def test_a_base_path_that_vanishes_keeps_its_model(served):
    server, _, _, root = served
    start = len(server.log())
    (root / "hp2").rename(root / "away")
    until_logged(server, "hp2 holds no version: there is no such folder", start)
    assert is_served(server)
    (root / "away").rename(root / "hp2")


def test_a_version_beyond_64_bits_is_ignored(served, half_plus_two):
    server, _, _, root = served
    start = len(server.log())
    shutil.copytree(half_plus_two / "123", root / "hp2" / "part")
    (root / "hp2" / "part").rename(root / "hp2" / str(UNKNOWN))
    until_logged(server, f"{UNKNOWN} is ignored: a version is at most {UNKNOWN - 1}", start)
    time.sleep(0.5)
    assert server.log()[start:].count("is ignored") == 1
    address = urlsplit(server.rest_url).netloc
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    status = json.load(opener.open(f"http://{address}/v1/models/hp2", timeout=WAIT_S))
    assert [entry["version"] for entry in status["model_version_status"]] == ["123"]
    assert bundles.versions(root / "hp2") == [123]
    assert is_served(server)


def test_a_folder_of_models_that_vanishes_keeps_them(half_plus_two, tmp_path):
    """An unmounted disk; a single model's folder that is removed unloads it, as before."""
    root = tmp_path / "models"
    for name in ("a", "b"):
        shutil.copytree(half_plus_two, root / name)
    manager = ModelManager(ModelSource(root))
    manager.sync()
    root.rename(tmp_path / "away")
    with pytest.raises(OSError, match="models"):
        manager.sync()
    assert manager.available() == {"a": [123], "b": [123]}
    (tmp_path / "away").rename(root)
    shutil.rmtree(root / "b")
    manager.sync()
    assert manager.available() == {"a": [123]}
    manager.close()


def test_a_folder_that_vanishes_before_a_switch_is_refused(half_plus_two, tmp_path):
    manager = ModelManager(lambda: [ServedModel("m", half_plus_two)])
    manager.sync()
    with pytest.raises(Exception, match="there is no such folder"):
        manager.switch([ServedModel("m", tmp_path / "none")])
    assert manager.available() == {"m": [123]}
    manager.close()
