"""GPT-2 as a flat list of kernel calls, recorded once for a batch and replayed for every token.

`Decoder._record_step` is the model, top to bottom, for one token of each row. Nothing is made per
token: the lists are recorded on buffers that stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt2web import kernels
from gpt2web.chunks import Chunks, KVCache, Span
from gpt2web.config import GPT2Config
from gpt2web.gpu import MAX_ROWS, Device, Dispatch, Tensor
from gpt2web.kernels import SPLIT, ceil_div
from gpt2web.weights import Weights


class Decoder:
    """What `rows` rows of at most `length` tokens need: cache, state, activations, recordings.

    tokens: how many ids have a text, where the vocabulary is rounded up; no other can be chosen.
    """

    def __init__(
        self,
        device: Device,
        config: GPT2Config,
        weights: Weights,
        rows: int,
        length: int,
        tokens: int | None = None,
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
        self.tokens = tokens or config.vocabulary_size
        hidden, heads = config.hidden_dim, config.num_heads
        # state: position, last id, step, done of each row
        self.state = device.tensor((MAX_ROWS, 4), "u32", uniform=True)
        self.cache = KVCache(device, config, rows, length)
        self.x = device.tensor((rows, hidden))
        self.q = device.tensor((rows, hidden))
        self.attended = device.tensor((rows, hidden))
        self.hidden_units = device.tensor((rows, config.intermediate_dim))
        self.logits = device.tensor((rows, config.vocabulary_size))
        self.splits: Tensor | None = None
        if length > SPLIT:
            self.splits = device.tensor((rows, heads, ceil_div(length, SPLIT), config.head_dim + 2))
        self._short_stages = self._record_step(None)
        self._long_stages = self._record_step(self.splits) if self.splits else self._short_stages
        self.short_step = [call for stage in self._short_stages for call in stage]
        self.long_step = self.short_step
        if self.splits:
            self.long_step = [call for stage in self._long_stages for call in stage]
        # ids whose keys and values are in the cache, row by row
        self.cached: list[list[int]] = [[] for _ in range(rows)]
        self._chunks: Chunks | None = None

    def step(self, last_position: int) -> list[Dispatch]:
        """The calls that take every row's last id to logits [rows, vocabulary], while no row's
        position is beyond last_position."""
        return self.short_step if last_position < SPLIT else self.long_step

    def stages(self, last_position: int) -> list[list[Dispatch]]:
        """The same calls in parts: the embedding's, each layer's, the head's. Behind each but the
        last, x holds what that part gives."""
        return self._short_stages if last_position < SPLIT else self._long_stages

    def _record_step(self, splits: Tensor | None) -> list[list[Dispatch]]:
        device, config, w = self.device, self.config, self.weights
        state, x, q, attended = self.state, self.x, self.q, self.attended
        epsilon, heads = config.layer_norm_epsilon, config.num_heads
        wte, wpe = w.matrices["wte.weight"], w.vectors["wpe.weight"]

        stages = [[kernels.embed(device, state, wte, part, wpe, x) for part in wte.parts]]
        for i in range(config.num_layers):
            h, cache = f"h.{i}", self.cache.layers[i]
            c_attn, ln_1 = w.matrices[f"{h}.attn.c_attn.weight"], w.norm(f"{h}.ln_1")
            bias = w.vectors[f"{h}.attn.c_attn.bias"]
            calls = [
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
            stages.append(calls)
        return [*stages, self.head(state, x, self.logits)]

    def head(self, state: Tensor, x: Tensor, logits: Tensor) -> list[Dispatch]:
        """The final norm and the head: logits [n, vocabulary] of x [n, hidden], of running rows."""
        w, epsilon = self.weights, self.config.layer_norm_epsilon
        ln_f, wte = w.norm("ln_f"), w.matrices["wte.weight"]
        return [
            kernels.head(self.device, state, x, ln_f, epsilon, wte, part, logits, self.tokens)
            for part in wte.parts
        ]

    def prefill(self, spans: Sequence[Span]) -> list[Span]:
        """Put the keys and values of tokens into the cache: submits the first chunk's worth of
        (row, first position, ids) and returns what is left."""
        if self._chunks is None:
            self._chunks = Chunks(self.cache, self.weights)
        return self._chunks.run(spans)

    def destroy(self) -> None:
        """Free the buffers."""
        self.short_step = self.long_step = []
        self._short_stages = self._long_stages = []
        for tensor in (self.state, self.x, self.q, self.attended, self.hidden_units, self.logits):
            tensor.destroy()
        if self.splits is not None:
            self.splits.destroy()
        if self._chunks is not None:
            self._chunks.destroy()
        self.cache.destroy()
