"""TF Serving's flags and the types of their values."""

import re
from collections.abc import Sequence

from serving.deploy.check.findings import Location, nearest

_INTEGERS = """
    port rest_api_port rest_api_num_threads grpc_max_threads rest_api_timeout_in_ms
    num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
    tensorflow_session_parallelism tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism
    file_system_poll_wait_seconds model_config_file_poll_wait_seconds
    num_request_iterations_for_warmup num_tflite_pools num_tflite_interpreters_per_pool
""".split()  # noqa: SIM905 - a list of thirty quoted names is harder to read
_SWITCHES = """
    rest_api_enable_cors_support enable_batching enable_per_model_batching_parameters
    allow_version_labels_for_unavailable_models flush_filesystem_caches use_alts_credentials
    enable_model_warmup remove_unused_fields_from_bundle_metagraph prefer_tflite_model
    enable_signature_method_name_check xla_cpu_compilation_enabled xla_gpu_compilation_enabled
    enable_profiler enable_grpc_healthcheck_service enable_serialization_as_tensor_content
    skip_initialize_tpu version
""".split()  # noqa: SIM905
_TEXTS = """
    grpc_socket_path batching_parameters_file model_name model_base_path model_config_file
    tensorflow_session_config_file platform_config_file ssl_config_file saved_model_tags
    grpc_channel_arguments monitoring_config_file thread_pool_factory_config_file mixed_precision
""".split()  # noqa: SIM905
_FLOATS = ["per_process_gpu_memory_fraction"]

#: Flag -> the type of its value.
FLAGS: dict[str, str] = {
    **dict.fromkeys(_INTEGERS, "integer"),
    **dict.fromkeys(_SWITCHES, "true or false"),
    **dict.fromkeys(_TEXTS, "text"),
    **dict.fromkeys(_FLOATS, "number"),
}

#: Flags that name a file -> the message in the file; None for files that are not checked.
FILE_FLAGS: dict[str, str | None] = {
    "model_config_file": "ModelServerConfig",
    "batching_parameters_file": "BatchingParameters",
    "monitoring_config_file": "MonitoringConfig",
    "ssl_config_file": "SSLConfig",
    "platform_config_file": None,
    "tensorflow_session_config_file": None,
    "thread_pool_factory_config_file": None,
}

_PATTERNS = {
    "integer": r"-?\d+",
    "true or false": r"true|false|0|1",
    "number": r"\d*\.?\d+",
    "text": r".*",
}


def read_flags(arguments: Sequence[str], location: Location) -> dict[str, str]:
    """Flag -> value of TF Serving's command line; invalid arguments are reported."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            location.error(
                f"the argument {argument!r} is not a flag",
                "write --name=value, as one argument",
            )
        elif name not in FLAGS:
            remedy = nearest(name, FLAGS) or "remove it, or see serving/deploy/README.md"
            location.error(f"TF Serving has no flag --{name}", remedy)
        elif name in found:
            location.error(f"--{name} is given twice", "remove one of them")
        else:
            found[name] = _value(name, value if equals else None, location)
    return found


def _value(name: str, value: str | None, location: Location) -> str:
    kind = FLAGS[name]
    if value is None:
        if kind != "true or false":
            location.error(f"--{name} has no value", f"write --{name}=..., {kind}")
        return "true"
    if not re.fullmatch(_PATTERNS[kind], value):
        location.error(f"--{name}={value} is not {kind}", f"write --{name}= with {kind}")
    return value


def is_on(flags: dict[str, str], name: str) -> bool:
    """Whether a switch that is off by default is on."""
    return flags.get(name, "false") in ("true", "1")


def ports(flags: dict[str, str]) -> dict[str, int]:
    """`grpc` and `rest` -> open port; without those that are switched off."""
    found = {"grpc": flags.get("port", "8500"), "rest": flags.get("rest_api_port", "0")}
    return {name: int(port) for name, port in found.items() if port.isdigit() and int(port)}
