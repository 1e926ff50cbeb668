"""`sightline run PIPELINE --smoke`: the whole graph of a pipeline at a size for two cores.

A smoke run has names of its own, `<pipeline>_smoke` and `<model>_smoke`, so that it can replace no
model that serves, and takes a sample of the records.
"""

from dataclasses import replace
from pathlib import Path

from tfx_pipeline.config import PipelineConfig, pipelines
from tfx_pipeline.sample import sample_of
from trainers.config import ConfigError
from trainers.registry import recipes

_SUFFIX = "_smoke"


def smoke_size(pipeline: PipelineConfig) -> tuple[PipelineConfig, tuple[str, ...]]:
    """`pipeline` at its smoke size, and what is to be set of its experiments.

    Raises:
      ConfigError: it has none; names those that have.
    """
    size = pipeline.smoke
    if size is None:
        have = [name for name in pipelines.names() if pipelines.get(name)().smoke is not None]
        raise ConfigError(
            f"the pipeline {pipeline.name} has no smoke size; these have: {', '.join(have)}"
        )
    shape = replace(
        pipeline,
        name=pipeline.name + _SUFFIX,
        gates=size.gates,
        model_gates={},
        images=size.validator,
        statistics=size.statistics,
        best=size.best,
        others=size.others,
        benchmark_runs=size.benchmark_runs,
        serving_requests=size.serving_requests,
        tune={},
    )
    names = {one: recipes.get(one)().name for one in pipeline.experiments}
    renamed = [f"{one}:name={name}{_SUFFIX}" for one, name in names.items()]
    return shape, (*size.overrides, *renamed)


def smoke_records(pipeline: PipelineConfig, records: Path, cache: Path) -> Path:
    """The folder of the sample of `records` that a smoke run of `pipeline` takes.

    Args:
      pipeline: at its smoke size.
      records: the whole data set's folder.
      cache: the sample becomes a folder in it.

    Raises:
      DatasetError: `records` holds no data set.
    """
    size = pipeline.smoke
    if size is None:
        return records
    return sample_of(records, cache, limits=size.images, classes=size.classes)
