"""Hugging Face safetensors, one file or sharded, and model folders of gpt2web's own making."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from gpt2web.checkpoint import INDEX_FILE, SINGLE_FILE, Folder, open_checkpoint
from gpt2web.config import GPT2Config
from gpt2web.convert.source import Floats, JoinedFiles, Span
from gpt2web.manifest import MANIFEST_FILE, Manifest, ManifestFolder
from gpt2web.safetensors import CheckpointError, read_header

HEAD = "lm_head.weight"
PIECE_ROWS = 1024  # compared at a time


class HuggingFaceTensors:
    """A `Tensors` over safetensors."""

    def __init__(self, spans: dict[str, Span]) -> None:
        self._spans = spans

    def bits(self, name: str) -> int:
        return 32 if self._spans[name].dtype == "F32" else 16

    def rows(self, name: str, first: int, count: int) -> Floats:
        columns = self._spans[name].shape[-1]
        return self._spans[name].values(first * columns, count * columns).reshape(count, columns)


async def open_hugging_face(path: Path, folder: Folder, config: GPT2Config) -> HuggingFaceTensors:
    """The tensors of the folder at `path`, which `folder` reads, checked as for loading.

    CheckpointError: what open_checkpoint refuses, shards with another hash than their manifest
    says, matrices that are quantised already, and an lm_head that is not the token embedding.
    """
    checkpoint = await open_checkpoint(folder, config)
    checkpoint.close()
    for entry in checkpoint.entries:
        if entry.dtype in ("INT8", "INT4"):
            raise CheckpointError(
                f"{folder.name} is quantised already: tensor {entry.name} is {entry.dtype}. "
                "Convert what it was made from; as it is, it need only be copied to where the "
                "page's models lie."
            )
    if isinstance(folder, ManifestFolder):
        check_hashes(path, folder.manifest)
    spans: dict[str, Span] = {}
    for name, file in _files(path, folder).items():
        stream = await folder.open(name)
        try:
            header, stored = await read_header(f"{folder.name}/{name}", stream)
        finally:
            stream.close()
        offset = 8 + len(header)
        for tensor in stored:
            plain = tensor.name.removeprefix("transformer.")
            spans[plain] = Span(file, offset, tensor.dtype, tensor.shape)
            offset += tensor.byte_length
    tensors = HuggingFaceTensors(spans)
    if HEAD in spans:
        _check_head(folder.name, tensors, config)
    return tensors


def _files(path: Path, folder: Folder) -> dict[str, JoinedFiles]:
    """The safetensors files, each by its name."""
    if isinstance(folder, ManifestFolder):
        shards = [path / shard.file for shard in folder.manifest.weights]
        return {SINGLE_FILE: JoinedFiles(shards)}
    names = [SINGLE_FILE]
    if not (path / SINGLE_FILE).is_file():  # the index has been checked
        index = json.loads((path / INDEX_FILE).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    return {name: JoinedFiles([path / name]) for name in names}


def check_hashes(path: Path, manifest: Manifest) -> None:
    """CheckpointError, naming the file, unless every shard at `path` is what the manifest says."""
    for shard in manifest.weights:
        with (path / shard.file).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != shard.sha256:
            raise CheckpointError(
                f"{path.name}/{shard.file} is not the file that {MANIFEST_FILE} lists: wanted "
                f"SHA-256 {shard.sha256}, got {sha256}. Fetch the whole folder again."
            )


def _check_head(where: str, tensors: HuggingFaceTensors, config: GPT2Config) -> None:
    for first in range(0, config.vocabulary_size, PIECE_ROWS):
        count = min(PIECE_ROWS, config.vocabulary_size - first)
        head, embedding = (tensors.rows(name, first, count) for name in (HEAD, "wte.weight"))
        if not np.array_equal(head, embedding, equal_nan=True):
            raise CheckpointError(
                f"{where}: {HEAD} is not wte.weight: from row {first} on they differ. GPT-2's head "
                "is its token embedding, and a head of its own is not supported."
            )
