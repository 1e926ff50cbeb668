import hashlib

import numpy as np
import pytest
from scipy.stats import chisquare

from tfx_pipeline.ingest.source import IngestError
from tfx_pipeline.ingest.splits import check_fractions, choose_shard, choose_split

DIGESTS = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(20_000)]


def shares(fractions, present=(), declared=""):
    chosen = [
        choose_split(digest, declared, present=present, fractions=fractions) for digest in DIGESTS
    ]
    return {split: chosen.count(split) for split in ("train", "validation", "test")}


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.2), (0.9, 0.05, 0.05)])
def test_fractions_are_met(fractions):
    counts = list(shares(fractions).values())
    assert chisquare(counts, np.array(fractions) * len(DIGESTS)).pvalue > 1e-3


def test_a_missing_split_is_carved_from_train_only():
    got = shares((0.6, 0.2, 0.2), present={"train", "test"}, declared="train")
    assert got["test"] == 0
    assert got["validation"] / len(DIGESTS) == pytest.approx(0.25, abs=0.01)
    everything = ("train", "validation", "test")
    assert shares((0.6, 0.2, 0.2), present=everything, declared="train")["train"] == len(DIGESTS)
    for split in ("validation", "test"):
        assert shares((0.6, 0.2, 0.2), present={"train", split}, declared=split)[split] == 20_000


def test_shards_are_even_and_independent_of_the_split():
    table = np.zeros((3, 4))
    for digest in DIGESTS:
        split = choose_split(digest, "", present=(), fractions=(0.6, 0.2, 0.2))
        table[("train", "validation", "test").index(split), choose_shard(digest, 4)] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert chisquare(table.ravel(), expected.ravel(), ddof=5).pvalue > 1e-3


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_wrong_fractions_are_refused(fractions):
    with pytest.raises(IngestError, match="must be positive and sum to 1"):
        check_fractions(fractions)
