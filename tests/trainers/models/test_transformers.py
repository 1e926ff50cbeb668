"""Transformers against a forward pass in NumPy that shares no code with them."""

import numpy as np
import pytest
from scipy.special import erf

from trainers.config import Config, ConfigError, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model, distillation_heads, embedding_model
from trainers.models.layers import RelativeAttentionWeights

pytestmark = pytest.mark.onednn

RNG = np.random.default_rng(0)


def make(name, *, size=(16, 24), classes=5, **options):
    config = Config(
        name="test",
        data=DataConfig(image_size=size),
        model=ModelConfig(name=name, options=options),
    )
    model = build_model(config, classes)
    # No weights are 0 or 1, so that all of them affect the output.
    model.set_weights([RNG.normal(0.1, 0.2, w.shape) for w in model.get_weights()])
    return model


def weights_of(model) -> dict[str, np.ndarray]:
    """`layer/weight` -> float64 values."""
    return {
        f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}": weight.numpy().astype(float)
        for layer in model.layers
        for weight in layer.weights
    }


def normalized(x, weights, name):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    scaled = (x - mean) / np.sqrt(variance + 1e-6)
    return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def dense(x, weights, name):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def softmax(x):
    exponents = np.exp(x - x.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def attention(x, weights, name, heads):
    """One head after the other, one image after the other."""
    query, key, value = (dense(x, weights, f"{name}_{part}") for part in ("query", "key", "value"))
    out, size = np.zeros_like(query), query.shape[-1] // heads
    for image in range(len(x)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[image, :, part] @ key[image, :, part].T / np.sqrt(size)
            out[image, :, part] = softmax(scores) @ value[image, :, part]
    return dense(out, weights, f"{name}_out")


def encoded(images, weights, *, patch, depth, heads, tokens=()):
    """(B, tokens + T, D): sections 3.1 and A of Dosovitskiy et al., with numbers only."""
    data = DataConfig()
    x = (images.astype(float) - data.mean) / data.std
    batch, height, width, _ = x.shape
    rows = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            square = x[:, top : top + patch, left : left + patch].reshape(batch, -1)
            kernel = weights["patches/kernel"].reshape(square.shape[1], -1)
            rows.append(square @ kernel + weights["patches/bias"])
    learned = [np.repeat(weights[f"{token}/token"][0], batch, axis=0) for token in tokens]
    x = np.stack([*learned, *rows], axis=1) + weights["positions/table"]
    for index in range(depth):
        name = f"block{index + 1}"
        y = attention(normalized(x, weights, f"{name}_norm1"), weights, name, heads)
        x = x + y * weights.get(f"{name}_scale1/gamma", 1.0)
        y = dense(normalized(x, weights, f"{name}_norm2"), weights, f"{name}_up")
        y = dense(y * 0.5 * (1 + erf(y / np.sqrt(2))), weights, f"{name}_down")
        x = x + y * weights.get(f"{name}_scale2/gamma", 1.0)
    return normalized(x, weights, "norm")


IMAGES = RNG.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
SHAPE = {"patch": 8, "depth": 2, "heads": 3}
OPTIONS = {**SHAPE, "width": 12, "mlp": 20}


@pytest.mark.parametrize("layer_scale", [0.0, 1e-4])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_vit_is_the_papers_arithmetic(pool, layer_scale):
    model = make("vit", pool=pool, layer_scale=layer_scale, **OPTIONS)
    weights = weights_of(model)
    assert ("block2_scale2/gamma" in weights) == bool(layer_scale)
    x = encoded(IMAGES, weights, tokens=("class_token",) if pool == "token" else (), **SHAPE)
    features = x[:, 0] if pool == "token" else x.mean(1)
    expected = dense(features, weights, "logits")
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_deit_returns_the_mean_of_its_two_heads():
    model = make("deit", **OPTIONS)
    weights = weights_of(model)
    x = encoded(IMAGES, weights, tokens=("class_token", "distill_token"), **SHAPE)
    by_class = dense(x[:, 0], weights, "logits_class")
    by_teacher = dense(x[:, 1], weights, "logits_distill")
    assert np.abs(by_class - by_teacher).max() > 0.1
    np.testing.assert_allclose(model(IMAGES), (by_class + by_teacher) / 2, rtol=1e-4, atol=1e-5)
    heads = distillation_heads(model)(IMAGES)
    for found, expected in zip(heads, (by_class, by_teacher), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    both = np.concatenate([x[:, 0], x[:, 1]], axis=1)
    np.testing.assert_allclose(embedding_model(model)(IMAGES), both, rtol=1e-4, atol=1e-5)


def test_models_with_one_head_have_no_second():
    assert distillation_heads(make("vit", **OPTIONS)) is None


def test_relative_attention_adds_the_bias_of_each_offset():
    heads, (height, width), size = 2, (2, 3), 4
    length = height * width
    layer = RelativeAttentionWeights(heads, (height, width))
    query, key = RNG.normal(size=(2, 1, length, heads * size)).astype(np.float32)
    layer([query, key])
    table = RNG.normal(size=(heads, 2 * height - 1, 2 * width - 1)).astype(np.float32)
    layer.set_weights([table.reshape(heads, -1)])
    found = layer([query, key]).numpy()
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[0, :, part] @ key[0, :, part].T / np.sqrt(size)
        for one in range(length):
            for other in range(length):
                down = one // width - other // width
                right = one % width - other % width
                scores[one, other] += table[head, down + height - 1, right + width - 1]
        np.testing.assert_allclose(found[0, head], softmax(scores), rtol=1e-5)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {**OPTIONS, "drop_path": 0.9}),
        ("deit", {**OPTIONS, "drop_path": 0.9}),
        ("resnet14", {"drop_path": 0.9}),
        ("coatnet", {"drop_path": 0.9, "blocks": (1, 1)}),
    ],
)
def test_stochastic_depth_drops_whole_images_of_a_branch_in_training_only(name, options):
    keras.utils.set_random_seed(0)
    model = make(name, **options)
    images = np.repeat(IMAGES[:1], 32, axis=0)
    still = model(images, training=False).numpy()
    np.testing.assert_allclose(still, np.repeat(still[:1], 32, axis=0), rtol=1e-4)
    last = [layer for layer in model.layers if layer.name.endswith("_drop_path")][-1]
    branch = last(np.ones((64, *last.output_shape[1:]), np.float32), training=True).numpy()
    kept = branch.reshape(64, -1)
    np.testing.assert_array_equal(kept, np.repeat(kept[:, :1], kept.shape[1], axis=1))
    assert 0 < (kept[:, 0] == 0).mean() < 1
    np.testing.assert_allclose(kept[kept != 0], 10.0, rtol=1e-5)  # so that the mean stays


def test_stochastic_depth_rises_to_the_last_block():
    model = make("vit", **{**OPTIONS, "depth": 5}, drop_path=0.2)
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_1_drop_path")]
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2])  # the first block always acts


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit", {"drop_path": 1.0}, "drop_path"),
        ("deit", {"layer_scale": -1.0}, "layer_scale"),
        ("deit", {"pool": "mean"}, "no option 'pool'"),
        ("coatnet", {"layout": "CX"}, "letters C, M and T"),
        ("coatnet", {"blocks": (1, 2, 3)}, "each of the 2 stages"),
        ("coatnet", {"widths": (48, 100)}, "head_width must divide"),
        ("coatnet", {"position": "none"}, "relative or absolute"),
        ("coatnet", {"stem_stride": 3}, "stem_stride"),
        ("mobilenet_v2", {"width": 0.0}, "width > 0"),
        ("mobilenet_v3_small", {"depth": 12}, "depth in .0, 11."),
    ],
)
def test_bad_options_say_the_remedy(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, size=(32, 32), **options)
