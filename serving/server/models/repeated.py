"""Values that a message states once and means many times: they must not claim the memory."""

from math import prod
from typing import Any

from serving.server.errors import ServingError, invalid


class Expansion:
    """What is left of one request's bytes for repeated values."""

    def __init__(self, limit: int) -> None:
        """Takes the limit in bytes."""
        self._limit = self._left = limit

    def take(self, name: str, size: int) -> None:
        """Counts bytes that are about to be filled with repeated values.

        Raises:
          ServingError: the request's repeated values are beyond the limit.
        """
        self._left -= size
        if self._left < 0:
            raise too_much(f"input {name!r}", self._limit)


def too_much(what: str, limit: int) -> ServingError:
    """The error of values that would be repeated too often."""
    return invalid(
        f"{what} is too large to be filled from single values: more than {limit} bytes of one "
        "request (--max_repeated_bytes); send every value, numbers as tensor_content"
    )


def check_examples(examples: Any, limit: int) -> None:
    """Refuses an `Input` whose context would be copied into too many examples.

    Raises:
      ServingError: the copies take more than `limit` bytes.
    """
    if examples.WhichOneof("kind") == "example_list_with_context":
        listed = examples.example_list_with_context
        if prod((listed.context.ByteSize(), max(0, len(listed.examples) - 1))) > limit:
            raise too_much("the examples' context", limit)
