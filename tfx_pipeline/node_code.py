"""The digest of the code of each node, for the cache of TFX.

TFX identifies components by name only. Each node has a digest of the modules that it runs as a
parameter, so that it runs again if and only if they change.
"""

import functools
from pathlib import Path

from tfx_pipeline.request.run import RunRequest
from trainers.data.digest import data_digest
from trainers.data.features import DatasetInfo
from trainers.identity.code_digest import code_digest
from trainers.identity.file_index import FileIndex

#: Kind of node -> the modules that it runs; their imports are found from there.
NODE_MODULES: dict[str, tuple[str, ...]] = {
    "LiveModel": ("components.live_model",),
    "StatisticsGen": ("components.data_validation.statistics_checks",),
    "SchemaGen": (),
    "StatisticsValidator": ("components.data_validation.statistics_validator",),
    "ImageValidator": ("components.data_validation.image_validator",),
    "DataGate": ("components.data_validation.image_validator",),
    "Tuner": ("trainers.search.tuner",),
    "Trainer": ("trainers.run_fn",),
    "ModelSelector": ("components.model_selector",),
    "Compressor": ("components.compressor",),
    "Predictor": ("components.predictor",),
    "Evaluator": ("components.evaluation.evaluator",),
    "Benchmarker": ("components.benchmarker",),
    "ServingValidator": ("components.serving_validator",),
    "SignificanceGate": ("components.gates.significance_gate",),
    "CardWriter": ("components.model_card.card_writer",),
    "BundlePusher": ("components.bundle_pusher",),
}
# Packages of TFX's standard components, which our modules do not import.
_PACKAGES = {
    "StatisticsGen": ("tfx", "tensorflow_data_validation", "tfx_bsl"),
    "SchemaGen": ("tfx", "tensorflow_data_validation"),
    "Tuner": ("tfx",),
    "Trainer": ("tfx",),
}


@functools.lru_cache
def node_digest(kind: str) -> str:
    """Digest of the code that nodes of this kind run, including the packages it imports."""
    return code_digest(*NODE_MODULES[kind], packages=_PACKAGES.get(kind, ()))


def run_data_digest(request: RunRequest, info: DatasetInfo) -> str:
    """`trainers.data.digest.data_digest` of the run's records."""
    with FileIndex(request.layout.index).open() as index:
        return data_digest(Path(request.data), info, index)
