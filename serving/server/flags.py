"""The command-line flags: TF Serving's names and syntax, and the flags of this server.

Flags of TF Serving that have no effect here are accepted with a warning, so that a command line
works unchanged; a flag whose effect would be missed is an error. An unknown flag is an error that
names the nearest known one.
"""

import argparse
import contextlib
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.errors import ServerError
from serving.server.models.engines import EngineOptions
from serving.server.observability.logs import LEVELS
from serving.server.options import GRPC_PORT, REST_PORT, ServerOptions

_BOOLEANS = ("true", "false", "1", "0")


@dataclass(frozen=True)
class UnusedFlag:
    """A flag of TF Serving without an effect here.

    Attributes:
      name: without the dashes.
      default: TF Serving's default, whose type is the type of the flag.
      why: the reason that it has no effect.
      refuse: whether any other value than the default is an error.
    """

    name: str
    default: bool | int | float | str
    why: str
    refuse: bool = False


_UNUSED = (
    UnusedFlag("rest_api_num_threads", 0, "requests of both APIs share one pool of threads"),
    UnusedFlag("grpc_max_threads", 0, "requests of both APIs share one pool of threads"),
    UnusedFlag("num_unload_threads", 0, "a version is freed when its last request ends"),
    UnusedFlag("flush_filesystem_caches", True, "the operating system manages its file cache"),
    UnusedFlag("tensorflow_session_config_file", "", "use --tensorflow_intra_op_parallelism"),
    UnusedFlag("platform_config_file", "", "there is one platform, tensorflow"),
    UnusedFlag("use_alts_credentials", False, "there is no ALTS; use --ssl_config_file", True),
    UnusedFlag("saved_model_tags", "serve", "only models tagged `serve` are loaded", True),
    UnusedFlag("num_request_iterations_for_warmup", 0, "warm-up requests are replayed once"),
    UnusedFlag("remove_unused_fields_from_bundle_metagraph", True, "the whole graph is kept"),
    UnusedFlag("enable_signature_method_name_check", False, "method names are not compared"),
    UnusedFlag("xla_cpu_compilation_enabled", False, "models run as they were saved"),
    UnusedFlag("xla_gpu_compilation_enabled", False, "models run as they were saved"),
    UnusedFlag("enable_profiler", True, "there is no ProfilerService; see --tracing"),
    UnusedFlag("thread_pool_factory_config_file", "", "see --tensorflow_intra_op_parallelism"),
    UnusedFlag("mixed_precision", "", "models run in the precision they were saved in"),
    UnusedFlag("skip_initialize_tpu", False, "models run on the CPU"),
    UnusedFlag("per_process_gpu_memory_fraction", 0.0, "models run on the CPU"),
)

_LIMITS_HELP = {
    "max_header_bytes": "request line and headers of a REST request, or metadata of a gRPC call",
    "max_inflated_bytes": "a REST body after gzip decompression",
    "max_repeated_bytes": "memory that single values of one gRPC request may be expanded to",
    "max_body_bytes_in_flight": "all REST bodies together, and all gRPC messages together",
    "max_connections": "REST connections; 0 is half of the process's file descriptors",
    "idle_timeout_s": "before a connection without a request is closed",
}


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m serving.server`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_models(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (not in TF Serving)")
    ports = "0 disables it, `auto` takes a free port (not in TF Serving)"
    parser.add_argument("--port", type=_port, default=GRPC_PORT, help=f"gRPC port; {ports}")
    parser.add_argument(
        "--rest_api_port", type=_port, default=REST_PORT, help=f"REST port; {ports}"
    )
    parser.add_argument("--monitoring_config_file", type=Path, help="text MonitoringConfig")
    parser.add_argument("--max_request_bytes", type=int, default=ServerOptions.max_request_bytes)
    _add_switch(parser, "--enable_grpc_healthcheck_service")
    _add_scheduling(parser.add_argument_group("batching and queues"))
    _add_engines(parser.add_argument_group("engines"))
    _add_limits(parser.add_argument_group("limits (not in TF Serving)"))
    _add_security(parser.add_argument_group("security and transport"))
    _add_production(parser.add_argument_group("production (not in TF Serving)"))
    # Passed by the parent to the processes of --processes.
    parser.add_argument("--member", default="", help=argparse.SUPPRESS)
    _add_switch(parser, "--version")
    _add_unused(parser.add_argument_group("accepted for compatibility, without effect"))
    return parser


def parse_flags(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Any:
    """The values of the flags. An unknown flag ends the process with status 2.

    Args:
      parser: made with `allow_abbrev=False`.
      arguments: command-line arguments; None takes those of this process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    flags, unknown = parser.parse_known_args(_joined(parser, given))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        words = []
        for name in (argument.partition("=")[0] for argument in unknown):
            near = difflib.get_close_matches(name, known, 1)
            words.append(f"{name} (nearest: {near[0]})" if near else name)
        parser.error(f"unknown: {', '.join(words)}; --help lists the flags")
    return flags


def unused_warnings(flags: argparse.Namespace) -> list[str]:
    """One line for each given flag that has no effect.

    Raises:
      ServerError: a flag whose effect would be missed.
    """
    given = [flag for flag in _UNUSED if getattr(flags, flag.name) != flag.default]
    for flag in given:
        if flag.refuse:
            raise ServerError(f"--{flag.name}={getattr(flags, flag.name)}: {flag.why}")
    return [f"--{flag.name} has no effect: {flag.why}" for flag in given]


def _joined(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--x=true` for every switch without a value.

    argparse would take any argument that follows as its value: `--enable_batching bundles`.
    """
    switches = {
        name
        for action in parser._actions
        if action.nargs == argparse.OPTIONAL
        for name in action.option_strings
    }
    joined = []
    for index, one in enumerate(arguments, 1):
        after = arguments[index] if index < len(arguments) else ""
        alone = one in switches and after.lower() not in _BOOLEANS
        joined.append(f"{one}=true" if alone else one)
    return joined


def _add_switch(parser: Any, name: str, *, default: bool = False, **keywords: Any) -> None:
    """A flag in TF Serving's syntax: `--x`, `--x=true` or `--x=false`."""
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default, **keywords)


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to serve (one of the three)")
    folder = "folder of models, all of which are served; may be given without the flag"
    group.add_argument("--bundles_dir", type=Path, help=f"{folder} (not in TF Serving)")
    group.add_argument("bundles", type=Path, nargs="?", help=argparse.SUPPRESS)
    group.add_argument("--model_base_path", type=Path, help="folder of the versions of one model")
    group.add_argument("--model_config_file", type=Path, help="text ModelServerConfig")
    parser.add_argument("--model_name", default="default", help="name of --model_base_path's model")
    roots = "folder that reload requests may load models from; repeatable (not in TF Serving)"
    parser.add_argument("--model_roots", type=Path, action="append", default=[], help=roots)
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    parser.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0.0)
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--load_retry_interval_micros", type=int, default=60_000_000)
    _add_switch(parser, "--enable_model_warmup", default=True)
    _add_switch(parser, "--allow_version_labels_for_unavailable_models")


def _add_scheduling(group: Any) -> None:
    _add_switch(group, "--enable_batching")
    group.add_argument("--batching_parameters_file", type=Path, help="text BatchingParameters")
    _add_switch(group, "--enable_per_model_batching_parameters")
    adaptive = "batch only the requests that find all batch threads busy (not in TF Serving)"
    _add_switch(group, "--adaptive_batching", help=adaptive)
    waiting = "maximum number of waiting requests (not in TF Serving); default: no limit"
    group.add_argument("--max_queue", type=_count, help=waiting)
    group.add_argument("--rest_api_timeout_in_ms", type=_count, default=30_000)


def _add_engines(group: Any) -> None:
    _add_switch(group, "--prefer_tflite_model")
    group.add_argument("--num_tflite_pools", type=_count, default=0, help="0 is one per core")
    group.add_argument("--num_tflite_interpreters_per_pool", type=_count, default=1)
    variant = "variant of bundles to serve, [MODEL=]NAME; repeatable (not in TF Serving)"
    group.add_argument("--variant", type=_variant, action="append", default=[], help=variant)
    longest = EngineOptions.run_timeout_ms
    limit = "time limit of one run of a SavedModel; 0 is none (not in TF Serving)"
    group.add_argument("--run_timeout_ms", type=_count, default=longest, help=limit)
    group.add_argument("--tensorflow_session_parallelism", type=_count, default=0)
    group.add_argument("--tensorflow_intra_op_parallelism", type=_count, default=0)
    group.add_argument("--tensorflow_inter_op_parallelism", type=_count, default=0)
    group.add_argument("--num_load_threads", type=_count, default=0, help="0 is one thread")
    _add_switch(group, "--enable_serialization_as_tensor_content")


def _add_limits(group: Any) -> None:
    for field in dataclasses.fields(Limits):
        default = getattr(DEFAULT_LIMITS, field.name)
        kind = _positive_seconds if isinstance(default, float) else _size
        shown = "" if field.name == "max_connections" else f"; default {default:g}"
        text = f"{_LIMITS_HELP[field.name]}{shown}"
        group.add_argument(
            _limit_flag(field.name), type=kind, default=default, dest=field.name, help=text
        )


def _limit_flag(field: str) -> str:
    """The flag of a field of `Limits`, e.g. `--idle_timeout_seconds`."""
    return "--" + (field.removesuffix("_s") + "_seconds" if field.endswith("_s") else field)


def _add_security(group: Any) -> None:
    _add_switch(group, "--rest_api_enable_cors_support")
    group.add_argument("--ssl_config_file", type=Path, help="text SSLConfig; TLS for gRPC")
    chain = "PEM certificate chain; TLS for REST (not in TF Serving)"
    group.add_argument("--rest_ssl_cert", type=Path, help=chain)
    group.add_argument("--rest_ssl_key", type=Path, help="its PEM key (not in TF Serving)")
    group.add_argument("--grpc_channel_arguments", default="", help="NAME=VALUE,...")
    group.add_argument("--grpc_socket_path", default="", help="Unix socket that also serves gRPC")


def _add_production(group: Any) -> None:
    size = "smallest REST response that is compressed with gzip; 0 disables compression"
    group.add_argument("--rest_compression_min_bytes", type=int, default=0, help=size)
    _add_switch(group, "--health_urls", help="serve /healthz/live and /healthz/ready")
    _add_switch(group, "--open_inference", help="serve KServe's V2 protocol, REST and gRPC")
    _add_switch(group, "--vertex", help="Vertex AI's container contract, from AIP_* variables")
    split = "share of the requests for each label, MODEL=LABEL:WEIGHT,LABEL:WEIGHT; repeatable"
    group.add_argument("--canary", action="append", default=[], help=split)
    shadow = "copy requests to another version, MODEL=LABEL[:PERCENT]; repeatable"
    group.add_argument("--shadow", action="append", default=[], help=shadow)
    log = "file prefix of the request logs of all models without a logging_config"
    group.add_argument("--request_log", default="", help=log)
    group.add_argument("--request_log_sampling_rate", type=float, default=1.0, help="in [0, 1]")
    _add_switch(group, "--tracing", help="OpenTelemetry spans; set OTEL_EXPORTER_OTLP_...")
    processes = "number of server processes that share the ports"
    group.add_argument("--processes", type=_count, default=1, help=processes)
    level = "lowest level of this server's log on stderr; default info"
    group.add_argument("--log_level", choices=LEVELS, default="info", help=level)
    delay = "between SIGTERM, when health becomes not ready, and shutdown; default 2"
    group.add_argument(
        "--lame_duck_seconds", type=_seconds, default=ServerOptions.lame_duck_s, help=delay
    )


def _add_unused(group: Any) -> None:
    for flag in _UNUSED:
        if isinstance(flag.default, bool):
            _add_switch(group, f"--{flag.name}", default=flag.default, help=flag.why)
        else:
            kind = type(flag.default)
            group.add_argument(f"--{flag.name}", type=kind, default=flag.default, help=flag.why)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"true or false, got {text!r}")
    return text.lower() in ("true", "1")


def _port(text: str) -> int | None:
    """None for TF Serving's 0, which disables the port, and 0 for a free port."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, 0 or auto, got {text!r}")
    return int(text) or None


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0, got {text!r}")
    return int(text)


def _size(text: str) -> int:
    if len(text) > 18:
        raise argparse.ArgumentTypeError(f"a whole number of at least 0, got {text!r}")
    return _count(text)


def _seconds(text: str) -> float:
    value = -1.0
    with contextlib.suppress(ValueError):
        value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"seconds of at least 0, got {text!r}")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"seconds above 0, got {text!r}")
    return value


def _variant(text: str) -> tuple[str, str]:
    model, _, name = text.rpartition("=")
    return model, name
