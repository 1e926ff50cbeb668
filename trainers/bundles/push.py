"""Pushes a draft bundle to a folder that servers read."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from core.bundle import CARD_FILES, BundleError, PushResult, open_bundle, push, seal
from trainers.bundles.card import write_cards


def export(draft: Path, bundles: Path, *, variant: str = "") -> PushResult:
    """Pushes a draft to the next version of its model, atomically and once; checks no gate.

    Writes the model card from the manifest, and states what was not measured. A card that a run
    wrote is kept, unless `variant` changes the recommended variant.

    Args:
      draft: what `compress` wrote; it is not changed.
      bundles: holds a folder for each model.
      variant: to recommend, i.e. `model.tflite`; empty keeps the draft's.

    Returns:
      The version's `path`, and whether it was `pushed` now or already there.

    Raises:
      BundleError: not a bundle, no such variant, or a rollback withdrew a version that is the same.
    """
    with tempfile.TemporaryDirectory(prefix="sightline-export-") as scratch:
        copy = Path(shutil.copytree(open_bundle(draft).path, Path(scratch) / "draft"))
        manifest = open_bundle(copy).manifest
        if variant:
            changed = variant != manifest.recommended
            manifest = seal(copy, replace(manifest, recommended=variant))
            if changed:
                for name in CARD_FILES:
                    (copy / name).unlink(missing_ok=True)
        write_cards(copy, manifest, {}, keep=True)
        result = push(copy, bundles / manifest.name)
    if result.withdrawn:
        raise BundleError(
            f"not pushed: version {result.version} of {manifest.name} has the same content and was "
            f"withdrawn by a rollback; to serve it again: {result.way_back}"
        )
    return result
