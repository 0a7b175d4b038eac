"""Prompts as callers give them: texts, ids, and rows of ids with a mask."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from gpt2web.arguments import to_lists, to_rows, whole_numbers


def prompts_of(value: object) -> list[str | list[int]]:
    """Each row's prompt, text or ids: value is one prompt, or several. TypeError: anything else."""
    if isinstance(value, str):
        return [value]
    given = to_lists(value)
    rows = [given] if given and isinstance(given, list) and type(given[0]) is int else given
    wanted = "prompt must be a str, a list of token ids, or a list of those"
    if not isinstance(rows, list):
        raise TypeError(f"{wanted}, got {value!r}")
    for row in rows:
        if not isinstance(row, str | list):
            raise TypeError(f"{wanted}, got {row!r} in it")
    return rows


def prompt_rows(inputs: Mapping[str, Any]) -> tuple[list[list[int]], list[list[bool]], bool]:
    """token_ids and padding_mask as rows, copied, and whether they came as a batch.

    ValueError: other keys, rows of several lengths, or a mask with holes.
    """
    unknown = set(inputs) - {"token_ids", "padding_mask"}
    missing = {"token_ids", "padding_mask"} - set(inputs)
    if unknown or missing:
        raise ValueError(
            f"inputs: wanted token_ids and padding_mask, got {', '.join(map(str, inputs))}"
        )
    rows, batched = to_rows(whole_numbers(to_lists(inputs["token_ids"])), "token_ids")
    found, _ = to_rows(inputs["padding_mask"], "padding_mask")
    masks = [[bool(keep) for keep in row] for row in found]
    if not rows or to_lists(inputs["token_ids"]) == []:  # an empty batch
        return [], [], True
    if [len(row) for row in masks] != [len(row) for row in rows] or len(set(map(len, rows))) > 1:
        raise ValueError("inputs: wanted rows of one length in token_ids, and the same in the mask")
    for mask in masks:
        if not mask or not mask[0] or any(b and not a for a, b in itertools.pairwise(mask)):
            raise ValueError(
                "padding_mask: a prompt begins its row and has no holes; wanted True for at least "
                f"the first id, then False, got {mask}"
            )
    return rows, masks, batched


def resized(inputs: Mapping[str, Any], length: int | None) -> dict[str, Any]:
    """Rows cut, or padded with 0, to a length; None leaves them."""
    rows, masks, batched = prompt_rows(inputs)
    if length is not None:
        rows = [(row + [0] * length)[:length] for row in rows]
        masks = [(mask + [False] * length)[:length] for mask in masks]
    if batched:
        return {"token_ids": rows, "padding_mask": masks}
    return {"token_ids": rows[0], "padding_mask": masks[0]}


def filled(ids: list[int], mask: list[bool], new_ids: list[int]) -> tuple[list[int], list[bool]]:
    """A row and its mask with new ids behind its prompt."""
    known = sum(mask)
    end = known + len(new_ids)
    return ids[:known] + new_ids + ids[end:], mask[:known] + [True] * len(new_ids) + mask[end:]


def without(mask: list[Any], other: list[Any]) -> list[Any]:
    """mask where other is not; each of mask's beams, where other has none."""
    if mask and isinstance(mask[0], list):
        others = other if isinstance(other[0], list) else [other] * len(mask)
        return [without(a, b) for a, b in zip(mask, others, strict=True)]
    return [a and not b for a, b in zip(mask, other, strict=True)]
