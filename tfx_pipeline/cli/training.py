"""Verbs for models: `train`, `describe`, `lr`, `tune`, `compress`, `export`."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import DATA_HELP, Overrides, ResumeAnyway, app, console, records
from trainers.config import Config
from trainers.data.features import DATASET_FILE, DatasetInfo

ModelData = Annotated[str | None, typer.Option(help=f"{DATA_HELP}; defaults to the model's.")]
Data = Annotated[str | None, typer.Option(help=f"{DATA_HELP}; defaults to the recipe's.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe, e.g. digits_cnn.")]


def _config(recipe: str, overrides: list[str] | None, data: Path | None) -> Config:
    from trainers import load_recipe

    return load_recipe(recipe, *(overrides or ()), *([f"data.dir={data}"] if data else ()))


def _config_on(recipe: str, overrides: list[str] | None, data: str | None) -> Config:
    """The recipe's configuration for a value of `--data`; checks the overrides before ingest."""
    _config(recipe, overrides, None)
    return _config(recipe, overrides, records(data) if data else None)


def _check_data(config: Config, recipe: str) -> None:
    """Rejects records of another task before TensorFlow loads; `fit` rejects missing records."""
    if (Path(config.data.dir) / DATASET_FILE).is_file():
        DatasetInfo.load(Path(config.data.dir)).check_task(config.task, f"the recipe {recipe}")


def _check_weights(config: Config) -> None:
    if config.model.init:
        from trainers.loop import prepared  # Loads TensorFlow.

        prepared(config)


def _list_recipes(wanted: bool) -> None:
    if wanted:
        from tfx_pipeline.cli.views.train import recipes_table

        console.print(recipes_table())
        raise typer.Exit


def _list_keys(wanted: bool) -> None:
    if wanted:
        from tfx_pipeline.cli.views.train import keys_table

        console.print(keys_table())
        raise typer.Exit


@app.command(epilog="Example: sightline train digits_cnn train.epochs=5 --data data/digits")
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option(help=f"{DATA_HELP}, or a folder of class folders; defaults to the recipe's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; defaults to work/RECIPE.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of training processes on this machine.")
    ] = 1,
    resume_anyway: ResumeAnyway = False,
    _: Annotated[
        bool,
        typer.Option("--recipes", is_eager=True, callback=_list_recipes, help="List the recipes."),
    ] = False,
    __: Annotated[
        bool,
        typer.Option("--keys", is_eager=True, callback=_list_keys, help="List configuration keys."),
    ] = False,
) -> None:
    """Train a recipe; an interrupted run resumes from its last saved step."""
    from tfx_pipeline.cli.views.train import records_of, train_shown

    where = out or Path("work") / recipe
    # Reports a mistyped key or missing weights before any image is read.
    config = _config(recipe, overrides, Path(data) if data else None)
    _check_data(config, recipe)
    _check_weights(config)
    found = records_of(records(data), where, console) if data else None
    config = _config(recipe, overrides, found)
    _check_data(config, recipe)
    train_shown(config, where, console, workers=workers, resume_anyway=resume_anyway)


@app.command(epilog="Example: sightline describe vit_s16 --size 224")
def describe(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Model, recipe, trained folder, or bundle."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Model options as key=value.")
    ] = None,
    size: Annotated[
        int,
        typer.Option(help="Image side in pixels; defaults to 224 or the model's size."),
    ] = 0,
    classes: Annotated[
        int,
        typer.Option(help="Number of classes; defaults to 1,000 or the model's."),
    ] = 0,
    layers: Annotated[
        str, typer.Option(help="Rows to show: parts, or all for every layer.")
    ] = "parts",
    table: Annotated[bool, typer.Option(help="Compare all models with published figures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the parameters, multiply-adds, and memory of a model, beside a profiler's counts."""
    import json

    from tfx_pipeline.cli.views import describe as cost

    if table or model is None:
        rows = list(cost.zoo(model or ""))
        console.print_json(json.dumps(rows)) if as_json else console.print(cost.zoo_table(rows))
        return
    found = cost.describe(model, options or (), size=size, classes=classes)
    if as_json:
        console.print_json(json.dumps(found))
    else:
        console.print(cost.view(found, layers=layers))


@app.command(epilog="Example: sightline lr cifar10_resnet20 --data data/cifar10")
def lr(
    recipe: RecipeName,
    overrides: Overrides = None,
    data: Data = None,
    low: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 100,
) -> None:
    """Suggest a learning rate from the loss while the rate increases; saves no model."""
    from tfx_pipeline.cli.views.search import learning_rate_shown

    config = _config_on(recipe, overrides, data)
    _check_data(config, recipe)
    learning_rate_shown(config, console, low=low, high=high, steps=steps)


@app.command(epilog="Example: sightline tune digits_cnn 'optim.learning_rate=log(1e-3, 0.3)'")
def tune(
    recipe: RecipeName,
    space: Annotated[
        list[str],
        typer.Argument(
            metavar="SPACE",
            help="key=log(A,B), key=uniform(A,B), key=int(A,B), key=choice(A,B), or key=value.",
        ),
    ],
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; defaults to work/RECIPE-tune.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Number of trials.")] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs per trial; 0 uses the recipe's.")] = 0,
    resume_anyway: ResumeAnyway = False,
) -> None:
    """Search for the configuration with the highest validation top-1 (KerasTuner)."""
    from tfx_pipeline.cli.views.search import is_range, tune_shown

    ranges = [one for one in space if is_range(one)]
    fixed = [one for one in space if one not in ranges]
    config = _config_on(recipe, fixed, data)
    _check_data(config, recipe)
    where = out or Path("work") / f"{recipe}-tune"
    command = " ".join(
        ["sightline train", recipe, *fixed, *([f"--data {config.data.dir}"] if data else [])]
    )
    tune_shown(
        config,
        ranges,
        where,
        console,
        trials=trials,
        epochs=epochs,
        command=command,
        resume_anyway=resume_anyway,
    )


@app.command(epilog="Example: sightline compress work/digits_cnn --method pqat --out work/draft")
def compress(
    trained: Annotated[
        Path, typer.Argument(metavar="TRAINED", help="Output folder of `sightline train`.")
    ],
    out: Annotated[Path, typer.Option(help="Draft bundle to write.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="A registered method: prune, qat, pqat, ...; may be repeated."),
    ] = None,
    ptq: Annotated[
        str, typer.Option(help="Post-training quantization: dynamic, int8, or both.")
    ] = "dynamic,int8",
    data: ModelData = None,
) -> None:
    """Prune, run quantization-aware training, and convert to TFLite; writes a draft bundle.

    Prints size, sparsity, partitions, signal-to-noise ratio and validation top-1 of each variant.
    Exit status 3: every compressed variant collapsed.
    """
    from tfx_pipeline.cli.views.train import compress_shown

    dtypes = tuple(filter(None, ptq.split(",")))
    found = records(data) if data else None
    raise typer.Exit(compress_shown(trained, out, tuple(method or ()), dtypes, console, data=found))


@app.command(epilog="Example: sightline export work/digits_cnn bundles --variant ptq_dynamic")
def export(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Trained folder or draft bundle.")
    ],
    bundles: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLES", help="Folder of bundles; pushes to BUNDLES/<name>/<next version>."
        ),
    ],
    variant: Annotated[str, typer.Option(help="Variant to recommend as model.tflite.")] = "",
) -> None:
    """Push a bundle with its model card, atomically and once; `sightline run` also checks gates."""
    from tfx_pipeline.cli.views.train import export_shown

    export_shown(source, bundles, variant, console)
