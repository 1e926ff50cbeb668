"""Pictures to records: a Beam job whose next data set is one file.

    info = ingest("folder", Path("data/pets"), source=Path("~/pets").expanduser())

A data set is a module of this package with a function under `@jobs.register(name)`; see
`tfx_pipeline.ingest.source`. Beam and TensorFlow load when a job runs, not on import.
"""

from collections.abc import Sequence
from pathlib import Path

from tfx_pipeline.ingest.source import IngestError, Item, Source, jobs
from tfx_pipeline.ingest.splits import DEFAULT_FRACTIONS
from trainers.data.features import DatasetInfo

__all__ = ["IngestError", "Item", "Source", "ingest", "jobs"]


def ingest(
    job: str,
    out: Path,
    *,
    source: Path | None = None,
    name: str | None = None,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    shards: int | None = None,
    beam_args: Sequence[str] = (),
) -> DatasetInfo:
    """Writes a data set to the folder `out` and returns what its `dataset.json` says.

    `out` appears complete or not at all; an older data set there is replaced. The same pictures
    and options give the same bytes.

    Args:
      job: a registered ingest job: `digits`, `folder`, ...
      out: the folder to write; it may be absent, empty, or an older data set.
      source: the folder to read, for jobs that read one.
      name: the data set's name; by default the job's choice.
      fractions: of train, validation and test, where the source has no folders for them.
      shards: files a split; by default one for each 1,000 pictures.
      beam_args: further Beam options, e.g. `--runner=FlinkRunner`; the default runner is local.

    Raises:
      UnknownNameError: no such job; the nearest names are given.
      IngestError: nothing usable in the source, or `out` is something else.
    """
    from tfx_pipeline.ingest import job as beam_job

    return beam_job.run(
        jobs.get(job)(source),
        Path(out),
        name=name,
        fractions=fractions,
        shards=shards,
        beam_args=beam_args,
    )
