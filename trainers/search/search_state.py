"""The folder of a search, and how it resumes the state of other code."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from core.files import write_json
from trainers.config import Config, ConfigError, from_dict, to_dict
from trainers.data.digest import training_digest
from trainers.data.features import DatasetInfo
from trainers.identity.code_digest import Code, code_of
from trainers.identity.file_index import FileIndex
from trainers.training.run_folder import IDENTITY_FILE, RESUME_ANYWAY, CodeRecord

# KerasTuner writes it first and reads it to resume.
_STATE = "oracle.json"


@dataclass(frozen=True)
class Search:
    """Everything that decides a search.

    Attributes:
      config: common to all trials.
      space: configuration key -> source of its values.
      trials: number of trials.
      data: `trainers.data.digest.training_digest`.
      fingerprint: of `dataset.json`, which names searches without `identity.json`.
      code: of the tuner.
    """

    config: Config
    space: Mapping[str, str]
    trials: int
    data: str
    fingerprint: str
    code: Code

    @classmethod
    def of(
        cls, config: Config, space: Mapping[str, str], trials: int, index: FileIndex
    ) -> "Search":
        """The search of `config` over `space`.

        Raises:
          DatasetError: no data set in `data.dir`.
        """
        info = DatasetInfo.load(Path(config.data.dir))
        data = training_digest(Path(config.data.dir), info, index)
        code = code_of("trainers.search.tuner", index=index)
        return cls(config, space, trials, data, info.fingerprint, code)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self._key(self.data)}-{self.code.digest[:8]}"

    def begin(self, folder: Path, announce: Callable[[str], None], *, anyway: bool) -> None:
        """Copies the state of other code if `anyway` is set, else announces that it starts over.

        Args:
          folder: contains the folders of several searches.
          announce: called with a line to print, if there is one.
          anyway: whether `--resume-anyway` is given.
        """
        own = folder / self.name
        if (own / _STATE).is_file():
            return
        other = self._other(folder)
        about = {}
        if other is not None:
            found, why, commit = other
            trials = len(list(found.glob("trial_*")))
            state = f"{found} ({trials} of {self.trials} trials, commit {commit or 'unknown'})"
            if anyway:
                announce(f"search resumes from {state}, as {RESUME_ANYWAY} demands, although {why}")
                shutil.copytree(found, own, copy_function=shutil.copyfile, dirs_exist_ok=True)
                about = {"folder": found.name, "commit": commit}
            else:
                announce(
                    f"search starts over and keeps {state}: {why}; {RESUME_ANYWAY} resumes from it"
                )
        own.mkdir(parents=True, exist_ok=True)
        facts = {"config": to_dict(self.config), "space": dict(self.space), "trials": self.trials}
        record = asdict(CodeRecord.of(self.code))
        write_json(
            own / IDENTITY_FILE, {**facts, "data": self.data, **record, "resumed_from": about}
        )

    def _key(self, data: str) -> str:
        parts = [to_dict(self.config), dict(self.space), self.trials, data]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _other(self, folder: Path) -> tuple[Path, str, str] | None:
        """The newest state of this search by other code, the changes since, and its commit."""
        states = sorted(folder.glob(f"*/{_STATE}"), key=lambda file: -file.stat().st_mtime)
        for found in (state.parent for state in states):
            if found.name == self._key(self.fingerprint):
                return found, "it was started by unknown code", ""
            try:
                raw = json.loads((found / IDENTITY_FILE).read_text(encoding="utf-8"))
                same = from_dict(raw["config"]) == self.config and raw["data"] == self.data
                same = same and raw["space"] == dict(self.space) and raw["trials"] == self.trials
                record = CodeRecord.from_json(raw)
            except (OSError, ValueError, KeyError, TypeError, ConfigError):
                continue
            if same:
                return found, f"the code changed since ({record.changes(self.code)})", record.commit
        return None
