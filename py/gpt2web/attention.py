"""CachedMultiHeadAttention: attention with projections, over its inputs or over a cache."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt2web import kernels
from gpt2web.arguments import array_shape, whole_number
from gpt2web.blocking import blocking
from gpt2web.gpu import Device, Dispatch, Tensor
from gpt2web.layer import Layer, Shape, dense, either_case, sequence_shape, to_tensor
from gpt2web.masks import mask_words
from gpt2web.variables import Initializer, Variable, check_initializer


class Cache(NamedTuple):
    """A cache [batch, 2, slots, heads, key_dim] in a call, and where the call writes to it."""

    tensor: Tensor
    first: int | None  # slot; None: nowhere
    owned: bool  # whether it may be written in place: the caller cannot see it


class CachedMultiHeadAttention(Layer):
    """Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762) with a cache for decoding.

    Args:
        num_heads: heads.
        key_dim: channels of a query and a key in a head.
        value_dim: channels of a value in a head; None: key_dim.
        dropout: kept in the config and inactive: this is inference.
        use_bias: whether the four projections add one.
        output_shape: the output's axes behind [batch, queries], an int or several; None: the
            query's width.
        attention_axes: None or 1, the one axis there is to attend over.
        flash_attention: None or False; there is one way to compute it.
        kernel_initializer, bias_initializer: as Keras names them, or functions of a shape.
        seed: of the dropout; kept in the config.

    Weights, in Keras's order and shapes ([rows, columns] is taken too): `query/kernel` [width,
    num_heads, key_dim], `query/bias` [num_heads, key_dim], `key/...` the same, `value/...` with
    value_dim, `attention_output/kernel` [num_heads, value_dim, *output_shape],
    `attention_output/bias` [*output_shape].
    Follows KerasHub's layers/modeling/cached_multi_head_attention.py.
    """

    @either_case
    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: Any = None,
        flash_attention: bool | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_heads = whole_number(num_heads, "num_heads")
        self.key_dim = whole_number(key_dim, "key_dim")
        self.value_dim = whole_number(key_dim if value_dim is None else value_dim, "value_dim")
        self.dropout = check_dropout(dropout)
        self.use_bias = bool(use_bias)
        if output_shape is not None:
            axes = output_shape if isinstance(output_shape, Sequence) else (output_shape,)
            output_shape = tuple(whole_number(axis, "output_shape") for axis in axes)
        self.output_shape = output_shape or None
        if attention_axes not in (None, 1, -2, (1,), [1]):
            raise ValueError(f"attention_axes: wanted None or 1, got {attention_axes!r}")
        if flash_attention:
            raise ValueError("flash_attention: wanted None or False; there is one way to compute")
        self.kernel_initializer = check_initializer(kernel_initializer, "kernel_initializer")
        self.bias_initializer = check_initializer(bias_initializer, "bias_initializer")
        self.seed = seed

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "output_shape": self.output_shape,
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "seed": self.seed,
        }

    def build(
        self,
        query_shape: Sequence[int],
        value_shape: Sequence[int] | None = None,
        key_shape: Sequence[int] | None = None,
    ) -> None:
        """Make the weights, for inputs of shapes [..., width]; those left out are like the value's,
        and that like the query's."""
        value_shape = value_shape or query_shape
        key_shape = key_shape or value_shape
        output_shape = self.output_shape or (query_shape[-1],)
        heads, key_dim, value_dim = self.num_heads, self.key_dim, self.value_dim
        self.named_weights = {}
        for name, shape, kept in (
            ("query", (query_shape[-1], heads, key_dim), 1),
            ("key", (key_shape[-1], heads, key_dim), 1),
            ("value", (value_shape[-1], heads, value_dim), 1),
            ("attention_output", (heads, value_dim, *output_shape), 2),
        ):
            self._add(f"{name}/kernel", shape, self.kernel_initializer, math.prod(shape[:kept]))
            if self.use_bias:
                self._add(f"{name}/bias", shape[kept:], self.bias_initializer)

    def _add(
        self, name: str, shape: tuple[int, ...], initializer: Initializer, rows: int | None = None
    ) -> None:
        self.named_weights[name] = Variable(name, shape, initializer, rows)

    def _build_for(self, shapes: Sequence[tuple[int, ...]]) -> None:
        step = 2 if self.use_bias else 1
        widths = [shape[:1] or (1,) for shape in shapes[: 3 * step : step]]
        if len(widths) == 3:
            self.build(widths[0], widths[2], widths[1])

    @either_case
    def compute_output_shape(
        self, query_shape: Sequence[int | None], value_shape: Any = None, key_shape: Any = None
    ) -> Shape:
        """The query's, with `output_shape` for its last axis where that was given."""
        return (*query_shape[:-1], *(self.output_shape or query_shape[-1:]))

    @either_case
    async def call_async(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        attention_mask: Any = None,
        cache: Any = None,
        cache_update_index: int | None = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Attention of each query over the keys that the mask lets it see.

        Args:
            query: [batch, queries, width], or one row without its batch axis.
            value: [batch, n, width].
            key: [batch, n, width]; None: value.
            attention_mask: True for attend; [batch, queries, keys], 1 on an axis that all share,
                or [queries, keys], or [batch, heads, queries, keys]. A query that sees no key
                gets the output's bias.
            cache: [batch, 2, slots, num_heads, key_dim], keys and values. Without an index they
                are attended to in place of `key` and `value`, which are ignored.
            cache_update_index: slot at which the keys and values of the input are written; then
                the query attends over all slots that the mask shows.
            training: True is an error where dropout is not 0.
            return_attention_scores: whether to return each head's weights as well.

        Returns a Tensor [batch, queries, *output_shape], or, where there is more, a tuple of it,
        the scores [batch, num_heads, queries, keys], and the cache, in this order. An updated cache
        is a new Tensor; the one given stays as it is.
        Raises ValueError for shapes that do not fit, an index without a cache, and an input that
        reaches beyond the cache's end.
        """
        check_training(training, self.dropout)
        value_shape = sequence_shape(value, "value")
        query_shape = sequence_shape(query, "query")
        key = value if key is None else key
        key_shape = sequence_shape(key, "key")
        static = cache is not None and cache_update_index is None
        if not static and not query_shape[0] == value_shape[0] == key_shape[0]:
            raise ValueError(
                f"query, value, key: wanted one batch, got {query_shape[0]}, {value_shape[0]} and "
                f"{key_shape[0]} rows"
            )
        if value_shape[1] != key_shape[1]:
            raise ValueError(
                f"value and key: wanted one length, got {value_shape[1]} and {key_shape[1]}"
            )
        slots = self.check_cache(cache, cache_update_index, query_shape[0], key_shape[1])
        slots = key_shape[1] if slots is None else slots
        self.check_widths(query_shape[-1], value_shape[-1], key_shape[-1])
        if isinstance(attention_mask, Tensor):
            attention_mask = await attention_mask.read()
        mask = mask_words(attention_mask, query_shape[0], self.num_heads, query_shape[1], slots)
        device = await self._device_of(query, value, key, cache)
        calls: list[Dispatch] = []
        output, scores, kept = self.attend(
            calls,
            to_tensor(device, query, "query"),
            to_tensor(device, key, "key"),
            to_tensor(device, value, "value"),
            query_shape[:2],
            slots,
            slots,
            mask,
            to_cache(device, cache, cache_update_index),
            weighed=return_attention_scores,
        )
        device.submit(calls)
        batch = tuple(query.shape if isinstance(query, Tensor) else array_shape(query))[:-1]
        output.shape = (*batch, *(self.output_shape or query_shape[2:]))
        results = [output]
        if return_attention_scores:
            results.append(scores)
        if kept is not None:
            results.append(kept)
        return results[0] if len(results) == 1 else tuple(results)

    call = blocking(call_async)

    def check_cache(self, cache: Any, index: Any, batch: int, length: int) -> int | None:
        """A cache's slots, None for no cache. ValueError: a shape or an index that does not fit."""
        if cache is None:
            if index is not None:
                raise ValueError(
                    f"cache_update_index is {index!r}, and there is no cache to write to: give one"
                )
            return None
        found = tuple(cache.shape) if isinstance(cache, Tensor) else array_shape(cache)
        wanted = (batch, 2, self.num_heads, self.key_dim)
        if self.value_dim != self.key_dim:
            raise ValueError(
                f"cache: it holds keys beside values, so key_dim, {self.key_dim}, and value_dim, "
                f"{self.value_dim}, must be equal"
            )
        if len(found) != 5 or (*found[:2], *found[3:]) != wanted or found[2] == 0:
            raise ValueError(
                f"cache: wanted the shape [{batch}, 2, slots, {self.num_heads}, {self.key_dim}], "
                f"got {list(found)}"
            )
        if index is not None:
            first = whole_number(index, "cache_update_index", 0)
            if first + length > found[2]:
                raise ValueError(
                    f"cache_update_index: {length} tokens from slot {first} on reach beyond the "
                    f"cache's end, {found[2]}"
                )
        return found[2]

    def check_widths(self, query: int, value: int, key: int) -> None:
        """Builds the layer, or ValueError: it was built for other widths."""
        if not self.built:
            self.build((query,), (value,), (key,))
        for name, width in (("query", query), ("key", key), ("value", value)):
            built = self.named_weights[f"{name}/kernel"].shape[0]
            if width != built:
                raise ValueError(
                    f"{name}: this layer was built for a width of {built}, got {width}"
                )

    def attend(
        self,
        calls: list[Dispatch],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        queries: tuple[int, int],
        slots: int,
        horizon: int,
        mask: tuple[bytes, tuple[int, int, int]],
        cache: Cache | None,
        *,
        weighed: bool = False,
        residual: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Record the calls, of checked inputs; those of `calls` may be submitted on the way.

        queries: (batch, queries). horizon: slots that the first query sees, one more for each next
        one; `slots` for all. mask: from mask_words. residual: added to, and then the output.
        Returns (output [batch * queries, width], the heads' weights or nothing much, the cache).
        """
        device, (batch, length) = query.device, queries
        heads, key_dim, value_dim = self.num_heads, self.key_dim, self.value_dim
        q = self._project(calls, query, "query")
        q.shape = (batch, length, heads, key_dim)
        row, value_row, value_first = slots * heads * key_dim, slots * heads * value_dim, 0
        kept = None
        if cache is not None:
            kept = cache.tensor
            if cache.first is not None:
                k, v = self._project(calls, key, "key"), self._project(calls, value, "value")
                kept = _written(calls, cache, k, v)
                calls.clear()
            keys = values = kept
            value_first = row
            row = value_row = 2 * row
        else:
            keys, values = self._project(calls, key, "key"), self._project(calls, value, "value")
        data, strides = mask
        words = device.tensor((len(data) // 4,), "u32")
        device.write(words, data)
        sizes = device.tensor((8,), "u32", uniform=True)
        numbers = (slots, horizon, row, value_row, value_first, *strides)
        device.write(sizes, struct.pack("<8I", *numbers))
        attended = device.tensor((batch, length, heads, value_dim))
        weights = device.tensor((batch, heads, length, slots) if weighed else (1,))
        calls.append(
            kernels.attention_masked(device, sizes, q, keys, values, words, attended, weights)
        )
        return self._project(calls, attended, "attention_output", residual), weights, kept

    def _project(
        self, calls: list[Dispatch], source: Tensor, name: str, residual: Tensor | None = None
    ) -> Tensor:
        device = source.device
        weight = self.named_weights[f"{name}/kernel"].matrix(device)
        bias = self.named_weights.get(f"{name}/bias")
        vector = bias.vector(device) if bias else device.tensor((weight.columns,))
        return dense(calls, source, weight, vector, residual)


def _written(calls: list[Dispatch], cache: Cache, k: Tensor, v: Tensor) -> Tensor:
    """The cache with k and v [batch * n, heads * key_dim] in place; submits the calls."""
    device, old, first = cache.tensor.device, cache.tensor, cache.first or 0
    batch, _, slots, heads, key_dim = old.shape
    new = old if cache.owned else device.tensor(old.shape)
    slot = 4 * heads * key_dim  # bytes
    size = 4 * k.size // batch
    copies = [] if cache.owned else [(old, 0, new, 0, 4 * old.size)]
    for row in range(batch):
        for part, source in enumerate((k, v)):
            start = ((row * 2 + part) * slots + first) * slot
            copies.append((source, row * size, new, start, size))
    device.submit(calls, copies=copies)
    return new


def to_cache(device: Device, cache: Any, index: int | None) -> Cache | None:
    """What a call's cache arguments mean."""
    if cache is None:
        return None
    index = None if index is None else whole_number(index, "cache_update_index", 0)
    return Cache(to_tensor(device, cache, "cache"), index, owned=not isinstance(cache, Tensor))


def check_dropout(dropout: Any) -> float:
    """A dropout rate. ValueError: outside of 0 to 1."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout: wanted a number from 0 to 1, got {dropout!r}")
    return dropout


def check_training(training: Any, dropout: float) -> None:
    """ValueError where training would differ from inference: nothing here drops anything."""
    if training and dropout:
        raise ValueError(
            f"training: this is inference, in which dropout ({dropout}) does nothing; leave it out"
        )
