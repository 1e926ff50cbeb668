"""Verbs that evaluate models: `compare`, `evaluate`, `benchmark evaluation`."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.files import write_json
from tfx_pipeline.cli.benchmarks import JsonFile, benchmarks
from tfx_pipeline.cli.shared import DATA_HELP, app, console, errors, records

if TYPE_CHECKING:
    from tfx_pipeline.cli.views.subjects import Subject
    from trainers.evaluation.analysis import Analysis

ServedModel = Annotated[
    str, typer.Option(help="Model of a server; or write http://host:8501/v1/models/NAME.")
]


@app.command(epilog="Example: sightline compare demo/bundles/digits_cnn demo/bundles/digits_vit")
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODELS",
            help="The reference and one or more candidates: bundles, folders of `train`, runs "
            "(RUN or RUN:MODEL), predictions (FILE or FILE:COLUMN) or servers "
            "(http://host:8501/v1/models/NAME).",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help=f"{DATA_HELP}; defaults to that of each model.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of the records; several as validation,test.")
    ] = "test",
    model: ServedModel = "",
    variant: Annotated[
        str, typer.Option(help="Variant of bundles and runs; defaults to the SavedModel.")
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
    from trainers.evaluation.common_images import on_common_images
    from trainers.evaluation.comparison import compare as compared

    if seeds and images:
        raise typer.BadParameter("--images lists changes between two models; leave out --seeds")
    _check_served(model, models)
    folder = records(data) if data else None
    subjects = view.load_all(models, data=folder, split=split, variant=variant, model=model)
    common = on_common_images([subject.predictions for subject in subjects])
    if common.sentence:
        console.print(common.sentence, highlight=False, markup=False, soft_wrap=True)
    pairs = zip(subjects, common.models, strict=True)
    shared = [replace(one, predictions=two) for one, two in pairs]
    over_seeds = view.compare_seeds(shared) if seeds else []
    aligned = [] if seeds else view.aligned_models(common.models)
    found = compared(aligned) if aligned else []
    if seeds:
        view.show_seeds(over_seeds, console)
    else:
        view.show(found, aligned, console)
    if out:
        full = {one.predictions.name: one.full_name for one in subjects}
        view.write(found, over_seeds, out, split=split, left_out=common.left_out, full_names=full)
        console.print(f"wrote {out}", markup=False, soft_wrap=True)
    if images:
        files = view.file_names(subjects[0].data, split)
        count = view.write_images(found, aligned, images, files=files)
        console.print(f"wrote {count:,} changed images to {images}", markup=False, soft_wrap=True)


@app.command(epilog="Example: sightline evaluate bundles/digits_cnn --data data/digits --out out")
def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Bundle, output folder of `sightline train`, run (RUN or RUN:MODEL), predictions "
            "(FILE or FILE:COLUMN) or server (http://host:8501 with --model).",
        ),
    ],
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP}; defaults to the model's.")] = None,
    split: Annotated[
        str, typer.Option(help="Split: train, validation, or test; several as validation,test.")
    ] = "test",
    variant: Annotated[
        str, typer.Option(help="Variant of a bundle, e.g. saved_model or ptq_int8.")
    ] = "",
    model: ServedModel = "",
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
        str,
        typer.Option(
            help="With --out: slice keys and crosses, e.g. race,race*gender,class*size; defaults "
            "to all keys."
        ),
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
    tfma: Annotated[
        bool,
        typer.Option(
            "--tfma",
            help="With --out: also write OUT/tfma, which tfma.load_eval_result opens; loads TFMA.",
        ),
    ] = False,
) -> None:
    """Compute metrics with 95 % intervals; counts every example once."""
    _check_served(model, [subject])
    found = records(data) if data else None
    if out is None:
        used = {"--slices": slices, "--groups": groups, "--positive": positive}
        used |= {"--specificity": specificity != 0.95, "--tfma": tfma}
        if needing := [name for name, value in used.items() if value]:
            raise typer.BadParameter(f"need --out FOLDER: {', '.join(needing)}")
        _show_metrics(subject, found, split, variant, model)
        return
    from tfx_pipeline.cli.views import analysis
    from tfx_pipeline.cli.views.compare import load_all
    from tfx_pipeline.cli.views.evaluate import split_names
    from trainers.evaluation.analysis import AnalysisOptions, analyze

    options = AnalysisOptions(_listed(slices), _listed(groups), positive, specificity)
    subjects = load_all([subject], data=found, split=split, variant=variant, model=model)
    if "train" in split_names(split):
        console.print("figures on the train split are too good: the model was trained on it")
    for one in subjects:
        result = analyze(one.predictions, options)
        folder = out / one.predictions.name if len(subjects) > 1 else out
        analysis.show(result, console)
        written = analysis.write(
            result, one, folder, split=split, options=options, given=subject, data=found
        )
        console.print(
            f"wrote {len(written)} files to {folder}; open {written[0]}",
            markup=False,
            soft_wrap=True,
        )
        if tfma:
            _write_tfma(result, one, options.slices, folder)


def _check_served(model: str, given: Sequence[str]) -> None:
    from tfx_pipeline.cli.views.served import is_server, names_model

    servers = [one for one in given if is_server(one)]
    if model and not servers:
        raise typer.BadParameter(
            f"--model {model} is a model of a server, but {given[0]} is none: give http://host:8501"
        )
    if model and all(map(names_model, servers)):
        raise typer.BadParameter(
            f"--model {model} has no effect, as {servers[0]} names its model; leave one of them out"
        )


def _write_tfma(found: "Analysis", subject: "Subject", slices: Sequence[str], folder: Path) -> None:
    from tfx_pipeline.cli.views.tfma_files import write_tfma

    path = write_tfma(found, subject, slices, folder)
    line = f"wrote TFMA's result to {path}: tfma.load_eval_result('{path}')"
    console.print(line, markup=False, soft_wrap=True)
    if subject.tfma:
        own = f"tfma.load_eval_result('{subject.tfma}', model_name='saved_model')"
        console.print(f"the run has one of all variants: {own}", markup=False, soft_wrap=True)


def _show_metrics(subject: str, data: Path | None, split: str, variant: str, model: str) -> None:
    """Prints a table of metrics: all variants of a bundle, or the models of another subject."""
    from tfx_pipeline.cli.views.evaluate import evaluation_table, is_model, predictions
    from tfx_pipeline.cli.views.names import with_short_names
    from tfx_pipeline.cli.views.subjects import load
    from trainers.evaluation.metrics import metrics_with_intervals

    if is_model(Path(subject)):
        evaluated, made = predictions(Path(subject), data, split, variant)
        classes = len(evaluated.classes)
        best = evaluated.bundle.manifest.recommended if evaluated.bundle else ""
        found = {
            _heading("", name, best if name == best else ""): (table.scores, table.labels)
            for name, table in made.items()
        }
    else:
        loaded = load(subject, data=data, split=split, variant=variant, model=model)
        classes = max(one.predictions.scores.shape[1] for one in loaded)
        found = {
            _heading(table.name, one.variant, one.recommended): (table.scores, table.labels)
            for one in with_short_names(loaded)
            for table in [one.predictions]
        }
    metrics = {name: metrics_with_intervals(*table) for name, table in found.items()}
    console.print(evaluation_table(metrics, classes))


def _heading(model: str, variant: str, recommended: str) -> str:
    """`cnn saved_model (recommended: int8)`, or `cnn int8 (recommended)` for that variant."""
    name = model if model.endswith(variant) else f"{model} {variant}".strip()
    if not recommended:
        return name
    return f"{name} (recommended{'' if variant == recommended else f': {recommended}'})"


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated option; `race x gender` is `race*gender`."""
    parts = (re.sub(r"\s+x\s+", "*", part.strip()) for part in text.split(","))
    return tuple(filter(None, parts))


@benchmarks.command("evaluation", epilog="Example: sightline benchmark evaluation --images 5000")
def benchmark_evaluation(
    images: Annotated[int, typer.Option(help="Images of each table.")] = 50_000,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 1_000,
    slices: Annotated[int, typer.Option(help="Slice keys, of 3 to 6 values each.")] = 12,
    out: JsonFile = None,
) -> None:
    """Measure time and memory of evaluate and compare on synthetic predictions."""
    from tfx_pipeline.benchmarks.evaluation import measure, view

    figures = measure(
        images=images,
        classes=classes,
        slices=slices,
        on_progress=lambda text: errors.print(text, markup=False),
    )
    console.print(view(figures))
    if out:
        write_json(out, figures)
        console.print(f"wrote {out}", soft_wrap=True)
