"""The rows of the zoo: configurations, and for every red one its cause and its remedy.

Line numbers are those of mlx-lm 0.32.2, fields those of transformers 5.23.0. What most red rows share: since release 5
transformers keeps `rope_theta`, `partial_rotary_factor` and the scaling of rotary angles in one field,
`rope_parameters`. `ModelArgs.from_dict` drops fields that a port does not declare, so a port that does not read
`rope_parameters` takes its own default instead, or refuses where it has none. A port whose default is the reference's
own is green until a checkpoint sets another value: rows called 'rope_theta' show which of them carry it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import mlx.core as mx
import mlx.nn as mlx_nn
import numpy as np

from parity.backends.convert import mlx_from_numpy
from parity.suites.zoo_sides import Architecture, Red, Remedy, Weights, windowed, without_biases

_SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_GPT_SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_STATE_SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
}
_FALCON_H1: Final[Mapping[str, Any]] = {
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}
_MAMBA2_SIZES: Final[Mapping[str, Any]] = {
    **_STATE_SIZES,
    "num_heads": 8,
    "head_dim": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "tie_word_embeddings": False,
}
_EXPERTS: Final[Mapping[str, Any]] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LFM2_LAYERS: Final = ["conv", "full_attention", "conv", "full_attention"]
KEY_MULTIPLIER: Final = 0.4
"""Factor on the keys of the row called 'key_multiplier'."""
ATTENTION_MULTIPLIER: Final = 1.6
"""Factor on what attention is given, in the row called 'attention_in_multiplier'."""
WINDOW: Final = 5
"""Sliding window, shorter than the sequence so that it is seen."""
CLIP: Final = 0.5
"""Largest query, key and value of the row that clips them."""
THETA: Final = 500000.0
"""Base of the rotary angles in the rows called 'rope_theta': no port's default."""


def _sizes(**others: Any) -> dict[str, Any]:
    return {**_SIZES, **others}


def _rope(theta: float = THETA, **others: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **others}


# --- causes ---------------------------------------------------------------------------------------------------------


def _dropped(source: str, own: str, **fields: Any) -> Red:
    """A field that lies in `rope_parameters`, where the port does not look, so that it takes its `own` default."""
    wanted = " and ".join(f"{name} = {value}" for name, value in fields.items())
    cause = f"the configuration says {wanted} inside rope_parameters, which the port does not read: it takes {own}"
    return Red(("self_attn.rope",), "field not carried", cause, f"{source}; rope_parameters", Remedy(fields))


def _required(source: str, why: str, **fields: Any) -> Red:
    """A field that the port demands and the configuration of today calls something else, or not at all."""
    return Red((), "field required", f"no module is built: {why}", source, Remedy(fields))


def _required_rope(source: str, **fields: Any) -> Red:
    names = " and ".join(fields)
    return _required(
        f"{source}; rope_parameters", f"{names} lie in rope_parameters, which the port does not read", **fields
    )


def _tanh_gelu(source: str, default: str, culprits: tuple[str, ...] = ("mlp",), **fields: Any) -> Red:
    return Red(
        culprits,
        "defect",
        f"the activation is hard-wired to the exact GELU; the configuration says gelu_pytorch_tanh{default}",
        source,
        Remedy(fields=fields, names={"mlx.nn.gelu": "gelu_approx"}),
    )


def _slide_every_layer(model: Any) -> None:
    for layer in model.layers:
        layer.use_sliding = True
    model.model.swa_idx = 0


def _window_every_layer(model: Any) -> None:
    for layer in model.layers:
        windowed(layer, WINDOW)


def _slide_even_layers(model: Any) -> None:
    for layer in model.layers[::2]:
        windowed(layer, WINDOW)


def _no_window(source: str) -> Red:
    return Red(
        ("self_attn",),
        "defect",
        "every layer has a sliding window, which the port does not know: its mask is causal and nothing more. "
        "Sequences of up to sliding_window tokens do not show it",
        f"{source}; sliding_window",
        Remedy(repair=_window_every_layer),
    )


def _turn_half(model: Any) -> None:
    for layer in model.layers:
        attention = layer.self_attn
        attention.rope = mlx_nn.RoPE(attention.head_dim // 2, traditional=True, base=10000.0)


def _drop_biases(model: Any) -> None:
    without_biases(model, "q_proj", "k_proj", "v_proj", "o_proj", "lm_head")


def _experts_as_linear(weights: Weights) -> Weights:
    """Name and lay out experts as layers: (experts, out, in), `.weight`."""
    return {
        f"{name}.weight" if name.endswith("_proj") else name: (
            mx.swapaxes(value, -1, -2) if name.endswith("_proj") else value
        )
        for name, value in weights.items()
    }


def _divide_by_layer(model: Any) -> None:
    for place, layer in enumerate(model.layers, start=1):
        layer.attn.scale /= place


def _clip_projections(model: Any) -> None:
    """Clip what comes from the norms of queries and keys, and from the projection of values."""
    for layer in model.layers:
        attention = layer.self_attn
        for part in (attention.q_norm, attention.k_norm, attention.v_proj):
            _clip(part)


def _clip(part: Any) -> None:
    class Clipped(type(part)):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            return mx.clip(super().__call__(x), -CLIP, CLIP)

    part.__class__ = Clipped


def _norm_of_chosen(model: Any) -> None:
    """Divide what the chosen experts answer by the sum of their probabilities."""
    for layer in model.layers:
        block = layer.mlp

        class Normed(type(block)):  # type: ignore[misc]
            def __call__(self, x: mx.array) -> mx.array:
                shared = mx.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)
                probabilities = mx.sort(mx.softmax(self.gate(x), axis=-1), axis=-1)
                chosen = mx.sum(probabilities[..., -self.top_k :], axis=-1, keepdims=True)
                return (super().__call__(x) - shared) / chosen + shared

        block.__class__ = Normed


def _scale_keys(weights: Weights) -> Weights:
    return {
        name: value * KEY_MULTIPLIER if name.endswith("k_proj.weight") else value for name, value in weights.items()
    }


def _scale_values(weights: Weights) -> Weights:
    return {
        name: value * ATTENTION_MULTIPLIER if name.endswith("v_proj.weight") else value
        for name, value in weights.items()
    }


def _without_transformer(weights: Weights) -> Weights:
    return {name.removeprefix("transformer."): value for name, value in weights.items()}


_UNQUANTISED: Final = (
    "experts that are not quantised are laid out (experts, in, out) and have no .weight in their name, where sanitize "
    "knows only quantised blocks and splits gate from up along the wrong axis"
)
_UNQUANTISED_SOURCE: Final = "gpt_oss.py:226 to 244; GptOssExperts.gate_up_proj"
_YARN: Final[Mapping[str, Any]] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _interpolate_between(model: Any) -> None:
    """Wavelengths of yarn whose range of interpolation is not rounded to whole features."""
    for layer in model.layers:
        rope, base, factor, length = layer.self_attn.rope, 150000.0, 32.0, 4096
        turns = np.array([32.0, 1.0])
        low, high = rope.dims * np.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))
        ramp = np.clip((np.arange(rope.dims // 2) - low) / (high - low), 0, 1)
        plain = base ** (np.arange(0, rope.dims, 2) / rope.dims)
        rope._freqs = mlx_from_numpy(1 / (ramp / (factor * plain) + (1 - ramp) / plain), "float64")


def _norm_by_group(model: Any) -> None:
    class Grouped(type(model.layers[0].mixer.norm)):  # type: ignore[misc]
        def __call__(self, hidden_states: mx.array, gate: mx.array) -> mx.array:
            x = mlx_nn.silu(gate) * hidden_states
            groups = x.reshape(*x.shape[:-1], 2, -1)
            return mx.fast.rms_norm(groups, None, self.eps).reshape(x.shape) * self.weight

    for layer in model.layers:
        layer.mixer.norm.__class__ = Grouped


def _norm_epsilon(model: Any) -> None:
    for layer in model.layers:
        layer.norm.eps = 1e-2


def _norm_epsilons(model: Any) -> None:
    _norm_epsilon(model)
    model.backbone.norm_f.eps = 1e-2


def _gpt_oss_sizes(**others: Any) -> dict[str, Any]:
    return _sizes(
        num_hidden_layers=4, head_dim=8, num_local_experts=6, num_experts_per_tok=2, sliding_window=WINDOW, **others
    )


# --- rows -----------------------------------------------------------------------------------------------------------


ARCHITECTURES: Final[tuple[Architecture, ...]] = (
    Architecture("llama", "Llama", _sizes(), "llama"),
    Architecture(
        "llama, rope_theta",
        "Llama",
        _sizes(rope_parameters=_rope()),
        "llama",
        _dropped("llama.py:30", "10000", rope_theta=THETA),
    ),
    Architecture(
        "llama, llama3 angles",
        "Llama",
        _sizes(
            rope_parameters=_rope(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            )
        ),
        "llama",
        _dropped(
            "llama.py:30 and 32",
            "10000, unscaled",
            rope_theta=THETA,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
    ),
    Architecture(
        "qwen2",
        "Qwen2",
        _sizes(),
        "qwen2",
        _dropped("qwen2.py:27", "1000000", rope_theta=10000.0),
    ),
    Architecture(
        "qwen2, 64 wide",
        "Qwen2",
        _sizes(hidden_size=64, intermediate_size=128, num_hidden_layers=2),
        "qwen2",
        _dropped("qwen2.py:27", "1000000", rope_theta=10000.0),
    ),
    Architecture("qwen3", "Qwen3", _sizes(head_dim=8), "qwen3"),
    Architecture("qwen3, rope_theta", "Qwen3", _sizes(head_dim=8, rope_parameters=_rope()), "qwen3"),
    Architecture("olmo2", "Olmo2", _sizes(), "olmo2"),
    Architecture(
        "olmo2, rope_theta",
        "Olmo2",
        _sizes(rope_parameters=_rope()),
        "olmo2",
        _dropped("olmo2.py:28", "10000", rope_theta=THETA),
    ),
    Architecture(
        "olmo3",
        "Olmo3",
        _sizes(num_hidden_layers=4, sliding_window=WINDOW),
        "olmo3",
        _required_rope("olmo3.py:26", rope_theta=500000.0),
    ),
    Architecture("phi3", "Phi3", _sizes(), "phi3"),
    Architecture(
        "phi3, rope_theta",
        "Phi3",
        _sizes(rope_parameters=_rope()),
        "phi3",
        _dropped("phi3.py:24", "10000", rope_theta=THETA),
    ),
    Architecture("phi3, window", "Phi3", _sizes(sliding_window=WINDOW), "phi3", _no_window("phi3.py:182")),
    Architecture(
        "phi",
        "Phi",
        _sizes(),
        "phi",
        _dropped("phi.py:21 and 63", "0.4, hence 3 features, which rope refuses", partial_rotary_factor=0.5),
    ),
    Architecture(
        "gemma",
        "Gemma",
        _sizes(head_dim=8, tie_word_embeddings=True),
        "gemma",
        _tanh_gelu("gemma.py:98; hidden_act", ", and calls 'gelu' a legacy name of it"),
    ),
    Architecture("gemma2", "Gemma2", _sizes(head_dim=8, tie_word_embeddings=True, query_pre_attn_scalar=8), "gemma2"),
    Architecture(
        "gemma2, window",
        "Gemma2",
        _sizes(head_dim=8, tie_word_embeddings=True, query_pre_attn_scalar=8, sliding_window=WINDOW),
        "gemma2",
        Red(
            ("layers.0.self_attn", "layers.2.self_attn"),
            "defect",
            "every second layer has a sliding window, which the port does not know: all layers share one causal mask. "
            "Sequences of up to sliding_window (4096) tokens do not show it",
            "gemma2.py:176; sliding_window, layer_types",
            Remedy(repair=_slide_even_layers),
        ),
    ),
    Architecture(
        "gemma3_text",
        "Gemma3",
        _sizes(
            num_hidden_layers=6,
            head_dim=8,
            tie_word_embeddings=True,
            query_pre_attn_scalar=8,
            sliding_window=WINDOW,
        ),
        "gemma3_text",
        Red(
            ("model",),
            "defect",
            "the factor sqrt(hidden_size) on the embeddings is rounded to bfloat16 whatever the weights' dtype, "
            "5.65625 for 5.65685; the reference rounds it to the weights' dtype. A hidden size that is a power "
            "of 4, or weights in bfloat16, do not show it",
            "gemma3_text.py:190; Gemma3TextScaledWordEmbedding",
            Remedy(names={"mlx.core.bfloat16": "float32"}),
        ),
        configuration="Gemma3TextConfig",
    ),
    Architecture("mistral", "Mistral", _sizes(sliding_window=None), "llama"),
    Architecture(
        "mistral, window",
        "Mistral",
        _sizes(sliding_window=WINDOW),
        "llama",
        Red(
            ("self_attn",),
            "field not carried",
            "every layer has a sliding window; the port takes the window and slides only layers that layer_types "
            "names, a field that a Mistral configuration does not have",
            "llama.py:42 and 162, utils.py:49; sliding_window",
            Remedy(repair=_slide_every_layer),
        ),
    ),
    Architecture("ministral3", "Ministral3", _sizes(head_dim=8), "ministral3"),
    Architecture("seed_oss", "SeedOss", _sizes(head_dim=8), "seed_oss"),
    Architecture("hunyuan_v1_dense", "HunYuanDenseV1", _sizes(head_dim=8), "hunyuan_v1_dense"),
    Architecture("nemotron", "Nemotron", _sizes(), "nemotron"),
    Architecture(
        "nemotron, rope_theta",
        "Nemotron",
        _sizes(rope_parameters=_rope(partial_rotary_factor=0.5)),
        "nemotron",
        _dropped("nemotron.py:29", "10000", rope_theta=THETA),
    ),
    Architecture(
        "cohere",
        "Cohere",
        _sizes(tie_word_embeddings=True),
        "cohere",
        _dropped("cohere.py:21", "8000000", rope_theta=500000.0),
    ),
    Architecture(
        "cohere2",
        "Cohere2",
        _sizes(num_hidden_layers=4, head_dim=8, tie_word_embeddings=True, sliding_window=WINDOW),
        "cohere2",
        _dropped("cohere2.py:23", "50000", rope_theta=10000.0),
    ),
    Architecture(
        "smollm3",
        "SmolLM3",
        _sizes(num_hidden_layers=4),
        "smollm3",
        _dropped("smollm3.py:13, llama.py:30", "10000", rope_theta=2000000.0),
    ),
    Architecture(
        "starcoder2",
        "Starcoder2",
        _sizes(),
        "starcoder2",
        _tanh_gelu(
            "starcoder2.py:82 and 22; hidden_act, rope_parameters",
            ", and rope_theta = 10000 inside rope_parameters, where the port takes 100000",
            culprits=("mlp", "self_attn.rope"),
            rope_theta=10000.0,
        ),
    ),
    Architecture(
        "glm",
        "Glm",
        _sizes(head_dim=8),
        "glm",
        Red(
            ("self_attn.rope",),
            "defect",
            "all features of a head are turned where the configuration says partial_rotary_factor = 0.5: the port has "
            "no such field. glm4.py has",
            "glm.py:58; rope_parameters",
            Remedy(repair=_turn_half),
        ),
    ),
    Architecture(
        "glm4",
        "Glm4",
        _sizes(head_dim=8),
        "glm4",
        _required_rope("glm4.py:25 and 26", rope_theta=10000.0, partial_rotary_factor=0.5),
    ),
    Architecture(
        "granite",
        "Granite",
        _sizes(embedding_multiplier=1.5, logits_scaling=2.0, residual_multiplier=0.7, attention_multiplier=0.3),
        "granite",
        _required_rope("granite.py:31", rope_theta=10000.0),
    ),
    Architecture("helium", "Helium", _sizes(head_dim=8), "helium", _required_rope("helium.py:27", rope_theta=100000.0)),
    Architecture(
        "ernie4_5", "Ernie4_5", _sizes(head_dim=8), "ernie4_5", _required_rope("ernie4_5.py:26", rope_theta=500000.0)
    ),
    Architecture(
        "stablelm",
        "StableLm",
        _sizes(),
        "stablelm",
        _required_rope("stablelm.py:22 and 24", rope_theta=10000.0, partial_rotary_factor=0.25),
    ),
    Architecture(
        "exaone4",
        "Exaone4",
        _sizes(num_hidden_layers=4, head_dim=8, sliding_window=WINDOW, sliding_window_pattern=4),
        "exaone4",
        _required(
            "exaone4.py:26, 29 and 145; rope_parameters, sliding_window_pattern",
            "rope_theta lies in rope_parameters, and sliding_window_pattern is 4 where the port asks for 'LLLG'",
            rope_theta=10000.0,
            rope_scaling=None,
            sliding_window_pattern="LLLG",
        ),
    ),
    Architecture(
        "apertus",
        "Apertus",
        _sizes(),
        "apertus",
        Red(
            ("self_attn.rope",),
            "field required",
            "rope_theta lies in rope_parameters; mlp_bias, post_norm and qk_norm are fields that the reference lacks. "
            "Given them, it turns by unscaled angles: the scaling that the configuration says by default lies in "
            "rope_parameters too, and rope_scaling is optional",
            "apertus.py:20 to 29; rope_parameters",
            Remedy(
                {
                    "mlp_bias": False,
                    "post_norm": False,
                    "qk_norm": True,
                    "rope_theta": 12000000.0,
                    "rope_scaling": {
                        "rope_type": "llama3",
                        "factor": 8.0,
                        "original_max_position_embeddings": 8192,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0,
                    },
                }
            ),
        ),
    ),
    Architecture(
        "gpt2",
        "GPT2",
        _GPT_SIZES,
        "gpt2",
        Red(
            (),
            "field required",
            "n_ctx is gone, and n_positions says the same. Beyond that, a checkpoint saved today calls its weights "
            "'transformer.h.0...', which sanitize does not know: it takes 'h.0...', as in the first release",
            "gpt2.py:15 and 173 to 193; n_positions, base_model_prefix",
            Remedy(fields={"n_ctx": 64}, weights=_without_transformer),
        ),
        model="GPT2LMHeadModel",
        renamed={"transformer": "model"},
    ),
    Architecture(
        "gpt2, scaled by layer",
        "GPT2",
        {**_GPT_SIZES, "scale_attn_by_inverse_layer_idx": True},
        "gpt2",
        Red(
            ("h.1.attn", "h.2.attn"),
            "field not carried",
            "scale_attn_by_inverse_layer_idx is not a field of the port: scores are not divided by the number of the "
            "layer. Beyond that, n_ctx and the weights' names, as above",
            "gpt2.py:39; scale_attn_by_inverse_layer_idx",
            Remedy(fields={"n_ctx": 64}, repair=_divide_by_layer, weights=_without_transformer),
        ),
        model="GPT2LMHeadModel",
        renamed={"transformer": "model"},
    ),
    Architecture(
        "gpt_neox",
        "GPTNeoX",
        {**{name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}, "intermediate_size": 128},
        "gpt_neox",
        Red(
            ("mlp",),
            "field required",
            "rotary_emb_base and rotary_pct lie in rope_parameters, as rope_theta and partial_rotary_factor. Given "
            "them, it uses GELU's tanh approximation where the configuration says gelu, which is exact",
            "gpt_neox.py:24, 25 and 100; rope_parameters, hidden_act",
            Remedy(fields={"rotary_emb_base": 10000, "rotary_pct": 0.25}, names={"mlx.nn.gelu_approx": "gelu"}),
        ),
        renamed={"gpt_neox": "model", "layers": "h"},
    ),
    Architecture(
        "gpt_bigcode",
        "GPTBigCode",
        _GPT_SIZES,
        "gpt_bigcode",
        Red(
            ("mlp",),
            "field required",
            "n_inner = None stands for 4 n_embd; the port takes it for a size. Given one, it uses the exact GELU where "
            "the configuration says gelu_pytorch_tanh",
            "gpt_bigcode.py:18, 89 and 99; n_inner, activation_function",
            Remedy(fields={"n_inner": 128}, names={"mlx.nn.gelu": "gelu_approx"}),
        ),
    ),
    Architecture("mamba", "Mamba", {**_STATE_SIZES, "tie_word_embeddings": True}, "mamba"),
    Architecture(
        "mamba, epsilon",
        "Mamba",
        {**_STATE_SIZES, "tie_word_embeddings": True, "layer_norm_epsilon": 1e-2},
        "mamba",
        Red(
            ("norm", "norm_f"),
            "field not carried",
            "layer_norm_epsilon is not a field of the port: all norms keep the 1e-5 of nn.RMSNorm",
            "mamba.py:163 and 174; layer_norm_epsilon",
            Remedy(repair=_norm_epsilons),
        ),
    ),
    Architecture("falcon_mamba", "FalconMamba", {**_STATE_SIZES, "tie_word_embeddings": True}, "mamba"),
    Architecture(
        "mamba2",
        "Mamba2",
        _MAMBA2_SIZES,
        "mamba2",
        _required(
            "mamba2.py:23 and 64; expand",
            "intermediate_size is demanded and never used; the reference has expand and hidden_size instead",
            intermediate_size=64,
        ),
    ),
    Architecture(
        "mamba2, two groups",
        "Mamba2",
        {**_MAMBA2_SIZES, "n_groups": 2},
        "mamba2",
        Red(
            ("mixer.norm",),
            "defect",
            "the gated norm takes its mean square over all features, the reference over those of each of n_groups "
            "groups; and intermediate_size is demanded, as above",
            "mamba2.py:50 to 53; n_groups",
            Remedy(fields={"intermediate_size": 64}, repair=_norm_by_group),
        ),
    ),
    Architecture(
        "mamba2, epsilon",
        "Mamba2",
        {**_MAMBA2_SIZES, "layer_norm_epsilon": 1e-2},
        "mamba2",
        Red(
            ("norm",),
            "field not carried",
            "layer_norm_epsilon reaches the gated norms alone; the norm before every mixer keeps the 1e-5 of "
            "nn.RMSNorm, and intermediate_size is demanded, as above",
            "mamba2.py:200; layer_norm_epsilon",
            Remedy(fields={"intermediate_size": 64}, repair=_norm_epsilon),
        ),
    ),
    Architecture(
        "falcon_h1",
        "FalconH1",
        _sizes(**_FALCON_H1),
        "falcon_h1",
        _dropped("falcon_h1.py:60", "100000000000", rope_theta=10000.0),
    ),
    Architecture(
        "falcon_h1, key_multiplier",
        "FalconH1",
        _sizes(key_multiplier=KEY_MULTIPLIER, rope_parameters=_rope(100000000000.0), **_FALCON_H1),
        "falcon_h1",
        Red(
            ("self_attn",),
            "defect",
            "sanitize folds key_multiplier into weights called key_proj, and there are none: they are called k_proj",
            "falcon_h1.py:472 to 475; key_multiplier",
            Remedy(weights=_scale_keys),
        ),
    ),
    Architecture(
        "falcon_h1, attention_in_multiplier",
        "FalconH1",
        _sizes(attention_in_multiplier=ATTENTION_MULTIPLIER, rope_parameters=_rope(100000000000.0), **_FALCON_H1),
        "falcon_h1",
        Red(
            ("layers.0", "layers.1", "layers.2"),
            "defect",
            "sanitize folds attention_in_multiplier into the weights of queries and keys and forgets the values'",
            "falcon_h1.py:472 to 473; attention_in_multiplier",
            Remedy(weights=_scale_values),
        ),
    ),
    Architecture(
        "jamba",
        "Jamba",
        _sizes(
            num_hidden_layers=4,
            num_experts=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
        ),
        "jamba",
    ),
    Architecture(
        "lfm2",
        "Lfm2",
        _sizes(num_hidden_layers=4, layer_types=_LFM2_LAYERS, block_auto_adjust_ff_dim=False, tie_word_embeddings=True),
        "lfm2",
        _required("lfm2.py:31 and 215; hidden_size", "block_dim is gone; hidden_size says the same", block_dim=32),
    ),
    Architecture(
        "lfm2_moe",
        "Lfm2Moe",
        _sizes(num_hidden_layers=4, layer_types=_LFM2_LAYERS, num_dense_layers=1, tie_word_embeddings=True, **_EXPERTS),
        "lfm2_moe",
    ),
    Architecture("mixtral", "Mixtral", _sizes(num_local_experts=6), "mixtral", renamed={"mlp": "block_sparse_moe"}),
    Architecture(
        "mixtral, window",
        "Mixtral",
        _sizes(num_local_experts=6, sliding_window=WINDOW),
        "mixtral",
        _no_window("mixtral.py:176"),
        renamed={"mlp": "block_sparse_moe"},
    ),
    Architecture(
        "qwen2_moe",
        "Qwen2Moe",
        _sizes(shared_expert_intermediate_size=24, **_EXPERTS),
        "qwen2_moe",
        _dropped("qwen2_moe.py:28", "1000000", rope_theta=10000.0),
    ),
    Architecture(
        "qwen2_moe, norm_topk_prob",
        "Qwen2Moe",
        _sizes(shared_expert_intermediate_size=24, norm_topk_prob=True, rope_parameters=_rope(1000000.0), **_EXPERTS),
        "qwen2_moe",
        Red(
            ("mlp",),
            "field not carried",
            "norm_topk_prob is not a field of the port: the probabilities of the chosen experts are never divided by "
            "their sum. qwen3_moe.py does",
            "qwen2_moe.py:135 to 138; norm_topk_prob",
            Remedy(repair=_norm_of_chosen),
        ),
    ),
    Architecture(
        "qwen3_moe",
        "Qwen3Moe",
        _sizes(head_dim=8, **_EXPERTS),
        "qwen3_moe",
        _required(
            "qwen3_moe.py:23 and 32; num_local_experts, rope_parameters",
            "num_experts is written as num_local_experts, and rope_theta lies in rope_parameters",
            num_experts=6,
            rope_theta=10000.0,
        ),
    ),
    Architecture("olmoe", "Olmoe", _sizes(num_experts=6, num_experts_per_tok=2), "olmoe"),
    Architecture(
        "olmoe, clip_qkv",
        "Olmoe",
        _sizes(num_experts=6, num_experts_per_tok=2, clip_qkv=CLIP),
        "olmoe",
        Red(
            ("self_attn",),
            "field not carried",
            "clip_qkv is not a field of the port: queries, keys and values are not clipped",
            "olmoe.py:77 and 78; clip_qkv",
            Remedy(repair=_clip_projections),
        ),
    ),
    Architecture(
        "granitemoe",
        "GraniteMoe",
        _sizes(num_local_experts=6, num_experts_per_tok=2),
        "granitemoe",
        _required_rope("granitemoe.py:30", rope_theta=10000.0),
    ),
    Architecture(
        "phimoe",
        "Phimoe",
        _sizes(num_local_experts=6, attention_bias=True, lm_head_bias=True),
        "phimoe",
        _dropped("phimoe.py:29", "10000", rope_theta=1000000.0),
    ),
    Architecture(
        "phimoe, no biases",
        "Phimoe",
        _sizes(num_local_experts=6),
        "phimoe",
        Red(
            ("self_attn.rope",),
            "defect",
            "attention and head have biases whatever attention_bias and lm_head_bias say, so strict loading misses "
            "them; rope_theta = 1000000 lies in rope_parameters",
            "phimoe.py:44 to 47, 206 and 29; attention_bias, lm_head_bias",
            Remedy(fields={"rope_theta": 1000000.0}, repair=_drop_biases),
        ),
    ),
    Architecture(
        "dots1",
        "Dots1",
        _sizes(
            head_dim=8,
            n_routed_experts=6,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            n_group=1,
            topk_group=1,
            n_shared_experts=1,
            first_k_dense_replace=1,
        ),
        "dots1",
        _required_rope("dots1.py:32", rope_theta=10000.0),
    ),
    Architecture(
        "gpt_oss",
        "GptOss",
        _gpt_oss_sizes(rope_parameters=_rope(150000.0)),
        "gpt_oss",
        Red((), "weights not carried", _UNQUANTISED, _UNQUANTISED_SOURCE, Remedy(weights=_experts_as_linear)),
    ),
    Architecture(
        "gpt_oss, yarn",
        "GptOss",
        _gpt_oss_sizes(),
        "gpt_oss",
        Red(
            ("self_attn.rope",),
            "defect",
            "the range of features that are interpolated is rounded to whole ones whatever the configuration says: "
            "truncate = False, the model's default, is not known. Beyond that, the angles' scaling lies in "
            f"rope_parameters, which the port does not read; and {_UNQUANTISED}",
            f"rope_utils.py:151 and 152, gpt_oss.py:33; rope_parameters. {_UNQUANTISED_SOURCE}",
            Remedy(fields={"rope_scaling": _YARN}, repair=_interpolate_between, weights=_experts_as_linear),
        ),
    ),
    Architecture(
        "qwen3_next",
        "Qwen3Next",
        _sizes(
            num_hidden_layers=4,
            head_dim=8,
            shared_expert_intermediate_size=24,
            linear_conv_kernel_dim=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            **_EXPERTS,
        ),
        "qwen3_next",
        _required_rope("qwen3_next.py:47 and 48", rope_theta=10000.0, partial_rotary_factor=0.25),
    ),
)
"""Every architecture on show."""


def named(*names: str) -> list[Architecture]:
    """Return the rows of these names, in their order.

    Raises:
        KeyError: There is no such row.
    """
    rows = {architecture.name: architecture for architecture in ARCHITECTURES}
    return [rows[name] for name in names]
