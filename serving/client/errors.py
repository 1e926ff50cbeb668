"""`ClientError`, and `Failure` for one failed attempt."""

#: `ClientError.status` of a call that timed out, on either transport.
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class ClientError(RuntimeError):
    """The server rejected the request, could not be reached, or did not respond in time.

    Attributes:
      status: HTTP status or gRPC code, as text; `DEADLINE_EXCEEDED` after a timeout, empty without
        a response.
      tries: how often the request was sent.
      seconds: from the start of the first attempt to the end of the last.
    """

    def __init__(
        self, message: str, status: str = "", *, tries: int = 0, seconds: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.tries = tries
        self.seconds = seconds

    def within(self, what: str) -> "ClientError":
        """The same error, with the part of a longer call in front of the message."""
        return ClientError(f"{what}: {self}", self.status, tries=self.tries, seconds=self.seconds)


class Failure(Exception):
    """One failed attempt; internal, `retry.Tries` decides whether to retry.

    Attributes:
      status: as in `ClientError`.
      again: whether the same request may succeed a moment later.
      wait_s: minimum wait that the server requires before a retry; None if it names none.
    """

    def __init__(
        self,
        message: str,
        status: str = "",
        *,
        again: bool = False,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.again = again
        self.wait_s = wait_s
