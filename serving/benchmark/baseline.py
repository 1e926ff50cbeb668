"""Servers that answer at once with what they are told: what their libraries alone cost a request.

    addresses = start(b"answer over gRPC", b"answer over REST")

gRPC's thread server with a handler of bytes, and uvicorn with an ASGI application, without the
limits that the embedded server adds to either. For a process of its own, which they end with.
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
#: A server ends with its last reference.
_RUNNING: list[Any] = []


@dataclass(frozen=True)
class Addresses:
    """Where the two listen: `grpc://...` and `http://...`."""

    grpc_url: str
    rest_url: str


def start(grpc_answer: bytes, rest_answer: bytes) -> Addresses:
    """Starts both on free ports of the loopback address.

    Args:
      grpc_answer: to every Predict request, whatever it asks.
      rest_answer: to every HTTP request, once its body has been read.
    """
    listening: Future[str] = Future()
    loop = threading.Thread(
        target=lambda: asyncio.run(_serve_rest(rest_answer, listening)), daemon=True
    )
    loop.start()
    return Addresses(_start_grpc(grpc_answer), listening.result())


def _start_grpc(answer: bytes) -> str:
    import grpc

    service, method = PREDICT_METHOD.strip("/").split("/")
    predict = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    handler = grpc.method_handlers_generic_handler(service, {method: predict})
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[handler])
    port = server.add_insecure_port(f"{_HOST}:0")
    server.start()
    _RUNNING.append(server)
    return f"grpc://{_HOST}:{port}"


async def _serve_rest(answer: bytes, listening: "Future[str]") -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    import uvicorn

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_level="warning", access_log=False
    )
    listener = listen(_HOST, 0)
    listening.set_result(f"http://{_HOST}:{listener.getsockname()[1]}")
    await uvicorn.Server(config).serve(sockets=[listener])
