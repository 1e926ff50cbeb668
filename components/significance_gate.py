"""The last gate: reads every verdict and figure, and emits the blessing.

It alone blesses: no model is pushed that passed only the first of several gates.
"""

import json
from pathlib import Path

import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types.standard_artifacts import (
    ExampleAnomalies,
    Examples,
    InfraBlessing,
    Model,
    ModelBlessing,
    ModelEvaluation,
)
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import artifacts, files
from components.anomaly import blocking
from components.answers import REFERENCES
from components.artifacts import Benchmark, ImageReport
from components.gallery import read_gallery
from components.gates import Gate, GateSettings, judge
from components.live import Live
from components.live_gates import class_gate, compared_gate
from serving.bundle import open_bundle
from trainers.predictions import Predictions, read_table


def anomaly_gate(uri: str) -> Gate:
    """Whether TFDV found anomalies in any split; the detail names up to three."""
    found = []
    for file in sorted(Path(uri).glob("Split-*/SchemaDiff.pb")):
        anomalies = anomalies_pb2.Anomalies.FromString(file.read_bytes())
        split = file.parent.name.removeprefix("Split-")
        found += [f"{split} {key}: {i.description}" for key, i in anomalies.anomaly_info.items()]
    return Gate("data/anomalies", len(found), "none", not found, detail="; ".join(found[:3]))


def image_gate(uri: str) -> Gate:
    """Whether the ImageValidator's limits hold; the detail names every kind that is over its."""
    over = blocking(read_gallery(Path(uri)))
    detail = "; ".join(f"{kind} {n}, allowed {limit}" for kind, (n, limit) in over.items())
    return Gate("data/images", sum(n for n, _ in over.values()), "limits", not over, detail=detail)


def tfma_gates(uri: str, table: dict[str, Predictions]) -> list[Gate]:
    """TFMA's own thresholds, and whether TFMA counted as the statistics did."""
    gates = []
    for variant, answers in table.items():
        if variant in REFERENCES:
            continue
        result = tfma.load_eval_result(uri, model_name=variant)
        metrics = result.get_metrics_for_slice()
        count, top1 = (metrics[name]["doubleValue"] for name in ("example_count", "top1"))
        ours = float((answers.scores.argmax(axis=1) == answers.labels).mean())
        same = count == len(answers.labels) and abs(top1 - ours) < 1e-6
        gates.append(
            Gate("tfma/agrees", top1, f"{ours:.6f} over {len(answers.labels)}", same, variant)
        )
    validation = tfma.load_validation_result(uri)
    if validation is not None and not validation.missing_thresholds:
        ok = bool(validation.validation_ok)
        gates.append(Gate("tfma/thresholds", float(ok), "all met", ok))
    return gates


def serving_gate(uri: str) -> Gate:
    """The ServingValidator's verdict."""
    found = files.read_json(Path(uri) / files.ROUND_TRIP)
    worst = found["max_difference"]
    allowed = f"<= {found['tolerance']}"
    return Gate("serving/round_trip", worst, allowed, found["passed"], detail=found["detail"])


@component
def SignificanceGate(
    bundle: InputArtifact[Model],
    predictions: InputArtifact[Examples],
    evaluation: InputArtifact[ModelEvaluation],
    benchmark_result: InputArtifact[Benchmark],
    infra_blessing: InputArtifact[InfraBlessing],
    anomalies: InputArtifact[ExampleAnomalies],
    image_report: InputArtifact[ImageReport],
    live: InputArtifact[artifacts.LiveModel],
    blessing: OutputArtifact[ModelBlessing],
    settings: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes `verdict.json` and the blessing.

    Args:
      bundle: the draft that is judged.
      predictions: its table.
      evaluation: TFMA's view of the table.
      benchmark_result: sizes and latencies.
      infra_blessing: of the ServingValidator.
      anomalies: of the StatisticsValidator.
      image_report: of the ImageValidator.
      live: what the bundle store serves.
      blessing: BLESSED or NOT_BLESSED, with the verdict beside it.
      settings: JSON of `components.gates.GateSettings`.
      code_digest: part of the cache key.
    """
    table = read_table(files.predictions_file(predictions.uri))
    opened = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    figures = files.read_json(Path(benchmark_result.uri) / files.BENCHMARK)["variants"]
    chosen, current = GateSettings(**json.loads(settings)), Live.load(live.uri)
    verdict = judge(
        table,
        figures,
        chosen,
        classes=opened.labels,
        checks=[
            *tfma_gates(evaluation.uri, table),
            serving_gate(infra_blessing.uri),
            anomaly_gate(anomalies.uri),
            image_gate(image_report.uri),
            *class_gate(current, opened.labels, table, chosen.new_classes),
            *compared_gate(current, predictions.uri, anomalies.uri),
        ],
    )
    folder = Path(blessing.uri)
    files.write_json(folder / files.VERDICT, verdict)
    (folder / ("BLESSED" if verdict["blessed"] else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(verdict["blessed"]))
