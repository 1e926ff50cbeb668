import pytest

from tfx_pipeline.notebooks.run_results import RunError, open_run


def test_a_run_opens_by_its_folder_its_report_or_its_summary(finished_run, monkeypatch):
    report = finished_run / "reports" / "latest"
    for given in (finished_run, str(report), report / "summary.json"):
        run = open_run(given)
        assert run.folder == finished_run
        assert str(run) == "pets 20260101-000000 pushed"
    monkeypatch.setenv("SIGHTLINE_RUN", str(finished_run))
    assert open_run().folder == finished_run


def test_models_predictions_and_records_are_found(finished_run, predictions, records):
    run = open_run(finished_run)
    assert [one["name"] for one in run.models] == ["pets_cnn", "pets_vit"]
    assert run.model()["name"] == "pets_cnn"
    assert run.variant(run.model())["name"] == "pqat_int8"
    assert run.records == records
    assert run.recorded_slices == ("slice/race",)
    found = run.predictions(run.model("pets_vit"))["none_fp32"]
    assert found.name == "pets_vit none_fp32"
    assert found.classes == ("cat", "dog", "owl")
    assert (found.scores == predictions["pets_vit"]["none_fp32"].scores).all()
    run.check(("variants", "predictions", "evaluation", "images"))


def test_no_run_and_other_folders_are_errors(finished_run, change_summary, records, monkeypatch):
    monkeypatch.delenv("SIGHTLINE_RUN", raising=False)
    with pytest.raises(RunError, match="no run is given"):
        open_run()
    with pytest.raises(RunError, match=r"runs/pet does not exist; did you mean .*runs/pets\?"):
        open_run(finished_run.parent / "pet")
    with pytest.raises(RunError, match="not the folder of a finished run"):
        open_run(records)
    broken = change_summary(lambda summary: None)
    (broken / "reports/latest/summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json is not JSON"):
        open_run(broken)


@pytest.mark.parametrize(
    ("edit", "need", "message"),
    [
        (lambda s: s["models"][0].pop("predictions"), "predictions", "an earlier version"),
        (lambda s: s["models"][1].update(evaluation="gone"), "evaluation", "gone does not exist"),
        (lambda s: s.update(lineage=[]), "images", "no gallery of image anomalies"),
        (lambda s: s.update(models=[]), "variants", "no metrics of variants"),
        (
            lambda s: s.update(models=[{"name": "pets_cnn"}], error="disk full"),
            "predictions",
            "the run failed: disk full",
        ),
    ],
)
def test_a_run_without_what_is_needed_is_an_error(change_summary, edit, need, message):
    run = open_run(change_summary(edit))
    with pytest.raises(RunError, match=message):
        run.check((need,))


def test_unknown_models_and_variants_name_the_nearest(finished_run):
    run = open_run(finished_run)
    with pytest.raises(RunError, match="no model 'pets_cn'; did you mean pets_cnn"):
        run.model("pets_cn")
    with pytest.raises(RunError, match="no variant 'pqat'; did you mean pqat_int8"):
        run.variant(run.model(), "pqat")
