import pytest

from components.gates import Gate, GateSettings, compare, judge, recommend, slice_rows
from components.significance_gate import anomaly_gate

FIGURES = {
    "saved_model": {"latency_ms_p50": 2.0, "size_bytes": 900, "gzip_bytes": 800},
    "none_fp32": {"latency_ms_p50": 1.0, "size_bytes": 400, "gzip_bytes": 390},
    "ptq_int8": {"latency_ms_p50": 0.5, "size_bytes": 100, "gzip_bytes": 90},
    "pqat_int8": {"latency_ms_p50": 0.52, "size_bytes": 100, "gzip_bytes": 30},
}
CLASSES = tuple(str(digit) for digit in range(10))


def table(answers, **accuracies):
    return {name: answers(value) for name, value in accuracies.items()}


def failed(verdict):
    return {gate["name"] for gate in verdict["gates"] if not gate["passed"]}


def test_a_good_model_is_blessed_and_the_smallest_of_the_fast_variants_chosen(answers):
    found = judge(
        table(answers, saved_model=0.99, none_fp32=0.99, ptq_int8=0.99, pqat_int8=0.99),
        FIGURES,
        GateSettings(min_top1=0.95, min_slice_top1=0.9),
        classes=CLASSES,
    )
    assert found["blessed"]
    assert found["recommended"] == "pqat_int8"
    assert "13.0x below float" in found["reason"]
    assert found["variants"]["pqat_int8"]["metrics"]["top1"][0] == pytest.approx(0.99)


def test_a_collapsed_variant_is_not_recommended(answers):
    found = judge(
        table(answers, saved_model=0.99, none_fp32=0.99, ptq_int8=0.99, pqat_int8=0.2),
        FIGURES,
        GateSettings(),
        classes=CLASSES,
    )
    assert found["recommended"] == "ptq_int8"
    assert found["blessed"]


def test_without_a_sound_variant_the_float_file_ships(answers):
    accuracies = table(answers, saved_model=0.99, none_fp32=0.99, ptq_int8=0.1, pqat_int8=0.1)
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert found["recommended"] == "none_fp32"
    assert "no compressed variant" in found["reason"]


@pytest.mark.parametrize(
    ("settings", "gate"),
    [
        ({"min_top1": 0.999}, "value/top1"),
        ({"min_slice_top1": 0.999}, "slice/top1"),
        ({"max_latency_ms": 0.1}, "budget/latency_ms_p50"),
        ({"max_size_bytes": 10}, "budget/size_bytes"),
    ],
)
def test_each_gate_refuses(answers, settings, gate):
    accuracies = table(answers, saved_model=0.97, none_fp32=0.97)
    found = judge(accuracies, FIGURES, GateSettings(**settings), classes=CLASSES)
    assert not found["blessed"]
    assert failed(found) == {gate}


def test_a_saved_model_that_disagrees_with_tflite_is_refused(answers):
    accuracies = table(answers, saved_model=0.9, none_fp32=0.97)
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert failed(found) == {"agreement/saved_model"}


def test_a_model_provably_below_the_last_pushed_is_refused(answers):
    accuracies = table(answers, saved_model=0.9, none_fp32=0.9, baseline=0.99)
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)
    assert failed(found) == {"change/top1"}


def test_a_model_within_noise_of_the_last_pushed_passes(answers):
    accuracies = table(answers, saved_model=0.9875, none_fp32=0.9875, baseline=0.99)
    assert judge(accuracies, FIGURES, GateSettings(), classes=CLASSES)["blessed"]


def test_checks_from_elsewhere_count(answers):
    bad = Gate("serving/round_trip", 1.0, "<= 1e-5", passed=False)
    accuracies = table(answers, saved_model=0.99, none_fp32=0.99)
    found = judge(accuracies, FIGURES, GateSettings(), classes=CLASSES, checks=[bad])
    assert failed(found) == {"serving/round_trip"}


def test_compare_is_paired(answers):
    found = compare(answers(0.9), answers(0.95))
    assert found["top1"][0] == pytest.approx(-0.05)
    # 20 images changed sides, all in one direction: exact binomial, two-sided.
    assert found["mcnemar_p"] == pytest.approx(2 * 0.5**20)
    assert found["agreement"] == pytest.approx(0.95)


def test_slices_cover_every_example_once_a_key(answers):
    rows = slice_rows(answers(0.9), CLASSES)
    for key in ("class", "slice/brightness"):
        mine = [row for row in rows if row["key"] == key]
        assert sum(row["examples"] for row in mine) == 400
        hits = sum(row["examples"] * row["top1"][0] for row in mine)
        assert hits == pytest.approx(360)


def test_recommend_ignores_a_fast_variant_that_disagrees(answers):
    from components.gates import describe

    accuracies = table(answers, saved_model=0.99, none_fp32=0.99, ptq_int8=0.9, pqat_int8=0.99)
    chosen, _ = recommend(describe(accuracies), FIGURES, GateSettings(min_agreement=0.95))
    assert chosen == "pqat_int8"


def test_anomalies_are_named(tmp_path):
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["image/width"].description = "missing in 3 examples"
    for split, content in (("train", anomalies_pb2.Anomalies()), ("test", anomalies)):
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}/SchemaDiff.pb").write_bytes(content.SerializeToString())
    gate = anomaly_gate(str(tmp_path))
    assert not gate.passed
    assert gate.detail == "test image/width: missing in 3 examples"
