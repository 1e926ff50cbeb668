"""The confusion matrix as a heat map and as its most confused pairs."""

import numpy as np
import pytest

from tfx_pipeline.report import page


def test_confusion_lists_the_worst_pairs_first():
    found = page.confusion({"matrix": [[5, 1, 0], [0, 4, 2], [3, 0, 9]]}, ["cat", "dog"])

    assert found is not None
    assert [pair[:3] for pair in found["pairs"]] == [
        ("2", "cat", "3"),
        ("dog", "2", "2"),
        ("cat", "dog", "1"),
    ]
    assert (found["errors"], found["examples"]) == ("6", "24")
    name, cells = found["rows"][0]
    assert name == "cat"
    assert [cell["kind"] for cell in cells] == ["hit", "miss", "miss"]
    assert cells[1]["tip"] == "cat taken for dog: 1 (16.7 %)"


def test_a_thousand_classes_get_pairs_instead_of_a_blur():
    matrix = np.eye(1000, dtype=int)
    matrix[3, 7] = 2

    found = page.confusion({"matrix": matrix.tolist()}, [])

    assert found is not None
    assert found["rows"] == []
    assert found["pairs"] == [("3", "7", "2", "66.7 %")]


@pytest.mark.parametrize("matrix", [None, [], [[1, 2]], [1, 2], "x"])
def test_what_is_no_matrix_has_no_confusion(matrix):
    assert page.confusion({"matrix": matrix}, []) is None
