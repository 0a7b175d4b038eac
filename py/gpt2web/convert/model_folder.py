"""Writes model folders (manifest.py says what one is): streamed, and whole or not at all.

    python -m gpt2web.convert.model_folder write web/models/stories --title Stories --license MIT
    python -m gpt2web.convert.model_folder list web/models/stories models/gpt2-int8

The first writes the manifest of a folder that lies ready, the second checks folders against their
manifests, lengths and texts only, and prints what dist/models.json says of them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from gpt2web.checkpoint import SINGLE_FILE, CheckpointError, LocalFolder, open_checkpoint
from gpt2web.config import GPT2Config
from gpt2web.manifest import (
    MANIFEST_FILE,
    PLAIN_NAME,
    SHARD_BYTES,
    Manifest,
    Shard,
    parse_manifest,
)
from gpt2web.preset import read_config
from gpt2web.safetensors import MAX_TEXT_BYTES, parse_json
from gpt2web.tokenizer import END_OF_TEXT
from gpt2web.vocabulary import read_merges, read_vocabulary, vocabulary_of_merges

BYTES = {"F32": 4, "U32": 4, "F16": 2, "BF16": 2}  # of a tensor's values, as files may store them
# What a reader may look for, in the order in which it does.
TEXT_FILES = (
    "config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.json",
    "generation_config.json",
    "MODEL_CARD.md",
)


class FolderWriter:
    """Writes a model folder: texts, then the weights, cut into shards and hashed on the way.

        with FolderWriter(Path("models/tiny"), title="Tiny", license="MIT", precision="f32",
                          parameters=5_000, context=64) as writer:
            writer.add_text("config.json", text)
            writer.begin_weights([("wte.weight", "F32", (257, 8)), ...])
            writer.write(data)  # the tensors' bytes, end to end, in pieces of any size

    All of it is written beside the folder, under a name that starts with a dot, and gets its own
    name when it is whole and the block ends without an exception; else nothing is left. A model
    folder that was there before stays until then.

    FileExistsError: what is there is not a folder that this wrote. ValueError: a name that a
    manifest can't hold, or other bytes than begin_weights said.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        title: str,
        license: str,
        precision: str,
        parameters: int,
        context: int,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.folder = Path(folder).absolute()
        if not PLAIN_NAME.fullmatch(self.folder.name):
            raise ValueError(
                f"{self.folder.name!r} is no name for a model: wanted letters and digits, then "
                "also . _ and -, at most 128 in all"
            )
        if not 0 < shard_bytes <= SHARD_BYTES:
            raise ValueError(f"shard_bytes: wanted 1 to {SHARD_BYTES}, got {shard_bytes}")
        _refuse_if_not_ours(self.folder)
        self._about = (title, license, precision, parameters, context)
        self._shard_bytes = shard_bytes
        self._files: list[Shard] = []
        self._weights: list[Shard] = []
        self._size = self._written = 0
        self._shard: BinaryIO | None = None
        self._hash = hashlib.sha256()
        parent = self.folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        self._partial = parent / f".{self.folder.name}.{secrets.token_hex(4)}.partial"
        self._partial.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._shard is not None:
                self._shard.close()
            shutil.rmtree(self._partial, ignore_errors=True)  # gone already when all went well

    def add_text(self, file: str, text: str | bytes) -> None:
        """One of the small files."""
        if not PLAIN_NAME.fullmatch(file):
            raise ValueError(f"{file!r} is no plain name of a file")
        data = text.encode("utf-8") if isinstance(text, str) else text
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError(f"{file}: wanted at most {MAX_TEXT_BYTES:,} bytes, got {len(data):,}")
        (self._partial / file).write_bytes(data)
        self._files.append(Shard(file, len(data), hashlib.sha256(data).hexdigest()))

    def begin_weights(self, tensors: Iterable[tuple[str, str, Sequence[int]]]) -> None:
        """Writes the header of these tensors, (name, dtype as in BYTES, shape) each, in the order
        in which `write` is to get their bytes."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, dtype, shape in tensors:
            if name in header:
                raise ValueError(f"tensor {name} comes twice")
            begin, end = end, end + math.prod(shape) * BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors start on a multiple of 8, as the library has them
        self._size = 8 + len(text) + end
        self.write(len(text).to_bytes(8, "little") + text)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the weights."""
        rest = memoryview(data).cast("B")
        if self._written + len(rest) > self._size:
            raise ValueError(
                f"{self.folder.name}: wanted {self._size:,} bytes of weights, header and all, got "
                f"{self._written + len(rest):,}"
            )
        while len(rest):
            if self._shard is None:
                self._shard = (self._partial / self._shard_name()).open("wb")
                self._hash = hashlib.sha256()
            begun = self._written % self._shard_bytes
            piece = rest[: self._shard_bytes - begun]
            rest = rest[len(piece) :]
            self._shard.write(piece)
            self._hash.update(piece)
            self._written += len(piece)
            if self._written == self._size or self._written % self._shard_bytes == 0:
                self._shard.close()
                self._shard = None
                name, length = self._shard_name(done=1), begun + len(piece)
                self._weights.append(Shard(name, length, self._hash.hexdigest()))

    def _shard_name(self, done: int = 0) -> str:
        count = -(-self._size // self._shard_bytes)
        if count == 1:
            return SINGLE_FILE
        return f"model-{len(self._weights) + 1:05}-of-{count:05}.part"

    def _finish(self) -> None:
        if self._written != self._size or not self._size:
            raise ValueError(
                f"{self.folder.name}: wanted {self._size:,} bytes of weights, header and all, got "
                f"{self._written:,}"
            )
        manifest = Manifest(
            self.folder.name, *self._about, tuple(self._files), tuple(self._weights)
        )
        text = _checked(manifest)
        (self._partial / MANIFEST_FILE).write_text(text, encoding="utf-8")
        _refuse_if_not_ours(self.folder)
        old = self._partial.with_suffix(".old")
        if self.folder.exists():
            self.folder.rename(old)
        try:
            self._partial.rename(self.folder)
        except BaseException:
            if old.exists():
                old.rename(self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _checked(manifest: Manifest) -> str:
    """The manifest's text, after a reader's checks: none is written that can't be read."""
    text = manifest.to_json()
    try:
        parse_manifest(MANIFEST_FILE, text)
    except CheckpointError as error:
        raise ValueError(str(error)) from None
    return text


def _refuse_if_not_ours(folder: Path) -> None:
    """Replacing removes what is there, so that must be a model folder, or empty."""
    if not folder.exists() and not folder.is_symlink():
        return
    why = "a link" if folder.is_symlink() else "a file"
    if folder.is_dir() and not folder.is_symlink():
        if not any(folder.iterdir()):
            return
        try:
            parse_manifest(MANIFEST_FILE, (folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            return
        except FileNotFoundError:
            why = f"a folder without {MANIFEST_FILE}"
        except (CheckpointError, UnicodeDecodeError) as error:
            why = f"a folder whose manifest can't be read ({error})"
    raise FileExistsError(
        f"{folder} is there already, and it is {why}, not a model folder that could be replaced: "
        "choose another name, or move it away"
    )


def write_manifest(
    folder: str | os.PathLike[str], *, title: str | None = None, license: str | None = None
) -> Manifest:
    """(Re)writes the manifest.json of a folder that lies ready: one model.safetensors of at most
    16 MiB, config.json, and what else of TEXT_FILES it has. Title and licence, where they aren't
    given, stay those of the manifest that is there.

    CheckpointError, ValueError: the folder isn't such a one.
    """
    path = Path(folder).resolve()
    old = path / MANIFEST_FILE
    if (title is None or license is None) and old.is_file():
        known = parse_manifest(f"{path.name}/{MANIFEST_FILE}", old.read_text(encoding="utf-8"))
        title, license = title or known.title, license or known.license
    if title is None or license is None:
        raise ValueError(f"{path.name} has no {MANIFEST_FILE} yet: give its title and its license")
    config, dtypes = asyncio.run(_read_sizes(path))
    present = [name for name in TEXT_FILES if (path / name).is_file()]
    texts = {name: (path / name).read_text(encoding="utf-8") for name in present}
    quantised = next((name for name in ("int4", "int8") if name.upper() in dtypes), None)
    manifest = Manifest(
        path.name,
        title,
        license,
        quantised or ("f16" if dtypes == {"F16"} else "f32"),
        config.num_parameters,
        config.max_sequence_length,
        tuple(_shard_of(path / name) for name in texts_to_list(texts)),
        (_shard_of(path / SINGLE_FILE),),
    )
    old.write_text(_checked(manifest), encoding="utf-8")
    return manifest


def texts_to_list(texts: Mapping[str, str]) -> list[str]:
    """The names of those of these texts (file name -> text) that a reader of the manifest needs."""
    names = [name for name in TEXT_FILES if name in texts]
    if "merges.txt" in names:
        names = [name for name in names if name != "tokenizer.json"]
        if "vocab.json" in names:
            merges = read_merges(texts["merges.txt"].split("\n"))
            vocabulary = read_vocabulary(parse_json("vocab.json", texts["vocab.json"]))
            if vocabulary == vocabulary_of_merges(merges, [END_OF_TEXT]):
                names.remove("vocab.json")
    return names


async def _read_sizes(path: Path) -> tuple[GPT2Config, set[str]]:
    """The config, and what types the tensors are of."""
    folder = LocalFolder(path)
    config = await read_config(folder)
    checkpoint = await open_checkpoint(folder, config)
    checkpoint.close()
    return config, {entry.dtype for entry in checkpoint.entries}


def _shard_of(path: Path) -> Shard:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(path.name, path.stat().st_size, sha256)


def list_model(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """A model's entry in models.json, after a look at its files: all there, of the right length,
    and the texts of the right hash. CheckpointError names the folder and what is wrong in it."""
    path = Path(folder)
    try:
        text = (path / MANIFEST_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} has no {MANIFEST_FILE} that can be read ({type(error).__name__}): convert the "
            "model with `python3 build.py model`, or move the folder away"
        ) from None
    manifest = parse_manifest(f"{path}/{MANIFEST_FILE}", text)
    if manifest.name != path.name:
        raise CheckpointError(
            f"{path}/{MANIFEST_FILE}: wanted the folder's name, {path.name}, got {manifest.name}"
        )
    for shard in (*manifest.files, *manifest.weights):
        file = path / shard.file
        size = file.stat().st_size if file.is_file() else "none"
        if size != shard.bytes:
            raise CheckpointError(
                f"{file}: wanted {shard.bytes} bytes, as {MANIFEST_FILE} says, got {size}: "
                "convert the model again"
            )
        if shard in manifest.files and _shard_of(file) != shard:
            raise CheckpointError(
                f"{file} is not the file that {MANIFEST_FILE} lists: convert the model again, or "
                f"run `python -m gpt2web.convert.model_folder write {path}`"
            )
    about = {
        name: getattr(manifest, name)
        for name in ("name", "title", "license", "precision", "parameters", "context")
    }
    return {**about, "bytes": manifest.total_bytes}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt2web.convert.model_folder")
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the manifest of a folder that lies ready")
    write.add_argument("folder")
    write.add_argument("--title", help="what people call the model")
    write.add_argument("--license", help="its licence, such as MIT")
    listing = commands.add_parser("list", help="check folders, and print models.json")
    listing.add_argument("folder", nargs="*")
    options = parser.parse_args(arguments)
    try:
        if options.command == "write":
            write_manifest(options.folder, title=options.title, license=options.license)
        else:
            print(json.dumps([list_model(folder) for folder in options.folder], indent=1))
    except (CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
