"""Which TFLite variant to ship: chosen on the validation split, confirmed on the test split.

A variant is as good as the float file if the paired test excludes a drop of more than `max_drop`,
or if it has the float file's weights and its agreement over all images excludes it (without a
disagreement there is no drop). It must also agree with its own float pass. Of the variants within
25 % of the fastest of these, the one with the smallest download is chosen.

The choice uses the validation split only, so that the test figures of the shipped variant are not
those of the luckiest of several. The test split can only reject a choice: then the next one is
tried, and the float file last.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from components.evaluation.columns import FLOAT, Table, compressed, top1_correct
from components.gates.agreement import AllImages, agrees
from components.gates.change import describe_pair, drop_gate, drop_verdict, waiver
from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict
from trainers.compression import keeps_weights
from trainers.evaluation.noninferiority import pair
from trainers.evaluation.predictions import Predictions

Figures = dict[str, dict[str, float]]

# Latencies within this ratio count as equal: the download size decides.
_NEAR = 1.25


@dataclass(frozen=True)
class Choice:
    """The variant to ship.

    Attributes:
      variant: its name.
      reason: why, as text.
      split: the split that it was chosen on.
      unconfirmed: preferred variants that the test split did not confirm, each with its reason.
    """

    variant: str
    reason: str
    split: str
    unconfirmed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """`split` and `unconfirmed`, for `verdict.json`."""
        return {"split": self.split, "unconfirmed": self.unconfirmed}


def drop_from_float(
    variant: str, table: Table, all_images: AllImages, settings: GateSettings
) -> Gate:
    """The gate `compression/top1_drop` of one variant against the float file."""
    found = pair(top1_correct(table[variant]), top1_correct(table[FLOAT]))
    gate = drop_gate(
        "compression/top1_drop", found, settings, variant=variant, against="the float file"
    )
    same_weights = keeps_weights(variant)
    if not same_weights or all_images.bound(variant) > settings.max_drop:
        return gate
    detail = f"{describe_pair(found, 'the float file')}; {all_images.describe(variant)}"
    return Gate(gate.name, gate.value, gate.threshold, Verdict.HELD, variant, detail=detail)


def recommend(
    test: Table,
    figures: Figures,
    settings: GateSettings,
    *,
    validation: Table | None = None,
    all_images: AllImages | None = None,
    dropped: Collection[str] = (),
) -> Choice:
    """The variant to ship; see the top of this module.

    Args:
      test: the test split's table, which confirms.
      figures: variant -> `latency_ms_p50` and `gzip_bytes`.
      settings: of the pipeline.
      validation: the validation split's table; without one, the choice is made on `test` too.
      all_images: agreement over all splits.
      dropped: variants that are left out of the bundle.
    """
    table, split = (test, "test") if validation is None else (validation, "validation")
    counts = all_images or AllImages()
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
    """The variant, the number of those nearly as fast as the fastest, and the lowest latency."""
    fastest = min(figures[v]["latency_ms_p50"] for v in eligible)
    near = [v for v in eligible if figures[v]["latency_ms_p50"] <= _NEAR * fastest]
    return min(near, key=lambda v: figures[v]["gzip_bytes"]), len(near), fastest


def _not_confirmed(variant: str, test: Table, all_images: AllImages, settings: GateSettings) -> str:
    """Why the test split does not confirm a choice; empty if it does."""
    gate = drop_from_float(variant, test, all_images, settings)
    if not gate.passed:
        return f"{gate.verdict.value}, {gate.detail}"
    if not agrees(variant, test, all_images, settings):
        return "it differs from its own float pass on too many images"
    return ""


def recommend_model(
    predictions: dict[str, Predictions],
    latency: dict[str, float],
    settings: GateSettings,
    split: str,
) -> tuple[str, str]:
    """The model to use, and why: the fastest of those that are as good as the best.

    A model is as good as the best if a drop of more than `max_drop` is excluded.

    Args:
      predictions: model -> predictions of its recommended variant, of one split.
      latency: model -> milliseconds per image.
      settings: of the pipeline.
      split: name of the split, for the reason.
    """
    correct = {name: top1_correct(found) for name, found in predictions.items()}
    best = max(correct, key=lambda name: correct[name].mean())
    verdicts = {}
    for name in predictions:
        found = pair(correct[name], correct[best])
        held = name == best or waiver(found, settings)
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
