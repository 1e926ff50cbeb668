"""To and from `keras.applications`: the same images, the same logits, in Keras' file formats."""

import inspect

import numpy as np
import pytest

from trainers.keras import keras
from trainers.weights import WeightsError, export_to_applications, initialize, looks_like

pytestmark = pytest.mark.onednn

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE = {"mean": (123.68, 116.779, 103.939)}
V1 = {"variant": "v1", "bias": True}


def randomize(model: keras.Model) -> None:
    """No weight at its start, statistics and scales included, and activations of moderate size."""
    rng = np.random.default_rng(7)
    for variable in model.weights:
        shape = tuple(variable.shape)
        name = variable.name.split("/")[-1]
        if "variance" in name:
            value = rng.uniform(0.5, 1.5, shape)
        elif "gamma" in name:
            value = rng.uniform(0.7, 1.3, shape)
        elif len(shape) > 1:
            value = rng.normal(0, (1.0 / np.prod(shape[:-1])) ** 0.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))


@pytest.fixture(scope="module")
def theirs():
    """Their ResNet-50 for 10 classes, all random."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    randomize(model)
    return model


@pytest.fixture(scope="module")
def images():
    """(2, 64, 64, 3) float32 in [0, 255]."""
    return np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("ending", [".h5", pytest.param(".keras", marks=pytest.mark.slow)])
def test_resnet50_logits_equal_theirs_in_both_directions(ending, theirs, images, make, tmp_path):
    file = tmp_path / f"resnet50{ending}"
    (theirs.save if ending == ".keras" else theirs.save_weights)(file)
    ours, config = make("resnet50", 64, 10, CAFFE, **V1)
    report = initialize(ours, file, config)
    wanted = theirs(keras.applications.resnet50.preprocess_input(images.copy()), training=False)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(ours(images, training=False), wanted, atol=1e-5 * scale)
    assert "blue, green, red reversed" in "\n".join(report.lines())
    again = export_to_applications(ours, config)
    for one, two in zip(again.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6, err_msg=one.name)


def test_a_mismatch_names_the_options_to_set(theirs, make, tmp_path):
    theirs.save_weights(tmp_path / "resnet50.h5")
    ours, config = make("resnet50", 64, 10, CAFFE)
    with pytest.raises(WeightsError) as caught:
        initialize(ours, tmp_path / "resnet50.h5", config)
    assert "set model.options.bias=true" in str(caught.value)
    assert "set model.options.variant=v1" in str(caught.value)
    assert "conv5_block3_3_conv/bias" in str(caught.value)
    assert "model.name=resnet50" in looks_like(tmp_path / "resnet50.h5")


def test_only_what_they_have_is_exported(make):
    with pytest.raises(WeightsError, match="variant=v1"):
        export_to_applications(*make("resnet18"))
    with pytest.raises(WeightsError, match=r"123\.68"):
        export_to_applications(*make("resnet50", **V1))


@pytest.mark.parametrize(
    ("name", "function", "norm", "ending"),
    [
        ("mobilenet", "MobileNet", (127.5, 127.5), ".h5"),
        pytest.param(*("mobilenet", "MobileNet", (127.5, 127.5), ".keras"), marks=pytest.mark.slow),
        pytest.param(*("xception", "Xception", (127.5, 127.5), ".h5"), marks=pytest.mark.slow),
        pytest.param(*("convnext_tiny", "ConvNeXtTiny", IMAGENET, ".h5"), marks=pytest.mark.slow),
        pytest.param(
            *("efficientnet_b0", "EfficientNetB0", None, ".weights.h5"), marks=pytest.mark.slow
        ),
    ],
)
def test_models_of_the_adapter(name, function, norm, ending, make, tmp_path):
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, function)
    size = 75 if name == "xception" else 32
    known = inspect.signature(build).parameters
    options = {"include_preprocessing": False} if "include_preprocessing" in known else {}
    theirs = build(
        weights=None, input_shape=(size, size, 3), classes=7, classifier_activation=None, **options
    )
    randomize(theirs)
    if norm is None:
        inner = next(layer for layer in theirs.layers if layer.name.startswith("normalization"))
        inner.set_weights([np.array([0.4, 0.5, 0.6]), np.array([0.04, 0.05, 0.06]), np.array(0)])
    (theirs.save if ending == ".keras" else theirs.save_weights)(tmp_path / f"file{ending}")
    # Zero padding does not let another mean be folded in; another deviation is.
    mean = (102.0, 127.5, 153.0) if norm is None else np.broadcast_to(norm[0], 3).tolist()
    ours, config = make(name, size, data={"mean": tuple(mean)})
    initialize(ours, tmp_path / f"file{ending}", config)
    images = np.random.default_rng(1).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    fed = images if norm is None else (images - np.float32(norm[0])) / np.float32(norm[1])
    wanted = theirs(fed, training=False)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(ours(images, training=False), wanted, atol=1e-5 * scale)
