"""Fine-tuning from ImageNet weights on a user's images: a linear probe, then all layers."""

from tfx_pipeline.config import CompressionPlan, PipelineConfig, SmokeSize, pipelines


@pipelines.register("finetune")
def finetune() -> PipelineConfig:
    """Fine-tunes pretrained weights on a user's images: `sightline run finetune --data DIR`.

    Cost: minutes on two CPU cores for a few hundred images.
    Gates: there is no published top-1 for a user's images, so users set `gates.min_top1=...`
      themselves; a model that is not better than the most frequent class is always refused.
    """
    return PipelineConfig(
        name="finetune",
        experiments=("finetune_lite0",),
        gates={
            "max_drop": 0.05,
            "min_agreement": 0.93,
            "max_latency_ms": 100.0,
            "max_size_bytes": 20_000_000,
        },
        best=CompressionPlan(ptq=("dynamic", "int8")),
        smoke=SmokeSize(
            overrides=(
                "data.image_size=96,96",
                "train.epochs=2",
                "compress.calibration_images=64",
            ),
            images={"train": 120, "validation": 40, "test": 60},
            gates={
                "min_agreement": 0.85,
                "max_drop": 0.1,
                "max_latency_ms": 100.0,
                "max_size_bytes": 20_000_000,
                "undecided": "accept",
            },
            best=CompressionPlan(ptq=("dynamic", "int8")),
        ),
    )
