"""Whether MLX compiles, and whether it is tracing now: it has no function that says so, hence canaries."""

from __future__ import annotations

import mlx.core as mx


def compiling() -> bool:
    """Whether `mx.compile` is in effect: a compiled function's Python then runs once for two calls."""
    runs = []

    def canary(x: mx.array) -> mx.array:
        runs.append(1)
        return x

    compiled = mx.compile(canary)
    compiled(mx.array(0.0))
    compiled(mx.array(0.0))
    return len(runs) == 1


def tracing() -> bool:
    """Whether this line runs inside a function that MLX is compiling, mapping or differentiating.

    The placeholder of a trace that has ended can never be evaluated; MLX refuses it with a ValueError while any
    transformation is under way, and with a RuntimeError otherwise. Where compilation is off there is no placeholder,
    and no trace that could outlive a context: the answer is then no.
    """
    placeholders: list[mx.array] = []

    def canary(x: mx.array) -> mx.array:
        placeholders.append(x)
        return x

    mx.compile(canary)(mx.array(0.0))
    try:
        mx.eval(placeholders[0])
    except ValueError:
        return True
    except RuntimeError:
        return False
    return False
