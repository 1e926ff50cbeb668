"""The command line's side of a run: lock, nothing-to-do, errors and exit status, without TFX."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tfx_pipeline import config as settings
from tfx_pipeline import run as runs
from tfx_pipeline.config import (
    Layout,
    PipelineConfig,
    Tuning,
    code_digest,
    data_state,
    make_experiments,
    pipelines,
    request_from_json,
    request_to_json,
)
from tfx_pipeline.pipelines.smoke import smoke
from trainers.config import ConfigError
from trainers.data.features import DatasetInfo
from trainers.registry import UnknownNameError
from trainers.stack import stack


def finished(request, *, status="pushed", pushed=True, **about):
    """Leaves what a finished run leaves."""
    layout = request.layout
    bundle = layout.bundles / "digits_cnn/1"
    bundle.mkdir(parents=True)
    info = DatasetInfo.load(Path(request.data))
    where = {"path": str(bundle), "version": 1, "pushed": True, **about} if pushed else None
    summary = {
        "pipeline": "smoke",
        "run": "r0",
        "status": status,
        "seconds": 1.0,
        "key": request.key(data_state(Path(request.data), info.fingerprint), stack()),
        "models": [{"name": "digits_cnn", "variants": [], "pushed": where}],
        "recommendation": "",
    }
    folder = layout.report("r0")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder.parent / "latest").symlink_to("r0")
    return bundle


def quiet():
    return Console(file=StringIO(), width=120)


def test_a_request_travels_whole(request_):
    assert request_from_json(request_to_json(request_)) == request_


def test_searches_travel_too_and_name_models_that_exist(request_, tmp_path):
    search = Tuning({"optim.learning_rate": "log(1e-3, 1e-1)"}, trials=3, epochs=2)
    shape = replace(request_.pipeline, tune={"digits_cnn": search})
    tuned = replace(request_, pipeline=shape, experiments=make_experiments(shape, tmp_path))
    assert request_from_json(request_to_json(tuned)) == tuned
    assert tuned.key("f", {}) != request_.key("f", {})
    with pytest.raises(ConfigError, match="smoke tunes 'digits_rnn', which it has not; digits_cnn"):
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


def test_a_withdrawn_model_is_no_success_and_the_way_back_is_printed(request_):
    command = "sightline rollback digits_cnn 1 --bundles '[b]undles'"
    finished(request_, status="withdrawn", withdrawn=True, way_back=command)
    console = quiet()
    assert runs.run(request_, console) == 3
    said = console.file.getvalue()
    assert "withdrawn: v1" in " ".join(said.split())
    assert f"put aside by a rollback; to serve it again: {command}\n" in said


def test_what_makes_a_run_necessary(request_, monkeypatch):
    bundle = finished(request_)
    info = DatasetInfo.load(Path(request_.data))
    assert runs.unchanged(request_, info) is not None
    other = make_experiments(smoke(), Path(request_.data), ("train.seed=1",))
    assert runs.unchanged(replace(request_, experiments=other), info) is None
    with (Path(request_.data) / "Split-train/data_tfrecord-00000-of-00001").open("ab") as shard:
        shard.write(b"more")
    assert runs.unchanged(request_, info) is None
    (Path(request_.data) / "Split-train/data_tfrecord-00000-of-00001").write_bytes(b"records")
    assert runs.unchanged(request_, info) is not None
    monkeypatch.setattr(settings, "code_digest", lambda *rooms: "changed")
    assert runs.unchanged(request_, info) is None
    monkeypatch.undo()
    bundle.rmdir()
    assert runs.unchanged(request_, info) is None


def test_a_failed_run_is_not_taken_for_a_result(request_):
    finished(request_, status="error")
    assert runs.unchanged(request_, DatasetInfo.load(Path(request_.data))) is None


def test_two_runs_at_once_the_second_says_who_holds_the_lock(request_):
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
        from tfx_pipeline.config import Layout
        from tfx_pipeline.run import locked
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
    assert "goes on from the component that failed" in printed


def test_missing_summary_names_the_runs(request_):
    finished(request_)
    with pytest.raises(FileNotFoundError, match="runs of smoke: latest, r0"):
        runs.read_summary(request_.layout, "r9")


def test_code_digest_sees_a_room_and_not_what_is_left_out():
    whole = code_digest("trainers")
    assert whole == code_digest("trainers")
    assert whole != code_digest("trainers", without=("trainers/loop.py",))
    assert whole != code_digest("serving")


def test_every_pipeline_names_recipes_and_gates_that_exist(tmp_path):
    from components.gates import GateSettings

    for name in pipelines.names():
        shape = pipelines.get(name)()
        assert isinstance(shape, PipelineConfig)
        assert shape.name == name
        GateSettings(**shape.gates)
        assert set(make_experiments(shape, tmp_path)) == set(shape.experiments)
    assert Layout(tmp_path, "smoke").bundles == tmp_path / "bundles"
