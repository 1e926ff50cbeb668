"""The tables of a study's report: rows of a figure, its interval, the study's, and a verdict."""

from dataclasses import dataclass, field

import numpy as np

from tfx_pipeline.study.figures import StudyFigure
from tfx_pipeline.study.results import Results
from tfx_pipeline.study.sets import ROLES
from tfx_pipeline.study.verdicts import Conditions, Verdict, undecided
from trainers.evaluation.stats import Interval, paired_t

#: Titles of the roles.
TITLES = {
    "cnn": "CNN",
    "resnet": "ResNet",
    "vit": "ViT",
    "hybrid": "hybrid",
    "distilled": "distilled ViT",
}
#: Units of `Row.unit`.
FRACTION, POINTS, MS, RATE = "fraction", "points", "ms", "images/s"


@dataclass(frozen=True)
class Row:
    """One figure of a table.

    Attributes:
      subject: the model or comparison.
      quantity: what is measured.
      unit: of the values, in this project and in the study.
      value: None where there is none, for the reason `missing`.
      low: of the interval; None for a count.
      high: likewise.
      interval: what the interval is, or why there is none.
      seeds: the value of each seed; empty where it is of no seed.
      epochs: reached and those of the recipe, or why this does not matter.
      verdict: on the study's figure.
      study: its figure; None if it is not at hand.
      missing: why there is no value.
    """

    subject: str
    quantity: str
    unit: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    seeds: tuple[float, ...] = ()
    epochs: str = "independent of training"
    study: StudyFigure | None = None
    missing: str = ""

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Table:
    """A table of the study.

    Attributes:
      key: of its files.
      title: of its section.
      note: what a reader has to know.
      rows: at least one.
    """

    key: str
    title: str
    note: str
    rows: list[Row] = field(default_factory=list)


def subject(results: Results, role: str) -> str:
    """A role with its recipe."""
    recipe = results.recipes.get(role)
    return f"{TITLES[role]} ({recipe})" if recipe else TITLES[role]


def epochs_text(results: Results, role: str) -> str:
    """`4 of 20 epochs, seeds 0, 1, 2`."""
    runs = results.runs[role]
    if not runs:
        return "not trained"
    reached = sorted({run.epochs for run in runs})
    seeds = ", ".join(str(run.seed) for run in runs)
    shown = " to ".join(map(str, {reached[0]: 0, reached[-1]: 0}))
    word = "seeds" if len(runs) > 1 else "seed"
    return f"{shown} of {results.recipe_epochs(role)} epochs, {word} {seeds}"


def conditions(results: Results, *roles: str, absolute: bool = True) -> Conditions:
    """The conditions of a figure of trained models.

    Args:
      results: of the study.
      roles: whose training matters; the least trained decides.
      absolute: whether the value itself is compared, which needs the study's data and recipes.
    """
    used = [role for role in roles if role in results.recipes]
    share = {role: results.epochs(role) / results.recipe_epochs(role) for role in used}
    least = min(used, key=lambda role: share[role])
    differs = []
    if absolute and not results.state["is_original"]:
        differs.append(
            f"another data set or recipe ({results.state['data_name']}, "
            f"{results.recipes[least]}; the study trained on ImageNet)"
        )
    wanted = int(results.state["seeds"])
    if (found := min(len(results.runs[role]) for role in used)) < wanted and not absolute:
        differs.append(f"{found} of {wanted} seeds")
    return Conditions(results.epochs(least), results.recipe_epochs(least), tuple(differs))


def over_seeds(values: tuple[float, ...]) -> Interval | None:
    """The mean with Student's t interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    return paired_t(values, [0.0] * len(values)).difference


def absent(results: Results, name: str, quantity: str, unit: str, title: str) -> Row:
    """The row of a step without a result."""
    why = results.why_missing(name)
    return Row(
        *(title, quantity, unit, undecided(why)),
        interval="none",
        epochs=epochs_text(results, name) if name in ROLES else "not run",
        missing=why,
    )
