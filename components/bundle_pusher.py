"""Puts a blessed bundle together and pushes it, atomically and once; see `serving.bundle.push`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tfx.types.standard_artifacts import Model, ModelBlessing, PushedModel
from tfx.v1.dsl.components import InputArtifact, OutputArtifact, Parameter, component

from components import files
from components.artifacts import Card
from serving import bundle as bundles


def assemble(draft: Path, card: Path, out: Path) -> bundles.Manifest:
    """The draft with its final manifest and card, and the recommended variant as `model.tflite`.

    Variants that the final manifest does not name, which the gates left out, are not in it.
    """
    shutil.copytree(draft, out)
    for name in (bundles.MANIFEST_FILE, bundles.CARD_FILE):
        shutil.copyfile(card / name, out / name)
    text = (out / bundles.MANIFEST_FILE).read_text(encoding="utf-8")
    manifest = bundles.Manifest.from_json(text, str(card))
    named = {variant.file for variant in manifest.variants}
    for file in out.glob(bundles.tflite_file("*")):
        if file.name not in named:
            file.unlink()
    return bundles.seal(out, manifest)


def describe(result: bundles.PushResult) -> dict[str, Any]:
    """What `pushed.json` holds; `way_back` is empty for a version that is not withdrawn."""
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
    pushed_model: OutputArtifact[PushedModel],
    bundles_dir: Parameter[str],
    run: Parameter[str],
    code_digest: Parameter[str],
) -> None:
    """Pushes the bundle if it is blessed, and records where in `pushed.json`.

    What a rollback withdrew is not pushed again; the record then says so and how to bring it back.

    Args:
      bundle: a draft of the Compressor.
      card: its manifest and card.
      blessing: of the SignificanceGate.
      pushed_model: where the bundle went.
      bundles_dir: the destination.
      run: part of the cache key, so that no result of another run is taken: since then a version
        may have been deleted, withdrawn or brought back, and pushing it once more does no harm.
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
        result = bundles.push(draft, Path(bundles_dir) / manifest.name)
    files.write_json(record, describe(result))
    pushed_model.set_int_custom_property("pushed", int(result.pushed))
    pushed_model.set_int_custom_property("withdrawn", int(result.withdrawn))
    pushed_model.set_string_custom_property("pushed_destination", str(result.path))
