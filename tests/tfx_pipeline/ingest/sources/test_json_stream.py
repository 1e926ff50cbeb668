"""JSON read as a stream, and the offset of errors."""

import json
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfx_pipeline.ingest import IngestError
from tfx_pipeline.ingest.sources.json_stream import Document, read_list

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(1 - 2**63, 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8")),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=10,
)
ENTRIES = st.lists(st.dictionaries(st.text("xyz"), VALUES, max_size=4), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=ENTRIES, other=VALUES, first=st.booleans())
def test_entries_are_those_of_json(tmp_path, wanted, other, first):
    pairs = [("wanted", wanted), ("other", other)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(dict(pairs if first else pairs[::-1])), encoding="utf-8")
    assert list(read_list(Document(path), "wanted")) == wanted


def test_a_file_within_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.json", json.dumps({"wanted": [{"id": 1}]}))
    document = Document(tmp_path / "a.zip", "in/a.json")
    assert list(read_list(document, "wanted")) == [{"id": 1}]
    assert (document.name, str(document)) == ("a.json", f"{tmp_path}/a.zip/in/a.json")


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        (b"", 0),
        (b'{"wanted": [{"id": 1}', 21),
        (b'{"wanted": [{"id": 1}]} {', 24),
        (b'{"wanted": [{"id": NaN}]}', 19),
        (b'{"wanted": [{"id": 01}]}', 21),
        (b'{"wanted": [{"id": "\xff"}]}', 20),
        (b"{'wanted': []}", 1),
    ],
)
def test_the_byte_that_is_wrong_is_named(tmp_path, text, offset):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(IngestError, match=rf"a\.json is not complete JSON: at byte {offset}: \w"):
        list(read_list(Document(path), "wanted"))


@pytest.mark.parametrize("place", [2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5])
def test_the_byte_is_right_in_any_block(tmp_path, place):
    entries = ", ".join(f'{{"id": {number:06d}}}'.replace(" 0", " 1") for number in range(20_000))
    whole = f'{{"wanted": [{entries}]}}'.encode()
    path = tmp_path / "a.json"
    path.write_bytes(whole[:place] + b"\x01" + whole[place + 1 :])
    with pytest.raises(IngestError, match=f"at byte {place:,}:"):
        list(read_list(Document(path), "wanted"))


def test_an_entry_that_is_no_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"wanted": [{"id": 1}, 2]}')
    with pytest.raises(IngestError, match="an entry of 'wanted' is 2, not an object"):
        list(read_list(Document(path), "wanted"))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(IngestError, match="cannot be read"):
        list(read_list(Document(tmp_path / "absent.json"), "wanted"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.json", json.dumps({"wanted": [{"id": "x" * 200}]}))
    damaged = (tmp_path / "a.zip").read_bytes().replace(b"xxxx", b"xxxy", 1)
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(IngestError, match="cannot be read: Bad CRC-32"):
        list(read_list(Document(tmp_path / "a.zip", "a.json"), "wanted"))
