"""OpenAI's original GPT-2: a TensorFlow checkpoint with hparams.json, encoder.json and vocab.bpe.

Source: src/model.py and src/encoder.py of openai/gpt-2. Fine-tunes that were saved by the same
code have optimiser's slots and step counters beside the model, which are left alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.convert.crc32c import crc32c, masked
from gpt2web.convert.source import Floats, JoinedFiles, Span
from gpt2web.convert.tf_bundle import TYPES, Entry, read_index
from gpt2web.safetensors import BYTES_PER_VALUE, CheckpointError

HPARAMS_FILE = "hparams.json"
STATE_FILE = "checkpoint"
PREFIX = "model.ckpt"
CHECK_BYTES = 4 << 20  # of a tensor, read at a time for its checksum

SIZES = {  # hparams.json: Hugging Face's config.json
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}


def hugging_face_config(where: str, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """config.json for an hparams.json. CheckpointError: a size is missing."""
    missing = [name for name in SIZES if name not in hparams]
    if missing:
        raise CheckpointError(
            f"{where} has no {missing[0]}: wanted {', '.join(SIZES)}. Fetch it again."
        )
    return {name: hparams[ours] for ours, name in SIZES.items()}


def openai_name(name: str) -> str:
    """The original's name of a tensor.

    >>> openai_name("h.0.attn.c_attn.weight"), openai_name("ln_f.weight"), openai_name("wte.weight")
    ('model/h0/attn/c_attn/w', 'model/ln_f/g', 'model/wte')
    """
    path, _, parameter = name.rpartition(".")
    path = re.sub(r"^h\.(\d+)", r"h\1", path).replace(".", "/")
    if path in ("wte", "wpe"):
        return f"model/{path}"
    is_norm = path.rpartition("/")[2].startswith("ln_")
    letter = "b" if parameter == "bias" else "g" if is_norm else "w"
    return f"model/{path}/{letter}"


def prefix_in(state: str) -> str:
    """The prefix that a `checkpoint` file names; its folder is not the one it was written in.

    >>> prefix_in('model_checkpoint_path: "/models/124M/model-500"')
    'model-500'
    """
    path = r'^model_checkpoint_path:\s*"(?:[^"\n]*[/\\])?([^"/\\:\n]{1,60})"'
    found = re.search(path, state, re.M)
    return found[1] if found else PREFIX


def data_file(prefix: str, shard: int, shards: int) -> str:
    return f"{prefix}.data-{shard:05}-of-{shards:05}"


class OpenAITensors:
    """A `Tensors` over a TensorFlow checkpoint; each tensor's checksum is looked at first."""

    def __init__(self, spans: dict[str, Span], checksums: dict[str, int], where: str) -> None:
        self._spans = spans
        self._checksums = checksums
        self._where = where

    def bits(self, name: str) -> int:
        return 32 if self._spans[name].dtype == "F32" else 16

    def rows(self, name: str, first: int, count: int) -> Floats:
        span = self._spans[name]
        wanted = self._checksums.pop(name, None)  # once
        if wanted is not None and _checksum(span) != wanted:
            raise CheckpointError(
                f"{self._where}: tensor {openai_name(name)}: its checksum is wrong. Fetch the "
                "checkpoint again."
            )
        columns = span.shape[-1]
        return span.values(first * columns, count * columns).reshape(count, columns)


def _checksum(span: Span) -> int:
    crc = 0
    for offset in range(0, span.byte_length, CHECK_BYTES):
        count = min(CHECK_BYTES, span.byte_length - offset)
        crc = crc32c(span.file.read(span.offset + offset, count), crc)
    return masked(crc)


def open_openai(path: Path, prefix: str, config: GPT2Config) -> OpenAITensors:
    """The tensors of the checkpoint `prefix` in the folder at `path`.

    CheckpointError: the index can't be read, a data file is missing, a tensor is missing, cut off,
    or of another shape than the config's.
    """
    where = f"{path.name}/{prefix}"
    shards, entries = read_index(f"{where}.index", (path / f"{prefix}.index").read_bytes())
    files = []
    for shard in range(shards):
        file = path / data_file(prefix, shard, shards)
        if not file.is_file():
            raise CheckpointError(
                f"{path.name}/{file.name} is missing: {prefix}.index says that there "
                f"{'is' if shards == 1 else 'are'} {shards} of its kind. Put it beside the index."
            )
        files.append(JoinedFiles([file]))
    extra = openai_name(f"h.{config.num_layers}.ln_1.weight")
    if extra in entries:
        raise CheckpointError(
            f"{where}.index: {HPARAMS_FILE} says n_layer {config.num_layers}, but there is "
            f"{extra}. Use the {HPARAMS_FILE} that came with these weights."
        )
    spans, checksums = {}, {}
    for name, shape in tensor_shapes(config).items():
        entry = entries.get(openai_name(name))
        if entry is None:
            raise CheckpointError(
                f"{where}.index: tensor {openai_name(name)} is missing: wanted those of OpenAI's "
                f"GPT-2 with n_layer {config.num_layers}. Use the {HPARAMS_FILE} that came with "
                "these weights, or fetch them again."
            )
        spans[name] = _span(f"{where}: tensor {openai_name(name)}", entry, files, shape)
        checksums[name] = entry.crc
    return OpenAITensors(spans, checksums, where)


def _span(where: str, entry: Entry, files: list[JoinedFiles], shape: tuple[int, ...]) -> Span:
    if entry.slices:
        raise CheckpointError(
            f"{where} is stored in slices. Save the checkpoint without partitioned variables."
        )
    if entry.dtype not in BYTES_PER_VALUE:
        raise CheckpointError(
            f"{where}: wanted {', '.join(TYPES.values())}, got {entry.dtype}. Save the weights as "
            "float32."
        )
    # c_attn and the like are convolutions of width 1 there: [1, inputs, outputs]
    if entry.shape not in (shape, (1, *shape)):
        raise CheckpointError(
            f"{where}: wanted shape {list(shape)}, got {list(entry.shape)}. Use the "
            f"{HPARAMS_FILE} that came with these weights."
        )
    byte_length = math.prod(shape) * BYTES_PER_VALUE[entry.dtype]
    if entry.byte_length != byte_length or entry.shard >= len(files):
        raise CheckpointError(
            f"{where}: wanted {byte_length} bytes in data file 0 to {len(files) - 1}, got "
            f"{entry.byte_length} in {entry.shard}. The index is damaged: fetch it again."
        )
    if entry.offset + byte_length > files[entry.shard].size:
        raise CheckpointError(
            f"{where} ends at byte {entry.offset + byte_length:,} of data file {entry.shard}, "
            f"which is cut off at {files[entry.shard].size:,}. Fetch it again."
        )
    return Span(files[entry.shard], entry.offset, entry.dtype, shape)
