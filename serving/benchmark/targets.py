"""What turns of an engine and its servers say: overhead, saturation, batching, each to its target.

Every difference or ratio is of two turns of one round, so that a machine that slows down slows
both. A ratio has its 95 % interval over the rounds; every other figure is their median, with the
least and the greatest (`serving.benchmark.rounds`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from serving.benchmark.rounds import RatioOverRounds, range_over_rounds, ratio_over_rounds

ENGINE, GRPC, REST = "engine", "gRPC", "REST"
#: Each transport's library alone, answering at once with as many bytes.
FLOORS = {GRPC: "gRPC floor", REST: "REST floor"}
GRPC_CLIENT, REST_CLIENT = "Client over gRPC", "Client over REST"
#: How the server combines requests -> flags beside a parameters file.
BATCHING = {"batching": "--enable_batching", "adaptive": "--adaptive_batching"}

#: Callers at a time; the best of them is each thing's saturation.
CALLERS = (1, 2, 4, 8)
#: Callers that batches are made of, and images in the engine's own.
CROWD = 16
BATCH = 8

OVERHEAD_MS = {GRPC: 1.0, REST: 2.0}
#: Beyond the engine and the transport's library together.
OWN_MS = 1.0
SATURATION = 0.90
BATCHING_GAIN = 1.2

#: Name of a thing -> what was measured, one value a round.
Turns = Mapping[str, Mapping[str, Sequence[float]]]

#: Heading of what `spread_of` returns.
SPREAD = "95 % (ratios) or least..greatest"
#: Of a row without a target: `target` and `met`.
_NOTHING: tuple[str, bool | None] = ("", None)
#: Decimals by unit.
DIGITS = {"ms": 3, "ratio": 3, "images/s": 1, "cores": 2}


@dataclass(frozen=True)
class Row:
    """A figure of the table.

    Attributes:
      part: of the table that it belongs to.
      name: what it is of.
      value: geometric mean over the rounds of a ratio, median of anything else.
      low: of a ratio's 95 % interval; the least of the rounds of anything else.
      high: of the interval; the greatest.
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
    rows = [Row(part, f"{name}, p50", *range_over_rounds(p50[name]), "ms") for name in names]
    for name in names[1:]:
        found = range_over_rounds(p50[name] - p50[ENGINE])
        most = OVERHEAD_MS.get(name)
        asked = _NOTHING if most is None else (f"<= {most:.2f}", found.value <= most)
        rows.append(Row(part, f"{name} beyond the engine", *found, "ms", *asked))
        floor = turn_name(FLOORS[name], 1) if name in FLOORS else ""
        # Figures of before there were floors have none.
        if floor in turns:
            alone = _values(turns, floor, "p50_ms")
            library = range_over_rounds(alone)
            rows.append(Row(part, f"of that {name}'s library alone, p50", *library, "ms"))
            own = range_over_rounds(p50[name] - p50[ENGINE] - alone)
            asked = f"<= {OWN_MS:.2f}", own.value <= OWN_MS
            rows.append(Row(part, f"{name} beyond the engine and its library", *own, "ms", *asked))
    return rows


def _saturation(turns: Turns) -> list[Row]:
    part, rate = "all cores busy", "images_per_second"
    best = {name: _best(turns, name, CALLERS) for name in (ENGINE, GRPC, REST)}
    rows = [
        Row(part, best[name], *range_over_rounds(_values(turns, best[name], rate)), "images/s")
        for name in best
    ]
    for name in (GRPC, REST):
        found = _ratio(turns, best[name], best[ENGINE])
        asked = (f">= {SATURATION:.2f}", found.value >= SATURATION)
        rows.append(Row(part, f"{name} of the engine", *found, "ratio", *asked))
    for name in (GRPC, REST):
        cores = range_over_rounds(_values(turns, best[name], "caller_cores"))
        rows.append(Row(part, f"{name}: the callers' own use", *cores, "cores"))
    return rows


def _batching(turns: Turns) -> list[Row]:
    part = "batching"
    of_many = _best(turns, ENGINE, range(1, CROWD + 1), rows=BATCH)
    gain = _ratio(turns, of_many, _best(turns, ENGINE, CALLERS))
    one_call = _ratio(turns, turn_name(ENGINE, 1, rows=BATCH), turn_name(ENGINE, 1))
    rows = [
        Row(part, f"engine, {BATCH} a call to 1, one caller", *one_call, "ratio"),
        # Of one caller the other cores are free, and a larger call uses them; with all of them
        # busy only what the batch itself saves is left, and more a server cannot gain.
        Row(part, f"engine, {BATCH} a call to 1, all cores", *gain, "ratio"),
    ]
    for server in BATCHING:
        rows += _batching_server(turns, server, gains=gain.value >= BATCHING_GAIN)
    return rows


def _batching_server(turns: Turns, server: str, *, gains: bool) -> list[Row]:
    part = "batching"
    one, crowd = (turn_name(GRPC, callers) for callers in (1, CROWD))
    other_one, other_crowd = (turn_name(GRPC, callers, server=server) for callers in (1, CROWD))
    speed = _ratio(turns, one, other_one, "p50_ms")
    rate = _ratio(turns, other_one, one)
    many = _ratio(turns, other_crowd, crowd)
    asked = (f">= {BATCHING_GAIN:.2f}", many.value >= BATCHING_GAIN) if gains else _NOTHING
    reaches = "interval reaches 1.00"
    flag = BATCHING[server]
    return [
        Row(part, f"{flag}, 1 caller, p50", *speed, "ratio", reaches, speed.high >= 1),
        Row(part, f"{flag}, 1 caller, images/s", *rate, "ratio", reaches, rate.high >= 1),
        Row(part, f"{flag}, {CROWD} callers, images/s", *many, "ratio", *asked),
    ]


def _ratio(
    turns: Turns, name: str, base: str, quantity: str = "images_per_second"
) -> RatioOverRounds:
    return ratio_over_rounds(_values(turns, name, quantity), _values(turns, base, quantity))


def _best(turns: Turns, what: str, callers: Iterable[int], *, rows: int = 1) -> str:
    """The turn of most images a second, by the median over rounds, whoever many called."""
    names = [turn_name(what, count, rows=rows) for count in callers]
    rates = {n: np.median(turns[n]["images_per_second"]) for n in names if n in turns}
    return max(rates, key=lambda name: rates[name])


def _values(turns: Turns, name: str, quantity: str) -> np.ndarray:
    return np.array(turns[name][quantity], np.float64)


def spread_of(row: Mapping[str, Any], *, digits: int) -> str:
    """The interval of a ratio as `0.59 to 0.78`, the range of anything else as `4.2..5.6`."""
    low, high = (f"{row[key]:,.{digits}f}" for key in ("low", "high"))
    return f"{low} to {high}" if row["unit"] == "ratio" else f"{low}..{high}"


def tables(figures: Mapping[str, Any]) -> RenderableType:
    """One table a variant of what `serving.benchmark.server.measure` returned."""
    machine = figures["machine"]
    head = (
        f"{machine['cpu']}, {machine['cores']} cores; images: {figures['source']}, "
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
