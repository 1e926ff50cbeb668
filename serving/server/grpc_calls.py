"""What every gRPC method needs: threads, the client's deadline, refusals. No TensorFlow."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc

from serving.server.errors import OverloadedError, ServingError

T = TypeVar("T")
#: Answers a request; is given the call's context too.
Behaviour: TypeAlias = Callable[..., Any]

_LOG = logging.getLogger(__name__)

#: Calls that have a thread, where the server sets no bound to what waits. More wait in gRPC.
MOST_CALLS = 256
#: Beyond those that may wait: they refuse what comes on top.
_REFUSING = 4
#: For what is answered from memory.
_AT_ONCE = 2
#: Deadlines beyond it are none.
_NO_DEADLINE_S = 10.0 * 365 * 86400
#: Of a request whose deadline has passed when it is read: 0 would mean no deadline.
_AT_ONCE_S = 1e-3


class CallThreads:
    """The threads of a gRPC server, made when they are needed.

    A call of a model keeps its thread until it is answered, in a queue too. Health, status and
    metadata have threads of their own, so that they are told however many calls wait; so have
    reloads, which take minutes.
    """

    def __init__(self, most_requests: int | None = None) -> None:
        """Starts none.

        Args:
          most_requests: calls of models that may run or wait before more are refused; None, none
            is ever refused.
        """
        most = MOST_CALLS if most_requests is None else most_requests
        self.calls = _Threads(most + _REFUSING, "grpc")
        self._quick = _Threads(_AT_ONCE, "grpc-at-once")
        self._reloads = _Threads(1, "grpc-reload")

    def at_once(self, behaviour: Behaviour) -> Behaviour:
        """The same, in the threads of what never waits."""
        return _within(behaviour, self._quick)

    def reloading(self, behaviour: Behaviour) -> Behaviour:
        """The same, in the thread of reloads: one after the other."""
        return _within(behaviour, self._reloads)

    def close(self) -> None:
        """Ends them once they are done."""
        for threads in (self.calls, self._quick, self._reloads):
            threads.shutdown(wait=False)


class _Threads(ThreadPoolExecutor):
    """Survives that the system gives no further thread: those that run take what waits."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if self._shutdown or not self._threads:
                raise
            # It is in the queue. Raised in gRPC's own thread, it would end the server's only one.
            _LOG.warning("%s; %d threads go on", error, len(self._threads))
            return Future()


def _within(behaviour: Behaviour, threads: ThreadPoolExecutor) -> Behaviour:
    apart: Any = partial(behaviour)
    # gRPC looks for this name; a version that did not would take the threads of all calls.
    apart.experimental_thread_pool = threads
    apart.experimental_non_blocking = getattr(behaviour, "experimental_non_blocking", False)
    return apart


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


def refusing(behaviour: Behaviour) -> Behaviour:
    """The same, its ServingErrors told to the client."""

    def call(request: Any, context: Any) -> Any:
        try:
            return behaviour(request, context)
        except ServingError as error:
            abort(context, error)

    return call


def unary_service(
    name: str, methods: Mapping[str, tuple[Behaviour, Any]]
) -> grpc.GenericRpcHandler:
    """A service of unary methods.

    Args:
      name: with its package, e.g. `grpc.health.v1.Health`.
      methods: name -> (what answers, class of the request message).
    """
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            behaviour, request_deserializer=request.FromString, response_serializer=_serialize
        )
        for method, (behaviour, request) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()
