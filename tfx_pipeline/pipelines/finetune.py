"""Own images from ImageNet weights: a linear probe first, then the whole network."""

from tfx_pipeline.config import PipelineConfig, Plan, SmokeSize, pipelines


@pipelines.register("finetune")
def finetune() -> PipelineConfig:
    """Fine-tunes pretrained weights on own images: `sightline run finetune --data DIR`.

    Cost: minutes on two CPU cores for some hundred images.
    Gates: no top-1 is published for images that only the user has, so `gates.min_top1=...` is the
      user's to set; a model that is no better than the commonest class is refused in any case.
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
        best=Plan(ptq=("dynamic", "int8")),
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
            best=Plan(ptq=("dynamic", "int8")),
        ),
    )
