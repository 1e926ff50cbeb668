"""The output of `sightline train`, `compress`, and `export`."""

import json
import tempfile
import typing
from collections.abc import Callable
from dataclasses import MISSING, asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tfx_pipeline.cli.views.live import LOG_EVERY_S, ProgressLog, progress_line
from tfx_pipeline.cli.views.variants import variants_table
from trainers.config import Config
from trainers.config_keys import keys_of
from trainers.data.features import DATASET_FILE, DatasetError, DatasetInfo

if TYPE_CHECKING:
    from trainers.training.trained import Trained


class Bar:
    """A progress bar of the training loop; log lines where the output is not a terminal."""

    def __init__(self, console: Console, label: str, *, log_every_s: float = LOG_EVERY_S) -> None:
        self._console = console
        self._log = ProgressLog(console, log_every_s)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=None, detail="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def report(self, at: "object") -> None:
        """Shows a `trainers.loop.Progress`."""
        line = asdict(at)  # type: ignore[call-overload]
        if not self._console.is_terminal:
            self._log.show(line)
            return
        done = (line["epoch"] - 1) * line["steps"] + line["step"]
        self._progress.update(
            self._task,
            total=line["epochs"] * line["steps"],
            completed=done,
            detail=progress_line(line),
        )

    def step(self, name: str) -> None:
        """Shows the name of the step that starts."""
        self._progress.update(self._task, description=name)


def records_of(data: Path, out: Path, console: Console) -> Path:
    """`data` if it holds records, or else records of its images, created once in `out/data`."""
    if (data / DATASET_FILE).is_file() or not data.is_dir():
        return data
    records = out / "data"
    if (records / DATASET_FILE).is_file():
        console.print(f"using the records in {records}; delete them to read {data} again")
        return records
    from tfx_pipeline.ingest.console import ingest_and_print

    ingest_and_print("folder", str(data), records, console)
    return records


def train_shown(
    config: Config,
    out: Path,
    console: Console,
    *,
    workers: int = 1,
    resume_anyway: bool = False,
) -> None:
    """Trains `config` into `out`, with checkpoints in `out/checkpoints`.

    Args:
      config: of the recipe.
      out: the output folder.
      console: to print on.
      workers: number of processes.
      resume_anyway: as for `trainers.loop.fit`.
    """
    with Bar(console, config.name) as bar:
        shown = {"report": bar.report, "announce": printer(console)}
        if workers > 1:
            from trainers.distributed.workers import launch

            launch(config, out, workers=workers, resume_anyway=resume_anyway, **shown)
        else:
            from trainers.distributed.workers import train_here

            train_here(config, out, resume_anyway=resume_anyway, **shown)
    history = json.loads((out / "history.json").read_text(encoding="utf-8"))
    best = json.loads((out / "trained.json").read_text(encoding="utf-8"))
    trained = f"epoch {best['best_epoch']} of {len(history)} is the best"
    if (best.get("probe") or {}).get("shipped"):
        trained = "the frozen backbone with the linear probe as its last layer"
    elif not config.train.epochs:
        trained = "the weights as they are"
    console.print(
        f"{config.name}: {trained}, "
        f"validation top-1 {best['val_top1']:.2%}, loss {best['val_loss']:.4f}"
    )
    console.print(f"wrote {out}; next: sightline compress {out} --out {out}/draft", soft_wrap=True)


def printer(console: Console) -> Callable[[str], None]:
    """A function that prints a line without formatting."""
    return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)


def recipes_table() -> Table:
    """Every recipe with its model and the first line of its docstring."""
    from trainers.registry import recipes

    shown = Table(box=None, pad_edge=False)
    for column in ("recipe", "model", "what"):
        shown.add_column(column)
    for name in recipes.names():
        recipe = recipes.get(name)
        first = (recipe.__doc__ or "").strip().splitlines()[0]
        shown.add_row(name, recipe().model.name, first)
    return shown


def keys_table() -> Table:
    """Every configuration key with its type, range, default and documentation."""
    shown = Table(box=None, pad_edge=False)
    for column in ("key", "type", "default", "allowed", "meaning"):
        shown.add_column(column, overflow="fold")
    for name, key in keys_of(Config).items():
        kind = str((typing.get_origin(key.kind) or key.kind).__name__)
        kind = {"tuple": "list", "dict": "mapping"}.get(kind, kind)
        default = "required" if key.default is MISSING else json.dumps(key.default)
        shown.add_row(*map(escape, (name, kind, default, key.allowed, key.doc)))
    return shown


def compress_shown(
    trained: Path,
    out: Path,
    methods: tuple[str, ...],
    ptq: tuple[str, ...],
    console: Console,
    *,
    data: Path | None = None,
) -> int:
    """Builds the draft bundle `out` and prints a table of its variants.

    Fine-tuning, calibration and validation read `data`; by default, the data of the training.

    Returns:
      The exit status: 3 if every compressed variant collapsed, else 0.

    Raises:
      DatasetError: `data` is of another task, or has other classes than the model.
    """
    from components.evaluation.predict_variants import predict_variant
    from components.gates.collapse import collapsed
    from core.bundle import open_bundle
    from trainers.bundles.build import FLOAT_VARIANT, build_bundle
    from trainers.training.trained import load_trained

    with Bar(console, "load") as bar:
        reading = _reading(load_trained(trained), data)
        manifest = build_bundle(
            reading,
            out,
            methods=methods,
            ptq=ptq,
            report=bar.report,
            announce=bar.step,
        )
        bar.step("validate")
        names = [variant.name for variant in manifest.variants]
        held_out = reading.info.splits.get("validation")
        found = {}
        if held_out is not None and held_out.examples:
            draft, records = open_bundle(out), Path(reading.config.data.dir)
            found = {one: predict_variant(draft, one, records, "validation") for one in names}
    dropped = collapsed(found) if found else {}
    console.print(variants_table(manifest, found, dropped), highlight=False, soft_wrap=True)
    for variant, gate in dropped.items():
        console.print(f"{variant} collapsed: it {gate.detail}", highlight=False, soft_wrap=True)
    if not found:
        console.print("no validation images: accuracy and collapse are unknown")
    if dropped and set(dropped) == set(names) - {FLOAT_VARIANT}:
        console.print(
            f"wrote {out}, but every compressed variant collapsed; compare the signal-to-noise "
            "ratios, and use more calibration images, a lower compress.sparsity or learning rate",
            soft_wrap=True,
        )
        return 3
    console.print(f"wrote {out}; next: sightline export {out} bundles", soft_wrap=True)
    return 0


def _reading(trained: "Trained", data: Path | None) -> "Trained":
    """`trained` with `data` for further training."""
    if data is None:
        return trained
    info, config = DatasetInfo.load(data), trained.config
    info.check_task(config.task, config.name)
    positions = info.class_positions(trained.info.classes, config.name)
    if positions != tuple(range(trained.info.num_classes)):
        raise DatasetError(
            f"{config.name} was trained on {trained.info.num_classes} classes, but the data set "
            f"{info.name!r} has {info.num_classes}, or the same ones in another order; compression "
            "continues training and needs the same classes in the same order"
        )
    config = replace(config, data=replace(config.data, dir=str(data)))
    return replace(trained, config=config, info=info)


def export_shown(source: Path, bundles: Path, variant: str, console: Console) -> None:
    """Pushes a trained folder or a draft to `bundles`.

    Raises:
      BundleError: `source` is not a trained folder or a draft, the variant does not exist, or a
        rollback withdrew a version with the same content.
    """
    from trainers import compress, export
    from trainers.training.trained import load_trained

    with tempfile.TemporaryDirectory(prefix="sightline-export-") as scratch:
        draft = source
        if (source / "trained.json").is_file():
            draft = Path(scratch) / "draft"
            with console.status("export"):
                compress(load_trained(source), draft)
        result = export(draft, bundles, variant=variant)
    word = "pushed" if result.pushed else "already pushed:"
    console.print(f"{word} {result.path}", soft_wrap=True)
    console.print(f"next: sightline serve {bundles}", soft_wrap=True)
