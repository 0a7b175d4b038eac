"""A GPT-2 checkpoint in a folder: safetensors, one file or sharded, checked against its config.

All headers are read and checked before the first tensor is handed out. The tensors' bytes are the
consumer's to read, in pieces and in file order, so the same code serves a folder on disk and a
download that goes straight to the GPU; no file is ever in memory as a whole.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpt2web.arguments import shown
from gpt2web.config import GPT2Config
from gpt2web.precision import (
    PACKED_BITS,
    bits_of,
    is_matrix,
    matrix_shape,
    packed_name,
    packed_shape,
)
from gpt2web.safetensors import (
    BYTES_PER_VALUE,
    MAX_TEXT_BYTES,
    CheckpointError,
    PartStream,
    StoredTensor,
    Stream,
    parse_json,
    read_header,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Folder",
    "LocalFolder",
    "Stream",
    "TensorEntry",
    "open_checkpoint",
    "tensor_shapes",
]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEAD = "lm_head.weight"  # wte again, where a file holds it

SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\.safetensors")

# The causal mask and its fill value, which older versions of Transformers saved as tensors.
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


class Folder(Protocol):
    """A model's folder, wherever it lies. A file that isn't there is a FileNotFoundError."""

    @property
    def name(self) -> str:
        """What error messages call it."""

    async def read_text(self, file: str) -> str: ...

    async def open(self, file: str) -> Stream: ...


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a checkpoint."""

    name: str  # without "transformer.", and without what precision.packed_name puts behind it
    dtype: str  # "F32", "F16", "BF16"; "INT8" or "INT4": packed, as precision.py says
    shape: tuple[int, ...]  # as the file has it: of a packed one its words and scales
    byte_length: int


@dataclass(frozen=True)
class _File:
    name: str
    header: bytes  # the JSON, to know the file again by
    spans: tuple[tuple[TensorEntry | None, int], ...]  # (None: a mask, read over; bytes)


class LocalFolder:
    """A `Folder` on this machine's disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.name = self._path.resolve().name
        if not self._path.is_dir():
            what = "a file" if self._path.exists() else "no such folder"
            raise CheckpointError(
                f"{path}: wanted the path of a model's folder, got {what}.",
                code="checkpoint-missing",
            )

    async def read_text(self, file: str) -> str:
        path, size = self._regular(file)
        if size > MAX_TEXT_BYTES:
            raise CheckpointError(
                f"{self.name}/{file}: wanted a text file of at most {MAX_TEXT_BYTES:,} bytes, got "
                f"{size:,}"
            )
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.name}/{file} is not UTF-8 text: {error}") from None

    async def open(self, file: str) -> Stream:
        path, _ = self._regular(file)
        return _LocalStream(path, f"{self.name}/{file}")

    def _regular(self, file: str) -> tuple[Path, int]:
        """A file's path and length; a pipe or a device would be read for ever."""
        path = self._path / file
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
            raise CheckpointError(f"{self.name}/{file}: wanted a file, got {what}.")
        return path, status.st_size


class _LocalStream:
    def __init__(self, path: Path, where: str) -> None:
        self._where = where
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    async def read(self, count: int) -> memoryview:
        return memoryview(await self.read_bytes(count))

    async def read_bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise CheckpointError(
                f"{self._where} ended early: wanted {count} more bytes, got {len(data)}. "
                "Was it changed while it was being read? Load the model again."
            )
        return data

    def close(self) -> None:
        self._file.close()


def tensor_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a GPT-2 under its Hugging Face name; matrices are [inputs, outputs].

    >>> tensor_shapes(GPT2Config.from_preset("gpt2"))["h.0.attn.c_attn.weight"]
    (768, 2304)
    """
    hidden, inner = config.hidden_dim, config.intermediate_dim
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (hidden,),
        "ln_1.bias": (hidden,),
        "attn.c_attn.weight": (hidden, 3 * hidden),
        "attn.c_attn.bias": (3 * hidden,),
        "attn.c_proj.weight": (hidden, hidden),
        "attn.c_proj.bias": (hidden,),
        "ln_2.weight": (hidden,),
        "ln_2.bias": (hidden,),
        "mlp.c_fc.weight": (hidden, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, hidden),
        "mlp.c_proj.bias": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocabulary_size, hidden),
        "wpe.weight": (config.max_sequence_length, hidden),
    }
    for layer in range(config.num_layers):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"ln_f.weight": (hidden,), "ln_f.bias": (hidden,)}


async def open_checkpoint(folder: Folder, config: GPT2Config) -> Checkpoint:
    """The checkpoint in `folder`, its headers read and checked: every tensor of a GPT-2 of this
    configuration once, with its shape, and nothing unknown; matrices in floats, or all packed in
    one precision.

    Looks for model.safetensors, then for model.safetensors.index.json and the files it names. An
    lm_head.weight of wte.weight's shape is the tied head and is read over, as are old mask buffers;
    one that begins otherwise than wte.weight is refused when it is read.
    Raises CheckpointError; nothing stays open then.
    """
    weight_map: dict[str, str] = {}
    try:
        first = await folder.open(SINGLE_FILE)
        names = [SINGLE_FILE]
    except FileNotFoundError:
        weight_map = await _read_index(folder)
        names = sorted(set(weight_map.values()))
        first = await _open_part(folder, names[0])
    stream = first
    try:
        headers = []
        for name in names:
            if name != names[0]:
                stream = await _open_part(folder, name)
            headers.append(await read_header(f"{folder.name}/{name}", stream))
            if stream is not first:
                stream.close()  # a browser has few connections: later files wait closed
        stored = {name: tensors for name, (_, tensors) in zip(names, headers, strict=True)}
        _check_index(folder.name, weight_map, stored)
        entries = _check_tensors(folder.name, config, stored)
    except BaseException:
        stream.close()
        first.close()
        raise
    files = [
        _File(
            name,
            header,
            tuple((entries.get((name, tensor.name)), tensor.byte_length) for tensor in tensors),
        )
        for name, (header, tensors) in zip(names, headers, strict=True)
    ]
    return Checkpoint(folder, files, first)


class Checkpoint:
    """A checkpoint whose headers fit its configuration; made by `open_checkpoint`."""

    def __init__(self, folder: Folder, files: list[_File], first: Stream) -> None:
        self._folder = folder
        self._files = files
        self._stream: Stream | None = first  # the first file's, already past its header
        self.entries = tuple(
            entry for file in files for entry, _ in file.spans if entry and entry.name != HEAD
        )
        self.total_bytes = sum(entry.byte_length for entry in self.entries)

    @property
    def name(self) -> str:
        """The folder's."""
        return self._folder.name

    @property
    def precision(self) -> str:
        """What the matrices are stored in, "int4" or "int8"; of floats the precision that holds
        them all: "f16", or "f32"."""
        dtypes = {entry.dtype for entry in self.entries if is_matrix(entry.name)}
        return _packed_precision(dtypes) or ("f16" if dtypes == {"F16"} else "f32")

    async def tensors(self) -> AsyncGenerator[tuple[TensorEntry, Stream], None]:
        """Every tensor once, in file order, with a stream of exactly its bytes.

        The stream is good until the next tensor is asked for; what was left unread is read over.
        Raises CheckpointError when a file ends early, or is no longer the one that was checked.
        """
        # of the embedding and the head: dtype, first bytes
        begun: dict[str, tuple[str, bytes]] = {}
        try:
            for file in self._files:
                if self._stream is None:
                    self._stream = await self._reopen(file)
                for entry, byte_length in file.spans:
                    part = PartStream(self._stream, byte_length)
                    if entry is not None and entry.name != HEAD:
                        yield entry, part
                    await part.skip_rest()
                    if entry is not None and entry.name in (HEAD, "wte.weight"):
                        begun[entry.name] = entry.dtype, part.beginning
                        _check_head(f"{self.name}/{file.name}", begun)
                self.close()
        finally:
            self.close()

    async def _reopen(self, file: _File) -> Stream:
        where = f"{self._folder.name}/{file.name}"
        stream = await _open_part(self._folder, file.name)
        try:
            header, _ = await read_header(where, stream)
            if header != file.header:
                raise CheckpointError(
                    f"{where} changed while the model was being loaded: its header is not the one "
                    "that was checked. Load the model again."
                )
        except BaseException:
            stream.close()
            raise
        return stream

    def close(self) -> None:
        """Ends what is still open; for a consumer that stops half-way."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _check_head(where: str, begun: dict[str, tuple[str, bytes]]) -> None:
    """Raises CheckpointError where the head begins otherwise than the token embedding that it is
    taken to be; the converter compares all of it."""
    if len(begun) < 2:
        return
    (head_dtype, head), (dtype, embedding) = begun[HEAD], begun["wte.weight"]
    common = min(len(head), len(embedding))
    if head_dtype == dtype and head[:common] != embedding[:common]:
        raise CheckpointError(
            f"{where}: {HEAD} is not wte.weight: their first values differ. GPT-2's head is its "
            "token embedding, and a head of its own is not supported: use a checkpoint with tied "
            "weights.",
            code="checkpoint-unsupported",
        )


async def _read_index(folder: Folder) -> dict[str, str]:
    """The index of a sharded checkpoint: tensor name -> file name."""
    where = f"{folder.name}/{INDEX_FILE}"
    try:
        text = await folder.read_text(INDEX_FILE)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} holds no weights: looked for {SINGLE_FILE} and {INDEX_FILE}. "
            "Save the model as safetensors (save_pretrained in Transformers does) and put it "
            "there.",
            code="checkpoint-missing",
        ) from None
    index = parse_json(where, text)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: wanted an object with a weight_map, got {text[:60]!r}")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise CheckpointError(
                f"{where}: tensor {tensor}: wanted the name of a .safetensors file beside the "
                f"index, got {shown(file)}"
            )
    return weight_map


async def _open_part(folder: Folder, file: str) -> Stream:
    try:
        return await folder.open(file)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name}/{file} is missing: {INDEX_FILE} names it. "
            "Put the file beside the index.",
            code="checkpoint-missing",
        ) from None


def _check_index(
    folder: str, weight_map: dict[str, str], stored: dict[str, list[StoredTensor]]
) -> None:
    present = {file: {tensor.name for tensor in tensors} for file, tensors in stored.items()}
    for tensor, file in weight_map.items():
        if tensor not in present[file]:
            raise CheckpointError(
                f"{folder}/{file}: tensor {tensor} is missing: {INDEX_FILE} says that it is there. "
                "Fetch the index and its files again, all from one place."
            )


def _check_tensors(
    folder: str, config: GPT2Config, stored: dict[str, list[StoredTensor]]
) -> dict[tuple[str, str], TensorEntry]:
    """{(file, stored name): entry} of the tensors to load, each tensor of the model once."""
    shapes = tensor_shapes(config)
    wanted = shapes | {HEAD: shapes["wte.weight"]}
    seen: dict[str, str] = {}
    entries: dict[tuple[str, str], TensorEntry] = {}
    for file, tensors in stored.items():
        for tensor in tensors:
            where = f"{folder}/{file}: tensor {tensor.name}"
            name, dtype = _split_name(tensor, shapes)
            if MASK.fullmatch(name):
                continue
            if name not in wanted:
                raise CheckpointError(
                    f"{where}: {_why_unknown(name, config)}", code="checkpoint-unsupported"
                )
            if name in seen:
                raise CheckpointError(
                    f"{where} is there twice: also as {seen[name]}. Keep one of them."
                )
            seen[name] = f"{tensor.name} in {file}"
            if dtype in PACKED_BITS:
                _check_packed(where, tensor, matrix_shape(name, wanted[name]), PACKED_BITS[dtype])
            else:
                _check_tensor(where, tensor, wanted[name], config)
            entries[file, tensor.name] = TensorEntry(name, dtype, tensor.shape, tensor.byte_length)
    missing = [name for name in shapes if name not in seen]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        *_, last = stored
        others = f" and {len(stored) - 1} more" if len(stored) > 1 else ""
        raise CheckpointError(
            f"{folder}/{last}{others}: tensor {missing[0]}{more} is missing: wanted "
            f"{len(shapes)} tensors (num_layers {config.num_layers}), got "
            f"{sum(name in shapes for name in seen)}. "
            "Use the config.json that came with these weights, or fetch them again."
        )
    _check_one_precision(folder, entries)
    return entries


def _split_name(tensor: StoredTensor, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    """A stored tensor's plain name, and its dtype, "INT8" or "INT4" where the name says so."""
    name = tensor.name.removeprefix("transformer.")
    plain, _, suffix = name.rpartition(".")
    if suffix.upper() in PACKED_BITS and plain in shapes and is_matrix(plain):
        return plain, suffix.upper()
    return name, tensor.dtype


def _packed_precision(dtypes: set[str]) -> str | None:
    """The precision of a checkpoint with packed tensors of these dtypes."""
    return "int4" if "INT4" in dtypes else "int8" if "INT8" in dtypes else None


def _check_one_precision(folder: str, entries: dict[tuple[str, str], TensorEntry]) -> None:
    """Packed matrices are all of one precision."""
    precision = _packed_precision({entry.dtype for entry in entries.values()})
    if precision is None:
        return
    for (file, stored_name), entry in entries.items():
        wanted = packed_name(entry.name, precision)
        if is_matrix(entry.name) and entry.dtype != f"INT{bits_of(entry.name, precision)}":
            raise CheckpointError(
                f"{folder}/{file}: tensor {stored_name}: wanted {wanted}, as the other matrices "
                f"are stored in {precision}, got {entry.dtype}. Convert the model again, all of it "
                "in one precision."
            )


def _check_packed(where: str, tensor: StoredTensor, matrix: tuple[int, int], bits: int) -> None:
    shape = packed_shape(*matrix, bits)
    if (tensor.dtype, tensor.shape) != ("U32", shape):
        raise CheckpointError(
            f"{where}: wanted U32 {list(shape)}, the words and scales of a [{matrix[0]}, "
            f"{matrix[1]}] matrix in int{bits}, got {tensor.dtype} {list(tensor.shape)}. "
            "Use the config.json that came with these weights, or convert the model again."
        )
    if tensor.byte_length != 4 * math.prod(shape):
        raise CheckpointError(
            f"{where}: wanted {4 * math.prod(shape)} bytes for U32 {list(shape)}, "
            f"got {tensor.byte_length}. Write the file again."
        )


def _check_tensor(
    where: str, tensor: StoredTensor, shape: tuple[int, ...], config: GPT2Config
) -> None:
    if tensor.dtype not in BYTES_PER_VALUE:
        raise CheckpointError(
            f"{where}: wanted dtype {', '.join(BYTES_PER_VALUE)}, got {tensor.dtype}. "
            "Save the weights as float32 or float16.",
            code="checkpoint-unsupported",
        )
    if tensor.shape != shape:
        raise CheckpointError(
            f"{where}: wanted shape {list(shape)} (vocabulary_size {config.vocabulary_size}, "
            f"hidden_dim {config.hidden_dim}, intermediate_dim {config.intermediate_dim}, "
            f"max_sequence_length {config.max_sequence_length}), got {list(tensor.shape)}. "
            "Use the config.json that came with these weights, or fetch both again."
        )
    byte_length = math.prod(shape) * BYTES_PER_VALUE[tensor.dtype]
    if tensor.byte_length != byte_length:
        raise CheckpointError(
            f"{where}: wanted {byte_length} bytes for {tensor.dtype} {list(shape)}, "
            f"got {tensor.byte_length}. Write the file again."
        )


def _why_unknown(name: str, config: GPT2Config) -> str:
    block = re.match(r"h\.(\d{1,9})\.", name)
    if block and int(block[1]) >= config.num_layers:
        return (
            f"wanted layers 0 to {config.num_layers - 1} (num_layers {config.num_layers}), "
            f"got layer {block[1]}. Use the config.json that came with these weights."
        )
    return (
        "not a tensor of GPT-2 as gpt2web knows it (wte, wpe, h.0 to "
        f"h.{config.num_layers - 1}, ln_f, a tied lm_head). Take it out, or use a plain GPT-2."
    )
