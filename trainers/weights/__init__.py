"""Starting from weights: `initialize` fills a model from a local file, and reports the mapping.

    report = initialize(model, Path(config.model.init), config)
    print(*report.lines(), sep=os.linesep)

A file is read as named arrays (`files`); rules per library turn its names into ours (`vit_names`,
`resnet_names`, `keras_names`, `trained`); `place` fits and assigns them, or names what is left
over. Nothing is downloaded and nothing is unpickled.
"""

from pathlib import Path

from trainers.config import Config
from trainers.keras import keras
from trainers.weights.files import WeightsFile, read
from trainers.weights.keras_names import translate_keras
from trainers.weights.place import place
from trainers.weights.report import Report, Row, WeightsError
from trainers.weights.resnet_names import translate_resnet
from trainers.weights.rules import Translation
from trainers.weights.to_applications import export_to_applications
from trainers.weights.trained import read_config, translate_trained
from trainers.weights.vit_names import translate_vit

__all__ = [
    "Report",
    "Row",
    "WeightsError",
    "export_to_applications",
    "initialize",
    "looks_like",
]


def initialize(model: keras.Model, path: Path, config: Config) -> Report:
    """Fills `model` from weights on disk; its classifier stays fresh where the classes differ.

    Args:
      model: as `trainers.models.build_model` makes it of `config`.
      path: a folder of `sightline train`, a `.safetensors` or `.npz` file with the names of timm,
        torchvision, Hugging Face or the JAX papers, or a file of Keras (`.h5`, `.keras`).
      config: of the run; `model` names the network, `data.mean` and `data.std` its input.

    Returns:
      What was done with each tensor.

    Raises:
      WeightsError: not readable, or of another architecture; names every tensor left over.
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
    return translate_vit(file) or translate_resnet(file)


def _described(file: WeightsFile) -> str:
    found = translate_vit(file) or translate_resnet(file)
    if found is not None:
        return f"{file.path} holds {found.facts.architecture}, {found.facts.naming} names"
    names = list(file.tensors)
    shown = f"{names[0]} ... {names[-1]}" if names else "none"
    what = f"a Keras model of {len(file.layers)} layers" if file.layers else "an unknown network"
    return f"{file.path} holds {what}, {len(names)} tensors ({shown})"


def _takes(name: str) -> str:
    families = {"resnet": "a ResNet", "vit": "a ViT", "deit": "a DeiT"}
    found = [words for start, words in families.items() if name.startswith(start)]
    return f"{found[0]} or of its own kind" if found else "its own kind"


def _every_name(file: WeightsFile) -> str:
    shapes = [f"  {name} {'x'.join(map(str, v.shape))}" for name, v in file.tensors.items()]
    return "\n".join([f"tensors of the file ({len(shapes)}):", *shapes])
