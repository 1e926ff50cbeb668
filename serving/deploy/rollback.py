"""Rollback of the served version of a model, and restoring a withdrawn version.

TF Serving and the embedded server serve the largest number in a model's folder. A rollback renames
every version above the requested one, for example `7` to `.withdrawn-7`, a name that both ignore.
Nothing is copied or deleted; restoring a version reverses the rename.

Withdrawn versions are restored first, then versions are withdrawn in ascending order, so that the
served one is last and its rename is the switch. At any moment, also after a crash, the folder has a
complete version, and running the same command again completes the rollback. Standard library only.
"""

import datetime
import getpass
import json
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core import bundle as bundles
from core.bundle import WITHDRAWN_PREFIX, BundleError, withdrawn_dirs
from core.files import sync_folder
from core.model_folder import locked

HISTORY_FILE = "rollbacks.jsonl"

# A server may list the folder before a version is restored and open what it found after another
# was withdrawn; this is longer than a server takes for both.
_SETTLE_S = 0.2


@dataclass(frozen=True)
class Rollback:
    """A change of the served version, as recorded in `rollbacks.jsonl`.

    Attributes:
      model: model name.
      served_before: the version that was served before.
      serves: the version that is served now.
      withdrawn: the withdrawn versions, ascending.
      restored: the restored versions, descending.
      at: UTC, ISO 8601.
      who: user and host.
      why: the given reason, or empty.
      finished: False in the record that is written before the first rename.
    """

    model: str
    served_before: int | None
    serves: int
    withdrawn: tuple[int, ...]
    restored: tuple[int, ...]
    at: str
    who: str
    why: str = ""
    finished: bool = False

    @property
    def changed(self) -> bool:
        """Whether any version was withdrawn or restored."""
        return bool(self.withdrawn or self.restored)


@dataclass(frozen=True)
class ModelVersions:
    """The versions in a model's folder.

    Attributes:
      served: the version of a server without a pinned version; None if there is none.
      present: the complete versions, ascending.
      withdrawn: the withdrawn versions, ascending.
    """

    served: int | None
    present: tuple[int, ...]
    withdrawn: tuple[int, ...]

    def __str__(self) -> str:
        present = ", ".join(map(str, self.present)) or "none"
        withdrawn = ", ".join(map(str, self.withdrawn))
        return f"versions {present}" + (f"; withdrawn {withdrawn}" if withdrawn else "")


def model_versions(model_dir: Path) -> ModelVersions:
    """The versions in a model's folder; empty if the folder does not exist."""
    present = tuple(bundles.versions(model_dir))
    return ModelVersions(
        served=max(present, default=None),
        present=present,
        withdrawn=tuple(version for version in withdrawn_dirs(model_dir) if version not in present),
    )


def history(model_dir: Path) -> list[Rollback]:
    """The rollbacks of a model, oldest first; an interrupted one is not `finished`.

    Raises:
      BundleError: the file has a line that is not a rollback.
    """
    file = model_dir / HISTORY_FILE
    if not file.is_file():
        return []
    found: dict[str, Rollback] = {}
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            raw: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # A crash can truncate a line; it must not prevent a rollback.
        try:
            lists = {key: tuple(raw[key]) for key in ("withdrawn", "restored")}
            entry = Rollback(**{**raw, **lists})
        except (TypeError, KeyError) as error:
            raise BundleError(
                f"{file} line {number} is not a record of a rollback: {error}; move the file"
            ) from error
        found[entry.at] = entry
    return list(found.values())


def rollback(model_dir: Path, version: int | None = None, *, why: str = "") -> Rollback:
    """Makes `version` the served version, atomically and reversibly.

    Args:
      model_dir: `<bundles>/<model>`.
      version: a present or withdrawn version; None is the one before the served version, or the
        target of an interrupted rollback. A withdrawn version is restored together with the lower
        ones that were withdrawn in the same step.
      why: recorded in the history.

    Returns:
      The changes; none, and no record, if the version is already served.

    Raises:
      BundleError: there is no such version, none before the served one, the version is damaged, or
        another push or rollback of the model does not finish.
      OSError: the disk failed; the same call again completes the rollback.
    """
    if not model_dir.is_dir():
        known = ", ".join(bundles.find_models(model_dir.parent)) or "no model"
        raise BundleError(f"{model_dir} is not a folder; {model_dir.parent} has {known}")
    with locked(model_dir):
        plan = _plan(model_dir, version, why)
        if plan.changed:
            _check_renames(model_dir, plan)
            _record(model_dir, plan)
            _apply(model_dir, plan)
        if plan.changed or _unfinished(model_dir):
            # A rollback to the served version also ends an interrupted one.
            plan = replace(plan, finished=True)
            _record(model_dir, plan)
    return plan


def _plan(model_dir: Path, version: int | None, why: str) -> Rollback:
    now = model_versions(model_dir)
    if version is None:
        version = _interrupted(model_dir, now)
    if version is None:
        older = [number for number in now.present if number != now.served]
        if not older:
            raise BundleError(
                f"{model_dir.name} has no version before the served one: {now}; "
                "specify a withdrawn version to restore it"
            )
        version = older[-1]
    if version not in now.present and version not in now.withdrawn:
        raise BundleError(f"{model_dir.name} has no version {version}: {now}")
    begun = _begun(model_dir, version)
    above = {number for number in _numbered(model_dir) if number > version}
    return Rollback(
        model=model_dir.name,
        served_before=begun.served_before if begun else now.served,
        serves=version,
        withdrawn=tuple(sorted(above.union(begun.withdrawn if begun else ()))),
        restored=begun.restored if begun else _to_restore(model_dir, version, now),
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
        who=_who(),
        why=why or (begun.why if begun else ""),
    )


def _interrupted(model_dir: Path, now: ModelVersions) -> int | None:
    """The target of the last rollback if it was interrupted.

    None also if another version has been served since, for example after a push.
    """
    last = _unfinished(model_dir)
    if last is None:
        return None
    own = (last.serves, last.served_before, *last.withdrawn, *last.restored)
    return last.serves if now.served in own else None


def _begun(model_dir: Path, version: int) -> Rollback | None:
    """The last rollback if it was interrupted and had the same target."""
    last = _unfinished(model_dir)
    return last if last and last.serves == version else None


def _unfinished(model_dir: Path) -> Rollback | None:
    last = next(reversed(history(model_dir)), None)
    return None if last is None or last.finished else last


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"  # Users of containers often have no name.
    return f"{user}@{os.uname().nodename}"


def _to_restore(model_dir: Path, version: int, now: ModelVersions) -> tuple[int, ...]:
    """`version` if it is withdrawn, and the lower ones that were withdrawn in the same step."""
    if version in now.present:
        return ()
    together = next(
        (entry.withdrawn for entry in reversed(history(model_dir)) if version in entry.withdrawn),
        (),
    )
    lower = [number for number in together if number < version and number in now.withdrawn]
    return (version, *sorted(lower, reverse=True))


def _apply(model_dir: Path, plan: Rollback) -> None:
    aside = withdrawn_dirs(model_dir)
    for source in [aside[number] for number in plan.restored if number in aside]:
        os.rename(source, _numbered_name(source))
    sync_folder(model_dir)
    if plan.restored and plan.withdrawn:
        time.sleep(_SETTLE_S)
    numbered = _numbered(model_dir)
    for number in plan.withdrawn:
        for source in numbered.get(number, ()):
            os.rename(source, _withdrawn_name(source))
    sync_folder(model_dir)


def _numbered(model_dir: Path) -> dict[int, list[Path]]:
    """Everything that TF Serving treats as a version: `007`, incomplete folders, even files."""
    found: dict[int, list[Path]] = {}
    for entry in sorted(model_dir.iterdir()):
        if re.fullmatch("[0-9]+", entry.name):
            found.setdefault(int(entry.name), []).append(entry)
    return found


def _withdrawn_name(version: Path) -> Path:
    return version.with_name(f"{WITHDRAWN_PREFIX}{version.name}")


def _numbered_name(withdrawn: Path) -> Path:
    return withdrawn.with_name(withdrawn.name.removeprefix(WITHDRAWN_PREFIX))


def _check_renames(model_dir: Path, plan: Rollback) -> None:
    """Validates the renames and the version before anything is renamed.

    A bundle must be unchanged since its push; other SavedModels are not checked.

    Raises:
      BundleError: the content does not match the manifest, or a target name exists.
    """
    aside, numbered = withdrawn_dirs(model_dir), _numbered(model_dir)
    renames = [
        (source, _withdrawn_name(source))
        for number in plan.withdrawn
        for source in numbered.get(number, ())
    ]
    renames += [(aside[n], _numbered_name(aside[n])) for n in plan.restored if n in aside]
    for source, target in renames:
        if os.path.lexists(target):
            raise BundleError(f"{source} and {target} both exist; move one of them")
    path = bundles.version_dirs(model_dir).get(plan.serves) or aside[plan.serves]
    if not (path / bundles.MANIFEST_FILE).is_file():
        return
    digest = bundles.open_bundle(path).manifest.content_digest
    if digest and digest != bundles.content_digest(path):
        raise BundleError(f"the files of {path} changed after the push; choose another version")


def _record(model_dir: Path, entry: Rollback) -> None:
    with (model_dir / HISTORY_FILE).open("a+b") as file:
        # Start a new line if a crash left an incomplete one.
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        is_truncated = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * is_truncated + json.dumps(asdict(entry)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if not size:
        sync_folder(model_dir)  # The name of a new file is durable only with its folder.
