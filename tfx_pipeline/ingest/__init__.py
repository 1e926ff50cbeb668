"""Images to records: a Beam job whose next data set is one file.

    info = ingest("folder", Path("data/pets"), where="~/pets")

A data set is a module of `tfx_pipeline.ingest.sources` with a function under
`@jobs.register(name)`; see `tfx_pipeline.ingest.source`. Beam and TensorFlow load when a job runs,
not on import.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfx_pipeline.ingest.balance import MAX_REPAIRED
from tfx_pipeline.ingest.findings import Finding
from tfx_pipeline.ingest.options import bind
from tfx_pipeline.ingest.source import IngestError, Item, Objects, Request, Source, jobs
from trainers.data.features import DatasetInfo

if TYPE_CHECKING:
    from tfx_pipeline.ingest.report import KindCount

#: The one that copies nothing: it describes records that are there.
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
    """Writes a data set to the folder `out` and returns what its `dataset.json` says.

    `out` appears complete or not at all; an older data set there is replaced. A job that was
    stopped goes on where it was when it is started again. The same images and options give the
    same bytes.

    Args:
      job: a registered ingest job: `digits`, `folder`, `imagenet`, `coco`, ..., or `tfrecord`,
        which takes only `where`, `name` and its `options`.
      out: the folder to write; it may be absent, empty, or an older data set.
      where: what the job reads: a folder, an archive, or a name.
      options: of the job, by name or as `key=value` texts.
      name: the data set's name; by default the job's choice.
      fractions: of train, validation and test, where the source does not say.
      shards: files a split; by default one for each 1,000 images.
      split: put everything into this split.
      exif: `as_stored`, or `upright` to turn images by their EXIF orientation.
      group: keeps images of one group (an object, a person, a camera) in one split: columns of a
        `csv` table with commas between, or a regular expression on images' names whose groups name
        the group, e.g. `track_([0-9]+)`.
      max_repaired: of a detection set's objects, the share that may be dropped or clipped.
      beam_args: further Beam options, e.g. `--runner=FlinkRunner`; the default runner is local.
      on_found: called with the kinds of what was noted, repaired and rejected.
      on_inputs: called with the files and folders that were read besides `where`.

    Raises:
      UnknownNameError: no such job; the nearest names are given.
      IngestError: nothing usable in the source, `out` is something else, or an unknown option.
    """
    if job == TFRECORD:
        if group:
            raise IngestError(
                "`tfrecord` leaves records where they are, so --group cannot move them"
            )
        from tfx_pipeline.ingest.tfrecord import adopt

        return adopt(where, Path(out), name=name, options=options)
    from tfx_pipeline.ingest.job import Plan, run

    function = jobs.get(job)
    given = bind(job, function, options)
    plan = Plan(
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
        return _watched(source, on_inputs) if on_inputs else source

    info, found = run(plan, make_source, Path(out), beam_args=beam_args)
    if on_found is not None:
        on_found(found)
    return info


def _watched(source: Source, on_inputs: Callable[[Iterable[str]], None]) -> Source:
    """`source`, with `on_inputs` called once its last item is read."""

    def items() -> Iterator[Item | Finding]:
        paths = set(source.inputs)
        for one in source.items:
            if isinstance(one, Item) and one.path:
                paths.add(one.path)
            yield one
        on_inputs(paths)

    return replace(source, items=items())
