"""Loads pretrained weights: `initialize` fills a model from a local file and reports the mapping.

    report = initialize(model, init_path(config), config)
    print(*report.lines(), sep=os.linesep)

A file is read as named arrays (`files`); rules per library translate its names to ours
(`vit_names`, `resnet_names`, `efficientnet_names`, `keras_names`, `trained`); `assign` assigns
them, or lists the tensors that do not match. `pretrained` finds weights in installed packages.
Nothing is downloaded, and pickles are read as data, without running code.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainers.config import Config
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.weights.assign import assign
from trainers.weights.efficientnet_names import translate_efficientnet
from trainers.weights.files import WeightsFile, read
from trainers.weights.keras_names import translate_keras
from trainers.weights.pretrained import (
    PRETRAINED,
    init_path,
    input_notes,
    origin,
    other_classes,
    with_input_of_weights,
)
from trainers.weights.report import WeightsError, WeightsReport, WeightsRow, number_list
from trainers.weights.resnet_names import translate_resnet
from trainers.weights.rules import Translation
from trainers.weights.to_applications import export_to_applications
from trainers.weights.trained import read_config, translate_trained
from trainers.weights.vit_names import translate_vit

__all__ = [
    "PRETRAINED",
    "WeightsError",
    "WeightsReport",
    "WeightsRow",
    "export_to_applications",
    "init_path",
    "initialize",
    "looks_like",
    "origin",
    "with_input_of_weights",
]


def initialize(model: keras.Model, path: Path, config: Config) -> WeightsReport:
    """Fills `model` from weights on disk; the classifier stays random if the classes differ.

    Args:
      model: from `trainers.models.build_model` with `config`.
      path: a folder of `sightline train`, a `.safetensors`, `.npz` or PyTorch file (`.pth`, `.pt`)
        with the names of timm, torchvision, Hugging Face or the JAX papers, or a Keras file (`.h5`,
        `.keras`); see `init_path`.
      config: configuration of the run; `model` decides the network, `data.mean` and `data.std` its
        input.

    Returns:
      The mapping of each tensor.

    Raises:
      WeightsError: the file cannot be read, or has another architecture; lists all unmatched
        tensors. Also if `data.mean` differs from the mean of packaged weights.
    """
    if path.is_dir():
        translation = translate_trained(path, model, config)
    else:
        file = read(path)
        translation = _translate(file, model, config)
        if translation is None:
            raise WeightsError(
                f"{_described(file)}; model.name={config.model.name} needs weights of "
                f"{_accepted(config.model.name)}\n{_every_name(file)}"
            )
        facts = replace(translation.facts, notes=(*file.notes, *translation.facts.notes))
        translation = replace(translation, facts=facts)
        if config.model.init == PRETRAINED:
            translation = _packaged(translation, config)
    return assign(model, translation, config, source=str(path))


def looks_like(path: Path) -> str:
    """One line about the content of a weights file or folder, e.g. `a vit of width 384, ...`.

    Raises:
      WeightsError: the file cannot be read.
    """
    if path.is_dir():
        config = read_config(path)
        return f"{path} holds {config.model.name}, trained by Sightline as {config.name!r}"
    return _described(read(path))


def _translate(file: WeightsFile, model: keras.Model, config: Config) -> Translation | None:
    if file.kind == "keras":
        return translate_keras(file, model, config)
    return _of_library(file)


def _of_library(file: WeightsFile) -> Translation | None:
    return translate_vit(file) or translate_resnet(file) or translate_efficientnet(file)


def _packaged(translation: Translation, config: Config) -> Translation:
    """Packaged weights for `config`, without their classifier if its classes are not ImageNet's.

    Raises:
      WeightsError: `data.mean` differs, which would silently reduce the accuracy.
    """
    facts = translation.facts
    mean = facts.mean or ()
    if not np.allclose(config.data.mean, mean, atol=0.05):
        raise WeightsError(
            f"model.init={PRETRAINED} of {config.model.name} needs data.mean={number_list(mean)}, "
            f"got data.mean={number_list(config.data.mean)}, which a padded convolution cannot "
            "compensate; remove data.mean and data.std"
        )
    notes = [*facts.notes, *input_notes(config)]
    classes = _classes(config)
    why = (
        other_classes(classes) if classes else ""
    )  # Without data, only the number of classes decides.
    if why:
        notes.append(f"{why}, so the classifier has random weights")
    facts = replace(facts, notes=tuple(notes), other_classes=bool(why))
    return replace(translation, facts=facts)


def _classes(config: Config) -> tuple[str, ...]:
    """The classes of the data set; empty if there is none."""
    try:
        return DatasetInfo.load(Path(config.data.dir)).classes
    except (OSError, ValueError):
        return ()


def _described(file: WeightsFile) -> str:
    found = _of_library(file)
    if found is not None:
        return f"{file.path} holds {found.facts.architecture}, {found.facts.naming} names"
    names = list(file.tensors)
    shown = f"{names[0]} ... {names[-1]}" if names else "none"
    what = f"a Keras model of {len(file.layers)} layers" if file.layers else "an unknown network"
    return f"{file.path} holds {what}, {len(names)} tensors ({shown})"


def _accepted(name: str) -> str:
    families = {"resnet": "a ResNet", "vit": "a ViT", "deit": "a DeiT"}
    families["efficientnet_lite"] = "an EfficientNet-Lite"
    found = [words for start, words in families.items() if name.startswith(start)]
    return f"{found[0]} or of the same model" if found else "the same model"


def _every_name(file: WeightsFile) -> str:
    shapes = [f"  {name} {'x'.join(map(str, v.shape))}" for name, v in file.tensors.items()]
    return "\n".join([f"tensors of the file ({len(shapes)}):", *shapes])
