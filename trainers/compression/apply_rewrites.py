"""Applies rewrites to a converted file, and keeps those on trial only if they pay."""

from collections.abc import Sequence

from trainers.compression import measure
from trainers.compression.rewrites import Conversion, Facts, Rewrite

# Two files of equal quality round differently, by which this figure of small networks varied up to
# that much in both directions; a smaller difference is no loss.
_SAME_DB = 0.5
# The choice must not depend on the noise of the clock, or equal runs would have different files.
_SAME_TIME = 1.2


def apply_rewrites(
    content: bytes, rewrites: Sequence[Rewrite], conversion: Conversion
) -> tuple[bytes, list[Facts]]:
    """The file after all rewrites that apply to it, and what each did.

    Args:
      content: a .tflite file.
      rewrites: in the order that they run.
      conversion: where the file comes from.

    Returns:
      The new file's bytes, and for each rewrite that applies its `name`, whether it was `applied`,
      and its facts: `why` if it was not, and for a trial `snr_db` and `cpu_ms` without and with it.
    """
    todo = [one for one in rewrites if one.applies_to(conversion)]
    records: list[Facts] = []
    for at, rewrite in enumerate(todo):
        changed, facts = rewrite.run(content, conversion)
        record = {"name": rewrite.name, "applied": changed != content, **facts}
        if rewrite.trial and changed != content:
            return _tried(content, changed, todo[at + 1 :], conversion, [*records, record])
        content = changed
        records.append(record)
    return content, records


def _tried(
    content: bytes,
    changed: bytes,
    later: Sequence[Rewrite],
    conversion: Conversion,
    records: list[Facts],
) -> tuple[bytes, list[Facts]]:
    """The better of the two finished files; `records` ends with that of the trial."""
    without, facts_without = apply_rewrites(content, later, conversion)
    images, trial = conversion.samples, records[-1]
    if images is None:
        trial = {**trial, "applied": False, "why": "there are no images to measure it on"}
        return without, [*records[:-1], trial, *facts_without]
    changed, facts_with = apply_rewrites(changed, later, conversion)
    before = measure.snr_db(without, images, conversion.reference())
    try:
        after = measure.snr_db(changed, images, conversion.reference())
        slow, fast = measure.cpu_ms([without, changed], images[0])
    except RuntimeError as error:
        why = f"LiteRT cannot run the file: {error}"
    else:
        why = _objection((before, after), (slow, fast))
        trial["snr_db"] = [round(before, 2), round(after, 2)]
        trial["cpu_ms"] = [round(slow, 4), round(fast, 4)]
    if why:
        trial = {**trial, "applied": False, "why": why}
        return without, [*records[:-1], trial, *facts_without]
    return changed, [*records[:-1], trial, *facts_with]


def _objection(snr_db: tuple[float, float], cpu_ms: tuple[float, float]) -> str:
    """Why the second file is worse than the first; empty if it is not."""
    if snr_db[1] < snr_db[0] - _SAME_DB:
        return f"less accurate: {snr_db[1]:.2f} dB instead of {snr_db[0]:.2f} dB"
    if cpu_ms[1] > cpu_ms[0] * _SAME_TIME:
        return f"slower: {cpu_ms[1]:.3g} ms instead of {cpu_ms[0]:.3g} ms of processor time"
    return ""
