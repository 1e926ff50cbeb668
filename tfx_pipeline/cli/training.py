"""Verbs on models: `train`, `describe`, `lr`, `tune`, `evaluate`, `compress`, `export`."""

from pathlib import Path
from typing import Annotated

import typer

from tfx_pipeline.cli.shared import DATA_HELP, Overrides, ResumeAnyway, app, console, records
from trainers.config import Config
from trainers.data.features import DATASET_FILE, DatasetInfo

ModelData = Annotated[str | None, typer.Option(help=f"{DATA_HELP}; the model's if not given.")]
Data = Annotated[str | None, typer.Option(help=f"{DATA_HELP}; the recipe's if not given.")]


def _config(recipe: str, overrides: list[str] | None, data: Path | None) -> Config:
    from trainers import load_recipe

    return load_recipe(recipe, *(overrides or ()), *([f"data.dir={data}"] if data else ()))


def _config_on(recipe: str, overrides: list[str] | None, data: str | None) -> Config:
    """The recipe's configuration, reading what `--data` means; it is checked before ingest runs."""
    _config(recipe, overrides, None)
    return _config(recipe, overrides, records(data) if data else None)


def _check_data(config: Config, recipe: str) -> None:
    """Refuses records of another task before TensorFlow loads; `fit` refuses absent ones."""
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
    recipe: Annotated[str, typer.Argument(help="A recipe, e.g. digits_cnn.")],
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option(help=f"{DATA_HELP}, or a folder of images by class; the recipe's if none."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="work/RECIPE if not given.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes on this machine that train as one.")
    ] = 1,
    resume_anyway: ResumeAnyway = False,
    _: Annotated[
        bool,
        typer.Option("--recipes", is_eager=True, callback=_list_recipes, help="List recipes."),
    ] = False,
    __: Annotated[
        bool,
        typer.Option("--keys", is_eager=True, callback=_list_keys, help="List configuration keys."),
    ] = False,
) -> None:
    """Train a recipe; a run that was stopped resumes where it was."""
    from tfx_pipeline.cli.views.train import records_of, train_shown

    where = out or Path("work") / recipe
    # A mistyped key, or weights that are not installed, are reported before images are read.
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
        str | None, typer.Argument(help="A model's or recipe's name, a trained folder or a bundle.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(help="Of the model's builder, key=value.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side in pixels; 224 or the model's own.")] = 0,
    classes: Annotated[int, typer.Option(help="1,000 or the model's own.")] = 0,
    layers: Annotated[str, typer.Option(help="parts, or all for every layer.")] = "parts",
    table: Annotated[bool, typer.Option(help="All published models beside ours.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, multiply-adds and memory of a model, and what a profiler counts."""
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
    recipe: Annotated[str, typer.Argument(help="A recipe, e.g. digits_cnn.")],
    overrides: Overrides = None,
    data: Data = None,
    low: Annotated[float, typer.Option(help="Rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="How many.")] = 100,
) -> None:
    """Find a learning rate: the loss while the rate grows; trains nothing."""
    from tfx_pipeline.cli.views.search import learning_rate_shown

    config = _config_on(recipe, overrides, data)
    _check_data(config, recipe)
    learning_rate_shown(config, console, low=low, high=high, steps=steps)


@app.command(epilog="Example: sightline tune digits_cnn 'optim.learning_rate=log(1e-3, 0.3)'")
def tune(
    recipe: Annotated[str, typer.Argument(help="A recipe, e.g. digits_cnn.")],
    space: Annotated[
        list[str],
        typer.Argument(help="key=log(A,B), uniform(A,B), int(A,B), choice(A,B) or a fixed value."),
    ],
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="work/RECIPE-tune if not given.")] = None,
    trials: Annotated[int, typer.Option(help="How many.")] = 8,
    epochs: Annotated[int, typer.Option(help="Of a trial; 0 takes the recipe's.")] = 0,
    resume_anyway: ResumeAnyway = False,
) -> None:
    """Search for the best configuration by validation top-1 (KerasTuner)."""
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


@app.command(epilog="Example: sightline evaluate bundles/digits_cnn --data data/digits")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A bundle, or a folder of `sightline train`.")],
    data: ModelData = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    variant: Annotated[str, typer.Option(help="Of a bundle: saved_model, ptq_int8, ...")] = "",
) -> None:
    """Metrics with 95 % intervals, every example counted once."""
    from tfx_pipeline.cli.views.evaluate import evaluate_model, evaluation_table

    found = records(data) if data else None
    console.print(evaluation_table(evaluate_model(model, found, split, variant)))


@app.command(epilog="Example: sightline compress work/digits_cnn --method pqat --out work/draft")
def compress(
    trained: Annotated[Path, typer.Argument(help="A folder of `sightline train`.")],
    out: Annotated[Path, typer.Option(help="The draft bundle to write.")],
    method: Annotated[
        list[str] | None,
        typer.Option(help="A registered method: prune, qat, pqat, ...; may be repeated."),
    ] = None,
    ptq: Annotated[str, typer.Option(help="Post-training: dynamic, int8.")] = "dynamic,int8",
    data: ModelData = None,
) -> None:
    """Prune, train for quantisation, convert to TFLite; writes a draft bundle."""
    from tfx_pipeline.cli.views.train import compress_shown

    dtypes = tuple(filter(None, ptq.split(",")))
    found = records(data) if data else None
    compress_shown(trained, out, tuple(method or ()), dtypes, console, data=found)


@app.command(epilog="Example: sightline export work/digits_cnn bundles --variant ptq_dynamic")
def export(
    source: Annotated[Path, typer.Argument(help="A trained folder or a draft bundle.")],
    bundles: Annotated[Path, typer.Argument(help="Pushed to BUNDLES/<name>/<next version>.")],
    variant: Annotated[str, typer.Option(help="To recommend, i.e. model.tflite.")] = "",
) -> None:
    """Push a bundle, atomically and once. No gate is asked: that is what `run` is for."""
    from tfx_pipeline.cli.views.train import export_shown

    export_shown(source, bundles, variant, console)
