"""Weights that are in memory already, as a checkpoint is read."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from gpt2web.arguments import array_shape, f32_bytes
from gpt2web.checkpoint import HEAD, MASK, TensorEntry, tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.safetensors import Stream


class ArrayCheckpoint:
    """Tensors that are already in memory: {checkpoint name: array}, with "transformer." or without.

    Raises ValueError for a tensor that is missing, unknown, or not of the config's shape.
    """

    name = "weights"

    def __init__(self, config: GPT2Config, arrays: Mapping[str, Any]) -> None:
        self._shapes = tensor_shapes(config)
        self._arrays = {name.removeprefix("transformer."): a for name, a in arrays.items()}
        for name in list(self._arrays):
            if MASK.fullmatch(name):
                del self._arrays[name]
        head = self._arrays.pop(HEAD, None)
        embedding = self._arrays.get("wte.weight", head)
        if head is not None and f32_bytes(head) != f32_bytes(embedding):
            raise ValueError(
                f"weights: {HEAD} is not wte.weight, GPT-2's tied head: leave it out, or give the "
                "weights of a model whose head is its embedding"
            )
        missing = [name for name in self._shapes if name not in self._arrays]
        unknown = [name for name in self._arrays if name not in self._shapes]
        if missing or unknown:
            what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is no tensor of it"
            raise ValueError(
                f"weights: wanted the {len(self._shapes)} tensors of this GPT-2; {what}"
            )
        self.total_bytes = sum(4 * math.prod(shape) for shape in self._shapes.values())

    async def tensors(self) -> AsyncGenerator[tuple[TensorEntry, Stream], None]:
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
