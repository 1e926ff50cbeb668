"""Builds a draft bundle from a trained model; the best architecture gets every method."""

import json
from pathlib import Path

from tfx.types.standard_artifacts import Examples, Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.artifacts import Selection
from components.evaluation.float_passes import FloatPasses
from components.evaluation.predict_variants import PROBE
from trainers.bundles.build import build_bundle
from trainers.training.progress import emit, reporter
from trainers.training.trained import load_trained, probe_model


@component
def Compressor(
    model: InputArtifact[Model],
    examples: InputArtifact[Examples],
    selection: InputArtifact[Selection],
    bundle: OutputArtifact[Model],
    plan: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Writes the draft bundle.

    Args:
      model: of a Trainer.
      examples: for fine-tuning and calibration, as the model's configuration states; the Keras
        model of each method also predicts the splits of the Predictor.
      selection: of the ModelSelector.
      bundle: the draft, and the tables of `components.evaluation.float_passes`.
      plan: JSON of `{"best": {"methods", "ptq"}, "others": {"methods", "ptq"}}`.
      code_digest: part of the cache key.
    """
    trained = load_trained(Path(model.uri) / files.SERVING_MODEL)
    ranked = files.read_json(Path(selection.uri) / files.SELECTION)
    which = "best" if ranked[0]["name"] == trained.config.name else "others"
    todo = json.loads(plan)[which]
    float_passes = FloatPasses(trained.config, Path(examples.uri))
    build_bundle(
        trained,
        Path(bundle.uri) / files.SERVING_MODEL,
        methods=todo["methods"],
        ptq=todo["ptq"],
        report=reporter(),
        announce=lambda step: emit("step", step=step),
        on_model=float_passes,
    )
    probe = probe_model(trained)
    if probe is not None:
        float_passes.add(PROBE, probe)
    float_passes.write(Path(bundle.uri) / files.FLOAT_PASSES)
