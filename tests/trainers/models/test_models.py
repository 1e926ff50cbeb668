"""Checks of every registered model, including new ones."""

import numpy as np
import pytest
import tensorflow as tf

from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.registry import UnknownNameError, models

pytestmark = pytest.mark.onednn

SIZE = 32
CLASSES = 5


def build(name: str, *, size=SIZE, classes=CLASSES, head_dropout=0.0, data=None, **options):
    config = Config(
        name="test",
        data=data or DataConfig(image_size=(size, size)),
        model=ModelConfig(name=name, dropout=head_dropout, options=options),
    )
    return build_model(config, classes)


IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def built(make, small_names):
    """Family -> a tiny model."""
    keras.utils.set_random_seed(1)
    return {name: make(name, tiny=True)[0] for name in small_names}


def test_the_families_are_registered(small_names):
    assert {"cnn", "vit", "vit_b16", "deit_ti16", "resnet20", "vgg16"} <= set(models.names())
    assert {"cnn", "coatnet", "deit", "mobilenet_v2", "resnet8", "vit"} <= set(small_names)


def test_contract(family, built):
    model = built[family]
    assert model.input_names == ["images"]
    assert model.input_shape == (None, SIZE, SIZE, 3)
    assert model.layers[1].__class__.__name__ == "Normalize"
    assert model.layers[-1].name == "logits"
    heads = [layer for layer in model.layers if layer.name.startswith("logits_")]
    for head in heads or [model.layers[-1]]:
        assert keras.activations.serialize(head.activation) == "linear"
    logits = model(IMAGES)
    assert logits.shape == (len(IMAGES), CLASSES)
    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, model(IMAGES.astype(np.float32)))
    assert np.ptp(logits.numpy(), axis=0).max() > 0, "the logits do not depend on the image"


def test_every_weight_learns(family, built):
    model = keras.models.clone_model(built[family])
    # Gammas and classifiers that start at zero would hide the layers behind them.
    noise = np.random.default_rng(0)
    model.set_weights([w + noise.normal(0, 0.1, w.shape) ** 2 for w in built[family].get_weights()])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(IMAGES.astype(np.float32), training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.name
        assert np.isfinite(gradient.numpy()).all(), weight.name


def test_saves_and_loads_without_custom_objects(family, built, tmp_path):
    built[family].save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES), built[family](IMAGES), rtol=1e-5, atol=1e-5)


def test_mixed_precision_keeps_float32_logits(family, make):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        logits = make(family, tiny=True)[0](IMAGES.astype(np.float32))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert logits.dtype == tf.float32
    assert np.isfinite(logits.numpy()).all()


def test_resnet50_with_biases_is_that_of_keras_applications():
    model = build("resnet50", size=224, classes=1000, bias=True, variant="v1")
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 25_583_592


@pytest.mark.zoo
def test_resnet50_vit_b16_is_its_parts():
    # ViT-B/16 without its patches; ResNet-50 without stage 4, three blocks more in stage 3. All
    # from torchvision's counts: resnet50's layers up to layer3, and a block of layer3.
    expected = 86_567_656 - 16 * 16 * 3 * 768 + 1024 * 768 + 8_543_296 + 3 * 1_117_184
    model = build("resnet50_vit_b16", size=224, classes=1000)
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == expected


def test_cifar_resnet20_has_a_quarter_million_parameters():
    model = build("resnet20", classes=10)
    count = sum(np.prod(w.shape) for w in model.trainable_weights)
    # He et al. table 6 rounds 269,722 to 0.27 M; two projections (option B) and their
    # normalizations add 16 x 32 + 32 x 64 + 2 x (32 + 64).
    assert count == 269_722 + 2_560 + 192


def test_zero_init_makes_residual_blocks_identities():
    model = build("resnet8", width=8)
    stem, block = (
        keras.Model(model.input, model.get_layer(name).output)(IMAGES)
        for name in ("stem_relu", "stage1_block1_relu")
    )
    np.testing.assert_array_equal(stem, block)
    other = build("resnet8", width=8, zero_init=False)
    assert not np.allclose(
        *(
            keras.Model(other.input, other.get_layer(name).output)(IMAGES)
            for name in ("stem_relu", "stage1_block1_relu")
        )
    )


def test_variant_moves_the_stride():
    def strides(variant):
        model = build("resnet50", size=64, width=8, variant=variant)
        return [model.get_layer(f"stage2_block1_{i}_conv").strides[0] for i in (1, 2, 3)]

    assert strides("v1") == [2, 1, 1]
    assert strides("v1.5") == strides("d") == [1, 2, 1]


def test_variant_d_averages_before_it_projects():
    model = build("resnet50d", size=64, width=8)
    stem = [model.get_layer(f"{name}_conv") for name in ("stem_1", "stem_2", "stem")]
    assert [(one.filters, one.kernel_size, one.strides) for one in stem] == [
        (4, (3, 3), (2, 2)),
        (4, (3, 3), (1, 1)),
        (8, (3, 3), (1, 1)),
    ]
    assert model.get_layer("stage2_block1_shortcut_conv").strides == (1, 1)
    assert model.get_layer("stage2_block1_shortcut_pool").pool_size == (2, 2)
    assert "stage1_block1_shortcut_pool" not in {layer.name for layer in model.layers}


@pytest.mark.parametrize(
    ("size", "stages", "final"), [(8, 2, 4), (16, 3, 4), (32, 4, 4), (64, 4, 4), (224, 5, 7)]
)
def test_cnn_adapts_its_stages_to_the_image(size, stages, final):
    model = build("cnn", size=size, width=2, depth=1)
    assert sum(layer.name.endswith("_conv") for layer in model.layers) == stages
    assert model.get_layer("pool").input_shape[1:3] == (final, final)


def test_vit_pools_by_token_or_mean():
    by_token = build("vit", width=8, depth=1, heads=2)
    by_mean = build("vit", width=8, depth=1, heads=2, pool="mean")
    patches = (SIZE // 4) ** 2
    assert by_token.get_layer("positions").output_shape == (None, patches + 1, 8)
    assert by_mean.get_layer("positions").output_shape == (None, patches, 8)
    assert by_mean(IMAGES).shape == by_token(IMAGES).shape


def test_dropout_acts_only_in_training():
    keras.utils.set_random_seed(0)
    model = build("cnn", width=4, head_dropout=0.5)
    np.testing.assert_array_equal(model(IMAGES, training=False), model(IMAGES, training=False))
    assert not np.allclose(model(IMAGES, training=True), model(IMAGES, training=True))


def test_images_need_not_be_square():
    data = DataConfig(image_size=(16, 24))
    for name, options in (("cnn", {"width": 4}), ("resnet8", {}), ("vit", {"width": 8})):
        assert build(name, data=data, **options).input_shape == (None, 16, 24, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn", {"widht": 8}, "did you mean width"),
        ("cnn", {"width": "wide"}, "takes int"),
        ("cnn", {"width": True}, "takes int"),
        ("cnn", {"width": 0}, "width >= 1"),
        ("cnn", {"stages": 9}, "at most 4"),
        ("resnet50", {"variant": "v2"}, "v1, v1.5 or d"),
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
        build(name, **options)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match="resnet50"):
        build("resnet5")


def test_a_classifier_needs_two_classes():
    with pytest.raises(ConfigError, match="at least 2"):
        build("cnn", classes=1)
