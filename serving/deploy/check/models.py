"""Checks of a model configuration against the bundles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import bundle as bundles
from serving.deploy.check.findings import Location, listed
from serving.deploy.rollback import ModelVersions, model_versions

FolderOf = Callable[[str], "Path | None"]


def check_models(config: Any, location: Location, folder_of: FolderOf) -> tuple[str, ...]:
    """Checks a `ModelServerConfig`.

    Args:
      config: the parsed message.
      location: where to report.
      folder_of: base path -> local folder, or None if it is not available.

    Returns:
      The models' names.
    """
    if config.WhichOneof("config") == "custom_model_config":
        location.error(
            "custom_model_config is not supported by TF Serving", "use model_config_list"
        )
    entries = list(config.model_config_list.config)
    if not entries:
        location.error("the model configuration has no models", "add a config { ... }")
    names = [entry.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        location.error(f"model {name} is listed twice", "remove one of them")
    for entry in entries:
        _check_model(entry, location, folder_of)
    return tuple(names)


def check_model_folder(name: str, folder: Path, location: Location) -> ModelVersions | None:
    """The versions in a model's folder; None, with a finding, if there are none."""
    found = model_versions(folder)
    if not folder.is_dir():
        found_models = listed(bundles.find_models(folder.parent))
        location.error(f"model {name}: {folder} does not exist", f"models: {found_models}")
        return None
    if found.served is None:
        location.error(
            f"model {name}: {folder} has no version",
            f"expected {folder}/<integer>/{bundles.SAVED_MODEL_FILE}; push with `sightline run`",
        )
        return None
    return found


def _check_model(entry: Any, location: Location, folder_of: FolderOf) -> None:
    name = entry.name
    if not name or not entry.base_path:
        location.error(
            f"a model needs a name and a base_path, got {name!r} and {entry.base_path!r}",
            "write both",
        )
        return
    if entry.model_platform not in ("", "tensorflow"):
        location.error(f"model {name}: model_platform {entry.model_platform!r}", "write tensorflow")
    if not entry.base_path.startswith(("/", "gs://", "s3://", "hdfs://")):
        location.error(
            f"model {name}: base_path {entry.base_path} is relative", "write an absolute path"
        )
        return
    if "://" in entry.base_path:
        location.warn(f"model {name}: {entry.base_path} was not checked", "check it by hand")
        return
    folder = folder_of(entry.base_path)
    found = None if folder is None else check_model_folder(name, folder, location)
    if folder is None or found is None:
        return
    served = _check_policy(entry, found, location)
    _check_labels(entry, served, found, location)
    _check_warmup(name, folder, served, location)


def _check_policy(entry: Any, found: ModelVersions, location: Location) -> list[int]:
    """The existing versions that the policy serves."""
    policy = entry.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    present = list(found.present)
    if kind == "all":
        return present
    if kind == "latest":
        wanted = policy.latest.num_versions or 1
        if wanted > len(present):
            location.warn(
                f"model {entry.name}: the policy serves the latest {wanted}, and there are "
                f"{len(present)}",
                "no action needed if more will be pushed",
            )
        return present[-wanted:]
    if not policy.specific.versions:
        location.error(f"model {entry.name}: a specific policy without versions", "add one")
    for version in policy.specific.versions:
        if version in found.withdrawn:
            location.error(
                f"model {entry.name}: version {version} was withdrawn by a rollback",
                f"pin one of {listed(present)}, or `sightline rollback {entry.name} {version}`",
            )
        elif version not in present:
            location.error(
                f"model {entry.name}: version {version} does not exist", f"found: {found}"
            )
    return [version for version in policy.specific.versions if version in present]


def _check_labels(entry: Any, served: list[int], found: ModelVersions, location: Location) -> None:
    for label, version in sorted(entry.version_labels.items()):
        about = f"model {entry.name}: the label {label} refers to version {version}"
        if version not in found.present:
            location.error(f"{about}, which does not exist", f"found: {found}")
        elif version not in served:
            location.error(
                f"{about}, which the policy does not serve",
                f"it serves {listed(served)}; add {version} to the model_version_policy",
            )


def _check_warmup(name: str, folder: Path, served: list[int], location: Location) -> None:
    paths = bundles.version_dirs(folder)
    for version in served:
        if not (paths[version] / bundles.WARMUP_FILE).is_file():
            location.warn(
                f"model {name} version {version} has no {bundles.WARMUP_FILE}",
                "its first requests will be slow; export it with sightline",
            )
