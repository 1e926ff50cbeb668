"""Assembles a blessed bundle and pushes it, atomically and once; see `core.bundle.push`.

Its training statistics, test predictions and class names appear together with the version, for
comparisons with later candidates; see `core.lineage`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tfx.types.standard_artifacts import (
    Examples,
    ExampleStatistics,
    Model,
    ModelBlessing,
    PushedModel,
)
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import artifacts, files
from components.artifacts import Card
from components.evaluation.references import fingerprint
from components.live import Live, store_changed
from core import bundle as bundles
from core.lineage import (
    PREDICTIONS_FILE,
    STATISTICS_FILE,
    Lineage,
    adopt_lineage,
    store_state,
    write_lineage,
)
from trainers.evaluation.predictions import read_table, write_table

_STATISTICS = Path("Split-train") / "FeatureStats.pb"


def assemble(draft: Path, card: Path, out: Path) -> bundles.Manifest:
    """The draft with its final manifest and cards, and the recommended variant as `model.tflite`.

    It does not contain the variants that the gates left out of the manifest.
    """
    shutil.copytree(draft, out)
    for name in (bundles.MANIFEST_FILE, *bundles.CARD_FILES):
        shutil.copyfile(card / name, out / name)
    text = (out / bundles.MANIFEST_FILE).read_text(encoding="utf-8")
    manifest = bundles.Manifest.from_json(text, str(card))
    named = {variant.file for variant in manifest.variants}
    for file in out.glob(bundles.tflite_file("*")):
        if file.name not in named:
            file.unlink()
    return bundles.seal(out, manifest)


def write_bundle_lineage(
    out: Path, manifest: bundles.Manifest, classes: tuple[str, ...], **facts: Any
) -> None:
    """Writes the lineage of a bundle before its push.

    Args:
      out: the folder to create.
      manifest: of the assembled bundle, with its digest.
      classes: of the bundle.
      **facts: `statistics`, URI of the run's statistics; `predictions`, URI of the table;
        `label_offset` of the records; `run`, the name of the run.
    """
    out.mkdir()
    chosen = manifest.recommended
    own = read_table(files.predictions_file(facts["predictions"]))[chosen]
    write_table(out / PREDICTIONS_FILE, {chosen: own}, classes)
    statistics = Path(facts["statistics"]) / _STATISTICS
    if statistics.is_file():
        shutil.copyfile(statistics, out / STATISTICS_FILE)
    write_lineage(
        out,
        Lineage(
            content_digest=manifest.content_digest,
            recommended=chosen,
            classes=classes,
            label_offset=facts["label_offset"],
            metrics=manifest.metrics.get(chosen, {}),
            test_fingerprint=fingerprint(own, classes),
            test_examples=len(own.ids),
            run=facts["run"],
        ),
    )


def push_record(result: bundles.PushResult) -> dict[str, Any]:
    """The content of `pushed.json`; `way_back` is empty for a version that is not withdrawn."""
    return {
        "path": str(result.path),
        "version": result.version,
        "pushed": result.pushed,
        "withdrawn": result.withdrawn,
        "way_back": result.way_back if result.withdrawn else "",
    }


@component
def BundlePusher(
    bundle: InputArtifact[Model],
    card: InputArtifact[Card],
    blessing: InputArtifact[ModelBlessing],
    live: InputArtifact[artifacts.LiveModel],
    statistics: InputArtifact[ExampleStatistics],
    predictions: InputArtifact[Examples],
    pushed_model: OutputArtifact[PushedModel],
    bundles_dir: Parameter[str],
    label_offset: Parameter[int],
    run: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Pushes the bundle if it is blessed, and records where in `pushed.json`.

    A version that was rolled back is not pushed again; the record then has the command that
    restores it. It is an error if the store changed after the gates compared with it.

    Args:
      bundle: a draft of the Compressor.
      card: its manifest and cards.
      blessing: of the SignificanceGate.
      live: the versions that the gates compared with.
      statistics: of the run's data; those of the training split are stored.
      predictions: the table; those of the recommended variant are stored.
      pushed_model: the location of the bundle.
      bundles_dir: the destination.
      label_offset: of the run's records.
      run: part of the cache key, so that the result of another run is never reused: a version may
        have been deleted, withdrawn or restored since, and pushing it again is harmless.
      code_digest: part of the cache key.
    """
    record = Path(pushed_model.uri) / files.PUSHED
    if not (Path(blessing.uri) / "BLESSED").exists():
        files.write_json(record, None)
        pushed_model.set_int_custom_property("pushed", 0)
        return
    with tempfile.TemporaryDirectory(dir=pushed_model.uri, prefix="assembling-") as scratch:
        draft = Path(scratch) / "bundle"
        source = Path(bundle.uri) / files.SERVING_MODEL
        manifest = assemble(source, Path(card.uri), draft)
        lineage = Path(scratch) / "lineage"
        write_bundle_lineage(
            lineage,
            manifest,
            bundles.read_labels(draft),
            statistics=statistics.uri,
            predictions=predictions.uri,
            label_offset=label_offset,
            run=run,
        )
        model_dir = Path(bundles_dir) / manifest.name
        compared = Live.load(live.uri).state

        def check() -> None:
            if store_state(model_dir) != compared:
                raise store_changed(model_dir, compared)

        result = bundles.push(draft, model_dir, lineage=lineage, check=check)
        if not result.pushed and not result.withdrawn:
            adopt_lineage(model_dir, result.version, lineage)
    files.write_json(record, push_record(result))
    pushed_model.set_int_custom_property("pushed", int(result.pushed))
    pushed_model.set_int_custom_property("withdrawn", int(result.withdrawn))
    pushed_model.set_string_custom_property("pushed_destination", str(result.path))
