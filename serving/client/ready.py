"""Whether a model would answer now, and waiting until it does."""

from serving.client.api import Api, Steps, Target
from serving.client.errors import DEADLINE_EXCEEDED, ClientError
from serving.client.retry import Deadline

#: Seconds that one look at a server may take.
LOOK_TIMEOUT_S = 5.0

#: The last look may be cut short, but there is one.
_LAST_LOOK_S = 0.01
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


def why_not_ready(api: Api, target: Target) -> Steps[str]:
    """Empty when the model would answer a request now; else what it waits for."""
    if target.label is not None:
        # TF Serving ignores the label of a status request; metadata honors it.
        yield from api.metadata(target)
        return ""
    versions = yield from api.status(target)
    wanted = [v for v in versions if target.version in (None, v.version)]
    if any(v.state == "AVAILABLE" for v in wanted):
        return ""
    states = (f"version {v.version} is {v.state} {v.error}".strip() for v in wanted)
    return "; ".join(states) or f"the server knows no version of {target}"


def reason_of(error: ClientError, known: str) -> str:
    """Why a model is not ready whose status could not be had.

    Args:
      error: of the look.
      known: what the look before said; it knows more than one that had little time left.
    """
    return known if known and error.status == DEADLINE_EXCEEDED else str(error)


class Waiting:
    """When to look, and how long to wait in between: short at first, at most a second.

    Attributes:
      target: which model.
      reason: why it was not ready at the last look.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        """Starts now.

        Raises:
          ValueError: `timeout_s` not above 0.
        """
        self.target = target
        self.reason = ""
        self._deadline = Deadline(timeout_s)
        self._pause_s = _FIRST_PAUSE_S

    @property
    def look_s(self) -> float:
        """Seconds that the next look may take."""
        return min(max(self._deadline.left_s(), _LAST_LOOK_S), LOOK_TIMEOUT_S)

    def pause_s(self, reason: str) -> float | None:
        """Seconds until the next look; None when the model is ready.

        Args:
          reason: what the look said; empty when it is.

        Raises:
          ClientError: there is no time for another look.
        """
        self.reason = reason
        if not reason:
            return None
        pause, self._pause_s = self._pause_s, min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        if self._deadline.left_s() <= pause:
            seconds = self._deadline.timeout_s
            raise ClientError(
                f"{self.target} is not ready after {seconds:g} s: {reason}", DEADLINE_EXCEEDED
            )
        return pause
