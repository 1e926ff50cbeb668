"""Float islands: what LiteRT's delegate refuses, what becomes float, and what stays as it was."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from trainers.compression import delegate
from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.compression.delegate import DelegateError, partitions
from trainers.compression.qat import quantization_aware
from trainers.compression.rewrites import Conversion
from trainers.compression.rewrites.delegate_islands import (
    _eligible,
    delegate_islands,
    with_islands,
)
from trainers.compression.tflite_graph import KERNEL_OPS, Part, builtin, unpack
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model

pytestmark = pytest.mark.onednn

SMALL = {"width": 16, "depth": 2, "heads": 2, "patch": 8}
MODELS = {
    "vit": SMALL,
    "deit": SMALL,
    "coatnet": {},
    "resnet50_vit_b16": {"width": 16, "depth": 1, "heads": 2, "trunk_width": 4},
    "mobilenet_v3_small": {"depth": 3},
    "cnn": {"width": 8, "depth": 2},
}
#: Families with attention; the others are slow to build here, or have no such operators.
QUICK, SLOW = ("vit", "cnn"), ("deit", "coatnet", "resnet50_vit_b16", "mobilenet_v3_small")
ATTENTION = ("vit", "deit", "coatnet", "resnet50_vit_b16")
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items()}


def no_floats():
    raise AssertionError("islands need no float network")


CONVERSION = Conversion("ptq_int8", "int8", floats=no_floats, reference=no_floats)


@pytest.fixture(scope="module")
def images():
    """(16, 32, 32, 3) uint8: smooth noise."""
    rng = np.random.default_rng(0)
    rough = rng.uniform(0, 255, (16, 6, 6, 3)).astype(np.float32)
    smooth = tf.image.resize(rough, (32, 32)).numpy()
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    made = tmp_path_factory.mktemp("islands")
    np.save(made / "images.npy", images)
    return made


@pytest.fixture(scope="module")
def network(images):
    """name -> a small Keras model and its quantization-aware copy."""
    made = {}

    def build(name):
        if name not in made:
            keras.utils.set_random_seed(1)
            config = Config(
                name="test",
                data=DataConfig(image_size=(32, 32)),
                model=ModelConfig(name, options=MODELS[name]),
            )
            model = build_model(config, 6)
            # Gammas that start at zero would make kernels without a scale.
            model.set_weights([np.where(w == 0, 0.1, w) for w in model.get_weights()])
            aware = quantization_aware(model)
            for layer in aware.submodules:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
            for _ in range(2):  # Finds the ranges.
                aware(images.astype(np.float32), training=True)
            made[name] = model, aware
        return made[name]

    return build


@pytest.fixture(scope="module")
def converted(network, folder):
    """(name, rewrites) -> bytes of the files `ptq` and `qat`, and what the worker reported."""
    known = {}

    def convert(name, *rewrites):
        if (name, rewrites) not in known:
            model, aware = network(name)
            samples = folder / "images.npy"
            jobs = []
            for kind, net in (("ptq", model), ("qat", aware)):
                saved = save_for_conversion(net, folder / f"{name}_{kind}")
                out = folder / f"{name}_{kind}_{len(rewrites)}.tflite"
                ranges = samples if kind == "ptq" else None
                job = ConversionJob(
                    f"{kind}_int8", saved, "int8", out, (), ranges, samples, rewrites
                )
                jobs.append(job)
            results = convert_all(jobs)
            assert [one.error for one in results] == ["", ""]
            known[name, rewrites] = {
                one.job.name[:3]: (one.job.output.read_bytes(), one) for one in results
            }
        return known[name, rewrites]

    return convert


def families(marked):
    return [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in marked)]


@pytest.fixture(params=families(SLOW))
def family(request):
    return request.param


@pytest.fixture(params=["ptq", "qat"])
def kind(request):
    return request.param


def logits(content, images, interpreter=litert.Interpreter):
    """(M, N) logarithms of the scores of each image."""
    runner = interpreter(model_content=content, num_threads=1)
    runner.allocate_tensors()
    rows = []
    for image in images:
        runner.set_tensor(runner.get_input_details()[0]["index"], image[None])
        runner.invoke()
        scores = runner.get_tensor(runner.get_output_details()[0]["index"])[0]
        rows.append(np.log(np.maximum(scores.astype(np.float64), 1e-30)))
    return np.stack(rows)


def snr(found, wanted):
    """Decibels; both are logarithms of scores, which logits are up to a shift per image."""
    found, wanted = (one - one.mean(axis=1, keepdims=True) for one in (found, wanted))
    return 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum())


def keras_logits(model, images):
    return model(images.astype(np.float32), training=False).numpy().astype(np.float64)


@pytest.mark.slow
def test_the_operators_outside_are_those_that_the_delegate_refuses_alone(converted):
    content = converted("vit")["ptq"][0]
    model = unpack(content)
    operators = model.subgraphs[0].operators
    refused = []
    for at, operator in enumerate(operators):
        # LiteRT itself: does a file of this one operator have a delegated node?
        part = Part(model, [operator], [int(one) for one in operator.outputs])
        nodes = part._interpreter._get_ops_details()
        if not any(node["op_name"] == "DELEGATE" for node in nodes):
            refused.append(at)
    assert partitions(content).outside == tuple(refused)
    assert partitions(content).count > 3


def test_transformers_have_few_partitions(family, kind, converted):
    content = converted(family)[kind][0]
    changed, facts = delegate_islands(content, CONVERSION)
    assert partitions(changed).count <= 3
    if family == "cnn":
        assert changed is content
        assert "refuses no int8" in facts["why"]
    else:
        before, after = facts["partitions"]
        assert before == partitions(content).count > after == partitions(changed).count
        assert sum(facts["islands"].values()) > 0
    if family in ATTENTION:
        assert partitions(content).count > 3


def test_islands_are_as_close_to_the_float_network(family, kind, converted, network, images):
    content = converted(family)[kind][0]
    changed, _ = delegate_islands(content, CONVERSION)
    # After quantization-aware training, the float network is the emulation.
    wanted = keras_logits(network(family)[kind == "qat"], images)
    before, after = (snr(logits(one, images), wanted) for one in (content, changed))
    assert after > before - 1.5, "the noise of one network's roundings is within 1.5 dB"
    assert after > 6


def test_kernels_and_other_operators_stay_as_they_were(kind, converted):
    content = converted("vit")[kind][0]
    changed, facts = delegate_islands(content, CONVERSION)
    old, new = unpack(content), unpack(changed)
    before, after = old.subgraphs[0], new.subgraphs[0]
    assert list(before.inputs) == list(after.inputs)
    assert list(before.outputs) == list(after.outputs)
    count = len(before.tensors)
    for one, other in zip(before.tensors, after.tensors[:count], strict=True):
        assert (one.name, one.type, one.buffer) == (other.name, other.type, other.buffer)
    for tensor in after.tensors[count:]:
        assert tensor.type == schema.TensorType.FLOAT32
    kept = [
        (NAMES[builtin(new, one)], list(one.inputs), list(one.outputs))
        for one in after.operators
        if max([*one.inputs, *one.outputs]) < count
    ]
    originals = [
        (NAMES[builtin(old, one)], list(one.inputs), list(one.outputs)) for one in before.operators
    ]
    assert [one for one in kept if one in originals] == kept
    assert len(originals) - len(kept) == sum(facts["islands"].values())
    kernels = [one for one in after.operators if builtin(new, one) in KERNEL_OPS]
    assert kernels
    for one in kernels:
        assert after.tensors[one.inputs[0]].type == schema.TensorType.INT8
        assert after.tensors[one.outputs[0]].type == schema.TensorType.INT8
    assert len(changed) < 1.35 * len(content)


def test_kernels_and_conversions_never_become_islands(converted):
    content = converted("vit")["qat"][0]
    model = unpack(content)
    kinds = [NAMES[builtin(model, one)] for one in model.subgraphs[0].operators]
    assert {"FULLY_CONNECTED", "QUANTIZE", "DEQUANTIZE", "CAST", "GELU"} <= set(kinds)
    found = {kinds[at] for at in _eligible(content, range(len(kinds)))}
    kept = {"FULLY_CONNECTED", "CONV_2D", "QUANTIZE", "DEQUANTIZE", "CAST"}
    assert "GELU" in found
    assert not found & kept


def test_neighboring_islands_exchange_floats_and_constants_are_exact(converted):
    content = converted("vit")["ptq"][0]
    changed, _ = delegate_islands(content, CONVERSION)
    model, graph = unpack(changed), unpack(changed).subgraphs[0]
    makers = {int(out): one for one in graph.operators for out in one.outputs}
    for operator in graph.operators:
        if NAMES[builtin(model, operator)] != "DEQUANTIZE":
            continue
        maker = makers.get(int(operator.inputs[0]))
        assert maker is not None, "a constant is stored in float"
        assert NAMES[builtin(model, maker)] != "QUANTIZE", "a float result is read unrounded"
    old = unpack(content)
    by_name = {one.name: one for one in old.subgraphs[0].tensors}
    stored = 0
    for tensor in graph.tensors[len(old.subgraphs[0].tensors) :]:
        data = model.buffers[tensor.buffer].data
        if tensor.buffer and data is not None:
            source = by_name[tensor.name.removesuffix(b"/float")]
            steps = np.frombuffer(bytes(old.buffers[source.buffer].data), np.int8)
            scale, zero = source.quantization.scale[0], source.quantization.zeroPoint[0]
            wanted = (steps.astype(np.float64) - zero) * scale
            found = np.frombuffer(bytes(data), np.float32)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
            stored += 1
    assert stored


def test_other_versions_of_litert_compute_the_same(converted, network, images):
    changed, _ = delegate_islands(converted("vit")["ptq"][0], CONVERSION)
    with warnings.catch_warnings():
        # TensorFlow 2.20 and later recommend LiteRT's own package.
        warnings.simplefilter("ignore")
        found = logits(changed, images, tf.lite.Interpreter)
        delegates = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        plain = logits(
            changed,
            images,
            lambda **kwargs: litert.Interpreter(experimental_op_resolver_type=delegates, **kwargs),
        )
    exact = keras_logits(network("vit")[0], images)
    usual = snr(logits(changed, images), exact)
    # Other kernels round differently, but not by more than quantization itself.
    assert snr(found, exact) > usual - 1.5
    assert snr(plain, exact) > usual - 1.5


def test_the_converter_keeps_islands_that_pay(kind, converted):
    content, result = converted("vit", "delegate_islands")[kind]
    (record,) = result.rewrites
    assert record["name"] == "delegate_islands"
    before, after = record["partitions"]
    assert after <= 3 < before
    assert result.figures["partitions"] == partitions(content).count
    assert len(record["snr_db"]) == len(record["cpu_ms"]) == 2
    if kind == "ptq":  # Three times as fast; the file of the other kind gains little.
        assert record["applied"], record
        assert result.figures == {"partitions": after, "snr_db": record["snr_db"][1]}
    else:
        assert record["applied"] or record["why"].startswith(("slower", "less accurate"))


def test_convolutional_networks_do_not_change(kind, converted):
    plain, _ = converted("cnn")[kind]
    same, result = converted("cnn", "delegate_islands")[kind]
    assert same == plain
    (record,) = result.rewrites
    assert not record["applied"]
    assert result.figures["partitions"] == 1


def test_a_signal_to_noise_ratio_is_that_of_numpy(converted, network, images):
    content, result = converted("cnn", "delegate_islands")["ptq"]
    wanted = keras_logits(network("cnn")[0], images)
    found = logits(content, images)
    # Scores have lost the mean of the logits.
    shift = wanted.mean(axis=1, keepdims=True) - found.mean(axis=1, keepdims=True)
    noise = ((found + shift - wanted) ** 2).sum()
    numpy = 10 * np.log10((wanted**2).sum() / noise)
    assert result.figures["snr_db"] == pytest.approx(numpy, abs=2.0)


def test_without_a_list_of_nodes_nothing_changes(converted, monkeypatch):
    content = converted("vit")["ptq"][0]

    class Other:
        def __init__(self, **kwargs):
            self._real = litert.Interpreter(**kwargs)

        def allocate_tensors(self):
            self._real.allocate_tensors()

    monkeypatch.setattr(delegate, "Interpreter", Other)
    changed, facts = delegate_islands(content, CONVERSION)
    assert changed is content
    assert "does not list the nodes" in facts["why"]
    assert "_get_ops_details" in facts["why"]


def test_without_a_delegate_nothing_changes(converted, monkeypatch):
    content = converted("vit")["ptq"][0]
    delegates = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def without(**kwargs):
        return litert.Interpreter(experimental_op_resolver_type=delegates, **kwargs)

    monkeypatch.setattr(delegate, "Interpreter", without)
    changed, facts = delegate_islands(content, CONVERSION)
    assert changed is content
    assert "no part of the file" in facts["why"]


def test_a_file_that_litert_cannot_load_is_named():
    with pytest.raises(DelegateError, match="does not list the nodes"):
        partitions(b"\x1c\x00\x00\x00TFL3" + bytes(60))


def test_no_chosen_operator_leaves_the_graph(converted):
    content = converted("cnn")["ptq"][0]
    changed, origins = with_islands(content, [])
    assert origins == list(range(len(unpack(content).subgraphs[0].operators)))
    np.testing.assert_array_equal(
        np.frombuffer(changed, np.uint8), np.frombuffer(content, np.uint8)
    )
