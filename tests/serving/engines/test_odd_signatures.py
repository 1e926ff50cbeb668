"""Rare types of inputs and outputs, over REST, V2 and gRPC."""

import json
import urllib.request

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.server.errors import ServingError
from serving.server.http.json_examples import decode_examples
from serving.server.lifecycle.server_process import ServerProcess

pytestmark = pytest.mark.onednn

WAIT_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A model that returns a string and a number of no dimensions."""
    import tensorflow as tf

    def call(text, number):
        return {"joined": tf.strings.join([text, b"!"]), "twice": 2 * number}

    module, root = tf.Module(), tmp_path_factory.mktemp("odd")
    specs = [tf.TensorSpec([], tf.string, name="text"), tf.TensorSpec([], tf.int32, name="number")]
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, str(root / "odd" / "1"), module.call)
    with ServerProcess(root, flags=["--open_inference"]) as process:
        yield process


def post(server, path, document):
    request = urllib.request.Request(server.rest_url + path, json.dumps(document).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(opener.open(request, timeout=WAIT_S))


def test_scalars_over_rest(server):
    answer = post(server, "/v1/models/odd:predict", {"inputs": {"text": "a", "number": 4}})
    assert answer == {"outputs": {"joined": "a!", "twice": 8}}


def test_scalars_over_v2(server):
    inputs = [
        {"name": "text", "datatype": "BYTES", "shape": [], "data": ["a"]},
        {"name": "number", "datatype": "INT32", "shape": [], "data": [4]},
    ]
    outputs = post(server, "/v2/models/odd/infer", {"inputs": inputs})["outputs"]
    found = {output["name"]: (output["shape"], output["data"]) for output in outputs}
    assert found == {"joined": ([], ["a!"]), "twice": ([], [8])}


def test_scalars_over_grpc(server):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "odd"
    request.inputs["text"].dtype = 7
    request.inputs["text"].tensor_shape.SetInParent()
    request.inputs["text"].string_val.append(b"a")
    request.inputs["number"].dtype = 3
    request.inputs["number"].tensor_shape.SetInParent()
    request.inputs["number"].int_val.append(4)
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=WAIT_S).outputs
    assert outputs["joined"].string_val == [b"a!"]
    assert not outputs["joined"].tensor_shape.dim
    assert outputs["twice"].int_val == [8]


def example(*values):
    return decode_examples({"examples": [{"x": list(values)}]}).example_list.examples[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2**63], "Feature: x has uint64 element. Only int64 is supported."),
        ([1, 2**64 - 1, "a"], "Feature: x has uint64 element. Only int64 is supported."),
        # TF Serving looks at the kind first, then at the range; and beyond 64 bits it is a double.
        ([1.5, 2**63], "Unexpected element type in feature: x expecting type: float"),
        (["a", 2**63], "Unexpected element type in feature: x expecting type: bytes"),
        ([1, 2**64], "Unexpected element type in feature: x expecting type: int64"),
        ([1, -(2**63) - 1], "Unexpected element type in feature: x expecting type: int64"),
        ([1.5, None], "Feature: x has element with unexpected JSON type: Null"),
    ],
)
def test_whole_numbers_in_examples_are_refused_as_upstream_does(values, words):
    with pytest.raises(ServingError) as caught:
        example(*values)
    assert caught.value.message == words


def test_whole_numbers_in_examples_are_read_as_upstream_does():
    assert example(-(2**63), True, 2**63 - 1).features.feature["x"].int64_list.value == [
        -(2**63),
        1,
        2**63 - 1,
    ]
    assert example(1.5, 2**64).features.feature["x"].float_list.value == [1.5, 2.0**64]
