"""Writes real test images out of a data set's records, each named after its true class.

.venv/bin/python tools/digit_samples.py demo/data/digits demo/samples [COUNT]
"""

import shutil
import sys
from pathlib import Path

import tensorflow as tf

from trainers.data import features

FORMATS = {b"PNG": "png", b"JPEG": "jpg", b"BMP": "bmp", b"GIF": "gif"}


def write_samples(data: Path, out: Path, count: int = 5) -> list[Path]:
    """The first `count` images of `data`'s test split with classes that differ, as files in `out`.

    Raises:
      DatasetError: `data` holds no records.
    """
    classes = features.DatasetInfo.load(data).num_classes
    shards = sorted(tf.io.gfile.glob(features.shard_pattern(data, "test")))
    if not shards:
        raise features.DatasetError(f"{data} has no test split; run `sightline ingest` again")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    written: dict[str, Path] = {}
    compression = "GZIP" if shards[0].endswith(".gz") else ""
    for record in tf.data.TFRecordDataset(shards, compression_type=compression):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        label = feature[features.TEXT].bytes_list.value[0].decode()
        if label in written:
            continue
        suffix = FORMATS[feature[features.FORMAT].bytes_list.value[0]]
        written[label] = out / f"a_real_{label}.{suffix}"
        written[label].write_bytes(feature[features.IMAGE].bytes_list.value[0])
        if len(written) == min(count, classes):
            break
    return list(written.values())


if __name__ == "__main__":
    for path in write_samples(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4])):
        print(path)
