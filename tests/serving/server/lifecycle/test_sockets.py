"""The http and grpc cases of ../shared/serving/cases.json, over real sockets; and reloading."""

import http.client
import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from serving.server.models.servable import State


@pytest.fixture(scope="module")
def served_model(half_plus_two, tmp_path_factory):
    """A half_plus_two that a test may add versions to, with a warm-up file of one request."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    folder = Path(shutil.copytree(half_plus_two, tmp_path_factory.mktemp("served") / "hp2"))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    (folder / "123" / "assets.extra").mkdir()
    file = folder / "123" / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(log.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def server(served_model, tmp_path_factory):
    """The half_plus_two model at version 123 with label1, as every http and grpc case wants it."""
    from serving.server.lifecycle.server_process import ServerProcess

    folder = tmp_path_factory.mktemp("config")
    models, monitoring = folder / "models.config", folder / "monitoring.config"
    models.write_text(
        f'model_config_list {{ config {{ name: "hp2" base_path: "{served_model}" '
        'model_platform: "tensorflow" version_labels { key: "label1" value: 123 } } }'
    )
    monitoring.write_text(
        'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'
    )
    flags = [
        f"--model_config_file={models}",
        f"--monitoring_config_file={monitoring}",
        "--enable_grpc_healthcheck_service",
        "--file_system_poll_wait_seconds=0",
        "--enable_model_warmup=false",
    ]
    with ServerProcess(flags=flags) as process:
        yield process


def send(server, method, path, body=b"", headers=()):
    connection = http.client.HTTPConnection(urlsplit(server.rest_url).netloc, timeout=30)
    connection.request(method, path, body=body, headers=dict(headers))
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def subset(wanted, got):
    if isinstance(wanted, dict):
        return all(key in got and subset(value, got[key]) for key, value in wanted.items())
    return wanted == got


def test_http(http_case, server):
    request, expect = http_case["request"], http_case["expect"]
    if "after" in expect:
        send(server, "POST", "/v1/models/hp2/versions/123:predict", b'{"instances": [1.0]}')
    body = request["body"]
    body = (body["raw"] if isinstance(body, dict) else body).encode()
    headers = request.get("headers", {})
    answer, data = send(server, request["method"], request["path"], body, headers.items())
    assert answer.status == expect["http"], data
    for name, value in expect.get("headers", {}).items():
        if name != "server_flags":
            assert answer.getheader(name) == value
    if "error_contains" in expect:
        message = json.loads(data)["error"]
        assert all(part in message for part in expect["error_contains"]), message
    if "body" in expect:
        assert json.loads(data) == expect["body"]
    if "body_subset" in expect:
        assert subset(expect["body_subset"], json.loads(data)), data
    for part in expect.get("body_contains", []):
        assert part in data.decode()


def test_labels_are_honored_by_predict_and_metadata(server):
    answer, data = send(
        server, "POST", "/v1/models/hp2/labels/label1:predict", b'{"instances": [1.0]}'
    )
    assert (answer.status, json.loads(data)) == (200, {"predictions": [2.5]})
    assert send(server, "GET", "/v1/models/hp2/labels/label1/metadata")[0].status == 200
    assert send(server, "GET", "/v1/models/hp2/labels/nope/metadata")[0].status == 400


def tensor_proto(spec):
    import tensorflow as tf

    if "values" in spec:
        return tf.make_tensor_proto(spec["values"], dtype=tf.float32, shape=spec["shape"])
    proto = tf.make_tensor_proto([], dtype=tf.float32, shape=[0])
    proto.Clear()
    proto.dtype = tf.float32.as_datatype_enum
    for size in spec["shape"]:
        proto.tensor_shape.dim.add().size = size
    proto.float_val.extend(spec["float_val"])
    return proto


def fill_spec(proto, spec):
    proto.SetInParent()
    for key, value in spec.items():
        if key == "version":
            proto.version.value = value
        else:
            setattr(proto, key, value)


def grpc_request(name, request):
    """(path, request proto, response class) of a case."""
    import tensorflow as tf
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        predict_pb2,
        regression_pb2,
    )

    from serving.protocol import wire

    kinds = {
        "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "Classify": (
            classification_pb2.ClassificationRequest,
            classification_pb2.ClassificationResponse,
        ),
        "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "MultiInference": (
            inference_pb2.MultiInferenceRequest,
            inference_pb2.MultiInferenceResponse,
        ),
        "GetModelMetadata": (
            get_model_metadata_pb2.GetModelMetadataRequest,
            get_model_metadata_pb2.GetModelMetadataResponse,
        ),
        "GetModelStatus": (
            get_model_status_pb2.GetModelStatusRequest,
            get_model_status_pb2.GetModelStatusResponse,
        ),
        "Check": (wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")),
    }
    kind, answer = kinds[name]
    proto = kind()
    if "model_spec" in request:
        fill_spec(proto.model_spec, request["model_spec"])
    for key, spec in request.get("inputs", {}).items():
        proto.inputs[key].CopyFrom(tensor_proto(spec))
    proto_lists = {"output_filter": "output_filter", "metadata_field": "metadata_field"}
    for key, target in proto_lists.items():
        getattr(proto, target, []).extend(request.get(key, []))
    for example in request.get("examples", []):
        value = example["x"]["float"]
        feature = tf.train.Feature(float_list=tf.train.FloatList(value=value))
        features = tf.train.Features(feature={"x": feature})
        proto.input.example_list.examples.append(tf.train.Example(features=features))
    for task in request.get("tasks", []):
        entry = proto.tasks.add(method_name=task["method_name"])
        fill_spec(entry.model_spec, task["model_spec"])
    if "service" in request:
        proto.service = request["service"]
    return proto, answer


def call_grpc(server, case):
    import grpc

    rpc = case["request"]["rpc"]
    proto, answer = grpc_request(rpc.rpartition("/")[2], case["request"])
    with grpc.insecure_channel(server.grpc_target) as channel:
        method = channel.unary_unary(
            f"/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return method(proto, timeout=30)


def classes_of(result):
    return [[[c.label, c.score] for c in entry.classes] for entry in result.classifications]


def values_of(result):
    return [entry.value for entry in result.regressions]


def test_grpc(grpc_case, server):
    import grpc
    import tensorflow as tf

    expect = grpc_case["expect"]
    if expect["code"] != "OK":
        with pytest.raises(grpc.RpcError) as caught:
            call_grpc(server, grpc_case)
        message = caught.value.details()
        assert caught.value.code().name == expect["code"], message
        assert all(part in message for part in expect.get("message_contains", [])), message
        assert len(message) <= expect.get("message_max_len", 10**9)
        assert message.endswith(expect.get("message_endswith", ""))
        return
    answer = call_grpc(server, grpc_case)
    checked = 0
    for name, spec in expect.get("outputs", {}).items():
        array = tf.make_ndarray(answer.outputs[name])
        assert array.tolist() == np.reshape(spec["values"], spec["shape"]).tolist()
        checked += 1
    if expect.get("outputs_exact_keys"):
        assert set(answer.outputs) == set(expect["outputs"])
    if "regressions" in expect:
        assert values_of(answer.result) == expect["regressions"]
        checked += 1
    for index, result in enumerate(expect.get("results", [])):
        got = answer.results[index]
        if "regressions" in result:
            assert values_of(got.regression_result) == result["regressions"]
        else:
            assert classes_of(got.classification_result) == result["classifications"]
        checked += 1
    for key, url in expect.get("metadata_any", {}).items():
        assert answer.metadata[key].type_url == url
        assert answer.model_spec.version.value == expect["model_spec"]["version"]
        checked += 1
    for index, version in enumerate(expect.get("versions", [])):
        got = answer.model_version_status[index]
        assert (got.version, State(got.state).name) == (version["version"], version["state"])
        assert (got.status.error_code, got.status.error_message) == (0, "")
        checked += 1
    if "serving_status" in expect:
        assert answer.status == 1
        checked += 1
    assert checked


def test_reload_over_grpc(server, served_model):
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    def reload(*models):
        request = model_management_pb2.ReloadConfigRequest()
        for name, folder in models:
            entry = request.config.model_config_list.config.add(name=name)
            entry.base_path, entry.model_platform = str(folder), "tensorflow"
            entry.version_labels["label1"] = 123
        return stub.HandleReloadConfigRequest(request, timeout=60)

    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = reload(("hp2", served_model), ("twin", served_model))
        assert answer.status.error_code == 0
        path = "/v1/models/twin:predict"
        assert send(server, "POST", path, b'{"instances": [1.0]}')[0].status == 200
        with pytest.raises(grpc.RpcError) as caught:
            reload(("hp2", served_model), ("etc", "/etc"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as caught:
            reload(("hp2", served_model), ("hp2", served_model))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        reload(("hp2", served_model))
    assert send(server, "POST", path, b'{"instances": [1.0]}')[0].status == 404
    path = "/v1/models/hp2:predict"
    assert send(server, "POST", path, b'{"instances": [1.0]}')[0].status == 200


def test_poll_zero_and_no_warmup(server, served_model):
    shutil.copytree(served_model / "123", served_model / "124")
    time.sleep(2)
    listed = json.loads(send(server, "GET", "/v1/models/hp2")[1])["model_version_status"]
    assert [entry["version"] for entry in listed] == ["123"]
    send(server, "POST", "/v1/models/hp2:predict", b'{"instances": [1.0]}')
    metrics = send(server, "GET", "/monitoring/prometheus/metrics")[1].decode()
    assert "request_count" in metrics
    assert "model_warmup_records_read" not in metrics
