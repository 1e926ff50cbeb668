"""What the steps of a study wrote: runs, predictions of variants, counts and times."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.files import read_json
from tfx_pipeline.study.figures import load_figures
from tfx_pipeline.study.sets import RESNET, ROLES
from tfx_pipeline.study.state import FIGURES_FILE, STATE_FILE
from trainers.evaluation.comparison import ModelPredictions
from trainers.recipes import load_recipe

Array = NDArray[Any]


@dataclass(frozen=True)
class RunResult:
    """A trained run with its test predictions.

    Attributes:
      recipe: its name.
      seed: of the run.
      epochs: reached.
      history: rows of figures, one an epoch.
      facts: `trained.json` and `run.json`.
      test: predictions of the test split.
    """

    recipe: str
    seed: int
    epochs: int
    history: list[dict[str, float]]
    facts: dict[str, Any]
    test: ModelPredictions


class Results:
    """The results in the folder of a study.

    Args:
      folder: of the study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: dict[str, Any] = read_json(folder / STATE_FILE)
        self.recipes: dict[str, str] = self.state["recipes"]
        self.plan: dict[str, int] = self.state["plan"]
        self.left_out: dict[str, str] = self.state["left_out"]
        self.classes: tuple[str, ...] = tuple(self.state["classes"])
        self.figures = load_figures(folder / FIGURES_FILE)
        self.configs = {role: load_recipe(name) for role, name in self.recipes.items()}

    @cached_property
    def runs(self) -> dict[str, list[RunResult]]:
        """Role -> runs in the order of their seeds; roles without a result have an empty list."""
        return {role: self._runs_of(role) for role in ROLES}

    @cached_property
    def cost(self) -> list[dict[str, Any]]:
        """Rows of `tfx_pipeline.study.cost.count`; empty if nothing was counted."""
        path = self.folder / "cost.json"
        return read_json(path) if path.is_file() else []

    @cached_property
    def timing(self) -> dict[str, Any]:
        """Of `tfx_pipeline.study.timing.measure`; empty if nothing was timed."""
        path = self.folder / "timing.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def scaling(self) -> dict[str, Any]:
        """Of `tfx_pipeline.study.timing.scaling`; empty if it was not measured."""
        path = self.folder / "scaling.json"
        return read_json(path) if path.is_file() else {}

    def recipe_epochs(self, role: str) -> int:
        """Epochs of a role's recipe."""
        return self.configs[role].train.epochs

    def epochs(self, role: str) -> int:
        """Epochs of the run with the fewest; 0 without a run."""
        return min((run.epochs for run in self.runs[role]), default=0)

    def variants(self, name: str) -> dict[str, ModelPredictions]:
        """Variant -> test predictions of a bundle, `saved_model` first; empty without it.

        Args:
          name: of the bundle: a role, `prune90`, ... or `qat`.
        """
        folder = self._predictions_of(name)
        if folder is None:
            return {}
        names = read_json(folder / "done.json")["variants"]
        return {one: self._predictions(folder / f"{one}.npz", one) for one in names}

    def _predictions_of(self, name: str) -> Path | None:
        bundle = self.bundle(name)
        return bundle.with_name(f"{bundle.name}.predictions") if bundle else None

    def bundle(self, name: str) -> Path | None:
        """The folder of a complete bundle of the plan; None without one."""
        role = name if name in ROLES else RESNET
        if role not in self.recipes:
            return None
        key = f"{name}-e{self.plan.get(role, 0)}"
        if role != name:
            key += f"-f{self.plan.get(name, 0)}"
        folder = self.folder / "bundles" / key
        done = folder.with_name(f"{key}.predictions") / "done.json"
        return folder if done.is_file() else None

    def gzip_bytes(self, name: str, variant: str) -> int:
        """Compressed size of a variant's file of a complete bundle."""
        folder = self._predictions_of(name)
        return 0 if folder is None else int(read_json(folder / "done.json")["gzip_bytes"][variant])

    def why_missing(self, name: str) -> str:
        """Why a step has no result."""
        role = name if name in ROLES else RESNET
        if role not in self.recipes:
            return f"the recipes {self.state['set']} have no {role}"
        keys = (name, f"{self.recipes[role]}-0-{role}", f"bundle {name}", f"bundle {role}")
        found = [self.left_out[key] for key in keys if key in self.left_out]
        return found[0] if found else "no result was written; run the same command again"

    def _runs_of(self, role: str) -> list[RunResult]:
        if role not in self.recipes:
            return []
        recipe = self.recipes[role]
        found = []
        for seed in range(int(self.state["seeds"])):
            name = f"{recipe}-{seed}-{role}"
            folder = self.folder / "runs" / name / f"e{self.plan.get(role, 0)}"
            if not (folder / "run.json").is_file():
                continue
            facts = {**read_json(folder / "trained.json"), **read_json(folder / "run.json")}
            history = read_json(folder / "history.json")
            test = self._predictions(folder / "predictions.npz", name)
            found.append(RunResult(recipe, seed, len(history), history, facts, test))
        return found

    def _predictions(self, path: Path, name: str) -> ModelPredictions:
        with np.load(path) as held:
            ids, labels, scores = (held[key] for key in ("ids", "labels", "scores"))
        return ModelPredictions(ids, labels, scores, {}, name, self.classes)
