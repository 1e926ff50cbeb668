"""The text of the files of a new project: `pipeline.py` and `README.md`."""

import json
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tfx_pipeline.projects.suggest import Suggestion
from trainers.config import Config, override
from trainers.data.features import DatasetInfo
from trainers.registry import recipes

_WIDTH = 96
_INDENT = "    "
# A new project has one experiment, which is the best one.
_PTQ = ("dynamic", "int8")


@dataclass(frozen=True)
class ProjectFacts:
    """The content of the files of a project.

    Attributes:
      name: name of the project, its pipeline, its recipe and its model.
      info: description of its records.
      suggestion: the suggested settings.
      made_by: the command that created the project.
      records: the folder of its records; empty for `data` in the project.
      findings: lines about the source, such as its groups.
      image: path of an image of the source for an example; empty if unknown.
    """

    name: str
    info: DatasetInfo
    suggestion: Suggestion
    made_by: str
    records: str = ""
    findings: tuple[str, ...] = ()
    image: str = ""


def suggested_config(facts: ProjectFacts) -> Config:
    """The complete configuration of the suggestion."""
    given = [f"{key}={value}" for key, value in facts.suggestion.overrides.items()]
    base = recipes.get(facts.suggestion.recipe)()
    return override(base, [*given, f"name={facts.name}", "data.dir="])


def pipeline_text(facts: ProjectFacts) -> str:
    """The text of `pipeline.py`."""
    config = suggested_config(facts)
    body = "\n".join(_call(config, "", facts))
    kinds = sorted({type(getattr(config, one.name)).__name__ for one in _sections(config)})
    used = ["Config", *(name for name in kinds if f"{name}(" in body)]
    imports = "\n".join(f"{_INDENT}{name}," for name in sorted(used))
    why = facts.suggestion.reasons.get("recipe", "")
    return f'''"""{facts.name}: {_counts(facts.info)}.

Created by `{facts.made_by}`. Edit any value here and run again:

    sightline run {facts.name}
"""

from pathlib import Path

from tfx_pipeline.config import CompressionPlan, PipelineConfig, pipelines
from trainers.config import (
{imports}
)
from trainers.registry import recipes

DATA = {_data(facts)}


@recipes.register({json.dumps(facts.name)})
def recipe() -> Config:
    """The training configuration, based on the recipe `{facts.suggestion.recipe}`.

{_wrapped(why, _INDENT)}
    """
    return {body.lstrip()}


@pipelines.register({json.dumps(facts.name)})
def pipeline() -> PipelineConfig:
    """The pipeline; `sightline run {facts.name} gates.min_top1=0.9` overrides a value."""
    return PipelineConfig(
        name={json.dumps(facts.name)},
        experiments=({json.dumps(facts.name)},),
        data=str(DATA),
{_gates(facts)}
        # TFLite files besides float32; methods=("prune", "qat", "pqat") adds smaller ones.
        best=CompressionPlan(ptq={_value(_PTQ)}),
    )
'''


def _data(facts: ProjectFacts) -> str:
    """The Python expression for the folder of the records."""
    if facts.records:
        return f"Path({json.dumps(facts.records, ensure_ascii=False)})"
    return 'Path(__file__).parent / "data"'


def _sections(config: Config) -> Iterator[Any]:
    return (one for one in fields(config) if is_dataclass(getattr(config, one.name)))


def _call(node: Any, prefix: str, facts: ProjectFacts) -> list[str]:
    """The lines of a constructor call, with a comment for each suggested value."""
    lines = []
    depth = 1 + prefix.count(".")
    inner = _INDENT * (depth + 1)
    for one in fields(node):
        key, value = f"{prefix}{one.name}", getattr(node, one.name)
        if is_dataclass(value):
            nested = _call(value, f"{key}.", facts)
            if len(nested) > 2 or key == "data":
                lines += [f"{inner}{one.name}={nested[0].lstrip()}", *nested[1:-1]]
                lines.append(f"{inner}),")
            continue
        if key == "data.dir":
            lines.append(f"{inner}dir=str(DATA),")
        elif key in facts.suggestion.overrides or value != _default(one):
            reason = facts.suggestion.reasons.get(key, "")
            lines += [f"{inner}# {line}" for line in textwrap.wrap(reason, _WIDTH - len(inner))]
            lines += _keyword(one.name, value, inner)
    return [f"{_INDENT * depth}{type(node).__name__}(", *lines, f"{_INDENT * depth})"]


def _keyword(name: str, value: Any, indent: str) -> list[str]:
    """The lines of one argument; a long list has one line per item."""
    line = f"{indent}{name}={_value(value)},"
    if len(line) <= _WIDTH or not isinstance(value, tuple):
        return [line]
    items = [f"{indent}{_INDENT}{_value(one)}," for one in value]
    return [f"{indent}{name}=(", *items, f"{indent}),"]


def _default(one: Any) -> Any:
    return one.default_factory() if callable(one.default_factory) else one.default


def _gates(facts: ProjectFacts) -> str:
    lines = ["# A model that fails a gate is not pushed; see components/gates/settings.py."]
    entries = []
    for key, value in facts.suggestion.gates.items():
        reason = facts.suggestion.reasons.get(f"gates.{key}", "")
        entries += [f"    # {line}" for line in textwrap.wrap(reason, _WIDTH - 16)]
        entries.append(f"    {json.dumps(key)}: {value!r},")
    lines += ["gates={", *entries, "},"] if entries else ["gates={},"]
    return textwrap.indent("\n".join(lines), _INDENT * 2)


def _value(value: Any) -> str:
    """The Python literal of a plain value, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inner = ", ".join(map(_value, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(k)}: {_value(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _counts(info: DatasetInfo) -> str:
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in info.splits.items())
    return f"{info.num_classes} classes, images: {counts}"


def readme_text(facts: ProjectFacts) -> str:
    """The text of `README.md`; its commands are for the parent folder of the project."""
    name = facts.name
    found = "".join(f"- {line}\n" for line in facts.findings)
    size = " x ".join(map(str, suggested_config(facts).data.image_size))
    image = shlex.quote(facts.image) if facts.image else "photo.jpg"
    data = shlex.quote(facts.records) if facts.records else f"{name}/data"
    shown_data = "data/" if not facts.records else data
    return f"""# {name}

Created by `{facts.made_by}`.

{found}
Run these commands in the folder that contains `{name}/`.

| task | command |
|---|---|
| train, compress, evaluate, push | `sightline run {name}` |
| with one value changed | `sightline run {name} train.epochs=20` |
| with another gate | `sightline run {name} gates.min_top1=0.9` |
| run again from training | `sightline run {name} --from Trainer` |
| table and report of the last run | `sightline report {name}` |
| classify an image | `sightline predict {name}/bundles/{name} {image}` |
| serve | `sightline serve {name}/bundles` |
| classify with the server | `sightline predict http://127.0.0.1:8501 {image} --model {name}` |
| find bad or leaked images | `sightline validate {data}` |
| only train, without gates | `sightline --plugins {name}/pipeline.py train {name}` |

`pipeline.py` contains every value, with the reason for each suggestion; change a value and run
again. If nothing changed, a run prints the last table in less than a second; if only gates changed,
it does not train again. Exit status: 0 pushed, 3 refused or not decided by the test images, 1
error.

| here | contains |
|---|---|
| `pipeline.py` | the pipeline and its recipe ({size} pixels) |
| `{shown_data}` | the records |
| `runs/` | reports, logs, training state; may be deleted |
| `bundles/` | the models that passed their gates |
"""


def relative(path: Path) -> str:
    """`path` relative to the current folder, if it is inside it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
