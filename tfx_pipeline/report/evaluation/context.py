"""What the sections of an evaluation page are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.data_validation.anomaly import Anomaly
from tfx_pipeline.report.thumbnails import ImageIndex, Thumbnails
from trainers.evaluation.analysis import Analysis, AnalysisOptions
from trainers.evaluation.comparison import ModelPredictions
from trainers.evaluation.embeddings import EmbeddingMap


@dataclass(frozen=True)
class Evaluation:
    """One model on one split.

    Attributes:
      analysis: all figures.
      model: the predictions behind them; the positions in `analysis` refer to its arrays.
      split: of the records.
      data: folder of the records, or None if it is not known.
      config: the model's whole configuration as JSON, or empty if it is not known.
      thumbnails: of the split's images, and their file names.
      options: of the analysis.
      lineage: names and values that identify model, data and software, in order.
      written: names of the files beside the page.
      duplicates: near-duplicates of the split's images, or None if they were not searched.
      embeddings: map of the split's images, or None if it was not made.
      others: images of other splits, by id and by `str` of their `Location`.
      notes: anchor of a section -> why it is missing or incomplete.
    """

    analysis: Analysis
    model: ModelPredictions
    split: str
    data: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Thumbnails = field(default_factory=lambda: Thumbnails(ImageIndex()))
    options: AnalysisOptions = field(default_factory=AnalysisOptions)
    lineage: Mapping[str, str] = field(default_factory=dict)
    written: Sequence[str] = ()
    duplicates: Sequence[Anomaly] | None = None
    embeddings: EmbeddingMap | None = None
    others: Thumbnails = field(default_factory=lambda: Thumbnails(ImageIndex()))
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return [one.name for one in self.analysis.classes]

    @property
    def files(self) -> Mapping[str, str]:
        """Image id -> file name, for images that have one."""
        return self.thumbnails.images.files
