"""A model folder's manifest: every file with its length and SHA-256, and a folder held to it.

    {"format": "gpt2web-model", "version": 1, "name": "stories", "title": "Stories",
     "license": "MIT", "precision": "f16", "parameters": 5885952, "context": 384,
     "files": [{"file": "config.json", "bytes": 419, "sha256": "<64 hex digits>"}, ...],
     "weights": [{"file": "model.safetensors", "bytes": 11778392, "sha256": "..."}]}

`files` are the small texts that are read; `weights`, joined in their order, are one safetensors
file. So any static host can serve a model, and no reader takes one byte that it cannot check.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gpt2web.arguments import shown
from gpt2web.checkpoint import SINGLE_FILE, Folder
from gpt2web.precision import PRECISIONS
from gpt2web.safetensors import MAX_TEXT_BYTES, CheckpointError, Stream, parse_json

MANIFEST_FILE = "manifest.json"
FORMAT = "gpt2web-model"
VERSION = 1
SHARD_BYTES = 16 << 20  # a shard's most: what a download that breaks can lose, and a reader holds
MAX_FILES = 64
MAX_SHARDS = 65_536
MAX_NUMBER = 2**53 - 1  # JavaScript's

# (bytes here, bytes in all, bytes here before the load, a sentence for the reader or None)
DownloadProgress = Callable[[int, int, int, str | None], object]

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One file of a model folder."""

    file: str
    bytes: int
    sha256: str  # 64 lower-case hexadecimal digits


@dataclass(frozen=True)
class Manifest:
    """What a manifest.json says."""

    name: str  # what the folder is called, a plain name
    title: str  # for people
    license: str
    precision: str  # what the matrices are stored in
    parameters: int
    context: int  # in tokens
    files: tuple[Shard, ...]
    weights: tuple[Shard, ...]

    @property
    def weight_bytes(self) -> int:
        """The length of the safetensors file that the shards are."""
        return sum(shard.bytes for shard in self.weights)

    @property
    def total_bytes(self) -> int:
        """What a load fetches, beside this manifest."""
        return self.weight_bytes + sum(file.bytes for file in self.files)

    def to_json(self) -> str:
        """manifest.json's text, the same for the same manifest."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"


def parse_manifest(where: str, text: str) -> Manifest:
    """The manifest in `text`; `where` is what error messages call it.

    Raises CheckpointError by field and file for anything but plain names of files beside the
    manifest, each once, whole numbers in range, and hashes.
    """
    fields = parse_json(where, text)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError(
            f"{where}: wanted an object with format {FORMAT!r}, got {text[:60]!r}. If it is not of "
            "gpt2web's making, move it out of the model's folder."
        )
    version = fields.get("version")
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"{where}: wanted version {VERSION}, got {shown(version)}. Convert the model again, or "
            "use the gpt2web that wrote this.",
            code="checkpoint-unsupported",
        )
    manifest = Manifest(
        name=_word(where, fields, "name", PLAIN_NAME.fullmatch, "a plain name such as gpt2-int8"),
        title=_word(where, fields, "title", is_line, "one line of text"),
        license=_word(where, fields, "license", is_line, "one line of text"),
        precision=_word(
            where, fields, "precision", PRECISIONS.__contains__, f"one of {', '.join(PRECISIONS)}"
        ),
        parameters=_number(where, fields, "parameters", MAX_NUMBER),
        context=_number(where, fields, "context", MAX_NUMBER),
        files=_shards(where, fields, "files", MAX_FILES, MAX_TEXT_BYTES),
        weights=_shards(where, fields, "weights", MAX_SHARDS, SHARD_BYTES),
    )
    seen = {MANIFEST_FILE}
    for shard in (*manifest.files, *manifest.weights):
        if shard.file.lower() in seen:  # also where a file system takes A for a
            raise CheckpointError(f"{where}: {shard.file} is listed twice. Keep one of them.")
        seen.add(shard.file.lower())
    return manifest


def is_line(text: str) -> bool:
    """Whether a title or a licence is one line that can be shown."""
    return text.strip() != "" and len(text) <= 200 and text.isprintable()


def _word(
    where: str, fields: dict[str, Any], key: str, fits: Callable[[str], object], wanted: str
) -> str:
    value = fields.get(key)
    if not (isinstance(value, str) and fits(value)):
        raise CheckpointError(f"{where}: {key}: wanted {wanted}, got {shown(value)}")
    return value


def _number(where: str, fields: dict[str, Any], key: str, most: int) -> int:
    value = fields.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise CheckpointError(
            f"{where}: {key}: wanted a whole number from 1 to {most}, got {shown(value)}"
        )
    return value


def _shards(
    where: str, fields: dict[str, Any], key: str, most: int, most_bytes: int
) -> tuple[Shard, ...]:
    listed = fields.get(key)
    if not isinstance(listed, list) or not 1 <= len(listed) <= most:
        got = f"{len(listed)} of them" if isinstance(listed, list) else shown(listed)
        raise CheckpointError(f"{where}: {key}: wanted a list of 1 to {most} files, got {got}")
    shards = []
    for entry in listed:
        if not isinstance(entry, dict):
            raise CheckpointError(
                f"{where}: {key}: wanted objects with file, bytes and sha256, got {shown(entry)}"
            )
        plain = "the plain name of a file beside the manifest"
        name = _word(f"{where}: {key}", entry, "file", PLAIN_NAME.fullmatch, plain)
        at = f"{where}: {name}"
        shards.append(
            Shard(
                name,
                _number(at, entry, "bytes", most_bytes),
                _word(at, entry, "sha256", SHA256.fullmatch, "64 lower-case hexadecimal digits"),
            )
        )
    return tuple(shards)


class ManifestFolder:
    """A `checkpoint.Folder` that gives nothing but what its manifest says, byte for byte.

    A file that the manifest doesn't list isn't there. The weights are one file, model.safetensors,
    however many shards they lie in. Of every file all bytes are hashed before the first is given;
    one that is wrong is fetched once more, then refused by name with a CheckpointError.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self._folder = folder
        self.manifest = manifest
        self.name = folder.name
        self._files = {shard.file: shard for shard in manifest.files}

    async def read_text(self, file: str) -> str:
        data = await read_checked(self._folder, self._listed(file))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.name}/{file} is not UTF-8 text: {error}") from None

    async def open(self, file: str) -> Stream:
        if file == SINGLE_FILE:
            return ShardStream(self._folder, self.manifest.weights)
        return ShardStream(self._folder, (self._listed(file),))

    def _listed(self, file: str) -> Shard:
        if file not in self._files:
            raise FileNotFoundError(f"{self.name}/{file} is not in {MANIFEST_FILE}")
        return self._files[file]


class ShardStream:
    """Shards one after another as one stream, each in memory, 16 MiB at most, while it is read."""

    def __init__(self, folder: Folder, shards: tuple[Shard, ...]) -> None:
        self._folder = folder
        self._waiting = list(reversed(shards))
        self._shard = memoryview(b"")  # what is left of the one that is being read
        self.size = sum(shard.bytes for shard in shards)

    async def read(self, count: int) -> memoryview:
        if not len(self._shard) and self._waiting and count:
            await self._next()
        if count <= len(self._shard):
            taken, self._shard = self._shard[:count], self._shard[count:]
            return taken
        pieces = []
        while count:
            if not len(self._shard):
                await self._next()
            pieces.append(self._shard[:count])
            self._shard = self._shard[count:]
            count -= len(pieces[-1])
        return memoryview(b"".join(pieces))

    async def read_bytes(self, count: int) -> bytes:
        return bytes(await self.read(count))

    async def _next(self) -> None:
        if not self._waiting:
            raise CheckpointError(
                f"{self._folder.name}: the weights end early, after {self.size:,} bytes, all that "
                f"{MANIFEST_FILE} lists. Convert the model again."
            )
        self._shard = memoryview(b"")  # freed before the next is fetched
        self._shard = memoryview(await read_checked(self._folder, self._waiting.pop()))

    def close(self) -> None:
        self._waiting, self._shard = [], memoryview(b"")


async def read_checked(folder: Folder, shard: Shard) -> bytearray:
    """All of a file, its length and hash as the manifest says; a wrong hash gets one more try."""
    where = f"{folder.name}/{shard.file}"
    for _ in range(2):
        data, sha256 = await _read_hashed(folder, shard)
        if sha256 == shard.sha256:
            return data
    raise CheckpointError(
        f"{where} is not the file that {MANIFEST_FILE} lists: wanted SHA-256 {shard.sha256}, got "
        f"{sha256}, twice. Fetch the whole folder again, or convert the model again.",
        code="download-refused",
    )


async def _read_hashed(folder: Folder, shard: Shard) -> tuple[bytearray, str]:
    where = f"{folder.name}/{shard.file}"
    try:
        stream = await folder.open(shard.file)
    except FileNotFoundError:
        raise CheckpointError(
            f"{where} is missing: {MANIFEST_FILE} lists it. Fetch the whole folder again.",
            code="checkpoint-missing",
        ) from None
    try:
        if stream.size != shard.bytes:
            raise CheckpointError(
                f"{where}: wanted {shard.bytes:,} bytes, as {MANIFEST_FILE} says, got "
                f"{stream.size:,}. Fetch the whole folder again.",
                code="download-refused",
            )
        data, hashed = bytearray(shard.bytes), hashlib.sha256()
        for start in range(0, shard.bytes, 1 << 20):
            piece = await stream.read_bytes(min(1 << 20, shard.bytes - start))
            data[start : start + len(piece)] = piece
            hashed.update(piece)
        return data, hashed.hexdigest()
    finally:
        stream.close()


async def held_to_manifest(folder: Folder) -> Folder:
    """The folder, as a ManifestFolder where it has a manifest, else as it is."""
    if isinstance(folder, ManifestFolder):
        return folder
    try:
        text = await folder.read_text(MANIFEST_FILE)
    except FileNotFoundError:
        return folder
    return ManifestFolder(folder, parse_manifest(f"{folder.name}/{MANIFEST_FILE}", text))
