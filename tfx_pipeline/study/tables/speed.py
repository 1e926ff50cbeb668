"""Tables of cost: operations and parameters, frames per second and latency, time by variant."""

from dataclasses import replace
from typing import Any

import numpy as np

from core.bundle import SAVED_MODEL
from serving.benchmark.rounds import RangeOverRounds, range_over_rounds
from serving.benchmark.variants import DEFINITIONS
from tfx_pipeline.study.cost import STUDY_PX
from tfx_pipeline.study.figures import TABLES, StudyFigure
from tfx_pipeline.study.results import Results
from tfx_pipeline.study.sets import CORE, RESNET, ROLES, VIT
from tfx_pipeline.study.tables import MS, RATE, TITLES, Row, Table, absent, subject
from tfx_pipeline.study.verdicts import Conditions, Verdict, absolute, counted, undecided

#: The networks at the study's size that its tables have, by role.
STUDY_NETWORKS = {"cnn": "cnn", RESNET: "resnet50", VIT: "vit_b16", "hybrid": "coatnet0"}
_RANGE = "median of {} rounds, with their minimum and maximum"


def speed(results: Results) -> Table:
    """Frames per second and latency of the three models, engine alone and bytes to label."""
    rows: list[Row] = []
    timing = results.timing
    for role in CORE:
        name = _timed(results, role, SAVED_MODEL)
        if name is None:
            title = subject(results, role)
            rows.append(absent(results, role, "FPS and latency", RATE, title))
            continue
        for kind, text in (("engine", "engine alone"), ("label", "bytes to label")):
            seconds = np.array(timing["variants"][name][kind])
            rows += _pair(results, role, seconds, kind, text)
    for role in (RESNET, VIT):
        network = STUDY_NETWORKS[role]
        title = f"{network}, {STUDY_PX} px, random weights"
        if network not in timing.get("study", {}):
            why = results.left_out.get("timing", "the networks of the study were not timed")
            rows.append(
                Row(
                    title, "latency, engine alone", MS, undecided(why), interval="none", missing=why
                )
            )
            continue
        seconds = np.array(timing["study"][network])
        rows += _pair(results, role, seconds, "engine", "engine alone", title=title)
    note = (
        f"Engine alone: {DEFINITIONS['engine alone']}. Bytes to label: "
        f"{DEFINITIONS['bytes to label']}. All cores. Latency is the median time of a call, FPS "
        "are from the mean time. Which of the two the study has is not known."
    )
    return Table("speed", "Frames per second and latency", note, rows)


def _pair(
    results: Results,
    role: str,
    seconds: Any,
    kind: str,
    text: str,
    *,
    title: str = "",
) -> list[Row]:
    """The rows of FPS and latency of (rounds, calls) seconds."""
    rates = range_over_rounds(1 / seconds.mean(axis=1))
    times = range_over_rounds(1000 * np.median(seconds, axis=1))
    own = "" if kind == "engine" else "label_"
    columns = (f"{own}fps", f"{own}ms" if own else "latency_ms")
    differs = [f"another machine ({machine(results)}; the study: a desktop GPU)"]
    if not title and not results.state["has_study_recipes"]:
        differs.append(f"another network and image size ({results.recipes[role]})")
    return [
        Row(
            title or subject(results, role),
            f"{quantity}, {text}",
            unit,
            absolute(None, figure, Conditions(differs=tuple(differs)), missing=_NO_INTERVAL),
            *found,
            interval=_RANGE.format(len(seconds)),
            study=figure,
        )
        for quantity, unit, found, figure in (
            ("FPS", RATE, rates, results.figures.get("speed", role, columns[0])),
            ("latency", MS, times, results.figures.get("speed", role, columns[1])),
        )
    ]


_NO_INTERVAL = "the rounds have a range and no confidence interval"


def machine(results: Results) -> str:
    """The processor and its cores."""
    found = results.timing.get("environment", {})
    return f"{found.get('cores', '?')} cores of {found.get('cpu', 'an unknown CPU')}"


def _timed(results: Results, name: str, variant: str) -> str | None:
    """The key of a variant in the times; None if it was not timed."""
    bundle = results.bundle(name)
    key = f"{bundle.name}/{variant}" if bundle else ""
    return key if key in results.timing.get("variants", {}) else None


def latency(results: Results, name: str, variant: str) -> RangeOverRounds | None:
    """Milliseconds of a variant's engine; None if it was not timed.

    Args:
      results: of the study.
      name: of the bundle.
      variant: of the bundle.
    """
    key = _timed(results, name, variant)
    if key is None:
        return None
    seconds = np.array(results.timing["variants"][key]["engine"])
    return range_over_rounds(1000 * np.median(seconds, axis=1))


def inference(results: Results) -> Table:
    """Inference time by variant of every bundle."""
    rows: list[Row] = []
    names = (*ROLES, *(name for name in results.plan if name not in ROLES))
    for name in names:
        title = subject(results, name) if name in ROLES else f"ResNet, {name}"
        variants = results.variants(name)
        if not variants or not any(_timed(results, name, one) for one in variants):
            if "-more" not in name:
                rows.append(absent(results, name, "inference time", MS, title))
            continue
        for variant in variants:
            found = latency(results, name, variant)
            figure = (
                results.figures.get("inference", name, "latency_ms")
                if variant == SAVED_MODEL
                else None
            )
            rows.append(_time_row(results, f"{title}, {variant}", found, figure))
    note = (
        "From pixels to scores, one image at a time. `saved_model` runs in TensorFlow, all other "
        "variants in LiteRT."
    )
    return Table("inference", "Inference time by variant", note, rows)


def _time_row(
    results: Results, title: str, found: RangeOverRounds | None, figure: StudyFigure | None
) -> Row:
    if found is None:
        why = results.left_out.get("timing", "this variant was not timed")
        return Row(title, "inference time", MS, undecided(why), interval="none", missing=why)
    differs = [f"another machine ({machine(results)}; the study: a desktop GPU)"]
    if not results.state["has_study_recipes"]:
        differs.append("another network and image size")
    return Row(
        *(title, "inference time", MS),
        absolute(None, figure, Conditions(differs=tuple(differs)), missing=_NO_INTERVAL),
        *found,
        interval=_RANGE.format(len(next(iter(results.timing["variants"].values()))["engine"])),
        study=figure,
    )


def cost(results: Results) -> Table:
    """FLOPs, parameters and attention, at the size trained and at the study's."""
    rows: list[Row] = []
    roles = {network: role for role, network in STUDY_NETWORKS.items()}
    for one in results.cost:
        title = one["name"] if one["at_study"] else f"{TITLES[one['name']]} ({one['model']})"
        name = str(one["name"])
        role = roles.get(name, name) if one["at_study"] else ""
        rows += _counts(results, one, role, f"{title}, {one['size'][0]} px")
    if not rows:
        why = results.left_out.get("cost", "nothing was counted")
        rows.append(Row("all", "GFLOP", "GFLOP", undecided(why), interval="none", missing=why))
    note = (
        "FLOPs are two per multiply-add: 2 kh kw Cin Cout Hout Wout for a convolution and 4 N^2 d "
        "for attention over N tokens of d features, as in the study. Many papers call "
        "multiply-adds FLOPs, which halves the number."
    )
    return Table("cost", "FLOPs, parameters and attention complexity", note, rows)


def growth(results: Results) -> Table:
    """How work and time grow with image size and batch."""
    rows: list[Row] = []
    why = results.left_out.get("scaling", "cost by size and batch was not measured")
    for role in CORE:
        title = subject(results, role)
        if role not in results.scaling:
            rows.append(
                Row(title, "time of a batch", "ratio", undecided(why), interval="none", missing=why)
            )
            continue
        found = results.scaling[role]
        for cell in found["cells"]:
            work = f"{cell['work_ratio']:.1f} times the multiply-adds"
            if cell["attention_layers"]:
                work += f", {cell['attention_share']:.1%} of them in attention"
            value, low, high = cell["time_ratio"]
            rows.append(
                Row(
                    f"{title}, {cell['image_size'][0]} px, batch {cell['batch']}",
                    "time of a batch, engine alone",
                    "ratio",
                    undecided("the study's figure is not at hand"),
                    *(value, low, high),
                    interval=f"95 %, Student's t over {found['rounds']} rounds; {work}, "
                    f"{np.median(cell['engine_ms']):.3g} ms, {cell['memory_mb']:.0f} MB counted",
                )
            )
    note = (
        "Relative to the smallest size with a batch of one. Attention grows with the square of the "
        "number of tokens, which is the fourth power of the image side; convolutions grow with the "
        "square of the side. `sightline benchmark` has this table for any model."
    )
    return Table("growth", "Cost by image size and batch", note, rows)


def _counts(results: Results, one: dict[str, Any], role: str, title: str) -> list[Row]:
    """The rows of one counted model; `role` is empty for a size that the study does not have."""
    gflop, published = 2 * one["multiply_adds"] / 1e9, one["published"]
    exact = "none: a count"
    why = "the study has no figure for this model and image size"
    figures = results.figures

    def verdict(column: str, ours: float, hint: str = "") -> tuple[Verdict, StudyFigure | None]:
        found = figures.get("cost", role, column) if role else None
        return (counted(ours, found, hint=hint) if found else undecided(_reason(role, why))), found

    hint = which_vit(results) if role == VIT else ""
    flops, flops_figure = verdict("gflop", gflop, hint)
    size, size_figure = verdict("parameters_m", one["trainable_parameters"] / 1e6)
    stated = ""
    if published and published["giga_multiply_adds"]:
        stated = f"; {published['source']}: {published['giga_multiply_adds']:g} GMAC"
    rows = [
        Row(
            title, "operations", "GFLOP", flops, gflop, interval=exact + stated, study=flops_figure
        ),
        Row(
            *(title, "parameters", "million", size, one["trainable_parameters"] / 1e6),
            interval=exact + (f"; published: {published['parameters']:g}" if published else ""),
            study=size_figure,
        ),
    ]
    if (attention := one["attention"])["layers"]:
        rows.append(_attention(title, one, attention))
    return rows


def _reason(role: str, why: str) -> str:
    rows, _ = TABLES["cost"]
    return "the study's figure is not at hand" if role in rows else why


def _attention(title: str, one: dict[str, Any], attention: dict[str, int]) -> Row:
    """The row of attention, with the study's formula as its figure."""
    ours, formula = (2 * part / 1e9 for part in (attention["products"], one["formula_products"]))
    share = attention["products"] / one["multiply_adds"]
    text = f"4 N^2 d over {attention['layers']} layers gives {formula:.4g} GFLOP"
    why = f"{ours:.4g} GFLOP counted; the study's formula gives {formula:.4g} for this network"
    study = StudyFigure(formula, "GFLOP", "the study's formula 4 N^2 d", f"{formula:.6g}")
    return Row(
        title,
        "scores and sums of attention",
        "GFLOP",
        replace(counted(ours, study), why=why),
        ours,
        interval=f"none: a count, {share:.1%} of all operations; {text}",
        study=study,
    )


def which_vit(results: Results) -> str:
    """Which ViT the study's figure fits, as FLOPs and as multiply-adds; empty without counts."""
    figure = results.figures.get("cost", VIT, "gflop")
    found = {
        one["name"]: one["multiply_adds"] / 1e9
        for one in results.cost
        if one["at_study"] and one["name"].startswith("vit_")
    }
    if figure is None or not found:
        return ""
    as_flops = min(found, key=lambda name: abs(2 * found[name] - figure.value))
    as_macs = min(found, key=lambda name: abs(found[name] - figure.value))
    return (
        f"the nearest ViT at {STUDY_PX} px is {as_flops} ({2 * found[as_flops]:.2f} GFLOP), or "
        f"{as_macs} if the figure means multiply-adds ({found[as_macs]:.2f} GMAC)"
    )
