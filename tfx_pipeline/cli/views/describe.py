"""`sightline describe`: parameters, multiply-adds, and memory of a network.

    found = describe("vit_s16", ["drop_path=0.1"], size=224, classes=1000)
    Console().print(view(found))

A name is that of a registered model or else a recipe; a folder is an output of `sightline train` or
a bundle. Only the architecture is built; no weights are read.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from trainers import plugins
from trainers.config import Config, ModelConfig, from_dict, override
from trainers.data.features import DATASET_FILE, DatasetInfo
from trainers.profiling.published import PUBLISHED
from trainers.registry import UnknownNameError, models, nearest, recipes

_RECIPE = "recipe "
_CLASSES = 1000
# Classes of the recipes' data sets, for when their records do not exist.
_RECIPE_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}
# As our builders and most architectures of keras.applications name layers.
_PART = re.compile(r"(?:stage|block)\d+")


@dataclass(frozen=True)
class Part:
    """The totals of consecutive layers.

    Attributes:
      name: e.g. `stem`, `stage1`, `block1-12`, `56 x 56`, or `head`.
      shape: of the last layer's output, without the batch.
      layers: number of layers.
      parameters: of all layers.
      multiply_adds: of all layers, per image.
      activation_bytes: of all outputs, per image.
    """

    name: str
    shape: tuple[int | None, ...]
    layers: int
    parameters: int
    multiply_adds: int
    activation_bytes: int


def describe(
    target: str,
    options: Sequence[str] = (),
    *,
    size: int = 0,
    classes: int = 0,
    profile: bool = True,
) -> dict[str, Any]:
    """The cost of a network per image.

    Args:
      target: a registered model, a recipe, an output folder of `sightline train`, or a bundle.
      options: `key=value`; a key without a dot is an option of the model builder, any other a
        configuration key.
      size: image side in pixels; 0 uses the target's size, or 224 for a model name.
      classes: number of logits; 0 uses the target's number, or 1,000 for a model name.
      profile: also freeze the graph and run TensorFlow's profiler, which takes seconds.

    Returns:
      JSON values: `model`, `what`, `image_size`, `classes`, `parameters`, `trainable_parameters`,
      `weights_bytes`, `multiply_adds`, `flops`, `attention`, `activations`, `published` (None where
      size, classes, or options differ from the literature), `profile` (None without `profile`), and
      `layers`, one mapping per layer.

    Raises:
      UnknownNameError: `target` is not a model, a recipe, or such a folder.
      ConfigError: the model does not support an option or the size.
    """
    from trainers.models import build_model
    from trainers.profiling.complexity import attention_cost, complexity, layer_costs
    from trainers.profiling.model_graph import activations

    config, own, what = _resolved(target)
    given = [one if "." in one.split("=")[0] else f"model.options.{one}" for one in options]
    config = override(config, given)
    if size:
        config = replace(config, data=replace(config.data, image_size=(size, size)))
    if not classes and what.startswith(_RECIPE):
        own, what = _counted(config, what)
    classes = classes or own or _CLASSES
    model = build_model(config, classes)
    cost, attention = complexity(model), attention_cost(model)
    return {
        "model": config.model.name,
        "what": what,
        "options": dict(config.model.options),
        "image_size": list(config.data.image_size),
        "classes": classes,
        **asdict(cost),
        "weights_bytes": sum(w.dtype.size * w.shape.num_elements() for w in model.weights),
        "flops": 2 * cost.multiply_adds,
        "attention": asdict(attention),
        "activations": asdict(activations(model)),
        "published": _published(config, classes),
        "profile": _profile(model, cost.multiply_adds) if profile else None,
        "layers": [{**asdict(one), "shape": list(one.shape)} for one in layer_costs(model)],
    }


def parts(layers: Sequence[dict[str, Any]]) -> list[Part]:
    """The layers of `describe` by stage or block, or else by the size of the feature map.

    Consecutive parts of equal cost, such as a transformer's blocks, are merged: `block1-12`.
    """
    named = [_PART.match(layer["name"]) for layer in layers]
    found = [_summed(name, list(group)) for name, group in _grouped(layers, named)]
    joined: list[Part] = []
    for _, run in groupby(found, key=lambda part: replace(part, name=_PART.sub("", part.name))):
        alike = list(run)
        many = len(alike)
        name = alike[0].name
        if many > 1:
            name += "-" + re.sub(r"\D", "", alike[-1].name)
        joined.append(
            Part(
                name,
                alike[0].shape,
                many * alike[0].layers,
                many * alike[0].parameters,
                many * alike[0].multiply_adds,
                many * alike[0].activation_bytes,
            )
        )
    return joined


def view(found: dict[str, Any], *, layers: str = "parts") -> RenderableType:
    """The tables of a description.

    Args:
      found: of `describe`.
      layers: `parts` shows totals by stage, `all` every layer.

    Raises:
      ValueError: `layers` has another value.
    """
    if layers not in ("parts", "all"):
        raise ValueError(f"`layers` must be parts or all, got {layers!r}")
    return Group(_parts_table(found, every=layers == "all"), "", _facts(found))


def zoo(pattern: str = "") -> Iterable[dict[str, Any]]:
    """Our figures and the published ones, one mapping per model; builds each model when needed.

    Args:
      pattern: a regular expression to find in the name; empty selects all published models.

    Yields:
      `model`, `image_size`, `parameters` (trainable), `multiply_adds`, `published`.

    Raises:
      UnknownNameError: no published model matches.
    """
    from trainers.keras import keras

    names = [name for name in PUBLISHED if name in models.names() and re.search(pattern, name)]
    if not names:
        raise UnknownNameError(
            f"no published model matches {pattern!r}; {nearest(pattern, list(PUBLISHED))}"
        )
    for name in names:
        side = PUBLISHED[name].image_size
        found = describe(name, size=side, classes=_CLASSES, profile=False)
        yield {
            "model": name,
            "image_size": found["image_size"],
            "parameters": found["trainable_parameters"],
            "multiply_adds": found["multiply_adds"],
            "published": found["published"],
        }
        keras.backend.clear_session()


def zoo_table(rows: Iterable[dict[str, Any]]) -> Table:
    """The rows of `zoo` as a table."""
    shown = Table(title="1,000 classes", title_justify="left", box=None, pad_edge=False)
    for column in ("model", "px", "M parameters", "published", "GMAC", "published", "source"):
        shown.add_column(column, justify="left" if column in ("model", "source") else "right")
    for row in rows:
        known = row["published"]
        source = known["source"] + ("" if known["whole"] else "; ours has one dense layer")
        shown.add_row(
            row["model"],
            str(row["image_size"][0]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{known['parameters']:.2f}",
            f"{row['multiply_adds'] / 1e9:.2f}",
            f"{known['giga_multiply_adds']:.2f}",
            source,
        )
    return shown


def _resolved(target: str) -> tuple[Config, int, str]:
    """(configuration, classes or 0, description of the target)."""
    folder = Path(target)
    if (folder / "trained.json").is_file():
        plugins.require_of(folder)
        config = from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        return config, DatasetInfo.load(folder).num_classes, f"trained in {folder}"
    # A project has the name of its recipe.
    if folder.is_dir() and not (folder / "pipeline.py").is_file():
        from core.bundle import open_bundle

        bundle = open_bundle(folder)
        plugins.require(bundle.manifest.plugins, f"the bundle {bundle.path}")
        return from_dict(bundle.manifest.config), len(bundle.labels), f"bundle {bundle.path}"
    if target in models.names():
        return Config(name=target, model=ModelConfig(name=target)), 0, "model"
    if target in recipes.names():
        return recipes.get(target)(), 0, f"{_RECIPE}{target}"
    every = [*models.names(), *recipes.names()]
    raise UnknownNameError(
        f"no model, recipe, output folder of `sightline train`, or bundle named {target!r}; "
        f"{nearest(target, every)}"
    )


def _counted(config: Config, what: str) -> tuple[int, str]:
    """(classes, description) of a recipe, from its records or data set; otherwise assumed."""
    data = Path(config.data.dir)
    if (data / DATASET_FILE).is_file():
        return DatasetInfo.load(data).num_classes, what
    known = _RECIPE_CLASSES.get(data.name, 0)
    if known:
        return known, what
    return _CLASSES, (
        f"{what}, {_CLASSES:,} classes assumed: no records in {data}; give data.dir=FOLDER or "
        "--classes N"
    )


def _published(config: Config, classes: int) -> dict[str, Any] | None:
    known = PUBLISHED.get(config.model.name)
    if known is None or classes != _CLASSES or config.model.options:
        return None
    side = known.image_size
    return asdict(known) if config.data.image_size == (side, side) else None


def _profile(model: Any, multiply_adds: int) -> dict[str, Any]:
    from trainers.profiling.frozen_profile import frozen_profile

    found = frozen_profile(model)
    return {**asdict(found), "ratio": found.multiply_adds / max(multiply_adds, 1)}


def _grouped(
    layers: Sequence[dict[str, Any]], named: Sequence[re.Match | None]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """(name, layers) of each part, in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    if len({match[0] for match in named if match}) > 1:
        last_named = max(index for index, match in enumerate(named) if match)
        current = "stem"
        for index, (layer, match) in enumerate(zip(layers, named, strict=True)):
            current = match[0] if match else "head" if index > last_named else current
            groups.setdefault(current, []).append(layer)
        return list(groups.items())
    # The size of a padded map does not start a part.
    maps = ["" if "Padding" in one["kind"] else _map_size(one["shape"]) for one in layers]
    last = max((index for index, size in enumerate(maps) if size), default=-1)
    current = "input"
    for index, (layer, size) in enumerate(zip(layers, maps, strict=True)):
        # Squeeze and excitation has vectors between the maps.
        current = "head" if index > last else size or current
        groups.setdefault(current, []).append(layer)
    return list(groups.items())


def _map_size(shape: Sequence[int | None]) -> str:
    if len(shape) != 3 or None in shape or max(shape[:2], default=0) < 2:  # type: ignore[type-var]
        return ""
    return f"{shape[0]} x {shape[1]}"


def _summed(name: str, layers: list[dict[str, Any]]) -> Part:
    def total(key: str) -> int:
        return sum(layer[key] for layer in layers)

    return Part(
        name,
        tuple(layers[-1]["shape"]),
        len(layers),
        total("parameters"),
        total("multiply_adds"),
        total("activation_bytes"),
    )


def _parts_table(found: dict[str, Any], *, every: bool) -> Table:
    height, width = found["image_size"]
    options = "".join(f" {key}={value}" for key, value in found["options"].items())
    shown = Table(
        title=f"{found['model']}{options} ({found['what']}), {height} x {width} px, "
        f"{found['classes']:,} classes, one image",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    shown.add_column("layer" if every else "part")
    shown.add_column("kind" if every else "layers", justify="left" if every else "right")
    for column in ("output", "parameters", "multiply-adds", "%", "activations"):
        shown.add_column(column, justify="right")
    rows = found["layers"] if every else [asdict(part) for part in parts(found["layers"])]
    for row in rows:
        shown.add_row(
            row["name"],
            row["kind"] if every else str(row["layers"]),
            " x ".join("?" if side is None else str(side) for side in row["shape"]),
            f"{row['parameters']:,}",
            _scaled(row["multiply_adds"], "MAC"),
            f"{100 * row['multiply_adds'] / max(found['multiply_adds'], 1):.1f}",
            _scaled(row["activation_bytes"], "B"),
        )
    return shown


def _facts(found: dict[str, Any]) -> Table:
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column()
    shown.add_row(
        "parameters",
        f"{found['parameters']:,}, trainable {found['trainable_parameters']:,}; "
        f"weights {_scaled(found['weights_bytes'], 'B')}",
    )
    shown.add_row(
        "multiply-adds",
        f"{_scaled(found['multiply_adds'], 'MAC')} = {_scaled(found['flops'], 'FLOP')} "
        "(a convolution: 2 kh kw Cin Cout Hout Wout FLOP)",
    )
    attention = found["attention"]
    if attention["layers"]:
        whole = attention["products"] + attention["projections"]
        shown.add_row(
            "attention",
            f"{attention['layers']} layers: 4 N^2 d FLOP each, "
            f"{_scaled(2 * attention['products'], 'FLOP')} in all; "
            f"{_scaled(2 * whole, 'FLOP')} with their projections",
        )
    memory = found["activations"]
    shown.add_row(
        "activations",
        f"{_scaled(memory['total'], 'B')} stored in training; at inference at most "
        f"{_scaled(memory['peak'], 'B')} live at once (at {memory['widest']})",
    )
    if found["profile"]:
        shown.add_row("frozen graph", _profile_text(found["profile"]))
    if known := found["published"]:
        other = "" if known["whole"] else ", with another classifier"
        shown.add_row(
            "published",
            f"{known['parameters']:g} M parameters, {known['giga_multiply_adds']:g} GMAC "
            f"({known['source']}{other})",
        )
    return shown


def _profile_text(profile: dict[str, Any]) -> str:
    missed = ", ".join(f"{number} {kind}" for kind, number in profile["missed"].items())
    return (
        f"TensorFlow's profiler: {_scaled(profile['multiply_adds'], 'MAC')}, "
        f"{profile['ratio']:.3f} of ours; all operations {_scaled(profile['flops'], 'FLOP')}; "
        f"misses {missed or 'nothing'}"
    )


def _scaled(number: int, unit: str) -> str:
    """`number` with a metric prefix: `4.089 GMAC`."""
    for power, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:,.3f} {prefix}{unit}"
    return f"{number} {unit}"
