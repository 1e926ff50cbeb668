"""ImageNet: a plain CNN, a ResNet-50 and a ViT-B/16, with published baselines."""

from tfx_pipeline.config import CompressionPlan, PipelineConfig, SmokeSize, pipelines


@pipelines.register("imagenet")
def imagenet() -> PipelineConfig:
    """Trains, compresses, compares and pushes on ImageNet: `sightline run imagenet --data DIR`.

    Compares the CNN of the study, for which no other figures are published, with the published
    baselines for its ResNet-50 and ViT-B/16: `resnet50_imagenet` has the steps of the study at the
    rate that reaches the published figure, and `vit_b16_imagenet` is the only published ViT-B/16
    that surpasses ResNet-50 when trained on ImageNet alone.

    Data: the test split is ImageNet's validation set, which is evaluated once. Epochs and variants
      are selected on the validation split, which ingest holds out of train.
    Cost: several GPUs for days, for the three recipes.
    Gates: the minimum top-1 of a model is its published figure minus 1.5 points, for the held-out
      share of train and the seed. For the CNN, it is the figure of VGG-16 (71.6 %, torchvision)
      minus 1.5 points, at a fifth of the multiply-adds. Without repeated augmentation, DeiT's
      ViT-B/16 has 76.5 % (Touvron et al. 2021, table 8).
    """
    return PipelineConfig(
        name="imagenet",
        experiments=("cnn_imagenet_study", "resnet50_imagenet", "vit_b16_imagenet"),
        gates={
            "min_top1": 0.70,
            "min_slice_top1": 0.5,
            # Excludes the slices by class, with 50 images each: some are far below the mean.
            "min_slice_examples": 200,
            "max_drop": 0.01,
            "min_agreement": 0.93,
            "max_latency_ms": 500.0,
            "max_size_bytes": 120_000_000,
        },
        model_gates={
            "resnet50_imagenet": {"min_top1": 0.749, "max_latency_ms": 200.0},
            "vit_b16_imagenet": {"min_top1": 0.75},
        },
        best=CompressionPlan(methods=("prune", "qat", "pqat"), ptq=("dynamic", "int8")),
        others=CompressionPlan(ptq=("dynamic", "int8")),
        smoke=SmokeSize(
            overrides=(
                "data.image_size=64,64",
                "train.epochs=8",
                "optim.schedule=cosine",
                "train.global_batch=16",
                "train.label_smoothing=0",
                "data.augment=flip",
                "optim.warmup_steps=5",
                "optim.reference_batch=0",
                "compress.prune_epochs=1",
                "compress.calibration_images=64",
                "cnn_imagenet_study:model.options.width=16",
                "cnn_imagenet_study:optim.learning_rate=0.02",
                "resnet50_imagenet:optim.learning_rate=0.02",
                "resnet50_imagenet:train.epochs=6",
                # The same blocks at an eighth of the width.
                "vit_b16_imagenet:model.name=vit",
                "vit_b16_imagenet:model.options.patch=16",
                "vit_b16_imagenet:model.options.width=96",
                "vit_b16_imagenet:model.options.depth=4",
                "vit_b16_imagenet:model.options.heads=4",
                "vit_b16_imagenet:optim.learning_rate=1e-3",
            ),
            images={"train": 300, "validation": 60, "test": 150},
            classes=10,
            gates={
                # With ten classes, chance is 0.1, and the minimum of three trials on tiles of
                # photos was 0.36. A run with one photo per class is refused.
                "min_top1": 0.18,
                "min_agreement": 0.9,
                "max_drop": 0.1,
                "max_latency_ms": 100.0,
                "max_size_bytes": 30_000_000,
                "undecided": "accept",
            },
            best=CompressionPlan(methods=("prune",), ptq=("dynamic", "int8")),
            others=CompressionPlan(ptq=("dynamic",)),
        ),
    )
