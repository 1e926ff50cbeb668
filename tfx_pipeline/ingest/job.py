"""An ingest job: items -> index -> checked images -> duplicates and splits -> shards.

The two heavy steps run on Beam, over chunks of items and over shards; the steps between them are
SQL on the index. The verdicts of each chunk and each shard are written atomically, so that a job
that was stopped, even by a power failure, resumes there. Workers need access to the file systems of
the source and the output; only task numbers are sent to them.
"""

import hashlib
import json
import logging
import os
import shutil
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfx_pipeline.ingest import progress, splits
from tfx_pipeline.ingest.check import Checker, verdict_file
from tfx_pipeline.ingest.class_names import check_names
from tfx_pipeline.ingest.findings import REJECTION, REPAIR
from tfx_pipeline.ingest.groups import with_groups
from tfx_pipeline.ingest.index import CHUNK, Listing, connect, create
from tfx_pipeline.ingest.merge import assign_splits, held_out_share, merge
from tfx_pipeline.ingest.output import publish, removed_when_refused, work_folder, writing
from tfx_pipeline.ingest.plan import IngestPlan, check_plan
from tfx_pipeline.ingest.records import LABEL_OFFSET
from tfx_pipeline.ingest.report import KindCount, count_files, summarize, write_report
from tfx_pipeline.ingest.result_checks import (
    check_counts,
    count_objects,
    count_turned,
    rejected_text,
)
from tfx_pipeline.ingest.shards import ShardWriter, counts_file
from tfx_pipeline.ingest.source import IngestError, Request, Source
from trainers.data import features
from trainers.data.features import DatasetInfo, SplitInfo
from trainers.identity.code_digest import code_digest

# About 110 MB per shard at ImageNet's 110 kB per image.
_IMAGES_PER_SHARD = 1000
_LISTING = "listing.json"
_FAILED = "failed"
_DECODERS_LOG = "decoders.log"


def run(
    plan: IngestPlan,
    make_source: Callable[[Request], Source],
    out: Path,
    *,
    beam_args: Sequence[str] = (),
) -> tuple[DatasetInfo, list[KindCount]]:
    """Writes a data set to `out`; returns its description and the findings by kind.

    Raises:
      IngestError: the source has no usable image, `out` is not a data set, or the disk is full.
    """
    check_plan(plan)
    if plan.where and Path(plan.where).expanduser().resolve().is_relative_to(out.resolve()):
        raise IngestError(f"{plan.where} is inside {out}, which is replaced; choose another --out")
    with work_folder(out, plan.key) as work:
        with removed_when_refused(work, unless=work / _LISTING):
            source, listing = _list(plan, make_source, work)
        with removed_when_refused(work):
            if not listing.items:
                refused = rejected_text(work / "index.sqlite")
                raise IngestError(f"{source.description} has no image that can be read{refused}")
        _run_beam(_checks(plan, source, listing, work), work, "checking images", beam_args)
        with removed_when_refused(work):
            counts = _merge_and_assign(plan, source, listing, work)
        folder = work / "out"
        shards = plan.shards or max(1, round(listing.items / _IMAGES_PER_SHARD))
        for split in features.SPLITS:
            (folder / f"Split-{split}").mkdir(parents=True, exist_ok=True)
        tasks = _writes(plan, source, work, shards=shards, total=sum(counts.values()))
        _run_beam(tasks, work, "writing records", beam_args)
        info = _describe(plan, source, work, shards=shards, items=listing.items)
        found = summarize(work / "index.sqlite")
        # Without the listing, an interrupted move starts again from the source.
        (work / _LISTING).unlink()
        publish(folder, out)
        shutil.rmtree(work, ignore_errors=True)
    return info, found


@dataclass(frozen=True)
class _Tasks:
    """The arguments of the calls of one function, and the total number of their images."""

    function: Callable[[Any], None]
    arguments: list[Any]
    images: int


def _list(
    plan: IngestPlan, make_source: Callable[[Request], Source], work: Path
) -> tuple[Source, Listing]:
    """Lists the source; earlier verdicts are kept if the source and the code are unchanged."""
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    index = work / "index.sqlite"
    index.unlink(missing_ok=True)
    source = make_source(Request(plan.where, scratch, plan.group))
    check_names(source.classes, source.description, typed=False)
    items = with_groups(source.items, plan.group) if plan.group else source.items
    with progress.showing("listing the source", source.total):
        listing = create(index, items, progress.tick)
    shutil.rmtree(scratch, ignore_errors=True)
    code = code_digest(__name__)
    state = json.dumps({"digest": listing.digest, "classes": source.classes, "code": code})
    before = work / _LISTING
    if not before.is_file() or before.read_text(encoding="utf-8") != state:
        for name in ("verdicts", "counts", "out"):
            shutil.rmtree(work / name, ignore_errors=True)
        with writing(before) as file:
            file.write(state.encode())
    for name in ("verdicts", "counts"):
        (work / name).mkdir(exist_ok=True)
    return source, listing


def _checks(plan: IngestPlan, source: Source, listing: Listing, work: Path) -> _Tasks:
    checker = Checker(
        index=str(work / "index.sqlite"),
        verdicts=str(work / "verdicts"),
        exif=plan.exif,
        num_classes=len(source.classes),
    )
    return _Tasks(checker, list(range(-(-listing.items // CHUNK))), listing.items)


def _writes(plan: IngestPlan, source: Source, work: Path, *, shards: int, total: int) -> _Tasks:
    writer = ShardWriter(
        index=str(work / "index.sqlite"),
        folder=str(work / "out"),
        counts=str(work / "counts"),
        shards=shards,
        classes=source.classes,
        exif=plan.exif,
    )
    tasks = [(split, shard) for split in features.SPLITS for shard in range(shards)]
    return _Tasks(writer, tasks, total)


def _run_beam(tasks: _Tasks, work: Path, doing: str, beam_args: Sequence[str]) -> None:
    """Runs tasks on Beam's workers.

    Raises:
      IngestError: an error of a worker, with the worker's message.
    """
    # Beam takes seconds to load, and the job registry imports this module.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    failed = work / _FAILED
    failed.unlink(missing_ok=True)
    # Beam's default DirectRunner first tries to download a runner written in Go.
    options = PipelineOptions(["--runner=FnApiRunner", *beam_args])
    try:
        with (
            progress.showing(doing, tasks.images),
            progress.quiet_decoders(work / _DECODERS_LOG),
            beam.Pipeline(options=options) as pipeline,
        ):
            _ = (
                pipeline
                | "Tasks" >> beam.Create(tasks.arguments)
                | "Spread" >> beam.Reshuffle()
                | "Do" >> beam.Map(partial(_run_task, tasks.function, str(failed)))
            )
    except Exception as error:
        # Each runner wraps the worker's exception differently and adds its stack trace.
        if failed.is_file():
            raise IngestError(failed.read_text(encoding="utf-8")) from error
        raise


def _run_task(function: Callable[[Any], None], failed: str, argument: Any) -> None:
    try:
        function(argument)
    except IngestError as error:
        Path(failed).write_text(str(error), encoding="utf-8", errors="backslashreplace")
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} in {where.name}: {error}"
        Path(failed).write_text(text, encoding="utf-8", errors="backslashreplace")
        raise


def _merge_and_assign(
    plan: IngestPlan, source: Source, listing: Listing, work: Path
) -> dict[str, int]:
    index = work / "index.sqlite"
    chunks = range(-(-listing.items // CHUNK))
    files = [verdict_file(work / "verdicts", chunk) for chunk in chunks]
    merge(index, files, keep_duplicates=source.keep_duplicates)
    counts = assign_splits(
        index,
        fractions=plan.fractions or source.fractions or splits.DEFAULT_FRACTIONS,
        shards=plan.shards or max(1, round(listing.items / _IMAGES_PER_SHARD)),
        everything=plan.everything,
        every_class=source.every_class,
    )
    check_counts(plan, source, index, counts)
    return counts


def _describe(
    plan: IngestPlan, source: Source, work: Path, *, shards: int, items: int
) -> DatasetInfo:
    """Writes `dataset.json` and `ingest_report.json` beside the finished shards."""
    folder, fingerprint = work / "out", hashlib.sha256()
    made: dict[str, SplitInfo] = {}
    for split in features.SPLITS:
        per_class: Counter[str] = Counter()
        examples = objects = 0
        for shard in range(shards):
            tally = json.loads(counts_file(work / "counts", split, shard).read_text())
            per_class.update(tally["per_class"])
            examples += tally["examples"]
            objects += tally["objects"]
            fingerprint.update(tally["sha256"].encode())
        named = {one: per_class[one] for one in source.classes}
        made[split] = SplitInfo(examples, shards, named, objects)
    index = work / "index.sqlite"
    counted = count_objects(index)
    about = {"source": source.description, **asdict(plan), "name": plan.name or source.name}
    about |= {"items": items, "records": {split: one.examples for split, one in made.items()}}
    info = DatasetInfo(
        name=plan.name or source.name,
        task=source.task,
        classes=source.classes,
        label_offset=LABEL_OFFSET,
        splits=made,
        fingerprint=fingerprint.hexdigest(),
        rejected=count_files(index, REJECTION),
        repaired=count_files(index, REPAIR),
        source=source.description,
        category_ids=source.category_ids,
        slices=_slice_keys(index, source),
        masks=source.masks,
        exif=plan.exif,
        turned=count_turned(index),
        group=plan.group,
        held_out=0.0 if plan.everything else _held_out(index),
    )
    about |= {"objects": asdict(counted)} if source.task == features.DETECTION else {}
    with writing(folder / features.REPORT_FILE) as file:
        write_report(index, about, file)
    with writing(folder / features.DATASET_FILE) as file:
        file.write(info.to_json().encode())
    return info


def _held_out(index: Path) -> float:
    with connect(index) as opened:
        return held_out_share(opened)


def _slice_keys(index: Path, source: Source) -> tuple[str, ...]:
    """The slice keys of all images, and the keys that the source set on its first item."""
    with connect(index) as opened:
        labels = opened.execute("SELECT labels FROM items ORDER BY row LIMIT 1").fetchone()[0]
    keys = [*features.SLICES, *json.loads(labels)["slices"]]
    if source.task == features.DETECTION:
        keys.append(features.SLICE_OBJECTS)
    return tuple(keys)
