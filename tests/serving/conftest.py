"""A tiny bundle and the half_plus_two model, built once; real TensorFlow, no training."""

import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core import bundle as bundles

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CASES_FILE = Path(__file__).parents[3] / "shared" / "serving" / "cases.json"
CASES = json.loads(CASES_FILE.read_text()) if CASES_FILE.is_file() else []

#: case -> why it is not run.
EXCLUDED = {
    "uint8_out_of_range_is_not_range_checked_by_json": (
        "deliberate: TF Serving wraps 256 to 0 without a word; here it is a 400"
    ),
    "rest_port_equal_grpc_port": (
        "deliberate: TF Serving logs an error and continues without REST; here it does not start"
    ),
}

#: A test with one of these arguments is run with every case of those kinds.
CASE_FIXTURES = {
    "decode_case": ("rest_predict_decode",),
    "encode_case": ("rest_predict_encode",),
    "results_case": ("rest_regress_encode", "rest_classify_encode", "rest_error_encode"),
    "examples_case": ("rest_examples_decode",),
    "status_case": ("status_map",),
    "url_case": ("url_parse",),
    "http_case": ("http",),
    "grpc_case": ("grpc",),
}


def pytest_generate_tests(metafunc):
    for fixture, kinds in CASE_FIXTURES.items():
        if fixture not in metafunc.fixturenames:
            continue
        chosen = [case for case in CASES if case["kind"] in kinds and case["name"] not in EXCLUDED]
        params = [pytest.param(case, id=case["name"]) for case in chosen]
        absent = pytest.mark.skip(reason="../shared/serving/cases.json is not there to conform to")
        metafunc.parametrize(fixture, params or [pytest.param(None, marks=absent)])


@pytest.fixture
def cases():
    """All shared cases, those excluded with their reason, and which kinds each argument takes."""
    return SimpleNamespace(all=CASES, excluded=EXCLUDED, fixtures=CASE_FIXTURES)


SIZE = 4
LABELS = ("red", "green", "blue")
#: (48, 3): a pixel's channel votes for the class of that name.
WEIGHTS = np.tile(np.eye(3, dtype=np.float32), (SIZE * SIZE, 1)) / 100


def oracle_scores(images: np.ndarray) -> np.ndarray:
    """(B, 3) softmax scores of (B, 4, 4, 3) uint8 images, in NumPy."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ WEIGHTS
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def png(color: tuple[int, int, int], size: tuple[int, int] = (SIZE, SIZE)) -> bytes:
    """A PNG of one color; `size` is (height, width)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), color).save(buffer, "PNG")
    return buffer.getvalue()


def _tiny_module():
    import tensorflow as tf

    class Tiny(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = tf.Variable(WEIGHTS)
            self.labels = tf.constant(LABELS)

        def scores(self, images):
            flat = tf.reshape(tf.cast(images, tf.float32), [-1, SIZE * SIZE * 3])
            return tf.nn.softmax(flat @ self.weights)

        def pixels(self, image_bytes):
            def one(encoded):
                image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
                return tf.cast(tf.round(tf.image.resize(image, [SIZE, SIZE])), tf.uint8)

            spec = tf.TensorSpec([SIZE, SIZE, 3], tf.uint8)
            return tf.map_fn(one, image_bytes, fn_output_signature=spec)

        def top(self, images):
            scores, classes = tf.math.top_k(self.scores(images), k=2)
            return {"scores": scores, "classes": classes, "labels": tf.gather(self.labels, classes)}

    return Tiny()


def write_tiny_bundle(path: Path, name: str = "colors") -> Path:
    """A complete bundle with the four signatures and one `.tflite`, in `path`."""
    import tensorflow as tf

    module = _tiny_module()
    strings = tf.TensorSpec([None], tf.string, name="image_bytes")
    images = tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8, name="images")
    examples = tf.TensorSpec([None], tf.string, name="examples")

    def from_examples(examples):
        feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        parsed = tf.io.parse_example(examples, feature)
        return module.top(module.pixels(parsed["image/encoded"]))

    functions = {
        bundles.SIGNATURE_BYTES: (
            lambda image_bytes: module.top(module.pixels(image_bytes)),
            strings,
        ),
        bundles.SIGNATURE_PREPROCESS: (lambda b: {"images": module.pixels(b)}, strings),
        bundles.SIGNATURE_TENSOR: (lambda i: {"scores": module.scores(i)}, images),
        bundles.SIGNATURE_EXAMPLES: (from_examples, examples),
    }
    signatures = {
        key: tf.function(function, input_signature=[spec]).get_concrete_function()
        for key, (function, spec) in functions.items()
    }
    tf.saved_model.save(module, str(path), signatures=signatures)
    _write_tflite(module, path)
    (path / "assets").mkdir(exist_ok=True)
    (path / bundles.LABELS_FILE).write_text("\n".join(LABELS) + "\n")
    _write_warmup(path, name)
    file = path / bundles.RECOMMENDED_TFLITE
    variant = bundles.Variant(
        name="none_fp32",
        method="none",
        dtype="fp32",
        size_bytes=file.stat().st_size,
        gzip_bytes=bundles.gzip_size(file),
    )
    manifest = bundles.Manifest(
        name=name,
        task="classification",
        num_classes=len(LABELS),
        input={"height": SIZE, "width": SIZE, "crop_fraction": 1.0},
        top_k=2,
        variants=(variant,),
        recommended=variant.name,
        content_digest=bundles.content_digest(path),
    )
    (path / bundles.MANIFEST_FILE).write_text(manifest.to_json())
    return path


def _write_tflite(module, path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([1, SIZE, SIZE, 3], tf.uint8, name="images")
    concrete = tf.function(module.scores).get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    data = converter.convert()
    (path / bundles.RECOMMENDED_TFLITE).write_bytes(data)
    (path / bundles.tflite_file("none_fp32")).write_bytes(data)


def _write_warmup(path: Path, name: str) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([png((1, 2, 3))]))
    log = prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )
    file = path / bundles.WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())


def write_half_plus_two(path: Path) -> Path:
    """TF Serving's test model: y = 0.5 x + 2, TF1 style, as cases.json describes it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        feature = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        x = tf.identity(tf.io.parse_example(serialized, feature)["x"], name="x")
        a = v1.get_variable("a", initializer=0.5, use_resource=True)
        b = v1.get_variable("b", initializer=2.0, use_resource=True)
        y = tf.add(tf.multiply(a, x), b, name="y")
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info

        def signature(inputs, outputs, method):
            return v1.saved_model.build_signature_def(
                {key: info(tensor) for key, tensor in inputs.items()},
                {key: info(tensor) for key, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )

        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                "regress_x_to_y": signature({"inputs": serialized}, {"outputs": y}, "regress"),
                "classify_x_to_y": signature({"inputs": serialized}, {"scores": y}, "classify"),
            },
        )
        builder.save()
    return path


@pytest.fixture(scope="session")
def tiny_draft(tmp_path_factory) -> Path:
    """A bundle that was never pushed; do not write into it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("draft") / "colors")


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory) -> Path:
    """The model's folder, holding version 123; do not write into it."""
    folder = tmp_path_factory.mktemp("hp2") / "hp2"
    folder.mkdir()
    write_half_plus_two(folder / "123")
    return folder


@pytest.fixture(scope="session")
def bundles_dir(tiny_draft, tmp_path_factory) -> Path:
    """`<dir>/colors/1`, as a push leaves it; do not write into it."""
    root = tmp_path_factory.mktemp("bundles")
    bundles.push(tiny_draft, root / "colors")
    return root


@pytest.fixture
def tiny_copy(tiny_draft, tmp_path) -> Path:
    """A bundle of one test's own."""
    return Path(shutil.copytree(tiny_draft, tmp_path / "draft"))


@pytest.fixture
def unreadable(tmp_path) -> Path:
    """A path at which every look raises OSError, for root too."""
    return tmp_path / ("x" * 300)


@pytest.fixture
def make_png():
    """`(color, size) -> PNG bytes`."""
    return png


@pytest.fixture
def expected_scores():
    """The tiny model's scores in NumPy."""
    return oracle_scores


@pytest.fixture
def labels() -> tuple[str, ...]:
    return LABELS


@pytest.fixture
def build_half_plus_two():
    """`(version folder) -> version folder`, for tests that add versions."""
    return write_half_plus_two


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """(certificate file, key file) for 127.0.0.1, its own authority."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        # Python 3.13 refuses a chain without it.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"
