import numpy as np
import pytest
from scipy import stats

from serving.benchmark.preprocessing import benchmark_preprocessing
from serving.engines.engine import EngineError


def test_two_callers_are_compared_with_one(tiny_draft):
    found = benchmark_preprocessing(tiny_draft, seconds=0.01, rounds=3)
    assert found.variant == "none_fp32"
    assert len(found.one_caller) == len(found.two_callers) == 3
    assert min(found.one_caller + found.two_callers) > 0
    logs = np.log(np.divide(found.two_callers, found.one_caller))
    limits = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    assert found.ratio == pytest.approx(np.exp([logs.mean(), *limits]))
    assert found.to_dict()["two_callers"] == found.two_callers


def test_the_given_image_is_decoded(tiny_draft):
    with pytest.raises(EngineError, match="not an image"):
        benchmark_preprocessing(tiny_draft, [b"not an image"], seconds=0.01, rounds=2)
