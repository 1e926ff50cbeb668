"""Concurrent callers in a closed loop, against a bare engine or a server, with little overhead.

A caller is a thread that calls again as soon as its call returns. The same code times engines and
servers. Run `measure_engine` and `measure_server` in separate processes: the first keeps its model
loaded between measurements, the second never loads TensorFlow.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from core import bundle as bundles
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.loadtest.bodies import from_images
from serving.benchmark.loadtest.callers import PREDICT_METHOD
from serving.benchmark.loadtest.plan import LoadTarget
from serving.client import Client
from serving.client.address import grpc_proxy_options

Call: TypeAlias = Callable[[], Any]

_TIMEOUT_S = 60.0
#: Warm-up before a measurement, as a share of its length: fills connections, caches and threads.
_WARM_SHARE = 0.1
#: Per caller, regardless of how long a call takes.
_MIN_CALLS = 3
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_MAX_REASON = 500


@dataclass(frozen=True)
class Measurement:
    """The figures of one measurement.

    Attributes:
      p50_ms: median time of a call.
      images_per_second: of all callers together.
      caller_cores: processor time of the callers' process over the elapsed time.
    """

    p50_ms: float
    images_per_second: float
    caller_cores: float


def closed_loop(calls: Sequence[Call], seconds: float, *, rows: int = 1) -> Measurement:
    """Calls each of `calls` repeatedly from a separate thread.

    Args:
      calls: one per caller, at least one.
      seconds: during which calls begin; a caller makes at least three.
      rows: images per call.

    Raises:
      Exception: any error of a call.
    """
    with ThreadPoolExecutor(len(calls)) as threads:
        _call_in_parallel(threads, calls, _WARM_SHARE * seconds)
        began, cpu = time.perf_counter(), time.process_time()
        taken = _call_in_parallel(threads, calls, seconds)
        elapsed = time.perf_counter() - began
        cores = (time.process_time() - cpu) / elapsed
    # Over the whole time: responses to one batch arrive together, and a window that ends between
    # two batches would count one batch too many.
    return Measurement(float(np.median(taken)) * 1e3, len(taken) * rows / elapsed, cores)


def _call_in_parallel(
    threads: ThreadPoolExecutor, calls: Sequence[Call], seconds: float
) -> list[float]:
    """The seconds of each call."""
    lists = threads.map(lambda call: _call_repeatedly(call, seconds), calls)
    return [taken for one in lists for taken in one]


def _call_repeatedly(call: Call, seconds: float) -> list[float]:
    taken: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while now < end or len(taken) < _MIN_CALLS:
        call()
        after = time.perf_counter()
        taken.append(after - now)
        now = after
    return taken


def measure_engine(
    version_dir: Path,
    variant: str,
    images: Sequence[bytes],
    *,
    callers: int,
    rows: int = 1,
    seconds: float,
) -> Measurement:
    """Measures the engine that a server would load, through `serving_default`.

    Args:
      version_dir: of a bundle; its engine stays loaded in this process.
      variant: of the bundle.
      images: encoded; each caller cycles through them.
      callers: number of threads.
      rows: images per call.
      seconds: length of the measurement.

    Raises:
      EngineError: the engine cannot be loaded, or refuses an image.
    """
    engine = _engine(version_dir, variant)
    count = len(images)
    batches = [
        np.array([images[(first + row) % count] for row in range(rows)], dtype=object)
        for first in range(count)
    ]
    calls = [_engine_call(engine, batches) for _ in range(callers)]
    return closed_loop(calls, seconds, rows=rows)


@cache
def _engine(version_dir: Path, variant: str) -> Any:
    from serving.engines.saved_model import import_tensorflow
    from serving.server.models.engines import EngineOptions, load_engine

    # First, because LiteRT's engine imports TensorFlow's protos; this import hides the warnings.
    import_tensorflow()
    return load_engine("", version_dir, EngineOptions(variants={"": variant}))


def _engine_call(engine: Any, batches: Sequence[np.ndarray]) -> Call:
    cycled = cycle(batches)

    def call() -> object:
        inputs = {bundles.INPUT_BYTES: next(cycled)}
        feeds, tensors = engine.prepare(bundles.SIGNATURE_BYTES, inputs)
        return engine.run_tensors(feeds, list(tensors.values()))

    return call


def measure_server(
    target: LoadTarget, images: Sequence[bytes], *, prepared: bool, callers: int, seconds: float
) -> Measurement:
    """Measures a server over new connections.

    Args:
      target: address, transport and model.
      images: encoded, one per request; each caller cycles through them.
      prepared: send prepared bytes and check only the status of the response; otherwise callers use
        `serving.client.Client`.
      callers: number of threads, each with its own connection.
      seconds: length of the measurement.

    Raises:
      BenchmarkError: no connection, or a response that is an error.
      ClientError: the same, from the client.
    """
    if not prepared:
        connect, contents = _client, tuple(images)
    else:
        connect, contents = _connector(target), from_images(images, target).bodies
    with ExitStack() as stack:
        calls = [stack.enter_context(connect(target, contents)) for _ in range(callers)]
        return closed_loop(calls, seconds)


def response_of(target: LoadTarget, image: bytes) -> bytes:
    """A server's response to one image: a message over gRPC, a body over REST.

    Raises:
      BenchmarkError: no connection, or a response that is an error.
    """
    with _connector(target)(target, from_images([image], target).bodies) as call:
        return call()


def _connector(target: LoadTarget) -> Callable[..., Any]:
    return _grpc if target.is_grpc else _rest


@contextmanager
def _client(target: LoadTarget, images: Sequence[bytes]) -> Iterator[Call]:
    cycled = cycle(images)
    with Client(target.url, timeout_s=_TIMEOUT_S) as client:
        yield lambda: client.predict([next(cycled)], model=target.model)


@contextmanager
def _grpc(target: LoadTarget, bodies: Sequence[bytes]) -> Iterator[Call]:
    import grpc

    cycled = cycle(bodies)
    # Otherwise channels to one address share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), *grpc_proxy_options(target.authority)]
    with grpc.insecure_channel(target.authority, options=options) as channel:
        predict = channel.unary_unary(PREDICT_METHOD)

        def call() -> object:
            try:
                return predict(next(cycled), timeout=_TIMEOUT_S)
            except grpc.RpcError as found:
                error: Any = found
                raise BenchmarkError(
                    f"{target.url} returned {error.code().name}: {error.details()}"
                ) from error

        yield call


@contextmanager
def _rest(target: LoadTarget, bodies: Sequence[bytes]) -> Iterator[Call]:
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    cycled = cycle([head.format(len(body)).encode() + body for body in bodies])
    try:
        connection = socket.create_connection((target.host, target.port), _TIMEOUT_S)
    except OSError as error:
        raise BenchmarkError(f"no server at {target.url}: {error}") from error
    with closing(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> object:
            connection.sendall(next(cycled))
            return _read_response(connection, target.url)

        yield call


def _read_response(connection: socket.socket, url: str) -> bytes:
    """The body of a response with status 200.

    Raises:
      BenchmarkError: another status, no Content-Length, or a closed connection.
    """
    response = b""
    while (end := response.find(b"\r\n\r\n")) < 0:
        response += _receive(connection, url)
    length = _LENGTH.search(response, 0, end + 2)
    if length is None:
        raise BenchmarkError(f"{url} sent no Content-Length: {response[:end]!r}")
    parts = [response[end + 4 :]]
    missing = int(length[1]) - len(parts[0])
    while missing > 0:
        parts.append(_receive(connection, url))
        missing -= len(parts[-1])
    body = b"".join(parts)
    status = response.split(b" ", 2)[1]
    if status != b"200":
        reason = body[:_MAX_REASON].decode("utf-8", "replace")
        raise BenchmarkError(f"{url} returned {status.decode()}: {reason}")
    return body


def _receive(connection: socket.socket, url: str) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise BenchmarkError(f"{url} closed the connection")
    return data
