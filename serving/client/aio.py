"""`AsyncClient`: the methods of `Client` for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import numpy as np

from serving import bundle as bundles
from serving.client import results
from serving.client.address import Tls, import_grpc, parse_address
from serving.client.api import Columns, Done, Example, Steps, Target, advance, signature_of
from serving.client.errors import DEADLINE_EXCEEDED, ClientError, Failure
from serving.client.pictures import MAX_DOWNLOAD_BYTES, Pictures
from serving.client.ready import LOOK_TIMEOUT_S, MIN_LOOK_S, not_ready, pauses, why_not_ready
from serving.client.rest import RestApi, RestTransport
from serving.client.retry import Deadline, Tries, finite
from serving.client.tasks import in_order, within
from serving.images import Image
from serving.types import ClassNames, Detections, ModelVersion, Prediction, Signature

T = TypeVar("T")


class AsyncClient:
    """Calls one server from one event loop; any number of its tasks may use one client.

    Deadlines, tries and results are `Client`'s. At most `max_concurrency` requests are under way
    at a time, and a long list with a `batch_size` keeps that many busy. gRPC runs on the loop;
    REST, downloads and the reading of files run in that many threads. A task that is cancelled
    cancels its call over gRPC; over REST the request runs to its end in its thread, unheard.
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
        """Connects at the first call; for the arguments see `Client`.

        Args:
          url: `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.
          timeout_s: of a call that names none; waiting for a turn counts.
          retries: further tries of a request.
          headers: sent along with every request, over gRPC as metadata.
          tls: whom to trust over https and grpcs, and who we are.
          max_concurrency: requests under way at a time.
          max_download_bytes: largest picture that is taken from a URL.

        Raises:
          ClientError: an address of another kind.
          FileNotFoundError: a file of `tls` that is not there.
          ValueError: a number out of range.
        """
        if max_concurrency < 1:
            raise ValueError(f"`max_concurrency` must be 1 or more, got {max_concurrency}")
        self._address = parse_address(url)
        self._timeout_s = timeout_s
        self._retries = retries
        Tries(Deadline(timeout_s), retries)  # Raises now, and not at the first call.
        self._width = max_concurrency
        self._turns = asyncio.Semaphore(max_concurrency)
        self._threads = ThreadPoolExecutor(max_concurrency, thread_name_prefix="sightline-client")
        self._pictures = Pictures(max_download_bytes=max_download_bytes, retries=retries)
        self._closers = AsyncExitStack()
        self._connect(tls or Tls(), headers or {})

    def _connect(self, tls: Tls, headers: Mapping[str, str]) -> None:
        if self._address.transport == "rest":
            blocking = RestTransport(self._address, tls, headers)
            self._api = RestApi()
            self._send: Callable[[Any, float], Awaitable[Any]] = lambda request, left: (
                self._in_thread(blocking.send, request, left)
            )
            # JSON and base64 of pictures are work for a thread too.
            self._advance: Callable[..., Awaitable[Any]] = lambda *steps: self._in_thread(
                advance, *steps
            )
            self._closers.callback(blocking.close)
            return

        async def advance_here(*steps: Any) -> Any:
            return advance(*steps)

        module = import_grpc(self.url)
        transport = module.AioGrpcTransport(self._address, tls, headers)
        self._api = module.GrpcApi()
        self._send, self._advance = transport.send, advance_here
        self._closers.push_async_callback(transport.close)

    @property
    def url(self) -> str:
        """The server's, without a trailing slash."""
        return self._address.url

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
        """One prediction an image, in order; see `Client.predict`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          FileNotFoundError: a path to nothing.
          ValueError: an array that is no picture, `version` and `label` at once.
        """
        target = Target(model, version, label)
        return await self._over_images(
            images,
            target,
            lambda columns: results.predictions(columns, target, top_k=top_k),
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
        """The objects of each image, in order; see `Client.detect`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          FileNotFoundError: a path to nothing.
          ValueError: an array that is no picture, `version` and `label` at once.
        """
        target = Target(model, version, label)
        return await self._over_images(
            images,
            target,
            lambda columns: results.detections(columns, target, class_names=class_names),
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
        """Any signature, arrays in and out; see `Client.run`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: an array that the transport cannot carry, `version` and `label` at once.
        """
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
        """(label, score) pairs of each tf.Example; see `Client.classify`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: a feature of mixed types, or serialised examples over REST.
        """
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
        """(B,) float32, one value a tf.Example; see `Client.classify`.

        Raises:
          ClientError: with the server's reason, or no answer in time.
          ValueError: a feature of mixed types, or serialised examples over REST.
        """
        target = Target(model, version, label)
        return await self._do(self._api.regress(examples, target, signature), timeout_s)

    async def status(
        self, model: str, version: int | None = None, *, timeout_s: float | None = None
    ) -> list[ModelVersion]:
        """The model's versions that the server knows of, newest first.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return await self._do(self._api.status(Target(model, version)), timeout_s)

    async def metadata(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """TF Serving's metadata answer: `model_spec`, and the signatures under `metadata`.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return await self._do(self._api.metadata(Target(model, version, label)), timeout_s)

    async def signatures(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Signature]:
        """What can be asked of the model, by signature name.

        Raises:
          ClientError: no such model or version, or no server.
        """
        answer = await self.metadata(model, version, label=label, timeout_s=timeout_s)
        found = signature_of(answer)
        return {name: Signature.from_json(entry) for name, entry in found.items()}

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
        """Returns as soon as the server would answer a request to the model.

        Raises:
          ClientError: it does not within `timeout_s`; the message says what is missing.
        """
        target, deadline = Target(model, version, label), Deadline(timeout_s)
        reason, left = "", timeout_s
        for pause in pauses():
            reason = await self._why_not_ready(target, min(left, LOOK_TIMEOUT_S), known=reason)
            if not reason:
                return
            if deadline.left_s() <= pause:
                raise not_ready(target, deadline, reason)
            await asyncio.sleep(pause)
            # A last look may be cut short, but there is one.
            left = max(deadline.left_s(), MIN_LOOK_S)

    async def close(self) -> None:
        """Ends the connections."""
        await self._closers.aclose()
        self._pictures.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _do(self, steps: Steps[Any], timeout_s: float | None) -> Any:
        return await self._finish(steps, self._deadline(timeout_s), self._retries)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, function, *arguments)
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
        deadline = self._deadline(timeout_s)
        batches = results.batches(images, batch_size)

        async def one(index: int) -> list[Any]:
            try:
                loading = self._in_thread(self._pictures.load, batches[index], deadline)
                coded = await within(deadline, loading)
                steps = self._api.images(coded, target, signature)
                columns = await self._finish(steps, deadline, self._retries)
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
            if known and error.status == DEADLINE_EXCEEDED:
                # A look that had little time left tells less than the one before.
                return known
            return str(error)
