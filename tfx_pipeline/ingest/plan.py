"""The arguments of an ingest job, checked."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.splits import check_fractions
from trainers.data import features

#: Share of all objects that may be dropped or clipped.
MAX_REPAIRED = 0.2


@dataclass(frozen=True)
class IngestPlan:
    """Everything that decides a data set, besides the files of the source.

    Attributes:
      job: the registered name.
      where: the SOURCE argument.
      options: options of the job.
      name: name of the data set; empty for the default of the job.
      fractions: of train, validation and test; None for the default of the job.
      shards: shards per split; None for one per 1,000 images.
      everything: the split that all images are written to; empty to split as the source does.
      exif: `as_stored` or `upright`.
      group: see `tfx_pipeline.ingest.ingest`.
      max_repaired: see `tfx_pipeline.ingest.ingest`.
    """

    job: str
    where: str | None
    options: dict[str, Any]
    name: str = ""
    fractions: tuple[float, float, float] | None = None
    shards: int | None = None
    everything: str = ""
    exif: str = "as_stored"
    group: str = ""
    max_repaired: float = MAX_REPAIRED

    @property
    def key(self) -> str:
        """Hex digits that identify the unfinished work of this plan."""
        where = None if self.where is None else os.path.abspath(self.where)
        text = json.dumps([asdict(self), where], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def check_plan(plan: IngestPlan) -> None:
    """Checks the values of a plan.

    Raises:
      IngestError: a value is out of range; names the value and the allowed range.
    """
    if plan.fractions is not None:
        check_fractions(plan.fractions)
    if plan.shards is not None and not 1 <= plan.shards <= 99_999:
        raise IngestError(f"shards must be in 1..99999, got {plan.shards}")
    if plan.everything and plan.everything not in features.SPLITS:
        known = ", ".join(features.SPLITS)
        raise IngestError(f"the split must be one of {known}, got {plan.everything!r}")
    if plan.exif not in ("as_stored", "upright"):
        raise IngestError(f"exif must be as_stored or upright, got {plan.exif!r}")
    if not 0 <= plan.max_repaired <= 1:
        raise IngestError(
            f"max_repaired is a share of the objects in [0, 1], got {plan.max_repaired}; 1 allows "
            "any"
        )
