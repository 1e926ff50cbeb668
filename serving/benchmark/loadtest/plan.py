"""The target and the plan of a load test: plain values that generator processes receive."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

PORTS = {"http": 8501, "https": 8501, "grpc": 8500, "grpcs": 8500}
_SECURE = ("https", "grpcs")
#: Headers that the generator sets itself.
_OWN_HEADERS = ("content-length", "transfer-encoding")


class LoadError(RuntimeError):
    """A load test cannot be run; the message has the reason and what to do."""


@dataclass(frozen=True)
class LoadTarget:
    """The server and the model of a load test.

    Attributes:
      url: `http://host:8501`, `https://host:8501`, `grpc://host:8500` or `grpcs://host:8500`.
      model: name on the server.
      version: None leaves the choice to the server.
      signature: empty means `serving_default`.
      verb: `predict`, `classify` or `regress`; only `predict` over gRPC.
      ca_file: PEM certificates to trust for https and grpcs, instead of the system's.
      label: instead of a version, e.g. `canary`.
      headers: (name, value) pairs of every request; metadata over gRPC.

    Raises:
      LoadError: an invalid address, verb or header, both a version and a label, or a missing file
        of certificates.
    """

    url: str
    model: str
    version: int | None = None
    signature: str = ""
    verb: str = "predict"
    ca_file: str = ""
    label: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            wrong = parts.scheme not in PORTS or not parts.hostname or (parts.port or 1) < 1
        except ValueError:
            wrong = True
        if wrong or parts.path.strip("/") or parts.query:
            raise LoadError(
                f"{self.url!r} is not a server address; write http://host:8501, "
                "https://host:8501, grpc://host:8500 or grpcs://host:8500, and the model as "
                "--model NAME"
            )
        if not self.model:
            raise LoadError("no model is given; name one that the server has, --model NAME")
        verbs = ("predict",) if self.is_grpc else ("predict", "classify", "regress")
        if self.verb not in verbs:
            raise LoadError(
                f"the verb over {parts.scheme} must be {' or '.join(verbs)}, got {self.verb!r}"
            )
        if self.label and self.version is not None:
            raise LoadError(
                f"give a version or a label, not both; got {self.version} and {self.label!r}"
            )
        self._check_headers()
        self._check_ca()

    def _check_headers(self) -> None:
        for name, value in self.headers:
            plain = re.fullmatch(r"[!#-'*+.^`|~\w-]+", name, re.ASCII) and value.isascii()
            if not plain or not value.isprintable() or name.lower() in _OWN_HEADERS:
                raise LoadError(
                    f"the header {name!r} cannot be sent; write `Name: value` in ASCII, except for "
                    f"{' and '.join(_OWN_HEADERS)}, which are computed"
                )

    def _check_ca(self) -> None:
        if self.ca_file and self.scheme not in _SECURE:
            raise LoadError(f"{self.url} is not encrypted; certificates are for https and grpcs")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise LoadError(f"{self.ca_file} does not exist; give a PEM file of certificates")

    @property
    def scheme(self) -> str:
        """`http`, `https`, `grpc` or `grpcs`."""
        return urlsplit(self.url).scheme

    @property
    def is_grpc(self) -> bool:
        """Whether requests are sent over gRPC."""
        return self.scheme.startswith("grpc")

    @property
    def host(self) -> str:
        """Host name or address, without brackets also for IPv6."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The given port, else TF Serving's default."""
        return urlsplit(self.url).port or PORTS[self.scheme]

    @property
    def authority(self) -> str:
        """`host:port` for the Host header and gRPC."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def path(self) -> str:
        """URL path of a REST request."""
        version = "" if self.version is None else f"/versions/{self.version}"
        if self.label:
            version = f"/labels/{quote(self.label, safe='')}"
        return f"/v1/models/{quote(self.model, safe='')}{version}:{self.verb}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; headers without their values, because reports are shared."""
        return {**asdict(self), "headers": [name for name, _ in self.headers]}


@dataclass(frozen=True)
class LoadPlan:
    """The shape of the load.

    Open loop: requests arrive as a Poisson process of `rate`, independent of the server. Closed
    loop: each of `clients` sends its next request when it has a response.

    Attributes:
      rate: requests per second of an open loop; None with `clients`.
      clients: of a closed loop; None with `rate`.
      seconds: length of the measurement.
      warm_up_s: length of unmeasured load before it.
      seed: of the arrivals and the choice of requests.
      timeout_s: time after its scheduled arrival at which a request fails.
      max_in_flight: maximum number of requests in flight; further ones fail as `not sent`.
      channels: gRPC connections per process.
      processes: number of generator processes.
      max_lag_ms: a run is invalid when the p99 of the generator's delay is above this and above a
        tenth of the p99 latency.

    Raises:
      LoadError: a value is out of range.
    """

    rate: float | None = None
    clients: int | None = None
    seconds: float = 10.0
    warm_up_s: float = 2.0
    seed: int = 0
    timeout_s: float = 10.0
    max_in_flight: int = 512
    channels: int = 4
    processes: int = 1
    max_lag_ms: float = 1.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise LoadError("give either a rate (open loop) or clients (closed loop)")
        for name in ("rate", "clients", "seconds", "timeout_s", "max_in_flight", "channels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise LoadError(f"`{name}` must be above 0, got {value}")
        if not 0 <= self.warm_up_s < float("inf"):
            raise LoadError(f"`warm_up_s` must be at least 0, got {self.warm_up_s}")
        limit = self.clients if self.clients is not None else self.max_in_flight
        if not 1 <= self.processes <= limit:
            raise LoadError(f"`processes` must be 1 to {limit}, got {self.processes}")

    @property
    def total_s(self) -> float:
        """Length of warm-up and measurement."""
        return self.warm_up_s + self.seconds

    @property
    def summary(self) -> str:
        """The load as text: `200/s` or `8 clients`."""
        return f"{self.rate:g}/s" if self.rate is not None else f"{self.clients} clients"

    def at(self, rate: float, *, seconds: float | None = None) -> "LoadPlan":
        """This plan as an open loop at another rate."""
        length = self.seconds if seconds is None else seconds
        return replace(self, rate=rate, clients=None, seconds=length)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Arrival times of a Poisson process.

    Args:
      rate: per second, above 0.
      seconds: length of the process.
      seed: determines the times.

    Returns:
      (N,) float64 in [0, seconds), ascending; N is Poisson with mean rate * seconds.
    """
    random = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are uniform.
    return np.sort(random.uniform(0, seconds, random.poisson(rate * seconds)))


def draw_requests(count: int, requests: int, seed: int) -> np.ndarray:
    """The request of each arrival, (count,) int64 below `requests`, drawn with replacement.

    As in MLPerf's LoadGen. The random stream is independent of that of the arrivals.
    """
    return np.random.default_rng([seed, 1]).integers(requests, size=count)
