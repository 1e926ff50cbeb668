"""TFX's InfraValidator client over gRPC, and requests by TFX's builder, in Sightline's environment.

`SendRequests` drops the responses and raises for an error, so the same requests are sent again
through the client's stub.
"""

import time

import tensorflow as tf
from asking import SHOWN, Transcript, X, Y, check, read_facts
from tensorflow_serving.apis import (
    classification_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)
from tfx.components.infra_validator import error_types, request_builder
from tfx.components.infra_validator.model_server_clients.tensorflow_serving_client import (
    TensorFlowServingClient,
)
from tfx.proto import infra_validator_pb2
from tfx.types import standard_artifacts

facts = read_facts()
REQUESTS = (
    classification_pb2.ClassificationRequest,
    regression_pb2.RegressionRequest,
    predict_pb2.PredictRequest,
)
ask = Transcript(facts, "tfx", "tensorflow-serving-api", "grpcio", "protobuf")


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def examples_artifact(name, rows):
    """TFX's artifact of a split `eval` that holds the rows, as ExampleGen leaves it."""
    artifact = standard_artifacts.Examples()
    artifact.uri = f"{facts.folder}/{name}"
    artifact.split_names = '["eval"]'
    tf.io.gfile.makedirs(f"{artifact.uri}/Split-eval")
    file = f"{artifact.uri}/Split-eval/data.gz"
    with tf.io.TFRecordWriter(file, "GZIP") as writer:
        for row in rows:
            features = {key: feature(value) for key, value in row.items()}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return artifact


def build(model, saved_model, rows, signature_names):
    """What TFX's builder makes of the rows."""
    artifact = standard_artifacts.Model()
    artifact.uri = f"{facts.folder}/{model}"
    # It reads the signatures and nothing else.
    tf.io.gfile.makedirs(f"{artifact.uri}/Format-Serving")
    graph = "saved_model.pb"
    tf.io.gfile.copy(f"{saved_model}/{graph}", f"{artifact.uri}/Format-Serving/{graph}")
    spec = infra_validator_pb2.RequestSpec(
        tensorflow_serving={"signature_names": signature_names}, num_examples=len(rows)
    )
    examples = examples_artifact(f"{model}_examples", rows)
    return request_builder.build_requests(model, artifact, examples, spec)


def wait_until_model_loaded(client, *, seconds):
    """The client's own wait, whose deadline is a time of the day."""
    client.WaitUntilModelLoaded(time.time() + seconds, polling_interval_sec=1)


def send_again(client, requests):
    """The responses that `SendRequests` drops."""
    service = client._prediction_service
    calls = dict(zip(REQUESTS, (service.Classify, service.Regress, service.Predict), strict=True))
    return [calls[type(request)](request) for request in requests]


def asked(request):
    """The x of a request of one example."""
    (example,) = request.input.example_list.examples
    return example.features.feature["x"].float_list.value[0]


def ask_half_plus_two():
    client = TensorFlowServingClient(facts.grpc, "half_plus_two")
    ask(wait_until_model_loaded, client, seconds=30)
    rows = [{"x": x, "x2": 0.0} for (x,) in X]
    signatures = ["regress_x_to_y", "classify_x_to_y"]
    requests = build("half_plus_two", facts.half_plus_two, rows, signatures)
    check(len(requests), 2 * len(X))
    # It shuffles what it reads.
    requests.sort(key=lambda one: (type(one).__name__, asked(one)))
    ask(client.SendRequests, requests)
    answers = ask(send_again, client, requests)
    classified, regressed = answers[: len(X)], answers[len(X) :]
    expected = sorted(y for (y,) in Y)
    check([one.result.classifications[0].classes[0].score for one in classified], expected)
    check([one.result.regressions[0].value for one in regressed], expected)


def ask_colors():
    client = TensorFlowServingClient(facts.grpc, "colors")
    ask(wait_until_model_loaded, client, seconds=30)
    rows = [{"image/encoded": facts.photo}]
    requests = build("colors", facts.colors, rows, ["predict_examples"])
    check(len(requests), 1)
    ask(client.SendRequests, requests)
    (answer,) = ask(send_again, client, requests)
    arrays = {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}
    check({**arrays, "labels": arrays["labels"].astype(str)}, facts.answers["photo"])

    # The PredictionLogs of the bundle's warm-up file, which TF Serving sends itself.
    logs = tf.data.TFRecordDataset(facts.warmup).as_numpy_iterator()
    logged = [prediction_log_pb2.PredictionLog.FromString(record) for record in logs]
    ask(client.SendRequests, [log.predict_log.request for log in logged])

    bent = predict_pb2.PredictRequest(model_spec={"name": "colors"})
    bent.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([[b"a"], [b"b"]]))
    refusal = ask.refused(error_types.ValidationFailed, client.SendRequests, [bent])
    check(refusal.__cause__.code().name, "INVALID_ARGUMENT")


def ask_for_a_stranger():
    client = TensorFlowServingClient(facts.grpc, "no_such_model")
    late = error_types.DeadlineExceeded
    ask.refused(late, wait_until_model_loaded, client, seconds=1)
    request = predict_pb2.PredictRequest(model_spec={"name": "no_such_model"})
    refusal = ask.refused(error_types.ValidationFailed, client.SendRequests, [request])
    check(refusal.__cause__.code().name, "NOT_FOUND")


SHOWN[TensorFlowServingClient] = lambda one: f"<client of {one._model_name}>"
for kind in REQUESTS:
    SHOWN[kind] = lambda one: f"<{type(one).__name__} {one.model_spec.signature_name}>"
ask_half_plus_two()
ask_colors()
ask_for_a_stranger()
