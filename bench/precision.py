"""`build.py bench precision`: what each precision costs in bytes and in quality.

The stories model in every precision foretells held_out.txt, a story at a time, each behind
<|endoftext|> and in windows of the context, as `gpt2web score` does. From the logits of every token
come the loss, and the Kullback-Leibler divergence from the f32 model's distribution. Bytes for the
shapes of GPT-2 are counted by footprint.py; sizes.py checks that count against real ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.footprint import footprint
from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.precision import (
    PRECISIONS,
    bits_of,
    is_matrix,
    is_packed,
    matrix_shape,
    packed_shape,
)

HELD_OUT = Path(__file__).with_name("held_out.txt")
SHAPES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def stories() -> list[str]:
    """The documents of held_out.txt."""
    return HELD_OUT.read_text("utf-8").removesuffix("\n").split("\n<|endoftext|>\n")


async def run(
    adapter: str | None, texts: list[str], precisions: Sequence[str] = PRECISIONS
) -> dict[str, Any]:
    """Everything about the precisions; the first of them, f32, is what others are compared with."""
    models = {}
    try:
        for precision in precisions:
            models[precision] = await GPT2CausalLM.from_preset_async(
                "stories", precision=precision, adapter=adapter
            )
        losses: dict[str, list[Any]] = {precision: [] for precision in models}
        divergences: dict[str, list[Any]] = {precision: [] for precision in models}
        for n, text in enumerate(texts):
            print(f"\r  text {n + 1} of {len(texts)} ", end="", file=sys.stderr, flush=True)
            for inputs, targets in models["f32"].windows(text):
                base = None
                for precision, lm in models.items():
                    logits = np.asarray(await (await lm.call_async([inputs])).read())[0]
                    found = log_softmax(logits)
                    base = found if base is None else base
                    losses[precision].append(-found[np.arange(len(targets)), targets])
                    divergences[precision].append(divergence(base, found))
        print(file=sys.stderr)
        rows = []
        for precision, lm in models.items():
            weights = lm.backbone.weights
            assert weights is not None
            held = footprint(weights.config, precision, weights.device.limits)
            tokens = np.concatenate(losses[precision])
            rows.append(
                {
                    "precision": precision,
                    "bytes": held,
                    "stored_bytes": stored_bytes(weights.config, precision),
                    "perplexity": perplexity(tokens),
                    "divergence": float(np.concatenate(divergences[precision]).mean()),
                }
            )
        lm = models["f32"]
        return {
            "adapter": lm.info["adapter"],
            "software": lm.info["software"],
            "texts": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "tokens": sum(map(len, losses["f32"])),
            "stories": rows,
            "shapes": list(shapes()),
        }
    finally:
        for lm in models.values():
            lm.close()


def shapes() -> Iterator[dict[str, Any]]:
    """Bytes on the GPU of each shape of GPT-2 in each precision."""
    for model in SHAPES:
        for precision in PRECISIONS:
            counted = footprint(GPT2Config.from_preset(model), precision)
            yield {"model": model, "precision": precision, "bytes": counted}


def stored_bytes(config: GPT2Config, precision: str) -> int:
    """What the tensors take in a folder of the stories model, whose floats are published in f16:
    int8 and int4 pack the matrices and leave the rest as it is."""
    total = 0
    for name, shape in tensor_shapes(config).items():
        if is_matrix(name) and is_packed(precision):
            k, columns = matrix_shape(name, shape)
            total += 4 * math.prod(packed_shape(k, columns, bits_of(name, precision)))
        else:
            total += math.prod(shape) * (4 if precision == "f32" else 2)
    return total


def log_softmax(logits: Any) -> Any:
    """Natural log-probabilities in f64: [n, vocabulary] -> the same."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(base: Any, other: Any) -> Any:
    """Kullback-Leibler divergence of each token, in nats: log-probabilities [n, vocabulary] twice
    -> [n]."""
    return (np.exp(base) * (base - other)).sum(axis=-1)


def perplexity(losses: Any) -> float:
    """e to the mean loss, in nats, of [n] tokens."""
    return math.exp(losses.mean())
