"""Both front ends over one set of models, in one event loop.

serve("bundles")                      # every model under it, on 127.0.0.1:8500 and :8501
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving.saved_model import import_tensorflow
from serving.server.errors import ServerError, ServingError
from serving.server.models import ModelConfig, ModelManager
from serving.server.source import ModelSource, why_not_available

__all__ = ["GRPC_PORT", "REST_PORT", "ServerError", "ServerOptions", "serve"]

_LOG = logging.getLogger(__name__)

GRPC_PORT = 8500
REST_PORT = 8501

#: Seconds that requests under way get at shutdown.
_GRACE_S = 5.0


@dataclass(frozen=True)
class ServerOptions:
    """What is rarely changed.

    Attributes:
      poll_seconds: between two looks for new versions; 0 looks once, at the start.
      max_request_bytes: of one request, REST or gRPC; more is refused.
      monitoring_path: of the Prometheus metrics; None switches them off.
      health: serve `grpc.health.v1.Health`.
      warmup: replay `tf_serving_warmup_requests` before a version takes traffic.
      max_load_retries: of a version that does not load.
      load_retry_seconds: between them.
      labels_for_unavailable: let a new label name a version that is not loaded yet.
    """

    poll_seconds: float = 1.0
    max_request_bytes: int = 64 * 2**20
    monitoring_path: str | None = "/monitoring/prometheus/metrics"
    health: bool = True
    warmup: bool = True
    max_load_retries: int = 5
    load_retry_seconds: float = 60.0
    labels_for_unavailable: bool = False


def serve(
    models: Path | str | Sequence[ModelConfig],
    *,
    host: str = "127.0.0.1",
    grpc_port: int | None = GRPC_PORT,
    rest_port: int | None = REST_PORT,
    options: ServerOptions = ServerOptions(),
) -> None:
    """Serves until SIGINT or SIGTERM; prints one line when it is ready.

    Args:
      models: a folder of models, all of which are served, new ones as they appear; or the models.
      host: to bind; anything but the loopback address opens the server to the network.
      grpc_port: 0 takes one that is free, None is no gRPC.
      rest_port: likewise.
      options: see there.

    Raises:
      ServerError: a port in use, no version to serve, or none that loads.
    """
    if grpc_port is None and rest_port is None:
        raise ServerError("both ports are switched off; give one of --port and --rest_api_port")
    if grpc_port and grpc_port == rest_port:
        raise ServerError(f"gRPC and REST cannot share port {grpc_port}; give each its own")
    source = ModelSource(models)
    source.check()
    # Loading TensorFlow to learn that a port is taken would waste seconds. The ports are let go
    # again until the models are there: a port that listens is taken for a server that is ready.
    for port in (grpc_port, rest_port):
        if port is not None:
            _listen(host, port).close()
    asyncio.run(_Server(source, host, grpc_port, rest_port, options).run())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left out asyncio does not set TCP_NODELAY, which costs 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # A port in TIME_WAIT is free; one that another server listens on is not.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ServerError(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or choose "
            "another with --port (gRPC) or --rest_api_port (REST)"
        ) from error
    listener.setblocking(False)
    return listener


class _Server:
    """The running server; made anew for every `serve`."""

    def __init__(
        self,
        source: ModelSource,
        host: str,
        grpc_port: int | None,
        rest_port: int | None,
        options: ServerOptions,
    ) -> None:
        self._source = source
        self._host = host
        self._grpc_port = grpc_port
        self._rest_port = rest_port
        self._options = options
        cores = os.cpu_count() or 1
        self._workers = ThreadPoolExecutor(max(4, 2 * cores), "request")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._loop_tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Load, serve, and stop at a signal."""
        import_tensorflow()
        from serving.server.metrics import Metrics
        from serving.server.warmup import replay

        metrics = Metrics()
        models = ModelManager(
            self._source,
            prepare=_warm_up(metrics, replay) if self._options.warmup else None,
            max_retries=self._options.max_load_retries,
            retry_seconds=self._options.load_retry_seconds,
            labels_for_unavailable=self._options.labels_for_unavailable,
        )
        await self._first_load(models)
        # Only now: before, a signal should end the process and not wait for TensorFlow.
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        urls = []
        rest = grpc_server = None
        if self._rest_port is not None:
            listener = _listen(self._host, self._rest_port)
            rest = self._start_rest(models, metrics, listener)
            urls.append(f"http://{_bracketed(self._host)}:{listener.getsockname()[1]}")
        if self._grpc_port is not None:
            grpc_server, port = await self._start_grpc(models, metrics)
            urls.append(f"grpc://{_bracketed(self._host)}:{port}")
        poll = asyncio.create_task(self._poll(models))
        print(_ready_line(models, urls), flush=True)
        try:
            await self._until_stopped(stop, rest)
        finally:
            poll.cancel()
            if rest is not None:
                rest.should_exit = True
                await asyncio.gather(*self._loop_tasks)
            if grpc_server is not None:
                await grpc_server.stop(_GRACE_S)
            await loop.run_in_executor(self._loader, models.close)
            self._workers.shutdown(wait=False)
            self._loader.shutdown(wait=False)

    async def _first_load(self, models: ModelManager) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._loader, models.sync)
        except ServingError as error:
            raise ServerError(error.message) from error
        broken = []
        for config in self._source():
            if not models.available().get(config.name):
                broken.append(why_not_available(models, config))
        if len(broken) == len(models.available()):
            raise ServerError("no model loads:\n  " + "\n  ".join(broken))
        for line in broken:
            print(f"not served: {line}", file=sys.stderr, flush=True)

    def _start_rest(self, models: ModelManager, metrics: Any, listener: socket.socket) -> Any:
        import uvicorn

        from serving.server.rest import RestApp, RestHandler

        class Uvicorn(uvicorn.Server):
            """Leaves signals to us: it would end the process before gRPC has finished."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        handler = RestHandler(models, metrics, monitoring_path=self._options.monitoring_path)
        config = uvicorn.Config(
            RestApp(handler, self._workers, self._options.max_request_bytes),
            http="httptools",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE_S),
        )
        server = Uvicorn(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        self._loop_tasks.append(task)
        return server

    async def _start_grpc(self, models: ModelManager, metrics: Any) -> tuple[Any, int]:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        from serving.server.grpc_api import ModelService, PredictionService, health_handler

        limit = self._options.max_request_bytes
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Otherwise a second server would silently share the port with the first.
                ("grpc.so_reuseport", 0),
            ]
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(models, metrics, self._workers), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(models, partial(self._source.reload, models=models), self._loader), server
        )
        if self._options.health:
            server.add_generic_rpc_handlers((health_handler(),))
        address = f"{_bracketed(self._host)}:{self._grpc_port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerError(f"gRPC cannot listen on {address}: {error}") from error
        await server.start()
        return server, port

    async def _poll(self, models: ModelManager) -> None:
        loop = asyncio.get_running_loop()
        while self._options.poll_seconds > 0:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await loop.run_in_executor(self._loader, models.sync)
            except Exception as error:
                # Whatever lies in the folders, the next look may find it mended.
                _LOG.warning("looking for new versions: %s", error)

    async def _until_stopped(self, stop: asyncio.Event, rest: Any) -> None:
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *self._loop_tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if rest is not None and not stop.is_set():
            raise ServerError("the REST server ended by itself; see its log")


def _warm_up(metrics: Any, replay: Any) -> Any:
    def prepare(name: str, path: Path, engine: Any) -> None:
        count = replay(name, path, engine)
        if count:
            metrics.count("model_warmup_records_read", count, model_path=str(path))

    return prepare


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ready_line(models: ModelManager, urls: Sequence[str]) -> str:
    served = [
        f"{name}/{','.join(map(str, versions))}"
        for name, versions in models.available().items()
        if versions
    ]
    return f"serving {' '.join(served)} at {' and '.join(urls)}"
