"""Which pipeline `sightline run WHAT` and `sightline report WHAT` mean, and where it works.

WHAT is a registered pipeline's name, a project folder (`pets`, for `pets/pipeline.py`) or a Python
file. A project keeps its data, runs and bundles beside its file; a registered pipeline in `--root`,
which is the current folder.
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
from tfx_pipeline.data_source import parse
from tfx_pipeline.pipeline_options import settings_of
from trainers import config as recipe_config
from trainers import plugins
from trainers.config import Config, ConfigError
from trainers.plugins import PluginError
from trainers.registry import UnknownNameError, nearest, recipes

#: The file of a project folder.
PROJECT_FILE = "pipeline.py"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


class ProjectError(ValueError):
    """A pipeline that cannot be found or used; the message gives the remedy."""


@dataclass(frozen=True)
class Target:
    """A pipeline and where it works.

    Attributes:
      pipeline: as registered, its settings checked.
      data: the folder of its records, absolute, or JOB:SOURCE (see `tfx_pipeline.data_source`).
      root: holds `runs/` and `bundles/`, absolute.
      file: of the plugin that registered it; None for one of ours or of an installed package.
    """

    pipeline: PipelineConfig
    data: str
    root: Path
    file: Path | None = None


def find(what: str, *, data: str | None = None, root: Path | None = None) -> Target:
    """The pipeline that `what` means.

    A project's file becomes a plugin of this process and its children.

    Args:
      what: a registered name, a project folder or a Python file.
      data: the records or JOB:SOURCE, if not what the pipeline or its first recipe names.
      root: where to work, if not in the project's folder.

    Raises:
      UnknownNameError: no such pipeline, file or folder.
      ProjectError: a folder without a `pipeline.py`, or a name that means two things.
      PluginError: the file cannot be loaded, or registers no pipeline, or several.
      ConfigError: a setting of the pipeline is unknown or out of range; names the file.
      DataSourceError: an ingest job without a source.
    """
    file = _project_file(what)
    if file is None:
        name, file, place = what, _plugin_of(what), Path.cwd()
    else:
        plugins.add(file)
        name, place = _only_pipeline(file), file.parent
    shape = _made(name, file)
    if data is None:
        base = file.parent if file and shape.data else Path.cwd()
        data = str(base / Path(shape.data or _recipes_data(shape, file)).expanduser())
    if parse(data) is None:
        data = str(Path(data).resolve())
    return Target(shape, data, (root or place).resolve(), file)


def experiments_of(
    target: Target, pipeline: PipelineConfig, overrides: tuple[str, ...]
) -> dict[str, Config]:
    """`tfx_pipeline.config.make_experiments`, whose errors name the user's file.

    Args:
      target: as found.
      pipeline: its pipeline, with the settings of the command line.
      overrides: of the recipes.

    Raises:
      PluginError: a recipe of the file is wrong.
      ConfigError, UnknownNameError: an override, or a recipe's name.
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
    """The project file that `what` means; None for a registered name.

    Raises:
      as `find`.
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
            f"{what!r} is a registered pipeline and a project folder; write ./{what} for the folder"
            ", or rename it"
        )
    if is_name:
        return None
    if has_file:
        return file
    if path.is_dir():
        raise ProjectError(
            f"{path} has no {PROJECT_FILE}; make a project with `sightline new NAME SOURCE`"
        )
    raise UnknownNameError(
        f"unknown pipeline {what!r}, and there is no such project folder or file; "
        f"{nearest(what, pipelines.names())}; `sightline new {path.name} SOURCE` makes a project"
    )


def _recipes_data(shape: PipelineConfig, file: Path | None) -> str:
    """The records that the first recipe reads; an error in a user's `file` names it."""
    try:
        return default_data(shape)
    except Exception as error:
        if file is None:
            raise
        raise located(error, file, pipelines.origin(shape.name).line) from error


def _plugin_of(name: str) -> Path | None:
    """The plugin file that registered a pipeline; None for one of ours."""
    return next((one for one in plugins.files() if name in pipelines.registered_in(one)), None)


def _only_pipeline(file: Path) -> str:
    found = pipelines.registered_in(file)
    if not found:
        raise PluginError(
            f"{file} registers no pipeline; write a function under "
            "`@pipelines.register(NAME)` that returns a PipelineConfig, or give the file as a "
            f"plugin with {plugins.OPTION} if it only has recipes or models"
        )
    if len(found) > 1:
        places = ", ".join(f"{name!r} in line {one.line}" for name, one in found.items())
        raise PluginError(
            f"{file} registers {len(found)} pipelines ({places}), a project has one; keep one, or "
            f"run one by its name: sightline run {next(iter(found))} {plugins.OPTION} {file}"
        )
    return next(iter(found))


def _made(name: str, file: Path | None) -> PipelineConfig:
    """What the pipeline's function returns, checked before anything runs."""
    try:
        shape = pipelines.get(name)()
        if not isinstance(shape, PipelineConfig):
            raise ConfigError(f"the pipeline {name!r} must return a PipelineConfig, got {shape!r}")
        if not _NAME.fullmatch(shape.name):
            raise ConfigError(
                f"a pipeline's name has letters, digits, `.`, `_` and `-`, got {shape.name!r}"
            )
        settings_of(shape)
    except Exception as error:
        if file is None:
            raise
        raise located(error, file, pipelines.origin(name).line) from error
    return shape


def located(error: Exception, file: Path, line: int) -> PluginError:
    """`error` of a plugin's function, with file, line, and the nearest known key."""
    return plugins.located(error, file, line=line, hint=_hint(error))


def _hint(error: Exception) -> str:
    """The nearest fields, where a dataclass of ours was given an unknown one."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    if found is None:
        return ""
    for module in (pipeline_config, recipe_config):
        kind = getattr(module, found[1], None)
        if isinstance(kind, type) and is_dataclass(kind):
            return f"; {nearest(found[2], [one.name for one in fields(kind)])}"
    return ""
