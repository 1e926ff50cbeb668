"""Trains the suggested configurations on small data sets: cats and dogs, CIFAR-10, traffic signs.

    .venv/bin/python tools/small_data.py ../shared/data

Each set is ingested and trained by `sightline` with the values of `tfx_pipeline.projects.suggest`:
180 photos of cats and dogs; 10 images of each CIFAR-10 class; 430 crops of traffic
signs in five splits (70 % train, 10 % validation, 20 % test) that keep the frames of one sign
together. Signs are compared, image by image, with a logistic regression on histograms of gradients
and colors that is fitted on train and validation. Writes benchmarks/small_data.json; finished runs
are not repeated.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serving.benchmark.variants import environment

ROOT = Path(__file__).resolve().parents[1]
SIGHTLINE = ROOT / ".venv" / "bin" / "sightline"

_PER_CLASS = 10
_SPLITS = 5
_HOG_PX, _CELL_PX, _ANGLES, _LEVELS = 48, 8, 9, 4
_STRENGTHS = (1.0, 10.0, 100.0)


def main() -> None:
    """Runs the selected data sets and writes their results."""
    parser = argparse.ArgumentParser(
        description="Train the suggested configurations on small data sets."
    )
    parser.add_argument(
        "archives", type=Path, help="folder of cats_dogs_A.tar and the other archives"
    )
    parser.add_argument("sets", nargs="*", help=f"data sets of {', '.join(_SETS)}; defaults to all")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "small_data")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "small_data.json")
    parser.add_argument(
        "--splits", type=int, default=_SPLITS, help="number of splits of the signs, at most 5"
    )
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    unknown = sorted(set(given.sets) - set(_SETS))
    if unknown:
        parser.error(f"no data set named {unknown[0]!r}; known: {', '.join(_SETS)}")
    figures: dict[str, Any] = {"sets": {}}
    if given.out.is_file():
        figures = json.loads(given.out.read_text(encoding="utf-8"))
    figures["machine"] = {"cores": os.cpu_count(), "cpu": environment()["cpu"]}
    for name in given.sets or _SETS:
        figures["sets"][name] = _SETS[name](given)
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(figures["sets"][name]), flush=True)


def cats_dogs(given: argparse.Namespace) -> dict[str, Any]:
    """The photos with the archive's splits; validation is a part of train."""
    source = unpacked(given, "cats_dogs_A")
    return pooled([trained(given.work / "cats_dogs", "folder", source)])


def cifar10(given: argparse.Namespace) -> dict[str, Any]:
    """The first images of each class of `train`, and all of `test`."""
    source, chosen = unpacked(given, "cifar10_A"), given.work / "cifar10_few"
    for split, most in (("train", _PER_CLASS), ("test", None)):
        for folder in sorted((source / split).iterdir()):
            target = chosen / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:most]:
                shutil.copyfile(file, target / file.name)
    return pooled([trained(given.work / "cifar10", "folder", chosen)])


def signs(given: argparse.Namespace) -> dict[str, Any]:
    """Five grouped splits, with the baseline's figures and the paired test over all of them."""
    from trainers.evaluation.noninferiority import pair
    from trainers.training.linear_probe import fold_numbers

    source = unpacked(given, "gtsrb_A")
    with (source / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    groups = [f"{row['label']}/{row['track']}" for row in rows]
    features = np.stack([describe_image(source / row["file"]) for row in rows])
    runs, ours, theirs = [], [], []
    for number in range(min(given.splits, _SPLITS)):
        folds = fold_numbers(labels, groups, seed=0)
        halves = fold_numbers(labels, groups, seed=1) % 2
        split = np.where(folds == number, "test", "train").astype("U10")
        split[(folds == (number + 1) % _SPLITS) & (halves == 0)] = "validation"
        table = source / f"split{number}.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label", "track", "split"])
            writer.writerows(
                (row["file"], row["label"], row["track"], where)
                for row, where in zip(rows, split, strict=True)
            )
        run = trained(given.work / f"signs{number}", "csv", table, "--group", "label,track")
        known = baseline(features, labels, groups, split)
        by_file = dict(zip((row["file"] for row in rows), known, strict=True))
        ours += run["right"]
        theirs += [bool(by_file[file]) for file in run["files"]]
        run["baseline_top1"] = float(known[split == "test"].mean())
        runs.append(run)
    found = pair(ours, theirs)
    against = {
        "top1": [run["baseline_top1"] for run in runs],
        "difference": found.interval().as_list(),
        "mcnemar_p": found.mcnemar_p,
    }
    return {**pooled(runs), "baseline": against}


def unpacked(given: argparse.Namespace, name: str) -> Path:
    """The folder with the files of an archive."""
    folder = given.work / name
    if not folder.is_dir():
        with tarfile.open(given.archives / f"{name}.tar") as archive:
            archive.extractall(folder, filter="data")
    return folder


def trained(work: Path, job: str, source: Path, *options: str) -> dict[str, Any]:
    """Ingests, trains the suggested configuration, and returns the test results per image."""
    done = work / "figures.json"
    if not done.is_file():
        from tfx_pipeline.projects.suggest import suggest
        from trainers.data.features import DatasetInfo

        data = work / "data"
        started, before = time.monotonic(), _children_seconds()
        _sightline("ingest", job, source, "--out", data, *options)
        chosen = suggest(data, DatasetInfo.load(data))
        values = [f"{key}={value}" for key, value in chosen.overrides.items()]
        _sightline("train", chosen.recipe, *values, "--data", data, "--out", work / "trained")
        seconds = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": _children_seconds() - before,
        }
        figures = {**seconds, "suggested": chosen.overrides, **_tested(work / "trained", data)}
        done.write_text(json.dumps(figures), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


def pooled(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of one or more splits: mean top-1 and its interval over all test images."""
    from trainers.evaluation.stats import proportion_interval

    right = [one for run in runs for one in run["right"]]
    return {
        "train": runs[0]["train"],
        "test": len(right),
        "top1": float(np.mean([np.mean(run["right"]) for run in runs])),
        "interval": proportion_interval(sum(right), len(right)).as_list()[1:],
        "each": [float(np.mean(run["right"])) for run in runs],
        "probe": [run["probe"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "cpu_seconds": [run["cpu_seconds"] for run in runs],
        "suggested": runs[0]["suggested"],
    }


def describe_image(path: Path) -> np.ndarray:
    """(F,) histograms of gradients (Dalal & Triggs 2005) and of colors, of one image."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((_HOG_PX, _HOG_PX)), np.float64) / 255
    across, down = np.gradient(np.sqrt(pixels.mean(axis=2)))[::-1]
    strength, angle = np.hypot(across, down), np.mod(np.arctan2(down, across), np.pi)
    bins = np.minimum((angle / np.pi * _ANGLES).astype(int), _ANGLES - 1)
    cells = _HOG_PX // _CELL_PX
    histograms = np.zeros((cells, cells, _ANGLES))
    rows, columns = np.indices(bins.shape) // _CELL_PX
    np.add.at(histograms, (rows, columns, bins), strength)
    blocks = [
        block / np.sqrt((block**2).sum() + 1e-3)
        for top in range(cells - 1)
        for left in range(cells - 1)
        for block in [histograms[top : top + 2, left : left + 2].ravel()]
    ]
    levels = np.minimum((pixels * _LEVELS).astype(int), _LEVELS - 1)
    codes = (levels * [_LEVELS**2, _LEVELS, 1]).sum(axis=2).ravel()
    colors = np.sqrt(np.bincount(codes, minlength=_LEVELS**3) / codes.size)
    return np.concatenate([*blocks, 3 * colors])


def baseline(
    features: np.ndarray, labels: np.ndarray, groups: list[str], split: np.ndarray
) -> np.ndarray:
    """(M,) bool: whether a logistic regression on `features` classifies each image correctly.

    Its penalty is the best of a grouped cross-validation on what it is fitted on.
    """
    from sklearn.linear_model import LogisticRegression

    from trainers.training.linear_probe import fold_numbers

    known = split != "test"
    inside, truth = features[known], labels[known]
    folds = fold_numbers(truth, [g for g, one in zip(groups, known, strict=True) if one])

    def score(strength: float) -> float:
        hits = 0
        for fold in range(int(folds.max()) + 1):
            model = LogisticRegression(C=strength, max_iter=1000)
            model.fit(inside[folds != fold], truth[folds != fold])
            hits += int((model.predict(inside[folds == fold]) == truth[folds == fold]).sum())
        return hits / len(truth)

    best = max(_STRENGTHS, key=score)
    model = LogisticRegression(C=best, max_iter=1000).fit(inside, truth)
    return np.asarray(model.predict(features) == labels)


def _tested(folder: Path, data: Path) -> dict[str, Any]:
    import tensorflow as tf

    from trainers.data import features, pipeline
    from trainers.training.forward import Forward, predict_split
    from trainers.training.trained import load_trained

    found = load_trained(folder)
    answers = predict_split(Forward(found.model, found.config), found.config, found.info, "test")
    names = {}
    for record in pipeline.raw_examples(data, "test"):
        values = tf.train.Example.FromString(record).features.feature
        identity, name = (
            values[key].bytes_list.value[0].decode() for key in (features.ID, features.FILENAME)
        )
        names[identity] = name
    return {
        "train": found.info.splits["train"].examples,
        "right": [bool(x) for x in answers.scores.argmax(axis=1) == answers.labels],
        "files": [names[one] for one in answers.ids],
        "probe": found.probe.why if found.probe else "",
    }


def _sightline(*arguments: object) -> None:
    subprocess.run([str(SIGHTLINE), *map(str, arguments)], check=True)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_SETS = {"cats_dogs": cats_dogs, "cifar10_10": cifar10, "traffic_signs": signs}

if __name__ == "__main__":
    sys.exit(main())
