import json
import threading

import numpy as np
import pytest

from serving.client import Client, ClientError
from serving.client import rest as rest_api


@pytest.fixture
def client(rest):
    with Client(rest.url, retries=2) as opened:
        yield opened


def test_status(client, rest):
    status = {"error_code": "NOT_FOUND", "error_message": "no file"}
    entry = {"version": "3", "state": "END", "status": status}
    rest.answers += [(200, {"model_version_status": [entry]}), (200, {"something": "else"})]
    (version,) = client.status("m", 3)
    assert (version.version, version.state, version.error) == (3, "END", "NOT_FOUND: no file")
    assert rest.requests[0].path == "/v1/models/m/versions/3"
    with pytest.raises(ClientError, match="it has no 'model_version_status'"):
        client.status("m")


def test_the_last_status_request_may_be_short(client, rest):
    done = threading.Event()
    rest.answers += [versions(v1="LOADING")]
    rest.reply = lambda request: done.wait(30) and None
    with pytest.raises(ClientError, match="m is not ready after 0\\.5 s: version 1 is LOADING"):
        client.wait_until_ready("m", timeout_s=0.5)
    done.set()


def versions(**states):
    return 200, {
        "model_version_status": [
            {"version": number.removeprefix("v"), "state": state, "status": {}}
            for number, state in states.items()
        ]
    }


def test_is_ready(client, rest):
    rest.answers += [versions(v2="LOADING", v1="AVAILABLE")] * 3
    assert client.is_ready("m")
    assert client.is_ready("m", 1)
    assert not client.is_ready("m", 2)
    rest.answers += [(404, {"error": "no such model"}), (503, b""), (200, b"junk")]
    assert [client.is_ready("m") for _ in range(3)] == [False] * 3
    assert len(rest.requests) == 6, "a look is never repeated by itself"
    # TF Serving ignores a label of a status request, but not one of a metadata request.
    rest.answers += [(400, {"error": "Unrecognized servable version label: x"})]
    assert not client.is_ready("m", label="x")
    assert rest.requests[-1].path == "/v1/models/m/labels/x/metadata"
    rest.answers += [(200, {})]
    assert client.is_ready("m", label="x")


def test_wait_until_ready(client, rest):
    rest.answers += [None, (404, b"{}"), versions(v1="START"), versions(v1="AVAILABLE")]
    client.wait_until_ready("m", timeout_s=30)
    assert len(rest.requests) == 4
    failed = {"error_code": "UNKNOWN", "error_message": "broken"}
    entry = {"version": "1", "state": "END", "status": failed}
    rest.reply = (200, {"model_version_status": [entry]})
    words = r"m version 1 is not ready after 1 s: version 1 is END UNKNOWN: broken"
    with pytest.raises(ClientError, match=words) as caught:
        client.wait_until_ready("m", 1, timeout_s=1)
    assert caught.value.status == "DEADLINE_EXCEEDED"


SIGNATURE = {
    "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}},
    "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}},
    "method_name": "tensorflow/serving/predict",
}


def described(version="1", **signatures):
    metadata = {"signature_def": {"signature_def": signatures}}
    return 200, {"model_spec": {"version": version}, "metadata": metadata}


def typed(x="DT_FLOAT", y="DT_FLOAT"):
    """SIGNATURE with other types."""
    inputs = {"x": {**SIGNATURE["inputs"]["x"], "dtype": x}}
    return {**SIGNATURE, "inputs": inputs, "outputs": {"y": {**inputs["x"], "dtype": y}}}


def requests_of(rest):
    """The requests since the last call, in short."""
    found = ["metadata" if r.path.endswith("metadata") else r.method for r in rest.requests]
    rest.requests.clear()
    return found


def test_run_requests_the_types_once(client, rest):
    rest.answers += [described(s=SIGNATURE), (200, {"outputs": [1.5, float("nan")]})]
    found = client.run({"x": np.array([1, np.inf], np.float32)}, model="m", signature="s")
    assert found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], np.array([1.5, np.nan], np.float32))
    assert [r.path for r in rest.requests] == ["/v1/models/m/metadata", "/v1/models/m:predict"]
    assert json.loads(rest.requests[1].body) == {
        "signature_name": "s",
        "inputs": {"x": [1.0, float("inf")]},
    }
    rest.answers += [(200, {"outputs": [2.5]})]
    client.run({"x": np.ones(1)}, model="m", signature="s")
    assert len(rest.requests) == 3


def test_run_fetches_the_signature_of_a_new_version(client, rest):
    rest.answers += [described(s=SIGNATURE), (200, {"outputs": [1.5]})]
    client.run({"x": np.ones(1)}, model="m", signature="s")
    changed = {**SIGNATURE, "outputs": {**SIGNATURE["outputs"], "z": {"dtype": "DT_INT64"}}}
    rest.answers += [(200, {"outputs": {"y": [1.0], "z": 7}}), described(s=changed)]
    found = client.run({"x": np.ones(1)}, model="m", signature="s")
    assert (found["z"].dtype, found["z"].item()) == (np.int64, 7)
    rest.answers += [(200, {"outputs": {"q": [1.0]}}), described(s=changed)]
    with pytest.raises(ClientError, match=r"the response has \['q'\], the signature \['y', 'z'\]"):
        client.run({"x": np.ones(1)}, model="m", signature="s")


@pytest.mark.parametrize(
    ("old", "first", "new", "values"),
    [
        ("DT_INT64", [1], "DT_FLOAT", [1.5]),
        ("DT_FLOAT", [1.0], "DT_INT64", [2**53 + 1]),
        ("DT_BOOL", [True], "DT_INT32", [3]),
        ("DT_UINT8", [1], "DT_INT32", [300]),
        ("DT_FLOAT", [1.0], "DT_STRING", ["1.5"]),
    ],
)
def test_run_converts_no_response_to_an_old_type(client, rest, old, first, new, values):
    rest.answers += [described(s=typed(y=old)), (200, {"outputs": first})]
    client.run({"x": np.ones(1)}, model="m", signature="s")
    rest.answers += [(200, {"outputs": values}), described("2", s=typed(y=new))]
    found = client.run({"x": np.ones(1)}, model="m", signature="s")["y"]
    wanted = {"DT_STRING": object, "DT_INT64": np.int64, "DT_INT32": np.int32}
    assert found.dtype == wanted.get(new, np.float32)
    assert found.tolist() == [v.encode() if isinstance(v, str) else v for v in values]


def test_run_rejects_an_input_of_another_type(client, rest):
    rest.answers += [described(s=typed(x="DT_INT32"))] * 2
    words = "m, signature 's': input 'x' is float64, the model expects DT_INT32; convert it"
    with pytest.raises(ValueError, match=words):
        client.run({"x": np.ones(1)}, model="m", signature="s")
    assert requests_of(rest) == ["metadata"]
    # The metadata is requested again, because a newer version may accept the input.
    rest.answers[:] = [described("2", s=typed(x="DT_FLOAT")), (200, {"outputs": [1.5]})]
    client.run({"x": np.ones(1)}, model="m", signature="s")
    assert requests_of(rest) == ["metadata", "POST"]
    rest.answers += [(200, {"outputs": [1.5]})]
    client.run({"x": np.ones(1, int)}, model="m", signature="s")
    assert requests_of(rest) == ["POST"]


def test_run_requests_the_types_again_for_a_new_version(client, rest):
    def run():
        client.run({"x": np.ones(1)}, model="m", signature="s")
        return requests_of(rest)

    answer = (200, {"outputs": [1.5]})
    rest.answers += [described(s=SIGNATURE), answer]
    assert run() == ["metadata", "POST"]
    rest.answers += [versions(v2="LOADING", v1="AVAILABLE"), described(s=SIGNATURE), answer]
    client.status("m")
    client.metadata("m")
    assert run() == ["GET", "metadata", "POST"]
    rest.answers += [versions(v2="AVAILABLE", v1="UNLOADING")]
    client.status("m")
    rest.answers += [described("2", s=SIGNATURE), answer]
    assert run() == ["GET", "metadata", "POST"]
    rest.answers += [described("3", s=SIGNATURE)]
    client.signatures("m")
    rest.answers += [described("3", s=SIGNATURE), answer]
    assert run() == ["metadata", "metadata", "POST"]


def test_only_the_signature_of_a_fixed_version_does_not_expire(client, rest, monkeypatch):
    monkeypatch.setattr(rest_api, "KEPT_S", -1)
    for which, second in (({}, ["metadata", "POST"]), ({"version": 1}, ["POST"])):
        for expected in (["metadata", "POST"], second):
            told = [described(s=SIGNATURE)] if "metadata" in expected else []
            rest.answers += [*told, (200, {"outputs": [1.5]})]
            client.run({"x": np.ones(1)}, model="m", signature="s", **which)
            assert requests_of(rest) == expected


def test_run_uses_known_signatures(client, rest):
    rest.answers += [described(s=SIGNATURE, t=SIGNATURE)] * 2
    with pytest.raises(ClientError, match="m has no signature 'serving_default'; it has s, t"):
        client.run({"x": np.ones(1)}, model="m")
    found = client.signatures("m")
    assert sorted(found) == ["s", "t"]
    assert (found["s"].inputs["x"].dtype, found["s"].inputs["x"].shape) == ("DT_FLOAT", (None,))


@pytest.mark.parametrize("label", [None, "stable"])
def test_classify_and_regress(client, rest, label):
    rest.answers += [(200, {"results": [[["a", 0.5], ["b", 1]]]}), (200, {"results": [2.5]})]
    features = {"x": 1.0, "name": "n", "raw": b"\xff", "many": np.array([1, 2])}
    found = client.classify([features], model="m", signature="c", label=label)
    assert found == [[("a", 0.5), ("b", 1.0)]]
    values = client.regress([{"x": np.float32(0.5)}], model="m", label=label)
    assert (values.dtype, values.tolist()) == (np.float32, [2.5])
    sent = json.loads(rest.requests[0].body)
    raw = {"b64": "/w=="}
    assert sent == {
        "signature_name": "c",
        "examples": [{"x": 1.0, "name": {"b64": "bg=="}, "raw": raw, "many": [1, 2]}],
    }
    verbs = [request.path.rpartition(":")[2] for request in rest.requests]
    assert verbs == ["classify", "regress"]
    assert json.loads(rest.requests[1].body)["examples"] == [{"x": 0.5}]
    with pytest.raises(ValueError, match="serialized ones need a grpc:// address"):
        client.classify([b"serialized"], model="m")
