"""The table of `sightline evaluate`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from core.bundle import SAVED_MODEL, Bundle, BundleError, open_bundle
from trainers.data.features import DatasetError, DatasetInfo
from trainers.data.orientation import AS_STORED, UPRIGHT

if TYPE_CHECKING:
    from trainers.evaluation.predictions import Predictions
    from trainers.evaluation.stats import Interval


def evaluate_model(
    model: Path, data: Path | None, split: str, variant: str = ""
) -> dict[str, dict[str, list[float]]]:
    """Variant -> metric -> [value, low, high]; every example of `split` is counted once.

    Args:
      model: a bundle, or an output folder of `sightline train`.
      data: folder of records; None uses that of the model's configuration.
      split: of the records; several as `validation,test`.
      variant: of a bundle; empty evaluates all variants.

    Raises:
      DatasetError: the records are of another task, have classes that the model does not know, or
        have another EXIF policy; raised before TensorFlow is loaded.
    """
    _, found = predictions(model, data, split, variant)
    from trainers.evaluation.metrics import metrics_with_intervals

    return {
        name: {
            key: value.as_list()
            for key, value in metrics_with_intervals(p.scores, p.labels).items()
        }
        for name, p in found.items()
    }


def is_model(path: Path) -> bool:
    """Whether a path is a bundle, a model's folder of versions or an output folder of training."""
    if (path / "trained.json").is_file():
        return True
    try:
        open_bundle(path)
    except BundleError:
        return False
    return True


def predictions(
    model: Path, data: Path | None, split: str, variant: str = ""
) -> "tuple[Evaluated, dict[str, Predictions]]":
    """The model's facts, and variant -> predictions of `split`; see `evaluate_model`.

    Raises:
      DatasetError: the records are not ones that the model can be evaluated on.
    """
    subject = _trained_subject(model) or _bundle_subject(model)
    where = data or subject.data
    subject.check(DatasetInfo.load(where))
    if subject.bundle is None:
        return subject, _trained(model, where, split)
    return subject, _bundle(subject.bundle, where, split, variant)


@dataclass(frozen=True)
class Evaluated:
    """A model that is evaluated, as far as it can be read without TensorFlow.

    Attributes:
      name: for messages.
      task: e.g. `classification`.
      classes: names in label order.
      exif: EXIF policy that the model was trained with.
      data: records of its configuration.
      config: its whole configuration as JSON.
      bundle: None for a folder of `sightline train`.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    exif: str
    data: Path
    config: Mapping[str, Any]
    bundle: Bundle | None = None

    def check(self, info: DatasetInfo) -> None:
        """Raises DatasetError where results on these records would not be those of serving."""
        info.check_task(self.task, self.name)
        info.class_positions(self.classes, self.name)
        if info.exif == self.exif or not info.turned:
            return
        kept, turned = "takes images as they are stored", "rotates images by their EXIF orientation"
        policies = {AS_STORED: kept, UPRIGHT: turned}
        raise DatasetError(
            f"{self.name} {policies.get(self.exif, self.exif)} when it serves, but the data set "
            f"{info.name!r} was ingested with `--exif {info.exif}`: {info.turned:,} of its images "
            "have an orientation, so results on them would differ from serving. Ingest the data "
            f"again with `--exif {self.exif}`, or train and export a model on this data set"
        )


def _trained_subject(model: Path) -> Evaluated | None:
    if not (model / "trained.json").is_file():
        return None
    from trainers.config import from_dict, to_dict

    config = from_dict(json.loads((model / "config.json").read_text(encoding="utf-8")))
    info = DatasetInfo.load(model)
    name = f"the model in {model}"
    return Evaluated(
        name, config.task, info.classes, info.exif, Path(config.data.dir), config=to_dict(config)
    )


def _bundle_subject(model: Path) -> Evaluated:
    bundle = open_bundle(model)
    manifest = bundle.manifest
    data = Path(manifest.config.get("data", {}).get("dir", ""))
    exif = manifest.input.get("exif", AS_STORED)
    name = f"the bundle {manifest.name}"
    return Evaluated(
        name, manifest.task, bundle.labels, exif, data, config=manifest.config, bundle=bundle
    )


def split_names(text: str) -> tuple[str, ...]:
    """The different splits of `--split`.

    Raises:
      DatasetError: there is none, or one is given twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"give different splits, e.g. validation,test; got {text!r}")
    return names


def _trained(model: Path, data: Path, split: str) -> "dict[str, Predictions]":
    from trainers.evaluation.predictions import joined
    from trainers.training.evaluate import predict_trained
    from trainers.training.trained import load_trained

    trained = load_trained(model)
    parts = [predict_trained(trained, data, one) for one in split_names(split)]
    return {"trained": joined(parts)}


def _bundle(bundle: Bundle, data: Path, split: str, variant: str) -> "dict[str, Predictions]":
    from components.evaluation.predict_variants import predict_variant
    from trainers.evaluation.predictions import joined

    names = [variant] if variant else [SAVED_MODEL, *(v.name for v in bundle.manifest.variants)]
    splits = split_names(split)
    return {
        name: joined([predict_variant(bundle, name, data, one) for one in splits]) for name in names
    }


def evaluation_table(found: "Mapping[str, Mapping[str, Interval]]", classes: int) -> Table:
    """One row per metric and one column per variant; every value has its 95 % interval.

    Args:
      found: heading -> name of a metric -> value.
      classes: number of classes; metrics that need more are omitted.
    """
    from trainers.evaluation.metrics import metric_facts

    table = Table("metric", box=None, pad_edge=False)
    for heading in found:
        table.add_column(escape(heading), justify="right")
    for name, facts in metric_facts(classes).items():
        values = [metrics[name] for metrics in found.values()]
        cells = [f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]" for one in values]
        table.add_row(escape(facts["title"]), *map(escape, cells))
    return table
