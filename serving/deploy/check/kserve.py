"""KServe's InferenceService: its flags, its replicas, and the model that it names."""

import re
from pathlib import Path

from serving.deploy.check.flags import read_flags
from serving.deploy.check.models import check_model_folder
from serving.deploy.check.sources import Document

#: KServe's runtime for TensorFlow gives TF Serving these itself.
_RUNTIME_FLAGS = ("model_name", "port", "rest_api_port", "model_base_path")

_MODE = "serving.kserve.io/deploymentMode"
_SCALER = "serving.kserve.io/autoscalerClass"
#: Knative's own annotation, which has it ask Kubernetes' autoscaler.
_KNATIVE_SCALER = "autoscaling.knative.dev/class"
#: Deployments without Knative: the name since KServe 0.16, and the one before.
_STANDARD = ("Standard", "RawDeployment")
_MODES = (*_STANDARD, "Knative", "Serverless", "ModelMesh")
#: What Kubernetes' autoscaler goes by; Knative's goes by concurrency and rps.
_RESOURCES = ("cpu", "memory")


def check_inference_service(document: Document, bundles: Path | None) -> None:
    """Checks an InferenceService.

    Args:
      document: the object.
      bundles: stands for the claim that `storageUri: pvc://claim/path` names.
    """
    place = document.place
    predictor = document.data["spec"]["predictor"]
    low, high = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    if high and low > high:
        place.error(f"minReplicas {low} is above maxReplicas {high}", "write them in order")
    _check_scaling(document)
    model = predictor.get("model")
    if model is None or model["modelFormat"]["name"] != "tensorflow":
        return
    for name in read_flags(model.get("args") or [], place):
        if name in _RUNTIME_FLAGS:
            place.error(f"--{name} is given by KServe's runtime already", "leave it out")
    uri = model.get("storageUri", "")
    if not uri:
        place.error("the model has no storageUri", "write pvc://bundles/MODEL, or a bucket's")
        return
    claim = re.fullmatch(r"pvc://([^/]+)/(.+)", uri)
    if claim is None or bundles is None:
        place.warn(
            f"the versions under {uri} were not looked at",
            "give --bundles DIR, the claim's content" if claim else "look there yourself",
        )
        return
    check_model_folder(Path(claim[2]).name, bundles / claim[2], place)


def _check_scaling(document: Document) -> None:
    """What KServe's admission makes of the scaling, which depends on annotations."""
    place, predictor = document.place, document.data["spec"]["predictor"]
    annotations = document.data["metadata"].get("annotations") or {}
    mode, scaler = annotations.get(_MODE, ""), annotations.get(_SCALER, "")
    if mode and mode not in _MODES:
        place.error(f"{_MODE} is {mode!r}, which KServe does not know", f"write {_STANDARD[0]}")
        return
    by_resources = (mode in _STANDARD and scaler == "hpa") or (
        mode not in _STANDARD and annotations.get(_KNATIVE_SCALER, "").startswith("hpa.")
    )
    metric = predictor.get("scaleMetric")
    target = predictor.get("scaleTarget", 1)
    if metric in _RESOURCES and not by_resources:
        place.error(
            f"scaleMetric {metric} is refused: in {mode or 'the default'} mode with "
            f"{f'autoscaler class {scaler}' if scaler else 'no autoscaler class'} pods are not "
            "scaled by cpu or memory",
            f"annotate it with {_MODE}: {_STANDARD[0]} and {_SCALER}: hpa, or scale by concurrency",
        )
    elif metric in _RESOURCES and mode == "RawDeployment":
        place.warn(
            f"KServe from 0.16 on refuses scaleMetric {metric} in RawDeployment mode",
            f"write {_STANDARD[0]}, its name there",
        )
    elif metric is not None and metric not in _RESOURCES and (by_resources or mode in _STANDARD):
        place.error(
            f"scaleMetric {metric} needs Knative's autoscaler, which is not asked here",
            f"write one of {', '.join(_RESOURCES)}, or {_MODE}: Knative",
        )
    if metric == "cpu" and not 1 <= target <= 100:
        place.error(f"scaleTarget {target} is no percentage of the requested cpu", "write 1 to 100")
    if mode in _STANDARD and predictor.get("minReplicas", 1) == 0:
        place.warn("minReplicas 0: without Knative there is no scaling to zero", "write 1")
