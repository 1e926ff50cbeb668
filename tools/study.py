"""`make study`: the two-core CIFAR-10 recipes, trained from the command line and compared.

    .venv/bin/python tools/study.py ../shared/data/cifar10_A.tar

Ingests the archive, trains every recipe of `RUNS` with `sightline train` in its own process, and
writes benchmarks/cifar10.json: test top-1 with its interval, time and CPU time of every run, and
paired tests on the same test images. Interrupted runs resume, and finished runs are not repeated.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIGHTLINE = ROOT / ".venv" / "bin" / "sightline"

#: (recipe, seeds, run of its teacher).
RUNS: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("cifar10_resnet20", (0, 1, 2), ""),
    ("cifar10_vit", (0,), ""),
    ("cifar10_hybrid", (0,), ""),
    ("cifar10_vit_distilled", (0,), "cifar10_resnet20-0"),
)
#: Pairs of runs whose predictions are compared on the same images.
PAIRS = (
    ("cifar10_vit_distilled-0", "cifar10_vit-0"),
    ("cifar10_hybrid-0", "cifar10_resnet20-0"),
    ("cifar10_hybrid-0", "cifar10_vit-0"),
)


def main() -> None:
    """Runs the study and writes its figures."""
    parser = argparse.ArgumentParser(description="Train and compare the CIFAR-10 recipes.")
    parser.add_argument("images", type=Path, help="cifar10_A.tar, or a folder with its layout")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "study")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "cifar10.json")
    parser.add_argument(
        "--only",
        default="",
        help="comma-separated runs to restrict the study to, e.g. cifar10_vit-0",
    )
    given = parser.parse_args()
    data = given.work / "data"
    if not (data / "dataset.json").is_file():
        source = unpacked(given.images, given.work)
        # A tenth for validation, which leaves the rest for training.
        command = ["ingest", "folder", source, "validation=0.1", "--out", data, "--name", "cifar10"]
        subprocess.run([SIGHTLINE, *map(str, command)], check=True)
    wanted = set(filter(None, given.only.split(",")))
    for recipe, seeds, teacher in RUNS:
        for seed in seeds:
            if not wanted or f"{recipe}-{seed}" in wanted:
                train(recipe, seed, teacher, data=data, work=given.work)
    figures = compare(given.work, data)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {given.out}")


def unpacked(images: Path, work: Path) -> Path:
    """The folder of class folders in `images`, which is a tar file or a folder."""
    if images.is_dir():
        return images
    folder = work / "images"
    if not folder.is_dir():
        half = work / ".images"
        half.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-xf", str(images), "-C", str(half)], check=True)
        half.rename(folder)
    return folder


def train(recipe: str, seed: int, teacher: str, *, data: Path, work: Path) -> None:
    """Trains one run unless it exists; adds its time to those of earlier attempts."""
    out = work / f"{recipe}-{seed}"
    spent = out / "time.json"
    if (out / "trained.json").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    command = ["train", recipe, f"train.seed={seed}", "--data", data, "--out", out]
    command += [f"distill.teacher={work / teacher}"] if teacher else []
    print("sightline", *command, flush=True)
    started, before = time.perf_counter(), os.times()
    try:
        subprocess.run([SIGHTLINE, *map(str, command)], check=True)
    finally:
        after = os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        earlier = json.loads(spent.read_text()) if spent.is_file() else {}
        total = {
            "seconds": earlier.get("seconds", 0.0) + time.perf_counter() - started,
            "cpu_seconds": earlier.get("cpu_seconds", 0.0) + cpu,
        }
        spent.write_text(json.dumps(total))


def compare(work: Path, data: Path) -> dict[str, Any]:
    """The test results of every finished run, and the paired tests of their predictions."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from trainers.config import override
    from trainers.data.features import DatasetInfo
    from trainers.evaluation.noninferiority import pair
    from trainers.evaluation.stats import bootstrap_interval, paired_difference
    from trainers.training.forward import Forward, predict_split
    from trainers.training.trained import load_trained

    runs, right = {}, {}
    names = [f"{recipe}-{seed}" for recipe, seeds, _ in RUNS for seed in seeds]
    for name in names:
        if not (work / name / "trained.json").is_file():
            continue
        trained = load_trained(work / name)
        config = override(trained.config, [f"data.dir={data}"])
        info = DatasetInfo.load(data)
        answers = predict_split(Forward(trained.model, config), config, info, "test")
        right[name] = answers.scores.argmax(1) == answers.labels
        facts = json.loads((work / name / "trained.json").read_text())
        runs[name] = {
            "test_top1": bootstrap_interval(right[name]).as_list(),
            "val_top1": facts["val_top1"],
            "epochs": len(trained.history),
            "best_epoch": trained.best_epoch,
            "parameters": facts["parameters"],
            "multiply_adds": facts["multiply_adds"],
            "images_per_second": max(row["images_per_second"] for row in trained.history),
            **json.loads((work / name / "time.json").read_text()),
        }
    pairs = []
    for one, other in PAIRS:
        if one in right and other in right:
            gain = paired_difference(right[one], right[other])
            p_value = pair(right[one], right[other]).mcnemar_p
            pairs.append({"a": one, "b": other, "difference": gain.as_list(), "p_value": p_value})
    info = DatasetInfo.load(data)
    counts = {split: found.examples for split, found in info.splits.items()}
    machine = {"cores": os.cpu_count(), "cpu": cpu_name()}
    return {"machine": machine, "examples": counts, "runs": runs, "pairs": pairs}


def cpu_name() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
