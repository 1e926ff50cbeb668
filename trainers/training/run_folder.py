"""The folder of a run's checkpoints, and other folders with a state that the run could resume.

The name of a folder is a digest of everything that decides the weights: configuration, data, and
code with the packages that it imports; `identity.json` in it lists them. A run whose code changed
gets another folder, so that other code resumes a state only on request, and no state is lost.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from core.files import write_json
from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.config_keys import keys_of, values_with
from trainers.data.augment import split_names
from trainers.data.digest import training_digest
from trainers.data.entries import former_spelling
from trainers.data.features import DatasetInfo
from trainers.distillation.teacher import Teacher
from trainers.identity.code_digest import Code, code_of
from trainers.identity.file_index import FileIndex
from trainers.identity.stack import git_commit
from trainers.optim.schedule import schedule_of
from trainers.training.checkpoint import saved_position
from trainers.weights.start import init_file

IDENTITY_FILE = "identity.json"
#: The option that resumes a state of other code or with other learning rates.
RESUME_ANYWAY = "--resume-anyway"

# The largest number of epochs to look for in the names of folders without `identity.json`.
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
        """Everything that decides the weights, except data, code and the number of epochs."""
        facts = _facts(self.config)
        del facts["train"]["epochs"]
        crop, _ = split_names(self.config.data.augment)
        # A cache stores the image that a crop is taken from at a lower resolution.
        facts["cached_crops"] = crop is not None and self.config.data.cache in ("memory", "disk")
        return {**facts, "teacher": self.teacher, "init": self.init}

    def old_name(self, epochs: int) -> str:
        """The folder name of so many epochs in versions without `identity.json`.

        Empty if a key that they did not have is set to a value that they could not produce.
        """
        facts = _facts(self.config)
        facts["train"]["epochs"] = epochs
        for name, key in keys_of(Config).items():
            section, _, own = name.partition(".")
            if key.identity and key.is_young and facts[section].pop(own) != key.before:
                return ""
        facts |= {"teacher": self.teacher, "init": self.init}
        return f"{_short(facts)[:16]}-{self.fingerprint[:8]}"

    def write(self, folder: Path, **about: Any) -> None:
        """Writes `identity.json`, with the keys of `about` added."""
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
        """Reads the result of `asdict`; further keys are ignored."""
        return cls(dict(raw["modules"]), dict(raw["packages"]), str(raw["commit"]))

    def changes(self, code: Code) -> str:
        """The differences to `code` as text; empty if there are none."""
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
class ResumableState:
    """A state in another folder that a run could resume.

    Attributes:
      folder: of the state.
      epoch: number of epochs done.
      step: number of steps done of the next one.
      epochs: number of epochs of its run.
      commit: of the code that made it; empty if it is not known.
      reasons: why it is resumed on request only; empty if it is resumed anyway.
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
        """The line that is printed if a run of `epochs` epochs finds this state."""
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

    A teacher and initial weights are identified by their content, not by their location.

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


def find_resumable(
    work_dir: Path, identity: Identity, *, steps_per_epoch: int
) -> ResumableState | None:
    """The best state in `work_dir` for a run that has no state yet; None if there is none.

    It has the same configuration and data, from other code or for another number of epochs, and at
    most as many epochs done as the run has. Of several, the one with the fewest reasons against it
    is returned, then the newest.
    """
    found: list[tuple[int, float, ResumableState]] = []
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
        state = ResumableState(folder, epoch, step, epochs, commit, reasons)
        found.append((-len(reasons), newest, state))
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
    """The difference between the rates of the steps done and those of `config`; empty if none."""
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
    facts = values_with(config, "identity")
    # A renamed augmentation must not separate a run from its checkpoints.
    facts["data"]["augment"] = [former_spelling(text) for text in config.data.augment]
    return facts


def _short(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    """Digest of a file, or of the weights in a trained folder; empty without any."""
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
