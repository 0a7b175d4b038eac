"""Many tokens at once: the key/value cache, and the model over chunks of up to CHUNK tokens.

A chunk is up to 16 blocks of 16 tokens, each block of one row, so rows of any length share a chunk.
Prefilling a prompt and scoring a whole text are this; one token at a time is decoder.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gpt2web import kernels
from gpt2web.arguments import array_shape, f32_bytes
from gpt2web.blocking import block_on
from gpt2web.config import GPT2Config
from gpt2web.gpu import Device, Dispatch, Tensor, largest_tensor, shaped
from gpt2web.kernels import BLOCK, CHUNK, ceil_div
from gpt2web.limits import check_cache
from gpt2web.weights import Weights

Span = tuple[int, int, list[int]]  # row, first position, ids


class KVCache:
    """Keys and values of every layer: one tensor [rows, 2, length, hidden] each, filled in place.
    Raises DeviceError where one is larger than the device allows.

    `shape`, `read` and `numpy` give KerasHub's layout, [rows, layers, 2, length, heads, head_dim].
    """

    def __init__(self, device: Device, config: GPT2Config, rows: int, length: int) -> None:
        check_cache(device, config, rows, length)
        self.device = device
        self.config = config
        self.rows = rows
        self.length = length
        layer = (rows, 2, length, config.hidden_dim)
        self.layers = [device.tensor(layer) for _ in range(config.num_layers)]
        # which slots a chunk's queries may see: a bit a slot
        self.mask = device.tensor((rows, ceil_div(length, 32)), "u32")
        self.set_mask(None)

    @classmethod
    def from_array(cls, device: Device, config: GPT2Config, values: Any) -> KVCache:
        """A cache with the values of an array [rows, layers, 2, length, heads, head_dim]."""
        found = array_shape(values)
        wanted = (config.num_layers, 2, config.num_heads, config.head_dim)
        if len(found) != 6 or (found[1], found[2], *found[4:]) != wanted:
            raise ValueError(
                f"cache: wanted the shape [batch, {wanted[0]}, 2, length, {wanted[2]}, {wanted[3]}]"
                f", got {list(found)}"
            )
        cache = cls(device, config, found[0], found[3])
        cache.write(memoryview(f32_bytes(values)))
        return cache

    @property
    def shape(self) -> tuple[int, ...]:
        config = self.config
        heads = (config.num_heads, config.head_dim)
        return (self.rows, config.num_layers, 2, self.length, *heads)

    def set_mask(self, mask: Sequence[Sequence[bool]] | None) -> None:
        """Hide the slots that mask [rows, n] has False for; others are visible, None: all."""
        words = []
        for row in range(self.rows):
            for first in range(0, self.length, 32):
                word = 0xFFFFFFFF
                for i, visible in enumerate(mask[row][first : first + 32] if mask else ()):
                    if not visible:
                        word &= ~(1 << i)
                words.append(word)
        self.device.write(self.mask, struct.pack(f"<{len(words)}I", *words))

    async def read(self) -> Any:
        """The values on the CPU: a memoryview of `shape`, format "f"."""
        parts = [(await layer.read()).cast("B") for layer in self.layers]
        size = len(parts[0]) // self.rows
        data = b"".join(
            part[row * size : (row + 1) * size] for row in range(self.rows) for part in parts
        )
        return shaped(memoryview(data), self.shape, "f")

    def numpy(self) -> Any:
        """The values as a numpy array (natively, where numpy is installed)."""
        import numpy

        return numpy.asarray(block_on(self.read(), "cache.read")).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What numpy.asarray(cache) gives: `numpy()`, always a copy."""
        if copy is False:
            raise ValueError("a cache lies on the GPU: its values cannot be had without a copy")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    def write(self, values: memoryview) -> None:
        """Take over values in the layout of `read`, as bytes."""
        data = values.cast("B")
        size = 8 * self.length * self.config.hidden_dim  # bytes of a row in a layer
        layers = len(self.layers)
        for row in range(self.rows):
            for i, layer in enumerate(self.layers):
                start = (row * layers + i) * size
                self.device.write(layer, data[start : start + size], row * size)

    def destroy(self) -> None:
        for tensor in [*self.layers, self.mask]:
            tensor.destroy()


class Chunks:
    """The model over chunks of tokens: fills a cache and, with `output`, gives hidden states.

    output: [rows, n, hidden], the states after the final norm; its column 0 is first_position.
    Chunks are shorter than CHUNK where the activations of one would not fit a buffer.
    """

    def __init__(
        self,
        cache: KVCache,
        weights: Weights,
        output: Tensor | None = None,
        first_position: int = 0,
    ) -> None:
        device, config = cache.device, cache.config
        hidden = config.hidden_dim
        self.cache = cache
        self.weights = weights
        self.output = output
        self.first_position = first_position
        self.blocks = device.tensor((CHUNK // BLOCK, 4), "u32", uniform=True)
        self.ids = device.tensor((CHUNK,), "u32")
        self.tokens = CHUNK  # of a chunk at most
        widest = max(3 * hidden, config.intermediate_dim)
        while self.tokens > BLOCK and 4 * self.tokens * widest > largest_tensor(device):
            self.tokens //= 2
        self.x = device.tensor((self.tokens, hidden))
        self.normalized = device.tensor((self.tokens, hidden))
        self.qkv = device.tensor((self.tokens, 3 * hidden))
        self.attended = device.tensor((self.tokens, hidden))
        self.hidden_units = device.tensor((self.tokens, config.intermediate_dim))
        self._recorded: dict[int, list[Dispatch]] = {}  # by tokens in use

    def run(self, spans: Sequence[Span]) -> list[Span]:
        """Submit the first chunk's worth of spans; returns what is left of them."""
        blocks: list[Span] = []
        rest: list[Span] = []
        for row, position, ids in spans:
            taken = min(len(ids), self.tokens - BLOCK * len(blocks))
            for start in range(0, taken, BLOCK):
                block = ids[start : min(start + BLOCK, taken)]
                blocks.append((row, position + start, block))
            if taken < len(ids):
                rest.append((row, position + taken, ids[taken:]))
        if not blocks:
            return rest
        tokens = BLOCK
        while tokens < BLOCK * len(blocks):
            tokens *= 2  # few sizes, so that few lists are recorded; the rest is empty blocks
        padded_ids: list[int] = []
        table: list[int] = []
        for row, position, ids in blocks:
            padded_ids += ids + [0] * (BLOCK - len(ids))
            table += [row, position, len(ids), 0]
        padded_ids += [0] * (CHUNK - len(padded_ids))
        table += [0] * (4 * CHUNK // BLOCK - len(table))
        if tokens not in self._recorded:
            self._recorded[tokens] = self._record(tokens)
        device = self.cache.device
        device.write(self.ids, struct.pack(f"<{CHUNK}I", *padded_ids))
        device.write(self.blocks, struct.pack(f"<{len(table)}I", *table))
        device.submit(self._recorded[tokens])
        return rest

    def _record(self, tokens: int) -> list[Dispatch]:
        cache, config, w = self.cache, self.cache.config, self.weights
        device, blocks, x = cache.device, self.blocks, self.x
        epsilon, heads = config.layer_norm_epsilon, config.num_heads
        wte, wpe = w.matrices["wte.weight"], w.vectors["wpe.weight"]

        def norm(name: str) -> Dispatch:
            return kernels.norm_chunk(device, x, w.norm(name), epsilon, self.normalized, tokens)

        def matmul(name: str, source: Tensor, output: Tensor, **epilogue: bool) -> list[Dispatch]:
            weight, bias = w.matrices[f"{name}.weight"], w.vectors[f"{name}.bias"]
            return [
                kernels.matmul(device, source, weight, part, bias, output, tokens, **epilogue)
                for part in weight.parts
            ]

        calls = [
            kernels.embed_chunk(device, blocks, self.ids, wte, part, wpe, x, tokens)
            for part in wte.parts
        ]
        for i, layer in enumerate(cache.layers):
            h, qkv, attended = f"h.{i}", self.qkv, self.attended
            calls.append(norm(f"{h}.ln_1"))
            calls += matmul(f"{h}.attn.c_attn", self.normalized, qkv)
            calls.append(kernels.append_chunk(device, blocks, qkv, layer, tokens))
            if self.output is None and i == config.num_layers - 1:
                break  # of the last layer only keys and values are wanted
            calls.append(
                kernels.attention_chunk(
                    device, blocks, qkv, layer, cache.mask, attended, heads, tokens
                )
            )
            calls += matmul(f"{h}.attn.c_proj", attended, x, residual=True)
            calls.append(norm(f"{h}.ln_2"))
            calls += matmul(f"{h}.mlp.c_fc", self.normalized, self.hidden_units, gelu=True)
            calls += matmul(f"{h}.mlp.c_proj", self.hidden_units, x, residual=True)
        if self.output is not None:
            calls.append(norm("ln_f"))
            calls.append(
                kernels.scatter_chunk(
                    device, blocks, self.normalized, self.output, self.first_position, tokens
                )
            )
        return calls

    def destroy(self) -> None:
        """Free the activations; the cache and the output stay."""
        self._recorded.clear()
        for tensor in (self.blocks, self.ids, self.x, self.normalized, self.qkv, self.attended):
            tensor.destroy()
        self.hidden_units.destroy()


async def hidden_states(
    weights: Weights, cache: KVCache, token_ids: Sequence[list[int]], first_position: int = 0
) -> Tensor:
    """Run rows of n ids each through the model, from first_position on: states after the final
    norm [rows, n, hidden]; their keys and values are in the cache then."""
    rows, n = len(token_ids), len(token_ids[0])
    output = cache.device.tensor((rows, n, cache.config.hidden_dim))
    chunks = Chunks(cache, weights, output, first_position)
    try:
        spans: list[Span] = [(row, first_position, ids) for row, ids in enumerate(token_ids)]
        while spans:
            spans = chunks.run(spans)
            await cache.device.settled()
        return output
    finally:
        chunks.destroy()


async def uncached_states(
    weights: Weights, token_ids: Sequence[list[int]], mask: Sequence[Sequence[bool]] | None
) -> Tensor:
    """hidden_states of whole rows, over what the mask [rows, n] shows of them; no cache is left."""
    cache = KVCache(weights.device, weights.config, len(token_ids), len(token_ids[0]))
    try:
        cache.set_mask(mask)
        return await hidden_states(weights, cache, token_ids)
    finally:
        cache.destroy()


def logits_of(weights: Weights, hidden: Tensor, logits: Tensor, tokens: int) -> list[Dispatch]:
    """The tied head: hidden [n, hidden] -> logits [n, vocabulary], for the first `tokens` of n."""
    device, wte = hidden.device, weights.matrices["wte.weight"]
    no_bias = device.tensor((wte.columns,))
    return [
        kernels.matmul(device, hidden, wte, part, no_bias, logits, tokens) for part in wte.parts
    ]


async def losses_of(weights: Weights, hidden: Tensor, targets: Sequence[int]) -> Tensor:
    """Cross-entropy of targets [rows * n] under the logits of hidden [rows, n, hidden]: Tensor
    [rows, n]. Logits are made and dropped a chunk at a time."""
    device, (rows, n, width) = hidden.device, hidden.shape
    vocabulary = weights.config.vocabulary_size
    at_once = max(1, min(CHUNK, rows * n, largest_tensor(device) // (4 * vocabulary)))
    part = device.tensor((at_once, width))
    logits = device.tensor((at_once, vocabulary))
    wanted = device.tensor((at_once,), "u32")
    losses, loss = device.tensor((rows, n)), device.tensor((at_once,))
    calls = logits_of(weights, part, logits, at_once)
    calls.append(kernels.token_loss(device, logits, wanted, loss, at_once))
    for first in range(0, rows * n, at_once):
        count = min(at_once, rows * n - first)
        device.write(wanted, struct.pack(f"<{count}I", *targets[first : first + count]))
        device.submit([], copies=[(hidden, 4 * first * width, part, 0, 4 * count * width)])
        device.submit(calls, copies=[(loss, 0, losses, 4 * first, 4 * count)])
        await device.settled()
    return losses
