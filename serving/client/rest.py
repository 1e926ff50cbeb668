"""TF Serving's REST API. `requests` only."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import requests

from serving.client.address import Address, Tls
from serving.client.api import Columns, Example, Steps, Target
from serving.client.connections import Hold, new_session
from serving.client.errors import ClientError, Failure
from serving.client.http import BUSY, Sessions, read_body, retry_after_s, send
from serving.client.rest_values import json_example, json_input, misfit, outputs_from_json
from serving.client.retry import Deadline
from serving.client.signatures import Signatures
from serving.protocol.types import ModelVersion, Signature


@dataclass(frozen=True)
class RestRequest:
    """A request, whole: `path` begins with a slash, `body` is JSON."""

    method: str
    path: str
    body: bytes | None = None


class RestApi:
    """`serving.client.api.Api` as JSON."""

    def __init__(self) -> None:
        self._signatures = Signatures()

    def images(self, coded: list[bytes], target: Target, signature: str) -> Steps[Columns]:
        """Row form, which needs no name for the input."""
        rows = [{"b64": base64.b64encode(image).decode()} for image in coded]
        body = {"signature_name": signature, "instances": rows}
        answer = yield _post(target, "predict", body)
        found = answer.get("predictions")
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            # One output only, which comes without its name: nothing that an image's answer has.
            return {}
        names = set.intersection(*(set(row) for row in found)) if found else set()
        return {name: [row[name] for row in found] for name in names}

    def run(
        self, inputs: Mapping[str, np.ndarray], target: Target, signature: str
    ) -> Steps[dict[str, np.ndarray]]:
        """Column form; for the types the metadata is asked for as well, once in a while."""
        body = {
            "signature_name": signature,
            "inputs": {name: json_input(name, array) for name, array in inputs.items()},
        }
        read = self._signatures.get(target, signature)
        # What was told a while ago may be another version's.
        old = read is not None and not misfit(inputs, read)
        if read is None or not old:
            read = yield from self._learn(target, signature)
        if words := misfit(inputs, read):
            raise ValueError(f"{target}, signature {signature!r}: {words}")
        answer = yield _post(target, "predict", body)
        try:
            return outputs_from_json(answer.get("outputs"), read, exact=old)
        except ValueError as error:
            if not old:
                raise ClientError(f"{target}: {error}") from error
        read = yield from self._learn(target, signature)
        try:
            return outputs_from_json(answer.get("outputs"), read)
        except ValueError as error:
            raise ClientError(f"{target}: {error}") from error

    def classify(
        self, examples: Sequence[Example], target: Target, signature: str
    ) -> Steps[list[list[tuple[str, float]]]]:
        """Pairs as the server wrote them."""
        answer = yield _post(target, "classify", _examples(examples, signature))
        lists = _member(answer, "results")
        return [[(label, float(score)) for label, score in pairs] for pairs in lists]

    def regress(
        self, examples: Sequence[Example], target: Target, signature: str
    ) -> Steps[np.ndarray]:
        """(B,) float32."""
        answer = yield _post(target, "regress", _examples(examples, signature))
        return np.array(_member(answer, "results"), np.float32)

    def status(self, target: Target) -> Steps[list[ModelVersion]]:
        """In the server's order."""
        answer = yield RestRequest("GET", _path(target))
        found = [_version(entry) for entry in _member(answer, "model_version_status")]
        served = [entry.version for entry in found if entry.state == "AVAILABLE"]
        if target.version is None and target.label is None and served:
            self._signatures.heard_version(target, str(max(served)))
        return found

    def metadata(self, target: Target) -> Steps[dict[str, Any]]:
        """The answer as it is."""
        answer = yield RestRequest("GET", f"{_path(target)}/metadata")
        self._signatures.heard_metadata(target, answer)
        return answer

    def _learn(self, target: Target, signature: str) -> Steps[Signature]:
        metadata = yield from self.metadata(target)
        return self._signatures.learn(target, signature, metadata)


class RestTransport:
    """Sends one try of a `RestRequest`. Any thread may use it."""

    def __init__(self, address: Address, tls: Tls, headers: Mapping[str, str]) -> None:
        self._url = address.url
        self._tls = tls
        self._headers = headers
        self._sessions = Sessions(self._session)

    def send(self, request: RestRequest, timeout_s: float) -> Any:
        """The JSON answer.

        Raises:
          Failure: no answer, or a refusal.
        """
        return self.send_held(request, Hold(Deadline(timeout_s)))

    def send_held(self, request: RestRequest, hold: Hold) -> Any:
        """The same, which another thread can end.

        Raises:
          ClientError: there is no time left.
          Failure: no answer, or a refusal.
        """
        url, deadline = self._url + request.path, hold.deadline
        with (
            self._sessions.borrow() as session,
            hold.during(),
            send(session, request.method, url, deadline, body=request.body) as answer,
        ):
            content = read_body(answer, deadline) or b""
        if answer.status_code != requests.codes.ok:
            raise Failure(
                _reason(answer, content),
                str(answer.status_code),
                again=answer.status_code in BUSY,
                wait_s=retry_after_s(answer.headers.get("Retry-After")),
            )
        return _document(url, content)

    def close(self) -> None:
        """Ends the connections."""
        self._sessions.close()

    def _session(self) -> requests.Session:
        session = new_session()
        session.headers.update(self._headers)
        # Proxies and roots of the environment, read once and not at every request. A ~/.netrc is
        # not asked: it would replace an Authorization header.
        found = session.merge_environment_settings(self._url, {}, None, None, None)
        session.trust_env = False
        session.proxies.update(found["proxies"])
        session.verify = found["verify"] if self._tls.roots is None else str(self._tls.roots)
        if self._tls.certificate is not None:
            session.cert = (str(self._tls.certificate), str(self._tls.key))
        return session


def _document(url: str, content: bytes) -> Any:
    """The JSON object; bytes that are no UTF-8 (of string tensors) come through unharmed."""
    try:
        document = json.loads(content.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise Failure(f"{url} does not answer in JSON: {content[:100]!r}") from error
    if not isinstance(document, dict):
        raise Failure(f"{url} does not answer as TF Serving: {content[:100]!r}")
    return document


def _reason(answer: requests.Response, content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        where = answer.headers.get("Location")
        detail = f"; it points to {where}, use that address" if where else ""
        return f"HTTP {answer.status_code} {answer.reason} from {answer.url}{detail}"


def _member(answer: Mapping[str, Any], name: str) -> list[Any]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise ClientError(f"not an answer of TF Serving, it has no {name!r}: {str(answer)[:200]}")
    return found


def _post(target: Target, verb: str, body: Mapping[str, Any]) -> RestRequest:
    return RestRequest("POST", f"{_path(target)}:{verb}", json.dumps(body).encode())


def _examples(examples: Sequence[Example], signature: str) -> dict[str, Any]:
    listed = [json_example(example) for example in examples]
    return {"signature_name": signature, "examples": listed}


def _path(target: Target) -> str:
    path = f"/v1/models/{quote(target.model, safe='')}"
    if target.label is not None:
        return f"{path}/labels/{quote(target.label, safe='')}"
    return path if target.version is None else f"{path}/versions/{target.version}"


def _version(entry: Mapping[str, Any]) -> ModelVersion:
    status = entry.get("status", {})
    code = status.get("error_code", "OK")
    error = "" if code == "OK" else f"{code}: {status.get('error_message', '')}"
    return ModelVersion(version=int(entry["version"]), state=entry["state"], error=error)
