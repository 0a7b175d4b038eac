"""One model to be measured. This file runs natively and in the page's worker alike.

Two kinds of generation are driven:

- Idle ones, to see what the CPU does for a token. A software adapter would take the CPU from
  Python, and up to a second for a token of GPT-2 small. So each recorded call is made with 0
  workgroups: the GPU does nothing and every id is 0, while the CPU does all that it does for any
  token: encode, submit, map, read the ids, decode text.
- Real ones, for tokens per second and the time to the first token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from gpt2web.backbone import GPT2Backbone
from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.config import GPT2Config
from gpt2web.generate import RING_STEPS, Request, Run
from gpt2web.gpu import Device
from gpt2web.preprocessor import GPT2CausalLMPreprocessor
from gpt2web.sampling import Sampling
from gpt2web.stream import TextStream
from gpt2web.tokenizer import GPT2Tokenizer

SAMPLING = Sampling(temperature=0.8, top_k=40)


class Subject:
    """A loaded model. `start`, `advance` and `stop` drive an idle generation."""

    def __init__(self, lm: GPT2CausalLM) -> None:
        assert lm.preprocessor is not None
        self.lm = lm
        self.config = lm.backbone.config
        self.tokenizer = lm.preprocessor.tokenizer
        self.stream: TextStream | None = None

    @classmethod
    async def load(
        cls,
        model: str,
        precision: str | None,
        adapter: str | None = None,
        base_url: str | None = None,
    ) -> Subject:
        """model: "stories", or the name of a config, which gets random weights."""
        if model == "stories":
            return cls(
                await GPT2CausalLM.from_preset_async(
                    model, precision=precision, adapter=adapter, base_url=base_url
                )
            )
        config = GPT2Config.from_preset(model)
        device = await Device.request(adapter)
        backbone = GPT2Backbone.from_config(config, precision=precision or "f32", device=device)
        tokenizer = GPT2Tokenizer(None, list(made_up_merges(config.vocabulary_size - 257)))
        await backbone.ready()
        lm = GPT2CausalLM(backbone, GPT2CausalLMPreprocessor(tokenizer))
        subject = cls(lm)
        await subject.speed(2, 2)  # drivers compile a kernel at its first use
        return subject

    def info(self) -> dict[str, Any]:
        """Adapter, precision, bytes on the GPU and more, with the buffers of one row."""
        return self.lm.info

    async def start(self, steps_per_submit: int) -> None:
        """Begin an idle generation from one id."""
        context = self.config.max_sequence_length
        session = await self.lm.session(1, context, 0)
        self.recorded = session.short_step, session.long_step
        session.short_step = [call._replace(x=0) for call in session.short_step]
        session.long_step = [call._replace(x=0) for call in session.long_step]
        session.decoder.device.write(session.ring, bytes(4 * RING_STEPS))
        self.stream = TextStream(
            self.lm,
            self.tokenizer,
            [Request([0], SAMPLING, 0, 0, context - 1, frozenset())],
            reasons=["context"],
            steps_per_submit=steps_per_submit,
            length=context,
        )

    async def advance(self, count: int) -> None:
        """Take `count` more ids of the idle generation."""
        assert self.stream is not None
        while count > 0:
            count -= len((await anext(self.stream)).ids)

    async def stop(self) -> None:
        assert self.stream is not None
        await self.stream.aclose()
        self.stream = None
        session = await self.lm.session(1, self.config.max_sequence_length, 0)
        session.short_step, session.long_step = self.recorded
        session.decoder.cached[0] = []  # the idle steps have put nothing into the cache

    async def speed(self, context: int, tokens: int, dropped: int = 0) -> dict[str, Any]:
        """Continue `context` random ids by `tokens`, sampled with SAMPLING.

        K is chosen as always. seconds: to the first id, the prompt's way through the model
        included. tokens_per_second: from the first submit that brings the count to `dropped` or
        more, to the last. Text is left out: it takes microseconds a token.
        """
        draw = random.Random(context)
        ids = [draw.randrange(self.config.vocabulary_size - 1) for _ in range(context)]
        await self.lm.turn.take()
        try:
            session = await self.lm.session(1, self.config.max_sequence_length, 0)
            session.decoder.cached[0] = []  # a prompt seen before would be quicker
            began = time.perf_counter()
            run = Run(session, [Request(ids, SAMPLING, 1, 0, tokens, frozenset())])
            while not await run.prefill():
                pass
            marks = []
            while run.running:
                await run.read()
                marks.append((len(run.ids[0]), time.perf_counter()))
        finally:
            self.lm.turn.give()
        (first, start), (last, end) = next(m for m in marks if m[0] >= dropped), marks[-1]
        return {
            "context": context,
            "tokens": last - first,
            "tokens_per_second": (last - first) / (end - start) if last > first else None,
            "first_token_seconds": marks[0][1] - began,
        }

    def close(self) -> None:
        self.lm.close()


def made_up_merges(count: int) -> Iterator[str]:
    """Rules for a vocabulary of GPT-2's size, its own being no part of this project: all pairs of
    printable ASCII characters, then as many triples as are wanted."""
    characters = [chr(code) for code in range(33, 127)]
    pairs = [left + right for left in characters for right in characters]
    rules = [" ".join(pair) for pair in pairs] + [f"{p} {c}" for p in pairs for c in characters]
    yield from rules[:count]
