"""Preprocessors: texts in, packed token ids and padding masks out; and for generation the way back.

Sources: gpt2_preprocessor.py and causal_lm_preprocessor.py of keras-hub. Different here:
`add_start_token=False` also holds for `generate_preprocess`.
"""

import itertools
import warnings
from collections.abc import Mapping
from typing import Any, Self

from gpt2web.arguments import KerasArguments, dtype_name, to_lists, to_rows, whole_number
from gpt2web.packer import StartEndPacker
from gpt2web.tokenizer import BytePairTokenizer, GPT2Tokenizer

TOKENIZERS = {cls.__name__: cls for cls in (BytePairTokenizer, GPT2Tokenizer)}


class GPT2Preprocessor(KerasArguments):
    """Tokenizes and packs texts into what a GPT2Backbone takes.

    Args:
        tokenizer: a GPT2Tokenizer.
        sequence_length: of the rows that come out; may be set later.
        add_start_token, add_end_token: put `<|endoftext|>` before and after every text.
        name, trainable: kept in the config, as of every Keras layer.
        dtype: any; ids are ints all the same.

    >>> tokenizer = GPT2Tokenizer({"!": 0, "a": 1, "<|endoftext|>": 2}, [])
    >>> GPT2Preprocessor(tokenizer, sequence_length=4)("a")
    {'token_ids': [2, 1, 2, 0], 'padding_mask': [True, True, True, False]}
    """

    def __init__(
        self,
        tokenizer: GPT2Tokenizer,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name, trainable)
        dtype_name(dtype)
        for attribute in ("start_token_id", "end_token_id", "pad_token_id"):
            if attribute not in dir(tokenizer):  # hasattr would ask for an id, perhaps not set yet
                raise ValueError(
                    f"tokenizer: wanted a GPT2Tokenizer, or one with start and end tokens, got "
                    f"{tokenizer!r} without {attribute}"
                )
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.add_start_token = bool(add_start_token)
        self.add_end_token = bool(add_end_token)

    @property
    def sequence_length(self) -> int:
        """The length of the rows that come out."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self._sequence_length = whole_number(value, "sequence_length")

    def __call__(
        self, x: Any, y: Any = None, sample_weight: Any = None, sequence_length: int | None = None
    ) -> Any:
        """Pack a text or a list of texts.

        Returns {"token_ids", "padding_mask"}: flat lists of `sequence_length` for a text, lists of
        such for a list of texts. With y, (that, y); with sample_weight too, (that, y,
        sample_weight), both as they came.

        ValueError: several segments, or a length too small for the special tokens.
        """
        packed = self._pack(x, sequence_length, self.add_start_token, self.add_end_token)
        if sample_weight is not None:
            return packed, y, sample_weight
        return packed if y is None else (packed, y)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the tokenizer as its class name and config; fit for JSON."""
        return {
            "tokenizer": {
                "class_name": type(self.tokenizer).__name__,
                "config": self.tokenizer.get_config(),
            },
            "sequence_length": self.sequence_length,
            "add_start_token": self.add_start_token,
            "add_end_token": self.add_end_token,
            **super().get_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A preprocessor from `get_config`; the tokenizer may also be a tokenizer itself.

        ValueError: a tokenizer class that isn't gpt2web's own. TypeError: an unknown argument.
        """
        tokenizer = config.get("tokenizer")
        if isinstance(tokenizer, Mapping):
            name = tokenizer.get("class_name")
            if name not in TOKENIZERS:
                raise ValueError(
                    f"tokenizer: wanted the class {' or '.join(TOKENIZERS)}, got {name!r}; for "
                    "another class, put the tokenizer itself into the config"
                )
            tokenizer = TOKENIZERS[name].from_config(tokenizer["config"])
        return cls(**{**config, "tokenizer": tokenizer})

    def _pack(
        self,
        x: Any,
        sequence_length: int | None,
        add_start: bool,
        add_end: bool,
        start_if_empty: bool = False,
    ) -> dict[str, Any]:
        texts = _one_segment(to_lists(x))
        batched = isinstance(texts, list)
        packer = StartEndPacker(
            self.sequence_length if sequence_length is None else sequence_length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )
        # Row by row, because an empty batch and an empty text would look alike to the packer.
        rows = [
            packer(
                row,
                add_start_value=add_start or (start_if_empty and not row),
                add_end_value=add_end,
            )
            for row in (self.tokenizer(texts) if batched else [self.tokenizer(texts)])
        ]
        token_ids, padding_mask = [ids for ids, _ in rows], [mask for _, mask in rows]
        if not batched:
            token_ids, padding_mask = token_ids[0], padding_mask[0]
        return {"token_ids": token_ids, "padding_mask": padding_mask}


class GPT2CausalLMPreprocessor(GPT2Preprocessor):
    """The preprocessor of GPT2CausalLM: labels for a language model, prompts, generated texts.

    Args: those of GPT2Preprocessor.

    >>> tokenizer = GPT2Tokenizer({"!": 0, "a": 1, "<|endoftext|>": 2}, [])
    >>> GPT2CausalLMPreprocessor(tokenizer, sequence_length=3)("a")[1:]
    ([1, 2, 0], [True, True, False])
    """

    def __call__(
        self, x: Any, y: Any = None, sample_weight: Any = None, sequence_length: int | None = None
    ) -> Any:
        """Pack a text or a list of texts, with the next id as the label of each.

        Returns (x, y, sample_weight): x as from GPT2Preprocessor, y the ids one place to the left,
        sample_weight True where y is no padding. A y or sample_weight that is passed in is ignored
        with a warning.

        ValueError: several segments, or a length too small for the special tokens.
        """
        if y is not None or sample_weight is not None:
            warnings.warn(
                "GPT2CausalLMPreprocessor makes y and sample_weight itself; those passed in are "
                "ignored",
                stacklevel=2,
            )
        length = self.sequence_length
        if sequence_length is not None:
            length = whole_number(sequence_length, "sequence_length")
        # One more than asked for: the last id is a label only.
        packed = self._pack(x, length + 1, self.add_start_token, self.add_end_token)
        token_ids, mask = packed["token_ids"], packed["padding_mask"]
        inputs = {"token_ids": _columns(token_ids, 0, -1), "padding_mask": _columns(mask, 0, -1)}
        return inputs, _columns(token_ids, 1, None), _columns(mask, 1, None)

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> dict[str, Any]:
        """Pack a prompt or a list of prompts: never an end token, the text goes on.

        The start token follows `add_start_token`; an empty prompt has it in any case, because the
        model needs one id to go on from. Returns {"token_ids", "padding_mask"} as
        GPT2Preprocessor does; a prompt that is too long is cut on the right.
        """
        return self._pack(x, sequence_length, self.add_start_token, False, start_if_empty=True)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """The text of generated ids, or the texts of a batch of them.

        Args:
            x: {"token_ids", "padding_mask"}, flat or a batch, lists or arrays. What the mask
                leaves out is dropped, and so are all special tokens. Empty is an empty batch.

        ValueError: a missing key, or a mask of another shape.
        """
        missing = {"token_ids", "padding_mask"} - set(x)
        if missing:
            raise ValueError(
                f"wanted token_ids and padding_mask, got no {' and no '.join(missing)}"
            )
        rows, batched = to_rows(x["token_ids"], "token_ids")
        masks, _ = to_rows(x["padding_mask"], "padding_mask")
        shape, mask_shape = [len(row) for row in rows], [len(row) for row in masks]
        if shape != mask_shape:
            raise ValueError(
                f"padding_mask: wanted the shape of token_ids, rows of {shape}, got {mask_shape}"
            )
        special = set(self.tokenizer.special_token_ids)
        texts = []
        for row, mask in zip(rows, masks, strict=True):
            kept = itertools.compress(row, mask)
            ids = [token_id for token_id in kept if token_id not in special]
            texts.append(self.tokenizer.detokenize(ids))
        if not batched:
            return texts[0] if rows[0] else []
        return texts


def _one_segment(texts: Any) -> Any:
    """A text or a list of texts, also when they come as the only segment in a list of segments."""
    if isinstance(texts, list) and any(isinstance(segment, list) for segment in texts):
        if len(texts) > 1:
            raise ValueError(
                f"GPT-2 takes one segment, got {len(texts)}; pass a text or a flat list of texts"
            )
        return texts[0]
    return texts


def _columns(rows: list[Any], start: int, stop: int | None) -> list[Any]:
    """[..., start:stop] of a list or a list of lists."""
    if rows and isinstance(rows[0], list):
        return [row[start:stop] for row in rows]
    return rows[start:stop]
