"""Which TFLite variant to ship: chosen on the validation split, confirmed on the test split.

A variant is as good as the float file when the paired test excludes a drop of more than `max_drop`,
or when it has the float file's weights and its agreement over all images does (a disagreement is
the only way to a drop). It must also agree with its own float pass. Of those, the fastest; within
25 % of its speed, the smallest download.

The choice reads validation only, so that the test figures of what ships are not those of the
luckiest of several. The test split can only take a choice back: then the next one is tried, and the
float file in the end.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from components.gates.agreement import AllImages, agrees
from components.gates.change import acceptance, describe_pair, drop_gate, drop_verdict
from components.gates.columns import FLOAT, Table, compressed, top1_correct
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.compression import keeps_weights
from trainers.evaluation.noninferiority import pair
from trainers.evaluation.predictions import Predictions

Figures = dict[str, dict[str, float]]

# Latencies this close are one class: the download then decides.
_NEAR = 1.25


@dataclass(frozen=True)
class Choice:
    """The variant to ship.

    Attributes:
      variant: its name.
      reason: why, in words.
      split: the split that it was chosen on.
      unconfirmed: better choices that the test split did not confirm, each with its reason.
    """

    variant: str
    reason: str
    split: str
    unconfirmed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """`split` and `unconfirmed`, as `verdict.json` holds them."""
        return {"split": self.split, "unconfirmed": self.unconfirmed}


def drop_from_float(
    variant: str, table: Table, everything: AllImages, settings: GateSettings
) -> Gate:
    """The gate `compression/top1_drop` of one variant against the float file."""
    found = pair(top1_correct(table[variant]), top1_correct(table[FLOAT]))
    gate = drop_gate(
        "compression/top1_drop", found, settings, variant=variant, against="the float file"
    )
    same_weights = keeps_weights(variant)
    if not same_weights or everything.bound(variant) > settings.max_drop:
        return gate
    detail = f"{describe_pair(found, 'the float file')}; {everything.describe(variant)}"
    return Gate(gate.name, gate.value, gate.threshold, Verdict.HELD, variant, detail=detail)


def recommend(
    test: Table,
    figures: Figures,
    settings: GateSettings,
    *,
    validation: Table | None = None,
    everything: AllImages | None = None,
    dropped: Collection[str] = (),
) -> Choice:
    """The variant to ship; see this module's first lines.

    Args:
      test: the test split's table, which confirms.
      figures: variant -> `latency_ms_p50` and `gzip_bytes`.
      settings: of the pipeline.
      validation: the validation split's table; without one the choice is made on `test` too.
      everything: agreement over all splits.
      dropped: variants that are left out of the bundle.
    """
    table, split = (test, "test") if validation is None else (validation, "validation")
    counts = everything or AllImages()
    eligible = [FLOAT]
    for variant in compressed(table):
        sound = drop_from_float(variant, table, counts, settings).passed
        if variant not in dropped and sound and agrees(variant, table, counts, settings):
            eligible.append(variant)
    good, unconfirmed = len(eligible), {}
    while True:
        chosen, near, fastest = _cheapest(eligible, figures)
        if chosen == FLOAT:
            break
        refused = _not_confirmed(chosen, test, counts, settings)
        if not refused:
            break
        unconfirmed[chosen] = refused
        eligible.remove(chosen)
    on = f"on {len(table[FLOAT].labels):,} {split} images"
    if validation is None:
        on += " (the data set has no validation split)"
    if good == 1:
        reason = f"no compressed variant is provably as good as the float model {on}"
    else:
        ratio = figures[FLOAT]["gzip_bytes"] / figures[chosen]["gzip_bytes"]
        reason = (
            f"of {good} variants as good as float {on}, {near} within 25 % of the fastest "
            f"({fastest:.2f} ms); {chosen} is the smallest of them, {ratio:.1f}x below float"
        )
    for variant, why in unconfirmed.items():
        reason += f"; {variant} was preferred, but the test split does not confirm it: {why}"
    return Choice(chosen, reason, split, unconfirmed)


def _cheapest(eligible: list[str], figures: Figures) -> tuple[str, int, float]:
    """The variant, how many are nearly as fast as the fastest, and the fastest one's latency."""
    fastest = min(figures[v]["latency_ms_p50"] for v in eligible)
    near = [v for v in eligible if figures[v]["latency_ms_p50"] <= _NEAR * fastest]
    return min(near, key=lambda v: figures[v]["gzip_bytes"]), len(near), fastest


def _not_confirmed(variant: str, test: Table, everything: AllImages, settings: GateSettings) -> str:
    """Why the test split does not confirm a choice; empty when it does."""
    gate = drop_from_float(variant, test, everything, settings)
    if not gate.passed:
        return f"{gate.verdict.value}, {gate.detail}"
    if not agrees(variant, test, everything, settings):
        return "it differs from its own float pass on too many images"
    return ""


def recommend_model(
    answers: dict[str, Predictions], latency: dict[str, float], settings: GateSettings, split: str
) -> tuple[str, str]:
    """Of several models the one to use, and why: the fastest of those as good as the best.

    As good means what it means for a variant: a drop of more than `max_drop` is excluded.

    Args:
      answers: model -> the answers of its recommended variant, of one split.
      latency: model -> milliseconds an image.
      settings: of the pipeline.
      split: the split's name, for the reason.
    """
    correct = {name: top1_correct(found) for name, found in answers.items()}
    best = max(correct, key=lambda name: correct[name].mean())
    verdicts = {}
    for name in answers:
        found = pair(correct[name], correct[best])
        held = name == best or acceptance(found, settings)
        verdicts[name] = Verdict.HELD if held else drop_verdict(found, settings.max_drop)
    equals = [name for name, verdict in verdicts.items() if verdict is Verdict.HELD]
    chosen = min(equals, key=lambda name: latency[name])
    images = len(correct[best])
    reason = f"{chosen}, {latency[chosen]:.2f} ms an image: "
    if len(equals) > 1:
        reason += (
            f"the fastest of {', '.join(equals)}, none more than {100 * settings.max_drop:g} points"
            f" below {best} ({correct[best].mean():.1%} of {images:,} {split} images)"
        )
    else:
        reason += f"the most accurate ({correct[best].mean():.1%} of {images:,} {split} images)"
    for verdict, words in (
        (Verdict.FAILED, "provably less accurate"),
        (Verdict.UNDECIDED, "not decided on these images"),
    ):
        others = [name for name, one in verdicts.items() if one is verdict]
        if others:
            reason += f"; {words}: {', '.join(others)}"
    return chosen, reason
