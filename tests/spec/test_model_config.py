"""A model configuration holds known keys with possible values, and each of them is read or known to be neutral."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import pydantic
import pytest

from parity.errors import ConfigError
from parity.spec.config import OUTPUT_ONLY, TRAINING_ONLY, ModelConfig

ROOT: Final = Path(__file__).parents[2]

# The configuration in the metadata of the golden files `layer_*`, `mlp_*`, `masked_lm_*` and so on, all of one form.
GOLDEN_CONFIG: Final[dict[str, Any]] = {
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 16,
    "monarch_mixer_sequence_mixing": True,
    "long_conv_l_max": 16,
    "long_conv_kernel_learning_rate": 0.001,
    "hyena_lr_pos_emb": 1e-05,
    "hyena_w": 10,
    "hyena_w_mod": 1,
    "hyena_wd": 0.1,
    "hyena_emb_dim": 5,
    "hyena_filter_order": 12,
    "bidirectional": True,
    "residual_long_conv": True,
    "use_glu_mlp": True,
    "use_monarch_mlp": True,
    "monarch_mlp_nblocks": 4,
    "use_positional_encodings": True,
    "vocab_size": 40,
    "hidden_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "hidden_size": 24,
    "intermediate_size": 96,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hyena_training_additions": False,
    "hyena_filter_dropout": 0.2,
    "pool_all": False,
    "num_labels": 3,
    "use_cls_token": False,
    "sequence_token_planting": False,
    "expand_positional_embeddings": False,
    "gather_sentence_embeddings": False,
    "use_normalized_embeddings": False,
    "attention_pooling": False,
}
FIELDS: Final = tuple(ModelConfig.model_fields)


def test_every_key_of_the_golden_files_is_known_and_kept() -> None:
    config = ModelConfig.parse(GOLDEN_CONFIG)
    assert {key: getattr(config, key) for key in GOLDEN_CONFIG} == GOLDEN_CONFIG


@pytest.mark.parametrize("key", GOLDEN_CONFIG)
def test_a_golden_key_misspelt_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"some file: unknown key '{key}x'; allowed: vocab_size, .*{key}"):
        ModelConfig.parse({**GOLDEN_CONFIG, f"{key}x": GOLDEN_CONFIG[key]}, source="some file")


def test_every_public_checkpoints_configuration_is_accepted() -> None:
    manifests = json.loads((ROOT / "tests/data/m2_bert_checkpoints.json").read_text(encoding="utf-8"))
    assert len([ModelConfig.parse(manifest["config"]) for manifest in manifests.values()]) == 7


def test_the_defaults_are_the_published_80m_model() -> None:
    manifests = json.loads((ROOT / "tests/data/m2_bert_checkpoints.json").read_text(encoding="utf-8"))
    assert ModelConfig.parse(manifests["m2-bert-80m"]["config"]) == ModelConfig()


MISTAKES: Final = {
    "unknown key": ({"hidden_sizes": 3}, "unknown key 'hidden_sizes'; allowed: vocab_size, .*hidden_size"),
    "even embedding": ({"hyena_emb_dim": 4}, "hyena_emb_dim must be odd.*got 4"),
    "embedding without a band": (
        {"hyena_emb_dim": 1},
        "hyena_emb_dim = 1 is not allowed: .*greater than or equal to 3",
    ),
    "padding beyond the vocabulary": (
        {"vocab_size": 9, "pad_token_id": 9},
        r"pad_token_id must lie in \[0, 9\); got 9",
    ),
    "negative padding": ({"pad_token_id": -1}, "pad_token_id must lie in.*got -1"),
    "text for a size": ({"hidden_size": "768"}, "hidden_size = '768' is not allowed: .*valid integer"),
    "fraction for a size": ({"hidden_size": 768.5}, "hidden_size = 768.5 is not allowed: .*valid integer"),
    "switch for a size": ({"hidden_size": True}, "hidden_size = True is not allowed: .*valid integer"),
    "integer for a switch": ({"bidirectional": 1}, "bidirectional = 1 is not allowed: .*valid boolean"),
    "size zero": ({"hidden_size": 0}, "hidden_size = 0 is not allowed: .*greater than or equal to 1"),
    "other activation": ({"hidden_act": "relu"}, "hidden_act = 'relu' is not allowed: .*'gelu'"),
    "no mixing": ({"monarch_mixer_sequence_mixing": False}, "monarch_mixer_sequence_mixing = False is not .*: .*true"),
    "token planting": ({"sequence_token_planting": True}, "sequence_token_planting = True is not allowed: .*false"),
    "expanded positions": ({"expand_positional_embeddings": True}, "expand_positional_embeddings = True .*: .*false"),
    "epsilon zero": ({"layer_norm_eps": 0.0}, "layer_norm_eps = 0.0 is not allowed: .*greater than 0"),
    "epsilon no number": ({"layer_norm_eps": float("nan")}, "layer_norm_eps = nan is not allowed"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_its_key_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.parse(changes)


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.parse({"hidden_size": 0, "nonsense": 1, "bidirectional": "yes"})
    assert all(key in str(caught.value) for key in ("hidden_size", "nonsense", "bidirectional"))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        ModelConfig().hidden_size = 1  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["hyena_w", "hyena_w_mod"])
def test_a_frequency_is_finite(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        ModelConfig.parse({key: value})


# --- no key is taken in and then ignored ----------------------------------------------------------------


def attributes_read(package: str) -> set[str]:
    """Names of all attributes that the source of `package` reads."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / package).rglob("*.py")]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def has_one_value(key: str) -> bool:
    annotation = ModelConfig.model_fields[key].annotation
    return str(get_origin(annotation)) == "typing.Literal" and len(get_args(annotation)) == 1


@pytest.mark.parametrize("key", FIELDS)
@pytest.mark.parametrize("package", ["reference_torch", "mlx_impl"])
def test_a_key_is_read_or_known_to_change_no_number_or_has_one_value(package: str, key: str) -> None:
    assert key in attributes_read(package) or key in TRAINING_ONLY | OUTPUT_ONLY or has_one_value(key)


@pytest.mark.parametrize("key", sorted(TRAINING_ONLY))
def test_a_training_key_is_a_key_and_read_by_nobody(key: str) -> None:
    assert key in FIELDS
    assert key not in attributes_read("reference_torch") | attributes_read("mlx_impl")


def test_the_scan_for_attributes_sees_what_is_read() -> None:
    assert "hidden_size" in attributes_read("reference_torch")
    assert "no_such_key" not in attributes_read("reference_torch")
