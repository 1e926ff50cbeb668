"""`gates.<field>=value` and `--accept-undecided` on the command line; loads nothing heavy."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from components.gates import GateSettings
from components.gates.settings import ACCEPT
from tfx_pipeline.config import PipelineConfig
from trainers.config import override

_SECTION = "gates"


@dataclass(frozen=True)
class _Sections:
    gates: GateSettings


def with_gates(
    pipeline: PipelineConfig, overrides: Iterable[str], *, accept_undecided: bool = False
) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` with the overrides of its gates applied, and the overrides of the experiments.

    Args:
      pipeline: as it is registered.
      overrides: `key=value`; keys of `components.gates.GateSettings` are `gates.<field>`.
      accept_undecided: as `gates.undecided=accept`.

    Raises:
      ConfigError: no such field (the nearest are named), or a value of another type or range.
    """
    mine, others = [], []
    for assignment in overrides:
        section = assignment.partition("=")[0].partition(".")[0].strip()
        (mine if section == _SECTION else others).append(assignment)
    if accept_undecided:
        mine.append(f"{_SECTION}.undecided={ACCEPT}")
    sections = override(_Sections(GateSettings(**pipeline.gates)), mine)
    return replace(pipeline, gates=asdict(sections.gates)), tuple(others)
