"""The folder of a study: what it is of, the time spent, and what was left out and why."""

import time
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from tfx_pipeline.study.sets import StudyError, StudySet, is_imagenet
from trainers.data.features import DatasetInfo

STATE_FILE = "study.json"
#: The study's own figures, as given.
FIGURES_FILE = "figures.csv"
LOCK_FILE = ".lock"
# What a folder may hold before its first study begins.
_BEFORE = frozenset({"data", LOCK_FILE})
_WRITE_EVERY_S = 5.0


class State:
    """`study.json` of a folder, and the clock of the budget.

    The budget is for the whole study: an interrupted or a longer one continues with the time that
    is left.

    Attributes:
      values: the content of the file.
    """

    def __init__(
        self,
        folder: Path,
        records: Path,
        recipes: StudySet,
        *,
        seeds: int,
        budget_s: float,
        began: float | None = None,
    ) -> None:
        """Opens or creates the folder.

        Args:
          folder: of the study.
          records: of its data.
          recipes: of its roles.
          seeds: of each of the three models.
          budget_s: of the whole study.
          began: `time.monotonic()` at the start of the command; now if not given.

        Raises:
          StudyError: it holds something else, or a study of other data or recipes.
        """
        info = DatasetInfo.load(records)
        self.folder = folder
        self._path = folder / STATE_FILE
        identity = {"data": info.fingerprint, "recipes": recipes.recipes}
        earlier = _checked(folder, identity, info.name)
        self.values: dict[str, Any] = {
            **identity,
            "data_name": info.name,
            "records": str(records),
            "set": recipes.name,
            "has_study_recipes": recipes.is_original,
            "is_original": recipes.is_original and is_imagenet(info),
            "classes": list(info.classes),
            "examples": {name: split.examples for name, split in info.splits.items()},
            "spent_s": float(earlier.get("spent_s", 0.0)),
            "seeds": seeds,
            "budget_s": budget_s,
            "plan": earlier.get("plan", {}),
            "planned_for": earlier.get("planned_for"),
            "left_out": {},
        }
        self._before = self.values["spent_s"]
        self._began = time.monotonic() if began is None else began
        self._written = 0.0
        self.write()

    @property
    def spent_s(self) -> float:
        """Seconds of this and earlier processes."""
        return self._before + time.monotonic() - self._began

    @property
    def remaining_s(self) -> float:
        """Seconds until the end of the budget; negative after it."""
        return float(self.values["budget_s"]) - self.spent_s

    def restart(self) -> None:
        """Sets the time spent to 0."""
        self._before, self._began = 0.0, time.monotonic()
        self.write()

    def leave_out(self, name: str, why: str) -> None:
        """Records why a step has no result."""
        self.values["left_out"][name] = why
        self.write()

    def tick(self) -> None:
        """Records the time spent, every few seconds."""
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Writes the file."""
        self._written = time.monotonic()
        self.values["spent_s"] = self.spent_s
        write_json(self._path, self.values)


def _checked(folder: Path, identity: dict[str, Any], name: str) -> dict[str, Any]:
    """The earlier state of the folder; empty for a new one."""
    path = folder / STATE_FILE
    if path.is_file():
        try:
            earlier: dict[str, Any] = read_json(path)
            other = [key for key in identity if earlier[key] != identity[key]]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{path} is not the state of a study ({error}); give another --out"
            ) from None
        if other:
            raise StudyError(
                f"{folder} holds a study of {earlier.get('data_name', 'other data')} with "
                f"{', '.join(dict(earlier['recipes']).values())}, and its {' and '.join(other)} "
                f"differ from those of {name}: give another --out, or delete {folder}"
            )
        return earlier
    check_folder(folder)
    return {}


def check_folder(folder: Path) -> None:
    """Refuses a folder with other files than those of a study.

    Raises:
      StudyError: names some of the files.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"--out {folder} is a file; give a folder")
    if not folder.is_dir() or (folder / STATE_FILE).is_file():
        return
    if found := sorted({one.name for one in folder.iterdir()} - _BEFORE):
        raise StudyError(
            f"{folder} is not empty and holds no study ({', '.join(found[:3])}); give another --out"
        )
