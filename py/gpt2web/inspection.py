"""Looking at one token of a text: what it attends to, what each layer would say next, and what
sampling would make of it.

An inspection is one decoding step over the text's cached keys and values, a submit for each layer,
behind which the layer's attention and residual stream are copied away. Its buffers are its own: a
model that nobody looks into has none of them, and its steps stay what they are.
"""

from __future__ import annotations

import math
import struct
import sys
from typing import Protocol
from weakref import WeakSet

from gpt2web import kernels
from gpt2web.arguments import whole_number
from gpt2web.blocking import block_on, blocking
from gpt2web.chunks import Span
from gpt2web.decoder import Decoder
from gpt2web.generate import Losses, common_length
from gpt2web.gpu import DeviceError, DeviceLost, Readback, Tensor
from gpt2web.likeliest import Likeliest, rows_at_once
from gpt2web.next_tokens import NextTokens, Stages
from gpt2web.sampling import Sampling
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.turn import Turn

MAX_TOP = 100  # ids listed
SHOWN = 5  # of the lens, in a notebook


class Inspection:
    """What the model computed at one token, having read the text up to it. Made by
    `GPT2CausalLM.inspect`; `close()` frees what it holds on the GPU.

    token_ids: the text up to the token, which is its last. position: of the token, from 0.
    attention: Tensor [num_layers, num_heads, position + 1], how much of each token up to its own
        every head took; each row sums to 1.
    lens: for the embedding and each layer's output, [num_layers + 1], the most probable ids with
        their natural log-probabilities if the final norm and the head came right behind it ("logit
        lens", nostalgebraist 2020); the last is what the model says. Empty with top=0.
    """

    def __init__(
        self, decoder: Decoder, token_ids: list[int], tokenizer: GPT2Tokenizer | None
    ) -> None:
        device, config = decoder.device, decoder.config
        self.token_ids = token_ids
        self.position = len(token_ids) - 1
        self.lens: list[list[tuple[int, float]]] = []
        self.attention = device.tensor((config.num_layers, config.num_heads, len(token_ids)))
        self.closed = False
        self._tokenizer = tokenizer
        self._tokens = decoder.tokens
        self._logits = device.tensor((1, config.vocabulary_size))
        self._stages: Stages | None = None
        self._turn = Turn()
        self._scratch: list[Tensor | Readback | Likeliest] = []  # while it is being made

    async def next_tokens_async(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        *,
        top: int = 20,
    ) -> NextTokens:
        """What sampling with these settings makes of the token that comes next.

        Args:
            temperature, top_k, top_p, min_p, repetition_penalty: see sampling.Sampling; the penalty
                is for the ids of the text, as when it is generated.
            top: how many ids to list (1 to 100).

        The first call makes its buffers, further ones with the same `top` are a single submit.
        Raises TypeError and ValueError for the settings, DeviceError once it is closed.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        top = min(whole_number(top, "top", 1, MAX_TOP), self._tokens)
        await self._turn.take()
        try:
            if self.closed:
                raise DeviceError("this inspection was closed: make another", code="closed")
            if self._stages is None or self._stages.top != top:
                if self._stages is not None:
                    self._stages.destroy()
                logits = self._logits
                self._stages = Stages(logits.device, logits, self.token_ids, top)
            return await self._stages.run(sampling, self._tokenizer)
        finally:
            self._turn.give()

    next_tokens = blocking(next_tokens_async)

    def _repr_html_(self) -> str:
        """The last layer's attention, and the lens. Attention is read from the GPU for this, so it
        is missing where that would have to be awaited, and once it is closed."""
        from gpt2web.notebook import heat_html, joined, percent, table_html, visible

        names = [self._name(id_) for id_ in self.token_ids]
        parts = []
        if not self.closed and sys.platform != "emscripten":
            data = block_on(self.attention.read(), "inspection.attention.read")
            layers, heads, length = self.attention.shape
            values = data.cast("B").cast("f").tolist()[-heads * length :]
            rows = [values[head * length :][:length] for head in range(heads)]
            title = f"What the heads of layer {layers - 1} look at from “{visible(names[-1])}”"
            parts.append(heat_html(title, names, rows))
        if self.lens:
            lines = [
                (
                    f"layer {n - 1}" if n else "embedding",
                    *(
                        f"{visible(self._name(id_))} {percent(math.exp(logprob))}"
                        for id_, logprob in layer[:SHOWN]
                    ),
                )
                for n, layer in enumerate(self.lens)
            ]
            head = ("behind", *(str(n + 1) for n in range(len(lines[0]) - 1)))
            title = f"What each layer would say next, behind “{visible(names[-1])}”"
            parts.append(table_html(title, head, lines))
        return joined(parts)

    def _name(self, id_: int) -> str:
        return self._tokenizer.detokenize([id_]) if self._tokenizer else str(id_)

    async def look(self, decoder: Decoder, top: int) -> None:
        """Compute it all, by a decoder of one row; for `inspect`, at the model's turn."""
        device, config, ids = decoder.device, decoder.config, self.token_ids
        position, hidden = self.position, config.hidden_dim
        known = await read_before(decoder, ids)

        weights = self._tensor((config.num_heads, position + 1))
        residuals = self._tensor((config.num_layers + 1, hidden))
        # The step writes the token's keys and values again. Those that generation left there may
        # differ in the last bit, and come back.
        slots = self._tensor((config.num_layers, 2, hidden))
        row, matrix = 4 * hidden, 4 * weights.size  # bytes
        saves, restores = [], []
        for i, layer in enumerate(decoder.cache.layers):
            places = [(2 * i + part, part * decoder.length + position) for part in range(2)]
            saves += [(layer, slot * row, slots, at * row, row) for at, slot in places]
            restores.append([(slots, at * row, layer, slot * row, row) for at, slot in places])

        device.write(decoder.state, struct.pack("<4I", position, ids[-1], 0, 0))
        embedding, *layers, head = decoder.stages(position)
        device.submit(embedding, copies=[(decoder.x, 0, residuals, 0, row), *saves])
        for i, calls in enumerate(layers):
            cache = decoder.cache.layers[i]
            look = kernels.attention_weights(device, decoder.state, decoder.q, cache, weights)
            copies = [
                (decoder.x, 0, residuals, (i + 1) * row, row),
                (weights, 0, self.attention, i * matrix, matrix),
            ]
            device.submit([*calls, look], copies=copies + (restores[i] if known else []))
        size = 4 * config.vocabulary_size
        device.submit(head, copies=[(decoder.logits, 0, self._logits, 0, size)])
        if not known:
            decoder.cached[0] = list(ids)
        if top:
            self.lens = await self._read_lens(decoder, residuals, min(top, self._tokens))
        self._free_scratch()

    async def _read_lens(
        self, decoder: Decoder, residuals: Tensor, top: int
    ) -> list[list[tuple[int, float]]]:
        """The most probable ids of each row of residuals [num_layers + 1, hidden]."""
        device, (rows, hidden) = decoder.device, residuals.shape
        vocabulary = decoder.config.vocabulary_size
        at_once = rows_at_once(device, rows, vocabulary)
        x = self._tensor((at_once, hidden))
        likeliest = Likeliest(device, at_once, vocabulary, top)
        readback = device.readback(rows * likeliest.row_bytes)
        self._scratch += [likeliest, readback]
        calls = [*decoder.head(likeliest.state, x, likeliest.logits), *likeliest.calls]
        row = 4 * hidden  # bytes
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            device.submit([], copies=[(residuals, first * row, x, 0, count * row)])
            device.submit(calls, copies=[likeliest.copy(readback, first, count)])
        readback.map()
        return likeliest.read(await readback.take(rows * likeliest.row_bytes))

    def _tensor(
        self, shape: tuple[int, ...], dtype: str = "f32", *, uniform: bool = False
    ) -> Tensor:
        tensor = self._logits.device.tensor(shape, dtype, uniform=uniform)
        self._scratch.append(tensor)
        return tensor

    def _free_scratch(self) -> None:
        for tensor in self._scratch:
            tensor.destroy()
        self._scratch.clear()

    def close(self) -> None:
        """Free its GPU memory, `attention` too. `lens` and what was read stay."""
        self.closed = True
        self._free_scratch()
        self.attention.destroy()
        self._logits.destroy()
        if self._stages is not None:
            self._stages.destroy()
            self._stages = None


class Host(Protocol):
    """What `inspect` needs of a model."""

    turn: Turn
    inspections: WeakSet[Inspection]  # the open ones, which are closed with the model

    async def decoder(self, rows: int, length: int) -> Decoder: ...


async def inspect(
    host: Host, token_ids: list[int], top: int, tokenizer: GPT2Tokenizer | None, length: int
) -> Inspection:
    """An Inspection of the last of token_ids, at the model's turn, in a cache of `length` slots;
    made anew where the device is lost."""
    losses = Losses()
    await host.turn.take()
    try:
        while True:
            try:
                decoder = await host.decoder(1, length)
                inspection = Inspection(decoder, token_ids, tokenizer)
                host.inspections.add(inspection)
                try:
                    await inspection.look(decoder, top)
                except BaseException:
                    inspection.close()
                    raise
                return inspection
            except DeviceLost as error:
                losses.add(error)
    finally:
        host.turn.give()


async def read_before(decoder: Decoder, ids: list[int]) -> bool:
    """Put the keys and values of all ids but the last into the cache, as far as they are not there.
    Whether those of the last are there too."""
    known = common_length(decoder.cached[0], ids)
    if known == len(ids):
        return True
    known = min(known, len(ids) - 1)
    spans: list[Span] = [(0, known, ids[known:-1])]
    decoder.cached[0] = ids[:known]
    while spans := decoder.prefill(spans):
        decoder.cached[0] = ids[: spans[0][1]]
        await decoder.device.settled()
    decoder.cached[0] = ids[:-1]
    return False
