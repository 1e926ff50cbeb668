"""The bundle: the output of a run, and the contract with servers and clients.

    <bundles>/<model name>/<integer version>/
      saved_model.pb variables/ fingerprint.pb       the float model, for TF Serving
      assets/labels.txt                              one class name per line, in label order
      assets.extra/tf_serving_warmup_requests        TFRecord of PredictionLog
      model.tflite                                   the recommended variant, TF Serving's file name
      model_<method>_<dtype>.tflite                  every variant, e.g. model_ptq_int8.tflite
      manifest.json  card.html model_card.json README.md   the model card is in three forms

Signatures of the SavedModel (classification):
  serving_default   image_bytes string (B,)   -> scores f32, classes i32, labels string: (B,k) each
  preprocess        image_bytes string (B,)   -> images uint8 (B,H,W,3)
  predict_tensor    images uint8 (B,H,W,3)    -> scores f32 (B,N): softmax over all classes
  predict_examples  examples string (B,)      -> as serving_default
  predict_embeddings  image_bytes string (B,) -> embeddings f32 (B,D): before the classifier
TFLite: one input uint8 (1,H,W,3) RGB in [0, 255], one output f32 (1,N) softmax, labels.txt
attached as a zip member, and TFLite metadata. The model includes normalization and softmax.
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
from core.renamed import current_fields

INPUT_BYTES = "image_bytes"  # of the signatures that take encoded images
MANIFEST_FILE = "manifest.json"
CARD_FILES = ("card.html", "model_card.json", "README.md")
LABELS_FILE = "assets/labels.txt"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
RECOMMENDED_TFLITE = "model.tflite"
SAVED_MODEL_FILE = "saved_model.pb"
_NOT_CONTENT = {MANIFEST_FILE, *CARD_FILES}  # They may change without a change of the model.
SIGNATURE_BYTES = "serving_default"
SIGNATURE_PREPROCESS = "preprocess"
SIGNATURE_TENSOR = "predict_tensor"
SIGNATURE_EXAMPLES = "predict_examples"
SIGNATURE_EMBEDDINGS = "predict_embeddings"
#: The variant name of the SavedModel itself; every other variant is a TFLite file.
SAVED_MODEL = "saved_model"


@dataclass(frozen=True)
class Variant:
    """One TFLite file of a bundle.

    Attributes:
      name: `<method>_<dtype>`, e.g. `pqat_int8`; the file is `model_<name>.tflite`.
      method: a compression method, e.g. `ptq` or `qat`; `none` is the trained model.
      dtype: `fp32`, `dynamic` or `int8`.
      size_bytes: of the file.
      gzip_bytes: of the file after gzip -9, about the size of a download.
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
        """The file name inside the bundle."""
        return tflite_file(self.name)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`; the module docstring describes the bundle.

    Attributes:
      name: model name, e.g. `digits_cnn`; also its folder and its name on a server.
      input: `{"height", "width", "crop_fraction", "resize", "fit", "exif"}` of the evaluation
        preprocessing (`serving/PIXELS.md`); `resize` defaults to `bilinear`, `fit` to `stretch`.
      top_k: number of classes that `serving_default` returns.
      recommended: name of the variant copied to `model.tflite`.
      methods: compression method of a variant -> its title; empty in earlier versions.
      conversion: variant -> `partitions`, `snr_db` and `rewrites` of its file, null if unknown.
      metrics: variant -> metric -> value, or `[value, low, high]` with a 95 % interval.
      benchmark: variant -> results of `serving.benchmark.variants`.
      gates: `verdict`, `not_held` (gate -> why it was passed), `excludable_drop`; or empty.
      weights_origin: known `package`, `version`, `file`, `sha256`, `license` of initial weights.
      linear_probe: for a model with initial weights: `shipped` (whether it is the frozen backbone
        with a linear probe as its last layer), `why`, and the probe's `val_top1`.
      data: `name`, `source` and `splits` of the training data; empty in earlier versions.
      plugins: files of the user with code of the model; serving does not need them.
      embedding_size: D of `predict_embeddings`; 0 without it, as in earlier versions.
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
    data: dict[str, Any] = field(default_factory=dict)
    weights_origin: dict[str, str] = field(default_factory=dict)
    linear_probe: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)
    conversion: dict[str, dict[str, Any]] = field(default_factory=dict)
    content_digest: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    embedding_size: int = 0
    format_version: int = 1

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Manifest":
        """Parses `text`; `source` names it in errors.

        Raises:
          BundleError: `text` is not JSON, a field is missing, or the format is newer.
        """
        try:
            raw = json.loads(text)
            if raw.get("format_version", 1) > 1:
                raise BundleError(
                    f"{source} has format_version {raw['format_version']}, this version of "
                    "sightline reads 1; upgrade sightline"
                )
            raw["variants"] = tuple(Variant(**v) for v in raw["variants"])
            raw["weights_origin"] = current_fields(raw.get("weights_origin", {}))
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in raw.items() if key in known})
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{source} is not a bundle manifest: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `path` is the version's folder, and `labels` are in label order."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...]

    @property
    def version(self) -> int:
        """The version number; 0 for a draft."""
        return int(self.path.name) if self.path.name.isdigit() else 0

    def tflite_path(self, variant: str) -> Path:
        """The file of `variant`.

        Raises:
          BundleError: the bundle has no such variant; lists the variants.
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

    Leaves out temporary folders, withdrawn versions, and numbers above `model_folder.MAX_VERSION`.
    `00000123` is 123, as in TF Serving; of two spellings, the first by name is used. Includes
    unreadable versions: opening one raises the error.
    """
    return model_folder.numbered_dirs(model_dir, "", SAVED_MODEL_FILE)


def withdrawn_dirs(model_dir: Path) -> dict[int, Path]:
    """Version -> folder of the versions that a rollback withdrew, ascending."""
    return model_folder.numbered_dirs(model_dir, WITHDRAWN_PREFIX, SAVED_MODEL_FILE)


def versions(model_dir: Path) -> list[int]:
    """The complete versions under a model's folder, ascending."""
    return list(version_dirs(model_dir))


def find_models(bundles_dir: Path) -> dict[str, list[int]]:
    """Model name -> versions of every model under `bundles_dir` with at least one version."""
    entries = sorted(bundles_dir.iterdir()) if bundles_dir.is_dir() else []
    return {entry.name: found for entry in entries if (found := versions(entry))}


def open_bundle(path: Path | str) -> Bundle:
    """Opens a version's folder, or the newest version of a model's folder.

    Raises:
      BundleError: the folder or a version does not exist, or manifest and labels do not match.
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
        raise BundleError(f"{manifest_path} is missing: a SavedModel, but not a Sightline bundle")
    manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"), str(manifest_path))
    labels = read_labels(path)
    if len(labels) != manifest.num_classes:
        raise BundleError(
            f"{path / LABELS_FILE} has {len(labels)} lines, but the manifest has "
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
    """Sha256 hex over names and bytes of all files except the manifest and the cards."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        if name not in _NOT_CONTENT:
            data = file.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def gzip_size(path: Path) -> int:
    """Bytes of the file after gzip -9, about the size of a download."""
    return len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0))


def seal(path: Path, manifest: Manifest) -> Manifest:
    """Completes the bundle in `path`: writes `model.tflite`, and last the manifest with the digest.

    Raises:
      BundleError: the bundle has no variant `manifest.recommended`.
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
    """The result of a push.

    Attributes:
      path: the version's folder.
      version: its number.
      pushed: False if the model's folder already had this content.
      withdrawn: True if a rollback withdrew the version with this content; no server loads it.
    """

    path: Path
    version: int
    pushed: bool
    withdrawn: bool = False

    @property
    def way_back(self) -> str:
        """The command that serves a withdrawn version again."""
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
    """Copies `draft`, or its newest version, to the next version, atomically and once.

    The copy is written under a temporary name, flushed to disk, read again, and renamed, so a
    server that polls the folder sees the complete bundle or nothing. Content that a version already
    has, with the same gates waived, is not pushed again, and neither is that of a withdrawn
    version: a rerun would otherwise undo a rollback. The new number is above all withdrawn ones.

    Args:
      draft: the bundle.
      model_dir: `<bundles>/<model name>`.
      lineage: a folder of `core.lineage.write_lineage`, which is published with the version.
      check: called under the model's lock before publication; an exception stops the push.

    Raises:
      BundleError: `draft` is not a complete bundle, the copy differs from it, or another push or
        rollback of the model does not finish.
      OSError: the disk reports an error; no partial version remains, and the push can be repeated.
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
            files.sync_tree(shutil.copytree(lineage, staged / model_folder.LINEAGE_DIR))
        with model_folder.locked(model_dir):
            # Another push may have published the same content meanwhile.
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
    """The newest intact version with that content and those waived gates, or a withdrawn one."""
    wanted = [(one, set(manifest.gates.get("not_held", {}))) for one in ("", digest)]
    for number, path in sorted(version_dirs(model_dir).items(), reverse=True):
        if _stated(path) in wanted and _digest_of_files(path) == digest:
            return PushResult(path=path, version=number, pushed=False)
    for number, path in sorted(withdrawn_dirs(model_dir).items(), reverse=True):
        if (_stated(path)[0] or _digest_of_files(path)) == digest:
            return PushResult(path=path, version=number, pushed=False, withdrawn=True)
    return None


def _stated(path: Path) -> tuple[str | None, set[str]]:
    """The content digest (None without a readable manifest) and waived gates of a version."""
    try:
        found = Manifest.from_json((path / MANIFEST_FILE).read_text("utf-8"), str(path))
    except (OSError, ValueError):
        return None, set()
    return found.content_digest, set(found.gates.get("not_held", {}))


def _digest_of_files(path: Path) -> str:
    """`content_digest`; empty if a file was renamed or cannot be read."""
    try:
        return content_digest(path)
    except OSError:
        return ""
