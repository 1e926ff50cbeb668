"""KServe's clients: its V1 over HTTP, which is TF Serving's predict, and V2 over HTTP and gRPC."""

# pyright: reportMissingImports=false
import asyncio
import base64
import logging

import grpc
import httpx
import numpy as np
from asking import SHOWN, Transcript, X, Y, brief, check, read_facts
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)

# It logs a trace of every refusal before it raises it.
logging.disable(logging.ERROR)
facts = read_facts()
ask = Transcript(facts, "kserve", "httpx", "grpcio", "protobuf", "numpy")
x = np.array(X, np.float32)
photo = np.array([facts.photo], np.object_)
loop = asyncio.new_event_loop()
base = f"http://{facts.rest}"


def waited(call):
    """The coroutine function as a plain one of the same name."""

    def run(*args, **kwargs):
        return loop.run_until_complete(call(*args, **kwargs))

    run.__qualname__ = call.__qualname__
    return run


def request(model, name, array, datatype, *, binary, version=None):
    """A V2 request of one tensor."""
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, [tensor], request_id="7", model_version=version)


def arrays(response):
    """The client's arrays of a response."""
    return {output.name: output.as_numpy() for output in response.outputs}


SHOWN[InferRequest] = lambda one: ", ".join(
    f"<{t.name}: {t.datatype} {t.shape} for {one.model_name}>" for t in one.inputs
)
SHOWN[InferResponse] = lambda one: brief(arrays(one))


def ask_v1(client):
    predict = waited(client.infer)
    answer = ask(predict, base, {"instances": X}, model_name="half_plus_two")
    check(answer, {"predictions": Y})
    encoded = base64.b64encode(facts.photo).decode()
    answer = predict(base, {"instances": [{"b64": encoded}]}, model_name="colors")
    expected = facts.answers["photo"]
    check(answer, {"predictions": [{name: rows[0] for name, rows in expected.items()}]})
    for data, model, status in (
        ({"instances": X}, "no_such_model", 404),
        ({"instances": "x"}, "half_plus_two", 400),
        ({"instances": [{"z": 1.0}]}, "half_plus_two", 400),
    ):
        refusal = ask.refused(httpx.HTTPStatusError, predict, base, data, model_name=model)
        check(refusal.response.status_code, status)


def ask_v2_rest(client):
    check(ask(waited(client.is_server_live), base), True)
    check(ask(waited(client.is_server_ready), base), True)
    check(ask(waited(client.is_model_ready), base, "half_plus_two"), True)
    check(ask(waited(client.is_model_ready), base, "no_such_model"), False)
    infer = waited(client.infer)
    for binary in (True, False):
        asked = request("half_plus_two", "x", x, "FP32", binary=binary)
        check(arrays(ask(infer, base, asked, model_name="half_plus_two")), {"y": Y})
    asked = request("colors", "image_bytes", photo, "BYTES", binary=True)
    check(arrays(ask(infer, base, asked, model_name="colors")), facts.answers["photo"])
    for model, array, datatype, status in (
        ("no_such_model", x, "FP32", 404),
        ("half_plus_two", x.astype(np.int32), "INT32", 400),
    ):
        asked = request(model, "x", array, datatype, binary=True)
        refusal = ask.refused(httpx.HTTPStatusError, infer, base, asked, model_name=model)
        check(refusal.response.status_code, status)


async def connect():
    """The gRPC client, made where its event loop runs."""
    return InferenceGRPCClient(facts.grpc)


def ask_v2_grpc(client):
    check(ask(waited(client.is_server_live)), True)
    check(ask(waited(client.is_server_ready)), True)
    check(ask(waited(client.is_model_ready), "half_plus_two"), True)
    infer = waited(client.infer)
    for version in ("123", "stable", "124"):
        asked = request("half_plus_two", "x", x, "FP32", binary=True, version=version)
        answer = ask(infer, asked)
        check(arrays(answer), {"y": Y})
        check(answer.model_version, "124" if version == "124" else "123")
        check(answer.id, "7")
    asked = request("colors", "image_bytes", photo, "BYTES", binary=True)
    check(arrays(ask(infer, asked)), facts.answers["photo"])
    bent = request("colors", "image_bytes", photo.reshape(1, 1), "BYTES", binary=True)
    for asked, code in (
        (request("no_such_model", "x", x, "FP32", binary=True), "NOT_FOUND"),
        (request("half_plus_two", "z", x, "FP32", binary=True), "INVALID_ARGUMENT"),
        (bent, "INVALID_ARGUMENT"),
    ):
        refusal = ask.refused(grpc.RpcError, infer, asked)
        check(refusal.code().name, code)


ask_v1(InferenceRESTClient(RESTConfig(protocol="v1")))
ask_v2_rest(InferenceRESTClient(RESTConfig(protocol="v2")))
ask_v2_grpc(loop.run_until_complete(connect()))
