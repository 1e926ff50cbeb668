"""Two nodes: one looks at every image, the other stops the run when too much is wrong.

Two, because what a failed node wrote is not kept: the list and the images that tell why a run
stopped are the first one's, in the cache and in the run's report.
"""

import json
from pathlib import Path

from tfx.types.standard_artifacts import Examples
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components.artifacts import ImageReport
from components.data_validation.anomaly import (
    ImageAnomalies,
    blocking,
    blocking_table,
    make_settings,
)
from components.data_validation.gallery import read_gallery, write_gallery
from components.data_validation.image_anomalies import find_anomalies


class DataRefusedError(ValueError):
    """More is wrong with the data than the limits allow; the message is a table."""


@component
def ImageValidator(
    examples: InputArtifact[Examples],
    image_report: OutputArtifact[ImageReport],
    settings: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes what is wrong with the images, and thumbnails of some; never fails for it.

    Args:
      examples: the records, with their `dataset.json`.
      image_report: `anomalies.json` and `thumbnails/`.
      settings: JSON of `components.data_validation.anomaly.ValidatorSettings`.
      code_digest: part of the cache key.
    """
    chosen, data = make_settings(json.loads(settings)), Path(examples.uri)
    found = find_anomalies(data, chosen)
    write_gallery(data, found, Path(image_report.uri), shown=chosen.gallery)


@component
def DataGate(
    image_report: InputArtifact[ImageReport],
    settings: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Stops the run before training when limits are exceeded and `stop` is set.

    Args:
      image_report: of the ImageValidator.
      settings: JSON of `components.data_validation.anomaly.ValidatorSettings`.
      code_digest: part of the cache key.

    Raises:
      DataRefusedError: the table of what is over its limit, and where the images are.
    """
    if make_settings(json.loads(settings)).stop:
        refuse_if_blocking(read_gallery(Path(image_report.uri)), image_report.uri)


def refuse_if_blocking(anomalies: ImageAnomalies, where: str) -> None:
    """Raises when a limit is exceeded.

    Args:
      anomalies: with the limits that count.
      where: folder of the list and the thumbnails, for the message.

    Raises:
      DataRefusedError: the table of what is over its limit, and what to do.
    """
    count = len(blocking(anomalies))
    if count:
        kinds = "one kind of anomaly is" if count == 1 else f"{count} kinds of anomaly are"
        raise DataRefusedError(
            f"data set {anomalies.name!r} is refused before training, {kinds} over the limit:\n"
            f"{blocking_table(anomalies)}\n"
            f"the list and the images are in {where}; mend the data, or raise `limits` or set "
            "`stop` to false in the pipeline's `images` settings"
        )
