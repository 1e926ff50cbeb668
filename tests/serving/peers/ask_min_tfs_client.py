"""min-tfs-client over gRPC: TF Serving's messages of 2020, in its own `tensorflow` package."""

# pyright: reportMissingImports=false
import grpc
import numpy as np
from asking import Transcript, X, Y, check, read_facts
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray

facts = read_facts()
ask = Transcript(facts, "min-tfs-client", "grpcio", "protobuf", "numpy")
host, port = facts.grpc.split(":")
client = TensorServingClient(host, int(port))
predict = client.predict_request
x = np.array(X, np.float32)


def outputs(response):
    """The client's arrays of a response."""
    return {name: tensor_proto_to_ndarray(proto) for name, proto in response.outputs.items()}


for version in (123, 124):
    answer = ask(predict, "half_plus_two", {"x": x}, model_version=version)
    check(outputs(answer), {"y": Y})
    check(answer.model_spec.version.value, version)
newest = ask(predict, "half_plus_two", {"x": x}, timeout=20)
check(newest.model_spec.version.value, 124)
check(newest.model_spec.signature_name, "serving_default")

# Its strings are text, which no JPEG is; a BMP of ASCII bytes is both.
image = np.array([facts.text_image])
answer = ask(predict, "colors", {"image_bytes": image})
check(outputs(answer), facts.answers["text_image"])

for code, model, inputs, version in (
    ("NOT_FOUND", "no_such_model", {"x": x}, None),
    ("NOT_FOUND", "half_plus_two", {"x": x}, 125),
    ("INVALID_ARGUMENT", "half_plus_two", {"z": x}, None),
    ("INVALID_ARGUMENT", "half_plus_two", {"x": np.array(["one"])}, None),
    ("INVALID_ARGUMENT", "colors", {"image_bytes": np.array(["no image"])}, None),
    ("INVALID_ARGUMENT", "colors", {"image_bytes": image.reshape(1, 1)}, None),
):
    refusal = ask.refused(grpc.RpcError, predict, model, inputs, model_version=version)
    check(refusal.code().name, code)
