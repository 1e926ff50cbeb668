"""The parent process of a run: lock, unchanged runs, errors, and exit status, without TFX."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from core.lineage import store_state
from serving.deploy.rollback import rollback
from tfx_pipeline.cli.views import run as runs
from tfx_pipeline.cli.views.live import LiveView
from tfx_pipeline.config import PipelineConfig, Tuning, make_experiments, pipelines
from tfx_pipeline.pipelines.smoke import smoke
from tfx_pipeline.request import run as run_request
from tfx_pipeline.request.run import Layout, request_from_json, request_to_json, run_state
from trainers.config import ConfigError
from trainers.data.features import DatasetInfo
from trainers.registry import UnknownNameError
from trainers.training.epoch import Progress


def finished(request, *, status="pushed", pushed=True, **about):
    """Leaves what a finished run leaves."""
    layout = request.layout
    bundle = layout.bundles / "digits_cnn/1"
    bundle.mkdir(parents=True)
    (bundle / "saved_model.pb").write_text("a model")
    info = DatasetInfo.load(Path(request.data))
    where = {"path": str(bundle), "version": 1, "pushed": True, **about} if pushed else None
    summary = {
        "pipeline": "smoke",
        "run": "r0",
        "status": status,
        "seconds": 1.0,
        "key": request.key(run_state(request, info)),
        "models": [{"name": "digits_cnn", "variants": [], "pushed": where}],
        "recommendation": "",
        "live": {
            config.name: store_state(layout.bundles / config.name)
            for config in request.experiments.values()
        },
    }
    folder = layout.report("r0")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder.parent / "latest").symlink_to("r0")
    return bundle


def quiet():
    return Console(file=StringIO(), width=120)


def test_a_request_round_trip(request_):
    assert request_from_json(request_to_json(request_)) == request_


def test_a_request_with_searches_round_trip(request_, tmp_path):
    search = Tuning({"optim.learning_rate": "log(1e-3, 1e-1)"}, trials=3, epochs=2)
    shape = replace(request_.pipeline, tune={"digits_cnn": search})
    tuned = replace(request_, pipeline=shape, experiments=make_experiments(shape, tmp_path))
    assert request_from_json(request_to_json(tuned)) == tuned
    assert tuned.key({}) != request_.key({})
    with pytest.raises(
        ConfigError, match=r"smoke tunes 'digits_rnn', but has no such model \(known: digits_cnn"
    ):
        make_experiments(replace(shape, tune={"digits_rnn": search}), tmp_path)


def test_unknown_pipeline_names_the_nearest():
    with pytest.raises(UnknownNameError, match="smoke"):
        pipelines.get("smok")


def test_overrides_for_one_experiment(tmp_path):
    found = make_experiments(smoke(), tmp_path, ("digits_vit:train.epochs=2", "train.seed=7"))
    assert found["digits_vit"].train.epochs == 2
    assert found["digits_cnn"].train.epochs != 2
    assert {config.train.seed for config in found.values()} == {7}
    with pytest.raises(ConfigError, match="digits_rnn"):
        make_experiments(smoke(), tmp_path, ("digits_rnn:train.epochs=2",))


@pytest.mark.parametrize(("status", "expected"), [("pushed", 0), ("refused", 3), ("undecided", 3)])
def test_unchanged_reprints_and_keeps_the_exit_status(request_, status, expected):
    finished(request_, status=status, pushed=status == "pushed")
    console = quiet()
    assert runs.run(request_, console) == expected
    assert "nothing changed since run r0" in console.file.getvalue()


def test_a_withdrawn_model_has_status_3_and_the_rollback_command_is_printed(request_):
    command = "sightline rollback digits_cnn 1 --bundles '[b]undles'"
    finished(request_, status="withdrawn", withdrawn=True, way_back=command)
    console = quiet()
    assert runs.run(request_, console) == 3
    said = console.file.getvalue()
    assert "withdrawn: v1" in " ".join(said.split())
    assert f"withdrawn by a rollback; to serve it again: {command}\n" in said


def test_changes_that_make_a_run_necessary(request_, monkeypatch):
    bundle = finished(request_)
    info = DatasetInfo.load(Path(request_.data))
    assert runs.unchanged(request_, info) is not None
    assert runs.unchanged(replace(request_, resume_anyway=True), info) is not None
    other = make_experiments(smoke(), Path(request_.data), ("train.seed=1",))
    assert runs.unchanged(replace(request_, experiments=other), info) is None
    monkeypatch.setattr(run_request, "code_digest", lambda *modules, index: "changed")
    assert runs.unchanged(request_, info) is None
    monkeypatch.undo()
    assert runs.unchanged(request_, info) is not None
    shutil.rmtree(bundle)
    assert runs.unchanged(request_, info) is None


def test_any_change_of_the_data_makes_a_run_necessary(request_):
    finished(request_)
    data = Path(request_.data)
    info = DatasetInfo.load(data)
    shard = data / "Split-train/data_tfrecord-00000-of-00001"
    original = shard.read_bytes()

    def is_unchanged(info=info):
        return runs.unchanged(request_, info) is not None

    assert not is_unchanged(replace(info, classes=tuple(reversed(info.classes))))
    assert not is_unchanged(replace(info, label_offset=0))
    shard.write_bytes(original + b"more")
    assert not is_unchanged()
    # As long as before, and with the times of before.
    times = os.stat(shard).st_atime_ns, os.stat(shard).st_mtime_ns
    shard.write_bytes(original[:3] + bytes(len(original) - 3))
    os.utime(shard, ns=times)
    assert not is_unchanged()
    # The same bytes are the same data, however new the file is.
    shard.write_bytes(original)
    assert is_unchanged()


def test_the_next_run_sees_changes_made_during_a_run(request_, monkeypatch):
    from tfx_pipeline.runners import local

    shard = Path(request_.data) / "Split-train/data_tfrecord-00000-of-00001"
    info = DatasetInfo.load(Path(request_.data))
    before = request_.key(run_state(request_, info))

    def launch(graph, name, *, use_cache):
        shard.write_bytes(b"changed")
        return False

    dag = SimpleNamespace(
        compile_graph=lambda pipeline, run: None,
        all_nodes=lambda graph: {"Records": None},
        launch=launch,
        outputs=lambda graph: [],
    )
    graph = SimpleNamespace(create_pipeline=lambda request, info: None)
    monkeypatch.setitem(sys.modules, "tfx_pipeline.graph", graph)
    monkeypatch.setattr("tfx_pipeline.runners.dag", dag, raising=False)
    monkeypatch.setitem(sys.modules, "tfx_pipeline.runners.dag", dag)
    monkeypatch.setattr(local, "write_summary", lambda summary, layout: None)
    assert local.run(request_)["key"] == before
    assert shard.read_bytes() == b"changed"
    assert request_.key(run_state(request_, info)) != before


def test_a_change_of_the_bundle_store_makes_a_run_necessary(request_):
    """A push by another user, a rollback, and a summary without the state of the store."""
    bundle = finished(request_)
    info = DatasetInfo.load(Path(request_.data))
    shutil.copytree(bundle, bundle.with_name("2"))
    assert runs.unchanged(request_, info) is None
    rollback(bundle.parent)
    assert runs.unchanged(request_, info) is None
    shutil.rmtree(bundle.with_name(".withdrawn-2"))
    assert runs.unchanged(request_, info) is not None
    path = request_.layout.report("latest") / "summary.json"
    summary = json.loads(path.read_text())
    for live in (None, {**summary["live"], "digits_cnn": None}):
        path.write_text(json.dumps({**summary, "live": live}))
        assert runs.unchanged(request_, info) is None


def test_skipped_comparisons_are_printed(request_):
    finished(request_)
    path = request_.layout.report("latest") / "summary.json"
    line = "drift is not checked against digits_cnn 1: no lineage was kept"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unchecked": [line]}))
    console = quiet()
    runs.run(request_, console)
    assert f"not checked  {line}\n" in console.file.getvalue()


def test_a_failed_run_is_not_a_result(request_):
    finished(request_, status="error")
    assert runs.unchanged(request_, DatasetInfo.load(Path(request_.data))) is None


def test_the_error_of_a_second_run_names_the_holder_of_the_lock(request_):
    with (
        runs.locked(request_.layout),
        pytest.raises(runs.LockedError, match=rf"process {os.getpid()} on .* since"),
        runs.locked(request_.layout),
    ):
        pass
    with runs.locked(request_.layout):
        pass  # Given back.


def test_the_lock_of_a_killed_run_is_free(request_):
    request_.layout.home.mkdir(parents=True)
    code = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from tfx_pipeline.request.run import Layout
        from tfx_pipeline.cli.views.run import locked
        with locked(Layout(Path({request_.root!r}), "smoke")):
            print("held", flush=True)
            time.sleep(60)
    """)
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(runs.LockedError, match=f"process {holder.pid} "),
        runs.locked(request_.layout),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with runs.locked(request_.layout):
        pass


def test_a_runner_that_dies_is_an_error_with_the_end_of_its_log(request_, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    console = quiet()
    assert runs.run(request_, console) == 1
    printed = console.file.getvalue()
    assert "its process ended with status 1" in printed
    assert "resumes from the component that failed" in printed


def test_missing_summary_names_the_runs(request_):
    finished(request_)
    with pytest.raises(FileNotFoundError, match="runs of smoke: latest, r0"):
        runs.read_summary(request_.layout, "r9")


def test_every_pipeline_names_recipes_and_gates_that_exist(tmp_path):
    from components.gates import GateSettings

    for name in pipelines.names():
        shape = pipelines.get(name)()
        assert isinstance(shape, PipelineConfig)
        assert shape.name == name
        GateSettings(**shape.gates)
        assert set(make_experiments(shape, tmp_path)) == set(shape.experiments)
    assert Layout(tmp_path, "smoke").bundles == tmp_path / "bundles"


def test_resume_anyway_reaches_training_and_no_key(request_, tmp_path, monkeypatch):
    """As the user gives it to `run`, `train` and `tune`."""
    from typer.testing import CliRunner

    from tfx_pipeline.cli import app

    seen = {}
    monkeypatch.setattr(runs, "run", lambda request, console: seen.update(run=request) or 0)
    for verb, view in (("train", "train.train_shown"), ("tune", "search.tune_shown")):
        monkeypatch.setattr(
            f"tfx_pipeline.cli.views.{view}", lambda *a, v=verb, **k: seen.update({v: k})
        )
    data = request_.data
    for arguments in (
        ["run", "smoke", "--data", data, "--resume-anyway"],
        ["train", "digits_cnn", "--data", data, "--resume-anyway"],
        ["tune", "digits_cnn", "train.ema=uniform(0, 0.5)", "--data", data, "--resume-anyway"],
    ):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen["train"]["resume_anyway"] is seen["tune"]["resume_anyway"] is True
    assert seen["run"].resume_anyway
    assert request_from_json(request_to_json(seen["run"])).resume_anyway
    assert seen["run"].key({}) == replace(seen["run"], resume_anyway=False).key({})


def test_announcements_of_training_are_shown(tmp_path):
    console = quiet()
    with LiveView(console) as view:
        view.show({"event": "announcement", "line": "starts over and keeps [b]/a[/b]"})
    assert console.file.getvalue() == "  starts over and keeps [b]/a[/b]\n"


def test_training_within_a_run_is_a_line_an_epoch_and_every_half_minute_in_a_log(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tfx_pipeline.cli.views.live.time.monotonic", lambda: now[0])
    written = {}
    for terminal in (False, True):
        console = Console(file=StringIO(), width=60, force_terminal=terminal)
        view = LiveView(console, log_every_s=30.0)
        now[0] = 0.0
        view.show({"event": "component", "name": "Trainer.m", "state": "running"})
        for epoch, step, seconds in [(1, 1, 5), (1, 2, 31), (1, 3, 40), (1, 4, 41), (2, 1, 50)]:
            now[0] = float(seconds)
            progress = Progress(epoch, 2, step, 4, 1.5, 0.25, 0.1, 8.0, 0.0, 60.0)
            view.show({"event": "progress", **asdict(progress)})
        written[terminal] = console.file.getvalue()
    # The second step comes 31 s after the component began, the fourth ends the epoch.
    lines = written[False].splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        "  Trainer.m  epoch 1/2 step 2/4",
        "  Trainer.m  epoch 1/2 step 4/4",
    ]
    assert all("8 images/s" in line and "ETA 1:00" in line for line in lines)
    assert written[True] == ""
