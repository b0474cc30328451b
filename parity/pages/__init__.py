"""What is made of a run's files alone: the page, comparisons, JUnit XML, annotations. Knows no framework.

```
run_files    a report's folder, read back; refused where it is not one whole run
shapes       what they hold, spelt out
payload      what the page's script draws
html         report.html and the page of a comparison
compare      two runs: what changed beyond noise
```
"""

from parity.pages.html import render_page
from parity.pages.run_files import DETAILS, LAYERS, PAGE, SCHEMA, SUMMARY, Run, digest, parse_run, read_run

__all__ = ["DETAILS", "LAYERS", "PAGE", "SCHEMA", "SUMMARY", "Run", "digest", "parse_run", "read_run", "render_page"]
