"""The figures of `data_quality.ipynb`: splits, classes, image anomalies, slices, drift and skew."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components import files
from components.data_validation.gallery import read_gallery
from tfx_pipeline.notebooks import charts
from tfx_pipeline.notebooks.charts import Html, Row, Tile
from tfx_pipeline.notebooks.run_results import RunResults, open_run
from tfx_pipeline.report import gallery
from trainers.data.features import DATASET_FILE, SPLITS, DatasetInfo, SplitInfo
from trainers.evaluation.stats import proportion_interval

pd.set_option("display.max_colwidth", None)  # Meanings and examples are sentences.

_STATISTICS, _VALIDATED = "StatisticsGen.statistics", "StatisticsValidator.anomalies"


@dataclass(frozen=True)
class DataQuality:
    """What is known about a data set.

    Attributes:
      name: of the data set.
      classes: names in label order.
      splits: name -> counts.
      images: the folder of the gallery of image anomalies.
      run: None for records without a run, which have no statistics.
      temporary: the folder of a gallery that is deleted when the kernel stops.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SplitInfo]
    images: Path
    run: RunResults | None
    temporary: tempfile.TemporaryDirectory[str] | None = None


def open_data(given: str = "") -> DataQuality:
    """The data of a run, or of a folder of records, whose images are checked now.

    Args:
      given: a run, see `open_run`, or a folder with a `dataset.json`.

    Raises:
      RunError: no such run, or one without a gallery.
      DatasetError: the records cannot be used.
    """
    folder = Path(given).expanduser()
    if given and (folder / DATASET_FILE).is_file():
        info = DatasetInfo.load(folder)
        kept = _checked(folder)
        return DataQuality(info.name, info.classes, info.splits, Path(kept.name), None, kept)
    run = open_run(given)
    facts = run.summary.get("data") or {}
    splits = {name: SplitInfo(**one) for name, one in facts.get("splits", {}).items()}
    return DataQuality(str(facts.get("name", "")), run.classes, splits, run.images(), run)


def _checked(records: Path) -> tempfile.TemporaryDirectory[str]:
    from components.data_validation.anomaly import ValidatorSettings
    from components.data_validation.gallery import write_gallery
    from components.data_validation.image_anomalies import find_anomalies

    settings = ValidatorSettings()
    out = tempfile.TemporaryDirectory(prefix="sightline-images-")
    found = find_anomalies(records, settings)
    write_gallery(records, found, Path(out.name), shown=settings.gallery)
    return out


def splits(data: DataQuality) -> pd.DataFrame:
    """One row per split: images, share of all, largest and smallest class."""
    total = sum(one.examples for one in data.splits.values())
    rows = []
    for name in (split for split in SPLITS if split in data.splits):
        one = data.splits[name]
        # A class without images may be missing.
        counts = {label: one.per_class.get(label, 0) for label in data.classes}
        largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        rows.append(
            {
                "split": name,
                "images": one.examples,
                "share": one.examples / total if total else 0.0,
                "largest class": f"{largest} ({counts[largest]:,})",
                "smallest class": f"{smallest} ({counts[smallest]:,})",
            }
        )
    return pd.DataFrame(rows)


def class_shares(data: DataQuality, split: str = "test") -> pd.DataFrame:
    """One row per class: its share of a split with the 95 % interval, and its share of train.

    Empty for a data set without this split or without train.
    """
    if not {split, "train"} <= data.splits.keys():
        return pd.DataFrame()
    ours, train = data.splits[split].per_class, data.splits["train"].per_class
    total, of_train = sum(ours.values()), sum(train.values())
    rows = []
    for name in data.classes:
        share = proportion_interval(ours.get(name, 0), total)
        rows.append(
            {"class": name, "images": ours.get(name, 0), "train images": train.get(name, 0)}
            | {"share": share.value, "low": share.low, "high": share.high}
            | {"train share": train.get(name, 0) / of_train}
        )
    return pd.DataFrame(rows)


def share_chart(shares: pd.DataFrame, label: str, *, title: str) -> Html:
    """Shares with intervals, and dashed marks at the shares of train.

    Args:
      shares: of `class_shares`, or the rows of one key of `slice_shares`.
      label: the column with the names of the rows.
      title: caption.
    """
    rows = [
        Row(str(one[label]), charts.Estimate(one["share"], one["low"], one["high"]), 0, mark)
        for one in shares.to_dict("records")
        for mark in [one["train share"]]
    ]
    return charts.forest(rows, title=title, x_title="share of the images; dashed: of train")


def anomalies(data: DataQuality) -> pd.DataFrame:
    """One row per kind of image anomaly: severity, count, limit, meaning and the first example."""
    rows = gallery.anomaly_rows(read_gallery(data.images))
    columns = ["kind", "severity", "count", "limit", "over", "meaning", "example"]
    return pd.DataFrame(rows, columns=columns)


def anomaly_gallery(data: DataQuality) -> Html:
    """The images of every kind of anomaly that has some."""
    parts = {}
    for kind in gallery.images(data.images)["kinds"]:
        tiles = [
            Tile([shot["src"] for shot in one["images"]], _lines(one))
            for one in kind["items"]
            if kind["with_images"]
        ]
        if tiles:
            heading = f"{kind['kind']} ({kind['count']}): {kind['meaning']}"
            parts[heading] = charts.gallery(tiles, empty="")
    if not parts:
        return charts.text("No anomaly has an image to show.")
    return charts.stacked(parts)


def _lines(one: dict) -> list[str]:
    names = ["; ".join(filter(None, (s["label"], s["name"]))) for s in one["images"]]
    return [*names, one["detail"]]


def slice_shares(data: DataQuality, split: str = "test") -> pd.DataFrame:
    """One row per slice value: its share of a split with the 95 % interval, and its share of train.

    Empty without the statistics of a run.
    """
    folder = data.run.artifact(_STATISTICS) if data.run else None
    if folder is None:
        return pd.DataFrame()
    import tensorflow_data_validation as tfdv

    from components.data_validation.drift import categorical_sample

    ours, train = (
        tfdv.load_stats_binary(str(folder / f"Split-{name}" / "FeatureStats.pb"))
        for name in (split, "train")
    )
    rows = []
    for key in sorted(
        ".".join(one.path.step)
        for one in train.datasets[0].features
        if ".".join(one.path.step).startswith("slice/")
    ):
        here, there = categorical_sample(ours, key), categorical_sample(train, key)
        if here is None or there is None:
            continue
        total, of_train = sum(here.counts.values()), sum(there.counts.values())
        for value in sorted(here.counts | there.counts):
            count = round(here.counts.get(value, 0))
            share = proportion_interval(count, round(total))
            rows.append(
                {"key": key.removeprefix("slice/"), "value": value, "images": count}
                | {"share": share.value, "low": share.low, "high": share.high}
                | {"train share": there.counts.get(value, 0) / of_train}
            )
    return pd.DataFrame(rows)


def slice_chart(shares: pd.DataFrame) -> Html:
    """One chart of `slice_shares`."""
    if shares.empty:
        return charts.text("Records without a run have no statistics; pass a run's folder instead.")
    named = shares.assign(name=shares["key"] + " = " + shares["value"])
    return share_chart(named, "name", title="Share of each slice value in the test split")


def statistics_findings(data: DataQuality) -> pd.DataFrame:
    """One row per anomaly that TFDV found: schema, skew between splits, drift from live models."""
    folder = data.run.artifact(_VALIDATED) if data.run else None
    columns = ["split", "feature", "finding", "detail"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    rows = []
    for path in sorted(folder.glob("Split-*/SchemaDiff.pb")):
        found = anomalies_pb2.Anomalies.FromString(path.read_bytes())
        for feature, one in found.anomaly_info.items():
            split = path.parent.name.removeprefix("Split-")
            rows.append((split, feature, one.short_description, one.description))
    return pd.DataFrame(rows, columns=columns)


def live_comparisons(data: DataQuality) -> pd.DataFrame:
    """One row per live model: whether drift from its training data was checked, or why not."""
    folder = data.run.artifact(_VALIDATED) if data.run else None
    columns = ["model", "version", "compared", "reason"]
    if folder is None or not (folder / files.COMPARED).is_file():
        return pd.DataFrame(columns=columns)
    return pd.DataFrame(files.read_json(folder / files.COMPARED), columns=columns)
