"""TFLite metadata, read by the positions of `metadata_schema.fbs`, and what does not change."""

import io
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types
from flatbuffers.table import Table

from trainers.compression.convert import ConversionJob, convert_all, save_for_conversion
from trainers.compression.rewrites import Conversion
from trainers.compression.rewrites.metadata import ENTRY, add_metadata
from trainers.compression.tflite_graph import pack, unpack

pytestmark = pytest.mark.onednn

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "sept", "huit é", "nine")


class Reader:
    """Fields of a flatbuffer table by their position."""

    def __init__(self, buffer, position):
        self._table = Table(buffer, position)

    @classmethod
    def root(cls, buffer):
        assert flatbuffers.util.BufferHasIdentifier(buffer, 0, b"M001")
        return cls(buffer, flatbuffers.encode.Get(flatbuffers.packer.uoffset, buffer, 0))

    def _at(self, slot):
        found = self._table.Offset(4 + 2 * slot)
        return found + self._table.Pos if found else None

    def text(self, slot):
        at = self._at(slot)
        return None if at is None else self._table.String(at).decode()

    def byte(self, slot):
        at = self._at(slot)
        return 0 if at is None else self._table.Get(number_types.Uint8Flags, at)

    def number(self, slot):
        return self._table.Get(number_types.Uint32Flags, self._at(slot))

    def table(self, slot):
        return Reader(self._table.Bytes, self._table.Indirect(self._at(slot)))

    def tables(self, slot):
        relative = self._table.Offset(4 + 2 * slot)
        start, count = self._table.Vector(relative), self._table.VectorLen(relative)
        positions = [self._table.Indirect(start + 4 * index) for index in range(count)]
        return [Reader(self._table.Bytes, position) for position in positions]

    def floats(self, slot):
        relative = self._table.Offset(4 + 2 * slot)
        start, count = self._table.Vector(relative), self._table.VectorLen(relative)
        raw = bytes(self._table.Bytes)[start : start + 4 * count]
        return np.frombuffer(raw, "<f4").tolist()

    def has(self, slot):
        return self._at(slot) is not None


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """(without, with) metadata and labels: bytes of the same converted network."""
    folder = tmp_path_factory.mktemp("metadata")
    saved = save_for_conversion(trained, folder / "saved")
    jobs = [
        ConversionJob("plain", saved, "fp32", folder / "plain.tflite", (), rewrites=()),
        ConversionJob("shipped", saved, "fp32", folder / "shipped.tflite", LABELS),
    ]
    results = convert_all(jobs)
    assert [one.error for one in results] == ["", ""]
    assert results[1].rewrites == [{"name": "metadata", "applied": True, "labels": 10}]
    return tuple(job.output.read_bytes() for job in jobs)


def metadata(content):
    model = unpack(content)
    (entry,) = [one for one in model.metadata if one.name == ENTRY.encode()]
    return Reader.root(bytearray(model.buffers[entry.buffer].data))


def test_every_shipped_file_describes_its_input_and_scores(files):
    found = metadata(files[1])
    assert found.text(0) == "shipped"
    assert "Sightline" in found.text(1)
    assert found.text(7) == "1.0.0"
    (graph,) = found.tables(3)
    (image,), (scores,) = graph.tables(2), graph.tables(3)
    assert "images" in image.text(0)
    assert image.text(1) == "RGB image of 8 x 8 pixels, values 0 to 255"
    content = image.table(3)
    assert content.byte(0) == 2  # ImageProperties
    assert content.table(1).byte(0) == 1  # RGB
    size = content.table(1).table(1)
    assert (size.number(0), size.number(1)) == (8, 8)
    (unit,) = image.tables(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])
    assert (image.table(5).floats(0), image.table(5).floats(1)) == ([255.0], [0.0])
    assert scores.text(0) == "scores"
    assert (scores.table(5).floats(0), scores.table(5).floats(1)) == ([1.0], [0.0])
    (file,) = scores.tables(6)
    assert (file.text(0), file.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_the_labels_are_readable_in_place(files):
    with zipfile.ZipFile(io.BytesIO(files[1])) as archive:
        (member,) = archive.infolist()
        assert member.filename == "labels.txt"
        # MediaPipe: "Expected uncompressed zip archive."
        assert member.compress_type == zipfile.ZIP_STORED
        text = archive.read(member).decode()
    assert text.encode() in files[1]
    assert tuple(text.splitlines()) == LABELS


def test_nothing_else_changes(files, digits):
    plain, shipped = (unpack(content) for content in files)
    assert len(files[1]) - len(files[0]) < 1200
    (before,), (after,) = plain.subgraphs, shipped.subgraphs
    assert [one.name for one in before.tensors] == [one.name for one in after.tensors]
    assert len(before.operators) == len(after.operators)
    others = [one.name for one in shipped.metadata if one.name != ENTRY.encode()]
    assert others == [one.name for one in plain.metadata or ()]
    scores = []
    for content in files:
        runner = Interpreter(model_content=content, num_threads=1).get_signature_runner(
            "predict_tensor"
        )
        scores.append([runner(images=image[None])["scores"] for image in digits[0][:8]])
    np.testing.assert_array_equal(*scores)


def conversion(labels):
    return Conversion("again", "fp32", floats=bytes, reference=list, labels=labels)


def test_earlier_metadata_are_replaced(files):
    once, _ = add_metadata(files[0], conversion(LABELS))
    twice, _ = add_metadata(once, conversion(LABELS[::-1]))
    assert metadata(twice).text(0) == "again"
    assert add_metadata(files[0], conversion(LABELS))[0] == once


@pytest.mark.parametrize("labels", [(), LABELS[:3]])
def test_labels_of_another_number_are_not_attached_to_the_scores(labels, files):
    content, facts = add_metadata(files[0], conversion(labels))
    assert facts == {"labels": 0}
    (scores,) = metadata(content).tables(3)[0].tables(3)
    assert not scores.has(6)


def test_an_input_that_is_no_image_has_no_image_properties(files):
    model = unpack(files[0])
    graph = model.subgraphs[0]
    graph.inputs = [graph.operators[-1].inputs[0]]  # the logits
    content, _ = add_metadata(pack(model), conversion(LABELS))
    (given,) = metadata(content).tables(3)[0].tables(2)
    assert given.table(3).byte(0) == 1  # FeatureProperties
    assert not given.has(4)
