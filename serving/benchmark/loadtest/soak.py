"""A soak test: the embedded server under load while versions come and go.

    python -m serving.benchmark.loadtest.soak bundles/digits_cnn --images photos --seconds 60

It serves a copy of the model's folder, sends mixed REST and gRPC load, pushes a new version every
few seconds (the folder's versions in turn, under growing numbers), and sends malformed requests in
between. Exit status: 0 when every criterion is met, 1 when one is not, 2 for wrong arguments, 130
after Ctrl-C.
"""

import argparse
import contextlib
import shutil
import subprocess
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
from serving.benchmark.loadtest import report, soak_report
from serving.benchmark.loadtest.bodies import Requests, from_folder, generated
from serving.benchmark.loadtest.generator import Progress
from serving.benchmark.loadtest.malformed import Malformed
from serving.benchmark.loadtest.plan import LoadError, Plan, Target
from serving.benchmark.loadtest.result import LoadResult
from serving.benchmark.loadtest.run import run_load
from serving.benchmark.loadtest.soak_report import SoakResult, Swap
from serving.client.connections import Session
from serving.server.errors import ServerError
from serving.server.lifecycle.server_process import ServerProcess

#: Until a pushed version has to be available and the one before it gone.
_SWAP_TIMEOUT_S = 60.0
_LOOK_S = 0.1
#: Exit status of a program that Ctrl-C ended, as shells count it.
_INTERRUPTED = 130


@dataclass(frozen=True)
class SoakOptions:
    """How long and how hard.

    Attributes:
      model_dir: holds the versions that are served in turn; one is swapped with its own copy.
      images: a folder to send; None sends generated ones.
      seconds: of load, after the warm-up.
      warm_up_s: of load before the first swap; memory is compared with that at its end.
      rate: requests a second, half of them over REST and half over gRPC.
      swap_s: between the starts of two swaps.
      malformed_s: between two malformed requests.
      seed: of the arrivals.
      answers_only: judge the answers; latency and memory, which on a shared machine are not the
        server's alone, are shown.
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
        """Looks at the ranges.

        Raises:
          LoadError: a value out of range; names it.
        """
        for name in ("seconds", "rate", "swap_s", "malformed_s"):
            if not getattr(self, name) > 0:
                raise LoadError(f"`{name}` must be above 0, got {getattr(self, name)}")


def run_soak(
    options: SoakOptions, *, on_progress: Callable[[Progress, int], None] | None = None
) -> SoakResult:
    """Runs it.

    Args:
      options: see there.
      on_progress: told of the REST half of the load, and of the swaps so far.

    Raises:
      LoadError: no version in the folder, or a load that cannot be sent.
      OSError: a version that cannot be copied; the load is stopped then, as after Ctrl-C.
      ServerError: the server does not start.
    """
    sources = list(bundles.version_dirs(options.model_dir).values())
    if not sources:
        raise LoadError(
            f"{options.model_dir} holds no version: expected {options.model_dir}/<integer>/"
            f"{bundles.SAVED_MODEL_FILE}"
        )
    with tempfile.TemporaryDirectory(prefix="sightline-soak-") as folder:
        versions = _Versions(Path(folder), options.model_dir.name or "model", sources)
        versions.push()
        flags = ("--file_system_poll_wait_seconds=0.25",)
        with ServerProcess(versions.root, flags=flags) as server:
            return _drive(options, versions, server, on_progress)


class _Versions:
    """The served folder: what is pushed to it and taken away."""

    def __init__(self, root: Path, model: str, sources: Sequence[Path]) -> None:
        self.root = root / "bundles"
        self.model = model
        self._staging = root / "staging"
        self._sources = sources
        self.newest = 0
        (self.root / model).mkdir(parents=True)

    def push(self) -> None:
        """Puts the next version there, whole or not at all."""
        source = self._sources[self.newest % len(self._sources)]
        shutil.copytree(source, self._staging)
        self._staging.rename(self.root / self.model / str(self.newest + 1))
        self.newest += 1

    def remove_old(self) -> None:
        """Takes away all but the newest."""
        for number, path in bundles.version_dirs(self.root / self.model).items():
            if number != self.newest:
                shutil.rmtree(path)


def _drive(
    options: SoakOptions,
    versions: _Versions,
    server: ServerProcess,
    on_progress: Callable[[Progress, int], None] | None,
) -> SoakResult:
    targets = [
        Target(server.rest_url, versions.model),
        Target(f"grpc://{server.grpc_target}", versions.model),
    ]
    swaps: list[Swap] = []
    stop = threading.Event()
    load_began = threading.Event()

    def tell(now: Progress) -> None:
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
                on_progress=tell,
                stop=stop,
            )
            for k, target in enumerate(targets)
        ]
        try:
            while not load_began.wait(_LOOK_S) and not any(half.done() for half in halves):
                pass
            stop.wait(options.warm_up_s)
            start_mb = resident_mb(server.pid)
            malformed = pool.submit(Malformed(targets).send_often, options.malformed_s, stop)
            for swap in _swaps(options, versions, server, halves):
                swaps.append(swap)
            for half in as_completed(halves):
                half.result()
        finally:
            # Also ends what is left of the load: the pool waits for its threads.
            stop.set()
        return SoakResult(
            loads=tuple(half.result() for half in halves),
            swaps=tuple(swaps),
            malformed=malformed.result(),
            start_mb=start_mb,
            end_mb=resident_mb(server.pid),
            answers_only=options.answers_only,
        )


def _requests(options: SoakOptions, target: Target) -> Requests:
    return from_folder(options.images, target) if options.images else generated(target)


def _plan(options: SoakOptions, half: int) -> Plan:
    return Plan(
        rate=options.rate / 2,
        seconds=options.seconds,
        warm_up_s=options.warm_up_s,
        # Two halves that came at the same moments would be pairs and not a Poisson process.
        seed=2 * options.seed + half,
        channels=2,
    )


def _swaps(
    options: SoakOptions,
    versions: _Versions,
    server: ServerProcess,
    halves: Sequence["Future[LoadResult]"],
) -> Iterator[Swap]:
    """One swap after another, until the load is over."""
    while not any(half.done() for half in halves):
        began = time.monotonic()
        versions.push()
        done = _wait_for_swap(versions, server)
        ended = time.monotonic()
        versions.remove_old()
        yield Swap(began, ended, resident_mb(server.pid), done)
        while time.monotonic() < began + options.swap_s and not any(h.done() for h in halves):
            time.sleep(_LOOK_S)


def _wait_for_swap(versions: _Versions, server: ServerProcess) -> bool:
    """Whether the newest version became the only one in time."""
    url = f"{server.rest_url}/v1/models/{versions.model}"
    deadline = time.monotonic() + _SWAP_TIMEOUT_S
    # Over one connection: looking must not be part of the load that is measured.
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
            time.sleep(_LOOK_S)
    return False


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, in MB of 2^20 bytes; NaN where that cannot be read."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii").splitlines()
        found = next((line.split()[1] for line in lines if line.startswith("VmRSS:")), "nan")
    else:
        ps = ["ps", "-o", "rss=", "-p", str(pid)]
        found = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
    return float(found or "nan") / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it from the command line; the exit status is the module's docstring's."""
    flags = _parser().parse_args(arguments)
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

        def tell(now: Progress, swaps: int) -> None:
            status.update(f"{now.elapsed_s:.0f} of {now.total_s:.0f} s, {swaps} swaps")

        try:
            result = run_soak(options, on_progress=tell)
        except (LoadError, ServerError, OSError) as error:
            Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped; nothing was measured to its end", markup=False)
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
        help="latency and memory are shown and fail nothing, for a machine that others use",
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
