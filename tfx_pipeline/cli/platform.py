"""Verbs on the whole: `run`, `serve`, `predict`, `report`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import (
    DATA_HELP,
    Overrides,
    ProjectRoot,
    ResumeAnyway,
    app,
    console,
    records,
)

_WHAT = "A pipeline, e.g. smoke; a project folder, e.g. pets; or a Python file."


@app.command(epilog="Example: sightline run imagenet --smoke --data tfrecord:~/imagenet")
def run(
    pipeline: Annotated[str, typer.Argument(help=_WHAT)],
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP}; the pipeline's if not given.")
    ] = None,
    root: ProjectRoot = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run a sample of the data at a size for two cores.")
    ] = False,
    start: Annotated[
        str, typer.Option("--from", help="Run again from here, e.g. Trainer or Compressor.")
    ] = "",
    force: Annotated[bool, typer.Option(help="Run everything again.")] = False,
    resume_anyway: ResumeAnyway = False,
    accept_undecided: Annotated[
        bool,
        typer.Option(
            "--accept-undecided",
            help="Pass what the test images cannot decide, if its estimate is not lower.",
        ),
    ] = False,
    accept_new_classes: Annotated[
        bool,
        typer.Option(
            "--accept-new-classes", help="Accept class names that differ from the live model's."
        ),
    ] = False,
) -> None:
    """Run a pipeline to pushed models.

    gates.<field>=value sets a gate, statistics.<field>=value a limit of drift or skew,
    images.<field>=value one of the images. slices, best.*, others.*, tune.*, benchmark_runs and
    serving_requests can be set too; other keys belong to all recipes, RECIPE:key=value to one.

    Exit status: 0 all pushed, 3 one refused, not decided or withdrawn by a rollback, 1 error.
    """
    import datetime

    from tfx_pipeline.cli.views.run import run as run_pipeline
    from tfx_pipeline.projects.find import experiments_of, find
    from tfx_pipeline.request.data_source import CACHE
    from tfx_pipeline.request.run import RunRequest
    from tfx_pipeline.request.settings import with_settings
    from tfx_pipeline.request.smoke import smoke_records, smoke_size

    accepted = {"undecided": accept_undecided, "new_classes": accept_new_classes}
    target = find(pipeline, data=data, root=root)
    shape, sized = smoke_size(target.pipeline) if smoke else (target.pipeline, ())
    shape, others = with_settings(
        shape,
        (*sized, *(overrides or ())),
        accept=[field for field, given in accepted.items() if given],
    )
    experiments_of(target, shape, others)  # A mistyped key is an error before ingest runs.
    found = records(target.data, target.root)
    if smoke:
        found = smoke_records(shape, found, target.root / CACHE)
    target = replace(target, data=str(found.resolve()))
    request = RunRequest(
        run=datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        pipeline=shape,
        experiments=experiments_of(target, shape, others),
        data=target.data,
        root=str(target.root),
        start=start,
        force=force,
        resume_anyway=resume_anyway,
    )
    raise typer.Exit(run_pipeline(request, console))


@app.command(
    epilog="Example: sightline serve bundles --adaptive_batching --processes 2",
    options_metavar="BUNDLES [FLAGS]",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve bundles over TF Serving's REST and gRPC, until Ctrl-C.

    Takes the folder of the bundles and every flag of `python -m serving.server --help`, in any
    order. gRPC is on port 8500 and REST on 8501 of 127.0.0.1.
    """
    from serving.server.__main__ import main
    from serving.server.lifecycle.stopping import leave

    status = main(context.args)
    if status:
        raise typer.Exit(status)
    leave(0)


@app.command(epilog="Example: sightline predict http://127.0.0.1:8501 cat.jpg --model digits_cnn")
def predict(
    where: Annotated[
        str, typer.Argument(help="http(s)://..., grpc(s)://... or a bundle's folder.")
    ],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG, BMP or GIF files.")],
    model: Annotated[str, typer.Option(help="On a server: which model.")] = "",
    variant: Annotated[str, typer.Option(help="Of a bundle: saved_model, ptq_int8, ...")] = "",
    top: Annotated[int, typer.Option(help="Classes to show.")] = 3,
) -> None:
    """Classify images with a server or straight from a bundle."""
    from tfx_pipeline.cli.views.predict import predictions_table

    console.print(predictions_table(where, images, model=model, variant=variant, top=top))


@app.command(epilog="Example: sightline report smoke --run latest")
def report(
    pipeline: Annotated[str, typer.Argument(help=_WHAT)] = "smoke",
    root: ProjectRoot = None,
    run_name: Annotated[str, typer.Option("--run", help="A run, or latest.")] = "latest",
) -> None:
    """Print a finished run's table again and render its report anew."""
    from tfx_pipeline.cli.views.run import read_summary, show
    from tfx_pipeline.projects.find import find
    from tfx_pipeline.report import write_report
    from tfx_pipeline.request.run import Layout

    target = find(pipeline, root=root)
    layout = Layout(target.root, target.pipeline.name)
    summary = read_summary(layout, run_name)
    write_report(summary, layout.report(summary["run"]))
    raise typer.Exit(show(summary, layout, console))
