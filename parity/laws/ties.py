"""Laws of shared parameters: several names, one number."""

from __future__ import annotations

import re
from collections.abc import Iterable

from parity.laws.law import Claim
from parity.laws.subject import Subject


def tied(subject: Subject, pattern: str) -> Iterable[Claim]:
    """Claim that doubling one place of a shared parameter doubles it everywhere.

    For each place at which the side lets itself be assigned to, the answer after doubling that place in the built
    module is, bit for bit, the answer of a module built from a state dict with every alias doubled; and it is another
    answer than before.

    Args:
        subject: The side under test.
        pattern: Pattern of the state-dict names of the shared parameter; names that agree in the pattern's groups are
            one parameter.
    """
    groups = shared_names(subject, pattern)
    state = dict(subject.state)
    for names in groups:  # the law's own sharing, whatever a side that was built unshared has drawn
        state |= dict.fromkeys(names, state[names[0]])
    before = subject.outputs(state=state)
    for names in groups:
        doubled = {name: 2 * array if name in names else array for name, array in state.items()}
        everywhere = subject.outputs(state=doubled)
        for storage in subject.storages(names, state):
            alone = subject.outputs_doubled_at(storage, state)
            for name, expected in everywhere.items():
                yield Claim(f"{name} after doubling {storage} alone", alone[name], expected)
            main = list(everywhere)[-1]
            yield Claim(f"{main} before and after doubling {storage}", alone[main], before[main], distinct=True)


def shared_names(subject: Subject, pattern: str) -> list[list[str]]:
    """Return the state-dict names of each shared parameter, by the groups of `pattern`."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name in subject.state:
        found = re.search(pattern, name)
        if found:
            groups.setdefault(found.groups(), []).append(name)
    return list(groups.values())
