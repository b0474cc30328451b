"""A fault in one module is blamed on that module and on no other, forwards and backwards."""

from __future__ import annotations

import pytest
from blame_faults import BACKWARD, FORWARD, NAMES, Fault, bench, port_of

from parity.attribution import LocalAttribution
from parity.blame import BlameTable, links_by_name, trace_backward, trace_forward
from parity.spec.precision import RUNGS
from parity.suites.m2_bert_alternatives import ALTERNATIVES

F64 = RUNGS["f64"]


def forward(fault: Fault | None) -> BlameTable:
    found = bench()
    port = port_of(found, fault)
    links = links_by_name(found.pair, found.module, port)
    return trace_forward(found.pair, found.module, port, found.inputs, F64, links)


def backward(fault: Fault | None) -> BlameTable:
    found = bench()
    port = port_of(found, fault)
    links = links_by_name(found.pair, found.module, port)
    return trace_backward(found.pair, found.module, port, found.inputs, F64, links)


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


EXPLAINED = {
    "GELU by tanh": "behaves as if: gelu=tanh (beta 1.0000)",
    "epsilon 1e-5": "behaves as if: layer_norm.eps=1e-5 (beta 1.0000)",
    "gates exchanged": "its parts agree: the wiring is wrong; behaves as if: gates=x2,x1,v (beta 1.0000)",
    "residual left out": "its parts agree: the wiring is wrong; behaves as if: mlp.residual=missing (beta 1.0000)",
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_culprit_that_computes_a_known_meaning_is_said_to(name: str) -> None:
    found = bench()
    port = port_of(found, NAMES[name])
    links = links_by_name(found.pair, found.module, port)
    explain = LocalAttribution(found, ALTERNATIVES)
    table = trace_forward(found.pair, found.module, port, found.inputs, F64, links, explain=explain)
    assert blamed(table) == {NAMES[name].module}
    assert EXPLAINED[name] in table.sentence()


def test_a_culprit_that_computes_no_known_meaning_is_described_instead() -> None:
    fault = NAMES["embeddings scaled by 1 + 1e-9"]
    found = bench()
    port = port_of(found, fault)
    links = links_by_name(found.pair, found.module, port)
    explain = LocalAttribution(found, ALTERNATIVES)
    table = trace_forward(found.pair, found.module, port, found.inputs, F64, links, explain=explain)
    assert "behaves as if" not in table.sentence()
    assert "scaled by 1" in table.sentence()
