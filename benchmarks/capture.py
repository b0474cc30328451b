"""What capture costs: time over two bare forward passes, and memory over the number of layers.

    python benchmarks/capture.py                 # both, at the sizes that the bounds are stated for
    python benchmarks/capture.py --width 64 --length 32 --layers 2 6 --runs 2

Every figure comes from a process of its own. `bare` runs the encoder of M2-BERT once in torch and once in MLX, f32, on
the CPU; `captured` runs both together and measures each pair of outputs in float64; `kept` does the same and keeps
every call, to show that the memory figure can fail. Processes of the kinds to be compared take turns, and ratios are
formed pair by pair.

* pass: seconds of the two passes alone, after one unmeasured pass at length 8 that loads kernels.
* processor: processor seconds of the two passes alone, which other work on the machine disturbs less.
* process: seconds of the whole process.
* peak: peak resident size of the process less both sides' weights.
* memory: peak resident size during the passes less that before them, with weights there: what a pass adds. Measured in
  processes whose allocator hands back every freed array (glibc's `MALLOC_MMAP_THRESHOLD_`): what is held is meant, not
  what glibc keeps for later, which grows with the number of allocations.

Exit status 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

KINDS: Final = ("bare", "captured", "kept")
WARM_LENGTH: Final = 8
TIME_BOUND: Final = 1.6
"""Issue: wall time of a captured run, metrics included, over that of the two bare passes."""
HANDING_BACK: Final = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Source: mallopt(3), `M_MMAP_THRESHOLD`: setting it also ends its adjustment to the sizes that are freed."""
MEMORY_BOUND: Final = 0.10
"""Issue: how far the memory of many layers may lie above that of few."""


def main() -> None:
    """Run the child that the arguments name, or all of them."""
    arguments = _arguments()
    if arguments.kind:
        print(json.dumps(child(arguments.kind, arguments.width, arguments.length, arguments.layers[0])))  # noqa: T201
        return
    few, many = arguments.layers
    print(f"width {arguments.width}, length {arguments.length}, f32, torch threads 1, {os.cpu_count()} processors")  # noqa: T201
    within = [_report_time(arguments, few), _report_memory(arguments, few, many)]
    sys.exit(0 if all(within) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kind", choices=KINDS, help="run one process of this kind, and print its figures as JSON")
    return parser.parse_args()


# --- the parent -------------------------------------------------------------------------------------------


def _start(arguments: argparse.Namespace, kind: str, layers: int, handing_back: bool = False) -> dict[str, float]:
    words = [sys.executable, __file__, "--kind", kind, "--layers", str(layers)]
    words += ["--width", str(arguments.width), "--length", str(arguments.length)]
    environment = {**os.environ, **(HANDING_BACK if handing_back else {})}
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return {**json.loads(done.stdout), "process": time.monotonic() - start}


def _report_time(arguments: argparse.Namespace, layers: int) -> bool:
    """Print the ratios of time, and return whether that of the passes is within its bound."""
    pairs = [(_start(arguments, "captured", layers), _start(arguments, "bare", layers)) for _ in range(arguments.runs)]
    for figure in ("pass", "process", "processor"):
        ratios = [captured[figure] / bare[figure] for captured, bare in pairs]
        bare_seconds = statistics.median(bare[figure] for _, bare in pairs)
        print(  # noqa: T201
            f"{figure}: {layers} layers, bare {bare_seconds:.2f} s, captured / bare: median "
            f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} pairs of "
            f"runs (pass: at most {TIME_BOUND})"
        )
    return statistics.median(captured["pass"] / bare["pass"] for captured, bare in pairs) <= TIME_BOUND


def _report_memory(arguments: argparse.Namespace, few: int, many: int) -> bool:
    """Print both memory figures at few and at many layers, and return whether capture's growth is within the bound."""
    grown: dict[str, float] = {}
    for kind in KINDS:
        plain = [_start(arguments, kind, layers) for layers in (few, many)]
        held = [_start(arguments, kind, layers, handing_back=True) for layers in (few, many)]
        peaks = [figures["peak"] - figures["weights"] for figures in plain]
        added = [figures["memory"] for figures in held]
        grown[kind] = max(peaks[1] / peaks[0], added[1] / added[0]) - 1
        bound = f" (each at most +{MEMORY_BOUND:.0%})" if kind == "captured" else ""
        print(  # noqa: T201
            f"memory of {kind}, {few} and {many} layers: peak less weights {peaks[0]:.0f} and {peaks[1]:.0f} MiB, "
            f"{peaks[1] / peaks[0] - 1:+.1%}; added by the passes {added[0]:.1f} and {added[1]:.1f} MiB, "
            f"{added[1] / added[0] - 1:+.1%}{bound}; weights "
            f"{plain[0]['weights']:.0f} and {plain[1]['weights']:.0f} MiB"
        )
    return grown["captured"] <= MEMORY_BOUND


# --- the child --------------------------------------------------------------------------------------------


def child(kind: str, width: int, length: int, layers: int) -> dict[str, float]:
    """Build both encoders, run them as `kind` says, and return seconds and MiB."""
    os.environ["MLX_ENABLE_TF32"] = "0"
    import mlx.core as mx
    import numpy as np
    import torch

    torch.set_num_threads(1)
    mx.set_default_device(mx.cpu)
    reference, port = _encoders(width, length, layers)
    weights = 2 * sum(parameter.nbytes for parameter in reference.parameters()) / 2**20
    generator = np.random.Generator(np.random.Philox(0))
    run = {"bare": _bare, "captured": _captured, "kept": _kept}[kind]
    run(reference, port, generator.standard_normal((1, WARM_LENGTH, width), dtype=np.float32))
    inputs = generator.standard_normal((1, length, width), dtype=np.float32)
    mx.clear_cache()
    before = _forget_peak()
    wall, processor = time.perf_counter(), time.process_time()
    run(reference, port, inputs)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = _status("VmHWM")
    return {"pass": wall, "processor": processor, "memory": peak - before, "weights": weights, "peak": peak}


def _encoders(width: int, length: int, layers: int) -> tuple[Any, Any]:
    import mlx.core as mx
    import torch
    from mlx.utils import tree_flatten

    import mlx_impl.model
    import reference_torch.model
    from mlx_impl.weights import checkpoint_name, move_axes, port_name
    from parity.spec.config import ModelConfig

    config = ModelConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        long_conv_l_max=length,
        max_position_embeddings=length,
    )
    torch.manual_seed(0)
    reference = reference_torch.model.BertEncoder(config).eval()
    port = mlx_impl.model.BertEncoder(config).eval()
    state = {name: tensor.detach() for name, tensor in reference.state_dict().items()}
    for name, _ in tree_flatten(port.parameters()):
        source = checkpoint_name(name)
        array = move_axes(source, mx.array(state[source].numpy()))
        mx.eval(array)
        port.load_weights([(port_name(source), array)], strict=False)
    return reference, port


def _bare(reference: Any, port: Any, inputs: Any) -> None:
    import mlx.core as mx
    import torch

    with torch.no_grad():
        reference(torch.from_numpy(inputs))
    mx.eval(port(mx.array(inputs)))


def _captured(reference: Any, port: Any, inputs: Any) -> None:
    _together(reference, port, inputs, lambda reference_call, port_call: None)


def _kept(reference: Any, port: Any, inputs: Any) -> None:
    kept: list[Any] = []
    _together(reference, port, inputs, lambda reference_call, port_call: kept.append((reference_call, port_call)))


def _together(reference: Any, port: Any, inputs: Any, then: Callable[[Any, Any], None]) -> None:
    """Run both under capture and measure the port's outputs of every call against the reference's, in float64."""
    import mlx.core as mx
    import torch

    from mlx_impl.weights import port_name
    from parity.backends.convert import numpy_from_mlx, numpy_from_torch
    from parity.metrics import measure
    from parity.spec.precision import RUNGS
    from parity.trace.mlx_capture import mlx_side
    from parity.trace.together import advance_together
    from parity.trace.torch_capture import torch_side

    x, y = torch.from_numpy(inputs), mx.array(inputs)
    measured = 0

    def judge(reference_call: Any, port_call: Any) -> None:
        nonlocal measured
        for path, tensor in reference_call.outputs.items():
            actual, expected = numpy_from_mlx(port_call.outputs[path])[0], numpy_from_torch(tensor)[0]
            measured += measure(actual, expected, RUNGS["f32"]).count
        then(reference_call, port_call)

    left = advance_together(
        torch_side(reference, lambda: reference(x)),
        mlx_side(port, lambda: port(y)),
        judge,
        [(name, port_name(name)) for name, _ in reference.named_modules()],
    )
    if left.reference or left.port or not measured:
        raise RuntimeError(f"the benchmark must pair every call; {measured} elements measured, left: {left}")


def _status(field: str) -> float:
    """Read a size in MiB from Linux's account of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(found[1]) / 1024


def _forget_peak() -> float:
    """Set the peak resident size to the present one and return it, in MiB. Source: proc(5), `clear_refs`."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


if __name__ == "__main__":
    main()
