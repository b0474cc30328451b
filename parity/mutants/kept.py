"""Benches that serve one mutant after another: truth, noise and references do not depend on the port."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Final

from parity.cases import Case
from parity.examine import Bench
from parity.pairs import Pair
from parity.spec.profile import HyperProfile

MOST_KEPT: Final = 256
"""Benches kept: a trial meets some 60 cases, and shrinking meets much the same ones for every mutant."""


class KeptBenches:
    """Makes benches, and keeps the last ones used; the port of each is built anew whenever it is asked for.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, Case, tuple[object, ...]], Bench] = OrderedDict()

    def __call__(self, pair: Pair, case: Case, profile: HyperProfile) -> Bench:
        """Return the bench of a case under a profile, its port not built yet."""
        key = (pair.spelling, case, pair.meaning(profile, case.options))
        if key not in self._kept:
            self._kept[key] = Bench(pair, case, profile)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        bench = copy.copy(self._kept[key].with_pair(pair))
        bench.profile = bench.modules.profile = profile
        return bench
