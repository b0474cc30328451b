"""What a command shows on a terminal while it works: nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

_SHOWN: Final = 23
"""Characters of a tensor's name, its last ones: what comes before says only in which layer it is."""


class OnTensor(Protocol):
    """What is called when a tensor is done."""

    def __call__(self, name: str, total: int | None = None) -> None:
        """Show the tensor's name, and how many there are if that is known."""


def progress_bar() -> Progress:
    """Return a progress bar that shows itself on a terminal alone, and leaves nothing behind."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def tensor_progress(doing: str) -> Iterator[OnTensor]:
    """Show a progress bar over tensors: `doing` until the first is done, then the name of the last."""
    with progress_bar() as progress:
        task = progress.add_task(doing, total=None)

        def on_tensor(name: str, total: int | None = None) -> None:
            progress.update(task, advance=1, total=total, description=f"...{name[-_SHOWN:]}")

        yield on_tensor
