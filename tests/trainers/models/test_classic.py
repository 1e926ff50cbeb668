"""AlexNet and GoogLeNet against their publications; `test_complexity` counts their parameters."""

import math

import numpy as np
import pytest

from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model

pytestmark = pytest.mark.onednn


def make(name, size=32, classes=5, **options):
    data = DataConfig(image_size=size if isinstance(size, tuple) else (size, size))
    return build_model(Config("test", data=data, model=ModelConfig(name, options=options)), classes)


def maps(model, *names):
    return [model.get_layer(name).output_shape[1:] for name in names]


def test_alexnet_has_the_maps_of_torchvision():
    model = make("alexnet", 224, width=8)
    found = maps(model, *(f"conv{n}" for n in range(1, 6)), "pool5")
    channels = (8, 24, 48, 32, 32, 32)
    sides = (55, 27, 13, 13, 13, 6)
    assert found == [(side, side, count) for side, count in zip(sides, channels, strict=True)]
    assert maps(model, "dense6", "dense7_relu", "dropout7") == [(512,)] * 3
    assert "dropout7" not in {layer.name for layer in make("alexnet", width=8, dropout=0.0).layers}


@pytest.mark.parametrize(
    ("size", "kernel", "side"), [(15, 5, 1), (16, 5, 1), (32, 5, 3), (62, 5, 6), (63, 11, 1)]
)
def test_alexnet_adapts_its_first_convolution_to_small_images(size, kernel, side):
    model = make("alexnet", size, width=8)
    assert model.get_layer("conv1").kernel_size == (kernel, kernel)
    assert maps(model, "pool5") == [(side, side, 32)]


def adaptive_average(x: np.ndarray, out: int) -> np.ndarray:
    """Adaptive average pooling of (H, W, C), as PyTorch documents it."""
    spans = [
        [(i * side // out, math.ceil((i + 1) * side / out)) for i in range(out)]
        for side in x.shape[:2]
    ]
    return np.array([[x[a:b, c:d].mean((0, 1)) for c, d in spans[1]] for a, b in spans[0]])


@pytest.mark.parametrize(("size", "side"), [(256, (7, 7)), ((256, 416), (7, 12))])
def test_alexnet_averages_large_maps_like_torchvision(size, side):
    model = make("alexnet", size, width=2)
    ends = keras.Model(model.input, [model.get_layer(n).output for n in ("pool5", "average")])
    height, width = model.input_shape[1:3]
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(np.float32)
    before, after = (part.numpy()[0] for part in ends(noise))
    assert before.shape == (*side, 8)
    np.testing.assert_allclose(after, adaptive_average(before, 6), rtol=1e-5, atol=1e-6)
    same = make("alexnet", 224, width=2)
    assert [w.shape for w in model.weights] == [w.shape for w in same.weights]


def test_googlenet_has_the_maps_of_the_paper():
    model = make("googlenet", 224)
    names = ("conv1_conv", "conv2_conv", "inception3a_concat", "inception3b_concat")
    assert maps(model, *names) == [(112, 112, 64), (56, 56, 192), (28, 28, 256), (28, 28, 480)]
    fourth = maps(model, *(f"inception4{letter}_concat" for letter in "abcde"))
    assert fourth == [(14, 14, channels) for channels in (512, 512, 512, 528, 832)]
    assert maps(model, "inception5a_concat", "inception5b_concat", "pool") == [
        (7, 7, 832),
        (7, 7, 1024),
        (1024,),
    ]


def test_googlenet_has_the_same_weights_at_small_sizes():
    small, large = make("googlenet", 32), make("googlenet", 224)
    assert [w.shape for w in small.weights] == [w.shape for w in large.weights]
    assert maps(small, "inception3a_concat", "inception5b_concat") == [(8, 8, 256), (2, 2, 1024)]


def test_googlenet_of_the_paper_has_larger_filters():
    # Table 1, columns "#5x5 reduce" and "#5x5": 16 more weights per pair of channels.
    reduce = (16, 32, 16, 24, 24, 32, 32, 32, 48)
    out = (32, 96, 48, 64, 64, 64, 128, 128, 128)
    ours, paper = (
        sum(math.prod(w.shape) for w in make("googlenet", kernel=side).trainable_weights)
        for side in (3, 5)
    )
    assert paper - ours == 16 * sum(a * b for a, b in zip(reduce, out, strict=True))


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("alexnet", 14, {}, "at least 15 pixels, got 14x14; set data.image_size"),
        ("alexnet", (32, 8), {}, "got 32x8"),
        ("alexnet", 32, {"width": 0}, "width >= 1"),
        ("alexnet", 32, {"hidden": -1}, "hidden=-1"),
        ("alexnet", 32, {"dropout": 1.0}, "dropout in \\[0, 1\\)"),
        ("googlenet", 32, {"kernel": 4}, "5 \\(paper\\)"),
        ("googlenet", 32, {"width": 0.0}, "width > 0"),
    ],
)
def test_bad_options(name, size, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, size, **options)
