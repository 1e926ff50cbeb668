"""The tables behind the notebooks, against scikit-learn, SciPy and the run's own summary."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from tfx_pipeline.notebooks import comparison, compression, errors, quality, slices
from tfx_pipeline.notebooks.run_results import RunError, open_run


@pytest.fixture
def run(finished_run):
    return open_run(finished_run)


def clopper(hits, total):
    found = stats.binomtest(hits, total).proportion_ci(method="exact")
    return pytest.approx((found.low, found.high))


def rows(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def correct(found):
    return found.scores.argmax(axis=1) == found.labels


def test_variants_equal_the_summary(run):
    table = compression.variants(run)
    assert len(table) == 5
    for model in run.models:
        for variant in model["variants"]:
            (row,) = rows(table, model=model["name"], variant=variant["name"])
            assert [row["top1"], row["low"], row["high"]] == variant["metrics"]["top1"]
            assert row["gzip_kb"] == variant["gzip_bytes"] / 1000
            assert row["latency_ms_p50"] == variant["latency_ms_p50"]
            assert (row["result"] == "recommended") == variant["recommended"]


@pytest.mark.parametrize(
    ("costs", "values", "expected"),
    [
        ([1, 2, 3], [0.5, 0.6, 0.7], [True, True, True]),
        ([1, 2, 3], [0.7, 0.6, 0.7], [True, False, False]),
        ([2, 2, 1], [0.7, 0.6, 0.5], [True, False, True]),
        ([1, 1], [0.5, 0.5], [True, True]),
        ([], [], []),
    ],
)
def test_a_point_is_optimal_unless_another_is_better(costs, values, expected):
    assert compression.optimal(costs, values) == expected


def test_differences_from_float_equal_mcnemars_test(run, predictions):
    table = compression.against_float(run)
    assert len(table) == 3
    for name, variants in predictions.items():
        ours, theirs = correct(variants["pqat_int8"]), correct(variants["none_fp32"])
        (row,) = rows(table, model=name, variant="pqat_int8")
        gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        assert lost > 0
        assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())
        assert (row["only_variant"], row["only_float"]) == (gained, lost)
        assert row["mcnemar_p"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
        assert row["low"] < row["difference"] < row["high"]
        assert row["p_holm"] >= row["mcnemar_p"]


def test_metrics_equal_the_summary_and_show_what_the_run_shows(run):
    table = comparison.metrics(run)
    shown = set(run.models[0]["metric_facts"])
    assert set(table["metric"]) == shown
    for model in run.models:
        for variant in model["variants"]:
            for metric in shown:
                (row,) = rows(table, model=model["name"], variant=variant["name"], metric=metric)
                assert [row["value"], row["low"], row["high"]] == variant["metrics"][metric]
    texts = comparison.metric_table(table)
    value, low, high = run.models[0]["variants"][1]["metrics"]["top1"]
    expected = f"{value * 100:.1f} % ({low * 100:.1f} to {high * 100:.1f})"
    assert texts.loc["top-1", "pets_cnn pqat_int8"] == expected
    (gate,) = rows(comparison.gates(run), model="pets_cnn")
    assert (gate["name"], gate["value"], gate["verdict"]) == ("value/top1", "0.5", "held")


def test_an_unknown_metric_is_an_error(run):
    with pytest.raises(RunError, match="no metric 'top2'"):
        comparison.metric_chart(comparison.metrics(run), "top2")


def test_models_are_compared_on_the_same_images(run, predictions):
    models = comparison.chosen_predictions(run)
    assert [one.name for one in models] == ["pets_cnn pqat_int8", "pets_vit pqat_int8"]
    compared = comparison.compared(models)
    (row,) = comparison.differences(compared).to_dict("records")
    first, second = (correct(predictions[name]["pqat_int8"]) for name in ("pets_cnn", "pets_vit"))
    assert row["difference"] == pytest.approx(second.mean() - first.mean())
    assert row["lost"] == (first & ~second).sum() > 0
    changed = comparison.changed_images(compared, models)
    ids = predictions["pets_cnn"]["pqat_int8"].ids
    assert set(changed["image"]) == set(ids[first != second])
    assert set(changed[changed["change"] == "lost"]["image"]) == set(ids[first & ~second])
    by_slice = comparison.slice_changes(compared)
    dark = predictions["pets_cnn"]["pqat_int8"].slices["slice/brightness"] == "dark"
    (row,) = rows(by_slice, slice="brightness = dark")
    assert row["images"] == dark.sum()
    assert row["difference"] == pytest.approx(second[dark].mean() - first[dark].mean())


def test_two_runs_are_compared_and_one_model_alone_is_not(run, change_summary):
    both = comparison.chosen_predictions(run, run, variant="none_fp32")
    assert len(both) == 4
    assert both[2].name == "20260101-000000 pets_cnn none_fp32"
    assert len(comparison.compared(both)) == 3
    alone = open_run(change_summary(lambda summary: summary["models"].pop(1)))
    models = comparison.chosen_predictions(alone)
    assert comparison.compared(models) == []
    assert "set OTHER" in comparison.difference_chart([])._repr_html_()
    assert comparison.changed_images([], models).empty


def test_slices_rates_and_gaps_equal_scikit_learn(run, predictions):
    found = slices.analyzed(run, run.model(), "none_fp32", positive="dog")
    one = predictions["pets_cnn"]["none_fp32"]
    guess, race = one.scores.argmax(axis=1), one.slices["slice/race"]
    (row,) = rows(slices.slice_table(found), slice="race = White")
    inside = race == "White"
    assert row["images"] == inside.sum() == 30
    assert row["top1"] == pytest.approx(accuracy_score(one.labels[inside], guess[inside]))

    table = slices.rates(found)
    assert set(table["key"]) == {"race"}  # What ingest recorded, without image properties.
    for group in ("Asian", "Black", "White"):
        inside = race == group
        (row,) = rows(table, group=group, rate="true_positive_rate")
        expected = recall_score(one.labels[inside] == 1, guess[inside] == 1)
        assert row["value"] == pytest.approx(expected)
        assert (row["low"], row["high"]) == clopper(round(expected * 10), 10)
    accuracies = {g: accuracy_score(one.labels[race == g], guess[race == g]) for g in set(race)}
    (gap,) = rows(slices.gaps(found), rate="accuracy")
    expected = max(accuracies.values()) - min(accuracies.values())
    assert gap["gap"] == pytest.approx(expected)
    model = run.predictions(run.model())["none_fp32"]
    by_key = slices.accuracy_gaps(model)
    (row,) = rows(by_key, key="race")
    assert (row["gap"], row["low"], row["high"]) == (gap["gap"], gap["low"], gap["high"])
    assert list(by_key["key"]) == ["brightness", "race"]


def test_small_slices_and_missing_groups_are_stated(run):
    found = slices.analyzed(run, run.model(), "none_fp32", groups="race*brightness")
    assert {group.compared for one in found.groups for group in one.groups} == {False}
    table = slices.rates(found)
    assert not table["compared"].any()
    assert slices.gaps(found).empty
    crossed = slices.analyzed(run, run.model(), "none_fp32")
    crossed.groups.clear()
    assert "Set GROUPS" in slices.group_charts(crossed)._repr_html_()


def test_confusions_and_errors_equal_scikit_learn(run, predictions):
    one = predictions["pets_cnn"]["none_fp32"]
    model = run.predictions(run.model())["none_fp32"]
    matrix = confusion_matrix(one.labels, one.scores.argmax(axis=1))
    table = errors.confusions(model)
    assert table["images"].sum() == matrix.sum() - np.trace(matrix) > 0
    for row in table.to_dict("records"):
        i, j = (("cat", "dog", "owl").index(row[key]) for key in ("label", "predicted"))
        assert row["images"] == matrix[i, j]
        assert row["share"] == pytest.approx(matrix[i, j] / 30)
        assert (row["low"], row["high"]) == clopper(matrix[i, j], 30)
    wrong = errors.confident_errors(model)
    assert set(wrong["id"]) == set(one.ids[~correct(one)])
    assert (np.diff(wrong["score"]) <= 0).all()
    bins = errors.calibration(model)
    assert bins["images"].sum() == 90
    assert (bins["images"] * bins["accuracy"]).sum() == pytest.approx(correct(one).sum())


def test_errors_have_their_images_and_file_names(run):
    model = run.predictions(run.model())["none_fp32"]
    wrong = errors.confident_errors(model)
    html = errors.image_gallery(wrong, run.records, shown=2)._repr_html_()
    assert html.count("data:image/jpeg;base64,") == 2
    for row in wrong.head(2).to_dict("records"):
        assert f"{row['label']}/{row['id'][:6]}.png" in html
    without = errors.image_gallery(wrong, None, shown=2)._repr_html_()
    assert "data:image" not in without
    assert without.count("no image") == 2
    assert "No image to show" in errors.image_gallery(wrong[:0], run.records, shown=2)._repr_html_()


def test_class_shares_and_anomalies_of_a_run_and_of_records(finished_run, records):
    data = quality.open_data(str(finished_run))
    shares = quality.class_shares(data)
    (row,) = rows(shares, **{"class": "dog"})
    assert row["share"] == pytest.approx(1 / 3)
    assert (row["low"], row["high"]) == clopper(30, 90)
    assert row["train share"] == pytest.approx(0.5)
    assert list(quality.splits(data)["images"]) == [40, 90]
    (leaked,) = rows(quality.anomalies(data), kind="leakage")
    assert leaked["count"] == "2"
    assert leaked["over"]
    html = quality.anomaly_gallery(data)._repr_html_()
    assert html.count("data:image/jpeg") >= 2
    assert quality.slice_shares(data).empty
    assert quality.statistics_findings(data).empty

    again = quality.open_data(str(records))
    assert again.run is None
    listed = quality.anomalies(again)
    assert json.loads(listed.to_json()) == json.loads(quality.anomalies(data).to_json())
    again.temporary.cleanup()
