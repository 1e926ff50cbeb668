"""Shapes that a `.tflite` does not support; LiteRT ends the process at some of them."""

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.engines.saved_model import EngineError
from serving.server.lifecycle.server_process import ServerProcess

pytestmark = pytest.mark.onednn

SIZE = 16
#: Every size but the rows is another than the file's.
REFUSED = [
    [1, 0, 0, 3],
    [1, SIZE, 0, 3],
    [1, 2, 2, 3],
    [1, 1, 1, 3],
    [1, SIZE, SIZE, 0],
    [1, SIZE, SIZE, 1],
    [1, SIZE, SIZE, 4],
    [1, 2 * SIZE, 2 * SIZE, 3],
    [1, 500, 500, 3],
    [1, 100_000, 1, 3],
    [SIZE, SIZE, 3],
    [1, 1, SIZE, SIZE, 3],
    [1],
    [],
    [0, 0, 0, 3],
]


def write_convolution(path, *, size=SIZE, rows=1):
    """Uint8 images to four scores by a strided convolution and a pool; returns its weights."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)

    def call(images):
        x = tf.nn.conv2d(tf.cast(images, tf.float32), kernel, strides=2, padding="VALID")
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
        return {"scores": tf.reduce_mean(x, axis=[1, 2])}

    module = tf.Module()
    spec = tf.TensorSpec([rows, size, size, 3], tf.uint8, name="images")
    concrete = tf.function(call, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    path.write_bytes(converter.convert())
    return kernel


@pytest.fixture(scope="module")
def bundle_of_convolution(tiny_draft, tmp_path_factory):
    """A bundle with our warm-up file, and a convolution as its `model.tflite`."""
    import shutil

    root = tmp_path_factory.mktemp("convolution")
    folder = root / "m" / "1"
    shutil.copytree(tiny_draft, folder)
    write_convolution(folder / "model.tflite")
    return root


@pytest.fixture(scope="module")
def server(bundle_of_convolution):
    with ServerProcess(bundle_of_convolution, flags=["--prefer_tflite_model"]) as process:
        yield process


def predict(server, shape, timeout=60):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["images"].dtype = 4
    for size in shape:
        request.inputs["images"].tensor_shape.dim.add(size=size)
    request.inputs["images"].tensor_content = b"\7" * int(np.prod(shape))
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request, timeout=timeout).outputs["scores"]


def test_a_bundle_with_its_warm_up_file_is_served(server):
    """The file's requests call signatures that only the SavedModel has."""
    assert "serving m/1" in server.log()
    assert [dim.size for dim in predict(server, [1, SIZE, SIZE, 3]).tensor_shape.dim] == [1, 4]


def test_no_shape_ends_the_process(server):
    for shape in [*REFUSED, *REFUSED]:
        with pytest.raises(grpc.RpcError) as caught:
            predict(server, shape)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (shape, caught.value)
        words = "input 'images' must have shape [any, 16, 16, 3]"
        assert words in caught.value.details(), (shape, caught.value.details())
    assert [dim.size for dim in predict(server, [0, SIZE, SIZE, 3]).tensor_shape.dim] == [0, 4]
    assert len(predict(server, [3, SIZE, SIZE, 3]).float_val) == 12


@pytest.mark.parametrize("rows", [1, None], ids=["one_row", "any_rows"])
def test_only_rows_may_be_missing(tmp_path, rows):
    from serving.engines.litert import LiteRtEngine

    kernel = write_convolution(tmp_path / "model.tflite", rows=rows)
    engine = LiteRtEngine(tmp_path / "model.tflite")
    images = np.random.default_rng(1).integers(0, 255, (2, SIZE, SIZE, 3), np.uint8)
    (output,) = engine.signatures["serving_default"].outputs

    def scores(images):
        feeds, tensors = engine.prepare("serving_default", {"images": images})
        return engine.run_tensors(feeds, list(tensors.values()))[tensors[output]]

    np.testing.assert_allclose(scores(images), oracle(images, kernel), rtol=1e-4)
    assert scores(images[:0]).shape == (0, 4)
    assert scores(images[:0]).dtype == np.float32
    for wrong, words in (
        (images[:, :5], "must have shape"),
        (images[..., :1], "must have shape"),
        (images.astype(np.float32), "must be uint8, got float32"),
    ):
        with pytest.raises(EngineError, match=words):
            scores(wrong)
    np.testing.assert_allclose(scores(images), oracle(images, kernel), rtol=1e-4)
    engine.close()


def oracle(images, kernel):
    """The network in NumPy."""
    out = (SIZE - 3) // 2 + 1
    x = np.zeros((len(images), out, out, 4))
    for row in range(out):
        for column in range(out):
            patch = images[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].astype(float)
            x[:, row, column] = np.einsum("bhwc,hwcn->bn", patch, kernel)
    half = out // 2
    pooled = x[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2, 4).max((2, 4))
    return pooled.mean((1, 2))


def test_dynamic_sizes(tmp_path):
    """An empty image is an error, and the memory of a large one is given back."""
    import tensorflow as tf

    from serving.engines.litert import LiteRtEngine

    module = tf.Module()
    spec = tf.TensorSpec([1, None, None, 3], tf.uint8, name="images")
    mean = tf.function(lambda images: tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]))
    concrete = mean.get_concrete_function(spec)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    (tmp_path / "model.tflite").write_bytes(converter.convert())
    engine = LiteRtEngine(tmp_path / "model.tflite")

    def scores(*shape):
        images = np.full(shape, 3, np.uint8)
        feeds, tensors = engine.prepare("serving_default", {"images": images})
        return engine.run_tensors(feeds, list(tensors.values())).popitem()[1]

    for shape in ((1, 0, 0, 3), (1, 5, 0, 3), (1, 5, 5, 4)):
        with pytest.raises(EngineError, match=r"must have shape \[any, any, any, 3\]"):
            scores(*shape)
    before = engine._free.get()
    engine._free.put(before)
    assert scores(1, 5, 6, 3) == pytest.approx(np.full((1, 3), 3))
    assert engine._free.get() is before
    engine._free.put(before)
    assert scores(1, 700, 700, 3) == pytest.approx(np.full((1, 3), 3), rel=1e-3)
    assert engine._free.get() is not before
    engine.close()


def convert(path, call, *shape):
    """Writes a `.tflite` of a function of float32 values of that shape; None is open."""
    import tensorflow as tf

    spec = tf.TensorSpec(shape, tf.float32, name="x")
    concrete = tf.function(call, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    path.write_bytes(converter.convert())
    return path


def widening(x):
    """A tensor of 512 channels inside."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(1, 1, 3, 512)).astype(np.float32)
    return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), axis=[1, 2])


def attending(x):
    """A tensor of rows times rows inside."""
    import tensorflow as tf

    return tf.reduce_sum(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), axis=-1)


@pytest.mark.parametrize(
    ("call", "shape", "sent", "largest"),
    [
        (widening, (1, None, None, 3), (1, 2000, 1000, 3), 4 * 2000 * 1000 * 512),
        (widening, (None, 20, 20, 3), (5000, 20, 20, 3), 4 * 5000 * 20 * 20 * 512),
        (attending, (1, None, 8), (1, 20_000, 8), 4 * 20_000**2),
    ],
    ids=["sizes", "rows", "quadratic"],
)
def test_memory_is_estimated_before_it_is_allocated(tmp_path, call, shape, sent, largest):
    """Of graphs with open sizes: a few MB of input make gigabytes inside."""
    from serving.engines.litert import LiteRtEngine
    from serving.engines.litert_memory import estimate

    file = convert(tmp_path / "model.tflite", call, *shape)
    found = estimate(file)
    assert found.bytes_of(int(np.prod(sent))) == pytest.approx(largest, rel=0.1)
    engine = LiteRtEngine(file)
    (name,) = engine.signatures
    wanted = [next(iter(engine.signatures[name].outputs.values())).tensor]

    def run(shape):
        feeds, _ = engine.prepare(name, {"x": np.ones(shape, np.float32)})
        return engine.run_tensors(feeds, wanted)

    with pytest.raises(EngineError, match="make a tensor of more than 1073741824 bytes"):
        run(sent)
    run([20 if size is None else size for size in shape])
    engine.close()


def test_fixed_sizes_need_no_estimate(tmp_path):
    from serving.engines.litert_memory import estimate

    write_convolution(tmp_path / "model.tflite")
    assert estimate(tmp_path / "model.tflite") is None


def test_an_interpreter_that_failed_is_not_used_again(tmp_path):
    """LiteRT ends the process at the run after an allocation that failed."""
    from serving.engines.litert import LiteRtEngine

    engine = LiteRtEngine(convert(tmp_path / "model.tflite", widening, 1, None, None, 3))
    (name,) = engine.signatures

    def run():
        feeds, tensors = engine.prepare(name, {"x": np.ones((1, 5, 5, 3), np.float32)})
        return engine.run_tensors(feeds, list(tensors.values()))

    (interpreter,) = [engine._free.get()]
    engine._free.put(interpreter)
    real = interpreter._interpreter

    class Failing:
        def __getattr__(self, name):
            return getattr(real, name)

        def allocate_tensors(self):
            raise RuntimeError("failed to reshape runtime")

    interpreter._interpreter = Failing()
    reopen, engine._open = engine._open, lambda: (_ for _ in ()).throw(EngineError("no memory"))
    with pytest.raises(EngineError, match="failed to reshape"):
        run()
    with pytest.raises(EngineError, match="could not be reloaded; try again later"):
        run()
    engine._open = reopen
    with pytest.raises(EngineError, match="could not be reloaded; try again later"):
        run()
    assert [array.shape for array in run().values()] == [(1, 512)]
    engine.close()
