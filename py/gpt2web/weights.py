"""A model's parameters on the GPU, under their checkpoint names.

A checkpoint's bytes go to the GPU as they are, piece by piece, and the pack kernel lays them out:
matrices as words of the chosen precision (shaders/weights.wgsl), everything else as plain f32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from gpt2web import kernels
from gpt2web.checkpoint import CheckpointError, TensorEntry, tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.gpu import Device, DeviceError, OutOfMemory, Tensor, largest_tensor
from gpt2web.kernels import TILE, Norm, Weight, WeightPart, ceil_div
from gpt2web.limits import check_weights, out_of_memory, staging_words, weights_bytes
from gpt2web.precision import (
    GROUPS,
    PACKED_BITS,
    SCALED,
    bits_of,
    check_precision,
    is_matrix,
    is_transposed,
    matrix_shape,
    packed_shape,
)
from gpt2web.progress import Report
from gpt2web.safetensors import Stream

LOADING_KERNELS = ("pack", "quantize", "copy_words")
PIECE_BYTES = 4 << 20  # of a tensor, uploaded at a time
IN_FLIGHT_BYTES = 16 << 20  # uploaded before the GPU is waited for
MAX_PIECE_ROWS = 65535 // SCALED * SCALED  # workgroups of copy_words in one dimension


class Source(Protocol):
    """Tensors one after another: a Checkpoint, say."""

    @property
    def name(self) -> str:
        """What error messages call it."""

    @property
    def total_bytes(self) -> int: ...

    def tensors(self) -> AsyncGenerator[tuple[TensorEntry, Stream], None]: ...


class Weights:
    """The parameters of a config: `matrices` in words, `vectors` (norms, biases, wpe) in f32.

    Raises DeviceError where the device's limits or its memory do not hold them, and says in which
    precision they would.
    """

    def __init__(self, device: Device, config: GPT2Config, precision: str) -> None:
        check_precision(precision)
        check_weights(device, config, precision)
        self.device = device
        self.config = config
        self.precision = precision
        self.matrices: dict[str, Weight] = {}
        self.vectors: dict[str, Tensor] = {}
        before = device.live_bytes
        try:
            for name, shape in tensor_shapes(config).items():
                if is_matrix(name):
                    bits = bits_of(name, precision)
                    self.matrices[name] = allocate(device, *matrix_shape(name, shape), bits)
                else:
                    self.vectors[name] = device.tensor(shape)
        except BaseException as error:
            had = device.live_bytes - before
            self.destroy()
            if isinstance(error, OutOfMemory):
                raise self._no_room(error, had) from error
            raise

    @classmethod
    async def with_room(cls, device: Device, config: GPT2Config, precision: str) -> Weights:
        """Weights whose room the GPU has confirmed: in the page it says so only later."""
        before = device.live_bytes
        weights = cls(device, config, precision)
        try:
            await device.allocated()
        except BaseException as error:
            weights.destroy()
            if isinstance(error, OutOfMemory):
                raise weights._no_room(error, error.had - before) from error
            raise
        return weights

    def _no_room(self, error: OutOfMemory, had: int) -> OutOfMemory:
        told = f"{out_of_memory(self.config, self.precision, had)} ({error})"
        return OutOfMemory(told, weights_bytes(self.config, self.precision), had)

    def norm(self, name: str) -> Norm:
        return Norm(self.vectors[f"{name}.weight"], self.vectors[f"{name}.bias"])

    async def load(self, checkpoint: Source, progress: Report | None = None) -> None:
        """Stream a checkpoint onto the GPU.

        Raises CheckpointError where a file breaks off or a tensor holds values that are not finite
        or, in f16, beyond 65,504; ValueError for tensors stored in another of int8 and int4.
        """
        loader = _Loader(self, checkpoint.total_bytes, progress)
        try:
            async with aclosing(checkpoint.tensors()) as tensors:
                async for entry, stream in tensors:
                    self._check_stored(entry)
                    await loader.load(entry, stream)
            await loader.check(checkpoint.name)
        finally:  # the files and this at once, also where a traceback keeps them
            loader.destroy()

    def _check_stored(self, entry: TensorEntry) -> None:
        bits = PACKED_BITS.get(entry.dtype)
        if bits is not None and bits != self.matrices[entry.name].bits:
            raise ValueError(
                f"{entry.name} is stored in {entry.dtype.lower()}, the backbone has the precision "
                f"{self.precision}: make the backbone in the precision that the folder is stored in"
            )

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
    rows, _ = packed_shape(k, columns, bits)
    fitting = largest_tensor(device) // (4 * rows) // TILE * TILE  # columns
    most = min(columns, max(TILE, fitting))
    parts: list[WeightPart] = []
    try:
        for first in range(0, columns, most):
            count = min(most, columns - first)
            tensor = device.tensor(packed_shape(k, count, bits), "u32")
            parts.append(WeightPart(tensor, first, count))
    except DeviceError:  # at once, also where a traceback keeps them
        for part in parts:
            part.words.destroy()
        raise
    return Weight(k, columns, bits, tuple(parts))


class _Loader:
    """Takes tensors one after another through one staging tensor on the GPU."""

    def __init__(self, weights: Weights, total_bytes: int, progress: Report | None) -> None:
        self.weights = weights
        self.device = weights.device
        self.total_bytes = total_bytes
        self.progress = progress
        piece_bytes = min(PIECE_BYTES, largest_tensor(self.device))
        words = max(piece_bytes // 4, staging_words(weights.config))
        self.source = self.device.tensor((words,), "u32")
        self.piece = self.device.tensor((8,), "u32", uniform=True)
        self.flaws = self.device.tensor((4,), "u32")
        self.device.write(self.flaws, b"\xff" * 16)
        self.names: list[str] = []  # by number
        self.done_bytes = 0
        self.in_flight = 0

    def pieces(self, entry: TensorEntry) -> list[tuple[int, int, int]]:
        """(first row, rows, bytes) of each piece: whole words and groups, so rows in 32s, unless
        the tensor is packed already."""
        columns = entry.shape[-1]
        rows = math.prod(entry.shape[:-1])
        row_bytes = entry.byte_length // rows
        at_once = min(self.source.size // columns, MAX_PIECE_ROWS)
        if entry.dtype not in PACKED_BITS:
            at_once = at_once // SCALED * SCALED
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
        self.names.append(entry.name)

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
        device, columns = self.device, entry.shape[-1]
        weight = self.weights.matrices.get(entry.name)
        if weight is None:
            vector = self.weights.vectors[entry.name]
            k = math.prod(entry.shape[:-1])
            weight = Weight(k, columns, 32, (WeightPart(vector, 0, columns),))
        for part in weight.parts:
            about = kernels.piece_bytes(weight, part, first, rows, columns, len(self.names))
            device.write(self.piece, about)
            given = device, self.piece, self.source, weight, part, self.flaws
            if entry.dtype in PACKED_BITS:
                call = kernels.copy_words(*given, rows=rows)
            else:
                kernel = kernels.quantize if weight.bits in GROUPS else kernels.pack
                transposed = is_transposed(entry.name)
                call = kernel(*given, source_type=entry.dtype, transposed=transposed, rows=rows)
            device.submit([call])

    async def advance(self, size: int) -> None:
        self.done_bytes += size
        self.in_flight += size
        if self.in_flight >= IN_FLIGHT_BYTES:
            self.in_flight = 0
            await self.device.settled()
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    async def check(self, where: str) -> None:
        """Raises CheckpointError naming the first tensor in which the GPU met what it cannot
        multiply with: one readback for all that was loaded."""
        not_finite, too_large = struct.unpack("<2I", await self.device.read(self.flaws, 8))
        if not_finite < len(self.names):
            raise CheckpointError(
                f"{where}: tensor {self.names[not_finite]} holds values that are NaN or infinite; "
                "wanted finite weights. Fetch the file again, or take a checkpoint from before the "
                "training went wrong."
            )
        if too_large < len(self.names):
            raise CheckpointError(
                f"{where}: tensor {self.names[too_large]} holds values too large for "
                f"{self.weights.precision}, whose 16-bit floats end at 65,504. "
                "Load the model with precision f32 or int8.",
                code="checkpoint-unsupported",
            )

    def destroy(self) -> None:
        self.source.destroy()
        self.piece.destroy()
        self.flaws.destroy()
