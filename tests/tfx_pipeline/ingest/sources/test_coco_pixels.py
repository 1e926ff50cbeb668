"""COCO's labels of pixels: panoptic and semantic PNGs."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tfx_pipeline.ingest import IngestError
from tfx_pipeline.ingest.masks import encode_gray_png
from trainers.data import features

HEIGHT, WIDTH = 30, 40  # As in conftest.py.


class TestPixelLabels:
    SEGMENTS = ({"id": 3 + 256 * 2, "category_id": 9}, {"id": 70_000, "category_id": 4})

    def write(self, coco, folder, segments=SEGMENTS):
        coco(folder, images=(1,))
        colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colors[:10] = (3, 2, 0)
        colors[20:, 5:] = (112, 17, 1)  # 112 + 256 * 17 + 65536 = 70,000.
        content = {
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            "categories": [{"id": 9, "name": "sky"}, {"id": 4, "name": "road"}],
        }
        (folder / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
        (folder / "annotations" / "panoptic_train2017").mkdir(exist_ok=True)
        Image.fromarray(colors).save(folder / "annotations" / "panoptic_train2017" / "1.png")

    def pixels(self, values):
        return np.asarray(Image.open(io.BytesIO(values[0])))

    def test_panoptic(self, folder, coco, read):
        self.write(coco, folder)
        attributes = read(folder, panoptic=True)[1][0].attributes
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:10], labels[20:, 5:] = 2, 1
        instances = np.zeros((HEIGHT, WIDTH), np.uint16)
        instances[:10], instances[20:, 5:] = 1, 2
        for key in (features.SEMANTIC, features.PANOPTIC_CATEGORY):
            np.testing.assert_array_equal(self.pixels(attributes[key]), labels)
        np.testing.assert_array_equal(
            self.pixels(attributes[features.PANOPTIC_INSTANCE]), instances
        )
        assert attributes[features.SEMANTIC_FORMAT] == ["PNG"]

    @pytest.mark.parametrize(
        ("segments", "kind", "words"),
        [
            (SEGMENTS[:1], "mask_invalid", "segment 70000 is not listed"),
            (({"id": 515, "category_id": 5}, SEGMENTS[1]), "category_unknown", "segment 515"),
        ],
    )
    def test_panoptic_segments_that_are_wrong(self, folder, segments, kind, words, coco, read):
        self.write(coco, folder, segments)
        item = read(folder, panoptic=True)[1][0]
        (finding,) = item.findings
        assert (finding.kind, finding.file) == (kind, "train2017/1.png")
        assert words in finding.detail
        assert features.PANOPTIC_CATEGORY not in item.attributes

    def test_panoptic_png_that_is_absent(self, folder, coco, read):
        self.write(coco, folder)
        (folder / "annotations" / "panoptic_train2017" / "1.png").unlink()
        (finding,) = read(folder, panoptic=True)[1][0].findings
        assert finding.detail == "PNG of labels: there is no 1.png"
        (folder / "annotations" / "panoptic_train2017").rmdir()
        with pytest.raises(IngestError, match="no panoptic_train2017/ or"):
            read(folder, panoptic=True)

    @pytest.mark.parametrize(
        ("name", "expected"), [("stuffthingmaps_x", [1, 2, 0]), ("labels", [0, 1, 0])]
    )
    def test_semantic(self, folder, name, expected, coco, read):
        coco(folder, images=(1,))
        (folder / name).mkdir()
        stored = np.resize(np.array([0, 1, 255], np.uint8), (HEIGHT, WIDTH))
        (folder / name / "1.png").write_bytes(encode_gray_png(stored))
        values = read(folder, semantic=str(folder / name))[1][0].attributes[features.SEMANTIC]
        np.testing.assert_array_equal(
            self.pixels(values), np.resize(np.array(expected, np.uint8), (HEIGHT, WIDTH))
        )

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (encode_gray_png(np.zeros((3, 4), np.uint8)), "mask_size"),
            (encode_gray_png(np.zeros((HEIGHT, WIDTH), np.uint16)), "mask_invalid"),
            (b"\x89PNG\r\n\x1a\n", "mask_invalid"),
            (b"", "mask_invalid"),
        ],
    )
    def test_semantic_png_that_is_wrong(self, folder, data, kind, coco, read):
        coco(folder, images=(1,))
        (folder / "labels").mkdir()
        (folder / "labels" / "1.png").write_bytes(data)
        item = read(folder, semantic=str(folder / "labels"))[1][0]
        assert [one.kind for one in item.findings] == [kind]
        assert features.SEMANTIC not in item.attributes
