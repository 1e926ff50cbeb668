"""What can be wrong with the images of a data set, as value objects; standard library only.

`components.data_validation.image_anomalies` finds them, gates judge them by limits, reports show
them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from core.image_header import MAX_PIXELS
from trainers.config import ConfigError
from trainers.registry import nearest

ERROR, WARNING, NOTE = "error", "warning", "note"

#: Kind -> (severity, what it means), the worst first. Errors have the limit 0, the others none,
#: unless `ValidatorSettings.limits` says otherwise.
KINDS: dict[str, tuple[str, str]] = {
    "broken_record": (ERROR, "not a tf.Example, or without its image or label"),
    "record_count": (ERROR, "a split holds more or fewer records than dataset.json says"),
    "corrupt": (ERROR, "the image does not decode"),
    "format_refused": (ERROR, "a format or flavor that the exported graph refuses"),
    "pixel_budget": (ERROR, "more pixels than may be decoded, by the header"),
    "leakage": (ERROR, "the same bytes in two splits"),
    "label_conflict": (ERROR, "the same bytes with different labels"),
    "label_range": (ERROR, "a label that is none of the classes"),
    "object_lists": (ERROR, "object lists of unequal length"),
    "box_outside": (ERROR, "a box past the image's edge, or a coordinate that is no number"),
    "box_inverted": (ERROR, "a box whose maximum is below its minimum"),
    "box_empty": (ERROR, "a box without area"),
    "mask_invalid": (ERROR, "a mask that does not decode"),
    "mask_size": (ERROR, "a mask of another size than its image"),
    "near_leakage": (WARNING, "nearly the same image in two splits"),
    "series_split": (NOTE, "named as one of a series that is also in another split"),
    "near_label_conflict": (WARNING, "nearly the same image with different labels"),
    "format_mismatch": (WARNING, "image/format names another format than the content's"),
    "size_mismatch": (WARNING, "image/height or image/width differ from the pixels"),
    "identity_mismatch": (WARNING, "image/key/sha256 is not the digest of the bytes"),
    "mask_empty": (WARNING, "a mask without a pixel"),
    "mask_box": (WARNING, "a mask that reaches elsewhere than its box"),
    "class_absent": (WARNING, "a class without an image in a split"),
    "constant": (WARNING, "an image of one color"),
    "tiny": (WARNING, "an image with a very short side"),
    "duplicate": (WARNING, "the same bytes twice in a split"),
    "near_duplicate": (NOTE, "nearly the same image twice in a split"),
    "extreme_aspect": (NOTE, "an image much longer than wide, or wider than long"),
    "imbalance": (NOTE, "far more images of one class than of another"),
}


# Of a handful of test images every one is a large share.
_FEW_LEAKS = 2


@dataclass(frozen=True)
class ValidatorSettings:
    """What is asked of the images; the defaults suit photographs and 8 x 8 scans alike.

    Attributes:
      min_side: a shorter side below this many pixels is `tiny`.
      max_aspect: a longer side over this many times the shorter one is an `extreme_aspect`.
      max_pixels: height times width over this is not decoded.
      near_bits: near duplicates differ in at most this many of 64 bits of their perceptual hash.
      near_difference: and by at most this mean absolute gray difference of their 32 x 32
        thumbnails, in standard deviations (`near_duplicates.difference`).
      max_near_leakage: of the validation and test images, the share that may be nearly the same
        as one of another split, before `near_leakage` is over its limit; 1 allows all.
      max_imbalance: largest over smallest class of the training split, beyond is `imbalance`.
      box_mask_px: a mask may end this many pixels away from its box; COCO's own are up to 10.
      limits: kind -> largest allowed number, None for any; for kinds not named here errors have 0,
        `near_leakage` has what `max_near_leakage` makes of the records, and all others None.
      listed: anomalies of a kind that are told one by one; all are counted.
      gallery: images, or pairs of them, that are shown for a kind.
      stop: exceeded limits stop a run before training; otherwise no model of it is pushed.
    """

    min_side: int = 8
    max_aspect: float = 8.0
    max_pixels: int = MAX_PIXELS
    near_bits: int = 4
    near_difference: float = 0.12
    max_near_leakage: float = 0.05
    max_imbalance: float = 20.0
    box_mask_px: float = 10.0
    limits: Mapping[str, int | None] = field(default_factory=dict)
    listed: int = 1000
    gallery: int = 12
    stop: bool = True

    def limit(self, kind: str, records: Mapping[str, int] | None = None) -> int | None:
        """The largest allowed number of `kind`; None for any.

        Args:
          kind: a key of `KINDS`.
          records: split -> how many records it has; without them no share can be taken.
        """
        if kind == "near_leakage" and kind not in self.limits:
            if records is None or self.max_near_leakage >= 1:
                return None
            tested = sum(count for split, count in records.items() if split != "train")
            return max(_FEW_LEAKS, int(self.max_near_leakage * tested))
        return self.limits.get(kind, 0 if KINDS[kind][0] == ERROR else None)


def make_settings(raw: Mapping[str, Any]) -> ValidatorSettings:
    """Settings from plain values.

    Raises:
      ConfigError: an unknown setting, an unknown kind in `limits`, or a value out of range.
    """
    names = [one.name for one in fields(ValidatorSettings)]
    for key in raw:
        if key not in names:
            raise ConfigError(f"unknown validator setting {key!r}; {nearest(key, names)}")
    settings = ValidatorSettings(**raw)
    for kind, limit in settings.limits.items():
        if kind not in KINDS:
            raise ConfigError(f"unknown kind {kind!r} in limits; {nearest(kind, list(KINDS))}")
        if limit is not None and limit < 0:
            raise ConfigError(f"the limit of {kind} is {limit}; 0 allows none, None any number")
    if not 0 <= settings.max_near_leakage <= 1:
        raise ConfigError(
            f"max_near_leakage must be in [0, 1], got {settings.max_near_leakage}; 0.05 is 5 %"
        )
    if not 0 <= settings.near_bits <= 15:
        raise ConfigError(f"near_bits must be in 0..15, got {settings.near_bits}; 4 is usual")
    return settings


@dataclass(frozen=True)
class Place:
    """Where a record is.

    Attributes:
      split: `train`, `validation` or `test`.
      file: the shard's file name.
      index: position in the shard, from 0.
      offset: where in the shard the record starts, in bytes.
      filename: the image's name in its source; empty where the record has none.
      label: its class, or for detection its objects' classes, in words.
    """

    split: str
    file: str
    index: int
    offset: int
    filename: str = ""
    label: str = ""

    @property
    def short(self) -> str:
        """The image's name where it has one, for tables."""
        return f"{self.filename} ({self.split} {self.index})" if self.filename else str(self)

    def __str__(self) -> str:
        name = f" ({self.filename})" if self.filename else ""
        return f"{self.split}/{self.file} record {self.index}{name}"


@dataclass(frozen=True)
class Anomaly:
    """One thing that is wrong.

    Attributes:
      kind: a key of `KINDS`.
      detail: what exactly, with the value.
      place: the record; None for what concerns a whole split.
      other: the record that it is a duplicate of, else None.
    """

    kind: str
    detail: str
    place: Place | None = None
    other: Place | None = None

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return KINDS[self.kind][0]

    def in_words(self) -> str:
        """One line for tables: which image, what is wrong, and with which other one."""
        if self.place is None:
            return self.detail
        twin = f", as {self.other.short}" if self.other else ""
        return f"{self.place.short}: {self.detail}{twin}"


@dataclass(frozen=True)
class ImageAnomalies:
    """Everything found in a data set.

    Attributes:
      name: the data set's.
      fingerprint: of the records that were read.
      records: split -> how many records were read.
      counts: kind -> how many there are, for kinds that there are any of; in the order of `KINDS`.
      limits: kind -> largest allowed number, for kinds that have a limit.
      anomalies: the first `ValidatorSettings.listed` of each kind.
    """

    name: str
    fingerprint: str
    records: dict[str, int]
    counts: dict[str, int]
    limits: dict[str, int]
    anomalies: tuple[Anomaly, ...]

    def of(self, kind: str) -> list[Anomaly]:
        """The listed anomalies of one kind."""
        return [one for one in self.anomalies if one.kind == kind]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "ImageAnomalies":
        """The inverse of `to_json`.

        Raises:
          ValueError: `raw` is something else.
        """
        try:
            anomalies = tuple(
                Anomaly(one["kind"], one["detail"], _place(one["place"]), _place(one["other"]))
                for one in raw["anomalies"]
            )
            return cls(**{**raw, "anomalies": anomalies})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not image anomalies: {type(error).__name__}: {error}") from error


def _place(raw: Mapping[str, Any] | None) -> Place | None:
    return None if raw is None else Place(**raw)


def blocking(
    anomalies: ImageAnomalies, settings: ValidatorSettings | None = None
) -> dict[str, tuple[int, int]]:
    """Kind -> (count, limit) where the count is over the limit; empty when all is well.

    Args:
      anomalies: what was found.
      settings: whose limits count; None for those it was found with.
    """
    if settings is None:
        limits: Mapping[str, int | None] = anomalies.limits
    else:
        limits = {kind: settings.limit(kind, anomalies.records) for kind in KINDS}
    found = {}
    for kind, count in anomalies.counts.items():
        limit = limits.get(kind)
        if limit is not None and count > limit:
            found[kind] = (count, limit)
    return found


def blocking_table(anomalies: ImageAnomalies) -> str:
    """The exceeded limits as lines of text, one a kind with its first example; empty when none."""
    lines = []
    for kind, (count, limit) in blocking(anomalies).items():
        first = next(iter(anomalies.of(kind)), None)
        example = "" if first is None else first.in_words()
        lines.append(f"  {kind:<18} {count:>7}  allowed {limit:>4}  {example}")
    return "\n".join(lines)


def limits_of(settings: ValidatorSettings, records: Mapping[str, int]) -> dict[str, int]:
    """Kind -> limit, for kinds that have one in a data set of so many records a split."""
    found = {kind: settings.limit(kind, records) for kind in KINDS}
    return {kind: limit for kind, limit in found.items() if limit is not None}


__all__ = [
    "ERROR",
    "KINDS",
    "NOTE",
    "WARNING",
    "Anomaly",
    "ImageAnomalies",
    "Place",
    "ValidatorSettings",
    "blocking",
    "blocking_table",
    "limits_of",
    "make_settings",
]
