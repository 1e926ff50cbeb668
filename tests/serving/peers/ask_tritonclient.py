"""Triton's client over HTTP and gRPC: the Open Inference Protocol (V2), tensors in binary."""

# pyright: reportMissingImports=false
import numpy as np
import tritonclient.grpc
import tritonclient.http
from asking import SHOWN, Transcript, X, Y, brief, check, read_facts
from tritonclient.utils import InferenceServerException

facts = read_facts()
ask = Transcript(facts, "tritonclient", "geventhttpclient", "grpcio", "protobuf", "numpy")
x = np.array(X, np.float32)
photos = np.array([facts.photo], np.object_)
# Zeros and a pixel of pure green: the bundle's class 1 wins.
pixels = np.zeros((1, 4, 4, 3), np.uint8)
pixels[0, 2, 2, 1] = 255


def ask_everything(api, client, model_version, **as_dict):
    """What both of Triton's clients have in common.

    Args:
      api: `tritonclient.http` or `tritonclient.grpc`.
      client: one of its clients.
      model_version: reads it from a response.
      as_dict: what it takes for metadata to be a dict.
    """

    def tensor(name, array, datatype):
        made = api.InferInput(name, list(array.shape), datatype)
        return made.set_data_from_numpy(array)

    def infer(model, tensors, outputs=(), **how):
        wanted = [api.InferRequestedOutput(name) for name in outputs]
        result = ask(client.infer, model, tensors, outputs=wanted, **how)
        arrays = {name: result.as_numpy(name) for name in outputs}
        ask.print(f"# {brief(arrays)}")
        return arrays, model_version(result.get_response())

    SHOWN[api.InferInput] = lambda one: f"<{one.name()}: {one.datatype()} {one.shape()}>"
    SHOWN[api.InferRequestedOutput] = lambda one: one.name()

    check(ask(client.is_server_live), True)
    check(ask(client.is_server_ready), True)
    check(ask(client.get_server_metadata, **as_dict)["name"], "sightline")
    for version, ready in (("", True), ("123", True), ("stable", True), ("125", False)):
        check(ask(client.is_model_ready, "half_plus_two", version), ready)
    about = ask(client.get_model_metadata, "half_plus_two", "123", **as_dict)
    check(about["versions"], ["123", "124"])
    check(about["inputs"][0]["datatype"], "FP32")

    # A version is a number, one of our labels, or none for the newest.
    for asked, told in (("123", "123"), ("stable", "123"), ("", "124")):
        tensors = [tensor("x", x, "FP32")]
        arrays, version = infer("half_plus_two", tensors, ["y"], model_version=asked)
        check(arrays, {"y": Y})
        check(version, told)
    photo = tensor("image_bytes", photos, "BYTES")
    arrays, _ = infer("colors", [photo], ["scores", "classes", "labels"])
    check(arrays, facts.answers["photo"])
    chosen = {"signature_name": "predict_tensor"}
    arrays, _ = infer("colors", [tensor("images", pixels, "UINT8")], ["scores"], parameters=chosen)
    # A pixel's channel votes with a hundredth of its value.
    votes = np.exp(np.array([0, 2.55, 0]))
    check(arrays["scores"], [(votes / votes.sum()).tolist()])

    several = tensor("image_bytes", photos.reshape(1, 1), "BYTES")
    wrong = tensor("images", np.zeros((1, 5, 5, 3), np.uint8), "UINT8")
    refused = (
        ("no_such_model", [tensor("x", x, "FP32")], {}),
        ("half_plus_two", [tensor("x", x, "FP32")], {"model_version": "125"}),
        ("half_plus_two", [tensor("z", x, "FP32")], {}),
        ("half_plus_two", [tensor("x", x.astype(np.int32), "INT32")], {}),
        ("colors", [several], {}),
        ("colors", [wrong], {"parameters": chosen}),
    )
    for model, tensors, how in refused:
        refusal = ask.refused(InferenceServerException, client.infer, model, tensors, **how)
        assert refusal.status() in statuses[api], refusal.status()
    ask.refused(InferenceServerException, client.get_model_metadata, "no_such_model")


statuses = {
    tritonclient.http: {"400", "404"},
    tritonclient.grpc: {"StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"},
}
client = tritonclient.http.InferenceServerClient(facts.rest)
ask_everything(tritonclient.http, client, lambda response: response["model_version"])

# What only HTTP has: JSON instead of binary, both ways, and a packed request.
plain = tritonclient.http.InferInput("x", list(x.shape), "FP32")
plain.set_data_from_numpy(x, binary_data=False)
wanted = tritonclient.http.InferRequestedOutput("y", binary_data=False)
result = client.infer("half_plus_two", [plain], outputs=[wanted])
check(result.get_response()["outputs"][0]["data"], [y for row in Y for y in row])
packed = client.infer("half_plus_two", [plain], request_compression_algorithm="gzip")
check(packed.as_numpy("y"), Y)

client = tritonclient.grpc.InferenceServerClient(facts.grpc)
ask_everything(tritonclient.grpc, client, lambda response: response.model_version, as_json=True)
