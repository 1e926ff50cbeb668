"""Thumbnails and file names of the images of records, by their identity."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.image_header import ImageError
from trainers.data.features import ID, DatasetInfo

if TYPE_CHECKING:
    import tensorflow as tf

_SIDE = 160


class Thumbnail(NamedTuple):
    """A JPEG as a data URI, empty if the image does not decode, and the file name in the records."""

    image: str
    file: str


def thumbnails(records: Path | None, split: str, ids: Iterable[str]) -> dict[str, Thumbnail]:
    """Identity -> thumbnail, for the images of `ids` that are in the records.

    Args:
      records: folder of the data set; None finds nothing.
      split: of the records.
      ids: sha256 of encoded images, as in a predictions table.

    Raises:
      DatasetError: the records lack the split.
    """
    wanted = set(ids)
    if records is None or not wanted:
        return {}
    import tensorflow as tf

    from components.data_validation.record_checks import filename_of
    from trainers.data.reader import raw_examples

    info, found = DatasetInfo.load(records), {}
    for record in raw_examples(records, split):
        example = tf.train.Example.FromString(record)
        (identity,) = example.features.feature[ID].bytes_list.value[:1] or (b"",)
        name = identity.decode()
        if name in wanted:
            found[name] = Thumbnail(_drawn(example, info), filename_of(example.features.feature))
        if len(found) == len(wanted):
            break
    return found


def _drawn(example: "tf.train.Example", info: DatasetInfo) -> str:
    from components.data_validation.drawing import draw_record

    data = io.BytesIO()
    try:
        draw_record(example, info, side=_SIDE, names=False).save(data, "JPEG", quality=85)
    except ImageError:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
