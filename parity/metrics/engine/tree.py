"""The order in which NumPy adds: a tree over the elements, cut into blocks that can be added apart.

NumPy halves a run of more than 128 elements, the first half a multiple of 8, and adds the halves' sums. Every node of
that tree is the sum of a contiguous block, so that blocks may be summed on any thread, in any order, and their sums
put together by the tree: the bits are those of `numpy.sum` over everything.

Source: numpy, numpy/_core/src/umath/loops_utils.h.src, `pairwise_sum`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

LEAF: Final = 128
"""Elements that NumPy adds in one run, in eight lanes."""
LANES: Final = 8


@dataclass(frozen=True)
class Block:
    """Elements [start, stop), the node of the tree at that depth."""

    start: int
    stop: int
    depth: int

    @property
    def size(self) -> int:
        """Elements of the block."""
        return self.stop - self.start


def blocks(size: int, limit: int) -> tuple[Block, ...]:
    """Cut [0, size) into nodes of the tree of at most `limit` elements, in order; none for no elements.

    Raises:
        ValueError: The limit is below a leaf's 128: NumPy does not cut there.
    """
    if limit < LEAF:
        raise ValueError(f"limit is {limit}; NumPy cuts no run of {LEAF} elements or fewer: give {LEAF} or more")
    return tuple(_cut(Block(0, size, 0), limit)) if size else ()


def _cut(block: Block, limit: int) -> Iterator[Block]:
    if block.size <= limit:
        yield block
        return
    half = block.size // 2
    middle = block.start + half - half % LANES
    yield from _cut(Block(block.start, middle, block.depth + 1), limit)
    yield from _cut(Block(middle, block.stop, block.depth + 1), limit)


def combine(sums: Sequence[float], nodes: Sequence[Block]) -> float:
    """Add the sums of all blocks of a tree as the tree does; 0 where there are none."""
    stack: list[tuple[float, int]] = []
    for value, node in zip(sums, nodes, strict=True):
        total, depth = value, node.depth
        # What waits at the same depth is the left sibling.
        while stack and stack[-1][1] == depth:
            total, depth = stack.pop()[0] + total, depth - 1
        stack.append((total, depth))
    return stack[0][0] if stack else 0.0
