"""The report of a run, from `summary.json`: `report.html` and the console's tables.

`tfx_pipeline.report.evaluation` is the page of `sightline evaluate --out`.
"""

from tfx_pipeline.report.console import console_gates, console_metrics, console_table
from tfx_pipeline.report.page import REPORT_FILE, render_report, write_report

__all__ = [
    "REPORT_FILE",
    "console_gates",
    "console_metrics",
    "console_table",
    "render_report",
    "write_report",
]
