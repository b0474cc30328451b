"""A fault in one module is blamed on that module and on no other, forwards and backwards."""

from __future__ import annotations

import pytest
from blame_faults import BACKWARD, FORWARD, Fault, bench, port_of, spoil

from parity.blame import BlameTable, trace_backward, trace_forward
from parity.spec.precision import RUNGS

F64 = RUNGS["f64"]


def forward(fault: Fault | None) -> BlameTable:
    found = bench()
    port = port_of(found)
    if fault is not None:
        spoil(port, fault)
    return trace_forward(found.pair, found.module, port, found.inputs, F64)


def backward(fault: Fault | None) -> BlameTable:
    found = bench()
    port = port_of(found)
    if fault is not None:
        spoil(port, fault)
    return trace_backward(found.pair, found.module, port, found.inputs, F64)


def blamed(table: BlameTable) -> set[str]:
    return {row.port.partition("#")[0] for row in table.culprits}


def test_nothing_is_blamed_in_the_port_as_it_is() -> None:
    for table in (forward(None), backward(None)):
        assert table.passed, table.sentence()
        assert len(table.rows) > 100
        assert table.culprits == []


@pytest.mark.parametrize("fault", FORWARD, ids=lambda fault: fault.name)
def test_a_fault_is_blamed_on_its_module_alone(fault: Fault) -> None:
    assert blamed(forward(fault)) == {fault.module}


@pytest.mark.parametrize("fault", BACKWARD, ids=lambda fault: fault.name)
def test_a_fault_of_the_backward_pass_is_blamed_on_its_module_alone(fault: Fault) -> None:
    assert forward(fault).passed, "the forward pass is right"
    assert blamed(backward(fault)) == {fault.module}
