"""The files in which a model folder's tokenizer can lie, into a GPT2Tokenizer.

merges.txt, with vocab.json where the ids don't follow from the merges, and added_tokens.json: what
OpenAI's release and Transformers up to 4 have. tokenizer.json alone: what Transformers 5 writes
(the format is that of https://github.com/huggingface/tokenizers). Added tokens, such as a
fine-tune's <|pad|>, are unsplittable: read where special tokens are, and plain text where somebody
typed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt2web.arguments import shown
from gpt2web.safetensors import CheckpointError, parse_json
from gpt2web.tokenizer import END_OF_TEXT, GPT2Tokenizer
from gpt2web.vocabulary import read_merges, vocabulary_of_merges

MAX_RULES = 160_000  # merges; mGPT, which has most, has 100,000
MAX_ADDED = 5_000  # tokens that a text is searched for, each at each place

# What a byte-level BPE of GPT-2's kind says in model and pre_tokenizer; missing is as the first.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
_BYTE_LEVEL: dict[str, tuple[Any, ...]] = {"type": ("ByteLevel",), "use_regex": (True,)}
_ADDED: dict[str, tuple[Any, ...]] = {
    "lstrip": (False,),
    "rstrip": (False,),
    "single_word": (False,),
}


def from_merges(
    where: str, merges: str, vocabulary: str | None, added: str | None
) -> GPT2Tokenizer:
    """The tokenizer of merges.txt, vocab.json and added_tokens.json, as texts."""
    _limit(f"{where}/merges.txt", "merges", merges.count("\n"), MAX_RULES)
    rules = merges.split("\n")
    try:
        pairs = read_merges(rules)
    except ValueError as error:
        raise CheckpointError(f"{where}/merges.txt: {error}") from None
    ids = (
        vocabulary_of_merges(pairs, [END_OF_TEXT])
        if vocabulary is None
        else _ids(f"{where}/vocab.json", parse_json(f"{where}/vocab.json", vocabulary))
    )
    at = f"{where}/added_tokens.json"
    tokens = {} if added is None else _ids(at, parse_json(at, added))
    source = f"{where}/{'merges.txt' if vocabulary is None else 'vocab.json'}"
    return _made(source, at, ids, rules, tokens)


def from_tokenizer_json(where: str, text: str) -> GPT2Tokenizer:
    """The tokenizer of a tokenizer.json. CheckpointError: it is of another kind than GPT-2's, by
    what it has."""
    fields = parse_json(where, text)
    model = fields.get("model") if isinstance(fields, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{where}: wanted an object with a model, got {text[:60]!r}")
    _check(f"{where}: model", model, _PLAIN)
    if fields.get("normalizer") is not None:
        raise CheckpointError(
            f"{where}: wanted no normalizer, as GPT-2 has none, got {_kind(fields['normalizer'])}",
            code="checkpoint-unsupported",
        )
    splitter = fields.get("pre_tokenizer")
    if not isinstance(splitter, dict):
        raise CheckpointError(
            f"{where}: wanted pre_tokenizer ByteLevel, got {shown(splitter)}",
            code="checkpoint-unsupported",
        )
    _check(f"{where}: pre_tokenizer", splitter, _BYTE_LEVEL)
    rules = _list(where, model, "merges")
    _limit(where, "merges", len(rules), MAX_RULES)
    ids = _ids(f"{where}: model.vocab", model.get("vocab"))
    added: dict[str, Any] = {}
    for token in _list(where, fields, "added_tokens", default=[]):
        if not (isinstance(token, dict) and isinstance(token.get("content"), str)):
            raise CheckpointError(
                f"{where}: added_tokens: wanted content and id, got {shown(token)}"
            )
        _check(f"{where}: added token {shown(token['content'])}", token, _ADDED)
        added[token["content"]] = token.get("id")
    at = f"{where}: added_tokens"
    return _made(
        where,
        at,
        ids,
        [_rule(where, rule) for rule in rules],
        _ids(at, added),
        add_prefix_space=splitter.get("add_prefix_space") is True,
    )


def _made(
    source: str,
    at: str,
    ids: dict[str, int],
    rules: list[str],
    added: dict[str, int],
    add_prefix_space: bool = False,
) -> GPT2Tokenizer:
    """The tokenizer of a vocabulary and tokens that `at` adds to it."""
    tokens = {token_id: token for token, token_id in ids.items()}
    if len(tokens) < len(ids):
        twice = next(token for token, token_id in ids.items() if tokens[token_id] != token)
        raise CheckpointError(
            f"{source}: {shown(twice)} and {shown(tokens[ids[twice]])} have one id, {ids[twice]}"
        )
    for token, token_id in added.items():
        if token.encode("utf-8", "replace").decode() != token:
            raise CheckpointError(f"{at}: {token!r} is not text: it has a lone surrogate")
        if (
            ids.get(token, token_id) != token_id
            or tokens.get(token_id, token) != token
            or not token
        ):
            raise CheckpointError(
                f"{at}: {shown(token)} cannot be {token_id}: in the vocabulary it is "
                f"{ids.get(token)}, and {token_id} is {shown(tokens.get(token_id))}"
            )
        tokens[token_id] = token
    _limit(at, "added tokens", len(added), MAX_ADDED)
    special = list(dict.fromkeys([END_OF_TEXT, *added]))
    try:
        return GPT2Tokenizer(
            ids | added, rules, add_prefix_space=add_prefix_space, unsplittable_tokens=special
        )
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _check(where: str, fields: Mapping[str, Any], wanted: dict[str, tuple[Any, ...]]) -> None:
    for key, values in wanted.items():
        value = fields.get(key, values[0])
        if value not in values:
            raise CheckpointError(
                f"{where}: wanted {key} {values[0]!r}, as in GPT-2's tokenizer, got {shown(value)}",
                code="checkpoint-unsupported",
            )


def _limit(where: str, what: str, count: int, most: int) -> None:
    if count > most:
        raise CheckpointError(
            f"{where}: wanted at most {most:,} {what}, got {count:,}", code="checkpoint-unsupported"
        )


def _kind(part: object) -> str:
    return shown(part.get("type")) if isinstance(part, dict) else shown(part)


def _list(where: str, fields: Mapping[str, Any], key: str, default: Any = None) -> list[Any]:
    value = fields.get(key, default)
    if not isinstance(value, list):
        raise CheckpointError(f"{where}: wanted a list as {key}, got {shown(value)}")
    return value


def _rule(where: str, rule: object) -> str:
    """A merge as "left right": it is written so, or as [left, right]."""
    match rule:
        case str(text):
            return text
        case [str(left), str(right)] if " " not in left + right:
            return f"{left} {right}"
    raise CheckpointError(
        f"{where}: merges: wanted 'left right' or [left, right], got {shown(rule)}"
    )


def _ids(where: str, ids: object) -> dict[str, int]:
    if not isinstance(ids, dict):
        raise CheckpointError(f"{where}: wanted an object of token -> id, got {shown(ids)}")
    for token, token_id in ids.items():
        if type(token_id) is not int or not 0 <= token_id < 2**31:
            raise CheckpointError(f"{where}: {shown(token)}: wanted an id, got {shown(token_id)}")
    return ids
