"""Requests that a server has to refuse, with a reason, and survive."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import requests as http

from serving.benchmark.loadtest.bodies import from_images
from serving.benchmark.loadtest.callers import PREDICT_METHOD
from serving.benchmark.loadtest.plan import Target
from serving.client.address import grpc_proxy_options
from serving.client.connections import Session

#: REST bodies, all of them 400.
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
    """How a server took them.

    Attributes:
      codes: answer -> how often.
      wrong: answers that were no refusal, in words.
    """

    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Malformed:
    """Sends one malformed request after another, to each target in turn."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._sent = 0

    def send_often(self, every_s: float, stop: threading.Event) -> Refusals:
        """Sends one now and every `every_s` seconds, until told to stop."""
        found = Refusals()
        while True:
            code, said = self.send()
            found.codes[code] += 1
            if code not in _REFUSALS:
                found.wrong.append(f"{code}: {said}")
            if stop.wait(every_s):
                return found

    def send(self) -> tuple[str, str]:
        """Sends the next one: the answer's code and text."""
        target = self._targets[self._sent % len(self._targets)]
        number = self._sent // len(self._targets)
        self._sent += 1
        return _by_grpc(target) if target.is_grpc else _by_rest(target, number)


def _by_rest(target: Target, number: int) -> tuple[str, str]:
    body = _BODIES[number % len(_BODIES)]
    try:
        with Session() as session:
            url = target.url.rstrip("/") + target.path
            answer = session.post(url, data=body, timeout=_TIMEOUT_S)
    except http.RequestException as error:
        return "connection", str(error)
    return str(answer.status_code), answer.text[:200]


def _by_grpc(target: Target) -> tuple[str, str]:
    import grpc

    body = from_images([b"not an image"], target).bodies[0]
    options = grpc_proxy_options(target.authority)
    with grpc.insecure_channel(target.authority, options=options) as channel:
        try:
            channel.unary_unary(PREDICT_METHOD)(body, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())[:200]  # type: ignore[attr-defined]
    return "OK", ""
