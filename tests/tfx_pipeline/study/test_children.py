"""Child processes of a study: a job that fails, and one that is ended at its deadline."""

import pytest

from tfx_pipeline.study.children import OutOfTimeError, run_step
from tfx_pipeline.study.sets import StudyError


def test_a_step_that_fails_shows_the_end_of_its_log(tmp_path):
    with pytest.raises(StudyError, match=r"the step count ended with status 1") as error:
        run_step(
            *("cost", {"models": [{"name": "x"}], "out": "x.json"}, tmp_path),
            name="count",
            seconds=600,
            on_event=lambda event: None,
        )
    assert "TypeError" in str(error.value)
    assert "the same command resumes" in str(error.value)


def test_a_step_is_ended_at_its_deadline(tmp_path):
    seen = []
    model = {"model": "vit_l16", "options": {}, "size": [224, 224], "classes": 1000}
    models = [{"name": "large", **model, "at_study": True}] * 50
    with pytest.raises(OutOfTimeError, match="was ended after 1 s"):
        run_step(
            *("cost", {"models": models, "out": str(tmp_path / "x.json")}, tmp_path),
            name="count",
            seconds=1.2,
            on_event=seen.append,
        )
    assert not (tmp_path / "x.json").exists()
    assert {"event": "tick"} in seen
