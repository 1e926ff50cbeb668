"""Two nodes: one finds the anomalies of all images, the other stops the run above the limits.

There are two because the outputs of a failed node are not kept: the list and the thumbnails that
show why a run stopped are outputs of the first, in the cache and in the run's report.
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
    """The data has more anomalies than the limits allow; the message has a table."""


@component
def ImageValidator(
    examples: InputArtifact[Examples],
    image_report: OutputArtifact[ImageReport],
    settings: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes the anomalies of the images and thumbnails of some; does not fail because of them.

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
      DataRefusedError: a limit is exceeded; the message has a table and the folder of the images.
    """
    if make_settings(json.loads(settings)).stop:
        refuse_if_blocking(read_gallery(Path(image_report.uri)), image_report.uri)


def refuse_if_blocking(anomalies: ImageAnomalies, where: str) -> None:
    """Raises an error when a limit is exceeded.

    Args:
      anomalies: with their limits.
      where: folder of the list and the thumbnails, for the message.

    Raises:
      DataRefusedError: a limit is exceeded; the message has a table and what to do.
    """
    count = len(blocking(anomalies))
    if count:
        kinds = "1 kind of anomaly is" if count == 1 else f"{count} kinds of anomaly are"
        raise DataRefusedError(
            f"data set {anomalies.name!r} is refused before training, {kinds} over the limit:\n"
            f"{blocking_table(anomalies)}\n"
            f"the list and the images are in {where}; fix the data, or raise `limits` or set "
            "`stop` to false in the pipeline's `images` settings"
        )
