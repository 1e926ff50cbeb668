"""The REST API: a handler that knows no sockets, and the ASGI application around it."""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import json_format

from serving.engines.saved_model import DEFAULT_SIGNATURE
from serving.limits import DEFAULT_LIMITS, Limits
from serving.server.errors import ServingError, invalid
from serving.server.extras.hooks import NO_HOOKS, Hooks
from serving.server.http import json_encode
from serving.server.http.body_budget import BodyBudget, BodyShare
from serving.server.http.compression import inflate
from serving.server.http.cors import preflight
from serving.server.http.json_decode import decode_predict, read_document
from serving.server.http.json_examples import decode_examples
from serving.server.http.routes import Route, VersionOverflowError, is_api, malformed, parse_route
from serving.server.http.web import JSON, Handler, Response, refusal
from serving.server.models import inference
from serving.server.models.manager import ModelManager, Servable
from serving.server.models.protos import status_response
from serving.server.models.repeated import check_examples
from serving.server.observability.metrics import Metrics
from serving.server.scheduling.calls import Steps
from serving.server.scheduling.dispatch import Dispatcher

_LOG = logging.getLogger(__name__)

#: A request must be there in that time, however slowly its client sends: it holds memory.
_BODY_TIMEOUT_S = 60.0
#: Python itself refuses to read numbers of thousands of digits.
_MOST_DIGITS = 20
#: A request of up to this many times the limit is read to its end before it is refused.
_DRAIN_FACTOR = 4
#: The option's name before and since protobuf 5.
_PRINT_DEFAULTS = next(
    name
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToJson).parameters
)
#: Before a request's client is watched: a task for each would cost more than a quick answer does.
_PATIENCE_S = 0.02
_APIS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}


class RestHandler:
    """Requests to responses; it knows no sockets."""

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
        """Takes what the server is made of.

        Args:
          models: those served.
          metrics: get every request, and are served themselves.
          dispatcher: runs requests off the event loop.
          monitoring_path: of the metrics; None does not serve them.
          timeout_ms: of one request; 0 sets no bound.
          hooks: what is done beside answering.
          metrics_text: the metrics' page; None is that of `metrics`.
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
        """The answer to one request; never raises for what a client sent.

        Args:
          method: upper case.
          path: as sent, percent-encoded, without the query.
          headers: with lower-case names.
          body: whole.
        """
        if method == "GET" and path == self._monitoring_path:
            return Response(200, self._metrics_text().encode(), {"Content-Type": "text/plain"})
        if not is_api(path):
            return Response(404)
        if method == "OPTIONS":
            return preflight(headers)
        try:
            answer = await self._route(method, path, headers, body)
        except VersionOverflowError as error:
            return Response(error.http_status, b"", {"Content-Type": JSON})
        except ServingError as error:
            return refusal(error)
        except Exception:
            # A fault of our own: the client gets an answer, the log gets the trace.
            _LOG.exception("%s %s", method, path)
            text = json_encode.encode_error("internal error; the server's log has the details")
            return Response(500, text, {"Content-Type": JSON})
        return Response(200, answer, {"Content-Type": JSON})

    async def _route(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        route = parse_route(method, path)
        # The pattern ignores case, the comparison does not: `:PREDICT` is malformed.
        if route is None or (method == "POST" and route.verb not in _APIS):
            raise malformed(method, path)
        if method == "POST":
            return await self._call(route, headers, body)
        if route.verb == "metadata":
            return self._metadata(route)
        if not route.name:
            raise invalid("Missing model name in request.")
        # TF Serving ignores a label here, known or not.
        return _to_json(status_response(self._models.status(route.name, route.version)))

    async def _call(self, route: Route, headers: Mapping[str, str], body: bytes) -> bytes:
        api = _APIS[route.verb]
        # Names that clients make up must not become metrics.
        name = route.name if self._models.knows(route.name) else ""
        with self._metrics.counting(name, api, "REST"):
            version, label = self._hooks.steer(route.name, route.version, route.label, headers)
            chosen = replace(route, version=version, label=label)
            steps = self._steps(chosen, headers, body)
            steps = self._hooks.traced(steps, f"{api} {name}", headers)
            return await self._dispatcher.run(steps, timeout=self._timeout_s)

    def _steps(self, route: Route, headers: Mapping[str, str], body: bytes) -> Steps[bytes]:
        run = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        # A damaged body is an empty one, as TF Serving sees it.
        plain = inflate(headers, body, self._limits.max_inflated_bytes)
        document = read_document(plain or b"")
        return (yield from run[route.verb](route, document))

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
            outputs = yield from self._hooks.predict(servable, name, inputs)
        return json_encode.encode_predict(outputs, row=row)

    def _classify(self, route: Route, document: dict[str, Any]) -> Steps[bytes]:
        examples = decode_examples(document)
        signature = document.get("signature_name", "")
        with self._models.use(route.name, route.version, route.label) as servable:
            check_examples(examples, self._limits.max_repeated_bytes)
            result = yield from self._hooks.classify(servable, signature, examples)
        return json_encode.encode_classifications(
            [[(c.label, c.score) for c in entry.classes] for entry in result.classifications]
        )

    def _regress(self, route: Route, document: dict[str, Any]) -> Steps[bytes]:
        examples = decode_examples(document)
        signature = document.get("signature_name", "")
        with self._models.use(route.name, route.version, route.label) as servable:
            check_examples(examples, self._limits.max_repeated_bytes)
            result = yield from self._hooks.regress(servable, signature, examples)
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


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class RestApp:
    """The ASGI application: reads a request within its limit, and stops for a client that left."""

    def __init__(
        self,
        handle: Handler,
        max_request_bytes: int,
        *,
        body_timeout_s: float = _BODY_TIMEOUT_S,
        max_bytes_in_flight: int = DEFAULT_LIMITS.max_body_bytes_in_flight,
    ) -> None:
        """Takes what answers.

        Args:
          handle: answers whole requests.
          max_request_bytes: of a body; more is refused.
          body_timeout_s: from a request's headers to the end of its body.
          max_bytes_in_flight: of the bodies of all requests that are not answered yet.
        """
        self._handle = handle
        self._max_bytes = max_request_bytes
        self._body_timeout_s = body_timeout_s
        # Whatever its flag says, one whole request must fit.
        self._budget = BodyBudget(max(max_bytes_in_flight, max_request_bytes))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        method = scope["method"]
        if headers.get("upgrade", "").lower() == "websocket":
            await _send(send, _last(400, "this server has no WebSocket; send a plain request"))
            return
        slow = _Interrupt(self._body_timeout_s)
        share = self._budget.open(slow.ring)
        try:
            try:
                with slow:
                    body = await self._read(headers, receive, share)
            except asyncio.CancelledError:
                if not slow.happened:
                    raise
                await _send(send, self._too_slow() if slow.timed_out else self._too_many())
                return
            if isinstance(body, Response):
                await _send(send, body)
                return
            share.finish()
            # Without a client this raises CancelledError, as it would in any server that stops.
            with contextlib.suppress(asyncio.CancelledError):
                with _Interrupt(_PATIENCE_S, receive if method == "POST" else None):
                    response = await self._handle(method, path, headers, body)
                await _send(send, response)
        finally:
            share.close()

    async def _read(
        self, headers: Mapping[str, str], receive: Receive, share: BodyShare
    ) -> bytes | Response:
        """The body, or the refusal of one beyond the limits.

        What is beyond it is read and dropped for a while: a client that is still sending when the
        connection closes would see a broken pipe and not the reason.
        """
        drained = _DRAIN_FACTOR * self._max_bytes
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > _MOST_DIGITS or int(length) > drained:
            return self._too_large()
        pieces: list[bytes] = []
        size = 0
        while size <= drained:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_bytes:
                pieces.clear()
                share.close()
            elif share.take(len(piece)):
                pieces.append(piece)
            else:
                return self._too_many()
            if not message.get("more_body", False):
                return b"".join(pieces) if size <= self._max_bytes else self._too_large()
        return self._too_large()

    def _too_large(self) -> Response:
        return _last(
            413, f"the request is larger than {self._max_bytes} bytes; send fewer images at a time"
        )

    def _too_many(self) -> Response:
        refused = _last(503, "the requests under way take all memory for bodies; try again later")
        return Response(refused.status, refused.body, {**refused.headers, "Retry-After": "1"})

    def _too_slow(self) -> Response:
        words = f"the request's body was not there within {self._body_timeout_s:g} s"
        return _last(408, f"{words}; send fewer images at a time")


def _last(status: int, words: str) -> Response:
    """A refusal of a body that is not read to its end: the connection cannot be used again."""
    headers = {"Content-Type": JSON, "Connection": "close"}
    return Response(status, json_encode.encode_error(words), headers)


class _Interrupt:
    """Cancels the current task after a time, or from then on once its client hangs up.

    A timer where `asyncio.wait_for` and a task that waits for the client would cost every request
    two tasks more.
    """

    def __init__(self, seconds: float, receive: Receive | None = None) -> None:
        """Takes what to wait for.

        Args:
          seconds: from the beginning of the `with`.
          receive: tells of a client that hangs up; None cancels without.
        """
        self.happened = self.timed_out = False
        self._seconds = seconds
        self._receive = receive
        self._watch: asyncio.Future[None] | None = None

    def __enter__(self) -> "_Interrupt":
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _expire(self) -> None:
        self.timed_out = True
        if self._receive is None:
            self.ring()
        else:
            self._watch = asyncio.ensure_future(self._until_gone(self._receive))

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ring()

    def ring(self) -> None:
        """Cancels the task now."""
        self.happened = True
        if self._task is not None:
            self._task.cancel()


async def _send(send: Send, response: Response) -> None:
    headers = {"Content-Length": str(len(response.body)), **response.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body})
