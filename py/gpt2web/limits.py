"""What a model needs of a device, checked before any of it is there.

Matrices lie in as many parts as the limits ask for (weights.allocate), so what counts is the rest:
a tile of a matrix's columns, tensors in one piece, a layer's keys and values, a row in workgroup
memory. Each refusal names what was needed, what is allowed and by which limit, and what would fit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.gpu import SIZE_LIMITS, Device, DeviceError
from gpt2web.kernels import NORM_SCRATCH, TILE
from gpt2web.precision import (
    BITS,
    PRECISIONS,
    SCALED,
    bits_of,
    is_matrix,
    matrix_shape,
    packed_shape,
)


def check_weights(device: Device, config: GPT2Config, precision: str) -> None:
    """Raises DeviceError where the weights of a config cannot lie on the device, or its kernels
    cannot hold a row of hidden_dim."""
    allowed, limit = _allowed(device)
    needed, what = largest_piece(config, precision)
    if needed > allowed:
        fitting = [p for p in PRECISIONS if largest_piece(config, p)[0] <= allowed]
        way_out = f"load the model in {fitting[0]}" if fitting else NONE_FITS
        raise DeviceError(
            f"{what} takes {needed:,} bytes in {precision}, the adapter allows {allowed:,} "
            f"({limit}): {way_out}",
            code="device-limit",
        )
    limit = "max-compute-workgroup-storage-size"
    needed, allowed = 4 * (config.hidden_dim + NORM_SCRATCH), device.limits[limit]
    if needed > allowed:
        raise DeviceError(
            f"hidden_dim is {config.hidden_dim:,}, which takes {needed:,} bytes of workgroup "
            f"memory in every precision; the adapter allows {allowed:,} ({limit}), which holds "
            f"{allowed // 4 - NORM_SCRATCH:,}: use a narrower model or another adapter",
            code="device-limit",
        )


def check_cache(device: Device, config: GPT2Config, rows: int, length: int) -> None:
    """Raises DeviceError where keys and values of `rows` texts of `length` tokens do not fit."""
    allowed, limit = _allowed(device)
    row = 8 * length * config.hidden_dim  # bytes of a layer
    if rows * row > allowed:
        fitting = allowed // row
        if fitting:
            way_out = f"enough for a batch of {fitting}: use a smaller one, or shorter texts"
        else:
            tokens = allowed // (8 * config.hidden_dim)
            way_out = f"enough for {tokens:,} tokens: use a model with a shorter context"
        raise DeviceError(
            f"keys and values of a batch of {rows}, {length:,} tokens each, take {rows * row:,} "
            f"bytes a layer in every precision; the adapter allows {allowed:,} ({limit}), "
            f"{way_out}",
            code="device-limit",
        )


def out_of_memory(config: GPT2Config, precision: str, had: int) -> str:
    """What to say where the GPU's memory ended when `had` bytes of weights lay in it: what the
    model needs, with the keys and values of one text, and the precision that would have fitted."""
    cache = 8 * config.num_layers * config.max_sequence_length * config.hidden_dim
    needed = {p: weights_bytes(config, p) + cache for p in PRECISIONS}
    fitting = [p for p in PRECISIONS if needed[p] <= had]
    least = PRECISIONS[-1]
    if fitting:
        way_out = f"load the model in {fitting[0]}, which takes {needed[fitting[0]]:,}"
    else:
        way_out = f"the least, {least}, takes {needed[least]:,}, so use a smaller model"
    return (
        f"the GPU's memory ended after {had:,} bytes; in {precision} the model takes "
        f"{needed[precision]:,}, with its keys and values: {way_out}"
    )


NONE_FITS = "no precision makes it fit, so use a smaller model or another adapter"


def largest_piece(config: GPT2Config, precision: str) -> tuple[int, str]:
    """Bytes of the largest buffer that weights cannot do without, and what lies in it."""

    def piece(name: str, shape: tuple[int, ...]) -> tuple[int, str]:
        if not is_matrix(name):
            return 4 * math.prod(shape), name
        k, columns = matrix_shape(name, shape)
        rows, width = packed_shape(k, min(TILE, columns), bits_of(name, precision))
        return 4 * rows * width, name if columns <= TILE else f"{TILE} columns of {name}"

    shapes = tensor_shapes(config)
    widest = max(shapes, key=lambda name: shapes[name][-1])
    staging = 4 * staging_words(config), f"{SCALED} rows of {widest}, on their way to the GPU,"
    return max(staging, *(piece(name, shape) for name, shape in shapes.items()))


def staging_words(config: GPT2Config) -> int:
    """The fewest u32 that weights.py loads through: 32 rows of any tensor, whose scales are made
    together, and a row of words of the packed embedding."""
    widest = max(shape[-1] for shape in tensor_shapes(config).values())
    return max(SCALED * widest, -(-config.vocabulary_size // 4) * 4)


class Parameter(NamedTuple):
    """A tensor of a model: its name and shape in a checkpoint, how many numbers it holds, how it is
    kept on a GPU ("f32", "f16", "int8" or "int4") and what it takes there."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    precision: str
    gpu_bytes: int


class Parameters(list[Parameter]):
    """Every tensor of a model, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        from gpt2web.notebook import table_html

        count, size = sum(p.parameters for p in self), sum(p.gpu_bytes for p in self)
        rows = [
            (
                parameter.name,
                " × ".join(map(str, parameter.shape)),
                f"{parameter.parameters:,}",
                parameter.precision,
                f"{parameter.gpu_bytes:,}",
            )
            for parameter in self
        ]
        head = ("tensor", "shape", "parameters", "precision", "bytes on a GPU")
        return table_html(f"{count:,} parameters, {size:,} bytes on a GPU", head, rows)


def parameters(config: GPT2Config, precision: str) -> Parameters:
    """Every tensor of a model in a precision, in the order that a text passes them; the head is
    wte.weight again."""
    kept = {bits: name for name, bits in BITS.items()}
    found = []
    for name, shape in tensor_shapes(config).items():
        bits, count = bits_of(name, precision), math.prod(shape)
        words = count
        if is_matrix(name):
            words = math.prod(packed_shape(*matrix_shape(name, shape), bits))
        size = max(16, -(-4 * words // 16) * 16)  # as Device.tensor_bytes rounds it up
        found.append(Parameter(name, shape, count, kept[bits], size))
    return Parameters(found)


def weights_bytes(config: GPT2Config, precision: str) -> int:
    """What the weights take on a GPU."""
    return sum(parameter.gpu_bytes for parameter in parameters(config, precision))


def _allowed(device: Device) -> tuple[int, str]:
    """Bytes of the largest tensor, and the name of the limit that says so."""
    return min((device.limits[name], name) for name in SIZE_LIMITS)
