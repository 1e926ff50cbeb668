"""A gallery: the list of anomalies with thumbnails of their images.

Only writing a gallery loads TensorFlow, so that a report that reads one renders at once.
"""

import contextlib
from pathlib import Path

from components import files
from components.data_validation.anomaly import ImageAnomalies, Location
from core.image_header import ImageError
from trainers.data.features import DatasetInfo

#: Longest side of a thumbnail, in pixels.
SIDE = 224

_THUMBNAILS = "thumbnails"


def thumbnail_file(directory: Path, location: Location) -> Path:
    """The path of a record's thumbnail, which may not exist."""
    return Path(directory) / _THUMBNAILS / f"{location.split}_{location.file}_{location.index}.jpg"


def write_gallery(data: Path, anomalies: ImageAnomalies, out: Path, *, shown: int) -> None:
    """Writes `anomalies.json` and thumbnails of the first `shown` anomalies of each kind.

    An image that does not decode has no thumbnail.

    Args:
      data: folder of the data set.
      anomalies: of the data set.
      out: folder, created if necessary.
      shown: maximum number per kind.
    """
    info = DatasetInfo.load(data)
    for kind in anomalies.counts:
        for one in anomalies.of(kind)[:shown]:
            for location in filter(None, (one.location, one.other)):
                _write_thumbnail(data, info, location, thumbnail_file(out, location))
    files.write_json(out / files.IMAGE_ANOMALIES, anomalies.to_json())


def read_gallery(directory: Path) -> ImageAnomalies:
    """The anomalies that `write_gallery` wrote to `directory`.

    Raises:
      OSError, ValueError: the file is missing or malformed.
    """
    return ImageAnomalies.from_json(files.read_json(Path(directory) / files.IMAGE_ANOMALIES))


def _write_thumbnail(data: Path, info: DatasetInfo, location: Location, target: Path) -> None:
    if target.exists():
        return
    from google.protobuf.message import DecodeError

    from components.data_validation.drawing import draw_record
    from components.data_validation.image_anomalies import read_record

    target.parent.mkdir(parents=True, exist_ok=True)
    shard = data / f"Split-{location.split}" / location.file
    # An image that does not decode is an anomaly itself. Pillow and a truncated shard raise
    # ValueError and OSError.
    with contextlib.suppress(ImageError, DecodeError, OSError, ValueError):
        example = read_record(shard, location.offset)
        draw_record(example, info, side=SIDE, names=False).save(target, "JPEG", quality=85)
