"""The TFMA configuration of one predictions table: every column a model, the same slices for all.

It stands here, not with the pipelines, because the variants are known only when a table exists.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tensorflow_model_analysis.proto import config_pb2

from components.evaluation.predict_variants import OWN_FLOAT, REFERENCES
from trainers.data import features
from trainers.evaluation.predictions import LABEL, SCORES

_AVERAGES = "components.evaluation.averaged_metrics"
_FLOAT = "none_fp32"


@dataclass(frozen=True)
class EvalSettings:
    """What a pipeline decides about its evaluation.

    Attributes:
      slices: feature keys to slice by, each on its own; the class is always one of them.
      min_top1: TFMA's threshold on the overall top-1 of every variant of the candidate; 0 sets
        none. Columns of other models, the live one for example, have no threshold.
      top_k: k of `top5`, cut to the number of classes by the caller.
    """

    slices: Sequence[str] = features.SLICES
    min_top1: float = 0.0
    top_k: int = 5


def make_eval_config(variants: Sequence[str], settings: EvalSettings) -> config_pb2.EvalConfig:
    """An EvalConfig over the columns `scores/<variant>`; the float TFLite file is the baseline.

    Args:
      variants: the table's columns, without their prefix. Float passes are left out: they are
        references of the gates and no model that ships.
      settings: of the pipeline.
    """
    variants = [variant for variant in variants if not variant.startswith(OWN_FLOAT)]
    others = [variant for variant in variants if variant in REFERENCES]
    own = [variant for variant in variants if variant not in others]
    model_specs = [
        config_pb2.ModelSpec(
            name=variant,
            prediction_key=SCORES + variant,
            label_key=LABEL,
            is_baseline=variant == _FLOAT and len(variants) > 1,
        )
        for variant in variants
    ]
    keys = [features.TEXT, *settings.slices]
    slicing = [config_pb2.SlicingSpec()]
    slicing += [config_pb2.SlicingSpec(feature_keys=[key]) for key in dict.fromkeys(keys)]
    return config_pb2.EvalConfig(
        model_specs=model_specs,
        slicing_specs=slicing,
        metrics_specs=[
            config_pb2.MetricsSpec(metrics=_metrics(settings, threshold), model_names=names)
            for names, threshold in ((own, settings.min_top1), (others, 0.0))
            if names
        ],
    )


def _metrics(settings: EvalSettings, min_top1: float) -> list[config_pb2.MetricConfig]:
    top1 = _keras("SparseCategoricalAccuracy", name="top1")
    if min_top1:
        # Without a slice named, TFMA would hold every slice to the threshold.
        top1.per_slice_thresholds.append(
            config_pb2.PerSliceMetricThreshold(
                slicing_specs=[config_pb2.SlicingSpec()],
                threshold=config_pb2.MetricThreshold(
                    value_threshold=config_pb2.GenericValueThreshold(
                        lower_bound={"value": min_top1}
                    )
                ),
            )
        )
    averages = ("MacroPrecision", "MacroRecall", "MacroF1", "MicroF1")
    return [
        config_pb2.MetricConfig(class_name="ExampleCount"),
        top1,
        _keras("SparseTopKCategoricalAccuracy", name="top5", k=settings.top_k),
        _keras("SparseCategoricalCrossentropy", name="cross_entropy"),
        config_pb2.MetricConfig(class_name="MultiClassConfusionMatrixPlot"),
        *(config_pb2.MetricConfig(class_name=name, module=_AVERAGES) for name in averages),
    ]


def _keras(class_name: str, **config: str | int) -> config_pb2.MetricConfig:
    return config_pb2.MetricConfig(class_name=class_name, config=json.dumps(config))
