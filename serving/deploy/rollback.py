"""The way back: makes an older pushed version the one that servers take, and forward again.

TF Serving and the embedded server take the largest number in a model's folder. So every version
above the wanted one is withdrawn: `7` is renamed to `.withdrawn-7`, a name that both overlook.
Nothing is copied and nothing is deleted; bringing a version back is the rename the other way.

The order of the renames makes one of them the switch. Versions are withdrawn from the lowest up,
so that the served one goes last; one that comes back does so before any goes. At every moment, and
after a crash at any of them, the folder holds a whole version, and the same command again finishes
the job. Standard library only.
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

# A server may have listed the folder before a version came back and look at what it found after
# another went; this is longer than any look takes.
_SETTLE_S = 0.2


@dataclass(frozen=True)
class Rollback:
    """One change of the served version, as `rollbacks.jsonl` keeps it.

    Attributes:
      model: its name.
      served_before: the version that servers took, before.
      serves: the version that they take now.
      withdrawn: versions put aside, ascending.
      restored: versions brought back, descending.
      at: UTC, ISO 8601.
      who: user and host.
      why: as given, or empty.
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
        """Whether there was anything to do."""
        return bool(self.withdrawn or self.restored)


@dataclass(frozen=True)
class ModelVersions:
    """What a model's folder holds.

    Attributes:
      served: what a server without a pinned version takes; None when there is none.
      present: the whole versions, ascending.
      withdrawn: those put aside, ascending.
    """

    served: int | None
    present: tuple[int, ...]
    withdrawn: tuple[int, ...]

    def __str__(self) -> str:
        present = ", ".join(map(str, self.present)) or "none"
        withdrawn = ", ".join(map(str, self.withdrawn))
        return f"versions {present}" + (f"; withdrawn {withdrawn}" if withdrawn else "")


def model_versions(model_dir: Path) -> ModelVersions:
    """What the model's folder holds now; empty for a folder that is not there."""
    present = tuple(bundles.versions(model_dir))
    return ModelVersions(
        served=max(present, default=None),
        present=present,
        withdrawn=tuple(version for version in withdrawn_dirs(model_dir) if version not in present),
    )


def history(model_dir: Path) -> list[Rollback]:
    """The rollbacks of a model, oldest first; one that was interrupted is not `finished`.

    Raises:
      BundleError: the file holds something else.
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
            continue  # A crash can cut a line anywhere; it must not bar the way back.
        try:
            lists = {key: tuple(raw[key]) for key in ("withdrawn", "restored")}
            entry = Rollback(**{**raw, **lists})
        except (TypeError, KeyError) as error:
            raise BundleError(
                f"{file} line {number} is no record of a rollback: {error}; move it away"
            ) from error
        found[entry.at] = entry
    return list(found.values())


def rollback(model_dir: Path, version: int | None = None, *, why: str = "") -> Rollback:
    """Makes `version` the one that servers take, at once and reversibly.

    Args:
      model_dir: `<bundles>/<model>`.
      version: a version that is there or was withdrawn; None is the one before the served one, or
        where an interrupted rollback was to end. A withdrawn version comes back with the lower
        ones that went in the same step.
      why: kept in the history.

    Returns:
      What was done; nothing, and no record of it, when it was served already.

    Raises:
      BundleError: no such version, none before the served one, a damaged one, or another push or
        rollback of the model that does not come to its end.
      OSError: the disk refused; the same call again finishes what was begun.
    """
    if not model_dir.is_dir():
        known = ", ".join(bundles.find_models(model_dir.parent)) or "no model"
        raise BundleError(f"{model_dir} is not a folder; {model_dir.parent} holds {known}")
    with locked(model_dir):
        plan = _plan(model_dir, version, why)
        if plan.changed:
            _refuse_trouble(model_dir, plan)
            _record(model_dir, plan)
            _carry_out(model_dir, plan)
        if plan.changed or _unfinished(model_dir):
            # Also when nothing moved: whoever names the served version gives up what was begun.
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
                "name a withdrawn one to bring it back"
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
    """What the last rollback was to make the served version, if it did not get to its end.

    None also when something else has become the served version since, such as a push.
    """
    last = _unfinished(model_dir)
    if last is None:
        return None
    own = (last.serves, last.served_before, *last.withdrawn, *last.restored)
    return last.serves if now.served in own else None


def _begun(model_dir: Path, version: int) -> Rollback | None:
    """The last rollback, if it was to the same version and was interrupted: to be finished."""
    last = _unfinished(model_dir)
    return last if last and last.serves == version else None


def _unfinished(model_dir: Path) -> Rollback | None:
    last = next(reversed(history(model_dir)), None)
    return None if last is None or last.finished else last


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"  # a container's user often has no name
    return f"{user}@{os.uname().nodename}"


def _to_restore(model_dir: Path, version: int, now: ModelVersions) -> tuple[int, ...]:
    """`version` if it was withdrawn, and the lower ones that were withdrawn in the same step."""
    if version in now.present:
        return ()
    went_with = next(
        (entry.withdrawn for entry in reversed(history(model_dir)) if version in entry.withdrawn),
        (),
    )
    lower = [number for number in went_with if number < version and number in now.withdrawn]
    return (version, *sorted(lower, reverse=True))


def _carry_out(model_dir: Path, plan: Rollback) -> None:
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
    """All that TF Serving takes for a version: in every spelling, half ones, even a file."""
    found: dict[int, list[Path]] = {}
    for entry in sorted(model_dir.iterdir()):
        if re.fullmatch("[0-9]+", entry.name):
            found.setdefault(int(entry.name), []).append(entry)
    return found


def _withdrawn_name(version: Path) -> Path:
    return version.with_name(f"{WITHDRAWN_PREFIX}{version.name}")


def _numbered_name(withdrawn: Path) -> Path:
    return withdrawn.with_name(withdrawn.name.removeprefix(WITHDRAWN_PREFIX))


def _refuse_trouble(model_dir: Path, plan: Rollback) -> None:
    """Looks, before anything is renamed, for what would stop the renames or the servers.

    A bundle must still be what was pushed; any other SavedModel is taken as it is.

    Raises:
      BundleError: the version's content is not what its manifest says, or a name is taken.
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
            raise BundleError(f"{source} and {target} are both there; move one of them away")
    path = bundles.version_dirs(model_dir).get(plan.serves) or aside[plan.serves]
    if not (path / bundles.MANIFEST_FILE).is_file():
        return
    digest = bundles.open_bundle(path).manifest.content_digest
    if digest and digest != bundles.content_digest(path):
        raise BundleError(f"{path} is not what was pushed: its files were changed; choose another")


def _record(model_dir: Path, entry: Rollback) -> None:
    with (model_dir / HISTORY_FILE).open("a+b") as file:
        # A crash can have left half a line, and this one must not become its end.
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
        torn = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(asdict(entry)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if not size:
        sync_folder(model_dir)  # A new file's name is on disk only with its folder.
