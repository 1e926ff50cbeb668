"""The lineage of a pushed version: the data that later models are compared with.

    <bundles>/<model name>/.lineage/<version>/
      lineage.json            digest of the bundle's content, class names, test metrics
      statistics.pb           TFDV statistics of the training split
      predictions.tfrecord    the recommended variant's predictions on the test split

Servers ignore the folder. A lineage is valid only for the content digest it was written for, which
excludes the remains of a killed push and versions that were replaced by hand. Bundles pushed by
`sightline export` have no lineage.
"""

import datetime
import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from core import bundle as bundles
from core import model_folder
from core.files import file_digest, sync_tree, write_json
from core.model_folder import LINEAGE_DIR, BundleError

LINEAGE_FILE = "lineage.json"
STATISTICS_FILE = "statistics.pb"
PREDICTIONS_FILE = "predictions.tfrecord"


class LineageError(BundleError):
    """A version without a valid lineage; the message has the reason."""


@dataclass(frozen=True)
class Lineage:
    """The content of `lineage.json`.

    Attributes:
      content_digest: of its bundle.
      recommended: the variant of the predictions.
      classes: names, in label order; the columns of the predictions.
      label_offset: of the records in the statistics: label = offset + position.
      metrics: metric -> value, or `[value, low, high]`, of the recommended variant on test.
      test_fingerprint: of the test split's identities and class names.
      test_examples: number of test examples.
      run: the run that pushed it.
      created: UTC, ISO 8601.
      files: file name -> sha256 hex of its bytes.
    """

    content_digest: str
    recommended: str
    classes: tuple[str, ...]
    label_offset: int
    metrics: dict[str, Any]
    test_fingerprint: str
    test_examples: int
    run: str = ""
    created: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """Test top-1 of the recommended variant, in [0, 1]; None where it was not measured."""
        return metric_value(self.metrics.get("top1"))


def metric_value(metric: Any) -> float | None:
    """The value of a manifest's metric, `value` or `[value, low, high]`; None for anything else."""
    first = metric[0] if isinstance(metric, (list, tuple)) and metric else metric
    return float(first) if isinstance(first, (int, float)) else None


def lineage_dir(model_dir: Path, version: int) -> Path:
    """The lineage folder of a version, which may not exist."""
    return model_dir / LINEAGE_DIR / str(version)


def write_lineage(folder: Path, lineage: Lineage) -> Lineage:
    """Writes `lineage.json` with the digests of the files in `folder`; returns its content."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    whole = Lineage(**{**asdict(lineage), "files": files, "created": now})
    write_json(folder / LINEAGE_FILE, asdict(whole))
    return whole


def read_lineage(
    model_dir: Path, version: int, content_digest: str, *, verify: bool = True
) -> Lineage:
    """The lineage of a version.

    Args:
      model_dir: `<bundles>/<model name>`.
      version: its number.
      content_digest: of the version's files.
      verify: compare the digest of every file of the lineage.

    Raises:
      LineageError: it does not exist, belongs to other content, or a file was changed.
    """
    folder = lineage_dir(model_dir, version)
    path = folder / LINEAGE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        known = {one.name for one in fields(Lineage)}
        values = {key: value for key, value in raw.items() if key in known}
        found = Lineage(**{**values, "classes": tuple(values["classes"])})
    except FileNotFoundError:
        raise LineageError(f"no lineage was kept at its push ({folder} does not exist)") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LineageError(f"{path} cannot be read: {error}") from error
    if not content_digest or found.content_digest != content_digest:
        raise LineageError(f"{folder} belongs to other content of version {version}")
    for name, digest in found.files.items() if verify else ():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise LineageError(f"{folder / name} is missing or was changed")
    return found


def adopt_lineage(model_dir: Path, version: int, folder: Path) -> bool:
    """Copies `folder` as the lineage of a version without one; returns whether it did.

    For content that was pushed before, by `sightline export` or an older release.

    Raises:
      BundleError: another push or rollback of the model does not finish.
      OSError: the disk reports an error.
    """
    text = (folder / LINEAGE_FILE).read_text(encoding="utf-8")
    digest = json.loads(text)["content_digest"]
    with model_folder.locked(model_dir):
        try:
            read_lineage(model_dir, version, digest)
        except LineageError:
            # Copied first, since a rename from another disk is not possible.
            copy = model_dir / LINEAGE_DIR / f".new-{version}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            sync_tree(copy)
            model_folder.place_lineage(copy, model_dir, version)
            return True
    return False


def store_state(model_dir: Path) -> dict[str, str]:
    """Version -> short digest of the data that comparisons with it use.

    The digest covers manifest and lineage. It is empty for withdrawn versions, which no comparison
    uses but a push checks. The result is empty where `model_dir` does not exist.
    """
    state = {}
    for version, path in bundles.version_dirs(model_dir).items():
        lineage = lineage_dir(model_dir, version) / LINEAGE_FILE
        digest = hashlib.sha256()
        for file in (path / bundles.MANIFEST_FILE, lineage):
            try:
                digest.update(file.read_bytes())
            except OSError:
                digest.update(b"none")
            digest.update(b"\0")
        state[str(version)] = digest.hexdigest()[:16]
    withdrawn = bundles.withdrawn_dirs(model_dir)
    return {**state, **{f"{bundles.WITHDRAWN_PREFIX}{version}": "" for version in withdrawn}}
