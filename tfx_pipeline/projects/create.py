"""`sightline new`: makes a project folder from a folder of images."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.files import LockHeldError, file_lock
from tfx_pipeline.config import pipelines
from tfx_pipeline.ingest import TFRECORD
from tfx_pipeline.projects.find import PROJECT_FILE, ProjectError
from tfx_pipeline.projects.grouping import Grouping, find_groups
from tfx_pipeline.projects.sources import RECORDS, Found, look
from tfx_pipeline.projects.suggest import Suggestion, suggest
from tfx_pipeline.projects.text import Facts, pipeline_text, readme_text, relative
from trainers.data.features import CLASSIFICATION, DatasetInfo
from trainers.registry import recipes

#: `--group` for no groups, also where some are found.
NO_GROUPS = "none"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Wanted:
    """What `sightline new` was given.

    Attributes:
      name: of the project.
      source: the images or records.
      out: the folder to make the project in.
      options: of the ingest job, `key=value`.
      group: as for `sightline ingest`; `none` for no groups, empty to look for some.
      exif: `as_stored` or `upright`.
    """

    name: str
    source: Path
    out: Path = Path()
    options: tuple[str, ...] = ()
    group: str = ""
    exif: str = "as_stored"

    @property
    def command(self) -> str:
        """As typed, with the source's whole path."""
        words = ["sightline", "new", self.name, str(self.source.expanduser().resolve())]
        words += self.options
        words += ["--group", self.group] if self.group else []
        words += ["--exif", self.exif] if self.exif != "as_stored" else []
        return shlex.join(words)


def create(wanted: Wanted, console: Console) -> Path:
    """Makes the project and prints what was found, what is suggested and the next command.

    Returns:
      The project's folder, which appears complete or not at all.

    Raises:
      ProjectError: a name that is taken or cannot be, or a source that no model can be made of.
      IngestError: the source cannot be read.
    """
    target = _target(wanted)
    found = look(wanted.source, wanted.options)
    if target.resolve().is_relative_to(found.where):
        raise ProjectError(
            f"{target} would lie within {found.where}, as if it were one of its classes; give "
            "another folder with --out"
        )
    groups = find_groups(found) if not wanted.group else None
    with _staged(target) as work:
        facts = _fill(work, wanted, found, groups, console)
    _show(facts, target, console)
    return target


def _target(wanted: Wanted) -> Path:
    """The folder to make.

    Raises:
      ProjectError: its name or its place is taken.
    """
    name = wanted.name
    if not _NAME.fullmatch(name) or name.endswith(".py"):
        raise ProjectError(
            f"a project's name has letters, digits, `.`, `_` and `-` and does not end in .py, got "
            f"{name!r}; --out gives the folder to make it in"
        )
    for registry in (pipelines, recipes):
        if name in registry.names():
            raise ProjectError(f"{name!r} is a {registry.kind} already; choose another name")
    target = wanted.out.expanduser() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ProjectError(f"{target} exists already; choose another name, or delete it first")
    return target


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` at the end; on an error nothing of it is left."""
    parents = [one for one in (target.parent, *target.parent.parents) if not one.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}.new"
    work.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(work, wait_s=0))
        except LockHeldError:
            raise ProjectError(
                f"{target} is being made by another process; wait for it, or choose another name"
            ) from None
        try:
            for one in work.iterdir():  # Of one that was killed.
                shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
            yield work
            if target.is_dir():
                target.rmdir()
            work.rename(target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):
                for one in parents:
                    one.rmdir()
            raise


def _fill(
    work: Path, wanted: Wanted, found: Found, groups: Grouping | None, console: Console
) -> Facts:
    """Writes the project into `work`."""
    applied = groups if groups is not None and not groups.torn else None
    group = applied.spec if applied else "" if wanted.group == NO_GROUPS else wanted.group
    records = found.where if found.job == RECORDS else work / "data"
    if found.job != RECORDS:
        from tfx_pipeline.cli.views.ingest import ingest_shown

        settings = {"group": group, "exif": wanted.exif} if found.job != TFRECORD else {}
        ingest_shown(
            found.job,
            str(found.where),
            records,
            console,
            options=found.options,
            name=wanted.name,
            shown=wanted.out / wanted.name / "data",
            **settings,
        )
    info = DatasetInfo.load(records)
    _check(info, wanted.source)
    facts = Facts(
        name=wanted.name,
        info=info,
        suggestion=suggest(records, info),
        made_by=wanted.command,
        records=str(found.where) if found.job == RECORDS else "",
        findings=tuple(_findings(info, groups, wanted)),
        image=found.items[0].path if found.items else "",
    )
    (work / PROJECT_FILE).write_text(pipeline_text(facts), encoding="utf-8")
    (work / "README.md").write_text(readme_text(facts), encoding="utf-8")
    return facts


def _check(info: DatasetInfo, source: Path) -> None:
    """Refuses records that no model can be trained and tested with."""
    if info.task != CLASSIFICATION:
        raise ProjectError(
            f"{source} holds objects in images ({info.task}); `sightline new` makes projects for "
            "images with one class each"
        )
    for split in ("train", "validation", "test"):
        if not (split in info.splits and info.splits[split].examples):
            raise ProjectError(
                f"{source} gives no {split} images; "
                "give more images, or a folder of classes without split folders, which is split "
                "by content"
            )
    trained = info.splits["train"].per_class
    empty = [name for name in info.classes if not trained.get(name)]
    if trained and empty:
        raise ProjectError(
            f"{source} has no training image of {', '.join(map(repr, empty[:3]))}; add some"
        )


def _findings(info: DatasetInfo, groups: Grouping | None, wanted: Wanted) -> Iterator[str]:
    """Lines on what was found."""
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in info.splits.items())
    yield f"{info.num_classes} classes; images: {counts}"
    if groups is not None:
        shown = f"{groups.groups:,} groups by `{groups.spec}`"
        why = (
            f"in {groups.alike:.0%} of {groups.pairs} pairs, images of one group are more alike "
            "than others of their class"
        )
        if groups.torn:
            yield (
                f"{shown}: {why}, and {groups.torn:,} groups are in two splits of the source, so "
                "that tests look better than they are; give the images without their split "
                "folders or column to split them by group"
            )
        else:
            yield (
                f"{shown}, each kept in one split: {why}. To split single images instead, delete "
                f"the project and give the same command with --group {NO_GROUPS}"
            )
    if info.group and groups is None:
        yield f"images are grouped by `{info.group}`, each group kept in one split"
    if info.turned and info.exif == "as_stored":
        yield (
            f"{info.turned:,} images are stored turned, as their EXIF says, and are used as stored;"
            " --exif upright turns them, here and where the model is served"
        )
    if wanted.group == NO_GROUPS:
        yield "images are split one by one, as --group none says"


def _show(facts: Facts, target: Path, console: Console) -> None:
    """Prints findings, suggestions with their reasons, and what to do next."""
    for line in facts.findings:
        console.print(f"found    {line}", markup=False, soft_wrap=True)
    console.print(_table(facts.suggestion))
    where = shlex.quote(relative(target.resolve()))
    console.print(f"wrote {where}: every value is in {where}/{PROJECT_FILE}", soft_wrap=True)
    console.print(f"next: sightline run {where}", soft_wrap=True)


def _table(suggestion: Suggestion) -> Table:
    shown = Table(box=None, pad_edge=False)
    for column in ("suggested", "value", "because"):
        shown.add_column(column, overflow="fold")
    reasons = suggestion.reasons
    shown.add_row("recipe", suggestion.recipe, reasons.get("recipe", ""))
    for key, value in suggestion.overrides.items():
        shown.add_row(key, value, reasons.get(key, ""))
    for key, gate in suggestion.gates.items():
        shown.add_row(f"gates.{key}", str(gate), reasons.get(f"gates.{key}", ""))
    return shown
