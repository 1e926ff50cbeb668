"""Anomalies of the images of a data set and their limits; standard library only.

`components.data_validation.image_anomalies` finds them; gates compare them with the limits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from core.image_header import MAX_PIXELS
from trainers.config import ConfigError
from trainers.registry import nearest

ERROR, WARNING, NOTE = "error", "warning", "note"

#: Kind -> (severity, meaning), the worst first. By default errors have the limit 0 and others none;
#: `ValidatorSettings.limits` sets other limits.
KINDS: dict[str, tuple[str, str]] = {
    "broken_record": (ERROR, "not a tf.Example, or without its image or label"),
    "record_count": (ERROR, "a split has more or fewer records than dataset.json states"),
    "corrupt": (ERROR, "the image does not decode"),
    "format_refused": (ERROR, "a format or flavor that the exported graph refuses"),
    "pixel_budget": (ERROR, "the header declares more pixels than may be decoded"),
    "leakage": (ERROR, "the same bytes in two splits"),
    "label_conflict": (ERROR, "the same bytes with different labels"),
    "label_range": (ERROR, "a label outside the classes"),
    "object_lists": (ERROR, "object lists of unequal length"),
    "box_outside": (ERROR, "a box beyond the image's edge, or a coordinate that is not a number"),
    "box_inverted": (ERROR, "a box with a maximum below its minimum"),
    "box_empty": (ERROR, "a box without area"),
    "mask_invalid": (ERROR, "a mask that does not decode"),
    "mask_size": (ERROR, "the sizes of a mask and its image differ"),
    "near_leakage": (WARNING, "nearly the same image in two splits"),
    "series_split": (NOTE, "the name belongs to a series that is also in another split"),
    "near_label_conflict": (WARNING, "nearly the same image with different labels"),
    "format_mismatch": (WARNING, "image/format differs from the format of the content"),
    "size_mismatch": (WARNING, "image/height or image/width differ from the pixels"),
    "identity_mismatch": (WARNING, "image/key/sha256 is not the digest of the bytes"),
    "mask_empty": (WARNING, "a mask without a pixel"),
    "mask_box": (WARNING, "the extent of a mask differs from its box"),
    "class_absent": (WARNING, "a class without an image in a split"),
    "constant": (WARNING, "an image of one color"),
    "tiny": (WARNING, "an image with a very short side"),
    "duplicate": (WARNING, "the same bytes twice in a split"),
    "near_duplicate": (NOTE, "nearly the same image twice in a split"),
    "extreme_aspect": (NOTE, "an image with one side much longer than the other"),
    "imbalance": (NOTE, "far more images of one class than of another"),
}


# Of few test images, each is a large share.
_FEW_LEAKS = 2


@dataclass(frozen=True)
class ValidatorSettings:
    """Requirements of the images; the defaults suit both photographs and 8 x 8 scans.

    Attributes:
      min_side: an image whose shorter side has fewer pixels is `tiny`.
      max_aspect: an image with a larger ratio of longer to shorter side is an `extreme_aspect`.
      max_pixels: images with a larger height times width are not decoded.
      near_bits: maximum number of the 64 bits of their perceptual hashes that near duplicates
        differ in.
      near_difference: maximum mean absolute gray difference of their 32 x 32 thumbnails, in
        standard deviations (`near_duplicates.difference`).
      max_near_leakage: maximum share of the validation and test images that are nearly the same as
        an image of another split; 1 allows all.
      max_imbalance: maximum ratio of the largest to the smallest class of the training split.
      box_mask_px: maximum distance in pixels between the edges of a mask and of its box; COCO has
        distances up to 10.
      limits: kind -> largest allowed number, None for any. Kinds that are missing have the limit 0
        for errors, the limit of `max_near_leakage` for `near_leakage`, and otherwise None.
      listed: maximum number of anomalies that are listed per kind; all are counted.
      gallery: maximum number of images, or pairs of images, that are shown per kind.
      stop: exceeded limits stop a run before training; otherwise they only prevent the push.
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
          records: split -> number of records; None gives no limit that depends on them.
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
      ConfigError: a setting or a kind in `limits` is unknown, or a value is out of range.
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
class Location:
    """The location of a record.

    Attributes:
      split: `train`, `validation` or `test`.
      file: name of the shard.
      index: position in the shard, from 0.
      offset: start of the record in the shard, in bytes.
      filename: name of the image in its source; may be empty.
      label: class names as text.
    """

    split: str
    file: str
    index: int
    offset: int
    filename: str = ""
    label: str = ""

    @property
    def short(self) -> str:
        """The name of the image, or the position of the record without one, for tables."""
        return f"{self.filename} ({self.split} {self.index})" if self.filename else str(self)

    def __str__(self) -> str:
        name = f" ({self.filename})" if self.filename else ""
        return f"{self.split}/{self.file} record {self.index}{name}"


@dataclass(frozen=True)
class Anomaly:
    """One anomaly.

    Attributes:
      kind: a key of `KINDS`.
      detail: a description with the value.
      location: of the record; None for anomalies of a whole split.
      other: location of the record that it duplicates, else None.
    """

    kind: str
    detail: str
    location: Location | None = None
    other: Location | None = None

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return KINDS[self.kind][0]

    def describe(self) -> str:
        """One line with the image, the detail, and the other image if there is one."""
        if self.location is None:
            return self.detail
        twin = f", as {self.other.short}" if self.other else ""
        return f"{self.location.short}: {self.detail}{twin}"


@dataclass(frozen=True)
class ImageAnomalies:
    """All anomalies of a data set.

    Attributes:
      name: of the data set.
      fingerprint: of the records that were read.
      records: split -> number of records read.
      counts: kind -> number of anomalies above 0, in the order of `KINDS`.
      limits: kind -> largest allowed number, for kinds with a limit.
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
          ValueError: `raw` does not have this structure.
        """
        try:
            # Files of earlier versions have `place` instead of `location`.
            anomalies = tuple(
                Anomaly(
                    one["kind"],
                    one["detail"],
                    _location(one["location"] if "location" in one else one["place"]),
                    _location(one["other"]),
                )
                for one in raw["anomalies"]
            )
            return cls(**{**raw, "anomalies": anomalies})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not image anomalies: {type(error).__name__}: {error}") from error


def _location(raw: Mapping[str, Any] | None) -> Location | None:
    return None if raw is None else Location(**raw)


def blocking(
    anomalies: ImageAnomalies, settings: ValidatorSettings | None = None
) -> dict[str, tuple[int, int]]:
    """Kind -> (count, limit) for the counts above their limit.

    Args:
      anomalies: of a data set.
      settings: with the limits; None for those in `anomalies`.
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
    """The exceeded limits as text, one line per kind with its first example; may be empty."""
    lines = []
    for kind, (count, limit) in blocking(anomalies).items():
        first = next(iter(anomalies.of(kind)), None)
        example = "" if first is None else first.describe()
        lines.append(f"  {kind:<18} {count:>7}  allowed {limit:>4}  {example}")
    return "\n".join(lines)


def limits_of(settings: ValidatorSettings, records: Mapping[str, int]) -> dict[str, int]:
    """Kind -> limit for kinds with a limit, given the number of records per split."""
    found = {kind: settings.limit(kind, records) for kind in KINDS}
    return {kind: limit for kind, limit in found.items() if limit is not None}
