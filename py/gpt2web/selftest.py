"""Known answers: does this GPU compute what it should?

A two-layer GPT-2 of fixed weights goes through the kernels that a model uses: packing in the
precision that is asked for, a prompt over two splits of the cache, and a step each way. What every
kernel leaves in its buffer is compared with answers.json, which tests/record_answers.py writes from
the numpy reference.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from gpt2web.array_checkpoint import ArrayCheckpoint
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.decoder import Decoder
from gpt2web.generate import Request, Run, Session
from gpt2web.gpu import Device, DeviceError, Tensor
from gpt2web.head_start import Memory
from gpt2web.precision import GROUPS, bits_of, is_matrix, is_transposed, matrix_shape
from gpt2web.sampling import Sampling
from gpt2web.weights import Weights

CONFIG = GPT2Config(
    vocabulary_size=37,
    num_layers=2,  # the second sees what a prompt leaves of the first
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=44,  # three groups of int4, the last one short, and two of int8
    max_sequence_length=280,
)
PROMPTS = {"long": 271, "short": 12}  # ids: beyond one split of the cache, and within it
SAMPLING = Sampling(temperature=1.5, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.1)
SEED = 11
ALTERNATIVES = 3
TOLERANCE = 1e-4  # of a buffer's largest value; f32 over these few terms is 100 times closer

# What each buffer tells about: the kernels that filled it since the one before.
BUFFERS = {
    "q": "pack or quantize, embed, qkv, or a kernel of the first layer",
    "attended": "embed_chunk, norm_chunk, matmul, append_chunk, attention_chunk or attention",
    "hidden_units": "project or fc",
    "logits": "project or head",
    "scores": "scores",
}


def numbers(seed: int) -> Iterator[float]:
    """Endless multiples of 1/256 in -0.5..0.5, exact in f16; a linear congruential generator."""
    while True:
        seed = (1103515245 * seed + 12345) & 0x7FFFFFFF
        yield ((seed >> 16) % 257 - 128) / 256


def answers_of(precision: str) -> str:
    """Whose answers hold: what int8 holds exactly, f16 and f32 do."""
    return "int4" if precision == "int4" else "int8"


def fixed_weights(precision: str) -> dict[str, list[Any]]:
    """The test model's tensors under their checkpoint names, as nested lists; matrices are such
    that the precision holds them exactly."""
    source = numbers(4)  # of which no draw lies near a boundary, in either set
    weights: dict[str, list[Any]] = {}
    for name, shape in tensor_shapes(CONFIG).items():
        if is_matrix(name):
            k, columns = matrix_shape(name, shape)
            bits = bits_of(name, answers_of(precision))
            matrix = [exact_column(source, column, k, bits) for column in range(columns)]
            weights[name] = (
                matrix if is_transposed(name) else [list(row) for row in zip(*matrix, strict=True)]
            )
            continue
        gain = 1.0 if name.rsplit(".", 2)[-2].startswith("ln_") and name.endswith("weight") else 0.0
        values = [gain + 2 * next(source) for _ in range(math.prod(shape))]
        width = shape[-1]
        rows = [values[i : i + width] for i in range(0, len(values), width)]
        weights[name] = values if len(shape) == 1 else rows
    return weights


def exact_column(source: Iterator[float], column: int, k: int, bits: int) -> list[float]:
    """k values that are whole multiples of a power of two, a different one in neighbouring groups
    and columns; one of each group has the largest magnitude, from which its scale follows."""
    group = GROUPS[bits]
    largest, others, steps = (127, 126, 128) if bits == 8 else (-8, 7, 8)
    values = []
    for i in range(k):
        place, width = i % group, min(group, k - i // group * group)
        q = largest if place == column % width else round(2 * others * next(source))
        values.append(q / steps / 2 ** ((column + i // group) % 3))
    return values


def prompt(count: int) -> list[int]:
    """Fixed ids."""
    source = numbers(count)
    return [int((next(source) + 0.5) * 256) % CONFIG.vocabulary_size for _ in range(count)]


async def compute(device: Device, precision: str) -> dict[str, list[float]]:
    """What the device leaves in each buffer: {"long/q": values, ...}, and {"long/ring": [id,
    log-probability, then alternatives with theirs]}."""
    weights = Weights(device, CONFIG, precision)
    decoder = Decoder(device, CONFIG, weights, 1, CONFIG.max_sequence_length)
    session = Session(decoder, ALTERNATIVES)
    try:
        await weights.load(ArrayCheckpoint(CONFIG, fixed_weights(precision)))
        found: dict[str, list[float]] = {}
        for name, count in PROMPTS.items():
            decoder.cached[0] = []
            request = Request(prompt(count), SAMPLING, SEED, 0, 1, frozenset())
            run = Run(session, [request])
            while not await run.prefill():
                pass
            (chosen,) = await run.read()
            assert chosen.logprob is not None and chosen.top is not None
            alternatives = [value for pair in chosen.top for value in pair]
            found[f"{name}/ring"] = [chosen.id, chosen.logprob, *alternatives]
            tensors = {"scores": session.scores} | vars(decoder)
            read = await _read_together(device, [tensors[buffer] for buffer in BUFFERS])
            found |= {f"{name}/{b}": values for b, values in zip(BUFFERS, read, strict=True)}
        return found
    finally:
        session.destroy()
        decoder.destroy()
        weights.destroy()


async def _read_together(device: Device, tensors: list[Tensor]) -> list[list[float]]:
    """The values of several tensors, through one readback."""
    sizes = [4 * tensor.size for tensor in tensors]
    readback = device.readback(sum(sizes))
    try:
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        copies = [(t, 0, readback, o, s) for t, o, s in zip(tensors, offsets, sizes, strict=True)]
        device.submit([], copies=copies)
        readback.map()
        data = (await readback.take(sum(sizes))).tobytes()
    finally:
        readback.destroy()
    return [
        list(struct.unpack_from(f"<{size // 4}f", data, offset))
        for offset, size in zip(offsets, sizes, strict=True)
    ]


@cache
def recorded_answers() -> dict[str, dict[str, list[float]]]:
    """answers.json: buffers by name, for "int8" and "int4"."""
    text = files("gpt2web").joinpath("answers.json").read_text(encoding="utf-8")
    answers: dict[str, dict[str, list[float]]] = json.loads(text)
    return answers


def compare(found: dict[str, list[float]], answers: dict[str, list[float]]) -> str | None:
    """The first difference, as a sentence; None when all is well."""
    for name, wanted in answers.items():
        suspects = BUFFERS.get(name.partition("/")[2], "alternatives or select")
        if name == "long/attended":
            suspects += " (attention_reduce)"
        largest = max(abs(value) for value in wanted)
        for i, (value, answer) in enumerate(zip(found[name], wanted, strict=True)):
            if not abs(value - answer) <= TOLERANCE * largest:  # NaN differs too
                return f"{suspects}: {name}[{i}] is {value:.6g}, should be {answer:.6g}"
    return None


async def run(device: Device, precision: str, memory: Memory | None = None) -> tuple[str, str]:
    """Test the kernels; returns (precision to trust, what to tell).

    What has passed, of these kernels on this adapter, is not tested again while memory has it.
    Where another precision fails, plain f32 is tried. Raises DeviceError, naming the kernels and
    the adapter, where that fails too.
    """
    key = f"self-test {precision} {device.identity}"
    if memory is not None and await memory.recall(key) == "passed":
        return precision, "passed on an earlier visit"
    answers = recorded_answers()
    wrong = compare(await compute(device, precision), answers[answers_of(precision)])
    if wrong is None:
        if memory is not None:
            await memory.remember(key, "passed")
        return precision, "passed"
    if precision != "f32":
        in_f32 = compare(await compute(device, "f32"), answers[answers_of("f32")])
        if in_f32 is None:
            return "f32", f"passed in f32; {precision} failed ({wrong})"
        wrong = in_f32
    raise DeviceError(
        f"{device.info['adapter']} computes wrongly, so nothing can be generated on it. {wrong}. "
        "Update the graphics driver, or choose another adapter or browser",
        code="device-wrong",
    )
