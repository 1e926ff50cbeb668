"""A soak test: the embedded server under load while versions are pushed and removed.

    python -m serving.benchmark.loadtest.soak bundles/digits_cnn --images photos --seconds 60

It serves a copy of the model's folder, sends mixed REST and gRPC load, pushes a version every few
seconds (the folder's versions in rotation, under increasing numbers), and sends malformed requests.
Exit status: 0 when every criterion is met, 1 when one is not, 2 for wrong arguments, 130 after
Ctrl-C.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests as http
from rich.console import Console

from core import bundle as bundles
from core.processes import resident_memory_bytes
from core.renamed import current_flags
from serving.benchmark.loadtest import report, soak_report
from serving.benchmark.loadtest.bodies import Requests, from_folder, generated
from serving.benchmark.loadtest.generator import LoadProgress
from serving.benchmark.loadtest.malformed import MalformedSender
from serving.benchmark.loadtest.plan import LoadError, LoadPlan, LoadTarget
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.run import run_load
from serving.benchmark.loadtest.soak_report import SoakResult, Swap
from serving.client.connections import Session
from serving.server.errors import ServerError
from serving.server.lifecycle.server_process import ServerProcess

#: Time limit for a pushed version to be available and the previous one to be removed.
_SWAP_TIMEOUT_S = 60.0
_POLL_S = 0.1
#: Exit status after Ctrl-C, by the convention of shells.
_INTERRUPTED = 130


@dataclass(frozen=True)
class SoakOptions:
    """Length, load and criteria of a soak test.

    Attributes:
      model_dir: folder of the versions that are served in rotation; a single version is swapped
        with a copy.
      images: folder of images to send; None sends generated ones.
      seconds: length of the load after the warm-up.
      warm_up_s: length of the load before the first swap; the memory at its end is the reference.
      rate: requests per second, half over REST and half over gRPC.
      swap_s: seconds between the starts of two swaps.
      malformed_s: seconds between two malformed requests.
      seed: of the arrivals.
      answers_only: only the responses must meet their criteria; latency and memory, which on a
        shared machine also depend on other programs, are shown.

    Raises:
      LoadError: a value is out of range.
    """

    model_dir: Path
    images: Path | None = None
    seconds: float = 1800.0
    warm_up_s: float = 10.0
    rate: float = 20.0
    swap_s: float = 10.0
    malformed_s: float = 20.0
    seed: int = 0
    answers_only: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "rate", "swap_s", "malformed_s"):
            if not getattr(self, name) > 0:
                raise LoadError(f"`{name}` must be above 0, got {getattr(self, name)}")


def run_soak(
    options: SoakOptions, *, on_progress: Callable[[LoadProgress, int], None] | None = None
) -> SoakResult:
    """Runs a soak test.

    Args:
      options: of the test.
      on_progress: called with the progress of the load and the number of swaps.

    Raises:
      LoadError: the folder has no version, or the load cannot be sent.
      OSError: a version cannot be copied; the load is stopped, as after Ctrl-C.
      ServerError: the server does not start.
    """
    sources = list(bundles.version_dirs(options.model_dir).values())
    if not sources:
        raise LoadError(
            f"{options.model_dir} has no version: expected {options.model_dir}/<integer>/"
            f"{bundles.SAVED_MODEL_FILE}"
        )
    with tempfile.TemporaryDirectory(prefix="sightline-soak-") as folder:
        versions = _Versions(Path(folder), options.model_dir.name or "model", sources)
        versions.push()
        flags = ("--file_system_poll_wait_seconds=0.25",)
        with ServerProcess(versions.root, flags=flags) as server:
            return _drive(options, versions, server, on_progress)


class _Versions:
    """The served folder, to which versions are pushed."""

    def __init__(self, root: Path, model: str, sources: Sequence[Path]) -> None:
        self.root = root / "bundles"
        self.model = model
        self._staging = root / "staging"
        self._sources = sources
        self.newest = 0
        (self.root / model).mkdir(parents=True)

    def push(self) -> None:
        """Adds the next version atomically."""
        source = self._sources[self.newest % len(self._sources)]
        shutil.copytree(source, self._staging)
        self._staging.rename(self.root / self.model / str(self.newest + 1))
        self.newest += 1

    def remove_old(self) -> None:
        """Removes all versions but the newest."""
        for number, path in bundles.version_dirs(self.root / self.model).items():
            if number != self.newest:
                shutil.rmtree(path)


def _drive(
    options: SoakOptions,
    versions: _Versions,
    server: ServerProcess,
    on_progress: Callable[[LoadProgress, int], None] | None,
) -> SoakResult:
    targets = [
        LoadTarget(server.rest_url, versions.model),
        LoadTarget(f"grpc://{server.grpc_target}", versions.model),
    ]
    swaps: list[Swap] = []
    stop = threading.Event()
    load_began = threading.Event()

    def on_load_progress(now: LoadProgress) -> None:
        load_began.set()
        if on_progress is not None:
            on_progress(now, len(swaps))

    with ThreadPoolExecutor(3, "soak") as pool:
        halves = [
            pool.submit(
                run_load,
                target,
                _requests(options, target),
                _plan(options, k),
                on_progress=on_load_progress,
                stop=stop,
            )
            for k, target in enumerate(targets)
        ]
        try:
            while not load_began.wait(_POLL_S) and not any(half.done() for half in halves):
                pass
            stop.wait(options.warm_up_s)
            start_mb = _resident_mib(server.pid)
            malformed = pool.submit(
                MalformedSender(targets).send_repeatedly, options.malformed_s, stop
            )
            for swap in _swaps(options, versions, server, halves):
                swaps.append(swap)
            for half in as_completed(halves):
                half.result()
        finally:
            # Ends the remaining load, because the pool waits for its threads.
            stop.set()
        return SoakResult(
            loads=tuple(half.result() for half in halves),
            swaps=tuple(swaps),
            malformed=malformed.result(),
            start_mb=start_mb,
            end_mb=_resident_mib(server.pid),
            answers_only=options.answers_only,
        )


def _requests(options: SoakOptions, target: LoadTarget) -> Requests:
    return from_folder(options.images, target) if options.images else generated(target)


def _plan(options: SoakOptions, half: int) -> LoadPlan:
    return LoadPlan(
        rate=options.rate / 2,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        # With equal seeds both halves would send at the same times, which is no Poisson process.
        seed=2 * options.seed + half,
        channels=2,
    )


def _swaps(
    options: SoakOptions,
    versions: _Versions,
    server: ServerProcess,
    halves: Sequence["Future[LoadResult]"],
) -> Iterator[Swap]:
    """Swaps versions until the load ends; yields each swap."""
    while not any(half.done() for half in halves):
        began = time.monotonic()
        versions.push()
        done = _wait_for_swap(versions, server)
        ended = time.monotonic()
        versions.remove_old()
        yield Swap(began, ended, _resident_mib(server.pid), done)
        while time.monotonic() < began + options.swap_s and not any(h.done() for h in halves):
            time.sleep(_POLL_S)


def _wait_for_swap(versions: _Versions, server: ServerProcess) -> bool:
    """Whether the newest version became the only one within the time limit."""
    url = f"{server.rest_url}/v1/models/{versions.model}"
    deadline = time.monotonic() + _SWAP_TIMEOUT_S
    # Over one connection, so that polling adds little to the load.
    with Session() as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(http.RequestException, ValueError, KeyError):
                states = {
                    int(entry["version"]): entry["state"]
                    for entry in session.get(url, timeout=5).json()["model_version_status"]
                }
                newest = states.pop(versions.newest, "")
                if newest == "AVAILABLE" and set(states.values()) <= {"END"}:
                    return True
            time.sleep(_POLL_S)
    return False


def _resident_mib(pid: int) -> float:
    return resident_memory_bytes(pid) / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak test from the command line; returns the exit status, see above."""
    given = sys.argv[1:] if arguments is None else arguments
    flags = _parser().parse_args(current_flags(given, "loadtest"))
    console = Console(width=None if sys.stdout.isatty() else 110)
    options = SoakOptions(
        flags.model_dir,
        images=flags.images,
        seconds=flags.seconds,
        warm_up_s=flags.warm_up,
        rate=flags.rate,
        swap_s=flags.swap,
        malformed_s=flags.malformed,
        seed=flags.seed,
        answers_only=flags.answers_only,
    )
    with console.status("starting the server") as status:

        def show(now: LoadProgress, swaps: int) -> None:
            status.update(f"{now.elapsed_s:.0f} of {now.total_s:.0f} s, {swaps} swaps")

        try:
            result = run_soak(options, on_progress=show)
        except (LoadError, ServerError, OSError) as error:
            Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped before the end; there are no results", markup=False)
            return _INTERRUPTED
    console.print(soak_report.table(result))
    for line in report.notes(result.loads):
        console.print(line, markup=False, soft_wrap=True)
    if flags.out:
        report.write_json(soak_report.document(result, vars(options)), flags.out)
    return 0 if result.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.benchmark.loadtest.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default: Any = SoakOptions(Path())
    parser.add_argument("model_dir", type=Path, help="a model's folder of versions")
    parser.add_argument("--images", type=Path, help="folder of images to send [generated images]")
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--warm-up", type=float, default=default.warm_up_s, help="seconds")
    parser.add_argument("--rate", type=float, default=default.rate, help="requests a second")
    parser.add_argument("--swap", type=float, default=default.swap_s, help="seconds between swaps")
    parser.add_argument("--malformed", type=float, default=default.malformed_s, help="seconds")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--answers-only",
        action="store_true",
        help="show latency and memory without a limit, for a shared machine",
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
