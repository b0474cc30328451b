"""The catalogue of mutants of M2-BERT's port: what porters write instead, one mistake each.

`MUTANTS` is what `parity mutants` runs. A row says what was written, where that comes from, the smallest pair that has
the mistake in it, and where blame must fall; how it is planted is a builder of `m2_bert_mutants_build`.

Sources: numerics.md, section 6 (all 23 families), the real ports of style.md, the specification's pitfalls, the
meanings of `m2_bert_alternatives`, and the faults that the tests of blame and of laws plant.
"""

from __future__ import annotations

from typing import Final

from parity.mutants.mutant import Mutant
from parity.suites.m2_bert_mutants_convolution import CONVOLUTION_MUTANTS
from parity.suites.m2_bert_mutants_filter import FILTER_MUTANTS
from parity.suites.m2_bert_mutants_kernels import KERNEL_MUTANTS
from parity.suites.m2_bert_mutants_layers import LAYER_MUTANTS
from parity.suites.m2_bert_mutants_models import MODEL_MUTANTS
from parity.suites.m2_bert_mutants_state import STATE_MUTANTS
from parity.suites.m2_bert_mutants_training import TRAINING_MUTANTS

MUTANTS: Final[tuple[Mutant, ...]] = (
    *CONVOLUTION_MUTANTS,
    *FILTER_MUTANTS,
    *LAYER_MUTANTS,
    *MODEL_MUTANTS,
    *STATE_MUTANTS,
    *TRAINING_MUTANTS,
    *KERNEL_MUTANTS,
)
"""Every mutant: leaves first, then weights, profiles, precision, gradients and training, kernels."""
