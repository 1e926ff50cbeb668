"""Clients of a server that speaks TF Serving's API. REST needs `numpy` and `requests` only.

client = connect("http://127.0.0.1:8501")
client.predict(["seven.png"], model="digits_cnn")[0].label
"""

import base64
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

from serving import bundle as bundles
from serving.images import Image, encoded_image
from serving.types import (
    ModelVersion,
    Prediction,
    prediction_from_top,
    predictions_from_scores,
)

if TYPE_CHECKING:
    from serving.grpc_client import GrpcClient

#: Answers after which the same request may succeed a moment later.
_RETRIED = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S = 0.1


class ClientError(RuntimeError):
    """The server refused the request or could not be reached.

    Attributes:
      status: HTTP status or gRPC code, as text; empty when there was no answer.
    """

    def __init__(self, message: str, status: str = "") -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Calls one server over REST. Use one client a thread."""

    def __init__(self, url: str, *, timeout_s: float = 30.0, retries: int = 3) -> None:
        """Connects at the first call.

        Args:
          url: e.g. `http://127.0.0.1:8501`.
          timeout_s: for each try.
          retries: after no connection, 429, 502, 503 or 504, with growing waits.
        """
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._session = requests.Session()

    def predict(
        self,
        images: Sequence[Image],
        *,
        model: str,
        version: int | None = None,
        top_k: int | None = None,
    ) -> list[Prediction]:
        """One prediction an image, in order; [] for no images.

        Args:
          images: paths, encoded bytes, or (H, W, 3) uint8 arrays, which travel as PNG.
          model: its name on the server.
          version: None is the newest.
          top_k: cuts the list of classes; the model decides how many there are at most.

        Raises:
          ClientError: with the server's reason.
          FileNotFoundError: a path to nothing.
        """
        if not images:
            return []
        coded = [base64.b64encode(encoded_image(image)).decode() for image in images]
        body = {
            "signature_name": bundles.SIGNATURE_BYTES,
            "instances": [{"b64": text} for text in coded],
        }
        answer = self._call("POST", f"{_path(model, version)}:predict", body)
        try:
            return [
                prediction_from_top(row["labels"], row["classes"], row["scores"], top_k)
                for row in answer["predictions"]
            ]
        except (KeyError, TypeError, IndexError) as error:
            got = str(answer)[:200]
            raise ClientError(f"{model} does not answer as a classifier: {got}") from error

    def status(self, model: str) -> list[ModelVersion]:
        """The model's versions that the server knows of, newest first.

        Raises:
          ClientError: no such model, or no server.
        """
        answer = self._call("GET", _path(model, None))
        return [_version(entry) for entry in answer["model_version_status"]]

    def metadata(self, model: str, version: int | None = None) -> dict[str, Any]:
        """TF Serving's metadata answer: `model_spec`, and the signatures under `metadata`.

        Raises:
          ClientError: no such model or version, or no server.
        """
        return self._call("GET", f"{_path(model, version)}/metadata")

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                answer = self._session.request(
                    method, self.url + path, json=body, timeout=self._timeout_s
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                if last:
                    raise ClientError(
                        f"no answer from {self.url}: {error}; is `sightline serve` running there?"
                    ) from error
            else:
                if answer.ok:
                    return answer.json()
                if last or answer.status_code not in _RETRIED:
                    raise ClientError(_reason(answer), str(answer.status_code))
            # Jitter keeps many clients from coming back at the same moment.
            time.sleep(_FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("the last attempt returns or raises")


def connect(url: str, *, timeout_s: float = 30.0, retries: int = 3) -> "Client | GrpcClient":
    """A client for `http://host:8501`, `https://...` or `grpc://host:8500`.

    Raises:
      ClientError: another kind of address.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("http", "https") and separator:
        return Client(url, timeout_s=timeout_s, retries=retries)
    if scheme == "grpc" and separator:
        from serving.grpc_client import GrpcClient

        return GrpcClient(rest.rstrip("/"), timeout_s=timeout_s, retries=retries)
    raise ClientError(f"{url!r} is no address; write http://host:8501 or grpc://host:8500")


def predict_local(
    bundle_path: Path | str,
    images: Sequence[Image],
    *,
    variant: str = bundles.SAVED_MODEL,
    top_k: int | None = None,
) -> list[Prediction]:
    """Predictions without a server, from one variant of a bundle.

    Args:
      bundle_path: the folder of a model or of one version.
      images: paths, encoded bytes, or (H, W, 3) uint8 arrays.
      variant: `saved_model` or the name of a TFLite variant.
      top_k: None is what the bundle's server answers with.

    Raises:
      BundleError: no such bundle or variant.
      EngineError: an image that cannot be decoded.
      FileNotFoundError: a path to nothing.
    """
    from serving.engine import open_engine

    coded = [encoded_image(image) for image in images]
    with open_engine(bundle_path, variant) as engine:
        scores = engine.predict_bytes(coded)
        bundle = engine.bundle
    return predictions_from_scores(scores, bundle.labels, top_k or bundle.manifest.top_k)


def _path(model: str, version: int | None) -> str:
    path = f"/v1/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _version(entry: Mapping[str, Any]) -> ModelVersion:
    status = entry.get("status", {})
    code = status.get("error_code", "OK")
    error = "" if code == "OK" else f"{code}: {status.get('error_message', '')}"
    return ModelVersion(version=int(entry["version"]), state=entry["state"], error=error)


def _reason(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code} {answer.reason} from {answer.url}"
