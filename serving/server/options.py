"""The options of a server besides its models and its ports, and how flags set them."""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.limits import DEFAULT_LIMITS, Limits
from serving.protocol import config_messages
from serving.server.errors import ServerError
from serving.server.extras.request_log import LogConfig, read_request_logs
from serving.server.extras.shadow import ShadowConfig, read_shadow
from serving.server.extras.traffic import Split, read_split
from serving.server.http.vertex import VertexOptions, read_vertex_options
from serving.server.lifecycle.tls import GrpcTls, RestTls, read_ssl_config, rest_tls
from serving.server.lifecycle.worker_processes import WorkerProcess
from serving.server.models.engines import EngineOptions
from serving.server.scheduling.batching import (
    BatchingOptions,
    adaptive_options,
    read_batching_options,
)

GRPC_PORT = 8500
REST_PORT = 8501
_MONITORING_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class ServerOptions:
    """Options that are rarely changed; the production features are off by default.

    Attributes:
      poll_seconds: between two looks for new versions; 0 looks once, at the start.
      max_request_bytes: of one request, REST or gRPC; larger ones are refused.
      monitoring_path: of the Prometheus metrics; None disables them.
      health: serve `grpc.health.v1.Health`.
      warmup: replay `tf_serving_warmup_requests` before a version is available.
      max_load_retries: of a version that fails to load.
      load_retry_seconds: between two attempts.
      labels_for_unavailable: let a new label name a version that is not loaded yet.
      batching: how requests share runs of a model; None runs each by itself.
      per_model_batching: each version's own file replaces `batching`, except for the threads.
      max_queue: requests that may wait for a thread, more are refused; None sets no bound.
      rest_timeout_ms: of a REST request; 0 sets no bound. A gRPC request has its own deadline.
      engines: how models are loaded.
      load_threads: models that load at a time.
      tensor_content: use `tensor_content` in gRPC responses, not typed values.
      config_file: a text ModelServerConfig that is read again while the server runs, or None.
      config_poll_seconds: between two reads of it; 0 reads it once.
      model_roots: folders that reload requests may load models from, besides those that the server
        was started with; None refuses all reload requests.
      rest_host: to bind for REST alone; empty is the address of gRPC.
      member: one of several processes that share the ports; None for a single process.
      limits: of memory and connections.
      lame_duck_s: between SIGTERM, from which on the server is not ready, and shutdown.
      cors: let web pages of any origin call REST.
      grpc_tls: None serves gRPC without TLS.
      rest_tls: None serves REST without TLS.
      grpc_arguments: further options of the gRPC server.
      grpc_socket: path of a Unix socket that also serves gRPC; empty for none.
      health_urls: serve `/healthz/live` and `/healthz/ready`.
      open_inference: serve the V2 protocol, over REST and gRPC.
      vertex: Vertex AI's routes; None for none.
      compression_min_bytes: the smallest REST response that is compressed; 0 for none.
      canaries: how requests without a version are distributed.
      shadows: which versions receive copies of the requests.
      request_logs: model -> where its requests are logged; "" stands for all other models.
      tracing: record OpenTelemetry spans.
    """

    poll_seconds: float = 1.0
    max_request_bytes: int = 64 * 2**20
    monitoring_path: str | None = _MONITORING_PATH
    health: bool = True
    warmup: bool = True
    max_load_retries: int = 5
    load_retry_seconds: float = 60.0
    labels_for_unavailable: bool = False
    batching: BatchingOptions | None = None
    per_model_batching: bool = False
    max_queue: int | None = None
    rest_timeout_ms: int = 30_000
    engines: EngineOptions = field(default_factory=EngineOptions)
    load_threads: int = 1
    tensor_content: bool = False
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    model_roots: tuple[Path, ...] | None = ()
    rest_host: str = ""
    member: WorkerProcess | None = None
    limits: Limits = DEFAULT_LIMITS
    lame_duck_s: float = 2.0
    cors: bool = False
    grpc_tls: GrpcTls | None = None
    rest_tls: RestTls | None = None
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()
    grpc_socket: str = ""
    health_urls: bool = False
    open_inference: bool = False
    vertex: VertexOptions | None = None
    compression_min_bytes: int = 0
    canaries: tuple[Split, ...] = ()
    shadows: tuple[ShadowConfig, ...] = ()
    request_logs: Mapping[str, LogConfig] = field(default_factory=dict)
    tracing: bool = False


DEFAULT_OPTIONS = ServerOptions()


def read_options(flags: argparse.Namespace) -> ServerOptions:
    """The options that the flags of `serving.server.flags.make_parser` set.

    Raises:
      ServerError: flags that contradict each other, or a file that cannot be read.
    """
    if flags.rest_compression_min_bytes < 0:
        raise ServerError("--rest_compression_min_bytes is a size in bytes, or 0 for none")
    vertex = read_vertex_options(os.environ) if flags.vertex else None
    if vertex is not None and flags.model_roots:
        raise ServerError("--vertex takes no reload requests; leave --model_roots out")
    return ServerOptions(
        poll_seconds=flags.file_system_poll_wait_seconds,
        max_request_bytes=flags.max_request_bytes,
        monitoring_path=_monitoring_path(flags.monitoring_config_file),
        health=flags.enable_grpc_healthcheck_service,
        warmup=flags.enable_model_warmup,
        max_load_retries=flags.max_num_load_retries,
        load_retry_seconds=flags.load_retry_interval_micros / 1e6,
        labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        batching=_batching(flags),
        per_model_batching=flags.enable_per_model_batching_parameters,
        max_queue=flags.max_queue,
        rest_timeout_ms=flags.rest_api_timeout_in_ms,
        engines=_engines(flags),
        load_threads=flags.num_load_threads,
        tensor_content=flags.enable_serialization_as_tensor_content,
        config_file=flags.model_config_file,
        config_poll_seconds=flags.model_config_file_poll_wait_seconds,
        # Vertex AI has no reload requests, and its network must not send any.
        model_roots=None if vertex else tuple(flags.model_roots),
        # Vertex AI's contract: a container that listens on the loopback address is never healthy.
        rest_host="0.0.0.0" if vertex else "",
        member=WorkerProcess(flags.member) if flags.member else None,
        limits=Limits(**{one.name: getattr(flags, one.name) for one in dataclasses.fields(Limits)}),
        lame_duck_s=flags.lame_duck_seconds,
        cors=flags.rest_api_enable_cors_support,
        grpc_tls=read_ssl_config(flags.ssl_config_file) if flags.ssl_config_file else None,
        rest_tls=rest_tls(flags.rest_ssl_cert, flags.rest_ssl_key),
        grpc_arguments=tuple(channel_arguments(flags.grpc_channel_arguments)),
        grpc_socket=flags.grpc_socket_path,
        health_urls=flags.health_urls,
        open_inference=flags.open_inference,
        vertex=vertex,
        compression_min_bytes=flags.rest_compression_min_bytes,
        canaries=tuple(map(read_split, flags.canary)),
        shadows=tuple(map(read_shadow, flags.shadow)),
        request_logs=_request_logs(flags),
        tracing=flags.tracing,
    )


def _batching(flags: argparse.Namespace) -> BatchingOptions | None:
    file = flags.batching_parameters_file
    if flags.enable_batching and flags.adaptive_batching:
        raise ServerError("give one of --enable_batching and --adaptive_batching")
    if not (flags.enable_batching or flags.adaptive_batching):
        if file is not None:
            raise ServerError(
                "batching_parameters_file is set without setting enable_batching to true"
            )
        return None
    options = None if file is None else read_batching_options(file)
    if flags.adaptive_batching:
        return adaptive_options(options)
    return options or BatchingOptions(thread_pool_name="model_server_batch_threads")


def _engines(flags: argparse.Namespace) -> EngineOptions:
    both = flags.tensorflow_session_parallelism
    return EngineOptions(
        prefer_tflite=flags.prefer_tflite_model,
        tflite_pools=flags.num_tflite_pools,
        tflite_interpreters_per_pool=max(1, flags.num_tflite_interpreters_per_pool),
        variants=dict(flags.variant),
        intra_op=flags.tensorflow_intra_op_parallelism or both,
        inter_op=flags.tensorflow_inter_op_parallelism or both,
        run_timeout_ms=flags.run_timeout_ms,
    )


def _request_logs(flags: argparse.Namespace) -> dict[str, LogConfig]:
    # Reading the file imports TensorFlow's protos; the parent of several processes skips it.
    file = flags.model_config_file if flags.processes <= 1 else None
    logs = {} if file is None else read_request_logs(file)
    if flags.request_log:
        logs[""] = LogConfig(flags.request_log, flags.request_log_sampling_rate)
    return logs


def _monitoring_path(file: Path | None) -> str | None:
    """The path of the metrics, which are on unless a config file disables them."""
    return ServerOptions.monitoring_path if file is None else read_monitoring_path(file)


def read_monitoring_path(file: Path) -> str | None:
    """The metrics' path in a text `MonitoringConfig`, None when it does not enable them.

    Raises:
      ServerError: no such file, or it is not a MonitoringConfig.
    """
    try:
        text = config_messages.decode(file.read_bytes())
        prometheus = config_messages.parse("MonitoringConfig", text).prometheus_config
    except (OSError, ValueError) as error:  # undecodable bytes are a ValueError
        raise ServerError(f"{file} is not a MonitoringConfig: {error}") from error
    return (prometheus.path or _MONITORING_PATH) if prometheus.enable else None


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """The gRPC options of `--grpc_channel_arguments`, e.g. `grpc.max_connection_age_ms=2000,...`.

    Raises:
      ServerError: a part without `=`.
    """
    options: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ServerError(f"--grpc_channel_arguments takes NAME=VALUE,..., got {part!r}")
        number = value.removeprefix("-").isdigit()
        options.append((name, int(value) if number else value))
    return options
