"""Former spellings of flags, configuration entries and JSON fields, accepted for one release.

The table "old -> new" is in CHANGELOG.md. Fields of files that Sightline itself wrote are read
without a warning, because such a file is not edited by hand.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

#: The first version that rejects the former spellings.
REMOVED_IN = "0.2.0"
#: Verb -> former -> current flag.
FLAGS = {
    "benchmark": {"--picture": "--image"},
    "loadtest": {"--pictures": "--images"},
}
#: Former -> current name of an entry in `data.augment`.
AUGMENTATIONS = {"colour_jitter": "color_jitter"}
#: Former -> current JSON field, of `sightline benchmark --out` and of `weights_origin` in
#: manifest.json and trained.json.
FIELDS = {"pictures": "images", "licence": "license"}  # codespell:ignore licence


class RenamedWarning(FutureWarning):
    """A former spelling was used."""


def warn_renamed(old: str, new: str) -> None:
    """Warns that `old` is now `new`, and names the version that rejects `old`."""
    text = f"{old} is now {new}; the former spelling is rejected from version {REMOVED_IN} on"
    warnings.warn(text, RenamedWarning, stacklevel=3)


def current_flags(arguments: Sequence[str], verb: str) -> list[str]:
    """`arguments` with the former flags of `verb` replaced, each with a warning.

    What follows `--` stays as it is.
    """
    renames = FLAGS.get(verb, {})
    found, end = [], list(arguments).index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        flag, equals, value = argument.partition("=")
        if flag in renames:
            warn_renamed(flag, renames[flag])
            argument = renames[flag] + equals + value
        found.append(argument)
    return [*found, *arguments[end:]]


def current_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with former fields replaced, in order; of two spellings the current one is kept."""
    kept = {key: value for key, value in values.items() if FIELDS.get(key) not in values}
    return {FIELDS.get(key, key): value for key, value in kept.items()}
