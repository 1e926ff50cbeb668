"""Flags as TF Serving writes them, and those of its flags that mean nothing here.

A flag of TF Serving that this server has no use for is accepted, so that a command line works
unchanged, with a line that says why it does nothing; one whose loss would matter is refused. What
neither server knows is refused with the nearest name.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.server.errors import ServerError

_BOOLEANS = ("true", "false", "1", "0")


@dataclass(frozen=True)
class UnusedFlag:
    """A flag of TF Serving without an effect here.

    Attributes:
      name: without the dashes.
      default: TF Serving's, which also tells the type; given as it is, it is passed over.
      why: it has no effect.
      refuse: doing without it would be another server than the one asked for.
    """

    name: str
    default: bool | int | float | str
    why: str
    refuse: bool = False


_UNUSED = (
    UnusedFlag("rest_api_num_threads", 0, "requests of both APIs share one pool of threads"),
    UnusedFlag("grpc_max_threads", 0, "requests of both APIs share one pool of threads"),
    UnusedFlag("num_unload_threads", 0, "a version is freed by the last request that leaves it"),
    UnusedFlag("flush_filesystem_caches", True, "the system's file cache is left to the system"),
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
    UnusedFlag("skip_initialize_tpu", False, "it computes on the CPU"),
    UnusedFlag("per_process_gpu_memory_fraction", 0.0, "it computes on the CPU"),
)


def parse_flags(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Any:
    """The flags' values; ends the process with status 2, naming the nearest flag, at one unknown.

    Args:
      parser: made with `allow_abbrev=False`, or a part of a name would do.
      arguments: of the command line; None is this process's own.
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


def _joined(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments with each switch that stands alone as `--x=true`.

    argparse would take what follows for its value, whatever it is: `--enable_batching bundles`.
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


def boolean(text: str) -> bool:
    """TF Serving's `true`, `false`, `1` or `0`.

    Raises:
      argparse.ArgumentTypeError: anything else.
    """
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"true or false, got {text!r}")
    return text.lower() in ("true", "1")


def add_switch(parser: Any, name: str, *, default: bool, **keywords: Any) -> None:
    """A flag as TF Serving writes them: `--x`, `--x=true` or `--x=false`."""
    parser.add_argument(name, type=boolean, nargs="?", const=True, default=default, **keywords)


def add_unused_flags(parser: argparse.ArgumentParser) -> None:
    """Takes TF Serving's flags that mean nothing here."""
    group = parser.add_argument_group("taken for TF Serving's sake, without effect")
    for flag in _UNUSED:
        if isinstance(flag.default, bool):
            add_switch(group, f"--{flag.name}", default=flag.default, help=flag.why)
        else:
            kind = type(flag.default)
            group.add_argument(f"--{flag.name}", type=kind, default=flag.default, help=flag.why)


def unused_warnings(flags: argparse.Namespace) -> list[str]:
    """One line for each flag that was given and does nothing.

    Raises:
      ServerError: one that must not do nothing.
    """
    given = [flag for flag in _UNUSED if getattr(flags, flag.name) != flag.default]
    for flag in given:
        if flag.refuse:
            raise ServerError(f"--{flag.name}={getattr(flags, flag.name)}: {flag.why}")
    return [f"--{flag.name} has no effect: {flag.why}" for flag in given]


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """GRPC's options of `--grpc_channel_arguments`, e.g. `grpc.max_connection_age_ms=2000,...`.

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
