"""Generates BENCHMARKS.md from the results in benchmarks/*.json; `make bench` runs it."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from core.renamed import current_fields
from serving.benchmark.rounds import ratio_over_rounds
from serving.benchmark.targets import DIGITS, SPREAD, rows_of, spread_of
from trainers.evaluation.stats import proportion_interval

_DECODE = "decode_jpeg alone"
_TARGETS = {
    "training: fused crop, flip": 0.85,
    "evaluation": 0.70,
    "memory cache: flip": 2.5,
    "disk cache: flip": 2.5,
}


def data_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `sightline benchmark data --out`."""
    machine = figures["machine"]
    lines = [
        "## From JPEGs to batches",
        "",
        f"`sightline benchmark data {Path(figures['source']).name}`: {figures['images']} JPEGs "
        f"of {figures['mean_kb']} kB on average to {figures['image_size'][0]} x "
        f"{figures['image_size'][1]} px, {figures['rounds']} interleaved rounds on "
        f"{machine['cores']} cores of {machine['cpu']}. Images/s are the median, minimum, and "
        "maximum of the rounds. A ratio is relative to decoding alone, from memory, in the same "
        "round: the geometric mean, with its 95 % interval by Student's t on the "
        "logarithms.",
        "",
        "| | images/s | minimum | maximum | of decoding | interval | target |",
        "|---|---|---|---|---|---|---|",
    ]
    base = figures["rates"][_DECODE]
    for name, rates in figures["rates"].items():
        # Decoding alone is the baseline; ingest is measured once.
        paired = len(rates) == len(base) > 1 and name != _DECODE
        middles = [statistics.median(rates) / statistics.median(base)]
        found = ratio_over_rounds(rates, base) if paired else middles
        ratio, *ends = (f"{part:.2f}" for part in found)
        cells = [f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates))]
        target = f">= {_TARGETS[name]:.2f}" if name in _TARGETS else ""
        row = [name, *cells, ratio, " to ".join(ends), target]
        lines.append(f"| {' | '.join(row)} |")
    memory = figures["memory_mb"]
    lines += [
        "",
        f"Peak memory of a process that streams a training epoch: {memory['1x']:,.0f} MB with "
        f"320 MiB of records, {memory['10x']:,.0f} MB with ten times as many.",
    ]
    return "\n".join(lines)


def replicas_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `tools/replica_curves.py`."""
    config = figures["config"]
    epochs = len(next(iter(figures["runs"].values())))
    lines = [
        "## One device, two devices, two processes",
        "",
        f"Training loss of each epoch: `{config['model']['name']}` on {config['data']['dir']}, "
        f"global batch {config['train']['global_batch']}, seed {config['train']['seed']}. The last "
        "column is the maximum relative difference of any training or validation loss from one "
        "device.",
        "",
        f"| | {' | '.join(f'epoch {number + 1}' for number in range(epochs))} | difference |",
        "|---" * (epochs + 2) + "|",
    ]
    for name, rows in figures["runs"].items():
        cells = [f"{row['loss']:.6f}" for row in rows]
        apart = f"{figures['greatest_difference'][name]:.1e}"
        lines.append(f"| {' | '.join([name, *cells, apart])} |")
    return "\n".join(lines)


def small_data_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `tools/small_data.py`."""
    machine = figures["machine"]
    lines = [
        "## Small data sets",
        "",
        "`python tools/small_data.py ../shared/data`: trained with what is suggested for the data, "
        f"on {machine['cores']} cores of {machine['cpu']}. Test top-1 is the mean over the splits, "
        "its 95 % interval that of all test images (Clopper & Pearson). Seconds are wall-clock "
        "and processor time of ingest and training for one split, beside other programs.",
        "",
        "| set | training images | splits | test images | top-1 | interval | seconds | processor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in figures["sets"].items():
        low, high = found["interval"]
        cells = [
            name,
            f"{found['train']:,}",
            f"{len(found['each'])}",
            f"{found['test']:,}",
            f"{found['top1']:.3f}",
            f"{low:.3f} to {high:.3f}",
            *(f"{statistics.mean(found[key]):.0f}" for key in ("seconds", "cpu_seconds")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, found in figures["sets"].items():
        if "baseline" in found:
            other = found["baseline"]
            value, low, high = other["difference"]
            lines += [
                "",
                f"{name}: logistic regression on histograms of gradients and colors, fitted on "
                f"train and validation, has {statistics.mean(other['top1']):.3f}; the difference "
                f"over all test images is {value:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
                f"McNemar p {other['mcnemar_p']:.1e}).",
            ]
    return "\n".join(lines)


def models_section(rows: list[dict[str, Any]]) -> str:
    """The Markdown section for the output of `sightline describe --table --json`."""
    lines = [
        "## Models",
        "",
        "`sightline describe --table`: trainable parameters and multiply-adds of one image, for "
        "1,000 classes, counted from the layers, beside what the literature says.",
        "",
        "| model | px | M parameters | published | GMAC | published | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        known = row["published"]
        cells = [
            row["model"],
            f"{row['image_size'][0]}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{known['parameters']:.2f}",
            f"{row['multiply_adds'] / 1e9:.2f}",
            f"{known['giga_multiply_adds']:.2f}",
            known["source"] + ("" if known["whole"] else "; ours has one dense layer"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def study_section(figures: dict[str, Any]) -> str:
    """The Markdown section for `report/benchmark.json` of `sightline study`."""
    counts, machine = figures["examples"], figures["machine"]
    lines = [
        "## CIFAR-10 on two cores",
        "",
        f"`make study`: {counts['train']:,} training, {counts['validation']:,} validation and "
        f"{counts['test']:,} test images of 32 x 32 px, on {machine['cores']} cores of "
        f"{machine['cpu']}. Test top-1 with its 95 % interval over the choice of test images "
        "(Clopper & Pearson; differences: 1,000 resamples of the pairs); the epoch was chosen by "
        "validation. Minutes are wall-clock time, and processor time divided by the cores; other "
        "programs ran at the same time.",
        "",
        "| run | M parameters | MMAC | epochs | test top-1 | interval | minutes | processor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in figures["runs"].items():
        value, low, high = (f"{part:.1%}" for part in run["test_top1"])
        cells = [
            f"{run['parameters'] / 1e6:.2f}",
            f"{run['multiply_adds'] / 1e6:.0f}",
            f"{run['epochs']}",
            value,
            f"{low} to {high}",
            f"{run['seconds'] / 60:.0f}",
            f"{run['cpu_seconds'] / 60 / machine['cores']:.0f}",
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    if figures["pairs"]:
        lines += ["", "| compared on the same images | difference | interval | p (McNemar) |"]
        lines.append("|---|---|---|---|")
    for pair in figures["pairs"]:
        value, low, high = (f"{100 * part:+.1f}" for part in pair["difference"])
        name = f"{pair['a']} - {pair['b']}"
        lines.append(f"| {name} | {value} points | {low} to {high} | {pair['p_value']:.2g} |")
    return "\n".join(lines)


def training_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `sightline benchmark train --out`."""
    lines = [
        "## Training steps",
        "",
        f"{figures['model']} against {figures['against']}: {figures['image_size']} px, batches of "
        f"{figures['batch']}, {figures['rounds']} interleaved rounds of {figures['steps']} steps "
        f"in the same loop with the same input, on {figures['machine']['cores']} cores of "
        f"{figures['machine']['cpu']}. A ratio is the geometric mean over the rounds, with its "
        "95 % interval by Student's t on the logarithms; below 1 is faster.",
        "",
        "| | ms/step | ratio | interval | waits for data | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    against = figures["contenders"][figures["against"]]["step_seconds"]
    for name, found in figures["contenders"].items():
        # Computed from the rounds, as results of older versions have another interval.
        ratio = ratio_over_rounds(found["step_seconds"], against)
        value, low, high = (f"{part:.3f}" for part in ratio)
        cells = [
            f"{1e3 * statistics.median(found['step_seconds']):,.0f}",
            value,
            f"{low} to {high}" if name != figures["against"] else "",
            f"{found['stall']:.1%}",
            f"{found['peak_mb']:,.0f}",
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def serving_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `sightline benchmark serving --out`."""
    machine = figures["machine"]
    lines = [
        "## The embedded server",
        "",
        f"`sightline benchmark serving {figures['model']}`: images of {figures['mean_kb']} kB "
        f"on average ({figures['source']}), {figures['rounds']} interleaved rounds of "
        f"{figures['seconds']:g} s on {machine['cores']} cores of {machine['cpu']}, shared with "
        "the client process. Differences and ratios compare two measurements of one round. A ratio "
        "is the geometric mean over the rounds, with its 95 % interval (low to high) by Student's "
        f"t on the logarithms; other values are the median of the {figures['rounds']} rounds, with "
        "their minimum and maximum (min..max), which is not an interval.",
    ]
    for variant, found in figures["variants"].items():
        lines += [
            "",
            f"| {variant} | | value | {SPREAD} | target | met |",
            "|---|---|---|---|---|---|",
        ]
        part = ""
        # Computed from the rounds, as results of older versions have other intervals.
        for row in rows_of(found["turns"]):
            unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
            digits = DIGITS[row["unit"]]
            value = f"{row['value']:,.{digits}f}"
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            first = row["part"] if row["part"] != part else ""
            part = row["part"]
            spread = spread_of(row, digits=digits)
            cells = [first, row["name"], value + unit, spread, row["target"], met]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def loadtest_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `sightline loadtest --out`."""
    machine, first = figures["machine"], figures["runs"][0]
    lines = [
        "## Under load",
        "",
        f"`{figures['command']}`: Poisson arrivals over {first['plan']['seconds']:g} s a rate, "
        "latency from the scheduled arrival, in brackets at least 95 % if requests are "
        f"independent, too narrow close to saturation; {first['source']}; server and generator "
        f"on the same {machine['cores']} cores of {machine['cpu']}.",
        "",
        "| target/s | good/s | errors | p50 ms | p90 ms | p99 ms | p99.9 ms | lag p99 ms | valid |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in figures["runs"]:
        cells = [
            f"{run['plan']['rate']:g}",
            f"{run['achieved_rate']:.1f}",
            str(sum(run["errors"].values())),
            *(_milliseconds(run["latency_ms"][p]) for p in ("p50", "p90", "p99", "p99.9")),
            f"{run['generator']['lag_ms_p99']:.1f}",
            "yes" if run["valid"] else f"no: {'; '.join(run['problems'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _milliseconds(found: dict[str, float | None]) -> str:
    value, low, high = (
        "?" if found[name] is None else f"{found[name]:.1f}" for name in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})"


def soak_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `python -m serving.benchmark.loadtest.soak --out`."""
    machine, options = figures["machine"], figures["options"]
    swaps = figures["swap_seconds"]
    lines = [
        "## Soak test",
        "",
        f"`python -m serving.benchmark.loadtest.soak {Path(options['model_dir']).name}`: "
        f"{options['seconds']:g} s of {options['rate']:g} requests/s, half REST and half gRPC, a "
        f"version swap every {options['swap_s']:g} s and a malformed request every "
        f"{options['malformed_s']:g} s, server and generator on the same {machine['cores']} cores "
        f"of {machine['cpu']}. A swap took {statistics.median(swaps):.2f} s ({min(swaps):.2f} to "
        f"{max(swaps):.2f}).",
        "",
        "| criterion | found | allowed | met |",
        "|---|---|---|---|",
    ]
    for row in figures["criteria"]:
        met = ("yes" if row["passed"] else "no") if row["judged"] else "not judged"
        lines.append(f"| {row['name']} | {row['found']} | {row['allowed']} | {met} |")
    return "\n".join(lines)


def agreement_section(figures: dict[str, Any]) -> str:
    """The Markdown section for the output of `tools/int8_agreement.py --out`."""
    machine = figures["machine"]
    lines = [
        "## Int8 after training",
        "",
        f"`tools/int8_agreement.py --model {figures['model']}`: images on which a TFLite file of "
        "the packaged weights predicts the class of the float network, with the 95 % interval of "
        f"the share (Clopper & Pearson); calibrated on {figures['calibration']} images, on "
        f"{machine['cores']} cores of {machine['cpu']}.",
        "",
        "| dtype | images | agree | of | share | interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        cells = [row["dtype"], row["photos"], str(row["agree"]), str(row["of"]), "", ""]
        if row["of"]:
            found = proportion_interval(row["agree"], row["of"])
            cells[4:] = [f"{found.value:.2%}", f"{found.low:.1%} to {found.high:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


#: File in `benchmarks/` -> what renders it; in the order of the page.
_SECTIONS = {
    "data.json": data_section,
    "models.json": models_section,
    "train.json": training_section,
    "serving.json": serving_section,
    "loadtest.json": loadtest_section,
    "soak.json": soak_section,
    "replicas.json": replicas_section,
    "int8_agreement.json": agreement_section,
    "cifar10.json": study_section,
    "small_data.json": small_data_section,
}


def main(folder: Path, out: Path) -> None:
    """Writes `out` from the JSON files that exist in `folder`."""
    parts = ["# Benchmarks", "Written by `make bench` from `benchmarks/*.json`; ratios of one run."]
    for name, render in _SECTIONS.items():
        if (folder / name).is_file():
            figures = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(figures, dict):
                figures = current_fields(figures)
            parts.append(render(figures))
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
