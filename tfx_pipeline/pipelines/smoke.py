"""A pipeline that verifies an installation: three architectures on 1,797 scanned digits."""

from tfx_pipeline.config import CompressionPlan, PipelineConfig, pipelines


@pipelines.register("smoke")
def smoke() -> PipelineConfig:
    """Trains, compresses, evaluates and pushes on two CPU cores: `sightline run smoke`."""
    return PipelineConfig(
        name="smoke",
        experiments=("digits_cnn", "digits_resnet", "digits_vit"),
        gates={
            "min_top1": 0.93,
            "min_slice_top1": 0.8,
            "min_slice_examples": 30,
            "max_drop": 0.02,
            "min_agreement": 0.95,
            "max_latency_ms": 20.0,
            "max_size_bytes": 8_000_000,
        },
        best=CompressionPlan(methods=("prune", "qat", "pqat"), ptq=("dynamic", "int8")),
        others=CompressionPlan(ptq=("dynamic",)),
    )
