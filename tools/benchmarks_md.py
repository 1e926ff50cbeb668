"""BENCHMARKS.md from the figures in benchmarks/data.json; `make bench` runs it, nobody types it."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

_DECODE = "decode_jpeg alone"
_TARGETS = {
    "training: fused crop, flip": 0.85,
    "evaluation": 0.70,
    "memory cache: flip": 2.5,
    "disk cache: flip": 2.5,
}


def data_section(figures: dict[str, Any]) -> str:
    """Markdown of what `sightline benchmark data --out` wrote."""
    machine = figures["machine"]
    lines = [
        "## From JPEGs to batches",
        "",
        f"`sightline benchmark data {Path(figures['source']).name}`: {figures['pictures']} JPEGs "
        f"of {figures['mean_kb']} kB on average to {figures['image_size'][0]} x "
        f"{figures['image_size'][1]} px, {figures['rounds']} rounds in turns on "
        f"{machine['cores']} cores of {machine['cpu']}. A ratio is the median over the rounds of "
        "images/s to those of decoding alone, from memory, in the same round.",
        "",
        "| | images/s | least | greatest | of decoding | asked |",
        "|---|---|---|---|---|---|",
    ]
    base = figures["rates"][_DECODE]
    for name, rates in figures["rates"].items():
        pairs = zip(rates, base, strict=False) if len(rates) == len(base) else []
        ratios = [rate / decode for rate, decode in pairs] or [rates[0] / statistics.median(base)]
        cells = [f"{value:,.0f}" for value in (statistics.median(rates), min(rates), max(rates))]
        asked = f">= {_TARGETS[name]:.2f}" if name in _TARGETS else ""
        row = [name, *cells, f"{statistics.median(ratios):.2f}", asked]
        lines.append(f"| {' | '.join(row)} |")
    memory = figures["memory_mb"]
    lines += [
        "",
        f"Peak memory of a process that streams a training epoch: {memory['1x']:,.0f} MB with "
        f"320 MiB of records, {memory['10x']:,.0f} MB with ten times as many.",
    ]
    return "\n".join(lines)


def main(source: Path, out: Path) -> None:
    """Writes `out` from the JSON file `source`."""
    figures = json.loads(source.read_text(encoding="utf-8"))
    head = (
        "# Benchmarks\n\nWritten by `make bench` from `benchmarks/*.json`; ratios of one run.\n\n"
    )
    out.write_text(head + data_section(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
