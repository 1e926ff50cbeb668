"""Finds the anomalies of the images of a data set before a training run.

Each record is read once and its image is decoded once, in parallel. About 60 bytes of it are kept
in memory and a thumbnail of 1 KB in an unnamed file, which suffices for a million images.
"""

import os
import struct
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import tensorflow as tf

from components.data_validation.anomaly import (
    KINDS,
    Anomaly,
    ImageAnomalies,
    Location,
    ValidatorSettings,
    limits_of,
)
from components.data_validation.name_series import series_of, split_across
from components.data_validation.near_duplicates import SIDE, Closest, near_duplicates
from components.data_validation.record_checks import (
    RecordFacts,
    check_record,
    filename_of,
    label_text,
    labels_of,
)
from trainers.data import features
from trainers.data.features import DatasetInfo
from trainers.data.records_check import shard_files

#: Called with the number of records read and their total.
Report = Callable[[int, int], None]

# A TFRecord file has a length and two checksums around each record.
_LENGTH, _BEFORE, _AROUND = "<Q", 12, 16
_REPORT_EVERY = 256


def find_anomalies(
    directory: Path, settings: ValidatorSettings | None = None, report: Report | None = None
) -> ImageAnomalies:
    """All anomalies of a data set.

    Args:
      directory: holds `dataset.json` and `Split-*`.
      settings: None for the defaults.
      report: callback for progress.

    Raises:
      DatasetError: `dataset.json` or a shard is missing.
    """
    settings = settings or ValidatorSettings()
    info = DatasetInfo.load(Path(directory))
    with tempfile.TemporaryFile() as thumbnails:
        scan = _Scan(info, settings, thumbnails, report)
        for split in features.SPLITS:
            if split in info.splits and info.splits[split].examples:
                scan.read(split, shard_files(directory, split, info))
        scan.find_class_gaps()
        scan.find_exact_duplicates()
        scan.find_near_duplicates()
        scan.find_series_across_splits()
        return scan.result()


def read_record(path: Path, offset: int) -> tf.train.Example:
    """The record that starts at byte `offset` of a shard.

    Raises:
      OSError, DecodeError: there is no record at this offset.
    """
    with path.open("rb") as file:
        rest = os.fstat(file.fileno()).st_size - offset - _BEFORE
        file.seek(offset)
        header = file.read(_BEFORE)
        if len(header) < _BEFORE:
            raise OSError(
                f"{path} ends at byte {offset}, within the {_BEFORE} bytes before a record"
            )
        (length,) = struct.unpack(_LENGTH, header[:8])
        # Checked before reading: Python would allocate the memory of a damaged length.
        if length > rest:
            raise OSError(f"{path}: the record at {offset} has {length} bytes, {rest} are left")
        return tf.train.Example.FromString(file.read(length))


class _Scan:
    """One pass over the records, and the checks that need all of them."""

    def __init__(
        self,
        info: DatasetInfo,
        settings: ValidatorSettings,
        thumbnails: IO[bytes],
        report: Report | None,
    ) -> None:
        self._info, self._settings = info, settings
        self._thumbnails, self._report = thumbnails, report
        self._expected = sum(split.examples for split in info.splits.values())
        self._splits: list[str] = []
        self._shards: list[Path] = []
        self._read: dict[str, int] = {}
        self._classes: dict[str, Counter[int]] = {}
        # Parallel arrays with one entry per image.
        self._split, self._shard, self._index = array("B"), array("I"), array("I")
        self._offset, self._label = array("Q"), array("q")
        self._digest, self._hash, self._decoded = bytearray(), array("Q"), array("B")
        self._series = array("q")
        self._counts: Counter[str] = Counter()
        self._listed: dict[str, list[Anomaly]] = {kind: [] for kind in KINDS}

    def read(self, split: str, files: list[str]) -> None:
        """Checks every record of one split."""
        self._splits.append(split)
        self._read[split], self._classes[split] = 0, Counter()
        for file in files:
            self._shards.append(Path(file))
            for index, offset, facts in self._check_records(file):
                self._keep(index, offset, facts)
                self._read[split] += 1
                done = sum(self._read.values())
                if self._report and (done % _REPORT_EVERY == 0 or done == self._expected):
                    self._report(done, self._expected)
        expected = self._info.splits[split].examples
        if self._read[split] != expected:
            detail = f"{split} has {self._read[split]} records, dataset.json states {expected}"
            self._add("record_count", detail)

    def _check_records(self, file: str) -> Iterator[tuple[int, int, RecordFacts]]:
        """(index, offset, facts) of a shard's records in order, checked by several threads.

        Not by `Dataset.map`, which ends at an error without naming the record. TensorFlow releases
        the interpreter lock while it decodes.
        """
        workers = os.cpu_count() or 1
        pending: deque[tuple[int, int, Future[RecordFacts]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for index, offset, record in self._records(file):
                future = pool.submit(check_record, record, self._info, self._settings)
                pending.append((index, offset, future))
                if len(pending) >= 4 * workers:
                    first_index, first_offset, first = pending.popleft()
                    yield first_index, first_offset, first.result()
            for first_index, first_offset, first in pending:
                yield first_index, first_offset, first.result()

    def _records(self, file: str) -> Iterator[tuple[int, int, bytes]]:
        iterator, index, offset = tf.data.TFRecordDataset(file).as_numpy_iterator(), 0, 0
        while True:
            try:
                record = next(iterator)
            except StopIteration:
                return
            except tf.errors.OpError as error:
                detail = f"the rest of the shard cannot be read: {error.message.split(' [')[0]}"
                location = Location(self._splits[-1], Path(file).name, index, offset)
                self._add("broken_record", detail, location)
                return
            yield index, offset, record
            index, offset = index + 1, offset + _AROUND + len(record)

    def _keep(self, index: int, offset: int, facts: RecordFacts) -> None:
        split = self._splits[-1]
        if facts.found:
            text = label_text(facts.labels, self._info)
            file = self._shards[-1].name
            location = Location(split, file, index, offset, facts.filename, text)
            for kind, detail in facts.found:
                self._add(kind, detail, location)
        self._classes[split].update(facts.labels)
        if not facts.digest:
            return
        self._split.append(len(self._splits) - 1)
        self._shard.append(len(self._shards) - 1)
        self._index.append(index)
        self._offset.append(offset)
        self._label.append(hash(facts.labels))
        self._digest += facts.digest
        self._hash.append(facts.hash)
        self._series.append(series_of(facts.filename, facts.labels))
        self._decoded.append(facts.thumbnail is not None)
        if facts.thumbnail is not None:
            self._thumbnails.write(facts.thumbnail.tobytes())

    def find_class_gaps(self) -> None:
        """Finds classes without an image in a split, and imbalance of the training classes."""
        offset, names = self._info.label_offset, self._info.classes
        what = "object" if self._info.task == features.DETECTION else "image"
        for split, counts in self._classes.items():
            for index, name in enumerate(names):
                if not counts[index + offset]:
                    self._add("class_absent", f"no {what} of {name!r} in {split}")
        training = self._classes.get("train", Counter())
        known = {i: training[i + offset] for i in range(len(names)) if training[i + offset]}
        if not known:
            return
        most, least = max(known, key=lambda i: known[i]), min(known, key=lambda i: known[i])
        ratio = known[most] / known[least]
        if ratio > self._settings.max_imbalance:
            detail = f"train has {known[most]} {what}s of {names[most]!r} and {known[least]} of "
            self._add("imbalance", f"{detail}{names[least]!r}, {ratio:.0f} to 1")

    def find_exact_duplicates(self) -> None:
        """Finds equal bytes within a split, in two splits, and with different labels."""
        digests = np.frombuffer(bytes(self._digest), dtype="S16")
        _, group, size = np.unique(digests, return_inverse=True, return_counts=True)
        same: dict[int, list[int]] = {}
        for row in np.flatnonzero(size[group] > 1):
            same.setdefault(int(group[row]), []).append(int(row))
        for rows in same.values():
            self._compare_equals(rows)

    def _compare_equals(self, rows: list[int]) -> None:
        first_of_split: dict[int, int] = {}
        first_of_label: dict[int, int] = {}
        for row in rows:
            split, label = self._split[row], self._label[row]
            elsewhere = [r for other, r in first_of_split.items() if other != split]
            otherwise = [r for other, r in first_of_label.items() if other != label]
            if split in first_of_split:
                self._pair("duplicate", row, first_of_split[split], "the same bytes")
            if elsewhere:
                self._pair("leakage", row, min(elsewhere), "the same bytes")
            if otherwise:
                self._pair("label_conflict", row, min(otherwise), "the same bytes")
            first_of_split.setdefault(split, row)
            first_of_label.setdefault(label, row)

    def find_series_across_splits(self) -> None:
        """Finds series, by name, in several splits, unless the data set was split by groups."""
        if self._info.group or len(self._splits) < 2:
            return
        series, splits = np.asarray(self._series), np.asarray(self._split)
        classes = self._info.num_classes if self._info.task == features.CLASSIFICATION else 1
        for row, earlier in split_across(series, splits, classes=classes).items():
            self._pair("series_split", row, earlier, "the names differ only in the last number")

    def find_near_duplicates(self) -> None:
        """Finds nearly equal images: of each, the most similar earlier image per kind."""
        rows = np.flatnonzero(np.frombuffer(self._decoded, np.uint8))
        if len(rows) < 2:
            return
        self._thumbnails.flush()
        closest = self._most_similar(rows)
        for kind, found in closest.items():
            for position in np.flatnonzero(np.isfinite(found.apart)):
                earlier = int(rows[found.earlier[position]])
                detail = f"difference {found.apart[position]:.3f}"
                self._pair(kind, int(rows[position]), earlier, detail)

    def _most_similar(self, rows: np.ndarray) -> dict[str, Closest]:
        """Kind -> the most similar earlier images of `rows` that do not have the same bytes."""
        digest = np.frombuffer(bytes(self._digest), "S16")[rows]
        split = np.frombuffer(self._split, np.uint8)[rows]
        label = np.frombuffer(self._label, np.int64)[rows]
        kinds = ("near_duplicate", "near_leakage", "near_label_conflict")
        closest = {kind: Closest(len(rows)) for kind in kinds}
        # In blocks: all pairs of a data set of similar images do not fit in memory.
        for pairs, apart in near_duplicates(
            np.frombuffer(self._hash, np.uint64)[rows],
            np.memmap(self._thumbnails, np.uint8, "r", shape=(len(rows), SIDE, SIDE)),
            max_bits=self._settings.near_bits,
            max_difference=self._settings.near_difference,
        ):
            one, other = pairs.T
            differ = digest[one] != digest[other]
            within = split[one] == split[other]
            conflict = label[one] != label[other]
            for kind, is_kind in zip(kinds, (within, ~within, conflict), strict=True):
                chosen = differ & is_kind
                closest[kind].add(pairs[chosen], apart[chosen])
        return closest

    def _pair(self, kind: str, row: int, earlier: int, detail: str) -> None:
        if self._counts[kind] >= self._settings.listed:
            self._counts[kind] += 1  # Avoids reading two records that would not be listed.
            return
        location, other = self._location(row), self._location(earlier)
        if "conflict" in kind:
            detail = f"{detail}, {location.label or 'no label'} and {other.label or 'no label'}"
        self._add(kind, detail, location, other)

    def _location(self, row: int) -> Location:
        shard = self._shards[self._shard[row]]
        feature = read_record(shard, self._offset[row]).features.feature
        return Location(
            self._splits[self._split[row]],
            shard.name,
            self._index[row],
            self._offset[row],
            filename_of(feature),
            label_text(labels_of(feature, self._info), self._info),
        )

    def _add(
        self,
        kind: str,
        detail: str,
        location: Location | None = None,
        other: Location | None = None,
    ) -> None:
        self._counts[kind] += 1
        if len(self._listed[kind]) < self._settings.listed:
            self._listed[kind].append(Anomaly(kind, detail, location, other))

    def result(self) -> ImageAnomalies:
        """All anomalies, in the order of `KINDS`."""
        return ImageAnomalies(
            name=self._info.name,
            fingerprint=self._info.fingerprint,
            records=self._read,
            counts={kind: self._counts[kind] for kind in KINDS if self._counts[kind]},
            limits=limits_of(self._settings, self._read),
            anomalies=tuple(one for listed in self._listed.values() for one in listed),
        )
