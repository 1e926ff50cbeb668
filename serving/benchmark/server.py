"""What the embedded server costs over its engine, in turns, as ratios of one run.

    figures = measure("bundles/digits_cnn", [Path("seven.jpg")], seconds=0.5, rounds=7)
    Console().print(server_targets.tables(figures))

The engine, a server, and two more servers that combine requests are loaded at the same time, each
in its own process, and so are the callers. Every thing has one short turn a round, in an order that
moves on and turns round; all others are idle meanwhile. The bare engine is what the server loads,
with as many threads, called with the same JPEG through the same signature. Two further servers, of
gRPC's and uvicorn's own, answer at once with as many bytes: what the libraries cost by themselves.
"""

import json
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core import bundle as bundles
from core.image_header import ImageError, check_image
from serving.benchmark import baseline
from serving.benchmark.closed_loop import (
    BenchmarkError,
    Turn,
    answer_of,
    engine_turn,
    sample_jpeg,
    server_turn,
)
from serving.benchmark.loadtest.plan import Target
from serving.benchmark.targets import (
    BATCH,
    BATCHING,
    CALLERS,
    CROWD,
    ENGINE,
    FLOORS,
    GRPC,
    GRPC_CLIENT,
    REST,
    REST_CLIENT,
    rows_of,
    turn_name,
)
from serving.benchmark.variants import environment
from serving.engines.engine import available_cores
from serving.server.lifecycle.server_process import ServerProcess

#: Nobody waits for company: TensorFlow's own advice for the processor, where a run of several is
#: little faster, and the only setting that could be no slower for one caller.
_PARAMETERS = """max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: {cores} }}
"""
#: Side in px of the image that is made where none is given, unless the model takes larger ones.
_LEAST_SIDE = 224

#: Called with turns done, turns in all, and what is being done.
OnTurn = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Thing:
    """What has a turn in each round.

    Attributes:
      what: `server_targets.ENGINE`, one of `server_targets.FLOORS`, or how a server is called.
      callers: at a time.
      rows: images in a call; servers get one.
      server: of `server_targets.BATCHING`, or empty for the plain one.
    """

    what: str
    callers: int
    rows: int = 1
    server: str = ""

    @property
    def name(self) -> str:
        """Its turns' name."""
        return turn_name(self.what, self.callers, rows=self.rows, server=self.server)


def measure(
    bundle: Path | str,
    images: Sequence[Path] = (),
    *,
    variants: Iterable[str] | None = None,
    seconds: float = 0.5,
    rounds: int = 7,
    batching: bool = True,
    on_turn: OnTurn | None = None,
) -> dict[str, Any]:
    """Overhead, saturation and batching of the server, for each variant.

    Args:
      bundle: the folder of a model or of one version.
      images: to send; one JPEG is made where there are none.
      variants: names; None is the SavedModel and the recommended TFLite variant.
      seconds: of a turn.
      rounds: turns of each thing, at least 2.
      batching: whether the two servers that combine requests take part.
      on_turn: called before each turn.

    Returns:
      JSON-able: `machine`, `model`, `source` and number of the `images` and their `mean_kb`,
      `seconds`, `rounds`, `batching_parameters` (empty without batching); `variants`, name ->
      `rows`, plain values of `server_targets.Row`, and `turns`, name of a thing -> `p50_ms`,
      `images_per_second` and `caller_cores`, one value a round.

    Raises:
      BenchmarkError: no such image or none that the models decode, numbers out of range, or a
        request that failed.
      BundleError: no such bundle or variant.
      EngineError: a variant cannot be loaded.
      ServerError: a server does not start.
    """
    if rounds < 2 or not 0 < seconds < float("inf"):
        raise BenchmarkError(
            f"rounds must be at least 2 and seconds above 0, got {rounds} and {seconds:g}"
        )
    opened = bundles.open_bundle(bundle)
    names = _variants(opened, variants)
    coded = [_read(file) for file in images]
    parameters = _PARAMETERS.format(cores=available_cores()) if batching else ""
    plan = things(batching=batching)
    progress = _Progress(on_turn, len(names) * rounds * len(plan))
    found: dict[str, Any] = {}
    for name in names:
        progress.variant = name
        progress("starts the servers")
        with ExitStack() as stack:
            stand = _Stand(opened, name, stack)
            coded = coded or [stand.sample()]
            stand.start(parameters)
            stand.start_floor(coded[0])
            turns = _in_turns(stand, plan, coded, seconds=seconds, rounds=rounds, tell=progress)
        found[name] = {"rows": rows_of(turns), "turns": turns}
    return {
        "machine": environment(),
        "model": opened.manifest.name,
        "source": ", ".join(Path(file).name for file in images) or "generated",
        "images": len(coded),
        "mean_kb": round(sum(map(len, coded)) / len(coded) / 1e3, 1),
        "seconds": seconds,
        "rounds": rounds,
        "batching_parameters": parameters,
        "variants": found,
    }


def write(figures: dict[str, Any], path: Path) -> None:
    """Writes `figures` as JSON."""
    Path(path).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def things(*, batching: bool) -> list[Thing]:
    """Everything that has a turn; what is compared stands close together."""
    servers = ["", *BATCHING] if batching else [""]
    found = [Thing(ENGINE, 1)]
    found += [Thing(GRPC, 1, server=server) for server in servers]
    alone = (FLOORS[GRPC], REST, FLOORS[REST], GRPC_CLIENT, REST_CLIENT)
    found += [Thing(what, 1) for what in alone]
    found += [Thing(what, count) for count in CALLERS[1:] for what in (ENGINE, GRPC, REST)]
    if batching:
        callers = sorted({1, available_cores()})
        found += [Thing(ENGINE, count, rows=BATCH) for count in callers]
        found += [Thing(GRPC, CROWD, server=server) for server in servers]
    return found


def in_order(plan: Sequence[Thing], round_: int) -> list[Thing]:
    """The order of a round: it begins elsewhere than the one before, and goes the other way."""
    start = round_ * (len(plan) // 2 + 1) % len(plan)
    order = [*plan[start:], *plan[:start]]
    return order[::-1] if round_ % 2 else order


class _Progress:
    """Counts turns for whoever looks on."""

    def __init__(self, on_turn: OnTurn | None, total: int) -> None:
        self._on_turn = on_turn
        self._total = total
        self.done = 0
        self.variant = ""

    def __call__(self, what: str) -> None:
        if self._on_turn is not None:
            self._on_turn(self.done, self._total, f"{self.variant}: {what}")


class _Stand:
    """The processes that measure one variant, ended with `stack`."""

    def __init__(self, bundle: bundles.Bundle, variant: str, stack: ExitStack) -> None:
        self._bundle = bundle
        self._variant = variant
        self._stack = stack
        self._engine = stack.enter_context(_process())
        self._callers = stack.enter_context(_process())
        self._floor = stack.enter_context(_process())
        self._servers: dict[str, ServerProcess] = {}
        self._urls: dict[str, str] = {}

    def sample(self) -> bytes:
        """A JPEG for those who gave none."""
        sides = (self._bundle.manifest.input[side] for side in ("height", "width"))
        height, width = (max(int(side), _LEAST_SIDE) for side in sides)
        return self._engine.submit(sample_jpeg, height, width).result()

    def start(self, parameters: str) -> None:
        """Starts the servers; without parameters only the plain one."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-")))
        served = folder / "models" / self._bundle.manifest.name
        served.mkdir(parents=True)
        # One version, whichever others lie beside it, and a draft has no number at all.
        (served / "1").symlink_to(self._bundle.path.resolve(), target_is_directory=True)
        flags = {"": list[str]()}
        if parameters:
            file = folder / "batching.config"
            file.write_text(parameters, encoding="utf-8")
            flags |= {server: [flag] for server, flag in BATCHING.items()}
            flags["batching"].append(f"--batching_parameters_file={file}")
        if self._variant != bundles.SAVED_MODEL:
            flags = {
                server: [*given, f"--variant={self._variant}"] for server, given in flags.items()
            }
        for server, given in flags.items():
            process = ServerProcess(served.parent, flags=given)
            self._servers[server] = self._stack.enter_context(process)

    def start_floor(self, image: bytes) -> None:
        """Starts servers that answer with what the plain one says to the image."""
        plain, model = self._servers[""], self._bundle.manifest.name
        over_grpc, over_rest = (
            self._callers.submit(answer_of, Target(url, model), image).result()
            for url in (f"grpc://{plain.grpc_target}", plain.rest_url)
        )
        found = self._floor.submit(baseline.start, over_grpc, over_rest).result()
        self._urls = {FLOORS[GRPC]: found.grpc_url, FLOORS[REST]: found.rest_url}

    def turn(self, thing: Thing, images: Sequence[bytes], seconds: float) -> Turn:
        """One turn."""
        return self._begin(thing, images, seconds).result()

    def _begin(self, thing: Thing, images: Sequence[bytes], seconds: float) -> "Future[Turn]":
        if thing.what == ENGINE:
            return self._engine.submit(
                engine_turn,
                self._bundle.path,
                self._variant,
                images,
                callers=thing.callers,
                rows=thing.rows,
                seconds=seconds,
            )
        return self._callers.submit(
            server_turn,
            Target(self._url(thing), self._bundle.manifest.name),
            images,
            lean=thing.what not in (GRPC_CLIENT, REST_CLIENT),
            callers=thing.callers,
            seconds=seconds,
        )

    def _url(self, thing: Thing) -> str:
        if thing.what in self._urls:
            return self._urls[thing.what]
        server = self._servers[thing.server]
        return (
            f"grpc://{server.grpc_target}" if thing.what in (GRPC, GRPC_CLIENT) else server.rest_url
        )


def _in_turns(
    stand: _Stand,
    plan: Sequence[Thing],
    images: Sequence[bytes],
    *,
    seconds: float,
    rounds: int,
    tell: _Progress,
) -> dict[str, dict[str, list[float]]]:
    """Name of a thing -> what of its turns -> one value a round."""
    measured = [field.name for field in fields(Turn)]
    found: dict[str, dict[str, list[float]]] = {
        thing.name: {name: [] for name in measured} for thing in plan
    }
    # The engine's model is loaded, and every server's first request answered, before it counts.
    for thing in plan:
        if thing.callers == 1:
            tell(f"first calls, {thing.name}")
            stand.turn(thing, images, 0.0)
    for round_ in range(rounds):
        for thing in in_order(plan, round_):
            tell(f"round {round_ + 1}, {thing.name}")
            for name, value in asdict(stand.turn(thing, images, seconds)).items():
                found[thing.name][name].append(value)
            tell.done += 1
    return found


def _process() -> ProcessPoolExecutor:
    """A process that runs one thing at a time; no fork, which would copy locks that are held."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_leave_interrupts)


def _leave_interrupts() -> None:
    # Ctrl-C reaches the whole group; the caller ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _variants(bundle: bundles.Bundle, names: Iterable[str] | None) -> list[str]:
    if names is None:
        known = [variant.name for variant in bundle.manifest.variants]
        recommended = bundle.manifest.recommended
        return [bundles.SAVED_MODEL, *([recommended] if recommended in known else [])]
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name != bundles.SAVED_MODEL:
            bundle.tflite_path(name)
    return chosen


def _read(file: Path) -> bytes:
    try:
        data = Path(file).read_bytes()
        check_image(data)
    except OSError as error:
        raise BenchmarkError(
            f"cannot read the image {file}: {error.strerror}; give the path of a file"
        ) from error
    except ImageError as error:
        raise BenchmarkError(f"{file} cannot be sent: {error}") from error
    return data
