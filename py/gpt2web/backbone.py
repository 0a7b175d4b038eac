"""GPT-2 as a flat list of kernel calls, recorded once for a batch and replayed for every token.

`Decoder.step` is the model, top to bottom, for one token of each row; `Decoder.prefill` the same
for a chunk of prompt tokens. Nothing is made per token: lists are recorded on buffers that stay.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gpt2web import kernels
from gpt2web.checkpoint import Checkpoint
from gpt2web.config import GPT2Config
from gpt2web.gpu import MAX_ROWS, Device, DeviceError, Dispatch, Tensor
from gpt2web.kernels import BLOCK, CHUNK, SPLIT, ceil_div
from gpt2web.weights import Progress, Weights


class GPT2Backbone:
    """The decoder stack of GPT-2: embeddings, blocks, and the norm before the head.

    Args:
        vocabulary_size, num_layers, num_heads, hidden_dim, intermediate_dim, max_sequence_length:
            sizes. dropout is kept in the config and inactive: this is inference.
        precision: "f32" or "f16", how matrices are stored; arithmetic is f32 either way.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 1024,
        *,
        layer_norm_epsilon: float = 1e-5,
        precision: str = "f32",
        device: Device | None = None,
    ) -> None:
        self.config = GPT2Config(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            layer_norm_epsilon=layer_norm_epsilon,
        )
        if self.config.head_dim > kernels.MAX_HEAD_DIM:
            raise ValueError(
                f"head_dim is hidden_dim / num_heads = {self.config.head_dim}; the attention "
                f"kernels hold at most {kernels.MAX_HEAD_DIM}"
            )
        if vocabulary_size > kernels.MAX_VOCABULARY:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size:,}; the sampling kernel's exact sums hold "
                f"at most {kernels.MAX_VOCABULARY:,}"
            )
        self.precision = precision
        self.device = device
        self.weights: Weights | None = None

    @classmethod
    def from_config(cls, config: GPT2Config | dict[str, Any], **options: Any) -> GPT2Backbone:
        """A backbone of a config's sizes."""
        values = config.get_config() if isinstance(config, GPT2Config) else config
        return cls(**values, **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return self.config.get_config()

    async def ready(self) -> tuple[Device, Weights]:
        """The device and the weights: N(0, 0.02), seed 0, unless others were loaded."""
        if self.weights is None:
            weights = await self._allocate()
            await weights.randomize()
            self.weights = weights
        assert self.device is not None
        return self.device, self.weights

    async def load(self, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        """Stream the weights of a checkpoint onto the GPU; nothing half-loaded stays behind."""
        weights = await self._allocate()
        try:
            await weights.load(checkpoint, progress)
        except BaseException:
            weights.destroy()
            raise
        if self.weights is not None:
            self.weights.destroy()
        self.weights = weights

    async def _allocate(self) -> Weights:
        if self.device is None:
            self.device = await Device.request()
        # a layer norm keeps its row in workgroup memory, beside the sums of a matrix-vector product
        most = self.device.limits["max-compute-workgroup-storage-size"] // 4 - 1024 - 256 - 256
        if self.config.hidden_dim > most:
            raise DeviceError(
                f"hidden_dim is {self.config.hidden_dim:,}; the adapter's workgroup memory "
                f"(max-compute-workgroup-storage-size) holds {most:,}"
            )
        return Weights(self.device, self.config, self.precision)

    def destroy(self) -> None:
        """Free the weights."""
        if self.weights is not None:
            self.weights.destroy()
            self.weights = None


class Decoder:
    """What `rows` rows of at most `length` tokens need: cache, state, activations, recordings."""

    def __init__(
        self, device: Device, config: GPT2Config, weights: Weights, rows: int, length: int
    ) -> None:
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"a batch has 1 to {MAX_ROWS} rows, got {rows}")
        if not 1 <= length <= config.max_sequence_length:
            raise ValueError(
                f"length must be 1 to max_sequence_length, {config.max_sequence_length}, "
                f"got {length}"
            )
        self.device = device
        self.config = config
        self.weights = weights
        self.rows = rows
        self.length = length
        hidden, heads = config.hidden_dim, config.num_heads
        # state: position, last id, step, done of each row
        self.state = device.tensor((MAX_ROWS, 4), "u32", uniform=True)
        # cache: one tensor a layer, keys then values; hidden is [heads, head_dim]
        self.cache = [device.tensor((rows, 2, length, hidden)) for _ in range(config.num_layers)]
        self.x = device.tensor((rows, hidden))
        self.q = device.tensor((rows, hidden))
        self.attended = device.tensor((rows, hidden))
        self.hidden_units = device.tensor((rows, config.intermediate_dim))
        self.logits = device.tensor((rows, config.vocabulary_size))
        self.splits: Tensor | None = None
        if length > SPLIT:
            self.splits = device.tensor((rows, heads, ceil_div(length, SPLIT), config.head_dim + 2))
        self.short_step = self._record_step(None)
        self.long_step = self._record_step(self.splits) if self.splits else self.short_step
        # ids whose keys and values are in the cache, row by row
        self.cached: list[list[int]] = [[] for _ in range(rows)]
        self._prefills: dict[int, list[Dispatch]] = {}
        self._chunk: _Chunk | None = None

    def step(self, last_position: int) -> list[Dispatch]:
        """The calls that take every row's last id to logits [rows, vocabulary], while no row's
        position is beyond last_position."""
        return self.short_step if last_position < SPLIT else self.long_step

    def _record_step(self, splits: Tensor | None) -> list[Dispatch]:
        device, config, w = self.device, self.config, self.weights
        state, x, q, attended = self.state, self.x, self.q, self.attended
        epsilon, heads = config.layer_norm_epsilon, config.num_heads
        wte, wpe = w.matrices["wte.weight"], w.vectors["wpe.weight"]

        calls = [kernels.embed(device, state, wte, part, wpe, x) for part in wte.parts]
        for i in range(config.num_layers):
            h, cache = f"h.{i}", self.cache[i]
            c_attn, ln_1 = w.matrices[f"{h}.attn.c_attn.weight"], w.norm(f"{h}.ln_1")
            bias = w.vectors[f"{h}.attn.c_attn.bias"]
            calls += [
                kernels.qkv(device, state, x, ln_1, epsilon, c_attn, part, bias, q, cache)
                for part in c_attn.parts
            ]
            if splits is None:
                calls.append(kernels.attention(device, state, q, cache, attended, heads))
            else:
                calls.append(kernels.attention(device, state, q, cache, splits, heads))
                calls.append(kernels.attention_reduce(device, state, splits, attended))
            c_proj, bias = w.matrices[f"{h}.attn.c_proj.weight"], w.vectors[f"{h}.attn.c_proj.bias"]
            calls += [
                kernels.project(device, state, attended, c_proj, part, bias, x)
                for part in c_proj.parts
            ]
            c_fc, ln_2 = w.matrices[f"{h}.mlp.c_fc.weight"], w.norm(f"{h}.ln_2")
            bias, units = w.vectors[f"{h}.mlp.c_fc.bias"], self.hidden_units
            calls += [
                kernels.fc(device, state, x, ln_2, epsilon, c_fc, part, bias, units)
                for part in c_fc.parts
            ]
            c_proj, bias = w.matrices[f"{h}.mlp.c_proj.weight"], w.vectors[f"{h}.mlp.c_proj.bias"]
            calls += [
                kernels.project(device, state, units, c_proj, part, bias, x)
                for part in c_proj.parts
            ]
        ln_f = w.norm("ln_f")
        calls += [
            kernels.head(device, state, x, ln_f, epsilon, wte, part, self.logits)
            for part in wte.parts
        ]
        return calls

    def prefill(self, spans: Sequence[tuple[int, int, list[int]]]) -> int:
        """Put the keys and values of tokens into the cache: (row, first position, ids) each.

        Submits the first chunk's worth and returns how many ids it took, in order of the spans.
        """
        blocks: list[tuple[int, int, list[int]]] = []
        for row, position, ids in spans:
            for start in range(0, len(ids), BLOCK):
                if len(blocks) < CHUNK // BLOCK:
                    blocks.append((row, position + start, ids[start : start + BLOCK]))
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
        calls = self._prefills.get(tokens)
        if calls is None:
            if self._chunk is None:
                self._chunk = _Chunk(self.device, self.config)
            calls = self._prefills[tokens] = self._record_prefill(self._chunk, tokens)
        assert self._chunk is not None
        self.device.write(self._chunk.ids, struct.pack(f"<{CHUNK}I", *padded_ids))
        self.device.write(self._chunk.blocks, struct.pack(f"<{len(table)}I", *table))
        self.device.submit(calls)
        return sum(len(ids) for _, _, ids in blocks)

    def _record_prefill(self, c: _Chunk, tokens: int) -> list[Dispatch]:
        device, config, w = self.device, self.config, self.weights
        epsilon, heads, x = config.layer_norm_epsilon, config.num_heads, c.x
        wte, wpe = w.matrices["wte.weight"], w.vectors["wpe.weight"]

        calls = [
            kernels.embed_chunk(device, c.blocks, c.ids, wte, part, wpe, x, tokens)
            for part in wte.parts
        ]

        def norm(name: str) -> Dispatch:
            return kernels.norm_chunk(device, x, w.norm(name), epsilon, c.normalized, tokens)

        def matmul(name: str, source: Tensor, output: Tensor, **epilogue: bool) -> list[Dispatch]:
            weight, bias = w.matrices[f"{name}.weight"], w.vectors[f"{name}.bias"]
            return [
                kernels.matmul(device, source, weight, part, bias, output, tokens, **epilogue)
                for part in weight.parts
            ]

        for i in range(config.num_layers):
            h, cache = f"h.{i}", self.cache[i]
            calls.append(norm(f"{h}.ln_1"))
            calls += matmul(f"{h}.attn.c_attn", c.normalized, c.qkv)
            calls.append(kernels.append_chunk(device, c.blocks, c.qkv, cache, tokens))
            calls.append(
                kernels.attention_chunk(device, c.blocks, c.qkv, cache, c.attended, heads, tokens)
            )
            calls += matmul(f"{h}.attn.c_proj", c.attended, x, residual=True)
            calls.append(norm(f"{h}.ln_2"))
            calls += matmul(f"{h}.mlp.c_fc", c.normalized, c.hidden_units, gelu=True)
            calls += matmul(f"{h}.mlp.c_proj", c.hidden_units, x, residual=True)
        return calls

    def destroy(self) -> None:
        """Free the buffers."""
        tensors = [self.state, *self.cache, self.x, self.q, self.attended, self.hidden_units]
        for tensor in [*tensors, self.logits, self.splits]:
            if tensor is not None:
                tensor.destroy()
        if self._chunk is not None:
            self._chunk.destroy()


class _Chunk:
    """The activations of a chunk of CHUNK prompt tokens."""

    def __init__(self, device: Device, config: GPT2Config) -> None:
        hidden = config.hidden_dim
        self.blocks = device.tensor((CHUNK // BLOCK, 4), "u32", uniform=True)
        self.ids = device.tensor((CHUNK,), "u32")
        self.x = device.tensor((CHUNK, hidden))
        self.normalized = device.tensor((CHUNK, hidden))
        self.qkv = device.tensor((CHUNK, 3 * hidden))
        self.attended = device.tensor((CHUNK, hidden))
        self.hidden_units = device.tensor((CHUNK, config.intermediate_dim))

    def destroy(self) -> None:
        for tensor in vars(self).values():
            tensor.destroy()
