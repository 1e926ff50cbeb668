"""`python -m serving.server`: the embedded server with TF Serving's flags.

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

from serving.server.app import serve
from serving.server.errors import ServerError
from serving.server.flags import make_parser, parse_flags, unused_warnings
from serving.server.http.vertex import model_base_path
from serving.server.lifecycle.stopping import leave
from serving.server.lifecycle.worker_processes import Supervisor, threads_flags
from serving.server.models.config import ServedModel
from serving.server.observability import logs
from serving.server.options import ServerOptions, read_options

_OPEN = (
    "--host {} opens the server to the network, without authentication: everyone who reaches its "
    "ports can use its models; see serving/server/README.md"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server.

    Returns:
      The exit status: 0 after a signal, 1 when it cannot start, 2 for wrong flags.
    """
    flags = parse_flags(make_parser(__doc__), arguments)
    if flags.version:
        print(f"sightline {metadata.version('sightline')}")
        return 0
    with logs.configured(flags.log_level):
        return _run(flags, arguments)


def _run(flags: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    try:
        # With several processes the parent alone prints the warnings.
        for line in [] if flags.member else unused_warnings(flags):
            print(f"warning: {line}", file=sys.stderr, flush=True)
        options = read_options(flags)
        if options.vertex is not None:
            flags.rest_api_port = options.vertex.port
            # gRPC is no part of Vertex AI's contract, even where the image sets --host.
            flags.host = "127.0.0.1"
        if not flags.member and not _is_loopback(flags.host):
            print(f"warning: {_OPEN.format(flags.host)}", file=sys.stderr, flush=True)
        if flags.processes > 1:
            given = sys.argv[1:] if arguments is None else arguments
            return _serve_in_processes(flags, options, given)
        with _models(flags, options) as models, logs.captured_native_lines():
            serve(
                models,
                host=flags.host,
                grpc_port=flags.port,
                rest_port=flags.rest_api_port,
                options=options,
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


def _serve_in_processes(
    flags: argparse.Namespace, options: ServerOptions, arguments: Sequence[str]
) -> int:
    threads = [
        flags.tensorflow_session_parallelism,
        flags.tensorflow_intra_op_parallelism,
        flags.tensorflow_inter_op_parallelism,
        flags.num_tflite_pools,
    ]
    return Supervisor(
        [*arguments, *threads_flags(flags.processes, threads)],
        flags.processes,
        flags.host,
        (flags.port, flags.rest_api_port),
        rest_host=options.rest_host,
        lame_duck_s=options.lame_duck_s,
    ).run()


@contextlib.contextmanager
def _models(
    flags: argparse.Namespace, options: ServerOptions
) -> Iterator[Path | list[ServedModel]]:
    """The models to serve, for as long as the server runs."""
    folder = flags.bundles_dir or flags.bundles
    given = [flags.bundles_dir, flags.bundles, flags.model_base_path, flags.model_config_file]
    count = sum(value is not None for value in given)
    if count == 0 and options.vertex and options.vertex.model_dir:
        # A process of several may be killed: the parent removes what is left in their folder.
        parent = Path(flags.member) if flags.member else None
        with model_base_path(options.vertex.model_dir, parent) as base_path:
            yield [ServedModel(flags.model_name, base_path)]
        return
    if count != 1:
        raise ServerError("give one of --bundles_dir, --model_base_path and --model_config_file")
    if folder:
        yield folder
    elif flags.model_base_path is not None:
        yield [ServedModel(flags.model_name, flags.model_base_path)]
    else:
        from serving.server.models.protos import read_model_config_file

        yield read_model_config_file(flags.model_config_file)


if __name__ == "__main__":
    leave(main())
