"""The safetensors format (https://github.com/huggingface/safetensors#format), read as a stream.

8 bytes with the header's length (little-endian), the header in JSON, then the tensors' bytes, end
to end. Only the header is ever held in memory. Knows nothing of GPT-2: `checkpoint.py` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

BYTES_PER_VALUE = {"F32": 4, "F16": 2, "BF16": 2}  # what a model's weights may be
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
MAX_TEXT_BYTES = 16_000_000  # of a model's text files; the largest known, tokenizer.json, is 3.6 MB
SKIP_BYTES = 1 << 20  # piece size for reading over what nobody wants


class CheckpointError(Exception):
    """A checkpoint that can't be used; says which file, which tensor, what was wanted and got."""


class Stream(Protocol):
    """One file, read from its beginning to its end."""

    @property
    def size(self) -> int:
        """The file's length in bytes."""

    async def read(self, count: int) -> Any:
        """Exactly the next `count` bytes, as whatever the GPU queue's write_buffer takes."""

    async def read_bytes(self, count: int) -> bytes:
        """Exactly the next `count` bytes, as Python's."""

    def close(self) -> None:
        """Frees the file or ends the download; harmless when done twice."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a header lists it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    byte_length: int


class PartStream:
    """The stream of one tensor: a file's stream that ends where the tensor does."""

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream = stream
        self._left = size
        self.size = size

    async def read(self, count: int) -> Any:
        self._take(count)
        return await self._stream.read(count)

    async def read_bytes(self, count: int) -> bytes:
        self._take(count)
        return await self._stream.read_bytes(count)

    def close(self) -> None:
        """Nothing to free: the checkpoint closes the file."""

    async def skip_rest(self) -> None:
        while self._left:
            await self.read(min(self._left, SKIP_BYTES))

    def _take(self, count: int) -> None:
        if not 0 <= count <= self._left:
            raise ValueError(f"read({count}): the tensor has {self._left} bytes left")
        self._left -= count


async def read_header(where: str, stream: Stream) -> tuple[bytes, list[StoredTensor]]:
    """A file's header, as bytes and parsed; leaves the stream at the first tensor's first byte."""
    size = stream.size
    if size < 8:
        raise CheckpointError(
            f"{where} is cut off: wanted 8 bytes and a header, got {size} bytes. Fetch it again."
        )
    start = await stream.read_bytes(8)
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        looks = "Put the right file there."
        if start == b"version ":
            looks = "It looks like a Git LFS pointer: run `git lfs pull`."
        elif start.startswith(b"<"):
            looks = "It looks like a web page: the server may have no such file."
        raise CheckpointError(
            f"{where} is not a safetensors file: its first 8 bytes {start!r} would mean a header "
            f"of {length} bytes; at most {MAX_HEADER_BYTES} are allowed. {looks}"
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{where} is cut off in its header: wanted {8 + length} bytes, got {size}. "
            "Fetch it again."
        )
    header = await stream.read_bytes(length)
    return header, _parse_header(where, header, size - 8 - length)


def parse_json(where: str, text: str | bytes) -> Any:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise CheckpointError(f"{where}: {name} is listed twice. Keep one of them.")
            found[name] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: wanted JSON, got {text[:40]!r} ({error}). Fetch the file again."
        ) from None


def _parse_header(where: str, header: bytes, data_bytes: int) -> list[StoredTensor]:
    """The tensors that a header lists, in the order of their bytes, which must follow each other
    from the first byte of the data to the last."""
    listed = parse_json(where, header)
    if not isinstance(listed, dict):
        raise CheckpointError(f"{where}: wanted a header that is an object, got {header[:40]!r}")
    spans: list[tuple[int, int, StoredTensor]] = []
    for name, fields in listed.items():
        if name == "__metadata__":
            continue
        match fields:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if all(
                type(number) is int and number >= 0 for number in (*shape, begin, end)
            ) and (begin <= end):
                spans.append((begin, end, StoredTensor(name, dtype, tuple(shape), end - begin)))
            case _:
                raise CheckpointError(
                    f"{where}: tensor {name}: wanted dtype, shape and data_offsets "
                    f"[begin, end], got {fields!r:.80}. Fetch or write the file again."
                )
    spans.sort(key=lambda span: span[:2])
    expected = 0
    for begin, end, tensor in spans:
        if begin != expected:
            what = "overlaps the one before" if begin < expected else "leaves a hole before itself"
            raise CheckpointError(
                f"{where}: tensor {tensor.name} {what}: wanted data_offsets from {expected}, "
                f"got [{begin}, {end}]. Write the file again."
            )
        expected = end
    if expected > data_bytes:
        short = next(tensor.name for _, end, tensor in spans if end > data_bytes)
        raise CheckpointError(
            f"{where} is cut off in tensor {short}: wanted {expected} bytes of tensors, "
            f"got {data_bytes}. Fetch it again."
        )
    if expected < data_bytes:
        raise CheckpointError(
            f"{where}: wanted {expected} bytes of tensors, got {data_bytes}: the last "
            f"{data_bytes - expected} belong to no tensor. Write the file again."
        )
    return [tensor for _, _, tensor in spans]
