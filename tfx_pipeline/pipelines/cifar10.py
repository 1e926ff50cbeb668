"""CIFAR-10: a plain CNN, a ResNet-20 and a small ViT, at a size for two CPU cores."""

from tfx_pipeline.config import PipelineConfig, Plan, SmokeSize, pipelines


@pipelines.register("cifar10")
def cifar10() -> PipelineConfig:
    """Trains, compresses, compares and pushes on CIFAR-10: `sightline run cifar10 --data DIR`.

    Cost: an hour on two CPU cores for 9,000 training images, of the three recipes and compression.
    Gates: each model's lowest top-1 is what BENCHMARKS.md has for its recipe less 4 points, which
      is what 2,000 test images and the seed may take. The CNN has no figure there and the ViT's
      limit. More images give more, so the same limits hold for the whole set.
    """
    return PipelineConfig(
        name="cifar10",
        experiments=("cifar10_cnn", "cifar10_resnet20", "cifar10_vit"),
        gates={
            "min_top1": 0.51,
            "min_slice_top1": 0.3,
            "min_slice_examples": 100,
            "max_drop": 0.02,
            "min_agreement": 0.93,
            "max_latency_ms": 50.0,
            "max_size_bytes": 12_000_000,
        },
        model_gates={"cifar10_resnet20": {"min_top1": 0.68, "min_slice_top1": 0.45}},
        best=Plan(methods=("prune", "qat", "pqat"), ptq=("dynamic", "int8")),
        others=Plan(ptq=("dynamic", "int8")),
        smoke=SmokeSize(
            overrides=(
                "train.epochs=2",
                "optim.warmup_steps=10",
                "compress.prune_epochs=1",
                "compress.calibration_images=64",
                "cifar10_vit:train.epochs=4",
            ),
            images={"train": 1000, "validation": 200, "test": 300},
            gates={
                # A tenth is chance.
                "min_top1": 0.15,
                "min_agreement": 0.9,
                "max_drop": 0.1,
                "max_latency_ms": 100.0,
                "max_size_bytes": 12_000_000,
                "undecided": "accept",
            },
            best=Plan(methods=("prune",), ptq=("dynamic", "int8")),
            others=Plan(ptq=("dynamic",)),
        ),
    )
