"""The plan of a study: its trainings with their estimated seconds, from the measured step times."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfx_pipeline.study.budget import (
    PLANNED_SHARE,
    BudgetError,
    Training,
    allot,
    duration,
)
from tfx_pipeline.study.sets import (
    CNN,
    CORE,
    DISTILLED,
    HYBRID,
    RESNET,
    SPARSITIES,
    VIT,
    StudySet,
)
from trainers.config import Config
from trainers.recipes import load_recipe

QAT = "qat"
#: Seeds of hybrid and distilled after the first; only planned where everything else is complete.
MORE = "-more"
# Estimates in units of what the probe measured; a start is until TensorFlow is loaded.
_PRUNING_SLOWER, _QAT_SLOWER, _TEACHER_SHARE = 1.5, 2.5, 0.35
_RUN_STARTS, _RUN_BUILDS = 2.5, 1.5
_EXPORT_STARTS, _EXPORT_PASSES = 4.0, 12.0
_TIMING_STARTS, _SCALING_STARTS, _COST_STARTS, _PAGE_STARTS = 4.0, 3.0, 6.0, 2.0
_TIMING_S, _SCALING_S, _COST_S, _PAGE_S = 25.0, 10.0, 15.0, 20.0
_SAVE_S = 1.0


def pruned(sparsity: float) -> str:
    """The name of the training that prunes to `sparsity`."""
    return f"prune{sparsity * 100:.0f}"


@dataclass(frozen=True)
class Run:
    """A training with its planned epochs.

    Attributes:
      role: of the recipe.
      seed: of the run.
      epochs: planned.
    """

    role: str
    seed: int
    epochs: int

    def folder(self, study: Path, recipe: str) -> Path:
        """The trained folder; runs of other numbers of epochs are beside it."""
        return study / "runs" / f"{recipe}-{self.seed}-{self.role}" / f"e{self.epochs}"


@dataclass(frozen=True)
class Measured:
    """What the probe measured, as seconds.

    Attributes:
      raw: of `tfx_pipeline.study.worker.probe`.
    """

    raw: Mapping[str, Any]

    @property
    def start(self) -> float:
        """Of a child process until TensorFlow is loaded."""
        return float(self.raw["start_s"])

    def epoch(self, role: str) -> float:
        """Of an epoch with validation and checkpoint."""
        if role == DISTILLED and role not in self.raw:
            teacher = self.raw[RESNET]["step_s"] * self.raw[VIT]["steps"]
            return self.epoch(VIT) + _TEACHER_SHARE * teacher
        one = self.raw[role]
        return one["steps"] * one["step_s"] + one["validation"] * one["predict_s"] + _SAVE_S

    def overhead(self, role: str) -> float:
        """Of a run without its epochs."""
        one = self.raw.get(role) or self.raw[VIT]
        starting = _RUN_STARTS * self.start + _RUN_BUILDS * one["build_s"]
        return starting + one["test"] * one["predict_s"] + _SAVE_S

    def export(self, role: str) -> float:
        """Of building a bundle and predicting with its variants."""
        one = self.raw.get(role) or self.raw[VIT]
        return _EXPORT_STARTS * self.start + _EXPORT_PASSES * one["test"] * one["predict_s"]

    @property
    def cost(self) -> float:
        """Of counting parameters and multiply-adds."""
        return _COST_STARTS * self.start + _COST_S

    @property
    def scaling(self) -> float:
        """Of measuring cost by image size and batch."""
        return _SCALING_STARTS * self.start + _SCALING_S

    @property
    def page(self) -> float:
        """Of writing the report, the last step."""
        return _PAGE_STARTS * self.start + _PAGE_S

    @property
    def report(self) -> float:
        """Of what follows all trainings: timing, scaling and the page."""
        return _TIMING_STARTS * self.start + _TIMING_S + self.scaling + self.page

    @property
    def reserve(self) -> float:
        """Of what follows the trainings of the three models in any case: their bundles, report."""
        return sum(self.export(role) for role in CORE) + self.report


def configs_of(recipes: StudySet, data: Path) -> dict[str, Config]:
    """Role -> configuration with its records; seed and epochs are those of the recipe."""
    found = {
        role: load_recipe(recipe, f"data.dir={data}") for role, recipe in recipes.recipes.items()
    }
    return found


def with_run(config: Config, *, seed: int, epochs: int, teacher: str = "") -> Config:
    """`config` with the seed and the epochs of a run."""
    train = replace(config.train, seed=seed, epochs=epochs)
    return replace(config, train=train, distill=replace(config.distill, teacher=teacher))


def trainings(configs: Mapping[str, Config], measured: Measured, seeds: int) -> list[Training]:
    """The trainings of a study in the order of their importance; MORE ones are not among them."""
    found = [
        Training(
            role,
            configs[role].train.epochs,
            measured.epoch(role),
            measured.overhead(role),
            runs=seeds,
            is_required=True,
        )
        for role in CORE
    ]
    compress, epoch = configs[RESNET].compress, measured.epoch(RESNET)
    fine_tuning = {
        pruned(one): Training(
            pruned(one), compress.prune_epochs, _PRUNING_SLOWER * epoch, measured.export(RESNET)
        )
        for one in SPARSITIES
    }
    first, *others = fine_tuning.values()
    outlook = [first]
    for role, tied in ((HYBRID, ""), (DISTILLED, VIT)):
        if role in configs:
            overhead = measured.overhead(role) + measured.export(role)
            epochs = configs[role].train.epochs
            outlook.append(Training(role, epochs, measured.epoch(role), overhead, tied_to=tied))
    qat = Training(QAT, compress.qat_epochs, _QAT_SLOWER * epoch, measured.export(RESNET))
    return [*found, *outlook, qat, *others]


def planned(
    configs: Mapping[str, Config],
    measured: Measured,
    *,
    seeds: int,
    budget_s: float,
    remaining_s: float,
) -> dict[str, int]:
    """Training -> epochs within the remaining time.

    Args:
      configs: of the roles.
      measured: by the probe.
      seeds: of each of the three models.
      budget_s: the whole budget.
      remaining_s: what is left of it.

    Raises:
      BudgetError: too small; has the least that would do.
    """
    all_of_it = trainings(configs, measured, seeds)
    seconds = (remaining_s - measured.cost - measured.reserve) * PLANNED_SHARE
    try:
        found = allot(all_of_it, seconds)
    except BudgetError as error:
        required = sum(one.seconds(1) for one in all_of_it if one.is_required)
        least = budget_s - remaining_s + measured.cost + measured.reserve
        least += required / PLANNED_SHARE
        raise BudgetError(
            f"--budget {duration(budget_s)} is too small: {error}. One epoch for each of "
            f"{len(CORE)} models with {seeds} seeds, compression, timing and the report need at "
            f"least --budget {duration(least * 1.05)} on this machine"
        ) from None
    if all(found[one.name] >= one.epochs for one in all_of_it) and seeds > 1:
        spent = sum(one.seconds(one.epochs) for one in all_of_it)
        for one in all_of_it:
            if one.name in (HYBRID, DISTILLED):
                more = replace(one, runs=seeds - 1)
                spent += more.seconds(more.epochs)
                found[one.name + MORE] = one.epochs if spent <= seconds else 0
    return found


def extended(
    configs: Mapping[str, Config],
    measured: Measured,
    earlier: Mapping[str, int],
    *,
    remaining_s: float,
) -> dict[str, int]:
    """An earlier plan with the trainings that it left out, as far as there is time for them."""
    added = [one for one in trainings(configs, measured, 1) if not earlier.get(one.name)]
    # As many epochs as the ViT has, which it is compared with.
    added = [replace(one, epochs=earlier[VIT]) if one.name == DISTILLED else one for one in added]
    seconds = max((remaining_s - measured.reserve) * PLANNED_SHARE, 0.0)
    found = allot(added, seconds) if added else {}
    if DISTILLED in found and found[DISTILLED] < earlier[VIT]:
        found[DISTILLED] = 0
    return {**earlier, **{name: epochs for name, epochs in found.items() if name not in CORE}}


def estimates(
    configs: Mapping[str, Config], measured: Measured, seeds: int, plan: Mapping[str, int]
) -> dict[str, float]:
    """Step -> estimated seconds, in the order of the steps, without timing and report."""
    found = trainings(configs, measured, seeds)
    core = [one for one in found if one.name in CORE]
    items = {
        f"{one.name}-{seed}": one.seconds(plan[one.name]) / one.runs
        for seed in range(seeds)
        for one in core
    }
    items |= {f"bundle-{role}": measured.export(role) for role in CORE}
    return items | {
        one.name: one.seconds(plan[one.name]) if plan.get(one.name) else 0.0
        for one in found
        if one.name not in CORE
    }


def title_of(name: str, recipes: StudySet) -> str:
    """A training as text."""
    if name == QAT:
        return "ResNet, quantization-aware training"
    if name.startswith("prune"):
        return f"ResNet, pruned to {name.removeprefix('prune')} % zeros"
    role = name.removesuffix(MORE)
    titles = {CNN: "CNN", RESNET: "ResNet", VIT: "ViT", HYBRID: "hybrid", DISTILLED: "distilled"}
    return f"{titles[role]} ({recipes.recipes[role]})" + (", more seeds" if MORE in name else "")
