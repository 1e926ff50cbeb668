"""`AsyncClient`: the methods of `Client` for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import numpy as np

from core import bundle as bundles
from serving.client import results
from serving.client.address import Tls, import_grpc
from serving.client.api import Columns, Done, Example, Steps, Target, advance, read_signatures
from serving.client.connections import Hold
from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.images import MAX_DOWNLOAD_BYTES
from serving.client.ready import LOOK_TIMEOUT_S, Waiting, reason_of, why_not_ready
from serving.client.rest import RestApi, RestTransport
from serving.client.retry import Deadline, Tries, finite
from serving.client.settings import Settings
from serving.client.tasks import in_order, within
from serving.protocol.images import Image
from serving.protocol.types import ClassNames, Detections, ModelVersion, Prediction, Signature

T = TypeVar("T")


class AsyncClient:
    """Calls one server from one event loop; any number of its tasks may use one client.

    Arguments, deadlines, tries, results and errors are `Client`'s, method by method. At most
    `max_concurrency` requests are under way at a time, and a long list with a `batch_size` keeps
    that many busy. gRPC runs on the loop; REST runs in that many threads,
    and downloads and the reading of files in as many others. A task that is cancelled cancels its
    call over gRPC, and closes its connection over REST.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        max_concurrency: int = 8,
        max_download_bytes: int = MAX_DOWNLOAD_BYTES,
    ) -> None:
        """Connects at the first call; arguments and errors are those of `Client`.

        `max_concurrency` is how many requests are under way at a time; waiting for a turn counts
        as a call's time.
        """
        if max_concurrency < 1:
            raise ValueError(f"`max_concurrency` must be 1 or more, got {max_concurrency}")
        self._settings = Settings(
            url,
            timeout_s=timeout_s,
            retries=retries,
            tls=tls,
            max_download_bytes=max_download_bytes,
        )
        self._width = max_concurrency
        self._turns = asyncio.Semaphore(max_concurrency)
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="sightline-client")
        # Apart, so that images that are slow to come do not keep other calls from the server.
        self._loaders = ThreadPoolExecutor(max_concurrency, thread_name_prefix="sightline-load")
        self._closers = AsyncExitStack()
        self._connect(headers or {})

    def _connect(self, headers: Mapping[str, str]) -> None:
        address, tls = self._settings.address, self._settings.tls
        if address.transport == "rest":
            blocking = RestTransport(address, tls, headers)
            self._api = RestApi()

            async def send(request: Any, timeout_s: float) -> Any:
                hold = Hold(Deadline(timeout_s))
                try:
                    return await self._in_thread(blocking.send_held, request, hold)
                finally:
                    # A request that nobody waits for would keep a thread from the others.
                    hold.give_up()

            self._send: Callable[[Any, float], Awaitable[Any]] = send
            # JSON and base64 of images are work for a thread too.
            self._advance: Callable[..., Awaitable[Any]] = partial(self._in_thread, advance)
            self._closers.callback(blocking.close)
            return

        async def advance_here(*steps: Any) -> Any:
            return advance(*steps)

        module = import_grpc(self.url)
        transport = module.AioGrpcTransport(address, tls, headers)
        self._api = module.GrpcApi()
        self._send, self._advance = transport.send, advance_here
        self._closers.push_async_callback(transport.close)

    @property
    def url(self) -> str:
        """The server's, without a trailing slash."""
        return self._settings.address.url

    async def predict(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
    ) -> list[Prediction]:
        """One prediction an image, in order; see `Client.predict`."""
        target = Target(model, version, label)
        return await self._over_images(
            images,
            target,
            partial(results.predictions, target=target, top_k=top_k),
            batch_size=batch_size,
            timeout_s=timeout_s,
            signature=signature,
        )

    async def detect(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        class_names: ClassNames | None = None,
        batch_size: int | None = None,
        timeout_s: float | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
    ) -> list[Detections]:
        """The objects of each image, in order; see `Client.detect`."""
        target = Target(model, version, label)
        return await self._over_images(
            images,
            target,
            partial(results.detections, target=target, class_names=class_names),
            batch_size=batch_size,
            timeout_s=timeout_s,
            signature=signature,
        )

    async def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = bundles.SIGNATURE_BYTES,
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Any signature, arrays in and out; see `Client.run`."""
        target = Target(model, version, label)
        return await self._do(self._api.run(inputs, target, signature), timeout_s)

    async def classify(
        self,
        examples: Sequence[Example],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout_s: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """(label, score) pairs of each tf.Example; see `Client.classify`."""
        target = Target(model, version, label)
        return await self._do(self._api.classify(examples, target, signature), timeout_s)

    async def regress(
        self,
        examples: Sequence[Example],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        timeout_s: float | None = None,
    ) -> np.ndarray:
        """(B,) float32, one value a tf.Example; see `Client.classify`."""
        target = Target(model, version, label)
        return await self._do(self._api.regress(examples, target, signature), timeout_s)

    async def status(
        self, model: str, version: int | None = None, *, timeout_s: float | None = None
    ) -> list[ModelVersion]:
        """The model's versions that the server knows of, newest first."""
        return await self._do(self._api.status(Target(model, version)), timeout_s)

    async def metadata(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """TF Serving's metadata answer: `model_spec`, and the signatures under `metadata`."""
        return await self._do(self._api.metadata(Target(model, version, label)), timeout_s)

    async def signatures(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Signature]:
        """What can be asked of the model, by signature name."""
        return await self._do(read_signatures(self._api, Target(model, version, label)), timeout_s)

    async def is_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = LOOK_TIMEOUT_S,
    ) -> bool:
        """Whether the server would answer a request to the model now; False if there is none."""
        return not await self._why_not_ready(Target(model, version, label), timeout_s)

    async def wait_until_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Returns as soon as the server would answer a request to the model."""
        waiting = Waiting(Target(model, version, label), timeout_s)
        while True:
            reason = await self._why_not_ready(waiting.target, waiting.look_s, known=waiting.reason)
            pause = waiting.pause_s(reason)
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Ends the connections."""
        await self._closers.aclose()
        self._settings.images.close()
        for pool in (self._threads, self._loaders):
            pool.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _do(self, steps: Steps[Any], timeout_s: float | None) -> Any:
        deadline = self._settings.deadline(timeout_s)
        return await self._finish(steps, deadline, self._settings.retries)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._in(self._threads, function, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *given: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, function, *given)
        except RuntimeError as error:
            if isinstance(error, ClientError):
                raise
            # What an executor raises once it is shut down.
            raise ClientError(f"this client is closed: {error}") from error

    async def _finish(self, steps: Steps[Any], deadline: Deadline, retries: int) -> Any:
        """An operation's result, its requests sent one after the other."""
        found = await within(deadline, self._advance(steps))
        while not isinstance(found, Done):
            answer = await self._call(found, Tries(deadline, retries))
            found = await within(deadline, self._advance(steps, answer))
        return found.result

    async def _call(self, request: Any, tries: Tries) -> Any:
        """`retry.call`, for asyncio."""
        while True:
            left = tries.begin()
            try:
                return await asyncio.wait_for(self._attempt(request, tries), finite(left))
            except asyncio.TimeoutError:
                late = f"no answer from {self.url} within {left:.3g} s"
                wait = tries.wait_s(Failure(late, DEADLINE_EXCEEDED))
            except Failure as failure:
                wait = tries.wait_s(failure)
            await asyncio.sleep(wait)

    async def _attempt(self, request: Any, tries: Tries) -> Any:
        async with self._turns:
            # Waiting for the turn has taken some of the time.
            return await self._send(request, tries.deadline.check())

    async def _over_images(
        self,
        images: Sequence[Image],
        target: Target,
        read: Callable[[Columns], list[Any]],
        *,
        batch_size: int | None,
        timeout_s: float | None,
        signature: str,
    ) -> list[Any]:
        deadline = self._settings.deadline(timeout_s)
        batches = results.batches(images, batch_size)

        async def one(index: int) -> list[Any]:
            try:
                load = self._settings.images.load
                loading = self._in(self._loaders, load, batches[index], deadline)
                coded = await within(deadline, loading)
                steps = self._api.images(coded, target, signature)
                columns = await self._finish(steps, deadline, self._settings.retries)
                return results.checked(read(columns), len(batches[index]), target)
            except ClientError as error:
                if len(batches) == 1:
                    raise
                raise error.within(results.span(index, batch_size, len(images))) from error

        parts = await in_order(one, len(batches), self._width)
        return [found for part in parts for found in part]

    async def _why_not_ready(self, target: Target, timeout_s: float, *, known: str = "") -> str:
        try:
            return await self._finish(why_not_ready(self._api, target), Deadline(timeout_s), 0)
        except ClientError as error:
            return reason_of(error, known)
