"""Predictions and detections from the outputs of a signature."""

from collections.abc import Sequence
from typing import Any, TypeVar

from serving.client.api import Columns, ModelSpec
from serving.client.errors import ClientError
from serving.protocol.types import (
    ClassNames,
    Detections,
    Prediction,
    detections_from_outputs,
    prediction_from_top,
    text,
)

T = TypeVar("T")


def predictions(columns: Columns, spec: ModelSpec, *, top_k: int | None) -> list[Prediction]:
    """One prediction per image.

    Args:
      columns: `labels`, `classes` and `scores`, (B, k) each.
      spec: for errors.
      top_k: cuts the list of classes.

    Raises:
      ClientError: the outputs are not those of a classifier.
    """
    try:
        rows = zip(columns["labels"], columns["classes"], columns["scores"], strict=True)
        return [
            prediction_from_top([text(label) for label in labels], classes, scores, top_k)
            for labels, classes, scores in rows
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        hint = "; it is a detector, use `detect`" if "num_detections" in columns else ""
        raise ClientError(
            f"{spec} is not a classifier, its outputs are {sorted(columns)}{hint}"
        ) from error


def detections(
    columns: Columns, spec: ModelSpec, *, class_names: ClassNames | None
) -> list[Detections]:
    """One per image; see `serving.protocol.types.detections_from_outputs`.

    Raises:
      ClientError: the outputs are not those of a detector.
    """
    try:
        return detections_from_outputs(columns, class_names=class_names)
    except (TypeError, ValueError) as error:
        raise ClientError(f"{spec} is not a detector: {error}") from error


def batches(items: Sequence[T], size: int | None) -> list[Sequence[T]]:
    """The items in order, `size` per batch; one batch for None.

    Raises:
      ValueError: `size` is below 1.
    """
    if size is None:
        return [items] if len(items) else []
    if size < 1:
        raise ValueError(f"`batch_size` must be 1 or more, got {size}")
    return [items[start : start + size] for start in range(0, len(items), size)]


def span(index: int, size: int | None, count: int) -> str:
    """The images of request `index`, for errors, e.g. `images[8:16]`."""
    first = index * (size or count)
    return f"images[{first}:{min(first + (size or count), count)}]"


def checked(found: list[Any], images: int, spec: ModelSpec) -> list[Any]:
    """`found`, with one result per image.

    Raises:
      ClientError: the number of results differs.
    """
    if len(found) != images:
        raise ClientError(f"{spec} returned {len(found)} results for {images} images")
    return found
