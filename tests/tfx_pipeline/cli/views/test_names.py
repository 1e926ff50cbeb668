from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfx_pipeline.cli.views.names import with_short_names
from tfx_pipeline.cli.views.subjects import Subject
from trainers.evaluation.comparison import ComparisonError, ModelPredictions


def folder(path, tail=""):
    """The subject of a folder or a file, named by its path as `subjects.load` does."""
    return replace(named(f"{path}{tail}"), source=Path(path))


def named(name, run=None):
    """The subject of a server, or of a run."""
    one = np.array(["0" * 64], object)
    table = ModelPredictions(one, np.zeros(1, int), np.ones((1, 1)), {}, name, ("a",))
    return Subject(table, {}, run=run and Path(run))


def names(*subjects):
    return [one.predictions.name for one in with_short_names(subjects)]


def test_paths_are_shortened_to_their_ends_that_differ():
    assert names(folder("/tmp/x/work")) == ["work"]
    assert names(folder("/tmp/a/work"), folder("/tmp/b/work")) == ["a/work", "b/work"]
    assert names(folder("/tmp/a/cnn"), folder("/tmp/b/vit", " ptq_int8")) == ["cnn", "vit ptq_int8"]
    assert names(folder("/x/work"), folder("/x/work/y/x/work")) == ["/x/work", "y/x/work"]
    assert names(folder("/")) == ["/"]


def test_a_version_is_not_a_name():
    assert names(folder("/tmp/bundles/cnn/1")) == ["cnn/1"]
    assert names(folder("/tmp/cnn/1"), folder("/tmp/cnn/2")) == ["cnn/1", "cnn/2"]


def test_relative_paths_and_those_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert names(folder(".")) == ["a"]
    assert names(folder("."), folder("..")) == ["a", tmp_path.name]


def test_a_short_name_is_not_that_of_another_model():
    assert names(folder("/tmp/work"), named("work", "/tmp/run")) == ["tmp/work", "run:work"]
    assert names(named("cnn", "/r/pets"), named("vit", "/r/pets")) == ["cnn", "vit"]
    assert names(named("cnn@host:8501"), folder("/tmp/cnn")) == ["cnn@host:8501", "cnn"]


def test_models_of_the_same_name_have_that_of_their_run():
    found = with_short_names([named("cnn", "/a/pets"), named("cnn", "/b/pets")])
    assert [one.predictions.name for one in found] == ["a/pets:cnn", "b/pets:cnn"]
    assert [one.full_name for one in found] == ["/a/pets:cnn", "/b/pets:cnn"]


def test_the_full_name_is_kept():
    found = with_short_names([folder("/tmp/a/work", " ptq_int8"), named("cnn", "/tmp/run")])
    assert [one.full_name for one in found] == ["/tmp/a/work ptq_int8", "cnn"]


@pytest.mark.parametrize("one", [folder("/tmp/a"), named("cnn", "/tmp/run"), named("cnn@host")])
def test_a_model_that_is_given_twice_is_refused(one):
    with pytest.raises(ComparisonError, match="given twice; give different models"):
        with_short_names([one, one])
