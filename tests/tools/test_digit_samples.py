import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trainers.data import features


@pytest.fixture
def records(tmp_path):
    """Twelve real scans of the digits 0 and 1 in two shards; gives the folder and the PNG bytes."""
    import tensorflow as tf

    scans = load_digits(n_class=2)
    stored = []
    for index in range(12):
        buffer = io.BytesIO()
        Image.fromarray((scans.images[index] * 15).astype(np.uint8)).save(buffer, "PNG")
        stored.append((str(scans.target[index]), buffer.getvalue()))
    folder = tmp_path / "digits"
    (folder / "Split-test").mkdir(parents=True)
    for shard in range(2):
        path = folder / "Split-test" / f"data_tfrecord-{shard:05d}-of-00002.gz"
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for text, png in stored[shard::2]:
                example = tf.train.Example()
                values = {
                    features.TEXT: text.encode(),
                    features.IMAGE: png,
                    features.FORMAT: b"PNG",
                }
                for key, value in values.items():
                    example.features.feature[key].bytes_list.value.append(value)
                writer.write(example.SerializeToString())
    info = features.DatasetInfo("digits", "classification", ("0", "1"), 1, {}, "")
    (folder / features.DATASET_FILE).write_text(info.to_json())
    return folder, stored


def test_each_class_once_named_after_it_with_its_own_bytes(tool, records, tmp_path):
    folder, stored = records
    out = tmp_path / "out"
    files = tool("digit_samples").write_samples(folder, out)
    assert sorted(path.name for path in files) == ["a_real_0.png", "a_real_1.png"]
    for path in files:
        label = path.stem[-1]
        assert path.read_bytes() in [png for text, png in stored if text == label]


def test_the_requested_number_of_files_without_older_ones(tool, records, tmp_path):
    out = tmp_path / "out"
    tool("digit_samples").write_samples(records[0], out)
    files = tool("digit_samples").write_samples(records[0], out, 1)
    assert list(out.iterdir()) == files
    assert len(files) == 1


def test_a_data_set_without_a_test_split_is_named(tool, records, tmp_path):
    folder, _ = records
    for shard in (folder / "Split-test").iterdir():
        shard.unlink()
    with pytest.raises(features.DatasetError, match="no test split"):
        tool("digit_samples").write_samples(folder, tmp_path / "out")
