"""Writes the final manifest and the model card of a bundle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tfx.types.standard_artifacts import Model, ModelBlessing
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.artifacts import Benchmark, Card
from components.gates import Verdict
from core.bundle import MANIFEST_FILE, Manifest, open_bundle
from core.files import write_text
from trainers.bundles.card import write_cards


def final_manifest(
    draft: Manifest, verdict: dict[str, Any], figures: dict[str, dict[str, float]]
) -> Manifest:
    """The draft's manifest with metrics, benchmark, gates and the recommended variant.

    Variants that the gates excluded are missing in all of them.
    """
    dropped = verdict["dropped"]
    metrics = {name: found["metrics"] for name, found in verdict["variants"].items()}
    return replace(
        draft,
        variants=tuple(v for v in draft.variants if v.name not in dropped),
        recommended=verdict["recommended"],
        metrics={name: found for name, found in metrics.items() if name not in dropped},
        benchmark={name: found for name, found in figures.items() if name not in dropped},
        conversion={n: found for n, found in draft.conversion.items() if n not in dropped},
        gates={
            "verdict": verdict["verdict"],
            "not_held": {
                _key(gate): gate["waived"] or gate["verdict"]
                for gate in verdict["gates"]
                if gate["verdict"] != Verdict.HELD.value
            },
            "excludable_drop": verdict["excludable_drop"],
        },
        # Set when the bundle is assembled: model.tflite is the recommended variant.
        content_digest="",
    )


def _key(gate: dict[str, Any]) -> str:
    """The gate's name; gates on gaps judge several keys under one name."""
    groups = gate.get("slice", "") if gate["name"].startswith("fairness/") else ""
    return f"{gate['name']} {groups}".rstrip()


@component
def CardWriter(
    model: InputArtifact[Model],
    bundle: InputArtifact[Model],
    benchmark_result: InputArtifact[Benchmark],
    blessing: InputArtifact[ModelBlessing],
    card: OutputArtifact[Card],
    code_digest: Parameter[str],
) -> None:
    """Writes `manifest.json` and the card in its three forms.

    Args:
      model: of the Trainer.
      bundle: draft of the Compressor.
      benchmark_result: of the Benchmarker.
      blessing: of the gates.
      card: output folder of these files.
      code_digest: part of the cache key.
    """
    draft = open_bundle(Path(bundle.uri) / files.SERVING_MODEL)
    figures = files.read_json(Path(benchmark_result.uri) / files.BENCHMARK)["variants"]
    verdict = files.read_json(Path(blessing.uri) / files.VERDICT)
    manifest = final_manifest(draft.manifest, verdict, figures)
    trained = Path(model.uri) / files.SERVING_MODEL
    facts = files.read_json(trained / "trained.json")
    about = {
        **verdict,
        "parameters": facts["parameters"],
        "multiply_adds": facts["multiply_adds"],
        "data": files.read_json(trained / "dataset.json"),
    }
    folder = Path(card.uri)
    write_text(folder / MANIFEST_FILE, manifest.to_json())
    write_cards(folder, manifest, about)
