"""Results to files: summary.json, layers.csv and report.md. Decides nothing."""

from parity.report.markdown import render_markdown
from parity.report.tables import layers_csv, summary_json
from parity.report.write import REPORT_FILES, prepare_folder, write_report

__all__ = ["REPORT_FILES", "layers_csv", "prepare_folder", "render_markdown", "summary_json", "write_report"]
