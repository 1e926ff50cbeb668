"""Every registered method on a network trained on real digits, and what each one promises."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.compression import DTYPES, FLOAT, Method, is_prunable, keeps_weights, sparsity
from trainers.compression.qat import annotate, quantization_aware
from trainers.config import CompressConfig, Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.registry import compressors

pytestmark = pytest.mark.onednn


@pytest.fixture(scope="module")
def compressed(trained, fine_tune, settings):
    """Method -> its result, each made from what its `start` names."""
    results = {FLOAT: trained}
    names = compressors.names()
    while len(results) <= len(names):
        for name in names:
            method = compressors.get(name)
            if name not in results and method.start in results:
                before = results[method.start].get_weights()
                results[name] = method.run(results[method.start], fine_tune, settings)
                for old, new in zip(before, results[method.start].get_weights(), strict=True):
                    np.testing.assert_array_equal(old, new)  # a method leaves its start alone
    return results


def kernels(model) -> dict[str, np.ndarray]:
    """The last part of a kernel's owner -> its values."""
    return {w.name.split("/")[0]: w.numpy() for w in model.weights if is_prunable(w)}


def test_methods_are_registered_under_their_names():
    names = compressors.names()
    assert {"none", "ptq", "prune", "qat", "pqat"} <= set(names)
    for name in names:
        method = compressors.get(name)
        assert method.name == name
        assert method.start == FLOAT or method.start in names
        assert method.dtypes
        assert set(method.dtypes) <= set(DTYPES)


@pytest.mark.parametrize(
    ("variant", "kept"),
    [
        ("none_fp32", True),
        ("ptq_dynamic", True),
        ("ptq_int8", True),
        ("prune_fp32", False),
        ("qat_int8", False),
        ("pqat_int8", False),
        ("of_some_plugin_int8", False),
    ],
)
def test_which_variants_have_the_trained_weights(variant, kept):
    assert keeps_weights(variant) is kept


def test_a_method_that_starts_from_changed_weights_has_not_the_trained_ones():
    assert Method("again", start="ptq", changes_weights=False).has_trained_weights
    assert not Method("again", start="prune", changes_weights=False).has_trained_weights


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (
            {"dtypes": ("int4",)},
            r"'mine': `dtypes` takes some of fp32, .*, got \('int4'",
        ),
        ({"dtypes": ()}, r"`dtypes` takes some of"),
        ({}, r"'mine' has no `run`; give one, or set changes_weights=False"),
        ({"start": "mine"}, "a method cannot start from itself"),
        ({"name": "float"}, "'float' is the trained model"),
    ],
)
def test_a_wrong_method_is_refused_when_it_is_made(attributes, words):
    with pytest.raises(ValueError, match=words):
        Method(**{"name": "mine", **attributes})


@pytest.mark.parametrize("name", compressors.names())
def test_results_stay_accurate_with_the_same_input_and_output(name, compressed, trained, top1):
    model = compressed[name]
    assert top1(trained) > 0.93
    assert top1(model) > top1(trained) - 0.03
    assert model.input_shape == trained.input_shape
    assert model.output_shape == trained.output_shape
    assert model.output.dtype == tf.float32


def test_prune_reaches_its_sparsity_in_every_kernel(compressed, settings):
    model = compressed["prune"]
    assert sparsity(model) == pytest.approx(settings.sparsity, abs=0.01)
    for name, values in kernels(model).items():
        assert (values == 0).mean() == pytest.approx(settings.sparsity, abs=0.01), name


def test_prune_spares_the_layer_that_reads_pixels(compressed):
    first = compressed["prune"].get_layer("stage1_1_conv").kernel.numpy()
    assert (first != 0).all()


def test_prune_keeps_the_layers(compressed, trained):
    ours = [(type(layer), layer.name) for layer in compressed["prune"].layers]
    assert ours == [(type(layer), layer.name) for layer in trained.layers]


def test_sparsity_counts_zeros(trained):
    model = keras.models.clone_model(trained)
    assert sparsity(model) == 0
    kernel = model.get_layer("logits").kernel
    kernel.assign(tf.zeros_like(kernel))
    total = sum(values.size for values in kernels(model).values())
    assert sparsity(model) == pytest.approx(kernel.numpy().size / total)
    assert sparsity(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])) == 0


def test_pqat_keeps_the_zeros_of_prune_where_they_were(compressed):
    pruned, aware = kernels(compressed["prune"]), kernels(compressed["pqat"])
    assert len(pruned) == len(aware) > 1
    for before, after in zip(pruned.values(), aware.values(), strict=True):
        assert (after[before == 0] == 0).all()
        assert not np.array_equal(before, after), "fine-tuning changed nothing"
    assert sparsity(compressed["pqat"]) >= sparsity(compressed["prune"])


@pytest.mark.slow
def test_qat_fills_zeros_again(compressed, fine_tune, settings):
    # The contrast that shows what `pqat` adds.
    model = compressors.get("qat").run(compressed["prune"], fine_tune, settings)
    assert sparsity(model) < 0.1


def test_fine_tuning_gets_the_settings(trained):
    runs = []

    class Record:
        steps_per_epoch = 10

        def __call__(self, model, *, epochs, learning_rate, callbacks=()):
            runs.append((epochs, learning_rate))

    settings = CompressConfig(prune_epochs=3, qat_epochs=2, learning_rate=0.5)
    for name in ("prune", "qat", "pqat"):
        compressors.get(name).run(trained, Record(), settings)
    assert runs == [(3, 0.5), (2, 0.5), (2, 0.5)]


def make(name, **options):
    config = Config(
        name="test",
        data=DataConfig(image_size=(32, 32)),
        model=ModelConfig(name=name, dropout=0.1, options=options),
    )
    return build_model(config, 4)


def annotated_names(model) -> set[str]:
    return {
        layer.layer.name
        for layer in annotate(model).layers
        if type(layer).__name__ == "QuantizeAnnotate"
    }


@pytest.mark.parametrize(("name", "options"), [("cnn", {"width": 4}), ("resnet8", {"width": 4})])
def test_convolutional_networks_are_int8_throughout(name, options):
    model = make(name, **options)
    assert annotated_names(model) == {layer.name for layer in model.layers} - {"images"}


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_transformers_keep_a_float_residual_stream(pool):
    model = make("vit", width=8, depth=2, heads=2, pool=pool)
    names = annotated_names(model)
    assert {layer.name for layer in model.layers if hasattr(layer, "kernel")} <= names
    for name in ("block1_norm1", "block1_norm2", "block2_gelu", "block1_values", "pool", "dropout"):
        assert name in names
    for name in ("positions", "block1_add1", "block2_add2", "block1_weights"):
        assert name not in names


def test_a_batch_norm_goes_into_its_convolution_whatever_reads_it():
    layers = keras.layers
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="alone")(layers.Conv2D(4, 3, name="first")(images))
    x = layers.Activation("swish", name="swish")(x)
    shared = layers.Conv2D(4, 1, name="shared")(x)
    beside = layers.BatchNormalization(name="beside")(shared)
    x = layers.Lambda(lambda pair: pair[0] * pair[1], name="float")([shared, beside])
    model = keras.Model(images, layers.Dense(2, name="logits")(layers.Flatten(name="flat")(x)))
    expected = {"first", "alone", "swish", "shared", "float", "flat", "logits"}
    assert annotated_names(model) == expected


@pytest.mark.slow
def test_quantization_changes_the_output_by_little(trained, digits, fine_tune):
    aware = quantization_aware(trained)
    fine_tune(aware, epochs=1, learning_rate=1e-6)  # finds ranges, moves next to nothing
    images = digits[0][-200:].astype(np.float32)
    difference = aware(images).numpy() - trained(images).numpy()
    spread = trained(images).numpy().std()
    assert 0 < np.abs(difference).mean() < 0.1 * spread
