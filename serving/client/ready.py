"""Whether a model would answer now, and waiting until it does."""

from collections.abc import Iterator

from serving.client.api import Api, Steps, Target
from serving.client.errors import DEADLINE_EXCEEDED, ClientError
from serving.client.retry import Deadline

#: Seconds that one look at a server may take.
LOOK_TIMEOUT_S = 5.0
#: Seconds that the last look has, however late it is.
MIN_LOOK_S = 0.01

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


def why_not_ready(api: Api, target: Target) -> Steps[str]:
    """Empty when the model would answer a request now; else what it waits for."""
    if target.label is not None:
        # TF Serving ignores the label of a status request; metadata honours it.
        yield from api.metadata(target)
        return ""
    versions = yield from api.status(target)
    wanted = [v for v in versions if target.version in (None, v.version)]
    if any(v.state == "AVAILABLE" for v in wanted):
        return ""
    states = (f"version {v.version} is {v.state} {v.error}".strip() for v in wanted)
    return "; ".join(states) or f"the server knows no version of {target}"


def pauses() -> Iterator[float]:
    """Seconds between looks: short at first, at most one, without end."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(_LONGEST_PAUSE_S, 2 * pause)


def not_ready(target: Target, deadline: Deadline, reason: str) -> ClientError:
    """The error of a wait that was in vain."""
    return ClientError(
        f"{target} is not ready after {deadline.timeout_s:g} s: {reason}", DEADLINE_EXCEEDED
    )
