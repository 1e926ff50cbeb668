"""Verbs that evaluate models: `compare`, `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import DATA_HELP, app, console, records


@app.command(epilog="Example: sightline compare demo/bundles/digits_cnn demo/bundles/digits_vit")
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="The reference and one or more candidates: bundles, folders of `train`, runs "
            "(RUN or RUN:MODEL) or predictions (FILE or FILE:COLUMN)."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP}. [the records of each model's configuration]")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the records.")] = "test",
    variant: Annotated[
        str, typer.Option(help="Variant of bundles and runs. [the SavedModel]")
    ] = "",
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Group runs of one recipe and compare over seeds.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the comparisons as JSON.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Write the images that changed as CSV.")
    ] = None,
) -> None:
    """Compare models on the same images: differences with intervals, tests and slices."""
    from tfx_pipeline.cli.views import compare as view
    from trainers.evaluation.comparison import compare as compared

    folder = records(data) if data else None
    subjects = view.load_all(models, data=folder, split=split, variant=variant)
    over_seeds = view.compare_seeds(subjects) if seeds else []
    found = [] if seeds else compared([subject.predictions for subject in subjects])
    if seeds:
        view.show_seeds(over_seeds, console)
    else:
        view.show(found, subjects, console)
    if out:
        view.write(found, over_seeds, out, split=split)
        console.print(f"wrote {out}")
    if images and not seeds:
        count = view.write_images(found, subjects, images, split=split)
        console.print(f"wrote {count:,} changed images to {images}")


@app.command(epilog="Example: sightline evaluate bundles/digits_cnn --data data/digits --out out")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Bundle or output folder of `sightline train`; with --out also a run "
            "(RUN or RUN:MODEL) or predictions (FILE or FILE:COLUMN)."
        ),
    ],
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP}; defaults to the model's.")] = None,
    split: Annotated[str, typer.Option(help="Split: train, validation, or test.")] = "test",
    variant: Annotated[
        str, typer.Option(help="Variant of a bundle, e.g. saved_model or ptq_int8.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--report",
            help="Folder for classes, slices, curves, groups, errors and suspect labels, as an "
            "HTML page, JSON and CSV files; evaluates one variant, the SavedModel by default.",
        ),
    ] = None,
    slices: Annotated[
        str, typer.Option(help="With --out: slice keys and crosses, e.g. race,race*gender. [all]")
    ] = "",
    groups: Annotated[
        str, typer.Option(help="With --out: slice keys and crosses whose rates are compared.")
    ] = "",
    positive: Annotated[
        str, typer.Option(help="With --out: positive class of groups and thresholds.")
    ] = "",
    specificity: Annotated[
        float, typer.Option(help="With --out: specificity at which sensitivity is reported.")
    ] = 0.95,
) -> None:
    """Compute metrics with 95 % intervals; counts every example once."""
    from tfx_pipeline.cli.views.evaluate import evaluate_model, evaluation_table

    found = records(data) if data else None
    if out is None:
        if slices or groups or positive or specificity != 0.95:
            raise typer.BadParameter(
                "--slices, --groups, --positive and --specificity need --out FOLDER"
            )
        console.print(evaluation_table(evaluate_model(Path(model), found, split, variant)))
        return
    from tfx_pipeline.cli.views import analysis
    from tfx_pipeline.cli.views.compare import load_all
    from trainers.evaluation.analysis import AnalysisOptions, analyze

    options = AnalysisOptions(_listed(slices), _listed(groups), positive, specificity)
    subjects = load_all([model], data=found, split=split, variant=variant)
    for subject in subjects:
        result = analyze(subject.predictions, options)
        folder = out / subject.predictions.name if len(subjects) > 1 else out
        analysis.show(result, console)
        written = analysis.write(
            result, subject, folder, split=split, options=options, given=model, data=found
        )
        console.print(f"wrote {len(written)} files to {folder}; open {written[0]}")


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated option."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
