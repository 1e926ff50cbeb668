"""Rates and differences of fairlearn, for each case of a file; runs in fairlearn's environment.

    python ask_fairlearn.py CASES.json

Prints JSON: case -> `rates` (rate -> group -> value) and `gaps` (name -> value).
"""

import json
import sys
from pathlib import Path

from fairlearn import metrics  # pyright: ignore[reportMissingImports]
from sklearn.metrics import accuracy_score

RATES = {
    "accuracy": accuracy_score,
    "true_positive_rate": metrics.true_positive_rate,
    "false_positive_rate": metrics.false_positive_rate,
    "false_negative_rate": metrics.false_negative_rate,
    "positive_rate": metrics.selection_rate,
}


def figures(case):
    """The figures of one case: `labels` and `predicted` (0 or 1), and `groups`."""
    arguments = (case["labels"], case["predicted"])
    groups = {"sensitive_features": case["groups"]}
    frame = metrics.MetricFrame(metrics=RATES, y_true=arguments[0], y_pred=arguments[1], **groups)
    differences = frame.difference(method="between_groups")
    return {
        "rates": {rate: frame.by_group[rate].to_dict() for rate in RATES},
        "gaps": {
            **{rate: float(differences[rate]) for rate in RATES},
            "demographic_parity": metrics.demographic_parity_difference(*arguments, **groups),
            "equalized_odds": metrics.equalized_odds_difference(*arguments, **groups),
            "equal_opportunity": metrics.true_positive_rate_difference(*arguments, **groups),
        },
    }


cases = json.loads(Path(sys.argv[1]).read_text())
print(json.dumps({name: figures(case) for name, case in cases.items()}))
