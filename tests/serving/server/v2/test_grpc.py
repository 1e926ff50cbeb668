"""`inference.GRPCInferenceService` over a real channel, and its messages against bytes by hand."""

import struct

import grpc
import numpy as np
import pytest

from serving.server.grpc.methods import CallThreads
from serving.server.v2.grpc_service import message, open_inference_handler


def test_the_bytes_of_a_request_are_those_of_the_specification():
    """Tags are field << 3 | wire type, as the protocol buffers' encoding page has them."""
    request = message("ModelInferRequest")(model_name="m", model_version="3", id="i")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    request.parameters.add(key="k").value.string_param = "s"
    request.outputs.add(name="y")
    request.raw_input_contents.append(b"r")
    contents = b"\x32\x08" + struct.pack("<2f", 1, 2)
    inside = b"\x0a\x01x\x12\x04FP32\x1a\x01\x02\x2a" + bytes([len(contents)]) + contents
    assert request.SerializeToString() == (
        b"\x0a\x01m\x12\x013\x1a\x01i"
        b"\x22\x08\x0a\x01k\x12\x03\x1a\x01s"
        b"\x2a" + bytes([len(inside)]) + inside + b"\x32\x03\x0a\x01y\x3a\x01r"
    )


def test_the_bytes_of_a_response_are_parsed_as_specified():
    text = b"\x0a\x01m\x12\x012\x2a\x0b\x0a\x01y\x12\x03U64\x1a\x01\x05\x32\x02ab"
    answer = message("ModelInferResponse").FromString(text)
    assert (answer.model_name, answer.model_version) == ("m", "2")
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("U64", [5])
    assert list(answer.raw_output_contents) == [b"ab"]
    model = message("ModelMetadataResponse").FromString(
        b"\x0a\x01m\x12\x011\x1a\x01p\x22\x03\x0a\x01x\x2a\x03\x0a\x01y"
    )
    assert (model.platform, list(model.versions)) == ("p", ["1"])
    assert (model.inputs[0].name, model.outputs[0].name) == ("x", "y")


@pytest.fixture
def call(service):
    """(method, request fields or message) -> response, through a real server."""
    threads = CallThreads()
    server = grpc.server(threads.calls, handlers=[open_inference_handler(service, threads)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def send(method, request=None, **fields):
            stub = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=message(f"{method}Response").FromString,
            )
            return stub(request or message(f"{method}Request")(**fields), timeout=20)

        yield send
    server.stop(1).wait()
    threads.close()


def test_health_and_metadata(call, models):
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name="half").ready
    assert not call("ModelReady", name="half", version="9").ready
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelReady", name="none")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    about = call("ServerMetadata")
    assert (about.name, list(about.extensions)) == ("sightline", ["binary_tensor_data"])
    model = call("ModelMetadata", name="half")
    assert list(model.versions) == ["1", "2"]
    tensor = model.inputs[0]
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1])
    models.servables["gone"] = {}
    assert not call("ServerReady").ready


def infer_request(**fields):
    request = message("ModelInferRequest")(model_name="half", **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    return request


def test_typed_requests_have_typed_responses(call):
    request = infer_request(model_version="1", id="7")
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    answer = call("ModelInfer", request)
    assert (answer.model_name, answer.model_version, answer.id) == ("half", "1", "7")
    output = answer.outputs[0]
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2])
    assert list(output.contents.fp32_contents) == [1.5, 2.0]
    assert not answer.raw_output_contents


def test_raw_requests_have_raw_responses(call):
    request = infer_request(raw_input_contents=[struct.pack("<2f", 1, 2)])
    answer = call("ModelInfer", request)
    assert list(answer.raw_output_contents) == [struct.pack("<2f", 2.5, 3)]
    assert not answer.outputs[0].HasField("contents")


def test_half_precision_travels_raw(call):
    halves = np.array([[1.5, 2]], "<f2").tobytes()
    request = message("ModelInferRequest")(model_name="echo", raw_input_contents=[halves])
    request.inputs.add(name="halves", datatype="FP16", shape=[1, 2])
    request.outputs.add(name="halves")
    assert list(call("ModelInfer", request).raw_output_contents) == [halves]
    del request.raw_input_contents[:]
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)
    assert "raw_input_contents only" in caught.value.details()


@pytest.mark.parametrize(
    ("name", "datatype", "field", "values"),
    [
        ("words", "BYTES", "bytes_contents", [b"\xff", b""]),
        ("big", "UINT64", "uint64_contents", [1, 2**64 - 1]),
        ("one", "BOOL", "bool_contents", [True]),
    ],
)
def test_every_kind_of_values(call, name, datatype, field, values):
    request = message("ModelInferRequest")(model_name="echo")
    shape = [] if name == "one" else [len(values)]
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(values)
    request.outputs.add(name=name)
    output = call("ModelInfer", request).outputs[0]
    assert list(getattr(output.contents, field)) == values
    assert list(output.shape) == shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.raw_input_contents.extend([b"1", b"2"]), "2 raw_input_contents for 1 inputs"),
        (lambda r: r.raw_input_contents.append(b"1"), "8 fill the shape"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "do not fill"),
        (lambda r: setattr(r.inputs[0], "datatype", "X"), "none of"),
        (lambda r: r.inputs.add(name="x"), "twice"),
    ],
)
def test_a_bad_request_is_invalid_argument(call, change, words):
    request = infer_request()
    change(request)
    if len(request.inputs) > 1:
        request.inputs[0].contents.fp32_contents.extend([1, 2])
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()
