"""What `sightline compare` and its relatives take: bundles, trained folders, runs and predictions.

| given | predictions |
|---|---|
| a bundle, or a model's folder | of `--variant`, made on the records |
| a folder of `sightline train` | of the model in float, made on the records |
| a pipeline's run, `RUN` or `RUN:MODEL` | the run's own table, of every model or of one |
| a `predictions.tfrecord`, `FILE` or `FILE:COLUMN` | that table |
| a server, `http://host:8501/v1/models/NAME` | of the served model, made on the records |
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.files import SERVING_MODEL
from core.bundle import SAVED_MODEL
from tfx_pipeline.cli.shared import errors
from tfx_pipeline.cli.views.evaluate import is_model, predictions, split_names
from tfx_pipeline.cli.views.served import is_server, predict_served
from trainers.evaluation.comparison import ComparisonError, ModelPredictions
from trainers.evaluation.predictions import joined

_SUMMARY = "summary.json"
_TEST = "test"


@dataclass(frozen=True)
class Subject:
    """A model with its predictions.

    Attributes:
      predictions: on its images.
      config: its whole configuration as JSON, or empty where it is not known.
      data: the records that the predictions were made on, or None where they are not known.
      tfma: the TFMA result of a run, with all variants, or None.
      model: the bundle or the folder of `sightline train`, or None where it is not known.
      source: the path with which the name begins, or None.
      run: the path of the run that the model is from, or None.
      variant: that made the predictions, or empty where it is not known.
      recommended: variant of the run, or empty where it is not known.
      full_name: name with the whole path, where that of the predictions has only its end.
    """

    predictions: ModelPredictions
    config: Mapping[str, Any]
    data: Path | None = None
    tfma: Path | None = None
    model: Path | None = None
    source: Path | None = None
    run: Path | None = None
    variant: str = ""
    recommended: str = ""
    full_name: str = ""

    @property
    def seed(self) -> int | None:
        """`train.seed`, or None."""
        return self.config.get("train", {}).get("seed")

    @property
    def recipe(self) -> str:
        """What decides the weights, without the seed, as text; empty without a configuration."""
        if not self.config:
            return ""
        from trainers.config import from_dict
        from trainers.config_keys import values_with
        from trainers.data.entries import former_spelling

        config = from_dict(dict(self.config))
        facts = values_with(config, "identity")
        facts["data"]["augment"] = [former_spelling(text) for text in config.data.augment]
        facts.pop("name", None)
        facts["train"].pop("seed")
        return json.dumps(facts, sort_keys=True)


def load(
    given: str, *, data: Path | None, split: str, variant: str, model: str = ""
) -> list[Subject]:
    """The models that one argument names; several only for a run without a model's name.

    Args:
      given: see the module's table.
      data: records to predict on; None takes those of the model's configuration. Not used where
        predictions exist already.
      split: of the records or of the run; several are joined, as `validation,test`.
      variant: of a bundle or a run; empty is the SavedModel.
      model: on a server whose address has no name of a model.

    Raises:
      ClientError: the server is unreachable or lacks the model.
      ComparisonError: `given` is none of these, or lacks the split, the model or the variant.
      DatasetError: the records are not ones that the model can be evaluated on.
    """
    splits = split_names(split)
    if len(splits) > 1 and (is_server(given) or not is_model(Path(given))):
        each = [load(given, data=data, split=one, variant=variant, model=model) for one in splits]
        return [
            replace(parts[0], predictions=joined([part.predictions for part in parts]))
            for parts in zip(*each, strict=True)
        ]
    if is_server(given):
        if variant:
            raise ComparisonError(
                f"{given} serves one variant, so --variant {variant} has no effect; leave it out"
            )
        found = predict_served(given, model=model, data=data, split=split, notify=_notify)
        return [Subject(found, {}, data)]
    path, name = _divided(given)
    summary = _summary(path)
    if summary is not None:
        return _of_run(given, summary, name, split=split, variant=variant)
    if path.is_file():
        return [_of_table(path, name or variant)]
    if name:
        raise ComparisonError(
            f"{path} is neither a run nor a predictions file, so {name!r} names nothing in it; "
            f"give {path}"
        )
    return [_predicted(path, data, split, variant)]


def _notify(line: str) -> None:
    errors.print(line, highlight=False, markup=False, soft_wrap=True)


def _divided(given: str) -> tuple[Path, str]:
    if Path(given).exists():
        return Path(given), ""
    path, _, name = given.rpartition(":")
    if path and Path(path).exists():
        return Path(path), name
    raise ComparisonError(
        f"{given} does not exist; give a bundle, a folder of `sightline train`, a run's folder "
        "(RUN or RUN:MODEL), a predictions file (FILE or FILE:COLUMN) or a server (http://host:8501)"
    )


def _summary(path: Path) -> dict[str, Any] | None:
    """The summary of a run, given its file, its report's folder or the run's folder."""
    candidates = [path / _SUMMARY, path / "reports" / "latest" / _SUMMARY]
    file = path if path.name == _SUMMARY else next((c for c in candidates if c.is_file()), None)
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ComparisonError(f"{file} is not JSON: {error}; run the pipeline again") from error
    models = found.get("models") if isinstance(found, dict) else None
    if not isinstance(models, list) or any(
        not isinstance(one, dict) or "name" not in one for one in models
    ):
        raise ComparisonError(
            f"{file} has no list of models with names: another version of Sightline wrote it. Run "
            "the pipeline again, or give the run's predictions files"
        )
    return found


def _of_run(
    given: str, summary: Mapping[str, Any], name: str, *, split: str, variant: str
) -> list[Subject]:
    models = [one for one in summary.get("models") or () if name in ("", one["name"])]
    if not models:
        known = ", ".join(one["name"] for one in summary.get("models") or ()) or "none"
        raise ComparisonError(f"{given}: the run has no model {name!r} (its models: {known})")
    key = "predictions" if split == _TEST else f"{split}_predictions"
    info = summary.get("data") or {}
    found = []
    for model in models:
        table = model.get(key) or ""
        if not table or not Path(table).is_file():
            raise ComparisonError(
                f"{given}: {model['name']} has no predictions of the {split} split"
                + (f"; {table} is gone, run the pipeline again" if table else "")
            )
        names = tuple(info.get("classes") or ())
        predictions, chosen = _column(Path(table), variant, model["name"], names)
        config = model.get("config") or {}
        records = config.get("data", {}).get("dir")
        own = Path(model.get("evaluation") or "") if split == _TEST else Path()
        found.append(
            Subject(
                predictions,
                config,
                Path(records) if records else None,
                tfma=own if own.name and own.is_dir() else None,
                model=_bundle_of(summary, model["name"]),
                run=_divided(given)[0],
                variant=chosen,
                recommended=str(model.get("recommended_variant") or ""),
            )
        )
    return found


def _bundle_of(summary: Mapping[str, Any], name: str) -> Path | None:
    """The bundle that a run made of a model, if it still exists."""
    rows = (row for row in summary.get("lineage") or () if isinstance(row, dict))
    wanted = f"Compressor.{name}.bundle"
    uri = next((row["uri"] for row in rows if row.get("producer") == wanted), "")
    folder = Path(uri) / SERVING_MODEL
    return folder if uri and folder.is_dir() else None


def _of_table(path: Path, name: str) -> Subject:
    found, chosen = _column(path, name, f"{path}:{name}" if name else str(path), ())
    return Subject(found, {}, source=path, variant=chosen)


def _column(
    path: Path, variant: str, name: str, classes: tuple[str, ...]
) -> tuple[ModelPredictions, str]:
    """One column of a predictions table, `variant`, the only one, or the SavedModel's; its name."""
    from trainers.evaluation.predictions import read_column, table_columns

    with _reading(path):
        known = table_columns(path)
    chosen = variant or (SAVED_MODEL if SAVED_MODEL in known else "")
    if not chosen and len(known) == 1:
        (chosen,) = known
    if chosen not in known:
        raise ComparisonError(
            f"{path} has no predictions of {chosen or 'the SavedModel'!r} "
            f"(known: {', '.join(known)}); give one of them with --variant or as {path}:COLUMN"
        )
    with _reading(path):
        found, names = read_column(path, chosen)
    shown = name if chosen == SAVED_MODEL else f"{name} {chosen}"
    if classes and len(classes) != len(names):
        raise ComparisonError(
            f"{path} has scores of {len(names)} classes, but the run's summary lists "
            f"{len(classes)}; run the pipeline again"
        )
    return ModelPredictions(**vars(found), name=shown, classes=classes or names), chosen


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of a predictions file with its path and what to give."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ComparisonError(f"{error}; give a predictions file of a run") from error
    except Exception as error:  # TensorFlow's DataLossError and protobuf's DecodeError.
        raise ComparisonError(f"{path} is not a predictions file: {error}") from error


def _predicted(path: Path, data: Path | None, split: str, variant: str) -> Subject:
    """Predictions of a bundle or a trained folder, made now."""
    subject, found = predictions(path, data, split, variant or SAVED_MODEL)
    ((chosen, made),) = found.items()
    shown = str(path) if chosen in (SAVED_MODEL, "trained") else f"{path} {chosen}"
    table = ModelPredictions(**vars(made), name=shown, classes=subject.classes)
    return Subject(table, subject.config, data or subject.data, model=path, source=path)
