"""Pairing of two trees of modules: which module of the port stands for which of the reference, why, and how surely."""

from parity.pairing.kinds import KINDS
from parity.pairing.layout import Layout, Part
from parity.pairing.match import Alone, Match, Pairing
from parity.pairing.node import Node
from parity.pairing.pair import pair_trees
from parity.pairing.solve import Settle

__all__ = ["KINDS", "Alone", "Layout", "Match", "Node", "Pairing", "Part", "Settle", "pair_trees"]
