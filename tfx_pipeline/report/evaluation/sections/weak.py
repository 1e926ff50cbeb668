"""Slices that are less accurate than the other images, found automatically."""

from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.findings import significant, slice_name
from tfx_pipeline.report.evaluation.markup import Cell, Column, absent, interval_cell, table
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.analysis import LEAST_IMAGES
from trainers.evaluation.comparison import ALPHA

_SHOWN = 20


@sections.register("weak-slices")
def weak_slices(evaluation: Evaluation) -> Section | None:
    """The slices by significance, with p-values after Holm's correction."""
    found = evaluation.analysis
    if not found.slices_tried:
        return None
    lead = (
        f"{found.slices_tried:,} slices of up to three values, each with at least {LEAST_IMAGES} "
        "images inside and outside, were compared with the other images by Fisher's exact test. "
        "P-values are adjusted for all of them with Holm's method. Slices below "
        f"{ALPHA:g}: {len(significant(found)):,}."
    )
    if any(len(one.values) > 2 for one in found.weak):
        lead += (
            " Slices of three values were found on one half of the images; their figures are of "
            "the other half."
        )
    rows = [
        (
            Cell(slice_name(one)),
            Cell(f"{one.images:,}", sort=one.images),
            interval_cell(one.accuracy),
            Cell(f"{one.outside * 100:.1f} %", sort=one.outside),
            Cell(f"{(one.accuracy.value - one.outside) * 100:+.1f}", sort=one.accuracy.value),
            Cell(
                f"{one.p_adjusted:.2g}",
                sort=one.p_adjusted,
                tone="bad strong" if one.p_adjusted < ALPHA else "soft",
            ),
        )
        for one in found.weak[:_SHOWN]
    ]
    columns = (
        Column("slice"),
        Column("images", numeric=True),
        Column("top-1", numeric=True),
        Column("others", numeric=True, help="top-1 on all other images"),
        Column("difference, points", numeric=True),
        Column("adjusted p", numeric=True, help=f"after Holm over {found.slices_tried} slices"),
    )
    body = table("Weak slices", columns, rows) if rows else absent("No slice is less accurate.")
    if len(found.weak) > _SHOWN:
        body += absent(
            f"{len(found.weak) - _SHOWN:,} more are less accurate, but less significant."
        )
    return Section("Weak slices", body, 45, lead)
