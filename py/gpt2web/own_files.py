"""The reader's own files in the page, chosen or dropped: read from the disk by slices.

Their bytes are JavaScript's and go to the GPU without passing through the WASM heap; nothing is
copied, kept or sent. web/own_files.js has said which file is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import js
from pyodide.ffi import JsException

from gpt2web.checkpoint import SINGLE_FILE, CheckpointError, Folder, Stream
from gpt2web.manifest import MANIFEST_FILE, Manifest, ManifestFolder, Shard, held_to_manifest
from gpt2web.safetensors import MAX_TEXT_BYTES


async def open_files(name: str, files: Mapping[str, Any]) -> Folder:
    """The folder of these files, held to its manifest where it has one. Raises CheckpointError.

    files: {name in a model folder: JavaScript File}.
    """
    folder = FilesFolder(name, files)
    held = await held_to_manifest(folder)
    return HeldFiles(folder, held.manifest) if isinstance(held, ManifestFolder) else held


class FilesFolder:
    """A `gpt2web.checkpoint.Folder` of JavaScript Files."""

    def __init__(self, name: str, files: Mapping[str, Any]) -> None:
        self.name = name
        self.files = files

    async def read_text(self, file: str) -> str:
        stream = await self.open(file)
        if stream.size > MAX_TEXT_BYTES:
            raise CheckpointError(
                f"{stream.where}: wanted a text of at most {MAX_TEXT_BYTES:,} bytes, "
                f"got {stream.size:,}: it is not the right file."
            )
        try:
            return (await stream.read_bytes(stream.size)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{stream.where} is not UTF-8 text: {error}") from None

    async def open(self, file: str) -> FileStream:
        if file not in self.files:
            raise FileNotFoundError(f"{file} is not among the files of {self.name}.")
        return FileStream(f"{self.name}/{self.files[file].name}", self.files[file])


class HeldFiles(ManifestFolder):
    """A ManifestFolder of the reader's files. The shards are hashed before the first byte of any is
    given, and then read as one file: a file that changes after that can't be read any more."""

    def __init__(self, folder: FilesFolder, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._own = folder

    async def open(self, file: str) -> Stream:
        if file != SINGLE_FILE:
            return await super().open(file)
        shards = [await self._verified(shard) for shard in self.manifest.weights]
        return FileStream(f"{self.name}/{file}", js.Blob.new(js.Array.of(*shards)))

    async def _verified(self, shard: Shard) -> Any:
        """The File of a shard; browsers hash in one go, and a shard has 16 MiB at most."""
        where = f"{self.name}/{shard.file}"
        file = self._own.files.get(shard.file)
        if file is None:
            raise CheckpointError(
                f"{where} is missing: {MANIFEST_FILE} lists it. Drop or choose the whole folder.",
                code="checkpoint-missing",
            )
        stream = FileStream(where, file)
        if stream.size != shard.bytes:
            raise CheckpointError(
                f"{where}: wanted {shard.bytes:,} bytes, as {MANIFEST_FILE} says, got "
                f"{stream.size:,}. Copy or convert the model again.",
                code="download-refused",
            )
        digest = await js.crypto.subtle.digest("SHA-256", await stream.read(shard.bytes))
        stream.close()
        sha256 = digest.to_bytes().hex()
        if sha256 != shard.sha256:
            raise CheckpointError(
                f"{where} is not the file that {MANIFEST_FILE} lists: wanted SHA-256 "
                f"{shard.sha256}, got {sha256}. Copy or convert the model again.",
                code="download-refused",
            )
        return file


class FileStream:
    """One File, or Blob, as a `gpt2web.checkpoint.Stream` of JavaScript Uint8Arrays, each good
    until the next is read."""

    def __init__(self, where: str, file: Any) -> None:
        self.where = where
        self.size = int(file.size)
        self._file = file
        self._done = 0  # bytes handed out
        self._slice: Any = None  # the ArrayBuffer that was handed out last

    async def read(self, count: int) -> Any:
        """Exactly `count` bytes."""
        if count < 0:
            raise ValueError(f"{count} bytes can't be read.")
        if self._file is None:
            raise ValueError(f"{self.where} is closed.")
        if count > self.size - self._done:
            raise CheckpointError(
                f"{self.where} ends after {self.size:,} bytes, where {count:,} were wanted from "
                f"byte {self._done:,} on: it is cut short, or not the right file."
            )
        self._free()
        try:
            self._slice = await self._file.slice(self._done, self._done + count).arrayBuffer()
        except JsException as error:
            raise CheckpointError(
                f"{self.where} can't be read any more: it was changed, moved or taken away since "
                f"it was chosen. Choose it again. ({error.message})",
                code="checkpoint-missing",
            ) from None
        self._done += count
        return js.Uint8Array.new(self._slice)

    async def read_bytes(self, count: int) -> bytes:
        data: bytes = (await self.read(count)).to_bytes()
        return data

    def close(self) -> None:
        """Lets go of the file; harmless when done twice."""
        self._file = None
        self._free()

    def _free(self) -> None:
        """Gives the last slice's memory back now: collected later, there are 60 MB of slices."""
        if self._slice is not None and hasattr(self._slice, "transfer"):
            self._slice.transfer(0)
        self._slice = None
