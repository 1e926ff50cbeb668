"""Weights files of Keras, for models of `keras.applications` and our models saved by Keras.

Keras' first format has the names of layers; the newer one (`.weights.h5`, `.keras`) has counters
per class, so a model of the same architecture is built to find the names. Numbered names
(`conv2d_12`) depend on layers that were created before, so their rank is compared, not their
number. If names still differ, as in old files, the order decides, as in Keras' `load_weights`.
"""

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from trainers.config import Config
from trainers.keras import keras
from trainers.models import HEADS
from trainers.models.applications import application
from trainers.registry import models
from trainers.weights.files import KerasLayer, WeightsFile
from trainers.weights.resnet_names import CAFFE_MEAN, UNIT_STD, translate_resnet
from trainers.weights.rules import TensorPiece, Translation, WeightsFacts
from trainers.weights.slots import Slot, weight_name

_HALF = (127.5, 127.5, 127.5)
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
#: Prefix of a registered name -> normalization of the published weights, from `preprocess_input` of
#: the architecture or, if that is the identity, from its first layers.
_NORMALISATION: tuple[tuple[str, tuple[tuple[float, ...], tuple[float, ...]]], ...] = (
    (r"vgg.*|keras_resnet\d+", (CAFFE_MEAN, UNIT_STD)),
    (r"densenet.*|convnext.*|resnet_rs.*|efficientnetv2_b\d", _IMAGENET),
    (r"efficientnetv2_[sml]", ((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))),
    (r"regnet.*", ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))),
)
#: Layers of the original classifiers before the last one.
_CLASSIFIER = re.compile(r"fc[12]|Conv_2")
_COUNTED = re.compile(
    r"(conv2d|batch_normalization|dense|layer_normalization|depthwise_conv2d|separable_conv2d)"
    r"(?:_(\d+))?"
)
_NORMALIZATION = re.compile(r"normalization(_\d+)?")


@dataclass(frozen=True)
class _KerasLayerTarget:
    """The name of a Keras layer, and the slots of the one or two layers of ours for it."""

    name: str
    slots: tuple[Slot, ...]


def is_application(name: str) -> bool:
    """Whether the registered model `name` is from `keras.applications`."""
    return getattr(models.get(name), "func", None) is application


def translate_keras(file: WeightsFile, model: keras.Model, config: Config) -> Translation | None:
    """The translated file; None if it does not match `model`."""
    name = config.model.name
    if is_application(name):
        architecture = getattr(models.get(name), "args", ("",))[0]
        file = _named(file, architecture, model.input_shape[1:])
        return _application(file, model, name)
    if re.fullmatch(r"resnet(50|101|152)", name):
        file = _named(file, name.replace("resnet", "ResNet"), (32, 32, 3))
    translation = translate_resnet(file)
    if translation is not None:
        return translation
    targets = _targets(model)
    if {target.name for target in targets} & {layer for layer, _ in file.layers}:
        mean, std = config.data.mean, config.data.std
        facts = WeightsFacts(name, "Sightline", f"weights of {name} that Keras saved", mean, std)
        return _matched(file, targets, facts)
    return None


def _named(file: WeightsFile, architecture: str, shape: tuple[int, ...]) -> WeightsFile:
    """A file with counters, with the layer names of `keras.applications`."""
    if not file.counted:
        return replace(file, layers=tuple(part for each in file.layers for part in _split(each)))
    build = getattr(keras.applications, architecture)
    reference = build(weights=None, include_top=False, input_shape=shape)
    queues: dict[str, list[KerasLayer]] = {}
    for name, weights in file.layers:
        queues.setdefault(re.sub(r"_\d+$", "", name), []).append((name, weights))
    named: list[KerasLayer] = []
    for layer in reference.layers:
        queue = queues.get(_snake(type(layer).__name__), [])
        if layer.weights and queue:
            words = [weight_name(variable) for variable in layer.weights]
            values = [value for _, value in queue.pop(0)[1]]
            named.append((layer.name, tuple(zip(words, values, strict=False))))
    rest = [layer for queue in queues.values() for layer in queue]
    return replace(file, layers=(*named, *rest))


def _split(layer: KerasLayer) -> list[KerasLayer]:
    """The layers of a nested model; a list of the layer itself otherwise."""
    name, weights = layer
    inner: dict[str, list[tuple[str, np.ndarray]]] = {}
    for key, value in weights:
        inner.setdefault(key.rpartition("/")[0], []).append((key, value))
    if len(inner) < 2:
        return [(name, tuple((key.split("/")[-1], value) for key, value in weights))]
    return [
        (path.split("/")[-1], tuple((key.split("/")[-1], value) for key, value in found))
        for path, found in inner.items()
    ]


def _snake(name: str) -> str:
    """The name of a class in Keras files: `conv2d`, `batch_normalization`."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _application(file: WeightsFile, model: keras.Model, name: str) -> Translation:
    found = [values for pattern, values in _NORMALISATION if re.fullmatch(pattern, name)]
    mean, std = found[0] if found else (_HALF, _HALF)
    inside = [layer for layer in file.layers if _NORMALIZATION.fullmatch(layer[0])]
    if inside:
        mean, std = _normalization_inside(inside[0])
    facts = WeightsFacts(
        family=name,
        naming="keras.applications",
        architecture=f"a Keras model of {len(file.layers)} layers with weights",
        mean=mean,
        std=std,
        bgr=mean == CAFFE_MEAN,
    )
    rest = tuple(layer for layer in file.layers if not _NORMALIZATION.fullmatch(layer[0]))
    translation = _matched(replace(file, layers=rest), _targets(model), facts)
    for layer, weights in inside:
        why = dict.fromkeys((f"{layer}/{key}" for key, _ in weights), "data.mean and data.std")
        translation.ignored.update(why)
    return translation


def _normalization_inside(layer: KerasLayer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) in [0, 255] of EfficientNet's normalization layer after a division by 255."""
    mean, variance = (np.asarray(value, np.float64).reshape(-1) for _, value in layer[1][:2])
    std = np.sqrt(variance)
    if np.allclose(std * 255.0, _IMAGENET[1], atol=0.1):
        # The published weights were trained with a division by the variance; Keras adds a layer
        # without weights that corrects it, see its efficientnet.py.
        std = std * np.sqrt(std)
    return tuple(map(float, mean * 255.0)), tuple(map(float, std * 255.0))


def _targets(model: keras.Model) -> list[_KerasLayerTarget]:
    """Layers with weights, without the classifier; separable convolutions count as one."""
    layers = {layer.name: layer for layer in model.layers}
    found = []
    for name, layer in layers.items():
        whole = name.removesuffix("_pointwise")
        if not layer.weights or name in HEADS or (whole != name and whole in layers):
            continue
        halves = [layer, *([layers[f"{name}_pointwise"]] if f"{name}_pointwise" in layers else [])]
        slots = tuple((half.name, weight_name(each)) for half in halves for each in half.weights)
        found.append(_KerasLayerTarget(name, slots))
    return found


def _ranked(names: list[str]) -> list[str]:
    """Names, with numbers replaced by ranks among names of the same class."""
    kinds: dict[str, list[int]] = {}
    matches = [_COUNTED.fullmatch(name) for name in names]
    for match in filter(None, matches):
        kinds.setdefault(match[1], []).append(int(match[2] or 0))
    return [
        name if match is None else f"{match[1]} {sorted(kinds[match[1]]).index(int(match[2] or 0))}"
        for name, match in zip(names, matches, strict=True)
    ]


def _matched(
    file: WeightsFile, targets: list[_KerasLayerTarget], facts: WeightsFacts
) -> Translation:
    ours = _ranked([target.name for target in targets])
    theirs = dict(zip(_ranked([name for name, _ in file.layers]), file.layers, strict=True))
    if set(ours) <= set(theirs):
        pairs = [(theirs.pop(key), target) for key, target in zip(ours, targets, strict=True)]
        rest = list(theirs.values())
    else:
        pairs = list(zip(file.layers, targets, strict=False))
        rest = list(file.layers[len(targets) :])
        facts = replace(facts, notes=(*facts.notes, "names differ: matched in order"))
    pieces = [piece for layer, target in pairs for piece in _pieces(layer, target)]
    head, ignored, left = _classifier(rest)
    return Translation(facts, pieces + head, ignored, left)


def _pieces(layer: KerasLayer, target: _KerasLayerTarget) -> list[TensorPiece]:
    name, weights = layer
    known = [
        TensorPiece(f"{name}/{key}", *slot, value)
        for slot, (key, value) in zip(target.slots, weights, strict=False)
    ]
    # An extra weight gets a slot that no model has, and is reported as unmatched.
    extra = weights[len(target.slots) :]
    return known + [
        TensorPiece(f"{name}/{key}", target.name, f"{key}?", value) for key, value in extra
    ]


def _classifier(rest: list[KerasLayer]) -> tuple[list[TensorPiece], dict[str, str], list[str]]:
    """(pieces of the classifier, ignored tensors -> reason, unmatched tensors)."""
    heads = [layer for layer in rest if _is_head(layer)]
    pieces: list[TensorPiece] = []
    ignored: dict[str, str] = {}
    left: list[str] = []
    for layer in rest:
        names = [f"{layer[0]}/{key}" for key, _ in layer[1]]
        if heads and layer is heads[-1]:
            (_, kernel), (_, bias) = layer[1]
            flat = kernel.reshape(kernel.shape[-2:])
            pieces += [TensorPiece(names[0], "logits", "kernel", flat)]
            pieces += [TensorPiece(names[1], "logits", "bias", bias)]
        elif _CLASSIFIER.fullmatch(layer[0]) or (layer in heads):
            ignored.update(dict.fromkeys(names, "of the original classifier"))
        else:
            left += names
    return pieces, ignored, left


def _is_head(layer: KerasLayer) -> bool:
    """Whether a layer is Dense or, in MobileNets, a 1x1 convolution."""
    values = [value for _, value in layer[1]]
    one_pixel = len(values) == 2 and math.prod(values[0].shape[:-2]) == 1
    return one_pixel and values[0].ndim in (2, 4)
