"""`python -m serving.server`: the embedded server under TF Serving's own flags.

python -m serving.server --model_name=digits_cnn --model_base_path=$PWD/bundles/digits_cnn
python -m serving.server --bundles_dir=bundles --port=auto --rest_api_port=auto
"""

import argparse
import contextlib
import ipaddress
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from serving.server.app import GRPC_PORT, REST_PORT, ServerOptions, serve
from serving.server.errors import ServerError
from serving.server.extras.features import Extras, add_extra_flags, read_extras
from serving.server.extras.vertex import model_base_path
from serving.server.flags import (
    add_switch,
    add_unused_flags,
    parse_flags,
    unused_warnings,
)
from serving.server.lifecycle.stopping import leave
from serving.server.lifecycle.worker_processes import Member, Supervisor, threads_flags
from serving.server.limit_flags import add_limit_flags, read_limits, seconds
from serving.server.models.engines import EngineOptions
from serving.server.models.manager import ModelConfig
from serving.server.observability import logs
from serving.server.observability.monitoring import read_monitoring_path
from serving.server.scheduling.batching import BatchingOptions
from serving.server.scheduling.batching_config import adaptive_options, read_batching_options

#: Of a host that strangers may reach.
_OPEN = (
    "--host {} opens the server to the network, without authentication: whoever reaches its ports "
    "can use its models; see serving/server/README.md"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server.

    Returns:
      The exit status: 0 after a signal, 1 when it cannot start, 2 for wrong flags.
    """
    flags = parse_flags(_parser(), arguments)
    if flags.version:
        print(f"sightline {metadata.version('sightline')}")
        return 0
    with logs.configured(flags.log_level):
        return _run(flags, arguments)


def _run(flags: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    try:
        # Of several processes the parent has told them already.
        for line in [] if flags.member else unused_warnings(flags):
            print(f"warning: {line}", file=sys.stderr, flush=True)
        extras = _extras(flags)
        if not flags.member and not _is_loopback(flags.host):
            print(f"warning: {_OPEN.format(flags.host)}", file=sys.stderr, flush=True)
        if flags.processes > 1:
            given = sys.argv[1:] if arguments is None else arguments
            return _serve_in_processes(flags, extras, given)
        with _models(flags, extras) as models, logs.captured_native_lines():
            serve(
                models,
                host=flags.host,
                grpc_port=flags.port,
                rest_port=flags.rest_api_port,
                options=_options(flags, extras),
            )
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _options(flags: argparse.Namespace, extras: Extras) -> ServerOptions:
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
        extras=extras,
        config_file=flags.model_config_file,
        config_poll_seconds=flags.model_config_file_poll_wait_seconds,
        # Vertex AI knows no reload requests, and its network is not one to take them from.
        model_roots=None if extras.vertex else tuple(flags.model_roots),
        rest_host=_rest_host(extras),
        member=Member(flags.member) if flags.member else None,
        limits=read_limits(flags),
        lame_duck_s=flags.lame_duck_seconds,
    )


def _rest_host(extras: Extras) -> str:
    """Where REST alone is bound; empty is where gRPC is."""
    # Vertex AI's contract: a container that listens on the loopback address is never healthy.
    return "0.0.0.0" if extras.vertex else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server", description=__doc__, allow_abbrev=False
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_argument_group("what to serve (one of the three)")
    folder = "every model under it (our own flag), which needs no name: `bundles`"
    what.add_argument("--bundles_dir", type=Path, help=folder)
    what.add_argument("bundles", type=Path, nargs="?", help=argparse.SUPPRESS)
    what.add_argument("--model_base_path", type=Path, help="one model's folder of versions")
    what.add_argument("--model_config_file", type=Path, help="text ModelServerConfig")
    parser.add_argument("--model_name", default="default", help="of --model_base_path")
    roots = "folder whose models reload requests may name, may be repeated (our own flag)"
    parser.add_argument("--model_roots", type=Path, action="append", default=[], help=roots)
    parser.add_argument("--host", default="127.0.0.1", help="to bind (our own flag)")
    ports = "0 switches it off, `auto` takes a free one (our own)"
    parser.add_argument("--port", type=_port, default=GRPC_PORT, help=f"gRPC; {ports}")
    parser.add_argument("--rest_api_port", type=_port, default=REST_PORT, help=f"REST; {ports}")
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    parser.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0.0)
    parser.add_argument("--monitoring_config_file", type=Path, help="text MonitoringConfig")
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--load_retry_interval_micros", type=int, default=60_000_000)
    parser.add_argument("--max_request_bytes", type=int, default=ServerOptions.max_request_bytes)
    add_switch(parser, "--enable_model_warmup", default=True)
    add_switch(parser, "--allow_version_labels_for_unavailable_models", default=False)
    add_switch(parser, "--enable_grpc_healthcheck_service", default=False)
    _add_scheduling(parser.add_argument_group("batching and queues"))
    _add_engines(parser.add_argument_group("engines"))
    add_limit_flags(parser)
    add_extra_flags(parser)
    parser.add_argument(
        "--processes", type=_count, default=1, help="that share the ports (our own)"
    )
    level = "of the server's own lines on stderr (our own); default info"
    parser.add_argument("--log_level", choices=logs.LEVELS, default="info", help=level)
    delay = "between SIGTERM, when health turns to not ready, and the end (our own); default 2"
    parser.add_argument(
        "--lame_duck_seconds", type=seconds, default=ServerOptions.lame_duck_s, help=delay
    )
    # Of the processes among themselves.
    parser.add_argument("--member", default="", help=argparse.SUPPRESS)
    add_switch(parser, "--version", default=False)
    add_unused_flags(parser)
    return parser


def _add_scheduling(group: Any) -> None:
    add_switch(group, "--enable_batching", default=False)
    group.add_argument("--batching_parameters_file", type=Path, help="text BatchingParameters")
    add_switch(group, "--enable_per_model_batching_parameters", default=False)
    add_switch(group, "--adaptive_batching", default=False)
    group.add_argument("--max_queue", type=_count, help="requests that may wait (our own)")
    group.add_argument("--rest_api_timeout_in_ms", type=_count, default=30_000)


def _add_engines(group: Any) -> None:
    add_switch(group, "--prefer_tflite_model", default=False)
    group.add_argument("--num_tflite_pools", type=_count, default=0, help="0 is one a core")
    group.add_argument("--num_tflite_interpreters_per_pool", type=_count, default=1)
    variant = "of our bundles, [MODEL=]NAME, may be repeated (our own)"
    group.add_argument("--variant", type=_variant, action="append", default=[], help=variant)
    longest, limit = EngineOptions.run_timeout_ms, "of one run of a SavedModel; 0 is none (our own)"
    group.add_argument("--run_timeout_ms", type=_count, default=longest, help=limit)
    group.add_argument("--tensorflow_session_parallelism", type=_count, default=0)
    group.add_argument("--tensorflow_intra_op_parallelism", type=_count, default=0)
    group.add_argument("--tensorflow_inter_op_parallelism", type=_count, default=0)
    group.add_argument("--num_load_threads", type=_count, default=0, help="0 and 1 are one")
    add_switch(group, "--enable_serialization_as_tensor_content", default=False)


def _port(text: str) -> int | None:
    """TF Serving's 0 is off; `serve` takes None for that, and 0 for a free port."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, 0 or auto, got {text!r}")
    return int(text) or None


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0, got {text!r}")
    return int(text)


def _variant(text: str) -> tuple[str, str]:
    model, _, name = text.rpartition("=")
    return model, name


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


def _extras(flags: argparse.Namespace) -> Extras:
    """The extras; Vertex AI's variables stand for the flags that were not given."""
    logs = None
    # It takes TensorFlow's protos to read it: a parent of processes leaves it to them.
    if flags.model_config_file is not None and flags.processes <= 1:
        from serving.server.models.protos import read_request_logs

        logs = read_request_logs(flags.model_config_file)
    extras = read_extras(flags, logs)
    if extras.vertex is not None:
        if flags.model_roots:
            raise ServerError("--vertex takes no reload requests; leave --model_roots out")
        flags.rest_api_port = extras.vertex.port
        # gRPC is no part of the contract, whatever the image's own command says.
        flags.host = "127.0.0.1"
    return extras


def _serve_in_processes(flags: argparse.Namespace, extras: Extras, arguments: Sequence[str]) -> int:
    threads = [
        flags.tensorflow_session_parallelism,
        flags.tensorflow_intra_op_parallelism,
        flags.tensorflow_inter_op_parallelism,
        flags.num_tflite_pools,
    ]
    given = [*arguments, *threads_flags(flags.processes, threads)]
    ports = (flags.port, flags.rest_api_port)
    return Supervisor(
        given,
        flags.processes,
        flags.host,
        ports,
        rest_host=_rest_host(extras),
        lame_duck_s=flags.lame_duck_seconds,
    ).run()


def _given(flags: argparse.Namespace) -> list[Path | None]:
    bundles = [flags.bundles_dir, flags.bundles]
    return [*bundles, flags.model_base_path, flags.model_config_file]


@contextlib.contextmanager
def _models(flags: argparse.Namespace, extras: Extras) -> Iterator[Path | list[ModelConfig]]:
    """What to serve, for as long as the server runs."""
    count = sum(value is not None for value in _given(flags))
    if count == 0 and extras.vertex and extras.vertex.model_dir:
        # Of several processes one may be killed: the parent removes what lies in their folder.
        parent = Path(flags.member) if flags.member else None
        with model_base_path(extras.vertex.model_dir, parent) as base_path:
            yield [ModelConfig(flags.model_name, base_path)]
        return
    if count != 1:
        raise ServerError("give one of --bundles_dir, --model_base_path and --model_config_file")
    if flags.bundles_dir or flags.bundles:
        yield flags.bundles_dir or flags.bundles
    elif flags.model_base_path is not None:
        yield [ModelConfig(flags.model_name, flags.model_base_path)]
    else:
        from serving.server.models.protos import read_model_config_file

        yield read_model_config_file(flags.model_config_file)


def _monitoring_path(file: Path | None) -> str | None:
    """The metrics' path; without a config file they are on, at TF Serving's path."""
    return ServerOptions.monitoring_path if file is None else read_monitoring_path(file)


if __name__ == "__main__":
    leave(main())
