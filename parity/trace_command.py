"""`parity trace`: a tree of blame, module by module."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from parity.device_options import ConstantsOption, Place, PortDeviceOption, ReferenceDeviceOption, place_of
from parity.errors import ConfigError, ParityError, TargetError
from parity.plain import json_text
from parity.spec.precision import Rung, rung_called

if TYPE_CHECKING:
    from parity.spec.profile import HyperProfile


def register(app: typer.Typer, guarded: Callable[[Callable[[], int], str], int]) -> None:
    """Add the command `trace` to `app`; `guarded` turns a user's mistake, or an interruption, into one line."""

    @app.command()
    def trace(
        target: Annotated[
            str,
            typer.Argument(
                metavar="TARGET",
                help="One component, for example `encoder`, or a pair of your own as FILE.py::NAME or MODULE:ATTR.",
            ),
        ],
        profile: Annotated[
            str | None,
            typer.Option(
                help="A profile's name, or the path of a JSON file. Default: $MLX_M2_PROFILE, else mlx_stable."
            ),
        ] = None,
        rung: Annotated[str, typer.Option(help="Where the port runs: f64, f32, bf16 or f16.")] = "f64",
        backward: Annotated[bool, typer.Option("--backward", help="Blame gradients, module by module.")] = False,
        depth: Annotated[int | None, typer.Option(min=0, help="Print no module below this depth.")] = None,
        case: Annotated[
            str | None,
            typer.Option(
                metavar="JSON", help="The case, as a failure prints it. Default: the largest structure, normal inputs."
            ),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 0,
        links: Annotated[bool, typer.Option("--links", help="Print why modules are partners as well.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print every row as JSON.")] = False,
        port_device: PortDeviceOption = "cpu",
        constants: ConstantsOption = None,
        reference_device: ReferenceDeviceOption = "cpu",
    ) -> None:
        """Say which module first goes wrong.

        Each module of the port runs on the reference's own inputs. Printed are the error it makes there (own), that
        of what it was given in its own run (inherited), how it amplifies that (gain), and what it gave out (total).

        Examples:

        * `parity trace encoder` the component's modules at float64: does each mean the same?
        * `parity trace masked_lm --backward --depth 3` the same of gradients, three levels of the tree
        * `parity trace my_pairs.py::gated_mlp --links` a model of your own, and how its modules were paired

        Exit status 0 if every module keeps within its allowance, 1 if one does not or was compared with nothing.
        """

        def traced() -> int:
            place = place_of(port_device, reference_device, constants)
            return _trace(_Choice(target, profile, rung, backward, depth, case, seed, links, as_json, place))

        raise typer.Exit(guarded(traced, "no module was blamed"))


@dataclasses.dataclass(frozen=True)
class _Choice:
    target: str
    profile: str | None
    rung: str
    backward: bool
    depth: int | None
    case: str | None
    seed: int
    links: bool
    as_json: bool
    place: Place


def _trace(choice: _Choice) -> int:
    from parity.spec.profile import load_profile, require_built

    profile, rung = load_profile(choice.profile), rung_called(choice.rung)
    require_built(profile)
    import torch

    from parity.environment import warm_up
    from parity.examine import Bench

    torch.set_num_threads(1)
    warm_up()
    chosen = _pair(choice.target)
    (pair,) = choice.place.put([chosen])
    if rung.name not in pair.only_rungs:
        raise ConfigError(f"{pair.name} has no rung {rung.name}: {pair.only_rungs_reason}")
    case = _case(pair, choice)
    bench = Bench(pair, case, profile, intermediates=False)
    try:
        links, table, leaks = _blamed(bench, profile, rung, choice)
    except Exception as error:
        words = "" if isinstance(error, ParityError) else _port_raises(bench, profile, rung, choice.backward)
        if not words:
            raise
        sentence = f"the port raised {words}"
        if choice.as_json:
            given = {"component": pair.name, "case": case.to_json(), "rung": rung.name}
            sys.stdout.write(json_text({**given, "passed": False, "sentence": sentence}))
        else:
            _console().print(f"FAIL: {sentence}", markup=False)
        return 1
    if choice.as_json:
        sys.stdout.write(json_text(_plain(pair, case, rung, links, table, leaks)))
    else:
        out = _console()
        out.print(f"{pair.name} under {profile.name} at {rung.name}: {case.to_json()}", markup=False)
        _print_tree(out, table, choice.depth)
        _print_links(out, links, choice.links)
        _print_alone(out, table)
        if leaks:
            out.print(f"precision leaks: {', '.join(leaks)}", markup=False)
        out.print(f"{'PASS' if table.passed else 'FAIL'}: {table.sentence()}", markup=False)
    return 0 if table.passed else 1


def _pair(target: str) -> Any:
    from parity.suites import select

    pairs = select([target])
    if len(pairs) > 1:
        raise TargetError(
            f"target {target!r} has {len(pairs)} pairs, one is traced: name it, {target}::{pairs[0].name} for example"
        )
    return pairs[0]


def _case(pair: Any, choice: _Choice) -> Any:
    """The case that the user names, else one with the most input elements: a small one hides what goes wrong."""
    from parity.cases import FULL_LADDER, Case, largest_structures
    from parity.run import require_buildable

    if choice.case is not None:
        case = Case.from_json(pair.name, choice.case)
        require_buildable(pair, case)
        return case
    (largest,) = largest_structures(pair, choice.seed, 1)
    return Case.make(pair.name, largest, seed=choice.seed, ladder=FULL_LADDER)


def _blamed(bench: Any, profile: HyperProfile, rung: Rung, choice: _Choice) -> tuple[Any, Any, tuple[str, ...]]:
    """Return links, table and the names of the operations that leaked precision."""
    from parity.attribution import LocalAttribution
    from parity.backends.port import arithmetic
    from parity.blame import links_of_pair, trace_backward_beside, trace_forward
    from parity.suites.m2_bert_alternatives import ALTERNATIVES

    pair, reference, port = bench.pair, bench.module, bench.modules.port(profile, rung)
    with arithmetic(pair, rung) as leaks, _counted() as on_row:
        links = links_of_pair(pair, reference, port, bench.inputs, rung, choice.seed)
        given = (pair, reference, port, bench.inputs, rung, links, choice.seed)
        if choice.backward:
            table = trace_backward_beside(bench, profile, rung, links, choice.seed, on_row=on_row)
        else:
            explain = LocalAttribution(bench, ALTERNATIVES) if _is_known(pair) and rung.name == "f64" else None
            table = trace_forward(*given, explain=explain, on_row=on_row)
        return links, table, tuple(dict.fromkeys(leak.operation for leak in leaks))


def _is_known(pair: Any) -> bool:
    """Whether a pair is a component, wherever it runs."""
    from parity.spec.devices import ON_CPU
    from parity.suites import PAIRS
    from parity.tolerance import NO_FACTORS

    return dataclasses.replace(pair, devices=ON_CPU, factors=NO_FACTORS) in PAIRS


def _port_raises(bench: Any, profile: HyperProfile, rung: Rung, backward: bool) -> str:
    """What the port raises by itself, in words: its own failure, and not one of this command; empty if nothing."""
    import mlx.core as mx

    from parity.backends.convert_mlx import mlx_from_numpy
    from parity.backends.port import arithmetic

    port = bench.modules.port(profile, rung)
    arrays = {name: mlx_from_numpy(array, rung.dtype) for name, array in bench.inputs.items()}

    def total(parameters: Any) -> Any:
        port.update(parameters)
        outputs = bench.pair.call(port, arrays).values()
        return sum((mx.sum(y) for y in outputs if mx.issubdtype(y.dtype, mx.floating)), mx.zeros(()))

    with arithmetic(bench.pair, rung):
        parameters = port.trainable_parameters()
        try:
            mx.eval(mx.grad(total)(parameters) if backward else total(parameters))
        except Exception as error:  # noqa: BLE001 - whatever a foreign port raises is its failure, in its own words
            lines = str(error).strip().splitlines()
            return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        finally:
            port.update(parameters)
    return ""


@contextmanager
def _counted() -> Iterator[Callable[[object], None]]:
    """Show on a terminal how many modules have been judged so far; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _row: None
        return
    judged = 0
    with console.status("judging") as status:

        def count(row: Any) -> None:
            nonlocal judged
            judged += 1
            status.update(f"{judged} calls judged, last {row.module or 'the model itself'}")

        yield count


def _plain(pair: Any, case: Any, rung: Rung, links: Any, table: Any, leaks: tuple[str, ...]) -> dict[str, Any]:
    return {
        "component": pair.name,
        "case": case.to_json(),
        "rung": rung.name,
        "passed": table.passed,
        "sentence": table.sentence(),
        "rows": [{**dataclasses.asdict(row), "verdict": table.verdict(row)} for row in table.rows],
        "unpaired_reference": table.unpaired_reference,
        "unpaired_port": table.unpaired_port,
        "links": [
            {"reference": it.reference, "port": it.port, "confidence": it.confidence, "reason": it.reason}
            for it in links.links
        ],
        "aside": {
            "reference": {it.name: it.reason for it in links.aside_reference},
            "port": {it.name: it.reason for it in links.aside_port},
        },
        "leaks": leaks,
    }


# --- the tree ---------------------------------------------------------------------------------------------

_WIDE: Final = 1000
"""Columns of what is not a terminal: a line is never cut."""


def _console() -> Console:
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=_WIDE)


def _print_tree(out: Console, table: Any, depth: int | None) -> None:
    rows: dict[str, list[Any]] = {}
    for row in table.rows:
        rows.setdefault(row.module, []).append(row)
    tree = Tree(_line("model", rows.get("", []), table))
    nodes = {"": tree}
    order = {name: place for place, name in enumerate(rows)}
    for name in sorted((name for name in rows if name), key=lambda n: (n.count("."), order[n])):
        parent = next((p for p in _above(name) if p in nodes), "")
        if depth is None or name.count(".") < depth:
            nodes[name] = nodes[parent].add(_line(name.removeprefix(f"{parent}."), rows[name], table))
    out.print(tree)


def _print_links(out: Console, links: Any, everything: bool) -> None:
    if everything:
        for it in links.links:
            names = f"{it.reference or 'the model'} = {it.port or 'the model'}"
            out.print(f"{names}: {it.reason} (confidence {it.confidence:.2f})", markup=False)
    for side, unpaired, aside in (
        ("reference", links.unpaired_reference, links.aside_reference),
        ("port", links.unpaired_port, links.aside_port),
    ):
        for it in unpaired:
            out.print(f"without a partner in the {side}: {it.name or 'the model'} ({it.reason})", markup=False)
        for it in aside if everything else ():
            out.print(f"needs no partner in the {side}: {it.name or 'the model'} ({it.reason})", markup=False)


def _print_alone(out: Console, table: Any) -> None:
    for side, names in (("reference", table.unpaired_reference), ("port", table.unpaired_port)):
        if names:
            out.print(f"compared with nothing, {side}: {', '.join(names)}", markup=False)
    if table.missing:
        out.print(f"gradients compared with nothing: {', '.join(table.missing)}", markup=False)


def _above(name: str) -> list[str]:
    parts = name.partition("#")[0].split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _line(label: str, rows: list[Any], table: Any) -> Text:
    if not rows:
        return Text(label)
    text = Text()
    for place, row in enumerate(rows):  # several where the module stands for several of the port's
        gain = "-" if row.gain is None else f"{row.gain:.2g}"
        text.append("\n" if place else "")
        same = not row.module or f".{row.port}".endswith(f".{label}")
        text.append(label if same else f"{label} = {row.port}")
        text.append(
            f" ({row.kind})  own {row.own:.2g} ({row.ratio:.2g} of allowed)  "
            f"inherited {row.inherited:.2g}  gain {gain}  total {row.total:.2g}"
        )
        verdict = table.verdict(row)
        if verdict in ("culprit", "wiring"):
            text.append(f"  <-- {verdict}", style="bold red")
        for note in (*row.notes, *row.doubts):
            text.append(f"  [{note}]", style="dim")
    return text
