"""Fixtures of all tests: shared data, quiet TensorFlow, and no network access."""

import contextlib
import fcntl
import gc
import ipaddress
import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Before anything loads TensorFlow; trainers.keras sets the first one too, but not every test
# comes by it.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Google's libraries would otherwise look for a metadata server, with retries.
os.environ.setdefault("NO_GCE_CHECK", "true")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


class NetworkUsedError(OSError):
    """A test reached for the network; an OSError, so that third-party code takes it for offline."""


def _is_local(family: int, address: object) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0]) if isinstance(address, tuple) else str(address)
    if host in ("", "localhost"):
        return True
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified


def _guarded(name: str) -> Callable[..., object]:
    original = getattr(socket.socket, name)

    def connect(self: socket.socket, address: object) -> object:
        if not _is_local(self.family, address):
            raise NetworkUsedError(f"tests have no network, and this one connects to {address}")
        return original(self, address)

    return connect


class _EndAtCrash:
    """Ends a parallel run when a worker process dies, and names the test that it was running.

    Otherwise pytest-xdist replaces the worker and the run takes its whole time. With `--dist
    loadfile` it may even wait forever: the test that crashed is run again, and a second crash
    while the new worker collects loses the work of both.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._died = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error is not None:
            self._died = f"worker {node.gateway.id} died ({error})"

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        self._config.hook.pytest_runtest_logreport(report=report)
        raise pytest.Session.Failed(self._died)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self) -> None:
        if self._died:  # This node would replace a worker that was running no test.
            terminal = self._config.pluginmanager.get_plugin("terminalreporter")
            terminal.write_line(f"{self._died} outside of a test, e.g. while it collected tests")
            raise pytest.Session.Failed(self._died)


def pytest_configure(config: pytest.Config) -> None:
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _guarded(name))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_EndAtCrash(config))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--peers-page", help="file for the responses of third-party clients")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.option.markexpr
    reasons = {}
    if "zoo" not in wanted:
        reasons["zoo"] = "every model there is; `make test-zoo` runs it"
    if "peers" not in wanted:
        reasons["peers"] = "needs separate environments; run `make test-peers`"
    if "slow" not in wanted and not config.getoption("--slow"):
        reasons["slow"] = "slow; --slow or `make test-slow` runs it"
    for item in items:
        # A guard against hanging only: the zoo's networks take five minutes on a busy machine.
        if item.get_closest_marker("slow") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200))
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    # TensorFlow, TFX and their like stay to the end: collections of garbage need not look there.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image packages beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def extract(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`extract("cifar10_A")`: the folder of that package's files, unpacked once a session.

    Tests read it; one that writes copies it first.
    """
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            archive = shared_data / f"{name}.tar"
            if not archive.is_file():
                pytest.skip(f"../shared/data/{archive.name} is not there")
            target = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
            unpacked[name] = target
        return unpacked[name]

    return unpack


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`earlier("b54914a")`: files of that version, unpacked for each call; see tests/fixtures."""

    def unpack(version: str) -> Path:
        target = tmp_path_factory.mktemp(version)
        with tarfile.open(ROOT / "tests/fixtures" / version / "fixture.tar.gz") as tar:
            tar.extractall(target, filter="data")
        return target

    return unpack


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`once("name", write)`: a folder that `write(folder)` filled, once for all workers of a run.

    The others wait for it, and read it only.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # Each worker's own folder is below that of the run.

    def folder(name: str, write: Callable[[Path], object]) -> Path:
        target = base / f"once-{name}"
        with (base / f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = base / f"{target.name}.done"
            if not done.exists():
                shutil.rmtree(target, ignore_errors=True)  # What a failed one left.
                target.mkdir()
                write(target)
                done.touch()
        return target

    return folder


@pytest.fixture(scope="session", autouse=True)
def _small_chunks() -> Iterator[None]:
    """Tests prepare 2 images a call instead of 8: tracing a call takes a quarter of the time.

    A chunk never changes a pixel, which trainers/data/test_chunks.py holds the real size to.
    """
    with pytest.MonkeyPatch.context() as patched:
        if sys.modules.get("trainers.data.prepare"):
            patched.setattr("trainers.data.prepare.CHUNK", 2)
        yield


@pytest.fixture(scope="session")
def write_bundle() -> Callable[[Path, str], Path]:
    """`write_bundle(folder, content)`: a whole bundle, named `m`, as far as a push looks.

    Servers cannot load it; TensorFlow is not needed to write it.
    """

    def write(folder: Path, content: str) -> Path:
        from core import bundle as bundles

        (folder / bundles.LABELS_FILE).parent.mkdir(parents=True)
        (folder / bundles.LABELS_FILE).write_text("a\nb\n")
        for name in (bundles.SAVED_MODEL_FILE, bundles.tflite_file("none_fp32")):
            (folder / name).write_text(content)
        manifest = bundles.Manifest(
            name="m",
            task="classification",
            num_classes=2,
            input={},
            top_k=1,
            variants=(bundles.Variant("none_fp32", "none", "fp32", size_bytes=1, gzip_bytes=1),),
            recommended="none_fp32",
        )
        bundles.seal(folder, manifest)
        return folder

    return write


def _feature(value: Any) -> Any:
    import tensorflow as tf

    value = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(one, float) for one in value):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    if any(isinstance(one, int) for one in value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    data = [one.encode() if isinstance(one, str) else one for one in value]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=data))


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """`write_dataset(folder, {"train": [record, ...]}, classes=("a", "b"), task=...)`.

    A record is a mapping of feature keys to a value or a list of values, or the bytes of a record
    as they are. Writes one shard a split and `dataset.json`; returns the folder.
    """

    def write(folder: Path, splits: dict[str, list], *, classes: Sequence[str], **facts) -> Path:
        import tensorflow as tf

        from trainers.data.features import DatasetInfo, SplitInfo, shard_pattern

        for split, records in splits.items():
            file = shard_pattern(folder, split).replace("*", "00000-of-00001")
            Path(file).parent.mkdir(parents=True)
            with tf.io.TFRecordWriter(file) as writer:
                for record in records:
                    if not isinstance(record, bytes):
                        feature = {key: _feature(value) for key, value in record.items()}
                        features = tf.train.Features(feature=feature)
                        record = tf.train.Example(features=features).SerializeToString()
                    writer.write(record)
        about = {name: SplitInfo(len(records), 1, {}) for name, records in splits.items()}
        given = {"task": "classification", "label_offset": 0, **facts}
        info = DatasetInfo("made", classes=tuple(classes), splits=about, fingerprint="0", **given)
        (folder / "dataset.json").write_text(info.to_json())
        return folder

    return write


@pytest.fixture(scope="session")
def coco_records(extract: Callable[[str], Path]) -> tuple[list[dict], tuple[str, ...]]:
    """80 detection records of real COCO val2017 images, made with pycocotools, and the classes.

    Labels are the categories' positions from 1, as COCO's ids have gaps.
    """
    import io

    from PIL import Image
    from pycocotools.coco import COCO

    folder = extract("coco_subset_A")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "annotations" / "instances_val2017.json")
    ids = sorted(coco.cats)
    names = tuple(coco.cats[i]["name"] for i in ids)

    def png(mask: Any) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        return buffer.getvalue()

    records = []
    for image_id, image in sorted(coco.imgs.items()):
        height, width = image["height"], image["width"]
        objects = coco.imgToAnns[image_id]
        boxes = [
            (x / width, y / height, w / width, h / height)
            for x, y, w, h in (one["bbox"] for one in objects)
        ]
        labels = [ids.index(one["category_id"]) + 1 for one in objects]
        records.append(
            {
                "image/encoded": (folder / "val2017" / image["file_name"]).read_bytes(),
                "image/format": "JPEG",
                "image/filename": image["file_name"],
                "image/height": height,
                "image/width": width,
                "image/object/bbox/xmin": [float(x) for x, _, _, _ in boxes],
                "image/object/bbox/ymin": [float(y) for _, y, _, _ in boxes],
                "image/object/bbox/xmax": [float(x + w) for x, _, w, _ in boxes],
                "image/object/bbox/ymax": [float(y + h) for _, y, _, h in boxes],
                "image/object/class/label": labels,
                "image/object/class/text": [names[label - 1] for label in labels],
                "image/object/is_crowd": [one["iscrowd"] for one in objects],
                "image/object/mask": [png(coco.annToMask(one)) for one in objects],
            }
        )
    return records, names
