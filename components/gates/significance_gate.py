"""The last gate: reads every verdict and figure, and writes the blessing.

It is the only component that blesses, so that a model is pushed only if it passed every gate.
"""

import json
from pathlib import Path
from typing import Any

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
from components.artifacts import Benchmark, ImageReport
from components.data_validation.anomaly import blocking
from components.data_validation.gallery import read_gallery
from components.evaluation.columns import Table, compressed, own_float, ships, top1_correct
from components.gates import Gate, GateSettings, Verdict
from components.gates.agreement import AllImages
from components.gates.collapse import collapsed
from components.gates.decide import judge
from components.gates.live_gates import class_gate, compared_gate
from components.live import Live
from core.bundle import open_bundle
from trainers.evaluation.predictions import read_table


class MissingColumnError(ValueError):
    """A predictions table without a column that the gates need; the message says what to do."""


def anomaly_gate(uri: str) -> Gate:
    """Whether TFDV found anomalies in any split; the detail names up to three."""
    found = []
    for file in sorted(Path(uri).glob("Split-*/SchemaDiff.pb")):
        anomalies = anomalies_pb2.Anomalies.FromString(file.read_bytes())
        split = file.parent.name.removeprefix("Split-")
        found += [f"{split} {key}: {i.description}" for key, i in anomalies.anomaly_info.items()]
    return Gate(
        "data/anomalies", len(found), "none", Verdict.of(not found), detail="; ".join(found[:3])
    )


def image_gate(uri: str) -> Gate:
    """Whether the ImageValidator's limits hold; the detail names every kind over its limit."""
    over = blocking(read_gallery(Path(uri)))
    detail = "; ".join(f"{kind} {n}, allowed {limit}" for kind, (n, limit) in over.items())
    found = sum(n for n, _ in over.values())
    return Gate("data/images", found, "limits", Verdict.of(not over), detail=detail)


def tfma_gates(uri: str, table: Table) -> list[Gate]:
    """TFMA's own thresholds, and whether TFMA's counts are those of the statistics.

    Only columns that ship are checked: another model, or a variant that is left out of the bundle,
    may miss any threshold.
    """
    left_out = collapsed(table)
    shipping = [column for column in table if ships(column) and column not in left_out]
    gates = []
    for variant in shipping:
        predictions = table[variant]
        result = tfma.load_eval_result(uri, model_name=variant)
        metrics = result.get_metrics_for_slice()
        count, top1 = (metrics[name]["doubleValue"] for name in ("example_count", "top1"))
        ours = float(top1_correct(predictions).mean())
        same = Verdict.of(count == len(predictions.labels) and abs(top1 - ours) < 1e-6)
        gates.append(
            Gate("tfma/agrees", top1, f"{ours:.6f} over {len(predictions.labels)}", same, variant)
        )
    validation = tfma.load_validation_result(uri)
    if validation is not None and not validation.missing_thresholds:
        gates.append(_threshold_gate(validation, shipping))
    return gates


def _threshold_gate(validation: Any, shipping: list[str]) -> Gate:
    """TFMA's thresholds over the columns that ship; the detail lists those that miss one."""
    failures = [
        failure
        for of_slice in validation.metric_validations_per_slice
        for failure in of_slice.failures
    ]
    missed = sorted({f.metric_key.model_name for f in failures}.intersection(shipping))
    # A refusal without any column stands.
    met = not missed if failures else bool(validation.validation_ok)
    return Gate("tfma/thresholds", float(met), "all met", Verdict.of(met), detail=", ".join(missed))


def serving_gate(uri: str) -> Gate:
    """The ServingValidator's verdict."""
    found = files.read_json(Path(uri) / files.ROUND_TRIP)
    worst = found["max_difference"]
    allowed = f"<= {found['tolerance']}"
    verdict = Verdict.of(found["passed"])
    return Gate("serving/round_trip", worst, allowed, verdict, detail=found["detail"])


def read_tables(uri: str) -> tuple[Table, Table | None, AllImages]:
    """The test table, the validation table if there is one, and the agreement over all splits.

    Raises:
      MissingColumnError: a variant with new weights does not have its own float pass.
    """
    test = read_table(files.predictions_file(uri))
    for variant in compressed(test):
        if not own_float(variant, test):
            raise MissingColumnError(
                f"{uri} has no float pass of {variant!r} to compare the variant with; run again "
                "with --from Compressor"
            )
    path = files.predictions_file(uri, files.VALIDATION)
    validation = read_table(path) if path.is_file() else None
    return test, validation, AllImages.from_json(files.read_json(Path(uri) / files.AGREEMENT))


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
      bundle: the draft to judge.
      predictions: its tables, and the agreement over all splits.
      evaluation: TFMA's results of the table.
      benchmark_result: sizes and latencies.
      infra_blessing: of the ServingValidator.
      anomalies: of the StatisticsValidator.
      image_report: of the ImageValidator.
      live: the versions of the bundle store.
      blessing: BLESSED or NOT_BLESSED, and the verdict.
      settings: JSON of `components.gates.GateSettings`.
      code_digest: part of the cache key.
    """
    table, validation, all_images = read_tables(predictions.uri)
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
        validation=validation,
        all_images=all_images,
    )
    folder = Path(blessing.uri)
    files.write_json(folder / files.VERDICT, verdict)
    (folder / ("BLESSED" if verdict["blessed"] else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(verdict["blessed"]))
