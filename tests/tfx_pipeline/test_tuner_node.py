"""A search through TFX: Tuner, then Trainer with its best values. A minute: `make test-slow`."""

import dataclasses
import json
from pathlib import Path

import pytest

from tfx_pipeline.config import Tuning, pipelines
from tfx_pipeline.ingest import ingest
from tfx_pipeline.report.summary import Node, build_summary
from tfx_pipeline.request.run import RunRequest
from trainers.config import override
from trainers.data.features import DatasetInfo
from trainers.registry import recipes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # KerasTuner 1.4 gets its thread's name with a deprecated method.
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]

TINY = [
    *("train.epochs=1", "train.global_batch=256", "optim.warmup_steps=0"),
    *("model.options.width=4", "model.options.stages=1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "digits"
    ingest("digits", folder)
    return folder


def launch(root, data, *nodes, space):
    """The graph with a search for `net`, and its `nodes` launched in order."""
    from tfx_pipeline.graph import create_pipeline
    from tfx_pipeline.runners import dag

    config = override(recipes.get("digits_cnn")(), [f"data.dir={data}", *TINY])
    shape = dataclasses.replace(pipelines.get("smoke")(), tune={"net": Tuning(space, trials=2)})
    experiments = {"net": config, "other": config}
    request = RunRequest("1", shape, experiments, str(data), str(root))
    request.layout.home.mkdir(parents=True, exist_ok=True)
    graph = dag.compile_graph(create_pipeline(request, DatasetInfo.load(data)), "1")
    assert "Trainer.net" in dag.downstream(graph, ["Tuner.net"])
    assert "Trainer.other" not in dag.downstream(graph, ["Tuner.net"])
    assert "Tuner.net" in dag.downstream(graph, ["DataGate"])
    assert "Tuner.other" not in dag.all_nodes(graph)
    for name in nodes:
        dag.launch(graph, name)
    return request, dag.outputs(graph)


def test_the_best_trial_is_what_is_trained(tmp_path, data):
    space = {"optim.learning_rate": "log(1e-3, 1e-1)", "model.dropout": "uniform(0, 0.5)"}
    request, outputs = launch(tmp_path, data, "Records", "Tuner.net", "Trainer.net", space=space)
    places = {(o.node, o.key): Path(o.uri) for o in outputs}
    trials = json.loads((places["Tuner.net", "tuner_results"] / "tuner_results.json").read_text())
    assert len(trials) == 2
    assert all(0 < trial["score"] <= 1 for trial in trials)
    best = max(trials, key=lambda trial: trial["score"])
    trained = places["Trainer.net", "model"] / "Format-Serving"
    config = json.loads((trained / "config.json").read_text())
    assert config["optim"]["learning_rate"] == best["optim.learning_rate"]
    assert config["model"]["dropout"] == best["model.dropout"]
    # The trial was as long as the recipe, so it was not trained again.
    found = json.loads((trained / "trained.json").read_text())
    assert found["val_top1"] == pytest.approx(best["score"])
    assert len(list((request.layout.checkpoints / "net").glob("*-*"))) == 2
    nodes = [Node(name, "done", 1.0) for name in ("Records", "Tuner.net", "Trainer.net")]
    summary = build_summary(
        request,
        DatasetInfo.load(data),
        nodes,
        outputs,
        state={},
        seconds=1.0,
        error="stopped here",
    )
    told = next(model for model in summary["models"] if model["name"] == "net")
    assert told["config"] == config
    assert told["trials"] == trials


def test_a_search_whose_trials_all_fail_fails_the_node(tmp_path, data):
    with pytest.raises(Exception, match="none of 2 trials has a score"):
        launch(
            tmp_path, data, "Records", "Tuner.net", space={"optim.learning_rate": "log(1e37, 1e38)"}
        )
