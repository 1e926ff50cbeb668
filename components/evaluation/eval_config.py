"""The TFMA configuration of a predictions table: one model for each column, the same slices.

The Evaluator makes it, because the variants are known only when the table exists.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow_model_analysis.proto import config_pb2

from components.evaluation.predict_variants import OWN_FLOAT, REFERENCES
from trainers.data import features
from trainers.evaluation.metrics import registered_metrics
from trainers.evaluation.predictions import LABEL, SCORES

_REGISTERED = "components.evaluation.registered_metrics"
_FLOAT = "none_fp32"
#: Joins the keys of a cross: `slice/race*slice/age`.
CROSS = "*"


@dataclass(frozen=True)
class EvalSettings:
    """What a pipeline sets of its evaluation.

    Attributes:
      slices: feature keys to slice by, each separately, and crosses whose keys `*` joins; TFMA
        always slices by the class as well.
      min_top1: TFMA's threshold on the overall top-1 of every variant of the candidate; 0 sets
        none. Columns of other models, such as the live one, have no threshold.
    """

    slices: Sequence[str] = features.SLICES
    min_top1: float = 0.0


def make_eval_config(
    variants: Sequence[str], settings: EvalSettings, classes: int
) -> config_pb2.EvalConfig:
    """An EvalConfig over the columns `scores/<variant>`; the float TFLite file is the baseline.

    Args:
      variants: the table's columns, without their prefix. Float passes are left out: they are
        references of the gates, not models that ship.
      settings: of the pipeline.
      classes: number of classes.
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
    slicing += [
        config_pb2.SlicingSpec(feature_keys=key.split(CROSS)) for key in dict.fromkeys(keys)
    ]
    return config_pb2.EvalConfig(
        model_specs=model_specs,
        slicing_specs=slicing,
        metrics_specs=[
            config_pb2.MetricsSpec(metrics=_metrics(classes, threshold), model_names=names)
            for names, threshold in ((own, settings.min_top1), (others, 0.0))
            if names
        ],
    )


def _metrics(classes: int, min_top1: float) -> list[config_pb2.MetricConfig]:
    """Every registered metric, by its TFMA class or from `RegisteredMetrics`."""
    configs, others = {}, []
    for name, metric in registered_metrics().items():
        if metric.tfma is None:
            others.append(name)
        else:
            tfma = metric.tfma(classes)
            configs[name] = _config(tfma.class_name, {**tfma.config, "name": name})
    if min_top1:
        # Without a slice named, TFMA would apply the threshold to every slice.
        configs["top1"].per_slice_thresholds.append(
            config_pb2.PerSliceMetricThreshold(
                slicing_specs=[config_pb2.SlicingSpec()],
                threshold=config_pb2.MetricThreshold(
                    value_threshold=config_pb2.GenericValueThreshold(
                        lower_bound={"value": min_top1}
                    )
                ),
            )
        )
    return [
        config_pb2.MetricConfig(class_name="ExampleCount"),
        *configs.values(),
        config_pb2.MetricConfig(class_name="MultiClassConfusionMatrixPlot"),
        _config("RegisteredMetrics", {"metrics": others}, _REGISTERED),
    ]


def _config(
    class_name: str, config: Mapping[str, Any], module: str = ""
) -> config_pb2.MetricConfig:
    return config_pb2.MetricConfig(class_name=class_name, module=module, config=json.dumps(config))
