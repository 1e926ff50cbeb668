"""Which folder a run's checkpoints live in: one for everything that decides its weights."""

import hashlib
import json
from pathlib import Path

from trainers.config import Config, to_dict
from trainers.data.features import DatasetInfo
from trainers.distill import Teacher

# What may change between two starts of one run: places, caches, devices, how often it is saved.
_SECTIONS = ("compress", "export", "eval")
_KEYS = {
    "data": ("dir", "cache", "cache_dir", "cache_mb"),
    "model": ("init",),
    "train": ("early_stop", "save_steps", "tensorboard", "strategy", "devices", "tpu"),
    "distill": ("teacher", "cache_dir"),
}


def run_folder(
    work_dir: Path, config: Config, info: DatasetInfo, teacher: Teacher | None = None
) -> Path:
    """The folder in `work_dir` of the run that `config` describes.

    A teacher and the weights to start from count by their content, wherever they lie; data by its
    fingerprint.

    Args:
      work_dir: holds the folders of several runs.
      config: of the run.
      info: of its data.
      teacher: the loaded `distill.teacher`, if there is one.
    """
    facts = to_dict(config)
    for section in _SECTIONS:
        del facts[section]
    for section, keys in _KEYS.items():
        for key in keys:
            del facts[section][key]
    facts["teacher"] = teacher.digest if teacher else ""
    facts["init"] = _digest(_init_path(config)) if config.model.init else ""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return work_dir / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{info.fingerprint[:8]}"


def _init_path(config: Config) -> Path:
    from trainers.weights import init_path  # Readers of files that few runs need.

    return init_path(config)


def _digest(path: Path) -> str:
    """Of a file, or of the weights in a trained folder; empty where there is nothing."""
    files = [path] if path.is_file() else sorted((path / "weights").glob("best*"))
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                found.update(block)
    return found.hexdigest() if files else ""
