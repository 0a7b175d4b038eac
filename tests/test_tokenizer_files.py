"""A folder's tokenizer, from whichever files there are: the ids are Transformers' own, recorded,
and what is of another kind is refused by what it has."""

import asyncio
import copy
import json
from pathlib import Path

import pytest

from gpt2web.checkpoint import CheckpointError, LocalFolder
from gpt2web.config import GPT2Config
from gpt2web.preset import is_padded, read_tokenizer
from gpt2web.safetensors import MAX_TEXT_BYTES
from gpt2web.tokenizer import END_OF_TEXT, GPT2Tokenizer
from gpt2web.tokenizer_files import from_tokenizer_json

RECORDED = json.loads((Path(__file__).parent / "data/tokenizers.json").read_text("utf-8"))
SIZES = {"plain": 337, "added": 340}  # 256 bytes, 80 merges, <|endoftext|>; and three more


def config(size):
    return GPT2Config(size, 1, 1, 4, 4)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    return path


def read(folder, size):
    return asyncio.run(read_tokenizer(LocalFolder(folder), config(size)))


def put_json(folder, kind):
    text = json.dumps(RECORDED[kind]["tokenizer.json"])
    (folder / "tokenizer.json").write_text(text)


def put_parts(folder, kind, vocabulary=True):
    """The same as Transformers 4 writes it."""
    fields = RECORDED[kind]["tokenizer.json"]
    merges = [" ".join(pair) for pair in fields["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    ids = fields["model"]["vocab"]
    if vocabulary:
        (folder / "vocab.json").write_text(json.dumps(ids))
    added = {t["content"]: t["id"] for t in fields["added_tokens"] if t["content"] not in ids}
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added))


@pytest.mark.parametrize("kind", ["plain", "added"])
@pytest.mark.parametrize("form", ["tokenizer.json", "strings", "vocab.json", "merges.txt"])
def test_every_form_gives_the_ids_of_transformers(folder, kind, form):
    if form == "tokenizer.json":
        put_json(folder, kind)
    elif form == "strings":  # as its older versions wrote merges
        fields = copy.deepcopy(RECORDED[kind]["tokenizer.json"])
        fields["model"]["merges"] = [" ".join(pair) for pair in fields["model"]["merges"]]
        (folder / "tokenizer.json").write_text(json.dumps(fields))
    else:
        put_parts(folder, kind, vocabulary=form == "vocab.json")
    tokenizer = read(folder, SIZES[kind])
    assert tokenizer.vocabulary_size() == SIZES[kind]
    assert len(RECORDED["texts"]) > 5
    for text, ids in zip(RECORDED["texts"], RECORDED[kind]["ids"], strict=True):
        assert tokenizer.tokenize(text) == ids
        assert tokenizer.detokenize(ids) == text
        assert tokenizer.vocabulary_size() > max(tokenizer.encode_plain(text), default=0)


def test_added_tokens_are_plain_text_where_somebody_typed_them(folder):
    put_json(folder, "added")
    tokenizer = read(folder, 340)
    text = "the<|pad|> dragonfly"
    assert {337, 338} <= set(tokenizer.tokenize(text))
    typed = tokenizer.encode_plain(text)
    assert max(typed) < 337 and tokenizer.detokenize(typed) == text
    again = GPT2Tokenizer.from_config(tokenizer.get_config())
    assert again.tokenize(text) == tokenizer.tokenize(text)


def test_the_ids_are_the_vocabularys_not_the_merges_order(folder):
    put_parts(folder, "plain")
    ids = json.loads((folder / "vocab.json").read_text())
    turned = {token: 336 - token_id for token, token_id in ids.items()}
    (folder / "vocab.json").write_text(json.dumps(turned))
    assert read(folder, 337).tokenize("a<|endoftext|>") == [336 - ids["a"], 0]


# ---- a vocabulary that was rounded up ------------------------------------------------------------


@pytest.mark.parametrize("size", [337, 344, 352, 384, 512, 1024])
def test_a_rounded_up_vocabulary_has_ids_without_text(folder, size):
    put_json(folder, "plain")
    tokenizer = read_with_end(folder, size, 336)
    assert tokenizer.vocabulary_size() == 337
    assert tokenizer.detokenize([64, *range(337, size), 65]) == "ab"


def read_with_end(folder, size, end):
    (folder / "config.json").write_text(json.dumps({"eos_token_id": end}))
    return read(folder, size)


@pytest.mark.parametrize("size", [336, 256, 338, 400, 1088, 2048])
def test_the_tokenizer_of_another_model_is_refused_with_both_numbers(folder, size):
    put_json(folder, "plain")
    message = f"tokenizer.json has 337 tokens, config.json says vocab_size {size:,}: the two"
    with pytest.raises(CheckpointError, match=message):
        read_with_end(folder, size, 336)


def test_a_tokenizer_that_was_cut_short_is_no_rounded_up_vocabulary(folder):
    put_parts(folder, "plain", vocabulary=False)
    read_with_end(folder, 352, 336)
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[:-2]), encoding="utf-8")
    message = r"merges.txt makes <\|endoftext\|> as 334, config.json says eos_token_id 336"
    with pytest.raises(CheckpointError, match=message):
        read_with_end(folder, 352, 336)


def test_what_rounding_explains():
    assert all(is_padded(50257, size) for size in (50257, 50264, 50304, 50432, 51200))
    assert not any(is_padded(50257, size) for size in (50256, 50258, 50300, 50368, 52224))
    assert is_padded(50304, 50304) and not is_padded(50305, 50304)


# ---- tokenizers of another kind ------------------------------------------------------------------


def changed(path, value):
    """The recorded tokenizer.json with another value at "model.type" or the like."""
    fields = copy.deepcopy(RECORDED["added"]["tokenizer.json"])
    part = fields
    *way, last = path.split(".")
    for key in way:
        part = part[int(key) if key.isdecimal() else key]
    part[last] = value
    return fields


OTHERS = {
    "WordPiece": ("model.type", "WordPiece", "model: wanted type 'BPE', .* got 'WordPiece'"),
    "Unigram": ("model.type", "Unigram", "model: wanted type 'BPE', .* got 'Unigram'"),
    "a normalizer": (
        "normalizer",
        {"type": "NFC"},
        "wanted no normalizer, as GPT-2 has none, got 'NFC'",
    ),
    "another splitter": (
        "pre_tokenizer",
        {"type": "Sequence", "pretokenizers": []},
        "pre_tokenizer: wanted type 'ByteLevel', .* got 'Sequence'",
    ),
    "no splitter": ("pre_tokenizer", None, "wanted pre_tokenizer ByteLevel, got None"),
    "another pattern": ("pre_tokenizer.use_regex", False, "pre_tokenizer: wanted use_regex True"),
    "dropout": ("model.dropout", 0.1, r"model: wanted dropout None, .* got 0\.1"),
    "a suffix": ("model.end_of_word_suffix", "</w>", "model: wanted end_of_word_suffix None"),
    "byte fallback": ("model.byte_fallback", True, "model: wanted byte_fallback False"),
    "whole words": ("model.ignore_merges", True, "model: wanted ignore_merges False"),
    "no model": ("model", [], "wanted an object with a model"),
    "no vocabulary": ("model.vocab", ["a"], r"model.vocab: wanted an object of token -> id"),
    "no id": ("model.vocab", {"a": 0.0}, r"model\.vocab: 'a': wanted an id, got 0\.0"),
    "a negative id": ("model.vocab", {"a": -1}, r"model\.vocab: 'a': wanted an id, got -1"),
    "a huge id": ("model.vocab", {"a": 2**31}, r"model\.vocab: 'a': wanted an id"),
    "one id twice": ("model.vocab", {"a": 0, "b": 0}, "'a' and 'b' have one id, 0"),
    "no end": ("model.vocab", {"a": 0}, None),
    "no merges": ("model.merges", None, "wanted a list as merges, got None"),
    "a merge of three": ("model.merges", ["a b c"], "wanted 'left right', got 'a b c'"),
    "a merge with a space": ("model.merges", [["a ", "b"]], "merges: wanted 'left right' or"),
    "a merge of one": ("model.merges", [["a"]], r"merges: wanted .* got \['a'\]"),
    "a token that takes spaces": (
        "added_tokens.1.lstrip",
        True,
        r"added token '<\|pad\|>': wanted lstrip False, .* got True",
    ),
    "a token in another's place": ("added_tokens.1.id", 5, r"'<\|pad\|>' cannot be 5: .* 5 is '&'"),
    "an end in another place": (
        "added_tokens.0.id",
        400,
        r"'<\|endoftext\|>' cannot be 400: in the vocabulary it is 336",
    ),
    "half a character": ("added_tokens.1.content", "\ud800", "is not text: it has a lone surrog"),
    "an empty token": ("added_tokens.1.content", "", "'' cannot be 337"),
    "no token": ("added_tokens.1", None, "added_tokens: wanted content and id"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_tokenizer_of_another_kind_is_refused_by_what_it_has(case):
    assert from_tokenizer_json("tiny/tokenizer.json", json.dumps(changed("version", "1.0")))
    path, value, message = OTHERS[case]
    fields = changed(path, value) if not path[-1].isdecimal() else changed("version", "1.0")
    if path[-1].isdecimal():
        fields["added_tokens"][1] = value
    if case == "no end":
        fields["added_tokens"] = []
        message = r"must hold '<\|endoftext\|>'"
    with pytest.raises(CheckpointError, match=f"tiny/tokenizer.json: .*{message}"):
        from_tokenizer_json("tiny/tokenizer.json", json.dumps(fields))


def test_older_files_say_less():
    fields = changed("version", "1.0")
    for key in ("type", "dropout", "byte_fallback", "ignore_merges"):
        del fields["model"][key]
    del fields["pre_tokenizer"]["use_regex"], fields["normalizer"]
    tokenizer = from_tokenizer_json("tiny", json.dumps(fields))
    assert tokenizer.tokenize(RECORDED["texts"][2]) == RECORDED["added"]["ids"][2]
    spaced = from_tokenizer_json(
        "tiny", json.dumps(changed("pre_tokenizer.add_prefix_space", True))
    )
    assert spaced.tokenize("the") == tokenizer.tokenize(" the")


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("vocab.json", "[]", "tiny/vocab.json: wanted an object of token -> id"),
        ("vocab.json", "{", "tiny/vocab.json: wanted JSON"),
        ("vocab.json", '{"a": 0, "a": 1}', "tiny/vocab.json: a is listed twice"),
        ("added_tokens.json", '{"a": 5}', r"tiny/added_tokens.json: 'a' cannot be 5"),
        ("added_tokens.json", '{"x": "y"}', "tiny/added_tokens.json: 'x': wanted an id, got 'y'"),
        ("merges.txt", "t h e", "tiny/merges.txt: merges, rule 1: wanted 'left right'"),
    ],
)
def test_a_part_that_is_not_right_is_named(folder, file, text, message):
    put_parts(folder, "added")
    assert END_OF_TEXT in read(folder, 340).unsplittable_tokens
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read(folder, 340)


def test_a_text_of_more_than_16_mb_is_refused_before_it_is_read(folder):
    path = folder / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    with pytest.raises(CheckpointError, match="at most 16,000,000 bytes, got 16,000,001"):
        read(folder, 337)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no merges\.txt, and no tokenizer\.json"):
        read(folder, 337)
    put_json(folder, "plain")
    assert read(folder, 337).vocabulary_size() == 337
