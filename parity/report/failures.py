"""A failure in words, the same on the command line and in a test's report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from parity.results import Failure, Results


def failure_lines(failure: Failure, folder: Path | None = None, detailed: bool = False) -> Iterator[str]:
    """Yield what failed, why, in which cases, how to see it again, and of what kind it is.

    Args:
        failure: The failure.
        folder: Where its bundle was written, None where it was not.
        detailed: Whether to add the traceback of a port that raised.
    """
    yield (
        f"FAIL {failure.component} {failure.profile} {failure.rung}: first bad tensor {failure.first_bad}: "
        f"{failure.reason}; {failure.cases_failed} of {failure.cases} cases"
    )
    yield f"  again: {failure.rerun}"
    if failure.meaning is not None:
        yield f"  {failure.meaning.sentence}; worst ratio {failure.worst_ratio:.3g}"
    yield from (f"  {line}" for line in failure.attribution)
    if folder is not None and failure.bundle:
        yield f"  bundle: {shlex.join(['parity', 'replay', str(folder / failure.bundle)])}"
    if detailed and failure.detail:
        yield failure.detail


def unpaired_lines(results: Results) -> Iterator[str]:
    """Yield, for each component, the intermediates and gradients that were compared with nothing."""
    for component, names in results.unpaired.items():
        listed = "; ".join(f"{name}: {why}" for name, why in names.items())
        yield f"unpaired {component}: {len(names)} tensors compared with nothing: {listed}"
