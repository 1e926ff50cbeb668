"""Parameters, multiply-adds and attention of the study's models, counted and as published."""

from dataclasses import asdict
from typing import Any

from trainers.config import Config, DataConfig, ModelConfig
from trainers.registry import models as registry

#: The size in pixels and the classes of the study.
STUDY_PX, STUDY_CLASSES = 224, 1000
#: Models at the study's size: those of its comparison, those of its review, and other ViTs, for the
#: question which of them its figure fits.
AT_STUDY_SIZE = (
    *("cnn", "resnet50", "vit_b16", "coatnet0", "alexnet", "googlenet"),
    *("vit_s16", "vit_m16", "vit_b32"),
)


def jobs(configs: dict[str, dict[str, Any]], classes: int) -> list[dict[str, Any]]:
    """The arguments of `count`: each role at the size trained, then `AT_STUDY_SIZE`.

    Args:
      configs: role -> configuration.
      classes: of the data.
    """
    own = [
        {
            "name": role,
            "model": one["model"]["name"],
            "options": one["model"]["options"],
            "size": list(one["data"]["image_size"]),
            "classes": classes,
            "at_study": False,
        }
        for role, one in configs.items()
    ]
    known = set(registry.names())
    side = [STUDY_PX, STUDY_PX]
    study = {"options": {}, "size": side, "classes": STUDY_CLASSES, "at_study": True}
    return own + [{"name": one, "model": one, **study} for one in AT_STUDY_SIZE if one in known]


def count(
    name: str,
    model: str,
    options: dict[str, Any],
    size: list[int],
    classes: int,
    *,
    at_study: bool,
) -> dict[str, Any]:
    """The cost of a model for one image: counts, attention and what is published.

    Args:
      name: for tables.
      model: a registered one.
      options: of its builder.
      size: (height, width) in pixels.
      classes: number of logits.
      at_study: whether this is a network of the study at its size.

    Returns:
      The arguments with `parameters`, `trainable_parameters`, `multiply_adds`, `attention` of
      `trainers.profiling.complexity`, `formula_products`, the study's 4 N^2 d FLOPs as
      multiply-adds over all layers, and `published`; None for the last two where there is none.
    """
    from trainers.models import build_model
    from trainers.profiling.complexity import attention_cost, complexity
    from trainers.profiling.published import PUBLISHED

    height, width = size
    config = Config(
        name="study",
        data=DataConfig(image_size=(height, width)),
        model=ModelConfig(model, options=options),
    )
    built = build_model(config, classes)
    attention = attention_cost(built)
    found = PUBLISHED.get(model)
    same = not options and classes == STUDY_CLASSES and found and size == [found.image_size] * 2
    return {
        **{"name": name, "model": model, "options": options, "size": size, "classes": classes},
        "at_study": at_study,
        **asdict(complexity(built)),
        "attention": asdict(attention),
        "formula_products": _formula(built) if attention.layers else None,
        "published": asdict(found) if found and same else None,
    }


def _formula(model: Any) -> int:
    """Multiply-adds of 4 N^2 d FLOPs per attention, N and d from the shape of its sums (N, d)."""
    from trainers.models.layers import AttentionValues
    from trainers.profiling.model_graph import model_calls

    shapes = [
        call.outputs[0].shape
        for call in model_calls(model)
        if isinstance(call.layer, AttentionValues)
    ]
    return sum(2 * int(tokens or 0) ** 2 * int(width or 0) for tokens, width in shapes)
