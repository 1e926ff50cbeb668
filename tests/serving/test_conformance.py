"""TF Serving's REST codec, routes and codes, case by case, from ../shared/serving/cases.json.

Decode and encode cases go through the REST handler with a recording model. The http and grpc cases
are in test_sockets.py, the lifecycle ones in test_lifecycle.py; conftest.py lists what is left out.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serving.engines.signatures import GraphSignature, GraphTensor
from serving.server.errors import ServingError, http_status

#: lifecycle case -> the test that is it.
LIFECYCLE = {
    "default_policy_latest_one": "test_policies",
    "latest_n": "test_policies",
    "all_versions": "test_policies",
    "specific_versions": "test_policies",
    "duplicate_versions_one_loaded": "test_policies",
    "new_version_appears": "test_new_version_appears",
    "last_version_removed_keeps_serving_option": "test_last_version_removed",
    "poll_zero_polls_once": "test_poll_zero_and_no_warmup",
    "duplicate_model_name_refused": "test_duplicate_name",
    "reload_waits_until_available": "test_switch_waits_and_brings_back",
    "reload_previously_unloaded_model": "test_switch_waits_and_brings_back",
    "label_to_unavailable_version_refused": "test_labels_to_unavailable_versions",
    "existing_label_move_to_unavailable_refused_even_with_flag": (
        "test_labels_to_unavailable_versions"
    ),
    "broken_model_reports_error_status": "test_broken_model_reports_error",
    "warmup_file_replayed": "test_warmup_records_are_replayed",
    "warmup_disabled": "test_poll_zero_and_no_warmup",
    "batching_params_without_flag": "test_batching_params_without_flag",
    "batching_pads_to_allowed_size": "test_batching_pads_to_allowed_size",
    "prefer_tflite_model": "test_prefer_tflite_model",
}


def test_every_case_is_run_or_listed(cases):
    if not cases.all:
        pytest.skip("../shared/serving/cases.json is not there to conform to")
    run = {
        case["name"]
        for kinds in cases.fixtures.values()
        for case in cases.all
        if case["kind"] in kinds and case["name"] not in cases.excluded
    }
    names = {case["name"] for case in cases.all}
    assert len(names) == len(cases.all)
    assert run | set(LIFECYCLE) | set(cases.excluded) == names
    assert len(run) + len(LIFECYCLE) + len(cases.excluded) == len(names)
    text = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    for name in [*LIFECYCLE.values(), *cases.fixtures]:
        assert f"def {name}(" in text or f"({name}" in text


DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
    "DT_COMPLEX64": np.complex64,
}


def array_of(spec):
    """A case's tensor description as an array."""
    values = spec["values"]
    if spec["dtype"] == "DT_STRING":
        flat = np.empty(len(values), object)
        flat[:] = [value.encode() for value in values]
    elif spec["dtype"] == "DT_COMPLEX64":
        # One value for the whole tensor.
        flat = np.full(spec["shape"], complex(*values[0]), np.complex64)
    else:
        dtype = DTYPES[spec["dtype"]]
        flat = np.array([float(v) if isinstance(v, str) else v for v in values], dtype)
    return flat.reshape(spec["shape"])


class RecordingEngine:
    """Stands for a SavedModel: any signature name, remembers inputs, returns what it was given."""

    def __init__(self, dtypes, outputs=None):
        inputs = {name: GraphTensor(f"{name}:0", dtype, None) for name, dtype in dtypes.items()}
        self.outputs = outputs or {"y": np.zeros(1, np.float32)}
        named = {name: GraphTensor(f"{name}:0", "DT_FLOAT", None) for name in self.outputs}
        proto = SimpleNamespace(defaults={})
        signature = GraphSignature("s", "tensorflow/serving/predict", inputs, named, proto)
        self.signatures = dict.fromkeys(("serving_default", "predict_images"), signature)
        self.seen = None

    runtime = "none"

    def prepare(self, signature, inputs, outputs=None):
        self.seen = (signature, dict(inputs))
        return dict(inputs), {name: f"{name}:0" for name in self.outputs}

    def run_tensors(self, feeds, fetches):
        return {f"{name}:0": array for name, array in self.outputs.items()}


def answer(engine, method, path, body):
    """One request through the REST handler and a dispatcher, without sockets."""
    from serving.server.http.rest import RestHandler
    from serving.server.observability.metrics import Metrics
    from serving.server.scheduling.dispatch import Dispatcher

    @contextlib.contextmanager
    def use(name, version, label):
        yield SimpleNamespace(name=name, version=1, engine=engine, batching=None)

    metrics = Metrics()
    dispatcher = Dispatcher(1, metrics=metrics)
    models = SimpleNamespace(use=use, knows=lambda name: True)
    handler = RestHandler(models, metrics, dispatcher)
    try:
        return asyncio.run(handler.handle(method, path, {}, body))
    finally:
        dispatcher.close()


def body_of(request):
    if "body_template" in request:
        t = request["body_template"]
        inner = t["repeat_open"] * t["n"] + t["repeat_close"] * t["n"]
        return (t["prefix"] + inner + t["suffix"]).encode()
    return request["body"].encode()


def check_refusal(response, expect):
    assert response.status == expect["http"]
    message = json.loads(response.body)["error"]
    for part in expect["error_contains"]:
        assert part in message
    if "upstream_message" in expect:
        # Longer ones are cut in the case file.
        wanted = expect["upstream_message"]
        assert message[: len(wanted)] == wanted


def test_decode(decode_case):
    engine = RecordingEngine(
        {n: spec["dtype"] for n, spec in decode_case["model"]["inputs"].items()}
    )
    request, expect = decode_case["request"], decode_case["expect"]
    response = answer(engine, request["method"], request["path"], body_of(request))
    if expect["status"] != "OK":
        check_refusal(response, expect)
        return
    assert response.status == 200, response.body
    key = "predictions" if expect["format"] == "row" else "outputs"
    assert key in json.loads(response.body)
    signature, inputs = engine.seen
    assert signature == expect.get("signature_name", "serving_default")
    assert inputs.keys() == expect["tensors"].keys()
    for name, spec in expect["tensors"].items():
        wanted = array_of(spec)
        assert inputs[name].dtype == wanted.dtype
        np.testing.assert_array_equal(inputs[name], wanted)


def number_tokens(text):
    """The document with every number as its text."""
    return json.loads(
        text, parse_float=lambda t: f"f{t}", parse_int=lambda t: f"i{t}", parse_constant=str
    )


def check_body(body, expect):
    if expect["compare"] == "number_tokens_as_strings":
        assert number_tokens(body) == number_tokens(expect["body"])
    else:
        assert json.loads(body) == expect["body"]


def test_encode(encode_case):
    outputs = {name: array_of(spec) for name, spec in encode_case["model"]["outputs"].items()}
    engine = RecordingEngine({"x": "DT_FLOAT"}, outputs)
    body = (
        b'{"instances": [1]}' if encode_case["request"]["format"] == "row" else b'{"inputs": [1]}'
    )
    response = answer(engine, "POST", "/v1/models/m:predict", body)
    if encode_case["expect"]["status"] != "OK":
        check_refusal(response, encode_case["expect"])
        return
    assert response.status == 200, response.body
    check_body(response.body, encode_case["expect"])


def floats(values):
    return [float(value) for value in values]


def test_encode_results(results_case):
    from serving.server.http import json_encode

    request, expect = results_case["request"], results_case["expect"]
    if results_case["kind"] == "rest_error_encode":
        assert json.loads(json_encode.encode_error(request["message"])) == expect["body"]
        assert http_status(request["status"]) == expect["http"]
    elif results_case["kind"] == "rest_classify_encode":
        with pytest.raises(ServingError) as caught:
            json_encode.encode_classifications(request["result"])
        assert caught.value.code == expect["status"]
        assert expect["error_contains"][0] in caught.value.message
    else:
        check_body(json_encode.encode_regressions(floats(request["result"])), expect)


def features_of(example):
    from google.protobuf.message import Message

    assert isinstance(example, Message)
    result = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value)
        result[name] = {kind.removesuffix("_list"): values}
    return result


def wanted_features(example):
    def convert(kind, values):
        if kind == "bytes":
            return [value.encode() for value in values]
        return floats(values) if kind == "float" else values

    return {
        name: {kind: convert(kind, values) for kind, values in feature.items()}
        for name, feature in example.items()
    }


def test_decode_examples(examples_case):
    from serving.server.http.json_decode import read_document
    from serving.server.http.json_examples import decode_examples

    expect = examples_case["expect"]
    body = body_of(examples_case["request"])
    if expect["status"] != "OK":
        with pytest.raises(ServingError) as caught:
            decode_examples(read_document(body))
        assert caught.value.code == expect["status"]
        assert all(part in caught.value.message for part in expect["error_contains"])
        return
    document = read_document(body)
    decoded = decode_examples(document)
    assert document.get("signature_name") == expect["signature_name"]
    listed = decoded.example_list
    if expect["context"] is not None:
        listed = decoded.example_list_with_context
        assert features_of(listed.context) == wanted_features(expect["context"])
    got = [features_of(example) for example in listed.examples]
    # By text, since NaN equals nothing.
    assert [sorted(map(str, example.items())) for example in got] == [
        sorted(map(str, wanted_features(example).items())) for example in expect["examples"]
    ]


def test_status_map(status_case):
    assert http_status(status_case["request"]["status"]) == status_case["expect"]["http"]


def test_url(url_case):
    from serving.server.http.rest import parse_route

    expect = url_case["expect"]
    route = parse_route(url_case["request"]["method"], url_case["request"]["path"])
    if expect.get("match") is False:
        assert route is None
        return
    assert route.name == expect["model_name"]
    assert route.version == expect.get("version")
    assert route.label == expect.get("label")
    assert route.verb == expect.get("method", expect.get("subresource", ""))
