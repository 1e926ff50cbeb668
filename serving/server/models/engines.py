"""The engine of a version: TensorFlow for SavedModels, LiteRT where a flag selects it."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core import bundle as bundles
from core.model_folder import MAX_VERSION
from core.processes import available_cores
from serving.engines.engine import open_engine
from serving.engines.graph_import import Build, build_here
from serving.engines.saved_model import EngineError, load_saved_model
from serving.engines.signatures import GraphSignature

_LOG = logging.getLogger(__name__)


class Engine(Protocol):
    """A loaded model; every method is thread-safe.

    Attributes:
      path: the version's folder.
      runtime: its name in the metrics.
      signatures: by name, those that can be called.
      signature_defs: name -> `SignatureDef` proto, for the metadata.
    """

    path: Path
    runtime: str
    signatures: dict[str, GraphSignature]
    signature_defs: dict[str, Any]

    def prepare(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """(tensor -> array, output name -> tensor) for `run_tensors`, after checks.

        Raises:
          EngineError: names that the signature lacks, or an invalid input.
        """
        ...

    def run_tensors(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Tensor name -> array.

        Raises:
          EngineError: the model refuses the inputs, or the engine is closed.
        """
        ...

    def close(self) -> None:
        """Frees the model's memory."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How versions are loaded.

    Attributes:
      prefer_tflite: serve a version's `model.tflite` if it has one.
      tflite_pools: pools of interpreters; 0 is one per core.
      tflite_interpreters_per_pool: images that run at a time in each pool.
      variants: model name -> variant of its bundles to serve, `saved_model` or e.g. `ptq_int8`;
        the name "" stands for all other models that are bundles.
      intra_op: threads for one TensorFlow operation; 0 is one per core.
      inter_op: TensorFlow operations at a time; 0 is one per core.
      run_timeout_ms: of one run, see `load_saved_model`; 0 sets no bound. LiteRT has none.
    """

    prefer_tflite: bool = False
    tflite_pools: int = 0
    tflite_interpreters_per_pool: int = 1
    variants: Mapping[str, str] = field(default_factory=dict)
    intra_op: int = 0
    inter_op: int = 0
    run_timeout_ms: int = 300_000

    @property
    def interpreters(self) -> int:
        """The number of LiteRT interpreters per model."""
        return (self.tflite_pools or available_cores()) * self.tflite_interpreters_per_pool


DEFAULT_OPTIONS = EngineOptions()


def load_engine(
    name: str, version_dir: Path, options: EngineOptions, *, build: Build = build_here
) -> Engine:
    """The engine that the options select for a version.

    Args:
      name: of the model.
      version_dir: folder of the version.
      options: a variant takes precedence over `prefer_tflite`.
      build: runs the long parts of loading a SavedModel.

    Raises:
      EngineError: the folder has nothing that can be loaded.
    """
    variant = _variant(name, version_dir, options)
    if variant != bundles.SAVED_MODEL:
        from serving.engines.litert import VariantEngine

        try:
            engine = open_engine(version_dir, variant, size=options.interpreters)
        except bundles.BundleError as error:
            raise EngineError(str(error), "FAILED_PRECONDITION") from error
        return VariantEngine(engine)
    tflite = version_dir / bundles.RECOMMENDED_TFLITE
    if options.prefer_tflite and tflite.is_file():
        from serving.engines.litert import LiteRtEngine

        return LiteRtEngine(tflite, size=options.interpreters)
    return load_saved_model(
        version_dir,
        intra_op=options.intra_op,
        inter_op=options.inter_op,
        run_timeout_ms=options.run_timeout_ms,
        build=build,
    )


def _variant(name: str, version_dir: Path, options: EngineOptions) -> str:
    if name in options.variants:
        return options.variants[name]
    if (version_dir / bundles.MANIFEST_FILE).is_file():
        return options.variants.get("", bundles.SAVED_MODEL)
    return bundles.SAVED_MODEL


@functools.lru_cache(maxsize=1000)
def _warn_once(entry: Path) -> None:
    _LOG.warning("%s is ignored: a version is at most %d", entry, MAX_VERSION)


def version_dirs(model_dir: Path, options: EngineOptions) -> dict[int, Path]:
    """Version -> folder, ascending; includes folders that cannot be read.

    Raises:
      OSError: `model_dir` itself cannot be read.
    """
    found = bundles.version_dirs(model_dir)
    if not model_dir.is_dir():
        return found
    for entry in sorted(model_dir.iterdir()):
        name = entry.name
        if not (name.isascii() and name.isdigit()):
            continue
        if int(name) > MAX_VERSION:
            _warn_once(entry)
        elif options.prefer_tflite:
            # Unreadable folders have been found already, and would raise here.
            is_new = int(name) not in found
            if is_new and (entry / bundles.RECOMMENDED_TFLITE).is_file():
                found[int(name)] = entry
    return dict(sorted(found.items()))
