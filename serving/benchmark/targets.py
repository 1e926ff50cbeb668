"""Overhead, saturation and batching of a server from its measurements, compared with targets.

Each difference or ratio is of two measurements of the same round, so that a machine that slows down
affects both. A ratio has a 95 % interval over the rounds; any other figure is the median of the
rounds with their minimum and maximum (`serving.benchmark.rounds`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from serving.benchmark.rounds import RatioOverRounds, range_over_rounds, ratio_over_rounds

ENGINE, GRPC, REST = "engine", "gRPC", "REST"
#: The library of each transport alone, with a fixed response of as many bytes.
BASELINES = {GRPC: "gRPC baseline", REST: "REST baseline"}
GRPC_CLIENT, REST_CLIENT = "Client over gRPC", "Client over REST"
#: How the server batches requests -> its flag, besides a parameters file.
BATCHING = {"batching": "--enable_batching", "adaptive": "--adaptive_batching"}

#: Numbers of concurrent callers; the best of them is the saturation of a system.
CALLERS = (1, 2, 4, 8)
#: Callers whose requests are batched, and images per call in batches of the engine.
CONCURRENT_CALLERS = 16
BATCH = 8

OVERHEAD_MS = {GRPC: 1.0, REST: 2.0}
#: Beyond the engine and the transport's library together.
SERVER_MS = 1.0
SATURATION = 0.90
BATCHING_GAIN = 1.2

#: Name of a contender -> field of `closed_loop.Measurement` -> one value per round.
Measurements: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]

#: Heading of what `spread_of` returns.
SPREAD = "95 % (ratios) or min..max"
#: `target` and `met` of a row without a target.
_NO_TARGET: tuple[str, bool | None] = ("", None)
#: Decimals by unit.
DIGITS = {"ms": 3, "ratio": 3, "images/s": 1, "cores": 2}


@dataclass(frozen=True)
class BenchmarkRow:
    """A figure of the table.

    Attributes:
      part: of the table.
      name: of the figure.
      value: of a ratio, the geometric mean over the rounds; otherwise their median.
      low: of a ratio's 95 % interval; otherwise the minimum of the rounds.
      high: of a ratio's 95 % interval; otherwise the maximum of the rounds.
      unit: `ms`, `images/s`, `cores`, or `ratio`, where above 1 is better.
      target: as text; empty without one.
      met: whether the target is met; None without a target.
    """

    part: str
    name: str
    value: float
    low: float
    high: float
    unit: str
    target: str = ""
    met: bool | None = None


def measurement_name(system: str, callers: int, *, rows: int = 1, batching: str = "") -> str:
    """The name of a contender's measurements: `gRPC x4`, `engine of 8 x1`, `adaptive gRPC x16`."""
    size = f" of {rows}" if rows > 1 else ""
    return f"{batching} {system}{size} x{callers}".strip()


def rows_of(measured: Measurements) -> list[dict[str, Any]]:
    """The figures of one variant, as plain values of `BenchmarkRow`.

    Args:
      measured: by `measurement_name`, each with `p50_ms`, `images_per_second` and `caller_cores`;
        those of batching and those of the baselines are optional. Files of earlier versions name
        the baselines `gRPC floor` and `REST floor`.
    """
    measured = {name.replace(" floor ", " baseline "): one for name, one in measured.items()}
    rows = [*_one_caller(measured), *_saturation(measured)]
    if any(name.startswith(tuple(BATCHING)) for name in measured):
        rows += _batching(measured)
    return [asdict(row) for row in rows]


def _one_caller(measured: Measurements) -> list[BenchmarkRow]:
    part = "one caller"
    names = (ENGINE, GRPC, REST, GRPC_CLIENT, REST_CLIENT)
    p50 = {name: _values(measured, measurement_name(name, 1), "p50_ms") for name in names}
    rows = [
        BenchmarkRow(part, f"{name}, p50", *range_over_rounds(p50[name]), "ms") for name in names
    ]
    for name in names[1:]:
        found = range_over_rounds(p50[name] - p50[ENGINE])
        most = OVERHEAD_MS.get(name)
        target = _NO_TARGET if most is None else (f"<= {most:.2f}", found.value <= most)
        rows.append(BenchmarkRow(part, f"{name} beyond the engine", *found, "ms", *target))
        baseline = measurement_name(BASELINES[name], 1) if name in BASELINES else ""
        # Files of before the baselines were measured have none.
        if baseline in measured:
            alone = _values(measured, baseline, "p50_ms")
            library = range_over_rounds(alone)
            rows.append(BenchmarkRow(part, f"{name} library alone, p50", *library, "ms"))
            own = range_over_rounds(p50[name] - p50[ENGINE] - alone)
            target = f"<= {SERVER_MS:.2f}", own.value <= SERVER_MS
            rows.append(
                BenchmarkRow(part, f"{name} beyond the engine and the library", *own, "ms", *target)
            )
    return rows


def _saturation(measured: Measurements) -> list[BenchmarkRow]:
    part, rate = "all cores busy", "images_per_second"
    best = {name: _best(measured, name, CALLERS) for name in (ENGINE, GRPC, REST)}
    rows = [
        BenchmarkRow(
            part, best[name], *range_over_rounds(_values(measured, best[name], rate)), "images/s"
        )
        for name in best
    ]
    for name in (GRPC, REST):
        found = _ratio(measured, best[name], best[ENGINE])
        target = (f">= {SATURATION:.2f}", found.value >= SATURATION)
        rows.append(BenchmarkRow(part, f"{name} relative to the engine", *found, "ratio", *target))
    for name in (GRPC, REST):
        cores = range_over_rounds(_values(measured, best[name], "caller_cores"))
        rows.append(BenchmarkRow(part, f"{name}: used by the callers", *cores, "cores"))
    return rows


def _batching(measured: Measurements) -> list[BenchmarkRow]:
    part = "batching"
    batched = _best(measured, ENGINE, range(1, CONCURRENT_CALLERS + 1), rows=BATCH)
    gain = _ratio(measured, batched, _best(measured, ENGINE, CALLERS))
    one = _ratio(measured, measurement_name(ENGINE, 1, rows=BATCH), measurement_name(ENGINE, 1))
    rows = [
        BenchmarkRow(part, f"engine, {BATCH} images per call to 1, one caller", *one, "ratio"),
        # With one caller the other cores are idle, and a larger call uses them. With all of them
        # busy the gain is that of the batch itself, and no server can gain more.
        BenchmarkRow(part, f"engine, {BATCH} images per call to 1, all cores", *gain, "ratio"),
    ]
    for server in BATCHING:
        rows += _batching_server(measured, server, gains=gain.value >= BATCHING_GAIN)
    return rows


def _batching_server(measured: Measurements, server: str, *, gains: bool) -> list[BenchmarkRow]:
    part = "batching"
    one, many = (measurement_name(GRPC, callers) for callers in (1, CONCURRENT_CALLERS))
    batching_one, batching_many = (
        measurement_name(GRPC, callers, batching=server) for callers in (1, CONCURRENT_CALLERS)
    )
    speed = _ratio(measured, one, batching_one, "p50_ms")
    rate = _ratio(measured, batching_one, one)
    gain = _ratio(measured, batching_many, many)
    target = (f">= {BATCHING_GAIN:.2f}", gain.value >= BATCHING_GAIN) if gains else _NO_TARGET
    reaches = "interval reaches 1.00"
    flag = BATCHING[server]
    return [
        BenchmarkRow(part, f"{flag}, 1 caller, p50", *speed, "ratio", reaches, speed.high >= 1),
        BenchmarkRow(part, f"{flag}, 1 caller, images/s", *rate, "ratio", reaches, rate.high >= 1),
        BenchmarkRow(
            part, f"{flag}, {CONCURRENT_CALLERS} callers, images/s", *gain, "ratio", *target
        ),
    ]


def _ratio(
    measured: Measurements, name: str, base: str, quantity: str = "images_per_second"
) -> RatioOverRounds:
    return ratio_over_rounds(_values(measured, name, quantity), _values(measured, base, quantity))


def _best(measured: Measurements, system: str, callers: Iterable[int], *, rows: int = 1) -> str:
    """The name with the most images per second among numbers of callers, by their medians."""
    names = [measurement_name(system, count, rows=rows) for count in callers]
    rates = {n: np.median(measured[n]["images_per_second"]) for n in names if n in measured}
    return max(rates, key=lambda name: rates[name])


def _values(measured: Measurements, name: str, quantity: str) -> np.ndarray:
    return np.array(measured[name][quantity], np.float64)


def spread_of(row: Mapping[str, Any], *, digits: int) -> str:
    """The interval of a ratio as `0.59 to 0.78`, the range of anything else as `4.2..5.6`."""
    low, high = (f"{row[key]:,.{digits}f}" for key in ("low", "high"))
    return f"{low} to {high}" if row["unit"] == "ratio" else f"{low}..{high}"


def tables(figures: Mapping[str, Any]) -> RenderableType:
    """One table per variant of the figures that `serving.benchmark.server.measure` returns."""
    machine = figures["machine"]
    head = (
        f"{machine['cpu']}, {machine['cores']} cores; images: {figures['source']}, "
        f"{figures['mean_kb']} kB on average; {figures['rounds']} interleaved rounds of "
        f"{figures['seconds']:g} s"
    )
    return Group(head, *(_table(figures, variant) for variant in figures["variants"]))


def _table(figures: Mapping[str, Any], variant: str) -> Table:
    shown = Table(
        title=f"\n{figures['model']}, {variant}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("", "", "value", "", SPREAD, "target", "met"):
        shown.add_column(column, justify="right" if column == "value" else "left")
    part = ""
    for row in figures["variants"][variant]["rows"]:
        digits = DIGITS[row["unit"]]
        value = f"{row['value']:,.{digits}f}"
        met = {True: "yes", False: "[red]no[/]", None: ""}[row["met"]]
        first = row["part"] if row["part"] != part else ""
        part = row["part"]
        unit = "" if row["unit"] == "ratio" else row["unit"]
        spread = spread_of(row, digits=digits)
        shown.add_row(first, row["name"], value, unit, spread, row["target"], met)
    return shown
