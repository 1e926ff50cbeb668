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
from serving.client.address import Tls
from serving.client.api import Columns, Done, Example, ModelSpec, Steps, advance, read_signatures
from serving.client.connections import ActiveRequest
from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.images import MAX_DOWNLOAD_BYTES
from serving.client.ready import POLL_TIMEOUT_S, ReadinessPoll, reason_of, why_not_ready
from serving.client.rest import RestApi, RestTransport
from serving.client.retry import Deadline, Tries, finite
from serving.client.settings import Settings, import_grpc
from serving.client.tasks import in_order, within
from serving.protocol.images import Image
from serving.protocol.types import ClassNames, Detections, ModelVersion, Prediction, Signature

T = TypeVar("T")


class AsyncClient:
    """A client of one server for the tasks of one event loop.

    Arguments, deadlines, retries, results and errors are those of `Client`. At most
    `max_concurrency` requests are in progress at a time, also for a long list with a `batch_size`.
    gRPC runs on the loop; REST runs in that many threads, and downloads and file reads in as many
    others. Cancelling a task cancels its call over gRPC, and closes its connection over REST.
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

        `max_concurrency` limits the requests in progress; waiting for a slot counts toward a call's
        timeout.
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
        self._max_concurrency = max_concurrency
        self._slots = asyncio.Semaphore(max_concurrency)
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="sightline-client")
        # Separate threads, so that slow downloads do not delay other calls.
        self._loaders = ThreadPoolExecutor(max_concurrency, thread_name_prefix="sightline-load")
        self._closers = AsyncExitStack()
        self._connect(headers or {})

    def _connect(self, headers: Mapping[str, str]) -> None:
        address, tls = self._settings.address, self._settings.tls
        if address.transport == "rest":
            blocking = RestTransport(address, tls, headers)
            self._api = RestApi()

            async def send(request: Any, timeout_s: float) -> Any:
                active = ActiveRequest(Deadline(timeout_s))
                try:
                    return await self._in_thread(blocking.send_cancelable, request, active)
                finally:
                    # After a cancellation, the request must not occupy its thread.
                    active.cancel()

            self._send: Callable[[Any, float], Awaitable[Any]] = send
            # Encoding images as JSON and base64 would block the loop.
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
        """The server's URL, without a trailing slash."""
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
        """One prediction per image, in order; see `Client.predict`."""
        spec = ModelSpec(model, version, label)
        return await self._over_images(
            images,
            spec,
            partial(results.predictions, spec=spec, top_k=top_k),
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
        """The objects in each image, in order; see `Client.detect`."""
        spec = ModelSpec(model, version, label)
        return await self._over_images(
            images,
            spec,
            partial(results.detections, spec=spec, class_names=class_names),
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
        """The outputs of any signature, as arrays; see `Client.run`."""
        spec = ModelSpec(model, version, label)
        return await self._do(self._api.run(inputs, spec, signature), timeout_s)

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
        spec = ModelSpec(model, version, label)
        return await self._do(self._api.classify(examples, spec, signature), timeout_s)

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
        """(B,) float32, one value per tf.Example; see `Client.classify`."""
        spec = ModelSpec(model, version, label)
        return await self._do(self._api.regress(examples, spec, signature), timeout_s)

    async def status(
        self, model: str, version: int | None = None, *, timeout_s: float | None = None
    ) -> list[ModelVersion]:
        """The model's versions on the server, newest first."""
        return await self._do(self._api.status(ModelSpec(model, version)), timeout_s)

    async def metadata(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """TF Serving's metadata response: `model_spec`, and the signatures under `metadata`."""
        return await self._do(self._api.metadata(ModelSpec(model, version, label)), timeout_s)

    async def signatures(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Signature]:
        """The model's signatures by name."""
        return await self._do(
            read_signatures(self._api, ModelSpec(model, version, label)), timeout_s
        )

    async def is_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = POLL_TIMEOUT_S,
    ) -> bool:
        """Whether the model is ready to serve; False if the server cannot be reached."""
        return not await self._why_not_ready(ModelSpec(model, version, label), timeout_s)

    async def wait_until_ready(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Returns as soon as the model is ready to serve."""
        poll = ReadinessPoll(ModelSpec(model, version, label), timeout_s)
        while True:
            reason = await self._why_not_ready(poll.spec, poll.timeout_s, known=poll.reason)
            pause = poll.pause_s(reason)
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes the connections."""
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
            # An executor raises it once it is shut down.
            raise ClientError(f"this client is closed: {error}") from error

    async def _finish(self, steps: Steps[Any], deadline: Deadline, retries: int) -> Any:
        """The result of an operation, whose requests are sent one by one."""
        found = await within(deadline, self._advance(steps))
        while not isinstance(found, Done):
            response = await self._call(found, Tries(deadline, retries))
            found = await within(deadline, self._advance(steps, response))
        return found.result

    async def _call(self, request: Any, tries: Tries) -> Any:
        """`retry.call` for asyncio."""
        while True:
            left = tries.begin()
            try:
                return await asyncio.wait_for(self._attempt(request, tries), finite(left))
            except asyncio.TimeoutError:
                late = f"no response from {self.url} within {left:.3g} s"
                wait = tries.wait_s(Failure(late, DEADLINE_EXCEEDED))
            except Failure as failure:
                wait = tries.wait_s(failure)
            await asyncio.sleep(wait)

    async def _attempt(self, request: Any, tries: Tries) -> Any:
        async with self._slots:
            # Waiting for the slot has taken some of the time.
            return await self._send(request, tries.deadline.check())

    async def _over_images(
        self,
        images: Sequence[Image],
        spec: ModelSpec,
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
                encoded = await within(deadline, loading)
                steps = self._api.images(encoded, spec, signature)
                columns = await self._finish(steps, deadline, self._settings.retries)
                return results.checked(read(columns), len(batches[index]), spec)
            except ClientError as error:
                if len(batches) == 1:
                    raise
                raise error.within(results.span(index, batch_size, len(images))) from error

        parts = await in_order(one, len(batches), self._max_concurrency)
        return [found for part in parts for found in part]

    async def _why_not_ready(self, spec: ModelSpec, timeout_s: float, *, known: str = "") -> str:
        try:
            return await self._finish(why_not_ready(self._api, spec), Deadline(timeout_s), 0)
        except ClientError as error:
            return reason_of(error, known)
