"""Minimal servers with a fixed response, to measure the cost per request of their libraries alone.

    addresses = start(b"response over gRPC", b"response over REST")

gRPC's thread server with a handler of bytes, and uvicorn with an ASGI application, without the
limits that the embedded server adds to either. Start them in a separate process: they run until it
ends.
"""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from serving.benchmark.loadtest.callers import PREDICT_METHOD
from serving.server.lifecycle.listeners import listen

_HOST = "127.0.0.1"
_THREADS = 4
#: A gRPC server stops when its last reference is gone.
_RUNNING: list[Any] = []


@dataclass(frozen=True)
class Addresses:
    """Addresses of the two servers: `grpc://...` and `http://...`."""

    grpc_url: str
    rest_url: str


def start(grpc_response: bytes, rest_response: bytes) -> Addresses:
    """Starts both on free ports of the loopback address.

    Args:
      grpc_response: to every Predict request.
      rest_response: to every HTTP request, once its body has been read.
    """
    listening: Future[str] = Future()
    loop = threading.Thread(
        target=lambda: asyncio.run(_serve_rest(rest_response, listening)), daemon=True
    )
    loop.start()
    return Addresses(_start_grpc(grpc_response), listening.result())


def _start_grpc(response: bytes) -> str:
    import grpc

    service, method = PREDICT_METHOD.strip("/").split("/")
    predict = grpc.unary_unary_rpc_method_handler(lambda request, context: response)
    handler = grpc.method_handlers_generic_handler(service, {method: predict})
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[handler])
    port = server.add_insecure_port(f"{_HOST}:0")
    server.start()
    _RUNNING.append(server)
    return f"grpc://{_HOST}:{port}"


async def _serve_rest(response: bytes, listening: "Future[str]") -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(response)).encode()),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": response})

    import uvicorn

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_level="warning", access_log=False
    )
    listener = listen(_HOST, 0)
    listening.set_result(f"http://{_HOST}:{listener.getsockname()[1]}")
    await uvicorn.Server(config).serve(sockets=[listener])
