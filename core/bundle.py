"""The bundle: what a run hands to the world, and the only thing servers and clients need to know.

    <bundles>/<model name>/<integer version>/
      saved_model.pb variables/ fingerprint.pb       the float model, for TF Serving
      assets/labels.txt                              one class name a line, in label order
      assets.extra/tf_serving_warmup_requests        TFRecord of PredictionLog
      model.tflite                                   the recommended variant, TF Serving's file name
      model_<method>_<dtype>.tflite                  every variant, e.g. model_ptq_int8.tflite
      manifest.json  card.html

Signatures of the SavedModel (classification):
  serving_default   image_bytes string (B,)   -> scores f32, classes i32, labels string: (B,k) each
  preprocess        image_bytes string (B,)   -> images uint8 (B,H,W,3)
  predict_tensor    images uint8 (B,H,W,3)    -> scores f32 (B,N): softmax over all classes
  predict_examples  examples string (B,)      -> as serving_default
TFLite: one input uint8 (1,H,W,3) RGB in [0, 255], one output f32 (1,N) softmax, labels.txt
attached as a zip member. Normalization, and softmax, live inside. Standard library only.
"""

import gzip
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from core import files, model_folder
from core.model_folder import WITHDRAWN_PREFIX, BundleError

INPUT_BYTES = "image_bytes"  # of the signatures that take encoded images
MANIFEST_FILE = "manifest.json"
CARD_FILE = "card.html"
LABELS_FILE = "assets/labels.txt"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
RECOMMENDED_TFLITE = "model.tflite"
SAVED_MODEL_FILE = "saved_model.pb"
# What may change about a bundle without changing the model it holds.
_NOT_CONTENT = {MANIFEST_FILE, CARD_FILE}
SIGNATURE_BYTES = "serving_default"
SIGNATURE_PREPROCESS = "preprocess"
SIGNATURE_TENSOR = "predict_tensor"
SIGNATURE_EXAMPLES = "predict_examples"
#: The variant name of the SavedModel itself; every other variant is a TFLite file.
SAVED_MODEL = "saved_model"


@dataclass(frozen=True)
class Variant:
    """One TFLite file of a bundle.

    Attributes:
      name: `<method>_<dtype>`, e.g. `pqat_int8`; the file is `model_<name>.tflite`.
      method: `none`, `ptq`, `prune`, `qat` or `pqat` (prune-preserving QAT).
      dtype: `fp32`, `dynamic` or `int8`.
      size_bytes: of the file.
      gzip_bytes: of the file after gzip -9, what a download costs.
      sparsity: fraction of zero weights in the pruned layers, in [0, 1).
    """

    name: str
    method: str
    dtype: str
    size_bytes: int
    gzip_bytes: int
    sparsity: float = 0.0

    @property
    def file(self) -> str:
        """The file's name inside the bundle."""
        return tflite_file(self.name)


@dataclass(frozen=True)
class Manifest:
    """The text of `manifest.json`; see the module's first lines for the contract it describes.

    Attributes:
      name: the model's name, e.g. `digits_cnn`; also its folder and its name on a server.
      input: `{"height", "width", "crop_fraction", "resize", "fit", "exif"}` of the evaluation
        preprocessing, see `serving/PIXELS.md`; without two, `bilinear` and `stretch`.
      top_k: how many classes `serving_default` returns.
      recommended: name of the variant copied to `model.tflite`.
      metrics: variant -> metric -> value, or `[value, low, high]` with a 95 % interval.
      benchmark: variant -> figures of `serving.benchmark.variants`.
      gates: of the run: `verdict`, `not_held` (gate -> why it was let through all the same), and
        `excludable_drop`; empty for a bundle that was pushed without gates.
      weights_origin: `package`, `version`, `file`, `sha256` and `licence` of the weights that
        training started from, as far as they are known; empty for random ones.
      linear_probe: of a model that started from weights: `shipped`, whether it is the frozen
        backbone with a linear probe as its last layer, `why`, and the probe's `val_top1`.
      plugins: files of the user that hold code of the model; serving needs none of them.
    """

    name: str
    task: str
    num_classes: int
    input: dict[str, Any]
    top_k: int
    variants: tuple[Variant, ...]
    recommended: str
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    git_commit: str = ""
    stack: dict[str, str] = field(default_factory=dict)
    data_fingerprint: str = ""
    weights_origin: dict[str, str] = field(default_factory=dict)
    linear_probe: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    content_digest: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    format_version: int = 1

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Manifest":
        """Parses `text`; `source` names it in errors.

        Raises:
          BundleError: not JSON, a field is missing, or a newer format.
        """
        try:
            raw = json.loads(text)
            if raw.get("format_version", 1) > 1:
                raise BundleError(
                    f"{source} has format_version {raw['format_version']}, this version of "
                    "sightline reads 1; upgrade sightline"
                )
            raw["variants"] = tuple(Variant(**v) for v in raw["variants"])
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in raw.items() if key in known})
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{source} is not a bundle manifest: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: `path` is the version's folder, `labels` are in label order."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...]

    @property
    def version(self) -> int:
        """The version from the folder's name; 0 for a draft that was never pushed."""
        return int(self.path.name) if self.path.name.isdigit() else 0

    def tflite_path(self, variant: str) -> Path:
        """The file of `variant`.

        Raises:
          BundleError: the bundle has no such variant; the message lists those it has.
        """
        names = [v.name for v in self.manifest.variants]
        if variant not in names:
            raise BundleError(
                f"{self.path} has no variant {variant!r}; it has {SAVED_MODEL}, {', '.join(names)}"
            )
        return self.path / tflite_file(variant)


def tflite_file(variant: str) -> str:
    """The file name of a TFLite variant."""
    return f"model_{variant}.tflite"


def version_dirs(model_dir: Path) -> dict[int, Path]:
    """Version -> folder of the complete versions under a model's folder, ascending.

    Temporary folders and withdrawn versions do not count. `00000123` is 123, as in TF Serving; of
    two spellings the first by name is taken. One that cannot be read counts: opening it says why.
    Numbers beyond `model_folder.MAX_VERSION` do not count.
    """
    return model_folder.numbered_dirs(model_dir, "", SAVED_MODEL_FILE)


def withdrawn_dirs(model_dir: Path) -> dict[int, Path]:
    """Version -> folder of the versions that a rollback put aside, ascending."""
    return model_folder.numbered_dirs(model_dir, WITHDRAWN_PREFIX, SAVED_MODEL_FILE)


def versions(model_dir: Path) -> list[int]:
    """The complete versions under a model's folder, ascending; temporary folders do not count."""
    return list(version_dirs(model_dir))


def find_models(bundles_dir: Path) -> dict[str, list[int]]:
    """Model name -> versions for every model under `bundles_dir` that has a version."""
    if not bundles_dir.is_dir():
        return {}
    entries = sorted(bundles_dir.iterdir())
    return {entry.name: numbers for entry in entries if (numbers := versions(entry))}


def open_bundle(path: Path | str) -> Bundle:
    """Opens a version's folder, or the newest version of a model's folder.

    Raises:
      BundleError: no such folder, no version in it, or the manifest or labels do not fit.
    """
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder; give a bundle such as bundles/digits_cnn")
    if not (path / SAVED_MODEL_FILE).is_file():
        found = version_dirs(path)
        if not found:
            raise BundleError(
                f"{path} holds no version: expected {path}/<integer>/{SAVED_MODEL_FILE}; "
                "push one with `sightline run` or `sightline export`"
            )
        path = found[max(found)]
    manifest_path = path / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BundleError(f"{manifest_path} is missing: a SavedModel, but not a sightline bundle")
    manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"), str(manifest_path))
    labels = read_labels(path)
    if len(labels) != manifest.num_classes:
        raise BundleError(
            f"{path / LABELS_FILE} has {len(labels)} lines, the manifest says "
            f"{manifest.num_classes} classes"
        )
    return Bundle(path=path, manifest=manifest, labels=labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names of the bundle at `path`, in label order.

    Raises:
      BundleError: the file is missing.
    """
    labels_path = path / LABELS_FILE
    if not labels_path.is_file():
        raise BundleError(f"{labels_path} is missing")
    return tuple(labels_path.read_text(encoding="utf-8").splitlines())


def content_digest(path: Path) -> str:
    """Sha256 hex over names and bytes of what makes the model; manifest and card do not count."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        if name in _NOT_CONTENT:
            continue
        data = file.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def gzip_size(path: Path) -> int:
    """Bytes of the file after gzip -9: what a download costs."""
    return len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0))


def seal(path: Path, manifest: Manifest) -> Manifest:
    """Makes the folder `path` a whole bundle: `model.tflite`, digest, and last the manifest.

    Raises:
      BundleError: `manifest.recommended` is no variant of it.
    """
    recommended = path / tflite_file(manifest.recommended)
    if not recommended.is_file():
        names = ", ".join(variant.name for variant in manifest.variants)
        raise BundleError(f"{path} has no variant {manifest.recommended!r}; it has {names}")
    shutil.copyfile(recommended, path / RECOMMENDED_TFLITE)
    manifest = replace(manifest, content_digest=content_digest(path))
    files.write_text(path / MANIFEST_FILE, manifest.to_json())
    return manifest


@dataclass(frozen=True)
class PushResult:
    """Where a push left the bundle.

    Attributes:
      path: the version's folder.
      version: its number.
      pushed: False when that content was in the model's folder already.
      withdrawn: True when it is there, but put aside by a rollback: no server takes it.
    """

    path: Path
    version: int
    pushed: bool
    withdrawn: bool = False

    @property
    def way_back(self) -> str:
        """The command that makes a withdrawn version the served one again."""
        model_dir = self.path.parent
        arguments = [model_dir.name, str(self.version), "--bundles", str(model_dir.parent)]
        return shlex.join(["sightline", "rollback", *arguments])


def push(
    draft: Path,
    model_dir: Path,
    *,
    lineage: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> PushResult:
    """Copies `draft`, or its newest version, to the next one of `model_dir`, atomically and once.

    The copy is written under a temporary name, flushed to disk, read again, and renamed: a server
    polling the folder sees the whole bundle or nothing. A content digest that a version there
    already has, with the same gates waived, is not pushed again; neither is that of a withdrawn
    one, or a re-run would undo a rollback. The next number is above withdrawn ones as well.

    Args:
      draft: the bundle.
      model_dir: `<bundles>/<model name>`.
      lineage: a folder of `core.lineage.write_lineage` that appears together with the version.
      check: called under the model's lock before a version appears; what it raises stops the push.

    Raises:
      BundleError: `draft` is not a complete bundle, the copy is not what `draft` is, or another
        push or rollback of the model does not come to its end.
      OSError: the disk refused; no half version is left, and the same push again finishes.
    """
    opened = open_bundle(draft)
    draft, stated = opened.path, opened.manifest.content_digest
    digest = content_digest(draft)
    if stated not in ("", digest):
        raise BundleError(f"{draft} was changed after its manifest was written; export it again")
    found = _find_content(model_dir, digest, opened.manifest)
    if found is not None:
        return found
    if not model_dir.is_dir():
        model_dir.mkdir(parents=True, exist_ok=True)
        files.sync_folder(model_dir.parent)
    with model_folder.staging(model_dir) as staged:
        shutil.copytree(draft, staged)
        files.sync_tree(staged)
        _check_copy(staged, draft, digest)
        if lineage is not None:
            kept = shutil.copytree(lineage, staged / model_folder.LINEAGE_DIR)
            files.sync_tree(kept)
        with model_folder.locked(model_dir):
            # While the copy was written, another push may have brought the same.
            found = _find_content(model_dir, digest, opened.manifest)
            if found is None:
                check()
                version, target = model_folder.give_number(staged, model_dir)
                found = PushResult(path=target, version=version, pushed=True)
                files.sync_folder(model_dir)
    return found


def _check_copy(staged: Path, draft: Path, digest: str) -> None:
    copied = open_bundle(staged).manifest.content_digest
    if copied not in ("", digest) or content_digest(staged) != digest:
        raise BundleError(
            f"the copy of {draft} in {staged.parent} is not what was to be pushed: the draft was "
            "changed meanwhile, holds links to folders, or the disk is failing; push it again"
        )


def _find_content(model_dir: Path, digest: str, manifest: Manifest) -> PushResult | None:
    """The newest version, not damaged, of that content and those waived gates, else a withdrawn."""
    wanted = [(one, set(manifest.gates.get("not_held", {}))) for one in ("", digest)]
    for number, path in sorted(version_dirs(model_dir).items(), reverse=True):
        if _stated(path) in wanted and _digest_of_files(path) == digest:
            return PushResult(path=path, version=number, pushed=False)
    for number, path in sorted(withdrawn_dirs(model_dir).items(), reverse=True):
        if (_stated(path)[0] or _digest_of_files(path)) == digest:
            return PushResult(path=path, version=number, pushed=False, withdrawn=True)
    return None


def _stated(path: Path) -> tuple[str | None, set[str]]:
    """Content digest (None: no manifest that can be read) and waived gates of a version."""
    try:
        found = Manifest.from_json((path / MANIFEST_FILE).read_text("utf-8"), str(path))
    except (OSError, ValueError):
        return None, set()
    return found.content_digest, set(found.gates.get("not_held", {}))


def _digest_of_files(path: Path) -> str:
    """`content_digest`, empty for what is renamed or cannot be read."""
    try:
        return content_digest(path)
    except OSError:
        return ""
