"""The TFX pipeline.

    LiveModel of each architecture
    Records -> StatisticsGen -> SchemaGen -> StatisticsValidator -> ImageValidator -> DataGate
      -> per architecture: [Tuner] -> Trainer
      -> ModelSelector
      -> per architecture: Compressor -> Predictor -> PredictionEvaluator (TFMA) -> Benchmarker
           -> ServingValidator -> SignificanceGate -> CardWriter -> BundlePusher

LiveModel is the model of an architecture that the bundle store serves now. The StatisticsValidator
compares the data with the statistics of all live models; Predictor and SignificanceGate compare a
candidate with the live model of its architecture. No node depends on earlier runs.
"""

import json
from dataclasses import asdict
from typing import Any

from tfx import v1 as tfx
from tfx.dsl.components.common.importer import Importer
from tfx.types import standard_artifacts
from tfx.types.channel_utils import union

from components.benchmarker import Benchmarker
from components.bundle_pusher import BundlePusher
from components.compressor import Compressor
from components.data_validation.anomaly import make_settings
from components.data_validation.image_validator import DataGate, ImageValidator
from components.data_validation.statistics_checks import statistics_options
from components.data_validation.statistics_settings import StatisticsSettings
from components.data_validation.statistics_validator import StatisticsValidator
from components.evaluation.evaluator import PredictionEvaluator
from components.gates.significance_gate import SignificanceGate
from components.live_model import LiveModel
from components.model_card.card_writer import CardWriter
from components.model_selector import ModelSelector
from components.predictor import Predictor
from components.serving_validator import ServingValidator
from core.lineage import store_state
from tfx_pipeline.config import slice_keys
from tfx_pipeline.node_code import node_digest, run_data_digest
from tfx_pipeline.request.run import RunRequest
from trainers.config import to_dict
from trainers.data.features import DatasetInfo

# Constant, because a change of Beam's arguments changes every cache key. The default runner first
# tries to download another runner.
BEAM_ARGS = ["--runner=FnApiRunner"]


def create_pipeline(request: RunRequest, info: DatasetInfo) -> tfx.dsl.Pipeline:
    """The TFX pipeline of one run.

    Args:
      request: configuration and folders.
      info: description of the records in `request.data`.
    """
    layout = request.layout
    records = _records(request, info)
    examples = records.outputs["result"]
    lives = {name: _live(name, request, info) for name in request.experiments}
    validation = _validation(request, info, examples, lives)
    nodes: list[Any] = [records, *lives.values(), *validation.values()]
    tuners = {name: _tuner(name, request, examples) for name in request.pipeline.tune}
    trainers = {
        name: _trainer(name, request, examples, tuners.get(name)) for name in request.experiments
    }
    for node in (*tuners.values(), *trainers.values()):
        # Bad data is reported before training starts.
        node.add_upstream_node(validation["gate"])
    selector = ModelSelector(
        models=union([t.outputs["model"] for t in trainers.values()])
        if len(trainers) > 1
        else next(iter(trainers.values())).outputs["model"],
        code_digest=node_digest("ModelSelector"),
    )
    nodes += [*tuners.values(), *trainers.values(), selector]
    for name, trainer in trainers.items():
        inputs = {
            "examples": examples,
            "live": lives[name].outputs["live"],
            "statistics": validation["statistics"].outputs["statistics"],
            "model": trainer.outputs["model"],
            "selection": selector.outputs["selection"],
            "anomalies": validation["statistics_validator"].outputs["anomalies"],
            "image_report": validation["image_validator"].outputs["image_report"],
        }
        nodes += _after_training(name, request, info, inputs)
    return tfx.dsl.Pipeline(
        pipeline_name=request.pipeline.name,
        pipeline_root=str(layout.artifacts),
        components=nodes,
        enable_cache=True,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(layout.metadata)
        ),
        beam_pipeline_args=BEAM_ARGS,
    )


def _records(request: RunRequest, info: DatasetInfo) -> Importer:
    """The records in their folder; the digest depends on their content."""
    splits = [name for name, split in info.splits.items() if split.examples]
    return Importer(
        source_uri=request.data,
        artifact_type=standard_artifacts.Examples,
        properties={"split_names": json.dumps(splits)},
        custom_properties={"data_digest": run_data_digest(request, info)},
    ).with_id("Records")


def _live(name: str, request: RunRequest, info: DatasetInfo) -> Any:
    """The live model of one architecture; the state of the bundle store is in the cache key."""
    model_dir = request.layout.bundles / request.experiments[name].name
    return LiveModel(
        model_dir=str(model_dir),
        classes=json.dumps(info.classes),
        state=json.dumps(store_state(model_dir), sort_keys=True),
        code_digest=node_digest("LiveModel"),
    ).with_id(f"LiveModel.{name}")


def _validation(
    request: RunRequest, info: DatasetInfo, examples: Any, lives: dict[str, Any]
) -> dict[str, Any]:
    """The nodes that check the data before training; `gate` is the last one."""
    statistics = tfx.components.StatisticsGen(examples=examples, stats_options=statistics_options())
    statistics.exec_properties["code_digest"] = node_digest("StatisticsGen")
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    schema.exec_properties["code_digest"] = node_digest("SchemaGen")
    statistics_validator = StatisticsValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        lives=[live.outputs["live"] for live in lives.values()],
        settings=json.dumps(
            {
                "statistics": asdict(StatisticsSettings(**request.pipeline.statistics)),
                "classes": info.classes,
                "label_offset": info.label_offset,
            }
        ),
        code_digest=node_digest("StatisticsValidator"),
    )
    # Created here, so that an invalid setting is reported before anything runs.
    settings = json.dumps(asdict(make_settings(request.pipeline.images)))
    image_validator = ImageValidator(
        examples=examples, settings=settings, code_digest=node_digest("ImageValidator")
    )
    gate = DataGate(
        image_report=image_validator.outputs["image_report"],
        settings=settings,
        code_digest=node_digest("DataGate"),
    )
    gate.add_upstream_node(statistics_validator)
    return {
        "statistics": statistics,
        "schema": schema,
        "statistics_validator": statistics_validator,
        "image_validator": image_validator,
        "gate": gate,
    }


def _training_config(kind: str, name: str, request: RunRequest) -> dict[str, Any]:
    """`custom_config` of a `Tuner` or `Trainer`, which share checkpoints."""
    return {
        "config": to_dict(request.experiments[name]),
        "work_dir": str(request.layout.checkpoints / name),
        "index": str(request.layout.index),
        "code_digest": node_digest(kind),
    }


def _tuner(name: str, request: RunRequest, examples: Any) -> tfx.components.Tuner:
    return tfx.components.Tuner(
        tuner_fn="trainers.search.tuner.tuner_fn",
        examples=examples,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["validation"]),
        custom_config={
            **_training_config("Tuner", name, request),
            **asdict(request.pipeline.tune[name]),
        },
    ).with_id(f"Tuner.{name}")


def _trainer(name: str, request: RunRequest, examples: Any, tuner: Any) -> tfx.components.Trainer:
    return tfx.components.Trainer(
        run_fn="trainers.run_fn.run_fn",
        examples=examples,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["validation"]),
        hyperparameters=tuner.outputs["best_hyperparameters"] if tuner else None,
        custom_config=_training_config("Trainer", name, request),
    ).with_id(f"Trainer.{name}")


def _after_training(
    name: str, request: RunRequest, info: DatasetInfo, inputs: dict[str, Any]
) -> list[Any]:
    """The nodes for compression, evaluation, gates and push of one architecture, in order."""
    pipeline, gates = request.pipeline, request.pipeline.gates_of(name)
    compressor = Compressor(
        model=inputs["model"],
        examples=inputs["examples"],
        selection=inputs["selection"],
        plan=json.dumps({"best": asdict(pipeline.best), "others": asdict(pipeline.others)}),
        code_digest=node_digest("Compressor"),
    ).with_id(f"Compressor.{name}")
    bundle = compressor.outputs["bundle"]
    predictor = Predictor(
        bundle=bundle,
        examples=inputs["examples"],
        live=inputs["live"],
        code_digest=node_digest("Predictor"),
    ).with_id(f"Predictor.{name}")
    evaluator = PredictionEvaluator(
        predictions=predictor.outputs["predictions"],
        settings=json.dumps(
            {"slices": slice_keys(pipeline, info), "min_top1": gates.get("min_top1", 0.0)}
        ),
        code_digest=node_digest("Evaluator"),
    ).with_id(f"Evaluator.{name}")
    benchmarker = Benchmarker(
        bundle=bundle, runs=pipeline.benchmark_runs, code_digest=node_digest("Benchmarker")
    ).with_id(f"Benchmarker.{name}")
    server = ServingValidator(
        bundle=bundle,
        examples=inputs["examples"],
        requests=pipeline.serving_requests,
        code_digest=node_digest("ServingValidator"),
    ).with_id(f"ServingValidator.{name}")
    gate = SignificanceGate(
        bundle=bundle,
        predictions=predictor.outputs["predictions"],
        evaluation=evaluator.outputs["evaluation"],
        benchmark_result=benchmarker.outputs["benchmark_result"],
        infra_blessing=server.outputs["infra_blessing"],
        anomalies=inputs["anomalies"],
        image_report=inputs["image_report"],
        live=inputs["live"],
        settings=json.dumps(gates),
        code_digest=node_digest("SignificanceGate"),
    ).with_id(f"SignificanceGate.{name}")
    card = CardWriter(
        model=inputs["model"],
        bundle=bundle,
        benchmark_result=benchmarker.outputs["benchmark_result"],
        blessing=gate.outputs["blessing"],
        code_digest=node_digest("CardWriter"),
    ).with_id(f"CardWriter.{name}")
    pusher = BundlePusher(
        bundle=bundle,
        card=card.outputs["card"],
        blessing=gate.outputs["blessing"],
        live=inputs["live"],
        statistics=inputs["statistics"],
        predictions=predictor.outputs["predictions"],
        bundles_dir=str(request.layout.bundles),
        label_offset=info.label_offset,
        run=request.run,
        code_digest=node_digest("BundlePusher"),
    ).with_id(f"BundlePusher.{name}")
    return [
        compressor,
        predictor,
        evaluator,
        benchmarker,
        server,
        gate,
        card,
        pusher,
    ]
