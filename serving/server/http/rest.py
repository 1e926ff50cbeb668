"""TF Serving's REST API: its routes, and a handler without sockets."""

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.http import json_encode
from serving.server.http.json_decode import decode_predict, read_document
from serving.server.http.json_examples import decode_examples
from serving.server.http.web import JSON, Response, error_response, inflate, preflight
from serving.server.models import inference
from serving.server.models.manager import ModelManager
from serving.server.models.protos import status_response
from serving.server.models.servable import Servable
from serving.server.models.tensors import check_examples
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps
from serving.server.scheduling.dispatch import Dispatcher

_LOG = logging.getLogger(__name__)

#: Every other path is a 404 without a body.
_API_PATH = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<verb>metadata))?", re.IGNORECASE
)
_MAX_VERSION = 2**63 - 1
#: The option's name before and since protobuf 5.
_PRINT_DEFAULTS = next(
    name
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToJson).parameters
)
_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


class VersionOverflowError(ServingError):
    """A version beyond int64, for which TF Serving's response has no body."""


@dataclass(frozen=True)
class Route:
    """The parts of a path.

    Attributes:
      name: the model, percent-decoded; empty when the path has none.
      version: or None.
      label: percent-decoded, or None.
      verb: as in the path: `predict`, `classify`, `regress`, `metadata`, or empty for the status.
    """

    name: str
    version: int | None
    label: str | None
    verb: str


def parse_route(method: str, path: str) -> Route | None:
    """The route of a request, None when no pattern matches.

    Args:
      method: `GET` or `POST`; no other has a route.
      path: percent-encoded, so that a name may hold `/` and `:`.

    Raises:
      VersionOverflowError: the version does not fit int64.
    """
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    found = pattern.fullmatch(path) if pattern else None
    if not found:
        return None
    version = found["version"]
    # The length is checked first: Python refuses to parse thousands of digits.
    digits = version and (version.lstrip("0") or "0")
    if digits is not None and (len(digits) > 19 or int(digits) > _MAX_VERSION):
        raise VersionOverflowError(
            "INVALID_ARGUMENT", f"Failed to convert version: {version} to numeric."
        )
    return Route(
        name=_decode(found["name"] or ""),
        version=None if digits is None else int(digits),
        label=None if found["label"] is None else _decode(found["label"]),
        verb=found["verb"] or "",
    )


def _decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


class RestHandler:
    """Turns requests into responses, without sockets."""

    def __init__(
        self,
        models: ModelManager,
        metrics: Metrics,
        dispatcher: Dispatcher,
        *,
        monitoring_path: str | None = None,
        timeout_ms: int = 0,
        hooks: Hooks = NO_HOOKS,
        metrics_text: Callable[[], str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Creates the handler.

        Args:
          models: the served models.
          metrics: count every request.
          dispatcher: runs requests outside the event loop.
          monitoring_path: of the metrics; None does not serve them.
          timeout_ms: of one request; 0 sets no bound.
          hooks: optional features around a call.
          metrics_text: the text of the metrics; None uses that of `metrics`.
          limits: of one request's memory.
        """
        self._models = models
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._monitoring_path = monitoring_path
        self._timeout_s = timeout_ms / 1000 or None
        self._hooks = hooks
        self._metrics_text = metrics_text or metrics.text
        self._limits = limits

    async def handle(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """The response to one request; no request makes it raise.

        Args:
          method: upper case.
          path: percent-encoded, without the query.
          headers: with lower-case names.
          body: complete.
        """
        if method == "GET" and path == self._monitoring_path:
            return Response(200, self._metrics_text().encode(), {"Content-Type": "text/plain"})
        if _API_PATH.fullmatch(path) is None:
            return Response(404)
        if method == "OPTIONS":
            return preflight(headers)
        try:
            content = await self._route(method, path, headers, body)
        except VersionOverflowError as error:
            return Response(error.http_status, b"", {"Content-Type": JSON})
        except ServingError as error:
            return error_response(error)
        except Exception:
            # A bug of the server: the log gets the trace.
            _LOG.exception("%s %s", method, path)
            text = json_encode.encode_error("internal error; the server's log has the details")
            return Response(500, text, {"Content-Type": JSON})
        return Response(200, content, {"Content-Type": JSON})

    async def _route(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        route = parse_route(method, path)
        # The pattern ignores case, this comparison does not: `:PREDICT` is malformed.
        if route is None or (method == "POST" and route.verb not in _APIS):
            # TF Serving never responds with 405.
            raise invalid(f"Malformed request: {method} {path}")
        if method == "POST":
            return await self._call(route, headers, body)
        if route.verb == "metadata":
            with self._models.use(route.name, route.version, route.label) as servable:
                return _metadata_json(servable)
        if not route.name:
            raise invalid("Missing model name in request.")
        # TF Serving ignores a label here, known or not.
        return _to_json(status_response(self._models.status(route.name, route.version)))

    async def _call(self, route: Route, headers: Mapping[str, str], body: bytes) -> bytes:
        api = _APIS[route.verb]
        # Unknown names must not become metrics: clients can invent any number of them.
        name = route.name if self._models.knows(route.name) else ""
        with self._metrics.counting(name, api, "REST"):
            version, label = self._hooks.choose_version(
                route.name, route.version, route.label, headers
            )
            chosen = replace(route, version=version, label=label)
            steps = self._steps(chosen, headers, body)
            steps = self._hooks.traced(steps, f"{api} {name}", headers)
            return await self._dispatcher.run(steps, timeout=self._timeout_s)

    def _steps(self, route: Route, headers: Mapping[str, str], body: bytes) -> Steps[bytes]:
        # As in TF Serving, a damaged body counts as empty.
        plain = inflate(headers, body, self._limits.max_inflated_bytes)
        document = read_document(plain or b"")
        run = self._predict if route.verb == "predict" else self._examples
        return (yield from run(route, document))

    def _predict(self, route: Route, document: dict[str, Any]) -> Steps[bytes]:
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        with self._models.use(route.name, route.version, route.label) as servable:
            signature = servable.engine.signatures.get(name)
            if signature is None:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise invalid(f"Failed to get input map for signature: {name}")
            dtypes = {key: info.dtype for key, info in signature.inputs.items()}
            row, inputs = decode_predict(document, dtypes)
            outputs = yield from self._hooks.call("Predict", servable, name, inputs)
        return json_encode.encode_predict(outputs, row=row)

    def _examples(self, route: Route, document: dict[str, Any]) -> Steps[bytes]:
        examples = decode_examples(document)
        signature = document.get("signature_name", "")
        with self._models.use(route.name, route.version, route.label) as servable:
            check_examples(examples, self._limits.max_repeated_bytes)
            result = yield from self._hooks.call(_APIS[route.verb], servable, signature, examples)
        if route.verb == "regress":
            return json_encode.encode_regressions([entry.value for entry in result.regressions])
        return json_encode.encode_classifications(
            [[(c.label, c.score) for c in entry.classes] for entry in result.classifications]
        )


def _metadata_json(servable: Servable) -> bytes:
    response = inference.metadata(servable, ["signature_def"])
    signatures = inference.signature_map(response)
    spec, listed = _to_json(response.model_spec), _to_json(signatures)
    return b'{\n"model_spec":%s,\n"metadata": {"signature_def": %s}\n}\n' % (spec, listed)


def _to_json(message: Any) -> bytes:
    """Proto3 JSON under the proto's own names, with default values written out."""
    options: dict[str, Any] = {"preserving_proto_field_name": True, _PRINT_DEFAULTS: True}
    return json_format.MessageToJson(message, **options).encode()
