"""Public TFRecords, used in place without copying the shards.

Records in the Inception / Model Garden format for ImageNet and the TF Object Detection API's format
for COCO get a `dataset.json` and links to their shards. The file name decides the split:
`train-00000-of-01024`, `validation-*` or `val-*`, `test-*`, or another name of
`tfx_pipeline.ingest.split_words` in the name of the file or its folder.
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.files import file_digest
from tfx_pipeline.ingest import minival, progress
from tfx_pipeline.ingest.class_names import check_names, class_name
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.output import publish, removed_when_refused, work_folder, writing
from tfx_pipeline.ingest.shards import shard_path
from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.split_words import known_words, split_in_name
from tfx_pipeline.ingest.text_files import read_names
from trainers.data import features
from trainers.data.features import CLASSIFICATION, DETECTION, DatasetInfo, SplitInfo

_LAYOUT = "a folder of shards such as train-00000-of-01024 and validation-00000-of-00128"
_RECORDS = re.compile(r"tfrecords?|\.records?\b|\d{5}-of-\d{5}$", re.IGNORECASE)
_NOT_SHARDS = (".json", ".txt", ".csv", ".pbtxt", ".md", ".idx")
_BATCH = 64
_MAX_CLASSES = 1_000_000


def adopt(
    where: str | Path | None,
    out: Path,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
) -> DatasetInfo:
    """Writes a data set to the folder `out` that refers to existing TFRecords.

    Without a test split, the validation shards become it, because published figures are measured on
    them. Then a part of train becomes the validation split; see `tfx_pipeline.ingest.minival`.

    Args:
      where: the folder with the shards.
      out: the folder to write `dataset.json` and links to.
      name: name of the data set; None for the name of the folder.
      options: `label_offset` (-1 derives it from the smallest label), `classes` (a file with one
        class name per line), `validation` (the share of train to hold out; 0 for every hundredth
        shard).

    Raises:
      IngestError: no shards, a record without its image or label, or a truncated shard.
    """
    given = bind("tfrecord", known_options, options)
    folder = Path(where or "").expanduser()
    if where is None or not folder.is_dir():
        raise IngestError(f"`tfrecord` needs {_LAYOUT}, got {where}")
    if _within(folder, out) or _within(out, folder):
        raise IngestError(f"{out} and {folder} are inside each other; choose another --out")
    share = given.get("validation", 0.0)
    minival.check_share(share)
    shards = _shards(folder)
    key = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    with work_folder(out, key) as work, removed_when_refused(work):
        made = work / "out"
        shutil.rmtree(made, ignore_errors=True)
        found: dict[str, _Contents] = {}
        with progress.showing("reading records", None):
            contents = {file: _read(file) for files in shards.values() for file in files}
            for split, pieces in _pieces(shards, contents, share).items():
                placed = [
                    _link_or_copy(piece, shard_path(made, split, number, len(pieces)), contents)
                    for number, piece in enumerate(pieces)
                ]
                found[split] = _merged(placed)
        info = _info(name or folder.resolve().name, folder, found, given)
        if "validation" not in shards and "validation" in found:
            held = found["validation"].examples
            info = replace(info, held_out=held / (held + found["train"].examples))
        with writing(made / features.DATASET_FILE) as file:
            file.write(info.to_json().encode())
        publish(made, out)
        shutil.rmtree(work, ignore_errors=True)
    return info


def _pieces(
    shards: dict[str, list[Path]], contents: dict[Path, "_Contents"], share: float
) -> dict[str, list[minival.ShardPiece]]:
    """Split -> its shards; without a validation split, the training shards are divided."""
    found = {split: [minival.ShardPiece(file) for file in files] for split, files in shards.items()}
    if "validation" in shards or "train" not in shards:
        if share:
            have = ", ".join(shards)
            raise IngestError(
                f"validation={share} is only for records without a validation split; these have "
                f"{have}: remove the option"
            )
        return found
    train = [minival.Shard(file, tuple(contents[file].images)) for file in shards["train"]]
    found["train"], found["validation"] = minival.hold_out(train, share)
    return {split: found[split] for split in features.SPLITS if found.get(split)}


def _link_or_copy(
    piece: minival.ShardPiece, target: Path, contents: dict[Path, "_Contents"]
) -> "_Contents":
    """Links a shard, or copies a part of one; returns the contents of `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if piece.records is None:
        target.symlink_to(piece.file.resolve())
        return contents[piece.file]
    minival.copy_records(
        piece, target, lambda file: (one for some in _batches(file) for one in some)
    )
    return _read(target)


def known_options(*, label_offset: int = -1, classes: str = "", validation: float = 0.0) -> None:
    """The signature of the options of `adopt`."""


@dataclass
class _Contents:
    """The contents of shards: label -> count and name, numbers of records and objects, digests."""

    labels: Counter[int] = field(default_factory=Counter)
    names: dict[int, str] = field(default_factory=dict)
    examples: int = 0
    objects: int = 0
    detection: bool = False
    masks: bool = True
    own: bool = True
    digests: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def _merged(parts: Sequence[_Contents]) -> _Contents:
    """The contents of several shards, without digests of images."""
    whole = _Contents()
    for one in parts:
        whole.labels.update(one.labels)
        whole.names = {**one.names, **whole.names}
        whole.examples += one.examples
        whole.objects += one.objects
        whole.detection |= one.detection
        whole.masks &= one.masks
        whole.own &= one.own
        whole.digests += one.digests
    return whole


def _within(inner: Path, outer: Path) -> bool:
    return inner.resolve().is_relative_to(outer.resolve())


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Split -> its shards, sorted; see `adopt` for how splits are filled."""
    found: dict[str, list[Path]] = {}
    unknown: list[Path] = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or not file.is_file() or file.name.endswith(_NOT_SHARDS):
            continue
        split = split_in_name(name.as_posix())
        if split:
            found.setdefault(split, []).append(file)
        elif _RECORDS.search(file.name):
            unknown.append(file)
    if unknown and found:
        raise IngestError(
            f"{unknown[0]} has no name of a split, unlike {next(iter(found.values()))[0]}; names "
            f"of splits are {known_words()}: rename the file or move it away"
        )
    if "train" not in found and "test" not in found and "validation" not in found:
        raise IngestError(f"{folder} has no shards named after a split; expected {_LAYOUT}")
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return {split: found[split] for split in features.SPLITS if split in found}


def _read(file: Path) -> _Contents:
    contents = _Contents()
    for serialized in _batches(file):
        _count(contents, serialized, file)
        progress.tick(len(serialized))
    contents.digests.append(file_digest(file))
    return contents


def _batches(file: Path) -> Iterator[list[bytes]]:
    import tensorflow as tf

    with file.open("rb") as opened:
        if opened.read(2) == b"\x1f\x8b":
            raise IngestError(f"{file} is gzipped; unpack it, as random access is needed")
    try:
        for batch in tf.data.TFRecordDataset(str(file)).batch(_BATCH).as_numpy_iterator():
            yield [bytes(one) for one in batch]
    except tf.errors.DataLossError as error:
        raise IngestError(f"{file} is truncated or damaged; copy it again") from error


def _count(contents: _Contents, serialized: list[bytes], file: Path) -> None:
    import tensorflow as tf

    varied = {
        key: tf.io.VarLenFeature(kind)
        for key, kind in (
            (features.LABEL, tf.int64),
            (features.TEXT, tf.string),
            (features.OBJECT_LABEL, tf.int64),
            (features.OBJECT_TEXT, tf.string),
            (features.XMIN, tf.float32),
            (features.MASK, tf.string),
            (features.ID, tf.string),
            *((key, tf.string) for key in features.SLICES),
        )
    }
    wanted = {**varied, features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    try:
        parsed = tf.io.parse_example(serialized, wanted)
    except tf.errors.InvalidArgumentError as error:
        raise IngestError(
            f"{file} from record {contents.examples}: not tf.Examples with {features.IMAGE!r}"
        ) from error
    start, contents.examples = contents.examples, contents.examples + len(serialized)
    contents.images += map(minival.digest_of, parsed[features.IMAGE].numpy().tolist())
    boxes = parsed[features.XMIN].values.shape[0]
    whole = parsed[features.LABEL]
    # ImageNet's records may have boxes too, but an image has one class.
    if whole.values.shape[0] == 0 and (boxes or contents.detection or _is_detection(serialized[0])):
        contents.detection = True
        contents.objects += int(boxes)
        contents.masks &= bool(parsed[features.MASK].values.shape[0] == boxes)
        _count_labels(contents, parsed[features.OBJECT_LABEL], parsed[features.OBJECT_TEXT])
    else:
        if whole.values.shape[0] != len(serialized):
            raise IngestError(
                f"{file} records {start} to {contents.examples - 1}: {len(serialized)} records "
                f"with {whole.values.shape[0]} labels; each needs one {features.LABEL!r}"
            )
        _count_labels(contents, whole, parsed[features.TEXT])
    own = [features.ID, *features.SLICES]
    contents.own &= all(parsed[key].values.shape[0] == len(serialized) for key in own)


def _is_detection(serialized: bytes) -> bool:
    """Whether a record is for detection; without objects, its lists are empty."""
    import tensorflow as tf

    return features.XMIN in tf.train.Example.FromString(serialized).features.feature


def _count_labels(contents: _Contents, labels: Any, texts: Any) -> None:
    numbers = labels.values.numpy().tolist()
    contents.labels.update(numbers)
    names = texts.values.numpy().tolist()
    if len(names) == len(numbers):
        for number, text in zip(numbers, names, strict=True):
            contents.names.setdefault(number, text.decode("utf-8", "replace"))


def _info(
    name: str,
    folder: Path,
    found: dict[str, _Contents],
    given: dict[str, Any],
) -> DatasetInfo:
    labels = sorted({label for one in found.values() for label in one.labels})
    if not labels:
        raise IngestError(f"{folder}: no record has a label")
    texts = {number: text for one in found.values() for number, text in one.names.items()}
    offset = given.get("label_offset", -1)
    if offset < 0:
        offset = _offset(folder, labels, texts, given.get("classes", ""))
    classes = _classes(labels, texts, offset=offset, given=given.get("classes", ""))
    fingerprint = hashlib.sha256("".join(d for one in found.values() for d in one.digests).encode())
    detection = any(one.detection for one in found.values())
    own = all(one.own for one in found.values())
    slices = (*features.SLICES, features.SLICE_OBJECTS) if detection else features.SLICES
    return DatasetInfo(
        name=name,
        task=DETECTION if detection else CLASSIFICATION,
        classes=classes,
        label_offset=offset,
        splits={
            split: SplitInfo(
                examples=one.examples,
                shards=len(one.digests),
                per_class={text: one.labels[index + offset] for index, text in enumerate(classes)},
                objects=one.objects,
            )
            for split, one in found.items()
        },
        fingerprint=fingerprint.hexdigest(),
        source=f"TFRecords of {folder.resolve().name}, in place",
        slices=slices,
        masks=detection and all(one.masks for one in found.values()),
        foreign=not own,
    )


def _offset(folder: Path, labels: list[int], texts: dict[int, str], given: str) -> int:
    """The label of the first class, by the smallest label or the given class names.

    Raises:
      IngestError: it is ambiguous whether labels start at 0 or 1.
    """
    names = _given_names(given) if given else []
    if names:
        fitting = [
            offset
            for offset in (0, 1)
            if labels[0] >= offset
            and labels[-1] - offset < len(names)
            and all(names[label - offset] == class_name(text) for label, text in texts.items())
        ]
        if len(fitting) == 1:
            return fitting[0]
    if labels[0] == 0 or (labels[0] == 1 and not names):
        return labels[0]
    raise IngestError(
        f"the labels of {folder} range from {labels[0]} to {labels[-1]}, so it is unclear whether "
        "they start at 0 or 1; set label_offset=0 or label_offset=1"
    )


def _given_names(file: str) -> list[str]:
    return [class_name(line) for line in read_names(Path(file).expanduser())]


def _classes(
    labels: list[int], texts: dict[int, str], *, offset: int, given: str
) -> tuple[str, ...]:
    """Names in label order; a label without a name gets its number as name."""
    if given:
        names = _given_names(given)
    elif labels[-1] - offset >= _MAX_CLASSES:
        raise IngestError(
            f"labels range from {labels[0]} to {labels[-1]}, more than {_MAX_CLASSES:,} classes; "
            "labels must start at 0 or 1: renumber them"
        )
    else:
        names = [texts.get(label, str(label)) for label in range(offset, labels[-1] + 1)]
    if labels[0] < offset or labels[-1] - offset >= len(names):
        raise IngestError(
            f"labels range from {labels[0]} to {labels[-1]}, which {len(names)} classes from "
            f"{offset} do not cover; set label_offset= and classes="
        )
    names = [class_name(one) or str(index + offset) for index, one in enumerate(names)]
    twice = {name for name, count in Counter(names).items() if count > 1}
    classes = tuple(
        f"{name} ({index + offset})" if name in twice else name for index, name in enumerate(names)
    )
    check_names(classes, "the records' class names", typed=False)
    return classes
