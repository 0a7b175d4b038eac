"""A checkpoint of any form into a model folder, a piece of a tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt2web.checkpoint import tensor_shapes
from gpt2web.convert.model_folder import FolderWriter
from gpt2web.convert.quantize import quantize
from gpt2web.convert.source import Floats, Source
from gpt2web.precision import (
    SCALED,
    bits_of,
    is_matrix,
    is_transposed,
    matrix_shape,
    packed_name,
    packed_shape,
    word_rows,
)
from gpt2web.safetensors import CheckpointError

PIECE_VALUES = 1 << 20  # in memory at a time, beside the one packed tensor that is being made
STORED = {32: "F32", 16: "F16"}

Advance = Callable[[int], object]  # values done since the last call


def own_precision(source: Source) -> str:
    """What the source's matrices are in: f16 where none had more than 16 bits, else f32."""
    names = [name for name in tensor_shapes(source.config) if is_matrix(name)]
    return "f32" if any(source.tensors.bits(name) == 32 for name in names) else "f16"


def convert(
    source: Source, folder: Path, precision: str, title: str, license: str, advance: Advance
) -> None:
    """Writes the source as a model folder, all of it or nothing.

    f32 and f16 store every tensor so. int8 and int4 quantise the matrices (`precision.bits_of`);
    norms, biases and position embeddings then stay as they are in the source, f32 or f16.

    CheckpointError: a tensor holds NaN or infinity, or more than f16 holds.
    """
    shapes = tensor_shapes(source.config)
    stored = {name: _stored_bits(source, name, precision) for name in shapes}
    with FolderWriter(
        folder,
        title=title,
        license=license,
        precision=precision,
        parameters=source.config.num_parameters,
        context=source.config.max_sequence_length,
    ) as writer:
        for file, text in source.texts.items():
            writer.add_text(file, text)
        writer.begin_weights(
            (name, STORED[bits], shapes[name])
            if bits in STORED
            else (packed_name(name, precision), "U32", _packed_shape(name, shapes[name], bits))
            for name, bits in stored.items()
        )
        for name, bits in stored.items():
            if bits in STORED:
                for values in _pieces(source, name, shapes[name]):
                    writer.write(_cast(source, name, values, bits))
                    advance(values.size)
            else:
                writer.write(_packed(source, name, shapes[name], bits, advance))


def _stored_bits(source: Source, name: str, precision: str) -> int:
    if precision in ("int8", "int4") and not is_matrix(name):
        return source.tensors.bits(name)
    return 16 if precision == "f16" else bits_of(name, precision)


def _packed_shape(name: str, shape: tuple[int, ...], bits: int) -> tuple[int, int]:
    rows, columns = shape
    return packed_shape(*matrix_shape(name, (rows, columns)), bits)


def _pieces(source: Source, name: str, shape: tuple[int, ...]) -> Iterator[Floats]:
    """The tensor's rows, a multiple of SCALED at a time, each piece checked: [rows, columns]"""
    rows, columns = math.prod(shape[:-1]), shape[-1]
    at_once = max(1, PIECE_VALUES // columns // SCALED) * SCALED
    for first in range(0, rows, at_once):
        values = source.tensors.rows(name, first, min(at_once, rows - first))
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0].tolist()
            raise CheckpointError(
                f"{source.where}: tensor {name} holds {values[row, column]} at row {first + row}, "
                f"column {column}. Fetch the checkpoint again; if it is so there, it is broken."
            )
        yield values


def _cast(source: Source, name: str, values: Floats, bits: int) -> memoryview:
    """The values as a file holds them, little-endian."""
    if bits == 32:
        return np.ascontiguousarray(values, "<f4").data
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        raise CheckpointError(
            f"{source.where}: tensor {name} holds {np.abs(values).max()}, more than f16 holds "
            "(65504). Convert with --precision f32, or int8."
        )
    return halves.data


def _packed(
    source: Source, name: str, shape: tuple[int, ...], bits: int, advance: Advance
) -> memoryview:
    """A matrix in words, scales behind them; the one tensor that is in memory as a whole."""
    k, columns = matrix_shape(name, (shape[0], shape[1]))
    packed = np.zeros(packed_shape(k, columns, bits), "<u4")
    words, scales = packed[: word_rows(k, bits)], packed[word_rows(k, bits) :]
    first = 0  # row of the tensor
    for values in _pieces(source, name, shape):
        end = first + len(values)
        try:
            if is_transposed(name):
                words[:, first:end], scales[:, first:end] = quantize(values.T, bits)
            else:
                at = first * bits // 32
                piece = quantize(values, bits)
                words[at : at + len(piece[0]), :columns] = piece[0]
                at = first // SCALED
                scales[at : at + len(piece[1]), :columns] = piece[1]
        except OverflowError as error:
            raise CheckpointError(
                f"{source.where}: tensor {name}: {error}. Convert with --precision int8, or f32."
            ) from None
        first = end
        advance(values.size)
    return packed.data
