"""The steps of a study on a simulated machine: the budget, interruptions, longer budgets."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tfx_pipeline.study import children, run, state
from tfx_pipeline.study.budget import BudgetError, parse_budget
from tfx_pipeline.study.display import Display
from tfx_pipeline.study.sets import CORE, SETS, StudyError
from trainers.config import CompressConfig
from trainers.data.features import DatasetInfo, SplitInfo

START, BUILD, STEP, STEPS, EXPORT = 4.0, 6.0, 0.15, 280, 40.0
ROLES = ("cnn", "resnet", "vit", "hybrid")


class Machine:
    """Steps that only take time: `slow` times as long as the probe measures, from `slow_at` on."""

    def __init__(self, slow=1.0, slow_at=0.0):
        self.now, self.slow, self.slow_at = 0.0, slow, slow_at
        self.steps, self.stop_before = [], ""

    def seconds(self, usual):
        return usual * (self.slow if self.now >= self.slow_at else 1.0)

    def run_step(self, kind, arguments, folder, *, name, seconds, on_event):
        del folder
        if self.stop_before and name.startswith(self.stop_before):
            raise KeyboardInterrupt
        self.steps.append(name)
        took = getattr(self, kind)(**arguments)
        if took > seconds:
            self.now += seconds
            raise children.OutOfTimeError(f"{name} was ended")
        self.now += took
        on_event({"event": "tick"})
        return took

    def probe(self, configs, out):
        one = {"build_s": BUILD, "step_s": STEP, "steps": STEPS, "predict_s": 1e-3}
        counts = {"validation": 1000, "test": 2000}
        found = {role: {**one, **counts} for role in configs}
        write(out, {"start_s": START, **found})
        return 60.0

    def train(self, config, out, seconds):
        epoch = self.seconds(STEP * STEPS + 1)
        spent, epochs = self.seconds(START + BUILD) + epoch, 1
        while epochs < config["train"]["epochs"] and spent + 1.1 * epoch <= seconds:
            spent, epochs = spent + epoch, epochs + 1
        write(Path(out) / "config.json", config)
        write(Path(out) / "trained.json", {})
        planned = config["train"]["epochs"]
        write(Path(out) / "run.json", {"epochs": epochs, "planned": planned})
        return spent

    def compress(self, trained, out, methods, ptq, settings):
        del trained
        # What the real step would reject.
        assert set(methods) <= {"prune", "qat"}
        replace(CompressConfig(), **settings)
        assert bool(methods) != bool(ptq)
        write(f"{out}.predictions/done.json", {"variants": [], "gzip_bytes": {}})
        epochs = settings.get("prune_epochs", settings.get("qat_epochs", 0))
        return self.seconds(EXPORT + len(methods) * epochs * 1.4 * STEP * STEPS)

    def cost(self, models, out):
        assert models
        write(out, [])
        return self.seconds(30.0)

    def timing(self, bundles, data, out, settings):
        assert bundles
        assert data
        assert settings["rounds"] >= 2
        write(out, {})
        return self.seconds(40.0)

    def scaling(self, configs, classes, out):
        assert (sorted(configs), classes) == (sorted(CORE), 10)
        write(out, {})
        return self.seconds(15.0)

    def report(self, folder):
        del folder
        return self.seconds(25.0)


def write(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    classes = tuple("0123456789")
    splits = {
        name: SplitInfo(count, 1, {})
        for name, count in (("train", 9000), ("validation", 1000), ("test", 2000))
    }
    info = DatasetInfo("tiny", "classification", classes, 0, splits, "fingerprint")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(info.to_json(), encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def start(data, tmp_path, monkeypatch):
    """Runs a study on a machine: (machine, budget, seeds) -> the study."""

    def started(machine, budget, seeds=3, began=None):
        monkeypatch.setattr(run, "run_step", machine.run_step)
        monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: machine.now))
        study = run.Study(
            tmp_path / "study",
            data,
            SETS["cifar10"],
            seeds=seeds,
            budget_s=parse_budget(budget),
            display=Display(Console(quiet=True)),
            began=began,
        )
        study.run()
        return study

    return started


def trainings(machine):
    return [name for name in machine.steps if name.startswith("cifar10")]


def reached(study):
    """Role -> epochs of its runs."""
    found = {}
    for path in sorted((study.folder / "runs").glob("*/*/run.json")):
        role = path.parent.parent.name.rpartition("-")[2]
        found.setdefault(role, []).append(json.loads(path.read_text())["epochs"])
    return found


@pytest.mark.parametrize("budget", ["30m", "60m", "3h", "12h"])
def test_a_study_ends_within_its_budget_with_every_step(start, budget):
    machine = Machine()
    study = start(machine, budget)
    assert machine.now <= parse_budget(budget)
    assert machine.steps[0] == "probe"
    assert machine.steps[-3:] == ["timing", "scaling", "report"]
    found = reached(study)
    for role in CORE:
        assert found[role] == [study.state.values["plan"][role]] * 3
    assert {f"bundle-{role}" for role in CORE} <= set(machine.steps)


def test_the_time_of_ingest_is_part_of_the_budget(start):
    machine = Machine()
    machine.now = 600.0
    study = start(machine, "60m", began=0.0)
    assert machine.now <= 3600
    assert study.state.spent_s == machine.now


def test_the_budget_is_used(start):
    machine = Machine()
    study = start(machine, "60m")
    assert machine.now > 0.6 * 3600
    # About the same share of each recipe.
    shares = [study.state.values["plan"][role] / study.configs[role].train.epochs for role in CORE]
    assert max(shares) < 2 * min(shares)


@pytest.mark.parametrize("slow", [0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("slow_at", [0.0, 1200.0, 2400.0])
def test_a_machine_that_slows_down_ends_within_the_budget(start, slow, slow_at):
    machine = Machine(slow, slow_at)
    study = start(machine, "60m")
    assert machine.now <= 3600
    assert machine.steps[-1] == "report"
    missing = 3 * len(CORE) - sum(len(reached(study).get(role, [])) for role in CORE)
    named = [name for name in study.state.values["left_out"] if name.startswith("cifar10")]
    assert bool(missing) <= bool(named)


def test_a_budget_that_is_too_small_names_the_least_that_suffices(start, tmp_path):
    with pytest.raises(
        BudgetError, match=r"--budget 5m is too small.* at least --budget (\w+)"
    ) as e:
        start(Machine(), "5m")
    least = str(e.value).rpartition("--budget ")[2].split()[0]
    assert not (tmp_path / "study" / "runs").exists()
    # The failed attempt is forgotten: its time does not count, and its probe may have been slow.
    machine = Machine()
    study = start(machine, least)
    assert machine.steps[0] == "probe"
    assert machine.now <= parse_budget(least)
    assert reached(study) == {role: [1, 1, 1] for role in CORE}


@pytest.mark.parametrize(
    "name", ["cost", "cifar10_cnn-0", "cifar10_vit-1", "bundle-resnet", "bundle-qat", "report"]
)
def test_an_interrupted_study_resumes(start, name):
    machine = Machine()
    machine.stop_before = name
    with pytest.raises(KeyboardInterrupt):
        start(machine, "60m")
    machine.stop_before = ""
    study = start(machine, "60m")
    # No step ran twice, and the time of both processes counts.
    assert max(Counter(machine.steps).values()) == 1
    assert study.state.spent_s == pytest.approx(machine.now)
    assert machine.now <= 3600
    whole = Machine()
    assert {f"bundle-{role}" for role in CORE} <= set(machine.steps)
    assert whole.steps == []


def test_a_finished_study_only_writes_its_report_again(start):
    machine = Machine()
    start(machine, "60m")
    count = len(machine.steps)
    start(machine, "60m")
    assert machine.steps[count:] == ["report"]


def test_a_longer_budget_continues(start):
    machine = Machine()
    before = dict(start(machine, "60m").state.values["plan"])
    first = len(machine.steps)
    study = start(machine, "4h")
    assert "probe" not in machine.steps[first:]
    assert "cost" not in machine.steps[first:]
    assert machine.now <= 4 * 3600
    plan = study.state.values["plan"]
    assert all(plan[role] > before[role] for role in CORE)
    assert {path.name for path in (study.folder / "runs").glob("cifar10_vit-0-vit/*")} == {
        f"e{before['vit']}",
        f"e{plan['vit']}",
    }


def test_a_shorter_budget_trains_nothing_again(start):
    machine = Machine()
    start(machine, "4h")
    before = trainings(machine)
    start(machine, "60m")
    assert trainings(machine) == before


def test_a_budget_that_is_spent_leaves_out_what_was_left_out_before(start):
    machine = Machine()
    study = start(machine, "25m")
    plan = dict(study.state.values["plan"])
    assert (plan["distilled"], plan["qat"]) == (1, 0)
    count = len(machine.steps)
    assert start(machine, "15m").state.values["plan"] == plan
    assert machine.steps[count:] == ["report"]


def test_bundles_of_other_numbers_of_epochs_are_not_timed(start):
    study = start(Machine(), "60m")
    plan = study.state.values["plan"]
    found = study.bundles(plan)
    for name in (f"resnet-e{plan['resnet']}0", f"prune90-e{plan['resnet']}0-f4"):
        write(study.folder / "bundles" / f"{name}.predictions" / "done.json", {})
    assert study.bundles(plan) == found


def test_more_seeds_are_trained_beside_those_that_exist(start):
    machine = Machine()
    study = start(machine, "60m", seeds=2)
    done = set(trainings(machine))
    assert {name.split("-")[1] for name in done if "cnn" in name} == {"0", "1"}
    study = start(machine, "3h", seeds=3)
    assert len(list((study.folder / "runs").glob("cifar10_cnn-2-cnn/*/run.json"))) == 1


def test_everything_is_complete_in_a_long_budget_and_the_outlook_gets_all_seeds(start):
    study = start(Machine(), "1d")
    plan = study.state.values["plan"]
    found = reached(study)
    for role in (*CORE, "hybrid", "distilled"):
        assert found[role] == [study.configs[role].train.epochs] * 3
    assert (plan["prune90"], plan["qat"]) == (4, 2)
    assert study.state.values["left_out"] == {}


def test_another_study_in_the_folder_is_refused(start, data):
    start(Machine(), "60m")
    info = DatasetInfo.load(data)
    text = info.to_json().replace('fingerprint": "fingerprint', 'fingerprint": "other')
    (data / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=r"its data differ.* give another --out"):
        start(Machine(), "60m")
