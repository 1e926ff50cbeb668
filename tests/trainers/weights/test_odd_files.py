"""Damaged, malicious and other files are rejected with a message, and no code in them runs."""

import gzip
import json
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from trainers.weights import WeightsError
from trainers.weights.files import read
from trainers.weights.pickle_machine import PickleError, Rules, load_data


class Attack:
    def __reduce__(self):
        return os.mkdir, (self.path,)

    path = ""


def npy(shape, data=b""):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def npz(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def safetensors(path, dtype, values, *, length=None):
    data = values.tobytes()
    info = {"dtype": dtype, "shape": [len(values)], "data_offsets": [0, len(data)]}
    head = json.dumps({"a": info}).encode()
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)
    return path


def refuse(path, message):
    with pytest.raises(WeightsError, match=message) as caught:
        read(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "npz", "safetensors", "h5", "keras", "bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty|cannot be read as"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><title>Sign in", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "error message of a server"),
        (gzip.compress(b"weights", mtime=0), "compressed with gzip; unpack it"),
    ],
    ids=["empty", "lfs", "html", "xml", "gzip"],
)
def test_what_a_download_left_instead(tmp_path, suffix, content, message):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    refuse(path, message)


def test_npz_files_that_are_none(tmp_path):
    refuse(npz(tmp_path / "shape.npz", a=npy((10**15,))), "do not fit in memory|cannot be read")
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    refuse(tmp_path / "one.npz", "cannot be read as npz")
    attack = Attack()
    attack.path = str(tmp_path / "run")
    refuse(npz(tmp_path / "code.npz", a=pickle.dumps(attack)), "a is .S.*not an array of numbers")
    np.savez(tmp_path / "object.npz", a=np.array([attack], dtype=object))
    refuse(tmp_path / "object.npz", "allow_pickle")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(attack))
    refuse(tmp_path / "pickle.npz", "cannot be read as npz")
    np.savez(tmp_path / "text.npz", a=np.array(["cat", "dog"]))
    refuse(tmp_path / "text.npz", "not an array of numbers")
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(attack))  # The attack is real.
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("length", [0, 5000, 2**62, 2**64 - 1])
def test_safetensors_whose_header_has_another_length(tmp_path, length):
    values = np.ones(2, "<f4")
    refuse(safetensors(tmp_path / "a.safetensors", "F32", values, length=length), "cannot be read")


@pytest.mark.parametrize(("value", "text"), [(np.nan, "1 of the 3"), (-np.inf, "1 of the 3")])
def test_weights_that_are_no_numbers(tmp_path, value, text):
    values = np.array([1, value, 2], "<f4")
    path = safetensors(tmp_path / "a.safetensors", "F32", values)
    refuse(path, f"{text} values of a are NaN or infinite")


def test_half_floats_become_float32(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", "F16", np.array([1, -2], "<f2"))
    np.testing.assert_array_equal(read(path).tensors["a"], np.float32([1, -2]))
    # 1.0 and -2.0 by the format's definition: the upper half of a float32.
    bits = np.float32([1, -2]).view("<u4") >> 16
    path = safetensors(tmp_path / "b.safetensors", "BF16", bits.astype("<u2"))
    found = read(path).tensors["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([1, -2]))


def test_endings_in_capitals(tmp_path):
    path = safetensors(tmp_path / "A.SAFETENSORS", "F32", np.ones(2, "<f4"))
    assert read(path).kind == "safetensors"


def test_a_pickle_without_end_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.weights.pickle_machine._MOST_OPCODES", 1000)
    rules = Rules(frozenset(), lambda *_: None, lambda _: None)
    path = tmp_path / "deep"
    path.write_bytes(b"\x80\x02" + b"]" * 10_000_000 + b".")
    started = time.process_time()
    with path.open("rb") as file, pytest.raises(PickleError, match="over 1,000 instructions"):
        load_data(file, rules)
    assert time.process_time() - started < 5
