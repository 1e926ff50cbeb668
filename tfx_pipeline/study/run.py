"""Runs a study: probe, trainings, compression, counts, timing, report, within the budget.

Each step is a child process whose result is a file, so that the same command resumes an interrupted
study, and a longer budget continues it.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from tfx_pipeline.study import cost
from tfx_pipeline.study.budget import BudgetError
from tfx_pipeline.study.children import OutOfTimeError, run_step
from tfx_pipeline.study.display import Display
from tfx_pipeline.study.plan import (
    MORE,
    QAT,
    Measured,
    Run,
    configs_of,
    estimates,
    extended,
    planned,
    pruned,
    title_of,
    trainings,
    with_run,
)
from tfx_pipeline.study.sets import (
    CORE,
    DISTILLED,
    HYBRID,
    RESNET,
    SPARSITIES,
    StudySet,
)
from tfx_pipeline.study.state import State
from trainers.config import Config, to_dict
from trainers.data.features import DatasetInfo

PROBE_FILE = "probe.json"
# The probe may take this long whatever the budget, because its result names the least budget.
_LEAST_PROBE_S = 300.0
# A report of what is there is written even after the end of the budget.
_LEAST_REPORT_S = 600.0
# A run of the three models may take so many times what was estimated.
_SLOWER = 1.5
_TIMING = {"rounds": 5, "calls": 12, "study_calls": 3}


class Study:
    """A study in a folder.

    Args:
      folder: of the study.
      data: records of a classification data set with train, validation and test splits.
      recipes: of its roles.
      seeds: of each of the three models, at least 2.
      budget_s: of the whole study.
      display: of the progress.
      began: `time.monotonic()` at the start of the command, whose ingest counts; now if not given.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        recipes: StudySet,
        *,
        seeds: int,
        budget_s: float,
        display: Display,
        began: float | None = None,
    ) -> None:
        self.folder, self.data, self.recipes, self.display = folder, data, recipes, display
        self.info = DatasetInfo.load(data)
        self.configs = configs_of(recipes, data)
        self.state = State(folder, data, recipes, seeds=seeds, budget_s=budget_s, began=began)
        self.seeds, self.budget_s = seeds, budget_s
        # How many times as long as estimated the last training or bundle took, at least 1.
        self._slowness = 1.0

    def run(self) -> Path:
        """Runs what is missing and returns the report.

        Raises:
          BudgetError: the budget is too small.
          StudyError: a step failed.
        """
        plan = self.plan()
        self._count()
        for seed in range(self.seeds):
            for role in CORE:
                self._train(Run(role, seed, plan[role]), plan)
        for role in CORE:
            self._compress(role, Run(role, 0, plan[role]), plan)
        self._outlook(plan)
        self._time(plan)
        self._scale()
        return self._report()

    @cached_property
    def measured(self) -> Measured:
        """The times that the probe measures; kept for a longer budget."""
        path = self.folder / PROBE_FILE
        if not path.is_file():
            configs = {
                role: to_dict(one) for role, one in self.configs.items() if role != DISTILLED
            }
            arguments = {"configs": configs, "out": str(path)}
            seconds = max(self.state.remaining_s, _LEAST_PROBE_S)
            self._step("probe", "probe", arguments, seconds)
        return Measured(read_json(path))

    def plan(self) -> dict[str, int]:
        """Training -> epochs; kept for an interrupted study with the same budget."""
        wanted = [self.budget_s, self.seeds]
        if self.state.values["planned_for"] == wanted:
            return self.state.values["plan"]
        earlier: dict[str, int] = self.state.values["plan"]
        remaining = self.state.remaining_s
        try:
            plan = planned(
                self.configs,
                self.measured,
                seeds=self.seeds,
                budget_s=self.budget_s,
                remaining_s=remaining,
            )
        except BudgetError:
            if not earlier:
                # The next attempt measures again: this machine may have been busy.
                (self.folder / PROBE_FILE).unlink()
                self.state.restart()
                raise
            plan = earlier
        if earlier and not all(plan[role] > earlier[role] for role in CORE):
            # What is there is kept, and only what was left out is added.
            plan = extended(self.configs, self.measured, earlier, remaining_s=remaining)
        self.state.values.update(plan=plan, planned_for=wanted)
        self.state.write()
        self.display.plan(self._rows(plan), self.state)
        return plan

    def _rows(self, plan: dict[str, int]) -> list[tuple[str, int, int, int, float]]:
        """Title, runs, epochs, epochs of the recipe and seconds of each training."""
        return [
            (
                title_of(one.name, self.recipes),
                one.runs,
                plan[one.name],
                one.epochs,
                one.seconds(plan[one.name]) if plan[one.name] else 0.0,
            )
            for one in trainings(self.configs, self.measured, self.seeds)
        ]

    def _step(self, name: str, kind: str, arguments: dict[str, Any], seconds: float) -> float:
        """Runs a step and returns the seconds that it took."""
        self.display.begin(name)

        def on_event(event: dict[str, Any]) -> None:
            self.state.tick()
            self.display.show(event, self.state)

        took = run_step(kind, arguments, self.folder, name=name, seconds=seconds, on_event=on_event)
        self.display.end(name, took)
        return took

    def _left_for(self, needed: float, name: str, after: float) -> float | None:
        """Seconds that a step may take at most; None, with a reason on record, for too few.

        Args:
          needed: by the step, as estimated.
          name: of the step.
          after: seconds of the steps that must follow, as estimated.
        """
        needed, after = needed * self._slowness, after * self._slowness
        seconds = self.state.remaining_s - after
        if seconds >= needed:
            return seconds
        self._leave_out(
            name,
            f"the budget left {max(seconds, 0):.0f} s for it, and it needs about {needed:.0f} s",
        )
        return None

    def _leave_out(self, name: str, why: str) -> None:
        self.state.leave_out(name, why)
        self.display.line(f"left out: {name}: {why}")

    def _train(self, run: Run, plan: dict[str, int], *, teacher: str = "") -> None:
        """Trains one run if it has no result yet."""
        recipe = self.recipes.recipes[run.role]
        folder = run.folder(self.folder, recipe)
        config = with_run(self.configs[run.role], seed=run.seed, epochs=run.epochs, teacher=teacher)
        if _is_done(folder, config):
            return
        measured, name = self.measured, f"{recipe}-{run.seed}-{run.role}"
        needed = measured.overhead(run.role) + measured.epoch(run.role)
        after = measured.reserve if run.role in CORE else measured.report
        hard = self._left_for(needed, name, after)
        if hard is None:
            return
        arguments = {"config": to_dict(config), "out": str(folder)}
        seconds = hard * self._share(run, plan)
        if run.role in CORE:
            # A slow machine takes time from the outlook first.
            own = run.epochs * measured.epoch(run.role) + measured.overhead(run.role)
            most = hard * self._share(run, {**plan, **{n: 0 for n in plan if n not in CORE}})
            seconds = max(seconds, min(_SLOWER * own, most))
        try:
            took = self._step(name, "train", {**arguments, "seconds": seconds}, hard)
        except OutOfTimeError as error:
            self._leave_out(name, str(error))
            return
        epochs = int(read_json(folder / "run.json")["epochs"])
        expected = measured.overhead(run.role) + epochs * measured.epoch(run.role)
        self._slowness = max(1.0, took / expected)

    def _share(self, run: Run, plan: dict[str, int]) -> float:
        """The estimated share of a run in the time of itself and of what is still to do."""
        items = estimates(self.configs, self.measured, self.seeds, plan)
        key = f"{run.role}-{run.seed}" if run.role in CORE else run.role
        # The time for the bundles of the three models is not shared.
        names = [name for name in items if not name.startswith("bundle-")]
        later = [name for name in names[names.index(key) + 1 :] if not self._is_trained(name, plan)]
        return items[key] / (items[key] + sum(items[name] for name in later))

    def _is_trained(self, item: str, plan: dict[str, int]) -> bool:
        """Whether a training of one of the three models, `ROLE-SEED`, is done."""
        role, _, seed = item.partition("-")
        if role not in CORE:
            return False
        run = Run(role, int(seed), plan[role])
        config = with_run(self.configs[role], seed=run.seed, epochs=run.epochs)
        return _is_done(run.folder(self.folder, self.recipes.recipes[role]), config)

    def _compress(
        self,
        name: str,
        run: Run,
        plan: dict[str, int],
        *,
        methods: tuple[str, ...] = (),
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Builds the bundle `name` of a run and predicts with its variants."""
        recipe = self.recipes.recipes[run.role]
        folder = run.folder(self.folder, recipe)
        key = "-".join([name, f"e{run.epochs}", *(f"f{plan[name]}" for _ in methods)])
        out = self.folder / "bundles" / key
        if (self.folder / "bundles" / f"{key}.predictions" / "done.json").is_file():
            return
        if not (folder / "run.json").is_file():
            self._leave_out(f"bundle {name}", f"{recipe} with seed {run.seed} is not trained")
            return
        measured = self.measured
        extra = (measured.epoch(RESNET) if methods else 0.0) + measured.export(run.role)
        seconds = self._left_for(extra, f"bundle {name}", measured.report)
        if seconds is None:
            return
        arguments = {
            "trained": str(folder),
            "out": str(out),
            "methods": list(methods),
            "ptq": [] if methods else ["dynamic", "int8"],
            "settings": settings or {},
        }
        try:
            took = self._step(f"bundle-{name}", "compress", arguments, seconds)
        except OutOfTimeError as error:
            self._leave_out(f"bundle {name}", str(error))
            return
        if not methods:
            self._slowness = max(1.0, took / measured.export(run.role))

    def _outlook(self, plan: dict[str, int]) -> None:
        """Pruning, quantization-aware training, hybrid and distilled, in the order planned."""
        base = Run(RESNET, 0, plan[RESNET])
        for one in trainings(self.configs, self.measured, self.seeds):
            name = one.name
            if name in CORE:
                continue
            if not plan.get(name):
                self._leave_out(name, "the budget has no time for it; give a longer --budget")
            elif name in (HYBRID, DISTILLED):
                self._train_outlook(name, plan)
            elif name == QAT:
                settings = {"qat_epochs": plan[name]}
                self._compress(name, base, plan, methods=(QAT,), settings=settings)
            else:
                sparsity = next(s for s in SPARSITIES if pruned(s) == name)
                settings = {"sparsity": sparsity, "prune_epochs": plan[name]}
                self._compress(name, base, plan, methods=("prune",), settings=settings)

    def _train_outlook(self, role: str, plan: dict[str, int]) -> None:
        seeds = self.seeds if plan.get(role + MORE) else 1
        teacher = ""
        for seed in range(seeds):
            if role == DISTILLED:
                resnet = Run(RESNET, seed, plan[RESNET])
                folder = resnet.folder(self.folder, self.recipes.recipes[RESNET])
                if not (folder / "trained.json").is_file():
                    self._leave_out(role, "its teacher, the ResNet, is not trained")
                    return
                teacher = str(folder)
            self._train(Run(role, seed, plan[role]), plan, teacher=teacher)
        self._compress(role, Run(role, 0, plan[role]), plan)

    def _count(self) -> None:
        path = self.folder / "cost.json"
        if path.is_file():
            return
        raw = {role: to_dict(one) for role, one in self.configs.items()}
        arguments = {"models": cost.jobs(raw, self.info.num_classes), "out": str(path)}
        try:
            self._step("cost", "cost", arguments, max(self.state.remaining_s, 1.0))
        except OutOfTimeError as error:
            self._leave_out("cost", str(error))

    def _time(self, plan: dict[str, int]) -> None:
        """Times every bundle of the plan, again if there are others than the last time."""
        found = {one.name: str(one) for one in self.bundles(plan)}
        path = self.folder / "timing.json"
        if path.is_file() and read_json(path)["bundles"] == found:
            return
        if not found:
            self._leave_out("timing", "no model was compressed")
            return
        made = self.folder / "steps" / "timing.result.json"
        arguments = {"bundles": found, "data": str(self.data), "out": str(made)}
        seconds = max(self.state.remaining_s - self._slowness * self.measured.page, 1.0)
        try:
            self._step("timing", "timing", {**arguments, "settings": _TIMING}, seconds)
        except OutOfTimeError as error:
            self._leave_out("timing", str(error))
            return
        write_json(path, {"bundles": found, **read_json(made)})

    def _scale(self) -> None:
        """Measures cost by image size and batch, if there is time for it."""
        path = self.folder / "scaling.json"
        if path.is_file():
            return
        raw = {role: to_dict(self.configs[role]) for role in CORE}
        arguments = {"configs": raw, "classes": self.info.num_classes, "out": str(path)}
        seconds = self._left_for(self.measured.scaling, "scaling", self.measured.page)
        if seconds is None:
            return
        try:
            self._step("scaling", "scaling", arguments, seconds)
        except OutOfTimeError as error:
            self._leave_out("scaling", str(error))

    def bundles(self, plan: dict[str, int]) -> list[Path]:
        """The bundles of the plan that are complete."""
        folder = self.folder / "bundles"
        done = sorted(folder.glob("*.predictions/done.json"))
        kept = [folder / one.parent.name.removesuffix(".predictions") for one in done]
        return [one for one in kept if f"e{self._epochs_of(one.name, plan)}" in one.name.split("-")]

    def _epochs_of(self, name: str, plan: dict[str, int]) -> int:
        role = name.partition("-")[0]
        return plan[role if role in (*CORE, HYBRID, DISTILLED) else RESNET]

    def _report(self) -> Path:
        self.state.write()
        seconds = max(self.state.remaining_s, _LEAST_REPORT_S)
        self._step("report", "report", {"folder": str(self.folder)}, seconds)
        self.state.write()
        return self.folder / "report" / "index.html"


def _is_done(folder: Path, config: Config) -> bool:
    """Whether a run of this configuration has all its epochs; a stopped one is resumed."""
    path = folder / "run.json"
    if not path.is_file():
        return False
    facts, own = read_json(path), to_dict(config)
    trained = read_json(folder / "config.json")
    for one in (own, trained):
        one["data"].pop("dir")
        one["distill"].pop("teacher")
    return trained == own and facts["epochs"] >= facts["planned"]
