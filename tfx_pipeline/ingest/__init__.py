"""Ingest: writes images and labels to TFRecords with Beam.

    info = ingest("folder", Path("data/pets"), where="~/pets")

To add a format, write a function with `@jobs.register(name)`; see `tfx_pipeline.ingest.source`.
Beam and TensorFlow are imported when a job runs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_pipeline.ingest.findings import IngestFinding
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.plan import MAX_REPAIRED
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, jobs
from trainers.data.features import DatasetInfo

if TYPE_CHECKING:
    from tfx_pipeline.ingest.report import KindCount

#: The job that describes existing records without copying them.
TFRECORD = "tfrecord"

__all__ = ["TFRECORD", "IngestError", "Item", "Objects", "Request", "Source", "ingest", "jobs"]


def ingest(
    job: str,
    out: Path,
    *,
    where: str | Path | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
    name: str | None = None,
    fractions: tuple[float, float, float] | None = None,
    shards: int | None = None,
    split: str = "",
    exif: str = "as_stored",
    group: str = "",
    max_repaired: float = MAX_REPAIRED,
    beam_args: Sequence[str] = (),
    on_found: Callable[[list["KindCount"]], None] | None = None,
    on_inputs: Callable[[Iterable[str]], None] | None = None,
) -> DatasetInfo:
    """Writes a data set to the folder `out` and returns its description.

    `out` is written atomically, replacing an older data set. A job that was stopped resumes when it
    is started again. The same images and options yield the same bytes.

    Args:
      job: a registered ingest job: `digits`, `folder`, `imagenet`, `coco`, ..., or `tfrecord`,
        which has only `where`, `name` and its `options`.
      out: the folder to write: new, empty, or an older data set.
      where: the SOURCE argument: a folder, an archive or a name.
      options: options of the job, by name or as `key=value` strings.
      name: name of the data set; None for the default of the job.
      fractions: of train, validation and test, for images without a split.
      shards: shards per split; None for one per 1,000 images.
      split: write everything to this split.
      exif: `as_stored`, or `upright` to rotate images by their EXIF orientation.
      group: keep the images of each group (an object, one individual, a camera) in one split:
        comma-separated columns of a `csv` table, or a regular expression on image names whose
        capture groups name the group, e.g. `track_([0-9]+)`.
      max_repaired: maximum share of the objects of a detection set that are dropped or clipped.
      beam_args: additional Beam options, e.g. `--runner=FlinkRunner`; the default runner is local.
      on_found: callback for the findings by kind.
      on_inputs: callback for the files and folders that were read besides `where`.

    Raises:
      UnknownNameError: no such job; names the nearest ones.
      IngestError: the source has no usable image, `out` is not a data set, or an unknown option.
    """
    if job == TFRECORD:
        if group:
            raise IngestError(
                "`tfrecord` does not move records, so --group has no effect; remove it"
            )
        from tfx_pipeline.ingest.tfrecord import adopt

        return adopt(where, Path(out), name=name, options=options)
    from tfx_pipeline.ingest.job import run
    from tfx_pipeline.ingest.plan import IngestPlan

    function = jobs.get(job)
    given = bind(job, function, options)
    plan = IngestPlan(
        job=job,
        where=None if where is None else str(where),
        options=given,
        name=name or "",
        fractions=fractions,
        shards=shards,
        everything=split,
        exif=exif,
        group=group,
        max_repaired=max_repaired,
    )

    def make_source(request: Request) -> Source:
        source = function(request, **given)
        return _with_input_callback(source, on_inputs) if on_inputs else source

    info, found = run(plan, make_source, Path(out), beam_args=beam_args)
    if on_found is not None:
        on_found(found)
    return info


def _with_input_callback(source: Source, on_inputs: Callable[[Iterable[str]], None]) -> Source:
    """`source`, with a call of `on_inputs` after its last item."""

    def items() -> Iterator[Item | IngestFinding]:
        paths = set(source.inputs)
        for one in source.items:
            if isinstance(one, Item) and one.path:
                paths.add(one.path)
            yield one
        on_inputs(paths)

    return replace(source, items=items())
