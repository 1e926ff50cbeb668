"""Verbs on the whole: `run`, `serve`, `predict`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import (
    DATA_HELP,
    Overrides,
    ResumeAnyway,
    Root,
    app,
    console,
    records,
)


@app.command(epilog="Example: sightline run imagenet --smoke --data tfrecord:~/imagenet")
def run(
    pipeline: Annotated[str, typer.Argument(help="A pipeline, e.g. smoke.")],
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP}; the recipes' if not given.")
    ] = None,
    root: Root = Path(),
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

    gates.<field>=value sets a gate, statistics.<field>=value a limit of drift or skew.

    Exit status: 0 all pushed, 3 one refused, not decided or withdrawn by a rollback, 1 error.
    """
    import datetime

    from tfx_pipeline.config import RunRequest, default_data, make_experiments, pipelines
    from tfx_pipeline.data_source import CACHE
    from tfx_pipeline.pipeline_options import with_settings
    from tfx_pipeline.run import run as run_pipeline
    from tfx_pipeline.smoke_size import smoke_records, smoke_size

    shape = pipelines.get(pipeline)()
    shape, sized = smoke_size(shape) if smoke else (shape, ())
    accepted = {"undecided": accept_undecided, "new_classes": accept_new_classes}
    shape, others = with_settings(
        shape,
        (*sized, *(overrides or ())),
        accept=[field for field, given in accepted.items() if given],
    )
    where = data or default_data(shape)
    make_experiments(shape, Path(where), others)  # A mistyped key is an error before ingest runs.
    found = records(where, root)
    if smoke:
        found = smoke_records(shape, found, root / CACHE)
    request = RunRequest(
        run=datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        pipeline=shape,
        experiments=make_experiments(shape, found.resolve(), others),
        data=str(found.resolve()),
        root=str(root.resolve()),
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
    from serving.server.stopping import leave

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
    """Classify pictures with a server or straight from a bundle."""
    from tfx_pipeline.predict import predictions_table

    console.print(predictions_table(where, images, model=model, variant=variant, top=top))


@app.command(epilog="Example: sightline report smoke --run latest")
def report(
    pipeline: Annotated[str, typer.Argument(help="The pipeline that ran.")] = "smoke",
    root: Root = Path(),
    run_name: Annotated[str, typer.Option("--run", help="A run, or latest.")] = "latest",
) -> None:
    """Print a finished run's table again and render its report anew."""
    from tfx_pipeline.config import Layout
    from tfx_pipeline.report import write_report
    from tfx_pipeline.run import read_summary, show

    layout = Layout(root.resolve(), pipeline)
    summary = read_summary(layout, run_name)
    write_report(summary, layout.report(summary["run"]))
    raise typer.Exit(show(summary, layout, console))
