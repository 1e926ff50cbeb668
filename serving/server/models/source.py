"""What a server is told to serve, and how a reload request may change that."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from core import bundle as bundles
from serving.server.errors import ServerError, ServingError, invalid
from serving.server.models.manager import ModelConfig, ModelManager

#: On every ext4 volume, readable by root alone.
_LOST_AND_FOUND = "lost+found"


class ModelSource:
    """What to serve: the models under a folder, or a list that a reload replaces."""

    def __init__(
        self, models: Path | str | Sequence[ModelConfig], *, roots: Sequence[Path] | None = ()
    ) -> None:
        """Looks at nothing yet.

        Args:
          models: a folder, all of whose models are served, new ones as they appear; or the models.
          roots: a reload request may name models in these folders, besides those in `models` or in
            a folder of one of them; None refuses every reload request.
        """
        self._folder = Path(models) if isinstance(models, (str, Path)) else None
        self._configs = [] if isinstance(models, (str, Path)) else list(models)
        self._own = [self._folder] if self._folder else _base_paths(self._configs)
        self._roots = roots

    def __call__(self) -> list[ModelConfig]:
        """The models to serve now; one whose folder cannot be read stays among them.

        Raises:
          OSError: the folder of all models cannot be read, or is no longer there.
        """
        if self._folder is None:
            return self._configs
        entries = sorted(self._folder.iterdir())
        return [ModelConfig(entry.name, entry) for entry in entries if _may_be_model(entry)]

    def reload(
        self, configs: list[ModelConfig], models: ModelManager, *, trusted: bool = False
    ) -> None:
        """Serves `configs` from now on, and returns once they are available.

        Args:
          configs: replace what is served.
          models: are brought up to date.
          trusted: they come from a file and may lie anywhere; a request's may not.

        Raises:
          ServingError: a path outside the configured folders, a model that does not load, or what
            `ModelManager.switch` refuses; what was served before goes on being served.
        """
        if not trusted:
            self._check_paths(configs)
        models.switch(configs)
        self._folder, self._configs = None, configs
        if trusted:
            self._own = _base_paths(configs)

    def _check_paths(self, configs: Sequence[ModelConfig]) -> None:
        if self._roots is None:
            raise ServingError("PERMISSION_DENIED", "this server takes no reload requests")
        for config in configs:
            try:
                path = config.base_path.resolve()
                roots = [root.resolve() for root in (*self._own, *self._roots)]
            except (OSError, RuntimeError, ValueError) as error:
                # Links in a circle, or a null character.
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
        """Looks whether there is anything to serve.

        Raises:
          ServerError: a folder without a model, or a model without a version; names the remedy.
        """
        if self._folder is not None and not self._named():
            raise ServerError(
                f"{self._folder} holds no model: expected {self._folder}/<model>/<integer>/"
                f"{bundles.SAVED_MODEL_FILE}; push one with `sightline run`"
            )
        for config in [] if self._folder is not None else self._configs:
            # One that cannot be read must not stop the others: the first load tells of it.
            with contextlib.suppress(OSError):
                if not bundles.version_dirs(config.base_path):
                    raise ServerError(
                        f"model {config.name}: {config.base_path} holds no version: expected "
                        f"{config.base_path}/<integer>/{bundles.SAVED_MODEL_FILE}"
                    )

    def _named(self) -> list[ModelConfig]:
        try:
            return self() if self._folder is None or self._folder.is_dir() else []
        except OSError as error:
            raise ServerError(
                f"{self._folder} cannot be read: {error.strerror}; let this user read it"
            ) from error


def _base_paths(configs: Sequence[ModelConfig]) -> list[Path]:
    return [config.base_path for config in configs]


def _may_be_model(entry: Path) -> bool:
    """Of a folder that cannot be read: yes, or what is served from it would be unloaded."""
    if entry.name == _LOST_AND_FOUND:
        return False
    try:
        return entry.is_dir() and bool(bundles.version_dirs(entry))
    except OSError:
        return True
