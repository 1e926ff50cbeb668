"""The exceptions of requests and of the start-up, and the HTTP status of each gRPC code."""

#: gRPC status name -> HTTP status, as in TF Serving's REST API.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}

#: TF Serving truncates gRPC messages here, and REST messages never.
_GRPC_MESSAGE_LIMIT = 1024
_TRUNCATED = "...TRUNCATED"


class ServerError(RuntimeError):
    """The server cannot start; the message holds the reason and the remedy."""


class ServingError(Exception):
    """A request that is refused or has failed.

    Attributes:
      code: gRPC status name, e.g. `INVALID_ARGUMENT`.
      message: for the client.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self) -> int:
        """The HTTP status of `code`."""
        return http_status(self.code)

    @property
    def grpc_message(self) -> str:
        """The message for gRPC: at most 1,024 characters and a mark."""
        if len(self.message) <= _GRPC_MESSAGE_LIMIT:
            return self.message
        return self.message[:_GRPC_MESSAGE_LIMIT] + _TRUNCATED

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class OverloadedError(ServingError):
    """A request that was not accepted; the same request may succeed later.

    Attributes:
      retry_after_s: whole seconds before a retry, at least 1.
    """

    def __init__(self, code: str, message: str, retry_after_s: int) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


def invalid(message: str) -> ServingError:
    """The error of a request that cannot succeed unchanged."""
    return ServingError("INVALID_ARGUMENT", message)


def http_status(code: str) -> int:
    """The HTTP status of a gRPC status name; 500 for an unknown one."""
    return HTTP_STATUS.get(code, 500)
