"""Serialized requests, built once before the run."""

import base64
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.bundle import INPUT_BYTES
from serving.benchmark.loadtest.plan import LoadError, LoadTarget
from serving.protocol import wire
from serving.protocol.images import encode_png

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


@dataclass(frozen=True)
class Requests:
    """Request bodies for one target.

    Attributes:
      bodies: JSON for REST, a serialized PredictRequest for gRPC; at least one.
      rows: images or examples per body; throughput counts requests, not rows.
      source: origin of the bodies, for the report.

    Raises:
      LoadError: there is no body.
    """

    bodies: tuple[bytes, ...]
    rows: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        if not self.bodies:
            raise LoadError(f"no request to send from {self.source or 'nothing'}")


def from_folder(folder: Path, target: LoadTarget, *, rows: int = 1) -> Requests:
    """One request for every `rows` images of a folder and its subfolders, or for one image.

    Raises:
      LoadError: the folder does not exist or has no image.
    """
    if not folder.exists():
        raise LoadError(f"{folder} does not exist; give a folder of images or one image")
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    files = [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if not files:
        raise LoadError(f"{folder} has no image; looked for {', '.join(_SUFFIXES)}")
    images = [file.read_bytes() for file in files]
    return from_images(images, target, rows=rows, source=str(folder))


def from_images(
    images: Sequence[bytes], target: LoadTarget, *, rows: int = 1, source: str = "given images"
) -> Requests:
    """One request for every `rows` encoded images; the last is filled up with the first images.

    Raises:
      LoadError: there is no image, or `rows` is below 1.
    """
    if not images or rows < 1:
        raise LoadError(f"needs an image and `rows` of at least 1, got {len(images)} and {rows}")
    count = -(-len(images) // rows)
    groups = [
        [images[(start * rows + i) % len(images)] for i in range(rows)] for start in range(count)
    ]
    make = _grpc_images if target.is_grpc else _rest_images
    return Requests(tuple(make(group, target) for group in groups), rows, source)


def generated(target: LoadTarget, *, rows: int = 1, size: int = 224) -> Requests:
    """Sixteen generated images, for a first test without image files."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(16):
        corners = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        images.append(encode_png(np.kron(corners, np.ones((size // 4, size // 4, 1), np.uint8))))
    source = f"16 generated {size}x{size} PNGs; --images DIR sends real ones"
    return from_images(images, target, rows=rows, source=source)


def from_file(file: Path, target: LoadTarget) -> Requests:
    """Requests of a file: one JSON body, one a line (`.jsonl`), or the arrays of an `.npz`.

    Raises:
      LoadError: the file is missing or malformed; the message has the file and a line of JSON.
    """
    if not file.is_file():
        raise LoadError(f"{file} does not exist; give a .json, .jsonl or .npz file")
    suffix = file.suffix.lower()
    if suffix == ".npz":
        return _from_arrays(file, target)
    if suffix not in (".json", ".jsonl"):
        raise LoadError(
            f"{file}: requests must be .json, .jsonl or .npz, got {suffix or 'no suffix'}"
        )
    if target.is_grpc:
        raise LoadError(f"{file}: JSON has no dtypes; give the arrays as .npz for gRPC")
    content = _read_text(file)
    # Not splitlines, which also splits at U+2028 and others that a JSON string may contain.
    lines = [content] if suffix == ".json" else content.split("\n")
    bodies = tuple(
        _body(line, target, file, number) for number, line in enumerate(lines, 1) if line.strip()
    )
    return Requests(bodies, source=str(file))


def _read_text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LoadError(f"{file}, line {line}: not UTF-8 text ({error.reason})") from error


def _body(text: str, target: LoadTarget, file: Path, line: int) -> bytes:
    document = _parse(text, file, line)
    named = document.get("signature_name", target.signature)
    if target.signature and named != target.signature:
        raise LoadError(
            f"{file}, line {line}: the request is for the signature {named!r}, and --signature is "
            f"{target.signature!r}; remove one of them"
        )
    return _rest_body(target, document)


def _parse(text: str, file: Path, line: int) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise LoadError(f"{file}, line {at}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise LoadError(f"{file}, line {line}: nested too deeply to be a request") from error
    known = ("instances", "inputs", "examples")
    if not isinstance(document, dict) or not any(key in document for key in known):
        raise LoadError(
            f"{file}, line {line}: a request is an object with one of {', '.join(known)}; got "
            f"{text.strip()[:60]}"
        )
    return document


def _from_arrays(file: Path, target: LoadTarget) -> Requests:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise LoadError(f"{file}: not an .npz of plain arrays: {error}") from error
    if not arrays:
        raise LoadError(f"{file}: has no array; save each input under its name")
    sizes = [array.shape[0] for array in arrays.values() if array.ndim]
    rows = sizes[0] if sizes else 1
    # String tensors have bytes, which NumPy's text arrays are not.
    arrays = {
        name: np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        for name, array in arrays.items()
    }
    try:
        if target.is_grpc:
            body = _predict_request(arrays, target)
        else:
            inputs = {name: _to_json(array) for name, array in arrays.items()}
            body = _rest_body(target, {"inputs": inputs})
    except (ValueError, TypeError) as error:
        raise LoadError(f"{file}: {error}") from error
    return Requests((body,), rows, str(file))


def _to_json(array: np.ndarray) -> Any:
    if array.dtype.kind != "S":
        return array.tolist()
    coded = [{"b64": base64.b64encode(value).decode()} for value in array.ravel().tolist()]
    nested = np.empty(array.size, object)
    nested[:] = coded
    return nested.reshape(array.shape).tolist()


def _rest_images(images: Sequence[bytes], target: LoadTarget) -> bytes:
    coded = [{"b64": base64.b64encode(image).decode()} for image in images]
    return _rest_body(target, {"instances": coded})


def _rest_body(target: LoadTarget, document: dict[str, Any]) -> bytes:
    named = {"signature_name": target.signature} if target.signature else {}
    return json.dumps({**named, **document}).encode()


def _grpc_images(images: Sequence[bytes], target: LoadTarget) -> bytes:
    array = np.empty(len(images), object)
    array[:] = list(images)
    return _predict_request({INPUT_BYTES: array}, target)


def _predict_request(inputs: dict[str, np.ndarray], target: LoadTarget) -> bytes:
    request = wire.model_request(
        "PredictRequest",
        target.model,
        signature=target.signature,
        version=target.version,
        label=target.label or None,
    )
    wire.fill_inputs(request, inputs)
    return request.SerializeToString()
