"""The edits of a plugin that make a run necessary."""

import pytest

from tfx_pipeline.node_code import NODE_MODULES
from trainers import plugins
from trainers.identity.code_digest import CodeBase, _top, code_of
from trainers.identity.file_index import FileIndex
from trainers.identity.plugin_code import counted_files

PROJECT = '''"""A project."""

from pathlib import Path

from tfx_pipeline.config import PipelineConfig, pipelines
from trainers.config import Config, ModelConfig
from trainers.registry import recipes

DATA = Path(__file__).parent / "data"
MIN_TOP1 = 0.9
SHARED = ModelConfig("cnn")


@recipes.register("pets")
def recipe():
    """What is trained."""
    # A reason.
    return Config(name="pets", model=SHARED)


@pipelines.register("pets")
def pipeline():
    return PipelineConfig("pets", ("pets",), gates={"min_top1": MIN_TOP1})
'''
MODEL = '''

from trainers.registry import models
import layerlib

WIDTH = 32
UNUSED = 1


def block(x):
    """A block."""
    return x * WIDTH


@models.register("tiny")
def tiny(images):
    return block(images)
'''

# Facts about our sources, which do not change; an edited plugin is read again.
INDEX = FileIndex()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An unloaded plugin in a folder `pets`."""
    (tmp_path / "pets").mkdir()
    path = tmp_path / "pets" / "pipeline.py"
    path.write_text(PROJECT + MODEL)
    monkeypatch.setenv(plugins.VARIABLE, str(path))
    return path


def trainer():
    return code_of("trainers.loop", index=INDEX)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * WIDTH", "x + WIDTH"),
        ("WIDTH = 32", "WIDTH = 64"),
        ('"tiny"', '"small"'),
        ("return block(images)", "return images"),
        ("from trainers.registry import models\n", "from trainers.registry import models\nf()\n"),
    ],
)
def test_code_of_a_model_changes_the_digest(file, old, new):
    before = trainer()
    file.write_text((PROJECT + MODEL).replace(old, new, 1))
    assert trainer().digest != before.digest
    assert before.modules.keys() ^ trainer().modules.keys() == set()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A reason.", "# Another reason."),
        ('"""A block."""', '"""What a block does."""'),
        ('"""A project."""', '"""Mine."""'),
        # Values are in the configuration, which names nodes and keys by itself.
        ("MIN_TOP1 = 0.9", "MIN_TOP1 = 0.8"),
        ('gates={"min_top1": MIN_TOP1}', "gates={}"),
        ('Config(name="pets"', 'Config(name="cats"'),
        ('ModelConfig("cnn")', 'ModelConfig("resnet20")'),
        ('parent / "data"', 'parent / "records"'),
        ("UNUSED = 1", "UNUSED = 2"),
        ("WIDTH = 32", "WIDTH   = (32)"),
    ],
)
def test_comments_and_recipe_values_do_not_change_the_digest(file, old, new):
    before = trainer()
    assert old in PROJECT + MODEL
    file.write_text((PROJECT + MODEL).replace(old, new, 1))
    assert trainer() == before


def test_a_project_with_recipes_only_has_no_digest(file, monkeypatch):
    file.write_text(PROJECT)
    with_project = trainer()
    assert counted_files() == []
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert trainer() == with_project


def test_the_digest_does_not_depend_on_the_folder_of_a_plugin(file, tmp_path, monkeypatch):
    before = trainer()
    assert "plugin pets/pipeline.py" not in before.modules
    assert before.modules["plugin pipeline.py"]
    assert counted_files() == [file]
    moved = file.rename(tmp_path / "pipeline.py")
    monkeypatch.setenv(plugins.VARIABLE, str(moved))
    assert trainer() == before


def test_packages_that_a_plugin_imports_are_included(file, tmp_path):
    folder = tmp_path / "site" / "layer_lib-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: layer-lib\nVersion: 1.0\n")
    (folder / "top_level.txt").write_text("layerlib\n")
    base = CodeBase(_top(), index=INDEX, path=[str(tmp_path / "site")])
    assert base.code("trainers.loop").packages["layer-lib"] == "1.0"
    assert "layer-lib" not in base.code("trainers.config").packages
    assert file.is_file()


def test_digests_of_data_nodes_do_not_depend_on_plugins(file, monkeypatch):
    def digests():
        base = CodeBase(_top(), index=INDEX)
        return {kind: base.code(*modules).digest for kind, modules in NODE_MODULES.items()}

    before = digests()
    file.write_text((PROJECT + MODEL).replace("x * WIDTH", "x + WIDTH"))
    changed = {kind for kind, digest in digests().items() if digest != before[kind]}
    assert {"Trainer", "Tuner", "Compressor"} <= changed
    data = {"LiveModel", "StatisticsGen", "SchemaGen", "StatisticsValidator", "ImageValidator"}
    assert changed.isdisjoint({*data, "DataGate"})


METRIC = '''"""A figure that a user adds."""

import math

import numpy as np

from trainers.evaluation.metric import Metric, guesses
from trainers.registry import metrics

POWER = 2


def share(labels, guess):
    """Of the labels that are right."""
    return float(np.mean(labels == guess)) ** POWER


metrics.register("squared")(Metric(share, "squared top-1", guesses))
'''


@pytest.mark.parametrize(("old", "new"), [("POWER = 2", "POWER = 3"), ('"squared"', '"square"')])
def test_a_metric_counts_for_what_computes_metrics_and_trains_nothing_again(file, old, new):
    def digests():
        modules = {kind: NODE_MODULES[kind] for kind in NODE_MODULES if NODE_MODULES[kind]}
        return {kind: code_of(*names, index=INDEX).digest for kind, names in modules.items()}

    file.write_text(PROJECT + MODEL)
    without, trained = digests(), trainer().digest
    file.write_text(PROJECT + MODEL + METRIC)
    with_metric = digests()
    changed = {kind for kind in without if without[kind] != with_metric[kind]}
    assert changed == {"Evaluator", "SignificanceGate", "CardWriter"}
    file.write_text(PROJECT + MODEL + METRIC.replace(old, new))
    edited = digests()
    assert {kind for kind in edited if edited[kind] != with_metric[kind]} == changed
    assert trainer().digest == trained


def test_a_trained_model_does_not_need_a_plugin_of_metrics(file):
    file.write_text(METRIC)
    assert counted_files() == []
    file.write_text(METRIC + MODEL)
    assert counted_files() == [file]


def test_what_a_model_shares_with_a_metric_counts(file):
    shared = METRIC.replace("POWER = 2", "POWER = 2\n") + MODEL.replace("x * WIDTH", "x * POWER")
    file.write_text(shared)
    before = trainer().digest
    file.write_text(shared.replace("POWER = 2", "POWER = 4"))
    assert trainer().digest != before
