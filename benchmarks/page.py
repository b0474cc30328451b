"""How long a page takes to open in Chromium, and the screenshots that docs/ keeps.

    nox -s browser -- --benchmark 5000
    nox -s browser -- --screenshots RUN_DIR

A page is open when every row is parsed, the table and the first charts are drawn, and the browser has painted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / place) for place in ("harness", "pages")]

from page_pieces import large_results  # noqa: E402
from test_browser import FLAGS  # noqa: E402

from parity.pages import parse_run, read_run, render_page  # noqa: E402
from parity.report import report_texts  # noqa: E402

LIMIT = 2.0
"""Seconds within which a page of 5,000 rows opens."""

PAINTED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"


def main() -> int:
    """Measure, or take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", type=int, metavar="ROWS")
    parser.add_argument("--screenshots", type=Path, metavar="RUN_DIR")
    parser.add_argument("--runs", type=int, default=7)
    choice = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["PARITY_CHROMIUM"], args=FLAGS)
        try:
            if choice.screenshots is not None:
                return _screenshots(browser, choice.screenshots)
            return _benchmark(browser, choice.benchmark or 5000, choice.runs)
        finally:
            browser.close()


def _benchmark(browser: Any, rows: int, runs: int) -> int:
    text = render_page(parse_run(report_texts(large_results(rows))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(text, encoding="utf-8")
        seconds = [_opened(browser, path) for _ in range(runs)]
    middle = statistics.median(seconds)
    passed = middle < LIMIT
    sys.stdout.write(
        f"{'pass' if passed else 'FAIL'}: a page of {rows} rows, {len(text) / 1e6:.1f} MB, opens in {middle:.2f} s "
        f"(median of {runs}, {min(seconds):.2f} to {max(seconds):.2f}; at most {LIMIT:g}), Chromium {browser.version}\n"
    )
    return 0 if passed else 1


def _opened(browser: Any, path: Path) -> float:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    seconds = float(page.evaluate(PAINTED)) / 1000
    context.close()
    return seconds


def _screenshots(browser: Any, folder: Path) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "page.html"
        path.write_text(render_page(read_run(folder)), encoding="utf-8")
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            page.wait_for_timeout(500)
            place = ROOT / "docs" / f"report_{scheme}.png"
            page.screenshot(path=place)
            sys.stdout.write(f"wrote {place.relative_to(ROOT)}\n")
            context.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
