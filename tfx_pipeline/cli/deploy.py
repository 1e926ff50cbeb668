"""Verbs for deployment: `deploy check`, `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfx_pipeline.cli.shared import app, console

if TYPE_CHECKING:
    from rich.table import Table

    from serving.deploy.check import Findings
    from serving.deploy.rollback import Rollback

_deploy = typer.Typer(
    no_args_is_help=True,
    help="Check deployment files: Compose, Kubernetes, KServe.",
    epilog="Example: sightline deploy check serving/deploy --bundles bundles",
)
app.add_typer(_deploy, name="deploy")


@_deploy.command(epilog="Example: sightline deploy check serving/deploy --bundles bundles")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of deployment files.")],
    bundles: Annotated[
        Path | None, typer.Option(help="Folder of bundles that the deployment mounts.")
    ] = None,
    kubernetes: Annotated[
        str | None, typer.Option(help="Kubernetes version of the schemas, e.g. 1.37.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check deployment files offline. Exit status: 1 after errors, 0 otherwise."""
    import json

    from serving.deploy.check import check as check_folder

    findings = check_folder(folder, bundles, kubernetes_version=kubernetes)
    if as_json:
        typer.echo(json.dumps(findings.to_dict(), indent=2))
    else:
        _show(findings)
    raise typer.Exit(1 if findings.errors else 0)


@app.command(epilog="Example: sightline rollback digits_cnn --reason 'misreads sevens'")
def rollback(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model name: its folder under BUNDLES.")
    ],
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION",
            help="Version to serve; defaults to the one before the served version.",
        ),
    ] = None,
    bundles: Annotated[Path, typer.Option(help="Folder of bundles that is served.")] = Path(
        "bundles"
    ),
    reason: Annotated[str, typer.Option(help="Reason to record in the model's history.")] = "",
    listing: Annotated[
        bool, typer.Option("--list", help="Show versions and history without changes.")
    ] = False,
) -> None:
    """Serve an older version, or a withdrawn one again; servers follow at their next poll."""
    from core.bundle import BundleError
    from serving.deploy.rollback import rollback as roll_back

    if "/" in model or model in ("", ".", ".."):
        raise BundleError(f"`model` must be the name of a folder in {bundles}, got {model!r}")
    if listing:
        _show_history(bundles / model)
        return
    _show_rollback(roll_back(bundles / model, version, why=reason), bundles)


def _show(findings: Findings) -> None:
    from rich.markup import escape

    if findings.found:
        table = _table("file", "object", "finding", "remedy")
        for found in findings.found:
            color = "red" if found.level == "error" else "yellow"
            finding = f"[{color}]{found.level}[/]: {escape(found.finding)}"
            table.add_row(escape(found.file), escape(found.about), finding, escape(found.remedy))
        console.print(table)
    files = len(set(findings.looked_at))
    console.print(f"{files} files, {findings.errors} errors, {findings.warnings} warnings")


def _show_rollback(done: Rollback, bundles: Path) -> None:
    if not done.changed:
        console.print(f"{done.model} {done.serves} is already served; nothing changed")
        return
    console.print(
        f"{done.model}: now serves version {done.serves}, previously {done.served_before}"
    )
    for what, versions in (("withdrawn", done.withdrawn), ("restored", done.restored)):
        if versions:
            console.print(f"  {what}: {', '.join(map(str, versions))}")
    if done.served_before is not None:
        where = "" if bundles == Path("bundles") else f" --bundles {bundles}"
        console.print(
            f"  undo: sightline rollback {done.model} {done.served_before}{where}", soft_wrap=True
        )
    console.print(
        "Servers follow at their next poll of the folder, except those whose models.config pins a "
        "version; see `sightline deploy check`.",
        soft_wrap=True,
    )


def _show_history(model_dir: Path) -> None:
    from rich.markup import escape

    from core.bundle import BundleError
    from serving.deploy.rollback import history, model_versions

    if not model_dir.is_dir():
        raise BundleError(f"{model_dir} is not a folder; name a model that was pushed")
    now = model_versions(model_dir)
    served = "none" if now.served is None else now.served
    console.print(f"{model_dir.name}: {now}; served {served}")
    entries = history(model_dir)
    if not entries:
        return
    table = _table("when (UTC)", "who", "change", "why")
    for entry in entries:
        change = f"{entry.served_before} -> {entry.serves}"
        if not entry.finished:
            change += " (interrupted)"
        table.add_row(entry.at[:19], escape(entry.who), change, escape(entry.why))
    console.print(table)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
