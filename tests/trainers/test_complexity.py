"""Multiply-adds against the literature and against TensorFlow's own profiler."""

import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from trainers.complexity import complexity
from trainers.config import Config, DataConfig, ModelConfig
from trainers.keras import keras
from trainers.models import build_model


def make(name, *, size, classes, **options):
    data, model = DataConfig(image_size=(size, size)), ModelConfig(name=name, options=options)
    return build_model(Config(name="test", data=data, model=model), classes)


@pytest.mark.parametrize(
    ("name", "gmac", "trainable"),
    [  # torchvision's table of models; its FLOPS are multiply-adds, attention included
        ("resnet18", 1.81, 11_689_512),
        ("resnet50", 4.09, 25_557_032),
        ("vit_b16", 17.56, 86_567_656),
    ],
)
def test_published_figures(name, gmac, trainable):
    cost = complexity(make(name, size=224, classes=1000))
    assert cost.multiply_adds / 1e9 == pytest.approx(gmac, abs=0.01)
    assert cost.trainable_parameters == trainable


def test_default_cnn_keeps_its_budget():
    cost = complexity(make("cnn", size=224, classes=1000))
    assert 2.7e9 < cost.multiply_adds <= 2.85e9
    assert cost.parameters > cost.trainable_parameters  # moving averages


def test_resnet50_v1_is_the_papers():
    cost = complexity(make("resnet50", size=224, classes=1000, variant="v1"))
    assert cost.multiply_adds / 1e9 == pytest.approx(3.86, abs=0.01)  # table 1: 3.8e9


def profiled_multiply_adds(model) -> int:
    """Half the FLOPs that TensorFlow's profiler finds in convolutions and matrix products."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda images: model(images, training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(spec))
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        options = (
            tf.compat.v1.profiler.ProfileOptionBuilder(
                tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
            )
            .with_empty_output()
            .with_node_names(show_name_regexes=[".*(Conv2D|MatMul|depthwise).*"])
            .build()
        )
        profile = tf.compat.v1.profiler.profile(graph, options=options)
    return profile.total_float_ops // 2


@pytest.mark.parametrize(("name", "options"), [("cnn", {"width": 8}), ("resnet8", {})])
def test_agrees_with_the_profiler(name, options):
    model = make(name, size=32, classes=7, **options)
    assert complexity(model).multiply_adds == profiled_multiply_adds(model)


def test_grouped_depthwise_and_nested():
    inner = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.DepthwiseConv2D(3)])
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1)(images)
    x = keras.layers.Conv2D(4, 3, groups=2, padding="same")(x)
    model = keras.Model(images, inner(x))
    expected = 64 * 3 * 4 + 64 * 9 * 2 * 4 + 36 * 9 * 4
    assert complexity(model).multiply_adds == expected


def test_an_unknown_kernel_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2DTranspose(2, 3)])
    with pytest.raises(ValueError, match="multiply_adds"):
        complexity(model)
