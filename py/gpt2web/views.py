"""What the page asks about a model's inside: inspections, by the numbers that gpt2web.js gives
them, and the map of the weights. For page.py; values go out as JavaScript spells them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.gpu import DeviceError
from gpt2web.inspection import Inspection

Message = dict[str, Any]


class Views:
    """The open inspections of a page's model, and those under way."""

    def __init__(self) -> None:
        self.open: dict[int, Inspection] = {}
        self.under_way: dict[int, asyncio.Task[Inspection]] = {}

    async def inspect(
        self, lm: GPT2CausalLM, number: int, token_ids: Sequence[int], options: Mapping[str, Any]
    ) -> Message | None:
        """Opens an inspection; None where it was closed before it was there."""
        task = asyncio.ensure_future(lm.inspect_async(token_ids, **options))
        self.under_way[number] = task
        try:
            inspection = await task
            self.open[number] = inspection
            attention = await inspection.attention.read()
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return None
        finally:
            del self.under_way[number]
        detokenize = lm.tokenizer.detokenize
        lens = [
            [{"id": id_, "text": detokenize([id_]), "logprob": logprob} for id_, logprob in layer]
            for layer in inspection.lens
        ]
        return {
            "tokenIds": inspection.token_ids,
            "position": inspection.position,
            "shape": list(inspection.attention.shape),
            "attention": attention.cast("B").cast("f"),  # flat: it arrives as a Float32Array
            "lens": lens,
        }

    async def next_tokens(self, number: int, settings: Mapping[str, Any]) -> Message:
        """What sampling with these settings makes of an inspection's logits."""
        if number not in self.open:
            raise DeviceError(
                "this inspection was closed, or went with the worker that held it: make another",
                code="closed",
            )
        found = await self.open[number].next_tokens_async(**settings)
        candidates = [
            {
                "id": candidate.id,
                "text": candidate.text,
                "logit": candidate.logit,
                "logprob": candidate.logprob,
                "afterTemperature": candidate.after_temperature,
                "afterCuts": candidate.after_cuts,
                "kept": candidate.kept,
            }
            for candidate in found
        ]
        return {"candidates": candidates, "kept": found.kept}

    def parameters(self, lm: GPT2CausalLM) -> list[Message]:
        """Every tensor of the model."""
        return [
            {
                "name": parameter.name,
                "shape": list(parameter.shape),
                "parameters": parameter.parameters,
                "precision": parameter.precision,
                "gpuBytes": parameter.gpu_bytes,
            }
            for parameter in lm.parameters()
        ]

    def close(self, number: int) -> None:
        """Closes an inspection, open or under way; does nothing for one that is closed."""
        if number in self.under_way:
            self.under_way[number].cancel()
        if number in self.open:
            self.open.pop(number).close()
