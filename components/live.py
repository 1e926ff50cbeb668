"""The versions that a candidate is compared with: the live one and the best one ever pushed.

They are read from the bundle store and never from earlier runs, so that a version that was rolled
back or deleted, or whose push failed, is not a baseline. All files that the run needs later are
copied, so that a push or a rollback during the run does not affect it. No TFX.
"""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components import files
from core import bundle as bundles
from core.lineage import (
    PREDICTIONS_FILE,
    STATISTICS_FILE,
    LineageError,
    lineage_dir,
    metric_value,
    read_lineage,
    store_state,
)

#: Folder of a version's files inside the artifact.
_BUNDLE = "bundle"


class LiveModelError(ValueError):
    """The bundle store changed during a run; the message says what to do."""


@dataclass(frozen=True)
class PushedVersion:
    """One version of the store.

    Attributes:
      version: its number.
      digest: of its content.
      recommended: the variant of its `model.tflite`.
      classes: names, in label order.
      top1: test top-1 of the recommended variant at the push; None if it was not measured.
      label_offset: of the records behind its statistics; None without statistics.
      test_fingerprint: of the test split of `top1`; empty if it is not known.
      no_lineage: why statistics and predictions are missing; empty if they exist.
    """

    version: int
    digest: str
    recommended: str
    classes: tuple[str, ...]
    top1: float | None = None
    label_offset: int | None = None
    test_fingerprint: str = ""
    no_lineage: str = ""


@dataclass(frozen=True)
class Live:
    """The content of `live.json`.

    Attributes:
      model: the model's name in the store.
      state: of the store, see `core.lineage.store_state`.
      served: the version that servers load; None for a store without one.
      baseline: the newest version that a candidate can be compared with; None if there is none. It
        is the served one, unless `unusable` states why that is not possible.
      best: the version with the highest recorded test top-1 among those with the same classes as
        the data set, `baseline` included; None if none is recorded.
      contenders: versions that may be the best on this run's test split: the best one of each test
        split that versions were measured on, and every version without a measurement.
      unusable: version -> why a comparison with it is not possible.
      versions: the baseline and the contenders.
    """

    model: str
    state: dict[str, str]
    served: int | None = None
    baseline: int | None = None
    best: int | None = None
    contenders: tuple[int, ...] = ()
    unusable: dict[int, str] = field(default_factory=dict)
    versions: dict[int, PushedVersion] = field(default_factory=dict)
    folder: Path = Path()

    @classmethod
    def load(cls, uri: str) -> "Live":
        """Reads an artifact that `write_live` wrote."""
        raw = files.read_json(Path(uri) / files.LIVE)
        versions = {
            int(number): PushedVersion(**{**one, "classes": tuple(one["classes"])})
            for number, one in raw["versions"].items()
        }
        unusable = {int(number): reason for number, reason in raw["unusable"].items()}
        changed = {"versions": versions, "unusable": unusable, "folder": Path(uri)}
        return cls(**{**raw, **changed, "contenders": tuple(raw["contenders"])})

    def bundle(self, version: int) -> bundles.Bundle:
        """The copy of a version, with its recommended TFLite file only."""
        return bundles.open_bundle(self.folder / str(version) / _BUNDLE)

    def statistics(self, version: int) -> Path | None:
        """The training statistics of a version; None if they were not stored."""
        return self._copied(version, STATISTICS_FILE)

    def predictions(self, version: int) -> Path | None:
        """The test predictions of a version; None if they were not stored."""
        return self._copied(version, PREDICTIONS_FILE)

    def _copied(self, version: int, name: str) -> Path | None:
        path = self.folder / str(version) / name
        return path if path.is_file() else None


def find_live(model_dir: Path, classes: tuple[str, ...]) -> Live:
    """The versions of a model that are in the store now; nothing is copied.

    Args:
      model_dir: `<bundles>/<model name>`; need not exist.
      classes: of the data set. Only versions of the same classes, in any order, can be the best.
    """
    state = store_state(model_dir)
    store = _Store(model_dir)
    baseline = store.newest_intact()
    contenders = store.intact_contenders(set(classes)) - {baseline}
    measured = [one for one in store.same(set(classes)) if one.top1 is not None]
    best = max(measured, key=_by_top1, default=None)
    compared = {baseline, *contenders} - {None}
    return Live(
        model=model_dir.name,
        state=state,
        served=max([*store.usable, *store.unusable], default=None),
        baseline=baseline,
        best=best.version if best else None,
        contenders=tuple(sorted(contenders)),
        unusable=store.unusable,
        versions={version: store.usable[version] for version in sorted(compared)},
    )


class _Store:
    """The versions of a model; only those to compare with are read in full."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._paths = bundles.version_dirs(model_dir)
        self._intact: set[int] = set()
        self.usable: dict[int, PushedVersion] = {}
        self.unusable: dict[int, str] = {}
        for version, path in self._paths.items():
            try:
                self.usable[version] = _describe(model_dir, version, path)
            except (bundles.BundleError, OSError) as error:
                self.unusable[version] = str(error)

    def newest_intact(self) -> int | None:
        for version in sorted(self.usable, reverse=True):
            if self._check(version):
                return version
        return None

    def intact_contenders(self, classes: set[str]) -> set[int]:
        while True:
            found = _contenders(self.same(classes))
            if all(self._check(version) for version in found):
                return found

    def same(self, classes: set[str]) -> list[PushedVersion]:
        return [one for one in self.usable.values() if set(one.classes) == classes]

    def _check(self, version: int) -> bool:
        """Whether the version's files are unchanged since the push; if not, it becomes unusable."""
        if version in self._intact:
            return True
        one = self.usable[version]
        try:
            if bundles.content_digest(self._paths[version]) != one.digest:
                raise bundles.BundleError(
                    f"{self._paths[version]} was changed after its push: its digest differs"
                )
        except (bundles.BundleError, OSError) as error:
            del self.usable[version]
            self.unusable[version] = str(error)
            return False
        self._intact.add(version)
        if not one.no_lineage:
            try:
                read_lineage(self._model_dir, version, one.digest)
            except LineageError as error:
                self.usable[version] = replace(one, no_lineage=str(error))
        return True


def _by_top1(one: PushedVersion) -> tuple[float, int]:
    return (-1.0 if one.top1 is None else one.top1, one.version)


def _contenders(versions: list[PushedVersion]) -> set[int]:
    """The best version of each test split, since accuracies on different splits do not compare."""
    by_split: dict[str, list[PushedVersion]] = {}
    for one in versions:
        if one.top1 is not None:
            by_split.setdefault(one.test_fingerprint, []).append(one)
    best = {max(group, key=_by_top1).version for group in by_split.values()}
    return best | {one.version for one in versions if one.top1 is None}


def _describe(model_dir: Path, version: int, path: Path) -> PushedVersion:
    """A version according to its manifest and lineage.

    Raises:
      BundleError: it is not a bundle.
    """
    opened = bundles.open_bundle(path)
    manifest = opened.manifest
    digest = manifest.content_digest or bundles.content_digest(path)
    opened.tflite_path(manifest.recommended)
    known: dict[str, Any] = {}
    try:
        lineage = read_lineage(model_dir, version, digest, verify=False)
        known = {
            "top1": lineage.top1,
            "label_offset": lineage.label_offset,
            "test_fingerprint": lineage.test_fingerprint,
        }
    except LineageError as error:
        metrics = manifest.metrics.get(manifest.recommended) or {}
        known = {"top1": metric_value(metrics.get("top1")), "no_lineage": str(error)}
    return PushedVersion(version, digest, manifest.recommended, opened.labels, **known)


def write_live(live: Live, model_dir: Path, out: Path) -> None:
    """Writes `live.json` to `out`, and copies the files that later components read.

    Raises:
      LiveModelError: the store changed since `find_live`.
    """
    paths = bundles.version_dirs(model_dir)
    try:
        for version, one in live.versions.items():
            _copy(bundles.open_bundle(paths[version]), out / str(version) / _BUNDLE)
            for name in (STATISTICS_FILE, PREDICTIONS_FILE):
                kept = lineage_dir(model_dir, version) / name
                if not one.no_lineage and kept.is_file():
                    shutil.copyfile(kept, out / str(version) / name)
    except (KeyError, OSError, bundles.BundleError) as error:
        raise store_changed(model_dir) from error
    if store_state(model_dir) != live.state:
        raise store_changed(model_dir)
    versions = {str(version): vars(one) for version, one in live.versions.items()}
    described = {key: value for key, value in vars(live).items() if key != "folder"}
    files.write_json(out / files.LIVE, {**described, "versions": versions})


def store_changed(model_dir: Path, found: dict[str, str] | None = None) -> LiveModelError:
    """The error for a store that changed during a run.

    Args:
      model_dir: `<bundles>/<model name>`.
      found: the state at the start of the run, if known; the message then lists the differences.
    """
    now = store_state(model_dir)
    names = [] if found is None else sorted(set(now.items()) ^ set(found.items()))
    which = ", ".join(dict.fromkeys(name for name, _ in names)) or "its versions"
    return LiveModelError(
        f"{model_dir} changed during this run ({which}): a push, a rollback or a deletion. Run the "
        "same command again: it resumes, and compares with the version that is live then"
    )


def _copy(opened: bundles.Bundle, out: Path) -> None:
    """Copies the files to run the recommended TFLite file; `saved_model.pb` marks a bundle."""
    names = (
        bundles.MANIFEST_FILE,
        bundles.LABELS_FILE,
        bundles.SAVED_MODEL_FILE,
        bundles.tflite_file(opened.manifest.recommended),
    )
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(opened.path / name, out / name)
