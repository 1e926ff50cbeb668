"""Vertex AI's contract for custom containers: variables, health and predict routes.

https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import bundle as bundles
from serving.limits import DEFAULT_LIMITS
from serving.server.errors import ServerError, ServingError, invalid
from serving.server.http.json_parse import parse
from serving.server.http.pages import ready_response
from serving.server.http.web import INLINE_BYTES, Handler, Page, Response, error_response, inflated
from serving.server.observability.health import Readiness

_DEFAULT_PORT = 8080
_DEFAULT_HEALTH = "/health"
_DEFAULT_PREDICT = "/predict"
_PARAMETERS = ("signature_name",)


@dataclass(frozen=True)
class VertexOptions:
    """The settings that Vertex AI passes to a container.

    Attributes:
      port: to listen on.
      health_route: 200 when the model is served.
      predict_route: takes `{"instances": [...], "parameters": {...}}`.
      model_dir: from AIP_STORAGE_URI, None when there is none.
    """

    port: int = _DEFAULT_PORT
    health_route: str = _DEFAULT_HEALTH
    predict_route: str = _DEFAULT_PREDICT
    model_dir: Path | None = None


def read_vertex_options(environ: Mapping[str, str]) -> VertexOptions:
    """The options in a container's environment.

    Raises:
      ServerError: an invalid variable.
    """
    mode = environ.get("AIP_MODE", "PREDICTION")
    if mode != "PREDICTION":
        raise ServerError(f"AIP_MODE is {mode}; this container serves predictions only")
    port = environ.get("AIP_HTTP_PORT", str(_DEFAULT_PORT))
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ServerError(f"AIP_HTTP_PORT must be a port, 1 to 65535, got {port!r}")
    health = _route(environ, "AIP_HEALTH_ROUTE", _DEFAULT_HEALTH)
    predict = _route(environ, "AIP_PREDICT_ROUTE", _DEFAULT_PREDICT)
    if health == predict:
        raise ServerError(f"AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are both {health}")
    model_dir = _model_dir(environ.get("AIP_STORAGE_URI", ""))
    return VertexOptions(int(port), health, predict, model_dir)


def _route(environ: Mapping[str, str], name: str, default: str) -> str:
    route = environ.get(name) or default
    if not route.startswith("/"):
        raise ServerError(f"{name} must begin with /, got {route!r}")
    return route


def _model_dir(uri: str) -> Path | None:
    if not uri:
        return None
    if "://" in uri and not uri.startswith("file://"):
        raise ServerError(
            f"AIP_STORAGE_URI is {uri}; this server reads local folders. Copy the model into the "
            "image, or mount the bucket with Cloud Storage FUSE, and name that folder with "
            "--model_base_path"
        )
    path = Path(uri.removeprefix("file://"))
    if not path.is_dir():
        raise ServerError(f"AIP_STORAGE_URI: {path} is no folder")
    return path


@contextlib.contextmanager
def model_base_path(path: Path, parent: Path | None = None) -> Iterator[Path]:
    """A folder of numbered versions: `path`, or a temporary one with `path` as version 1.

    Vertex AI copies the files of a model without a version folder.

    Args:
      path: folder of the model.
      parent: parent of the temporary folder; None uses the system's.
    """
    if not (path / bundles.SAVED_MODEL_FILE).is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sightline-vertex-", dir=parent) as base:
        (Path(base) / "1").symlink_to(path.resolve(), target_is_directory=True)
        yield Path(base)


def vertex_page(
    options: VertexOptions,
    readiness: Readiness,
    rest: Handler,
    *,
    model_of: Callable[[], str],
    max_inflated_bytes: int = DEFAULT_LIMITS.max_inflated_bytes,
) -> Page:
    """The two routes.

    Args:
      options: from the environment.
      readiness: of the server.
      rest: TF Serving's API.
      model_of: returns the name of the model.
      max_inflated_bytes: of a body in gzip.
    """

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path == options.health_route and method in ("GET", "HEAD"):
            return ready_response(readiness)
        if path != options.predict_route or method != "POST":
            return None
        try:
            document = await _document(headers, body, max_inflated_bytes)
        except ServingError as error:
            return error_response(error)
        plain = {name: value for name, value in headers.items() if name != "content-encoding"}
        return await rest("POST", f"/v1/models/{model_of()}:predict", plain, document)

    return page


async def _document(headers: Mapping[str, str], body: bytes, limit: int) -> bytes:
    # A compressed body may inflate to any size.
    if len(body) <= INLINE_BYTES and "content-encoding" not in headers:
        return tf_serving_document(body)
    return await asyncio.to_thread(lambda: tf_serving_document(inflated(headers, body, limit)))


def tf_serving_document(body: bytes) -> bytes:
    """TF Serving's form of a predict request of Vertex AI; the responses are equal.

    Raises:
      ServingError: no list of instances, or an unknown parameter.
    """
    document = parse(body)
    if not isinstance(document, dict) or not isinstance(document.get("instances"), list):
        raise invalid('a request is {"instances": [...], "parameters": {...}}')
    parameters: Any = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise invalid(f"`parameters` is an object with {', '.join(_PARAMETERS)}")
    unknown = sorted(set(parameters) - set(_PARAMETERS))
    if unknown:
        raise invalid(f"unknown parameters {unknown}; known are {list(_PARAMETERS)}")
    if not parameters:
        return body
    kept = {"instances": document["instances"], **parameters}
    try:
        text = json.dumps(kept, ensure_ascii=False)
    except RecursionError as error:
        raise invalid("the request is nested too deeply") from error
    # Bytes that are not UTF-8 are passed on unchanged.
    return text.encode("utf-8", "surrogateescape")
