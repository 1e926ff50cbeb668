"""Starting from weights: `initialize` fills a model from a local file, and reports the mapping.

    report = initialize(model, init_path(config), config)
    print(*report.lines(), sep=os.linesep)

A file is read as named arrays (`files`); rules per library turn its names into ours (`vit_names`,
`resnet_names`, `efficientnet_names`, `keras_names`, `trained`); `place` fits and assigns them, or
names what is left over. `pretrained` finds the weights that installed packages hold. Nothing is
downloaded, and pickles are read as data, without running what they name.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainers.config import Config
from trainers.data.features import DatasetInfo
from trainers.keras import keras
from trainers.weights.efficientnet_names import translate_efficientnet
from trainers.weights.files import WeightsFile, read
from trainers.weights.keras_names import translate_keras
from trainers.weights.place import place
from trainers.weights.pretrained import (
    PRETRAINED,
    init_path,
    input_notes,
    origin,
    other_classes,
    with_input_of_weights,
)
from trainers.weights.report import Report, Row, WeightsError
from trainers.weights.resnet_names import translate_resnet
from trainers.weights.rules import Translation
from trainers.weights.to_applications import export_to_applications
from trainers.weights.trained import read_config, translate_trained
from trainers.weights.vit_names import translate_vit

__all__ = [
    "PRETRAINED",
    "Report",
    "Row",
    "WeightsError",
    "export_to_applications",
    "init_path",
    "initialize",
    "looks_like",
    "origin",
    "with_input_of_weights",
]


def initialize(model: keras.Model, path: Path, config: Config) -> Report:
    """Fills `model` from weights on disk; its classifier stays fresh where the classes differ.

    Args:
      model: as `trainers.models.build_model` makes it of `config`.
      path: a folder of `sightline train`, a `.safetensors`, `.npz` or PyTorch file (`.pth`, `.pt`)
        with the names of timm, torchvision, Hugging Face or the JAX papers, or a file of Keras
        (`.h5`, `.keras`); see `init_path`.
      config: of the run; `model` names the network, `data.mean` and `data.std` its input.

    Returns:
      What was done with each tensor.

    Raises:
      WeightsError: not readable, or of another architecture; names every tensor left over. Also
        where `model.init=pretrained` and `data.mean` is not what these weights expect.
    """
    if path.is_dir():
        translation = translate_trained(path, model, config)
    else:
        file = read(path)
        translation = _translate(file, model, config)
        if translation is None:
            raise WeightsError(
                f"{_described(file)}; model.name={config.model.name} starts from weights of "
                f"{_takes(config.model.name)}\n{_every_name(file)}"
            )
        facts = replace(translation.facts, notes=(*file.notes, *translation.facts.notes))
        translation = replace(translation, facts=facts)
        if config.model.init == PRETRAINED:
            translation = _packaged(translation, config)
    return place(model, translation, config, source=str(path))


def looks_like(path: Path) -> str:
    """One line on what a weights file or folder holds, e.g. `a vit of width 384, depth 12, ...`.

    Raises:
      WeightsError: it cannot be read.
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
    """Packaged weights for `config`: without their classifier where its classes are not ImageNet's.

    Raises:
      WeightsError: `data.mean` is another, which would lose accuracy without a word.
    """
    facts = translation.facts
    mean = facts.mean or ()
    if not np.allclose(config.data.mean, mean, atol=0.05):
        raise WeightsError(
            f"model.init={PRETRAINED} of {config.model.name} takes images with data.mean="
            f"{_list(mean)}, got data.mean={_list(config.data.mean)}, which a padded convolution "
            "cannot make up for; leave data.mean and data.std as they are"
        )
    notes = [*facts.notes, *input_notes(config)]
    classes = _classes(config)
    why = other_classes(classes) if classes else ""  # Without data only the count decides.
    if why:
        notes.append(f"{why}, so the classifier starts fresh")
    facts = replace(facts, notes=tuple(notes), other_classes=bool(why))
    return replace(translation, facts=facts)


def _classes(config: Config) -> tuple[str, ...]:
    """Of the data set; empty where there is none."""
    try:
        return DatasetInfo.load(Path(config.data.dir)).classes
    except (OSError, ValueError):
        return ()


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _described(file: WeightsFile) -> str:
    found = _of_library(file)
    if found is not None:
        return f"{file.path} holds {found.facts.architecture}, {found.facts.naming} names"
    names = list(file.tensors)
    shown = f"{names[0]} ... {names[-1]}" if names else "none"
    what = f"a Keras model of {len(file.layers)} layers" if file.layers else "an unknown network"
    return f"{file.path} holds {what}, {len(names)} tensors ({shown})"


def _takes(name: str) -> str:
    families = {"resnet": "a ResNet", "vit": "a ViT", "deit": "a DeiT"}
    families["efficientnet_lite"] = "an EfficientNet-Lite"
    found = [words for start, words in families.items() if name.startswith(start)]
    return f"{found[0]} or of its own kind" if found else "its own kind"


def _every_name(file: WeightsFile) -> str:
    shapes = [f"  {name} {'x'.join(map(str, v.shape))}" for name, v in file.tensors.items()]
    return "\n".join([f"tensors of the file ({len(shapes)}):", *shapes])
