"""Tokenizers: text to token ids and back, under KerasHub's names, with OpenAI's ids.

Plain lists go out: a text gives a flat list, a list of texts a list of lists. Where the ancestors
differ, a piece outside the vocabulary is -1 and an id outside it decodes to nothing.

Sources: encoder.py of openai/gpt-2 for the ids, byte_pair_tokenizer.py and gpt2_tokenizer.py of
keras-hub for the classes.
"""

import codecs
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from gpt2web.arguments import KerasArguments, dtype_name, to_lists, to_rows, whole_id, whole_number
from gpt2web.bpe import BytePairEncoder, from_byte_alphabet
from gpt2web.vocabulary import (
    Merges,
    Vocabulary,
    read_merges,
    read_vocabulary,
    vocabulary_of_merges,
)

END_OF_TEXT = "<|endoftext|>"
VOCABULARY_FILE = "vocabulary.json"
MERGES_FILE = "merges.txt"


class BytePairTokenizer(KerasArguments):
    """Byte-level byte-pair encoding with any vocabulary.

    Args:
        vocabulary: token -> id as a dict, or the path of a JSON file of it, or None: it then
            follows from the merges (the 256 bytes, the merges in their order, `<|endoftext|>`,
            then unsplittable tokens that aren't in it yet), which gives GPT-2's vocab.json exactly.
        merges: "left right" rules, the strongest first, or the path of a file with one on each
            line. Lines that start with "#version:" and empty lines are skipped. With None nothing
            is set; call `set_vocabulary_and_merges` or `load_assets` later.
        sequence_length: every text gives so many ids: cut on the right, or padded there with
            `pad_token_id` (0 where there is none; "" when the dtype is "string").
        add_prefix_space: put one space before every text.
        unsplittable_tokens: strings found before anything is split, the longest first, that give
            one id each. None means the class's own special tokens.
        dtype: "int32" or another integer type for ids, "string" for the tokens themselves.
        strict: refuse merges whose parts aren't in the vocabulary.
        name, trainable: kept in the config, as of every Keras layer.

    >>> tokenizer = BytePairTokenizer({"but": 0, "ter": 1}, ["b u", "bu t", "t e", "te r"])
    >>> tokenizer(["butter", "butte"])
    [[0, 1], [0, -1]]
    >>> tokenizer.detokenize([0, 1])
    'butter'
    """

    _special_tokens: tuple[str, ...] = ()

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,
        merges: Merges | None = None,
        sequence_length: int | None = None,
        add_prefix_space: bool = False,
        unsplittable_tokens: Iterable[str] | None = None,
        dtype: Any = "int32",
        strict: bool = False,
        *,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name, trainable)
        if unsplittable_tokens is None:
            unsplittable_tokens = self._special_tokens
        elif isinstance(unsplittable_tokens, str):
            raise ValueError(
                f"unsplittable_tokens: wanted a list of strings, got {unsplittable_tokens!r}"
            )
        if sequence_length is not None:
            sequence_length = whole_number(sequence_length, "sequence_length")
        self.sequence_length = sequence_length
        self.add_prefix_space = bool(add_prefix_space)
        self.unsplittable_tokens = list(unsplittable_tokens)
        self.dtype = _dtype_name(dtype)
        self.strict = bool(strict)
        self._unsplittable = _any_of(self.unsplittable_tokens)
        self.vocabulary: dict[str, int] | None = None
        self.merges: list[str] | None = None
        self.set_vocabulary_and_merges(vocabulary, merges)

    # Vocabulary

    def set_vocabulary_and_merges(
        self, vocabulary: Vocabulary | None, merges: Merges | None
    ) -> None:
        """Set both, as in the constructor; merges of None clear both.

        ValueError: a rule that isn't two parts, a vocabulary that isn't token -> id, one without
        the special tokens, or (strict) one without every part of the merges. What was set before
        then stays.
        """
        if merges is None:
            self.vocabulary = self.merges = None
            return
        pairs = read_merges(merges)
        if vocabulary is None:
            ids = vocabulary_of_merges(pairs, [END_OF_TEXT, *self.unsplittable_tokens])
        else:
            ids = read_vocabulary(vocabulary)
        for token in self._special_tokens:
            if token not in ids:
                raise ValueError(
                    f"the vocabulary of a {type(self).__name__} must hold {token!r}, and this one "
                    f"of {len(ids)} tokens doesn't; add it, or use BytePairTokenizer"
                )
        if self.strict:
            for pair in pairs:
                for part in pair:
                    if part not in ids:
                        raise ValueError(
                            f"merge rule {' '.join(pair)!r}: {part!r} is not in the vocabulary; "
                            "add it, or pass strict=False"
                        )
        self.vocabulary = ids
        self.merges = [f"{left} {right}" for left, right in pairs]
        self._encoder = BytePairEncoder(pairs)
        self._tokens: dict[int, str] = {}
        for token, token_id in ids.items():
            self._tokens.setdefault(token_id, token)
        self._bytes: dict[int, bytes] = {}
        self._id_count = 1 + max(ids.values(), default=-1)

    def save_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Write vocabulary.json and merges.txt into a folder, which is made if it isn't there."""
        vocabulary, merges = self._ids(), self.merges or []
        folder = Path(dir_path)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(vocabulary, ensure_ascii=False)
        (folder / VOCABULARY_FILE).write_text(text, encoding="utf-8")
        text = "".join(f"{rule}\n" for rule in merges)
        (folder / MERGES_FILE).write_text(text, encoding="utf-8")

    def load_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Set vocabulary and merges from the two files of `save_assets`."""
        folder = Path(dir_path)
        self.set_vocabulary_and_merges(folder / VOCABULARY_FILE, folder / MERGES_FILE)

    def get_vocabulary(self) -> list[str]:
        """All tokens, in the vocabulary's own order."""
        return list(self._ids())

    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return len(self._ids())

    def id_count(self) -> int:
        """How many embeddings a model needs for it: one more than the largest id."""
        self._ids()
        return self._id_count

    def id_to_token(self, id: int) -> str:
        """The token with this id, in the byte alphabet. ValueError when there is none."""
        vocabulary = self._ids()
        if (token := self._tokens.get(whole_id(id, "id"))) is None:
            raise ValueError(f"no token has the id {id}; the vocabulary has {len(vocabulary)}")
        return token

    def token_to_id(self, token: str) -> int:
        """The id of a token in the byte alphabet ("Ġthe"). ValueError when there is none."""
        if (token_id := self._ids().get(token)) is None:
            raise ValueError(
                f"{token!r} is not in the vocabulary; tokens are written in the byte alphabet, "
                "where a space is 'Ġ'"
            )
        return token_id

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens the class declares."""
        return list(self._special_tokens)

    @property
    def special_token_ids(self) -> list[int]:
        """Their ids. ValueError before a vocabulary is set."""
        return [self.token_to_id(token) for token in self._special_tokens]

    def _ids(self) -> dict[str, int]:
        if self.vocabulary is None:
            raise ValueError(
                f"this {type(self).__name__} has no vocabulary yet: pass merges (and vocabulary) "
                "to the constructor or to set_vocabulary_and_merges(), or call load_assets()"
            )
        return self.vocabulary

    # Text to ids

    def __call__(self, inputs: Any, mode: str = "tokenize") -> Any:
        """The same as `tokenize`, or with mode="detokenize" as `detokenize`."""
        if mode not in ("tokenize", "detokenize"):
            raise ValueError(f'mode: wanted "tokenize" or "detokenize", got {mode!r}')
        return self.tokenize(inputs) if mode == "tokenize" else self.detokenize(inputs)

    def tokenize(self, inputs: Any) -> list[Any]:
        """The ids of a text (a flat list), or of every text of a list or 1-D array of them.

        ValueError: anything else, and texts with lone surrogates.
        """
        vocabulary = self._ids()
        texts = to_lists(inputs)
        batched = isinstance(texts, list)
        if not batched:
            texts = [texts]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"wanted a string or a list of strings to tokenize, got {inputs!r}")
        rows: list[list[Any]] = []
        for text in texts:
            row: list[Any] = self._split(self._prefixed(text))
            if self.dtype != "string":
                row = [vocabulary.get(token, -1) for token in row]
            rows.append(self._fitted(row))
        return rows if batched else rows[0]

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a text that somebody typed: nothing in it is special, nothing cut or padded.

        ValueError: anything but a string, and lone surrogates.
        """
        vocabulary = self._ids()
        if not isinstance(text, str):
            raise ValueError(f"wanted a string to encode, got {text!r}")
        pieces = self._encoder.encode(self._prefixed(text))
        return [vocabulary.get(piece, -1) for piece in pieces]

    def _prefixed(self, text: str) -> str:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text is not valid Unicode: it has a lone surrogate, "
                f"U+{ord(text[error.start]):04X}, at index {error.start}; replace it, for example "
                "with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
        return " " + text if self.add_prefix_space else text

    def _split(self, text: str) -> list[str]:
        if self._unsplittable is None:
            return self._encoder.encode(text)
        tokens: list[str] = []
        # The pattern is one group, so split() gives text, token, text, token, ..., text.
        for i, part in enumerate(self._unsplittable.split(text)):
            if i % 2:
                tokens.append(part)
            else:
                tokens += self._encoder.encode(part)
        return tokens

    def _fitted(self, row: list[Any]) -> list[Any]:
        if self.sequence_length is None:
            return row
        pad = "" if self.dtype == "string" else getattr(self, "pad_token_id", 0)
        return row[: self.sequence_length] + [pad] * (self.sequence_length - len(row))

    # Ids to text

    def detokenize(self, inputs: Any) -> Any:
        """The text of an id or a list of ids; a list of texts for a list of lists.

        Arrays of up to two dimensions do as well, and whole numbers as floats. Bytes that aren't
        UTF-8 become U+FFFD, ids outside the vocabulary nothing. ValueError: anything else.
        """
        self._ids()
        ids = to_lists(inputs)
        rows, batched = to_rows(ids if isinstance(ids, list) else [ids], "ids to detokenize")
        texts = [b"".join(map(self._id_bytes, row)).decode("utf-8", "replace") for row in rows]
        return texts if batched else texts[0]

    def stream_decoder(self) -> "StreamDecoder":
        """A decoder for ids that come one at a time."""
        self._ids()
        return StreamDecoder(self)

    def id_to_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of an id, which may be part of a character; none for an id outside the
        vocabulary. ValueError: anything but a whole number."""
        self._ids()
        return self._id_bytes(token_id)

    def _id_bytes(self, token_id: int) -> bytes:
        token_id = whole_id(token_id, "ids to detokenize")
        known = self._bytes.get(token_id)
        if known is None:
            if (token := self._tokens.get(token_id)) is None:
                return b""
            # An unsplittable token was never written in the byte alphabet.
            plain = token in self.unsplittable_tokens
            known = self._bytes[token_id] = (
                token.encode("utf-8", "replace") if plain else from_byte_alphabet(token)
            )
        return known

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, vocabulary and merges among them, fit for JSON."""
        return {
            "vocabulary": None if self.vocabulary is None else dict(self.vocabulary),
            "merges": None if self.merges is None else list(self.merges),
            "sequence_length": self.sequence_length,
            "add_prefix_space": self.add_prefix_space,
            "unsplittable_tokens": list(self.unsplittable_tokens),
            "dtype": self.dtype,
            "strict": self.strict,
            **super().get_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A tokenizer from `get_config`. TypeError: an argument it doesn't know."""
        return cls(**config)


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's tokenizer: `<|endoftext|>` is special and both starts and ends a text.

    Args: those of BytePairTokenizer. ValueError: a vocabulary without `<|endoftext|>`.

    >>> tokenizer = GPT2Tokenizer(None, ["t h", "th e"])
    >>> tokenizer("the<|endoftext|>"), tokenizer.end_token_id
    ([257, 258], 258)
    """

    _special_tokens = (END_OF_TEXT,)
    start_token = END_OF_TEXT
    end_token = END_OF_TEXT
    pad_token_id = 0  # a real token, "!": masks say what is padding

    def __init__(
        self, vocabulary: Vocabulary | None = None, merges: Merges | None = None, **kwargs: Any
    ) -> None:
        super().__init__(vocabulary, merges, **kwargs)

    @property
    def start_token_id(self) -> int:
        """The id of `<|endoftext|>`. ValueError before a vocabulary is set."""
        return self.token_to_id(self.start_token)

    @property
    def end_token_id(self) -> int:
        """The id of `<|endoftext|>`. ValueError before a vocabulary is set."""
        return self.token_to_id(self.end_token)


class StreamDecoder:
    """Decodes ids as they come, and holds back a character until all its bytes have come.

    What `push` and `flush` give is, joined, exactly the text of all ids at once.
    """

    def __init__(self, tokenizer: BytePairTokenizer) -> None:
        self._id_bytes = tokenizer._id_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that are complete with this id; broken bytes as U+FFFD."""
        return self._decoder.decode(self._id_bytes(token_id))

    def flush(self) -> str:
        """What was held back, as U+FFFD, or ""; the decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _dtype_name(dtype: Any) -> str:
    name = dtype_name(dtype)
    if name in ("str", "string"):
        return "string"
    if name is None or not re.fullmatch(r"u?int(8|16|32|64)?", name):
        raise ValueError(f'dtype: wanted an integer type or "string", got {dtype!r}')
    return name


def _any_of(tokens: list[str]) -> re.Pattern[str] | None:
    for token in tokens:
        if not isinstance(token, str) or not token:
            raise ValueError(f"unsplittable_tokens: wanted non-empty strings, got {token!r}")
    longest_first = sorted(set(tokens), key=lambda token: (-len(token), token))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if tokens else None
