"""The names of splits in data sets, in one table for all ingest jobs."""

import re
from collections.abc import Iterable

from tfx_pipeline.ingest.source import IngestError

TRAIN, VALIDATION, TEST = "train", "validation", "test"

#: Split -> its names, in lower case.
WORDS: dict[str, tuple[str, ...]] = {
    TRAIN: ("train", "training", "trainval"),
    VALIDATION: (
        "val",
        "valid",
        "validation",
        "validate",
        "dev",
        "devel",
        "development",
        "eval",
        "evaluation",
    ),
    TEST: ("test", "testing", "tests"),
}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
# Allowed suffixes: `training_set`, `Test Images`, `train-data`, `train2017`.
_TAIL = r"(?:[ _.-]*(?:set|sets|split|data|dataset|images|imgs|img))?(?:[ _-]*(?:19|20)\d\d)?"
#: A regular expression for any of the names.
ANY_WORD = "|".join(sorted(_SPLIT_OF, key=len, reverse=True))
_WHOLE = re.compile(rf"({ANY_WORD}){_TAIL}", re.IGNORECASE)
_WITHIN = re.compile(rf"(?:^|(?<=[^a-z]))({ANY_WORD})(?=set(?:[^a-z]|$)|[^a-z]|$)", re.IGNORECASE)


def split_of_word(text: str) -> str | None:
    """The split that a whole name stands for; None if it is not the name of a split.

    Case, surrounding spaces, a suffix `set`, `data` or `images` and a year are ignored:
    `Training`, `TEST_SET`, `valid`, `train2017`.
    """
    found = _WHOLE.fullmatch(text.strip())
    return _SPLIT_OF[found.group(1).lower()] if found else None


def split_in_name(name: str) -> str | None:
    """The split in a path: by a word in the file name, otherwise in its nearest folder.

    Words are delimited by other characters than letters: `imagenet-train.tfrecord`,
      `val_17.record`.
    """
    for part in reversed(name.replace("\\", "/").split("/")):
        found = _WITHIN.findall(part)
        if found:
            return _SPLIT_OF[found[-1].lower()]
    return None


def one_of_each(names: Iterable[str], where: str) -> dict[str, str]:
    """Split -> its name in `names`; other names are ignored.

    Args:
      names: of folders, lists or keys.
      where: their location, for the message.

    Raises:
      IngestError: two names stand for the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of_word(name)
        if split is None:
            continue
        if split in found:
            raise IngestError(
                f"{where} has both {found[split]} and {name}, which both mean the {split} split; "
                "merge them or remove one"
            )
        found[split] = name
    return found


def known_words() -> str:
    """All names, for messages."""
    return ", ".join(word for words in WORDS.values() for word in words)
