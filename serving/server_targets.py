"""What turns of an engine and its servers say: overhead, saturation, batching, each to its target.

Every figure is a median over rounds, and every difference or ratio is of two turns of one round, so
that a machine that slows down slows both. The intervals are percentiles of bootstrapped medians.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

ENGINE, GRPC, REST = "engine", "gRPC", "REST"
#: Each transport's library alone, answering at once with as many bytes.
FLOORS = {GRPC: "gRPC floor", REST: "REST floor"}
GRPC_CLIENT, REST_CLIENT = "Client over gRPC", "Client over REST"
#: How the server combines requests -> flags beside a parameters file.
BATCHING = {"batching": "--enable_batching", "adaptive": "--adaptive_batching"}

#: Callers at a time; the best of them is each thing's saturation.
CALLERS = (1, 2, 4, 8)
#: Callers that batches are made of, and pictures in the engine's own.
CROWD = 16
BATCH = 8

OVERHEAD_MS = {GRPC: 1.0, REST: 2.0}
SATURATION = 0.90
BATCHING_GAIN = 1.2

#: Name of a thing -> what was measured, one value a round.
Turns = Mapping[str, Mapping[str, Sequence[float]]]

#: Of a row without a target: `target` and `met`.
_NOTHING: tuple[str, bool | None] = ("", None)
_RESAMPLES = 2000
_DIGITS = {"ms": 3, "ratio": 3, "images/s": 1, "cores": 2}


@dataclass(frozen=True)
class Row:
    """A figure of the table.

    Attributes:
      part: of the table that it belongs to.
      name: what it is of.
      value: median over the rounds.
      low: of the 95 % interval.
      high: likewise.
      unit: `ms`, `images/s`, `cores`, or `ratio`, above 1 is better.
      target: what was asked, empty where nothing was.
      met: whether it is; None without a target.
    """

    part: str
    name: str
    value: float
    low: float
    high: float
    unit: str
    target: str = ""
    met: bool | None = None


def turn_name(what: str, callers: int, *, rows: int = 1, server: str = "") -> str:
    """The name of a turn, e.g. `gRPC x4`, `engine of 8 x1`, `adaptive gRPC x16`."""
    size = f" of {rows}" if rows > 1 else ""
    return f"{server} {what}{size} x{callers}".strip()


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(median, low, high) of one value a round; at least one of them."""
    given = np.array(list(values), np.float64)
    draws = np.random.default_rng(0).choice(given, (_RESAMPLES, len(given)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(given)), float(low), float(high)


def rows_of(turns: Turns) -> list[dict[str, Any]]:
    """The figures of one variant, as plain values of `Row`.

    Args:
      turns: by `turn_name`, each with `p50_ms`, `images_per_second` and `caller_cores`; those of
        batching may be left out all together.
    """
    rows = [*_one_caller(turns), *_saturation(turns)]
    if any(name.startswith(tuple(BATCHING)) for name in turns):
        rows += _batching(turns)
    return [asdict(row) for row in rows]


def _one_caller(turns: Turns) -> list[Row]:
    part = "one caller"
    names = (ENGINE, GRPC, REST, GRPC_CLIENT, REST_CLIENT)
    p50 = {name: _values(turns, turn_name(name, 1), "p50_ms") for name in names}
    rows = [Row(part, f"{name}, p50", *interval(p50[name]), "ms") for name in names]
    for name in names[1:]:
        found = interval(p50[name] - p50[ENGINE])
        most = OVERHEAD_MS.get(name)
        asked = _NOTHING if most is None else (f"<= {most:.2f}", found[0] <= most)
        rows.append(Row(part, f"{name} beyond the engine", *found, "ms", *asked))
        floor = turn_name(FLOORS[name], 1) if name in FLOORS else ""
        # Figures of before there were floors have none.
        if floor in turns:
            alone = interval(_values(turns, floor, "p50_ms"))
            rows.append(Row(part, f"of that {name}'s library alone, p50", *alone, "ms"))
    return rows


def _saturation(turns: Turns) -> list[Row]:
    part, rate = "all cores busy", "images_per_second"
    best = {name: _best(turns, name, CALLERS) for name in (ENGINE, GRPC, REST)}
    base = _values(turns, best[ENGINE], rate)
    rows = [
        Row(part, best[name], *interval(_values(turns, best[name], rate)), "images/s")
        for name in best
    ]
    for name in (GRPC, REST):
        found = interval(_values(turns, best[name], rate) / base)
        asked = (f">= {SATURATION:.2f}", found[0] >= SATURATION)
        rows.append(Row(part, f"{name} of the engine", *found, "ratio", *asked))
    for name in (GRPC, REST):
        cores = interval(_values(turns, best[name], "caller_cores"))
        rows.append(Row(part, f"{name}: the callers' own use", *cores, "cores"))
    return rows


def _batching(turns: Turns) -> list[Row]:
    part, rate = "batching", "images_per_second"
    single = _values(turns, _best(turns, ENGINE, CALLERS), rate)
    of_many = _values(turns, _best(turns, ENGINE, range(1, CROWD + 1), rows=BATCH), rate)
    gain = interval(of_many / single)
    alone = _values(turns, turn_name(ENGINE, 1, rows=BATCH), rate)
    one_call = interval(alone / _values(turns, turn_name(ENGINE, 1), rate))
    rows = [
        Row(part, f"engine, {BATCH} a call to 1, one caller", *one_call, "ratio"),
        # Of one caller the other cores are free, and a larger call uses them; with all of them
        # busy only what the batch itself saves is left, and more a server cannot gain.
        Row(part, f"engine, {BATCH} a call to 1, all cores", *gain, "ratio"),
    ]
    for server in BATCHING:
        rows += _batching_server(turns, server, gains=gain[0] >= BATCHING_GAIN)
    return rows


def _batching_server(turns: Turns, server: str, *, gains: bool) -> list[Row]:
    part = "batching"
    one, crowd = (turn_name(GRPC, callers) for callers in (1, CROWD))
    other_one, other_crowd = (turn_name(GRPC, callers, server=server) for callers in (1, CROWD))
    speed = interval(_values(turns, one, "p50_ms") / _values(turns, other_one, "p50_ms"))
    rate = _rate_ratio(turns, other_one, one)
    many = _rate_ratio(turns, other_crowd, crowd)
    asked = (f">= {BATCHING_GAIN:.2f}", many[0] >= BATCHING_GAIN) if gains else _NOTHING
    reaches = "interval reaches 1.00"
    flag = BATCHING[server]
    return [
        Row(part, f"{flag}, 1 caller, p50", *speed, "ratio", reaches, speed[2] >= 1),
        Row(part, f"{flag}, 1 caller, images/s", *rate, "ratio", reaches, rate[2] >= 1),
        Row(part, f"{flag}, {CROWD} callers, images/s", *many, "ratio", *asked),
    ]


def _rate_ratio(turns: Turns, name: str, base: str) -> tuple[float, float, float]:
    rate = "images_per_second"
    return interval(_values(turns, name, rate) / _values(turns, base, rate))


def _best(turns: Turns, what: str, callers: Iterable[int], *, rows: int = 1) -> str:
    """The turn of most images a second, by the median over rounds, whoever many called."""
    names = [turn_name(what, count, rows=rows) for count in callers]
    rates = {n: np.median(turns[n]["images_per_second"]) for n in names if n in turns}
    return max(rates, key=lambda name: rates[name])


def _values(turns: Turns, name: str, quantity: str) -> np.ndarray:
    return np.array(turns[name][quantity], np.float64)


def tables(figures: Mapping[str, Any]) -> RenderableType:
    """One table a variant of what `serving.server_benchmark.measure` returned."""
    machine = figures["machine"]
    head = (
        f"{machine['cpu']}, {machine['cores']} cores; pictures: {figures['source']}, "
        f"{figures['mean_kb']} kB on average; {figures['rounds']} rounds in turns of "
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
    for column in ("", "", "median", "", "95 % interval", "target", "met"):
        shown.add_column(column, justify="right" if column == "median" else "left")
    part = ""
    for row in figures["variants"][variant]["rows"]:
        digits = _DIGITS[row["unit"]]
        value, low, high = (f"{row[key]:,.{digits}f}" for key in ("value", "low", "high"))
        met = {True: "yes", False: "[red]no[/]", None: ""}[row["met"]]
        first = row["part"] if row["part"] != part else ""
        part = row["part"]
        unit = "" if row["unit"] == "ratio" else row["unit"]
        shown.add_row(first, row["name"], value, unit, f"{low} to {high}", row["target"], met)
    return shown
