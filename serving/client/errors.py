"""What a client raises, and what one failed try is called on the way there."""

#: `ClientError.status` of a call that ran out of time, on either transport.
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class ClientError(RuntimeError):
    """The server refused the request, could not be reached, or did not answer in time.

    Attributes:
      status: HTTP status or gRPC code, as text; `DEADLINE_EXCEEDED` when time ran out, empty when
        there was no answer.
      tries: how often the request was sent.
      seconds: from the first try to the end of the last.
    """

    def __init__(
        self, message: str, status: str = "", *, tries: int = 0, seconds: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.tries = tries
        self.seconds = seconds

    def within(self, what: str) -> "ClientError":
        """The same error of a part of a longer call; `what` says which part."""
        return ClientError(f"{what}: {self}", self.status, tries=self.tries, seconds=self.seconds)


class Failure(Exception):
    """One try without an answer; it stays inside the client, where `retry.Tries` judges it.

    Attributes:
      status: as in `ClientError`.
      again: whether the same request may succeed a moment later.
      wait_s: how long the server asks to wait at least; None when it does not say.
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
