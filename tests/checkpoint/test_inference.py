"""A configuration is inferred exactly; what cannot be read is listed, and can be said, but not against the shapes."""

from __future__ import annotations

import pytest
from checkpoint_pieces import HEADS, TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layout_of_models import EVERY_PUBLIC, configs

from parity.checkpoint import infer, nearest, public_called, public_checkpoints
from parity.checkpoint.inference import CLASSIFIER_NOT_STORED, NOT_STORED
from parity.checkpoint.layout import CLASSIFICATION, MASKED_LM, WORDS, Head, state_shapes
from parity.checkpoint.public import same_shapes
from parity.errors import CheckpointError, ConfigError
from parity.spec.config import ModelConfig

SHAPES = state_shapes(MASKED_LM, TINY)


@EVERY_PUBLIC
def test_the_configuration_of_a_published_file_is_inferred_exactly(name: str) -> None:
    public = public_checkpoints()[name]
    inferred = infer(public.shapes)
    assert inferred.head == public.head
    assert inferred.config == public.config
    assert same_shapes(inferred, public)
    assert nearest(inferred) == (public, [])
    assert set(public.keys) == (inferred.read.keys() | {one.key for one in inferred.assumed}) & set(public.keys)


@given(head=st.sampled_from(HEADS), config=configs())
@settings(max_examples=150)
def test_what_is_inferred_has_the_shapes_that_it_was_inferred_from(head: Head, config: ModelConfig) -> None:
    shapes = state_shapes(head, config)
    inferred = infer(shapes)
    assert inferred.head == head
    assert state_shapes(head, inferred.config) == shapes
    pooled = head == CLASSIFICATION and config.attention_pooling
    if not config.use_monarch_mlp or pooled:
        assert inferred.config.intermediate_size == config.intermediate_size
    said = infer(shapes, {"intermediate_size": config.intermediate_size})
    if (config.use_glu_mlp, config.use_positional_encodings) == (True, True):
        irrelevant = {"attention_pooling": False} if head == MASKED_LM else {}
        irrelevant |= {} if head == CLASSIFICATION else {"num_labels": 3}
        blocks = {} if config.use_monarch_mlp else {"monarch_mlp_nblocks": 4}
        assert said.config == config.model_copy(update={**irrelevant, **blocks})


def test_what_cannot_be_read_is_listed_with_its_default_and_reason() -> None:
    for head in HEADS:
        inferred = infer(state_shapes(head, TINY))
        listed = {one.key: one.value for one in inferred.assumed}
        wanted = NOT_STORED.keys() | (CLASSIFIER_NOT_STORED.keys() if head == CLASSIFICATION else set())
        assert listed.keys() == wanted | {"intermediate_size"}
        assert listed.items() <= TINY.model_dump().items()
        assert all(one.reason and one.origin == "default" for one in inferred.assumed)
        assert not listed.keys() & inferred.read.keys()


def test_every_key_that_matters_is_read_or_listed() -> None:
    inferred = infer(state_shapes(CLASSIFICATION, TINY))
    account = inferred.read.keys() | {one.key for one in inferred.assumed}
    # The rest is read by nobody, or has one value.
    assert ModelConfig.model_fields.keys() - account == {
        "attention_probs_dropout_prob",
        "expand_positional_embeddings",
        "gather_sentence_embeddings",
        "hidden_dropout_prob",
        "hyena_filter_dropout",
        "hyena_lr_pos_emb",
        "hyena_wd",
        "long_conv_kernel_learning_rate",
        "monarch_mixer_sequence_mixing",
        "num_attention_heads",
        "sequence_token_planting",
    }


def test_padded_blocks_leave_the_intermediate_size_open() -> None:
    plain = TINY.model_copy(update={"use_glu_mlp": False, "hidden_size": 10, "intermediate_size": 38})
    (size,) = [one for one in infer(state_shapes(MASKED_LM, plain)).assumed if one.key == "intermediate_size"]
    assert (size.value, "37 to 40" in size.reason) == (40, True)
    with pytest.raises(CheckpointError, match=r"intermediate_size = 36 contradicts the shapes .* 37 to 40"):
        infer(state_shapes(MASKED_LM, plain), {"intermediate_size": 36})


def test_a_value_can_be_said_and_a_file_can_say_one_but_the_user_is_heard_first() -> None:
    inferred = infer(SHAPES, {"hyena_w_mod": 14}, {"hyena_w_mod": 2, "layer_norm_eps": 1e-5, "hidden_size": 99})
    origins = {one.key: (one.value, one.origin) for one in inferred.assumed}
    assert origins["hyena_w_mod"] == (14, "given")
    assert origins["layer_norm_eps"] == (1e-5, "noted")
    assert inferred.config.hidden_size == 24


def test_a_value_against_a_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"hidden_size = 32 contradicts bert\.embeddings\.word.* which says 24"):
        infer(SHAPES, {"hidden_size": 32})


@pytest.mark.parametrize(
    ("said", "message"), [({"hyena": 1}, "unknown key 'hyena'"), ({"layer_norm_eps": 2.0}, "not allowed")]
)
def test_a_value_that_no_model_takes_is_refused(said: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        infer(SHAPES, said)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "no head"),
        ({"bert.encoder.layer.0.attention.self.query.weight": (4, 4)}, "no head"),
        (SHAPES | {"classifier.weight": (3, 24)}, "both heads"),
        ({name: shape for name, shape in SHAPES.items() if name != WORDS}, "word_embeddings.weight is missing"),
        (SHAPES | {WORDS: (40,)}, "has shape"),
        (SHAPES | {WORDS: (0, 24)}, "has shape"),
        (SHAPES | {"bert.encoder.layer.123456789012345678901234567890.x": (1,)}, "numbers its layers"),
        (SHAPES | {"bert.encoder.layer.0.mlp.wo.weight": (4, 6, 7)}, "no intermediate size"),
        (SHAPES | {"bert.encoder.layer.0.attention.filter_fn.pos_emb.z": (1, 16, 4)}, "must be odd"),
    ],
)
def test_what_is_no_model_is_said_so(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=message):
        infer(shapes)


def test_the_nearest_is_named_with_every_difference() -> None:
    wider = public_called("m2-bert-341m").config.model_copy(update={"hyena_emb_dim": 7, "bidirectional": False})
    public, differences = nearest(infer(state_shapes(MASKED_LM, wider)))
    assert public.name == "m2-bert-341m"
    assert {one.key: (one.value, one.public) for one in differences} == {
        "hyena_emb_dim": (7, 5),
        "bidirectional": (False, True),
    }
    longer = public_called("m2-bert-80m-8k-retrieval").config.model_copy(
        update={"max_position_embeddings": 4096, "long_conv_l_max": 4096}
    )
    public, differences = nearest(infer(state_shapes(CLASSIFICATION, longer)))
    assert public.name in ("m2-bert-80m-2k-retrieval", "m2-bert-80m-8k-retrieval")
    assert {one.key for one in differences} == {"max_position_embeddings", "long_conv_l_max"}


def test_an_unknown_public_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no public checkpoint is called 'm2-bert-1b'; there are m2-bert-80m,"):
        public_called("m2-bert-1b")
