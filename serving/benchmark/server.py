"""The cost of the embedded server over its bare engine, as ratios of interleaved measurements.

    figures = measure("bundles/digits_cnn", [Path("seven.jpg")], seconds=0.5, rounds=7)
    Console().print(targets.tables(figures))

The engine, a server, two more servers that batch requests, and the callers each have a process. All
of them are loaded throughout, and each contender is measured once per round for a short time, while
the others are idle; the order differs between rounds. The bare engine is the one that the server
loads, with as many threads, called with the same images through the same signature. Two minimal
servers, gRPC's and uvicorn's, return as many bytes: the cost of the libraries alone.
"""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core import bundle as bundles
from core.processes import available_cores
from serving.benchmark import baseline
from serving.benchmark.closed_loop import (
    Measurement,
    measure_engine,
    measure_server,
    response_of,
)
from serving.benchmark.errors import BenchmarkError
from serving.benchmark.images import read_image, sample_of
from serving.benchmark.loadtest.plan import LoadTarget
from serving.benchmark.targets import (
    BASELINES,
    BATCH,
    BATCHING,
    CALLERS,
    CONCURRENT_CALLERS,
    ENGINE,
    GRPC,
    GRPC_CLIENT,
    REST,
    REST_CLIENT,
    measurement_name,
    rows_of,
)
from serving.benchmark.variants import environment
from serving.server.lifecycle.server_process import ServerProcess

#: No request waits for others to fill a batch: TensorFlow's advice for CPUs, where a batch is not
#: much faster, and the only setting that need not slow down a single caller.
_PARAMETERS = """max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: {cores} }}
"""

#: Called with the number of measurements done, their total, and the current step.
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Contender:
    """A system under a load, measured once per round.

    Attributes:
      system: `targets.ENGINE`, one of `targets.BASELINES`, or the way to call a server.
      callers: number of concurrent ones.
      rows: images per call; 1 for servers.
      batching: a key of `targets.BATCHING`, or empty for the server without batching.
    """

    system: str
    callers: int
    rows: int = 1
    batching: str = ""

    @property
    def name(self) -> str:
        """The name of its measurements."""
        return measurement_name(self.system, self.callers, rows=self.rows, batching=self.batching)


def measure(
    bundle: Path | str,
    images: Sequence[Path] = (),
    *,
    variants: Iterable[str] | None = None,
    seconds: float = 0.5,
    rounds: int = 7,
    batching: bool = True,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Overhead, saturation and batching of the server, for each variant.

    Args:
      bundle: the folder of a model or of one version.
      images: to send; without any, one JPEG is generated.
      variants: names; None selects the SavedModel and the recommended TFLite variant.
      seconds: length of a measurement.
      rounds: measurements of each contender, at least 2.
      batching: also measure the two servers that batch requests.
      on_progress: called before each measurement.

    Returns:
      JSON values: `machine`, `model`, `source` and number of the `images` and their `mean_kb`,
      `seconds`, `rounds`, `batching_parameters` (empty without batching); `variants`, name ->
      `rows`, plain values of `targets.BenchmarkRow`, and `turns`, name of a contender -> `p50_ms`,
      `images_per_second` and `caller_cores`, one value per round.

    Raises:
      BenchmarkError: an image is missing or cannot be decoded, a number is out of range, or a
        request failed.
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
    coded = [read_image(Path(file)) for file in images]
    parameters = _PARAMETERS.format(cores=available_cores()) if batching else ""
    plan = contenders(batching=batching)
    progress = _Progress(on_progress, len(names) * rounds * len(plan))
    found: dict[str, Any] = {}
    for name in names:
        progress.variant = name
        progress("starting the servers")
        with ExitStack() as stack:
            processes = _Processes(opened, name, stack)
            coded = coded or [processes.sample()]
            processes.start(parameters)
            processes.start_baselines(coded[0])
            turns = _measure_rounds(
                processes, plan, coded, seconds=seconds, rounds=rounds, progress=progress
            )
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


def contenders(*, batching: bool) -> list[Contender]:
    """All contenders; those that are compared are next to each other."""
    servers = ["", *BATCHING] if batching else [""]
    found = [Contender(ENGINE, 1)]
    found += [Contender(GRPC, 1, batching=server) for server in servers]
    alone = (BASELINES[GRPC], REST, BASELINES[REST], GRPC_CLIENT, REST_CLIENT)
    found += [Contender(system, 1) for system in alone]
    found += [Contender(system, n) for n in CALLERS[1:] for system in (ENGINE, GRPC, REST)]
    if batching:
        callers = sorted({1, available_cores()})
        found += [Contender(ENGINE, count, rows=BATCH) for count in callers]
        found += [Contender(GRPC, CONCURRENT_CALLERS, batching=server) for server in servers]
    return found


def round_order(plan: Sequence[Contender], round_: int) -> list[Contender]:
    """The order of a round: each starts at another contender and reverses the direction."""
    start = round_ * (len(plan) // 2 + 1) % len(plan)
    order = [*plan[start:], *plan[:start]]
    return order[::-1] if round_ % 2 else order


class _Progress:
    """Reports the number of measurements done to a callback."""

    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self.done = 0
        self.variant = ""

    def __call__(self, step: str) -> None:
        if self._on_progress is not None:
            self._on_progress(self.done, self._total, f"{self.variant}: {step}")


class _Processes:
    """The processes that measure one variant; `stack` ends them."""

    def __init__(self, bundle: bundles.Bundle, variant: str, stack: ExitStack) -> None:
        self._bundle = bundle
        self._variant = variant
        self._stack = stack
        self._engine = stack.enter_context(_process())
        self._callers = stack.enter_context(_process())
        self._baselines = stack.enter_context(_process())
        self._servers: dict[str, ServerProcess] = {}
        self._urls: dict[str, str] = {}

    def sample(self) -> bytes:
        """A generated JPEG, at least as large as the model's input."""
        return self._engine.submit(sample_of, self._bundle).result()

    def start(self, parameters: str) -> None:
        """Starts the servers; with empty parameters only the one without batching."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-")))
        served = folder / "models" / self._bundle.manifest.name
        served.mkdir(parents=True)
        # Links one version: the folder may hold others, and a draft has no version number.
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

    def start_baselines(self, image: bytes) -> None:
        """Starts the minimal servers, which return the plain server's response to `image`."""
        plain, model = self._servers[""], self._bundle.manifest.name
        over_grpc, over_rest = (
            self._callers.submit(response_of, LoadTarget(url, model), image).result()
            for url in (f"grpc://{plain.grpc_target}", plain.rest_url)
        )
        found = self._baselines.submit(baseline.start, over_grpc, over_rest).result()
        self._urls = {BASELINES[GRPC]: found.grpc_url, BASELINES[REST]: found.rest_url}

    def measure(self, contender: Contender, images: Sequence[bytes], seconds: float) -> Measurement:
        """One measurement."""
        if contender.system == ENGINE:
            return self._engine.submit(
                measure_engine,
                self._bundle.path,
                self._variant,
                images,
                callers=contender.callers,
                rows=contender.rows,
                seconds=seconds,
            ).result()
        return self._callers.submit(
            measure_server,
            LoadTarget(self._url(contender), self._bundle.manifest.name),
            images,
            prepared=contender.system not in (GRPC_CLIENT, REST_CLIENT),
            callers=contender.callers,
            seconds=seconds,
        ).result()

    def _url(self, contender: Contender) -> str:
        if contender.system in self._urls:
            return self._urls[contender.system]
        server = self._servers[contender.batching]
        if contender.system in (GRPC, GRPC_CLIENT):
            return f"grpc://{server.grpc_target}"
        return server.rest_url


def _measure_rounds(
    processes: _Processes,
    plan: Sequence[Contender],
    images: Sequence[bytes],
    *,
    seconds: float,
    rounds: int,
    progress: _Progress,
) -> dict[str, dict[str, list[float]]]:
    """Name of a contender -> field of `Measurement` -> one value per round."""
    measured = [field.name for field in fields(Measurement)]
    found: dict[str, dict[str, list[float]]] = {
        contender.name: {name: [] for name in measured} for contender in plan
    }
    # Loads the engine's model and handles each server's first request before anything is measured.
    for contender in plan:
        if contender.callers == 1:
            progress(f"first calls, {contender.name}")
            processes.measure(contender, images, 0.0)
    for round_ in range(rounds):
        for contender in round_order(plan, round_):
            progress(f"round {round_ + 1}, {contender.name}")
            for name, value in asdict(processes.measure(contender, images, seconds)).items():
                found[contender.name][name].append(value)
            progress.done += 1
    return found


def _process() -> ProcessPoolExecutor:
    """A process for one task at a time; not forked, which would copy locks that are held."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_ignore_interrupts)


def _ignore_interrupts() -> None:
    # Ctrl-C is sent to the whole process group; the parent process ends this one.
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
