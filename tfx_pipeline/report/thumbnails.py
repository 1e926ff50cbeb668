"""Thumbnails of a split's images as data URIs, within a budget of bytes.

    thumbnails = Thumbnails(index_images(Path("data/pets"), "test"))
    thumbnails.source(image_id)  # "data:image/jpeg;base64,..." or ""

The records are read once for the index. A thumbnail reads only its own record.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from core.image_header import ImageError
from trainers.data.features import FILENAME, ID, IMAGE, DatasetError, DatasetInfo

if TYPE_CHECKING:
    from PIL import Image

#: Longest side, in pixels; smaller images keep their size.
SIDE = 112
#: Bytes of all data URIs of one page.
BUDGET = 2_000_000

_QUALITY = 75
# A TFRecord has 12 bytes before its data and 4 after.
_AROUND = 16
_REASONS = {
    "budget": "beyond the size budget of the page",
    "missing": "not in the records",
    "broken": "cannot be decoded",
}


@dataclass(frozen=True)
class ImageIndex:
    """The images of one or more splits.

    Attributes:
      files: image id -> file name; without images that have none.
      records: image id -> shard and byte offset of its record.
      problem: why images are missing, as a sentence; empty if all records were read.
    """

    files: dict[str, str] = field(default_factory=dict)
    records: dict[str, tuple[Path, int]] = field(default_factory=dict)
    problem: str = ""


def index_images(data: Path | None, split: str) -> ImageIndex:
    """File names and positions of the images of a split; reads every record once.

    Args:
      data: folder of records; None if they are not known.
      split: of the records, or several joined by commas.
    """
    if data is None:
        return ImageIndex(problem="The records are not known: give their folder with --data.")
    try:
        info = DatasetInfo.load(data)
    except DatasetError as error:  # The records of a configuration may have been moved or deleted.
        return ImageIndex(problem=f"The records cannot be read: {error}.")
    splits = [part.strip() for part in split.split(",")]
    unknown = [name for name in splits if name not in info.splits]
    if unknown:
        known = ", ".join(info.splits)
        return ImageIndex(
            problem=f"The records in {data} have no split {unknown[0]!r} (known: {known})."
        )
    return _index([(data, name, info) for name in splits])


def _index(splits: Sequence[tuple[Path, str, DatasetInfo]]) -> ImageIndex:
    import tensorflow as tf

    from trainers.data.reader import fingerprint
    from trainers.data.records_check import shard_files

    files: dict[str, str] = {}
    records: dict[str, tuple[Path, int]] = {}
    problems = []
    shards = [(file, of[2].foreign) for of in splits for file in shard_files(*of)]
    for file, foreign in shards:
        offset = 0
        try:
            for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
                feature = tf.train.Example.FromString(bytes(record)).features.feature
                values = {key: feature[key].bytes_list.value[:1] for key in (FILENAME, ID, IMAGE)}
                if values[ID]:
                    image_id = values[ID][0].decode()
                elif foreign and values[IMAGE]:
                    image_id = fingerprint(tf.constant(values[IMAGE]))[0].numpy().decode()
                else:
                    image_id = ""
                if image_id:
                    records.setdefault(image_id, (Path(file), offset))
                    if values[FILENAME]:
                        files.setdefault(image_id, values[FILENAME][0].decode())
                offset += len(record) + _AROUND
        except tf.errors.OpError:
            problems.append(f"{Path(file).name} cannot be read after byte {offset:,}.")
    return ImageIndex(files, records, " ".join(problems))


class Thumbnails:
    """Thumbnails on demand; counts those that a page shows and those that it leaves out.

    Args:
      images: of the split.
      budget: bytes of all data URIs, at least 0.
      side: longest side, in pixels.
    """

    def __init__(self, images: ImageIndex, *, budget: int = BUDGET, side: int = SIDE) -> None:
        self.images = images
        self.used = 0
        self._budget, self._side = budget, side
        self._sources: dict[str, str] = {}
        self._left_out: dict[str, str] = {}

    def source(self, image_id: str) -> str:
        """The data URI of a small JPEG; empty if the image is left out, see `reason`.

        Each use counts in the budget, because HTML repeats the data.

        Args:
          image_id: as in the predictions.
        """
        if image_id not in self._sources and self._left_out.get(image_id) in (None, "budget"):
            self._load(image_id)
        source = self._sources.get(image_id, "")
        if source and self.used + len(source) > self._budget:
            self._left_out[image_id] = "budget"
            return ""
        self.used += len(source)
        return source

    def reason(self, image_id: str) -> str:
        """Why `source` returned nothing for this image; empty if it did not."""
        return _REASONS.get(self._left_out.get(image_id, ""), "")

    def note(self) -> str:
        """A sentence on the images that are left out, and why; empty if there are none."""
        counts = Counter(self._left_out.values())
        if self.images.problem and counts:
            return f"The page has no thumbnails of {counts.total():,} images. {self.images.problem}"
        parts = [f"{counts[kind]:,} {text}" for kind, text in _REASONS.items() if counts[kind]]
        return f"Images without a thumbnail: {'; '.join(parts)}." if parts else ""

    def _load(self, image_id: str) -> None:
        if image_id not in self.images.records:
            self._left_out[image_id] = "missing"
        elif self.used < self._budget:
            data = self._encode(*self.images.records[image_id])
            if data is None:
                self._left_out[image_id] = "broken"
            else:
                text = base64.b64encode(data).decode()
                self._sources[image_id] = f"data:image/jpeg;base64,{text}"
        else:
            self._left_out[image_id] = "budget"

    def _encode(self, shard: Path, offset: int) -> bytes | None:
        from google.protobuf.message import DecodeError
        from PIL import Image

        from components.data_validation.image_anomalies import read_record
        from trainers.data.decode import load_image

        try:
            feature = read_record(shard, offset).features.feature
            encoded = feature[IMAGE].bytes_list.value[:1]
            image = Image.fromarray(load_image(encoded[0] if encoded else b""))
        except (ImageError, DecodeError, OSError):
            return None
        return _jpeg(image, self._side)


def _jpeg(image: "Image.Image", side: int) -> bytes:
    from PIL import Image

    image.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
