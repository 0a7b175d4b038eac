"""Byte-level byte-pair encoding: a text into words, a word into pieces, and pieces back into bytes.

This is the arithmetic of encoder.py in openai/gpt-2 and nothing else: it knows no ids, no special
tokens and no files (those are in tokenizer.py). Inside a vocabulary every byte is one printable
character, so that a piece is ordinary text: the space is "Ġ", the newline "Ċ".

>>> to_byte_alphabet(" a\\n")
'ĠaĊ'
"""

import heapq
import itertools
import re
from collections.abc import Iterable
from functools import cache

from gpt2web.unicode_table import LETTERS, NUMBERS

# Unicode's White_Space, which is `\s` for OpenAI; Python's own `\s` adds U+001C to U+001F.
WHITE_SPACE = "9-D 20 85 A0 1680 2000-200A 2028-2029 202F 205F 3000"

# In the order of GPT-2's ids 0 to 255: first the bytes that are printable themselves.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)
}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}

# Words are cached; this keeps a cache in the page to a few MB.
MAX_CACHED_WORDS = 32_768
MAX_CACHED_LENGTH = 64  # in bytes; longer words hardly come twice


def to_byte_alphabet(text: str) -> str:
    """The UTF-8 bytes of `text`, one printable character each."""
    return text.encode("utf-8").decode("latin-1").translate(BYTE_TO_CHARACTER)


def from_byte_alphabet(piece: str) -> bytes:
    """The bytes that `piece` stands for; its UTF-8 if it isn't written in the byte alphabet."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in piece)
    except KeyError:
        return piece.encode("utf-8", "replace")


@cache
def word_pattern() -> re.Pattern[str]:
    r"""OpenAI's pattern, whose matches are the words that are merged each on its own.

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    """

    def members(ranges: str) -> str:
        ends = (word.split("-") for word in ranges.split())
        return "".join("-".join(rf"\U{int(end, 16):08x}" for end in pair) for pair in ends)

    letter, number, space = members(LETTERS), members(NUMBERS), members(WHITE_SPACE)
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        rf"|[{space}]+(?![^{space}])|[{space}]+"
    )


class BytePairEncoder:
    """Merges the bytes of every word of a text, lowest rank first, the leftmost on ties.

    `merges` are (left, right) pairs in the byte alphabet, the first of them with the lowest rank.
    A word of n bytes takes n log n steps: the pairs wait in a heap.
    """

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._cache: dict[str, list[str]] = {}

    def encode(self, text: str) -> list[str]:
        """The pieces of `text`, in the byte alphabet.

        >>> BytePairEncoder([("a", "n"), ("an", "an")]).encode("banana 7")
        ['b', 'anan', 'a', 'Ġ', '7']
        """
        pieces: list[str] = []
        cached = self._cache
        for word in word_pattern().findall(text):
            pieces += cached.get(word) or self._encode_word(word)
        return pieces

    def _encode_word(self, word: str) -> list[str]:
        symbols = list(to_byte_alphabet(word))
        n_bytes = len(symbols)
        pieces = self._merge(symbols)
        if n_bytes <= MAX_CACHED_LENGTH:
            if len(self._cache) >= MAX_CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = pieces
        return pieces

    def _merge(self, symbols: list[str]) -> list[str]:
        """Merge in place; a symbol that was merged into the one on its left becomes ""."""
        ranks = self._ranks
        n = len(symbols)
        after = list(range(1, n + 1))  # the next live symbol; n at the end
        before = list(range(-1, n - 1))
        waiting = [
            (ranks[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks
        ]
        heapq.heapify(waiting)
        while waiting:
            rank, i = heapq.heappop(waiting)
            j = after[i]
            if j == n or ranks.get((symbols[i], symbols[j])) != rank:
                continue  # one of the two has been merged with another since
            symbols[i] += symbols[j]
            symbols[j] = ""
            k = after[i] = after[j]
            if k < n:
                before[k] = i
                if (right := ranks.get((symbols[i], symbols[k]))) is not None:
                    heapq.heappush(waiting, (right, i))
            if (h := before[i]) >= 0 and (left := ranks.get((symbols[h], symbols[i]))) is not None:
                heapq.heappush(waiting, (left, h))
        return [symbol for symbol in symbols if symbol]
