"""Throughput of ingest and of each input, compared with two upper bounds in the same run.

    figures = measure(Path("~/images").expanduser(), rounds=5)
    Console().print(table(figures))

The upper bounds are reading the bytes of the records, and `tf.io.decode_jpeg` alone on all cores
from bytes in memory. Inputs read records from disk. Short rounds alternate between all of them, so
that changes of the machine's speed affect all. A ratio is (input / decoding alone in the same
round), with its interval over the rounds.
"""

import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from core.processes import ChildError, module_command, output_of, peak_memory_bytes
from serving.benchmark.rounds import ratio_over_rounds
from serving.benchmark.variants import environment
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo

#: The upper bounds; the others follow in the order of the table.
DECODE = "decode_jpeg alone"
READ = "plain read"
#: A random crop and a flip, and a long list.
AUGMENT = ("random_resized_crop", "flip")
LONG_AUGMENT = (*AUGMENT, "rand_augment(2, 9)", "mixup(0.2)")

_IMAGE_SIZE = (224, 224)
_BATCH = 32
_JPEG = b"\xff\xd8\xff"
_CLASSES = ("even", "odd")
_TIMES = 10
_MEMORY_MIB = 320


def measure(
    source: Path,
    *,
    rounds: int = 5,
    images: int = 1000,
    limit: int = 2000,
    image_size: tuple[int, int] = _IMAGE_SIZE,
    memory_mib: int = _MEMORY_MIB,
) -> dict[str, Any]:
    """Images per second of ingest and of every input, and the peak memory of streaming.

    Args:
      source: the folder of a data set, or a folder or tar of JPEGs; other files are skipped.
      rounds: number of rounds.
      images: minimum number of images per round and input; fewer images are repeated.
      limit: maximum number of distinct images.
      image_size: (height, width) in pixels of the inputs' images.
      memory_mib: size in MiB of the data set that is streamed for one training epoch to measure
        `memory_mb`. Smaller images take longer.

    Returns:
      JSON-able: `machine`, `source`, `images`, `mean_kb`, `rounds`; `rates`, name -> a list of
      images per second, one per round (ingest: one value); `memory_mb`, `1x` and `10x` -> peak of
      a process that streams a training epoch of `memory_mib` and of ten times as much.

    Raises:
      DatasetError: fewer than two JPEGs in `source`.
      ValueError: `rounds`, `images`, `limit` or `memory_mib` out of range.
    """
    if rounds < 1 or images < 1 or limit < 2 or memory_mib < 1:
        raise ValueError(
            f"rounds and images must be at least 1, limit at least 2, memory_mib at least 1, got "
            f"{rounds}, {images}, {limit}, {memory_mib}"
        )
    with tempfile.TemporaryDirectory(prefix="sightline-benchmark-") as work:
        jpegs = _images(Path(source), limit)
        records, ingest_rate = _ingested(jpegs, Path(work))
        # Larger than the shuffle buffer, whose memory grows until it is full.
        size = sum(len(one) for one in jpegs)
        once = _repeated(records, Path(work) / "once", -(-memory_mib * 2**20 // size))
        times = -(-max(images, 2 * _BATCH) // len(jpegs))
        larger = _repeated(records, Path(work) / "larger", times)
        inputs = _inputs(jpegs, times, larger, image_size)
        rates = {"ingest": [ingest_rate], **_alternate(inputs, rounds)}
        memory = {
            "1x": _peak_mb(once, image_size),
            f"{_TIMES}x": _peak_mb(_repeated(once, Path(work) / "ten", _TIMES), image_size),
        }
    return {
        "machine": environment(),
        "source": str(source),
        "images": len(jpegs),
        "mean_kb": round(float(np.mean([len(one) for one in jpegs])) / 1e3, 1),
        "image_size": list(image_size),
        "rounds": rounds,
        "rates": rates,
        "memory_mb": memory,
    }


def table(figures: dict[str, Any]) -> Table:
    """One row per rate: median, minimum, maximum, ratio to decoding alone, interval."""
    machine = figures["machine"]
    title = (
        f"{machine['cpu']}, {machine['cores']} cores; {figures['images']} JPEGs of "
        f"{figures['mean_kb']} kB on average; {figures['rounds']} rounds"
    )
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "images/s", "least", "greatest", "of decoding", "95 % interval"):
        shown.add_column(column, justify="right" if column else "left")
    for name, rates in figures["rates"].items():
        cells = [f"{value:,.0f}" for value in (np.median(rates), min(rates), max(rates))]
        value, *ends = (f"{part:.2f}" for part in ratio(figures, name))
        shown.add_row(name, *cells, value, " to ".join(ends))
    for size, mb in figures["memory_mb"].items():
        shown.add_row(f"peak memory, {size} data", f"{mb:,.0f} MB")
    return shown


def ratio(figures: dict[str, Any], name: str) -> list[float]:
    """The ratio of images per second of `name` to decoding alone in the same round.

    Returns:
      `[value, low, high]` with a 95 % interval; `[value]` for a single round, for decoding itself,
      and for ingest, which is measured once and compared with the median of decoding alone.
    """
    base, rates = figures["rates"][DECODE], figures["rates"][name]
    if len(rates) == len(base) > 1 and name != DECODE:
        return list(ratio_over_rounds(rates, base))
    return [float(np.median(rates) / np.median(base))]


def _images(source: Path, limit: int) -> list[bytes]:
    found: list[bytes] = []
    for data in _files(source):
        if data.startswith(_JPEG):
            found.append(data)
        if len(found) == limit:
            break
    if len(found) < 2:
        raise DatasetError(
            f"{source} has {len(found)} JPEGs, but at least 2 are needed; use the folder of a data "
            "set, or a folder or tar of JPEGs"
        )
    return found


def _files(source: Path) -> Iterator[bytes]:
    if (source / DATASET_FILE).is_file():
        yield from _recorded(source)
    elif source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.read_bytes()
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield file.read()
    else:
        raise DatasetError(f"{source} is not a folder or a tar; use a folder or a tar of JPEGs")


def _recorded(source: Path) -> Iterator[bytes]:
    import tensorflow as tf

    from trainers.data import features
    from trainers.data.reader import raw_examples

    splits = DatasetInfo.load(source).splits
    for name in [name for name, split in splits.items() if split.examples]:
        for serialized in raw_examples(source, name):
            feature = tf.train.Example.FromString(serialized).features.feature
            yield feature[features.IMAGE].bytes_list.value[0]


def _ingested(jpegs: list[bytes], work: Path) -> tuple[Path, float]:
    """A training set of the images, and the rate of ingest in images per second."""
    from tfx_pipeline.ingest import ingest

    folder, records = _folder_of(jpegs, work / "jpegs"), work / "records"
    # Beam and TensorFlow are loaded in the first job.
    few = _folder_of(jpegs[:2], work / "few")
    ingest("folder", work / "warm", where=few, split="train", shards=1)
    began = time.perf_counter()
    ingest("folder", records, where=folder, split="train", shards=4)
    return records, len(jpegs) / (time.perf_counter() - began)


def _folder_of(jpegs: list[bytes], folder: Path) -> Path:
    for number, data in enumerate(jpegs):
        file = folder / _CLASSES[number % 2] / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def _repeated(records: Path, out: Path, times: int) -> Path:
    """A data set with `times` links to each shard of the records."""
    info = DatasetInfo.load(records)
    split = info.splits["train"]
    files = sorted((records / "Split-train").iterdir())
    target = out / "Split-train"
    target.mkdir(parents=True)
    for number in range(times * len(files)):
        name = f"data_tfrecord-{number:05d}-of-{times * len(files):05d}"
        (target / name).symlink_to(files[number % len(files)].resolve())
    splits = {"train": replace(split, examples=times * split.examples, shards=times * split.shards)}
    (out / DATASET_FILE).write_text(replace(info, splits=splits).to_json(), encoding="utf-8")
    return out


def _config(records: Path, image_size: tuple[int, int], **data: Any) -> Any:
    from trainers.config import Config, DataConfig, TrainConfig

    return Config(
        name="benchmark",
        data=DataConfig(dir=str(records), image_size=image_size, **data),
        train=TrainConfig(global_batch=_BATCH),
    )


def _inputs(
    jpegs: list[bytes], times: int, records: Path, image_size: tuple[int, int]
) -> dict[str, Callable[[int], Any]]:
    """Name -> function from the number of a round to the batches of the round."""
    import tensorflow as tf

    from trainers.data import pipeline
    from trainers.data.parallel import parallel_calls, ready

    info = DatasetInfo.load(records)
    in_memory = tf.data.Dataset.from_tensor_slices(jpegs).repeat(times)

    def decoded(_: int) -> tf.data.Dataset:
        # Returns sizes, because images of different sizes cannot be batched.
        sizes = in_memory.map(
            lambda one: tf.size(tf.io.decode_jpeg(one, channels=3)), parallel_calls()
        )
        return ready(sizes.batch(_BATCH))

    def trained(augment: tuple[str, ...], cache: str) -> Callable[[int], tf.data.Dataset]:
        config = _config(records, image_size, augment=augment, cache=cache)
        return lambda round_: pipeline.train_batches(config, info, epoch=round_)

    streamed = _config(records, image_size, cache="none")
    return {
        READ: lambda _: _read(records),
        DECODE: decoded,
        "training: fused crop, flip": trained(AUGMENT, "none"),
        "training: rand_augment, mixup too": trained(LONG_AUGMENT, "none"),
        "evaluation": lambda _: pipeline.eval_batches(streamed, info, "train", batch=_BATCH),
        "memory cache: flip": trained(AUGMENT[1:], "memory"),
        "disk cache: flip": trained(AUGMENT[1:], "disk"),
        "memory cache: crop, flip": trained(AUGMENT, "memory"),
    }


def _read(records: Path) -> Iterator[int]:
    """Reads every shard; yields after each batch of images."""
    split, done, size = DatasetInfo.load(records).splits["train"], 0, 0
    files = sorted((records / "Split-train").iterdir())
    total = sum(path.stat().st_size for path in files)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while data := file.read(2**20):
                size += len(data)
                while (done + 1) * _BATCH <= split.examples * size / total:
                    done += 1
                    yield done


def _alternate(inputs: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    """Name -> images per second in each round; a first round, which fills caches, is not timed.

    The time is measured from the first batch to the last: filling the shuffle buffer, which happens
    once in the hours of a real epoch, would dominate a round of a second.
    """
    rates: dict[str, list[float]] = {name: [] for name in inputs}
    for round_ in range(rounds + 1):
        for name, batches in inputs.items():
            iterator = iter(batches(round_))
            next(iterator)
            began = time.perf_counter()
            count = sum(1 for _ in iterator)
            if round_:
                rates[name].append(count * _BATCH / (time.perf_counter() - began))
    return rates


def _peak_mb(records: Path, image_size: tuple[int, int]) -> float:
    """Peak memory in MB of a child process that streams one training epoch."""
    arguments = [str(records), *map(str, image_size)]
    command = module_command("tfx_pipeline.benchmarks.data", *arguments, options=("-W", "ignore"))
    try:
        printed = output_of(command, changes={"TF_CPP_MIN_LOG_LEVEL": "3"})
    except ChildError as error:
        raise DatasetError(f"streaming {records} failed: {error}") from None
    return float(printed.split()[-1])


def _stream(records: Path, image_size: tuple[int, int]) -> None:
    """Reads one training epoch and prints the peak memory of this process in MB."""
    from trainers.data import pipeline

    config = _config(records, image_size, augment=AUGMENT, cache="none")
    for _ in pipeline.train_batches(config, DatasetInfo.load(records), epoch=0):
        pass
    print(peak_memory_bytes() / 1e6)


if __name__ == "__main__":
    _stream(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])))
