"""`make demo`: from nothing to a served model that classifies real images, with timings.

    .venv/bin/python tools/demo.py [SECONDS_OF_SET_UP]

With photographs of ImageNet, a network with packaged weights also classifies four of them: `PHOTOS`
is a folder or a tar file of `n01440764_*.JPEG` files with `imagenet_class_index.json`.

All output is below `demo/`. Exit status, as of the pipeline: 0 if all models were pushed, 3 if a
gate refused a model or a rollback withdrew it, 1 after an error.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from core.processes import peak_memory_bytes, stop

#: Without the proxies of the environment, which cannot reach a server on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SIGHTLINE = str(Path(sys.executable).with_name("sightline"))
HOME = Path("demo")
DATA = HOME / "data" / "digits"
BUNDLES = HOME / "bundles"
FAVORITE = "digits_cnn"
PRETRAINED = "efficientnet_lite0_imagenet"
CLASS_LIST = "imagenet_class_index.json"
SAMPLE = Path("../shared/data/imagenet_sample_A.tar")
SHOWN_PHOTOS = 4
REFUSED = 3
SERVER_START_S = 120
SERVER_STOP_S = 20


class DemoError(RuntimeError):
    """A failed step; the message names it and its output."""


def step(title: str, *command: str, allowed: tuple[int, ...] = (0,), quiet: bool = False) -> int:
    """Runs `sightline` with `command` and returns its exit status.

    Raises:
      DemoError: the exit status is not among `allowed`.
    """
    if title:
        print(f"\n{title}", flush=True)
    print(f"  $ sightline {' '.join(command)}", flush=True)
    run = subprocess.run([SIGHTLINE, *command], capture_output=quiet, text=True)
    if run.returncode not in allowed:
        raise DemoError(
            f"`sightline {' '.join(command)}` ended with {run.returncode}\n{run.stderr or ''}"
        )
    return run.returncode


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def peak_memory_mb() -> float:
    """Peak memory of this process or of one of its children, in MiB."""
    return peak_memory_bytes(children=True) / 2**20


@contextlib.contextmanager
def server(model: str) -> Iterator[str]:
    """A server process for the demo's bundles; yields its REST address once `model` is loaded.

    Raises:
      DemoError: it ended, or was not ready in time; the message has its output.
    """
    rest, grpc = free_port(), free_port()
    url = f"http://127.0.0.1:{rest}"
    command = ["serve", str(BUNDLES), "--rest_api_port", str(rest), "--port", str(grpc)]
    print(f"  $ sightline {' '.join(command)} &", flush=True)
    log_path = HOME / "serve.log"
    with log_path.open("w") as log:
        process = subprocess.Popen([SIGHTLINE, *command], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(f"{url}/v1/models/{model}", process, log_path)
            yield url
        finally:
            stop(process, grace_s=SERVER_STOP_S)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the server ended with {process.returncode}:\n{log.read_text()}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with _OPENER.open(url, timeout=5) as answer:
                states = json.load(answer)["model_version_status"]
            if any(version["state"] == "AVAILABLE" for version in states):
                return
        time.sleep(0.2)
    raise DemoError(f"{url} was not ready after {SERVER_START_S} s:\n{log.read_text()}")


def pushed_model() -> str:
    """The model for the requests: the preferred one if it was pushed, or else any other.

    Raises:
      DemoError: no model was pushed.
    """
    names = sorted(path.name for path in BUNDLES.glob("*") if path.is_dir())
    if not names:
        raise DemoError(f"{BUNDLES} is empty: every model was refused; see the table above")
    return FAVORITE if FAVORITE in names else names[0]


def photographs() -> Path | None:
    """The folder of photographs in `PHOTOS`, extracted from a tar file; None without `PHOTOS`.

    Raises:
      DemoError: `PHOTOS` names nothing, or there is no class list.
    """
    given = os.environ.get("PHOTOS", "")
    source = Path(given).expanduser() if given else SAMPLE
    if not source.exists():
        if given:
            raise DemoError(f"PHOTOS={given} does not exist; give a folder or a tar")
        return None
    if source.is_dir():
        folder = source
    else:
        folder = HOME / "photos"
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    if not (folder / CLASS_LIST).is_file():
        raise DemoError(f"{source} has no {CLASS_LIST} with the class names")
    return folder


def classify_photographs(folder: Path) -> None:
    """Exports a network with ImageNet weights, without training, and classifies photographs."""
    data, trained = HOME / "data" / "photos", HOME / "work" / PRETRAINED
    if not (data / "dataset.json").is_file():
        step("", "ingest", "imagenet", str(folder), "--out", str(data))
    if not (BUNDLES / PRETRAINED).is_dir():
        step("", "train", PRETRAINED, "--data", str(data), "--out", str(trained), quiet=True)
        step("", "export", str(trained), str(BUNDLES))
    photos = sorted(str(path) for path in folder.rglob("n*.JPEG"))[:SHOWN_PHOTOS]
    step("", "predict", str(BUNDLES / PRETRAINED), *photos)


def seconds(began: float) -> float:
    """Wall-clock seconds since `began`, a `time.monotonic()`."""
    return time.monotonic() - began


def demo(setup_s: float) -> int:
    """Runs every step and prints the summary; returns the pipeline's exit status.

    Raises:
      DemoError: a step failed.
    """
    began = time.monotonic()
    if (DATA / "dataset.json").is_file():
        print(f"1. Real scanned digits are already in {DATA}", flush=True)
    else:
        step("1. Real scanned digits become TFRecords", "ingest", "digits", "--out", str(DATA))
    ingest_s = seconds(began)

    mark = time.monotonic()
    run = ("run", "smoke", "--data", str(DATA), "--root", str(HOME))
    status = step(
        "2. Train, compress, evaluate, test against gates, push", *run, allowed=(0, REFUSED)
    )
    pipeline_s = seconds(mark)
    mark = time.monotonic()
    step("", *run, allowed=(status,), quiet=True)
    again_s = seconds(mark)

    mark = time.monotonic()
    print("\n3. Serve what was pushed, and send it images of the test split", flush=True)
    samples = HOME / "samples"
    writer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "tools/digit_samples.py", str(DATA), str(samples)],
        stdout=subprocess.DEVNULL,
    )
    model = pushed_model()
    with server(model) as url:
        if writer.wait() != 0:
            raise DemoError(f"tools/digit_samples.py could not read {DATA}")
        images = sorted(str(path) for path in samples.glob("*.png"))
        step("", "predict", url, *images, "--model", model)
    serve_s = seconds(mark)

    mark = time.monotonic()
    photos = photographs()
    if photos is not None:
        print("\n4. Classify photographs with weights that `make setup` installed", flush=True)
        classify_photographs(photos)
    photos_s = seconds(mark)

    report = (HOME / "runs/smoke/reports/latest/report.html").resolve()
    photos_time = "" if photos is None else f", photographs {photos_s:.0f} s"
    print(
        f"\nset-up {setup_s:.0f} s, ingest {ingest_s:.0f} s, pipeline {pipeline_s:.0f} s, the same "
        f"again {again_s:.1f} s, serving {serve_s:.0f} s{photos_time}; "
        f"total {setup_s + seconds(began):.0f} s"
        f"\npeak memory of one process {peak_memory_mb():,.0f} MiB"
        f"\nreport  {report}"
        f"\nbundles {BUNDLES.resolve()}, served again by `make serve`"
    )
    return status


def main() -> int:
    """Runs the demo and prints errors without a stack trace."""
    setup_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return demo(setup_s)
    except DemoError as error:
        print(f"\nthe demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
