"""Rules for class names, and their order."""

import pytest

from tfx_pipeline.ingest import IngestError, Request, jobs
from tfx_pipeline.ingest.class_names import check_names, class_name, sorted_names


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["b", "a"], ("a", "b")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["10.0", "9.0", "1.5"], ("1.5", "9.0", "10.0")),
        (["-1", "+2", "0"], ("-1", "0", "+2")),
        (["1e1", "9"], ("1e1", "9")),
        (["nan", "9", "10"], ("10", "9", "nan")),
    ],
)
def test_numbers_come_in_number_order(names, order):
    assert sorted_names(names, "here") == order


@pytest.mark.parametrize(
    "name", ["a\nb", "a\rb", "a\tb", "a\x0bb", "a\x85b", "a\u2028b", "a\u2029b", "a\0", ""]
)
def test_names_that_break_a_labels_file(name):
    assert len(f"{name}x".splitlines()) > 1 or "\t" in name or "\0" in name or not name
    with pytest.raises(IngestError, match=r"line break or control|is empty"):
        check_names([name, "other"], "here", typed=False)


@pytest.mark.parametrize("typed", [True, False])
def test_capitals_count_where_names_are_not_typed(typed):
    check_names(["A", "a", "cardigan"], "letters", typed=typed)
    if not typed:
        check_names(["Cardigan", "cardigan"], "ImageNet", typed=False)
        return
    for one, other in (("Cat", "cat"), ("STRASSE", "stra\u00dfe")):
        with pytest.raises(IngestError, match="differ only in case"):
            check_names([one, other], "here", typed=True)


def test_one_name_in_two_unicode_forms(tmp_path):
    assert class_name(" cafe\u0301 ") == "caf\u00e9"
    for split, cafe in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        for name in (cafe, "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / f"{split}.jpg").touch()
    source = jobs.get("folder")(Request(str(tmp_path), tmp_path))
    assert source.classes == ("caf\u00e9", "dog")
    assert [one.class_name for one in source.items] == ["caf\u00e9", "dog"] * 2
    (tmp_path / "test" / "Dog").mkdir()
    with pytest.raises(IngestError, match="'Dog' and 'dog' differ only in case"):
        jobs.get("folder")(Request(str(tmp_path), tmp_path))
