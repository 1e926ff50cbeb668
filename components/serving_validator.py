"""Loads the draft in a server process and sends real requests over REST and gRPC.

TFX's own InfraValidator needs Docker; this one starts Sightline's server, which has the API of TF
Serving.
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

#: Largest difference of a score, since REST sends decimal text.
TOLERANCE = 1e-5


def round_trip(bundle: Bundle, images: list[bytes]) -> dict[str, Any]:
    """Compares the server's predictions with those of the engine in this process.

    Returns:
      `passed`, `max_difference` of any score, `tolerance`, and `detail`, a text.
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
    for kind, results in found.items():
        for row, result in zip(expected, results, strict=True):
            label, index, _ = result.top[0]
            if index != int(row.argmax()) or label != bundle.labels[index]:
                wrong.append(f"{kind} returned {label}, not {bundle.labels[int(row.argmax())]}")
            scores = np.array([score for _, _, score in result.top])
            classes = [index for _, index, _ in result.top]
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
      examples: the records with the test images.
      infra_blessing: the verdict.
      requests: number of images to send.
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
