"""Which folder a run's checkpoints live in, and which other folders hold a state it could take.

A folder is named by everything that decides the weights: configuration, data, and code with the
packages that it imports. `identity.json` in it spells that out. A run whose code changed gets
another folder, so that a state is never resumed by other code unless the user says so; nor does
it disappear.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.config_keys import YOUNG_KEYS
from trainers.data.augment import split_names
from trainers.data.digest import training_digest
from trainers.data.features import DatasetInfo
from trainers.distillation.teacher import Teacher
from trainers.identity.code_digest import Code, code_of
from trainers.identity.file_index import FileIndex
from trainers.identity.stack import git_commit
from trainers.optim.schedule import schedule_of
from trainers.training.checkpoint import saved_position, write_json
from trainers.weights.start import init_file

IDENTITY_FILE = "identity.json"
#: The option that resumes a state that would not be resumed by itself.
RESUME_ANYWAY = "--resume-anyway"

# What may change between two starts of one run: locations, caches, devices, how often it is saved.
_SECTIONS = ("compress", "export", "eval")
_KEYS = {
    "data": ("dir", "cache", "cache_dir", "cache_mb"),
    "model": ("init",),
    "train": ("early_stop", "save_steps", "tensorboard", "strategy", "devices", "tpu"),
    "distill": ("teacher", "cache_dir"),
}
# Epochs that a folder without `identity.json` may have been meant for.
_MOST_EPOCHS = 2000
_FOLDER = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}(-[0-9a-f]{8})?")
_NAMED = 3


@dataclass(frozen=True)
class Identity:
    """Everything that decides a run's weights.

    Attributes:
      config: of the run.
      teacher: digest of the teacher; empty without one.
      init: digest of the weights to start from; empty without any.
      data: `trainers.data.digest.training_digest`.
      fingerprint: of `dataset.json`, which names folders without `identity.json`.
      code: of the training loop.
    """

    config: Config
    teacher: str
    init: str
    data: str
    fingerprint: str
    code: Code

    @property
    def name(self) -> str:
        """The folder's name."""
        facts = {**self.facts, "epochs": self.config.train.epochs}
        return f"{_short(facts)[:16]}-{self.data[:8]}-{self.code.digest[:8]}"

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the weights, besides data, code and the number of epochs."""
        facts = _facts(self.config)
        del facts["train"]["epochs"]
        crop, _ = split_names(self.config.data.augment)
        # A cache keeps the image that a crop is taken from at a lower resolution.
        facts["cached_crops"] = crop is not None and self.config.data.cache in ("memory", "disk")
        return {**facts, "teacher": self.teacher, "init": self.init}

    def old_name(self, epochs: int) -> str:
        """The name that versions without `identity.json` gave the folder of so many epochs.

        Empty where a key that they did not have is set to what they could not do.
        """
        facts = _facts(replace(self.config, train=replace(self.config.train, epochs=epochs)))
        for section, keys in YOUNG_KEYS.items():
            for key, then in keys.items():
                if facts[section].pop(key) != then:
                    return ""
        facts |= {"teacher": self.teacher, "init": self.init}
        return f"{_short(facts)[:16]}-{self.fingerprint[:8]}"

    def write(self, folder: Path, **about: Any) -> None:
        """Writes `identity.json`, with `about` beside it."""
        facts = {
            "config": to_dict(self.config),
            "teacher": self.teacher,
            "init": self.init,
            "data": self.data,
        }
        write_json(folder / IDENTITY_FILE, {**facts, **asdict(CodeRecord.of(self.code)), **about})


@dataclass(frozen=True)
class CodeRecord:
    """The code that made a state: modules and packages as in `Code`, and the commit."""

    modules: dict[str, str]
    packages: dict[str, str]
    commit: str

    @classmethod
    def of(cls, code: Code) -> "CodeRecord":
        """The record of `code`, at the commit that is checked out."""
        return cls(code.modules, code.packages, git_commit())

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "CodeRecord":
        """Reads what `asdict` gave; further keys are passed over."""
        return cls(dict(raw["modules"]), dict(raw["packages"]), str(raw["commit"]))

    def changes(self, code: Code) -> str:
        """What differs in `code`, in words; empty if nothing does."""
        both = {**self.modules, **code.modules}
        changed = [one for one in both if self.modules.get(one) != code.modules.get(one)]
        parts = sorted(changed)[:_NAMED]
        if len(changed) > _NAMED:
            parts.append(f"{len(changed) - _NAMED} more modules")
        for name in sorted({**self.packages, **code.packages}):
            old, new = self.packages.get(name, "none"), code.packages.get(name, "none")
            if old != new:
                parts.append(f"{name} {old} -> {new}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Origin:
    """Another folder with a state that a run could take over.

    Attributes:
      folder: where.
      epoch: how many epochs are done.
      step: how many steps of the next one.
      epochs: how many the run was meant for.
      commit: of the code that made it; empty if it is not known.
      reasons: why it is not taken without being told to; empty if nothing speaks against it.
    """

    folder: Path
    epoch: int
    step: int
    epochs: int
    commit: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """For messages."""
        within = f" and {self.step} steps" if self.step else ""
        commit = f"commit {self.commit}" if self.commit else "commit unknown"
        return f"{self.folder} (epoch {self.epoch} of {self.epochs}{within}, {commit})"

    def line(self, *, anyway: bool, epochs: int) -> str:
        """What a user is shown when a run of `epochs` epochs finds this state."""
        why = "; ".join(self.reasons)
        if not why:
            return (
                f"resumes from {self}: the steps done so far are the same in a run of "
                f"{epochs} epochs"
            )
        if anyway:
            return f"resumes from {self}, as {RESUME_ANYWAY} demands, although {why}"
        return f"starts over and keeps {self}: {why}; {RESUME_ANYWAY} resumes from it"


def identify(
    config: Config, info: DatasetInfo, teacher: Teacher | None, index: FileIndex
) -> Identity:
    """The identity of the run that `config` describes.

    A teacher and the weights to start from count by their content, wherever they are.

    Args:
      config: of the run; `data.dir` holds the records.
      info: of its data.
      teacher: the loaded `distill.teacher`, if there is one.
      index: keeps digests of files between processes.
    """
    init = init_file(config)
    return Identity(
        config=config,
        teacher=teacher.digest if teacher else "",
        init=_digest(init) if init else "",
        data=training_digest(Path(config.data.dir), info, index),
        fingerprint=info.fingerprint,
        code=code_of("trainers.loop", index=index),
    )


def find_origin(work_dir: Path, identity: Identity, *, steps_per_epoch: int) -> Origin | None:
    """The state in `work_dir` that comes nearest to a run that has none of its own.

    It is one of the same configuration and data, from other code or for another number of epochs,
    with no more epochs done than the run has. Of several, the one with the fewest reasons against
    it, then the newest.
    """
    found: list[tuple[int, float, Origin]] = []
    folders = work_dir.iterdir() if work_dir.is_dir() else ()
    for folder in folders:
        if not _FOLDER.fullmatch(folder.name) or folder.name == identity.name:
            continue
        position = saved_position(folder)
        known = _known(folder, identity) if position else None
        if position is None or known is None or position > (identity.config.train.epochs, 0):
            continue
        epochs, commit, change = known
        epoch, step = position
        rates = _rates(identity.config, epochs, epoch=epoch, step=step, each=steps_per_epoch)
        reasons = tuple(filter(None, (change, rates)))
        newest = (folder / "history.json").stat().st_mtime
        origin = Origin(folder, epoch, step, epochs, commit, reasons)
        found.append((-len(reasons), newest, origin))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _known(folder: Path, identity: Identity) -> tuple[int, str, str] | None:
    """Epochs and commit of a folder of the same run, and what changed in the code since."""
    file = folder / IDENTITY_FILE
    if not file.is_file():
        for epochs in range(1, _MOST_EPOCHS + 1):
            if folder.name == identity.old_name(epochs):
                return epochs, "", "it was made by unknown code"
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        config, record = from_dict(raw["config"]), CodeRecord.from_json(raw)
        then = replace(identity, config=config, teacher=raw["teacher"], init=raw["init"])
    except (ValueError, KeyError, TypeError, ConfigError):
        return None
    if then.facts != identity.facts or raw["data"] != identity.data:
        return None
    if not config.train.epochs:
        return None  # Nothing was trained: `model.init` holds the same weights.
    changes = record.changes(identity.code)
    return (
        config.train.epochs,
        record.commit,
        f"the code changed since ({changes})" if changes else "",
    )


def _rates(config: Config, epochs: int, *, epoch: int, step: int, each: int) -> str:
    """Why the steps done in a run of `epochs` are not those of `config`; empty if they are."""
    wanted, done = config.train.epochs, epoch * each + step
    if epochs == wanted or not done:
        return ""
    steps = tf.range(done + 1)
    old, new = (
        schedule_of(config.optim, total * each, global_batch=config.train.global_batch)(steps)
        * tf.ones(done + 1)
        for total in (epochs, wanted)
    )
    if bool(tf.reduce_all(old[:done] == new[:done])):
        return ""
    last, then, next_rate = float(old[done - 1]), float(new[done - 1]), float(new[done])
    return (
        f"the {config.optim.schedule} schedule of train.epochs={epochs} had a learning rate of "
        f"{last:.3g} at the last step done, that of train.epochs={wanted} has {then:.3g} there and "
        f"continues with {next_rate:.3g}"
    )


def _facts(config: Config) -> dict[str, Any]:
    facts = to_dict(config)
    for section in _SECTIONS:
        del facts[section]
    for section, keys in _KEYS.items():
        for key in keys:
            del facts[section][key]
    return facts


def _short(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    """Of a file, or of the weights in a trained folder; empty where there is nothing."""
    files = [path] if path.is_file() else sorted((path / "weights").glob("best*"))
    found = hashlib.sha256()
    for block in _blocks(files):
        found.update(block)
    return found.hexdigest() if files else ""


def _blocks(files: list[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                yield block
