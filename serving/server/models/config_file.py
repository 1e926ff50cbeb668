"""The model config file while the server runs: `--model_config_file_poll_wait_seconds`."""

import time
from collections.abc import Callable
from pathlib import Path

from serving.server.models.manager import ModelConfig


class ConfigFile:
    """A text ModelServerConfig that somebody may change; looked at by one thread."""

    def __init__(
        self,
        path: Path,
        *,
        retry_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the file as it is for served.

        Args:
          path: of the file.
          retry_seconds: before what was refused is tried again as it is.
          clock: tells seconds.
        """
        self._path = path
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._served = self._content()
        self._refused: bytes | None = None
        self._retry_at = 0.0

    def follow(self, serve: Callable[[list[ModelConfig]], object]) -> bool:
        """Hands its models to `serve` when the file is not what is served.

        What raises is not served: it is tried again when it changes, or when its time has come.

        Args:
          serve: takes the models, or raises.

        Returns:
          Whether `serve` has taken them.

        Raises:
          ServerError: the file has changed to what is no ModelServerConfig.
          Exception: whatever `serve` raises.
        """
        content = self._content()
        if content is None or content == self._served:
            self._refused = None
            return False
        if content == self._refused and self._clock() < self._retry_at:
            return False
        try:
            self._serve(content, serve)
        except Exception:
            self._refused, self._retry_at = content, self._clock() + self._retry_seconds
            raise
        self._served = content
        return True

    def _serve(self, content: bytes, serve: Callable[[list[ModelConfig]], object]) -> None:
        from serving.server.models.protos import read_model_config_file

        serve(read_model_config_file(self._path, content))

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            # As between an unlink and a rename.
            return None
