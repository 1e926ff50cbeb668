"""Every registered model is found and checked here; a new one needs no test of its own to start."""

import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from trainers.compress.convert import ConversionJob, convert_all, require, save_for_conversion
from trainers.compress.qat import quantisation_aware
from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.registry import UnknownNameError, models

SIZE = 32
CLASSES = 5
# Options that make any family small, as far as its builder has them.
TINY = {"width": 8, "depth": 1, "heads": 2, "patch": 8}


def make(name: str, *, size=SIZE, classes=CLASSES, head_dropout=0.0, data=None, **options):
    config = Config(
        name="test",
        data=data or DataConfig(image_size=(size, size)),
        model=ModelConfig(name=name, dropout=head_dropout, options=options),
    )
    return build_model(config, classes)


def tiny(name: str):
    allowed = inspect.signature(models.get(name)).parameters
    keras.utils.set_random_seed(1)
    return make(name, **{key: value for key, value in TINY.items() if key in allowed})


def families() -> list[str]:
    """The first registered name of every builder function."""
    found = {}
    for name in models.names():
        builder = models.get(name)
        function = builder.func if isinstance(builder, partial) else builder
        known = found.get(function)
        if known is None or (len(name), name) < (len(known), known):
            found[function] = name
    return sorted(found.values())


# What only some names of a family have is checked too: a stem with pooling, bottlenecks.
CHECKED = [*families(), "resnet18", "resnet50"]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def built():
    """Name -> a tiny model."""
    return {name: tiny(name) for name in CHECKED}


def convert(networks: dict, folder: Path) -> dict:
    """(name, `fp32` or `qat`) -> (Keras model, conversion result), in one worker."""
    sources = {}
    for name, network in networks.items():
        # A last gamma of 0 makes a folded kernel all zero, which has no scale.
        model = keras.models.clone_model(network)
        model.set_weights([np.where(w == 0, 0.1, w) for w in network.get_weights()])
        aware = quantisation_aware(model)
        aware(IMAGES.astype(np.float32), training=True)  # finds the kernels' ranges
        sources[name, "fp32"], sources[name, "qat"] = model, aware
    jobs = [
        ConversionJob(
            name=f"{name}_{kind}",
            saved_model=save_for_conversion(model, folder / f"{name}_{kind}"),
            dtype="int8" if kind == "qat" else "fp32",
            output=folder / f"{name}_{kind}.tflite",
        )
        for (name, kind), model in sources.items()
    ]
    results = convert_all(jobs)
    require(results)
    return {key: (sources[key], result) for key, result in zip(sources, results, strict=True)}


@pytest.fixture(scope="module")
def converted(built, tmp_path_factory):
    """`convert` of one network of every family."""
    return convert({name: built[name] for name in families()}, tmp_path_factory.mktemp("tflite"))


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def tflite_scores(path, images: np.ndarray) -> np.ndarray:
    runner = Interpreter(model_path=str(path), num_threads=1).get_signature_runner("predict_tensor")
    return np.concatenate([runner(images=image[None])["scores"] for image in images])


def test_the_three_families_are_registered():
    assert {"cnn", "vit", "vit_b16", "vit_ti16", "resnet20", "resnet50"} <= set(models.names())
    assert len(families()) >= 3


@pytest.mark.parametrize("name", CHECKED)
def test_contract(name, built):
    model = built[name]
    assert model.input_names == ["images"]
    assert model.input_shape == (None, SIZE, SIZE, 3)
    assert model.layers[1].__class__.__name__ == "Normalize"
    assert model.layers[-1].name == "logits"
    assert keras.activations.serialize(model.layers[-1].activation) == "linear"
    logits = model(IMAGES)
    assert logits.shape == (len(IMAGES), CLASSES)
    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, model(IMAGES.astype(np.float32)))
    assert np.ptp(logits.numpy(), axis=0).max() > 0, "the logits do not depend on the image"


@pytest.mark.parametrize("name", CHECKED)
def test_every_weight_learns(name, built):
    model = keras.models.clone_model(built[name])
    # Gammas and classifiers that start at zero would hide the layers behind them.
    noise = np.random.default_rng(0)
    model.set_weights([w + noise.normal(0, 0.1, w.shape) ** 2 for w in built[name].get_weights()])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(IMAGES.astype(np.float32), training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.name
        assert np.isfinite(gradient.numpy()).all(), weight.name


@pytest.mark.parametrize("name", CHECKED)
def test_saves_and_loads_without_custom_objects(name, built, tmp_path):
    built[name].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES), built[name](IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", families())
def test_mixed_precision_keeps_float32_logits(name):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        logits = tiny(name)(IMAGES.astype(np.float32))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert logits.dtype == tf.float32
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("name", families())
def test_tflite_fp32_gives_the_softmax_of_the_logits(name, converted):
    model, result = converted[name, "fp32"]
    scores = tflite_scores(result.job.output, IMAGES)
    np.testing.assert_allclose(scores, softmax(model(IMAGES).numpy()), atol=2e-5)


def check_int8(aware: keras.Model, result) -> None:
    assert aware.output.dtype == tf.float32
    kernels = sum(
        isinstance(getattr(layer, "layer", None), (keras.layers.Conv2D, keras.layers.Dense))
        for layer in aware.layers
    )
    assert result.kernels == {"int8": kernels}
    scores = tflite_scores(result.job.output, IMAGES)
    # Keras emulates the arithmetic; a rounding may fall the other way, so not bit for bit.
    np.testing.assert_allclose(scores, softmax(aware(IMAGES.astype(np.float32)).numpy()), atol=0.05)


@pytest.mark.parametrize("name", families())
def test_quantisable_to_int8(name, converted):
    check_int8(*converted[name, "qat"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_stem_and_bottlenecks_quantise(name, built, tmp_path):
    check_int8(*convert({name: built[name]}, tmp_path)[name, "qat"])


def test_resnet50_with_biases_is_that_of_keras_applications():
    model = make("resnet50", size=224, classes=1000, bias=True, variant="v1")
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 25_583_592


def test_cifar_resnet20_has_a_quarter_million_parameters():
    model = make("resnet20", classes=10)
    count = sum(np.prod(w.shape) for w in model.trainable_weights)
    # He et al. table 6 rounds 269,722 to 0.27 M; two projections (option B) and their
    # normalisations add 16 x 32 + 32 x 64 + 2 x (32 + 64).
    assert count == 269_722 + 2_560 + 192


def test_zero_init_makes_residual_blocks_identities():
    model = make("resnet8", width=8)
    stem, block = (
        keras.Model(model.input, model.get_layer(name).output)(IMAGES)
        for name in ("stem_relu", "stage1_block1_relu")
    )
    np.testing.assert_array_equal(stem, block)
    other = make("resnet8", width=8, zero_init=False)
    assert not np.allclose(
        *(
            keras.Model(other.input, other.get_layer(name).output)(IMAGES)
            for name in ("stem_relu", "stage1_block1_relu")
        )
    )


def test_variant_moves_the_stride():
    def strides(variant):
        model = make("resnet50", size=64, width=8, variant=variant)
        return [model.get_layer(f"stage2_block1_{i}_conv").strides[0] for i in (1, 2, 3)]

    assert strides("v1") == [2, 1, 1]
    assert strides("v1.5") == [1, 2, 1]


@pytest.mark.parametrize(
    ("size", "stages", "final"), [(8, 2, 4), (16, 3, 4), (32, 4, 4), (64, 4, 4), (224, 5, 7)]
)
def test_cnn_adapts_its_stages_to_the_image(size, stages, final):
    model = make("cnn", size=size, width=2, depth=1)
    assert sum(layer.name.endswith("_conv") for layer in model.layers) == stages
    assert model.get_layer("pool").input_shape[1:3] == (final, final)


def test_vit_pools_by_token_or_mean():
    by_token = make("vit", width=8, depth=1, heads=2)
    by_mean = make("vit", width=8, depth=1, heads=2, pool="mean")
    patches = (SIZE // 4) ** 2
    assert by_token.get_layer("positions").output_shape == (None, patches + 1, 8)
    assert by_mean.get_layer("positions").output_shape == (None, patches, 8)
    assert by_mean(IMAGES).shape == by_token(IMAGES).shape


def test_dropout_acts_only_in_training():
    keras.utils.set_random_seed(0)
    model = make("cnn", width=4, head_dropout=0.5)
    np.testing.assert_array_equal(model(IMAGES, training=False), model(IMAGES, training=False))
    assert not np.allclose(model(IMAGES, training=True), model(IMAGES, training=True))


def test_images_need_not_be_square():
    data = DataConfig(image_size=(16, 24))
    for name, options in (("cnn", {"width": 4}), ("resnet8", {}), ("vit", {"width": 8})):
        assert make(name, data=data, **options).input_shape == (None, 16, 24, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn", {"widht": 8}, "did you mean width"),
        ("cnn", {"width": "wide"}, "takes int"),
        ("cnn", {"width": True}, "takes int"),
        ("cnn", {"width": 0}, "width >= 1"),
        ("cnn", {"stages": 9}, "at most 4"),
        ("resnet50", {"variant": "v2"}, "v1 or v1.5"),
        ("resnet50", {"depth": 18}, "no option 'depth'"),
        ("vit", {"patch": 5}, "do not tile"),
        ("vit", {"width": 10, "heads": 4}, "must divide"),
        ("vit", {"pool": "max"}, "token or mean"),
        ("vit", {"dropout": 1.5}, "in \\[0, 1\\)"),
        ("vit", {"depth": 0}, "depth"),
    ],
)
def test_bad_options_say_the_remedy(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match="resnet50"):
        make("resnet5")


def test_a_classifier_needs_two_classes():
    with pytest.raises(ConfigError, match="at least 2"):
        make("cnn", classes=1)
