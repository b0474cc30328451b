"""Results to files: summary.json, layers.csv, details.json, report.md, report.html; failures in words."""

from parity.report.failures import failure_lines, unpaired_lines
from parity.report.markdown import render_markdown
from parity.report.tables import details_json, layers_csv, summary_json
from parity.report.texts import report_texts
from parity.report.write import REPORT_FILES, make_folder, prepare_folder, write_report

__all__ = [
    "REPORT_FILES",
    "details_json",
    "failure_lines",
    "layers_csv",
    "make_folder",
    "prepare_folder",
    "render_markdown",
    "report_texts",
    "summary_json",
    "unpaired_lines",
    "write_report",
]
