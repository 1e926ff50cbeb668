"""The protocol over HTTP: `/v2/...`, with tensors in JSON or in binary after the JSON."""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.limits import DEFAULT_LIMITS
from serving.server.errors import ServingError, invalid
from serving.server.http.json_parse import parse
from serving.server.http.web import JSON, Page, Response, error_response, inflated, json_response
from serving.server.v2 import tensors
from serving.server.v2.service import (
    SIGNATURE_PARAMETER,
    InferCall,
    InferRequest,
    InferResponse,
    OpenInference,
)

_LOG = logging.getLogger(__name__)
_MODEL = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?"
)
#: Bytes of the body that are JSON; the rest is tensors.
_JSON_LENGTH = "inference-header-content-length"
_MOST_DIGITS = 20


def open_inference_page(
    service: OpenInference,
    *,
    timeout_ms: int = 0,
    max_inflated_bytes: int = DEFAULT_LIMITS.max_inflated_bytes,
) -> Page:
    """Everything under `/v2`.

    Args:
      service: the calls.
      timeout_ms: of one inference; 0 sets no bound.
      max_inflated_bytes: of a body in gzip.
    """

    async def infer(found: re.Match[str], headers: Mapping[str, str], body: bytes) -> Response:
        call = _infer_call(found, headers, body, max_inflated_bytes)
        return await service.infer(call, headers=headers, timeout=timeout_ms / 1000 or None)

    async def page(
        method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response | None:
        if path != "/v2" and not path.startswith("/v2/"):
            return None
        try:
            found = _MODEL.fullmatch(path)
            if found and found["verb"] == "infer":
                if method != "POST":
                    return _wrong_method("POST")
                return await infer(found, headers, body)
            if method not in ("GET", "HEAD"):
                return _wrong_method("GET, HEAD")
            return _get(service, path, found)
        except ServingError as error:
            return error_response(error)
        except Exception:
            # A bug of the server: the log gets the trace.
            _LOG.exception("%s %s", method, path)
            return json_response(500, {"error": "internal error; the server's log has the details"})

    return page


def _get(service: OpenInference, path: str, found: re.Match[str] | None) -> Response:
    if found:
        name, version = unquote(found["name"]), unquote(found["version"] or "")
        if found["verb"] == "ready":
            ready = service.model_ready(name, version)
            return json_response(200 if ready else 503, {"name": name, "ready": ready})
        return json_response(200, service.model_metadata(name, version))
    path = path.rstrip("/")
    if path == "/v2":
        name, version, extensions = service.server_metadata()
        server = {"name": name, "version": version, "extensions": list(extensions)}
        return json_response(200, server)
    if path == "/v2/health/live":
        return json_response(200, {"live": True})
    if path == "/v2/health/ready":
        ready = service.server_ready()
        return json_response(200 if ready else 503, {"ready": ready})
    raise ServingError("NOT_FOUND", f"the Open Inference Protocol has no path {path}")


def _infer_call(
    found: re.Match[str], headers: Mapping[str, str], body: bytes, max_inflated_bytes: int
) -> InferCall[Response]:
    wants: dict[str, bool] = {}

    def read() -> InferRequest:
        document, rest = _split_body(headers, body, max_inflated_bytes)
        wants.update(_binary_outputs(document))
        return _request(document, rest)

    def write(request: InferRequest, response: InferResponse) -> Response:
        return _write(response, wants)

    return InferCall(unquote(found["name"]), unquote(found["version"] or ""), read, write)


def _split_body(
    headers: Mapping[str, str], body: bytes, limit: int
) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the binary data after it."""
    plain = inflated(headers, body, limit)
    length = headers.get(_JSON_LENGTH)
    if length is not None and not (
        # Python itself refuses to parse thousands of digits.
        length.isdigit() and len(length) < _MOST_DIGITS and int(length) <= len(plain)
    ):
        raise invalid(f"{_JSON_LENGTH} is {length[:40]!r}, the body has {len(plain)} bytes")
    size = len(plain) if length is None else int(length)
    document = parse(plain[:size])
    if not isinstance(document, dict):
        raise invalid("the request is not a JSON object")
    return document, plain[size:]


def _request(document: dict[str, Any], rest: bytes) -> InferRequest:
    inputs: dict[str, np.ndarray] = {}
    for entry in _objects(document, "inputs"):
        name = _text(entry, "name", "an input")
        if name in inputs:
            raise invalid(f"input {name!r} is given twice")
        inputs[name], rest = _input(entry, name, rest)
    if rest:
        raise invalid(f"{len(rest)} bytes of binary data belong to no input")
    outputs = [_text(entry, "name", "an output") for entry in _objects(document, "outputs")]
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise invalid("the id of a request is text")
    return InferRequest(
        inputs=inputs,
        outputs=tuple(outputs),
        signature=_text(_parameters(document), SIGNATURE_PARAMETER, "", DEFAULT_SIGNATURE),
        id=identity,
    )


def _input(entry: dict[str, Any], name: str, rest: bytes) -> tuple[np.ndarray, bytes]:
    """The array, and the binary data of the further inputs."""
    datatype = _text(entry, "datatype", f"input {name!r}")
    shape = entry.get("shape")
    if not isinstance(shape, list):
        raise invalid(f"input {name!r} has no list of sizes as its shape")
    parameters = _parameters(entry)
    size = parameters.get("binary_data_size")
    if size is None:
        packed = parameters.get("content_type") == "base64"
        data = entry.get("data")
        return tensors.from_json(name, datatype, shape, data, base64_strings=packed), rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise invalid(f"input {name!r}: binary_data_size is {size!r}, {len(rest)} bytes are left")
    return tensors.from_raw(name, datatype, shape, rest[:size]), rest[size:]


def _binary_outputs(document: dict[str, Any]) -> dict[str, bool]:
    """Output name -> whether to send it in binary; the name "" stands for all others."""
    wants = {"": bool(_parameters(document).get("binary_data_output", False))}
    for entry in _objects(document, "outputs"):
        chosen = _parameters(entry).get("binary_data", wants[""])
        wants[_text(entry, "name", "an output")] = bool(chosen)
    return wants


def _write(response: InferResponse, wants: Mapping[str, bool]) -> Response:
    listed, binary = [], []
    for name, array in response.outputs.items():
        head = {
            "name": name,
            "shape": list(array.shape),
            "datatype": tensors.datatype_of(array),
        }
        # Half precision has no JSON form in the protocol, but every half is a JSON number.
        if wants.get(name, wants[""]):
            binary.append(tensors.to_raw(array))
            head["parameters"] = {"binary_data_size": len(binary[-1])}
            listed.append(json.dumps(head))
            continue
        data, packed = tensors.to_json_text(array)
        if packed:
            head["parameters"] = {"content_type": "base64"}
        listed.append(f'{json.dumps(head)[:-1]}, "data": {data}}}')
    body = {"model_name": response.model, "model_version": str(response.version)}
    if response.id:
        body["id"] = response.id
    text = f'{json.dumps(body)[:-1]}, "outputs": [{", ".join(listed)}]}}'.encode()
    if not binary:
        return Response(200, text, {"Content-Type": JSON})
    headers = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(text))}
    return Response(200, text + b"".join(binary), headers)


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise invalid(f"`{key}` is a list of objects")
    return entries


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("`parameters` is an object")
    return parameters


def _text(entry: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise invalid(f"{where or 'the request'} has no text as its {key}")
    return value


def _wrong_method(allowed: str) -> Response:
    refused = json_response(405, {"error": f"this path takes {allowed}"})
    return Response(refused.status, refused.body, {**refused.headers, "Allow": allowed})
