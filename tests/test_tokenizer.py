import itertools
import json
import random

import numpy as np
import pytest

from gpt2web.bpe import BYTE_TO_CHARACTER
from gpt2web.tokenizer import BytePairTokenizer, GPT2Tokenizer

# "airplane" is air + plane; " airplane" is "Ġair" + "plane"
MERGES = ["Ġ a", "Ġ t", "Ġ i", "Ġ b", "a i", "p l", "n e", "Ġa t", "p o", "r t", "Ġt h", "ai r"]
MERGES += ["pl a", "po rt", "Ġai r", "Ġa i", "pla ne"]
VOCABULARY = {"!": 0, "air": 1, "Ġair": 2, "plane": 3, "Ġat": 4, "port": 5, "<|endoftext|>": 6}


@pytest.fixture
def tokenizer() -> BytePairTokenizer:
    return BytePairTokenizer(VOCABULARY, MERGES)


@pytest.fixture
def gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer(VOCABULARY, MERGES)


# In and out


def test_a_text_gives_a_flat_list_and_a_batch_a_list_of_lists(tokenizer):
    assert tokenizer("airplane at airport") == [1, 3, 4, 2, 5]
    assert tokenizer(["airplane at airport", " airplane"]) == [[1, 3, 4, 2, 5], [2, 3]]
    assert tokenizer(("air", "plane")) == [[1], [3]]
    assert tokenizer(["air"]) == [[1]]
    assert tokenizer.tokenize("air") == tokenizer("air")


def test_nothing_in_gives_nothing_out(tokenizer):
    assert tokenizer("") == []
    assert tokenizer([]) == []
    assert tokenizer(["", "air", ""]) == [[], [1], []]


def test_arrays_of_strings_do_as_well(tokenizer):
    assert tokenizer(np.array("airplane")) == [1, 3]
    assert tokenizer(np.array(["airplane", "air"])) == [[1, 3], [1]]
    assert tokenizer(np.array(["airplane", "air"], dtype=object)) == [[1, 3], [1]]
    assert tokenizer(np.str_("air")) == [1]


@pytest.mark.parametrize("wrong", [3, None, ["air", 3], [["air"]], b"air", {"a": 1}, [None]])
def test_anything_but_strings_and_flat_lists_of_them_is_refused(tokenizer, wrong):
    with pytest.raises(ValueError, match="string or a list of strings"):
        tokenizer(wrong)
    assert tokenizer("air") == [1]


def test_a_two_dimensional_array_of_strings_is_refused(tokenizer):
    with pytest.raises(ValueError, match="string or a list of strings"):
        tokenizer(np.array([["air"], ["plane"]]))


def test_ids_are_plain_integers(tokenizer):
    assert {type(token_id) for token_id in tokenizer("airplane?")} == {int}


def test_a_piece_outside_the_vocabulary_is_minus_one(tokenizer):
    assert tokenizer("air?plane x") == [1, -1, 3, -1, -1]
    assert tokenizer.encode_plain("x") == [-1]


def test_a_vocabulary_of_whole_words_needs_no_parts_of_merges():
    merges = ["b u", "t t", "e r", "bu tt", "butt er", "f l", "fl y"]
    tokenizer = BytePairTokenizer({"butter": 0, "fly": 1}, merges)
    assert tokenizer("butterfly") == [0, 1]
    assert tokenizer(["butterfly", "butter"]) == [[0, 1], [0]]


def test_strict_refuses_merges_whose_parts_are_missing():
    with pytest.raises(ValueError, match="merge rule 'b u': 'b' is not in the vocabulary"):
        BytePairTokenizer({"bu": 0}, ["b u"], strict=True)
    assert BytePairTokenizer({"b": 0, "u": 1}, ["b u"], strict=True)("b") == [0]
    assert BytePairTokenizer({"bu": 0}, ["b u"])("bu") == [0]


def test_white_space_in_a_vocabularys_key_never_matches():
    tokenizer = BytePairTokenizer({" ": 0, "\n": 1, "Ġ": 2, "Ċ": 3}, [])
    assert tokenizer(" \n") == [2, 3]


# dtype


def test_dtype_string_gives_the_tokens_in_the_byte_alphabet():
    tokenizer = BytePairTokenizer(VOCABULARY, MERGES, dtype="string")
    assert tokenizer("airplane at?") == ["air", "plane", "Ġat", "?"]
    assert tokenizer(["air", "é"]) == [["air"], ["Ã", "©"]]
    assert tokenizer.encode_plain("air") == [1]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", int, np.int32, np.dtype("int64")])
def test_integer_dtypes_give_ids(dtype):
    assert BytePairTokenizer(VOCABULARY, MERGES, dtype=dtype)("air") == [1]


@pytest.mark.parametrize("dtype", ["float32", "bool", "print", float, np.float16, None])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype: wanted an integer type"):
        BytePairTokenizer(VOCABULARY, MERGES, dtype=dtype)


# sequence_length


def test_sequence_length_cuts_and_pads_on_the_right():
    tokenizer = BytePairTokenizer(VOCABULARY, MERGES, sequence_length=3)
    assert tokenizer("airplane") == [1, 3, 0]
    assert tokenizer(["airplane at airport", "", "air"]) == [[1, 3, 4], [0, 0, 0], [1, 0, 0]]
    assert tokenizer.encode_plain("airplane at airport") == [1, 3, 4, 2, 5]


def test_padding_uses_the_pad_token_id_where_a_class_has_one():
    class Padded(BytePairTokenizer):
        pad_token_id = 7

    assert Padded(VOCABULARY, MERGES, sequence_length=3)("air") == [1, 7, 7]


def test_tokens_as_strings_are_padded_with_empty_ones():
    tokenizer = GPT2Tokenizer(VOCABULARY, MERGES, sequence_length=3, dtype="string")
    assert tokenizer(["air", "airplane at"]) == [["air", "", ""], ["air", "plane", "Ġat"]]


@pytest.mark.parametrize("length", [0, -1, 2.0, "3", True])
def test_a_sequence_length_that_cannot_be_is_refused(length):
    with pytest.raises(ValueError, match="sequence_length: wanted a whole number of 1 or more"):
        BytePairTokenizer(VOCABULARY, MERGES, sequence_length=length)
    assert BytePairTokenizer(VOCABULARY, MERGES, sequence_length=1)("airplane") == [1]


# add_prefix_space


def test_add_prefix_space_puts_one_space_before_every_text():
    tokenizer = BytePairTokenizer({**VOCABULARY, "Ġ": 7}, MERGES, add_prefix_space=True)
    assert tokenizer("airplane air") == [2, 3, 2]
    assert tokenizer(["air", "at"]) == [[2], [4]]
    assert tokenizer(" air") == [7, 2]
    assert tokenizer("") == [7]
    assert tokenizer.encode_plain("air") == [2]


# Unsplittable tokens


def test_unsplittable_tokens_are_found_glued_to_words_and_at_the_ends():
    tokenizer = BytePairTokenizer(
        {**VOCABULARY, "<|end|>": 7}, MERGES, unsplittable_tokens=["<|end|>"]
    )
    assert tokenizer("<|end|>air<|end|>plane<|end|>") == [7, 1, 7, 3, 7]
    assert tokenizer("<|end|><|end|> at") == [7, 7, 4]
    assert tokenizer("air<|en|>") == [1, -1, -1, -1, -1, -1, -1]
    assert tokenizer(["<|end|>", ""]) == [[7], []]
    assert tokenizer.encode_plain("<|end|>") == [-1] * 7


def test_the_longest_unsplittable_token_wins():
    tokens = ["<a>", "<a>|", "<a", "<a>|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    for order in itertools.permutations(tokens):
        tokenizer = BytePairTokenizer(vocabulary, [], unsplittable_tokens=order)
        assert tokenizer("<a>|><a>|<a><a") == [3, 1, 0, 2]
        assert tokenizer.detokenize([3, 1, 0, 2]) == "<a>|><a>|<a><a"


def test_single_characters_may_be_unsplittable():
    vocabulary = {"sp": 0, "s": 1, "p": 2}
    assert BytePairTokenizer(vocabulary, ["s p"])("sp") == [0]
    assert BytePairTokenizer(vocabulary, ["s p"], unsplittable_tokens=["s", "p"])("sp") == [1, 2]


def test_unsplittable_tokens_may_hold_spaces_patterns_and_any_character():
    tokens = ["a b", "[.*]", "é", "\n\n"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = BytePairTokenizer(vocabulary, [], unsplittable_tokens=tokens)
    assert tokenizer("é[.*]a b\n\n") == [2, 1, 0, 3]
    assert tokenizer.detokenize([2, 1, 0, 3]) == "é[.*]a b\n\n"


def test_an_unsplittable_token_outside_the_vocabulary_is_minus_one():
    tokenizer = BytePairTokenizer(VOCABULARY, MERGES, unsplittable_tokens=["airport"])
    assert tokenizer("airport air") == [-1, 2]


@pytest.mark.parametrize("wrong", ["<a>", [""], [3]])
def test_unsplittable_tokens_must_be_a_list_of_strings(wrong):
    with pytest.raises(ValueError, match="unsplittable_tokens"):
        BytePairTokenizer(VOCABULARY, MERGES, unsplittable_tokens=wrong)


# Vocabulary and merges


def test_vocabulary_and_merges_may_be_files_with_or_without_a_version_line(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY), encoding="utf-8")
    for name, text in {
        "plain.txt": "\n".join(MERGES),
        "version.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n",
        "windows.txt": "#version: 0.2\r\n" + "\r\n".join(MERGES) + "\r\n",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        for path in (str(tmp_path / name), tmp_path / name):
            tokenizer = BytePairTokenizer(str(tmp_path / "vocab.json"), path)
            assert tokenizer("airplane at airport") == [1, 3, 4, 2, 5]
            assert tokenizer.merges == MERGES


def test_a_list_of_merges_may_start_with_a_version_line():
    tokenizer = BytePairTokenizer(VOCABULARY, ["#version: 0.2", *MERGES])
    assert tokenizer("airport") == [1, 5]
    assert tokenizer.merges == MERGES
    assert BytePairTokenizer({"##": 0}, ["# #"])("##") == [0]


def test_a_vocabulary_of_none_follows_from_the_merges():
    tokenizer = BytePairTokenizer(None, ["#version: 0.2", "a i", "ai r", "a ir"])
    assert tokenizer.vocabulary_size() == 256 + 2 + 1
    assert tokenizer.get_vocabulary()[:3] == ["!", '"', "#"]
    assert tokenizer.get_vocabulary()[-3:] == ["ai", "air", "<|endoftext|>"]
    assert tokenizer("air") == [257]
    assert BytePairTokenizer(None, [], unsplittable_tokens=["<a>"])("<a>!") == [257, 0]


def test_the_dictionary_passed_in_is_not_changed_or_kept(tokenizer):
    vocabulary = dict(VOCABULARY)
    tokenizer = BytePairTokenizer(vocabulary, MERGES)
    vocabulary.clear()
    assert tokenizer("air") == [1]


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (["a", "b"], [], "vocabulary: wanted a dict"),
        (3, [], "vocabulary: wanted a dict"),
        ({"a": "0"}, [], "id of 'a': wanted a whole number of 0 or more, got '0'"),
        ({"a": -1}, [], "id of 'a'.*got -1"),
        ({0: "a"}, [], "wanted strings as tokens, got 0"),
        ({}, 3, "merges: wanted a list of rules"),
        ({}, ["a"], "merges, rule 1: wanted 'left right', got 'a'"),
        ({}, ["a b", "a b c"], "merges, rule 2: wanted 'left right', got 'a b c'"),
        ({}, [("a", "b")], "merges, rule 1"),
    ],
)
def test_a_vocabulary_or_merges_of_another_form_are_refused(vocabulary, merges, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(vocabulary, merges)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        BytePairTokenizer(VOCABULARY, tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        BytePairTokenizer(tmp_path / "none.json", MERGES)


def test_unknown_options_are_type_errors():
    with pytest.raises(TypeError, match="sequence_lenght"):
        BytePairTokenizer(VOCABULARY, MERGES, sequence_lenght=3)
    with pytest.raises(TypeError, match="sequence_lenght"):
        GPT2Tokenizer(VOCABULARY, MERGES, sequence_lenght=3)


def test_a_vocabulary_that_is_refused_leaves_the_old_one(gpt2):
    for vocabulary, merges in (({"a": 0}, []), (VOCABULARY, ["a"]), ("nowhere.json", MERGES)):
        with pytest.raises((ValueError, FileNotFoundError)):
            gpt2.set_vocabulary_and_merges(vocabulary, merges)
        assert gpt2("airplane") == [1, 3]


@pytest.mark.parametrize("cls", [BytePairTokenizer, GPT2Tokenizer])
def test_vocabulary_and_merges_may_be_set_later(cls):
    tokenizer = cls()
    uses = [
        lambda: tokenizer("air"),
        lambda: tokenizer.encode_plain("air"),
        lambda: tokenizer.detokenize([1]),
        lambda: tokenizer.stream_decoder(),
        lambda: tokenizer.get_vocabulary(),
        lambda: tokenizer.vocabulary_size(),
        lambda: tokenizer.id_to_token(1),
        lambda: tokenizer.token_to_id("air"),
        lambda: tokenizer.save_assets("nowhere"),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="has no vocabulary yet"):
            use()
    tokenizer.set_vocabulary_and_merges(VOCABULARY, MERGES)
    assert tokenizer("airplane") == [1, 3]
    tokenizer.set_vocabulary_and_merges({"a": 0, "<|endoftext|>": 1}, [])
    assert tokenizer("a") == [0]
    tokenizer.set_vocabulary_and_merges(None, None)
    with pytest.raises(ValueError, match="has no vocabulary yet"):
        tokenizer("air")


def test_assets_are_saved_and_loaded(tmp_path, tokenizer):
    tokenizer.save_assets(tmp_path / "new" / "folder")
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"vocabulary.json", "merges.txt"}
    loaded = BytePairTokenizer()
    loaded.load_assets(str(tmp_path / "new" / "folder"))
    assert loaded("airplane at airport") == [1, 3, 4, 2, 5]
    assert (loaded.vocabulary, loaded.merges) == (VOCABULARY, MERGES)


def test_the_vocabulary_can_be_asked_both_ways(tokenizer):
    assert tokenizer.get_vocabulary() == list(VOCABULARY)
    assert tokenizer.vocabulary_size() == 7
    assert tokenizer.id_to_token(2) == "Ġair"
    assert tokenizer.id_to_token(np.int32(2)) == "Ġair"
    assert tokenizer.token_to_id("Ġair") == 2


def test_an_unknown_id_or_token_is_refused(tokenizer):
    for wrong in (-1, 7, 10**12):
        with pytest.raises(ValueError, match=f"no token has the id {wrong}"):
            tokenizer.id_to_token(wrong)
    with pytest.raises(ValueError, match=r"' air' is not in the vocabulary.*byte alphabet"):
        tokenizer.token_to_id(" air")


# Back to text


def test_detokenize_takes_ids_lists_lists_of_lists_and_arrays(tokenizer):
    assert tokenizer.detokenize(2) == " air"
    assert tokenizer.detokenize([1, 3, 4, 2, 5]) == "airplane at airport"
    assert tokenizer.detokenize([[1, 3], [2], []]) == ["airplane", " air", ""]
    assert tokenizer.detokenize(((1, 3), (2,))) == ["airplane", " air"]
    assert tokenizer.detokenize([]) == ""
    assert tokenizer.detokenize([[]]) == [""]
    assert tokenizer.detokenize(np.int64(2)) == " air"
    assert tokenizer.detokenize(np.array(2)) == " air"
    assert tokenizer.detokenize(np.array([1, 3])) == "airplane"
    assert tokenizer.detokenize(np.array([[1, 3], [2, 5]])) == ["airplane", " airport"]
    assert tokenizer.detokenize([np.array([1, 3]), np.array([2])]) == ["airplane", " air"]
    assert tokenizer.detokenize([np.int32(1), np.int32(3)]) == "airplane"


@pytest.mark.parametrize(
    "wrong", [[[[1]]], np.zeros((1, 1, 1), int), "air", ["air"], 1.5, [1.5], [[1], 2], None]
)
def test_detokenize_refuses_everything_else(tokenizer, wrong):
    assert tokenizer.detokenize([1]) == "air"
    with pytest.raises(ValueError, match="to detokenize"):
        tokenizer.detokenize(wrong)


def test_whole_numbers_in_floats_are_ids(tokenizer):
    assert tokenizer.detokenize(np.array([[1, 3], [2, 5]], "float32")) == ["airplane", " airport"]
    assert tokenizer.detokenize([1.0, np.float32(3)]) == "airplane"
    assert tokenizer.detokenize(2.0) == " air"
    assert tokenizer.stream_decoder().push(np.float32(1)) == "air"
    assert tokenizer.id_to_token(np.float32(2)) == tokenizer.id_to_token(2.0) == "Ġair"
    for wrong in (1.5, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="id: wanted whole numbers"):
            tokenizer.id_to_token(wrong)
        with pytest.raises(ValueError, match="to detokenize"):
            tokenizer.detokenize([1, wrong])


def test_a_call_goes_both_ways(tokenizer):
    assert tokenizer("airplane", mode="tokenize") == tokenizer("airplane") == [1, 3]
    assert tokenizer([[1.0, 3.0]], mode="detokenize") == ["airplane"]
    for wrong in ("encode", None):
        with pytest.raises(ValueError, match='mode: wanted "tokenize" or "detokenize"'):
            tokenizer("airplane", mode=wrong)


def test_unknown_ids_detokenize_to_nothing(tokenizer):
    assert tokenizer.detokenize([1, -1, 99, 3]) == "airplane"
    assert tokenizer.detokenize(99) == ""


def test_special_tokens_stay_in_the_text(gpt2):
    assert gpt2.detokenize([6, 1, 6]) == "<|endoftext|>air<|endoftext|>"


def test_broken_utf8_becomes_replacement_characters():
    tokenizer = BytePairTokenizer(None, [])
    whole = tokenizer("é漢👍")
    assert tokenizer.detokenize(whole) == "é漢👍"
    assert tokenizer.detokenize(whole[:-1]) == "é漢\ufffd"
    assert tokenizer.detokenize(whole[1:]) == "\ufffd漢👍"


def test_any_text_survives_the_round_trip():
    tokenizer = GPT2Tokenizer(None, MERGES, unsplittable_tokens=["<|endoftext|>", "é", "a b"])
    draw = random.Random(5)
    alphabet = "ab é\n\u00a0漢👩\u200d👧\u0301\x00\x1cʼ'ſ<|endoftext|>\U0010ffff"
    for _ in range(500):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randrange(40)))
        assert tokenizer.detokenize(tokenizer(text)) == text
        assert tokenizer.detokenize(tokenizer.encode_plain(text)) == text


@pytest.mark.parametrize("text", ["\ud800", "air\udfff", "\ud83d \udc4d"])
def test_lone_surrogates_are_refused_with_their_place(tokenizer, text):
    index = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    place = rf"lone surrogate, U\+{ord(text[index]):04X}, at index {index}"
    for use in (tokenizer, tokenizer.encode_plain, lambda text: tokenizer(["air", text])):
        with pytest.raises(ValueError, match=place) as error:
            use(text)
        assert not isinstance(error.value, UnicodeError)
    assert tokenizer("\U0001f44d") == [-1] * 4  # a whole pair is one character


# Streaming


def decoded_in_pieces(tokenizer: BytePairTokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.stream_decoder()
    return [*(decoder.push(token_id) for token_id in ids), decoder.flush()]


def test_decode_holds_back_half_a_character():
    tokenizer = BytePairTokenizer(None, [])
    ids = tokenizer("a漢b")
    assert decoded_in_pieces(tokenizer, ids) == ["a", "", "", "漢", "b", ""]
    assert decoded_in_pieces(tokenizer, ids[:3]) == ["a", "", "", "\ufffd"]
    # The next byte shows that the character never ends.
    assert decoded_in_pieces(tokenizer, [*ids[:3], *ids[:1]]) == ["a", "", "", "\ufffda", ""]
    assert decoded_in_pieces(tokenizer, []) == [""]


def test_a_flushed_decoder_is_as_new():
    tokenizer = BytePairTokenizer(None, [])
    decoder = tokenizer.stream_decoder()
    first, *_ = tokenizer("漢")
    assert (decoder.push(first), decoder.flush(), decoder.flush()) == ("", "\ufffd", "")
    assert decoder.push(tokenizer("a")[0]) == "a"


def test_two_decoders_do_not_disturb_each_other():
    tokenizer = BytePairTokenizer(None, [])
    one, two = tokenizer.stream_decoder(), tokenizer.stream_decoder()
    ids = tokenizer("漢")
    assert [one.push(ids[0]), two.push(ids[0]), one.push(ids[1]), one.push(ids[2])] == [
        *("", "", "", "漢")
    ]
    assert two.flush() == "\ufffd"


def test_a_stream_skips_unknown_ids_and_shows_special_tokens(gpt2):
    assert decoded_in_pieces(gpt2, [2, -1, 99, 6]) == [" air", "", "", "<|endoftext|>", ""]


# The bytes at which UTF-8 decoding turns: ASCII, continuations, and every kind of lead byte.
BYTES = bytes.fromhex("41 80 8f 90 9f a0 bf c0 c2 e0 e1 ed f0 f1 f4 f5")


def test_a_stream_joined_is_what_python_decodes_for_any_bytes():
    tokenizer = BytePairTokenizer(None, [])
    ids = {byte: tokenizer.token_to_id(BYTE_TO_CHARACTER[byte]) for byte in BYTES}
    for length in range(5):
        for text in itertools.product(BYTES, repeat=length):
            pieces = decoded_in_pieces(tokenizer, [ids[byte] for byte in text])
            assert "".join(pieces) == bytes(text).decode("utf-8", "replace"), bytes(text)


def test_a_stream_of_random_ids_joined_is_the_text_of_all_at_once():
    draw = random.Random(6)
    tokenizer = BytePairTokenizer(None, ["Ã ©", "æ ¼", "Ġ Ã", "æ¼ ¢"])
    for _ in range(2000):
        ids = [draw.randrange(-1, 262) for _ in range(draw.randrange(12))]
        assert "".join(decoded_in_pieces(tokenizer, ids)) == tokenizer.detokenize(ids)


# GPT-2's own


def test_gpt2s_special_token_starts_and_ends_a_text(gpt2):
    assert gpt2("airplane<|endoftext|> at<|endoftext|>") == [1, 3, 6, 4, 6]
    assert gpt2.encode_plain("<|endoftext|>") == [-1] * 13
    assert (gpt2.start_token, gpt2.end_token) == ("<|endoftext|>", "<|endoftext|>")
    assert gpt2.start_token_id == gpt2.end_token_id == 6
    assert gpt2.pad_token_id == 0
    assert gpt2.special_tokens == ["<|endoftext|>"]
    assert gpt2.special_token_ids == [6]


def test_the_base_class_has_no_special_tokens(tokenizer):
    assert (tokenizer.special_tokens, tokenizer.special_token_ids) == ([], [])
    assert tokenizer("<|endoftext|>") == [-1] * 13


def test_a_gpt2_vocabulary_without_its_special_token_is_refused():
    with pytest.raises(ValueError, match=r"must hold '<\|endoftext\|>'"):
        GPT2Tokenizer({"a": 0, "b": 1}, [])
    assert GPT2Tokenizer({"a": 0, "<|endoftext|>": 1}, [])("a<|endoftext|>") == [0, 1]
    assert BytePairTokenizer({"a": 0, "b": 1}, [])("ab") == [0, 1]


def test_special_ids_before_a_vocabulary_is_set_are_refused():
    tokenizer = GPT2Tokenizer()
    for name in ("special_token_ids", "start_token_id", "end_token_id"):
        with pytest.raises(ValueError, match="has no vocabulary yet"):
            getattr(tokenizer, name)
    assert tokenizer.pad_token_id == 0
    tokenizer.set_vocabulary_and_merges(VOCABULARY, MERGES)
    assert tokenizer.end_token_id == 6


# Configuration


@pytest.mark.parametrize("cls", [BytePairTokenizer, GPT2Tokenizer])
def test_tokenizers_survive_a_round_trip_through_json(cls):
    tokenizer = cls(
        {**VOCABULARY, "Ġ": 7},
        MERGES,
        sequence_length=4,
        add_prefix_space=True,
        unsplittable_tokens=["<|endoftext|>", "at"],
        strict=False,
    )
    config = tokenizer.get_config()
    clone = cls.from_config(json.loads(json.dumps(config)))
    assert clone.get_config() == config
    for text in ("airplane at<|endoftext|>", "", "air?"):
        assert clone(text) == tokenizer(text)


def test_a_round_trip_before_the_vocabulary_is_set_leaves_it_to_be_set():
    clone = BytePairTokenizer.from_config(BytePairTokenizer(dtype="string").get_config())
    clone.set_vocabulary_and_merges(VOCABULARY, MERGES)
    assert clone("airplane") == ["air", "plane"]


def test_a_config_with_an_unknown_argument_is_a_type_error(tokenizer):
    with pytest.raises(TypeError, match="color"):
        BytePairTokenizer.from_config({**tokenizer.get_config(), "color": 1})


def test_the_arguments_of_every_keras_layer():
    assert BytePairTokenizer().name == "byte_pair_tokenizer"
    assert GPT2Tokenizer().name == "gpt2_tokenizer"
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "int64"}}
    tokenizer = GPT2Tokenizer(VOCABULARY, MERGES, name="words", trainable=False, dtype=policy)
    assert (tokenizer.name, tokenizer.trainable, tokenizer.dtype) == ("words", False, "int64")
    config = tokenizer.get_config()
    assert (config["name"], config["trainable"], config["dtype"]) == ("words", False, "int64")
    assert GPT2Tokenizer.from_config({**config, "dtype": policy}).get_config() == config
    policy["config"]["name"] = "float32"
    for wrong in (policy, {}, {"config": None}):
        with pytest.raises(ValueError, match="dtype: wanted"):
            GPT2Tokenizer(dtype=wrong)
    with pytest.raises(ValueError, match="name: wanted a string, got 5"):
        GPT2Tokenizer(name=5)
