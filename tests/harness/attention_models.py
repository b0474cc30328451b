"""A small decoder with grouped-query attention in torch, and a port of it to MLX that is built another way.

| reference                              | port                                                        |
|----------------------------------------|-------------------------------------------------------------|
| `embed`, `blocks.<i>`, `norm`          | `model.wte`, `model.h.<i>`, `model.ln_f`: one level more    |
| `mixer`: convolution, (b, d, l)        | `conv`: the same, (b, l, d)                                 |
| `attn.q_proj`, `k_proj`, `v_proj`      | `mha.qkv`: one projection, in the order v, q, k if told so  |
| `attn.rope`, on (b, h, l, d)           | `mha.turn`, on (b, l, h, d)                                 |
| `mlp.gate`, `up`, `down`               | `ffn.body.gate_up`, `ffn.body.proj`: a wrapper around them  |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import torch
from mlx import nn as mnn
from torch import nn as tnn

from parity.api import InputSpec, Pair
from parity.backends.convert import mlx_from_numpy
from parity.backends.nodes import observe_mlx, observe_torch
from parity.pairing import Node

WIDTH, HEADS, GROUPS, SIZE, HIDDEN, WORDS, LAYERS = 12, 4, 2, 3, 20, 17, 2
BATCH, LENGTH = 2, 5


class TorchTurn(tnn.Module):
    """Turns every second channel's sign by position: (b, h, l, d)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] + torch.arange(x.shape[3], dtype=x.dtype)
        return x * torch.cos(angle)


class TorchAttention(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = tnn.Linear(WIDTH, HEADS * SIZE)
        self.k_proj = tnn.Linear(WIDTH, GROUPS * SIZE)
        self.v_proj = tnn.Linear(WIDTH, GROUPS * SIZE)
        self.rope_q, self.rope_k = TorchTurn(), TorchTurn()
        self.out_proj = tnn.Linear(HEADS * SIZE, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, l, _ = x.shape
        q, k, v = (part(x).view(b, l, -1, SIZE).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.rope_q(q), self.rope_k(k)
        k, v = (part.repeat_interleave(HEADS // GROUPS, dim=1) for part in (k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / SIZE**0.5, -1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(b, l, -1))


class TorchMlp(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = tnn.Linear(WIDTH, HIDDEN), tnn.Linear(WIDTH, HIDDEN)
        self.down, self.act = tnn.Linear(HIDDEN, WIDTH), tnn.SiLU()
        self.dropout = tnn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.down(self.act(self.gate(x)) * self.up(x)))


class TorchBlock(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = tnn.LayerNorm(WIDTH), tnn.LayerNorm(WIDTH)
        self.mixer = tnn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.attn, self.mlp = TorchAttention(), TorchMlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mixer(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TorchModel(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = tnn.Embedding(WORDS, WIDTH)
        self.blocks = tnn.ModuleList(TorchBlock() for _ in range(LAYERS))
        self.norm = tnn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@dataclass(frozen=True)
class Build:
    """How the port is built.

    Args:
        fused: Whether query, key and value, and gate and up, are one projection each.
        order: The places of query, key and value within the fused one.
        dealt: Whether the fused one deals them out to groups of heads.
    """

    fused: bool = True
    order: tuple[int, int, int] = (0, 1, 2)
    dealt: bool = False

    def columns(self) -> list[list[int]]:
        """Columns of the fused projection that query, key and value have."""
        widths = [HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE]
        groups = GROUPS if self.dealt else 1
        each = [width // groups for width in widths]
        starts = {index: sum(each[other] for other in self.order[:place]) for place, index in enumerate(self.order)}
        stride = sum(each)
        return [
            [group * stride + starts[index] + column for group in range(groups) for column in range(each[index])]
            for index in range(3)
        ]


class MlxTurn(mnn.Module):
    """(b, l, h, d)."""

    def __call__(self, x: mx.array) -> mx.array:
        angle = mx.arange(x.shape[1], dtype=x.dtype)[:, None] + mx.arange(x.shape[3], dtype=x.dtype)
        return x * mx.cos(angle)[:, None]


class MlxAttention(mnn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        if build.fused:
            self.qkv = mnn.Linear(WIDTH, (HEADS + 2 * GROUPS) * SIZE)
        else:
            self.a = mnn.Linear(WIDTH, GROUPS * SIZE)
            self.b = mnn.Linear(WIDTH, GROUPS * SIZE)
            self.c = mnn.Linear(WIDTH, HEADS * SIZE)
        self.turn_k, self.turn_q = MlxTurn(), MlxTurn()
        self.out = mnn.Linear(HEADS * SIZE, WIDTH)
        self._build = build

    def _projections(self, x: mx.array) -> Sequence[mx.array]:
        if self._build.fused:
            together = self.qkv(x)
            return [together[..., mx.array(columns)] for columns in self._build.columns()]
        v, k, q = self.a(x), self.b(x), self.c(x)
        return q, k, v

    def __call__(self, x: mx.array) -> mx.array:
        b, l, _ = x.shape
        q, k, v = (part.reshape(b, l, -1, SIZE) for part in self._projections(x))
        k = self.turn_k(k)
        q = self.turn_q(q)
        q, k, v = (part.swapaxes(1, 2) for part in (q, *(mx.repeat(part, HEADS // GROUPS, axis=2) for part in (k, v))))
        weights = mx.softmax(q @ k.swapaxes(-1, -2) / SIZE**0.5, axis=-1)
        return self.out((weights @ v).swapaxes(1, 2).reshape(b, l, -1))


class MlxFeedForward(mnn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        self.act = mnn.SiLU()
        if build.fused:
            self.gate_up = mnn.Linear(WIDTH, 2 * HIDDEN)
        else:
            self.w1, self.w2 = mnn.Linear(WIDTH, HIDDEN), mnn.Linear(WIDTH, HIDDEN)
        self.proj = mnn.Linear(HIDDEN, WIDTH)
        self._build = build

    def __call__(self, x: mx.array) -> mx.array:
        if self._build.fused:
            gate, up = mx.split(self.gate_up(x), 2, axis=-1)
        else:
            up, gate = self.w2(x), self.w1(x)
        return self.proj(self.act(gate) * up)


class MlxWrapper(mnn.Module):
    def __init__(self, body: mnn.Module) -> None:
        super().__init__()
        self.body = body

    def __call__(self, x: mx.array) -> mx.array:
        return self.body(x)


class MlxLayer(mnn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = mnn.LayerNorm(WIDTH), mnn.LayerNorm(WIDTH)
        self.conv = mnn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.mha, self.ffn = MlxAttention(build), MlxWrapper(MlxFeedForward(build))

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.conv(x)
        x = x + self.mha(self.ln_1(x))
        return x + self.ffn(self.ln_2(x))


class MlxTrunk(mnn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        self.wte = mnn.Embedding(WORDS, WIDTH)
        self.h = [MlxLayer(build) for _ in range(LAYERS)]
        self.ln_f = mnn.LayerNorm(WIDTH)

    def __call__(self, ids: mx.array) -> mx.array:
        x = self.wte(ids)
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x)


class MlxModel(mnn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        self.model = MlxTrunk(build)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.model(ids)


def port_names(build: Build) -> dict[str, str]:
    """The right partner of each of the reference's modules that has one."""
    names = {"": "", "embed": "model.wte", "norm": "model.ln_f"}
    fused = {"attn.q_proj": "mha.qkv", "attn.k_proj": "mha.qkv", "attn.v_proj": "mha.qkv"}
    apart = {"attn.q_proj": "mha.c", "attn.k_proj": "mha.b", "attn.v_proj": "mha.a"}
    gated = {"mlp.gate": "ffn.body.gate_up", "mlp.up": "ffn.body.gate_up"}
    alone = {"mlp.gate": "ffn.body.w1", "mlp.up": "ffn.body.w2"}
    block = {
        "": "",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "mixer": "conv",
        "attn": "mha",
        "attn.rope_q": "mha.turn_q",
        "attn.rope_k": "mha.turn_k",
        "attn.out_proj": "mha.out",
        "mlp": "ffn.body",
        "mlp.down": "ffn.body.proj",
        "mlp.act": "ffn.body.act",
        **({**fused, **gated} if build.fused else {**apart, **alone}),
    }
    for index in range(LAYERS):
        names |= {
            f"blocks.{index}.{there}".rstrip("."): f"model.h.{index}.{here}".rstrip(".")
            for there, here in block.items()
        }
    return names


def weights(build: Build, state: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The port's arrays, as a `sanitize` of its own would make them."""
    arrays: dict[str, mx.array] = {}
    groups: dict[str, dict[str, mx.array]] = {}
    for there, here in port_names(build).items():
        for kind in ("weight", "bias"):
            if f"{there}.{kind}" in state:
                array = state[f"{there}.{kind}"]
                groups.setdefault(f"{here}.{kind}", {})[there] = mx.moveaxis(array, 1, -1) if array.ndim == 3 else array
    for target, parts in groups.items():
        whole = mx.concatenate(list(parts.values()))
        if "qkv" in target:
            rows = [row for columns in build.columns() for row in columns]
            whole = whole[mx.array([rows.index(row) for row in range(len(rows))])]
        arrays[target] = whole
    return arrays


def attention_pair(build: Build) -> Pair:
    """Both models as a pair."""

    def across(port: mnn.Module, state: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return weights(build, state)

    return Pair(
        "attention",
        reference=lambda c: TorchModel(),
        port=lambda c: MlxModel(build),
        configurations=[{"length": LENGTH}],
        inputs=lambda c: {"ids": InputSpec((BATCH, c["length"]), kind="ids", high=WORDS)},
        weights=across,
    )


def both_sides(build: Build, spoil: Callable[[mnn.Module], None] | None = None) -> tuple[list[Node], list[Node]]:
    """Nodes of the reference and of the port, the same weights and inputs in both; `spoil` plants a fault."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reference = TorchModel().eval()
        ids = torch.randint(0, WORDS, (BATCH, LENGTH))
    with mx.stream(mx.cpu):
        port = MlxModel(build)
        state = {name: mlx_from_numpy(array.numpy(), "float32") for name, array in reference.state_dict().items()}
        port.load_weights(list(weights(build, state).items()), strict=True)
        if spoil is not None:
            spoil(port)
        tokens = mlx_from_numpy(ids.numpy(), "float32")
        return observe_torch(reference, lambda: reference(ids)).nodes, observe_mlx(port, lambda: port(tokens)).nodes
