"""The model card of a bundle: one content as a page, as JSON and as Markdown.

card_html      `card.html`, for people
card_json      `model_card.json`, in the schema of the Model Card Toolkit
card_markdown  `README.md`, with the header that Hugging Face reads
statements     intended use, limits, and what was not measured
"""

import json
from pathlib import Path
from typing import Any

from core.bundle import CARD_FILES, Manifest
from core.files import write_text
from trainers.bundles.card.card_html import render_card
from trainers.bundles.card.card_json import toolkit_card
from trainers.bundles.card.card_markdown import markdown_card


def write_cards(
    folder: Path, manifest: Manifest, model: dict[str, Any], *, keep: bool = False
) -> None:
    """Writes the card in its three forms.

    Args:
      folder: of the bundle.
      manifest: of the bundle.
      model: what else is known, see `render_card`; may be empty.
      keep: leave files that exist as they are.
    """
    forms = (
        lambda: render_card(manifest, model),
        lambda: json.dumps(toolkit_card(manifest, model), indent=2) + "\n",
        lambda: markdown_card(manifest, model),
    )
    for name, render in zip(CARD_FILES, forms, strict=True):
        if not (keep and (folder / name).is_file()):
            write_text(folder / name, render())
