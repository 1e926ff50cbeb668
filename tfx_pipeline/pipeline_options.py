"""`gates.<field>=value` and `statistics.<field>=value` on the command line; loads nothing heavy."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from components.gates import GateSettings
from components.gates.settings import ACCEPT
from components.statistics_settings import StatisticsSettings
from tfx_pipeline.config import PipelineConfig
from trainers.config import ConfigError, override

_SECTIONS = ("gates", "statistics")


@dataclass(frozen=True)
class _Sections:
    gates: GateSettings
    statistics: StatisticsSettings


def with_settings(
    pipeline: PipelineConfig, overrides: Iterable[str], *, accept: Iterable[str] = ()
) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` with the overrides of its own settings applied, and all other overrides.

    Args:
      pipeline: as it is registered.
      overrides: `key=value`; keys of `components.gates.GateSettings` are `gates.<field>`, those of
        `components.statistics_settings.StatisticsSettings` are `statistics.<field>`.
      accept: fields of `GateSettings` to set to `accept`.

    Raises:
      ConfigError: no such field (the nearest are named), or a value of another type or range.
    """
    mine, others = [], []
    for assignment in overrides:
        section = assignment.partition("=")[0].partition(".")[0].strip()
        (mine if section in _SECTIONS else others).append(assignment)
    mine += [f"gates.{field}={ACCEPT}" for field in accept]
    try:
        registered = _Sections(
            GateSettings(**pipeline.gates), StatisticsSettings(**pipeline.statistics)
        )
        found = override(registered, mine)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    given = {assignment.partition("=")[0].strip().partition(".")[2] for assignment in mine}
    changed = replace(
        pipeline,
        gates=asdict(found.gates),
        # What is set by hand holds for every model.
        model_gates={
            model: {field: value for field, value in own.items() if field not in given}
            for model, own in pipeline.model_gates.items()
        },
        statistics=asdict(found.statistics),
    )
    return changed, tuple(others)
