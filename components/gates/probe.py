"""The gate against a linear probe on the features of the frozen backbone, on the test split.

A run that starts from weights has a probe (`trainers.training.probe_stage`). Training or
compression has damaged a model whose paired interval is below it: the probe is cheaper and more
accurate.
"""

from components.evaluation.columns import Table, top1_pair
from components.evaluation.predict_variants import PROBE
from components.gates.change import describe_pair
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict

_NAME, _THRESHOLD = "value/linear_probe", "95 % interval not below the linear probe"


def probe_gate(table: Table, variant: str, settings: GateSettings) -> Gate:
    """Failed if the 95 % interval of the paired difference is below 0, else held.

    Also held, with a detail that it does not apply, for a model without a probe: one that started
    from random weights, or that an earlier version trained.
    """
    if PROBE not in table:
        why = "does not apply: training made no linear probe, as it does from `model.init`"
        return Gate(_NAME, 0.0, _THRESHOLD, Verdict.HELD, variant, detail=why)
    found = top1_pair(table[variant], table[PROBE])
    verdict = Verdict.of(found.interval().high >= 0)
    waived = ""
    if verdict is Verdict.FAILED and settings.accepts("below_probe"):
        waived = "accepted: gates.below_probe=accept"
    return Gate(
        _NAME,
        found.difference,
        _THRESHOLD,
        verdict,
        variant,
        detail=describe_pair(found, "the linear probe"),
        waived=waived,
    )
