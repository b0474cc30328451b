"""Verify a checkpoint: the reference and the port from one file, part by part, each rung a pass of its own."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
import torch

from mlx_impl.weights import checkpoint_name
from parity.backends.true_transforms import TrueTransforms
from parity.blame.table import BlameRow, BlameTable
from parity.checkpoint import Checkpoint
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM
from parity.spec.arrays import AnyArray, Array
from parity.spec.precision import BY_DTYPE, RUNGS, Rung, RungName
from parity.spec.profile import HyperProfile
from parity.tokens import Tokens, require_takes
from parity.tolerance import constant, rounding_of
from parity.trace.calls import Call, OnCall
from parity.trace.mlx_capture import capture_mlx
from parity.trace.together import Unmatched, advance_together
from parity.trace.torch_capture import capture_torch
from parity.verify.judge import Error, Judge, Natural, distance, numbers_of_mlx, numbers_of_torch
from parity.verify.memory import give_back
from parity.verify.parts import EMBEDDINGS, MASKED_LM_HEAD, Port, Reference, part_of, parts_of, read_part
from parity.verify.stored import Agreement, agreement

HEAD_POSITIONS: Final = 64
"""Positions at which a masked-language model's head is run: the masks first, then others evenly spread.

All of 32,768 would be 4 GB of logits a side; the head treats every position by itself.
"""

TOP: Final = 5
"""Tokens that are named at a mask."""

GIVEN: Final[Mapping[str, str]] = {
    "logits": "answers",
    "y": "answers",
    "hidden": "hidden states",
    "pooled": "pooled vectors",
    "embedding": "embeddings",
}
"""What the models give out, answers first, and what a sentence calls it."""

OnRow = Callable[[str, BlameRow], object]


@dataclass(frozen=True)
class TopTokens:
    """The likeliest ids at one position: the reference's in float64, and the port's, likeliest first.

    `row` is the sequence, of several.
    """

    row: int
    position: int
    truth: tuple[int, ...]
    port: tuple[int, ...]

    @property
    def same(self) -> bool:
        """Whether they are the same in the same order."""
        return self.truth == self.port


@dataclass(frozen=True)
class Answers:
    """What comes out at the end, port and reference against float64.

    Attributes:
        port: rel L2 of the port's last output (logits, or the classifier's) from the reference's in float64.
        reference: The same of the reference at the rung.
        ratio: The largest error over its allowance, as for a module, of everything that the model gives out: of
            `worst`, whose error is `worst_error`.
        cosine: 1 - cos of the port's embedding and the float64 one: the model's own, or the mean over the positions
            that are no padding; the largest of all sequences.
        top: At the masks of a masked-language model, or at the first positions where there are none.
        stored: Port and reference against answers that a file has; empty where none is given.
    """

    port: float
    reference: float
    ratio: float
    cosine: float
    top: tuple[TopTokens, ...] = ()
    stored: tuple[Agreement, ...] = ()
    worst: str = ""
    worst_error: float = 0.0


@dataclass(frozen=True)
class RungResult:
    """One pass.

    Attributes:
        table: Of every module; its own errors are against float64 on the reference's inputs.
        own: By call, what the reference itself loses there; empty at f64.
        answers: None where the pass ended before the head.
        layers: How many layers it had.
    """

    table: BlameTable
    own: Mapping[str, float]
    answers: Answers | None
    layers: int

    @property
    def wiring(self) -> str:
        """In words, that the modules agree and the answers do not; else empty."""
        apart = next((it for it in (self.answers.stored if self.answers else ()) if not it.passed), None)
        if apart is not None and not self.table.culprits:
            return _apart(apart)
        alone = self.table.unpaired_reference or self.table.unpaired_port
        if self.answers is None or self.answers.ratio <= 1 or self.table.culprits or alone:
            return ""
        return (
            f"every module agrees, and the {GIVEN[self.answers.worst]} differ by {self.answers.worst_error:.2g}, "
            f"{self.answers.ratio:.3g} times what is allowed: what is between the modules is wrong"
        )

    @property
    def passed(self) -> bool:
        """Whether every module keeps within its allowance, and the answers do."""
        answered = self.answers is None or (
            self.answers.ratio <= 1 and all(agreement.passed for agreement in self.answers.stored)
        )
        return self.table.passed and answered

    def sentence(self) -> str:
        """The verdict in one line."""
        return self.wiring or self.table.sentence()


@dataclass(frozen=True)
class Verification:
    """All passes over one checkpoint; `sequences` are of one length."""

    sequences: tuple[Tokens, ...]
    rungs: tuple[RungResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every rung passed."""
        return bool(self.rungs) and all(result.passed for result in self.rungs)


def verify(
    checkpoint: Checkpoint,
    tokens: Tokens | Sequence[Tokens],
    profile: HyperProfile,
    rungs: tuple[RungName, ...] = ("f32",),
    f64_layers: int = 0,
    budget_bytes: int | None = None,
    seed: int = 0,
    on_row: OnRow = lambda rung, row: None,
    stored: Mapping[str, AnyArray] | None = None,
) -> Verification:
    """Run both models of a checkpoint on real ids and judge every module of the port.

    Args:
        checkpoint: An open checkpoint that is whole.
        tokens: The ids, of one sequence or of several of one length.
        profile: What both models mean, and how the port computes it.
        rungs: Of f32, bf16 and f16, where both run.
        f64_layers: Layers that are run in float64 besides, from the first one; the head too where that is all.
        budget_bytes: What the transforms of the port's convolutions may hold at once.
        seed: Of the perturbations behind a prediction.
        on_row: Called with the rung and every row as soon as it is known.
        stored: Answers to these very ids, as `parity.verify.stored` has them; held against the pass at f32.

    Raises:
        CheckpointError: A number is not finite, or cannot be read.
        CaseError: Sequences of several lengths, or token types that the model does not take.
    """
    sequences = (tokens,) if isinstance(tokens, Tokens) else tuple(tokens)
    require_takes(checkpoint.head == MASKED_LM, sequences)
    natural: dict[str, Natural] = {}
    wanted = [rung for rung in RUNGS if rung in rungs and rung != "f64"]
    if (f64_layers or stored) and "f32" not in wanted:
        wanted.insert(0, "f32")
    plan = [(RUNGS[rung], checkpoint.config.num_hidden_layers) for rung in wanted]
    if f64_layers:
        plan.append((RUNGS["f64"], min(f64_layers, checkpoint.config.num_hidden_layers)))
    results = tuple(
        _Pass(
            checkpoint, sequences, profile, rung, layers, budget_bytes, natural, seed, on_row,
            dict(stored or {}) if rung.name == "f32" else {},
        ).run()
        for rung, layers in plan
    )  # fmt: skip
    return Verification(sequences, results)


class _Pass:
    """One rung: two models in step, parts filled as they are entered and emptied once judged."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sequences: tuple[Tokens, ...],
        profile: HyperProfile,
        rung: Rung,
        layers: int,
        budget_bytes: int | None,
        natural: dict[str, Natural],
        seed: int,
        on_row: OnRow,
        stored: Mapping[str, AnyArray],
    ) -> None:
        self.checkpoint, self.sequences, self.rung, self.layers = checkpoint, sequences, rung, layers
        self.stored = stored
        self.ids = np.stack([one.ids for one in sequences])
        self.kept = np.stack([one.kept for one in sequences])
        self.types = None if all(one.types is None for one in sequences) else _stacked_types(sequences)
        config = checkpoint.config.model_copy(update={"num_hidden_layers": layers})
        self.parts = parts_of(checkpoint.head, layers)
        self.whole = layers == checkpoint.config.num_hidden_layers
        wide = bool(stored) and any(tensor.dtype.name == "F64" for tensor in checkpoint.tensors.values())
        self.reference = Reference(checkpoint.head, config, profile, rung.dtype, unrounded=wide)
        self.port = Port(checkpoint.head, config, profile, rung, budget_bytes)
        self.judge = Judge(self.reference, self.port, rung, natural, seed, lambda row: on_row(rung.name, row))
        self.links = self._links()
        self.state: tuple[str, dict[str, AnyArray]] = ("", {})
        self.exact: dict[str, torch.Tensor] = {}
        self.unrounded: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, dict[str, Any]] = {}

    def run(self) -> RungResult:
        """Run both models and return what was judged."""
        with mx.stream(mx.cpu):
            alone = advance_together(self._torch, self._mlx, self._judged, self.links)
            table = BlameTable(self.rung.name, tuple(self.judge.rows), *self._unpaired(alone))
            answers = self._answers() if self.whole else None
        own = {} if self.rung.name == "f64" else dict(self.judge.own)
        gc.collect()  # captures refer to each other in circles, and the next pass is as large
        return RungResult(table, own, answers, self.layers)

    # --- the two sides ------------------------------------------------------------------------------------

    def _links(self) -> list[tuple[str, str]]:
        """Modules inside of parts, by name; what holds parts is their composition, and is run and not judged."""
        ours: dict[str, str] = {}
        for name, _ in self.port.model.named_modules():
            ours.setdefault(checkpoint_name(name), name)
        names = [name for name, _ in self.reference.model.named_modules()]
        return [(name, ours[name]) for name in names if name in ours and part_of(name, self.parts) is not None]

    def _unpaired(self, alone: Unmatched) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (
            tuple(name for name in alone.reference if self._is_inside(name)),
            tuple(name for name in alone.port if self._is_inside(checkpoint_name(name))),
        )

    def _is_inside(self, call: str) -> bool:
        return part_of(call.partition("#")[0], self.parts) is not None

    def _torch(self, on_call: OnCall) -> None:
        ids, kept, types = (_tensor(array) for array in (self.ids, self.kept, self.types))
        with (
            torch.no_grad(),
            TrueTransforms(),
            capture_torch(self.reference.model, on_call, on_enter=self._entered_reference),
        ):
            self.outputs["reference"] = self._forward(self.reference.model, ids, types, kept)

    def _mlx(self, on_call: OnCall) -> None:
        ids, kept, types = (_array(array) for array in (self.ids, self.kept, self.types))
        with capture_mlx(self.port.model, on_call, on_enter=self._entered_port, evaluate=True):
            self.outputs["port"] = self._forward(self.port.model, ids, types, kept)

    def _forward(self, model: Any, ids: Any, types: Any, kept: Any) -> dict[str, Any]:
        """Run a model of either side as far as the pass goes; the head of logits at some positions alone."""
        if not self.whole:
            return {"hidden": model.bert(ids, types)}
        if self.checkpoint.head == MASKED_LM:
            hidden = model.bert(ids, types)
            return {"hidden": hidden, "logits": model.cls(hidden[:, self.positions])}
        return dict(model(ids, kept))

    @property
    def positions(self) -> list[int]:
        """Where the head of logits is run: the masks, then positions evenly spread."""
        length = self.ids.shape[1]
        if "logits" in self.stored:
            return list(range(length))
        count = max(1, HEAD_POSITIONS // len(self.sequences))
        spread = np.linspace(0, length - 1, min(length, count)).astype(int).tolist()
        masks = list(dict.fromkeys(place for one in self.sequences for place in one.masks))[:count]
        return [*masks, *(place for place in spread if place not in masks)][:count]

    # --- parts --------------------------------------------------------------------------------------------

    def _entered_reference(self, call: Call) -> None:
        if call.module in self.parts:
            self.reference.fill(call.module, self._numbers(call.module))
            self._advance_exact(call)

    def _entered_port(self, call: Call) -> None:
        part = checkpoint_name(call.module)
        if part in self.parts:
            self.port.fill(self._numbers(part), self.checkpoint.ties)

    def _numbers(self, part: str) -> dict[str, AnyArray]:
        """The tensors of a part, read once for both sides; the second takes them away."""
        if self.state[0] == part:
            found, self.state = self.state[1], ("", {})
            return found
        self.state = (part, read_part(self.checkpoint, part, wide=self.rung.name == "f64"))
        return self.state[1]

    def _advance_exact(self, call: Call) -> None:
        """Run the part in float64 on what it makes of float64 so far: the truth that answers are held against."""
        if self.rung.name == "f64":
            return
        with torch.no_grad(), TrueTransforms():
            self._advance(self.exact, call.module, self.reference.exact[call.module])
            if self.reference.unrounded is not None:
                self._advance(self.unrounded, call.module, self.reference.unrounded)

    def _advance(self, exact: dict[str, torch.Tensor], name: str, module: Any) -> None:
        """Run one part on what the parts before it made, and keep what it makes."""
        if name == EMBEDDINGS:
            exact["hidden"] = module(_tensor(self.ids), _tensor(self.types))
        elif name == MASKED_LM_HEAD:
            exact["logits"] = module(exact["hidden"][:, self.positions])
        elif name == "bert.pooler":
            exact["pooled"] = module(exact["hidden"], _tensor(self.kept))
        elif name == "classifier":
            self._exact_classifier(exact, module)
        else:
            exact["hidden"] = module(exact["hidden"])

    def _exact_classifier(self, exact: dict[str, torch.Tensor], module: Any) -> None:
        from reference_torch.heads import sentence_embedding

        config = self.checkpoint.config
        vector = exact["hidden"][:, 0] if config.use_cls_token else exact["pooled"]
        exact["embedding"] = sentence_embedding(vector, config)
        exact["y"] = module(vector)

    def _judged(self, reference: Call, port: Call) -> None:
        self.judge(reference, port)
        if reference.module in self.parts:
            self.reference.empty(reference.module)
            self.port.empty()
            self.state = ("", {})
            give_back()

    # --- answers ------------------------------------------------------------------------------------------

    def _answers(self) -> Answers:
        made, theirs = self.outputs["port"], self.outputs["reference"]
        exact = theirs if self.rung.name == "f64" else self.exact
        last = "logits" if self.checkpoint.head == MASKED_LM else "y"
        port = numbers_of_mlx(made[last])
        truth = numbers_of_torch(exact[last])
        mine, base = distance(port, truth), distance(numbers_of_torch(theirs[last]), truth)
        hidden = distance(numbers_of_torch(theirs["hidden"]), numbers_of_torch(exact["hidden"])).relative
        ratios = {last: (_answers_ratio(mine, base, hidden, self.rung), mine.relative)}
        for name in made.keys() & exact.keys() - {last}:
            values = numbers_of_torch(exact[name])
            ours, other = distance(numbers_of_mlx(made[name]), values), distance(numbers_of_torch(theirs[name]), values)
            ratios[name] = (_answers_ratio(ours, other, hidden, self.rung), ours.relative)
        # The answers themselves where they are as far off as what they are made of.
        worst = max((name for name in GIVEN if name in ratios), key=lambda name: ratios[name][0])
        return Answers(
            mine.relative,
            base.relative,
            ratios[worst][0],
            self._cosine(made, exact),
            self._top(port, truth) if last == "logits" else (),
            tuple(self._agreement(answer, hidden) for answer in self.stored),
            worst,
            ratios[worst][1],
        )

    def _agreement(self, answer: str, hidden: float) -> Agreement:
        # What was stored was made of the file's own numbers, which those of float64 are rounded from for both models.
        exact, theirs = (self.unrounded or self.exact)[answer], self.outputs["reference"][answer]
        port = numbers_of_mlx(self.outputs["port"][answer])
        return agreement(answer, self.stored[answer], numbers_of_torch(exact), numbers_of_torch(theirs), port, hidden)

    def _cosine(self, made: Mapping[str, Any], exact: Mapping[str, Any]) -> float:
        """The largest of all sequences; NaN where one is unknown."""
        pairs = zip(self._embeddings(made), self._embeddings(exact), strict=True)
        return float(np.max([_cosine_distance(one, other) for one, other in pairs]))

    def _embeddings(self, outputs: Mapping[str, Any]) -> list[Array]:
        """The vector of every sequence: the model's own, or the mean over the positions that are no padding."""
        own = self.checkpoint.head == CLASSIFICATION
        values = outputs["embedding" if own else "hidden"]
        array = numbers_of_torch(values) if isinstance(values, torch.Tensor) else numbers_of_mlx(values)
        wide = [np.asarray(row, dtype=np.float64) for row in array]
        return wide if own else [row[one.kept == 1].mean(axis=0) for row, one in zip(wide, self.sequences, strict=True)]

    def _top(self, port: AnyArray, truth: AnyArray) -> tuple[TopTokens, ...]:
        places = {position: column for column, position in enumerate(self.positions)}
        masks = [(row, place) for row, one in enumerate(self.sequences) for place in one.masks if place in places]
        return tuple(
            TopTokens(row, place, _likeliest(truth[row, places[place]]), _likeliest(port[row, places[place]]))
            for row, place in (masks[:HEAD_POSITIONS] or [(0, self.positions[0])])
        )


def _answers_ratio(mine: Error, base: Error, hidden: float, rung: Rung) -> float:
    """As for a module; at f64, where the reference is the truth, answers are reported and the modules judge.

    A classifier's answers are few numbers, in which the reference may be lucky. So it is taken to lose no less,
    relative to them, than `hidden`, its relative error in the hidden states that they are made of.
    """
    if not math.isfinite(mine.largest):
        return math.inf
    if rung.name == "f64":
        return 0.0
    held = BY_DTYPE[rung.dtype]
    rounding = rounding_of(mine.size, mine.peak, held)
    factor = 2 ** (constant("margin") + constant("margin_beyond"))
    return max(
        mine.rms / (factor * max(base.rms, hidden * mine.size, rounding[0]) + held.quantum),
        mine.largest / (factor * max(base.largest, hidden * mine.peak, rounding[1]) + held.quantum),
    )


def _likeliest(logits: AnyArray) -> tuple[int, ...]:
    order = np.argsort(-logits.astype(np.float64), kind="stable")[:TOP]
    return tuple(int(number) for number in order)


def _stacked_types(sequences: Sequence[Tokens]) -> AnyArray:
    return np.stack([np.zeros_like(one.ids) if one.types is None else one.types for one in sequences])


def _tensor(array: AnyArray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _array(array: AnyArray | None) -> mx.array | None:
    return None if array is None else mx.array(array.astype(np.int32))


def _apart(agreement: Agreement) -> str:
    """Say which of both is not what was stored, and what that may be."""
    if agreement.ratio > 1:
        return (
            f"the reference in float64 differs from the stored {agreement.answer} by {agreement.reference:.2g}, "
            f"{agreement.ratio:.3g} times what rounding explains, most at {list(agreement.place)}: they are of other "
            "ids, types or weights, or of another setting: --profile, or --set hyena_w_mod, layer_norm_eps and "
            "whatever else `parity checkpoint inspect` lists as not stored"
        )
    return (
        f"the port differs from the stored {agreement.answer} by {agreement.port:.2g}, {agreement.port_ratio:.3g} "
        "times what is allowed, and the reference does not"
    )


def _cosine_distance(one: Array, other: Array) -> float:
    """1 - cos, exact for small angles: half the squared distance of the unit vectors; NaN of a vector of zeros."""
    lengths = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if not all(math.isfinite(length) and length > 0 for length in lengths):
        return math.nan
    return float(np.sum(np.square(one / lengths[0] - other / lengths[1]))) / 2
