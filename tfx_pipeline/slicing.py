"""By what an evaluation is sliced: keys of the pipeline and all that the data set declares."""

from tfx_pipeline.config import PipelineConfig
from trainers.config import ConfigError
from trainers.data.features import DatasetInfo
from trainers.registry import nearest


def slice_keys(pipeline: PipelineConfig, info: DatasetInfo) -> tuple[str, ...]:
    """The `slice/*` keys that TFMA slices by, each on its own: the pipeline's, then the data set's.

    Raises:
      ConfigError: the pipeline names a key that the records do not have.
    """
    for key in pipeline.slices:
        if key not in info.slices:
            raise ConfigError(
                f"the pipeline {pipeline.name} slices by {key!r}, which the data set {info.name!r} "
                f"does not have; {nearest(key, list(info.slices))}. `sightline ingest csv ... "
                "slices=COLUMN` records slice/COLUMN"
            )
    return tuple(dict.fromkeys((*pipeline.slices, *info.slices)))
