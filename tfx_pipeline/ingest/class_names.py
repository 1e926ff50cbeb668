"""Rules for class names: they must fit a labels file and be clearly distinct."""

import math
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from tfx_pipeline.ingest.source import IngestError

# Control characters and Unicode's line and paragraph separators: any of them breaks a labels file,
# which has one name per line.
_BREAKS = ("Cc", "Zl", "Zp")
# Zero-width spaces and joiners, direction marks, byte order marks.
_INVISIBLE = "Cf"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


def class_name(text: str) -> str:
    """A name without surrounding spaces, in Unicode's composed form (NFC).

    Archives made on macOS store an accented letter as two characters.
    """
    return unicodedata.normalize("NFC", text).strip()


def name_fault(name: str) -> str:
    """Why a text is not a valid class name; empty if it is."""
    if not name:
        return "a class name is empty"
    for character in name:
        if unicodedata.category(character) in _BREAKS:
            return (
                f"the class name {name!r} contains a line break or control character "
                f"(U+{ord(character):04X}); a labels file has one name per line: rename the class"
            )
    if name != name.strip():
        return f"the class name {name!r} has spaces around it; remove them"
    return ""


def check_names(names: Iterable[str], where: str, *, typed: bool) -> None:
    """Checks that class names are valid and clearly distinct.

    Args:
      names: in label order.
      where: their origin, for the message.
      typed: whether users typed the names for each image or folder, so that `Cat` and `cat` are
        probably one class. Single letters are exempt: `A` and `a` of handwriting differ.

    Raises:
      IngestError: a name has a line break, two are equal, or two differ only in case, spaces,
        invisible characters or forms of letters.
    """
    exact: set[str] = set()
    seen: dict[tuple[bool, str], str] = {}
    for name in names:
        fault = name_fault(name)
        if fault:
            raise IngestError(f"{where}: {fault}")
        composed = class_name(name)
        if composed in exact:
            raise IngestError(f"{where}: the class name {name!r} appears twice; rename one")
        exact.add(composed)
        for turkish in (False, True) if typed and len(composed) > 1 else ():
            other = seen.setdefault((turkish, _folded(composed, turkish=turkish)), composed)
            if other != composed:
                raise IngestError(f"{where}: {_similar_names(other, composed)}")


def _folded(name: str, *, turkish: bool) -> str:
    """A name with case, kinds of spaces and forms of letters normalized.

    Args:
      name: a class name.
      turkish: use the dotless lowercase letter for `I`.
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(one for one in text if unicodedata.category(one) != _INVISIBLE)
    text = text.replace("I", "\u0131") if turkish else text
    return " ".join(text.casefold().replace("i\u0307", "i").split())


def _similar_names(one: str, other: str) -> str:
    """The message about two names that are easily confused."""
    kinds = "" if one.lower() == other.lower() else " or in characters that look alike"
    return (
        f"the class names {ascii(one) if kinds else repr(one)} and "
        f"{ascii(other) if kinds else repr(other)} differ only in case{kinds}; if they are one "
        "class, use the same spelling, otherwise rename one"
    )


def is_number(name: str) -> bool:
    """Whether a name is a finite number, such as `7`, `-1` or `1.0`."""
    return bool(_NUMBER.fullmatch(name)) and math.isfinite(float(name))


def sorted_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Names in label order: numerically if all are numbers (`1.0` too), otherwise as text.

    Raises:
      IngestError: two names are the same number.
    """
    listed = sorted(set(names))
    if not all(map(is_number, listed)):
        return tuple(listed)
    listed.sort(key=lambda name: (float(name), name))
    for one, other in pairwise(listed):
        if float(one) == float(other):
            raise IngestError(
                f"{where}: the classes {one!r} and {other!r} are the same number; write it one way"
            )
    return tuple(listed)
