"""`grpc.health.v1.Health`: Check and Watch, for the server and its two services.

The messages come from `serving.protocol.wire`, so grpcio-health-checking is not needed.
"""

from functools import partial
from typing import Any

import grpc

from serving.protocol import wire
from serving.server.errors import ServingError
from serving.server.grpc.methods import CallThreads, refusing, serialize
from serving.server.observability.health import Readiness

SERVICE = "grpc.health.v1.Health"
#: Clients that watch at a time; they hold no thread.
MOST_WATCHERS = 1000
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_NAMES = ("", "ModelService", "PredictionService")


def health_handler(threads: CallThreads, readiness: Readiness) -> grpc.GenericRpcHandler:
    """The service, for `server.add_generic_rpc_handlers`.

    Args:
      threads: where what never waits is answered.
      readiness: of the server.
    """
    request, response = wire.message("HealthCheckRequest"), wire.message("HealthCheckResponse")

    def status(ready: bool) -> Any:
        return response(status=_SERVING if ready else _NOT_SERVING)

    def check(asked: Any, context: Any) -> Any:
        if asked.service not in _NAMES:
            raise ServingError("NOT_FOUND", f"unknown service {asked.service!r}")
        return status(readiness.is_ready())

    def watch(asked: Any, context: Any, send_response_callback: Any) -> None:
        send = send_response_callback
        if asked.service not in _NAMES:
            # The protocol's: it may become known.
            send(response(status=_SERVICE_UNKNOWN))
            return

        def watcher(ready: bool) -> None:
            send(status(ready))

        if not readiness.watch(watcher, most=MOST_WATCHERS):
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"{MOST_WATCHERS} clients watch already; use Check")
            send(None)
        elif not context.add_callback(partial(readiness.unwatch, watcher)):
            readiness.unwatch(watcher)

    # gRPC's own health service does it so: a blocking one would hold a thread for each client.
    watch.experimental_non_blocking = True  # type: ignore[attr-defined]
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(
            threads.receiving(threads.at_once(refusing(check)), request),
            response_serializer=serialize,
        ),
        "Watch": grpc.stream_stream_rpc_method_handler(
            threads.receiving(threads.at_once(watch), request), response_serializer=serialize
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
