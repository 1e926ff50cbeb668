"""Running asyncio tasks within a deadline and several at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.client.retry import Deadline, finite

T = TypeVar("T")


async def within(deadline: Deadline, work: Awaitable[T]) -> T:
    """The result of `work`.

    Raises:
      ClientError: the deadline passed first; `work` is canceled.
    """
    try:
        return await asyncio.wait_for(work, finite(max(0.0, deadline.left_s())))
    except asyncio.TimeoutError as error:
        raise deadline.error() from error


async def in_order(work: Callable[[int], Awaitable[T]], count: int, width: int) -> list[T]:
    """Results of `work(0)` to `work(count - 1)`, `width` at a time; an error cancels the rest."""
    found: dict[int, T] = {}
    # One iterator for all workers, so that only `width` batches are in memory.
    waiting = iter(range(count))

    async def worker() -> None:
        for index in waiting:
            found[index] = await work(index)

    workers = [asyncio.ensure_future(worker()) for _ in range(min(width, count))]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [found[index] for index in range(count)]
