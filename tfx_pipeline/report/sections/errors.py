"""The most confident errors of each model, with their images."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tfx_pipeline.report.error_images import SHOWN, read_errors
from tfx_pipeline.report.sections import RunReport, Section, run_sections
from tfx_pipeline.report.shots import Shot, shot_list


@run_sections.register("errors")
def errors(report: RunReport) -> Section | None:
    """A gallery per model; None for a run that recorded no errors."""
    found = read_errors(report.folder)
    if not found.get("models"):
        return None
    parts = [_of_model(name, one) for name, one in found["models"].items()]
    lead = Markup(
        "The wrong images with the highest scores, up to {} per model; "
        "<code>sightline evaluate RUN:MODEL --out DIR</code> writes all of them. {}"
    ).format(SHOWN, found["note"])
    return Section("Errors", Markup("\n").join(parts), 10, lead)


def _of_model(name: str, found: Mapping[str, Any]) -> Markup:
    shots = [
        Shot(
            one["thumbnail"],
            one["reason"],
            f"{one['label']}, predicted {one['predicted']}",
            f"score {one['score']:.3f}",
            one["file"] or one["id"][:12],
        )
        for one in found["images"]
    ]
    heading = Markup("<h3>{}, {}: errors on {:,} of {:,} images</h3>\n").format(
        name, found["variant"], found["errors"], found["of"]
    )
    none = Markup('<p class="absent">No error on the test split.</p>')
    return heading + (shot_list(shots) if shots else none)
