"""KServe's InferenceService: its flags, its replicas, and the model that it names."""

import re
from pathlib import Path

from serving.deploy.check.flags import read_flags
from serving.deploy.check.models import check_model_folder
from serving.deploy.check.sources import Document

#: KServe's runtime for TensorFlow gives TF Serving these itself.
_RUNTIME_FLAGS = ("model_name", "port", "rest_api_port", "model_base_path")


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
