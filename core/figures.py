"""The number formats of the console, the pages and the model card.

A summary holds a figure as a number, as `[value, low, high]`, or not at all. The functions accept
all of these and return a dash for a missing figure.
"""

import math
from typing import Any, NamedTuple

DASH = "–"  # noqa: RUF001

#: The unit of figures in [0, 1], which are shown as percentages; any other unit is a plain number.
FRACTION = "fraction"

# Descriptions of the columns of the predictions table.
_REFERENCES = {
    "none_fp32": "the float file",
    "baseline": "the live model",
    "best": "the best model pushed",
    "probe": "the linear probe",
}


class Estimate(NamedTuple):
    """A value with its interval; `low` and `high` are None without an interval."""

    value: float
    low: float | None
    high: float | None


def estimate(raw: Any) -> Estimate | None:
    """`raw` as an estimate; None if it is missing or not finite."""
    parts = list(raw) if isinstance(raw, (list, tuple)) else [raw]
    numbers = [number(part) for part in parts]
    if not numbers or numbers[0] is None:
        return None
    low, high = numbers[1:3] if len(numbers) >= 3 else (None, None)
    if low is None or high is None:
        low = high = None
    return Estimate(numbers[0], low, high)


def number(raw: Any) -> float | None:
    """`raw` as a finite float; None for anything else."""
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and math.isfinite(raw):
        return float(raw)
    return None


def percent(raw: Any) -> str:
    """A fraction in [0, 1] as `98.3 %`."""
    found = estimate(raw)
    return DASH if found is None else f"{found.value * 100:.1f} %"


def percent_interval(raw: Any) -> str:
    """The interval of a fraction as `97.2 to 99.2`; empty without an interval."""
    found = estimate(raw)
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.low * 100:.1f} to {found.high * 100:.1f}"


def points(raw: Any) -> str:
    """A difference of fractions in percentage points with a sign: `-0.6`."""
    found = estimate(raw)
    return DASH if found is None else _signed(found.value)


def points_interval(raw: Any) -> str:
    """The interval of a difference in points as `-1.4 to +0.3`; empty without an interval."""
    found = estimate(raw)
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{_signed(found.low)} to {_signed(found.high)}"


def excludable_drop(raw: Any) -> str:
    """A sentence on the drop in top-1 that the test images exclude; empty where none is recorded.

    Args:
      raw: `excludable_drop` of a verdict: `images`, `at_best` and `excluded` by reference.
    """
    found = raw if isinstance(raw, dict) else {}
    images, best = number(found.get("images")), number(found.get("at_best"))
    if images is None or best is None:
        return ""
    text = (
        f"{count(images)} test images can exclude a drop in top-1 of {best * 100:.1f} points "
        "at best, where no image changes"
    )
    excluded = found.get("excluded")
    rows = excluded.items() if isinstance(excluded, dict) else ()
    parts = [
        f"{drop * 100:.1f} points against {_REFERENCES.get(name, name)}"
        for name, raw_drop in rows
        if (drop := number(raw_drop)) is not None
    ]
    return text + (f"; they excluded {', '.join(parts)}." if parts else ".")


def metric(raw: Any, unit: str) -> str:
    """The value of a metric in `unit`: a percentage for `FRACTION`, else a plain number."""
    found = estimate(raw)
    return percent(raw) if found is None or unit == FRACTION else f"{found.value:.3f}"


def metric_interval(raw: Any, unit: str) -> str:
    """The interval of a metric in the same form as `metric`; empty where there is none."""
    found = estimate(raw)
    if unit == FRACTION or found is None or found.low is None or found.high is None:
        return percent_interval(raw)
    return f"{found.low:.3f} to {found.high:.3f}"


def size(raw: Any) -> str:
    """Bytes as `412 B`, `41.2 kB` or `4.12 MB` (powers of 1,000)."""
    found = number(raw)
    if found is None:
        return DASH
    if found < 1000:
        return f"{found:.0f} B"
    for unit in ("kB", "MB", "GB"):
        found /= 1000
        if found < 999.5 or unit == "GB":
            return f"{three_digits(found)} {unit}"
    raise AssertionError("unreachable")


def milliseconds(raw: Any) -> str:
    """Milliseconds to three digits, `0.087 ms` or `12.4 ms`."""
    found = number(raw)
    return DASH if found is None else f"{three_digits(found)} ms"


def duration(raw: Any) -> str:
    """Seconds as `31.2 s`, `3 min 30 s` or `2 h 05 min`."""
    found = number(raw)
    if found is None:
        return DASH
    if found < 59.95:
        return f"{found:.1f} s"
    minutes, seconds = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(raw: Any) -> str:
    """A whole number with thousands separated by commas."""
    found = number(raw)
    return DASH if found is None else f"{found:,.0f}"


def amount(raw: Any) -> str:
    """A large number as `36.2 k`, `4.1 M` or `4.10 G`."""
    found = number(raw)
    if found is None:
        return DASH
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(found) >= scale:
            return f"{three_digits(found / scale)} {unit}"
    return f"{found:g}"


def three_digits(value: float) -> str:
    """`value` to three digits: `0.087`, `5.50`, `12.4`, `310`."""
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.9995 or value == 0 else f"{value:.3f}"


def short(raw: Any, digits: int = 3) -> str:
    """A float with up to `digits` significant digits, without trailing zeros; other values as text.

    Args:
      raw: a float of any size, infinity and NaN included, or another value.
      digits: at least 1.
    """
    return f"{raw:.{digits}g}" if isinstance(raw, float) else str(raw)


def _signed(value: float) -> str:
    text = f"{value * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
