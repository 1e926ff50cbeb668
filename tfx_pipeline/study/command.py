"""Checks the arguments of `sightline study`, finds its data, and runs it."""

import shutil
import time
from pathlib import Path

from rich.console import Console

from core.locks import LockHeldError, file_lock
from tfx_pipeline.study.budget import parse_budget
from tfx_pipeline.study.display import Display
from tfx_pipeline.study.figures import BUNDLED, load_figures
from tfx_pipeline.study.sets import SETS, StudyError, choose
from tfx_pipeline.study.state import FIGURES_FILE, LOCK_FILE, check_folder
from trainers.data.features import CLASSIFICATION, DATASET_FILE, SPLITS, DatasetInfo

_VALIDATION_SHARE = "validation=0.1"
_LEAST_SEEDS = 2


def run_study(
    data: str,
    budget: str,
    console: Console,
    *,
    seeds: int = 3,
    recipes: str = "",
    figures: Path | None = None,
    out: Path | None = None,
) -> Path:
    """Runs or resumes a study and returns its report.

    Args:
      data: records, `JOB:SOURCE`, a folder of images, or the name of a set.
      budget: a duration, e.g. `60m`.
      console: for progress.
      seeds: of each of the three models.
      recipes: a set or `ROLE=RECIPE,...`; empty decides by the classes.
      figures: CSV file of the study's own figures.
      out: the folder; `work/study-SET` if not given.

    Raises:
      StudyError: an argument is not possible; the message contains the remedy.
    """
    began, budget_s = time.monotonic(), parse_budget(budget)
    if seeds < _LEAST_SEEDS:
        raise StudyError(
            f"--seeds {seeds} is too few: a paired t-test over seeds needs at least {_LEAST_SEEDS} "
            "runs of each model, and 3 are usual"
        )
    if recipes or data in SETS:
        recipes = recipes or data
        choose(recipes, ())  # Reports a mistyped name before images are read.
    load_figures(figures or BUNDLED)
    known = data if data in SETS else recipes if recipes in SETS else ""
    folder = out or Path("work") / f"study-{known or _stem(data)}"
    check_folder(folder)
    records = _records(data, folder, console)
    info = DatasetInfo.load(records)
    info.check_task(CLASSIFICATION, "the study")
    if missing := [name for name in SPLITS if name not in info.splits]:
        raise StudyError(
            f"{records} has no {' and no '.join(missing)} split; a study trains, selects the epoch "
            "by validation and compares on test images: ingest a source with these splits"
        )
    chosen = choose(recipes, info.classes)
    from tfx_pipeline.study.run import Study

    console.print(
        f"data: {info.name}, {sum(one.examples for one in info.splits.values()):,} images in "
        f"{records}; recipes: {', '.join(chosen.recipes.values())}",
        soft_wrap=True,
    )
    display = Display(console)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with file_lock(folder / LOCK_FILE, wait_s=0):
            study = Study(
                folder,
                records,
                chosen,
                seeds=seeds,
                budget_s=budget_s,
                display=display,
                began=began,
            )
            given, own = figures or BUNDLED, folder / FIGURES_FILE
            if not own.is_file() or not own.samefile(given):
                shutil.copyfile(given, own)
            return study.run()
    except LockHeldError as error:
        raise StudyError(
            f"{error.holder} runs a study in {folder}; wait for it, or give another --out"
        ) from None
    finally:
        display.stop()


def _stem(data: str) -> str:
    """A name for the output folder of a path or a `JOB:SOURCE`."""
    return Path(data.split()[0].rpartition(":")[2]).name.partition(".")[0] or "data"


def _records(data: str, folder: Path, console: Console) -> Path:
    """The folder of records of `--data`; a job or images are ingested into the study's folder.

    Raises:
      StudyError: neither exists.
      DataSourceError: the ingest job is unknown or its source does not exist.
    """
    from tfx_pipeline.request.data_source import parse, resolve

    if data in SETS and not Path(data).is_dir():
        return _of_set(data, folder, console)
    if parse(data) is not None:
        return resolve(data, folder / "data", console)
    path = Path(data).expanduser()
    if (path / DATASET_FILE).is_file():
        return path
    if not path.exists():
        raise StudyError(
            f"--data {data} does not exist; give a folder of records or images, JOB:SOURCE such as "
            f"folder:cifar10_A.tar, or one of {', '.join(SETS)}"
        )
    return resolve(f"folder:{path} {_VALIDATION_SHARE}", folder / "data", console)


def _of_set(name: str, folder: Path, console: Console) -> Path:
    """The records in `data/NAME`; scanned digits are part of scikit-learn."""
    records = Path("data") / name
    if (records / DATASET_FILE).is_file():
        return records
    if name != "digits":
        job = "imagenet" if name == "imagenet" else "folder"
        raise StudyError(
            f"--data {name}: there are no records in {records.absolute()}; give the images, e.g. "
            f"--data {job}:PATH --recipes {name}, or create the records with `sightline ingest "
            f"{job} PATH --out {records}`"
        )
    made = folder / "data" / name
    if not (made / DATASET_FILE).is_file():
        from tfx_pipeline.ingest.console import ingest_and_print

        ingest_and_print(name, None, made, console)
    return made
