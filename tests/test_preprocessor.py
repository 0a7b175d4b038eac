import json

import numpy as np
import pytest

from gpt2web.preprocessor import GPT2CausalLMPreprocessor, GPT2Preprocessor
from gpt2web.tokenizer import BytePairTokenizer, GPT2Tokenizer

MERGES = ["Ġ a", "Ġ t", "Ġ i", "Ġ b", "a i", "p l", "n e", "Ġa t", "p o", "r t", "Ġt h", "ai r"]
MERGES += ["pl a", "po rt", "Ġai r", "Ġa i", "pla ne"]
VOCABULARY = {"!": 0, "air": 1, "Ġair": 2, "plane": 3, "Ġat": 4, "port": 5, "<|endoftext|>": 6}
TEXT = "airplane at airport"


@pytest.fixture
def tokenizer() -> GPT2Tokenizer:
    return GPT2Tokenizer(VOCABULARY, MERGES)


@pytest.fixture
def preprocessor(tokenizer) -> GPT2Preprocessor:
    return GPT2Preprocessor(tokenizer, sequence_length=8)


@pytest.fixture
def causal(tokenizer) -> GPT2CausalLMPreprocessor:
    return GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)


# GPT2Preprocessor


def test_a_text_gives_flat_lists_and_a_batch_lists_of_lists(preprocessor):
    one = {"token_ids": [6, 1, 3, 4, 2, 5, 6, 0], "padding_mask": [True] * 7 + [False]}
    assert preprocessor(TEXT) == one
    assert preprocessor([TEXT, "air"]) == {
        "token_ids": [one["token_ids"], [6, 1, 6, 0, 0, 0, 0, 0]],
        "padding_mask": [one["padding_mask"], [True] * 3 + [False] * 5],
    }
    assert preprocessor(np.array([TEXT])) == {name: [row] for name, row in one.items()}
    assert preprocessor("")["token_ids"] == [6, 6, 0, 0, 0, 0, 0, 0]


def test_an_empty_batch_gives_an_empty_batch(preprocessor, causal):
    empty = {"token_ids": [], "padding_mask": []}
    assert preprocessor([]) == empty
    assert causal([]) == (empty, [], [])
    assert causal.generate_preprocess([]) == empty
    assert causal.generate_postprocess(empty) == []


def test_labels_and_weights_pass_through_as_they_came(preprocessor):
    x = preprocessor([TEXT])
    y, weights = np.array([1]), [0.5]
    assert preprocessor([TEXT], y)[0] == x
    assert preprocessor([TEXT], y)[1] is y
    packed = preprocessor([TEXT], y, weights)
    assert packed[0] == x
    assert packed[1] is y
    assert packed[2] is weights
    assert len(packed) == 3
    assert preprocessor(x=[TEXT], y=0) == (x, 0)
    assert preprocessor([TEXT], sample_weight=weights) == (x, None, weights)


def test_start_and_end_tokens_may_be_left_out(tokenizer):
    def ids(start, end):
        return GPT2Preprocessor(tokenizer, 4, add_start_token=start, add_end_token=end)("air")[
            "token_ids"
        ]

    assert ids(True, True) == [6, 1, 6, 0]
    assert ids(True, False) == [6, 1, 0, 0]
    assert ids(False, True) == [1, 6, 0, 0]
    assert ids(False, False) == [1, 0, 0, 0]


def test_the_length_can_be_set_and_overridden(preprocessor):
    assert preprocessor(TEXT, sequence_length=4)["token_ids"] == [6, 1, 3, 6]
    assert len(preprocessor(TEXT, sequence_length=20)["padding_mask"]) == 20
    assert len(preprocessor(TEXT)["token_ids"]) == 8
    preprocessor.sequence_length = 5
    assert preprocessor.sequence_length == 5
    assert preprocessor(TEXT)["token_ids"] == [6, 1, 3, 4, 6]
    with pytest.raises(ValueError, match="sequence_length: wanted a whole number"):
        preprocessor.sequence_length = 0
    assert GPT2Preprocessor(preprocessor.tokenizer).sequence_length == 1024


def test_a_length_that_cannot_hold_the_special_tokens_is_refused(preprocessor, causal):
    with pytest.raises(ValueError, match="sequence_length 1 cannot hold"):
        preprocessor("air", sequence_length=1)
    assert preprocessor("air", sequence_length=2)["token_ids"] == [6, 6]
    for wrong in (0, -1, 1.5):
        for call in (preprocessor, causal, causal.generate_preprocess):
            with pytest.raises(ValueError, match="sequence_length: wanted a whole number"):
                call("air", sequence_length=wrong)


def test_several_segments_are_refused_and_one_is_accepted(preprocessor, causal):
    for call in (preprocessor, causal, causal.generate_preprocess):
        with pytest.raises(ValueError, match="GPT-2 takes one segment, got 2"):
            call([["air"], ["plane"]])
        assert call([["air", "plane"]]) == call(["air", "plane"])


def test_texts_that_are_no_strings_are_refused(preprocessor):
    with pytest.raises(ValueError, match="string or a list of strings"):
        preprocessor([1, 2])
    with pytest.raises(ValueError, match="lone surrogate"):
        preprocessor("\ud800")


def test_a_tokenizer_without_special_tokens_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"wanted a GPT2Tokenizer.*without start_token_id"):
        GPT2Preprocessor(BytePairTokenizer(VOCABULARY, MERGES))
    assert GPT2Preprocessor(tokenizer).tokenizer is tokenizer


def test_a_tokenizer_whose_vocabulary_comes_later_will_do():
    preprocessor = GPT2Preprocessor(GPT2Tokenizer(), sequence_length=3)
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        preprocessor("air")
    preprocessor.tokenizer.set_vocabulary_and_merges(VOCABULARY, MERGES)
    assert preprocessor("air")["token_ids"] == [6, 1, 6]


# GPT2CausalLMPreprocessor


def test_labels_are_the_ids_one_place_further(causal):
    x, y, weights = causal(TEXT)
    assert x == {"token_ids": [6, 1, 3, 4, 2, 5, 6, 0], "padding_mask": [True] * 7 + [False]}
    assert y == [1, 3, 4, 2, 5, 6, 0, 0]
    assert weights == [True] * 6 + [False] * 2


def test_a_batch_has_labels_for_every_row(causal):
    x, y, weights = causal([TEXT, "air"])
    assert x["token_ids"] == [[6, 1, 3, 4, 2, 5, 6, 0], [6, 1, 6, 0, 0, 0, 0, 0]]
    assert y == [[1, 3, 4, 2, 5, 6, 0, 0], [1, 6, 0, 0, 0, 0, 0, 0]]
    assert weights == [[True] * 6 + [False] * 2, [True] * 2 + [False] * 6]


def test_the_last_label_of_a_full_row_is_the_id_after_it(causal):
    x, y, weights = causal(TEXT, sequence_length=6)
    assert x == {"token_ids": [6, 1, 3, 4, 2, 5], "padding_mask": [True] * 6}
    assert y == [1, 3, 4, 2, 5, 6]
    assert weights == [True] * 6
    x, y, _ = causal(TEXT, sequence_length=3)
    assert (x["token_ids"], y) == ([6, 1, 3], [1, 3, 6])


def test_labels_without_special_tokens(tokenizer):
    causal = GPT2CausalLMPreprocessor(tokenizer, 8, add_start_token=False, add_end_token=False)
    x, y, weights = causal([TEXT] * 4)
    assert x["token_ids"] == [[1, 3, 4, 2, 5, 0, 0, 0]] * 4
    assert x["padding_mask"] == [[True] * 5 + [False] * 3] * 4
    assert y == [[3, 4, 2, 5, 0, 0, 0, 0]] * 4
    assert weights == [[True] * 4 + [False] * 4] * 4


def test_labels_that_are_passed_in_are_ignored_with_a_warning(causal):
    with pytest.warns(UserWarning, match="those passed in are ignored"):
        labelled = causal([TEXT], [1], [1.0])
    assert labelled == causal([TEXT])


# Generation


def test_a_prompt_has_a_start_token_and_no_end_token(causal):
    assert causal.generate_preprocess(TEXT) == {
        "token_ids": [6, 1, 3, 4, 2, 5, 0, 0],
        "padding_mask": [True] * 6 + [False] * 2,
    }
    batch = causal.generate_preprocess([TEXT, "air"], sequence_length=4)
    assert batch == {
        "token_ids": [[6, 1, 3, 4], [6, 1, 0, 0]],
        "padding_mask": [[True] * 4, [True] * 2 + [False] * 2],
    }


def test_a_prompt_honours_add_start_token(tokenizer):
    causal = GPT2CausalLMPreprocessor(tokenizer, 4, add_start_token=False)
    assert causal.generate_preprocess("air")["token_ids"] == [1, 0, 0, 0]
    # but for an empty prompt: there must be an id to go on from
    assert causal.generate_preprocess(["", "air"]) == {
        "token_ids": [[6, 0, 0, 0], [1, 0, 0, 0]],
        "padding_mask": [[True, False, False, False]] * 2,
    }
    assert causal("")[0]["token_ids"] == [6, 0, 0, 0]  # the end token


def test_the_length_of_prompts_can_be_set(causal):
    causal.sequence_length = 3
    assert causal.generate_preprocess(TEXT)["token_ids"] == [6, 1, 3]
    assert causal(TEXT)[1] == [1, 3, 6]


def test_postprocess_drops_what_is_masked_and_special(causal):
    ids = [6, 1, 3, 4, 2, 5, 0, 0]
    assert causal.generate_postprocess({"token_ids": ids, "padding_mask": [1] * 6 + [0] * 2}) == (
        TEXT
    )
    everything = {"token_ids": ids, "padding_mask": [True] * 8}
    assert causal.generate_postprocess(everything) == TEXT + "!!"  # the pad id is a real token
    batch = {
        "token_ids": [ids, ids],
        "padding_mask": [[True] * 3 + [False] * 5, [True] * 6 + [False] * 2],
    }
    assert causal.generate_postprocess(batch) == ["airplane", TEXT]
    arrays = {name: np.array(rows) for name, rows in batch.items()}
    assert causal.generate_postprocess(arrays) == ["airplane", TEXT]
    between = {"token_ids": [1, 6, 3], "padding_mask": [True] * 3}
    assert causal.generate_postprocess(between) == "airplane"


def test_postprocess_takes_whole_numbers_in_floats(causal):
    mask = np.ones(4, "float32")
    ids = np.array([6, 1, 3, 6], "float32")
    assert causal.generate_postprocess({"token_ids": ids, "padding_mask": mask}) == "airplane"
    with pytest.raises(ValueError, match=r"wanted whole numbers, got 1\.5"):
        causal.generate_postprocess({"token_ids": [1.5], "padding_mask": [True]})


def test_postprocess_reverses_preprocess(causal):
    for texts in (TEXT, [TEXT, "air", "", "air!"]):
        assert causal.generate_postprocess(causal.generate_preprocess(texts)) == texts


def test_postprocess_refuses_masks_that_do_not_fit(causal):
    with pytest.raises(ValueError, match=r"rows of \[2\], got \[3\]"):
        causal.generate_postprocess({"token_ids": [1, 3], "padding_mask": [1, 1, 1]})
    with pytest.raises(ValueError, match="got no padding_mask"):
        causal.generate_postprocess({"token_ids": [1, 3]})


# Configuration


@pytest.mark.parametrize("cls", [GPT2Preprocessor, GPT2CausalLMPreprocessor])
def test_preprocessors_survive_a_round_trip_through_json(cls, tokenizer):
    preprocessor = cls(tokenizer, sequence_length=6, add_start_token=False)
    config = json.loads(json.dumps(preprocessor.get_config()))
    clone = cls.from_config(config)
    assert clone.get_config() == preprocessor.get_config()
    assert clone([TEXT, "air<|endoftext|>"]) == preprocessor([TEXT, "air<|endoftext|>"])
    assert config["tokenizer"]["class_name"] == "GPT2Tokenizer"


def test_a_config_may_hold_the_tokenizer_itself(tokenizer):
    preprocessor = GPT2Preprocessor.from_config({"tokenizer": tokenizer, "sequence_length": 3})
    assert preprocessor.tokenizer is tokenizer
    assert preprocessor("air")["token_ids"] == [6, 1, 6]


def test_a_config_with_a_foreign_tokenizer_class_is_refused(preprocessor):
    config = preprocessor.get_config()
    config["tokenizer"] = {**config["tokenizer"], "class_name": "BertTokenizer"}
    with pytest.raises(ValueError, match=r"GPT2Tokenizer, got 'BertTokenizer'.*tokenizer itself"):
        GPT2Preprocessor.from_config(config)


def test_unknown_options_are_type_errors(preprocessor, tokenizer):
    with pytest.raises(TypeError, match="padding"):
        preprocessor("air", padding=True)
    with pytest.raises(TypeError, match="padding"):
        GPT2Preprocessor(tokenizer, padding=True)
    with pytest.raises(TypeError, match="padding"):
        GPT2Preprocessor.from_config({**preprocessor.get_config(), "padding": True})


def test_the_arguments_of_every_keras_layer(tokenizer, preprocessor, causal):
    assert preprocessor.name == "gpt2_preprocessor"
    assert causal.name == "gpt2_causal_lm_preprocessor"
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    for cls in (GPT2Preprocessor, GPT2CausalLMPreprocessor):
        named = cls(tokenizer, 8, name="pack", trainable=False, dtype="float32")
        assert named("air") == cls(tokenizer, 8)("air")
        config = named.get_config()
        assert (config["name"], config["trainable"]) == ("pack", False)
        assert cls.from_config({**config, "dtype": policy}).get_config() == config
        assert cls(tokenizer, dtype=None).trainable
        with pytest.raises(ValueError, match="dtype: wanted the name of a type"):
            cls(tokenizer, dtype=5)
