"""Loads the draft in a server process and sends it real requests over REST and gRPC.

TFX's own InfraValidator needs Docker; this one starts our server, which speaks TF Serving's API.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from core.bundle import Bundle, open_bundle
from serving.client import connect
from serving.engines.engine import open_engine
from serving.server.lifecycle.server_process import ServerProcess
from trainers.bundles.build import record_image
from trainers.data import pipeline

#: Scores travel as decimal text over REST; nothing else may differ.
TOLERANCE = 1e-5


def round_trip(bundle: Bundle, images: list[bytes]) -> dict[str, Any]:
    """Compares the server's answers with the engine's, in one process less.

    Returns:
      `passed`, `max_difference` of any score, `tolerance`, and a `detail` in words.
    """
    with open_engine(bundle) as engine:
        expected = engine.predict_bytes(images)
    with tempfile.TemporaryDirectory(prefix="sightline-serving-") as scratch:
        model_dir = Path(scratch) / bundle.manifest.name
        model_dir.mkdir()
        (model_dir / "1").symlink_to(bundle.path.resolve(), target_is_directory=True)
        with ServerProcess(Path(scratch)) as server:
            found = {
                kind: connect(url).predict(images, model=bundle.manifest.name)
                for kind, url in (
                    ("REST", server.rest_url),
                    ("gRPC", f"grpc://{server.grpc_target}"),
                )
            }
    worst, wrong = 0.0, []
    for kind, answers in found.items():
        for row, answer in zip(expected, answers, strict=True):
            label, index, _ = answer.top[0]
            if index != int(row.argmax()) or label != bundle.labels[index]:
                wrong.append(f"{kind} answered {label}, not {bundle.labels[int(row.argmax())]}")
            scores = np.array([score for _, _, score in answer.top])
            classes = [index for _, index, _ in answer.top]
            worst = max(worst, float(np.abs(scores - row[classes]).max()))
    passed = not wrong and worst <= TOLERANCE
    detail = "; ".join(wrong[:3]) or f"{len(images)} images over REST and gRPC"
    return {
        "passed": passed,
        "max_difference": worst,
        "tolerance": TOLERANCE,
        "detail": detail,
    }


@component
def ServingValidator(
    bundle: InputArtifact[Model],
    examples: InputArtifact[Examples],
    infra_blessing: OutputArtifact[InfraBlessing],
    requests: Parameter[int],
    code_digest: Parameter[str],
) -> None:
    """Writes `round_trip.json` and TFX's infra blessing.

    Args:
      bundle: a draft of the Compressor.
      examples: where the test images come from.
      infra_blessing: the verdict.
      requests: how many images to send.
      code_digest: part of the cache key.
    """
    records = pipeline.raw_examples(examples.uri, "test")
    images = [record_image(data) for data, _ in zip(records, range(requests), strict=False)]
    found = round_trip(open_bundle(Path(bundle.uri) / files.SERVING_MODEL), images)
    folder = Path(infra_blessing.uri)
    files.write_json(folder / files.ROUND_TRIP, found)
    name = "INFRA_BLESSED" if found["passed"] else "INFRA_NOT_BLESSED"
    (folder / name).touch()
    infra_blessing.set_int_custom_property("blessed", int(found["passed"]))
