"""Pairing of two trees of modules that need not be alike.

1. A rename table, and exact names. A name that its module belies - another group of layers, another size - counts only
   if nothing better is found.
2. Fused modules: one whose outputs hold, as values show, those of several modules of the other side.
3. The alignment of both trees, in the order of calls, by type, shapes, parameters, the type of layer that an input
   comes from, values and names (`parity.pairing.evidence`). Siblings that could take each other's place are then told
   apart by their values, or by a run on fresh inputs.
4. What is left: modules called in another order; fused modules whose values prove nothing.

Names, order and structure find a partner for a layer whose values are wrong; values confirm it.

*Confidence*: 1 for a name. Otherwise 1 / (1 + exp(-g)): g is the evidence for the two partners, in nats, less that for
the best other choice of either, or less that of two unrelated modules, whichever is smaller. For a fused module, the
share of its parts that values prove, and `unproven` if none is. A layout that is a guess, or a name that its module
belies, multiplies it by `unproven`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from parity.pairing.constants import LEAST_CONFIDENCE, number
from parity.pairing.evidence import Comparison, Evidence, agreements
from parity.pairing.fusion import Fusion, main_output
from parity.pairing.kinds import IDENTITY, KINDS, Kinds, family_of
from parity.pairing.layout import Agreement, Layout, candidates, settled
from parity.pairing.match import Alone, Match, Pairing
from parity.pairing.names import Renames, by_name
from parity.pairing.node import Node, Tree, tree_of
from parity.pairing.solve import Search, Settle


def pair_trees(
    reference: Sequence[Node],
    port: Sequence[Node],
    renames: Renames = (),
    settle: Settle | None = None,
    kinds: Kinds = KINDS,
) -> Pairing:
    """Find the partner of every module, or say why it has none.

    Without renames the result does not depend on which side is called the reference, nor on the order of the nodes.

    Args:
        reference: The reference's modules, as a run has shown them.
        port: The port's, from a run on the same inputs.
        renames: Patterns of the reference's names and what they become in the port, in the syntax of `re.sub`.
        settle: Runs two modules, the reference's first, on fresh inputs, and returns the distance of their main outputs
            under a layout (`parity.pairing.layout.distance` of `layout.align`); asked where values leave two choices,
            and only then. For a fused module the layout names the slice.
        kinds: Which types of layers are the same.

    Returns:
        Every module of either side in a match, unpaired, or set aside, with its reason.

    Raises:
        PairingError: A rename matches nothing or leads nowhere, two of them collide, a name occurs twice, or a module's
            description contradicts itself.
    """
    left, right = tree_of(reference, kinds, "reference"), tree_of(port, kinds, "port")
    named = by_name(left.nodes, right.nodes, renames)
    # One orientation for both ways of asking: ties fall the same way.
    if _key(right) < _key(left):
        turned = {there: (here, reason) for here, (there, reason) in named.items()}
        return _in_order(_solve(right, left, turned, _turned(settle), kinds).swapped(), left)
    return _in_order(_solve(left, right, named, settle, kinds), left)


def _key(tree: Tree) -> list[tuple[str, str]]:
    return sorted((node.name, node.kind) for node in tree.nodes.values())


def _turned(settle: Settle | None) -> Settle | None:
    if settle is None:
        return None
    ask = settle
    return lambda left, right, layout: ask(right, left, layout.inverse())


def _in_order(pairing: Pairing, reference: Tree) -> Pairing:
    places = {node.name: place for place, node in enumerate(reference.called)}
    return replace(
        pairing,
        matches=tuple(
            sorted(pairing.matches, key=lambda it: (places.get(it.reference, len(places)), it.reference, it.port))
        ),
    )


def _solve(
    left: Tree, right: Tree, named: Mapping[str, tuple[str, str]], settle: Settle | None, kinds: Kinds
) -> Pairing:
    evidence = Evidence(left, right, kinds)
    reasons = {(one, other): reason for one, (other, reason) in named.items()}
    wanted = {pair for pair in reasons if not _needless(left.nodes[pair[0]], right.nodes[pair[1]])}
    anchors = {one: other for one, other in sorted(wanted) if _plausible(evidence, one, other)}
    search = Search(evidence, anchors, settle)
    search.run()
    judge = _Judge(search, reasons)
    dropped = judge.drop_unlikely()
    judge.take_belied_names(wanted)
    return judge.pairing(dropped)


def _needless(left: Node, right: Node) -> bool:
    """Two containers that were never called and hold nothing: there is nothing to compare."""
    return not any(node.called or node.parameters for node in (left, right))


def _plausible(evidence: Evidence, left: str, right: str) -> bool:
    """Whether two modules of one name could be partners at all."""
    one, other = evidence.left.nodes[left], evidence.right.nodes[right]
    if one.called and other.called:
        return evidence.compare(left, right).score > -math.inf
    return bool(one.parameters) and sorted(one.parameters.values()) == sorted(other.parameters.values())


@dataclass(frozen=True)
class _Judge:
    """Turns what the search found into matches with reasons, and the rest into modules without a partner."""

    search: Search
    reasons: Mapping[tuple[str, str], str]

    @property
    def _evidence(self) -> Evidence:
        return self.search.evidence

    def drop_unlikely(self) -> dict[str, str]:
        """Take back partners found without a name whose confidence is too small; return why, by either name."""
        why: dict[str, str] = {}
        for one, other in sorted(self.search.partners.items()):
            confidence = self._confidence(one, other)
            if one not in self.search.anchors and confidence < LEAST_CONFIDENCE:
                why[one] = f"below confidence: {other} would be its partner at {confidence:.2f}"
                why[other] = f"below confidence: {one} would be its partner at {confidence:.2f}"
                del self.search.partners[one]
        return why

    def take_belied_names(self, wanted: set[tuple[str, str]]) -> None:
        """Pair modules of one name that differ in type or size, if neither has found anything better."""
        lefts, rights = ({node.name for node in self.search.open(on_left)} for on_left in (True, False))
        for one, other in sorted(wanted):
            if one in lefts and other in rights:
                self.search.partners[one] = other

    def pairing(self, dropped: Mapping[str, str]) -> Pairing:
        """Put everything together."""
        matches = [self._match(one, other) for one, other in sorted(self.search.partners.items())]
        for fusion, parts_left in self.search.fusions:
            matches += [self._part(fusion, part, parts_left) for part in fusion.parts]
        left, right = (self._rest(on_left, dropped) for on_left in (True, False))
        return Pairing(tuple(matches), left[0], right[0], left[1], right[1])

    # --- matches ---

    def _match(self, one: str, other: str) -> Match:
        left, right = self.search.left.nodes[one], self.search.right.nodes[other]
        if not (left.called and right.called):
            return Match(one, other, self._confidence(one, other), self._reason(one, other), {})
        comparison = self._evidence.compare(one, other)
        outputs = {paths: self._settled(left, right, paths, it) for paths, it in comparison.outputs.items()}
        ambiguous = any(it.ambiguous for it in outputs.values())
        layouts = {paths: it.layout for paths, it in {**comparison.inputs, **outputs}.items()}
        confidence = self._confidence(one, other) * (number("unproven") if ambiguous else 1.0)
        reason = self._reason(one, other) + ("; its layout is a guess" if ambiguous else "")
        return Match(one, other, confidence, reason, layouts, ambiguous)

    def _settled(self, left: Node, right: Node, paths: tuple[str, str], found: Agreement) -> Agreement:
        """Choose between layouts by a run, where values could not."""
        settle = self.search.settle
        mains = (main_output(left), main_output(right))
        if not found.ambiguous or settle is None or paths != mains:
            return found
        layouts = candidates(left.output_shapes[mains[0]], right.output_shapes[mains[1]])
        ran = settled(layouts, lambda layout: settle(left, right, layout))
        return ran if ran.agrees else found

    def _confidence(self, one: str, other: str) -> float:
        if (one, other) in self.reasons:
            sure = self.search.anchors.get(one) == other and self._elsewhere(one, other) is None
            return 1.0 if sure else number("unproven")
        if not (self.search.left.nodes[one].called and self.search.right.nodes[other].called):
            return number("unproven")
        return 1.0 / (1.0 + math.exp(-self.search.gap(one, other)))

    def _reason(self, one: str, other: str) -> str:
        left, right = self.search.left.nodes[one], self.search.right.nodes[other]
        if (one, other) in self.reasons:
            named = self.reasons[one, other]
            if self.search.anchors.get(one) != other:
                return f"{named}, though {self._belied(left, right)}"
            if not (left.called and right.called):
                return named
            elsewhere = self._elsewhere(one, other)
            return named + (f", though its values are those of {elsewhere}" if elsewhere else self._shown(one, other))
        if not (left.called and right.called):
            return "never called; parameters of the same shapes"
        comparison = self._evidence.compare(one, other)
        words = _and("order", *comparison.same, *(["values"] if comparison.values_agree else []))
        text = (f"{words} agree" if " and " in words else f"{words} agrees") + self._shown(one, other)
        text += f"; not {_and(*comparison.differs)}" if comparison.differs else ""
        text += "; order alone tells it from another" if self.search.gap(one, other) <= number("order") else ""
        distance = self.search.settled.get((one, other), math.inf)
        return text + (f"; run on fresh inputs: rel L2 {distance:.0e}" if distance <= number("agree") else "")

    def _shown(self, one: str, other: str) -> str:
        comparison = self._evidence.compare(one, other)
        if comparison.distance is None:
            return ""
        return f": rel L2 {comparison.distance:.0e}" if comparison.values_agree else ", values differ"

    def _belied(self, left: Node, right: Node) -> str:
        if not (left.called and right.called):
            return "only one of them is called"
        sizes = [dict(node.output_shapes) for node in (left, right)]
        differ = "type" if not self._evidence.related(left, right) else "size"
        return f"their {differ} differs: {left.kind} {sizes[0]} and {right.kind} {sizes[1]}"

    def _elsewhere(self, one: str, other: str) -> str | None:
        """The module whose values those of a pair by name are, where the two of them differ and it is the only one."""
        if self._compared(one, other).values_agree is not False:
            return None
        found = [
            node.name
            for node in self.search.right.called
            if node.name != other and self._convincing(self._compared(one, node.name))
        ]
        found += [
            node.name
            for node in self.search.left.called
            if node.name != one and self._convincing(self._compared(node.name, other))
        ]
        return " and ".join(sorted(set(found))) or None

    def _compared(self, one: str, other: str) -> Comparison:
        return self._evidence.compare(one, other)

    @staticmethod
    def _convincing(comparison: Comparison) -> bool:
        informed = [it.information == 1.0 for it in comparison.outputs.values()]
        return comparison.score > -math.inf and bool(comparison.values_agree) and all(informed)

    def _part(self, fusion: Fusion, part: Node, parts_left: bool) -> Match:
        found = fusion.agreements[part.name]
        paths = (main_output(part), main_output(fusion.whole))
        share = fusion.proven / len(fusion.parts) if fusion.proven else number("unproven")
        parts = ", ".join(it.name for it in fusion.parts)
        shown = f": rel L2 {found.distance:.0e}" if found.agrees else ", values differ"
        shown = "; shapes add up, its place is a guess" if found.ambiguous else shown
        match = Match(
            part.name,
            fusion.whole.name,
            share * (number("unproven") if found.ambiguous else 1.0),
            f"part of a fused module: {fusion.whole.name} holds {parts}{shown}",
            {**self._inputs_of_part(part, fusion.whole, parts_left), paths: found.layout},
            found.ambiguous,
        )
        return match if parts_left else match.swapped()

    def _inputs_of_part(self, part: Node, whole: Node, parts_left: bool) -> dict[tuple[str, str], Layout]:
        if parts_left:
            found = agreements(part, whole, part.input_shapes, whole.input_shapes)
            return {paths: it.layout for paths, it in found.items()}
        found = agreements(whole, part, whole.input_shapes, part.input_shapes)
        return {(other, one): it.layout.inverse() for (one, other), it in found.items()}

    # --- modules without a partner ---

    def _rest(self, on_left: bool, dropped: Mapping[str, str]) -> tuple[tuple[Alone, ...], tuple[Alone, ...]]:
        tree = self.search.left if on_left else self.search.right
        taken = set(self.search.partners if on_left else self.search.partners.values())
        taken |= {
            name
            for fusion, parts_left in self.search.fusions
            for name in ([it.name for it in fusion.parts] if parts_left == on_left else [fusion.whole.name])
        }
        unpaired, aside = list[Alone](), list[Alone]()
        settled = set(taken)
        never = [node for node in tree.nodes.values() if not node.called]
        for node in [*tree.called, *sorted(never, key=lambda node: node.name)]:  # parts come before what holds them
            if node.name in taken:
                continue
            reason = self._needs_none(node, tree, settled)
            if reason is None:
                why = dropped.get(node.name) or self._why(node, on_left)
                unpaired.append(Alone(node.name, why))
            else:
                settled.add(node.name)
                aside.append(Alone(node.name, reason))
        return tuple(unpaired), tuple(aside)

    def _needs_none(self, node: Node, tree: Tree, settled_names: set[str]) -> str | None:
        """Why a module needs no partner, or None if it does."""
        if node.parameters:
            return None
        if not node.called:
            return "never called, and holds no parameters"
        parts = tree.children.get(node.name, ())
        if not parts and _passes_on(node):
            return "returns its input unchanged"
        if not parts and not node.values and family_of(node.kind, self._evidence.kinds) == IDENTITY:
            return f"{node.kind} changes nothing where nothing is trained"
        if parts and settled_names.issuperset(parts):
            return f"a level that only this side has: its {len(parts)} part(s) have their partners"
        return None

    def _why(self, node: Node, on_left: bool) -> str:
        if not node.called:
            return "never called, and no module has parameters of its shapes"
        other = self.search.right if on_left else self.search.left
        sizes = {math.prod(shape) for shape in node.output_shapes.values()}
        like = [it for it in other.called if sizes & {math.prod(shape) for shape in it.output_shapes.values()}]
        if not like:
            return f"no candidate of that shape: {dict(node.output_shapes)}"
        related = [it for it in like if self._evidence.related(node, it)]
        if not related:
            return f"no candidate of that type: {node.kind} among {len(like)} of its size"
        free = {it.name for it in self.search.open(not on_left)}
        best = max(related, key=lambda it: (self._score(node, it, on_left), it.name))
        if best.name not in free:
            return f"taken by another: {best.name or 'the model itself'}, its best candidate, has a partner"
        return f"below confidence: evidence for {best.name} is {self._score(node, best, on_left):.1f} nats"

    def _score(self, node: Node, candidate: Node, on_left: bool) -> float:
        one, other = (node, candidate) if on_left else (candidate, node)
        return self._evidence.compare(one.name, other.name).score


def _passes_on(node: Node) -> bool:
    given = {node.prints[path] for path in node.input_shapes if path in node.prints}
    made = [node.prints[path] for path in node.output_shapes if path in node.prints]
    return bool(made) and given.issuperset(made)


def _and(*words: str) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
