"""Verbs for pipelines and servers: `run`, `serve`, `predict`, `report`."""

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

_PIPELINE_HELP = "Pipeline, e.g. smoke; project folder, e.g. pets; or Python file."


@app.command(epilog="Example: sightline run imagenet --smoke --data tfrecord:~/imagenet")
def run(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help=_PIPELINE_HELP)],
    overrides: Overrides = None,
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP}; defaults to the pipeline's.")
    ] = None,
    root: ProjectRoot = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run on a sample of the data, sized for two cores.")
    ] = False,
    start: Annotated[
        str, typer.Option("--from", help="Component to rerun from, e.g. Trainer or Compressor.")
    ] = "",
    force: Annotated[bool, typer.Option(help="Rerun all components.")] = False,
    resume_anyway: ResumeAnyway = False,
    accept_undecided: Annotated[
        bool,
        typer.Option(
            "--accept-undecided",
            help="Push a model that the test images cannot decide on if its estimate is not lower.",
        ),
    ] = False,
    accept_new_classes: Annotated[
        bool,
        typer.Option(
            "--accept-new-classes",
            help="Accept class names that differ from those of the live model.",
        ),
    ] = False,
) -> None:
    """Run a pipeline: train, compress, evaluate, and push models.

    gates.<field>=value sets a gate, statistics.<field>=value a drift or skew
    limit, and images.<field>=value an image limit. slices, best.*, others.*,
    tune.*, benchmark_runs, and serving_requests are pipeline settings. Other
    keys apply to all recipes; RECIPE:key=value applies to one recipe.

    Exit status: 0 if all models were pushed, 3 if a model was refused,
    undecided, or withdrawn by a rollback, 1 after an error.
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
    experiments_of(target, shape, others)  # Reports a mistyped key before ingest runs.
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
    """Serve bundles over TensorFlow Serving's REST and gRPC APIs until Ctrl-C.

    BUNDLES is a folder of models. FLAGS are those of
    `python -m serving.server --help`, in any order. The server listens on
    127.0.0.1, port 8500 for gRPC and port 8501 for REST.
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
        str,
        typer.Argument(
            metavar="WHERE", help="Server as http(s)://... or grpc(s)://..., or bundle folder."
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="JPEG, PNG, BMP, or GIF files.")
    ],
    model: Annotated[str, typer.Option(help="Model name on the server.")] = "",
    variant: Annotated[
        str, typer.Option(help="Variant of a bundle, e.g. saved_model or ptq_int8.")
    ] = "",
    top: Annotated[int, typer.Option(help="Number of classes to show per image.")] = 3,
) -> None:
    """Classify images with a server or a bundle."""
    from tfx_pipeline.cli.views.predict import predictions_table

    console.print(predictions_table(where, images, model=model, variant=variant, top=top))


@app.command(epilog="Example: sightline report smoke --run latest")
def report(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help=_PIPELINE_HELP)] = "smoke",
    root: ProjectRoot = None,
    run_name: Annotated[str, typer.Option("--run", help="Run name, or latest.")] = "latest",
) -> None:
    """Print the table of a finished run and write its HTML report again."""
    from tfx_pipeline.cli.views.run import read_summary, show
    from tfx_pipeline.projects.find import find
    from tfx_pipeline.report import write_report
    from tfx_pipeline.request.run import Layout

    target = find(pipeline, root=root)
    layout = Layout(target.root, target.pipeline.name)
    summary = read_summary(layout, run_name)
    write_report(summary, layout.report(summary["run"]))
    raise typer.Exit(show(summary, layout, console))
