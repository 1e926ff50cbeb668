"""Predictions of a model on a server, for every example of a split of records.

The server receives the encoded images, so its own preprocessing is evaluated. Scores of all classes
come from its image signature where this returns all of them, else from its signatures `preprocess`
and `predict_tensor`. Classes are paired by name; the image signature returns the names.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from core import bundle as bundles
from serving.client import Client, ClientError
from serving.client.address import parse_address
from serving.client.api import ModelSpec
from trainers.data.features import DatasetInfo
from trainers.evaluation.comparison import ComparisonError, ModelPredictions
from trainers.evaluation.predictions import Predictions
from trainers.registry import nearest

if TYPE_CHECKING:
    from trainers.data.reader import ParsedRecords

A = TypeVar("A")
B = TypeVar("B")

_PATH, _METRICS = "/v1/models/", "/monitoring/prometheus/metrics"
# Images of a request. Two requests at a time hide their latency.
_IMAGES, _THREADS = 16, 2
_TIMEOUT_S, _RETRIES = 300.0, 6
_LOG_EVERY_S = 10.0


def is_server(given: str) -> bool:
    """Whether a model is given as the address of a server."""
    return "://" in given


def names_model(given: str) -> bool:
    """Whether the address of a server has the name of a model."""
    return bool(given.partition(_PATH)[2].strip("/"))


def predict_served(
    given: str, *, model: str, data: Path | None, split: str, notify: Callable[[str], None]
) -> ModelPredictions:
    """The predictions of a served model, each example of the split exactly once.

    Args:
      given: `http://host:8501` or `grpc://host:8500`, with `/v1/models/NAME` or
        `/v1/models/NAME/versions/N` after it, or without.
      model: its name, if the address has none.
      data: folder of records.
      split: of the records.
      notify: receives lines about progress and about class names that are assumed.

    Raises:
      ClientError: the server is unreachable, lacks the model, or rejects an image.
      ComparisonError: no model or records are given, or the server returns no scores of all
        classes, or not enough names.
      DataError: a record lacks its label or image; names the file and the record.
      DatasetError: the records are of another task or have classes that the model lacks.
    """
    url, spec = _address(given, model)
    if data is None:
        raise ComparisonError(f"{given} needs records to evaluate: give --data")
    info = DatasetInfo.load(data)
    what = f"{spec} at {url}"
    info.check_task("classification", what)
    with Client(url, timeout_s=_TIMEOUT_S, retries=_RETRIES) as client:
        server = _Server(client, spec, info, what)
        progress = _Progress(info, split, what, notify)
        parts: list[tuple[_Images, np.ndarray]] = []
        for request, scores in _in_order(server.scores, _requests(data, info, split)):
            parts.append((request, scores))
            progress.add(len(scores))
    if not parts:
        raise ComparisonError(f"the split {split} of {data} has no examples")
    classes = server.classes(notify)
    positions = np.asarray(info.class_positions(classes, what), np.int32)
    sent, scores = zip(*parts, strict=True)
    found = Predictions(
        ids=np.concatenate([one.ids for one in sent]),
        labels=positions[np.concatenate([one.labels for one in sent])],
        scores=np.concatenate(scores),
        slices={key: np.concatenate([one.slices[key] for one in sent]) for key in sent[0].slices},
    )
    name = f"{spec.model}@{url.partition('://')[2]}"
    return ModelPredictions(**vars(found), name=name, classes=classes)


@dataclass(frozen=True)
class _Images:
    """A request: encoded images, with the label, identity and slices of each."""

    encoded: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    slices: dict[str, np.ndarray]


class _Server:
    """Scores of all classes from one model, whose class names it collects."""

    def __init__(self, client: Client, spec: ModelSpec, info: DatasetInfo, what: str) -> None:
        self._client, self._spec, self._info, self._what = client, spec, info, what
        try:
            self._signatures = client.signatures(spec.model, spec.version)
        except ClientError as error:
            raise _explained(error, spec, client.url) from error
        best = self._signatures.get(bundles.SIGNATURE_BYTES)
        if best is None or bundles.INPUT_BYTES not in best.inputs or "scores" not in best.outputs:
            raise ComparisonError(
                f"{what} has no signature {bundles.SIGNATURE_BYTES!r} from "
                f"`{bundles.INPUT_BYTES}` to `scores` (its signatures: "
                f"{', '.join(sorted(self._signatures))}); push the model with `sightline export`"
            )
        self._named = {"classes", "labels"} <= set(best.outputs)
        tensor = self._signatures.get(bundles.SIGNATURE_TENSOR)
        shape = tensor.outputs["scores"].shape if tensor and "scores" in tensor.outputs else None
        self._size = (shape[-1] if shape else None) or info.num_classes
        if self._size < info.num_classes:
            raise ComparisonError(
                f"{what} has {self._size} classes, but the data set {info.name!r} has "
                f"{info.num_classes}; evaluate it on data of its classes"
            )
        self._names: list[str] = [""] * self._size
        self._top_k = 0

    def scores(self, images: _Images) -> np.ndarray:
        """(B, N) float32 in the order of the model's classes."""
        whole = self._top_k in (0, self._size)
        if whole or (self._named and set(self._info.classes) - set(self._names)):
            found = self._best(images)
            if found.shape[1] == self._size:
                return found
        needed = {bundles.SIGNATURE_PREPROCESS, bundles.SIGNATURE_TENSOR}
        if not needed <= set(self._signatures):
            raise ComparisonError(
                f"{self._what} returns scores of its best {self._top_k} classes only, and has no "
                f"signatures {' and '.join(sorted(needed))} for the scores of all "
                f"{self._size} classes. Cross entropy, calibration, areas, thresholds and "
                "temperature need them: push the model with `sightline export`"
            )
        pixels = self._run(bundles.SIGNATURE_PREPROCESS, bundles.INPUT_BYTES, images.encoded)
        found = self._run(bundles.SIGNATURE_TENSOR, "images", pixels["images"])
        return np.asarray(found["scores"], np.float32)

    def classes(self, notify: Callable[[str], None]) -> tuple[str, ...]:
        """All class names; those that the server did not return are the data set's.

        Raises:
          ComparisonError: the names that it returned are in another order than the data set's.
        """
        lacking = self._names.count("")
        missing = sorted(set(self._info.classes) - set(self._names))
        if not lacking or not missing:
            return tuple(self._names)
        own = self._info.classes
        if len(own) != self._size or any(
            name not in ("", other) for name, other in zip(self._names, own, strict=True)
        ):
            raise ComparisonError(
                f"{self._what} returned the names of {self._size - lacking} of its {self._size} "
                f"classes, not {', '.join(map(repr, missing[:3]))}. Classes are paired by name, "
                "and the server returns only the names of the best classes of each image: "
                "evaluate more images, or the bundle"
            )
        notify(
            f"{self._what} returned no names of {lacking:,} of {self._size:,} classes; they are "
            "assumed to be those of the data set, in its order"
        )
        return tuple(own)

    def _best(self, images: _Images) -> np.ndarray:
        """Scores of the image signature, in the order of the classes if there are all of them."""
        found = self._run(bundles.SIGNATURE_BYTES, bundles.INPUT_BYTES, images.encoded)
        scores = np.asarray(found["scores"], np.float32)
        self._top_k = scores.shape[1]
        if not self._named:
            return scores
        classes = np.asarray(found["classes"], np.int64)
        if classes.max(initial=0) >= self._size:
            raise ComparisonError(
                f"{self._what} returned class number {classes.max()}, but the data set "
                f"{self._info.name!r} has {self._size} classes; evaluate it on data of its classes"
            )
        for number, name in zip(classes.ravel(), np.asarray(found["labels"]).ravel(), strict=True):
            self._names[int(number)] = name.decode() if isinstance(name, bytes) else str(name)
        if self._top_k < self._size:
            return scores
        ordered = np.empty_like(scores)
        np.put_along_axis(ordered, classes, scores, axis=1)
        return ordered

    def _run(self, signature: str, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        return self._client.run(
            {name: values},
            model=self._spec.model,
            version=self._spec.version,
            signature=signature,
        )


class _Progress:
    """Lines with the rate and the remaining time, every few seconds and at the end."""

    def __init__(
        self, info: DatasetInfo, split: str, what: str, notify: Callable[[str], None]
    ) -> None:
        self._total = info.splits[split].examples if split in info.splits else 0
        self._what, self._notify = what, notify
        self._start = self._shown = time.monotonic()
        self._done = 0

    def add(self, images: int) -> None:
        self._done += images
        now = time.monotonic()
        if now - self._shown < _LOG_EVERY_S and self._done < self._total:
            return
        self._shown = now
        rate = self._done / max(now - self._start, 1e-3)
        left = max(self._total - self._done, 0) / rate
        self._notify(
            f"{self._what}: {self._done:,} of {self._total:,} images, {rate:,.0f} images/s"
            + (f", {left:,.0f} s left" if left else "")
        )


def _address(given: str, model: str) -> tuple[str, ModelSpec]:
    url, _, path = given.partition(_PATH)
    name, _, version = path.strip("/").partition("/versions/")
    name = name or model
    if not name:
        raise ComparisonError(
            f"{given} may serve several models; name one with --model NAME or {url}{_PATH}NAME"
        )
    if version and not version.isdigit():
        raise ComparisonError(f"{given}: a version is a number, got {version!r}")
    return parse_address(url).url, ModelSpec(name, int(version) if version else None)


def _explained(error: ClientError, spec: ModelSpec, url: str) -> ClientError:
    """The error of a model that the server does not have, with what to do."""
    if error.status not in ("404", "NOT_FOUND"):
        return error
    known = _loaded_models(url) - {spec.model}
    hint = (
        nearest(spec.model, sorted(known))
        if known
        else "check the name in the server's configuration"
    )
    return ClientError(f"{url} serves no {spec} ({error}); {hint}", error.status)


def _loaded_models(url: str) -> set[str]:
    """Names in the metrics of a REST server; TF Serving's API cannot list models."""
    import requests

    if not url.startswith("http"):
        return set()
    try:
        found = requests.get(f"{url}{_METRICS}", timeout=5)
    except requests.RequestException:
        return set()
    return set(re.findall(r'model_name="([^"]+)"', found.text)) if found.ok else set()


def _requests(data: Path, info: DatasetInfo, split: str) -> Iterator[_Images]:
    """The split in file order."""
    import tensorflow as tf

    from trainers.data.reader import find_bad_record, parse_records, raw_examples
    from trainers.data.records_check import DataError

    records = raw_examples(data, split)
    while waiting := list(islice(records, _IMAGES)):
        try:
            parsed = parse_records(tf.constant(waiting), info=info)
        except tf.errors.InvalidArgumentError as error:
            bad = find_bad_record(str(data), split, info) or f"{data}: {error.message}"
            raise DataError(f"{bad}; ingest the data again") from error
        yield _parsed(parsed, info)


def _parsed(records: "ParsedRecords", info: DatasetInfo) -> _Images:
    encoded = records.encoded.numpy()
    slices = {key: _text(records.slices[key].numpy()) for key in info.slices}
    if info.foreign:
        _fill(slices, encoded)
    return _Images(encoded, records.label.numpy(), _text(records.id.numpy()), slices)


def _fill(slices: dict[str, np.ndarray], encoded: np.ndarray) -> None:
    """Computes the slices of images whose records have none."""
    from trainers.data.decode import load_image
    from trainers.data.slices import slices as computed

    for row, image in enumerate(encoded):
        if any(not values[row] for values in slices.values()):
            for key, value in computed(load_image(image)).items():
                if key in slices and not slices[key][row]:
                    slices[key][row] = value


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([value.decode() for value in values], dtype=object)


def _in_order(call: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Each item with its result, in order; a few calls run at a time."""
    with ThreadPoolExecutor(_THREADS) as executor:
        waiting: deque[tuple[A, Future[B]]] = deque()
        try:
            for item in items:
                waiting.append((item, executor.submit(call, item)))
                if len(waiting) > _THREADS:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, result in waiting:
                result.cancel()
