"""Gates against the live model: whether classes changed, and which versions were compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import files
from components.evaluation.predict_variants import BASELINE, BEST
from components.gates import Gate, Verdict
from components.gates.settings import ACCEPT
from components.live import Live
from trainers.evaluation.predictions import Predictions

# The number of class names that a detail lists.
_NAMED = 5


def class_gate(
    live: Live, classes: Sequence[str], table: dict[str, Predictions], new_classes: str
) -> list[Gate]:
    """Whether the class names are those of the live model, in any order; no gate without one.

    A renamed class counts as one that was removed and one that was added. If names differ, the
    comparisons `change/*` are over the images of the classes that both models have, with the scores
    of these classes only (see `components.evaluation.references.paired`), or missing if there is no
    such image.

    Args:
      live: of the LiveModel.
      classes: the candidate's.
      table: the predictions.
      new_classes: `refuse` or `accept`.
    """
    if live.baseline is None:
        return []
    before = live.versions[live.baseline].classes
    added = [name for name in classes if name not in set(before)]
    removed = [name for name in before if name not in set(classes)]
    if not added and not removed:
        detail = "" if tuple(before) == tuple(classes) else "in another order, paired by name"
        return [Gate("change/classes", 0, "same names", Verdict.HELD, detail=detail)]
    words = [f"{word} {_some(names)}" for word, names in (("added", added), ("removed", removed))]
    scope = _scope(table, set(before) & set(classes))
    detail = f"against version {live.baseline}: {', '.join(words)}; {scope}"
    waived = "accepted: gates.new_classes=accept" if new_classes == ACCEPT else ""
    if not waived:
        detail += "; --accept-new-classes accepts this"
    return [
        Gate(
            "change/classes",
            len(added) + len(removed),
            "same names",
            Verdict.FAILED,
            detail=detail,
            waived=waived,
        )
    ]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED]) or "none"
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _scope(table: dict[str, Predictions], common: set[str]) -> str:
    reference = table.get(BASELINE)
    if reference is None:
        return "no image of a class in common, so nothing is compared"
    columns = (reference.scores >= 0).all(axis=0)
    rows = columns[reference.labels]
    return (
        f"accuracy is compared on {rows.sum()} of {len(rows)} images, "
        f"those of the {len(common)} classes in common"
    )


def compared_gate(live: Live, predictions_uri: str, anomalies_uri: str) -> list[Gate]:
    """A gate that always holds and lists the compared versions, and what could not be compared.

    There is none before the first push, when nothing is live.
    """
    if live.served is None:
        return []
    made = files.read_json(Path(predictions_uri) / files.COMPARED)
    detail = "; ".join([*_versions(live, made), *unchecked(live, anomalies_uri)])
    return [Gate("change/live", live.baseline or 0, "reported", Verdict.HELD, detail=detail)]


def _versions(live: Live, made: dict[str, Any]) -> list[str]:
    if live.baseline is None:
        return ["no version can be compared with"]
    names = {BASELINE: "live", BEST: "best ever"}
    found = [
        f"{names[column]} version {version} ({made['how'][column]})"
        for column, version in made["versions"].items()
    ]
    return found if BEST in made["versions"] else [*found, "none pushed before is better"]


def unchecked(live: Live, anomalies_uri: str) -> list[str]:
    """What was not compared, and why; one line each."""
    found = [f"version {v} is not compared with: {why}" for v, why in live.unusable.items()]
    for row in files.read_json(Path(anomalies_uri) / files.COMPARED):
        if row["version"] is not None and row["reason"]:
            what = "drift is not checked in full" if row["compared"] else "drift is not checked"
            found.append(f"{what} against {row['model']} {row['version']}: {row['reason']}")
    return found
