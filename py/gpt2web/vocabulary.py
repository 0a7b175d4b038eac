"""Vocabularies and merges, from Python values or from files, checked."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2web.arguments import shown, whole_number
from gpt2web.bpe import BYTE_TO_CHARACTER

Vocabulary = Mapping[str, int] | str | os.PathLike[str]
Merges = Iterable[str] | str | os.PathLike[str]


def vocabulary_of_merges(
    merges: Iterable[tuple[str, str]], special_tokens: Iterable[str]
) -> dict[str, int]:
    """The vocabulary that follows from merges: the bytes, what each merge makes, special tokens.

    With GPT-2's merges and `<|endoftext|>` this is its vocab.json.
    """
    made = (left + right for left, right in merges)
    tokens = dict.fromkeys([*BYTE_TO_CHARACTER.values(), *made, *special_tokens])
    return {token: token_id for token_id, token in enumerate(tokens)}


def read_vocabulary(vocabulary: Vocabulary) -> dict[str, int]:
    """token -> id, copied. ValueError: anything but strings -> whole numbers of 0 or more."""
    name = "vocabulary"
    table: Any = vocabulary
    if isinstance(vocabulary, str | os.PathLike):
        name = f"vocabulary {os.fspath(vocabulary)}"
        with open(vocabulary, encoding="utf-8") as file:
            table = json.load(file)
    if not isinstance(table, Mapping):
        raise ValueError(
            f"{name}: wanted a dict of token -> id, or the path of a JSON file of one, "
            f"got {type(table).__name__}"
        )
    for token in table:
        if not isinstance(token, str):
            raise ValueError(f"{name}: wanted strings as tokens, got {token!r}")
    return {
        token: whole_number(token_id, f"{name}, id of {shown(token)}", minimum=0)
        for token, token_id in table.items()
    }


def read_merges(merges: Merges) -> list[tuple[str, str]]:
    """The rules as (left, right). ValueError: a rule that isn't two parts with a space between."""
    name = "merges"
    rules: Iterable[Any]
    if isinstance(merges, str | os.PathLike):
        name = f"merges {os.fspath(merges)}"
        rules = Path(merges).read_text(encoding="utf-8").split("\n")
    elif isinstance(merges, Iterable):
        rules = merges
    else:
        raise ValueError(
            f"{name}: wanted a list of rules or the path of a file, got {type(merges).__name__}"
        )
    pairs = []
    for number, rule in enumerate(rules, 1):
        if not isinstance(rule, str):
            raise ValueError(
                f"{name}, rule {number}: wanted a string 'left right', got {shown(rule)}"
            )
        rule = rule.strip()
        if not rule or rule.startswith("#version:"):
            continue
        left, _, right = rule.partition(" ")
        if not right or " " in right:
            raise ValueError(f"{name}, rule {number}: wanted 'left right', got {shown(rule)}")
        pairs.append((left, right))
    return pairs
