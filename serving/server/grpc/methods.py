"""What every gRPC method needs: threads, the client's deadline, refusals. No TensorFlow."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc

from serving.server.errors import OverloadedError, ServingError
from serving.server.grpc.messages import Messages

T = TypeVar("T")
#: Answers a request; is given the call's context too.
Behavior: TypeAlias = Callable[..., Any]

_LOG = logging.getLogger(__name__)

#: Calls that have a thread, where the server sets no bound to what waits. More wait in gRPC.
MOST_CALLS = 256
#: Beyond those that may wait: they refuse what comes on top.
_REFUSING = 4
#: For what is answered from memory. One would do, were it not for clients that send half a call.
_AT_ONCE = 8
#: Deadlines beyond it are none.
_NO_DEADLINE_S = 10.0 * 365 * 86400
#: Of a request whose deadline has passed when it is read: 0 would mean no deadline.
_AT_ONCE_S = 1e-3
#: A call that waits for a thread for longer finds all of them taken.
_WAITS_S = 0.05
_NO_MESSAGE = "a call must bring one message"


class CallThreads:
    """The threads of a gRPC server, made when they are needed.

    A call of a model keeps its thread until it is answered, in a queue too. Health, status and
    metadata have threads of their own, so that they are told however many calls wait; so have
    reloads, which take minutes.

    Attributes:
      calls: the threads of calls of models.
    """

    def __init__(
        self, most_requests: int | None = None, *, messages: Messages | None = None
    ) -> None:
        """Starts none.

        Args:
          most_requests: calls of models that may run or wait before more are refused; None, none
            is ever refused.
          messages: bounds those of all calls; None sets the flag's default.
        """
        self._messages = messages or Messages()
        most = MOST_CALLS if most_requests is None else most_requests
        self.calls = _Threads(most + _REFUSING, "grpc")
        self._quick = _Threads(_AT_ONCE, "grpc-at-once")
        self._reloads = _Threads(1, "grpc-reload")

    def at_once(self, behavior: Behavior) -> Behavior:
        """The same, in the threads of what never waits."""
        return _within(behavior, self._quick)

    def reloading(self, behavior: Behavior) -> Behavior:
        """The same, in the thread of reloads: one after the other."""
        return _within(behavior, self._reloads)

    def close(self) -> None:
        """Ends them once they are done."""
        self._messages.close()
        for threads in (self.calls, self._quick, self._reloads):
            threads.shutdown(wait=False)

    def receiving(self, behavior: Behavior, request: Any) -> Behavior:
        """The same for gRPC's iterator of messages, of which it takes one: without gRPC's own wait.

        Args:
          behavior: takes a message and the call's context.
          request: class of the message.
        """
        threads = getattr(behavior, "experimental_thread_pool", self.calls)

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
                return behavior(message, context, *more)
            finally:
                self._messages.give_back(size)

        # The names by which gRPC finds threads and callbacks.
        call.__dict__.update(getattr(behavior, "__dict__", {}))
        return call


class _Threads(ThreadPoolExecutor):
    """Survives that the system gives no further thread: those that run take what waits.

    Attributes:
      most: threads.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, name)
        self.most = most
        self._since: deque[float] = deque()

    @property
    def waiting(self) -> int:
        """Calls that have been waiting for a while, as all threads are taken."""
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
            # It is in the queue. Raised in gRPC's own thread, it would end the server's only one.
            _LOG.warning("%s; %d threads go on", error, len(self._threads))
            return Future()

    def _begin(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        self._since.popleft()
        return fn(*args, **kwargs)


def _within(behavior: Behavior, threads: ThreadPoolExecutor) -> Behavior:
    apart: Any = partial(behavior)
    # gRPC looks for this name; a version that did not would take the threads of all calls.
    apart.experimental_thread_pool = threads
    apart.experimental_non_blocking = getattr(behavior, "experimental_non_blocking", False)
    return apart


def _parsed(request: Any, data: bytes, context: Any) -> Any:
    try:
        return request.FromString(data)
    except Exception:
        # Protobuf's error has another class in each of its implementations.
        _LOG.warning("a call brings %d bytes that are no %s", len(data), request.__name__)
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        raise AssertionError("abort returned") from None


def time_left(context: Any) -> float | None:
    """Seconds until the client's deadline; None when it set none."""
    left = context.time_remaining()
    # Python's gRPC tells a missing deadline as one in the far future or as None.
    return None if left is None or left > _NO_DEADLINE_S else max(left, _AT_ONCE_S)


def call_headers(context: Any) -> dict[str, str]:
    """The metadata that a client sent, by lower-case name; binary values are left out."""
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def abort(context: Any, error: ServingError) -> NoReturn:
    """Ends a call with the error's code and message, by an exception that gRPC knows."""
    if isinstance(error, OverloadedError):
        # The key by which gRPC's own retry policy is told when to try again.
        hint = ("grpc-retry-pushback-ms", str(error.retry_after_s * 1000))
        context.set_trailing_metadata((hint,))
    context.abort(grpc.StatusCode[error.code], error.grpc_message)
    raise AssertionError("abort returned")


def refusing(behavior: Behavior) -> Behavior:
    """The same, its ServingErrors told to the client."""

    def call(request: Any, context: Any) -> Any:
        try:
            return behavior(request, context)
        except ServingError as error:
            abort(context, error)

    return call


def unary_service(
    name: str, methods: Mapping[str, tuple[Behavior, Any]], threads: CallThreads
) -> grpc.GenericRpcHandler:
    """A service of unary methods.

    Args:
      name: with its package, e.g. `grpc.health.v1.Health`.
      methods: name -> (what answers, class of the request message).
      threads: that calls run and wait in.
    """
    handlers = {
        # On the wire a stream of one message is what a unary method takes.
        method: grpc.stream_unary_rpc_method_handler(
            threads.receiving(behavior, request), response_serializer=serialize
        )
        for method, (behavior, request) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def serialize(message: Any) -> bytes:
    """A message's bytes."""
    return message.SerializeToString()
