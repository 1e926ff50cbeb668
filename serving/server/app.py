"""Runs the server: REST in an event loop and gRPC in threads, over the same models.

serve("bundles")                      # every model in the folder, on 127.0.0.1:8500 and :8501
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engines.saved_model import import_tensorflow
from serving.server.errors import ServerError, ServingError
from serving.server.lifecycle.listeners import (
    GrpcListener,
    RestListener,
    listen,
    start_grpc,
    start_rest,
)
from serving.server.lifecycle.stopping import CLOSE_S, StopSignals
from serving.server.models.background import Background
from serving.server.models.config import ServedModel
from serving.server.models.manager import ModelManager
from serving.server.models.source import ConfigFile, ModelSource
from serving.server.observability.health import Readiness
from serving.server.observability.logs import AcceptErrors
from serving.server.observability.metrics import Metrics, SharedMetrics
from serving.server.options import DEFAULT_OPTIONS, GRPC_PORT, REST_PORT, ServerOptions
from serving.server.scheduling.batching import version_batching
from serving.server.scheduling.dispatch import Dispatcher
from serving.server.scheduling.scheduler import BatchScheduler

if TYPE_CHECKING:
    from serving.server.extras.hooks import Observer
    from serving.server.http.web import Handler
    from serving.server.v2.service import OpenInference

_LOG = logging.getLogger(__name__)

#: Between two checks of readiness, for clients that watch it.
_NOTIFY_S = 0.5


def serve(
    models: Path | str | Sequence[ServedModel],
    *,
    host: str = "127.0.0.1",
    grpc_port: int | None = GRPC_PORT,
    rest_port: int | None = REST_PORT,
    options: ServerOptions = DEFAULT_OPTIONS,
) -> None:
    """Serves until SIGINT or SIGTERM; prints one line when it is ready.

    Args:
      models: a folder of models, all of which are served, new ones as they appear; or the models.
      host: address to bind; any but the loopback address opens the server to the network.
      grpc_port: 0 takes a free port, None disables gRPC.
      rest_port: likewise for REST.
      options: see `ServerOptions`.

    Raises:
      ServerError: a port in use, no version to serve, or none that loads.
    """
    if grpc_port is None and rest_port is None:
        raise ServerError("both ports are switched off; give one of --port and --rest_api_port")
    if grpc_port and grpc_port == rest_port:
        raise ServerError(f"gRPC and REST cannot share port {grpc_port}; give each its own")
    source = ModelSource(models, roots=options.model_roots)
    if not options.engines.prefer_tflite:
        # A version may then be a `.tflite` alone; the first load reports what does not load.
        source.check()
    # A taken port is an error before TensorFlow is imported, which takes seconds. The ports are
    # released until the models are loaded: clients take a listening server for a ready one.
    hosts = host, options.rest_host or host
    for address, port in zip(hosts, (grpc_port, rest_port), strict=True):
        if port is not None and options.member is None:
            listen(address, port).close()
    asyncio.run(_Server(source, hosts, (grpc_port, rest_port), options).run())


class _Server:
    """The server of one call of `serve`."""

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
        # Read before the models load, which takes minutes: later changes must be noticed.
        self._config_file = options.config_file and ConfigFile(
            options.config_file, retry_seconds=options.load_retry_seconds
        )
        self._background = Background(options.load_threads)
        self._loader = ThreadPoolExecutor(1, "loader")

    async def run(self) -> None:
        """Loads the models, serves, and stops at a signal."""
        asyncio.get_running_loop().set_exception_handler(AcceptErrors())
        import_tensorflow()
        from serving.server.models.warmup import warm_up

        options, metrics = self._options, Metrics()
        models = ModelManager(
            self._source,
            engines=options.engines,
            batching=partial(
                version_batching, shared=options.batching, per_model=options.per_model_batching
            ),
            background=self._background,
            load_threads=options.load_threads,
            prepare=partial(warm_up, metrics) if options.warmup else None,
            on_event=lambda name, event: metrics.count(
                "model_event_count", model_name=name, event=event
            ),
            max_retries=options.max_load_retries,
            retry_seconds=options.load_retry_seconds,
            labels_for_unavailable=options.labels_for_unavailable,
        )
        await self._first_load(models)
        if options.member is not None:
            wait = options.member.wait_for_all
            await asyncio.get_running_loop().run_in_executor(None, wait)
        await self._serve(_Services(models, metrics, options))

    async def _serve(self, services: "_Services") -> None:
        # The handlers are set after the load: a signal during it ends the process at once.
        loop = asyncio.get_running_loop()
        stop = StopSignals(loop, services.readiness, self._options.lame_duck_s)
        if self._options.member is not None:
            self._options.member.watch_parent(partial(loop.call_soon_threadsafe, stop.now))
        rest = self._start_rest(services, self._rest_port) if self._rest_port is not None else None
        grpc = self._start_grpc(services, self._grpc_port) if self._grpc_port is not None else None
        urls = [listener.url for listener in (rest, grpc) if listener is not None]
        models = services.models
        works = self._poll(models), self._reread(models), _notify(services.readiness)
        tasks = [asyncio.create_task(work) for work in works]
        self._background.settle()
        print(_ready_line(models, urls), flush=True)
        try:
            await _until_stopped(stop.event, rest)
        finally:
            services.readiness.drain()
            for task in tasks:
                task.cancel()
            for listener in (rest, grpc):
                if listener is not None:
                    await listener.stop()
            closing = loop.run_in_executor(self._loader, services.close)
            # Work that cannot be stopped must not keep the process.
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

    def _start_rest(self, services: "_Services", port: int) -> RestListener:
        from serving.server.http.asgi import RestApp

        options = self._options
        listener = listen(self._rest_host, port, shared=options.member is not None)
        app = RestApp(
            services.rest_handler(),
            options.max_request_bytes,
            max_bytes_in_flight=options.limits.max_body_bytes_in_flight,
        )
        host, tls = self._rest_host, options.rest_tls
        return start_rest(app, listener, host=host, tls=tls, limits=options.limits)

    def _start_grpc(self, services: "_Services", port: int) -> GrpcListener:
        from serving.server.grpc.api import ModelService, PredictionService, health_handler
        from serving.server.grpc.methods import CallThreads, Messages

        options = self._options
        predictions = PredictionService(
            services.models,
            services.metrics,
            services.dispatcher,
            tensor_content=options.tensor_content,
            hooks=services.hooks,
            max_repeated_bytes=options.limits.max_repeated_bytes,
        )
        reload = partial(self._reload, services.models)
        models = ModelService(services.models, reload, self._loader, services.metrics)
        # One whole message must fit, even where its limit is higher.
        most = max(options.limits.max_body_bytes_in_flight, options.max_request_bytes)
        threads = CallThreads(services.dispatcher.max_requests, messages=Messages(most))
        handlers = [predictions.handler(threads), models.handler(threads)]
        if options.health:
            handlers.append(health_handler(threads, services.readiness))
        if options.open_inference:
            from serving.server.v2.grpc_service import open_inference_handler

            handlers.append(open_inference_handler(services.open_inference(), threads))
        return start_grpc(
            self._grpc_host,
            port,
            handlers,
            threads=threads,
            max_request_bytes=options.max_request_bytes,
            tls=options.grpc_tls,
            shared=options.member is not None,
            arguments=options.grpc_arguments,
            socket_path=options.grpc_socket,
            limits=options.limits,
        )

    def _reload(self, models: ModelManager, configs: list[ServedModel]) -> None:
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
                # The folders may be repaired before the next look.
                _LOG.warning("cannot look for new versions: %s", error)

    async def _reread(self, models: ModelManager) -> None:
        """Serves the models of the config file whenever it changes."""
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
                # The file may be corrected before the next look.
                _LOG.warning("the models stay as they are: %s", error)


async def _notify(readiness: Readiness) -> None:
    """Notifies clients that watch when a model comes or goes."""
    while True:
        await asyncio.sleep(_NOTIFY_S)
        readiness.notify()


async def _until_stopped(stop: asyncio.Event, rest: RestListener | None) -> None:
    stopped = asyncio.create_task(stop.wait())
    tasks = [stopped] if rest is None else [stopped, rest.task]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not stop.is_set():
        raise ServerError("the REST server ended by itself; see its log")


class _Services:
    """The parts of a running server that REST and gRPC share."""

    def __init__(self, models: ModelManager, metrics: Metrics, options: ServerOptions) -> None:
        from serving.server.extras.hooks import Hooks
        from serving.server.extras.request_log import RequestLog
        from serving.server.extras.shadow import Shadow
        from serving.server.extras.tracing import OpenTelemetry
        from serving.server.extras.traffic import Canary
        from serving.server.models import inference

        self.models = models
        self.metrics = metrics
        self.readiness = Readiness(models)
        self._options = options
        self.dispatcher = _dispatcher(metrics, options)
        self._closing: list[Callable[[], None]] = [self.dispatcher.close]
        tracing = OpenTelemetry() if options.tracing else None
        log = RequestLog(options.request_logs, metrics) if options.request_logs else None
        self._shadow = (
            Shadow(options.shadows, models, metrics, predict=inference.predict)
            if options.shadows
            else None
        )
        observers: list[Observer] = [part for part in (log, self._shadow) if part]
        canary = Canary(options.canaries, models, metrics) if options.canaries else None
        self.hooks = Hooks(canary=canary, observers=observers, tracer=tracing)
        self._closing += [p.close for p in (self._shadow, log, tracing) if p is not None]
        self._closing.append(models.close)
        self._metrics_text: Callable[[], str] = metrics.text
        if options.member is not None:
            shared = SharedMetrics(metrics, Path(options.member.folder))
            self._metrics_text = shared.text
            self._closing.append(shared.close)

    def rest_handler(self) -> "Handler":
        """The handler of everything that is served over HTTP."""
        from serving.server.http.pages import health_page, shadow_page
        from serving.server.http.rest import RestHandler
        from serving.server.http.vertex import vertex_page
        from serving.server.http.web import first_of, with_cors, with_gzip

        options, limits = self._options, self._options.limits
        rest = RestHandler(
            self.models,
            self.metrics,
            self.dispatcher,
            monitoring_path=options.monitoring_path,
            timeout_ms=options.rest_timeout_ms,
            hooks=self.hooks,
            metrics_text=self._metrics_text,
            limits=limits,
        ).handle
        pages = []
        if options.open_inference:
            from serving.server.v2.rest import open_inference_page

            page = open_inference_page(
                self.open_inference(),
                timeout_ms=options.rest_timeout_ms,
                max_inflated_bytes=limits.max_inflated_bytes,
            )
            pages.append(page)
        if options.health_urls or options.open_inference or options.vertex:
            pages.append(health_page(self.readiness))
        if options.vertex:
            page = vertex_page(
                options.vertex,
                self.readiness,
                rest,
                model_of=lambda: next(iter(sorted(self.models.available())), ""),
                max_inflated_bytes=limits.max_inflated_bytes,
            )
            pages.append(page)
        if self._shadow is not None:
            pages.append(shadow_page(self._shadow))
        handler = first_of(pages, rest)
        if options.compression_min_bytes:
            handler = with_gzip(handler, options.compression_min_bytes)
        return with_cors(handler) if options.cors else handler

    def open_inference(self) -> "OpenInference":
        """The calls of the Open Inference Protocol."""
        from serving.server.v2.service import OpenInference

        return OpenInference(
            self.models,
            self.metrics,
            self.dispatcher,
            hooks=self.hooks,
            readiness=self.readiness,
        )

    def close(self) -> None:
        """Ends the threads and frees the models."""
        for close in self._closing:
            close()


def _dispatcher(metrics: Metrics, options: ServerOptions) -> Dispatcher:
    cores = os.cpu_count() or 1
    batching = options.batching
    scheduler = batching and BatchScheduler(
        batching.num_batch_threads or cores, metrics=metrics, name=batching.thread_pool_name
    )
    slots = max(4, 2 * cores)
    return Dispatcher(slots, metrics=metrics, scheduler=scheduler, max_queue=options.max_queue)


def _ready_line(models: ModelManager, urls: Sequence[str]) -> str:
    served = [
        f"{name}/{','.join(map(str, versions))}"
        for name, versions in models.available().items()
        if versions
    ]
    return f"serving {' '.join(served)} at {' and '.join(urls)}"
