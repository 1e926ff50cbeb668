"""TF Serving's REST API; needs only `requests`."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import requests

from serving.client.address import Address, Tls
from serving.client.api import Columns, Example, ModelSpec, Steps, signature_of
from serving.client.connections import ActiveRequest, new_session
from serving.client.errors import ClientError, Failure
from serving.client.http import BUSY, Sessions, read_body, retry_after_s, send
from serving.client.rest_values import json_example, json_input, mismatch, outputs_from_json
from serving.client.retry import Deadline
from serving.protocol.types import ModelVersion, Signature

#: Seconds until cached signatures of a model without a fixed version expire: another version may be
#: the newest by then, and a response does not name its version.
KEPT_S = 60.0


@dataclass(frozen=True)
class RestRequest:
    """A request; `path` starts with a slash, `body` is JSON."""

    method: str
    path: str
    body: bytes | None = None


class RestApi:
    """`serving.client.api.Api` over JSON."""

    def __init__(self) -> None:
        self._signatures = Signatures()

    def images(self, encoded: list[bytes], spec: ModelSpec, signature: str) -> Steps[Columns]:
        """Row format, which needs no input name."""
        rows = [{"b64": base64.b64encode(image).decode()} for image in encoded]
        body = {"signature_name": signature, "instances": rows}
        response = yield _post(spec, "predict", body)
        found = response.get("predictions")
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            # A single output has no name, so it is neither a classifier's nor a detector's.
            return {}
        names = set.intersection(*(set(row) for row in found)) if found else set()
        return {name: [row[name] for row in found] for name in names}

    def run(
        self, inputs: Mapping[str, np.ndarray], spec: ModelSpec, signature: str
    ) -> Steps[dict[str, np.ndarray]]:
        """Column format; requests the metadata for the types, and caches it for a minute."""
        body = {
            "signature_name": signature,
            "inputs": {name: json_input(name, array) for name, array in inputs.items()},
        }
        read = self._signatures.get(spec, signature)
        # A cached signature may belong to another version.
        old = read is not None and not mismatch(inputs, read)
        if read is None or not old:
            read = yield from self._fetch_signature(spec, signature)
        if problem := mismatch(inputs, read):
            raise ValueError(f"{spec}, signature {signature!r}: {problem}")
        response = yield _post(spec, "predict", body)
        try:
            return outputs_from_json(response.get("outputs"), read, exact=old)
        except ValueError as error:
            if not old:
                raise ClientError(f"{spec}: {error}") from error
        read = yield from self._fetch_signature(spec, signature)
        try:
            return outputs_from_json(response.get("outputs"), read)
        except ValueError as error:
            raise ClientError(f"{spec}: {error}") from error

    def classify(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[list[list[tuple[str, float]]]]:
        """The server's pairs."""
        response = yield _post(spec, "classify", _examples(examples, signature))
        lists = _member(response, "results")
        return [[(label, float(score)) for label, score in pairs] for pairs in lists]

    def regress(
        self, examples: Sequence[Example], spec: ModelSpec, signature: str
    ) -> Steps[np.ndarray]:
        """(B,) float32."""
        response = yield _post(spec, "regress", _examples(examples, signature))
        return np.array(_member(response, "results"), np.float32)

    def status(self, spec: ModelSpec) -> Steps[list[ModelVersion]]:
        """In the server's order."""
        response = yield RestRequest("GET", _path(spec))
        found = [_version(entry) for entry in _member(response, "model_version_status")]
        served = [entry.version for entry in found if entry.state == "AVAILABLE"]
        if spec.version is None and spec.label is None and served:
            self._signatures.keep_version(spec, str(max(served)))
        return found

    def metadata(self, spec: ModelSpec) -> Steps[dict[str, Any]]:
        """The response as it is."""
        response = yield RestRequest("GET", f"{_path(spec)}/metadata")
        self._signatures.keep_version_of(spec, response)
        return response

    def _fetch_signature(self, spec: ModelSpec, signature: str) -> Steps[Signature]:
        metadata = yield from self.metadata(spec)
        return self._signatures.store(spec, signature, metadata)


@dataclass(frozen=True)
class _Cached:
    version: str
    at: float
    signatures: dict[str, Signature]


class Signatures:
    """Signatures by model; safe to use from several threads."""

    def __init__(self) -> None:
        self._cached: dict[ModelSpec, _Cached] = {}

    def get(self, spec: ModelSpec, name: str) -> Signature | None:
        """The cached signature; None if it is unknown or expired."""
        cached = self._cached.get(spec)
        if cached is None:
            return None
        if spec.version is None and time.monotonic() - cached.at > KEPT_S:
            return None
        return cached.signatures.get(name)

    def store(self, spec: ModelSpec, name: str, metadata: Mapping[str, Any]) -> Signature:
        """The signature in a metadata response, which is cached.

        Raises:
          ClientError: not a metadata response, or it has no such signature.
        """
        found = signature_of(metadata)
        if name not in found:
            raise ClientError(
                f"{spec} has no signature {name!r}; it has {', '.join(sorted(found))}"
            )
        signature, version = Signature.from_json(found[name]), _model_version(metadata)
        known = self._cached.get(spec)
        others = known.signatures if known is not None and known.version == version else {}
        self._cached[spec] = _Cached(version, time.monotonic(), {**others, name: signature})
        return signature

    def keep_version_of(self, spec: ModelSpec, metadata: Mapping[str, Any]) -> None:
        """Discards the signatures of other versions than the one in a metadata response."""
        self.keep_version(spec, _model_version(metadata))

    def keep_version(self, spec: ModelSpec, version: str) -> None:
        """Discards the signatures of other versions."""
        cached = self._cached.get(spec)
        if cached is not None and cached.version != version:
            self._cached.pop(spec, None)


class RestTransport:
    """Sends a `RestRequest` once; safe to use from several threads."""

    def __init__(self, address: Address, tls: Tls, headers: Mapping[str, str]) -> None:
        self._url = address.url
        self._tls = tls
        self._headers = headers
        self._sessions = Sessions(self._session)

    def send(self, request: RestRequest, timeout_s: float) -> Any:
        """The JSON response.

        Raises:
          Failure: no response, or an error response.
        """
        return self.send_cancelable(request, ActiveRequest(Deadline(timeout_s)))

    def send_cancelable(self, request: RestRequest, active: ActiveRequest) -> Any:
        """As `send`; another thread may cancel `active`.

        Raises:
          ClientError: the deadline has passed.
          Failure: no response, or an error response.
        """
        url, deadline = self._url + request.path, active.deadline
        with (
            self._sessions.borrow() as session,
            active.activate(),
            send(session, request.method, url, deadline, body=request.body) as response,
        ):
            content = read_body(response, deadline) or b""
        if response.status_code != requests.codes.ok:
            raise Failure(
                _reason(response, content),
                str(response.status_code),
                again=response.status_code in BUSY,
                wait_s=retry_after_s(response.headers.get("Retry-After")),
            )
        return _document(url, content)

    def close(self) -> None:
        """Closes the connections."""
        self._sessions.close()

    def _session(self) -> requests.Session:
        session = new_session()
        session.headers.update(self._headers)
        # Reads the environment's proxies and roots once rather than at every request, and not
        # ~/.netrc, which would replace an Authorization header.
        found = session.merge_environment_settings(self._url, {}, None, None, None)
        session.trust_env = False
        session.proxies.update(found["proxies"])
        session.verify = found["verify"] if self._tls.roots is None else str(self._tls.roots)
        if self._tls.certificate is not None:
            session.cert = (str(self._tls.certificate), str(self._tls.key))
        return session


def _document(url: str, content: bytes) -> Any:
    """The JSON object; bytes of string tensors that are not UTF-8 are preserved."""
    try:
        document = json.loads(content.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise Failure(f"the response of {url} is not JSON: {content[:100]!r}") from error
    if not isinstance(document, dict):
        raise Failure(f"the response of {url} is not a JSON object: {content[:100]!r}")
    return document


def _reason(response: requests.Response, content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        where = response.headers.get("Location")
        detail = f"; it redirects to {where}, use that address" if where else ""
        return f"HTTP {response.status_code} {response.reason} from {response.url}{detail}"


def _member(response: Mapping[str, Any], name: str) -> list[Any]:
    found = response.get(name)
    if not isinstance(found, list):
        raise ClientError(f"not a TF Serving response, it has no {name!r}: {str(response)[:200]}")
    return found


def _post(spec: ModelSpec, verb: str, body: Mapping[str, Any]) -> RestRequest:
    return RestRequest("POST", f"{_path(spec)}:{verb}", json.dumps(body).encode())


def _examples(examples: Sequence[Example], signature: str) -> dict[str, Any]:
    listed = [json_example(example) for example in examples]
    return {"signature_name": signature, "examples": listed}


def _path(spec: ModelSpec) -> str:
    path = f"/v1/models/{quote(spec.model, safe='')}"
    if spec.label is not None:
        return f"{path}/labels/{quote(spec.label, safe='')}"
    return path if spec.version is None else f"{path}/versions/{spec.version}"


def _version(entry: Mapping[str, Any]) -> ModelVersion:
    status = entry.get("status", {})
    code = status.get("error_code", "OK")
    error = "" if code == "OK" else f"{code}: {status.get('error_message', '')}"
    return ModelVersion(version=int(entry["version"]), state=entry["state"], error=error)


def _model_version(metadata: Mapping[str, Any]) -> str:
    spec = metadata.get("model_spec")
    return str(spec.get("version", "")) if isinstance(spec, Mapping) else ""
