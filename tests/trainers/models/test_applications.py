"""The adapter of `keras.applications` against the originals, with the same weights."""

import inspect

import numpy as np
import pytest

from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model
from trainers.models.applications import application, registered_name
from trainers.models.intermediates import intermediates
from trainers.registry import models

pytestmark = pytest.mark.onednn

# Together, they have every kind of layer that the adapter replaces.
CHECKED = [
    ("MobileNetV3Small", 32),  # operations between layers
    pytest.param("EfficientNetB0", 32, marks=pytest.mark.slow),  # preprocessing that always is
    pytest.param("ConvNeXtTiny", 32, marks=pytest.mark.slow),  # nested models, custom layers
    pytest.param("InceptionResNetV2", 75, marks=pytest.mark.slow),  # custom sums
    pytest.param("Xception", 71, marks=pytest.mark.slow),  # separable convolutions
    pytest.param("RegNetY002", 32, marks=pytest.mark.slow),  # grouped convolutions
]

#: Model -> all parameters, of the table in Keras' documentation, where the top is one Dense layer.
DOCUMENTED: dict[str, int] = {
    "mobilenet": 4_253_864,
    "keras_mobilenet_v2": 3_538_984,
    "keras_resnet50": 25_636_712,
    "resnet50_v2": 25_613_800,
    "densenet121": 8_062_504,
    "inception_v3": 23_851_784,
    "inception_resnet_v2": 55_873_736,
    "xception": 22_910_480,
    "nasnet_mobile": 5_326_716,
    "convnext_tiny": 28_589_128,
    # Its own Normalization holds 7 more.
    "efficientnet_b0": 5_330_571 - 7,
    "efficientnetv2_b0": 7_200_312,
}


def make(name, size, classes=5):
    data, model = DataConfig(image_size=(size, size)), ModelConfig(name=name)
    return build_model(Config(name="test", data=data, model=model), classes)


def own_weights(model) -> list[np.ndarray]:
    """Those that are learned: not the preprocessing's."""
    return [
        weight
        for layer in model.layers
        if not isinstance(layer, keras.layers.Normalization)
        for weight in layer.get_weights()
    ]


@pytest.mark.parametrize(("name", "size"), CHECKED)
def test_computes_what_the_original_does(name, size):
    build = getattr(keras.applications, name)
    flag = "include_preprocessing"
    options = {flag: False} if flag in inspect.signature(build).parameters else {}
    original = build(
        include_top=False,
        weights=None,
        pooling="avg",
        input_shape=(size, size, 3),
        **options,
    )
    noise = np.random.default_rng(0)
    for layer in original.layers:
        if not isinstance(layer, keras.layers.Normalization):
            moved = [w + noise.normal(0, 0.02, w.shape) ** 2 for w in layer.get_weights()]
            layer.set_weights(moved)
    model = make(registered_name(name), size)
    features = model.get_layer(intermediates(model).features).output
    ours = keras.Model(model.get_layer("normalize").output, features)
    ours.set_weights(own_weights(original))
    images = noise.normal(0, 1, (2, size, size, 3)).astype(np.float32)
    scale = 255.0 if name.startswith("EfficientNetB") else 1.0
    expected = original(images * scale).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(ours(images), expected, rtol=1e-4, atol=1e-6)


def test_an_activation_that_int8_cannot_have_inside_a_kernel_becomes_a_layer(monkeypatch):
    def tiny(*, input_shape, **_):
        layers = keras.layers
        images = keras.Input(input_shape)
        inner = keras.Sequential([layers.Conv2D(4, 3, activation="relu", name="relu_conv")])
        x = layers.Conv2D(4, 3, activation="swish", name="swish_conv")(inner(images))
        x = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(x)
        return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x))

    monkeypatch.setattr(keras.applications, "Tiny", tiny, raising=False)
    images = keras.Input((16, 16, 3), name="images")
    ours = keras.Model(images, application("Tiny", images))
    assert [layer.name for layer in ours.layers] == [
        "images",
        "relu_conv",
        "swish_conv",
        "swish_conv_activation",
        "gate",
        "pool",
    ]
    original = tiny(input_shape=(16, 16, 3))
    ours.set_weights(original.get_weights())
    noise = np.random.default_rng(0).normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(noise), original(noise), rtol=1e-5, atol=1e-6)


@pytest.mark.zoo
@pytest.mark.parametrize("name", DOCUMENTED)
def test_has_the_documented_size(name):
    assert make(name, 224, classes=1000).count_params() == DOCUMENTED[name]


def test_names_are_the_fields_words():
    names = {
        "VGG16": "vgg16",
        "InceptionResNetV2": "inception_resnet_v2",
        "EfficientNetB0": "efficientnet_b0",
        "EfficientNetV2B0": "efficientnetv2_b0",
        "EfficientNetV2L": "efficientnetv2_l",
        "ConvNeXtXLarge": "convnext_xlarge",
        "DenseNet121": "densenet121",
        "NASNetMobile": "nasnet_mobile",
        "ResNet50": "keras_resnet50",
        "ResNet50V2": "resnet50_v2",
        "ResNetRS50": "resnet_rs50",
        "RegNetX002": "regnet_x002",
        "MobileNet": "mobilenet",
        "MobileNetV2": "keras_mobilenet_v2",
        "MobileNetV3Small": "keras_mobilenet_v3_small",
    }
    assert {name: registered_name(name) for name in names} == names


def test_all_of_them_are_registered():
    functions = [
        name
        for name, entry in vars(keras.applications).items()
        if name[0].isupper() and callable(entry)
    ]
    assert len(functions) > 60
    assert {registered_name(name) for name in functions} <= set(models.names())


def test_an_image_that_is_too_small_is_refused_with_the_size():
    with pytest.raises(ConfigError, match=r"32x32 images: .*75x75.*data\.image_size"):
        make("inception_v3", 32)
