"""What a person reads of a run: `report.html` and the console's tables, from `summary.json`."""

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
