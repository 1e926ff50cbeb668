"""The study's claims, compared as claims: orderings, ratios and consistency.

They can often be decided where absolute values cannot, on another machine or data set.
"""

import numpy as np

from serving.benchmark.rounds import ratio_over_rounds
from tfx_pipeline.study.figures import StudyFigure
from tfx_pipeline.study.results import Results
from tfx_pipeline.study.sets import CNN, CORE, DISTILLED, HYBRID, RESNET, VIT
from tfx_pipeline.study.tables import POINTS, TITLES, Row, Table, accuracy, conditions, epochs_text
from tfx_pipeline.study.tables.paired import (
    compression_conditions,
    compression_difference,
    paired_tests,
)
from tfx_pipeline.study.tables.speed import STUDY_NETWORKS, machine, which_vit
from tfx_pipeline.study.verdicts import (
    Conditions,
    absolute,
    consistent,
    counted,
    ordering,
    undecided,
    without_loss,
)
from trainers.evaluation.stats import Interval, bootstrap_statistics
from trainers.registry import metrics

#: Precision is "far above" top-1 by more than this.
FAR_ABOVE = 0.05


def claims(results: Results) -> Table:
    """Every claim of the study that is known, with a verdict."""
    rows = [
        _higher(results, RESNET, CNN),
        _slower(results),
        _slower_by(results),
        _two_latencies(results),
        _operations(results),
        _precision(results),
        _compression(results, "prune90", "prune_fp32", "90 % pruning without significant loss"),
        _compression(results, RESNET, "ptq_int8", "8-bit quantization without significant loss"),
        _higher(results, DISTILLED, VIT),
        _higher(results, HYBRID, VIT),
    ]
    note = (
        "A claim is reproduced or contradicted only where a 95 % interval shows it and, for "
        "trained models, all epochs of the recipe were run. That ResNet is more accurate than the "
        "CNN, and distillation and hybrids improve the ViT, is how the project quotes the study."
    )
    return Table("claims", "Claims of the study", note, rows)


def _higher(results: Results, first: str, second: str) -> Row:
    """Whether a model has a higher top-1 than another, over seeds and images."""
    title = f"{TITLES[first]} is more accurate than {TITLES[second]}"
    if first not in results.recipes or not results.runs[first] or not results.runs[second]:
        missing = first if not results.runs.get(first) else second
        return _none(title, "difference of top-1", POINTS, results.why_missing(missing))
    tested = paired_tests(results, first, second)
    found = tested.intervals
    where = f"{title}, on the data set {results.state['data_name']}"
    verdict = ordering(where, found, conditions(results, first, second, absolute=False))
    shown = found[0] or next(iter(tested.images.values())).interval()
    kind = "Student's t over the seeds" if found[0] else "Tango's, images of one seed"
    return Row(
        *(title, "difference of top-1", POINTS, verdict),
        *(100 * end for end in (shown.value, shown.low, shown.high)),
        interval=f"95 %, {kind}",
        epochs=f"{epochs_text(results, first)}; {epochs_text(results, second)}",
    )


def _none(title: str, quantity: str, unit: str, why: str) -> Row:
    return Row(title, quantity, unit, undecided(why), interval="none", missing=why)


def _ratio(results: Results) -> Interval | None:
    """Time of ViT-B/16 relative to ResNet-50 at the study's size; None if not timed."""
    study = results.timing.get("study", {})
    names = [STUDY_NETWORKS[role] for role in (VIT, RESNET)]
    if not all(name in study for name in names):
        return None
    medians = [np.median(np.array(study[name]), axis=1) for name in names]
    return Interval(*ratio_over_rounds(*medians))


def _slower(results: Results) -> Row:
    title = "ViT is slower than ResNet-50"
    found = _ratio(results)
    if found is None:
        return _none(title, "time ViT-B/16 / ResNet-50", "ratio", "the networks were not timed")
    above = Interval(found.value - 1, found.low - 1, found.high - 1)
    return Row(
        *(title, "time ViT-B/16 / ResNet-50 - 1, 224 px", "ratio"),
        ordering(f"{title}, on {machine(results)}", [above], Conditions()),
        *(above.value, above.low, above.high),
        interval="95 %, Student's t on the logarithms of the rounds' ratios",
        study=_study_ratio(results, less=1.0),
    )


def _study_ratio(results: Results, *, less: float = 0.0) -> StudyFigure | None:
    """The study's ratio of times, from its FPS; None if one is not at hand."""
    fps = [results.figures.get("speed", role, "fps") for role in (RESNET, VIT)]
    if fps[0] is None or fps[1] is None:
        return None
    ratio = fps[0].value / fps[1].value - less
    shown = f"{fps[0].digits} / {fps[1].digits} FPS, {fps[0].source}"
    return StudyFigure(ratio, "ratio", shown, f"{ratio:.2f}")


def _slower_by(results: Results) -> Row:
    found, study = _ratio(results), _study_ratio(results)
    title = f"ViT takes {study.digits if study else '...'} times as long as ResNet-50"
    if found is None:
        return _none(title, "time ViT-B/16 / ResNet-50", "ratio", "the networks were not timed")
    differs = f"another machine ({machine(results)}; the study: a desktop GPU): a ratio of times "
    return Row(
        *(title, "time ViT-B/16 / ResNet-50, 224 px", "ratio"),
        absolute(found, study, Conditions(differs=(differs + "depends on it too",))),
        *(found.value, found.low, found.high),
        interval="95 %, Student's t on the logarithms of the rounds' ratios",
        study=study,
    )


def _two_latencies(results: Results) -> Row:
    """The latency of ResNet-50 in two tables, and what the FPS say about it."""
    title = "ResNet-50 has one latency"
    first = results.figures.get("speed", RESNET, "latency_ms")
    second = results.figures.get("inference", RESNET, "latency_ms")
    rates = {role: results.figures.get("speed", role, "fps") for role in (RESNET, VIT)}
    implied = [
        f"1000 / {one.value:g} = {1000 / one.value:.1f} ms, its {role} row"
        for role, one in rates.items()
        if one
    ]
    hint = f"by its FPS, {' and '.join(implied)}"
    if second and (vit := rates[VIT]) and abs(1000 / vit.value - second.value) <= 0.5:
        hint += f": the {second.digits} ms in the ResNet row are the time of its ViT"
    verdict = consistent(first, second, hint=hint)
    return Row(
        *(title, "latency in two tables", "ms", verdict),
        missing="arithmetic on the study's figures: nothing is measured",
        interval="none: the study's own figures",
        study=first,
    )


def _operations(results: Results) -> Row:
    figure = results.figures.get("cost", VIT, "gflop")
    title = f"the ViT of the study has {figure.digits if figure else 'its'} GFLOP"
    quantity = "operations of ViT-B/16, 224 px"
    found = [one for one in results.cost if one["name"] == "vit_b16" and one["at_study"]]
    if not found or figure is None:
        why = "nothing was counted" if figure else "the study's figure is not at hand"
        return _none(title, quantity, "GFLOP", why)
    gflop = 2 * found[0]["multiply_adds"] / 1e9
    verdict = counted(gflop, figure, hint=f"no ViT-B/16; {which_vit(results)}")
    return Row(
        *(title, quantity, "GFLOP", verdict, gflop),
        interval="none: a count",
        study=figure,
    )


def _precision(results: Results) -> Row:
    """Whether macro precision is far above top-1 at one operating point."""
    title = f"precision is more than {100 * FAR_ABOVE:g} points above top-1"
    trained = [role for role in CORE if results.runs[role]]
    if not trained:
        return _none(title, "macro precision - top-1", POINTS, results.why_missing(RESNET))
    figure = metrics.get("macro_precision").figure
    gaps = {}
    for role in trained:
        test = results.runs[role][0].test
        (gaps[role],) = bootstrap_statistics(
            lambda labels, guess: [figure(labels, guess) - np.mean(labels == guess)],
            *(test.labels.astype(np.int64), test.predicted),
            resamples=accuracy.RESAMPLES,
        )
    role = max(gaps, key=lambda one: gaps[one].high)
    found = gaps[role]
    above = Interval(*(end - FAR_ABOVE for end in (found.value, found.low, found.high)))
    # The role with the largest gap depends on how far the others were trained.
    differ = conditions(results, *trained, absolute=False)
    verdict = ordering(f"{title} ({TITLES[role]}, the largest gap of the models)", [above], differ)
    return Row(
        f"{title} at the same operating point",
        f"macro precision - top-1, {TITLES[role]}",
        POINTS,
        verdict,
        *(100 * end for end in (found.value, found.low, found.high)),
        interval="95 %, BCa, 1,000 resamples of the images, first seed; with as many images of "
        "each class, macro recall equals top-1, so precision far above it is of another threshold",
        epochs=epochs_text(results, role),
    )


def _compression(results: Results, name: str, variant: str, title: str) -> Row:
    found = compression_difference(results, name, variant)
    if found is None:
        return _none(title, "difference of top-1, ResNet", POINTS, results.why_missing(name))
    return Row(
        *(title, "difference of top-1, ResNet", POINTS),
        without_loss(found, compression_conditions(results, name)),
        *(100 * end for end in (found.value, found.low, found.high)),
        interval="95 %, Tango's score interval, images of the first seed",
        epochs=epochs_text(results, RESNET),
        study=results.figures.get("outlook", name, "sparsity") if name != RESNET else None,
    )
