"""Reads weights saved by PyTorch (`.pth`, `.pt`, ...) without PyTorch and without running code.

PyTorch has two formats, which both describe tensors in a pickle. The zip format, since 1.6, has one
member per storage; the legacy format has the bytes after the pickle. The allowed names in pickles
are listed here, see `trainers.weights.pickle_machine`.
"""

import contextlib
import io
import math
import mmap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainers.weights.pickle_machine import Name, PickleError, Rules, load_data
from trainers.weights.report import WeightsError

# torch/serialization.py, MAGIC_NUMBER and PROTOCOL_VERSION.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_BFLOAT16 = "bfloat16"
#: Storage class of `torch` -> dtype on disk.
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_ORDERED_DICT = "collections.OrderedDict"
_REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_SIZE = "torch.Size"
_NAMES = frozenset(
    {_ORDERED_DICT, *_REBUILD, _PARAMETER, _SIZE, *(f"torch.{name}" for name in _STORAGES)}
)
_MOST_AXES = 32
#: Tensors may share bytes (tied weights), but only up to this multiple of the stored elements.
_MOST_SHARING = 4
#: Keys of the weights in checkpoints of training scripts, the most common first.
_NESTS = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema", "teacher", "student"),
)
_CONVERT = (
    "if you trust the file and have PyTorch, save only the weights:\n"
    '  python -c "import sys, torch; '
    "w = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "w = w.state_dict() if hasattr(w, 'state_dict') else w; "
    'torch.save(w, sys.argv[2])" IN OUT.pth'
)


@dataclass(frozen=True)
class _Storage:
    """The bytes of tensors.

    Attributes:
      key: name in the file.
      dtype: NumPy dtype, or `bfloat16`.
      count: number of elements.
    """

    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * (2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class _View:
    """A tensor whose bytes are not read yet: a view of `storage`, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Name -> tensor of a PyTorch file, and notes about its other content.

    Args:
      path: a state dict, or a checkpoint with a state dict at `state_dict`, `model` or the like.

    Returns:
      Arrays with the dtypes of the file (bfloat16 as float32), and one line per skipped item.

    Raises:
      WeightsError: the file contains code, is damaged or truncated, has tensors outside of their
        storage, or has no state dict.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            if not file.read(1):
                raise WeightsError(f"{path} is empty")
            content = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if content[:4] == b"PK\x03\x04":
                archive = stack.enter_context(zipfile.ZipFile(path))
                top, fetch = _opened_zip(path, archive, len(content))
            else:
                top, fetch = _opened_legacy(path, content)
            views, notes = _state(path, top)
            return _arrays(views, fetch, len(content)), notes
    except PickleError as error:
        message = f"{path} is rejected, and no code in it was run: {error}; {_CONVERT}"
        raise WeightsError(message) from error


Fetch = Callable[[_Storage], bytes]


def _opened_zip(path: Path, archive: zipfile.ZipFile, size: int) -> tuple[object, Fetch]:
    """The object in the file, and a function that reads the bytes of a storage."""
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise WeightsError(
            f"{path} is a zip file without PyTorch's NAME/data.pkl; it contains "
            f"{', '.join(archive.namelist()[:3]) or 'nothing'}"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.namelist():
        raise WeightsError(f"{path} is a TorchScript program; use the weights of its model instead")

    def member(name: str) -> bytes:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise PickleError(f"its member {name} is compressed, which PyTorch never does")
        return archive.read(info)

    if f"{prefix}byteorder" in archive.namelist() and member(f"{prefix}byteorder") != b"little":
        raise WeightsError(f"{path} was written on a big-endian machine; {_CONVERT}")

    def fetch(storage: _Storage) -> bytes:
        try:
            found = member(f"{prefix}data/{storage.key}")
        except KeyError:
            raise PickleError(f"storage {storage.key!r} is not in the file") from None
        if len(found) != storage.nbytes:
            raise PickleError(
                f"storage {storage.key!r} has {len(found)} bytes, not {storage.nbytes}"
            )
        return found

    return load_data(io.BytesIO(member(pickles[0])), _rules()), fetch


def _opened_legacy(path: Path, content: mmap.mmap) -> tuple[object, Fetch]:
    """Like `_opened_zip`, for the legacy format."""
    if content[257:262] == b"ustar":
        raise WeightsError(
            f"{path} is a tar archive: unpack it, or if PyTorch before 0.2 wrote it, {_CONVERT}"
        )
    plain = Rules(frozenset(), _no_call, _no_id)
    if load_data(content, plain) != _MAGIC or load_data(content, plain) != _PROTOCOL:
        raise WeightsError(f"{path} is a pickle, but not one of PyTorch; {_CONVERT}")
    system = load_data(content, plain)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError(f"{path} was written on a big-endian machine; {_CONVERT}")
    storages: dict[str, _Storage] = {}
    top = load_data(content, _rules(storages))
    keys = load_data(content, plain)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is invalid")
    offsets = dict(_legacy_offsets(content, keys, storages))

    def fetch(storage: _Storage) -> bytes:
        if storage.key not in offsets:
            raise PickleError(f"storage {storage.key!r} is not in the file")
        start = offsets[storage.key]
        return content[start : start + storage.nbytes]

    return top, fetch


def _legacy_offsets(
    content: mmap.mmap, keys: list[str], storages: Mapping[str, _Storage]
) -> Iterator[tuple[str, int]]:
    """Storage -> offset of its bytes, which follow the number of elements (8 bytes)."""
    at = content.tell()
    for key in keys:
        if key not in storages:
            raise PickleError(f"no tensor uses storage {key!r}, so its size is unknown")
        count = int.from_bytes(content[at : at + 8], "little", signed=True)
        end = at + 8 + storages[key].nbytes
        if end > len(content):
            raise PickleError(f"truncated: it ends {end - len(content)} bytes too soon")
        if count != storages[key].count:
            raise PickleError(
                f"storage {key!r} has {count} elements, but its tensors need {storages[key].count}"
            )
        yield key, at + 8
        at = end


def _rules(storages: dict[str, _Storage] | None = None) -> Rules:
    """The rules for a pickle of tensors; storages that it names are added to `storages`."""
    known: dict[str, _Storage] = {} if storages is None else storages

    def look_up(pid: object) -> _Storage:
        storage = _storage(pid)
        if known.setdefault(storage.key, storage) != storage:
            raise PickleError(f"storage {storage.key!r} is described in two ways")
        return storage

    return Rules(_NAMES, _call, look_up, lambda value: isinstance(value, (dict, _View)))


def _no_call(name: str, arguments: tuple[Any, ...]) -> object:
    raise PickleError(f"a call of {name} with {len(arguments)} arguments")


def _no_id(pid: object) -> object:
    raise PickleError(f"a persistent id of type {type(pid).__name__}")


def _storage(pid: object) -> _Storage:
    """The storage of `('storage', torch.FloatStorage, key, device, elements)`, maybe with None."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(pid[5:]):
        raise PickleError("a persistent id that is not a storage")
    _, kind, key, _, count = pid[:5]
    dtype = _STORAGES.get(kind.name, "") if isinstance(kind, Name) else ""
    if not dtype or type(key) is not str or type(count) is not int or count < 0:
        raise PickleError(f"a storage of {kind}, which is not supported")
    return _Storage(key, dtype, count)


def _call(name: str, arguments: tuple[Any, ...]) -> object:
    if name == _ORDERED_DICT and len(arguments) <= 1:
        return _pairs(arguments[0] if arguments else [])
    if name in _REBUILD and 4 <= len(arguments) <= 7:
        return _view(*arguments[:4])
    if name == _PARAMETER and arguments and isinstance(arguments[0], _View):
        return arguments[0]
    if name == _SIZE and len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    raise PickleError(f"a call of {name} with {len(arguments)} arguments of the wrong kind")


def _pairs(found: object) -> dict[str, object]:
    named: dict[str, object] = {}
    for pair in found if isinstance(found, list) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PickleError("an OrderedDict without pairs of names and values")
        named[pair[0]] = pair[1]
    return named


def _view(storage: object, offset: object, shape: object, strides: object) -> _View:
    sizes, steps = _whole_numbers(shape), _whole_numbers(strides)
    (start,) = _whole_numbers((offset,))
    if not isinstance(storage, _Storage) or len(sizes) != len(steps) or len(sizes) > _MOST_AXES:
        raise PickleError("a tensor whose storage, shape and strides do not fit together")
    if 0 not in sizes:
        last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        if last >= storage.count or math.prod(sizes) > storage.count:
            raise PickleError(
                f"a tensor of shape {sizes} that reaches outside of its storage of "
                f"{storage.count} elements"
            )
    return _View(storage, start, sizes, steps)


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and v >= 0 for v in values):
        raise PickleError("a tensor whose offset, shape or strides are not integers")
    return values


def _state(path: Path, top: object) -> tuple[dict[str, _View], tuple[str, ...]]:
    """Name -> tensor of the state dict in `top`, and notes about skipped items."""
    notes = []
    for _ in range(len(_NESTS)):
        if not isinstance(top, dict):
            kind = "a tensor" if isinstance(top, _View) else f"a {type(top).__name__}"
            raise WeightsError(f"{path} holds {kind}, not a state dict; {_CONVERT}")
        nest = next((key for key in _NESTS if isinstance(top.get(key), dict)), None)
        if nest is None:
            break
        others = [str(key) for key in top if key != nest]
        notes += [f"read from {nest!r}; skipped: {_listed(others)}"] if others else []
        top = top[nest]
    found = top if isinstance(top, dict) else {}
    views = {key: value for key, value in found.items() if isinstance(value, _View)}
    others = [str(key) for key in found if key not in views]
    if not views or not all(isinstance(key, str) for key in views):
        raise WeightsError(f"{path} has no named tensors, only {_listed(others)}")
    notes += [f"skipped, as they are not tensors: {_listed(others)}"] if others else []
    return views, tuple(notes)


def _listed(names: list[str]) -> str:
    shown = [name[:60] for name in names[:10]]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more]) or "nothing"


def _arrays(views: Mapping[str, _View], fetch: Fetch, size: int) -> dict[str, np.ndarray]:
    """Name -> array; each storage is read once."""
    storages = {view.storage.key: view.storage for view in views.values()}
    stored = sum(storage.nbytes for storage in storages.values())
    if stored > size:
        raise PickleError(f"its storages have {stored} bytes, but the file only {size}")
    elements = sum(math.prod(view.shape) for view in views.values())
    if elements > _MOST_SHARING * sum(storage.count for storage in storages.values()):
        raise PickleError(f"tensors of {elements} elements share far fewer stored ones")
    values = {key: _values(storage, fetch(storage)) for key, storage in storages.items()}
    return {name: _array(view, values[view.storage.key]) for name, view in views.items()}


def _values(storage: _Storage, content: bytes) -> np.ndarray:
    if storage.dtype == _BFLOAT16:
        # bfloat16 is the upper half of a float32.
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    if storage.dtype == "?":
        return np.frombuffer(content, np.uint8) != 0
    return np.frombuffer(content, storage.dtype)


def _array(view: _View, values: np.ndarray) -> np.ndarray:
    if 0 in view.shape:
        return np.zeros(view.shape, values.dtype)
    strides = [step * values.itemsize for step in view.strides]
    strided = np.lib.stride_tricks.as_strided(
        values[view.offset :], view.shape, strides, writeable=False
    )
    return np.array(strided, values.dtype.newbyteorder("="))
