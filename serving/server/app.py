"""Both front ends over one set of models: REST in an event loop, gRPC in threads of its own.

serve("bundles")                      # every model under it, on 127.0.0.1:8500 and :8501
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from serving.engines.saved_model import import_tensorflow
from serving.server.errors import ServerError, ServingError
from serving.server.extras.features import ExtraParts
from serving.server.lifecycle.background import Background
from serving.server.lifecycle.listeners import GrpcFront, RestFront, listen, start_grpc, start_rest
from serving.server.lifecycle.stopping import CLOSE_S, StopSignals
from serving.server.models.config_file import ConfigFile
from serving.server.models.manager import ModelConfig, ModelManager
from serving.server.models.source import ModelSource
from serving.server.observability.health import Readiness
from serving.server.observability.loop_errors import AcceptErrors
from serving.server.options import DEFAULT_OPTIONS, ServerOptions
from serving.server.scheduling.batching import BatchingOptions

__all__ = ["GRPC_PORT", "REST_PORT", "ServerError", "ServerOptions", "serve"]

_LOG = logging.getLogger(__name__)

#: Between two looks whether the server is ready, for clients that watch.
_NOTIFY_S = 0.5

GRPC_PORT = 8500
REST_PORT = 8501


def serve(
    models: Path | str | Sequence[ModelConfig],
    *,
    host: str = "127.0.0.1",
    grpc_port: int | None = GRPC_PORT,
    rest_port: int | None = REST_PORT,
    options: ServerOptions = DEFAULT_OPTIONS,
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
    source = ModelSource(models, roots=options.model_roots)
    if not options.engines.prefer_tflite:
        # A version may then be a `.tflite` alone; what does not load is told after the first load.
        source.check()
    # Loading TensorFlow to learn that a port is taken would waste seconds. The ports are let go
    # again until the models are there: a port that listens is taken for a server that is ready.
    hosts = host, options.rest_host or host
    for address, port in zip(hosts, (grpc_port, rest_port), strict=True):
        if port is not None and options.member is None:
            listen(address, port).close()
    asyncio.run(_Server(source, hosts, (grpc_port, rest_port), options).run())


class _Server:
    """The running server; made anew for every `serve`."""

    def __init__(
        self,
        source: ModelSource,
        hosts: tuple[str, str],
        ports: tuple[int | None, int | None],
        options: ServerOptions,
    ) -> None:
        self._source = source
        self._grpc_host, self._rest_host = hosts
        self._grpc_port, self._rest_port = ports
        self._options = options
        # Now, and not after minutes of loading: what changes until then has to be noticed.
        self._config_file = options.config_file and ConfigFile(
            options.config_file, retry_seconds=options.load_retry_seconds
        )
        self._background = Background(options.load_threads)
        self._loader = ThreadPoolExecutor(1, "loader")

    async def run(self) -> None:
        """Load, serve, and stop at a signal."""
        asyncio.get_running_loop().set_exception_handler(AcceptErrors())
        import_tensorflow()
        from serving.server.models.warmup import replay
        from serving.server.observability.metrics import Metrics

        metrics = Metrics()
        models = ModelManager(
            self._source,
            engines=self._options.engines,
            batching=self._batching_of(),
            background=self._background,
            load_threads=self._options.load_threads,
            prepare=_warm_up(metrics, replay) if self._options.warmup else None,
            on_event=lambda name, event: metrics.count(
                "model_event_count", model_name=name, event=event
            ),
            max_retries=self._options.max_load_retries,
            retry_seconds=self._options.load_retry_seconds,
            labels_for_unavailable=self._options.labels_for_unavailable,
        )
        await self._first_load(models)
        member = self._options.member
        if member is not None:
            await asyncio.get_running_loop().run_in_executor(None, member.wait_for_the_others)
        await self._serve(models, metrics)

    async def _serve(self, models: ModelManager, metrics: Any) -> None:
        running = _Running(models, metrics, self._dispatcher(metrics), self._options)
        # Only now: before, a signal should end the process and not wait for TensorFlow.
        loop = asyncio.get_running_loop()
        stop = StopSignals(loop, running.readiness, self._options.lame_duck_s)
        if self._options.member is not None:
            self._options.member.watch_parent(partial(loop.call_soon_threadsafe, stop.now))
        rest = self._start_rest(running, self._rest_port) if self._rest_port is not None else None
        grpc = self._start_grpc(running, self._grpc_port) if self._grpc_port is not None else None
        urls = [front.url for front in (rest, grpc) if front is not None]
        works = self._poll(models), self._reread(models), _notify(running.readiness)
        polls = [asyncio.create_task(work) for work in works]
        self._background.settle()
        print(_ready_line(models, urls), flush=True)
        try:
            await _until_stopped(stop.event, rest)
        finally:
            running.readiness.drain()
            for poll in polls:
                poll.cancel()
            for front in (rest, grpc):
                if front is not None:
                    await front.stop()
            closing = loop.run_in_executor(self._loader, running.close)
            # Work that nothing can stop must not keep the process.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(closing), CLOSE_S)
            self._loader.shutdown(wait=False)

    async def _first_load(self, models: ModelManager) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._loader, models.sync)
        except ServingError as error:
            raise ServerError(error.message) from error
        except OSError as error:
            raise ServerError(f"what to serve cannot be read: {error}") from error
        broken = models.not_served()
        if len(broken) == len(models.available()):
            raise ServerError("no model loads:\n  " + "\n  ".join(broken))
        for line in broken:
            print(f"not served: {line}", file=sys.stderr, flush=True)

    def _batching_of(self) -> Callable[[Path], BatchingOptions | None]:
        """Version folder -> how its requests share runs."""
        batching = self._options.batching
        if batching is not None and self._options.per_model_batching:
            from serving.server.scheduling.batching_config import PerModelBatching

            return PerModelBatching(batching)
        return lambda version_dir: batching

    def _dispatcher(self, metrics: Any) -> Any:
        from serving.server.scheduling.dispatch import Dispatcher
        from serving.server.scheduling.scheduler import BatchScheduler

        cores = os.cpu_count() or 1
        batching = self._options.batching
        scheduler = batching and BatchScheduler(
            batching.num_batch_threads or cores, metrics=metrics, name=batching.thread_pool_name
        )
        return Dispatcher(
            max(4, 2 * cores),
            metrics=metrics,
            scheduler=scheduler,
            max_queue=self._options.max_queue,
        )

    def _start_rest(self, running: "_Running", port: int) -> RestFront:
        from serving.server.http.rest import RestApp, RestHandler

        options = self._options
        listener = listen(self._rest_host, port, shared=options.member is not None)
        handler = RestHandler(
            running.models,
            running.metrics,
            running.dispatcher,
            monitoring_path=options.monitoring_path,
            timeout_ms=options.rest_timeout_ms,
            hooks=running.parts.hooks,
            metrics_text=running.metrics_text,
            limits=options.limits,
        )
        pages = []
        if options.extras.open_inference:
            from serving.server.v2.rest import open_inference_page

            page = open_inference_page(
                running.v2(),
                timeout_ms=options.rest_timeout_ms,
                max_inflated_bytes=options.limits.max_inflated_bytes,
            )
            pages.append(page)
        site = running.parts.site(handler.handle, pages, options.limits)
        app = RestApp(
            site,
            options.max_request_bytes,
            max_bytes_in_flight=options.limits.max_body_bytes_in_flight,
        )
        host, tls = self._rest_host, options.extras.rest_tls
        return start_rest(app, listener, host=host, tls=tls, limits=options.limits)

    def _start_grpc(self, running: "_Running", port: int) -> GrpcFront:
        from serving.server.grpc.api import ModelService, PredictionService
        from serving.server.grpc.messages import Messages
        from serving.server.grpc.methods import CallThreads

        options, extras = self._options, self._options.extras
        predictions = PredictionService(
            running.models,
            running.metrics,
            running.dispatcher,
            tensor_content=options.tensor_content,
            hooks=running.parts.hooks,
            max_repeated_bytes=options.limits.max_repeated_bytes,
        )
        reload = partial(self._reload, running.models)
        models = ModelService(running.models, reload, self._loader, running.metrics)
        # Whatever its flag says, one whole message must fit.
        most = max(options.limits.max_body_bytes_in_flight, options.max_request_bytes)
        threads = CallThreads(running.dispatcher.most_requests, messages=Messages(most))
        handlers = [predictions.handler(threads), models.handler(threads)]
        if options.health:
            from serving.server.grpc.health_service import health_handler

            handlers.append(health_handler(threads, running.readiness))
        if extras.open_inference:
            from serving.server.v2.grpc_service import open_inference_handler

            handlers.append(open_inference_handler(running.v2(), threads))
        return start_grpc(
            self._grpc_host,
            port,
            handlers,
            threads=threads,
            max_request_bytes=options.max_request_bytes,
            tls=extras.grpc_tls,
            shared=options.member is not None,
            arguments=extras.grpc_arguments,
            socket_path=extras.grpc_socket,
            limits=options.limits,
        )

    def _reload(self, models: ModelManager, configs: list[ModelConfig]) -> None:
        if self._options.member is not None:
            raise ServingError(
                "UNIMPLEMENTED",
                "a reload request would reach one of several processes; change the file of "
                "--model_config_file, with --model_config_file_poll_wait_seconds",
            )
        self._source.reload(configs, models)

    async def _poll(self, models: ModelManager) -> None:
        loop = asyncio.get_running_loop()
        while self._options.poll_seconds > 0:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await loop.run_in_executor(self._loader, models.sync)
            except Exception as error:
                # Whatever lies in the folders, the next look may find it mended.
                _LOG.warning("looking for new versions: %s", error)

    async def _reread(self, models: ModelManager) -> None:
        """Looks whether the model config file has changed."""
        file, seconds = self._config_file, self._options.config_poll_seconds
        if file is None or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        reload = partial(self._source.reload, models=models, trusted=True)
        while True:
            await asyncio.sleep(seconds)
            try:
                await loop.run_in_executor(self._loader, file.follow, reload)
            except Exception as error:
                # Whatever is wrong with the file, it may be mended.
                _LOG.warning("the models stay as they are: %s", error)


async def _notify(readiness: Readiness) -> None:
    """Lets those that watch know when a model comes or goes."""
    while True:
        await asyncio.sleep(_NOTIFY_S)
        readiness.notify()


async def _until_stopped(stop: asyncio.Event, rest: RestFront | None) -> None:
    stopped = asyncio.create_task(stop.wait())
    tasks = [stopped] if rest is None else [stopped, rest.task]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not stop.is_set():
        raise ServerError("the REST server ended by itself; see its log")


class _Running:
    """What the front ends of a running server are made of."""

    def __init__(
        self, models: ModelManager, metrics: Any, dispatcher: Any, options: ServerOptions
    ) -> None:
        self.models = models
        self.metrics = metrics
        self.dispatcher = dispatcher
        self.readiness = Readiness(models)
        self.parts = ExtraParts(options.extras, models, metrics, self.readiness)
        self.metrics_text: Callable[[], str] = metrics.text
        self._closing = [dispatcher.close, self.parts.close, models.close]
        if options.member is not None:
            from serving.server.observability.shared_metrics import SharedMetrics

            shared = SharedMetrics(metrics, Path(options.member.folder))
            self.metrics_text = shared.text
            self._closing.append(shared.close)

    def v2(self) -> Any:
        """The Open Inference Protocol's calls."""
        from serving.server.v2.service import OpenInference

        return OpenInference(
            self.models,
            self.metrics,
            self.dispatcher,
            hooks=self.parts.hooks,
            readiness=self.readiness,
        )

    def close(self) -> None:
        """Ends the threads and frees the models."""
        for close in self._closing:
            close()


def _warm_up(metrics: Any, replay: Any) -> Any:
    def prepare(name: str, path: Path, engine: Any) -> None:
        began, status = time.monotonic(), "INTERNAL"
        try:
            count = replay(name, path, engine)
            status = "OK"
        except ServingError as error:
            status = error.code
            raise
        finally:
            seconds = time.monotonic() - began
            metrics.observe("model_warmup_latency", seconds, model_path=str(path), status=status)
        if count:
            metrics.count("model_warmup_records_read", count, model_path=str(path))

    return prepare


def _ready_line(models: ModelManager, urls: Sequence[str]) -> str:
    served = [
        f"{name}/{','.join(map(str, versions))}"
        for name, versions in models.available().items()
        if versions
    ]
    return f"serving {' '.join(served)} at {' and '.join(urls)}"
