"""COCO's folders and files: what is read, what is refused, and that nothing is lost on the way."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tfx_pipeline.ingest import IngestError, Request, ingest
from tfx_pipeline.ingest.archives import read_member
from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.masks import encode_grey_png, render
from tfx_pipeline.ingest.source import Item
from tfx_pipeline.ingest.sources.coco import source
from trainers.data import features
from trainers.data.coco_format import evaluate_boxes, records_to_coco

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
HEIGHT, WIDTH = 30, 40
_GREYS = iter(range(1, 10**9))


def png(height=HEIGHT, width=WIDTH):
    """A picture like no other of this process."""
    number = np.frombuffer(next(_GREYS).to_bytes(4, "big"), np.uint8)
    return encode_grey_png(np.resize(number, (height, width)))


def annotation(ident, image, **other):
    made = {"id": ident, "image_id": image, "category_id": 2, "bbox": [1, 2, 10, 20]}
    made |= {"area": 200.5, "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]]}
    return {key: value for key, value in (made | other).items() if value is not None}


def image(ident, **other):
    return {"id": ident, "file_name": f"{ident}.png", "height": HEIGHT, "width": WIDTH, **other}


def coco(folder, tag="train2017", *, images=(1, 2), annotations=None, pictures=None, **other):
    """Writes one part of a data set in COCO's layout; the content of its JSON."""
    if annotations is None:
        numbers = [one["id"] if isinstance(one, dict) else one for one in images]
        annotations = [annotation(place, one) for place, one in enumerate(numbers, start=1)]
    content = {
        "images": [one if isinstance(one, dict) else image(one) for one in images],
        "annotations": annotations,
        "categories": CATEGORIES,
        **other,
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / f"instances_{tag}.json").write_text(json.dumps(content))
    (folder / tag).mkdir(exist_ok=True)
    for one in images if pictures is None else pictures:
        name = one["file_name"] if isinstance(one, dict) else f"{one}.png"
        (folder / tag / name).write_bytes(png())
    return content


def read(folder, **options):
    work = folder.parent / "work"
    work.mkdir(exist_ok=True)
    (work / "coco.sqlite").unlink(missing_ok=True)
    made = source(Request(str(folder), work), **options)
    return made, list(made.items)


def bytes_of(item):
    return read_member(item.path, offset=item.offset, length=item.length, deflated=item.deflated)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "coco"


class TestWhatIsRead:
    def test_pictures_and_objects(self, folder):
        crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
        objects = [
            annotation(31, 5, category_id=7),
            annotation(9, 5, bbox=[0.5, 1.25, 3, 4], iscrowd=1, segmentation=crowd, area=12),
        ]
        coco(folder, images=(12, 5), annotations=[*objects, annotation(1, 12)])
        made, items = read(folder)
        assert (made.task, made.classes, made.category_ids) == ("detection", ("dog", "cat"), (2, 7))
        assert made.masks
        assert made.total == 2
        assert made.fractions == (0.97, 0.02, 0.01)
        assert [one.name for one in items] == ["train2017/5.png", "train2017/12.png"]
        assert [one.split for one in items] == ["train", "train"]
        assert bytes_of(items[0]) == (folder / "train2017" / "5.png").read_bytes()
        assert items[0].attributes == {
            features.SOURCE_ID: ["5"],
            features.HEIGHT: [HEIGHT],
            features.WIDTH: [WIDTH],
        }
        found = items[0].objects
        assert found.ids == (9, 31)
        assert found.boxes == ((0.5, 1.25, 3.5, 5.25), (1, 2, 11, 22))
        assert found.classes == (0, 1)
        assert found.areas == (12.0, 200.5)
        assert found.is_crowd == (1, 0)
        assert found.segmentations == (crowd, objects[0]["segmentation"])
        assert not found.normalized

    @pytest.mark.parametrize(
        ("asked", "stored", "found"),
        [
            ("cam2/0001.png", "cam1/0001.png", False),
            ("1.png", "cam1/01.png", False),
            ("0001.png", "cam1/0001.png", True),
            ("train2017/cam1/0001.png", "cam1/0001.png", True),
            ("am1/0001.png", "cam1/0001.png", False),
        ],
    )
    def test_a_base_name_in_another_folder_is_another_picture(self, folder, asked, stored, found):
        coco(folder, images=[image(1, file_name=asked)], pictures=())
        target = folder / "train2017" / stored
        target.parent.mkdir()
        target.write_bytes(png())
        items = read(folder)[1]
        missing = any(isinstance(one, Finding) and one.kind == "image_missing" for one in items)
        assert missing is not found

    def test_what_is_optional_may_be_absent(self, folder):
        bare = annotation(1, 1, area=None, iscrowd=None, segmentation=None)
        coco(folder, images=[{"id": 1, "file_name": "1.png"}], annotations=[bare])
        made, (item,) = read(folder)
        assert not made.masks
        assert item.attributes == {features.SOURCE_ID: ["1"]}
        assert item.objects.areas == (-1.0,)
        assert item.objects.is_crowd == (0,)
        assert item.objects.segmentations == (None,)

    def test_pictures_without_objects_stay(self, folder):
        coco(folder, images=(1, 2), annotations=[annotation(1, 2)])
        _, (first, second) = read(folder)
        assert first.objects.boxes == ()
        assert len(second.objects.boxes) == 1

    def test_val_is_test_and_may_be_validation(self, folder):
        coco(folder)
        coco(folder, "val2017", images=(1, 3))
        made, items = read(folder)
        assert [(one.name, one.split) for one in items] == [
            ("train2017/1.png", "train"),
            ("train2017/2.png", "train"),
            ("val2017/1.png", "test"),
            ("val2017/3.png", "test"),
        ]
        assert made.keep_duplicates
        assert {one.split for one in read(folder, val="validation")[1]} == {"train", "validation"}
        assert {one.split for one in read(folder, only="val")[1]} == {"test"}

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zips_as_they_are_downloaded(self, folder, compression):
        coco(folder)
        expected = {one.name: bytes_of(one) for one in read(folder)[1]}
        for name, below in (("annotations_trainval2017", "annotations"), ("train2017", "")):
            with zipfile.ZipFile(folder / f"{name}.zip", "w", compression) as archive:
                for path in sorted((folder / (below or name)).iterdir()):
                    archive.write(path, f"{below or name}/{path.name}")
                    path.unlink()
            (folder / (below or name)).rmdir()
        _, items = read(folder)
        assert {one.name: bytes_of(one) for one in items} == expected

    def test_a_tar_of_pictures(self, folder):
        coco(folder)
        expected = [bytes_of(one) for one in read(folder)[1]]
        subprocess.run(["tar", "cf", "train2017.tar", "train2017"], cwd=folder, check=True)
        for path in (folder / "train2017").iterdir():
            path.unlink()
        (folder / "train2017").rmdir()
        assert [bytes_of(one) for one in read(folder)[1]] == expected

    def test_named_files(self, folder, tmp_path):
        coco(folder)
        named = tmp_path / "mine.json"
        (folder / "annotations" / "instances_train2017.json").rename(named)
        work = tmp_path / "work"
        work.mkdir()
        options = {"annotations": str(named), "images": str(folder / "train2017")}
        made = source(Request(None, work), **options)
        assert [(one.name, one.split) for one in made.items] == [
            ("train2017/1.png", ""),
            ("train2017/2.png", ""),
        ]
        assert not made.keep_duplicates
        items = read(folder, **options, split="validation")[1]
        assert {one.split for one in items} == {"validation"}
        below = {"annotations": "../mine.json", "images": "train2017"}
        assert [one.name for one in read(folder, **below)[1]] == [one.name for one in items]

    def test_captions(self, folder):
        coco(folder)
        listed = [
            {"id": 4, "image_id": 1, "caption": " second\n"},
            {"id": 3, "image_id": 1, "caption": "first"},
            {"id": 5, "image_id": 2},
        ]
        path = folder / "annotations" / "captions_train2017.json"
        with pytest.raises(IngestError, match=r"captions_train2017\.json does not exist"):
            read(folder, captions=True)
        path.write_text(json.dumps({"annotations": listed}))
        items = read(folder, captions=True)[1]
        assert [one.attributes[features.CAPTION] for one in items] == [["first", "second"], []]
        assert features.CAPTION not in read(folder)[1][0].attributes

    def test_equal_names_are_told_apart(self, folder):
        coco(folder, categories=[{"id": 2, "name": "crane"}, {"id": 7, "name": "crane"}])
        assert read(folder)[0].classes == ("crane (2)", "crane (7)")


class TestFindings:
    def test_an_annotation_of_no_image(self, folder):
        coco(folder, images=(1,), annotations=[annotation(5, 99), annotation(4, 1)])
        _, found = read(folder)
        assert found[0] == Finding(
            "image_missing",
            "instances_train2017.json",
            "annotation 5 is of image 99, which is not listed",
        )
        assert [one.name for one in found[1:]] == ["train2017/1.png"]

    def test_an_image_without_a_file(self, folder):
        coco(folder, images=(1, 2), pictures=(2,))
        _, found = read(folder)
        what = "image 1 of instances_train2017.json is not in train2017"
        assert found[0] == Finding("image_missing", "train2017/1.png", what)
        assert found[1].name == "train2017/2.png"

    def test_a_file_without_an_image(self, folder):
        coco(folder, pictures=(1, 2, 3))
        _, found = read(folder)
        assert found[2] == Finding(
            "label_missing", "train2017/3.png", "not listed in instances_train2017.json"
        )

    def test_an_absent_category_is_left_to_clean(self, folder):
        coco(folder, annotations=[annotation(1, 1, category_id=3), annotation(2, 1)])
        assert read(folder)[1][0].objects.classes == (-1, 0)

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            ({"bbox": [1, 2, 3]}, "`bbox` must be four numbers"),
            ({"bbox": [1, 2, 3, "4"]}, "`bbox` must be four numbers"),
            ({"bbox": None}, "`bbox` must be four numbers"),
            ({"category_id": "dog"}, "`category_id` must be an integer, got 'dog'"),
            ({"id": None}, "`id` must be an integer, got None"),
            ({"id": 4.5}, "`id` must be an integer"),
        ],
    )
    def test_an_annotation_that_is_none(self, folder, other, words):
        bad = annotation(4, 1) | other
        bad = {key: value for key, value in bad.items() if value is not None}
        coco(folder, annotations=[bad, annotation(5, 1)])
        first = read(folder)[1][0]
        assert first.objects.ids == (5,)
        (finding,) = first.findings
        assert (finding.kind, finding.file) == ("annotation_invalid", "train2017/1.png")
        assert words in finding.detail

    def test_an_annotation_without_an_image_id(self, folder):
        coco(folder, annotations=[annotation(5, None), annotation(4, 1)])
        finding = read(folder)[1][0]
        assert (finding.kind, finding.file) == ("annotation_invalid", "instances_train2017.json")
        assert "annotation 5: `image_id` must be an integer" in finding.detail


class TestRefusals:
    def refuses(self, folder, words, **options):
        with pytest.raises(IngestError, match=words):
            read(folder, **options)

    def test_no_annotation_file(self, folder):
        (folder / "train2017").mkdir(parents=True)
        self.refuses(folder, r"annotations/instances_train2017\.json does not exist.*only=val")

    def test_no_pictures(self, folder):
        coco(folder, pictures=())
        self.refuses(folder, r"train2017 holds no pictures")
        (folder / "train2017").rmdir()
        self.refuses(folder, r"no train2017/, train2017\.zip or train2017\.tar.*only=val")

    def test_nothing_at_all(self, folder):
        folder.mkdir()
        self.refuses(folder, "has no annotations of COCO; give a folder with")
        self.refuses(folder / "absent", "is not a folder")

    def test_two_years(self, folder):
        coco(folder)
        coco(folder, "train2014")
        self.refuses(folder, "2014 and 2017.*say year=2017")
        assert read(folder, year="2014")[1][0].name == "train2014/1.png"
        self.refuses(folder, "nothing of 2015; it has 2014, 2017", year="2015")

    @pytest.mark.parametrize("table", ["images", "annotations"])
    def test_an_id_that_is_there_twice(self, folder, table):
        same = {"images": (1, image(1, file_name="b.png"))}
        if table == "annotations":
            same = {"annotations": [annotation(8, 1), annotation(4, 1), annotation(8, 2)]}
        coco(folder, **same)
        ident = 1 if table == "images" else 8
        self.refuses(folder, rf"train2017\.json has 2 {table} with id {ident}; ids must be unique")

    def test_one_id_in_train_and_val_is_fine(self, folder):
        coco(folder)
        coco(folder, "val2017")
        assert len(read(folder)[1]) == 4

    def test_a_category_that_is_there_twice_or_is_none(self, folder):
        coco(folder, categories=[*CATEGORIES, {"id": 7, "name": "cow"}])
        self.refuses(folder, "two categories with id 7")
        coco(folder, categories=[{"id": "7", "name": "cow"}])
        self.refuses(folder, "a category has id '7' and name 'cow'")

    @pytest.mark.parametrize("key", ["images", "annotations", "categories"])
    def test_a_list_that_is_absent(self, folder, key):
        coco(folder, **{key: None} if key == "categories" else {})
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
        self.refuses(folder, f"has no `{key}`")

    def test_categories_that_differ(self, folder):
        coco(folder)
        coco(folder, "val2017", categories=CATEGORIES[:1])
        self.refuses(folder, "do not have the same categories; the first difference is 2: 'dog'")

    def test_an_image_without_a_name(self, folder):
        coco(folder, images=[{"id": 3, "file_name": ""}], pictures=(3,))
        self.refuses(folder, "an image has id 3 and file_name ''")

    @pytest.mark.parametrize("at", [0, 1, 300, -1])
    def test_json_that_does_not_parse(self, folder, at):
        coco(folder)
        path = folder / "annotations" / "instances_train2017.json"
        whole = path.read_bytes()
        place = at % len(whole)
        path.write_bytes(whole[:place] + b"\x00" + whole[place + 1 :])
        self.refuses(folder, rf"instances_train2017\.json is not whole JSON: at byte {place:,}:")

    def test_json_that_ends_early(self, folder):
        coco(folder)
        path = folder / "annotations" / "instances_train2017.json"
        path.write_bytes(path.read_bytes()[:500])
        self.refuses(folder, "not whole JSON: at byte 500:.*download or export it again")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"val": "train"}, "val must be test or validation, got 'train'"),
            ({"only": "test"}, "only must be train or val, got 'test'"),
            ({"annotations": "a.json"}, "go together"),
            ({"annotations": "a.json", "images": "b"}, r"a\.json does not exist"),
            ({"annotations": ".", "images": ".", "split": "dev"}, "split must be one of train"),
            ({"panoptic": True}, r"panoptic_train2017\.json does not exist"),
        ],
    )
    def test_options(self, folder, options, words):
        coco(folder)
        self.refuses(folder, words, **options)


class TestPixelLabels:
    SEGMENTS = ({"id": 3 + 256 * 2, "category_id": 9}, {"id": 70_000, "category_id": 4})

    def write(self, folder, segments=SEGMENTS):
        coco(folder, images=(1,))
        colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colours[:10] = (3, 2, 0)
        colours[20:, 5:] = (112, 17, 1)  # 112 + 256 * 17 + 65536 = 70,000.
        content = {
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            "categories": [{"id": 9, "name": "sky"}, {"id": 4, "name": "road"}],
        }
        (folder / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
        (folder / "annotations" / "panoptic_train2017").mkdir(exist_ok=True)
        from PIL import Image

        Image.fromarray(colours).save(folder / "annotations" / "panoptic_train2017" / "1.png")

    def pixels(self, values):
        import io

        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(values[0])))

    def test_panoptic(self, folder):
        self.write(folder)
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
    def test_panoptic_segments_that_are_wrong(self, folder, segments, kind, words):
        self.write(folder, segments)
        item = read(folder, panoptic=True)[1][0]
        (finding,) = item.findings
        assert (finding.kind, finding.file) == (kind, "train2017/1.png")
        assert words in finding.detail
        assert features.PANOPTIC_CATEGORY not in item.attributes

    def test_panoptic_png_that_is_absent(self, folder):
        self.write(folder)
        (folder / "annotations" / "panoptic_train2017" / "1.png").unlink()
        (finding,) = read(folder, panoptic=True)[1][0].findings
        assert finding.detail == "PNG of labels: there is no 1.png"
        (folder / "annotations" / "panoptic_train2017").rmdir()
        with pytest.raises(IngestError, match="no panoptic_train2017/ or"):
            read(folder, panoptic=True)

    @pytest.mark.parametrize(
        ("name", "expected"), [("stuffthingmaps_x", [1, 2, 0]), ("labels", [0, 1, 0])]
    )
    def test_semantic(self, folder, name, expected):
        coco(folder, images=(1,))
        (folder / name).mkdir()
        stored = np.resize(np.array([0, 1, 255], np.uint8), (HEIGHT, WIDTH))
        (folder / name / "1.png").write_bytes(encode_grey_png(stored))
        values = read(folder, semantic=str(folder / name))[1][0].attributes[features.SEMANTIC]
        np.testing.assert_array_equal(
            self.pixels(values), np.resize(np.array(expected, np.uint8), (HEIGHT, WIDTH))
        )

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (encode_grey_png(np.zeros((3, 4), np.uint8)), "mask_size"),
            (encode_grey_png(np.zeros((HEIGHT, WIDTH), np.uint16)), "mask_invalid"),
            (b"\x89PNG\r\n\x1a\n", "mask_invalid"),
            (b"", "mask_invalid"),
        ],
    )
    def test_semantic_png_that_is_wrong(self, folder, data, kind):
        coco(folder, images=(1,))
        (folder / "labels").mkdir()
        (folder / "labels" / "1.png").write_bytes(data)
        item = read(folder, semantic=str(folder / "labels"))[1][0]
        assert [one.kind for one in item.findings] == [kind]
        assert features.SEMANTIC not in item.attributes


@pytest.fixture(scope="session")
def coco_records(extract, tmp_path_factory):
    """Records of the real subset, through the whole job."""
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
def test_the_evaluation_kit_through_records_gives_cocos_figures(extract, tmp_path):
    kit = extract("coco_eval_kit_A")
    truth = json.loads((kit / "instances_val2014_100.json").read_text())
    pictures = tmp_path / "val2014"
    pictures.mkdir()
    for one in truth["images"]:
        (pictures / one["file_name"]).write_bytes(png(one["height"], one["width"]))
    ingest(
        "coco",
        tmp_path / "records",
        options={
            "annotations": str(kit / "instances_val2014_100.json"),
            "images": str(pictures),
            "split": "test",
        },
    )
    again = records_to_coco(tmp_path / "records", "test")
    expected = json.loads((kit / "expected_metrics.json").read_text())
    for iou_type, name in (("bbox", "fakebbox"), ("segm", "fakesegm")):
        results = json.loads((kit / f"instances_val2014_{name}100_results.json").read_text())
        figures = evaluate_boxes(again, results, iou_type)
        np.testing.assert_allclose(list(figures.values()), expected[iou_type], rtol=0, atol=6e-7)


def test_every_kind_of_bad_annotation_through_the_whole_job(folder, tmp_path):
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
    coco(folder, images=images, annotations=annotations, pictures=(1, 2, 4, 5))
    coco(folder, "val2017", images=(9,), annotations=[annotation(100, 9)])
    info = ingest("coco", tmp_path / "out", where=folder)
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
    assert set(listed) <= {"grey"}
    assert (info.rejected, info.masks) == (3, True)
    kept = [one for one in records_to_coco(tmp_path / "out")["annotations"] if one["id"] <= 10]
    assert sorted(one["id"] for one in kept) == [1, 2]
    (clipped,) = (one for one in kept if one["id"] == 2)
    np.testing.assert_allclose(clipped["bbox"], [0, 2, 7, 20], atol=1e-4)
    assert (
        coco_mask.area(clipped["segmentation"]) == render(square, height=HEIGHT, width=WIDTH).sum()
    )


def write_large(folder, *, images, annotations):
    """An instances file of COCO's proportions and an archive of as many tiny pictures."""
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


# Not getrusage: what it gives a child begins with the size of its parent.
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
def test_memory_does_not_hold_the_file(folder, tmp_path):
    # A tenth of COCO: about 45 MB of JSON, which is 300 MB as Python objects.
    write_large(folder, images=11_829, annotations=86_000)
    command = [sys.executable, "-c", _PEAK, str(folder), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    images, objects, before, after = map(int, done.stdout.split())
    assert (images, objects) == (11_829, 86_000)
    assert after - before < 60


def test_items_are_read_once_and_in_order(folder):
    coco(folder, images=(3, 1, 2))
    _, items = read(folder)
    assert all(isinstance(one, Item) for one in items)
    assert [one.attributes[features.SOURCE_ID] for one in items] == [["1"], ["2"], ["3"]]
