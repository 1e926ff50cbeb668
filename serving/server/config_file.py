"""The model config file while the server runs: `--model_config_file_poll_wait_seconds`."""

from pathlib import Path

from serving.server.models import ModelConfig


class ConfigFile:
    """A text ModelServerConfig that somebody may change."""

    def __init__(self, path: Path) -> None:
        """Takes the file as it is for known."""
        self._path = path
        self._before = self._content()

    def changed(self) -> list[ModelConfig] | None:
        """Its models when it is another than at the last look, else None.

        Raises:
          ServerError: it has changed to what is no ModelServerConfig.
        """
        now = self._content()
        if now is None or now == self._before:
            return None
        self._before = now
        from serving.server.protos import read_model_config_file

        return read_model_config_file(self._path)

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            # As between an unlink and a rename.
            return None
