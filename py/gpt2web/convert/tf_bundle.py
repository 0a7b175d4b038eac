"""The index of a TensorFlow checkpoint ("bundle"), read without TensorFlow.

Sources: tensorflow/core/util/tensor_bundle/, tensorflow/core/protobuf/tensor_bundle.proto, and
LevelDB's doc/table_format.md. The index is a LevelDB table, name -> BundleEntryProto, and "" ->
BundleHeaderProto; the tensors' bytes lie in PREFIX.data-00000-of-0000n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpt2web.convert.crc32c import crc32c, masked
from gpt2web.safetensors import CheckpointError

FOOTER_BYTES = 48
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
COMPRESSIONS = {1: "Snappy", 2: "zlib"}
TYPES = {1: "F32", 14: "BF16", 19: "F16"}  # of tensorflow/core/framework/types.proto
MAX_SHARDS = 10_000
MAX_NAME_BYTES = 1000  # names grow out of the one before: a few bytes could ask for gigabytes
MAX_TENSORS = 100_000


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    dtype: str  # of TYPES' values, or "type 3" for another
    shape: tuple[int, ...]
    shard: int
    offset: int  # in bytes
    byte_length: int
    crc: int  # masked
    slices: bool  # it is cut in pieces that have entries of their own


def read_index(where: str, data: bytes) -> tuple[int, dict[str, Entry]]:
    """The number of data files, and every tensor by name. CheckpointError: not such an index, a
    block that is compressed or whose checksum is wrong, big-endian values."""
    try:
        table: dict[bytes, bytes] = {}
        for name, value in _table(where, data):
            if len(table) == MAX_TENSORS:
                raise ValueError(f"over {MAX_TENSORS:,} tensors")
            table[name] = value
        header = _message(table.pop(b"", b""))
        shards, endianness = _number(header, 1), _number(header, 2)
        entries = {name.decode("utf-8"): _entry(value) for name, value in table.items()}
    except (IndexError, ValueError) as error:
        raise CheckpointError(
            f"{where} is damaged: {error or 'a field breaks off'}. Fetch it again."
        ) from None
    if endianness:
        raise CheckpointError(f"{where}: wanted little-endian values, got big-endian ones.")
    if not 1 <= shards <= MAX_SHARDS:
        raise CheckpointError(
            f"{where}: wanted 1 to {MAX_SHARDS} data files, got {shards}. Fetch it again."
        )
    return shards, entries


def _table(where: str, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value of a LevelDB table."""
    if len(data) < FOOTER_BYTES or data[-8:] != MAGIC:
        raise CheckpointError(
            f"{where} is not the index of a TensorFlow checkpoint, or is cut off: it does not end "
            "as one. Fetch it again."
        )
    footer = data[-FOOTER_BYTES:]
    at = 0
    for _ in range(2):  # the handle of the metaindex, which is not needed
        _, at = _varint(footer, at)
    left = len(data)
    for _, handle in _block(where, data, footer, at):
        left -= _varint(handle, _varint(handle, 0)[1])[0]
        if left < 0:  # one block would be read again and again
            raise ValueError("its blocks overlap")
        yield from _block(where, data, handle, 0)


def _block(where: str, data: bytes, handle: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of the block that a handle at handle[at] names."""
    offset, at = _varint(handle, at)
    size, at = _varint(handle, at)
    end = offset + size
    if end + 5 > len(data):
        raise CheckpointError(
            f"{where} is cut off: a block ends at byte {end + 5}, the file at {len(data)}. "
            "Fetch it again."
        )
    kind = data[end]
    if kind:
        raise CheckpointError(
            f"{where}: wanted uncompressed blocks, as TensorFlow writes them, got compression "
            f"{kind} ({COMPRESSIONS.get(kind, 'unknown')}). Load and save the checkpoint once in "
            "TensorFlow."
        )
    if masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise CheckpointError(
            f"{where} is damaged: the checksum of its block at byte {offset} is wrong. "
            "Fetch it again."
        )
    block = data[offset:end]
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 * (restarts + 1)
    key, at = b"", 0
    while at < limit:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if at + unshared + length > limit or shared > len(key):
            raise ValueError("an entry reaches over its block's end")
        if shared + unshared > MAX_NAME_BYTES:
            raise ValueError(f"a name of {shared + unshared} bytes")
        key = key[:shared] + block[at : at + unshared]
        at += unshared + length
        yield key, block[at - length : at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number, and where it ends. IndexError: data ends in it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


Message = list[tuple[int, int | bytes]]


def _message(data: bytes) -> Message:
    """The fields of a protocol buffer: (number, value)."""
    fields: Message = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            fields.append((tag >> 3, value))
            continue
        length = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            length, at = _varint(data, at)
        elif not length:
            raise ValueError(f"a field of wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field reaches over its message's end")
        fields.append((tag >> 3, data[at : at + length]))
        at += length
    return fields


def _number(message: Message, field: int) -> int:
    """A field's number, 0 where it isn't there."""
    value = next((value for number, value in reversed(message) if number == field), 0)
    return value if isinstance(value, int) else int.from_bytes(value, "little")


def _messages(message: Message, field: int) -> list[Message]:
    found = [value for number, value in message if number == field]
    return [_message(value) for value in found if isinstance(value, bytes)]


def _entry(data: bytes) -> Entry:
    message = _message(data)
    (shape,) = _messages(message, 2) or [[]]
    kind = _number(message, 1)
    return Entry(
        dtype=TYPES.get(kind, f"type {kind}"),
        shape=tuple(_number(dimension, 1) for dimension in _messages(shape, 2)),
        shard=_number(message, 3),
        offset=_number(message, 4),
        byte_length=_number(message, 5),
        crc=_number(message, 6),
        slices=bool(_messages(message, 7)),
    )
