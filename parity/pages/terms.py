"""Every term of a page, explained where it stands. The same words as reports/README.md, shorter."""

from __future__ import annotations

from typing import Final

TERMS: Final[dict[str, tuple[str, str]]] = {
    "verdict": (
        "Verdict",
        "Pass: every tensor of every case stays within its allowance and every stratum is as accurate as the "
        "reference. Fail: something does not. Ill-conditioned: rounding is predicted to be as large as the truth, "
        "so the tensor counts neither for nor against the port.",
    ),
    "baseline": (
        "Baseline",
        "The runs that were accepted, kept by environment and budget: hashes of every tensor, and mean and spread of "
        "each stratum's loss of bits.",
    ),
    "drift": (
        "Drift",
        "How many bits less accurate than accepted the port is on average, in a stratum or in a group of them; below 0 "
        "it is more accurate. The gate stops a run whose upper confidence bound exceeds the margin, or whose bits are "
        "others where environment, seed and cases are the same.",
    ),
    "margin": (
        "Margin",
        "What the accepted runs can resolve: a drift as large passes with a probability of 0.1 % at most, unchanged "
        "code is stopped with one of 0.01 % in a run.",
    ),
    "ledger": (
        "Ledger",
        "Every departure from a standard tolerance and every accepted baseline, with reason, author, date, link and "
        "expiry. No entry loosens an absolute allowance.",
    ),
    "component": (
        "Component",
        "A PyTorch module and its MLX port under one name, put to the same cases.",
    ),
    "profile": (
        "Profile",
        "A choice of every knob of the computation. Reference and port are always compared under the same profile.",
    ),
    "rung": (
        "Rung",
        "A precision. f64 asks whether the port means the same; f32, bf16 and f16 ask whether it is as accurate "
        "as the format allows.",
    ),
    "tensor": (
        "Tensor (layer)",
        "A named intermediate, the output of one submodule's call, an output of the component, or the gradient of an "
        "input or a parameter. Names are the checkpoint's; #2 is a second call.",
    ),
    "truth": (
        "Truth",
        "The reference in float64 on the same numbers, computed twice and required to be equal bit for bit.",
    ),
    "allowance": (
        "Allowance",
        "allowed = C u g(shape) S(data): what faithful arithmetic makes at this tensor, conditioning included, "
        "times a constant with a derivation. No number is picked by hand.",
    ),
    "ratio": (
        "Error / allowed",
        "The largest error over its allowance, over all gates and cases. Above 1 is a failure.",
    ),
    "headroom": (
        "Headroom",
        "-log2 of error / allowed: how many bits the error may still grow. Below 0 the tensor fails.",
    ),
    "rel_l2": (
        "Error (rel L2)",
        "Norm of the error against the float64 truth, over the norm of the truth.",
    ),
    "port_error": (
        "Port error",
        "rel L2 of the port against the truth, in its worst case.",
    ),
    "reference_error": (
        "Reference error",
        "rel L2 of the PyTorch reference at the same rung against the truth. At f64 the reference is the truth: 0.",
    ),
    "port_over_reference": (
        "Port / reference",
        "Error of the port over that of the reference, both at least the error of rounding the truth. 2 is one "
        "bit lost.",
    ),
    "ulp": (
        "ULP",
        "Unit in the last place: the spacing of the format's numbers at the true value. A correctly rounded "
        "result errs by at most 1/2.",
    ),
    "correctly_rounded": (
        "Correctly rounded",
        "Share of elements that equal the truth rounded to the format.",
    ),
    "u": (
        "u",
        "Unit roundoff of a format: 2^-53, 2^-24, 2^-8 and 2^-11 for f64, f32, bf16 and f16.",
    ),
    "predicted": (
        "Predicted error",
        "The float64 reference is run with every operation's inputs perturbed by that operation's own error "
        "model; what arrives at the output is what faithful arithmetic makes there.",
    ),
    "growth": (
        "Theoretical growth",
        "How rounding errors grow with the length n: with the square root of log2(2n) in a transform, with the "
        "square root of n in a sum of n terms one after the other. The guides show the shape, laid through the "
        "prediction at the shortest length.",
    ),
    "kappa": (
        "Kappa",
        "Conditioning: mean relative response of the truth to relative jitter of all weights and inputs. It "
        "amplifies every rounding.",
    ),
    "parity": (
        "Parity",
        "The port against the reference under one profile.",
    ),
    "fidelity": (
        "Fidelity",
        "How far a profile's meaning lies from the published one: rel L2 between the two float64 references. 0 is "
        "the published meaning.",
    ),
    "stratum": (
        "Stratum",
        "Component, profile, rung, length class and input family held fixed while cases vary. In each one the "
        "upper confidence bound of the mean number of bits lost must be within the margin.",
    ),
    "bits_lost": (
        "Bits lost",
        "log2 of the port's error over the reference's, averaged over the cases of a stratum; the bound is the "
        "upper 99.9 % confidence bound of that mean.",
    ),
    "case": (
        "Case",
        "One question: sizes and switches, an input family, a scale and a seed. All its arrays follow from these.",
    ),
    "first_bad": (
        "First bad tensor",
        "The first failing tensor in execution order: what fails after it may only inherit.",
    ),
    "meaning": (
        "Kind of failure",
        "Rounding, a precision leak (a step made in float32), or a different meaning, from the port's own errors "
        "at f64 and f32.",
    ),
    "own": (
        "Own error",
        "rel L2 of the port's module run on the reference's inputs: nothing is handed down.",
    ),
    "inherited": (
        "Inherited error",
        "rel L2 error of what the module was given in the port's own run.",
    ),
    "gain": (
        "Gain",
        "Relative change of a module's outputs over the relative change of its inputs.",
    ),
    "total": (
        "Total error",
        "rel L2 error of what the module gave out in the port's own run.",
    ),
    "culprit": (
        "Culprit",
        "A module whose own error exceeds its allowance while that of none of its parts does; wiring, where all "
        "its parts agree.",
    ),
    "bits": (
        "Measured mantissa bits",
        "-log2 of an operation's error against exact arithmetic, at most the digits of the format (53, 24, 11, "
        "8). A float64 that is really float32 shows 24.",
    ),
    "fingerprint": (
        "Fingerprint",
        "Digest of everything about machine and libraries that can change a bit of a result.",
    ),
    "noise": (
        "Beyond noise",
        "Significant at a family-wise error of 1 % (Holm) over all strata that were tested: two runs of the same "
        "code show such a row in fewer than one comparison in a hundred.",
    ),
    "change": (
        "Change",
        "Mean of log2(error of B / error of A) in bits: +1 means that B errs twice as much. Beside it its 95 % "
        "confidence interval.",
    ),
    "p_value": (
        "Adjusted p",
        "Probability of a change at least as large where there is none, multiplied as Holm's method asks for the "
        "number of strata tested.",
    ),
}
"""Title and explanation, by the name under which a template asks for it."""

FAILED_WORDS: Final = {
    "exact": "First bad output of integers or booleans, where floats are right",
    "gradient": "First bad gradient, where values are right",
    "special": "Output in which NaN or infinities are misplaced, where numbers are right",
    "stratum": "Less accurate than the reference",
}
"""What stands before the name of what failed, where it is no tensor."""
