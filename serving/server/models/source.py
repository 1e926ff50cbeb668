"""The list of models to serve: a folder, a list that a reload replaces, or a config file."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from core import bundle as bundles
from serving.server.errors import ServerError, ServingError, invalid
from serving.server.models.config import ServedModel
from serving.server.models.manager import ModelManager

#: On every ext4 volume, readable by root alone.
_LOST_AND_FOUND = "lost+found"


class ConfigFile:
    """A text ModelServerConfig that may change while the server runs; for one thread."""

    def __init__(
        self,
        path: Path,
        *,
        retry_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the file, whose present content counts as served.

        Args:
          path: of the file.
          retry_seconds: before content that was refused is tried again.
          clock: returns seconds.
        """
        self._path = path
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._served = self._content()
        self._refused: bytes | None = None
        self._retry_at = 0.0

    def follow(self, serve: Callable[[list[ServedModel]], object]) -> bool:
        """Passes the models to `serve` when the file has changed.

        Content that makes it raise is tried again after `retry_seconds`, other content at once.

        Returns:
          Whether `serve` was called and returned.

        Raises:
          ServerError: the file is no longer a ModelServerConfig.
          Exception: raised by `serve`.
        """
        content = self._content()
        if content is None or content == self._served:
            self._refused = None
            return False
        if content == self._refused and self._clock() < self._retry_at:
            return False
        from serving.server.models.protos import read_model_config_file

        try:
            serve(read_model_config_file(self._path, content))
        except Exception:
            self._refused, self._retry_at = content, self._clock() + self._retry_seconds
            raise
        self._served = content
        return True

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except OSError:
            # As between an unlink and a rename.
            return None


class ModelSource:
    """The models to serve: those in a folder, or a list that a reload replaces."""

    def __init__(
        self, models: Path | str | Sequence[ServedModel], *, roots: Sequence[Path] | None = ()
    ) -> None:
        """Creates the source without reading anything.

        Args:
          models: a folder, all of whose models are served, new ones as they appear; or the models.
          roots: folders that reload requests may load models from, besides those of `models`; None
            refuses every reload request.
        """
        self._folder = Path(models) if isinstance(models, (str, Path)) else None
        self._configs = [] if isinstance(models, (str, Path)) else list(models)
        self._own = [self._folder] if self._folder else _base_paths(self._configs)
        self._roots = roots

    def __call__(self) -> list[ServedModel]:
        """The models to serve now, including those whose folder cannot be read.

        Raises:
          OSError: the folder of all models cannot be read.
        """
        if self._folder is None:
            return self._configs
        entries = sorted(self._folder.iterdir())
        return [ServedModel(entry.name, entry) for entry in entries if _may_be_model(entry)]

    def reload(
        self, configs: list[ServedModel], models: ModelManager, *, trusted: bool = False
    ) -> None:
        """Serves `configs` from now on, and returns once they are available.

        Args:
          configs: replace the present list.
          models: loads and unloads models.
          trusted: whether the configs come from a file and may use any folder; a request may not.

        Raises:
          ServingError: a path outside the allowed folders, a model that does not load, or an error
            of `ModelManager.switch`; the models that were served before stay.
        """
        if not trusted:
            self._check_paths(configs)
        models.switch(configs)
        self._folder, self._configs = None, configs
        if trusted:
            self._own = _base_paths(configs)

    def _check_paths(self, configs: Sequence[ServedModel]) -> None:
        if self._roots is None:
            raise ServingError("PERMISSION_DENIED", "this server takes no reload requests")
        for config in configs:
            try:
                path = config.base_path.resolve()
                roots = [root.resolve() for root in (*self._own, *self._roots)]
            except (OSError, RuntimeError, ValueError) as error:
                # Circular links, or a null character.
                raise invalid(
                    f"model {config.name}: no path {config.base_path}: {error}"
                ) from error
            if not any(path.is_relative_to(root) for root in roots):
                raise ServingError(
                    "PERMISSION_DENIED",
                    f"model {config.name}: {config.base_path} is outside the folders that this "
                    "server was started with; --model_roots names more",
                )

    def check(self) -> None:
        """Checks that there is a model, and a version of each.

        Raises:
          ServerError: a folder without a model, or a model without a version.
        """
        if self._folder is not None and not self._in_folder(self._folder):
            raise ServerError(
                f"{self._folder} holds no model: expected {self._folder}/<model>/<integer>/"
                f"{bundles.SAVED_MODEL_FILE}; push one with `sightline run`"
            )
        for config in [] if self._folder is not None else self._configs:
            # An unreadable folder must not stop the others: the first load reports it.
            with contextlib.suppress(OSError):
                if not bundles.version_dirs(config.base_path):
                    raise ServerError(
                        f"model {config.name}: {config.base_path} holds no version: expected "
                        f"{config.base_path}/<integer>/{bundles.SAVED_MODEL_FILE}"
                    )

    def _in_folder(self, folder: Path) -> list[ServedModel]:
        try:
            return self() if folder.is_dir() else []
        except OSError as error:
            raise ServerError(
                f"{folder} cannot be read: {error.strerror}; let this user read it"
            ) from error


def _base_paths(configs: Sequence[ServedModel]) -> list[Path]:
    return [config.base_path for config in configs]


def _may_be_model(entry: Path) -> bool:
    """True for a folder that cannot be read, or its loaded versions would be unloaded."""
    if entry.name == _LOST_AND_FOUND:
        return False
    try:
        return entry.is_dir() and bool(bundles.version_dirs(entry))
    except OSError:
        return True
