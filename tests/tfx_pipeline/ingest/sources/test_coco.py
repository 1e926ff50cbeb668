"""COCO's folders and files: items, findings and errors."""

import json
import subprocess
import zipfile

import pytest

from tfx_pipeline.ingest import IngestError, Request
from tfx_pipeline.ingest.archives import read_member
from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.source import Item
from tfx_pipeline.ingest.sources.coco import source
from trainers.data import features

# As in conftest.py.
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
HEIGHT, WIDTH = 30, 40


def bytes_of(item):
    return read_member(item.path, offset=item.offset, length=item.length, deflated=item.deflated)


class TestWhatIsRead:
    def test_images_and_objects(self, folder, coco, read, annotation):
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
    def test_a_base_name_in_another_folder_is_another_image(
        self, folder, asked, stored, found, coco, png, read, image
    ):
        coco(folder, images=[image(1, file_name=asked)], files=())
        target = folder / "train2017" / stored
        target.parent.mkdir()
        target.write_bytes(png())
        items = read(folder)[1]
        missing = any(
            isinstance(one, IngestFinding) and one.kind == "image_missing" for one in items
        )
        assert missing is not found

    def test_what_is_optional_may_be_absent(self, folder, annotation, coco, read):
        bare = annotation(1, 1, area=None, iscrowd=None, segmentation=None)
        coco(folder, images=[{"id": 1, "file_name": "1.png"}], annotations=[bare])
        made, (item,) = read(folder)
        assert not made.masks
        assert item.attributes == {features.SOURCE_ID: ["1"]}
        assert item.objects.areas == (-1.0,)
        assert item.objects.is_crowd == (0,)
        assert item.objects.segmentations == (None,)

    def test_images_without_objects_stay(self, folder, coco, read, annotation):
        coco(folder, images=(1, 2), annotations=[annotation(1, 2)])
        _, (first, second) = read(folder)
        assert first.objects.boxes == ()
        assert len(second.objects.boxes) == 1

    def test_val_is_test_and_may_be_validation(self, folder, coco, read):
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
    def test_zips_as_they_are_downloaded(self, folder, compression, coco, read):
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

    def test_a_tar_of_images(self, folder, coco, read):
        coco(folder)
        expected = [bytes_of(one) for one in read(folder)[1]]
        subprocess.run(["tar", "cf", "train2017.tar", "train2017"], cwd=folder, check=True)
        for path in (folder / "train2017").iterdir():
            path.unlink()
        (folder / "train2017").rmdir()
        assert [bytes_of(one) for one in read(folder)[1]] == expected

    def test_named_files(self, folder, tmp_path, coco, read):
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

    def test_captions(self, folder, coco, read):
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

    def test_equal_names_are_made_unique(self, folder, coco, read):
        coco(folder, categories=[{"id": 2, "name": "crane"}, {"id": 7, "name": "crane"}])
        assert read(folder)[0].classes == ("crane (2)", "crane (7)")


class TestFindings:
    def test_an_annotation_of_no_image(self, folder, coco, read, annotation):
        coco(folder, images=(1,), annotations=[annotation(5, 99), annotation(4, 1)])
        _, found = read(folder)
        assert found[0] == IngestFinding(
            "image_missing",
            "instances_train2017.json",
            "annotation 5 is of image 99, which is not listed",
        )
        assert [one.name for one in found[1:]] == ["train2017/1.png"]

    def test_an_image_without_a_file(self, folder, coco, read):
        coco(folder, images=(1, 2), files=(2,))
        _, found = read(folder)
        what = f"image 1 of instances_train2017.json: {folder / 'train2017'} has no 1.png"
        assert found[0] == IngestFinding("image_missing", "train2017/1.png", what)
        assert found[1].name == "train2017/2.png"

    def test_a_file_without_an_image(self, folder, coco, read):
        coco(folder, files=(1, 2, 3))
        _, found = read(folder)
        assert found[2] == IngestFinding(
            "label_missing", "train2017/3.png", "not listed in instances_train2017.json"
        )

    def test_an_absent_category_is_left_to_clean(self, folder, coco, annotation, read):
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
    def test_an_annotation_that_is_none(self, folder, other, words, coco, annotation, read):
        bad = annotation(4, 1) | other
        bad = {key: value for key, value in bad.items() if value is not None}
        coco(folder, annotations=[bad, annotation(5, 1)])
        first = read(folder)[1][0]
        assert first.objects.ids == (5,)
        (finding,) = first.findings
        assert (finding.kind, finding.file) == ("annotation_invalid", "train2017/1.png")
        assert words in finding.detail

    def test_an_annotation_without_an_image_id(self, folder, coco, read, annotation):
        coco(folder, annotations=[annotation(5, None), annotation(4, 1)])
        finding = read(folder)[1][0]
        assert (finding.kind, finding.file) == ("annotation_invalid", "instances_train2017.json")
        assert "annotation 5: `image_id` must be an integer" in finding.detail


class TestRefusals:
    def refuses(self, read, folder, words, **options):
        with pytest.raises(IngestError, match=words):
            read(folder, **options)

    def test_no_annotation_file(self, folder, read):
        (folder / "train2017").mkdir(parents=True)
        self.refuses(
            read, folder, r"annotations/instances_train2017\.json does not exist.*only=val"
        )

    def test_no_images(self, folder, coco, read):
        coco(folder, files=())
        self.refuses(read, folder, r"train2017 has none of the images")
        (folder / "train2017").rmdir()
        self.refuses(read, folder, r"no train2017/, train2017\.zip or train2017\.tar.*only=val")

    def test_nothing_at_all(self, folder, read):
        folder.mkdir()
        self.refuses(read, folder, "has no annotations of COCO; expected a folder with")
        self.refuses(read, folder / "absent", "is not a folder")

    def test_two_years(self, folder, coco, read):
        coco(folder)
        coco(folder, "train2014")
        self.refuses(read, folder, "2014 and 2017.*set year=2017")
        assert read(folder, year="2014")[1][0].name == "train2014/1.png"
        self.refuses(read, folder, "no files of 2015; it has 2014, 2017", year="2015")

    @pytest.mark.parametrize("table", ["images", "annotations"])
    def test_an_id_that_is_there_twice(self, folder, table, coco, read, image, annotation):
        same = {"images": (1, image(1, file_name="b.png"))}
        if table == "annotations":
            same = {"annotations": [annotation(8, 1), annotation(4, 1), annotation(8, 2)]}
        coco(folder, **same)
        ident = 1 if table == "images" else 8
        self.refuses(
            read, folder, rf"train2017\.json has 2 {table} with id {ident}; ids must be unique"
        )

    def test_one_id_in_train_and_val_is_fine(self, folder, coco, read):
        coco(folder)
        coco(folder, "val2017")
        assert len(read(folder)[1]) == 4

    def test_a_category_that_is_there_twice_or_is_none(self, folder, coco, read):
        coco(folder, categories=[*CATEGORIES, {"id": 7, "name": "cow"}])
        self.refuses(read, folder, "two categories with id 7")
        coco(folder, categories=[{"id": "7", "name": "cow"}])
        self.refuses(read, folder, "a category has id '7' and name 'cow'")

    @pytest.mark.parametrize("key", ["images", "annotations", "categories"])
    def test_a_list_that_is_absent(self, folder, key, coco, read):
        coco(folder, **{key: None} if key == "categories" else {})
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
        self.refuses(read, folder, f"has no `{key}`")

    def test_categories_that_differ(self, folder, coco, read):
        coco(folder)
        coco(folder, "val2017", categories=CATEGORIES[:1])
        self.refuses(read, folder, "have different categories; the first difference is 2: 'dog'")

    def test_an_image_without_a_name(self, folder, coco, read):
        coco(folder, images=[{"id": 3, "file_name": ""}], files=(3,))
        self.refuses(read, folder, "an image has id 3 and file_name ''")

    @pytest.mark.parametrize("at", [0, 1, 300, -1])
    def test_json_that_does_not_parse(self, folder, at, coco, read):
        coco(folder)
        path = folder / "annotations" / "instances_train2017.json"
        whole = path.read_bytes()
        place = at % len(whole)
        path.write_bytes(whole[:place] + b"\x00" + whole[place + 1 :])
        self.refuses(
            read, folder, rf"instances_train2017\.json is not complete JSON: at byte {place:,}:"
        )

    def test_json_that_ends_early(self, folder, coco, read):
        coco(folder)
        path = folder / "annotations" / "instances_train2017.json"
        path.write_bytes(path.read_bytes()[:500])
        self.refuses(read, folder, "not complete JSON: at byte 500:.*download or export it again")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"val": "train"}, "val must be test or validation, got 'train'"),
            ({"only": "tent"}, "only must be train or val, got 'tent'"),
            ({"annotations": "a.json"}, "must be set together"),
            ({"annotations": "a.json", "images": "b"}, r"a\.json does not exist"),
            ({"annotations": ".", "images": ".", "split": "deaf"}, "split must be one of train"),
            ({"panoptic": True}, r"panoptic_train2017\.json does not exist"),
        ],
    )
    def test_options(self, folder, options, words, coco, read):
        coco(folder)
        self.refuses(read, folder, words, **options)


def test_items_are_read_once_and_in_order(folder, coco, read):
    coco(folder, images=(3, 1, 2))
    _, items = read(folder)
    assert all(isinstance(one, Item) for one in items)
    assert [one.attributes[features.SOURCE_ID] for one in items] == [["1"], ["2"], ["3"]]
