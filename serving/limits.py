"""Limits on the memory of requests and connections, over REST and gRPC."""

import resource
from dataclasses import dataclass

#: Elements of one tensor, because a few bytes can declare any shape.
MAX_ELEMENTS = 2**28
#: Dimensions that a NumPy array of any version can have.
MAX_RANK = 32

_MIB = 2**20
#: REST connections if the system does not limit descriptors.
_MAX_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Limits:
    """Limits of one server; see the flags of the same names.

    Attributes:
      max_header_bytes: of the request line and headers of a REST request.
      max_inflated_bytes: of a decompressed REST body.
      max_repeated_bytes: of a gRPC request after its single values are repeated.
      max_body_bytes_in_flight: of the bodies of all REST requests in progress, and the same for the
        messages of all gRPC calls.
      max_connections: of REST; 0 is half of the process's descriptor limit.
      idle_timeout_s: until a connection is closed whose client does not send complete headers or
        does not read its response.
    """

    max_header_bytes: int = 64 * 2**10
    max_inflated_bytes: int = 64 * _MIB
    max_repeated_bytes: int = 16 * _MIB
    max_body_bytes_in_flight: int = 256 * _MIB
    max_connections: int = 0
    idle_timeout_s: float = 30.0

    @property
    def connections(self) -> int:
        """Maximum number of REST connections."""
        if self.max_connections:
            return self.max_connections
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        known = soft if soft != resource.RLIM_INFINITY else 2 * _MAX_CONNECTIONS
        return max(16, min(known // 2, _MAX_CONNECTIONS))


#: Defaults of the flags.
DEFAULT_LIMITS = Limits()
