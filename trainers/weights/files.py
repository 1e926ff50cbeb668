"""Reads weights files (safetensors, npz, PyTorch, Keras) as named arrays, without running code."""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open

from trainers.weights.report import WeightsError
from trainers.weights.torch_files import read_torch

#: Suffixes of PyTorch files, which are read as data; see `torch_files`.
_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, AttributeError)
_START_BYTES = 64
_STAND_INS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file; run `git lfs pull`",
    b"<!doctype": "is a web page; download the file itself",
    b"<html": "is a web page; download the file itself",
    b"<?xml": "is XML, probably an error message of a server; download the file again",
    b"\x1f\x8b": "is compressed with gzip; unpack it",
}

#: One layer of a Keras file: its name, and (name, array) of its weights in Keras' order.
KerasLayer = tuple[str, tuple[tuple[str, np.ndarray], ...]]


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
      path: path of the file.
      kind: `safetensors`, `npz`, `torch` or `keras`.
      tensors: name -> array; floats are float32.
      layers: layers of a Keras file, in its order; empty for other files.
      counted: whether layers of a Keras file have numbered class names (`conv2d_3`).
      beside: content of `config.json` and `preprocessor_config.json` in the same folder, as on the
        Hugging Face hub.
      notes: other content of the file, which is not read.
    """

    path: Path
    kind: str
    tensors: Mapping[str, np.ndarray]
    layers: tuple[KerasLayer, ...] = ()
    counted: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(path: Path) -> WeightsFile:
    """The tensors of a weights file.

    Raises:
      WeightsError: the file does not exist, cannot be read, or is a pickle with more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"model.init={path}: no such file or folder of `sightline train`")
    readers = {".safetensors": _safetensors, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
    readers[".keras"] = _keras_archive
    readers |= dict.fromkeys(_TORCH, _torch)
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise WeightsError(
            f"{path}: a weights file must end in {', '.join(sorted(readers))}, got {path.suffix!r}"
        )
    _reject_other_files(path)
    try:
        found = readers[suffix](path)
    except MemoryError as error:
        raise WeightsError(f"{path} declares arrays that do not fit in memory: {error}") from error
    except (*_UNREADABLE, SafetensorError, zipfile.BadZipFile) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} cannot be read as {suffix[1:]}: {error}; check that the download is complete"
        ) from error
    _check_values(found)
    return found


def _reject_other_files(path: Path) -> None:
    """Rejects files that a failed download leaves, such as a web page."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    for mark, message in _STAND_INS.items():
        if start.lstrip().lower().startswith(mark):
            raise WeightsError(f"{path} {message}")


def _check_values(file: WeightsFile) -> None:
    """Rejects arrays that are not numeric or not finite."""
    for name, value in file.tensors.items():
        if value.dtype.kind not in "biuf":
            raise WeightsError(
                f"{file.path}: {name} is {value.dtype}, which is not an array of numbers"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = value.size - int(np.isfinite(value).sum())
            raise WeightsError(
                f"{file.path}: {bad:,} of the {value.size:,} values of {name} are NaN or infinite; "
                "use another checkpoint"
            )


def _safetensors(path: Path) -> WeightsFile:
    with safe_open(path, "np") as file:
        tensors = {name: _plain(_tensor(path, file, name)) for name in file.keys()}  # noqa: SIM118
    return WeightsFile(path, "safetensors", tensors, beside=_beside(path))


def _tensor(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError) as error:
        kind = file.get_slice(name).get_dtype()
        raise WeightsError(
            f"{path}: tensor {name} is {kind}, which NumPy does not support; save it as float32"
        ) from error


def _torch(path: Path) -> WeightsFile:
    tensors, notes = read_torch(path)
    plain = {name: _plain(value) for name, value in tensors.items()}
    return WeightsFile(path, "torch", plain, beside=_beside(path), notes=notes)


def _npz(path: Path) -> WeightsFile:
    if not zipfile.is_zipfile(path):  # NumPy would read an array or a pickle with this suffix.
        raise zipfile.BadZipFile("it is not a zip archive")
    with np.load(path, allow_pickle=False) as file:
        tensors = {name: _plain(file[name]) for name in file.files}
    return WeightsFile(path, "npz", tensors)


def _hdf5(path: Path) -> WeightsFile:
    with h5py.File(path, "r") as file:
        return _keras(path, file)


def _keras_archive(path: Path) -> WeightsFile:
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r") as file:
        return _keras(path, file)


def _keras(path: Path, file: h5py.File) -> WeightsFile:
    """The layers of a Keras file; the newer format has numbered class names only."""
    root = file.get("model_weights", file)
    counted = "layer_names" not in root.attrs
    if not counted:
        names = [_text(name) for name in root.attrs["layer_names"]]
        layers = [(name, _named_weights(root[name])) for name in names]
    else:
        keys = [key for key in ("_layer_checkpoint_dependencies", "layers") if key in root]
        if not keys:
            raise WeightsError(f"{path} has no layers in Keras' format: {sorted(root)}")
        groups = root[keys[0]]
        layers = [(name, _counted_weights(groups[name])) for name in sorted(groups, key=_sort_key)]
    layers = [(name, weights) for name, weights in layers if weights]
    tensors = {f"{name}/{key}": value for name, found in layers for key, value in found}
    return WeightsFile(path, "keras", tensors, tuple(layers), counted)


def _named_weights(group: h5py.Group) -> tuple[tuple[str, np.ndarray], ...]:
    names = [_text(name) for name in group.attrs["weight_names"]]
    return tuple((name.split(":")[0], _plain(group[name][()])) for name in names)


def _counted_weights(group: h5py.Group) -> tuple[tuple[str, np.ndarray], ...]:
    found = group.get("vars", {})
    return tuple((str(index), _plain(found[str(index)][()])) for index in range(len(found)))


def _sort_key(name: str) -> tuple[str, int]:
    """A sort key with `conv2d_10` after `conv2d_9`."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match is not None  # The pattern matches any name.
    return match[1], int(match[2] or 0)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _plain(array: np.ndarray) -> np.ndarray:
    """Floats as float32; other dtypes unchanged."""
    array = np.asarray(array)
    # TensorFlow registers bfloat16 in NumPy with kind "V".
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if floats else array


def _beside(path: Path) -> dict[str, Any]:
    """The merged content of `config.json` and `preprocessor_config.json` in the same folder."""
    facts: dict[str, Any] = {}
    for name in ("config.json", "preprocessor_config.json"):
        try:
            found = json.loads((path.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            facts.update(found)
    return facts
