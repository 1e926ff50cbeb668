"""Files of PyTorch are read with the same values, without running code."""

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from trainers.weights import WeightsError, initialize
from trainers.weights.files import read
from trainers.weights.torch_files import read_torch

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


@pytest.fixture(scope="session")
def torch_data(weights_data):
    """The folder of files that PyTorch saved; see tools/make_torch_fixtures.py."""
    return weights_data / "torch"


@pytest.fixture(scope="session")
def expected(torch_data):
    with np.load(torch_data / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "zip4.pth", "legacy4.pth"])
def test_every_kind_of_tensor_is_what_pytorch_saved(name, torch_data, expected):
    found, notes = read_torch(torch_data / name)
    assert notes == ()
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_floats_become_float32_and_the_file_is_closed(torch_data, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes((torch_data / "legacy.pth").read_bytes())
    file = read(copy)
    assert file.kind == "torch"
    assert {file.tensors[name].dtype for name in ("float16", "float64", "bfloat16")} == {
        np.dtype(np.float32)
    }
    copy.write_bytes(b"")  # What was read does not depend on the file.
    assert file.tensors["float32"].shape == (4, 6)


def test_a_checkpoint_of_a_training_script_starts_a_model(torch_data, make, their_logits):
    model, config = make("resnet18", 64, width=4)
    report = initialize(model, torch_data / "checkpoint.pth.tar", config)
    logits = model(their_logits["images_64"], training=False)
    scale = np.abs(their_logits["torchvision_resnet18"]).max()
    np.testing.assert_allclose(logits, their_logits["torchvision_resnet18"], atol=1e-5 * scale)
    assert report.notes[0] == ("read from 'state_dict'; skipped: epoch, arch, best_acc1, optimizer")


def test_parameters_are_tensors(torch_data):
    found, _ = read_torch(torch_data / "parameters.pt")
    assert {name: value.shape for name, value in found.items()} == {"weight": (3, 2), "bias": (3,)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module.pth", "it names torch.nn.modules.linear.Linear"),
        ("script.pt", "is a TorchScript program"),
    ],
)
def test_whole_models_are_refused_with_what_to_save_instead(name, message, torch_data):
    with pytest.raises(WeightsError, match=message):
        read_torch(torch_data / name)


class Ref:
    """A storage, for `Pickler.persistent_id`."""

    def __init__(self, key="0", count=4, kind="FloatStorage"):
        self.key, self.count, self.kind = key, count, kind


class Writer(pickle._Pickler):
    """Writes PyTorch's names without PyTorch; Python's own class, so that tests may bend it."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj):
        if isinstance(obj, Ref):
            return ("storage", Named("torch", obj.kind), obj.key, "cpu", obj.count)
        return None

    def save_named(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj):
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)


class Named:
    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


Writer.dispatch[Named] = Writer.save_named
Writer.dispatch[Call] = Writer.save_call
REBUILD = Named("torch._utils", "_rebuild_tensor_v2")


def tensor(ref=None, offset=0, shape=(2, 2), strides=(2, 1)):
    return Call(REBUILD, ref or Ref(), offset, shape, strides, False, OrderedDict())


def pickled(value) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, 2).dump(value)
    return buffer.getvalue()


def legacy(
    path: Path, value, *, counts=(4,), keys=("0",), nbytes=16, magic=MAGIC, raw=b"", system=None
):
    """A legacy file; `raw` replaces the pickle of `value`."""
    parts = [pickled(magic), pickled(1001), pickled(system or SYSTEM), raw or pickled(value)]
    parts.append(pickled(list(keys)))
    parts += [struct.pack("<q", count) + bytes(nbytes) for count in counts]
    path.write_bytes(b"".join(parts))
    return path


def zipped(path: Path, value, *, members=None, raw=b"", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", raw or pickled(value))
        for name, content in (members or {"data/0": bytes(16)}).items():
            archive.writestr(f"archive/{name}", content)
    return path


def test_the_tests_own_files_are_read(tmp_path):
    for path in (
        legacy(tmp_path / "a.pth", {"w": tensor()}),
        zipped(tmp_path / "b.pth", {"w": tensor()}),
    ):
        found, _ = read_torch(path)
        np.testing.assert_array_equal(found["w"], np.zeros((2, 2), np.float32))


class Shell:
    """Code that `pickle.load` would run."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def hostile(marker: Path) -> dict[str, bytes]:
    """Name -> a pickle that Python's own machine would run, or choke on."""
    run = pickle.dumps(Shell(marker), 2)
    body = run[2:-1]
    evaluate = f"__import__('os').makedirs({str(marker)!r}, exist_ok=True)".encode()
    name = b"cbuiltins\neval\n"
    return {
        "os.system by REDUCE": run,
        "os.system in protocol 4": pickle.dumps(Shell(marker), 4),
        "os.system in protocol 0": pickle.dumps(Shell(marker), 0),
        "eval": b"\x80\x02" + name + b"X" + struct.pack("<I", len(evaluate)) + evaluate + b"\x85R.",
        "nested in a state dict": b"\x80\x02}U\x01w" + body + b"s.",
        "nested in a rebuild": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"tR.",
        "by the memo": b"\x80\x02" + name + b"q\x000h\x00(U\x011tR.",
        "by INST": b"\x80\x02(U\x011ibuiltins\neval\n.",
        "by OBJ": b"\x80\x02(" + name + b"U\x011o.",
        "by NEWOBJ": b"\x80\x02" + name + b"U\x011\x85\x81.",
        "by an extension": b"\x80\x02\x82\x01.",
        "by STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        "an attribute of an allowed module": b"\x80\x02ccollections\n_sys.modules\n.",
        "a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__init__\x93.",
        "a call of a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "a call of a string": b"\x80\x02U\x04eval)R.",
        "attributes for a name": b"\x80\x02ccollections\nOrderedDict\n}U\x01aK\x01sb.",
        "attributes for a list": b"\x80\x02]}U\x01aK\x01sb.",
        "a key that hashes": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
        "a huge number": b"\x80\x02\x8b" + struct.pack("<i", 10_000) + b"\x7f" * 10_000 + b".",
        "a length beyond the file": b"\x80\x02\x8d" + struct.pack("<Q", 2**62) + b"abc.",
        "a memo that is not there": b"\x80\x02h\x07.",
        "values below the mark": b"\x80\x02K\x01(Ra.",
        "no value": b"\x80\x02.",
        "two values": b"\x80\x02K\x01K\x02.",
        "a frozen set": b"\x80\x04(K\x01\x91.",
    }


@pytest.mark.parametrize("layout", ["legacy", "zip", "first pickle"])
@pytest.mark.parametrize("attack", hostile(Path("marker")))
def test_a_hostile_pickle_is_refused_and_not_run(attack, layout, tmp_path):
    marker = tmp_path / "ran"
    raw, path = hostile(marker)[attack], tmp_path / "hostile.pth"
    if layout == "legacy":
        legacy(path, None, raw=raw)
    elif layout == "zip":
        zipped(path, None, raw=raw)
    else:
        path.write_bytes(raw)
    with pytest.raises(WeightsError, match=r"hostile\.pth (is rejected|is a pickle, but not)"):
        read(path)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path):
    for attack in (
        "os.system by REDUCE",
        "os.system in protocol 4",
        "eval",
        "nested in a state dict",
    ):
        marker = tmp_path / attack
        pickle.loads(hostile(marker)[attack])
        assert marker.exists()


HUGE = 2**40
BAD_TENSORS = {
    "offset behind the storage": (tensor(offset=4), "outside of its storage"),
    "window over the end": (tensor(offset=1), "outside of its storage"),
    "huge strides": (tensor(strides=(HUGE, 1)), "outside of its storage"),
    "huge shape over few bytes": (tensor(shape=(HUGE, HUGE), strides=(0, 0)), "outside"),
    "negative offset": (tensor(offset=-1), "not integers"),
    "negative stride": (tensor(strides=(-2, 1)), "not integers"),
    "negative size": (tensor(shape=(-1, 2)), "not integers"),
    "a float for a size": (tensor(shape=(2.0, 2)), "not integers"),
    "a bool for a size": (tensor(shape=(True, 2)), "not integers"),
    "shape and strides of other lengths": (tensor(strides=(1,)), "do not fit together"),
    "too many axes": (tensor(shape=(1,) * 33, strides=(1,) * 33), "do not fit together"),
    "a storage that is none": (Call(REBUILD, 7, 0, (1,), (1,), False, {}), "do not fit together"),
    "too few arguments": (Call(REBUILD, Ref()), "wrong kind"),
    "an unknown storage": (tensor(Ref(kind="QInt8Storage")), "torch.QInt8Storage"),
    "a negative count": (tensor(Ref(count=-4)), "not supported"),
    "a storage in two ways": ([tensor(), tensor(Ref(count=3), 0, (1,), (1,))], "in two ways"),
}


@pytest.mark.parametrize("layout", [legacy, zipped])
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(case, layout, tmp_path):
    value, message = BAD_TENSORS[case]
    with pytest.raises(WeightsError, match=message):
        read_torch(layout(tmp_path / "bad.pth", {"w": value}))


def test_counts_that_the_file_does_not_have_are_refused(tmp_path):
    huge = {"w": tensor(Ref(count=HUGE), 0, (HUGE,), (1,))}
    with pytest.raises(WeightsError, match=r"truncated: it ends \d+ bytes too soon"):
        read_torch(legacy(tmp_path / "a.pth", huge, counts=(HUGE,)))
    with pytest.raises(WeightsError, match="has 3 elements, but its tensors need 4"):
        read_torch(legacy(tmp_path / "b.pth", {"w": tensor()}, counts=(3,)))
    with pytest.raises(WeightsError, match="has 8 bytes, not 16"):
        read_torch(zipped(tmp_path / "c.pth", {"w": tensor()}, members={"data/0": bytes(8)}))
    with pytest.raises(WeightsError, match="storage '0' is not in the file"):
        read_torch(zipped(tmp_path / "d.pth", {"w": tensor()}, members={"data/1": bytes(16)}))
    with pytest.raises(WeightsError, match="no tensor uses storage '1'"):
        read_torch(legacy(tmp_path / "e.pth", {"w": tensor()}, keys=("1",)))


def test_many_tensors_over_few_bytes_are_refused(tmp_path):
    shared = {f"w{number}": tensor() for number in range(5)}
    with pytest.raises(WeightsError, match="share far fewer stored ones"):
        read_torch(zipped(tmp_path / "a.pth", shared))


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = zipped(
        tmp_path / "bomb.pth",
        {"w": tensor(Ref(count=1 << 20), 0, (1 << 20,), (1,))},
        members={"data/0": bytes(4 << 20)},
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="is compressed, which PyTorch never does"):
        read_torch(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_every_truncation_is_refused(name, torch_data, tmp_path):
    content = (torch_data / name).read_bytes()
    path = tmp_path / "cut.pth"
    for end in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            read(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_flipped_bytes_are_read_or_refused(name, torch_data, tmp_path):
    content = (torch_data / name).read_bytes()
    path, rng = tmp_path / "flipped.pth", np.random.default_rng(0)
    for at in rng.choice(len(content), 300, replace=False):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << (at % 8))]) + content[at + 1 :])
        with contextlib.suppress(WeightsError):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x00" * 257 + b"ustar\x00" + b"\x00" * 300, "is a tar archive"),
        (pickle.dumps([1, 2], 2), "a pickle, but not one of PyTorch"),
    ],
)
def test_other_files_are_named_for_what_they_are(content, message, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read(path)


def test_what_holds_no_state_dict_says_what_it_holds(tmp_path):
    with pytest.raises(WeightsError, match="holds a tensor, not a state dict"):
        read_torch(legacy(tmp_path / "a.pth", tensor()))
    with pytest.raises(WeightsError, match="has no named tensors, only epoch, lr"):
        read_torch(legacy(tmp_path / "b.pth", {"epoch": 3, "lr": 0.1}, counts=(), keys=()))
    for name in ("model_ema", "ema", "weights", "state_dict_ema"):
        found, notes = read_torch(legacy(tmp_path / "d.pth", {name: {"w": tensor()}, "epoch": 1}))
        assert list(found) == ["w"]
        assert notes == (f"read from {name!r}; skipped: epoch",)
    looped = {"w": tensor()}
    nested = {"model": {"state_dict": looped, "epoch": 1}, "ema": {"w": tensor()}}
    found, notes = read_torch(legacy(tmp_path / "c.pth", nested))
    assert list(found) == ["w"]
    assert notes == (
        "read from 'model'; skipped: ema",
        "read from 'state_dict'; skipped: epoch",
    )
    mixed = {"w": tensor(), "version": 2}
    assert read_torch(legacy(tmp_path / "d.pth", mixed))[1] == (
        "skipped, as they are not tensors: version",
    )


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    looped = b"\x80\x02}q\x00U\x05modelh\x00s."
    with pytest.raises(WeightsError, match="has no named tensors, only model"):
        read_torch(legacy(tmp_path / "a.pth", None, raw=looped, counts=(), keys=()))


def test_a_big_endian_file_is_refused(tmp_path):
    system = {**SYSTEM, "little_endian": False}
    with pytest.raises(WeightsError, match="big-endian"):
        read_torch(legacy(tmp_path / "a.pth", {"w": tensor()}, system=system))
    members = {"data/0": bytes(16), "byteorder": b"big"}
    with pytest.raises(WeightsError, match="big-endian"):
        read_torch(zipped(tmp_path / "b.pth", {"w": tensor()}, members=members))
