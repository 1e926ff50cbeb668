"""How much memory requests and connections may claim, whichever way they come."""

import resource
from dataclasses import dataclass

#: Of one tensor: a few bytes can declare any shape, and must not claim the memory.
MAX_ELEMENTS = 2**28
#: Dimensions that a NumPy array of any version can have.
MAX_RANK = 32

_MIB = 2**20
#: Connections where the system sets no limit to descriptors.
_MOST_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Limits:
    """Limits of one server; see the flags of the same names.

    Attributes:
      max_header_bytes: of a REST request's line and headers together.
      max_inflated_bytes: of a REST body without its gzip.
      max_repeated_bytes: that the single values of one gRPC request may be repeated to.
      max_body_bytes_in_flight: of the bodies of all REST requests that are not answered yet, and as
        many of the messages of all gRPC calls.
      max_connections: of REST; 0 is half of the descriptors that the process may open.
      idle_timeout_s: after which a connection without a whole request's headers is closed, and one
        whose client does not read its response.
    """

    max_header_bytes: int = 64 * 2**10
    max_inflated_bytes: int = 64 * _MIB
    max_repeated_bytes: int = 16 * _MIB
    max_body_bytes_in_flight: int = 256 * _MIB
    max_connections: int = 0
    idle_timeout_s: float = 30.0

    @property
    def connections(self) -> int:
        """REST connections at a time."""
        if self.max_connections:
            return self.max_connections
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        known = soft if soft != resource.RLIM_INFINITY else 2 * _MOST_CONNECTIONS
        return max(16, min(known // 2, _MOST_CONNECTIONS))


#: Those of the flags' defaults.
DEFAULT_LIMITS = Limits()
