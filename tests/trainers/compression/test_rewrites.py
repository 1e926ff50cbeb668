"""The protocol of rewrites: order, registration, and trials whose measurements are given."""

import numpy as np
import pytest

from trainers.compression import measure
from trainers.compression.apply_rewrites import apply_rewrites
from trainers.compression.convert import ConversionJob, convert_all
from trainers.compression.rewrites import STAGES, Conversion, Rewrite, in_order
from trainers.config import CompressConfig
from trainers.identity.code_digest import code_of
from trainers.registry import UnknownNameError, rewrites

IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


def unused():
    raise AssertionError("not needed")


def conversion(dtype="int8", *, calibrated=True, samples=True):
    return Conversion(
        f"ptq_{dtype}",
        dtype,
        floats=unused,
        reference=lambda: np.zeros((2, 5), np.float32),
        calibration=IMAGES if calibrated else None,
        samples=IMAGES if samples else None,
    )


def adds(letter, stage="graph", **options):
    """A rewrite that appends a byte."""
    return Rewrite(
        letter.decode(), lambda content, _: (content + letter, {"byte": 1}), stage, **options
    )


def test_every_rewrite_is_registered_under_its_name():
    for name in rewrites.names():
        one = rewrites.get(name)
        assert one.name == name
        assert one.stage in STAGES
    assert set(CompressConfig().rewrites) <= set(rewrites.names())


def test_rewrites_run_by_stage_and_then_as_listed(monkeypatch):
    rewrites.names()
    monkeypatch.setattr(rewrites, "_entries", dict(rewrites._entries))
    monkeypatch.setattr(rewrites, "_origins", dict(rewrites._origins))
    for name, stage in (("last", "contents"), ("b", "graph"), ("a", "graph"), ("mid", "values")):
        rewrites.register(name)(adds(name.encode(), stage))
    found = in_order(["last", "mid", "b", "a", "b"])
    assert [one.name for one in found] == ["b", "a", "mid", "last"]
    rewrites.register("alias")(adds(b"other"))
    with pytest.raises(ValueError, match=r"as 'alias' \(.*test_rewrites\.py.* itself 'other'"):
        in_order(["alias"])


def test_an_unknown_rewrite_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    job = ConversionJob("a", tmp_path, "fp32", tmp_path / "a.tflite", rewrites=("correct_bias",))
    with pytest.raises(UnknownNameError, match=r"unknown compression rewrite .*correct_biases"):
        convert_all([job])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage": "first"}, "`stage` must be one of graph, values, contents, got 'first'"),
        ({"dtypes": ("int4",)}, "`dtypes` takes some of fp32, dynamic, int8, got"),
        ({"dtypes": ()}, "`dtypes` takes some of"),
    ],
)
def test_a_wrong_rewrite_is_refused_when_it_is_made(options, words):
    with pytest.raises(ValueError, match=words):
        adds(b"a", **options)


def test_a_rewrite_is_applied_to_its_files_only():
    some = [
        adds(b"a"),
        adds(b"b", dtypes=("int8",)),
        adds(b"c", needs_calibration=True),
        adds(b"d", dtypes=("fp32",)),
    ]
    content, records = apply_rewrites(b"-", some, conversion())
    assert content == b"-abc"
    assert records == [{"name": name, "applied": True, "byte": 1} for name in "abc"]
    assert apply_rewrites(b"-", some, conversion(calibrated=False))[0] == b"-ab"
    assert apply_rewrites(b"-", some, conversion("fp32", calibrated=False))[0] == b"-ad"


def test_a_rewrite_that_changes_nothing_says_why():
    same = Rewrite("same", lambda content, _: (content, {"why": "nothing to do"}), "graph")
    content, records = apply_rewrites(b"-", [same, adds(b"a")], conversion())
    assert content == b"-a"
    assert records[0] == {"name": "same", "applied": False, "why": "nothing to do"}


@pytest.mark.parametrize(
    ("snr", "ms", "why"),
    [
        ((20.0, 25.0), (4.0, 1.0), ""),
        ((20.0, 20.0), (4.0, 4.0), ""),
        ((20.0, 19.4), (4.0, 1.0), "less accurate: 19.40 dB instead of 20.00 dB"),
        ((20.0, 25.0), (4.0, 5.2), "slower: 5.2 ms instead of 4 ms"),
    ],
)
def test_a_trial_is_kept_only_if_the_finished_file_is_not_worse(snr, ms, why, monkeypatch):
    finished = {b"-az": 0, b"-abz": 1}
    monkeypatch.setattr(measure, "snr_db", lambda content, *_: snr[finished[content]])
    monkeypatch.setattr(
        measure, "cpu_ms", lambda contents, _: [ms[finished[one]] for one in contents]
    )
    trial = adds(b"b", trial=True)
    content, records = apply_rewrites(b"-", [adds(b"a"), trial, adds(b"z")], conversion())
    assert content == (b"-az" if why else b"-abz")
    assert [one["name"] for one in records] == ["a", "b", "z"]
    assert records[1]["applied"] is not bool(why)
    assert records[1].get("why", "").startswith(why)
    assert records[1]["snr_db"] == list(snr)
    assert records[1]["cpu_ms"] == list(ms)


def test_a_trial_without_images_is_not_applied():
    todo = [adds(b"b", trial=True), adds(b"z")]
    content, records = apply_rewrites(b"-", todo, conversion(samples=False))
    assert content == b"-z"
    assert records[0] == {
        "name": "b",
        "applied": False,
        "byte": 1,
        "why": "there are no images to measure it on",
    }


def test_a_trial_that_litert_cannot_run_is_not_applied(monkeypatch):
    def snr_db(content, *_):
        if b"b" in content:
            raise RuntimeError("Node number 3 (GELU) failed to invoke.")
        return 20.0

    monkeypatch.setattr(measure, "snr_db", snr_db)
    content, records = apply_rewrites(b"-", [adds(b"b", trial=True), adds(b"z")], conversion())
    assert content == b"-z"
    assert [one["applied"] for one in records] == [False, True]
    assert records[0]["why"] == (
        "LiteRT cannot run the file: Node number 3 (GELU) failed to invoke."
    )


def test_a_trial_that_changes_nothing_is_not_measured(monkeypatch):
    monkeypatch.setattr(measure, "snr_db", None)
    same = Rewrite("same", lambda content, _: (content, {}), "graph", trial=True)
    assert apply_rewrites(b"-", [same], conversion())[0] == b"-"


def test_rewrites_are_part_of_the_code_that_makes_bundles_but_not_of_training():
    wanted = {
        f"trainers.compression.rewrites.{name}" for name in ("delegate_islands", "float_input")
    }
    assert wanted <= set(code_of("trainers.bundles.build").modules)
    assert not wanted & set(code_of("trainers.run_fn").modules)
