"""TF Serving's `BatchingParameters` files: the server's, and the one in a version's folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.protocol import config_messages
from serving.server.errors import ServerError
from serving.server.scheduling.batching import PER_MODEL_FILE, BatchingOptions

#: Rows of one run with `--adaptive_batching`, unless a parameters file says otherwise.
_ADAPTIVE_BATCH_SIZE = 32


def read_batching_options(file: Path) -> BatchingOptions:
    """The options in a text `BatchingParameters`, TF Serving's defaults for what it leaves out.

    Raises:
      ServerError: no such file, it is not one, or its values do not fit together.
    """
    try:
        text = config_messages.decode(file.read_bytes())
        parameters = config_messages.parse("BatchingParameters", text)
    except (OSError, ValueError) as error:  # bytes that are no text are a ValueError
        raise ServerError(f"{file} is not a BatchingParameters: {error}") from error
    given: dict[str, Any] = {}
    for field in parameters.DESCRIPTOR.fields:
        value = getattr(parameters, field.name)
        if field.name == "allowed_batch_sizes":
            given[field.name] = tuple(value)
        elif field.message_type is None:
            given[field.name] = value
        elif parameters.HasField(field.name):
            # `{ value: ... }`; one that is not there keeps the default.
            given[field.name] = value.value
    try:
        return BatchingOptions(**given)
    except ServerError as error:
        raise ServerError(f"{file}: {error}") from error


def adaptive_options(options: BatchingOptions | None) -> BatchingOptions:
    """Our own adaptive batching, with the sizes and threads of a parameters file if given."""
    if options is None:
        return BatchingOptions(max_batch_size=_ADAPTIVE_BATCH_SIZE, adaptive=True)
    # It never waits, and --max_queue bounds what waits for a thread.
    return replace(options, adaptive=True, batch_timeout_micros=0)


class PerModelBatching:
    """The options of each version, from its own file, as TF Serving reads them.

    A version without one is not batched. Threads are shared, so those of its file do not count.
    """

    def __init__(self, shared: BatchingOptions) -> None:
        self._shared = shared

    def __call__(self, version_dir: Path) -> BatchingOptions | None:
        """The options of one version.

        Raises:
          ServerError: its file is not a BatchingParameters.
        """
        file = version_dir / PER_MODEL_FILE
        if not file.is_file():
            return None
        own = read_batching_options(file)
        return adaptive_options(own) if self._shared.adaptive else own
