"""The real server with everything switched on at once, over TLS."""

import contextlib
import gzip
import http.client
import json
import shutil
import ssl
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import grpc
import pytest

from serving.server.v2.grpc_service import message

WAIT = 30
TRACE = "0123456789abcdef0123456789abcdef"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture(scope="module")
def collector():
    """An OTLP endpoint: (URL, bodies that were sent to /v1/traces)."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            bodies.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server(half_plus_two, certificates, collector, tmp_path_factory):
    """half_plus_two at 123 (stable) and 124 (canary), with every extra."""
    pytest.importorskip("opentelemetry.sdk")
    from serving.server.lifecycle.server_process import ServerProcess

    folder = tmp_path_factory.mktemp("production")
    model = Path(shutil.copytree(half_plus_two, folder / "hp2"))
    shutil.copytree(model / "123", model / "124")
    config = folder / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "hp2" base_path: "{model}" '
        "model_version_policy { all {} } "
        'version_labels { key: "stable" value: 123 } version_labels { key: "canary" value: 124 } '
        f'logging_config {{ log_collector_config {{ filename_prefix: "{folder}/logs/hp2" }} '
        "sampling_config { sampling_rate: 1 } } } }"
    )
    chain, key, tls = folder / "chain.pem", folder / "key.pem", folder / "ssl.config"
    chain.write_bytes(certificates["server"][0])
    key.write_bytes(certificates["server"][1])
    fields = zip(("server_cert", "server_key"), certificates["server"], strict=True)
    tls.write_text("".join(f'{name}: "{pem_text(value)}"\n' for name, value in fields))
    flags = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        f"--rest_ssl_cert={chain}",
        f"--rest_ssl_key={key}",
        f"--ssl_config_file={tls}",
        "--rest_api_enable_cors_support",
        "--rest_compression_min_bytes=200",
        "--health_urls",
        "--open_inference",
        "--canary=hp2=stable:50,canary:50",
        "--shadow=hp2=canary",
        "--tracing",
        "--grpc_max_threads=3",
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector[0])
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        process = stack.enter_context(ServerProcess(flags=flags))
        trust = ssl.create_default_context(cadata=certificates["authority"][0].decode())
        yield SimpleNamespace(
            process=process,
            folder=folder,
            config=config,
            trust=trust,
            authority=certificates["authority"][0],
        )


def pem_text(value):
    return value.decode().replace("\n", "\\n")


def send(server, method, path, body=b"", headers=None):
    address = urlsplit(server.process.rest_url)
    assert address.scheme == "https"
    connection = http.client.HTTPSConnection(address.netloc, context=server.trust, timeout=WAIT)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, dict(headers or {}))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def call(server, method, request, response, metadata=()):
    credentials = grpc.ssl_channel_credentials(server.authority)
    with grpc.secure_channel(server.process.grpc_target, credentials) as channel:
        stub = channel.unary_unary(
            method,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return stub(request, timeout=WAIT, metadata=metadata)


def predict(server, metadata=(), **spec):
    """The version in the response of a gRPC Predict."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hp2"
    for name, value in spec.items():
        setattr(request.model_spec, name, value)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([2.0]))
    method = "/tensorflow.serving.PredictionService/Predict"
    answer = call(server, method, request, predict_pb2.PredictResponse, metadata)
    assert list(answer.outputs["y"].float_val) == [3.0]
    return answer.model_spec.version.value


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_flag_without_effect_prints_a_warning(server):
    assert "--grpc_max_threads has no effect" in server.process.log()


def test_rest_over_tls_with_cors(server):
    answer, body = send(server, "POST", "/v1/models/hp2:predict", {"instances": [1.0]})
    assert json.loads(body) == {"predictions": [2.5]}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    origin = {"Origin": "https://example.org"}
    answer, body = send(server, "OPTIONS", "/v1/models/hp2:predict", headers=origin)
    assert (answer.status, body) == (200, b"")
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"


def test_plain_text_is_refused(server):
    address = urlsplit(server.process.rest_url).netloc
    connection = http.client.HTTPConnection(address, timeout=WAIT)
    connection.request("GET", "/v1/models/hp2")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()
    connection.close()


def test_compression(server):
    asked = {"Accept-Encoding": "gzip"}
    body = {"instances": [1.0] * 100}
    answer, content = send(server, "POST", "/v1/models/hp2:predict", body, asked)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(content)) == {"predictions": [2.5] * 100}
    answer, _ = send(server, "POST", "/v1/models/hp2:predict", {"instances": [1.0]}, asked)
    assert "Content-Encoding" not in answer.headers


def test_health_urls(server):
    assert send(server, "GET", "/healthz/live")[0].status == 200
    answer, body = send(server, "GET", "/healthz/ready")
    assert (answer.status, json.loads(body)) == (200, {"ready": True, "not_served": []})
    assert send(server, "GET", "/healthz/none")[0].status == 404


def test_open_inference_over_rest(server):
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    answer, body = send(server, "POST", "/v2/models/hp2/versions/123/infer", {"inputs": [tensor]})
    assert answer.status == 200, body
    document = json.loads(body)
    assert document["model_version"] == "123"
    assert document["outputs"] == [
        {"name": "y", "shape": [2], "datatype": "FP32", "data": [2.5, 3.0]}
    ]
    tensor = {**tensor, "datatype": "FP64"}
    answer, body = send(server, "POST", "/v2/models/hp2/infer", {"inputs": [tensor]})
    assert answer.status == 400
    assert "FP64, the model takes FP32" in json.loads(body)["error"]


def test_open_inference_over_grpc(server):
    request = message("ModelInferRequest")(model_name="hp2", model_version="stable")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(struct.pack("<2f", 1, 2))
    method = "/inference.GRPCInferenceService/ModelInfer"
    answer = call(server, method, request, message("ModelInferResponse"))
    assert (answer.model_version, list(answer.raw_output_contents)) == (
        "123",
        [struct.pack("<2f", 2.5, 3)],
    )


def test_the_canary_keeps_an_id_and_shares_out_the_rest(server):
    sides = Counter(predict(server) for _ in range(40))
    # Each side missing by chance: 2 in 2^40.
    assert set(sides) == {123, 124}
    first = [predict(server, [("x-request-id", str(i))]) for i in range(8)]
    assert first == [predict(server, [("x-request-id", str(i))]) for i in range(8)]
    assert predict(server, version_label="stable") == 123
    text = send(server, "GET", "/monitoring/prometheus/metrics")[1].decode()
    assert ':sightline:serving:canary_count{model_name="hp2",label="canary"}' in text


def test_the_shadow_reports(server):
    predict(server, version_label="stable")

    def compared():
        report = json.loads(send(server, "GET", "/shadow/report")[1])["hp2"]
        return report["requests"] > 0 and report

    until(compared)
    report = compared()
    assert report["versions"] == [[123, 124]]
    assert (report["max_score_difference"], report["failed"]) == (0.0, 0)


def test_spans_carry_the_clients_trace(server, collector):
    body = {"instances": [1.0]}
    send(server, "POST", "/v1/models/hp2:predict", body, PARENT)
    predict(server, list(PARENT.items()))

    def spans():
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        requests = [
            trace_service_pb2.ExportTraceServiceRequest.FromString(data)
            for path, data in list(collector[1])
            if path == "/v1/traces"
        ]
        listed = [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return Counter(span.name for span in listed if span.trace_id.hex() == TRACE)

    until(lambda: spans()["Predict hp2"] == 2)
    assert spans() == {"Predict hp2": 2, "queue": 2, "compute": 2}


def test_the_config_file_is_read_again(server):
    text = server.config.read_text()
    server.config.write_text(text.replace('key: "stable"', 'key: "old"'))

    def is_answered():
        path = "/v1/models/hp2/labels/old:predict"
        return send(server, "POST", path, {"instances": [1.0]})[0].status == 200

    until(is_answered)
    server.config.write_text("nonsense")
    time.sleep(2)
    assert is_answered()
    server.config.write_text(text)
    until(lambda: not is_answered())


def test_the_log_is_whole_when_the_server_has_ended(server):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    assert server.process.stop() == 0
    logs = server.folder / "logs"
    assert not list(logs.glob("*.open"))
    files = [str(path) for path in logs.glob("hp2-hp2-*.tfrecord")]
    entries = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(files).as_numpy_iterator()
    ]
    assert {entry.log_metadata.model_spec.version.value for entry in entries} == {123, 124}
    inputs = [tf.make_ndarray(entry.predict_log.request.inputs["x"]).tolist() for entry in entries]
    assert [1.0] * 100 in inputs
    assert [1.0, 2.0] in inputs
