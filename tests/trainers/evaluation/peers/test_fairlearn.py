"""Rates and gaps equal those of fairlearn, on random data and on the groups of FairFace."""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from trainers.evaluation.fairness import gaps, group_rates
from trainers.evaluation.groups import group_values

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
PYTHON = ROOT / ".tools" / "peers" / "fairlearn" / "bin" / "python"


def predicted(random, labels, groups):
    """Predictions whose errors depend on the group."""
    names = np.unique(groups)
    rates = dict(zip(names, random.uniform(0.02, 0.45, len(names)), strict=True))
    wrong = random.random(len(labels)) < np.array([rates[name] for name in groups])
    return np.where(wrong, 1 - labels, labels)


def random_cases():
    for seed in range(6):
        random = np.random.default_rng(seed)
        images = int(random.integers(40, 3000))
        groups = random.choice([f"g{i}" for i in range(2 + seed)], images)
        labels = (random.random(images) < random.uniform(0.2, 0.8)).astype(int)
        yield f"random {seed}", labels, groups


def face_cases(folder):
    """Gender as the label; groups of race, of age, and of both."""
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([row["gender"] == "Male" for row in rows]).astype(int)
    slices = {f"slice/{key}": np.array([row[key] for row in rows]) for key in ("race", "age")}
    for key in ("race", "age", "race*age"):
        yield f"faces {key}", labels, group_values(slices, key)


@pytest.mark.peers
@pytest.mark.shared_data
@pytest.mark.timeout(600)
def test_rates_and_gaps_equal_those_of_fairlearn(extract, tmp_path):
    if not PYTHON.is_file():
        pytest.fail(f"{PYTHON} does not exist; `make test-peers` and tools/peers.sh create it")
    cases = {}
    for name, labels, groups in (*random_cases(), *face_cases(extract("fairface_A"))):
        guess = predicted(np.random.default_rng(len(cases)), labels, groups)
        cases[name] = {"labels": labels, "predicted": guess, "groups": np.asarray(groups, str)}
    file = tmp_path / "cases.json"
    file.write_text(
        json.dumps({k: {key: v.tolist() for key, v in one.items()} for k, one in cases.items()})
    )
    run = subprocess.run(
        [PYTHON, "-W", "ignore", HERE / "ask_fairlearn.py", file], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    theirs = json.loads(run.stdout)
    compared = 0
    for name, case in cases.items():
        scores = np.eye(2)[case["predicted"]]
        found = group_rates(scores, case["labels"], case["groups"], positive=1)
        for group in found:
            for rate, values in theirs[name]["rates"].items():
                if rate in group.rates:
                    assert group.rates[rate].value == pytest.approx(values[group.name], abs=1e-9)
                    compared += 1
        # fairlearn compares groups of any size, and takes a rate without images as 0.
        if any(len(group.rates) < 6 for group in found):
            continue
        ours = {gap.rate: gap.size.value for gap in gaps(found, least=1)}
        ours |= {
            "demographic_parity": ours["positive_rate"],
            "equal_opportunity": ours["true_positive_rate"],
        }
        for gap, value in theirs[name]["gaps"].items():
            assert ours[gap] == pytest.approx(value, abs=1e-9), (name, gap)
            compared += 1
    assert compared > 300
