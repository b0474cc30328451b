"""All files of a report as texts: the page is built from the others, as it would be from a folder."""

from __future__ import annotations

from parity.pages import DETAILS, LAYERS, PAGE, SUMMARY, parse_run, render_page
from parity.report.markdown import render_markdown
from parity.report.tables import details_json, layers_csv, summary_json
from parity.results import Results


def report_texts(results: Results) -> dict[str, str]:
    """Return the files of a report by name."""
    texts = {
        LAYERS: layers_csv(results),
        DETAILS: details_json(results),
        "report.md": render_markdown(results),
        SUMMARY: summary_json(results),
    }
    return {**texts, PAGE: render_page(parse_run(texts))}
