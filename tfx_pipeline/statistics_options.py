"""`statistics.<field>=value` on the command line; loads nothing heavy."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from components.statistics_settings import StatisticsSettings
from tfx_pipeline.config import PipelineConfig
from trainers.config import ConfigError, override

_SECTION = "statistics"


@dataclass(frozen=True)
class _Sections:
    statistics: StatisticsSettings


def with_statistics(
    pipeline: PipelineConfig, overrides: Iterable[str]
) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` with the overrides of its drift and skew limits applied, and all other overrides.

    Data that changed on purpose is accepted by a wider limit for one run.

    Args:
      pipeline: as it is registered.
      overrides: `key=value`; keys of `StatisticsSettings` are `statistics.<field>`.

    Raises:
      ConfigError: no such field (the nearest are named), or a value of another type or range.
    """
    mine, others = [], []
    for assignment in overrides:
        section = assignment.partition("=")[0].partition(".")[0].strip()
        (mine if section == _SECTION else others).append(assignment)
    try:
        sections = override(_Sections(StatisticsSettings(**pipeline.statistics)), mine)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return replace(pipeline, statistics=asdict(sections.statistics)), tuple(others)
