"""What a server is told to serve, and how a reload request may change that."""

from collections.abc import Sequence
from pathlib import Path

from serving import bundle as bundles
from serving.server.errors import ServerError, ServingError
from serving.server.models import ModelConfig, ModelManager


class ModelSource:
    """What to serve: the models under a folder, or a list that a reload replaces."""

    def __init__(self, models: Path | str | Sequence[ModelConfig]) -> None:
        """Looks at nothing yet.

        Args:
          models: a folder, all of whose models are served, new ones as they appear; or the models.
        """
        self._folder = Path(models) if isinstance(models, (str, Path)) else None
        self._configs = [] if isinstance(models, (str, Path)) else list(models)
        folders = [config.base_path.parent for config in self._configs]
        # A request may make the server read these folders and no others.
        self._roots = [path.resolve() for path in ([self._folder] if self._folder else folders)]

    def __call__(self) -> list[ModelConfig]:
        """The models to serve now."""
        if self._folder is None:
            return self._configs
        return [
            ModelConfig(name, self._folder / name) for name in bundles.find_models(self._folder)
        ]

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
            `ModelManager.sync` refuses; what was served before is served again.
        """
        for config in () if trusted else configs:
            path = config.base_path.resolve()
            if not any(path.is_relative_to(root) for root in self._roots):
                raise ServingError(
                    "PERMISSION_DENIED",
                    f"model {config.name}: {config.base_path} is outside the folders that this "
                    "server was started with",
                )
        before = self._folder, self._configs
        self._folder, self._configs = None, configs
        try:
            models.sync()
            for config in configs:
                if not models.available().get(config.name):
                    raise ServingError("FAILED_PRECONDITION", why_not_available(models, config))
        except ServingError:
            self._folder, self._configs = before
            models.sync()
            raise

    def check(self) -> None:
        """Looks whether there is anything to serve.

        Raises:
          ServerError: a folder without a model, or a model without a version; names the remedy.
        """
        if self._folder is not None and not self():
            raise ServerError(
                f"{self._folder} holds no model: expected {self._folder}/<model>/<integer>/"
                f"{bundles.SAVED_MODEL_FILE}; push one with `sightline run`"
            )
        for config in [] if self._folder is not None else self._configs:
            if not bundles.version_dirs(config.base_path):
                raise ServerError(
                    f"model {config.name}: {config.base_path} holds no version: expected "
                    f"{config.base_path}/<integer>/{bundles.SAVED_MODEL_FILE}"
                )


def why_not_available(models: ModelManager, config: ModelConfig) -> str:
    """Why a model has no available version, in words for an error."""
    try:
        failed = models.status(config.name)[0]
    except ServingError:
        failed = None
    if failed is None or not failed.error_message:
        return f"model {config.name}: {config.base_path} holds no version"
    return f"model {config.name} version {failed.version}: {failed.error_message}"
