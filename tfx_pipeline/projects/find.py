"""Finds the pipeline for `sightline run WHAT` and `sightline report WHAT`, and its root folder.

WHAT is the name of a registered pipeline, a project folder (`pets`, for `pets/pipeline.py`) or a
Python file. The data, runs and bundles of a project are beside its file; for a registered pipeline,
they are in `--root`, by default the current folder.
"""

import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from tfx_pipeline import config as pipeline_config
from tfx_pipeline.config import (
    PipelineConfig,
    checked_recipe,
    default_data,
    make_experiments,
    pipelines,
)
from tfx_pipeline.request.data_source import parse
from tfx_pipeline.request.settings import settings_of
from trainers import config as recipe_config
from trainers import plugins
from trainers.config import Config, ConfigError
from trainers.plugins import PluginError
from trainers.registry import UnknownNameError, nearest, recipes

#: The file with the pipeline in a project folder.
PROJECT_FILE = "pipeline.py"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


class ProjectError(ValueError):
    """A pipeline that cannot be found or used; the message contains the remedy."""


@dataclass(frozen=True)
class FoundPipeline:
    """A pipeline with its data and root folder.

    Attributes:
      pipeline: as registered, with checked settings.
      data: the absolute folder of its records, or JOB:SOURCE; see
        `tfx_pipeline.request.data_source`.
      root: the absolute folder of `runs/` and `bundles/`.
      file: the plugin file that registered it; None for pipelines of installed packages.
    """

    pipeline: PipelineConfig
    data: str
    root: Path
    file: Path | None = None


def find(what: str, *, data: str | None = None, root: Path | None = None) -> FoundPipeline:
    """The pipeline for `what`.

    The file of a project becomes a plugin of this process and its children.

    Args:
      what: a registered name, a project folder or a Python file.
      data: the records or JOB:SOURCE; by default, those of the pipeline or its first recipe.
      root: the root folder; by default, the folder of the project.

    Raises:
      UnknownNameError: no such pipeline, file or folder.
      ProjectError: a folder without a `pipeline.py`, or an ambiguous name.
      PluginError: the file cannot be loaded, or does not register exactly one pipeline.
      ConfigError: a setting of the pipeline is unknown or out of range; names the file.
      DataSourceError: an ingest job without a source.
    """
    file = _project_file(what)
    if file is None:
        name, file, default_root = what, _plugin_of(what), Path.cwd()
    else:
        plugins.add(file)
        name, default_root = _only_pipeline(file), file.parent
    pipeline = _made(name, file)
    if data is None:
        base = file.parent if file and pipeline.data else Path.cwd()
        data = str(base / Path(pipeline.data or _recipes_data(pipeline, file)).expanduser())
    if parse(data) is None:
        data = str(Path(data).resolve())
    return FoundPipeline(pipeline, data, (root or default_root).resolve(), file)


def experiments_of(
    target: FoundPipeline, pipeline: PipelineConfig, overrides: tuple[str, ...]
) -> dict[str, Config]:
    """The result of `tfx_pipeline.config.make_experiments`; errors name the plugin file.

    Args:
      target: from `find`.
      pipeline: the pipeline of `target`, with the settings of the command line.
      overrides: overrides of the recipes.

    Raises:
      PluginError: a recipe in the file is invalid.
      ConfigError: an override is invalid.
      UnknownNameError: a recipe does not exist.
    """
    for name in pipeline.experiments:
        origin = recipes.origin(name)
        if origin.file not in plugins.files():
            continue
        try:
            checked_recipe(name)
        except Exception as error:
            raise located(error, origin.file, origin.line) from error
    return make_experiments(pipeline, Path(target.data), overrides)


def _project_file(what: str) -> Path | None:
    """The project file for `what`; None for a registered name.

    Raises:
      UnknownNameError: there is no such pipeline, file or folder.
      ProjectError: a folder without a `pipeline.py`, or an ambiguous name.
    """
    path = Path(what).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise UnknownNameError(f"the pipeline file {path} does not exist")
        return plugins.canonical(path)
    file = plugins.canonical(path / PROJECT_FILE)
    has_file = file.is_file()
    is_name = "/" not in what and what in pipelines.names()
    if is_name and has_file and pipelines.origin(what).file == file:
        return file
    if is_name and has_file:
        raise ProjectError(
            f"{what!r} is both a registered pipeline and a project folder; use ./{what} for the "
            "folder, or rename it"
        )
    if is_name:
        return None
    if has_file:
        return file
    if path.is_dir():
        raise ProjectError(
            f"{path} has no {PROJECT_FILE}; create a project with `sightline new NAME SOURCE`"
        )
    raise UnknownNameError(
        f"unknown pipeline {what!r}, and there is no such project folder or file; "
        f"{nearest(what, pipelines.names())}; `sightline new {path.name} SOURCE` creates a project"
    )


def _recipes_data(pipeline: PipelineConfig, file: Path | None) -> str:
    """The records of the first recipe; errors name the plugin `file`."""
    try:
        return default_data(pipeline)
    except Exception as error:
        if file is None:
            raise
        raise located(error, file, pipelines.origin(pipeline.name).line) from error


def _plugin_of(name: str) -> Path | None:
    """The plugin file that registered a pipeline; None for pipelines of installed packages."""
    return next((one for one in plugins.files() if name in pipelines.registered_in(one)), None)


def _only_pipeline(file: Path) -> str:
    found = pipelines.registered_in(file)
    if not found:
        raise PluginError(
            f"{file} registers no pipeline; add a function with `@pipelines.register(NAME)` that "
            f"returns a PipelineConfig, or pass the file with {plugins.OPTION} if it only has "
            "recipes or models"
        )
    if len(found) > 1:
        lines = ", ".join(f"{name!r} in line {one.line}" for name, one in found.items())
        raise PluginError(
            f"{file} registers {len(found)} pipelines ({lines}), but a project has one; keep one, "
            f"or run one by name: sightline run {next(iter(found))} {plugins.OPTION} {file}"
        )
    return next(iter(found))


def _made(name: str, file: Path | None) -> PipelineConfig:
    """The return value of the pipeline's function, checked."""
    try:
        pipeline = pipelines.get(name)()
        if not isinstance(pipeline, PipelineConfig):
            raise ConfigError(
                f"the pipeline {name!r} must return a PipelineConfig, got {pipeline!r}"
            )
        if not _NAME.fullmatch(pipeline.name):
            raise ConfigError(
                f"a pipeline name must consist of letters, digits, `.`, `_` and `-`, got "
                f"{pipeline.name!r}"
            )
        settings_of(pipeline)
    except Exception as error:
        if file is None:
            raise
        raise located(error, file, pipelines.origin(name).line) from error
    return pipeline


def located(error: Exception, file: Path, line: int) -> PluginError:
    """The error of a function of a plugin, with file, line, and the nearest known key."""
    return plugins.located(error, file, line=line, hint=_hint(error))


def _hint(error: Exception) -> str:
    """The nearest fields, if the error is about an unknown field of a dataclass."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    if found is None:
        return ""
    for module in (pipeline_config, recipe_config):
        kind = getattr(module, found[1], None)
        if isinstance(kind, type) and is_dataclass(kind):
            return f"; {nearest(found[2], [one.name for one in fields(kind)])}"
    return ""
