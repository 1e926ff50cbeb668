"""Tables of paired comparisons: the three models over seeds and images, and the study's outlook."""

from dataclasses import dataclass, replace

from serving.benchmark.rounds import RangeOverRounds
from tfx_pipeline.study.figures import NOT_AT_HAND, StudyFigure
from tfx_pipeline.study.plan import QAT, pruned
from tfx_pipeline.study.results import Results, RunResult
from tfx_pipeline.study.sets import CNN, DISTILLED, HYBRID, RESNET, SPARSITIES, VIT
from tfx_pipeline.study.tables import (
    POINTS,
    TITLES,
    Row,
    Table,
    absent,
    conditions,
    epochs_text,
    subject,
)
from tfx_pipeline.study.tables.speed import latency, machine
from tfx_pipeline.study.verdicts import (
    Conditions,
    Verdict,
    absolute,
    undecided,
    without_loss,
)
from trainers.evaluation.comparison import ModelPredictions, aligned, holm
from trainers.evaluation.noninferiority import Paired, pair
from trainers.evaluation.stats import Interval, SeedTest, paired_t

#: Pairs of roles whose difference in top-1 is tested: the first minus the second.
PAIRS = ((RESNET, CNN), (VIT, CNN), (VIT, RESNET))
ALPHA = 0.05
#: The float variant that compressed ones are compared with.
FLOAT = "none_fp32"


@dataclass(frozen=True)
class PairedTests:
    """Tests of two models.

    Attributes:
      over_seeds: paired t-test of top-1; None for fewer than two common seeds.
      images: seed -> counts of the images that exactly one of the two classifies correctly.
    """

    over_seeds: SeedTest | None
    images: dict[int, Paired]

    @property
    def intervals(self) -> list[Interval | None]:
        """Of the difference in top-1: over the seeds, and over the images for each seed."""
        over_seeds = self.over_seeds.difference if self.over_seeds else None
        return [over_seeds, *(one.interval() for one in self.images.values())]


def paired_tests(results: Results, first: str, second: str) -> PairedTests:
    """The tests of two roles, the first minus the second."""
    ours, theirs = (
        {run.seed: run for run in results.runs.get(role, [])} for role in (first, second)
    )
    seeds = sorted(set(ours) & set(theirs))
    images = {seed: _pair(ours[seed], theirs[seed]) for seed in seeds}
    if len(seeds) < 2:
        return PairedTests(None, images)
    values = ([float(runs[s].test.correct.mean()) for s in seeds] for runs in (ours, theirs))
    return PairedTests(paired_t(*values), images)


def _pair(first: RunResult, second: RunResult) -> Paired:
    return _paired(first.test, second.test)


def _paired(first: ModelPredictions, second: ModelPredictions) -> Paired:
    return pair(aligned(first, second).correct, second.correct)


def tests(results: Results) -> Table:
    """Paired t-tests over seeds at 0.05, beside exact paired tests on the images."""
    found = {names: paired_tests(results, *names) for names in PAIRS}
    all_p = [one.mcnemar_p for tested in found.values() for one in tested.images.values()]
    adjusted = iter(holm(all_p).tolist())
    over_seeds = {names: one.over_seeds for names, one in found.items() if one.over_seeds}
    seed_p = holm([one.p_value for one in over_seeds.values()]).tolist()
    by_seeds = dict(zip(over_seeds, seed_p, strict=True))
    rows: list[Row] = []
    for (first, second), tested in found.items():
        title = f"{TITLES[first]} minus {TITLES[second]}"
        epochs = f"{epochs_text(results, first)}; {epochs_text(results, second)}"
        figure = results.figures.get("tests", f"{first}-{second}", "p_value")
        reasons = conditions(results, first, second).reasons
        why = "the study's p-value is not at hand" if figure is None else "p-values of other data"
        verdict = undecided(why, *reasons)
        p_adjusted = by_seeds.get((first, second), 1.0)
        row = _seed_row(
            title, tested, epochs, verdict, f"{p_adjusted:.3g} by Holm over {len(seed_p)} tests"
        )
        rows.append(replace(row, study=figure))
        for seed, counts in tested.images.items():
            interval = counts.interval()
            text = f"95 %, Tango's score interval; McNemar p {counts.mcnemar_p:.3g}, "
            rows.append(
                Row(
                    *(title, f"difference of top-1, images, seed {seed}", POINTS, verdict),
                    *_points(interval),
                    interval=text + f"{next(adjusted):.3g} by Holm over {len(all_p)} tests",
                    epochs=epochs,
                    study=figure,
                )
            )
    note = (
        f"Paired t-tests over the seeds at {ALPHA}, as in the study, and exact paired tests on the "
        "same test images. The first include the randomness of training, the second the choice of "
        f"images. Significance at {ALPHA} is of one test, as in the study; p-values by Holm allow "
        "for all tests of their kind. With three seeds a t-test has two degrees of freedom and "
        "detects only large differences."
    )
    return Table("tests", "Paired tests", note, rows)


def _seed_row(title: str, tested: PairedTests, epochs: str, verdict: Verdict, adjusted: str) -> Row:
    quantity = "difference of top-1, paired t-test over seeds"
    if tested.over_seeds is None:
        why = f"a paired t-test needs two seeds of both models, and there are {len(tested.images)}"
        return Row(
            *(title, quantity, POINTS, undecided(why)),
            interval="none",
            epochs=epochs,
            missing=why,
        )
    found = tested.over_seeds
    is_significant = found.p_value <= ALPHA
    text = f"95 %, Student's t; t {found.statistic:.3g}, p {found.p_value:.3g}, "
    text += f"{'significant' if is_significant else 'not significant'} at {ALPHA}; {adjusted}"
    return Row(
        *(title, quantity, POINTS, verdict),
        *_points(found.difference),
        interval=text,
        epochs=epochs,
    )


def _points(found: Interval) -> tuple[float, float, float]:
    return (100 * found.value, 100 * found.low, 100 * found.high)


def outlook(results: Results) -> Table:
    """What the study's outlook proposes: hybrid, distillation, pruning, quantization."""
    rows: list[Row] = []
    for role, against in ((HYBRID, VIT), (DISTILLED, VIT)):
        rows += _trained(results, role, against)
    for name in (*map(pruned, SPARSITIES), QAT):
        title = f"ResNet, {name}"
        variants = results.variants(name)
        if not variants:
            rows.append(absent(results, name, "difference of top-1", POINTS, title))
        for variant in variants:
            if variant.startswith(("prune_", "qat_")):
                rows += _compressed(results, name, variant, title)
    for role in (CNN, RESNET, VIT):
        variants = results.variants(role)
        if not variants:
            title = f"{TITLES[role]}, quantized after training"
            rows.append(absent(results, role, "difference of top-1", POINTS, title))
        for variant in variants:
            if variant.startswith("ptq_"):
                rows += _compressed(results, role, variant, subject(results, role))
    note = (
        "Differences of top-1 in points on the same test images, with Tango's 95 % interval: "
        "hybrid and distilled minus the ViT, compressed variants minus the float file of the same "
        "run. Sizes are of the compressed (gzip) file relative to the float file's; unstructured "
        "zeros make the download smaller and not the computation. A loss is significant above 2 "
        "points."
    )
    return Table("outlook", "Outlook: hybrid, distillation, pruning, quantization", note, rows)


def _trained(results: Results, role: str, against: str) -> list[Row]:
    """The rows of a role that the outlook proposes to train."""
    title = f"{subject(results, role)} minus {TITLES[against]}"
    tested = paired_tests(results, role, against)
    if not tested.images:
        return [absent(results, role, "difference of top-1", POINTS, title)]
    figure = results.figures.get("outlook", role, "difference")
    rows = []
    for seed, counts in tested.images.items():
        ours = _points(counts.interval())
        verdict = absolute(Interval(*ours), figure, conditions(results, role, against))
        rows.append(
            Row(
                *(title, f"difference of top-1, seed {seed}", POINTS, verdict),
                *ours,
                interval=f"95 %, Tango's score interval; McNemar p {counts.mcnemar_p:.3g}",
                epochs=f"{epochs_text(results, role)}; {epochs_text(results, against)}",
                study=figure,
            )
        )
    return rows


def compression_difference(results: Results, name: str, variant: str) -> Interval | None:
    """Top-1 of a compressed variant minus that of its float file; None without predictions."""
    base = results.variants(RESNET if name.startswith(("prune", QAT)) else name)
    changed = results.variants(name)
    if FLOAT not in base or variant not in changed:
        return None
    return _paired(changed[variant], base[FLOAT]).interval()


def compression_conditions(results: Results, name: str) -> Conditions:
    """The conditions of a compressed variant: all epochs of training and of fine-tuning."""
    role = RESNET if name.startswith(("prune", QAT)) else name
    found = conditions(results, role, absolute=False)
    compress = results.configs[RESNET].compress
    wanted = compress.qat_epochs if name == QAT else compress.prune_epochs
    reached = results.plan.get(name, 0)
    differs = found.differs
    if name.startswith(("prune", QAT)) and reached < wanted:
        differs = (*differs, f"{reached} of {wanted} epochs of fine-tuning")
    return Conditions(found.epochs, found.recipe_epochs, tuple(differs))


def _compressed(results: Results, name: str, variant: str, title: str) -> list[Row]:
    """The rows of a variant: difference, size, latency."""
    difference = compression_difference(results, name, variant)
    base = RESNET if name.startswith(("prune", QAT)) else name
    epochs = epochs_text(results, base)
    if base != name:
        epochs += f"; fine-tuned for {results.plan[name]}"
    shown = f"{title}, {variant}"
    if difference is None:
        why = f"the float file of {TITLES[base]} has no predictions: {results.why_missing(base)}"
        row = Row(
            *(shown, "difference of top-1", POINTS, undecided(why)),
            interval="none",
            epochs=epochs,
            missing=why,
        )
        return [row]
    ratio = results.gzip_bytes(base, FLOAT) / results.gzip_bytes(name, variant)
    own = name if name != base else variant
    figures = [results.figures.get("outlook", own, key) for key in ("difference", "size_ratio")]
    limits, points = compression_conditions(results, name), _points(difference)
    verdict = without_loss(difference, limits)
    if figures[0]:
        limits = replace(limits, differs=(*limits.differs, *conditions(results, base).differs))
        verdict = absolute(Interval(*points), figures[0], limits)
    rows = [
        Row(
            *(shown, "difference of top-1", POINTS, verdict),
            *points,
            interval="95 %, Tango's score interval",
            epochs=epochs,
            study=figures[0],
        ),
        Row(
            *(shown, "float size / own size", "ratio"),
            undecided("the study's figure is not at hand" if not figures[1] else "another network"),
            ratio,
            interval=f"none: a file of {results.gzip_bytes(name, variant) / 1e3:,.1f} kB",
            epochs=epochs,
            study=figures[1],
        ),
    ]
    figure = results.figures.get("outlook", own, "latency_ms")
    row = _latency_row(results, shown, latency(results, name, variant), figure)
    return [*rows, replace(row, epochs=epochs, study=figure)]


def _latency_row(
    results: Results, title: str, found: RangeOverRounds | None, figure: StudyFigure | None
) -> Row:
    if found is None:
        why = "this variant was not timed"
        return Row(title, "latency", "ms", undecided(why), interval="none", missing=why)
    other = f"another machine ({machine(results)}; the study: a desktop GPU)"
    return Row(
        *(title, "latency", "ms"),
        undecided(*_at_hand(figure), other),
        *found,
        interval="median of the rounds, with their minimum and maximum",
    )


def _at_hand(figure: StudyFigure | None) -> tuple[str, ...]:
    """The reason that the study's figure is missing; empty if it is not."""
    return () if figure else (f"the study's figure is {NOT_AT_HAND}",)
