import contextlib
import struct
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core import bundle as bundles
from serving.engines import engine as engine_module
from serving.engines.engine import EngineError, LiteRtPool, load_saved_model, open_engine
from serving.server.models.engines import EngineOptions, load_engine


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_scores_match_numpy(tiny_draft, images, expected_scores, variant):
    with open_engine(tiny_draft, variant) as engine:
        scores = engine.predict_images(images)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected_scores(images), atol=1e-6)
        assert engine.predict_images(images[:0]).shape == (0, 3)
        assert engine.predict_bytes([]).shape == (0, 3)


@pytest.fixture
def never_empty(tmp_path):
    """A bundle's folder whose graph fails on an empty batch, as earlier ones with oneDNN do."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, "images")])
    def serve(images):
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(images)[0])]):
            rows = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])
        names = tf.strings.as_string(rows)
        return {"scores": rows, "labels": names, "wide": tf.tile(rows, [1, tf.shape(rows)[0]])}

    tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serving_default": serve})
    return tmp_path


def test_no_images_give_no_rows_without_the_graph(never_empty):
    none = {"images": np.zeros((0, 4, 4, 3), np.uint8)}
    with (
        contextlib.closing(load_saved_model(never_empty)) as plain,
        pytest.raises(EngineError, match="assert"),
    ):
        plain.run("serving_default", none, ["scores"])  # Another's model decides by itself.
    (never_empty / bundles.MANIFEST_FILE).write_text("{}")
    with contextlib.closing(load_saved_model(never_empty)) as engine:
        found = engine.run("serving_default", none, ["scores", "labels"])
        assert (found["scores"].shape, found["scores"].dtype) == ((0, 3), np.float32)
        assert (found["labels"].shape, found["labels"].dtype) == ((0, 3), object)
        # What the signature does not declare, and inputs that do not fit it, are the graph's.
        with pytest.raises(EngineError):
            engine.run("serving_default", none, ["wide"])
        for wrong in (np.zeros((0, 5, 5, 3), np.uint8), np.zeros((0, 4, 4, 3), np.float32)):
            with pytest.raises(EngineError):
                engine.run("serving_default", {"images": wrong}, ["scores"])
        one = engine.run("serving_default", {"images": np.full((1, 4, 4, 3), 7, np.uint8)})
        np.testing.assert_array_equal(one["scores"], [[7, 7, 7]])


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_bytes_become_the_saved_models_pixels(tiny_draft, make_png, expected_scores, variant):
    colors = [(255, 0, 0), (0, 200, 10), (3, 4, 250)]
    with open_engine(tiny_draft, variant) as engine:
        scores = engine.predict_bytes([make_png(c, (9, 7)) for c in colors])
        pixels = np.array(colors, np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
        np.testing.assert_allclose(scores, expected_scores(pixels), atol=1e-6)
        assert scores.argmax(1).tolist() == [0, 1, 2]


def test_bytes_that_are_not_an_image(tiny_draft, make_png):
    with open_engine(tiny_draft) as engine:
        with pytest.raises(EngineError, match=r"image_bytes\[1\]: not an image") as caught:
            engine.predict_bytes([make_png((1, 2, 3)), b"not an image"])
        assert caught.value.code == "INVALID_ARGUMENT"
        assert len(engine.predict_bytes([make_png((1, 2, 3))])) == 1


def bomb(height, width):
    """The first bytes of a PNG that says it is that large, and nothing of its pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + b"\0" * 4


@pytest.mark.parametrize("variant", ["saved_model", "none_fp32"])
def test_images_in_examples_are_held_to_the_limit_too(tiny_draft, make_png, variant):
    import tensorflow as tf

    def example(*encoded):
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        features = tf.train.Features(feature={"image/encoded": value})
        return tf.train.Example(features=features).SerializeToString()

    red = make_png((255, 0, 0))
    cases = {
        r"^examples\[1\]: PNG of 30000 x 30000 .* over the limit": example(bomb(30_000, 30_000)),
        r"^examples\[1\]: not an image: 3 bytes": example(b"abc"),
        r"^examples\[1\] must have one image/encoded, has 2": example(red) * 2,
        r"^examples\[1\] must have one image/encoded, has 0": example(),
        r"^examples\[1\] is not a tf\.Example": b"\xff",
    }
    options = EngineOptions(variants={"": variant}, tflite_pools=1)
    engine = load_engine("m", tiny_draft, options)
    for words, serialized in cases.items():
        with pytest.raises(EngineError, match=words) as caught:
            engine.prepare(
                "predict_examples", {"examples": np.array([example(red), serialized], object)}
            )
        assert caught.value.code == "INVALID_ARGUMENT"
    feeds, tensors = engine.prepare(
        "predict_examples", {"examples": np.array([example(red)], object)}, ["labels"]
    )
    assert engine.run_tensors(feeds, list(tensors.values()))[tensors["labels"]][0, 0] == b"red"
    engine.close()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 5, 4, 3), np.uint8),
    ],
)
def test_images_of_another_form(tiny_draft, bad):
    pool = LiteRtPool(tiny_draft / "model.tflite", size=1)
    with pytest.raises(EngineError, match=r"uint8 \(B, 4, 4, 3\), got"):
        pool.predict(bad)


def test_pool_keeps_order_under_threads(tiny_draft, images, expected_scores):
    pool = LiteRtPool(tiny_draft / "model.tflite", size=2)
    wanted = expected_scores(images)
    wrong = []

    def work():
        for _ in range(20):
            if not np.allclose(pool.predict(images), wanted, atol=1e-6):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    pool.close()
    assert not wrong


def test_an_unknown_variant_lists_the_known_ones(tiny_draft):
    with pytest.raises(bundles.BundleError, match="'int9'; it has saved_model, none_fp32"):
        open_engine(tiny_draft, "int9")


def test_half_plus_two(half_plus_two):
    engine = load_saved_model(half_plus_two / "123")
    spec = engine.signatures["serving_default"]
    assert (spec.inputs["x"].dtype, spec.inputs["x"].shape) == ("DT_FLOAT", (-1, 1))
    assert engine.signatures["regress_x_to_y"].method_name == "tensorflow/serving/regress"
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], x / 2 + 2)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run("serving_default", {"x": x})


def test_run_errors(half_plus_two):
    engine = load_saved_model(half_plus_two / "123")
    x = np.zeros(1, np.float32)
    with pytest.raises(EngineError, match="no signature 'nope'; it has classify_x_to_y"):
        engine.run("nope", {"x": x})
    with pytest.raises(EngineError, match=r"takes \['x'\], got \['z'\]"):
        engine.run("serving_default", {"z": x})
    with pytest.raises(EngineError, match=r"no output \['q'\]"):
        engine.run("serving_default", {"x": x}, ["q"])
    with pytest.raises(EngineError, match=r"[Tt]ype mismatch"):
        engine.run("serving_default", {"x": x.astype(np.float64)})
    engine.close()


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A model that counts to n, one step after another."""
    import tensorflow as tf

    v1 = tf.compat.v1
    folder = tmp_path_factory.mktemp("counter") / "1"
    with tf.Graph().as_default(), v1.Session() as session:
        n = v1.placeholder(tf.int64, [])
        done = tf.while_loop(lambda i: i < n, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]
        v1.saved_model.simple_save(session, str(folder), {"n": n}, {"done": done})
    return folder


def test_a_run_beyond_the_limit_is_stopped_and_the_next_one_runs(counter):
    engine = load_engine("m", counter, EngineOptions(run_timeout_ms=300))
    failures = []

    def count(n):
        return engine.run("serving_default", {"n": np.array(n, np.int64)})["done"]

    def count_for_ever():
        try:
            count(2**62)
        except EngineError as error:
            failures.append(error)

    assert count(3) == 3
    # A separate thread, because nothing else would stop the run.
    worker = threading.Thread(target=count_for_ever, daemon=True)
    worker.start()
    worker.join(60)
    assert [failure.code for failure in failures] == ["DEADLINE_EXCEEDED"]
    assert "the limit of a run is 300 ms; send fewer rows" in str(failures[0])
    assert count(4) == 4
    engine.close()


@pytest.fixture
def meeting(tmp_path):
    """A model whose run waits until a second run has started."""
    import tensorflow as tf

    v1, both = tf.compat.v1, threading.Barrier(2, timeout=60)

    def meet(x):
        both.wait()
        return x

    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, [])
        y = tf.ensure_shape(tf.numpy_function(meet, [x], tf.float32), [])
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": y})
    # The function belongs to the graph that made it.
    yield tmp_path / "1"
    del graph


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_of_a_model_with_a_limit_of_threads_run_in_parallel(meeting, threads):
    with (
        contextlib.closing(load_saved_model(meeting, threads=threads)) as engine,
        ThreadPoolExecutor(2) as callers,
    ):
        inputs = [{"x": np.float32(value)} for value in (1, 2)]
        runs = [callers.submit(engine.run, "serving_default", one) for one in inputs]
        assert [run.result()["y"] for run in runs] == [1, 2]


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_limit_for_the_network_is_not_one_for_decoding(tiny_draft, monkeypatch, threads):
    loaded = []

    def load(path, **options):
        loaded.append(options["threads"])
        return load_saved_model(path, **options)

    monkeypatch.setattr(engine_module, "load_saved_model", load)
    for variant in ("none_fp32", "saved_model"):
        with open_engine(tiny_draft, variant, threads=threads, size=1) as engine:
            engine.predict_bytes([])
            assert engine.saved_model.path == tiny_draft
    assert loaded == [0, threads]


def test_a_shared_decoder_stays_open(tiny_draft, make_png):
    with open_engine(tiny_draft) as decoding:
        decoder = decoding.saved_model
        with open_engine(tiny_draft, "none_fp32", decoder=decoder) as engine:
            assert engine.saved_model is decoder
            assert engine.predict_bytes([make_png((255, 0, 0))]).argmax() == 0
        assert decoding.predict_bytes([make_png((0, 0, 255))]).argmax() == 2


def test_broken_models_are_refused(tmp_path, tiny_copy):
    with pytest.raises(EngineError, match=r"has no saved_model\.pb"):
        load_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(EngineError, match="cannot load"):
        load_saved_model(tmp_path)
    for file in (tiny_copy / "variables").iterdir():
        file.unlink()
    with pytest.raises(EngineError, match="cannot load"):
        load_saved_model(tiny_copy)
    (tmp_path / "x.tflite").write_bytes(b"garbage")
    with pytest.raises(EngineError, match=r"cannot load .*x.tflite"):
        LiteRtPool(tmp_path / "x.tflite")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", ["saved_model_half_plus_two_cpu", "saved_model_half_plus_two_tf2_cpu"]
)
def test_tf_servings_own_models(shared_data, tmp_path, name):
    with tarfile.open(shared_data / "tfserving_testdata_A.tar") as archive:
        members = [m for m in archive.getmembers() if m.name.startswith(name + "/")]
        archive.extractall(tmp_path, members=members, filter="data")
    engine = load_saved_model(tmp_path / name / "00000123")
    x = np.array([1, 2, 5], np.float32)
    np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], [2.5, 3, 4.5])
    engine.close()


def test_contract_client_and_litert_do_not_import_tensorflow(tiny_draft):
    program = f"""
import sys, numpy as np
import core.bundle, serving.client.grpc_transport, serving.protocol.types
import serving.benchmark.variants
import serving.server.app, serving.server.lifecycle.server_process, serving.server.__main__
from serving.engines.engine import open_engine
with open_engine({str(tiny_draft)!r}, "none_fp32") as engine:
    assert engine.predict_images(np.zeros((1, 4, 4, 3), np.uint8)).shape == (1, 3)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
