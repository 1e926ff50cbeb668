"""CIFAR-10: a plain CNN, a ResNet-20 and a small ViT, at a size for two CPU cores."""

from tfx_pipeline.config import CompressionPlan, PipelineConfig, SmokeSize, pipelines


@pipelines.register("cifar10")
def cifar10() -> PipelineConfig:
    """Trains, compresses, compares and pushes on CIFAR-10: `sightline run cifar10 --data DIR`.

    Cost: an hour on two CPU cores for 9,000 training images, with three recipes and compression.
    Gates: the minimum top-1 of a model is the figure of its recipe in BENCHMARKS.md minus 4 points,
      for the noise of 2,000 test images and the seed. The CNN has no figure there and uses the
      limit of the ViT. With more images the accuracy is higher, so the limits also hold for the
      whole data set.
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
        best=CompressionPlan(methods=("prune", "qat", "pqat"), ptq=("dynamic", "int8")),
        others=CompressionPlan(ptq=("dynamic", "int8")),
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
                # Chance is 0.1.
                "min_top1": 0.15,
                "min_agreement": 0.9,
                "max_drop": 0.1,
                "max_latency_ms": 100.0,
                "max_size_bytes": 12_000_000,
                "undecided": "accept",
            },
            best=CompressionPlan(methods=("prune",), ptq=("dynamic", "int8")),
            others=CompressionPlan(ptq=("dynamic",)),
        ),
    )
