"""Whether a model is ready to serve, and waiting until it is."""

from serving.client.api import Api, ModelSpec, Steps
from serving.client.errors import DEADLINE_EXCEEDED, ClientError
from serving.client.retry import Deadline

#: Timeout of one status request, in seconds.
POLL_TIMEOUT_S = 5.0

#: Least timeout of the last status request.
_LAST_POLL_S = 0.01
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


def why_not_ready(api: Api, spec: ModelSpec) -> Steps[str]:
    """Empty if the model is ready to serve, else the reason why it is not."""
    if spec.label is not None:
        # TF Serving ignores the label of a status request; metadata honors it.
        yield from api.metadata(spec)
        return ""
    versions = yield from api.status(spec)
    wanted = [v for v in versions if spec.version in (None, v.version)]
    if any(v.state == "AVAILABLE" for v in wanted):
        return ""
    states = (f"version {v.version} is {v.state} {v.error}".strip() for v in wanted)
    return "; ".join(states) or f"the server has no version of {spec}"


def reason_of(error: ClientError, known: str) -> str:
    """Why a model is not ready whose status request failed.

    Args:
      error: of the status request.
      known: reason of the previous request, more precise than the timeout of the last one.
    """
    return known if known and error.status == DEADLINE_EXCEEDED else str(error)


class ReadinessPoll:
    """Schedule of status requests: short pauses at first, at most a second.

    Attributes:
      spec: the model.
      reason: why it was not ready at the last request.
    """

    def __init__(self, spec: ModelSpec, timeout_s: float) -> None:
        """Starts now.

        Raises:
          ValueError: `timeout_s` is not above 0.
        """
        self.spec = spec
        self.reason = ""
        self._deadline = Deadline(timeout_s)
        self._pause_s = _FIRST_PAUSE_S

    @property
    def timeout_s(self) -> float:
        """Timeout of the next status request."""
        return min(max(self._deadline.left_s(), _LAST_POLL_S), POLL_TIMEOUT_S)

    def pause_s(self, reason: str) -> float | None:
        """Seconds until the next status request; None if the model is ready.

        Args:
          reason: from `why_not_ready`; empty if the model is ready.

        Raises:
          ClientError: no time is left for another request.
        """
        self.reason = reason
        if not reason:
            return None
        pause, self._pause_s = self._pause_s, min(_LONGEST_PAUSE_S, 2 * self._pause_s)
        if self._deadline.left_s() <= pause:
            seconds = self._deadline.timeout_s
            raise ClientError(
                f"{self.spec} is not ready after {seconds:g} s: {reason}", DEADLINE_EXCEEDED
            )
        return pause
