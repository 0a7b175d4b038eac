import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from gpt2web.config import ALIASES, PRESETS, GPT2Config, preset_name

STORIES = Path(__file__).parents[1] / "web" / "models" / "stories"
TINY = {
    "vocabulary_size": 10,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 2,
    "intermediate_dim": 4,
    "max_sequence_length": 5,
}
HUGGING_FACE = {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
        ("stories", 5_885_952),
        ("openai-community/gpt2-xl", 1_557_611_200),
        ("distilbert/distilgpt2", 81_912_576),
        ("gpt2_base_en", 124_439_808),
        ("gpt2_medium_en", 354_823_168),
        ("gpt2_large_en", 774_030_080),
        ("gpt2_extra_large_en", 1_557_611_200),
        ("gpt2_base_en_cnn_dailymail", 124_439_808),
    ],
)
def test_every_preset_has_its_published_number_of_parameters(name, parameters):
    assert GPT2Config.from_preset(name).num_parameters == parameters


def test_a_tiny_config_counts_the_tied_head_once():
    assert GPT2Config(**TINY).num_parameters == 142


def test_a_config_holds_its_sizes_and_cannot_be_changed():
    config = GPT2Config.from_preset("gpt2-xl")
    assert (config.num_layers, config.num_heads, config.hidden_dim) == (48, 25, 1600)
    assert (config.head_dim, config.intermediate_dim) == (64, 6400)
    assert (config.vocabulary_size, config.max_sequence_length) == (50257, 1024)
    assert (config.dropout, config.layer_norm_epsilon) == (0.1, 1e-5)
    with pytest.raises(FrozenInstanceError):
        config.num_layers = 1


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"'gpt3'.*stories.*gpt2-xl.*gpt2_base_en"):
        GPT2Config.from_preset("gpt3")


def test_aliases_lead_to_presets_and_a_model_with_other_weights_is_no_alias():
    assert {preset_name(alias) for alias in ALIASES} <= set(PRESETS)
    assert preset_name("gpt2_base_en") == "gpt2"
    assert preset_name("gpt2_base_en_cnn_dailymail") == "gpt2_base_en_cnn_dailymail"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_dim": 6, "num_heads": 4}, "hidden_dim 6 and num_heads 4"),
        ({"num_layers": 0}, "num_layers.*got 0"),
        ({"vocabulary_size": -1}, "vocabulary_size.*got -1"),
        ({"intermediate_dim": 4.0}, "intermediate_dim.*got 4.0"),
        ({"max_sequence_length": "5"}, "max_sequence_length.*got '5'"),
        ({"num_heads": True}, "num_heads.*got True"),
        ({"dropout": 1.0}, "dropout.*got 1.0"),
        ({"dropout": -0.1}, "dropout.*got -0.1"),
        ({"dropout": None}, "dropout.*got None"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon.*got 0.0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon.*got nan"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(change, message):
    assert GPT2Config(**TINY)
    with pytest.raises(ValueError, match=message):
        GPT2Config(**{**TINY, **change})


def test_numpy_integers_become_plain_ones():
    config = GPT2Config(**{**TINY, "hidden_dim": np.int64(6)})
    assert type(config.hidden_dim) is int
    assert json.loads(json.dumps(config.get_config()))["hidden_dim"] == 6


def test_configs_survive_a_round_trip_through_json():
    for config in (*PRESETS.values(), GPT2Config(**TINY, dropout=0.25)):
        assert GPT2Config.from_config(json.loads(json.dumps(config.get_config()))) == config


def test_a_config_with_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="num_layer"):
        GPT2Config.from_config({**GPT2Config(**TINY).get_config(), "num_layer": 2})


def test_the_bundled_models_config_json_is_the_stories_preset():
    config = json.loads((STORIES / "config.json").read_text(encoding="utf-8"))
    assert GPT2Config.from_hugging_face(config) == GPT2Config.from_preset("stories")


def test_a_hugging_face_config_without_inner_size_has_four_times_the_hidden_one():
    assert GPT2Config.from_hugging_face(HUGGING_FACE) == GPT2Config.from_preset("gpt2")
    assert GPT2Config.from_hugging_face({**HUGGING_FACE, "n_inner": None}).intermediate_dim == 3072
    assert GPT2Config.from_hugging_face({**HUGGING_FACE, "n_inner": 100}).intermediate_dim == 100


@pytest.mark.parametrize(
    "harmless",
    [
        {"reorder_and_upcast": True},
        {"activation_function": "gelu_pytorch_tanh"},
        {"scale_attn_weights": True, "tie_word_embeddings": True, "torch_dtype": "float16"},
        {"summary_type": "cls_index", "use_cache": False},
    ],
)
def test_hugging_face_options_that_change_nothing_are_accepted(harmless):
    config = GPT2Config.from_hugging_face({**HUGGING_FACE, **harmless})
    assert config == GPT2Config.from_preset("gpt2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type 'gpt2', got 'llama'"),
        ({"activation_function": "gelu"}, "'gelu_new' or 'gelu_pytorch_tanh', got 'gelu'"),
        ({"activation_function": "relu"}, "tanh GELU"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"n_embd": None}, "no n_embd"),
        ({"n_head": 7}, "num_heads 7"),
        ({"n_layer": "12"}, "n_layer.*got '12'"),
    ],
)
def test_hugging_face_configs_of_other_arithmetic_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config.from_hugging_face({**HUGGING_FACE, **change})


def test_an_old_hugging_face_config_may_give_the_context_as_n_ctx():
    old = {key: value for key, value in HUGGING_FACE.items() if key != "n_positions"}
    assert GPT2Config.from_hugging_face({**old, "n_ctx": 512}).max_sequence_length == 512
    with pytest.raises(ValueError, match="no n_ctx"):
        GPT2Config.from_hugging_face(old)
