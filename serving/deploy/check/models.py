"""The models of a configuration against the bundles that are there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import bundle as bundles
from serving.deploy.check.findings import Place, known
from serving.deploy.rollback import ModelVersions, model_versions

FolderOf = Callable[[str], "Path | None"]


def check_models(config: Any, place: Place, folder_of: FolderOf) -> tuple[str, ...]:
    """Checks a `ModelServerConfig`.

    Args:
      config: the parsed message.
      place: where to report.
      folder_of: base path -> the folder here that it is, or None where it cannot be looked at.

    Returns:
      The models' names.
    """
    if config.WhichOneof("config") == "custom_model_config":
        place.error("custom_model_config is not supported by TF Serving", "use model_config_list")
    entries = list(config.model_config_list.config)
    if not entries:
        place.error("the model configuration names no model", "add a config { ... }")
    names = [entry.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        place.error(f"model {name} is listed twice", "leave one of them out")
    for entry in entries:
        _check_model(entry, place, folder_of)
    return tuple(names)


def check_model_folder(name: str, folder: Path, place: Place) -> ModelVersions | None:
    """Checks that the folder holds a whole version; None where it does not."""
    found = model_versions(folder)
    if not folder.is_dir():
        there = known(bundles.find_models(folder.parent))
        place.error(f"model {name}: {folder} is not there", f"models there: {there}")
        return None
    if found.served is None:
        place.error(
            f"model {name}: {folder} holds no version",
            f"expected {folder}/<integer>/{bundles.SAVED_MODEL_FILE}; push with `sightline run`",
        )
        return None
    return found


def _check_model(entry: Any, place: Place, folder_of: FolderOf) -> None:
    name = entry.name
    if not name or not entry.base_path:
        place.error(
            f"a model needs a name and a base_path, got {name!r} and {entry.base_path!r}",
            "write both",
        )
        return
    if entry.model_platform not in ("", "tensorflow"):
        place.error(f"model {name}: model_platform {entry.model_platform!r}", "write tensorflow")
    if not entry.base_path.startswith(("/", "gs://", "s3://", "hdfs://")):
        place.error(f"model {name}: base_path {entry.base_path} is relative", "write it in full")
        return
    if "://" in entry.base_path:
        place.warn(f"model {name}: {entry.base_path} was not looked at", "look there yourself")
        return
    folder = folder_of(entry.base_path)
    found = None if folder is None else check_model_folder(name, folder, place)
    if folder is None or found is None:
        return
    served = _check_policy(entry, found, place)
    _check_labels(entry, served, found, place)
    _check_warmup(name, folder, served, place)


def _check_policy(entry: Any, found: ModelVersions, place: Place) -> list[int]:
    """The versions that the policy serves of those that are there."""
    policy = entry.model_version_policy
    kind = policy.WhichOneof("policy_choice") or "latest"
    present = list(found.present)
    if kind == "all":
        return present
    if kind == "latest":
        wanted = policy.latest.num_versions or 1
        if wanted > len(present):
            place.warn(
                f"model {entry.name}: the policy serves the latest {wanted}, there are "
                f"{len(present)}",
                "nothing, if more will be pushed",
            )
        return present[-wanted:]
    if not policy.specific.versions:
        place.error(f"model {entry.name}: a specific policy without versions", "name one")
    for version in policy.specific.versions:
        if version in found.withdrawn:
            place.error(
                f"model {entry.name}: version {version} was withdrawn by a rollback",
                f"pin one of {known(present)}, or `sightline rollback {entry.name} {version}`",
            )
        elif version not in present:
            place.error(f"model {entry.name}: there is no version {version}", f"there: {found}")
    return [version for version in policy.specific.versions if version in present]


def _check_labels(entry: Any, served: list[int], found: ModelVersions, place: Place) -> None:
    for label, version in sorted(entry.version_labels.items()):
        about = f"model {entry.name}: the label {label} names version {version}"
        if version not in found.present:
            place.error(f"{about}, which is not there", f"there: {found}")
        elif version not in served:
            place.error(
                f"{about}, which the policy does not serve",
                f"it serves {known(served)}; add {version} to the model_version_policy",
            )


def _check_warmup(name: str, folder: Path, served: list[int], place: Place) -> None:
    paths = bundles.version_dirs(folder)
    for version in served:
        if not (paths[version] / bundles.WARMUP_FILE).is_file():
            place.warn(
                f"model {name} version {version} has no {bundles.WARMUP_FILE}",
                "its first requests will be slow; export it with sightline",
            )
