"""The report of a study: complete tables, and figures equal to those of other libraries."""

import csv
import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from tfx_pipeline.study.report import TABLES, cells, write_report
from tfx_pipeline.study.results import Results
from tfx_pipeline.study.sets import CORE
from tfx_pipeline.study.tables import accuracy, claims, paired, speed
from tfx_pipeline.study.verdicts import CONTRADICTED, REPRODUCED, UNDECIDED

KEYS = (
    *("claims", "accuracy", "speed", "loss", "cost", "growth", "classes", "inference"),
    *("intervals", "tests", "outlook"),
)


def check_complete(results):
    """Every table of the study has rows, and every cell a text; a missing figure has a reason."""
    assert [table(results).key for table in TABLES] == list(KEYS)
    for table in TABLES:
        found = table(results)
        assert found.rows, found.key
        for row in found.rows:
            assert all(text.strip() for text in cells(row)), (found.key, row)
            assert row.value is not None or len(row.missing) > 10, row
            assert row.verdict.word in (REPRODUCED, CONTRADICTED, UNDECIDED)
            assert row.verdict.why
            if row.value is not None and row.low is not None:
                assert row.low <= row.value <= row.high, row


@pytest.fixture
def few_resamples(monkeypatch):
    """Enough for figures that no test compares."""
    monkeypatch.setattr(accuracy, "RESAMPLES", 100)


def test_every_table_is_filled(study_folder):
    check_complete(Results(study_folder))


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    "gone",
    [
        ("timing.json", "scaling.json"),
        ("cost.json",),
        ("bundles",),
        ("runs",),
        ("runs", "bundles", "cost.json", "timing.json"),
        ("runs/digits_vit-1-vit", "runs/digits_vit-2-vit"),
        ("bundles/resnet-e10.predictions",),
    ],
)
def test_every_table_is_filled_where_steps_are_missing(study_folder, gone):
    for name in gone:
        path = study_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    check_complete(Results(study_folder))


def test_no_accuracy_is_reproduced_without_the_epochs_of_the_recipe(study_folder):
    text = "table,row,column,value,unit,source\naccuracy,vit,top1,0.46,fraction,p. 1\n"
    (study_folder / "figures.csv").write_text(text, encoding="utf-8")
    state = json.loads((study_folder / "study.json").read_text())
    (study_folder / "study.json").write_text(json.dumps({**state, "is_original": True}))
    (row,) = (
        row
        for row in accuracy.accuracy(Results(study_folder)).rows
        if row.study and row.subject.startswith("ViT")
    )
    assert row.low <= 0.46 <= row.high
    assert row.verdict.word == UNDECIDED
    assert "4 of 26 epochs" in row.verdict.why
    assert row.epochs == "4 of 26 epochs, seeds 0, 1, 2"


def rows_of(table, start, quantity):
    return [row for row in table.rows if row.subject.startswith(start) and quantity in row.quantity]


def test_metrics_are_those_of_scikit_learn(study_folder):
    results = Results(study_folder)
    table = accuracy.accuracy(results)
    for role, title in (("cnn", "CNN"), ("resnet", "ResNet"), ("vit", "ViT")):
        runs = results.runs[role]
        each = np.array(
            [
                [
                    sklearn.accuracy_score(run.test.labels, run.test.scores.argmax(1)),
                    sklearn.top_k_accuracy_score(run.test.labels, run.test.scores, k=5),
                    *sklearn.precision_recall_fscore_support(
                        run.test.labels,
                        run.test.scores.argmax(1),
                        average="macro",
                        zero_division=0,
                    )[:3],
                ]
                for run in runs
            ]
        )
        rows = rows_of(table, title, "")
        assert len(rows) == 5
        np.testing.assert_allclose([row.seeds for row in rows], each.T, atol=1e-6)
        np.testing.assert_allclose([row.value for row in rows], each.mean(axis=0), atol=1e-6)
        deviations = each.std(axis=0, ddof=1)
        np.testing.assert_allclose([row.deviation for row in rows], deviations, atol=1e-9)


def test_class_accuracy_is_the_recall_of_scikit_learn(study_folder):
    results = Results(study_folder)
    recalls = np.mean(
        [
            sklearn.recall_score(run.test.labels, run.test.scores.argmax(1), average=None)
            for run in results.runs["resnet"]
        ],
        axis=0,
    )
    rows = rows_of(accuracy.classes(results), "ResNet", "")
    np.testing.assert_allclose([row.value for row in rows], recalls, atol=1e-9)


def test_paired_t_tests_are_those_of_scipy(study_folder):
    results = Results(study_folder)
    for first, second in paired.PAIRS:
        ours, theirs = (
            [float((run.test.scores.argmax(1) == run.test.labels).mean()) for run in runs]
            for runs in (results.runs[first], results.runs[second])
        )
        expected = stats.ttest_rel(ours, theirs)
        found = paired.paired_tests(results, first, second).over_seeds
        assert found.statistic == pytest.approx(expected.statistic)
        assert found.p_value == pytest.approx(expected.pvalue)
        ends = expected.confidence_interval(0.95)
        assert (found.difference.low, found.difference.high) == pytest.approx(tuple(ends))


def test_p_values_over_seeds_are_adjusted_over_the_pairs(study_folder):
    rows = rows_of(paired.tests(Results(study_folder)), "", "t-test over seeds")
    found = [re.search(r" p (\S+), .*; (\S+) by Holm over 3 tests", row.interval) for row in rows]
    raw, adjusted = (np.array([float(one[at]) for one in found]) for at in (1, 2))
    ranks = np.argsort(raw)
    expected = np.maximum.accumulate(raw[ranks] * [3, 2, 1]).clip(max=1)
    np.testing.assert_allclose(adjusted[ranks], expected, rtol=2e-2)


def test_a_missing_test_over_seeds_has_the_seeds_of_the_pair(study_folder):
    for run in ("digits_resnet-1-resnet", "digits_resnet-2-resnet", "digits_vit-0-vit"):
        shutil.rmtree(study_folder / "runs" / run)
    row, *_ = rows_of(paired.tests(Results(study_folder)), "ResNet minus CNN", "over seeds")
    assert row.missing.endswith("there are 1")


def test_the_interval_of_one_seed_is_the_exact_one(study_folder):
    results = Results(study_folder)
    table = accuracy.accuracy(results)
    (row,) = rows_of(table, "distilled", "top-1")
    (run,) = results.runs["distilled"]
    right = int((run.test.scores.argmax(1) == run.test.labels).sum())
    exact = stats.binomtest(right, len(run.test.labels)).proportion_ci(0.95, method="exact")
    assert (row.low, row.high) == pytest.approx(tuple(exact))
    assert row.interval == "95 %, Clopper & Pearson, exact: one seed"
    (row,) = rows_of(table, "CNN", "top-1")
    assert "1,000 resamples" in row.interval


def test_the_figures_of_the_outlook_are_shown_with_their_verdicts(study_folder):
    figures = (
        "prune90,difference,-0.5,points",
        "prune90,latency_ms,3,ms",
        "distilled,difference,1.5,points",
    )
    lines = [f"outlook,{one},p. 9" for one in figures]
    text = "\n".join(["table,row,column,value,unit,source", *lines])
    (study_folder / "figures.csv").write_text(text, encoding="utf-8")
    rows = [row for row in paired.outlook(Results(study_folder)).rows if row.study]
    shown = {(row.quantity.split(",")[0], row.unit, row.study.digits) for row in rows}
    assert shown == {
        ("difference of top-1", "points", "-0.5"),
        ("latency", "ms", "3"),
        ("difference of top-1", "points", "1.5"),
    }
    for row in rows:
        assert row.verdict.word == UNDECIDED
        assert "not at hand" not in row.verdict.why
        assert ("another machine" if row.unit == "ms" else "another data set") in row.verdict.why


def test_image_tests_are_exact_and_adjusted_over_all_of_them(study_folder):
    results = Results(study_folder)
    rows = rows_of(paired.tests(results), "", "images, seed")
    assert len(rows) == 9
    raw, adjusted = [], []
    for row in rows:
        found = re.search(r"McNemar p (\S+), (\S+) by Holm over 9 tests", row.interval)
        raw.append(float(found[1]))
        adjusted.append(float(found[2]))
    resnet, cnn = (results.runs[role][0].test for role in ("resnet", "cnn"))
    right = [one.scores.argmax(1) == one.labels for one in (resnet, cnn)]
    gained, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    exact = stats.binomtest(gained, gained + lost).pvalue
    assert raw[0] == pytest.approx(exact, rel=1e-2)
    ranks = np.argsort(raw)
    expected = np.maximum.accumulate(np.array(raw)[ranks] * np.arange(9, 0, -1)).clip(max=1)
    np.testing.assert_allclose(np.array(adjusted)[ranks], expected, rtol=2e-2)


def test_intervals_over_seeds_are_those_of_scipy(study_folder):
    results = Results(study_folder)
    (row,) = [
        one
        for one in rows_of(accuracy.intervals(results), "CNN", "top-1")
        if "Student" in one.interval
    ]
    found = stats.ttest_1samp(row.seeds, 0).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx(tuple(found))


def test_intervals_are_of_the_value_beside_them_where_seeds_differ_much(study_folder):
    run = next((study_folder / "runs").glob("digits_cnn-1-cnn/*/predictions.npz"))
    with np.load(run) as held:
        found = dict(held)
    found["scores"] = np.roll(found["scores"], 1, axis=1)
    np.savez(run, **found)
    rows = rows_of(accuracy.intervals(Results(study_folder)), "CNN", "top-1")
    assert [len(row.seeds) for row in rows] == [3, 1, 3]
    assert all(row.low <= row.value <= row.high for row in rows)


def test_claims(study_folder):
    found = {row.subject: row for row in claims.claims(Results(study_folder)).rows}

    def verdict(start):
        (row,) = (row for subject, row in found.items() if subject.startswith(start))
        return row.verdict.word, row.verdict.why

    # Both models have all epochs, and 20 points on 300 images and three seeds are plain.
    word, why = verdict("ResNet is more accurate than CNN")
    assert (word, ", on the data set digits: " in why) == (REPRODUCED, True)
    # All models decide which one has the largest gap, and the ViT has too few epochs.
    word, why = verdict("precision is more than 5 points")
    assert word == UNDECIDED
    assert "4 of 26 epochs" in why
    word, why = verdict("the ViT of the study has 7.98 GFLOP")
    assert word == CONTRADICTED
    assert "35.13 counted" in why
    assert "vit_b32 (8.82 GFLOP)" in why
    assert "vit_m16 if the figure means multiply-adds (7.99 GMAC)" in why
    word, why = verdict("ResNet-50 has one latency")
    assert word == CONTRADICTED
    assert "1000 / 55 = 18.2 ms" in why
    assert "1000 / 38 = 26.3 ms" in why
    assert verdict("ViT is slower")[0] == REPRODUCED
    assert verdict("ViT takes 1.45 times")[0] == UNDECIDED
    word, why = verdict("90 % pruning")
    assert (word, "points" in why) == (UNDECIDED, True)
    word, why = verdict("distilled ViT is more accurate")
    assert word == UNDECIDED
    assert "4 of 26 epochs" in why
    assert verdict("hybrid")[1] == "the recipes digits have no hybrid"


def test_a_claim_is_not_decided_without_all_seeds(study_folder):
    shutil.rmtree(study_folder / "runs" / "digits_resnet-2-resnet")
    (row,) = rows_of(claims.claims(Results(study_folder)), "ResNet is more accurate", "")
    assert row.verdict.word == UNDECIDED
    assert "2 of 3 seeds" in row.verdict.why


def test_the_ratio_of_times_is_that_of_the_rounds(study_folder):
    results = Results(study_folder)
    (row,) = [row for row in claims.claims(results).rows if row.subject.startswith("ViT takes")]
    study = results.timing["study"]
    medians = [np.median(np.array(study[name]), axis=1) for name in ("vit_b16", "resnet50")]
    logs = np.log(medians[0] / medians[1])
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert row.value == pytest.approx(np.exp(logs.mean()))
    assert (row.low, row.high) == pytest.approx(tuple(np.exp(ends)))


def test_attention_is_that_of_the_formula(study_folder):
    rows = rows_of(speed.cost(Results(study_folder)), "vit_b16", "attention")
    # 197 tokens of 768 features in 12 layers.
    assert rows[0].value == pytest.approx(12 * 4 * 197**2 * 768 / 1e9)
    assert rows[0].verdict.word == REPRODUCED
    # The study has the formula, and no figure for this network.
    assert "in the study" not in rows[0].verdict.why
    assert "the study's formula gives 1.431" in rows[0].verdict.why


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("own_figures", [False, True])
def test_the_command_in_the_report_continues_this_study(study_folder, own_figures):
    own = study_folder / "figures.csv"
    if own_figures:
        text = "table,row,column,value,unit,source\ncost,cnn,gflop,3,GFLOP,p. 1\n"
        own.write_text(text, encoding="utf-8")
    text = html.unescape(write_report(study_folder).read_text(encoding="utf-8"))
    given = shlex.split(re.search(r"<code>sightline study (.*?)</code>", text)[1])
    found = dict(zip(given[::2], given[1::2], strict=True))
    expected = {"--data": "data/my digits", "--recipes": "digits", "--budget": "12m"}
    expected |= {"--seeds": "3", "--out": str(study_folder)}
    assert found == expected | ({"--figures": str(own)} if own_figures else {})


@pytest.mark.usefixtures("few_resamples")
def test_files_of_the_report(study_folder):
    page = write_report(study_folder)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    for key in KEYS:
        assert f'<section id="{key}"' in text
        with (page.parent / "tables" / f"{key}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert all(value for row in rows for value in row.values())
        assert (page.parent / "tables" / f"{key}.md").read_text().startswith("## ")
    whole = json.loads((page.parent / "study.json").read_text())
    assert [table["key"] for table in whole["tables"]] == list(KEYS)
    figures = json.loads((page.parent / "benchmark.json").read_text())
    assert len(figures["runs"]) == 3 * len(CORE) + 1
    assert figures["pairs"][0]["a"] == "digits_vit-0-distilled"
