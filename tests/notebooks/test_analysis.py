import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "analysis.ipynb"
CLASSES = ("cat", "dog", "owl")
SKILLS = {"none_fp32": 1.5, "pqat_int8": 0.8}

# Dependencies of TFX and Jupyter issue deprecation warnings; the tests are about numbers.
pytestmark = pytest.mark.filterwarnings("ignore")


def _predictions():
    from trainers.evaluation.predictions import Predictions

    size, generator = 50, np.random.default_rng(0)
    labels = generator.integers(0, 3, size).astype(np.int32)
    noise = generator.normal(size=(size, 3))
    slices = {
        "slice/brightness": np.array(["dark", "bright"], object)[labels % 2],
        "slice/race": np.array(["Black", "White", "East Asian"], object)[np.arange(size) % 3],
    }
    ids = np.array([f"{i:04x}" for i in range(size)], object)
    table = {}
    for variant, skill in SKILLS.items():
        exponents = np.exp(noise + skill * np.eye(3)[labels])
        scores = exponents / exponents.sum(axis=1, keepdims=True)
        table[variant] = Predictions(ids, labels, scores.astype(np.float32), slices)
    return table


def _correct(found):
    return found.scores.argmax(axis=1) == found.labels


@pytest.fixture
def finished_run(tmp_path):
    """A run's folder with what the notebook reads: predictions, TFMA's evaluation, the summary."""
    import tensorflow_model_analysis as tfma
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.evaluation.eval_config import EvalSettings, make_eval_config
    from trainers.evaluation.predictions import write_table

    predictions = _predictions()
    write_table(tmp_path / "predictions" / "table", predictions, CLASSES)
    tfma.run_model_analysis(
        eval_config=make_eval_config(
            list(predictions), EvalSettings(slices=("slice/brightness", "slice/race")), 3
        ),
        data_location=str(tmp_path / "predictions" / "table"),
        output_path=str(tmp_path / "evaluation"),
        pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
    )
    variants = [
        {
            "name": variant,
            "gzip_bytes": 10_000,
            "latency_ms_p50": 0.1,
            "metrics": {"top1": [float(_correct(found).mean()), 0.0, 1.0], "mine": [0.5, 0.4, 0.6]},
        }
        for variant, found in predictions.items()
    ]
    summary = {
        "pipeline": "smoke",
        "run": "1",
        "status": "pushed",
        "data": {"classes": CLASSES},
        "models": [
            {
                "name": "pets",
                "variants": variants,
                "metric_facts": {"top1": {"title": "top-1"}, "mine": {"title": "my metric"}},
                # One relative to the run's folder, one absolute: both are allowed.
                "evaluation": "evaluation",
                "predictions": str(tmp_path / "predictions" / "table"),
            },
            {"name": "failed_early"},
        ],
    }
    folder = tmp_path / "reports" / "latest"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return tmp_path


def _execute(run: Path, expressions: list[str]) -> list:
    """Runs the notebook against `run`; returns the value of each expression, through JSON."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for expression in expressions:
        notebook.cells.append(nbformat.v4.new_code_cell(f"print(json.dumps({expression}))"))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(run)}})
    client.execute(env={**os.environ, "SIGHTLINE_RUN": str(run), "TF_CPP_MIN_LOG_LEVEL": "3"})
    return [json.loads(cell.outputs[-1].text) for cell in notebook.cells[-len(expressions) :]]


@pytest.mark.timeout(600)  # two imports of TFMA and a Beam job, on a machine that may be busy
def test_the_notebook_agrees_with_the_table(finished_run):
    predictions = _predictions()
    metrics, slices, differences, wrong = _execute(
        finished_run,
        [
            "metrics.to_dict('records')",
            "slices.to_dict('records')",
            "differences.to_dict('records')",
            "wrong['id'].tolist()",
        ],
    )

    (mine,) = (row for row in metrics if (row["variant"], row["metric"]) == ("pqat_int8", "mine"))
    assert (mine["title"], mine["low"], mine["value"], mine["high"]) == ("my metric", 0.4, 0.5, 0.6)
    assert len(metrics) == 4

    found = {(row["variant"], row["slice"]): row for row in slices}
    assert len(found) == 2 * (1 + 2 + 3 + 3)
    for variant, table in predictions.items():
        dark = table.slices["slice/brightness"] == "dark"
        chosen = {
            "all": np.ones(50, bool),
            "slice/brightness = dark": dark,
            "image/class/text = owl": table.labels == 2,
            "slice/race = East Asian": np.arange(50) % 3 == 2,
        }
        for name, mask in chosen.items():
            row = found[variant, name]
            assert row["example_count"] == mask.sum()
            assert row["top1"] == pytest.approx(_correct(table)[mask].mean())
            guess = table.scores.argmax(axis=1)
            assert row["macro_f1"] == pytest.approx(
                f1_score(table.labels[mask], guess[mask], average="macro", zero_division=0)
            )

    ours, theirs = _correct(predictions["pqat_int8"]), _correct(predictions["none_fp32"])
    (row,) = (row for row in differences if row["variant"] == "pqat_int8")
    assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())
    assert row["low"] < row["difference"] < row["high"]
    assert row["only_float"] == (theirs & ~ours).sum() > 0
    assert set(wrong) == set(predictions["none_fp32"].ids[~theirs])


def test_the_notebook_is_kept_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
