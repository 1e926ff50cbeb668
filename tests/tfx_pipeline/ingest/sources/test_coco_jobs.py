"""COCO end to end: nothing is lost or added, and pycocotools agrees."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tfx_pipeline.ingest import IngestError, ingest
from tfx_pipeline.ingest.masks import render
from trainers.data import features
from trainers.data.coco_format import evaluate_boxes, records_to_coco

# As in conftest.py.
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
HEIGHT, WIDTH = 30, 40


@pytest.fixture(scope="session")
def coco_records(extract, tmp_path_factory):
    """Records of the real subset, from a complete job."""
    out = tmp_path_factory.mktemp("records") / "coco"
    return out, ingest("coco", out, where=extract("coco_subset_A"))


@pytest.mark.shared_data
class TestRoundTrip:
    def originals(self, extract, *parts):
        found = [
            json.loads(
                (extract("coco_subset_A") / f"annotations/instances_{part}2017.json").read_text()
            )
            for part in parts
        ]
        return {key: [one for part in found for one in part[key]] for key in found[0]}

    def test_nothing_is_lost_or_added(self, extract, coco_records):
        out, info = coco_records
        original = self.originals(extract, "train", "val")
        made = records_to_coco(out)
        assert (info.rejected, info.repaired, info.masks) == (0, 0, True)
        assert info.splits["test"].examples == 80
        assert made["categories"] == [
            {"id": one["id"], "name": one["name"]} for one in original["categories"][:80]
        ]
        sizes = {one["id"]: (one["height"], one["width"]) for one in original["images"]}
        assert {one["id"]: (one["height"], one["width"]) for one in made["images"]} == sizes
        annotations = {one["id"]: one for one in original["annotations"]}
        assert len(made["annotations"]) == len(annotations) == 1520
        for one in made["annotations"]:
            before = annotations.pop(one["id"])
            np.testing.assert_allclose(one["bbox"], before["bbox"], rtol=0, atol=1e-4)
            assert one["area"] == np.float32(before["area"])
            for key in ("image_id", "category_id", "iscrowd"):
                assert one[key] == before[key]
            expected = self.rle(before["segmentation"], sizes[one["image_id"]])
            assert one["segmentation"] == expected
        assert not annotations

    def rle(self, segmentation, size):
        """As `COCO.annToRLE` has it, re-encoded as `annToMask` would be."""
        made = coco_mask.frPyObjects(segmentation, *size)
        made = coco_mask.merge(made) if isinstance(segmentation, list) else made
        packed = coco_mask.encode(np.asfortranarray(coco_mask.decode(made)))
        return {"size": list(size), "counts": packed["counts"].decode()}

    @pytest.mark.parametrize("iou_type", ["bbox", "segm"])
    def test_truth_as_its_own_detections_is_perfect(self, extract, coco_records, iou_type):
        out, _ = coco_records
        truth = records_to_coco(out, "test")
        original = self.originals(extract, "val")
        results = [
            {
                **one,
                "segmentation": self.rle(one["segmentation"], size),
                "score": 1.0,
            }
            for one in original["annotations"]
            if not one["iscrowd"]
            for size in [self.size(original, one["image_id"])]
        ]
        figures = evaluate_boxes(truth, results, iou_type)
        assert {figures[name] for name in ("ap", "ap50", "ap75", "ap_small", "ap_large")} == {1.0}

    def size(self, original, image_id):
        (found,) = (one for one in original["images"] if one["id"] == image_id)
        return found["height"], found["width"]


@pytest.mark.shared_data
def test_the_evaluation_kit_through_records_gives_cocos_figures(extract, tmp_path, png):
    kit = extract("coco_eval_kit_A")
    truth = json.loads((kit / "instances_val2014_100.json").read_text())
    files = tmp_path / "val2014"
    files.mkdir()
    for one in truth["images"]:
        (files / one["file_name"]).write_bytes(png(one["height"], one["width"]))
    ingest(
        "coco",
        tmp_path / "records",
        options={
            "annotations": str(kit / "instances_val2014_100.json"),
            "images": str(files),
            "split": "test",
        },
    )
    again = records_to_coco(tmp_path / "records", "test")
    expected = json.loads((kit / "expected_metrics.json").read_text())
    for iou_type, name in (("bbox", "fakebbox"), ("segm", "fakesegm")):
        results = json.loads((kit / f"instances_val2014_{name}100_results.json").read_text())
        figures = evaluate_boxes(again, results, iou_type)
        np.testing.assert_allclose(list(figures.values()), expected[iou_type], rtol=0, atol=6e-7)


def test_every_kind_of_bad_annotation_through_the_whole_job(
    folder, tmp_path, coco, annotation, image
):
    square = [[1, 2, 11, 2, 11, 22, 1, 22]]
    annotations = [
        annotation(1, 1),
        annotation(2, 1, bbox=[-3, 2, 10, 20]),
        annotation(3, 1, bbox=[50, 2, 10, 20]),
        annotation(4, 1, bbox=[5, 2, 0, 20]),
        annotation(5, 1, bbox=[5, 2, -4, 20]),
        annotation(6, 1, category_id=99),
        annotation(7, 1, segmentation={"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}),
        annotation(8, 1, segmentation=[[1, 2, 3, 4]]),
        annotation(9, 77),
        annotation(10, 1, bbox=None),
        annotation(11, 3),
        annotation(12, 4),
        annotation(13, 5),
    ]
    images = (1, 2, 3, image(4, height=HEIGHT + 1), 5)
    coco(folder, images=images, annotations=annotations, files=(1, 2, 4, 5))
    coco(folder, "val2017", images=(9,), annotations=[annotation(100, 9)])
    with pytest.raises(IngestError, match=r"8 of 11 objects .* dropped \(7\) or clipped \(1\)"):
        ingest("coco", tmp_path / "out", where=folder)
    info = ingest("coco", tmp_path / "out", where=folder, max_repaired=0.73)
    report = json.loads((tmp_path / "out" / features.REPORT_FILE).read_text())
    listed = {
        kind: [(one["file"], one["detail"].partition(":")[0]) for one in entry["files"]]
        for kind, entry in report["findings"].items()
    }
    first = "train2017/1.png"
    for kind, number in (
        ("box_clipped", 2),
        ("box_outside", 3),
        ("box_empty", 4),
        ("box_invalid", 5),
        ("category_unknown", 6),
        ("mask_size", 7),
        ("mask_invalid", 8),
        ("annotation_invalid", 10),
    ):
        assert listed.pop(kind) == [(first, f"annotation {number}")]
    assert [one[0] for one in listed.pop("no_objects")] == ["train2017/2.png"]
    assert [one[0] for one in listed.pop("size_differs")] == ["train2017/4.png"]
    assert [one[0] for one in listed.pop("image_missing")] == [
        "instances_train2017.json",
        "train2017/3.png",
    ]
    assert set(listed) <= {"grayscale"}
    assert (info.rejected, info.masks) == (3, True)
    kept = [one for one in records_to_coco(tmp_path / "out")["annotations"] if one["id"] <= 10]
    assert sorted(one["id"] for one in kept) == [1, 2]
    (clipped,) = (one for one in kept if one["id"] == 2)
    np.testing.assert_allclose(clipped["bbox"], [0, 2, 7, 20], atol=1e-4)
    assert (
        coco_mask.area(clipped["segmentation"]) == render(square, height=HEIGHT, width=WIDTH).sum()
    )


def write_large(folder, image, png, *, images, annotations):
    """An instances file with COCO's proportions and an archive of tiny images."""
    corners = [round(20 + 0.37 * step, 2) for step in range(40)]
    body = json.dumps(
        {"segmentation": [corners], "area": 702.1057499999998, "iscrowd": 0},
        separators=(", ", ": "),
    )[1:]
    folder.mkdir(parents=True)
    (folder / "annotations").mkdir()
    with open(folder / "annotations" / "instances_train2017.json", "w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for number in range(images):
            file.write(", " * bool(number))
            about = {"license": 3, "coco_url": "x" * 60, "flickr_url": "y" * 60}
            file.write(json.dumps(image(number, **about)))
        file.write('], "annotations": [')
        for number in range(annotations):
            start = f'"id": {number}, "image_id": {number * 7919 % images}, "category_id": 2, '
            file.write(f'{", " * bool(number)}{{{start}"bbox": [20.5, 20, 9.5, 10.25], {body}')
        file.write(f'], "categories": {json.dumps(CATEGORIES)}}}')
    with zipfile.ZipFile(folder / "train2017.zip", "w") as archive:
        for number in range(images):
            archive.writestr(f"train2017/{number}.png", png())


# Not getrusage, whose value in a child starts at the size of its parent.
_PEAK = """
import re, sys, time
from pathlib import Path
from tfx_pipeline.ingest.sources.coco import source
from tfx_pipeline.ingest.source import Request
def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status).group(1)) // 1024
work = Path(sys.argv[2])
work.mkdir()
before = peak_mb()
made = source(Request(sys.argv[1], work))
objects = sum(len(item.objects.boxes) for item in made.items)
print(made.total, objects, before, peak_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_memory_does_not_hold_the_file(folder, tmp_path, image, png):
    # A tenth of COCO: about 45 MB of JSON, which is 300 MB as Python objects.
    write_large(folder, image, png, images=11_829, annotations=86_000)
    command = [sys.executable, "-c", _PEAK, str(folder), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    images, objects, before, after = map(int, done.stdout.split())
    assert (images, objects) == (11_829, 86_000)
    assert after - before < 60
