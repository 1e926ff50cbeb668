"""Malformed requests, each of which a server must refuse with a reason."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import requests as http

from serving.benchmark.loadtest.bodies import from_images
from serving.benchmark.loadtest.callers import PREDICT_METHOD
from serving.benchmark.loadtest.plan import LoadTarget
from serving.client.address import grpc_proxy_options
from serving.client.connections import Session

#: REST bodies; the expected status is 400.
_BODIES = (
    b"{",
    b'{"instances": 7}',
    b'{"instances": [{"b64": "bm90IGFuIGltYWdl"}]}',
    b'{"instances": [{"b64": "***"}]}',
    b'{"instances": [{"no_such_input": 1}]}',
)
_REFUSALS = ("400", "INVALID_ARGUMENT")
_TIMEOUT_S = 30.0


@dataclass
class Refusals:
    """The responses to malformed requests.

    Attributes:
      codes: status -> number of responses.
      wrong: descriptions of responses that were no refusal.
    """

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class MalformedSender:
    """Sends malformed requests to the targets, round-robin."""

    def __init__(self, targets: Sequence[LoadTarget]) -> None:
        self._targets = targets
        self._sent = 0

    def send_repeatedly(self, every_s: float, stop: threading.Event) -> Refusals:
        """Sends one now and every `every_s` seconds, until `stop` is set."""
        found = Refusals()
        while True:
            code, text = self.send()
            found.codes[code] += 1
            if code not in _REFUSALS:
                found.wrong.append(f"{code}: {text}")
            if stop.wait(every_s):
                return found

    def send(self) -> tuple[str, str]:
        """Sends the next one; returns code and text of the response."""
        target = self._targets[self._sent % len(self._targets)]
        number = self._sent // len(self._targets)
        self._sent += 1
        return _by_grpc(target) if target.is_grpc else _by_rest(target, number)


def _by_rest(target: LoadTarget, number: int) -> tuple[str, str]:
    body = _BODIES[number % len(_BODIES)]
    try:
        with Session() as session:
            url = target.url.rstrip("/") + target.path
            response = session.post(url, data=body, timeout=_TIMEOUT_S)
    except http.RequestException as error:
        return "connection", str(error)
    return str(response.status_code), response.text[:200]


def _by_grpc(target: LoadTarget) -> tuple[str, str]:
    import grpc

    body = from_images([b"not an image"], target).bodies[0]
    options = grpc_proxy_options(target.authority)
    with grpc.insecure_channel(target.authority, options=options) as channel:
        try:
            channel.unary_unary(PREDICT_METHOD)(body, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())[:200]  # type: ignore[attr-defined]
    return "OK", ""
