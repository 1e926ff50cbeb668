"""The images in question, small, beside the list of what is wrong with them.

TensorFlow loads only to write a gallery: a report that reads one must be there at once.
"""

import contextlib
from pathlib import Path

from components import files
from components.data_validation.anomaly import ImageAnomalies, Place
from core.image_header import ImageError
from trainers.data.features import DatasetInfo

#: Longest side of a thumbnail, in pixels.
SIDE = 224

_THUMBNAILS = "thumbnails"


def thumbnail_file(directory: Path, place: Place) -> Path:
    """Where the thumbnail of a record is, if there is one."""
    return Path(directory) / _THUMBNAILS / f"{place.split}_{place.file}_{place.index}.jpg"


def write_gallery(data: Path, anomalies: ImageAnomalies, out: Path, *, shown: int) -> None:
    """Writes `anomalies.json` and thumbnails of the first `shown` anomalies of each kind.

    An image that does not decode has no thumbnail.

    Args:
      data: the data set's folder.
      anomalies: what was found in it.
      out: is made when absent.
      shown: of each kind.
    """
    info = DatasetInfo.load(data)
    for kind in anomalies.counts:
        for one in anomalies.of(kind)[:shown]:
            for place in filter(None, (one.place, one.other)):
                _write_thumbnail(data, info, place, thumbnail_file(out, place))
    files.write_json(out / files.IMAGE_ANOMALIES, anomalies.to_json())


def read_gallery(directory: Path) -> ImageAnomalies:
    """What `write_gallery` wrote to `directory`.

    Raises:
      OSError, ValueError: it is not there, or something else is.
    """
    return ImageAnomalies.from_json(files.read_json(Path(directory) / files.IMAGE_ANOMALIES))


def _write_thumbnail(data: Path, info: DatasetInfo, place: Place, target: Path) -> None:
    if target.exists():
        return
    from google.protobuf.message import DecodeError

    from components.data_validation.drawing import draw_record
    from components.data_validation.image_anomalies import read_record

    target.parent.mkdir(parents=True, exist_ok=True)
    shard = data / f"Split-{place.split}" / place.file
    # What does not decode was told already; ValueError and OSError are Pillow's and a cut shard's.
    with contextlib.suppress(ImageError, DecodeError, OSError, ValueError):
        example = read_record(shard, place.offset)
        draw_record(example, info, side=SIDE, names=False).save(target, "JPEG", quality=85)
