"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST as their authors publish them.

    sightline ingest idx ~/mnist --out data/mnist

| in the folder, gzipped or not | is |
|---|---|
| `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` | the training images and their labels |
| `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` | the test images |

Files of other names, such as EMNIST's `emnist-letters-train-images-idx3-ubyte`, are paired by what
stands before and behind `images` and `labels` (the format: yann.lecun.com/exdb/mnist).
"""

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tfx_pipeline.ingest.class_names import class_name
from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs
from tfx_pipeline.ingest.split_words import ANY_WORD, known_words, split_in_name
from tfx_pipeline.ingest.text_files import read_names

_LAYOUT = "a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, or those in .gz"
_IMAGES = re.compile(r"images?([-.]idx\d)?[-.]ubyte(\.gz)?$", re.IGNORECASE)
_UNSIGNED_BYTES = 0x08
# Its files hold each image with rows and columns exchanged.
_EMNIST = "emnist"
_MAX_BYTES = 4 * 2**30


@jobs.register("idx")
def source(request: Request, *, classes: str = "", transposed: bool = False) -> Source:
    """The images of IDX files.

    Args:
      request: a folder.
      classes: names with commas between, or a file with a name a line, in the order of the labels;
        the labels' numbers if empty.
      transposed: rows are columns, as in EMNIST.

    Raises:
      IngestError: no such files, images without labels or of another number, a label without a
        name, or a file that is no IDX or is cut off.
    """
    folder = request.folder(_LAYOUT)
    parts = [(file, _labels_file(file)) for file in sorted(folder.iterdir()) if _is_images(file)]
    if not parts:
        raise IngestError(f"{folder} has no IDX images; give {_LAYOUT}")
    _refuse_mixture(folder, [file for file, _ in parts])
    labels = [_read(file, 1) for _, file in parts]
    numbers = sorted({int(one) for found in labels for one in np.unique(found)})
    if not numbers:
        raise IngestError(f"{folder} has IDX files without an image; download them again")
    names = _names(classes)
    if names and numbers[-1] >= len(names):
        raise IngestError(
            f"{folder} has labels from {numbers[0]} to {numbers[-1]}, and classes= has "
            f"{len(names)} names; give one for each label from 0 on"
        )
    # EMNIST's letters count from 1.
    known = dict(enumerate(names)) or {number: str(number) for number in numbers}
    total = sum(map(len, labels))

    def items() -> Iterator[Item | Finding]:
        for (file, labels_file), found in zip(parts, labels, strict=True):
            images = _read(file, 3)
            if len(images) != len(found):
                raise IngestError(
                    f"{file} has {len(images)} images, {labels_file} {len(found)} labels; they "
                    "are not of one data set, or one was cut off"
                )
            if _EMNIST in file.name.lower() and not transposed:
                yield Finding("maybe_transposed", file.name, "say transposed=true to turn them")
            for place, (pixels, number) in enumerate(zip(images, found, strict=True)):
                yield Item(
                    name=f"{file.name}/{place:05d}.png",
                    class_name=known[int(number)],
                    split=_split(file),
                    data=_png(pixels.T if transposed else pixels),
                )

    return Source(
        name=folder.resolve().name,
        classes=tuple(known.values()),
        items=items(),
        description=f"{total:,} images of the IDX files of {folder.resolve().name}",
        keep_duplicates=True,
        total=total,
    )


def _is_images(file: Path) -> bool:
    return file.is_file() and bool(_IMAGES.search(file.name))


def _labels_file(images: Path) -> Path:
    """The labels of a file of images: of the same name but for what the format calls them."""
    tail = _IMAGES.search(images.name)
    stem = images.name[: tail.start()] if tail else images.name
    wanted = re.compile(rf"{re.escape(stem)}labels?([-.]idx1)?[-.]ubyte(\.gz)?", re.IGNORECASE)
    found = [one for one in sorted(images.parent.iterdir()) if wanted.fullmatch(one.name)]
    if not found:
        raise IngestError(f"{images} has no labels beside it; put {stem}labels-idx1-ubyte there")
    return found[0]


def _refuse_mixture(folder: Path, files: list[Path]) -> None:
    """Refuses files of several data sets, whose labels do not mean the same."""
    first: dict[str, Path] = {}
    for file in files:
        rest = re.sub(f"t10k|{ANY_WORD}", "", file.name, flags=re.IGNORECASE)
        first.setdefault(re.sub(r"(\.gz)?$", "", rest), file)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise IngestError(
            f"{folder} holds files of several data sets, {one.name} and {other.name}; put those of "
            "one into a folder of its own"
        )


def _split(file: Path) -> str:
    name = re.sub("t10k", "test", file.name, flags=re.IGNORECASE)
    split = split_in_name(name)
    if split is None:
        raise IngestError(f"{file} is called by no split: t10k, or one of {known_words()}")
    return split


def _names(given: str) -> tuple[str, ...]:
    if not given:
        return ()
    path = Path(given).expanduser()
    listed = read_names(path) if path.is_file() else given.split(",")
    return tuple(class_name(one) for one in listed)


def _read(file: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file: uint8 of so many dimensions."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            data = opened.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise IngestError(f"{file} cannot be read: {error}; download it again") from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)):
        raise IngestError(
            f"{file} is no IDX file of bytes in {dimensions} dimensions: it starts with "
            f"{data[:4].hex(' ')}, not 00 00 08 {dimensions:02x}"
        )
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if len(data) - head != math.prod(shape):
        turned = struct.unpack_from(f"<{dimensions}I", data, 4)
        if len(data) - head == math.prod(turned):
            raise IngestError(
                f"{file} states its sizes in little-endian order ({' x '.join(map(str, turned))}); "
                "IDX is big-endian: write it anew"
            )
        raise IngestError(
            f"{file} holds {len(data) - head:,} bytes for an array of "
            f"{' x '.join(map(str, shape))}; it was cut off: download it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Stored, not deflated: zlib versions differ in their output, and splits hang on the bytes.
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
