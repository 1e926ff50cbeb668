"""A metric in a user's own file appears, with an interval, wherever Sightline's metrics do."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score

from trainers import plugins
from trainers.evaluation.predictions import Predictions, write_table
from trainers.registry import metrics

PLUGIN = '''"""A user's metric."""

import numpy as np

from trainers.evaluation.metric import Metric, guesses
from trainers.registry import metrics


def balanced_accuracy(labels, guess):
    """The mean of the classes' recall."""
    return float(np.mean([np.mean(guess[labels == one] == one) for one in np.unique(labels)]))


metrics.register("balanced_accuracy")(Metric(balanced_accuracy, "balanced accuracy", guesses))
'''
NAME, TITLE = "balanced_accuracy", "balanced accuracy"
CLASSES = ("cat", "dog", "owl", "fox", "bee", "ant")
FIGURES = {"latency_ms_p50": 1.0, "size_bytes": 400, "gzip_bytes": 390}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The file, given as with `--plugins`."""
    file = tmp_path / "my_metric.py"
    file.write_text(PLUGIN)
    metrics.names()
    monkeypatch.setattr(metrics, "_entries", dict(metrics._entries))
    monkeypatch.setattr(metrics, "_origins", dict(metrics._origins))
    monkeypatch.setattr(plugins, "_state", plugins._State())
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    return file


@pytest.fixture(scope="module")
def table():
    """Predictions of two variants: 40 to 10 images of each class."""
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(6), [40, 35, 30, 20, 15, 10]).astype(np.int32)
    ids = np.array([f"{i:064x}" for i in range(len(labels))], object)
    slices = {"slice/brightness": np.array(["dark", "bright"], object)[np.arange(150) % 2]}
    found = {}
    for variant, skill in (("saved_model", 2.0), ("none_fp32", 2.0), ("ptq_int8", 1.9)):
        weights = np.exp(generator.normal(size=(150, 6)) + skill * np.eye(6)[labels])
        scores = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        found[variant] = Predictions(ids, labels, scores, slices)
    found["none_fp32"] = found["saved_model"]
    return found


def expected(found, rows=slice(None)):
    return balanced_accuracy_score(found.labels[rows], found.scores[rows].argmax(axis=1))


@pytest.fixture
def verdict(plugin, table):
    from components.gates import GateSettings, judge

    return judge(table, dict.fromkeys(table, FIGURES), GateSettings(), classes=CLASSES)


@pytest.fixture
def summary(verdict):
    """The summary of a run, after a way through JSON."""
    variants = [
        {"name": name, **FIGURES, **found, "recommended": name == verdict["recommended"]}
        for name, found in verdict["variants"].items()
    ]
    model = {"name": "pets", "variants": variants, "metric_facts": verdict["metric_facts"]}
    raw = {"pipeline": "p", "run": "1", "status": "pushed", "models": [model]}
    return json.loads(json.dumps(raw | {"data": {"classes": CLASSES}}))


def test_the_verdict_has_it_with_an_interval(verdict, table):
    for variant, found in table.items():
        value, low, high = verdict["variants"][variant]["metrics"][NAME]
        assert value == pytest.approx(expected(found))
        assert low < value < high
    assert verdict["metric_facts"][NAME] == {
        "title": TITLE,
        "unit": "fraction",
        "higher_is_better": True,
        "note": "",
    }


def test_card_console_and_report_show_it(verdict, summary, table, plugin, monkeypatch):
    from components.model_card.card_writer import final_manifest
    from core.bundle import Manifest, Variant
    from tfx_pipeline.report import console_metrics, render_report
    from trainers.bundles.card.card_html import render_card

    variants = tuple(Variant(n, "none", "fp32", 1, 1) for n in table if n != "saved_model")
    draft = Manifest("pets", "classification", 6, {}, 5, variants, "none_fp32")
    card = render_card(final_manifest(draft, verdict, {}), verdict)
    # A report is also rendered where the plugin is not at hand.
    monkeypatch.setattr(metrics, "_entries", {})
    report = render_report(summary)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(console_metrics(summary))

    value, low, high = verdict["variants"][verdict["recommended"]]["metrics"][NAME]
    shown, interval = f"{value:.1%}".replace("%", " %"), f"{100 * low:.1f} to {100 * high:.1f}"
    for page in (card, report):
        assert re.search(rf'title="higher is better">{TITLE}</th>', page)
        assert shown in page
        assert interval in page
    line = next(one for one in console.export_text().splitlines() if TITLE in one)
    assert f"{shown} [{interval.replace(' to ', ', ')}]" in line


def test_summaries_without_titles_show_the_registered_metrics(summary, plugin):
    from tfx_pipeline.report import view

    del summary["models"][0]["metric_facts"]
    found = view.metrics(summary)
    assert list(found)[-3:] == ["cross_entropy", "ece", NAME]
    assert len(view.models(summary)[0]["variants"][0]["metrics"]) == len(found)
    del summary["data"]
    assert view.metrics(summary) == found


@pytest.fixture(
    params=[
        "direct_num_workers=1",
        pytest.param("direct_running_mode=multi_processing", marks=pytest.mark.slow),
    ]
)
def evaluated(request, plugin, table, tmp_path):
    """TFMA's evaluation: in this process, and in workers that Beam starts."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.evaluation.eval_config import EvalSettings, make_eval_config
    from components.evaluation.evaluator import analyze

    path = tmp_path / "Split-test" / "data_tfrecord-00000-of-00001"
    write_table(path, table, CLASSES)
    config = make_eval_config(list(table), EvalSettings(("slice/brightness",)), len(CLASSES))
    options = PipelineOptions(["--runner=FnApiRunner", f"--{request.param}"])
    with beam.Pipeline(options=options) as pipeline:
        analyze(pipeline, path, str(tmp_path / "tfma"), config)
    return str(tmp_path / "tfma")


@pytest.mark.timeout(300)
def test_tfma_computes_it_for_every_slice(evaluated, table):
    import tensorflow_model_analysis as tfma

    for variant, found in table.items():
        result = tfma.load_eval_result(evaluated, model_name=variant)
        slices = {key: one[""][""] for key, one in result.slicing_metrics}
        assert len(slices) == 1 + 6 + 2
        dark = found.slices["slice/brightness"] == "dark"
        for key, rows in (((), slice(None)), ((("slice/brightness", "dark"),), dark)):
            assert slices[key][NAME]["doubleValue"] == pytest.approx(expected(found, rows))


@pytest.mark.slow
def test_sightline_evaluate_prints_it(earlier, tmp_path):
    file = tmp_path / "my_metric.py"
    file.write_text(PLUGIN)
    old = earlier("b54914a")
    bundle, data = old / "bundles/tiny/1", old / "data"
    command = ["evaluate", str(bundle), "--data", str(data), "--variant", "saved_model"]
    done = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.cli", "--plugins", str(file), *command],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith(TITLE))
    value, low, high = map(float, re.findall(r"\d\.\d+", row))
    # By the version that made the bundle. An image whose two best scores are close may tip.
    raw = json.loads((old / "expected.json").read_text())
    guess = np.array(raw["classes"])[:, 0]
    truth = balanced_accuracy_score(np.array(raw["labels"]) - 1, guess)
    assert value == pytest.approx(truth, abs=0.07)
    assert low < value < high
