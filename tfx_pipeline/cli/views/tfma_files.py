"""TFMA's own result of an analysis: `sightline evaluate --tfma`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from core.files import replacing_folder
from tfx_pipeline.cli.views.subjects import Subject
from trainers.data import features
from trainers.evaluation.analysis import CLASS, Analysis
from trainers.evaluation.groups import CROSS


def write_tfma(found: Analysis, subject: Subject, slices: Sequence[str], folder: Path) -> Path:
    """Writes the folder `tfma` for `tfma.load_eval_result`; replaces an earlier one.

    Args:
      found: the analysis of the subject's predictions.
      subject: has the predictions.
      slices: keys and crosses of the analysis; empty is every key.
      folder: of the analysis.
    """
    from components.evaluation.tfma_result import write_tfma_result

    names = [one.name for one in found.classes]
    known = sorted(subject.predictions.slices)
    keys = [CROSS.join(_features(key, known)) for key in slices or known]
    target = folder / "tfma"
    with replacing_folder(target) as temporary:
        write_tfma_result(subject.predictions, names, keys, temporary)
    return target


def _features(key: str, known: Sequence[str]) -> Iterator[str]:
    """The table's columns of a key or cross."""
    for part in key.split(CROSS):
        name = f"slice/{part.strip().removeprefix('slice/')}"
        is_class = name == f"slice/{CLASS}" and name not in known
        yield features.TEXT if is_class else name
