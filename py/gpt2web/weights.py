"""A model's parameters on the GPU, under their checkpoint names.

A checkpoint's bytes go to the GPU as they are, piece by piece, and the pack kernel lays them out:
matrices as words of the chosen precision (shaders/weights.wgsl), everything else as plain f32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from gpt2web import kernels
from gpt2web.arguments import array_shape, f32_bytes
from gpt2web.checkpoint import MASK, TensorEntry, tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.gpu import Device, Tensor, largest_tensor
from gpt2web.kernels import Norm, Weight, WeightPart, ceil_div
from gpt2web.precision import is_matrix, is_transposed
from gpt2web.safetensors import Stream

Progress = Callable[[int, int], object]  # bytes done, bytes in all

PIECE_BYTES = 4 << 20  # of a tensor, uploaded at a time
IN_FLIGHT_BYTES = 16 << 20  # uploaded before the GPU is waited for
BITS = {"f32": 32, "f16": 16}


class Source(Protocol):
    """Tensors one after another: a Checkpoint, say."""

    total_bytes: int

    def tensors(self) -> AsyncIterator[tuple[TensorEntry, Stream]]: ...


class Weights:
    """The parameters of a config: `matrices` in words, `vectors` (norms, biases, wpe) in f32."""

    def __init__(self, device: Device, config: GPT2Config, precision: str) -> None:
        if precision not in BITS:
            raise ValueError(f"precision must be one of {', '.join(BITS)}, got {precision!r}")
        self.device = device
        self.config = config
        self.precision = precision
        self.matrices: dict[str, Weight] = {}
        self.vectors: dict[str, Tensor] = {}
        for name, shape in tensor_shapes(config).items():
            if is_matrix(name):
                k, columns = shape[::-1] if is_transposed(name) else shape
                self.matrices[name] = allocate(device, k, columns, BITS[precision])
            else:
                self.vectors[name] = device.tensor(shape)

    def norm(self, name: str) -> Norm:
        return Norm(self.vectors[f"{name}.weight"], self.vectors[f"{name}.bias"])

    async def load(self, checkpoint: Source, progress: Progress | None = None) -> None:
        """Stream a checkpoint onto the GPU. Raises CheckpointError where a file breaks off."""
        loader = _Loader(self, checkpoint.total_bytes, progress)
        try:
            async for entry, stream in checkpoint.tensors():
                await loader.load(entry, stream)
        finally:  # at once, also where a traceback keeps the loader
            loader.destroy()

    async def randomize(self, seed: int = 0, scale: float = 0.02) -> None:
        """Fill with N(0, scale^2), norms with 1 and 0: a model before any training."""
        loader = _Loader(self, 0, None)
        try:
            for stream, (name, shape) in enumerate(tensor_shapes(self.config).items()):
                entry = TensorEntry(name, "F32", shape, 4 * math.prod(shape))
                await loader.fill(entry, seed, stream, scale)
        finally:
            loader.destroy()

    def destroy(self) -> None:
        for tensor in self.vectors.values():
            tensor.destroy()
        for weight in self.matrices.values():
            for part in weight.parts:
                part.words.destroy()


def allocate(device: Device, k: int, columns: int, bits: int) -> Weight:
    """Room for a matrix [k, columns], in as many parts as the device's limits ask for."""
    words = ceil_div(k, 32 // bits)
    fitting = largest_tensor(device) // (4 * words) // 64 * 64  # columns, in whole tiles
    most = min(columns, max(64, fitting))
    parts = []
    for first in range(0, columns, most):
        count = min(most, columns - first)
        tensor = device.tensor((words, 4 * ceil_div(count, 4)), "u32")
        parts.append(WeightPart(tensor, first, count))
    return Weight(k, columns, bits, tuple(parts))


class ArrayCheckpoint:
    """Tensors that are already in memory: {checkpoint name: array}, with "transformer." or without.

    Raises ValueError for a tensor that is missing, unknown, or not of the config's shape.
    """

    def __init__(self, config: GPT2Config, arrays: Mapping[str, Any]) -> None:
        self._shapes = tensor_shapes(config)
        self._arrays = {name.removeprefix("transformer."): a for name, a in arrays.items()}
        for name in list(self._arrays):
            if name == "lm_head.weight" or MASK.fullmatch(name):  # the head is wte again
                del self._arrays[name]
        missing = [name for name in self._shapes if name not in self._arrays]
        unknown = [name for name in self._arrays if name not in self._shapes]
        if missing or unknown:
            what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is no tensor of it"
            raise ValueError(
                f"weights: wanted the {len(self._shapes)} tensors of this GPT-2; {what}"
            )
        self.total_bytes = sum(4 * math.prod(shape) for shape in self._shapes.values())

    async def tensors(self) -> AsyncIterator[tuple[TensorEntry, Stream]]:
        for name, shape in self._shapes.items():
            found = array_shape(self._arrays[name])
            if found != shape:
                raise ValueError(f"weights: {name} has the shape {found}, wanted {shape}")
            try:
                data = f32_bytes(self._arrays[name])
            except (TypeError, ValueError) as error:
                raise ValueError(f"weights: {name}: {error}") from None
            yield TensorEntry(name, "F32", shape, len(data)), BytesStream(data)


class BytesStream:
    """A checkpoint.Stream over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    async def read(self, count: int) -> memoryview:
        data, self._data = self._data[:count], self._data[count:]
        return data

    async def read_bytes(self, count: int) -> bytes:
        return bytes(await self.read(count))

    def close(self) -> None:
        self._data = memoryview(b"")


class _Loader:
    """Takes tensors one after another through one staging tensor on the GPU."""

    def __init__(self, weights: Weights, total_bytes: int, progress: Progress | None) -> None:
        self.weights = weights
        self.device = weights.device
        self.total_bytes = total_bytes
        self.progress = progress
        widest = max(shape[-1] for shape in tensor_shapes(weights.config).values())
        self.source = self.device.tensor((max(PIECE_BYTES // 4, 8 * widest),), "u32")
        self.piece = self.device.tensor((4,), "u32", uniform=True)
        self.done_bytes = 0
        self.in_flight = 0

    def pieces(self, entry: TensorEntry) -> list[tuple[int, int, int]]:
        """(first row, rows, bytes) of each piece; rows in eights, as words hold them."""
        columns = entry.shape[-1]
        rows = math.prod(entry.shape[:-1])
        row_bytes = entry.byte_length // rows
        at_once = max(8, self.source.size // columns // 8 * 8)
        return [
            (first, min(at_once, rows - first), min(at_once, rows - first) * row_bytes)
            for first in range(0, rows, at_once)
        ]

    async def load(self, entry: TensorEntry, stream: Stream) -> None:
        for first, rows, size in self.pieces(entry):
            whole = size // 4 * 4
            if whole:
                self.device.write(self.source, await stream.read(whole))
            if size > whole:  # half a word of f16 is left
                rest = await stream.read_bytes(size - whole)
                self.device.write(self.source, rest.ljust(4, b"\0"), whole)
            self.pack(entry, first, rows)
            await self.advance(size)

    async def fill(self, entry: TensorEntry, seed: int, stream: int, scale: float) -> None:
        norm = entry.name.rsplit(".", 2)[-2].startswith("ln_")
        first_pair = 0
        for first, rows, size in self.pieces(entry):
            if norm:
                value = 1.0 if entry.name.endswith("weight") else 0.0
                self.device.write(self.source, struct.pack("<f", value) * (size // 4))
            else:
                pairs = ceil_div(size, 8)
                self.device.write(self.piece, struct.pack("<4I", first_pair, pairs, seed, stream))
                call = kernels.random_normal(
                    self.device, self.piece, self.source, pairs=pairs, scale=scale
                )
                self.device.submit([call])
                first_pair += pairs
            self.pack(entry, first, rows)
            await self.advance(size)

    def pack(self, entry: TensorEntry, first: int, rows: int) -> None:
        """Lays the source's rows out in the weight or vector they belong to."""
        columns = entry.shape[-1]
        transposed = is_transposed(entry.name)
        weight = self.weights.matrices.get(entry.name)
        if weight is None:
            vector = self.weights.vectors[entry.name]
            weight = Weight(
                math.prod(entry.shape[:-1]), columns, 32, (WeightPart(vector, 0, columns),)
            )
        self.device.write(self.piece, struct.pack("<4I", first, rows, 0, 0))
        calls = [
            kernels.pack(
                self.device,
                self.piece,
                self.source,
                weight,
                part,
                source_type=entry.dtype,
                source_columns=columns,
                transposed=transposed,
                rows=rows,
            )
            for part in weight.parts
        ]
        self.device.submit(calls)

    async def advance(self, size: int) -> None:
        self.done_bytes += size
        self.in_flight += size
        if self.in_flight >= IN_FLIGHT_BYTES:
            self.in_flight = 0
            await self.device.settled()
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    def destroy(self) -> None:
        self.source.destroy()
        self.piece.destroy()
