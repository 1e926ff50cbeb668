"""The verb `errors`: a gallery of a model's errors and lists of images for relabeling."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tfx_pipeline.cli.shared import DATA_HELP, app, console, records


@app.command(epilog="Example: sightline errors bundles/digits_cnn --data data/digits --out gallery")
def errors(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Bundle, output folder of `sightline train`, run (RUN or RUN:MODEL) or "
            "predictions (FILE or FILE:COLUMN).",
        ),
    ],
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP}; defaults to the model's.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the page, CSV lists, and FiftyOne and COCO files.")
    ] = Path("gallery"),
    split: Annotated[str, typer.Option(help="Split: train, validation, or test.")] = "test",
    variant: Annotated[
        str, typer.Option(help="Variant of a bundle or run; defaults to the SavedModel.")
    ] = "",
    slices: Annotated[
        str,
        typer.Option(help="Slice keys to search for weak slices, e.g. race,age; defaults to all."),
    ] = "",
    method: Annotated[
        str, typer.Option("--map", help="Map of the embeddings: pca, or tsne up to 3,000 images.")
    ] = "pca",
) -> None:
    """Show where a model is wrong: errors, confusions, suspect labels, duplicates, weak slices."""
    from tfx_pipeline.cli.views.compare import load_all
    from tfx_pipeline.cli.views.errors import GalleryOptions, write_gallery
    from tfx_pipeline.report.evaluation.findings import findings
    from trainers.evaluation.embeddings import PCA, TSNE

    if method not in (PCA, TSNE):
        raise typer.BadParameter(f"--map takes {PCA} or {TSNE}, got {method!r}")
    if "," in split:
        raise typer.BadParameter(f"--split takes one split, got {split!r}; run each by itself")
    keys = tuple(part.strip() for part in slices.split(",") if part.strip())
    found = records(data) if data else None
    subjects = load_all([model], data=found, split=split, variant=variant)
    for subject in subjects:
        folder = out / subject.predictions.name if len(subjects) > 1 else out
        options = GalleryOptions(split, keys, method)
        evaluation = write_gallery(
            subject,
            folder,
            options,
            given=model,
            data=found,
            say=lambda text: console.print(escape(text), soft_wrap=True),
        )
        for line in findings(evaluation.analysis):
            console.print(escape(line), soft_wrap=True)
        line = f"open {folder / 'index.html'}; lists of images are beside it"
        console.print(line, markup=False, soft_wrap=True)
