"""Members of folders, tars, nested tars and zips."""

import io
import tarfile
import zipfile

import pytest

from tfx_pipeline.ingest import archives
from tfx_pipeline.ingest.archives import members, members_within, read_member
from tfx_pipeline.ingest.source import IngestError

FILES = {"a/1.jpg": b"one", "a/2.jpg": b"", "b/3.jpg": bytes(range(256)) * 40}


def read(member):
    return read_member(
        member.path, offset=member.offset, length=member.length, deflated=member.deflated
    )


def contents(path, listing=members):
    return {member.name: read(member) for member in listing(path)}


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_a_folder_in_sorted_order_without_what_is_hidden(tmp_path):
    for name, data in {**FILES, ".git/x": b"no", "a/.DS_Store": b"no"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [member.name for member in members(tmp_path)] == sorted(FILES)
    assert contents(tmp_path) == FILES


def test_a_tar_and_tars_within_it(tmp_path):
    inner = {f"n{number}.tar": tar({f"{number}.jpg": bytes([number]) * 700}) for number in range(3)}
    (tmp_path / "outer.tar").write_bytes(tar({**inner, "./plain.jpg": b"p", "._hidden": b"no"}))
    assert contents(tmp_path / "outer.tar") == {
        "n0.tar/0.jpg": bytes(700),
        "n1.tar/1.jpg": b"\1" * 700,
        "n2.tar/2.jpg": b"\2" * 700,
        "plain.jpg": b"p",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        for name, data in {**FILES, "__MACOSX/a/._1.jpg": b"no"}.items():
            archive.writestr(name, data)
    assert contents(tmp_path / "x.zip") == FILES


def test_archives_within_a_folder(tmp_path):
    (tmp_path / "train.tar").write_bytes(tar(FILES))
    (tmp_path / "readme.txt").write_bytes(b"r")
    found = contents(tmp_path, members_within)
    expected = {f"train.tar/{name}": data for name, data in FILES.items()}
    assert found == {**expected, "readme.txt": b"r"}


def test_a_cut_tar_is_refused_wherever_the_cut_is(tmp_path):
    whole = tar(FILES)
    end = len(whole.rstrip(b"\0")) + 512
    for size in [100, 512, 700, 2000, 6000, end - 1000]:
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(
            IngestError, match=r"cut\.tar (is not a complete tar|is truncated|has no end)"
        ):
            list(members(tmp_path / "cut.tar"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.tar.gz", b"\x1f\x8b", "compressed tar; unpack it"),
        ("x.tar", b"not a tar at all" * 100, "not a complete tar or zip"),
        ("absent", None, "does not exist"),
    ],
)
def test_what_is_no_archive(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(IngestError, match=message):
        list(members(tmp_path / name))


def test_unsupported_zip_methods(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", b"a")
    with pytest.raises(IngestError, match="jpg uses compression method 14"):
        list(members(tmp_path / "x.zip"))


def test_a_part_that_is_not_there_any_more(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_member(str(tmp_path / "x"), offset=1, length=3) == b"234"
    with pytest.raises(OSError, match="2 are missing"):
        read_member(str(tmp_path / "x"), offset=3, length=4)
    with pytest.raises(OSError, match="damaged zip member"):
        read_member(str(tmp_path / "x"), offset=0, length=5, deflated=True)


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(50_000))
    (bomb,) = members(tmp_path / "x.zip")
    assert bomb.length < 500
    assert len(read(bomb)) == 50_000
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 40_000)
    with pytest.raises(OSError, match="unpacks to over 40,000 bytes"):
        read(bomb)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("n.npy", b"n")
    (tmp_path / "x.tar").write_bytes(tar({"1.jpg": b"one", "meta.npz": inner.getvalue()}))
    assert set(contents(tmp_path / "x.tar")) == {"1.jpg", "meta.npz"}


def test_a_damaged_inner_tar_is_refused_and_not_cut_short(tmp_path):
    inner = bytearray(tar({"a.jpg": b"a", "b.jpg": b"b"}))
    inner[1024:1100] = b"\xff" * 76
    (tmp_path / "x.tar").write_bytes(tar({"n01440764.tar": bytes(inner), "c.jpg": b"c"}))
    with pytest.raises(IngestError, match=r"within n01440764\.tar has no end mark"):
        list(members(tmp_path / "x.tar"))


def test_links_within_a_tar_are_named(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo("b.jpg")
        entry.type, entry.linkname = tarfile.LNKTYPE, "a.jpg"
        archive.addfile(entry)
    with pytest.raises(IngestError, match=r"b\.jpg is a link"):
        list(members(tmp_path / "x.tar"))
