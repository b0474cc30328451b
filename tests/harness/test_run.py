"""A run skips nothing silently, forgets no tensor, repeats itself, and never passes what is not reproducible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn
import numpy as np
import pytest
from harness_pieces import F64

from parity import run
from parity.backends.truth import UnstableTruthError
from parity.cases import Case
from parity.examine import Bench, Examination, examine
from parity.gradients import GradientBench, examine_gradients
from parity.pairs import Pair
from parity.report import layers_csv
from parity.results import Results
from parity.run import Plan, execute, plan_cases
from parity.spec.precision import RUNGS, RungName
from parity.spec.profile import CANONICAL, HyperProfile, load_profile
from parity.suites import PAIRS
from parity.suites.m2_bert import HYENA_BUFFERS, MASKED_LM, POOLER

ALL_RUNGS: tuple[RungName, ...] = ("f64", "f32", "bf16", "f16")
TO_COME = CANONICAL.replace(name="to_come", fft_impl="monarch")

Inputs = Mapping[str, Any]
Call = Callable[[Any, Inputs], Mapping[str, Any]]


def results_of(
    pair: Pair,
    *more: Pair,
    profiles: Sequence[HyperProfile] = (CANONICAL,),
    rungs: Sequence[RungName] = ("f32",),
    seed: int = 0,
    cases: Sequence[Case] = (),
) -> Results:
    return execute(Plan((pair, *more), profiles, rungs, "quick", seed, cases), Results({"seed": seed}))


def is_port(module: object) -> bool:
    return isinstance(module, mlx.nn.Module)


def pooler(call: Call) -> Pair:
    """The pooler, asked in another way."""
    return replace(POOLER, call=call)


# What is aimed at -------------------------------------------------------------------------------------------------


def test_the_aimed_case_runs_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = results_of(POOLER)
    monkeypatch.setitem(run.BUDGETS, "quick", replace(run.BUDGETS["quick"], aim_effort=12))
    aimed = results_of(POOLER)
    main, more = (next(row for row in found.rows if row.tensor == "y") for found in (plain, aimed))
    assert more.cases == main.cases + 1
    assert more.ratio >= main.ratio


def test_what_fails_while_aiming_is_not_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.BUDGETS, "quick", replace(run.BUDGETS["quick"], cases=1, aim_effort=24))
    known = {
        (case.options["batch"], case.options["L"]) for case in plan_cases(Plan([POOLER], [], (), "quick", 0), POOLER)
    }

    def broken(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        if is_port(module) and inputs["x"].shape[:2] not in known:
            raise ValueError("planted")
        return POOLER.call(module, inputs)

    results = results_of(pooler(broken))
    assert results.verdict == "fail"
    assert "planted" in results.failures[0].reason


def test_a_port_that_remembers_its_first_call_fails() -> None:
    called: set[int] = set()
    kept: list[Any] = []

    def forgetful(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        outputs = POOLER.call(module, inputs)
        if is_port(module):
            kept.append(module)
            if id(module) in called:
                return {name: value * 1.5 for name, value in outputs.items()}
            called.add(id(module))
        return outputs

    results = results_of(pooler(forgetful), rungs=("f64",))
    assert results.verdict == "fail"


def test_a_loss_over_many_labels_is_not_accused() -> None:
    sizes = {"batch": 64, "L": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 0, "vocab_size": 24}
    case = Case.make(
        "masked_lm", {**sizes, "max_position_embeddings": 16, "long_conv_l_max": 16}, ladder=("f64", "f32")
    )
    bench = Bench(MASKED_LM, case, CANONICAL)
    for rung in ("f64", "f32"):
        loss = examine(bench, CANONICAL, RUNGS[rung]).judgements["loss"]  # type: ignore[index]
        assert loss.passed, loss.reason


def test_an_interruption_is_noticed_while_aiming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.BUDGETS, "quick", replace(run.BUDGETS["quick"], cases=1, aim_effort=12))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > len(POOLER.corpus) + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(Plan([POOLER], [CANONICAL], ("f32",), "quick", 0), Results({}), check=check)


# What is skipped --------------------------------------------------------------------------------------------------


@pytest.fixture
def _to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world in which no kernel but the native one is built."""
    monkeypatch.setattr("parity.spec.profile._PLAIN", {"fft_impl": "native"})


@pytest.mark.usefixtures("_to_come")
def test_a_profile_that_is_not_built_is_skipped_visibly_for_every_component_and_rung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "draw_cases", lambda *_: [])
    monkeypatch.setattr(run, "corpus_cases", lambda *_: [])
    results = results_of(*PAIRS, profiles=[TO_COME], rungs=ALL_RUNGS)
    expected = {(pair.name, "to_come", rung) for pair in PAIRS for rung in RUNGS}
    found = [(skip.component, skip.profile, skip.rung) for skip in results.skips]
    assert set(found) == expected
    assert len(found) == len(expected)
    assert all("not implemented yet" in skip.reason and skip.cases is None for skip in results.skips)
    assert results.verdict == "nothing compared"
    assert layers_csv(results).count(",skip,") == len(expected)


@pytest.mark.usefixtures("_to_come")
def test_a_profile_that_is_not_built_does_not_keep_the_others_from_running() -> None:
    results = results_of(POOLER, profiles=[TO_COME, CANONICAL])
    assert {row.profile for row in results.rows} == {"canonical"}
    assert {skip.profile for skip in results.skips} == {"to_come"}
    assert results.verdict == "pass"


def test_a_kernel_of_another_device_is_skipped_with_the_reason() -> None:
    fused = CANONICAL.replace(name="on_a_gpu", fft_impl="fused")
    results = results_of(POOLER, profiles=[fused, CANONICAL])
    assert {row.profile for row in results.rows} == {"canonical"}
    assert [(skip.profile, skip.rung) for skip in results.skips] == [("on_a_gpu", "f32")]
    assert "fft_impl=fused is a kernel for CUDA and Metal" in results.skips[0].reason
    assert results_of(POOLER, profiles=[fused]).verdict == "nothing compared"


def test_a_rung_that_means_nothing_for_a_pair_is_skipped_visibly() -> None:
    results = results_of(HYENA_BUFFERS, rungs=ALL_RUNGS)
    assert {(skip.rung, skip.reason) for skip in results.skips} == {
        (rung, HYENA_BUFFERS.only_rungs_reason) for rung in ("f64", "bf16", "f16")
    }
    assert {row.rung for row in results.rows} == {"f32"}


def test_a_case_that_overflows_a_rung_is_counted_as_skipped_there() -> None:
    case = Case.make("pooler", {"batch": 2, "L": 3}, "offset", scale=10)
    results = results_of(POOLER, rungs=("f64", "f16"), cases=[case])
    assert [(skip.rung, skip.cases) for skip in results.skips] == [("f16", 1)]
    assert "8188" in results.skips[0].reason
    assert {row.rung for row in results.rows} == {"f64"}


@pytest.mark.parametrize("rung", ALL_RUNGS)
@pytest.mark.parametrize("component", ["pooler", "blockdiag_linear"])
def test_every_rung_that_was_asked_for_has_a_row_or_a_skip(component: str, rung: RungName) -> None:
    results = results_of(next(pair for pair in PAIRS if pair.name == component), rungs=(rung,))
    assert rung in {row.rung for row in results.rows} | {skip.rung for skip in results.skips}


def test_a_rung_outside_the_ladder_of_every_case_is_skipped_visibly() -> None:
    case = Case.make("pooler", {"batch": 1, "L": 3}, ladder=("f64", "f32"))
    results = results_of(POOLER, rungs=("f64", "f16"), cases=[case])
    assert "f16" in {skip.rung for skip in results.skips}


def test_a_pair_without_any_case_has_compared_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "draw_cases", lambda *_: [])
    results = results_of(replace(POOLER, corpus=()))
    assert (results.rows, results.verdict, results.exit_code) == ([], "nothing compared", 3)


def test_a_pair_without_any_case_does_not_vanish_beside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "draw_cases", lambda *_: [])
    results = results_of(POOLER, replace(POOLER, name="empty", corpus=()))
    assert "empty" in layers_csv(results)


@pytest.mark.usefixtures("_to_come")
def test_a_profile_that_is_not_built_costs_no_reference_run(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    class Counted(Bench):
        def __init__(self, pair: Pair, case: Case, profile: HyperProfile) -> None:
            built.append(profile.name)
            super().__init__(pair, case, profile)

    monkeypatch.setattr(run, "Bench", Counted)
    results_of(POOLER, profiles=[TO_COME])
    assert built == []


# Which tensors are compared ---------------------------------------------------------------------------------------


def test_the_rows_are_the_references_tensors_in_the_order_of_execution() -> None:
    results = results_of(POOLER, rungs=("f64", "f32"))
    assert [(row.rung, row.tensor, row.kind, row.order) for row in results.rows] == [
        (rung, tensor, kind, order)
        for rung in ("f64", "f32")
        for order, (tensor, kind) in enumerate(
            (
                ("dense", "intermediate"),
                ("y", "output"),
                *((f"gradient of {name}", "gradient") for name in ("input x", "dense.weight", "dense.bias")),
            )
        )
    ]
    assert all(row.elements > 0 and row.cases > 0 for row in results.rows)


def one_side_more(ports: bool) -> Pair:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        y = POOLER.call(module, inputs)["y"]
        return {"aux": y, "y": y} if is_port(module) is ports else {"y": y}

    return pooler(call)


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        pytest.param(False, "the port has no such tensor", id="the port lacks it"),
        pytest.param(True, "the reference has no such tensor: it is compared with nothing", id="the port alone has it"),
    ],
)
def test_a_tensor_that_one_side_lacks_is_a_failure_that_names_it(ports: bool, reason: str) -> None:
    results = results_of(one_side_more(ports))
    assert results.verdict == "fail"
    row = next(row for row in results.rows if row.tensor == "aux")
    assert (row.verdict, row.reason, row.cases_failed) == ("fail", reason, row.cases)
    assert (results.failures[0].first_bad, results.failures[0].reason) == ("aux", reason)


def test_a_tap_under_another_name_is_a_failure_on_both_sides_of_the_name() -> None:
    results = results_of(replace(POOLER, tap_name=lambda name: f"{name}_renamed"))
    assert {row.tensor: row.verdict for row in results.rows} == {"dense": "fail", "dense_renamed": "fail", "y": "pass"}


def test_a_fresh_tensor_without_an_error_model_does_not_pass() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        outputs = HYENA_BUFFERS.call(module, inputs)
        return {name: value * 7 + 1 for name, value in outputs.items()} if is_port(module) else outputs

    assert results_of(replace(HYENA_BUFFERS, call=call)).verdict == "fail"
    assert results_of(replace(HYENA_BUFFERS, call=call, scales=lambda *_: {})).verdict == "fail"


def test_a_tensor_that_is_nan_on_both_sides_is_no_pass() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        y = POOLER.call(module, inputs)["y"]
        return {"hollow": y * float("nan"), "y": y}

    assert results_of(pooler(call)).verdict != "pass"


# Reproducibility --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_equal_results_and_another_gives_others() -> None:
    one, again, two = (results_of(POOLER, rungs=ALL_RUNGS, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert layers_csv(one) == layers_csv(again) != layers_csv(two)


def test_the_worst_case_of_a_row_shows_the_same_numbers_again() -> None:
    for row in results_of(POOLER, rungs=("f64", "f32")).rows:
        bench, rung = Bench(POOLER, Case.from_json("pooler", row.worst_case), CANONICAL), RUNGS[row.rung]  # type: ignore[index]
        of_gradients = row.kind == "gradient"
        found = (
            examine_gradients(GradientBench(bench), CANONICAL, rung)
            if of_gradients
            else examine(bench, CANONICAL, rung)
        )
        assert found.judgements[row.tensor].ratio == row.ratio


def test_cases_are_shared_between_profiles_and_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, str], list[Case]] = defaultdict(list)

    def watched(bench: Bench, profile: HyperProfile, rung: Any) -> Examination:
        seen[profile.name, rung.name].append(bench.case)
        return examine(bench, profile, rung)

    monkeypatch.setattr(run, "examine", watched)
    profiles = [load_profile(name) for name in ("canonical", "mlx_stable", "torch_like")]
    results_of(POOLER, profiles=profiles, rungs=("f64", "f32"))
    plan = Plan((POOLER,), profiles, ("f64", "f32"), "quick", 0)
    assert len(seen) == 6
    assert all(cases == plan_cases(plan, POOLER) for cases in seen.values())


def test_the_cases_of_a_plan_replace_the_drawn_ones_and_go_to_their_own_pair() -> None:
    case = Case.make("pooler", {"batch": 1, "L": 2})
    results = results_of(POOLER, HYENA_BUFFERS, cases=[case])
    assert {(row.component, row.cases, row.worst_case) for row in results.rows} == {("pooler", 1, case.to_json())}


def test_the_command_of_a_failure_spells_the_profile_as_the_user_did() -> None:
    plan = Plan((one_side_more(ports=True),), [CANONICAL], ("f32",), "quick", 0, spelling={"canonical": "./mine.json"})
    results = execute(plan, Results({}))
    assert "--profile ./mine.json --rung f32 --case " in results.failures[0].rerun
    assert "--profile ./mine.json" in results.rows[0].rerun


def flaky(wrong: Callable[[int], bool], by: float = 1.0) -> Pair:
    """A pooler whose port is off at the calls that `wrong` says, the first being call 0."""
    calls = iter(range(10**6))

    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        y = POOLER.call(module, inputs)["y"]
        return {"y": y + by if is_port(module) and wrong(next(calls)) else y}

    return pooler(call)


def test_a_port_that_fails_once_and_never_again_is_reported_as_not_reproducible() -> None:
    results = results_of(flaky(lambda count: count == 0))
    assert results.verdict == "fail"
    failure = results.failures[0]
    assert failure.reason == "the verdict is not reproducible"
    assert failure.first_bad == "none: the case passed when it was run again"
    assert (failure.cases_failed, failure.shrunk) == (1, False)


def test_a_port_that_fails_from_the_second_call_on_is_a_failure() -> None:
    assert results_of(flaky(lambda count: count > 0)).verdict == "fail"


@pytest.mark.parametrize("period", [2, 3, 5])
def test_a_port_that_fails_now_and_then_is_a_failure_and_ends_no_run(period: int) -> None:
    results = results_of(flaky(lambda count: count % period == 1))
    assert results.verdict == "fail"
    assert results.failures


def test_a_reference_whose_bits_change_stops_the_run() -> None:
    calls = iter(range(10**6))

    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        y = POOLER.call(module, inputs)["y"]
        return {"y": y if is_port(module) else y * (1 + F64.u * 4 * (next(calls) % 2))}

    with pytest.raises(UnstableTruthError, match="pooler: y differs between two float64 runs"):
        results_of(pooler(call))


def test_a_steady_call_in_the_same_place_passes() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        return {"y": POOLER.call(module, inputs)["y"] * 2}

    assert results_of(pooler(call)).verdict == "pass"


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_is_reported_for_every_profile_and_rung_that_fails() -> None:
    profiles = [load_profile(name) for name in ("canonical", "mlx_stable")]
    results = results_of(flaky(lambda _: True), profiles=profiles, rungs=("f64", "f32"))
    assert {(failure.profile, failure.rung) for failure in results.failures} == {
        (profile.name, rung) for profile in profiles for rung in ("f64", "f32")
    }
    assert all(failure.cases == failure.cases_failed > 0 for failure in results.failures)


def test_a_port_that_raises_fails_with_what_it_raised() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        if is_port(module):
            raise ZeroDivisionError("a port's own mistake")
        return POOLER.call(module, inputs)

    results = results_of(pooler(call))
    assert results.verdict == "fail"
    failure = results.failures[0]
    assert (failure.first_bad, failure.reason) == ("y", "the port raised ZeroDivisionError: a port's own mistake")
    assert "Traceback" in failure.detail


def test_a_port_that_is_interrupted_ends_the_run() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        if is_port(module):
            raise KeyboardInterrupt
        return POOLER.call(module, inputs)

    with pytest.raises(KeyboardInterrupt):
        results_of(pooler(call))


def test_a_reference_that_raises_ends_the_run() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        if not is_port(module):
            raise ZeroDivisionError("the reference's own mistake")
        return POOLER.call(module, inputs)

    with pytest.raises(ZeroDivisionError, match="the reference's own mistake"):
        results_of(pooler(call))


def test_a_port_of_another_dtype_fails() -> None:
    def call(module: Any, inputs: Inputs) -> Mapping[str, Any]:
        y = POOLER.call(module, inputs)["y"]
        return {"y": y.astype(mx.float16) if is_port(module) else y}

    results = results_of(pooler(call))
    assert results.failures[0].reason == "dtype float16, the reference has float32"


def test_after_every_case_its_component_is_announced() -> None:
    announced: list[str] = []
    plan = Plan((POOLER,), [CANONICAL], ("f32",), "quick", 0)
    execute(plan, Results({}), announced.append)
    assert announced == ["pooler"] * len(plan_cases(plan, POOLER))


def test_a_seed_draws_the_same_cases_and_none_twice() -> None:
    plans = [Plan((POOLER,), [CANONICAL], ("f32",), "standard", seed) for seed in (3, 3, 4)]
    one, again, other = (plan_cases(plan, POOLER) for plan in plans)
    assert one == again != other
    assert len(set(one)) == len(one)
    assert np.unique([case.seed for case in one]).size > len(one) // 2
