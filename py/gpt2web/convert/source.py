"""What a checkpoint is to the converter, whatever its form: a config, texts, and named tensors of
which rows can be read anywhere. Only those rows are ever in memory.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2web.config import GPT2Config
from gpt2web.safetensors import CheckpointError

Floats = NDArray[np.float32]


class Tensors(Protocol):
    """The tensors of a GPT-2 under their Hugging Face names, all of `tensor_shapes(config)`."""

    def bits(self, name: str) -> int:
        """32, or 16 where the values came from no more."""

    def rows(self, name: str, first: int, count: int) -> Floats:
        """[count, columns], values as float32; a vector is one row. CheckpointError: the file is
        not what was checked."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that was found whole: every tensor there, with its shape."""

    where: str  # what messages call it
    form: str  # for people: "Hugging Face safetensors"
    config: GPT2Config
    tensors: Tensors
    texts: dict[str, str]  # file name -> text, in Hugging Face's layout


class JoinedFiles:
    """Files one after another as one, read anywhere; one of them is open at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._starts = [0, *accumulate(path.stat().st_size for path in paths)]
        self.size = self._starts[-1]
        self._open: tuple[int, BinaryIO] | None = None  # (which, its file)

    def read(self, offset: int, count: int) -> bytearray:
        """Exactly these bytes. CheckpointError: a file has become shorter."""
        data = bytearray(count)
        view = memoryview(data)
        while len(view):
            which = bisect_right(self._starts, offset) - 1
            if which >= len(self._paths):
                raise CheckpointError(
                    f"{self._paths[-1]} ends early: wanted {len(view):,} more bytes."
                )
            file = self._file(which)
            file.seek(offset - self._starts[which])
            most = self._starts[which + 1] - offset
            got = file.readinto(view[:most])  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(
                    f"{self._paths[which]} ended early: wanted {min(most, len(view)):,} more "
                    "bytes, got none. Was it changed while it was being read? Convert again."
                )
            view, offset = view[got:], offset + got
        return data

    def _file(self, which: int) -> BinaryIO:
        if self._open is None or self._open[0] != which:
            self.close()
            self._open = which, self._paths[which].open("rb")
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "U16": "<u2"}


@dataclass(frozen=True)
class Span:
    """Where a tensor lies, and what its values mean."""

    file: JoinedFiles
    offset: int  # in bytes
    dtype: str  # of NUMPY_TYPES; U8 and U16 are steps of a scale
    shape: tuple[int, ...]
    scale: float = 1.0
    smallest: float = 0.0

    @property
    def byte_length(self) -> int:
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize

    def values(self, first: int, count: int) -> Floats:
        """These values of the tensor, in C order: [count]"""
        dtype = np.dtype(NUMPY_TYPES[self.dtype])
        data = self.file.read(self.offset + first * dtype.itemsize, count * dtype.itemsize)
        stored = np.frombuffer(data, dtype)
        if self.dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        if self.dtype in ("U8", "U16"):  # in float64, as TensorFlow.js computes it
            return (stored * self.scale + self.smallest).astype(np.float32)
        return stored.astype(np.float32, copy=False)
