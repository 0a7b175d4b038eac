"""`build.py bench sizes`: every size of GPT-2, with random weights, natively on a software adapter.

Each model runs in a process of its own (`python -m bench.sizes MODEL PRECISION ADAPTER`), so that
its peak memory is its own. It continues a prompt greedily; then logits of the prompt and of what
was generated are compared with numpy's (tests/reference.py), which computes with the weights that
the kernels read, brought back from the GPU a layer at a time. What does not agree ends the bench.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.footprint import footprint
from gpt2web.backbone import GPT2Backbone
from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.generate import Request, Run, Session
from gpt2web.gpu import Device
from gpt2web.sampling import Sampling
from gpt2web.weights import Weights
from tests import reference

# As published: https://huggingface.co/openai-community
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
MODELS = [
    *(("gpt2", precision) for precision in ("f32", "f16", "int8", "int4")),
    *(("gpt2-medium", "f16"), ("gpt2-large", "f16"), ("gpt2-xl", "f16"), ("gpt2-xl", "int4")),
]
SCALE = 0.02  # of the random weights
PROMPT = 19  # ids: a block of 16, and one that is not full
GENERATED = 5
# Of the largest logit. Both sides have the same weights; sums of 1,600 products in f32, through 48
# layers, leave a tenth of this.
TOLERANCE = 1e-4


class Wrong(Exception):
    """What the GPU holds or computes is not what it should be."""


def run(adapter: str) -> list[dict[str, Any]]:
    """Measures all models, each in its own process. Raises CalledProcessError where one fails."""
    found = []
    for model, precision in MODELS:
        print(f"  {model}, {precision} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "bench.sizes", model, precision, adapter]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        # others that ran, beside the adapter's own threads, make it slower
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        found.append(json.loads(done.stdout) | {"load": load})
    return found


async def measure(model: str, precision: str, adapter: str | None) -> dict[str, Any]:
    """Everything about one model. Raises Wrong."""
    config = GPT2Config.from_preset(model)
    device = await Device.request(adapter)
    found = await examine(device, config, precision, PARAMETERS[model])
    info = {key: device.info[key] for key in ("adapter", "software")}
    device.destroy()
    return {"model": model, "precision": precision, **info, **found}


async def examine(
    device: Device, config: GPT2Config, precision: str, parameters: int
) -> dict[str, Any]:
    """A model with random weights: what it holds, and whether it computes what numpy does.
    parameters: how many it should have. Raises Wrong."""
    backbone = GPT2Backbone.from_config(config, precision=precision, device=device)
    lm = GPT2CausalLM(backbone)
    try:
        began = time.perf_counter()
        _, weights = await backbone.ready()
        await device.settled()
        made = time.perf_counter()
        check_parameters(weights, parameters)
        draw = random.Random(0)
        prompt = [draw.randrange(config.vocabulary_size) for _ in range(PROMPT)]
        ids, logprobs, seconds = await generate(lm, prompt)
        held = check_bytes(device, weights, await lm.session(1, config.max_sequence_length, 1))
        peak_rss = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        logits = np.asarray(await (await lm.call_async([prompt + ids])).read())[0]
        wanted = await numpy_logits(weights, prompt + ids)
        difference = compare(logits, wanted, ids, logprobs)
        split = {kind(name) for name, matrix in weights.matrices.items() if matrix.parts[1:]}
    finally:
        lm.close()
    return {
        "parameters": config.num_parameters,
        "binding_limit": device.limits["max-storage-buffer-binding-size"],
        "split": sorted(split),
        "bytes": held,
        "peak_rss_bytes": peak_rss,
        "making_seconds": made - began,
        **seconds,
        "positions": len(wanted),
        "largest_logit": float(np.abs(wanted).max()),
        "logits_difference": difference,
    }


def kind(name: str) -> str:
    """h.3.attn.c_attn.weight -> attn.c_attn"""
    return re.sub(r"^h\.\d+\.|\.weight$", "", name)


def check_bytes(device: Device, weights: Weights, session: Session) -> dict[str, int]:
    """Bytes of the weights, the K/V cache and the rest. Raises Wrong where footprint.py counts
    others."""
    parts = [part.words for weight in weights.matrices.values() for part in weight.parts]
    of_weights = sum(device.live[id(tensor)] for tensor in [*weights.vectors.values(), *parts])
    of_cache = sum(device.live[id(layer)] for layer in session.decoder.cache.layers)
    fence = 32  # of Device.settled
    rest = device.live_bytes - of_weights - of_cache - fence
    found = {"weights": of_weights, "cache": of_cache, "rest": rest}
    counted = footprint(weights.config, weights.precision, device.limits, session.alternatives)
    if found != counted:
        raise Wrong(f"on the GPU are {found} bytes, footprint.py counts {counted}")
    return found


def check_parameters(weights: Weights, published: int) -> None:
    """That every tensor is there, in its shape, and that they come to the published number."""
    found = 0
    for name, shape in tensor_shapes(weights.config).items():
        if name in weights.vectors:
            values = weights.vectors[name].shape
        else:
            matrix = weights.matrices[name]
            columns = sum(part.columns for part in matrix.parts)
            values = (columns, matrix.k) if name == "wte.weight" else (matrix.k, columns)
        if values != shape:
            raise Wrong(f"{name} is {values} on the GPU, should be {shape}")
        found += math.prod(values)
    if found != published or weights.config.num_parameters != published:
        raise Wrong(f"{found:,} parameters on the GPU, {published:,} were published")


async def generate(
    lm: GPT2CausalLM, prompt: list[int]
) -> tuple[list[int], list[float], dict[str, float]]:
    """GENERATED ids, the most probable each, their log-probabilities, and how long it took."""
    session = await lm.session(1, lm.backbone.config.max_sequence_length, 1)
    request = Request(prompt, Sampling(temperature=0), 0, 0, GENERATED, frozenset())
    run = Run(session, [request], steps_per_submit=1)
    began = time.perf_counter()
    while not await run.prefill():
        pass
    chosen, marks = [], []
    while run.running:
        chosen += await run.read()
        marks.append(time.perf_counter())
    logprobs = [each.logprob for each in chosen if each.logprob is not None]
    return (
        run.ids[0],
        logprobs,
        {
            "first_token_seconds": marks[0] - began,
            "seconds_per_token": (marks[-1] - marks[0]) / (GENERATED - 1),
        },
    )


async def numpy_logits(weights: Weights, ids: list[int]) -> Any:
    """Logits [n, vocabulary] of ids [n] in f64, a layer's weights read back at a time."""
    config = weights.config
    embeddings = {name: await values(weights, name) for name in ("wte.weight", "wpe.weight")}
    x = reference.embed(embeddings, ids, np.arange(len(ids)))
    names = list(tensor_shapes(config))
    for i in range(config.num_layers):
        prefix = f"h.{i}."
        layer = {
            name.removeprefix(prefix): await values(weights, name)
            for name in names
            if name.startswith(prefix)
        }
        x = x + reference.self_attention(config, layer, reference.norm(config, layer, "ln_1", x))
        x = x + reference.feed_forward(layer, reference.norm(config, layer, "ln_2", x))
    last = {name: await values(weights, name) for name in names if name.startswith("ln_f.")}
    return reference.head(config, embeddings | last, x)


async def values(weights: Weights, name: str) -> Any:
    """A tensor as the kernels read it, in its checkpoint's shape. Raises Wrong where it is not
    N(0, SCALE) as drawn, or 1 and 0 in a norm."""
    if name in weights.vectors:
        found = np.asarray(await weights.vectors[name].read())
    else:
        matrix = weights.matrices[name]
        columns = [
            reference.unpack(
                np.asarray(await part.words.read()), (matrix.k, part.columns), matrix.bits
            )
            for part in matrix.parts
        ]
        found = np.concatenate(columns, axis=1)
        if name == "wte.weight":
            found = found.T
    if ".ln_" in f".{name}":
        right = bool((found == (1 if name.endswith("weight") else 0)).all())
    else:  # the deviation of so many normal variables, and what rounding to 4 bits adds
        right = abs(found.std() / SCALE - 1) < 0.02 + 5 / math.sqrt(2 * found.size)
    if not right:
        raise Wrong(f"{name} is not what was drawn: mean {found.mean():.3g}, std {found.std():.3g}")
    return found


def compare(logits: Any, wanted: Any, ids: Sequence[int], logprobs: Sequence[float]) -> float:
    """The largest difference of logits [n, vocabulary], of all positions. Raises Wrong where it is
    over TOLERANCE, or where a generated id was not the most probable, or not so probable."""
    most = TOLERANCE * float(np.abs(wanted).max())
    difference = float(np.abs(logits - wanted).max())
    if not difference <= most:  # NaN differs too
        raise Wrong(f"logits differ from numpy's by {difference:.3g}, allowed are {most:.3g}")
    before = wanted[-1 - len(ids) : -1]  # the logits that each id was chosen from
    for row, id_, logprob in zip(before, ids, logprobs, strict=True):
        own = row[id_] - np.log(np.exp(row - row.max()).sum()) - row.max()
        if row.max() - row[id_] > most or not abs(own - logprob) <= most:
            raise Wrong(
                f"id {id_} was generated with log-probability {logprob:.5f}; numpy has {own:.5f}, "
                f"and {row.argmax()} as the most probable"
            )
    return difference


def main(arguments: Sequence[str]) -> None:
    model, precision, adapter = arguments
    print(json.dumps(asyncio.run(measure(model, precision, adapter))))


if __name__ == "__main__":
    main(sys.argv[1:])
