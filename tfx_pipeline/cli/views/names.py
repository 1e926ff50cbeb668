"""Short names of models for tables and pages, of which each differs from the others."""

from collections.abc import Sequence
from dataclasses import replace

from tfx_pipeline.cli.views.subjects import Subject
from trainers.evaluation.comparison import ComparisonError


def with_short_names(found: Sequence[Subject]) -> list[Subject]:
    """The subjects, each named by the shortest end of its path that no other one has.

    A model of a run keeps its name unless another run has a model of the same name. `full_name` is
    set to the name with the whole path.

    Raises:
      ComparisonError: a model is given twice.
    """
    choices = [_choices(one) for one in found]
    full = [names[-1] for names in choices]
    if repeated := sorted({name for name in full if full.count(name) > 1}):
        raise ComparisonError(
            f"{repeated[0]} is given twice; give different models, or other variants of one as "
            "RUN:MODEL or FILE:COLUMN"
        )
    named = []
    for at, (one, names) in enumerate(zip(found, choices, strict=True)):
        others = {name for other in (*choices[:at], *choices[at + 1 :]) for name in other}
        short = next((name for name in names if name not in others), names[-1])
        whole = short if one.run and short == one.predictions.name else names[-1]
        predictions = replace(one.predictions, name=short)
        named.append(replace(one, predictions=predictions, full_name=whole))
    return named


def _choices(one: Subject) -> list[str]:
    """Names from the shortest to the one with the whole path."""
    name = one.predictions.name
    if one.run:
        parts = one.run.resolve().parts[1:]
        ends = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        return [name, *(f"{end}:{name}" for end in ends), f"{one.run}:{name}"]
    if one.source is None:
        return [name]
    parts = one.source.resolve().parts[1:]
    # Neither a version nor `predictions.tfrecord` alone identifies a model.
    least = 2 if one.source.is_file() or one.source.name.isdigit() else 1
    ends = [
        "/".join(parts[-count:]) for count in range(min(least, len(parts)) or 1, len(parts) + 1)
    ]
    return [*(end + name.removeprefix(str(one.source)) for end in ends), name]
