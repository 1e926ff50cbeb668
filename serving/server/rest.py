"""The REST API: a handler that knows no sockets, and the ASGI application around it."""

import asyncio
import inspect
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from serving.server import inference, json_encode
from serving.server.errors import ServingError, invalid
from serving.server.json_decode import decode_predict, read_document
from serving.server.json_examples import decode_examples
from serving.server.metrics import Metrics
from serving.server.models import ModelManager, Servable
from serving.server.protos import status_response
from serving.server.routes import Route, VersionOverflowError, is_api, malformed, parse_route

_LOG = logging.getLogger(__name__)

#: TF Serving inflates a gzip request up to this.
_MAX_INFLATED = 100 * 2**20
#: A request of up to this many times the limit is read to its end before it is refused.
_DRAIN_FACTOR = 4
_JSON = "application/json"
#: The option's name before and since protobuf 5.
_PRINT_DEFAULTS = next(
    name
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToJson).parameters
)
_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


@dataclass(frozen=True)
class Response:
    """What goes back over HTTP."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class RestHandler:
    """Requests to responses. Any thread may call it."""

    def __init__(
        self,
        models: ModelManager,
        metrics: Metrics,
        *,
        monitoring_path: str | None = None,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._monitoring_path = monitoring_path

    def is_quick(self, method: str) -> bool:
        """Whether the request only reads what is in memory."""
        return method != "POST"

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """The answer to one request; never raises for what a client sent.

        Args:
          method: upper case.
          path: as sent, percent-encoded, without the query.
          headers: with lower-case names.
          body: whole.
        """
        if method == "GET" and path == self._monitoring_path:
            return Response(200, self._metrics.text().encode(), {"Content-Type": "text/plain"})
        if not is_api(path):
            return Response(404)
        if method == "OPTIONS":
            # TF Serving: FAILED_PRECONDITION without a body, unless CORS is switched on.
            return Response(400)
        try:
            answer = self._route(method, path, headers, body)
        except VersionOverflowError as error:
            return Response(error.http_status, b"", {"Content-Type": _JSON})
        except ServingError as error:
            text = json_encode.encode_error(error.message)
            return Response(error.http_status, text, {"Content-Type": _JSON})
        except Exception:
            # A fault of our own: the client gets an answer, the log gets the trace.
            _LOG.exception("%s %s", method, path)
            text = json_encode.encode_error("internal error; the server's log has the details")
            return Response(500, text, {"Content-Type": _JSON})
        return Response(200, answer, {"Content-Type": _JSON})

    def _route(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        route = parse_route(method, path)
        # The pattern ignores case, the comparison does not: `:PREDICT` is malformed.
        if route is None or (method == "POST" and route.verb not in _APIS):
            raise malformed(method, path)
        if method == "POST":
            return self._call(route, _inflate(headers, body))
        if route.verb == "metadata":
            return self._metadata(route)
        if not route.name:
            raise invalid("Missing model name in request.")
        # TF Serving ignores a label here, known or not.
        return _to_json(status_response(self._models.status(route.name, route.version)))

    def _call(self, route: Route, body: bytes) -> bytes:
        began = time.perf_counter()
        status = "INTERNAL"
        run = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        try:
            answer = run[route.verb](route, read_document(body))
            status = "OK"
            return answer
        except ServingError as error:
            status = error.code
            raise
        finally:
            seconds = time.perf_counter() - began
            # Names that clients make up must not become metrics.
            name = route.name if self._models.knows(route.name) else ""
            self._metrics.request(name, _APIS[route.verb], "REST", status, seconds)

    def _predict(self, route: Route, document: dict[str, Any]) -> bytes:
        name = document.get("signature_name") or inference.DEFAULT_SIGNATURE
        with self._models.use(route.name, route.version, route.label) as servable:
            signature = servable.engine.signatures.get(name)
            if signature is None:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise invalid(f"Failed to get input map for signature: {name}")
            dtypes = {key: info.dtype for key, info in signature.inputs.items()}
            row, inputs = decode_predict(document, dtypes)
            outputs = inference.predict(servable, name, inputs)
        return json_encode.encode_predict(outputs, row=row)

    def _classify(self, route: Route, document: dict[str, Any]) -> bytes:
        examples = decode_examples(document)
        signature = document.get("signature_name", "")
        with self._models.use(route.name, route.version, route.label) as servable:
            result = inference.classify(servable, signature, examples)
        return json_encode.encode_classifications(
            [[(c.label, c.score) for c in entry.classes] for entry in result.classifications]
        )

    def _regress(self, route: Route, document: dict[str, Any]) -> bytes:
        examples = decode_examples(document)
        signature = document.get("signature_name", "")
        with self._models.use(route.name, route.version, route.label) as servable:
            result = inference.regress(servable, signature, examples)
        return json_encode.encode_regressions([entry.value for entry in result.regressions])

    def _metadata(self, route: Route) -> bytes:
        with self._models.use(route.name, route.version, route.label) as servable:
            return _metadata_json(servable)


def _metadata_json(servable: Servable) -> bytes:
    response = inference.metadata(servable, ["signature_def"])
    signatures = inference.signature_map(response)
    spec, listed = _to_json(response.model_spec), _to_json(signatures)
    return b'{\n"model_spec":%s,\n"metadata": {"signature_def": %s}\n}\n' % (spec, listed)


def _to_json(message: Any) -> bytes:
    """Proto3 JSON under the proto's own names, with default values written out."""
    options: dict[str, Any] = {"preserving_proto_field_name": True, _PRINT_DEFAULTS: True}
    return json_format.MessageToJson(message, **options).encode()


def _inflate(headers: Mapping[str, str], body: bytes) -> bytes:
    """The body without its gzip; a damaged one is empty, as TF Serving sees it."""
    if headers.get("content-encoding", "").lower() != "gzip":
        return body
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = decoder.decompress(body, _MAX_INFLATED)
    except zlib.error:
        return b""
    return inflated if decoder.eof else b""


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RestApp:
    """The ASGI application: reads a request within its limit and runs it off the event loop."""

    def __init__(self, handler: RestHandler, workers: Executor, max_request_bytes: int) -> None:
        self._handler = handler
        self._workers = workers
        self._max_bytes = max_request_bytes

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        method = scope["method"]
        body = await self._read(headers, receive)
        if body is None:
            response = self._too_large()
        elif self._handler.is_quick(method):
            response = self._handler.handle(method, path, headers, body)
        else:
            loop = asyncio.get_running_loop()
            response = await loop.run_in_executor(
                self._workers, self._handler.handle, method, path, headers, body
            )
        await _send(send, response)

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The body; None when it is beyond the limit.

        What is beyond it is read and dropped for a while: a client that is still sending when the
        connection closes would see a broken pipe and not the reason.
        """
        drained = _DRAIN_FACTOR * self._max_bytes
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > drained:
            return None
        pieces: list[bytes] = []
        size = 0
        while size <= drained:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self._max_bytes:
                pieces.append(piece)
            else:
                pieces.clear()
            if not message.get("more_body", False):
                return b"".join(pieces) if size <= self._max_bytes else None
        return None

    def _too_large(self) -> Response:
        text = json_encode.encode_error(
            f"the request is larger than {self._max_bytes} bytes; send fewer images at a time"
        )
        # The rest of the body is not read, so the connection cannot be used again.
        return Response(413, text, {"Content-Type": _JSON, "Connection": "close"})


async def _send(send: Send, response: Response) -> None:
    headers = {"Content-Length": str(len(response.body)), **response.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
