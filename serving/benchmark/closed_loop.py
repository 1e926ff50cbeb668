"""Callers in a closed loop, against a bare engine or a server, as cheaply as Python calls either.

A caller is a thread that calls again as soon as it has its answer. The same lines time both, so
that only what is called differs. `engine_turn` and `server_turn` are made for processes of their
own: the first keeps its model from one turn to the next, the second never loads TensorFlow.
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
from serving.benchmark.loadtest.bodies import from_images
from serving.benchmark.loadtest.callers import PREDICT_METHOD
from serving.benchmark.loadtest.plan import Target
from serving.client import Client
from serving.client.address import grpc_proxy_options

Call: TypeAlias = Callable[[], Any]

_TIMEOUT_S = 60.0
#: Of a turn's length, before it: connections, caches and threads are those of a server at work.
_WARM_SHARE = 0.1
#: Of each caller, however long a call takes.
_LEAST_CALLS = 3
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_MAX_REASON = 500


class BenchmarkError(RuntimeError):
    """What cannot be measured, with the reason and what to do."""


@dataclass(frozen=True)
class Turn:
    """What the callers of one turn saw.

    Attributes:
      p50_ms: median time of a call.
      images_per_second: of all callers together.
      caller_cores: processor time of the callers' process over the turn's.
    """

    p50_ms: float
    images_per_second: float
    caller_cores: float


def closed_loop(calls: Sequence[Call], seconds: float, *, rows: int = 1) -> Turn:
    """Calls each of `calls` from a thread of its own, over and over.

    Args:
      calls: one a caller, at least one.
      seconds: that calls are begun for; a caller makes at least three.
      rows: images in a call.

    Raises:
      BenchmarkError: and whatever else a call raises.
    """
    with ThreadPoolExecutor(len(calls)) as threads:
        _rally(threads, calls, _WARM_SHARE * seconds)
        began, cpu = time.perf_counter(), time.process_time()
        taken = _rally(threads, calls, seconds)
        elapsed = time.perf_counter() - began
        cores = (time.process_time() - cpu) / elapsed
    # Over the whole time: answers come in clumps where requests share batches, and a window
    # between two of them would count one clump too many.
    return Turn(float(np.median(taken)) * 1e3, len(taken) * rows / elapsed, cores)


def _rally(threads: ThreadPoolExecutor, calls: Sequence[Call], seconds: float) -> list[float]:
    """Seconds that each call took."""
    lists = threads.map(lambda call: _call_often(call, seconds), calls)
    return [taken for one in lists for taken in one]


def _call_often(call: Call, seconds: float) -> list[float]:
    taken: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while now < end or len(taken) < _LEAST_CALLS:
        call()
        after = time.perf_counter()
        taken.append(after - now)
        now = after
    return taken


def engine_turn(
    version_dir: Path,
    variant: str,
    images: Sequence[bytes],
    *,
    callers: int,
    rows: int = 1,
    seconds: float,
) -> Turn:
    """A turn of the engine that a server would load, through `serving_default`.

    Args:
      version_dir: of a bundle; it stays loaded in this process.
      variant: of it.
      images: encoded; all callers go round in them.
      callers: threads that call.
      rows: images in a call.
      seconds: of the turn.

    Raises:
      EngineError: it cannot be loaded, or refuses an image.
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

    # Before LiteRT's engine, which takes TensorFlow's protos: here it loads without its warnings.
    import_tensorflow()
    return load_engine("", version_dir, EngineOptions(variants={"": variant}))


def _engine_call(engine: Any, batches: Sequence[np.ndarray]) -> Call:
    turn = cycle(batches)

    def call() -> object:
        inputs = {bundles.INPUT_BYTES: next(turn)}
        feeds, tensors = engine.prepare(bundles.SIGNATURE_BYTES, inputs)
        return engine.run_tensors(feeds, list(tensors.values()))

    return call


def sample_jpeg(height: int, width: int) -> bytes:
    """A smooth JPEG with some noise, always the same one; made by TensorFlow, which it loads."""
    from serving.engines.saved_model import import_tensorflow

    noise = np.random.default_rng(0)
    corners = noise.integers(40, 216, (4, 4, 3)).astype(np.float32)
    tf = import_tensorflow()
    smooth = tf.image.resize(corners, (height, width), "bicubic").numpy()
    pixels = np.clip(smooth + noise.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return tf.io.encode_jpeg(pixels, quality=90).numpy()


def server_turn(
    target: Target, images: Sequence[bytes], *, lean: bool, callers: int, seconds: float
) -> Turn:
    """A turn of a server, over connections of its own.

    Args:
      target: where, over which transport, and the model.
      images: encoded, one a request; all callers go round in them.
      lean: whether to send prepared bytes and look at no more than the status of what comes back;
        otherwise callers use `serving.client.Client`.
      callers: threads that call, each with its own connection.
      seconds: of the turn.

    Raises:
      BenchmarkError: no connection, or an answer that is not a good one.
      ClientError: the same, of the client.
    """
    if not lean:
        connect, contents = _client, tuple(images)
    else:
        connect, contents = _lean(target), from_images(images, target).bodies
    with ExitStack() as stack:
        calls = [stack.enter_context(connect(target, contents)) for _ in range(callers)]
        return closed_loop(calls, seconds)


def answer_of(target: Target, picture: bytes) -> bytes:
    """What a server answers to one image: a message over gRPC, a body over REST.

    Raises:
      BenchmarkError: no connection, or an answer that is not a good one.
    """
    with _lean(target)(target, from_images([picture], target).bodies) as call:
        return call()


def _lean(target: Target) -> Callable[..., Any]:
    return _grpc if target.is_grpc else _rest


@contextmanager
def _client(target: Target, images: Sequence[bytes]) -> Iterator[Call]:
    turn = cycle(images)
    with Client(target.url, timeout_s=_TIMEOUT_S) as client:
        yield lambda: client.predict([next(turn)], model=target.model)


@contextmanager
def _grpc(target: Target, bodies: Sequence[bytes]) -> Iterator[Call]:
    import grpc

    turn = cycle(bodies)
    # Otherwise channels to one address share one connection.
    options = [("grpc.use_local_subchannel_pool", 1), *grpc_proxy_options(target.authority)]
    with grpc.insecure_channel(target.authority, options=options) as channel:
        predict = channel.unary_unary(PREDICT_METHOD)

        def call() -> object:
            try:
                return predict(next(turn), timeout=_TIMEOUT_S)
            except grpc.RpcError as found:
                error: Any = found
                raise BenchmarkError(
                    f"{target.url} answers {error.code().name}: {error.details()}"
                ) from error

        yield call


@contextmanager
def _rest(target: Target, bodies: Sequence[bytes]) -> Iterator[Call]:
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    turn = cycle([head.format(len(body)).encode() + body for body in bodies])
    try:
        connection = socket.create_connection((target.host, target.port), _TIMEOUT_S)
    except OSError as error:
        raise BenchmarkError(f"no server at {target.url}: {error}") from error
    with closing(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> object:
            connection.sendall(next(turn))
            return _read_answer(connection, target.url)

        yield call


def _read_answer(connection: socket.socket, url: str) -> bytes:
    """The body of a good answer.

    Raises:
      BenchmarkError: another status, no Content-Length, or the connection ended.
    """
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _receive(connection, url)
    length = _LENGTH.search(answer, 0, end + 2)
    if length is None:
        raise BenchmarkError(f"{url} answers without a Content-Length: {answer[:end]!r}")
    parts = [answer[end + 4 :]]
    missing = int(length[1]) - len(parts[0])
    while missing > 0:
        parts.append(_receive(connection, url))
        missing -= len(parts[-1])
    body = b"".join(parts)
    status = answer.split(b" ", 2)[1]
    if status != b"200":
        reason = body[:_MAX_REASON].decode("utf-8", "replace")
        raise BenchmarkError(f"{url} answers {status.decode()}: {reason}")
    return body


def _receive(connection: socket.socket, url: str) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise BenchmarkError(f"{url} closed the connection")
    return data
