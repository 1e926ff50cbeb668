"""The summary of a smoke run, and a browser for its report."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfx_pipeline.config import make_experiments
from tfx_pipeline.pipelines.smoke import smoke
from tfx_pipeline.request.run import RunRequest
from trainers.data.features import DatasetInfo, SplitInfo

CLASSES = [str(digit) for digit in range(10)]
VARIANTS = {
    # name: (method, dtype, top1, size, gzip, sparsity, p50)
    "saved_model": ("none", "fp32", 0.986, 412_000, 310_000, 0.0, 1.92),
    "none_fp32": ("none", "fp32", 0.986, 158_400, 143_900, 0.0, 0.121),
    "ptq_dynamic": ("ptq", "dynamic", 0.986, 46_100, 38_200, 0.0, 0.074),
    "ptq_int8": ("ptq", "int8", 0.983, 45_000, 35_700, 0.0, 0.052),
    "prune_fp32": ("prune", "fp32", 0.983, 158_400, 41_000, 0.8, 0.120),
    "pqat_int8": ("pqat", "int8", 0.981, 45_000, 14_100, 0.8, 0.051),
}


def _interval(value: float, reach: float = 0.012) -> list[float]:
    return [value, max(0.0, value - reach * 1.3), min(1.0, value + reach)]


def _variant(name: str, shift: float) -> dict:
    method, dtype, top1, size, gzip, sparsity, p50 = VARIANTS[name]
    return {
        "name": name,
        "recommended": name == "pqat_int8",
        "method": method,
        "dtype": dtype,
        "size_bytes": size,
        "gzip_bytes": gzip,
        "sparsity": sparsity,
        "latency_ms_p50": p50 * (1 + 20 * shift),
        "latency_ms_p99": p50 * (1 + 20 * shift) * 1.6,
        "images_per_second": 1000 / p50,
        "metrics": {
            "top1": _interval(top1 - shift),
            "top5": _interval(0.999, 0.002),
            "macro_precision": _interval(top1 - shift - 0.001),
            "macro_recall": _interval(top1 - shift),
            "macro_f1": _interval(top1 - shift - 0.0005),
            "cross_entropy": _interval(0.061 + shift, 0.02),
            "ece": _interval(0.012, 0.004),
        },
        "difference": {
            "against": "none_fp32",
            "top1": [top1 - 0.986, top1 - 0.986 - 0.009, top1 - 0.986 + 0.006],
            "mcnemar_p": 0.6875,
        },
    }


def _history(epochs: int, best: float, seed: int) -> list[dict]:
    noise = np.random.default_rng(seed).normal(0, 0.006, size=(epochs, 2))
    progress = 1 - np.exp(-np.arange(1, epochs + 1) / 4)
    return [
        {
            "epoch": epoch + 1,
            "loss": float(2.3 * (1 - progress[epoch]) + 0.05),
            "top1": float(min(1, progress[epoch] * (best + 0.01) + noise[epoch, 0])),
            "val_loss": float(2.2 * (1 - progress[epoch]) + 0.07 + abs(noise[epoch, 1])),
            "val_top1": float(min(1, progress[epoch] * best + noise[epoch, 1])),
            "learning_rate": float(0.05 * (1 + np.cos(np.pi * (epoch + 1) / epochs))),
            "images_per_second": 2100.0,
        }
        for epoch in range(epochs)
    ]


def _confusion() -> list[list[int]]:
    matrix = np.diag([36, 36, 35, 36, 35, 37, 36, 35, 33, 35])
    for label, guess in ((8, 1), (9, 3), (3, 9), (5, 9)):
        matrix[label, guess] += 1
    matrix[8, 1] += 1
    return matrix.tolist()


def _slices(shift: float) -> list[dict]:
    found = [
        ("slice/brightness", "dark", 121, 0.975),
        ("slice/brightness", "medium", 118, 0.992),
        ("slice/brightness", "bright", 121, 0.983),
        ("slice/contrast", "low", 14, 0.929),
        ("slice/contrast", "high", 346, 0.988),
        *[("image/class/text", name, 36, 1.0 - 0.008 * i) for i, name in enumerate(CLASSES)],
    ]
    return [
        {"key": key, "value": value, "examples": n, "top1": _interval(top1 - shift, 0.6 / n**0.5)}
        for key, value, n, top1 in found
    ]


def _model(name: str, variants: list[str], shift: float, *, refused: bool = False) -> dict:
    gates = [
        {"name": "top1", "value": 0.986 - shift, "threshold": 0.97},
        {"name": "int8 collapse", "variant": "ptq_int8", "value": 0.003, "threshold": 0.02},
        {"name": "slice top1", "slice": "brightness=dark", "value": 0.975, "threshold": 0.9},
        {"name": "round trip", "value": 0.0, "threshold": 0.0},
    ]
    for gate in gates:
        gate |= {"passed": True, "verdict": "held", "detail": "", "waived": ""}
        gate |= {"images_needed": 0, "variant": gate.get("variant", "saved_model")}
    if refused:
        gates[0] |= {"passed": False, "verdict": "failed"}
        gates[0] |= {"detail": "0.951 on 360 images; at least 0.97 is required"}
    return {
        "name": name,
        "architecture": {"digits_cnn": "cnn", "digits_resnet": "resnet20"}.get(name, "vit_tiny"),
        "recommended": name == "digits_cnn",
        "parameters": 36_218,
        "multiply_adds": 4_100_000,
        "config": {"name": name, "train": {"epochs": 12, "seed": 0}},
        "seed": 0,
        "history": _history(12, 0.985 - shift, seed=len(name)),
        "best_epoch": 11,
        "variants": [_variant(variant, shift) for variant in variants],
        "confusion": {"variant": "saved_model", "matrix": _confusion()},
        "slices": _slices(shift),
        "gates": gates,
        "why_variant": f"of 5 variants as good as float, {variants[-1]} is the smallest",
        "pushed": None
        if refused
        else {"path": f"bundles/{name}/3", "version": 3, "pushed": name == "digits_cnn"},
        "refused_because": "top1 0.951 is below 0.97" if refused else None,
    }


@pytest.fixture
def request_(tmp_path) -> RunRequest:
    """A request to run `smoke` on empty records."""
    data = tmp_path / "data"
    (data / "Split-train").mkdir(parents=True)
    (data / "Split-train/data_tfrecord-00000-of-00001").write_bytes(b"records")
    splits = {"train": SplitInfo(1, 1, {"a": 1, "b": 0})}
    info = DatasetInfo("d", "classification", ("a", "b"), 1, splits, "f" * 64)
    (data / "dataset.json").write_text(info.to_json())
    shape = smoke()
    experiments = make_experiments(shape, data)
    return RunRequest("r1", shape, experiments, str(data), str(tmp_path))


@pytest.fixture
def smoke_summary() -> dict:
    """A finished run: two models pushed, one refused."""
    short = ["saved_model", "none_fp32", "ptq_dynamic"]
    per_class = dict.fromkeys(CLASSES, 36)
    return {
        "pipeline": "smoke",
        "run": "20261122-160000",
        "status": "refused",
        "seconds": 210.3,
        "created": "2026-11-22T16:03:30+00:00",
        "command": "sightline run smoke",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "stack": {"python": "3.10.14", "tensorflow": "2.16.2", "tfx": "1.16.0"},
        "machine": {"cpu": "a processor", "cores": 2},
        "data": {
            "name": "digits",
            "classes": CLASSES,
            "label_offset": 1,
            "splits": {
                "train": {
                    "examples": 1077,
                    "shards": 2,
                    "per_class": {c: 100 + 3 * i for i, c in enumerate(CLASSES)},
                },
                "validation": {"examples": 360, "shards": 1, "per_class": per_class},
                "test": {"examples": 360, "shards": 1, "per_class": per_class},
            },
            "fingerprint": "9f2c41aa03b7",
            "rejected": 1,
            "rejections": ['{"file": "8/torn.png", "reason": "not an image"}'],
            "source": "sklearn.datasets.load_digits",
            "anomalies": [],
        },
        "components": [
            {"name": "Importer", "seconds": 1.2, "state": "done"},
            {"name": "StatisticsGen", "seconds": 14.9, "state": "cached"},
            {"name": "Trainer.digits_cnn", "seconds": 31.2, "state": "done"},
            {"name": "Trainer.digits_resnet", "seconds": 48.7, "state": "done"},
            {"name": "Evaluator.digits_cnn", "seconds": 11.0, "state": "done"},
        ],
        "models": [
            _model("digits_resnet", short, 0.004),
            _model("digits_cnn", list(VARIANTS), 0.0),
            _model("digits_vit", short, 0.035, refused=True),
        ],
        "recommendation": "digits_cnn as pqat_int8: 10x smaller, within 1 point of float.",
        "lineage": [
            {
                "id": 1,
                "type": "Examples",
                "producer": "Importer",
                "uri": "data/digits",
                "digest": "9f2c41aa03b7" * 4,
            },
            {
                "id": 7,
                "type": "Model",
                "producer": "Trainer.digits_cnn",
                "uri": "runs/smoke/artifacts/Trainer.digits_cnn/model/7",
                "digest": "77ab01cc93de" * 4,
            },
        ],
    }


class Browser:
    """A tab of headless Chromium without name resolution, driven by the DevTools protocol.

    Attributes:
      messages: of the console, exceptions included.
      requested: addresses, without `data:`.


    Args:
      program: Chromium.
      profile: folder of the profile.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.messages: list[str] = []
        self.requested: set[str] = set()
        self._ids = itertools.count(1)
        self._loaded = False
        ours, theirs = os.pipe(), os.pipe()
        command = [program, *_flags(profile)]
        self._write, self._read = ours[1], theirs[0]
        self._buffer = b""
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", *command],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the tab."""
        return self._call(method, session=self._session, **params)

    def open(self, page: Path) -> None:
        """Loads a file and waits for it and its images."""
        self._loaded = False
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._handle(self._receive())

    def run(self, script: str) -> Any:
        """The value of an expression in the page, as JSON."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def use(self, *, width: int = 1280, scheme: str = "light") -> None:
        """Sets the width of the window in pixels and the system's color scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="screen", features=features)

    def press(self, key: str) -> None:
        """Presses and releases a key, such as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def screenshot(self, target: Path) -> None:
        """Writes the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        target.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, target: Path) -> None:
        """Writes the page as it prints, on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        target.write_bytes(base64.b64decode(self.call("Page.printToPDF", **paper)["data"]))

    def close(self) -> None:
        """Ends the browser."""
        try:
            self._call("Browser.close")
        finally:
            os.close(self._write)
            os.close(self._read)
            self._process.wait(timeout=60)

    def _call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            found = self._receive()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]
            self._handle(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _handle(self, event: Mapping[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requested |= set() if url.startswith("data:") else {url}
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(params))
        elif method == "Page.loadEventFired":
            self._loaded = True


def _flags(profile: Path) -> list[str]:
    return [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
    ]


@pytest.fixture
def browser(tmp_path) -> Iterator[Browser]:
    """Headless Chromium; skips if there is none."""
    program = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    if not program:
        pytest.skip("no browser: set CHROMIUM or install Debian's package `chromium`")
    found = Browser(program, tmp_path / "profile")
    yield found
    found.close()


@pytest.fixture
def screenshots(tmp_path) -> Path:
    """The folder of screenshots: `SIGHTLINE_SCREENSHOTS`, which CI keeps, or a temporary one."""
    folder = Path(os.environ.get("SIGHTLINE_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Page:
    """A page in the browser: the document, its console, and the requested addresses."""

    dom: str
    console: list[str]
    requested: set[str]


@pytest.fixture
def open_page(browser) -> Callable[[Path], Page]:
    """Opens a file in the browser."""

    def page(path: Path) -> Page:
        browser.open(path)
        dom = browser.run("document.documentElement.outerHTML")
        return Page(dom, browser.messages, browser.requested - {path.as_uri()})

    return page
