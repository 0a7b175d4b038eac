"""Attention masks as plain lists, and as words for the attention kernel. True, or 1: attend."""

from __future__ import annotations

import math
from typing import Any

from gpt2web.arguments import array_shape, to_lists, whole_number
from gpt2web.kernels import ceil_div
from gpt2web.layer import either_case
from gpt2web.variables import to_f32


@either_case
def compute_causal_mask(
    batch_size: int, input_length: int, output_length: int, cache_index: int = 0
) -> list[list[list[bool]]]:
    """Which keys each query may attend to, if none may lie ahead: [batch, output, input].

    Args:
        batch_size: rows, all alike.
        input_length: keys.
        output_length: queries.
        cache_index: the key that the first query stands at; it sees those at and before it.

    Raises ValueError for anything but whole numbers of 0 or more.

    >>> compute_causal_mask(1, 3, 2, cache_index=1)
    [[[True, True, False], [True, True, True]]]
    """
    batch_size = whole_number(batch_size, "batch_size", 0)
    input_length = whole_number(input_length, "input_length", 0)
    output_length = whole_number(output_length, "output_length", 0)
    first = whole_number(cache_index, "cache_index", 0)
    return [
        [[key <= first + query for key in range(input_length)] for query in range(output_length)]
        for _ in range(batch_size)
    ]


@either_case
def merge_padding_and_attention_mask(
    inputs: Any, padding_mask: Any, attention_mask: Any
) -> list[list[list[int]]] | None:
    """One mask [batch, queries or 1, keys] of 0 and 1 from two, or None from none.

    Args:
        inputs: KerasHub's first argument; not looked at, since no mask hides in a plain array.
        padding_mask: [batch, keys] or None.
        attention_mask: [batch, queries, keys] or None. A key counts where both are 1.

    Raises ValueError for masks of other ranks, or of different lengths or batches.

    >>> merge_padding_and_attention_mask(None, [[1, 1, 0]], [[[0, 1, 1], [1, 0, 0]]])
    [[[0, 1, 0], [1, 0, 0]]]
    """
    padding = _rows(padding_mask, "padding_mask", ["batch", "keys"])
    attention = _rows(attention_mask, "attention_mask", ["batch", "queries", "keys"])
    if padding is None:
        return attention
    if attention is None:
        return [[row] for row in padding]
    batch, keys = len(padding), len(padding[0])
    if len(attention) != batch or len(attention[0][0]) != keys:
        raise ValueError(
            f"padding_mask is of {batch} rows and {keys} keys, attention_mask of {len(attention)} "
            f"rows and {len(attention[0][0])} keys: wanted the same"
        )
    return [
        [[min(a, b) for a, b in zip(pad, query, strict=True)] for query in queries]
        for pad, queries in zip(padding, attention, strict=True)
    ]


computeCausalMask = compute_causal_mask  # TensorFlow.js's spelling
mergePaddingAndAttentionMask = merge_padding_and_attention_mask


def _rows(mask: Any, name: str, axes: list[str]) -> list[Any] | None:
    """A mask's nested lists, of ints, checked to have these axes."""
    if mask is None:
        return None
    lists = to_lists(mask)
    shape = array_shape(lists)
    if len(shape) != len(axes) or 0 in shape:
        raise ValueError(f"{name}: wanted the shape [{', '.join(axes)}], got {list(shape)}")
    flat = memoryview(to_f32(lists, name)).cast("f")  # raises for ragged lists
    rows = [list(map(int, flat[i : i + shape[-1]])) for i in range(0, len(flat), shape[-1])]
    if len(shape) == 2:
        return rows
    return [rows[i : i + shape[1]] for i in range(0, len(rows), shape[1])]


def mask_words(
    mask: Any, batch: int, heads: int, queries: int, keys: int
) -> tuple[bytes, tuple[int, int, int]]:
    """A mask as attention_masked.wgsl takes it, a byte a key, and how many words lie between the
    masks of two rows, two heads and two queries: 0 where they share one.

    mask: None, or what broadcasts to [batch, heads, queries, keys] when axes that lack are put
    before the last two, and the heads before a batch, as Keras does: [queries, keys],
    [batch, queries, keys] or all four. ValueError: any other shape.
    """
    if mask is None:
        return b"\1" * (4 * ceil_div(keys, 4)), (0, 0, 0)
    found = array_shape(mask)
    full = {2: (1, 1, *found), 3: (*found[:1], 1, *found[1:]), 4: found}.get(len(found), ())
    wanted = (batch, heads, queries, keys)
    if not full or any(a not in (1, b) for a, b in zip(full, wanted, strict=True)):
        raise ValueError(
            f"attention_mask: wanted the shape [{batch}, {queries}, {keys}] (batch, queries, keys),"
            f" a 1 for what is shared, or [{queries}, {keys}]; got {list(found)}"
        )
    flat = memoryview(to_f32(mask, "attention_mask")).cast("f")
    width, words = full[3], ceil_div(keys, 4)
    rows = (bytes(map(bool, flat[i : i + width])) for i in range(0, len(flat), width))
    data = b"".join((row if width == keys else row * keys).ljust(4 * words, b"\0") for row in rows)
    strides = [0 if full[axis] == 1 else words * math.prod(full[axis + 1 : 3]) for axis in range(3)]
    return data, (strides[0], strides[1], strides[2])
