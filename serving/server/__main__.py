"""`python -m serving.server`: the embedded server under TF Serving's own flags.

python -m serving.server --model_name=digits_cnn --model_base_path=$PWD/bundles/digits_cnn
python -m serving.server --bundles_dir=bundles --port=auto --rest_api_port=auto
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.server.app import GRPC_PORT, REST_PORT, ServerOptions, serve
from serving.server.errors import ServerError
from serving.server.models import ModelConfig
from serving.server.monitoring import read_monitoring_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server.

    Returns:
      The exit status: 0 after a signal, 1 when it cannot start, 2 for wrong flags.
    """
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        serve(
            _models(flags),
            host=flags.host,
            grpc_port=flags.port,
            rest_port=flags.rest_api_port,
            options=ServerOptions(
                poll_seconds=flags.file_system_poll_wait_seconds,
                max_request_bytes=flags.max_request_bytes,
                monitoring_path=_monitoring_path(flags.monitoring_config_file),
                health=flags.enable_grpc_healthcheck_service,
                warmup=flags.enable_model_warmup,
                max_load_retries=flags.max_num_load_retries,
                load_retry_seconds=flags.load_retry_interval_micros / 1e6,
                labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
            ),
        )
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_argument_group("what to serve (one of the three)")
    what.add_argument("--bundles_dir", type=Path, help="every model under it (our own flag)")
    what.add_argument("--model_base_path", type=Path, help="one model's folder of versions")
    what.add_argument("--model_config_file", type=Path, help="text ModelServerConfig")
    parser.add_argument("--model_name", default="default", help="of --model_base_path")
    parser.add_argument("--host", default="127.0.0.1", help="to bind (our own flag)")
    ports = "0 switches it off, `auto` takes a free one (our own)"
    parser.add_argument("--port", type=_port, default=GRPC_PORT, help=f"gRPC; {ports}")
    parser.add_argument("--rest_api_port", type=_port, default=REST_PORT, help=f"REST; {ports}")
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    parser.add_argument("--monitoring_config_file", type=Path, help="text MonitoringConfig")
    parser.add_argument("--max_num_load_retries", type=int, default=5)
    parser.add_argument("--load_retry_interval_micros", type=int, default=60_000_000)
    parser.add_argument("--max_request_bytes", type=int, default=ServerOptions.max_request_bytes)
    _add_switch(parser, "--enable_model_warmup", default=True)
    _add_switch(parser, "--allow_version_labels_for_unavailable_models", default=False)
    _add_switch(parser, "--enable_grpc_healthcheck_service", default=False)
    return parser


def _add_switch(parser: argparse.ArgumentParser, name: str, *, default: bool) -> None:
    """A flag as TF Serving writes them: `--x`, `--x=true` or `--x=false`."""
    parser.add_argument(name, type=_boolean, nargs="?", const=True, default=default)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"true or false, got {text!r}")
    return text.lower() in ("true", "1")


def _port(text: str) -> int | None:
    """TF Serving's 0 is off; `serve` takes None for that, and 0 for a free port."""
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, 0 or auto, got {text!r}")
    return int(text) or None


def _models(flags: argparse.Namespace) -> Path | list[ModelConfig]:
    given = [flags.bundles_dir, flags.model_base_path, flags.model_config_file]
    if sum(value is not None for value in given) != 1:
        raise ServerError("give one of --bundles_dir, --model_base_path and --model_config_file")
    if flags.bundles_dir is not None:
        return flags.bundles_dir
    if flags.model_base_path is not None:
        return [ModelConfig(flags.model_name, flags.model_base_path)]
    from serving.server.protos import read_model_config_file

    return read_model_config_file(flags.model_config_file)


def _monitoring_path(file: Path | None) -> str | None:
    """The metrics' path; without a config file they are on, at TF Serving's path."""
    return ServerOptions.monitoring_path if file is None else read_monitoring_path(file)


if __name__ == "__main__":
    sys.exit(main())
