"""A finished run as the notebooks read it: its summary, predictions, TFMA results and artifacts.

    run = open_run("runs/smoke")
    run.predictions("digits_cnn")["pqat_int8"].scores

Paths in a summary are absolute or relative to the run's folder.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_pipeline.report.gallery import PRODUCER as IMAGES
from tfx_pipeline.report.summary import LATEST, SUMMARY_FILE
from trainers.data.features import DATASET_FILE, SLICES
from trainers.registry import nearest

if TYPE_CHECKING:
    import tensorflow_model_analysis as tfma

    from trainers.evaluation.comparison import ModelPredictions

#: The environment variable that names the run where a notebook has no other.
VARIABLE = "SIGHTLINE_RUN"
#: What a notebook may need of a run, and its description.
NEEDS = {
    "variants": "metrics of variants",
    "predictions": "predictions of the test images",
    "evaluation": "TFMA results",
    "images": "gallery of image anomalies",
}
#: The model in float, with which the other variants are compared.
FLOAT = "none_fp32"
# Float passes are references of the gates, not variants.
_FLOAT_PASS = "float/"


class RunError(ValueError):
    """A run that cannot be analyzed; the message contains the reason and the remedy."""


@dataclass(frozen=True)
class RunResults:
    """The results of one run.

    Attributes:
      given: the run as the user named it.
      folder: to which the paths of the summary are relative.
      summary: the content of `summary.json`.
    """

    given: str
    folder: Path
    summary: Mapping[str, Any]

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models with evaluated variants, the recommended one first.

        Raises:
          RunError: no model was evaluated.
        """
        found = [one for one in self.summary.get("models") or () if one.get("variants")]
        if not found:
            raise self._missing("variants", "")
        return sorted(found, key=lambda one: not one.get("recommended"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in label order; empty where the summary has none."""
        return tuple((self.summary.get("data") or {}).get("classes") or ())

    @property
    def records(self) -> Path | None:
        """The folder of the run's records; None if it no longer exists."""
        for model in self.summary.get("models") or ():
            folder = Path((model.get("config") or {}).get("data", {}).get("dir") or "-")
            if (folder / DATASET_FILE).is_file():
                return folder
        return None

    @property
    def recorded_slices(self) -> tuple[str, ...]:
        """The slice keys that ingest recorded, without the properties that every image has."""
        found = (self.summary.get("data") or {}).get("slices") or ()
        return tuple(key for key in found if key not in SLICES)

    def __str__(self) -> str:
        """The pipeline, the run and its status, with the error of a failed one."""
        facts = " ".join(str(self.summary.get(key, "")) for key in ("pipeline", "run", "status"))
        error = self.summary.get("error")
        return f"{facts}: {error}" if error else facts

    def model(self, name: str = "") -> dict[str, Any]:
        """The model of that name; the recommended one, or else the first, for an empty name.

        Raises:
          RunError: there is no such model.
        """
        models = self.models
        found = [one for one in models if name in ("", one["name"])]
        if not found:
            raise RunError(
                f"{self.given}: no model {name!r}; {nearest(name, [m['name'] for m in models])}"
            )
        return found[0]

    def variant(self, model: Mapping[str, Any], name: str = "") -> dict[str, Any]:
        """The facts of a variant; of the recommended one for an empty name.

        Raises:
          RunError: the model has no such variant.
        """
        variants = model["variants"]
        wanted = name or model.get("recommended_variant") or variants[0]["name"]
        found = [one for one in variants if one["name"] == wanted]
        if not found:
            known = [one["name"] for one in variants]
            raise RunError(f"{model['name']} has no variant {name!r}; {nearest(name, known)}")
        return found[0]

    def predictions(self, model: Mapping[str, Any]) -> "dict[str, ModelPredictions]":
        """Variant -> predictions of the test images, with class names.

        Raises:
          RunError: the run has none, or they were deleted.
        """
        from trainers.evaluation.comparison import ModelPredictions
        from trainers.evaluation.predictions import read_column, read_table

        path = self._path(model, "predictions")
        table = read_table(path)
        classes = self.classes or read_column(path, next(iter(table)))[1]
        return {
            name: ModelPredictions(**vars(one), name=f"{model['name']} {name}", classes=classes)
            for name, one in table.items()
            if not name.startswith(_FLOAT_PASS)
        }

    def evaluation(self, model: Mapping[str, Any], variant: str) -> "tfma.EvalResult":
        """The TFMA results of one variant.

        Raises:
          RunError: the run has none, or they were deleted.
        """
        import tensorflow_model_analysis as tfma

        path = self._path(model, "evaluation")
        logger = logging.getLogger("tensorflow")
        level = logger.level
        logger.setLevel(logging.ERROR)  # TFMA uses a deprecated reader.
        try:
            return tfma.load_eval_result(str(path), model_name=variant)
        finally:
            logger.setLevel(level)

    def artifact(self, producer: str) -> Path | None:
        """The folder of an artifact, e.g. of `StatisticsGen.statistics`; None if there is none."""
        for row in self.summary.get("lineage") or ():
            if row.get("producer") == producer:
                folder = self.folder / str(row.get("uri"))
                return folder if folder.is_dir() else None
        return None

    def images(self) -> Path:
        """The folder of the gallery of image anomalies.

        Raises:
          RunError: the run has none, or it was deleted.
        """
        found = self.artifact(IMAGES)
        if found is None:
            raise self._missing("images", "")
        return found

    def check(self, needs: tuple[str, ...]) -> None:
        """Raises RunError where the run lacks one of `needs`, names of `NEEDS`."""
        for need in needs:
            if need == "images":
                self.images()
            for model in self.models if need != "images" else ():
                if need != "variants":
                    self._path(model, need)

    def _path(self, model: Mapping[str, Any], key: str) -> Path:
        given = model.get(key)
        path = self.folder / str(given or "-")
        if not given or not path.exists():
            raise self._missing(key, f"of {model['name']}", str(path) if given else "")
        return path

    def _missing(self, need: str, whose: str, deleted: str = "") -> RunError:
        text = " ".join(filter(None, (f"{self.given} has no {NEEDS[need]}", whose)))
        if deleted:
            return RunError(f"{text}: {deleted} does not exist any more; run the pipeline again")
        if self.summary.get("error"):
            reason = f"the run failed: {self.summary['error']}"
            return RunError(f"{text}: {reason}; `sightline report` shows the component that failed")
        return RunError(
            f"{text}: an earlier version of Sightline made it, or its artifacts were deleted; run "
            "the pipeline again"
        )


def open_run(given: str | Path = "") -> RunResults:
    """The results of a run.

    Args:
      given: the run's folder, the folder of one of its reports, or a `summary.json`; empty is the
        environment variable SIGHTLINE_RUN.

    Raises:
      RunError: there is no such run, or its summary is not JSON.
    """
    name = str(given or os.environ.get(VARIABLE, ""))
    if not name:
        raise RunError(
            f"no run is given: set RUN in the cell of parameters, or {VARIABLE}, to a run's "
            "folder, e.g. runs/smoke"
        )
    path = Path(name).expanduser()
    latest = path / "reports" / LATEST / SUMMARY_FILE
    candidates = (path, path / SUMMARY_FILE, latest)
    file = next((one for one in candidates if one.is_file()), None)
    if file is None:
        raise RunError(_unknown(name, path))
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is not JSON: {error}; run the pipeline again") from error
    if not isinstance(summary, dict):
        raise RunError(f"{file} is not the summary of a run")
    return RunResults(name, file.resolve().parents[2], summary)


def _unknown(name: str, path: Path) -> str:
    """Why `path` is not a run, with the runs that are near it."""
    text = f"{name} does not exist"
    if path.exists():
        text = f"{name} is not the folder of a finished run: it has no reports/{LATEST}"
    folders = (path.parent, path / "runs", Path("runs"), Path("demo/runs"))
    known = sorted(
        {
            str(one.parents[2])
            for folder in folders
            for one in folder.glob(f"*/reports/{LATEST}/{SUMMARY_FILE}")
        }
    )
    return f"{text}; " + (nearest(name, known) if known else "`sightline run` makes one")
