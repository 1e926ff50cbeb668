"""Configuration keys with a history, keys that set others, and lists. Standard library only."""

from collections.abc import Iterable
from typing import Any

#: Keys that decide the weights and are younger than the files of some version -> what runs without
#: them did. `trainers.config.from_dict` reads such files so, and `trainers.training.run_folder`
#: leaves the keys out of the names of folders that are older still.
YOUNG_KEYS: dict[str, dict[str, Any]] = {
    "data": {"resize": "bilinear", "fit": "stretch"},
    "optim": {"warmup_limit": 1.0},
    "train": {"head": "fresh"},
}
#: Overridden key -> (another key, the value that it then gets unless it is overridden too).
_IMPLIED = {
    "optim.warmup_steps": ("optim.warmup_limit", "1"),
    "compress.rate_fraction": ("compress.learning_rate", "0"),
}


def with_young_keys(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with what `YOUNG_KEYS` says of keys that its sections lack.

    Args:
      raw: nested dictionaries of a configuration; sections that are no dictionaries stay.
    """
    if not isinstance(raw, dict):
        return raw
    old = {
        section: {**keys, **raw[section]}
        for section, keys in YOUNG_KEYS.items()
        if isinstance(raw.get(section), dict)
    }
    return {**raw, **old}


def implied(assignments: Iterable[str]) -> list[str]:
    """`assignments`, each followed by what it implies.

    A user who sets `optim.warmup_steps` wants these steps, not those that the recipe's limit
    leaves; one who sets `compress.rate_fraction` wants no absolute rate.

    Args:
      assignments: `section.key=value` each.
    """
    given = list(assignments)
    keys = {one.partition("=")[0].strip() for one in given}
    found = []
    for one in given:
        found.append(one)
        other, value = _IMPLIED.get(one.partition("=")[0].strip(), ("", ""))
        if other and other not in keys:
            found.append(f"{other}={value}")
    return found


def comma_parts(text: str) -> list[str]:
    """`text` at its commas, but for those within parentheses or brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
