"""`sightline compare`: models on the same images, as tables, JSON and a list of images."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.files import write_json, write_text
from tfx_pipeline.cli.views.evaluate import split_names
from tfx_pipeline.cli.views.names import with_short_names
from tfx_pipeline.cli.views.served import is_server
from tfx_pipeline.cli.views.subjects import Subject, load
from trainers.evaluation.comparison import Comparison, ComparisonError, ModelPredictions, aligned
from trainers.evaluation.stats import SeedTest, paired_t

# Slices shown at either end of the table.
_SHOWN_SLICES = 3
_CSV_COLUMNS = (
    *("candidate", "change", "file", "image_sha256", "label"),
    *("reference_class", "reference_score", "candidate_class", "candidate_score"),
)


@dataclass(frozen=True)
class SeedComparison:
    """Two recipes over equal seeds.

    Attributes:
      reference: name of the first recipe.
      candidate: name of the other.
      seeds: of both.
      tests: metric -> paired t-test of the candidate's values minus the reference's.
    """

    reference: str
    candidate: str
    seeds: tuple[int, ...]
    tests: dict[str, SeedTest]


def load_all(
    given: Sequence[str], *, data: Path | None, split: str, variant: str, model: str = ""
) -> list[Subject]:
    """The models of all arguments, with short and different names; see `subjects.load`.

    Raises:
      ComparisonError: an argument is not a model, or one is given twice; see `subjects.load`.
    """
    # A server has no variants; alone, it refuses one.
    found = [
        subject
        for one in given
        for subject in load(
            one,
            data=data,
            split=split,
            variant="" if is_server(one) and len(given) > 1 else variant,
            model=model,
        )
    ]
    return with_short_names(found)


def compare_seeds(subjects: Sequence[Subject]) -> list[SeedComparison]:
    """Each recipe after the first, compared with the first over the seeds that both have.

    Args:
      subjects: runs of two or more recipes, each with the same two or more seeds, all on the same
        images.

    Raises:
      ComparisonError: a model without configuration, one recipe only, or other seeds.
    """
    groups: dict[str, dict[int, ModelPredictions]] = {}
    for subject in subjects:
        if not subject.recipe or subject.seed is None:
            raise ComparisonError(
                f"{subject.predictions.name} has no configuration to read its seed from; --seeds "
                "takes bundles, trained folders and runs"
            )
        runs = groups.setdefault(subject.recipe, {})
        if subject.seed in runs:
            raise ComparisonError(
                f"{runs[subject.seed].name} and {subject.predictions.name} are runs of one recipe "
                f"with seed {subject.seed}; train one of them with another train.seed"
            )
        runs[subject.seed] = subject.predictions
    reference, *others = groups.values()
    if not others:
        raise ComparisonError(
            "all models are runs of one recipe; --seeds compares two or more recipes over seeds"
        )
    return [_over_seeds(reference, other) for other in others]


def _over_seeds(
    reference: dict[int, ModelPredictions], other: dict[int, ModelPredictions]
) -> SeedComparison:
    first, second = (next(iter(runs.values())).name for runs in (reference, other))
    if set(reference) != set(other) or len(reference) < 2:
        raise ComparisonError(
            f"{first} has the seeds {_listed(reference)} and {second} has {_listed(other)}; a "
            "paired t-test needs the same two or more seeds of both: train with train.seed=N"
        )
    seeds = tuple(sorted(reference))
    for runs in (reference, other):
        for seed in seeds:
            aligned(runs[seed], reference[seeds[0]])  # Refuses runs on other images.
    tests = {
        metric: paired_t(
            [float(getattr(other[s], attribute).mean()) for s in seeds],
            [float(getattr(reference[s], attribute).mean()) for s in seeds],
        )
        for metric, attribute in (("top1", "correct"), ("cross_entropy", "losses"))
    }
    return SeedComparison(first, second, seeds, tests)


def _listed(seeds: Sequence[int] | dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def show(found: Sequence[Comparison], models: Sequence[ModelPredictions], console: Console) -> None:
    """Prints the comparisons, what each shows, and the slices with the greatest changes."""
    reference, *others = models
    top1 = float(reference.correct.mean())
    images = len(reference.ids)
    console.print(escape(f"reference: {reference.name}, top-1 {top1:.4f} on {images:,} images"))
    table = Table(box=None, pad_edge=False)
    for name in ("candidate", "top-1", "difference", "p", "p, Holm", "cross-entropy", "gained"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    table.add_column("lost", justify="right")
    table.add_column("other class", justify="right")
    for one, model in zip(found, others, strict=True):
        table.add_row(
            escape(one.candidate),
            f"{float(model.correct.mean()):.4f}",
            _signed(one.top1),
            f"{one.p_value:.3g}",
            f"{one.p_adjusted:.3g}",
            _signed(one.cross_entropy),
            str(one.paired.gained),
            str(one.paired.lost),
            str(one.differing),
        )
    console.print(table)
    for one in found:
        console.print(escape(one.sentence), soft_wrap=True)
        if one.slices or one.small_slices:
            console.print(_slices_table(one))


def show_seeds(found: Sequence[SeedComparison], console: Console) -> None:
    """Prints one table of the comparisons over seeds."""
    table = Table(box=None, pad_edge=False)
    for name in ("recipe", "against", "metric", "seeds", "mean difference", "t", "p"):
        table.add_column(name, justify="left" if name in ("recipe", "against") else "right")
    for one in found:
        for metric, test in one.tests.items():
            row = (escape(one.candidate), escape(one.reference), metric, _listed(one.seeds))
            numbers = (_signed(test.difference), f"{test.statistic:.2f}", f"{test.p_value:.3g}")
            table.add_row(*row, *numbers)
    console.print(table)


def write(
    found: Sequence[Comparison],
    seeds: Sequence[SeedComparison],
    path: Path,
    *,
    split: str,
    left_out: Mapping[str, int],
    full_names: Mapping[str, str],
) -> None:
    """Writes the comparisons as JSON; intervals are `[value, low, high]`.

    Args:
      found: of `compare`.
      seeds: of `compare_seeds`.
      path: the file.
      split: of the records.
      left_out: name -> number of images.
      full_names: name -> the name with the whole path, which is written.
    """

    def named(one: Comparison | SeedComparison) -> dict[str, str]:
        return {key: full_names[getattr(one, key)] for key in ("reference", "candidate")}

    whole = {
        "split": split,
        "images_left_out": {full_names[name]: count for name, count in left_out.items()},
        "comparisons": [_as_json(one) | named(one) for one in found],
        "seeds": [_plain(asdict(one)) | named(one) for one in seeds],
    }
    write_json(path, whole)


def write_images(
    found: Sequence[Comparison],
    models: Sequence[ModelPredictions],
    path: Path,
    *,
    files: Mapping[str, str],
) -> int:
    """Writes one CSV row for each image on which exactly one model of a pair is right.

    Args:
      found: of `compare`.
      models: the same models, aligned, the reference first.
      path: the file.
      files: sha256 of an image -> its file, for the column `file`.

    Returns:
      The number of rows.
    """
    reference, *others = models
    right = reference.correct
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for one, other in zip(found, others, strict=True):
        for at in one.changed:
            names = (_class(reference, int(reference.labels[at])),)
            for model in (reference, other):
                best = int(model.scores[at].argmax())
                names += (_class(model, best), f"{model.scores[at, best]:.6f}")
            image, change = str(reference.ids[at]), "lost" if right[at] else "gained"
            writer.writerow((one.candidate, change, files.get(image, ""), image, *names))
    write_text(path, text.getvalue())
    return sum(len(one.changed) for one in found)


def file_names(data: Path | None, split: str) -> dict[str, str]:
    """Sha256 of an image -> its file name in the records; empty where there are no records."""
    from trainers.data.features import FILENAME, ID, DatasetError, DatasetInfo
    from trainers.data.reader import raw_examples

    splits = split_names(split)
    try:
        if data is None or set(splits) - set(DatasetInfo.load(data).splits):
            return {}
    except DatasetError:  # The records of the configuration have been moved or deleted.
        return {}
    import tensorflow as tf

    found = {}
    for record in (one for part in splits for one in raw_examples(data, part)):
        feature = tf.train.Example.FromString(record).features.feature
        name, image = (feature[key].bytes_list.value[:1] for key in (FILENAME, ID))
        if name and image:
            found[image[0].decode()] = name[0].decode()
    return found


def aligned_models(models: Sequence[ModelPredictions]) -> list[ModelPredictions]:
    """The models in the first one's order of images and classes.

    Raises:
      ComparisonError: other images, labels or classes.
    """
    return [models[0], *(aligned(other, models[0]) for other in models[1:])]


def _slices_table(one: Comparison) -> Table:
    count = len(one.slices)
    chosen = one.slices
    if count > 2 * _SHOWN_SLICES:
        chosen = (*one.slices[:_SHOWN_SLICES], *one.slices[-_SHOWN_SLICES:])
    title = (
        f"slices of {escape(one.candidate)}, greatest loss first; p is Holm's over {count} slices"
    )
    if one.small_slices:
        title += f"; {len(one.small_slices)} with fewer than 30 images left out"
    table = Table(title=title, title_justify="left", min_width=len(title), box=None, pad_edge=False)
    for name in ("slice", "images", "difference", "p, Holm"):
        table.add_column(name, justify="left" if name == "slice" else "right")
    for change in chosen:
        table.add_row(
            escape(f"{change.key.removeprefix('slice/')}={change.value}"),
            f"{change.paired.total:,}",
            _signed(change.interval),
            f"{change.p_adjusted:.3g}",
        )
    return table


def _signed(interval: Any) -> str:
    return f"{interval.value:+.4f} \\[{interval.low:+.4f}, {interval.high:+.4f}]"


def _class(model: ModelPredictions, label: int) -> str:
    return (model.classes[label] if model.classes else "") or str(label)


def _as_json(one: Comparison) -> dict[str, Any]:
    found = _plain(asdict(one))
    del found["changed"]
    return {**found, "decided": one.decided, "sentence": one.sentence}


def _plain(value: Any) -> Any:
    """JSON values; an interval becomes `[value, low, high]`."""
    if isinstance(value, dict):
        if set(value) == {"value", "low", "high"}:
            return [value["value"], value["low"], value["high"]]
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
