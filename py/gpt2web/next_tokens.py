"""What sampling would make of one row of logits: the stages of shaders/scores.wgsl and select.wgsl,
for people to look at. Nothing is drawn."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from gpt2web import kernels
from gpt2web.gpu import MAX_ROWS, Device, Tensor
from gpt2web.sampling import Sampling, bit_words
from gpt2web.tokenizer import GPT2Tokenizer


@dataclass(frozen=True)
class Candidate:
    """An id that may come next.

    text: its own, "" where the model has no tokenizer. logit and logprob (natural): the model's,
    before any setting. after_temperature: its probability after repetition penalty and temperature;
    after_cuts: after top-k, top-p and min-p as well. kept: whether it can be drawn.
    """

    id: int
    text: str
    logit: float
    logprob: float
    after_temperature: float
    after_cuts: float
    kept: bool


class NextTokens(list[Candidate]):
    """Candidates, the most probable first: higher score, of equal ones the lower id.

    kept: how many ids of the whole vocabulary can be drawn, those that are not listed with them.
    """

    def __init__(self, candidates: Iterable[Candidate], kept: int) -> None:
        super().__init__(candidates)
        self.kept = kept

    def _repr_html_(self) -> str:
        from gpt2web.notebook import bars_html

        columns = {
            "of the model": [math.exp(one.logprob) for one in self],
            "after temperature": [one.after_temperature for one in self],
            "after cuts": [one.after_cuts for one in self],
        }
        names = [one.text or str(one.id) for one in self]
        return bars_html(f"What may come next: {self.kept:,} can be drawn", names, columns)


class Stages:
    """The buffers and calls that look at logits [1, vocabulary], for the `top` highest ids.

    seen: the ids that the repetition penalty is for.
    """

    def __init__(self, device: Device, logits: Tensor, seen: Iterable[int], top: int) -> None:
        vocabulary = logits.shape[1]
        self.device = device
        self.top = top
        words = bit_words(seen, vocabulary)
        state = device.tensor((MAX_ROWS, 4), "u32", uniform=True)  # zeros: the row runs
        samplings = device.tensor((MAX_ROWS, 8), "u32", uniform=True)
        flags = device.tensor((1, 2, len(words)), "u32")
        scores = device.tensor((1, vocabulary))
        summaries = device.tensor((1, kernels.ceil_div(vocabulary, 1024), 4))
        highest = device.tensor((1, 1, 2 + 2 * top), "u32")
        report = device.tensor((1, 1 + top, 5), "u32")
        device.write(flags, struct.pack(f"<{len(words)}I", *words))
        self.samplings, self.report = samplings, report
        self.readback = device.readback(4 * report.size)
        self.tensors = [state, samplings, flags, scores, summaries, highest, report]
        self.calls = [
            kernels.scores(device, state, samplings, logits, flags, scores, summaries),
            kernels.alternatives(device, state, scores, summaries, highest),
            kernels.candidates(device, samplings, logits, scores, summaries, highest, report),
        ]

    async def run(self, sampling: Sampling, tokenizer: GPT2Tokenizer | None) -> NextTokens:
        """One submit. Probabilities are of the very weights that an id is drawn by."""
        self.device.write(self.samplings, sampling.pack(0, 0, 0))
        size = 4 * self.report.size
        self.device.submit(self.calls, copies=[(self.report, 0, self.readback, 0, size)])
        self.readback.map()
        try:
            data = await self.readback.take(size)
        except BaseException:
            if self.calls:  # cancelled: its mapping is still under way, so another takes its place
                self.readback.destroy()
                self.readback = self.device.readback(size)
            raise
        (high, low, kept_high, kept_low, kept), *rows = struct.iter_unpack("<5I", data)
        whole, left = (high << 15) + low, (kept_high << 15) + kept_low
        found = []
        for id_, *floats, weight, is_kept in rows:
            logit, logprob = struct.unpack("<2f", struct.pack("<2I", *floats))
            after_cuts = weight / left if is_kept else 0.0
            text = tokenizer.detokenize([id_]) if tokenizer else ""
            found.append(
                Candidate(id_, text, logit, logprob, weight / whole, after_cuts, bool(is_kept))
            )
        return NextTokens(found, kept)

    def destroy(self) -> None:
        """Free the buffers; the logits stay."""
        self.calls = []
        for tensor in self.tensors:
            tensor.destroy()
        self.readback.destroy()
