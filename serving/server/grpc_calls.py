"""What every gRPC method needs: the client's deadline, refusals, plain handlers. No TensorFlow."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc

from serving.server.errors import OverloadedError, ServingError

#: Deadlines beyond it are none.
_NO_DEADLINE_S = 10.0 * 365 * 86400
#: Of a request whose deadline has passed when it is read: 0 would mean no deadline.
_AT_ONCE_S = 1e-3


def time_left(context: Any) -> float | None:
    """Seconds until the client's deadline; None when it set none."""
    left = context.time_remaining()
    # Python's gRPC tells a missing deadline as one in the far future or as None.
    return None if left is None or left > _NO_DEADLINE_S else max(left, _AT_ONCE_S)


def call_headers(context: Any) -> dict[str, str]:
    """The metadata that a client sent, by lower-case name; binary values are left out."""
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


async def abort(context: Any, error: ServingError) -> NoReturn:
    """Ends a call with the error's code and message."""
    hints: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError):
        # The key by which gRPC's own retry policy is told when to try again.
        hints = (("grpc-retry-pushback-ms", str(error.retry_after_s * 1000)),)
    await context.abort(grpc.StatusCode[error.code], error.grpc_message, hints)
    raise AssertionError("abort returned")


def unary_service(
    name: str, methods: Mapping[str, tuple[Callable[[Any, Any], Awaitable[Any]], Any]]
) -> grpc.GenericRpcHandler:
    """A service of unary methods.

    Args:
      name: with its package, e.g. `grpc.health.v1.Health`.
      methods: name -> (coroutine of request and context, class of the request message).
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
