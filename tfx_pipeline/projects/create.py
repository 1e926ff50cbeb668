"""`sightline new`: creates a project folder from a folder of images."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.locks import LockHeldError, file_lock
from tfx_pipeline.config import pipelines
from tfx_pipeline.ingest import TFRECORD
from tfx_pipeline.projects.find import PROJECT_FILE, ProjectError
from tfx_pipeline.projects.grouping import Grouping, find_groups
from tfx_pipeline.projects.sources import RECORDS, SourceListing, inspect_source
from tfx_pipeline.projects.suggest import Suggestion, suggest
from tfx_pipeline.projects.text import ProjectFacts, pipeline_text, readme_text, relative
from trainers.data.features import CLASSIFICATION, DatasetInfo
from trainers.registry import recipes

#: The value of `--group` for no groups, even if groups are found.
NO_GROUPS = "none"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NewProject:
    """The arguments of `sightline new`.

    Attributes:
      name: name of the project.
      source: the images or records.
      out: the folder to create the project in.
      options: options of the ingest job, `key=value`.
      group: as for `sightline ingest`; `none` for no groups, empty to search for groups.
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
        """The command line, with the absolute path of the source."""
        words = ["sightline", "new", self.name, str(self.source.expanduser().resolve())]
        words += self.options
        words += ["--group", self.group] if self.group else []
        words += ["--exif", self.exif] if self.exif != "as_stored" else []
        return shlex.join(words)


def create(project: NewProject, console: Console) -> Path:
    """Creates the project and prints findings, suggestions and the next command.

    Returns:
      The folder of the project, which is created atomically.

    Raises:
      ProjectError: the name exists or is invalid, or the source is not sufficient for a model.
      IngestError: the source cannot be read.
    """
    target = _target(project)
    found = inspect_source(project.source, project.options)
    if target.resolve().is_relative_to(found.where):
        raise ProjectError(
            f"{target} would be inside {found.where} and look like one of its classes; choose "
            "another folder with --out"
        )
    groups = find_groups(found) if not project.group else None
    with _staged(target) as work:
        facts = _fill(work, project, found, groups, console)
    _show(facts, target, console)
    return target


def _target(project: NewProject) -> Path:
    """The folder to create.

    Raises:
      ProjectError: the name is invalid, or the name or the folder exists.
    """
    name = project.name
    if not _NAME.fullmatch(name) or name.endswith(".py"):
        raise ProjectError(
            f"a project name must consist of letters, digits, `.`, `_` and `-` and not end in .py, "
            f"got {name!r}; use --out for the parent folder"
        )
    for registry in (pipelines, recipes):
        if name in registry.names():
            raise ProjectError(f"there already is a {registry.kind} {name!r}; choose another name")
    target = project.out.expanduser() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ProjectError(f"{target} already exists; choose another name, or delete it first")
    return target


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder that is renamed to `target` at the end; on an error, nothing remains."""
    parents = [one for one in (target.parent, *target.parent.parents) if not one.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}.new"
    work.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(work, wait_s=0))
        except LockHeldError:
            raise ProjectError(
                f"another process is creating {target}; wait for it, or choose another name"
            ) from None
        try:
            for one in work.iterdir():  # Left by a process that was killed.
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
    work: Path, project: NewProject, found: SourceListing, groups: Grouping | None, console: Console
) -> ProjectFacts:
    """Writes the project into `work`."""
    applied = groups if groups is not None and not groups.divided else None
    group = applied.spec if applied else "" if project.group == NO_GROUPS else project.group
    records = found.where if found.job == RECORDS else work / "data"
    if found.job != RECORDS:
        from tfx_pipeline.ingest.console import ingest_and_print

        settings = {"group": group, "exif": project.exif} if found.job != TFRECORD else {}
        ingest_and_print(
            found.job,
            str(found.where),
            records,
            console,
            options=found.options,
            name=project.name,
            shown=project.out / project.name / "data",
            **settings,
        )
    info = DatasetInfo.load(records)
    _check(info, project.source)
    facts = ProjectFacts(
        name=project.name,
        info=info,
        suggestion=suggest(records, info),
        made_by=project.command,
        records=str(found.where) if found.job == RECORDS else "",
        findings=tuple(_findings(info, groups, project)),
        image=found.items[0].path if found.items else "",
    )
    (work / PROJECT_FILE).write_text(pipeline_text(facts), encoding="utf-8")
    (work / "README.md").write_text(readme_text(facts), encoding="utf-8")
    return facts


def _check(info: DatasetInfo, source: Path) -> None:
    """Rejects records with which no model can be trained and tested."""
    if info.task != CLASSIFICATION:
        raise ProjectError(
            f"{source} has objects in images ({info.task}); `sightline new` is for images with one "
            "class each: write a pipeline file instead"
        )
    for split in ("train", "validation", "test"):
        if not (split in info.splits and info.splits[split].examples):
            raise ProjectError(
                f"{source} has no {split} images; add images, or use a folder of classes without "
                "split folders, which is split by content"
            )
    trained = info.splits["train"].per_class
    empty = [name for name in info.classes if not trained.get(name)]
    if trained and empty:
        raise ProjectError(
            f"{source} has no training image of {', '.join(map(repr, empty[:3]))}; add images"
        )


def _findings(info: DatasetInfo, groups: Grouping | None, project: NewProject) -> Iterator[str]:
    """Lines about the source."""
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in info.splits.items())
    yield f"{info.num_classes} classes; images: {counts}"
    if groups is not None:
        shown = f"{groups.groups:,} groups by `{groups.spec}`"
        why = (
            f"in {groups.alike:.0%} of {groups.pairs} pairs, images of one group are more similar "
            "than images of different groups of the class"
        )
        if groups.divided:
            yield (
                f"{shown}: {why}, and {groups.divided:,} groups are in two splits of the source, "
                "which inflates test results; use the images without their split folders or "
                "column to split them by group"
            )
        else:
            yield (
                f"{shown}, each kept in one split: {why}. To split images independently, delete "
                f"the project and run the same command with --group {NO_GROUPS}"
            )
    if info.group and groups is None:
        yield f"images are grouped by `{info.group}`, each group kept in one split"
    if info.turned and info.exif == "as_stored":
        yield (
            f"{info.turned:,} images are rotated by EXIF and used as stored; --exif upright "
            "rotates them, here and in the served model"
        )
    if project.group == NO_GROUPS:
        yield "images are split independently (--group none)"


def _show(facts: ProjectFacts, target: Path, console: Console) -> None:
    """Prints findings, suggestions with their reasons, and the next command."""
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
