"""`index.html`, the page of one evaluation."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from core import html
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.sections import sections
from tfx_pipeline.report.section import registered

PAGE_FILE = "index.html"

_FOLDER = Path(__file__).parent
_SCRIPT = "evaluation.js"


def render(evaluation: Evaluation, only: Sequence[str] = ()) -> str:
    """The page, self-contained: it makes no request, and only its own script can run.

    Args:
      evaluation: of the page.
      only: anchors of the sections to show, in this order; empty is all.

    Raises:
      ValueError: a registered section returned something else; names it.
    """
    found = registered(sections, evaluation, only)
    script = (_FOLDER / _SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return html.render(
        _FOLDER,
        "page.html.j2",
        evaluation=evaluation,
        sections=found,
        # After the sections: they use the thumbnails.
        thumbnails=evaluation.thumbnails.note(),
        report_styles=Markup((_FOLDER.parent / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
    )
