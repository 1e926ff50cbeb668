"""What a class may be called: text that labels files, reports and other splits can repeat."""

import math
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from tfx_pipeline.ingest.source import IngestError

# Control characters, and what Unicode calls line and paragraph separators: any of them breaks a
# labels file, which has one name a line.
_BREAKS = ("Cc", "Zl", "Zp")
# Zero-width spaces and joiners, direction marks, byte order marks.
_INVISIBLE = "Cf"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


def class_name(text: str) -> str:
    """A name without spaces around it, in Unicode's composed form (NFC).

    A Mac's archives write one letter with its accent as two characters.
    """
    return unicodedata.normalize("NFC", text).strip()


def name_fault(name: str) -> str:
    """Why a text cannot be a class's name; empty where it can."""
    if not name:
        return "the name of a class is empty"
    for character in name:
        if unicodedata.category(character) in _BREAKS:
            return (
                f"the class name {name!r} holds a line break or control character "
                f"(U+{ord(character):04X}); a labels file has one name a line: rename the class"
            )
    if name != name.strip():
        return f"the class name {name!r} has spaces around it; remove them"
    return ""


def check_names(names: Iterable[str], where: str, *, typed: bool) -> None:
    """Nothing, when the names of a data set's classes can be told apart and written down.

    Args:
      names: in label order.
      where: they come from, for the message.
      typed: somebody typed them once an image or folder, so that `Cat` and `cat` are one class
        misspelt. Single letters are what they are: `A` and `a` of handwriting differ.

    Raises:
      IngestError: a name with a line break, two that are equal, or differ only in capitals, in
        spaces, in invisible characters or in forms of letters.
    """
    exact: set[str] = set()
    seen: dict[tuple[bool, str], str] = {}
    for name in names:
        fault = name_fault(name)
        if fault:
            raise IngestError(f"{where}: {fault}")
        composed = class_name(name)
        if composed in exact:
            raise IngestError(f"{where}: the class name {name!r} is there twice; rename one")
        exact.add(composed)
        for turkish in (False, True) if typed and len(composed) > 1 else ():
            other = seen.setdefault((turkish, _folded(composed, turkish=turkish)), composed)
            if other != composed:
                raise IngestError(f"{where}: {_alike(other, composed)}")


def _folded(name: str, *, turkish: bool) -> str:
    """A name without what an eye hardly sees: capitals, kinds of spaces and forms of letters.

    Args:
      name: of a class.
      turkish: the small letter of `I` is the dotless one.
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(one for one in text if unicodedata.category(one) != _INVISIBLE)
    text = text.replace("I", "\u0131") if turkish else text
    return " ".join(text.casefold().replace("i\u0307", "i").split())


def _alike(one: str, other: str) -> str:
    """The message about two names that can be taken for each other."""
    kinds = "" if one.lower() == other.lower() else " or in characters that look alike"
    return (
        f"the class names {ascii(one) if kinds else repr(one)} and "
        f"{ascii(other) if kinds else repr(other)} differ only in capitals{kinds}; if they are "
        "one class, spell them alike, if not, rename one"
    )


def is_number(name: str) -> bool:
    """Whether a name is a finite number, such as `7`, `-1` or `1.0`."""
    return bool(_NUMBER.fullmatch(name)) and math.isfinite(float(name))


def sorted_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Names in label order: by number where all are numbers, also `1.0`, else as text.

    Raises:
      IngestError: two of them are one number.
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
