"""The split and shard of an image, which depend on its content only."""

from collections.abc import Collection

from tfx_pipeline.ingest.source import IngestError
from trainers.data.features import SPLITS

#: Train, validation, test.
DEFAULT_FRACTIONS = (0.6, 0.2, 0.2)

_HEX_DIGITS = 12  # 48 bits: exact in a float.


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Checks that fractions are three positive numbers that sum to 1.

    Raises:
      IngestError: they are not.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise IngestError(
            f"fractions of train, validation and test must be positive and sum to 1, got "
            f"{fractions}; e.g. 0.6 0.2 0.2"
        )


def choose_split(
    digest: str,
    declared: str,
    *,
    present: Collection[str],
    fractions: tuple[float, float, float],
) -> str:
    """The split of an image.

    Validation and test images keep the source's split. Training images, and images of a source
    without splits, also fill the splits that the source lacks, in proportion to `fractions`.

    Args:
      digest: sha256 hex of the encoded bytes.
      declared: the split in the source, or empty.
      present: the splits that the source has.
      fractions: of train, validation and test, summing to 1.

    Returns:
      `train`, `validation` or `test`.
    """
    if declared in SPLITS[1:]:
        return declared
    weights = missing_splits(present, fractions)
    point = split_point(digest) * sum(weights.values())
    for split, weight in weights.items():
        if point < weight:
            return split
        point -= weight
    return list(weights)[-1]


def missing_splits(
    present: Collection[str], fractions: tuple[float, float, float]
) -> dict[str, float]:
    """Train and each split that the source lacks -> its fraction."""
    missing = [split for split in SPLITS if split == "train" or split not in present]
    return {split: fractions[SPLITS.index(split)] for split in missing}


def split_point(digest: str) -> float:
    """A digest as a number in [0, 1)."""
    return int(digest[:_HEX_DIGITS], 16) / 16**_HEX_DIGITS


def choose_shard(digest: str, shards: int) -> int:
    """The shard in [0, shards), from hex digits that `choose_split` does not use."""
    return int(digest[-_HEX_DIGITS:], 16) % shards
