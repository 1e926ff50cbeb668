"""From a signature's outputs to what the caller asked for."""

from collections.abc import Sequence
from typing import Any, TypeVar

from serving.client.api import Columns, Target
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


def predictions(columns: Columns, target: Target, *, top_k: int | None) -> list[Prediction]:
    """One an image.

    Args:
      columns: `labels`, `classes` and `scores`, (B, k) each.
      target: for errors.
      top_k: cuts the list of classes.

    Raises:
      ClientError: other outputs.
    """
    try:
        rows = zip(columns["labels"], columns["classes"], columns["scores"], strict=True)
        return [
            prediction_from_top([text(label) for label in labels], classes, scores, top_k)
            for labels, classes, scores in rows
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        hint = "; it finds objects, use `detect`" if "num_detections" in columns else ""
        raise ClientError(
            f"{target} does not answer as a classifier, its outputs are {sorted(columns)}{hint}"
        ) from error


def detections(
    columns: Columns, target: Target, *, class_names: ClassNames | None
) -> list[Detections]:
    """One an image; see `serving.protocol.types.detections_from_outputs`.

    Raises:
      ClientError: other outputs.
    """
    try:
        return detections_from_outputs(columns, class_names=class_names)
    except (TypeError, ValueError) as error:
        raise ClientError(f"{target} does not answer as a detector: {error}") from error


def batches(items: Sequence[T], size: int | None) -> list[Sequence[T]]:
    """The items in order, `size` at a time; all at once for None.

    Raises:
      ValueError: a size below 1.
    """
    if size is None:
        return [items] if len(items) else []
    if size < 1:
        raise ValueError(f"`batch_size` must be 1 or more, got {size}")
    return [items[start : start + size] for start in range(0, len(items), size)]


def span(index: int, size: int | None, count: int) -> str:
    """Which images the request number `index` was for, in words."""
    first = index * (size or count)
    return f"images[{first}:{min(first + (size or count), count)}]"


def checked(found: list[Any], asked: int, target: Target) -> list[Any]:
    """`found`, one for each image asked about.

    Raises:
      ClientError: another number.
    """
    if len(found) != asked:
        raise ClientError(f"{target} gave {len(found)} answers to {asked} images")
    return found
