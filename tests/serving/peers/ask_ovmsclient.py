"""OpenVINO Model Server's client over gRPC and HTTP.

Without a version it requests version 0, which TF Serving does not have either, so the script always
gives one.
"""

# pyright: reportMissingImports=false
import numpy as np
import ovmsclient
from asking import Transcript, X, Y, check, read_facts
from ovmsclient import InvalidInputError, ModelNotFoundError

facts = read_facts()
ask = Transcript(facts, "ovmsclient", "grpcio", "requests", "protobuf", "numpy")
x = np.array(X, np.float32)
available = {123: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}


def ask_everything(client):
    """What the client has the same methods for, over either protocol."""
    for version in (123, 124):
        check(ask(client.predict, {"x": x}, "half_plus_two", version), Y)
    for sent in (facts.photo, [facts.photo]):
        check(ask(client.predict, {"image_bytes": sent}, "colors", 1), facts.answers["photo"])

    ask.refused(ModelNotFoundError, client.predict, {"x": x}, "no_such_model", 1)
    ask.refused(ModelNotFoundError, client.predict, {"x": x}, "half_plus_two", 125)
    ask.refused(ModelNotFoundError, client.get_model_status, "no_such_model", 1)
    ask.refused(ModelNotFoundError, client.get_model_metadata, "no_such_model", 1)
    ask.refused(InvalidInputError, client.predict, {"z": x}, "half_plus_two", 123)
    ask.refused(InvalidInputError, client.predict, {"x": ["one"]}, "half_plus_two", 123)
    ask.refused(InvalidInputError, client.predict, {"image_bytes": b"no image"}, "colors", 1)
    ask.refused(InvalidInputError, client.predict, {"image_bytes": [["a"], ["b"]]}, "colors", 1)


client = ask(ovmsclient.make_grpc_client, facts.grpc)
tensor = {"shape": [-1, 1], "dtype": "DT_FLOAT"}
metadata = ask(client.get_model_metadata, "half_plus_two", 124)
check(metadata, {"model_version": 124, "inputs": {"x": tensor}, "outputs": {"y": tensor}})
check(ask(client.get_model_status, "half_plus_two", 123), available)
ask_everything(client)

client = ask(ovmsclient.make_http_client, facts.rest)
# What is not OpenVINO's own form of metadata comes back as it is.
metadata = ask(client.get_model_metadata, "half_plus_two", 124)
check(metadata["model_spec"]["version"], "124")
signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
check(signature["inputs"]["x"]["dtype"], "DT_FLOAT")
check(ask(client.get_model_status, "half_plus_two", 123), available)
ask_everything(client)
