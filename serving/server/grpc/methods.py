"""The common parts of gRPC methods: threads, messages, deadlines and errors. No TensorFlow.

Python's gRPC assigns a thread to a call before its message has arrived, and shows no part of a
message before it is complete. So complete messages are counted exactly. A call whose message is
late is cancelled when other calls wait for its thread, or when the process grows while messages
arrive.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc

from serving.limits import DEFAULT_LIMITS
from serving.server.errors import OverloadedError, ServingError
from serving.server.models.background import trim_memory

T = TypeVar("T")
#: Receives a request and the context of its call; returns the response.
Method: TypeAlias = Callable[..., Any]

_LOG = logging.getLogger(__name__)

#: Threads for calls, where the server sets no bound. Further calls wait inside gRPC.
MOST_CALLS = 256
#: Threads besides those of the calls that may wait: they refuse further calls.
_REFUSING = 4
#: Threads for methods that never wait; several, as clients may send incomplete calls.
_QUICK = 8
#: Longer deadlines count as none.
_NO_DEADLINE_S = 10.0 * 365 * 86400
#: Replaces a deadline that has passed when the request is read: 0 would mean no deadline.
_PASSED_S = 1e-3
#: A call that has waited for longer finds all threads busy.
_WAITS_S = 0.05
_NO_MESSAGE = "a call must bring one message"

#: Between two checks of the messages that are arriving.
_TICK_S = 0.1
#: A message that has been arriving for longer may be cancelled.
SLOW_S = 1.0
#: The same where as many calls wait as there are threads: small messages have arrived by then.
_CROWDED_S = 0.1
#: The longest time that a message may take, as for a REST body.
MESSAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True, eq=False)
class _Arrival:
    """A call whose message has not arrived: its context, its thread pool, and its start."""

    context: Any
    threads: Any
    began: float


def resident_bytes() -> int:
    """Memory of this process; 0 where the system has no `/proc`."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Messages:
    """The messages of all calls of a server; every method is thread-safe."""

    def __init__(
        self,
        limit: int = DEFAULT_LIMITS.max_body_bytes_in_flight,
        *,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        """Creates the budget.

        Args:
          limit: bytes of all messages together.
          resident: measures the memory of the process in bytes.
        """
        self._limit = limit
        self._resident = resident
        self._lock = threading.Lock()
        self._used = 0
        self._arriving: set[_Arrival] = set()
        # Resident bytes before messages arrived slowly.
        self._before = 0
        self._has_grown = False
        self._closed = threading.Event()
        self._monitor: threading.Thread | None = None

    def receive(self, requests: Iterator[bytes], context: Any, threads: Any) -> bytes | None:
        """The message of a call, to be released after it; None when the client sent none.

        Args:
          requests: gRPC's iterator, which waits for the message in this thread.
          context: of the call.
          threads: the pool of this thread: `waiting` calls have none of its `most` threads.

        Raises:
          OverloadedError: the messages of all calls exceed the limit.
          grpc.RpcError: the call is over.
        """
        arrival = _Arrival(context, threads, time.monotonic())
        self._arriving.add(arrival)
        if self._monitor is None:
            self._start()
        try:
            data = next(requests, None)
        finally:
            self._arriving.discard(arrival)
        if data is not None:
            self._acquire(len(data))
        return data

    def _acquire(self, size: int) -> None:
        with self._lock:
            if self._used + size <= self._limit:
                self._used += size
                return
        raise OverloadedError(
            "RESOURCE_EXHAUSTED",
            f"a message of {size} bytes: those of the calls under way may take {self._limit} bytes "
            "together (--max_body_bytes_in_flight); try again later",
            1,
        )

    def release(self, size: int) -> None:
        """Ends a call whose message had so many bytes."""
        with self._lock:
            self._used -= size

    def close(self) -> None:
        """Ends the monitoring thread."""
        self._closed.set()

    def _start(self) -> None:
        with self._lock:
            if self._monitor is not None:
                return
            self._monitor = threading.Thread(target=self._watch, name="grpc-messages", daemon=True)
        self._monitor.start()

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_S):
            self._check()

    def _check(self) -> None:
        """Cancels calls whose messages are late."""
        now = time.monotonic()
        arriving = sorted(self._arriving.copy(), key=lambda arrival: arrival.began)
        for threads in {arrival.threads for arrival in arriving}:
            waiting = threads.waiting
            patience = SLOW_S if waiting < threads.most else _CROWDED_S
            held = [a for a in arriving if a.threads is threads and now - a.began > patience]
            _cancel(held[:waiting], "kept other calls waiting for a thread")
        late = [a for a in arriving if now - a.began > MESSAGE_TIMEOUT_S]
        _cancel(late, f"did not arrive within {MESSAGE_TIMEOUT_S:g} s")
        slow = [a for a in arriving if now - a.began > SLOW_S]
        if not slow:
            if self._has_grown:
                trim_memory()
                self._has_grown = False
            self._before = self._resident()
        elif self._resident() - self._before > self._limit:
            self._has_grown = True
            _cancel(
                slow[: (len(slow) + 1) // 2],
                "were arriving while the process grew by more than "
                f"{self._limit} bytes (--max_body_bytes_in_flight)",
            )


def _cancel(arrivals: list[_Arrival], why: str) -> None:
    if arrivals:
        _LOG.warning("gRPC calls are cancelled, as their messages %s: %d", why, len(arrivals))
    for arrival in arrivals:
        arrival.context.cancel()


class CallThreads:
    """The threads of a gRPC server, started when they are needed.

    A call of a model occupies its thread until its response, also while it waits. Health, status
    and metadata have separate threads, so that they work however many calls wait; so have reloads,
    which take minutes.

    Attributes:
      calls: the threads for calls of models.
    """

    def __init__(
        self, most_requests: int | None = None, *, messages: Messages | None = None
    ) -> None:
        """Creates the pools.

        Args:
          most_requests: calls of models that may run or wait before more are refused; None refuses
            none.
          messages: the budget of all messages; None uses the default of its flag.
        """
        self._messages = messages or Messages()
        most = MOST_CALLS if most_requests is None else most_requests
        self.calls = _Threads(most + _REFUSING, "grpc")
        self._quick = _Threads(_QUICK, "grpc-quick")
        self._reloads = _Threads(1, "grpc-reload")

    def quick(self, method: Method) -> Method:
        """The same method, in the threads for methods that never wait."""
        return _in_pool(method, self._quick)

    def reloading(self, method: Method) -> Method:
        """The same method, in the single thread for reloads."""
        return _in_pool(method, self._reloads)

    def close(self) -> None:
        """Ends the threads after their calls."""
        self._messages.close()
        for threads in (self.calls, self._quick, self._reloads):
            threads.shutdown(wait=False)

    def receiving(self, method: Method, request: Any) -> Method:
        """The same method for gRPC's iterator of messages, of which it takes one.

        Args:
          method: takes a message and the call's context.
          request: class of the message.
        """
        threads = getattr(method, "experimental_thread_pool", self.calls)

        def call(requests: Iterator[bytes], context: Any, *more: Any) -> Any:
            try:
                data = self._messages.receive(requests, context, threads)
            except ServingError as error:
                abort(context, error)
            if data is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_MESSAGE)
                raise AssertionError("abort returned")
            size = len(data)
            try:
                message = _parsed(request, data, context)
                # Two copies of a large message are one too many.
                del data
                return method(message, context, *more)
            finally:
                self._messages.release(size)

        # The names by which gRPC finds threads and callbacks.
        call.__dict__.update(getattr(method, "__dict__", {}))
        return call


class _Threads(ThreadPoolExecutor):
    """A pool that keeps working when the system cannot start another thread.

    Attributes:
      most: maximum number of threads.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, name)
        self.most = most
        self._since: deque[float] = deque()

    @property
    def waiting(self) -> int:
        """The number of calls that have waited for a while because all threads are busy."""
        if len(self._threads) < self.most:
            return 0
        long_ago = time.monotonic() - _WAITS_S
        return sum(since < long_ago for since in self._since.copy())

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        self._since.append(time.monotonic())
        try:
            return super().submit(self._begin, fn, *args, **kwargs)
        except RuntimeError as error:
            if self._shutdown or not self._threads:
                self._since.pop()
                raise
            # The call is queued. Raising here would end the only thread that accepts calls.
            _LOG.warning("%s; continuing with %d threads", error, len(self._threads))
            return Future()

    def _begin(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        self._since.popleft()
        return fn(*args, **kwargs)


def _in_pool(method: Method, threads: ThreadPoolExecutor) -> Method:
    moved: Any = partial(method)
    # gRPC reads this attribute; a version that does not would use the threads of all calls.
    moved.experimental_thread_pool = threads
    moved.experimental_non_blocking = getattr(method, "experimental_non_blocking", False)
    return moved


def _parsed(request: Any, data: bytes, context: Any) -> Any:
    try:
        return request.FromString(data)
    except Exception:
        # Each implementation of Protobuf has another class for this error.
        _LOG.warning("a call sent %d bytes that are not a valid %s", len(data), request.__name__)
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        raise AssertionError("abort returned") from None


def time_left(context: Any) -> float | None:
    """Seconds until the client's deadline; None when it set none."""
    left = context.time_remaining()
    # Python's gRPC returns None or the far future without a deadline.
    return None if left is None or left > _NO_DEADLINE_S else max(left, _PASSED_S)


def call_headers(context: Any) -> dict[str, str]:
    """The metadata of a call, by lower-case name, without binary values."""
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def abort(context: Any, error: ServingError) -> NoReturn:
    """Ends a call with the error's code and message, by raising gRPC's exception."""
    if isinstance(error, OverloadedError):
        # The key that gRPC's own retry policy reads.
        hint = ("grpc-retry-pushback-ms", str(error.retry_after_s * 1000))
        context.set_trailing_metadata((hint,))
    context.abort(grpc.StatusCode[error.code], error.grpc_message)
    raise AssertionError("abort returned")


def reporting_errors(method: Method) -> Method:
    """The same method, which sends its ServingErrors to the client."""

    def call(request: Any, context: Any) -> Any:
        try:
            return method(request, context)
        except ServingError as error:
            abort(context, error)

    return call


def unary_service(
    name: str, methods: Mapping[str, tuple[Method, Any]], threads: CallThreads
) -> grpc.GenericRpcHandler:
    """A service of unary methods.

    Args:
      name: with its package, e.g. `grpc.health.v1.Health`.
      methods: name -> (method, class of its request message).
      threads: run the calls.
    """
    handlers = {
        # A stream of one message has the same bytes as a unary request.
        method: grpc.stream_unary_rpc_method_handler(
            threads.receiving(behavior, request), response_serializer=serialize
        )
        for method, (behavior, request) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def serialize(message: Any) -> bytes:
    """A message's bytes."""
    return message.SerializeToString()
