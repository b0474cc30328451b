"""Results to files: summary.json, layers.csv and report.md; and failures in words. Decides nothing."""

from parity.report.failures import failure_lines, unpaired_lines
from parity.report.markdown import render_markdown
from parity.report.tables import layers_csv, summary_json
from parity.report.write import REPORT_FILES, prepare_folder, write_report

__all__ = [
    "REPORT_FILES",
    "failure_lines",
    "layers_csv",
    "prepare_folder",
    "render_markdown",
    "summary_json",
    "unpaired_lines",
    "write_report",
]
