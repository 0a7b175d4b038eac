"""The safetensors format (https://github.com/huggingface/safetensors#format), read as a stream.

8 bytes with the header's length (little-endian), the header in JSON, then the tensors' bytes, end
to end. Only the header is ever held in memory. Knows nothing of GPT-2: `checkpoint.py` does.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

from gpt2web.arguments import shown

BYTES_PER_VALUE = {"F32": 4, "F16": 2, "BF16": 2}  # what a model's weights may be
MAX_HEADER_BYTES = 8_000_000  # GPT-2 XL's has 60,000; the format allows 100 MB
MAX_TEXT_BYTES = 16_000_000  # of a model's text files; the largest known, tokenizer.json, is 3.6 MB
MAX_JSON_VALUES = 500_000  # in one text: 130 MB of Python objects; GPT-2's tokenizer has 250,000
MAX_MESSAGE = 600  # characters
BEGINNING = 4096  # bytes of a tensor that are remembered, to compare it with another by
SKIP_BYTES = 1 << 20  # piece size for reading over what nobody wants


class CheckpointError(Exception):
    """A checkpoint that can't be used; says which file, which tensor, what was wanted and got.

    Names in files may be anything, so the message is made one line of printable characters, and a
    long one loses its middle.

    >>> str(CheckpointError("tensor \\n\\u202ea: wanted another name"))
    'tensor \\\\n\\\\u202ea: wanted another name'
    """

    code = (
        "checkpoint-damaged"  # unless another is given: what can be done about it (docs/errors.md)
    )

    def __init__(self, message: str, code: str | None = None) -> None:
        characters = (c if c.isprintable() else _escaped(c) for c in _without_middle(message))
        super().__init__(_without_middle("".join(characters)))
        self.code = code or self.code


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _without_middle(text: str) -> str:
    """At most MAX_MESSAGE characters: the start says where, the end what to do."""
    if len(text) <= MAX_MESSAGE:
        return text
    end = MAX_MESSAGE // 2 - 5
    return f"{text[:end]} [...] {text[-end:]}"


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
        self.beginning = b""  # of the first piece that was read

    async def read(self, count: int) -> Any:
        self._take(count)
        data = await self._stream.read(count)
        if not self.beginning and count:
            begun = data[:BEGINNING] if isinstance(data, bytes | memoryview) else None
            # else it is a JavaScript array
            self.beginning = (
                data.subarray(0, BEGINNING).to_bytes() if begun is None else bytes(begun)
            )
        return data

    async def read_bytes(self, count: int) -> bytes:
        self._take(count)
        data = await self._stream.read_bytes(count)
        self.beginning = self.beginning or data[:BEGINNING]
        return data

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
    """What a text says, which is UTF-8 where it is bytes; `where` is what messages call it.

    Raises CheckpointError for what is no JSON or too deep for Python's parser, a name that is
    twice in one object, and more than MAX_JSON_VALUES values.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise CheckpointError(f"{where}: {twice} is listed twice. Keep one of them.")
        return found

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        values = sum(map(text.count, ",[{"))
        if values > MAX_JSON_VALUES:
            raise CheckpointError(
                f"{where}: wanted at most {MAX_JSON_VALUES:,} values, got about {values:,}. "
                "Put the right file there."
            )
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
                    f"[begin, end], got {shown(fields)}. Fetch or write the file again."
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
