"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST in their published format.

    sightline ingest idx ~/mnist --out data/mnist

| in the folder, gzipped or not | is |
|---|---|
| `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` | the training images and their labels |
| `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` | the test images |

Files with other names, such as EMNIST's `emnist-letters-train-images-idx3-ubyte`, are paired by the
text before and after `images` and `labels` (format: yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfx_pipeline.ingest.class_names import class_name
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.images import encode_png
from tfx_pipeline.ingest.source import IngestError, Item, Request, Source, jobs
from tfx_pipeline.ingest.split_words import ANY_WORD, known_words, split_in_name
from tfx_pipeline.ingest.text_files import read_names

_LAYOUT = "a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, or those in .gz"
_IMAGES = re.compile(r"images?([-.]idx\d)?[-.]ubyte(\.gz)?$", re.IGNORECASE)
_UNSIGNED_BYTES = 0x08
# Its files store images with rows and columns exchanged.
_EMNIST = "emnist"
_MAX_BYTES = 4 * 2**30


@jobs.register("idx")
def source(request: Request, *, classes: str = "", transposed: bool = False) -> Source:
    """The images of IDX files.

    Args:
      request: a folder.
      classes: comma-separated names, or a file with one name per line, in order of the labels; by
        default the numbers of the labels.
      transposed: exchange rows and columns, as needed for EMNIST.

    Raises:
      IngestError: no such files, missing labels or a different number of labels, a label without a
        name, or a file that is not IDX or is truncated.
    """
    folder = request.folder(_LAYOUT)
    parts = [(file, _labels_file(file)) for file in sorted(folder.iterdir()) if _is_images(file)]
    if not parts:
        raise IngestError(f"{folder} has no IDX images; expected {_LAYOUT}")
    _refuse_mixture(folder, [file for file, _ in parts])
    labels = [_read(file, 1) for _, file in parts]
    numbers = sorted({int(one) for found in labels for one in np.unique(found)})
    if not numbers:
        raise IngestError(f"{folder} has IDX files without an image; download them again")
    names = _names(classes)
    if names and numbers[-1] >= len(names):
        raise IngestError(
            f"{folder} has labels from {numbers[0]} to {numbers[-1]}, but classes= has "
            f"{len(names)} names; it needs one per label, from 0"
        )
    # The labels of EMNIST's letters start at 1.
    known = dict(enumerate(names)) or {number: str(number) for number in numbers}
    total = sum(map(len, labels))

    def items() -> Iterator[Item | IngestFinding]:
        for (file, labels_file), found in zip(parts, labels, strict=True):
            images = _read(file, 3)
            if len(images) != len(found):
                raise IngestError(
                    f"{file} has {len(images)} images, but {labels_file} has {len(found)} labels; "
                    "the files are from different data sets, or one is truncated: download them "
                    "again"
                )
            if _EMNIST in file.name.lower() and not transposed:
                yield IngestFinding(
                    "maybe_transposed", file.name, "set transposed=true to exchange them"
                )
            for position, (pixels, number) in enumerate(zip(images, found, strict=True)):
                yield Item(
                    name=f"{file.name}/{position:05d}.png",
                    class_name=known[int(number)],
                    split=_split(file),
                    data=encode_png(pixels.T if transposed else pixels, compress=False),
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
    """The file of labels for a file of images, by its name."""
    tail = _IMAGES.search(images.name)
    stem = images.name[: tail.start()] if tail else images.name
    wanted = re.compile(rf"{re.escape(stem)}labels?([-.]idx1)?[-.]ubyte(\.gz)?", re.IGNORECASE)
    found = [one for one in sorted(images.parent.iterdir()) if wanted.fullmatch(one.name)]
    if not found:
        raise IngestError(f"{images} has no labels; add {stem}labels-idx1-ubyte beside it")
    return found[0]


def _refuse_mixture(folder: Path, files: list[Path]) -> None:
    """Rejects files of several data sets, whose labels have different meanings."""
    first: dict[str, Path] = {}
    for file in files:
        rest = re.sub(f"t10k|{ANY_WORD}", "", file.name, flags=re.IGNORECASE)
        first.setdefault(re.sub(r"(\.gz)?$", "", rest), file)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise IngestError(
            f"{folder} has files of several data sets, {one.name} and {other.name}; put the files "
            "of each into a separate folder"
        )


def _split(file: Path) -> str:
    name = re.sub("t10k", "test", file.name, flags=re.IGNORECASE)
    split = split_in_name(name)
    if split is None:
        raise IngestError(f"{file} has no name of a split in it: t10k, or one of {known_words()}")
    return split


def _names(given: str) -> tuple[str, ...]:
    if not given:
        return ()
    path = Path(given).expanduser()
    listed = read_names(path) if path.is_file() else given.split(",")
    return tuple(class_name(one) for one in listed)


def _read(file: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an IDX file with the given number of dimensions."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as opened:
            data = opened.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise IngestError(f"{file} cannot be read: {error}; download it again") from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)):
        raise IngestError(
            f"{file} is not an IDX file of bytes with {dimensions} dimensions: it starts with "
            f"{data[:4].hex(' ')}, not 00 00 08 {dimensions:02x}"
        )
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if len(data) - head != math.prod(shape):
        turned = struct.unpack_from(f"<{dimensions}I", data, 4)
        if len(data) - head == math.prod(turned):
            raise IngestError(
                f"{file} has its sizes in little-endian order ({' x '.join(map(str, turned))}); "
                "IDX is big-endian: write the file again"
            )
        raise IngestError(
            f"{file} has {len(data) - head:,} bytes for an array of "
            f"{' x '.join(map(str, shape))}; it is truncated: download it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
