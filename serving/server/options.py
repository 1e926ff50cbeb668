"""What a server is started with, beside its models and its ports."""

from dataclasses import dataclass, field
from pathlib import Path

from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.extras.features import NO_EXTRAS, Extras
from serving.server.lifecycle.worker_processes import Member
from serving.server.models.engines import EngineOptions
from serving.server.scheduling.batching import BatchingOptions


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
      batching: how requests share runs of a model; None runs each by itself.
      per_model_batching: each version's own file says how, and `batching` the threads only.
      max_queue: requests that may wait for a thread, more are refused; None sets no bound.
      rest_timeout_ms: of a REST request; 0 sets no bound. A gRPC request brings its own.
      engines: what loads the models, and how.
      load_threads: models that load at a time.
      tensor_content: answer gRPC with `tensor_content` and not with typed values.
      extras: what production asks beyond predictions.
      config_file: a text ModelServerConfig that is read again while the server runs; None for none.
      config_poll_seconds: between two looks at it; 0 never looks again.
      model_roots: reload requests may name models in these folders, besides those that the server
        was started with; None refuses all reload requests.
      rest_host: to bind for REST alone; empty is where gRPC is bound.
      member: of several processes that share the ports; None for a process by itself.
      limits: of memory and connections.
      lame_duck_s: between SIGTERM, from which on the server is not ready, and its end.
    """

    poll_seconds: float = 1.0
    max_request_bytes: int = 64 * 2**20
    monitoring_path: str | None = "/monitoring/prometheus/metrics"
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
    extras: Extras = NO_EXTRAS
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    model_roots: tuple[Path, ...] | None = ()
    rest_host: str = ""
    member: Member | None = None
    limits: Limits = DEFAULT_LIMITS
    lame_duck_s: float = 2.0


#: Those of the flags' defaults.
DEFAULT_OPTIONS = ServerOptions()
