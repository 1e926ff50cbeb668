"""Batching, queues and deadlines of a running server, over real gRPC and REST sockets."""

import contextlib
import http.client
import json
import re
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest

WAIT_S = 30
HOUR = 3_600_000_000

#: model -> its batching_params.pbtxt, None for no batching at all.
MODELS = {
    "padded": "max_batch_size { value: 4 } allowed_batch_sizes: 4 "
    "batch_timeout_micros { value: 1000 }",
    "waiter": f"max_batch_size {{ value: 4 }} batch_timeout_micros {{ value: {HOUR} }} "
    "max_enqueued_batches { value: 1 }",
    "plain": None,
}


@pytest.fixture(scope="module")
def sizer(tmp_path_factory):
    """A model that returns the number of rows of the graph's input for each example."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("sizer") / "1"
    module = tf.Module()

    def rows(x):
        return {"rows": tf.ones_like(x) * tf.cast(tf.shape(x)[0], tf.float32), "x": x}

    spec = tf.TensorSpec([None], tf.float32, name="x")
    tf.saved_model.save(
        module, str(folder), signatures=tf.function(rows, [spec]).get_concrete_function()
    )
    return folder


@pytest.fixture(scope="module")
def server(sizer, tmp_path_factory):
    from serving.server.lifecycle.server_process import ServerProcess

    root = tmp_path_factory.mktemp("models")
    for name, text in MODELS.items():
        version = shutil.copytree(sizer, root / name / "1")
        if text is not None:
            (version / "batching_params.pbtxt").write_text(text)
    flags = [
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--rest_api_timeout_in_ms=1500",
    ]
    with ServerProcess(root, flags=flags) as process:
        yield process


def post(server, model, values, **body):
    host = urlsplit(server.rest_url).netloc
    connection = http.client.HTTPConnection(host, timeout=WAIT_S)
    with contextlib.closing(connection):
        text = json.dumps({"instances": values, **body})
        connection.request("POST", f"/v1/models/{model}:predict", body=text)
        answer = connection.getresponse()
        return answer, json.loads(answer.read())


def metric(server, name):
    host = urlsplit(server.rest_url).netloc
    connection = http.client.HTTPConnection(host, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request("GET", "/monitoring/prometheus/metrics")
        text = connection.getresponse().read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until_waiting(server, count):
    deadline = time.monotonic() + WAIT_S
    while metric(server, ":sightline:serving:waiting_requests") != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def predict_stub(server):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(server.grpc_target) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict


def predict_request(model, values):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return request


def test_batching_pads_to_allowed_size(server):
    answer, body = post(server, "padded", [1.0, 2.0, 3.0])
    assert answer.status == 200
    assert body["predictions"] == [{"rows": 4.0, "x": x} for x in (1.0, 2.0, 3.0)]


def test_a_model_without_its_own_parameters_is_not_batched(server):
    _, body = post(server, "plain", [1.0, 2.0, 3.0])
    assert [entry["rows"] for entry in body["predictions"]] == [3.0] * 3


def test_requests_share_a_batch_over_both_protocols(server):
    with predict_stub(server) as predict, ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, server, "waiter", [1.0])
        until_waiting(server, 1)
        second = pool.submit(predict, predict_request("waiter", [2.0, 3.0]), timeout=WAIT_S)
        until_waiting(server, 2)
        third = predict(predict_request("waiter", [4.0]), timeout=WAIT_S)
        assert list(third.outputs["rows"].float_val) == [4.0]
        assert list(third.outputs["x"].float_val) == [4.0]
        assert list(second.result().outputs["x"].float_val) == [2.0, 3.0]
        assert first.result()[1]["predictions"] == [{"rows": 4.0, "x": 1.0}]
    assert metric(server, ":tensorflow:serving:batching_session:wrapped_run_count") >= 1


def test_a_request_larger_than_a_batch(server):
    answer, body = post(server, "waiter", [0.0] * 5)
    assert answer.status == 400
    assert "Task size 5 is larger than maximum input batch size 4" in body["error"]


def test_a_full_queue_and_a_client_that_cancels(server):
    import grpc

    with predict_stub(server) as predict:
        held = predict.future(predict_request("waiter", [1.0, 2.0, 3.0]))
        until_waiting(server, 1)
        answer, body = post(server, "waiter", [1.0, 2.0])
        assert answer.status == 503
        assert int(answer.getheader("Retry-After")) >= 1
        words = "submitted is full; currently 1 batches enqueued and max_enqueued_batches is 1"
        assert words in body["error"]
        with pytest.raises(grpc.RpcError) as caught:
            predict(predict_request("waiter", [1.0, 2.0]), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        hints = dict(caught.value.trailing_metadata())
        assert int(hints["grpc-retry-pushback-ms"]) >= 1000
        held.cancel()
        until_waiting(server, 0)


def test_a_grpc_deadline_ends_the_wait(server):
    import grpc

    with predict_stub(server) as predict:
        with pytest.raises(grpc.RpcError) as caught:
            predict(predict_request("waiter", [1.0]), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until_waiting(server, 0)


def test_a_rest_timeout_ends_the_wait(server):
    answer, body = post(server, "waiter", [1.0])
    assert (answer.status, body["error"]) == (504, "Timed out waiting for notification")
    until_waiting(server, 0)


def test_a_rest_client_that_hangs_up_is_taken_out_of_the_queue(server):
    host, port = urlsplit(server.rest_url).netloc.split(":")
    body = b'{"instances": [1.0]}'
    head = f"POST /v1/models/waiter:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        until_waiting(server, 1)
    until_waiting(server, 0)
    cancelled = ':tensorflow:serving:request_count{model_name="waiter",status="CANCELLED"}'
    assert metric(server, cancelled) >= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batching_parameters_file=f"], "batching_parameters_file is set without setting"),
        (["--enable_batching", "--adaptive_batching"], "give one of --enable_batching and"),
        (["--enable_batching", "--batching_parameters_file=/nonexistent"], "is not a Batching"),
        (["--max_queue=-1"], "a whole number of at least 0"),
    ],
)
def test_batching_params_without_flag(flags, words, capsys):
    from serving.server.__main__ import main

    try:
        code = main(["--bundles_dir=x", *flags])
    except SystemExit as error:
        code = error.code
    assert code != 0
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def adaptive(bundles_dir):
    from serving.server.lifecycle.server_process import ServerProcess

    flags = [
        "--adaptive_batching",
        "--max_queue=1000",
        "--variant=none_fp32",
        "--enable_serialization_as_tensor_content",
        "--tensorflow_session_parallelism=2",
    ]
    with ServerProcess(bundles_dir, flags=flags) as process:
        yield process


def test_a_variant_returns_the_outputs_of_its_engine(adaptive, bundles_dir, make_png):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    from serving.engines.engine import open_engine

    encoded = [make_png((250, 3, 9), (9, 7)), make_png((3, 4, 250))]
    with open_engine(bundles_dir / "colors", "none_fp32") as engine:
        images = engine.preprocess(encoded)
        scores = engine.predict_images(images)
    feature = [
        tf.train.Features(
            feature={"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))}
        )
        for data in encoded
    ]
    examples = [tf.train.Example(features=f).SerializeToString() for f in feature]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    labels = np.array([b"red", b"green", b"blue"], object)[order]
    top = {"scores": np.take_along_axis(scores, order, 1), "classes": order, "labels": labels}
    wanted = {
        "serving_default": ({"image_bytes": encoded}, top),
        "preprocess": ({"image_bytes": encoded}, {"images": images}),
        "predict_tensor": ({"images": images}, {"scores": scores}),
        "predict_examples": ({"examples": examples}, top),
    }
    with predict_stub(adaptive) as predict:
        for name, (inputs, outputs) in wanted.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "colors", name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            answer = predict(request, timeout=WAIT_S)
            assert set(answer.outputs) == set(outputs)
            for key, value in outputs.items():
                assert bool(answer.outputs[key].tensor_content) == (key != "labels")
                got = tf.make_ndarray(answer.outputs[key])
                if key == "scores":
                    np.testing.assert_allclose(got, value, rtol=1e-6)
                else:
                    np.testing.assert_array_equal(got, value)
    ran = ":tensorflow:serving:runtime_latency_count"
    assert metric(adaptive, f'{ran}{{model_name="colors",API="Predict",runtime="TFLite"}}') >= 4


def test_bad_images_fail_alone(adaptive, make_png):
    """Many clients at once, so that good and bad images share batches."""
    good = make_png((250, 0, 0), (30, 20))
    # A valid header and a damaged rest, which only the graph detects.
    bad = good[:60] + bytes(byte ^ 255 for byte in good[60:])

    def send(data):
        import base64

        instance = {"b64": base64.b64encode(data).decode()}
        answer, body = post(adaptive, "colors", [instance])
        return answer.status, body

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(send, [good, bad] * 60))
    assert [status for status, _ in outcomes[::2]] == [200] * 60
    assert {body["predictions"][0]["labels"][0] for _, body in outcomes[::2]} == {"red"}
    assert [status for status, _ in outcomes[1::2]] == [400] * 60


@pytest.mark.slow
@pytest.mark.shared_data
def test_odd_files_in_batches(bundles_dir, extract):
    """Every odd file gets the status that it gets alone, while others share its batch."""
    import base64

    from serving.server.lifecycle.server_process import ServerProcess
    from trainers.data.decode import ImageError, load_image

    files = [path for path in sorted(extract("odd_images_A").rglob("*")) if path.is_file()]
    contents = [path.read_bytes() for path in files if path.stat().st_size < 600_000]

    def expected(data):
        try:
            load_image(data)
        except ImageError:
            return 400
        return 200

    with ServerProcess(bundles_dir, flags=["--adaptive_batching"]) as process:

        def send(data):
            instance = {"b64": base64.b64encode(data).decode()}
            return post(process, "colors", [instance])[0].status

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(send, contents)) == [expected(data) for data in contents]


def test_a_bounded_queue_refuses_with_429(sizer, tmp_path):
    """Its threads and its queue are all taken by requests that wait for a batch."""
    import os

    from serving.server.lifecycle.server_process import ServerProcess

    shutil.copytree(sizer, tmp_path / "m" / "1")
    file = tmp_path / "batching.config"
    file.write_text(f"batch_timeout_micros {{ value: {HOUR} }}")
    flags = ["--enable_batching", f"--batching_parameters_file={file}", "--max_queue=1"]
    places = max(4, 2 * (os.cpu_count() or 1)) + 1
    with ServerProcess(tmp_path, flags=flags) as process, predict_stub(process) as predict:
        held = []
        for count in range(places):
            held.append(predict.future(predict_request("m", [1.0])))
            until_waiting(process, count + 1)
        answer, body = post(process, "m", [1.0])
        assert answer.status == 429
        assert int(answer.getheader("Retry-After")) >= 1
        assert "--max_queue lets 1 wait" in body["error"]
        for call in held:
            call.cancel()
        until_waiting(process, 0)
