"""Policies, hot load, labels, reload, broken versions and warm-up, on real folders and models."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.engines.saved_model import EngineError
from serving.server.errors import ServingError
from serving.server.models.config import ServedModel, VersionPolicy
from serving.server.models.manager import ModelManager
from serving.server.models.servable import State
from serving.server.observability.health import Readiness

LATEST = VersionPolicy()


def copy_versions(model, folder, versions):
    for version in versions:
        shutil.copytree(model / "123", folder / str(version))


@pytest.fixture
def lifecycle(half_plus_two, tmp_path):
    """`(versions on disk, policy, **manager options) -> (synced manager, folder, configs)`."""
    managers = []

    def make(on_disk, policy=LATEST, **options):
        folder = tmp_path / "m"
        folder.mkdir()
        copy_versions(half_plus_two, folder, on_disk)
        configs = [ServedModel("m", folder, policy)]
        manager = ModelManager(lambda: configs, **options)
        managers.append(manager)
        manager.sync()
        return manager, folder, configs

    yield make
    for manager in managers:
        manager.close()


def predict_once(manager):
    x = np.array([2.0], np.float32)
    with manager.use("m") as servable:
        return servable.engine.run("serving_default", {"x": x})["y"].tolist()


@pytest.mark.parametrize(
    ("on_disk", "policy", "available"),
    [
        ([1, 2, 3], LATEST, [3]),
        ([1, 2, 3], VersionPolicy("latest", 2), [2, 3]),
        ([1, 2, 3], VersionPolicy("all"), [1, 2, 3]),
        ([1, 2, 3], VersionPolicy("specific", versions=(1, 3)), [1, 3]),
        (["01", "1"], LATEST, [1]),
    ],
    ids=["default_latest_one", "latest_n", "all", "specific", "duplicate_one_loaded"],
)
def test_policies(lifecycle, on_disk, policy, available):
    manager, _, _ = lifecycle(on_disk, policy)
    assert manager.available()["m"] == available


def test_new_version_appears(lifecycle, half_plus_two):
    manager, folder, _ = lifecycle([1])
    seen, failures = [manager.available()["m"]], []
    done = threading.Event()

    def hammer():
        while not done.is_set():
            try:
                assert predict_once(manager) == [3.0]
            except Exception as error:
                failures.append(error)
            if manager.available()["m"] != seen[-1]:
                seen.append(manager.available()["m"])

    workers = [threading.Thread(target=hammer) for _ in range(2)]
    [worker.start() for worker in workers]
    copy_versions(half_plus_two, folder, [2])
    manager.sync()
    done.set()
    [worker.join() for worker in workers]
    assert not failures
    assert manager.available()["m"] == [2]
    assert [versions for versions in seen if versions not in ([1], [1, 2], [2])] == []
    states = {status.version: status.state for status in manager.status("m")}
    assert states == {1: State.END, 2: State.AVAILABLE}


@pytest.mark.parametrize(("keep", "left"), [(False, []), (True, [1])])
def test_last_version_removed(lifecycle, keep, left):
    manager, folder, _ = lifecycle([1], versions_always_present=keep)
    shutil.rmtree(folder / "1")
    manager.sync()
    assert manager.available()["m"] == left


def test_duplicate_name():
    configs = [ServedModel("m", Path("a")), ServedModel("m", Path("b"))]
    with pytest.raises(ServingError, match="multiple times") as caught:
        ModelManager(lambda: configs).sync()
    assert caught.value.code == "INVALID_ARGUMENT"


def test_switch_waits_and_brings_back(lifecycle, half_plus_two, tmp_path):
    manager, _, configs = lifecycle([1])
    copy_versions(half_plus_two, tmp_path / "b", [1])
    manager.switch([*configs, ServedModel("b", tmp_path / "b")])
    assert manager.available() == {"m": [1], "b": [1]}
    manager.switch([])
    assert manager.available() == {}
    manager.switch(configs)
    assert manager.available() == {"m": [1]}
    with pytest.raises(ServingError, match="holds no version"):
        manager.switch([ServedModel("m", tmp_path / "empty")])
    assert predict_once(manager) == [3.0]


def test_a_refused_switch_is_not_noticed(lifecycle, half_plus_two, tmp_path):
    served, tried = [], []

    def look(name, path, engine):
        if path.name == "5":
            tried.append(engine)
            with manager.use("m") as servable:
                served.append(servable)

    manager, _, _ = lifecycle([1], prepare=look)
    with manager.use("m") as before:
        pass
    statuses = manager.status("m")
    copy_versions(half_plus_two, tmp_path / "new", [5])
    broken = tmp_path / "b" / "1"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"not a model")
    wanted = [ServedModel("m", tmp_path / "new"), ServedModel("b", tmp_path / "b")]
    with pytest.raises(ServingError, match="model b version 1: ") as caught:
        manager.switch(wanted)
    assert caught.value.code == "FAILED_PRECONDITION"
    assert served == [before]
    with manager.use("m") as after:
        assert after is before
    assert manager.status("m") == statuses
    assert not manager.knows("b")
    with pytest.raises(EngineError, match="closed"):
        tried[0].run("serving_default", {"x": np.array([2.0], np.float32)})
    shutil.copytree(half_plus_two / "123", broken, dirs_exist_ok=True)
    # At once, although a minute lies between two tries otherwise.
    manager.switch(wanted)
    assert manager.available() == {"m": [5], "b": [1]}


def test_what_failed_before_is_tried_again_by_a_switch(lifecycle, half_plus_two):
    manager, folder, configs = lifecycle([1], max_retries=0)
    (folder / "2").mkdir()
    (folder / "2" / "saved_model.pb").write_bytes(b"not a model")
    manager.sync()
    shutil.copytree(half_plus_two / "123", folder / "2", dirs_exist_ok=True)
    manager.sync()
    assert manager.available() == {"m": [1]}
    manager.switch(configs)
    assert manager.available() == {"m": [2]}


def test_a_model_that_is_no_longer_configured_is_not_missing(lifecycle, half_plus_two, tmp_path):
    manager, _, configs = lifecycle([1])
    copy_versions(half_plus_two, tmp_path / "b", [1])
    configs.append(ServedModel("b", tmp_path / "b"))
    manager.sync()
    shutil.rmtree(tmp_path / "b" / "1")
    manager.sync()
    assert Readiness(manager).missing() == ["b"]
    configs.pop()
    manager.sync()
    assert Readiness(manager).missing() == []
    assert [status.state for status in manager.status("b")] == [State.END]


def test_a_folder_that_cannot_be_read_leaves_the_rest_alone(lifecycle, half_plus_two, unreadable):
    manager, folder, configs = lifecycle([1])
    copy_versions(half_plus_two, folder, [2])
    configs.append(ServedModel("bad", unreadable))
    manager.sync()
    assert manager.available() == {"m": [2], "bad": []}
    reason = f"{unreadable} cannot be read: File name too long"
    assert manager.not_served() == [f"model bad: {reason}"]
    with pytest.raises(ServingError, match="cannot be read") as caught:
        manager.status("bad")
    assert caught.value.code == "NOT_FOUND"
    with pytest.raises(ServingError, match="cannot be read"):
        manager.switch(configs)
    configs[:] = [ServedModel("m", unreadable)]
    manager.sync()
    assert predict_once(manager) == [3.0]


def test_a_version_that_cannot_be_read_has_failed(lifecycle, half_plus_two, unreadable):
    manager, folder, _ = lifecycle([1])
    (folder / "2").symlink_to(unreadable)
    manager.sync()
    failed, good = manager.status("m")
    assert (failed.version, failed.state, good.state) == (2, State.END, State.AVAILABLE)
    assert failed.error_code != "OK"
    copy_versions(half_plus_two, folder, [3])
    manager.sync()
    assert manager.available() == {"m": [3]}


def test_a_label_may_outlive_its_version(lifecycle, half_plus_two):
    manager, folder, configs = lifecycle([1])
    configs[0] = ServedModel("m", folder, labels={"stable": 1})
    for version in (2, 3):
        manager.sync()
        copy_versions(half_plus_two, folder, [version])
    manager.sync()
    assert manager.available() == {"m": [3]}
    with pytest.raises(ServingError, match="not currently available"):
        manager.switch([ServedModel("m", folder, labels={"stable": 2})])


@pytest.mark.parametrize("allowed", [False, True])
def test_labels_to_unavailable_versions(lifecycle, allowed):
    manager, folder, configs = lifecycle([1], labels_for_unavailable=allowed)
    configs[0] = ServedModel("m", folder, labels={"stable": 1})
    manager.sync()
    configs[0] = ServedModel("m", folder, labels={"stable": 2})
    with pytest.raises(ServingError, match="assign label to version 2 of model m") as caught:
        manager.sync()
    assert caught.value.code == "FAILED_PRECONDITION"
    configs[0] = ServedModel("m", folder, labels={"canary": 2})
    if allowed:
        manager.sync()
    else:
        with pytest.raises(ServingError, match="not currently available for inference"):
            manager.sync()


def test_broken_model_reports_error(lifecycle):
    manager, folder, _ = lifecycle([1], retry_seconds=0)
    (folder / "2").mkdir()
    (folder / "2" / "saved_model.pb").write_bytes(b"not a model")
    manager.sync()
    broken, good = manager.status("m")
    assert (broken.version, broken.state) == (2, State.END)
    assert broken.error_code != "OK"
    assert str(folder / "2") in broken.error_message
    assert (good.version, good.state) == (1, State.AVAILABLE)
    assert predict_once(manager) == [3.0]
    shutil.rmtree(folder / "2")
    shutil.copytree(folder / "1", folder / "2")
    manager.sync()
    assert manager.available()["m"] == [2]


def test_warmup_records_are_replayed(tiny_draft):
    from serving.engines.saved_model import load_saved_model
    from serving.server.models.warmup import replay

    engine = load_saved_model(tiny_draft)
    calls = []
    prepare = engine.prepare
    engine.prepare = lambda *args: calls.append(args[0]) or prepare(*args)
    assert replay("colors", tiny_draft, engine) == 3
    assert calls == ["serving_default"] * 3
    engine.close()


def test_requests_under_way_outlive_an_unload(lifecycle, half_plus_two):
    manager, folder, _ = lifecycle([1])
    x = np.array([2.0], np.float32)
    with manager.use("m") as old:
        copy_versions(half_plus_two, folder, [2])
        manager.sync()
        assert manager.available()["m"] == [2]
        assert old.engine.run("serving_default", {"x": x})["y"].tolist() == [3.0]
    with pytest.raises(EngineError, match="closed"):
        old.engine.run("serving_default", {"x": x})
    assert not old.enter()


def test_a_version_is_unloading_until_it_is_freed(lifecycle, half_plus_two, monkeypatch):
    manager, folder, _ = lifecycle([1])
    with manager.use("m") as servable:
        engine = servable.engine
    close, seen = engine.close, []
    monkeypatch.setattr(
        engine, "close", lambda: seen.append(manager.status("m", 1)[0].state) or close()
    )
    copy_versions(half_plus_two, folder, [2])
    manager.sync()
    assert seen == [State.UNLOADING]
    assert manager.status("m", 1)[0].state == State.END


def test_a_failing_warmup_keeps_the_version_out(lifecycle, half_plus_two):
    def refuse(name, path, engine):
        if path.name == "2":
            raise ServingError("INTERNAL", "warm-up request 1: no")

    manager, folder, _ = lifecycle([1], prepare=refuse, max_retries=1, retry_seconds=0)
    copy_versions(half_plus_two, folder, [2])
    for _ in range(4):
        manager.sync()
    failed = manager.status("m", 2)[0]
    assert (failed.state, failed.error_code) == (State.END, "INTERNAL")
    assert manager.available()["m"] == [1]


def test_damaged_warmup_files(tiny_copy):
    from serving.engines.saved_model import load_saved_model
    from serving.server.models.warmup import replay

    engine = load_saved_model(tiny_copy)
    file = tiny_copy / "assets.extra" / "tf_serving_warmup_requests"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ServingError, match="record 3") as caught:
        replay("colors", tiny_copy, engine)
    assert caught.value.code == "DATA_LOSS"
    file.unlink()
    assert replay("colors", tiny_copy, engine) == 0
    engine.close()


def test_a_label_names_a_loaded_version_while_another_model_loads(lifecycle, half_plus_two):
    seen = []

    def look(name, path, engine):
        if name == "other":
            with manager.use("m", label="stable") as servable:
                seen.append(servable.version)

    manager, folder, configs = lifecycle([1], prepare=look)
    configs[0] = ServedModel("m", folder, LATEST, labels={"stable": 1})
    manager.sync()
    copy_versions(half_plus_two, folder, [2])
    copy_versions(half_plus_two, folder.parent / "other", [1])
    configs[:] = [
        ServedModel("m", folder, LATEST, labels={"stable": 2}),
        ServedModel("other", folder.parent / "other", LATEST),
    ]
    manager.sync()
    assert seen == [1]
    with manager.use("m", label="stable") as servable:
        assert servable.version == 2
    assert manager.available()["m"] == [2]
