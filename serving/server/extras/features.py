"""What production asks of the server beyond predictions, all of it off by default.

`Extras` is what the flags say; `ExtraParts` are the parts of one running server.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.errors import ServerError
from serving.server.extras.hooks import Hooks, Watcher
from serving.server.extras.security import GrpcTls, RestTls, read_ssl_config, rest_tls
from serving.server.extras.shadow import Shadow, ShadowConfig, read_shadow, shadow_page
from serving.server.extras.traffic import Canary, Split, read_split
from serving.server.extras.vertex import VertexOptions, read_vertex_options, vertex_page
from serving.server.flags import add_switch, channel_arguments
from serving.server.http.compression import with_gzip
from serving.server.http.cors import with_cors
from serving.server.http.web import Handler, Page, first_of
from serving.server.observability.health import Readiness, health_page
from serving.server.observability.request_log import LogConfig, RequestLog


@dataclass(frozen=True)
class Extras:
    """See the flags of the same names.

    Attributes:
      cors: browsers' pages of any origin may call REST.
      grpc_tls: None serves gRPC in the clear.
      rest_tls: likewise.
      grpc_arguments: further options of the gRPC server.
      grpc_socket: path of a Unix socket to serve gRPC on too; empty for none.
      health_urls: `/healthz/live` and `/healthz/ready`.
      open_inference: the V2 protocol, over REST and gRPC.
      vertex: Vertex AI's routes; None for none.
      compression_min_bytes: REST answers of at least that size may be sent in gzip; 0 for none.
      canaries: how requests without a version are shared.
      shadows: which versions get copies of the requests.
      request_logs: model -> where its requests are logged; "" stands for all other models.
      tracing: OpenTelemetry.
    """

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


#: None of it.
NO_EXTRAS = Extras()


def add_extra_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `Extras`: first those of TF Serving, then our own."""
    group = parser.add_argument_group("security and transport")
    add_switch(group, "--rest_api_enable_cors_support", default=False)
    group.add_argument("--ssl_config_file", type=Path, help="text SSLConfig; TLS on gRPC")
    group.add_argument("--rest_ssl_cert", type=Path, help="PEM chain; TLS on REST (our own)")
    group.add_argument("--rest_ssl_key", type=Path, help="its PEM key (our own)")
    group.add_argument("--grpc_channel_arguments", default="", help="NAME=VALUE,...")
    group.add_argument("--grpc_socket_path", default="", help="a Unix socket to serve gRPC on too")
    own = parser.add_argument_group("in production (all our own)")
    own.add_argument("--rest_compression_min_bytes", type=int, default=0, help="gzip; 0 is off")
    add_switch(own, "--health_urls", default=False, help="/healthz/live and /healthz/ready")
    add_switch(own, "--open_inference", default=False, help="KServe's V2 protocol, REST and gRPC")
    add_switch(own, "--vertex", default=False, help="Vertex AI's contract, from AIP_*")
    own.add_argument(
        "--canary", action="append", default=[], help="MODEL=LABEL:WEIGHT,LABEL:WEIGHT"
    )
    own.add_argument("--shadow", action="append", default=[], help="MODEL=LABEL[:PERCENT]")
    own.add_argument("--request_log", default="", help="file prefix; of models without their own")
    own.add_argument("--request_log_sampling_rate", type=float, default=1.0, help="in [0, 1]")
    add_switch(own, "--tracing", default=False, help="OpenTelemetry; set OTEL_EXPORTER_OTLP_...")


def read_extras(
    flags: argparse.Namespace, request_logs: Mapping[str, LogConfig] | None = None
) -> Extras:
    """The extras that the flags ask for.

    Args:
      flags: from a parser with `add_extra_flags`.
      request_logs: of the model config file.

    Raises:
      ServerError: a flag that makes no sense.
    """
    logs = dict(request_logs or {})
    if flags.request_log:
        logs[""] = LogConfig(flags.request_log, flags.request_log_sampling_rate)
    if flags.rest_compression_min_bytes < 0:
        raise ServerError("--rest_compression_min_bytes is a size in bytes, or 0 for none")
    return Extras(
        cors=flags.rest_api_enable_cors_support,
        grpc_tls=read_ssl_config(flags.ssl_config_file) if flags.ssl_config_file else None,
        rest_tls=rest_tls(flags.rest_ssl_cert, flags.rest_ssl_key),
        grpc_arguments=tuple(channel_arguments(flags.grpc_channel_arguments)),
        grpc_socket=flags.grpc_socket_path,
        health_urls=flags.health_urls,
        open_inference=flags.open_inference,
        vertex=read_vertex_options(os.environ) if flags.vertex else None,
        compression_min_bytes=flags.rest_compression_min_bytes,
        canaries=tuple(map(read_split, flags.canary)),
        shadows=tuple(map(read_shadow, flags.shadow)),
        request_logs=logs,
        tracing=flags.tracing,
    )


class ExtraParts:
    """The parts of a running server that the extras ask for.

    Attributes:
      hooks: for the front ends.
    """

    def __init__(
        self, extras: Extras, models: Any, metrics: Any, readiness: Readiness | None = None
    ) -> None:
        """Starts what they need.

        Args:
          extras: which parts.
          models: the ModelManager.
          metrics: the server's Metrics.
          readiness: of the server; None is that of `models` alone.

        Raises:
          ServerError: a part that cannot be had.
        """
        self._extras = extras
        self._models = models
        self._readiness = readiness or Readiness(models)
        self._log = self._shadow = self._tracing = None
        if extras.tracing:
            from serving.server.observability.tracing import OpenTelemetry

            self._tracing = OpenTelemetry()
        if extras.request_logs:
            self._log = RequestLog(extras.request_logs, metrics)
        if extras.shadows:
            from serving.server.models import inference

            self._shadow = Shadow(extras.shadows, models, metrics, predict=inference.predict)
        watchers: list[Watcher] = [part for part in (self._log, self._shadow) if part]
        canary = Canary(extras.canaries, models, metrics) if extras.canaries else None
        self.hooks = Hooks(canary=canary, watchers=watchers, tracer=self._tracing)

    def site(self, rest: Handler, pages: list[Page], limits: Limits = DEFAULT_LIMITS) -> Handler:
        """Everything that is answered over HTTP.

        Args:
          rest: TF Serving's API.
          pages: of other protocols.
          limits: of one request's memory.
        """
        extras = self._extras
        if extras.health_urls or extras.open_inference or extras.vertex:
            pages.append(health_page(self._readiness))
        if extras.vertex:
            page = vertex_page(
                extras.vertex,
                self._readiness,
                rest,
                model_of=self._only_model,
                max_inflated_bytes=limits.max_inflated_bytes,
            )
            pages.append(page)
        if self._shadow is not None:
            pages.append(shadow_page(self._shadow))
        handler = first_of(pages, rest)
        if extras.compression_min_bytes:
            handler = with_gzip(handler, extras.compression_min_bytes)
        return with_cors(handler) if extras.cors else handler

    def close(self) -> None:
        """Ends the threads, writes the log and sends the spans; takes as long as they need."""
        for part in (self._shadow, self._log, self._tracing):
            if part is not None:
                part.close()

    def _only_model(self) -> str:
        return next(iter(sorted(self._models.available())), "")
