"""One case examined: truth, predicted noise, reference and port at each rung, and a judgement of every tensor."""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from torch import nn

from parity.accuracy import Ratio, error_bits
from parity.backends.conditioning import jitter_kappa
from parity.backends.noise import (
    draw_exact,
    draw_wavering,
    predict_noise,
    same_shape,
    size_of,
    with_rounding,
    with_rounding_of,
)
from parity.backends.port import arithmetic, build_port, run_port, run_port_outputs
from parity.backends.reference import (
    at_rung,
    build_reference,
    copy_values,
    fill_reference,
    fresh_parameters,
    load_reference,
    on_device,
    run_reference,
    run_reference_outputs,
    state_of,
)
from parity.backends.roughness import roughness
from parity.backends.shifts import Noise
from parity.backends.truth import Confirmed, Truth, compute_truth, confirm_truth, digest_of
from parity.cases import Case, draw_inputs, draw_parameters
from parity.errors import CaseError, ConfigError
from parity.layouts import nearest_layout
from parity.meaning import Meaning, classify, finer_rungs
from parity.metrics import ErrorMetrics, error_of, error_ratio, quantisation_error
from parity.pairs import Pair
from parity.predictions import Answer, NoPredictions, PredictionFile, Predictions, remembered, subject_of
from parity.spec.arrays import AnyArray, Array, Arrays
from parity.spec.precision import BY_DTYPE, RUNGS, Rung
from parity.spec.profile import HyperProfile
from parity.tolerance import (
    REFINE_FROM,
    REFINE_TO,
    REFINED_DRAWS,
    SCREENING_DRAWS,
    Scale,
    constant,
    propagated,
)
from parity.trace import Trace, TracedTensor, kind_of, same_bits
from parity.verdict import Judgement, Known, failed, judge, judge_decided, judge_exact

UNSTEADY: Final = "its shape depends on rounding"
"""Why an intermediate of the reference is compared with nothing."""

INNER: Final = "integers or booleans, which are compared where they are outputs"
"""Why one of either side is."""

TRUTH: Final = "truth"
"""Name of the answer that says what the truth was, by its hash."""

LARGEST_VALUE: Final[Mapping[str, float]] = {"f16": 65504.0 / 8, "bf16": 2.0**60, "f32": 2.0**60}
"""A case is judged at a rung only if every operation of the float64 reference stays below this.

float16 overflows beyond 65504, with a factor 8 left for partial sums; a LayerNorm squares in float32, which holds
2**120 and a sum of 256 such squares. What implementations make of larger numbers is no question of accuracy.
"""


@dataclass(frozen=True)
class Examination:
    """Judgements of one case at one rung, by tensor in execution order, or the reason why there are none.

    `port` is what was judged, None where the port raised or was not run. `leaks` are the operations that leaked at f64.
    `unpaired` are the intermediates of either side that were compared with nothing, each with the reason.
    """

    judgements: Mapping[str, Judgement]
    skipped: str = ""
    port: Trace | None = None
    leaks: tuple[str, ...] = ()
    unpaired: Mapping[str, str] = field(default_factory=dict)


class Ground(NamedTuple):
    """Root mean square and largest magnitude of a truth, and the error of rounding it to its format; 0 at f64."""

    rms: float
    largest: float
    quantisation: float


def _place(name: str, dtype: str) -> str:
    return f"{name} in {dtype}"


def _ground(truth: Array, dtype: str, rung: Rung) -> Ground:
    quantisation = 0.0 if rung.name == "f64" else quantisation_error(truth, BY_DTYPE[dtype])
    return Ground(*size_of(truth), quantisation)


class Modules:
    """Reference and ports of one set of parameters under one meaning, at every rung, each built once.

    Args:
        pair: The pair.
        case: Structure, seed and ladder, from which the parameters follow; its inputs play no part.
        profile: Any profile of that meaning.
        state: The reference's state dict, where the parameters are not to be drawn from the case.
    """

    def __init__(self, pair: Pair, case: Case, profile: HyperProfile, state: Arrays | None = None) -> None:
        self.pair, self.case, self.profile = pair, case, profile
        self.module = build_reference(pair, case.options, profile, dtype="float64" if pair.fresh else "float32")
        self._fresh = fresh_parameters(self.module)
        self._references: dict[str, nn.Module] = {}
        self._stale: set[str] = set()
        self._ports: dict[tuple[HyperProfile, str], Any] = {}
        if state is not None:
            load_reference(self.module, state)
        elif not pair.fresh:
            fill_reference(self.module, draw_parameters(pair, case, self._fresh))
        self.state = state_of(self.module)

    def redraw(self, case: Case) -> None:
        """Give the references the parameters of another case of this structure; ports are built anew.

        A port that keeps something of its first parameters must not be blamed on the case, hence a new one.
        """
        self.case = case
        fill_reference(self.module, draw_parameters(self.pair, case, self._fresh))
        self.state = state_of(self.module)
        self._stale = set(self._references)
        self._ports.clear()

    def reference(self, rung: Rung) -> nn.Module:
        """Return the reference at `rung`; of freshly built buffers, those that float32 builds."""
        if rung.name not in self._references:
            built = (
                build_reference(self.pair, self.case.options, self.profile)
                if self.pair.fresh
                else at_rung(copy.deepcopy(self.module), rung)
            )
            self._references[rung.name] = on_device(self.pair, built, rung)
        if rung.name in self._stale:
            copy_values(self.module, self._references[rung.name])
            self._stale.remove(rung.name)
        return self._references[rung.name]

    def port(self, profile: HyperProfile, rung: Rung) -> Any:
        """Return the port under `profile` at `rung`."""
        if (profile, rung.name) not in self._ports:
            self._ports[profile, rung.name] = build_port(self.pair, self.case.options, profile, rung, self.state)
        return self._ports[profile, rung.name]

    def with_pair(self, pair: Pair) -> Modules:
        """Return the same references beside the port of `pair`, which differs in its port alone."""
        other = copy.copy(self)
        other.pair, other._ports = pair, {}
        return other


class Bench:
    """Truth, noise and references of one case under one meaning, computed once for all profiles and rungs.

    Args:
        pair: The pair.
        case: The case.
        profile: Any profile of that meaning.
        inputs: The inputs, where they are not to be drawn from the case.
        modules: The filled modules, where they are not to be drawn from the case.
        intermediates: Whether the truth has them, or the outputs alone.
        extent: Whether to measure how large numbers grow; without, no case is out of range.
        file: Where predictions are kept between runs, None for nowhere; of truths with intermediates alone.
    """

    def __init__(
        self,
        pair: Pair,
        case: Case,
        profile: HyperProfile,
        inputs: Arrays | None = None,
        modules: Modules | None = None,
        intermediates: bool = True,
        extent: bool = True,
        file: PredictionFile | None = None,
    ) -> None:
        self.pair, self.case, self.profile = pair, case, profile
        self.inputs = draw_inputs(pair, case) if inputs is None else inputs
        self.modules = Modules(pair, case, profile) if modules is None else modules
        self.module, self.state = self.modules.module, self.modules.state
        self._keeps = intermediates and extent and file is not None
        self._kept: Predictions = file.of(self._subject(file)) if self._keeps and file is not None else NoPredictions()
        self._digest = ""
        truth = self._truth() if self._keeps else compute_truth(pair, self.module, self.inputs, intermediates, extent)
        self.truth, self.largest, self.largest_narrow = truth.trace, truth.largest, truth.largest_narrow
        self._references: dict[str, Trace] = {}
        self._noise: dict[tuple[str, int, float], Mapping[str, Noise]] = {}
        self._wavering: dict[str, Mapping[str, Array]] = {}
        self._exact: dict[tuple[str, int], Sequence[Mapping[str, AnyArray]]] = {}
        self._main_outputs: dict[str, TracedTensor] = {}
        self._kappa: Mapping[str, float] | None = None
        self._grounds: dict[str, Mapping[str, Ground]] = {}
        self._reference_errors: dict[tuple[str, int, int], ErrorMetrics] = {}
        self._known_errors: dict[str, Mapping[str, ErrorMetrics]] = {}

    def _subject(self, file: PredictionFile) -> str:
        pair, case = self.pair, self.case
        words = {
            "pair": pair.spelling,
            "code": file.own.get(pair.target, ""),
            "case": case.to_json(),
            "meaning": repr(pair.meaning(self.profile, case.options)),
            "factors": repr(pair.factors),
        }
        return subject_of(words, self.state, self.inputs)

    def _truth(self) -> Truth:
        """Compute the truth, twice, or once where that is known to give the same, and take its hash."""
        known = self._kept.found(TRUTH)
        if known is not None:
            (self._digest, (largest, narrow)) = next(iter(known.items()))
            return confirm_truth(self.pair, self.module, self.inputs, Confirmed(self._digest, largest, narrow))
        truth = compute_truth(self.pair, self.module, self.inputs)
        self._digest = digest_of(truth.trace)
        self._kept.keep(TRUTH, {self._digest: (truth.largest, truth.largest_narrow)})
        return truth

    def reference(self, rung: Rung) -> Trace:
        """Return the reference's trace at `rung`; at f64 it is the truth."""
        if rung.name == "f64":
            return self.truth
        if rung.name not in self._references:
            self._references[rung.name] = run_reference(self.pair, self.modules.reference(rung), self.inputs, rung)
        return self._references[rung.name]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, those of integers or booleans first."""
        return (*self.truth.exact, *self.truth.outputs)

    @property
    def main(self) -> str:
        """Name of the main output, on which accuracy is measured.

        Raises:
            ConfigError: The module returns integers or booleans alone.
        """
        if not self.truth.outputs:
            raise ConfigError(
                f"pair {self.pair.name!r}: strata= measures the accuracy of floats, and the module returns "
                f"{', '.join(self.truth.exact)} alone, which are compared exactly: leave strata= out"
            )
        return self.truth.outputs[-1]

    def exact(self, rung: Rung, draws: int) -> Sequence[Mapping[str, AnyArray]]:
        """Return the outputs of integers or booleans that rounding at `rung` gives, by so many draws."""
        if (rung.name, draws) not in self._exact:
            self._exact[rung.name, draws] = draw_exact(self.pair, self.module, self.inputs, rung, draws, self.case.seed)
        return self._exact[rung.name, draws]

    def wavering(self, rung: Rung) -> Mapping[str, Array]:
        """Return how far rounding at `rung` moves each element, of a reference that chooses places by its numbers."""
        if rung.name not in self._wavering:
            self._wavering[rung.name] = draw_wavering(
                self.pair, self.module, self.inputs, self.truth, rung, REFINED_DRAWS, self.case.seed
            )
        return self._wavering[rung.name]

    def reference_output(self, rung: Rung) -> TracedTensor:
        """Return the reference's main output at `rung`, without the intermediates."""
        if rung.name not in self._main_outputs:
            outputs = run_reference_outputs(self.pair, self.modules.reference(rung), self.inputs, rung)
            self._main_outputs[rung.name] = outputs[outputs.outputs[-1]]
        return self._main_outputs[rung.name]

    def noise(self, rung: Rung, draws: int = SCREENING_DRAWS, products: float = 0.0) -> Mapping[str, Noise]:
        """Return the predicted error of every tensor at `rung` from so many draws.

        `products` is the unit roundoff of the factors of float32 products where that is coarser than float32's.
        """
        if (rung.name, draws, products) not in self._noise:
            question = f"noise at {rung.name}, {draws} draws, products {products!r}"
            answer = remembered(self._kept, question, lambda: self._predicted(rung, draws, products))
            self._noise[rung.name, draws, products] = {name: Noise(*numbers) for name, numbers in answer.items()}
        return self._noise[rung.name, draws, products]

    def _predicted(self, rung: Rung, draws: int, products: float) -> dict[str, tuple[float, ...]]:
        found = predict_noise(self.pair, self.module, self.inputs, self.truth, rung, draws, self.case.seed, products)
        return {name: (noise.rms, noise.maximum) for name, noise in found.items()}

    @property
    def kappa(self) -> Mapping[str, float]:
        """Conditioning of every tensor, by jitter; 0 throughout for freshly built buffers, which have no inputs."""
        if self._kappa is None:
            answer = remembered(self._kept, "conditioning", self._measured_kappa)
            self._kappa = {name: number for name, (number,) in answer.items()}
        return self._kappa

    def _measured_kappa(self) -> dict[str, tuple[float, ...]]:
        if self.pair.fresh:
            return dict.fromkeys(self.truth, (0.0,))
        found = jitter_kappa(self.pair, self.module, self.inputs, self.truth, self.case.seed)
        return {name: (number,) for name, number in found.items()}

    def ground(self, rung: Rung, name: str) -> Ground:
        """Return what a verdict on a tensor at `rung` needs to know of its truth alone."""
        held = self.reference(rung)[name].dtype
        if rung.name not in self._grounds:
            answer = remembered(self._kept, f"grounds at {rung.name}", lambda: self._measured_grounds(rung))
            self._grounds[rung.name] = {place: Ground(*numbers) for place, numbers in answer.items()}
        found = self._grounds[rung.name].get(_place(name, held))
        # Which tensors were there, and in which format, is the reference's answer at this rung, which no hash holds.
        return found or _ground(self.truth[name].values, held, rung)

    def _measured_grounds(self, rung: Rung) -> Answer:
        reference, found = self.reference(rung), dict[str, tuple[float, ...]]()
        for name in (name for name in self.truth if same_shape(reference, self.truth, name)):
            held = reference[name].dtype
            found[_place(name, held)] = tuple(_ground(self.truth[name].values, held, rung))
        return found

    def known(self, rung: Rung, name: str) -> Known:
        """Return what a verdict on a tensor at `rung` needs that does not depend on the port."""
        reference, truth = self.reference(rung)[name], self.truth[name].values
        # One tensor under several names is measured once; both traces are kept, so that no other takes its place.
        place = rung.name, id(reference.values), id(truth)
        if place not in self._reference_errors:
            kept = self._kept_errors(rung).get(name)
            self._reference_errors[place] = kept or error_of(reference.values, truth, BY_DTYPE[reference.dtype])
        return Known(self._reference_errors[place], self.ground(rung, name).quantisation)

    def _kept_errors(self, rung: Rung) -> Mapping[str, ErrorMetrics]:
        """Return the reference's errors where they are kept: nothing but its answer itself tells whose they are."""
        if not self._keeps:
            return {}
        if rung.name not in self._known_errors:
            digest = self._digest if rung.name == "f64" else digest_of(self.reference(rung))
            question = f"errors at {rung.name} of {digest}"
            answer = remembered(self._kept, question, lambda: self._measured_errors(rung))
            self._known_errors[rung.name] = {name: ErrorMetrics.of_numbers(numbers) for name, numbers in answer.items()}
        return self._known_errors[rung.name]

    def _measured_errors(self, rung: Rung) -> Answer:
        reference, found = self.reference(rung), dict[tuple[int, int], ErrorMetrics]()
        answer: dict[str, tuple[float, ...]] = {}
        for name in (name for name in self.truth if same_shape(reference, self.truth, name)):
            tensor, truth = reference[name], self.truth[name].values
            place = id(tensor.values), id(truth)
            if place not in found:
                found[place] = error_of(tensor.values, truth, BY_DTYPE[tensor.dtype])
            answer[name] = found[place].numbers
        return answer

    def scales(self, profile: HyperProfile) -> Mapping[str, Scale]:
        """Return the explicit error models of the outputs."""
        if self.pair.scales is None:
            return {}
        return self.pair.scales(self.case.options, profile, self.state, self.inputs)

    def with_pair(self, pair: Pair) -> Bench:
        """Return the same truth, noise and references beside the port of `pair`, which differs in its port alone."""
        self.kappa  # noqa: B018 - measured here, it is shared
        other = copy.copy(self)
        other.pair, other.modules = pair, self.modules.with_pair(pair)
        return other


def bench_maker(file: PredictionFile | None) -> Callable[[Pair, Case, HyperProfile], Bench]:
    """Return what makes benches whose predictions are kept in a file; None keeps nothing."""
    return partial(Bench, file=file)


def examine(bench: Bench, profile: HyperProfile, rung: Rung) -> Examination:
    """Run the port under `profile` at `rung` and judge every tensor of the reference, in execution order.

    A port that raises fails in its outputs, with what it raised as the reason. It is called twice: one that remembers
    its first call is judged by the call that lies farther from the truth. At the finest rung it has answered for other
    inputs before, in every other case: one that keeps something of them is wrong for these. Where a tensor comes near
    its allowance or moderately beyond it, the predicted error is drawn more often, and that prediction counts. Outputs
    of integers or booleans come last: where they are wrong alone, no float is.
    """
    skipped = out_of_range(bench, rung)
    if skipped:
        return Examination({}, skipped)
    try:
        with arithmetic(bench.pair, rung) as leaks:
            module = bench.modules.port(profile, rung)
            _call_before(bench, module, rung)
            port, again = (_own_outputs(bench, run_port(bench.pair, module, bench.inputs, rung)) for _ in range(2))
    except Exception as error:  # noqa: BLE001 - a port that raises is a port that fails, whatever it raises
        raised = failed(f"the port raised {type(error).__name__}: {error}", traceback.format_exc())
        return Examination(dict.fromkeys((*bench.truth.outputs, *bench.truth.exact), raised))
    if not _equal(port, again):
        port = _farther(bench, port, again)
    seen = port if bench.pair.same_tree else _in_layout(bench, port)
    apart = {} if bench.pair.same_tree else _unpaired(bench, seen) | _unsteady(bench, rung, SCREENING_DRAWS)
    judgements = _judgements(bench, profile, rung, seen, SCREENING_DRAWS, apart)
    if not bench.pair.fresh and any(REFINE_FROM < j.predicted_ratio < REFINE_TO for j in judgements.values()):
        apart |= {} if bench.pair.same_tree else _unsteady(bench, rung, REFINED_DRAWS)
        judgements = _judgements(bench, profile, rung, seen, REFINED_DRAWS, apart)
    judgements |= _past_ties(bench, rung, seen, judgements)
    unpaired = [name for name in port if name not in bench.truth and name not in apart]
    judgements |= dict.fromkeys(unpaired, failed("the reference has no such tensor: it is compared with nothing"))
    judgements |= _exact_judgements(bench, rung, port)
    apart |= _apart_exact(bench, port)
    leaked = tuple(dict.fromkeys(leak.operation for leak in leaks))
    return Examination(judgements, port=port, leaks=leaked, unpaired=apart)


def _past_ties(bench: Bench, rung: Rung, port: Trace, judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """Judge what fails again without the elements that a tie of what the reference chooses by decides."""
    failing = [name for name, it in judgements.items() if not it.passed and it.special and not it.special.fatal]
    if bench.pair.fresh or bench.pair.scales is not None or not failing:
        return {}
    reference, found = bench.reference(rung), {}
    for name, shifts in bench.wavering(rung).items():
        if name in failing:
            truth, held = bench.truth[name], BY_DTYPE[reference[name].dtype]
            noise = with_rounding(bench.noise(rung, REFINED_DRAWS)[name], truth.values, held)
            allowance = propagated(noise.rms, noise.maximum, rung, held)
            found[name] = judge_decided(
                judgements[name], truth, reference[name], port[name], rung, allowance, noise.rms, shifts
            )
    return found


def _exact_judgements(bench: Bench, rung: Rung, port: Trace) -> dict[str, Judgement]:
    """Judge the outputs of integers or booleans; what rounding makes of them is drawn where one is not the truth's."""
    found = {}
    for name in bench.truth.exact:
        found[name] = _exact_judgement(bench, rung, port, name, 0)
        for draws in (SCREENING_DRAWS, REFINED_DRAWS):
            if _is_true(bench.truth, port, name) or found[name].passed or bench.pair.fresh:
                break
            found[name] = _exact_judgement(bench, rung, port, name, draws)
    return found


def _exact_judgement(bench: Bench, rung: Rung, port: Trace, name: str, draws: int) -> Judgement:
    if name in port:
        return failed(f"{port[name].dtype}, the reference has {kind_of(bench.truth.exact[name])}")
    drawn = [run[name] for run in bench.exact(rung, draws)] if draws else []
    return judge_exact(bench.truth.exact[name], bench.reference(rung).exact[name], port.exact.get(name), drawn)


def _is_true(truth: Trace, port: Trace, name: str) -> bool:
    return name in port.exact and np.array_equal(port.exact[name], truth.exact[name])


def _apart_exact(bench: Bench, port: Trace) -> dict[str, str]:
    """Return the integers and booleans that were compared with nothing, and why."""
    surplus = [name for name in port.exact if name not in bench.outputs]
    if bench.pair.same_tree:
        return dict.fromkeys(surplus, "the reference has no such tensor")
    inner = (name for name in (*bench.truth.inner, *port.inner) if name not in bench.outputs)
    return dict.fromkeys(inner, INNER) | dict.fromkeys(surplus, "the reference has no such tensor")


def _call_before(bench: Bench, module: Any, rung: Rung) -> None:
    """Run the port at its pair's finest rung on other inputs of this structure, in every other case."""
    pair, case = bench.pair, bench.case
    if pair.fresh or case.seed % 2 == 0 or rung.name != next(name for name in RUNGS if name in pair.only_rungs):
        return
    try:
        others = draw_inputs(pair, replace(case, seed=case.seed - 1))
    except CaseError:  # at the end of the range this case fits into it and its neighbour does not
        return
    run_port_outputs(pair, module, others, rung)


def _own_outputs(bench: Bench, port: Trace) -> Trace:
    """Leave out the submodules that have the name of an output: one that the port lacks is not to be taken for it."""
    outputs = set(bench.outputs)
    kept = {name: tensor for name, tensor in port.tensors.items() if name in port.outputs or name not in outputs}
    return replace(port, tensors=kept)


def _in_layout(bench: Bench, port: Trace) -> Trace:
    """Return the trace with the axes of every intermediate in the reference's order, where there is one."""
    moved = dict(port.tensors)
    for name in (name for name in port if name in bench.truth and name not in bench.truth.outputs):
        order = nearest_layout(port[name].values, bench.truth[name].values)
        if order is not None:
            moved[name] = replace(port[name], values=np.ascontiguousarray(port[name].values.transpose(order)))
    return replace(port, tensors=moved)


def _unpaired(bench: Bench, port: Trace) -> dict[str, str]:
    """Return the intermediates without a counterpart of their name and shape, and why; an output always needs one."""
    found = {name: "the port has no such tensor" for name in bench.truth if name not in port}
    found |= {name: "the reference has no such tensor" for name in port if name not in bench.truth}
    for name in (name for name in bench.truth if name in port):
        here, there = port[name].values.shape, bench.truth[name].values.shape
        if here != there:
            found[name] = f"shape {here}, the reference has {there}"
    return {name: why for name, why in found.items() if name not in (*bench.truth.outputs, *port.outputs)}


def _unsteady(bench: Bench, rung: Rung, draws: int) -> dict[str, str]:
    """Return the intermediates of the reference whose shape depends on rounding: what reaches one expert of many."""
    reference, noise = bench.reference(rung), bench.noise(rung, draws)
    varying = (name for name in bench.truth if name not in noise or not same_shape(reference, bench.truth, name))
    return dict.fromkeys((name for name in varying if name not in bench.truth.outputs), UNSTEADY)


def _equal(one: Trace, other: Trace) -> bool:
    """Whether two traces have the same tensors, bit for bit."""
    return (
        one.keys() == other.keys()
        and all(
            one[name].dtype == other[name].dtype and same_bits(one[name].values, other[name].values) for name in one
        )
        and one.exact.keys() == other.exact.keys()
        and all(np.array_equal(array, other.exact[name]) for name, array in one.exact.items())
    )


def _farther(bench: Bench, one: Trace, other: Trace) -> Trace:
    """Return the trace whose main output lies farther from the truth, or cannot be compared with it.

    Of two that lie equally far it is the one of more outputs that are not the truth's integers or booleans.
    """

    def distances(trace: Trace) -> tuple[float, int]:
        lost = sum(not _is_true(bench.truth, trace, name) for name in bench.truth.exact)
        return _distance(bench.truth, trace) if bench.truth.outputs else 0.0, lost

    return max(one, other, key=distances)


def _distance(truth: Trace, port: Trace) -> float:
    """Return the distance between the main outputs, infinite where they cannot be compared."""
    main = truth.outputs[-1]
    found, exact = port.get(main), truth[main].values
    if found is None or found.values.shape != exact.shape or not np.isfinite(found.values).all():
        return math.inf
    return float(np.linalg.norm(found.values - exact))


def out_of_range(bench: Bench, rung: Rung) -> str:
    """Return why the case cannot be judged at `rung`, empty if it can."""
    largest = bench.largest_narrow if rung.name == "f16" else bench.largest
    if largest > LARGEST_VALUE.get(rung.name, np.inf):
        return f"the truth passes through numbers above {LARGEST_VALUE[rung.name]:g}: out of range"
    return ""


def _judgements(
    bench: Bench, profile: HyperProfile, rung: Rung, port: Trace, draws: int, apart: Collection[str]
) -> dict[str, Judgement]:
    reference, fresh = bench.reference(rung), bench.pair.fresh
    scales = {name: scale.times(bench.pair.factors, rung) for name, scale in bench.scales(profile).items()}
    judgements: dict[str, Judgement] = {}
    alike: dict[tuple[object, ...], Judgement] = {}
    for name, truth in bench.truth.items():
        if name in apart:
            continue
        if name in port.exact:
            judgements[name] = failed(f"{kind_of(port.exact[name])}, the reference has {reference[name].dtype}")
            continue
        held = BY_DTYPE[reference[name].dtype]
        steady = same_shape(reference, bench.truth, name)
        size = bench.ground(rung, name)[:2] if steady else size_of(truth.values)
        reaching = Noise(0.0, 0.0) if fresh else bench.noise(rung, draws)[name]
        noise = with_rounding_of(reaching, *size, held)
        allowance = None if fresh else propagated(noise.rms, noise.maximum, rung, held)
        found, scale, kappa = port.get(name), scales.get(name), bench.kappa[name]
        # What a submodule gave and its parent returned is one tensor under two names, on either side.
        values = (truth.values, reference[name].values, found and found.values)
        same = (*map(id, values), noise, kappa, None if scale is None else name)
        if same not in alike:
            known = bench.known(rung, name) if steady else None
            alike[same] = judge(truth, reference[name], found, rung, allowance, noise.rms, scale, kappa, known)
        judgements[name] = alike[same]
    return judgements


def accuracy(bench: Bench, profile: HyperProfile, rung: Rung, limit: float) -> Ratio:
    """Return r = log2(port error / reference error) of the main output; infinite for a port that cannot be compared.

    Above `limit` bits the error is also compared with what faithful arithmetic makes there.
    """
    main = bench.main
    truth, reference = bench.truth[main].values, bench.reference_output(rung)
    held, case = BY_DTYPE[reference.dtype], bench.case.to_json()
    try:
        port = run_port_outputs(bench.pair, bench.modules.port(profile, rung), bench.inputs, rung).get(main)
    except Exception:  # noqa: BLE001 - a port that raises has no accuracy; what it raises is reported by `examine`
        return Ratio(math.inf, True, case)
    if port is None or port.values.shape != truth.shape or not np.isfinite(port.values).all():
        return Ratio(math.inf, True, case)
    error = error_of(port.values, truth, held)
    rounding = quantisation_error(truth, held)
    bits = error_bits(error_ratio(error.l2, error_of(reference.values, truth, held).l2, rounding))
    port_bits = error_bits(error_ratio(error.l2, held.u * float(np.linalg.norm(truth)), rounding))
    exceeds = False
    if bits > limit:
        predicted = with_rounding(bench.noise(rung, REFINED_DRAWS)[main], truth, held)
        exceeds = error.rms > constant("margin_luck") * predicted.rms
    return Ratio(bits, exceeds, case, port_bits)


def classify_tensor(bench: Bench, profile: HyperProfile, name: str, seen_at: Rung) -> Meaning:
    """Say whether the port's error in tensor `name` is rounding or meaning, from its f64 and f32 errors.

    A pair that is not built in float64 (freshly built buffers) is classified at the finest rung that builds it. A truth
    of zeros has no relative error: there the scale is the largest number that the case passes through.

    Args:
        bench: The case.
        profile: The profile of the port.
        name: The tensor.
        seen_at: The rung at which it fails.
    """
    finest = max((RUNGS[rung] for rung in bench.pair.only_rungs), key=lambda rung: rung.digits)
    verdicts = {rung: examine(bench, profile, RUNGS[rung]) for rung in dict.fromkeys((finest.name, "f32"))}
    judgements = {rung: verdict.judgements.get(name) for rung, verdict in verdicts.items()}
    scale = _scale(bench, name)
    leaks = verdicts["f64"].leaks if "f64" in verdicts else ()
    meaning = classify(
        _relative(judgements[finest.name], scale),
        _relative(judgements["f32"], scale),
        bench.kappa.get(name, 0.0),
        0.0 if bench.pair.fresh else _float32_noise(bench, name, scale),
        lambda: None if leaks else _roughness(bench, profile, name),
        finest.name,
        _unmeasured(verdicts[finest.name], judgements[finest.name]),
    )
    finer = [judgements.get(rung) for rung in finer_rungs(seen_at.name) if rung in bench.pair.only_rungs]
    alone = bool(finer) and all(judgement is not None and judgement.passed for judgement in finer)
    meaning = replace(meaning, leaks=leaks)
    return replace(meaning, only_at=seen_at.name) if alone and meaning.kind == "rounding" else meaning


def _scale(bench: Bench, name: str) -> float:
    """Return the rms of the truth, or, where it is 0, the largest number of the case."""
    truth = bench.truth[name].values if name in bench.truth else np.zeros(0)
    return float(np.sqrt(np.mean(np.square(truth)))) if truth.any() else bench.largest


def _relative(judgement: Judgement | None, scale: float) -> float | None:
    """Return the port's rms error over `scale`, None where it was not measured or a NaN or infinity is misplaced."""
    if judgement is None or judgement.port is None or (judgement.special is not None and judgement.special.fatal):
        return None
    if judgement.port.truth_rms > 0:
        return judgement.port.rel_l2
    return 0.0 if judgement.port.rms == 0 else judgement.port.rms / scale if scale > 0 else math.inf


def _unmeasured(examination: Examination, judgement: Judgement | None) -> str:
    """Return why a tensor has no error."""
    return examination.skipped or ("the case has no such tensor" if judgement is None else judgement.reason)


def _float32_noise(bench: Bench, name: str, scale: float) -> float:
    """Return the relative error that float32 is predicted to make in a tensor, at least one rounding."""
    least = RUNGS["f32"].u
    if name not in bench.truth or scale == 0:
        return least
    predicted = bench.noise(RUNGS["f32"], REFINED_DRAWS)[name]
    return max(least, with_rounding(predicted, bench.truth[name].values, RUNGS["f32"]).rms / scale)


def _roughness(bench: Bench, profile: HyperProfile, name: str) -> float | None:
    """Return the roughness of the port's error, None where the port cannot run on numbers that are moved a little."""
    case = bench.case
    try:
        return roughness(bench.pair, case.options, profile, bench.module, bench.inputs, name, case.seed)
    except Exception:  # noqa: BLE001 - a broken port may raise anything; the plateau alone decides then
        return None


def fidelity(bench: Bench, canonical: Bench) -> float:
    """Return the rel L2 between the main outputs of two meanings' float64 references, 0 where they have no float."""
    if not canonical.truth.outputs:
        return 0.0
    main = canonical.main
    return error_of(bench.truth[main].values, canonical.truth[main].values, RUNGS["f64"]).rel_l2


def first_bad(judgements: Mapping[str, Judgement]) -> str | None:
    """Return the first tensor, in execution order, that failed."""
    return next((name for name, judgement in judgements.items() if not judgement.passed), None)
