"""The operations of a layer one by one, MLX beside torch, and what was mended beside what it was before.

    python benchmarks/slowest.py                               # hidden size 768, 2,048 positions, torch's BLAS for MLX
    python benchmarks/slowest.py --mlx-blas bundled --json
    python benchmarks/slowest.py --only product --repeats 15   # the rows whose name holds a text

Standard normal float32, the same at every run. Each framework has one thread unless OMP_NUM_THREADS says
otherwise, and times are of the processor, in which
other work on the machine shows least. In every round each contender of a row runs once, in an order drawn anew, so that
a ratio compares neighbours: the median over the rounds, in brackets the quartiles. The first round is not counted.

* MLX: as the port computes it, or as the harness takes it. torch: the same on the reference's side.
* before: as it was before it was mended, where that can still be called.
* A layer's forward pass and gradient come last; their shares are of the forward pass of MLX.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Final

os.environ.setdefault("MLX_ENABLE_TF32", "0")
# Asked for here, since MLX multiplies in a thread of its own, which torch's own setting does not reach.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from parity.blas import choose_blas
from parity.plain import json_text

BLOCKS: Final = 4
INNER: Final = 4
"""The MLP of a published layer is four times as wide as the layer."""

CONTENDERS: Final = ("MLX", "torch", "before")
LEAST_ROUNDS: Final = 3

Call = Callable[[], Any]


@dataclass(frozen=True)
class Operation:
    """One row: what is computed, on which shape, how often in a layer's forward pass, and the calls by contender."""

    name: str
    shape: tuple[int, ...]
    times: int
    calls: dict[str, Call]


@dataclass(frozen=True)
class Row:
    """What was measured of one: milliseconds of the processor, and ratios to MLX's (lower quartile, median, upper)."""

    name: str
    shape: tuple[int, ...]
    times: int
    milliseconds: dict[str, float]
    over_torch: tuple[float, float, float]
    mended: tuple[float, float, float] | None

    def cells(self, whole: float | None) -> list[str]:
        """Its cells; `whole` is the forward pass of a layer, for the share."""
        shown = [f"{self.milliseconds[name]:.2f}" if name in self.milliseconds else "" for name in CONTENDERS]
        share = f"{self.times * self.milliseconds['MLX'] / whole:.1%}" if self.times and whole else ""
        ratios = [spelt(self.over_torch), spelt(self.mended) if self.mended else ""]
        return [self.name, "x".join(map(str, self.shape)), str(self.times or ""), *shown, share, *ratios]


def spelt(ratio: tuple[float, float, float]) -> str:
    """Return a ratio with its quartiles."""
    low, middle, high = ratio
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


# --- operations -----------------------------------------------------------------------------------------------


class Drawn:
    """Standard normal arrays, the same pair of numbers in either framework."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.Generator(np.random.Philox(seed))

    def __call__(self, *shape: int) -> tuple[Any, Any]:
        """Return an array of MLX and a tensor of torch with the same values."""
        import mlx.core as mx
        import torch

        values = self._draw.standard_normal(shape).astype(np.float32)
        array = mx.array(values)
        mx.eval(array)
        return array, torch.from_numpy(values)


def operations(width: int, length: int) -> Iterator[Operation]:
    """Yield the rows for (1, length, width)."""
    drawn = Drawn(length)
    yield from products(drawn, width, length)
    yield from short_convolutions(drawn, width, length)
    yield from functions(drawn, width, length)
    yield from transforms(drawn, width, length)
    yield from filters(width, length)
    yield from crossings(drawn, width, length)
    yield from layers(drawn, width, length)


def waited(compute: Callable[..., Any]) -> Call:
    """Return a call that waits for what MLX computes."""
    import mlx.core as mx

    def call() -> Any:
        found = compute()
        mx.eval(found)
        return found

    return call


def products(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """A dense product, a block-diagonal one, and a LayerNorm."""
    import torch

    from mlx_impl import Ops

    ops = Ops()
    (x, tx), (w, tw), (bias, tbias) = drawn(1, length, width), drawn(3 * width, width), drawn(3 * width)
    yield Operation(
        "dense product",
        (length, width, 3 * width),
        1,
        {
            "MLX": waited(lambda: ops.linear(x, w, bias)),
            "torch": lambda: torch.nn.functional.linear(tx, tw, tbias),
        },
    )
    blocks, tblocks = drawn(BLOCKS, 2 * INNER * width // BLOCKS, width // BLOCKS)
    rows, trows = x.reshape(1, length, BLOCKS, -1), tx.reshape(1, length, BLOCKS, -1)
    yield Operation(
        "block-diagonal product",
        (length, width, 2 * INNER * width),
        1,
        {
            "MLX": waited(lambda: ops.blockdiag(rows, blocks)),
            "torch": lambda: torch.einsum("blkp,kqp->blkq", trows, tblocks),
        },
    )
    (scale, tscale), (shift, tshift) = drawn(width), drawn(width)
    yield Operation(
        "LayerNorm",
        (1, length, width),
        1,
        {
            "MLX": waited(lambda: ops.layer_norm(x, scale, shift, 1e-12)),
            "torch": lambda: torch.nn.functional.layer_norm(tx, (width,), tscale, tshift, 1e-12),
        },
    )


def short_convolutions(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """The three taps of the mixer and their gradient; before: `mx.conv1d`."""
    import mlx.core as mx
    import torch

    from mlx_impl.ops import Library

    channels = 3 * width
    (x, tx), (w, tw), (g, tg) = drawn(1, length, channels), drawn(channels, 3, 1), drawn(1, length + 2, channels)
    library = Library()
    tx, tw, tg = (t.transpose(1, 2).contiguous() for t in (tx, tw, tg))

    def by_mlx(x: mx.array, w: mx.array) -> mx.array:
        return library.conv1d(x, w, padding=2, groups=channels)

    def before(x: mx.array, w: mx.array) -> mx.array:
        return mx.conv1d(x, w, padding=2, groups=channels)

    def by_torch(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv1d(x, w, padding=2, groups=channels)

    def gradient_by_torch() -> Any:
        return torch.nn.grad.conv1d_input(tx.shape, tw, tg, padding=2, groups=channels), torch.nn.grad.conv1d_weight(
            tx, tw.shape, tg, padding=2, groups=channels
        )

    yield Operation(
        "short convolution",
        (1, length, channels),
        1,
        {
            "MLX": waited(lambda: by_mlx(x, w)),
            "torch": lambda: by_torch(tx, tw),
            "before": waited(lambda: before(x, w)),
        },
    )
    yield Operation(
        "its gradient",
        (1, length, channels),
        0,
        {
            "MLX": waited(lambda: mx.vjp(by_mlx, [x, w], [g])[1]),
            "torch": gradient_by_torch,
            "before": waited(lambda: mx.vjp(before, [x, w], [g])[1]),
        },
    )


def functions(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """GELU, the exponential and the sine."""
    import torch

    from mlx_impl import Ops

    ops = Ops()
    (h, th), (x, tx), (s, ts) = drawn(1, length, INNER * width), drawn(1, length, width), drawn(1, length, 128)
    for name, array, tensor, times, compute, counterpart in (
        ("GELU", h, th, 1, ops.gelu_erf, torch.nn.functional.gelu),
        ("exponential", x, tx, 4, ops.exp, torch.exp),
        ("sine", s, ts, 12, ops.sin, torch.sin),
    ):
        yield Operation(
            name,
            tuple(array.shape),
            times,
            {
                "MLX": waited(lambda compute=compute, array=array: compute(array)),
                "torch": lambda counterpart=counterpart, tensor=tensor: counterpart(tensor),
            },
        )


def transforms(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """Transforms of twice the length, and the product of two spectra."""
    import mlx.core as mx
    import torch

    from mlx_impl import Ops

    ops, n = Ops(), 2 * length
    x, tx = drawn(1, width, length)
    spectrum, tspectrum = mx.fft.rfft(x, n=n), torch.fft.rfft(tx, n)
    mx.eval(spectrum)
    for name, times, compute, counterpart in (
        ("transform", 4, lambda: ops.rfft(x, n, "backward"), lambda: torch.fft.rfft(tx, n)),
        ("inverse transform", 2, lambda: ops.irfft(spectrum, n, "backward"), lambda: torch.fft.irfft(tspectrum, n)),
        ("product of spectra", 2, lambda: ops.spectrum_product(spectrum, spectrum), lambda: tspectrum * tspectrum),
    ):
        yield Operation(name, (1, width, length), times, {"MLX": waited(compute), "torch": counterpart})


def filters(width: int, length: int) -> Iterator[Operation]:
    """The four kernels of a layer's two long filters; before: made for every sequence, as for the first one still."""
    import torch

    import mlx_impl
    import reference_torch

    given = {"d_model": width, "emb_dim": 5, "order": 128, "seq_len": length, "w": 10, "bidirectional": True}
    ours: Any = [mlx_impl.HyenaFilter(**given) for _ in range(2)]  # type: ignore[arg-type]
    held: Any = [mlx_impl.HyenaFilter(**given) for _ in range(2)]  # type: ignore[arg-type]
    theirs: Any = [reference_torch.HyenaFilter(**given) for _ in range(2)]  # type: ignore[arg-type]
    for one in held:
        one.hold(length)

    def by_torch() -> Any:
        with torch.no_grad():
            return [make(length) for one in theirs for make in (one.filter, one.filter_rev)]

    yield Operation(
        "four filters",
        (width, length),
        1,
        {"MLX": waited(lambda: [one.kernels(length) for one in ours]), "torch": by_torch},
    )
    yield Operation(
        "four filters, held",
        (width, length),
        0,
        {
            "MLX": waited(lambda: [one.kernels(length) for one in held]),
            "torch": by_torch,
            "before": waited(lambda: [one.kernels(length) for one in ours]),
        },
    )


def crossings(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """A tensor to float64 values of NumPy, and back into float32; before: cast by the framework, and copied."""
    import mlx.core as mx

    from parity.backends.convert import mlx_from_numpy, numpy_from_mlx, numpy_from_torch, torch_from_numpy

    x, tx = drawn(1, length, 3 * width)
    values = np.asarray(x).astype(np.float64)

    def cast_and_copied() -> npt.NDArray[np.float64]:
        return np.array(x.astype(mx.float64, stream=mx.cpu), dtype=np.float64)

    def copied_and_cast() -> mx.array:
        return mx.array(np.array(values, dtype=np.float64), dtype=mx.float64).astype(mx.float32, stream=mx.cpu)

    yield Operation(
        "to NumPy's float64",
        (1, length, 3 * width),
        0,
        {"MLX": lambda: numpy_from_mlx(x)[0], "torch": lambda: numpy_from_torch(tx)[0], "before": cast_and_copied},
    )
    yield Operation(
        "from it to float32",
        (1, length, 3 * width),
        0,
        {
            "MLX": waited(lambda: mlx_from_numpy(values, "float32")),
            "torch": lambda: torch_from_numpy(values, "float32"),
            "before": waited(copied_and_cast),
        },
    )


def layers(drawn: Drawn, width: int, length: int) -> Iterator[Operation]:
    """A published layer, forward and with the gradient by everything."""
    import mlx.core as mx
    import torch
    from mlx import nn

    import mlx_impl
    import reference_torch
    from parity.spec.config import ModelConfig

    config = ModelConfig(hidden_size=width, intermediate_size=INNER * width, long_conv_l_max=length)
    mx.random.seed(0)
    torch.manual_seed(0)
    port, reference = mlx_impl.BertLayer(config), reference_torch.BertLayer(config)
    x, tx = drawn(1, length, width)
    mx.eval(port.parameters())
    slopes = nn.value_and_grad(port, lambda layer, x: mx.sum(layer(x)))

    def forward_by_torch() -> torch.Tensor:
        with torch.no_grad():
            return reference(tx)

    def gradient_by_torch() -> torch.Tensor:
        y = reference(tx).sum()
        y.backward()
        return y

    yield Operation(LAYER, (1, length, width), 0, {"MLX": waited(lambda: port(x)), "torch": forward_by_torch})
    yield Operation(
        "and gradient",
        (1, length, width),
        0,
        {"MLX": waited(lambda: slopes(port, x)), "torch": gradient_by_torch},
    )


LAYER: Final = "layer, forward"


# --- measuring ------------------------------------------------------------------------------------------------


def measured(operation: Operation, rounds: int) -> Row:
    """Measure one row."""
    shuffled = np.random.Generator(np.random.Philox(rounds))
    times: dict[str, list[float]] = {name: [] for name in operation.calls}
    for count in range(rounds + 1):
        for name in shuffled.permutation(list(operation.calls)):
            start = time.process_time()
            answer = operation.calls[name]()
            spent = time.process_time() - start
            del answer
            if count:
                times[name].append(spent)
    return Row(
        operation.name,
        operation.shape,
        operation.times,
        {name: 1e3 * median(spent) for name, spent in times.items()},
        ratio(times["MLX"], times["torch"]),
        ratio(times["before"], times["MLX"]) if "before" in times else None,
    )


def ratio(above: Sequence[float], beneath: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles of the ratios, round by round; a clock that did not move counts as its step."""
    step = time.get_clock_info("process_time").resolution
    low, middle, high = quantiles([max(a, step) / max(b, step) for a, b in zip(above, beneath, strict=True)], n=4)
    return low, middle, high


HEAD: Final = ("operation", "shape", "times", "MLX ms", "torch ms", "before ms", "share", "MLX / torch", "before / MLX")


def table(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    whole = next((row.milliseconds["MLX"] for row in rows if row.name == LAYER), None)
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row.cells(whole))} |" for row in rows), ""])


def facts_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return where and how it was measured."""
    import mlx.core as mx
    import torch

    return {
        "machine": platform.machine(),
        "MLX": mx.__version__,
        "torch": torch.__version__,
        "BLAS of MLX": chosen.mlx_blas,
        "cache MiB": chosen.cache_mib,
        "threads": os.environ["OMP_NUM_THREADS"],
        "rounds": chosen.repeats,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768, help="hidden size, a multiple of 4")
    parser.add_argument("--length", type=int, default=2048, help="positions")
    parser.add_argument("--repeats", type=int, default=9, help=f"rounds counted, at least {LEAST_ROUNDS}")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds it")
    parser.add_argument("--mlx-blas", choices=("torch", "bundled"), default="torch", help="who multiplies for MLX")
    parser.add_argument(
        "--cache-mib", type=int, help="memory that MLX keeps for arrays to come; its own 32 if not given"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if chosen.repeats < LEAST_ROUNDS:
        parser.error(f"--repeats must be at least {LEAST_ROUNDS}, for a median and quartiles; got {chosen.repeats}")
    choose_blas(chosen.mlx_blas)
    import mlx.core as mx
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    mx.set_default_device(mx.cpu)
    if chosen.cache_mib is not None:
        mx.set_cache_limit(chosen.cache_mib << 20)
    rows = [
        measured(operation, chosen.repeats)
        for operation in operations(chosen.width, chosen.length)
        if chosen.only in operation.name
    ]
    facts = facts_of(chosen)
    found = json_text({"facts": facts, "rows": [asdict(row) for row in rows]}) if chosen.json else table(rows, facts)
    sys.stdout.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
