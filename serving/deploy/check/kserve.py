"""Checks of KServe's InferenceService: flags, scaling and the model."""

import re
from pathlib import Path

from serving.deploy.check.flags import read_flags
from serving.deploy.check.models import check_model_folder
from serving.deploy.check.sources import Document

#: Flags that KServe's TensorFlow runtime sets.
_RUNTIME_FLAGS = ("model_name", "port", "rest_api_port", "model_base_path")

_MODE = "serving.kserve.io/deploymentMode"
_SCALER = "serving.kserve.io/autoscalerClass"
#: Knative's annotation that selects Kubernetes' autoscaler.
_KNATIVE_SCALER = "autoscaling.knative.dev/class"
#: Mode without Knative: the name since KServe 0.16, and the former one.
_STANDARD = ("Standard", "RawDeployment")
_MODES = (*_STANDARD, "Knative", "Serverless", "ModelMesh")
#: Metrics of Kubernetes' autoscaler; Knative's are concurrency and rps.
_RESOURCES = ("cpu", "memory")


def check_inference_service(document: Document, bundles: Path | None) -> None:
    """Checks an InferenceService.

    Args:
      document: the object.
      bundles: replaces the claim in `storageUri: pvc://claim/path`.
    """
    location = document.location
    predictor = document.data["spec"]["predictor"]
    low, high = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    if high and low > high:
        location.error(f"minReplicas {low} is above maxReplicas {high}", "swap them")
    _check_scaling(document)
    model = predictor.get("model")
    if model is None or model["modelFormat"]["name"] != "tensorflow":
        return
    for name in read_flags(model.get("args") or [], location):
        if name in _RUNTIME_FLAGS:
            location.error(f"--{name} is already set by KServe's runtime", "remove it")
    uri = model.get("storageUri", "")
    if not uri:
        location.error(
            "the model has no storageUri", "write pvc://bundles/MODEL, or the URI of a bucket"
        )
        return
    claim = re.fullmatch(r"pvc://([^/]+)/(.+)", uri)
    if claim is None or bundles is None:
        location.warn(
            f"the versions under {uri} were not checked",
            "specify --bundles DIR, the content of the claim" if claim else "check them by hand",
        )
        return
    check_model_folder(Path(claim[2]).name, bundles / claim[2], location)


def _check_scaling(document: Document) -> None:
    """The rules of KServe's admission webhook, which depend on annotations."""
    location, predictor = document.location, document.data["spec"]["predictor"]
    annotations = document.data["metadata"].get("annotations") or {}
    mode, scaler = annotations.get(_MODE, ""), annotations.get(_SCALER, "")
    if mode and mode not in _MODES:
        location.error(
            f"{_MODE} is {mode!r}, which is not a mode of KServe", f"write {_STANDARD[0]}"
        )
        return
    by_resources = (mode in _STANDARD and scaler == "hpa") or (
        mode not in _STANDARD and annotations.get(_KNATIVE_SCALER, "").startswith("hpa.")
    )
    metric = predictor.get("scaleMetric")
    target = predictor.get("scaleTarget", 1)
    if metric in _RESOURCES and not by_resources:
        location.error(
            f"scaleMetric {metric} is rejected: in {mode or 'the default'} mode with "
            f"{f'autoscaler class {scaler}' if scaler else 'no autoscaler class'} pods are not "
            "scaled by cpu or memory",
            f"annotate it with {_MODE}: {_STANDARD[0]} and {_SCALER}: hpa, or scale by concurrency",
        )
    elif metric in _RESOURCES and mode == "RawDeployment":
        location.warn(
            f"KServe 0.16 and newer reject scaleMetric {metric} in RawDeployment mode",
            f"write {_STANDARD[0]}, the current name of the mode",
        )
    elif metric is not None and metric not in _RESOURCES and (by_resources or mode in _STANDARD):
        location.error(
            f"scaleMetric {metric} needs Knative's autoscaler, which is not used here",
            f"write one of {', '.join(_RESOURCES)}, or {_MODE}: Knative",
        )
    if metric == "cpu" and not 1 <= target <= 100:
        location.error(
            f"scaleTarget {target} is not a percentage of the requested cpu", "write 1 to 100"
        )
    if mode in _STANDARD and predictor.get("minReplicas", 1) == 0:
        location.warn("minReplicas is 0, and only Knative scales to zero", "write 1")
