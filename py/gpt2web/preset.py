"""A model folder in Hugging Face's layout: where it lies, and what it holds beside the weights."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpt2web.checkpoint import CheckpointError, Folder, LocalFolder
from gpt2web.config import ALIASES, PRESETS, GPT2Config, preset_name
from gpt2web.manifest import DownloadProgress, ManifestFolder, held_to_manifest
from gpt2web.safetensors import parse_json
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.tokenizer_files import from_merges, from_tokenizer_json

PADDED_TO = tuple(2**n for n in range(3, 11))  # what vocabularies are rounded up to

page_base_url = ""  # in the page: the address, ending in a slash, of the folder that holds models/


def open_folder(preset: str | Path, base_url: str | None = None) -> Folder:
    """Where a model lies: a bundled model's name, a local folder, or a folder's URL. In the page a
    name is models/<name> at base_url, and a URL must be of the page's own origin."""
    name = str(preset)
    if sys.platform == "emscripten":
        from gpt2web.browser_folder import FetchFolder

        base = base_url or page_base_url
        if "://" not in name:
            return FetchFolder(f"{base}models/{_canonical(name)}")
        if name.split("/")[:3] != base.split("/")[:3]:
            raise CheckpointError(
                f"{name} is not of this page's origin: nothing leaves it, so a model must lie "
                f"beside the page, under {base}",
                code="checkpoint-missing",
            )
        return FetchFolder(name)
    if "://" in name:
        from gpt2web.url_folder import UrlFolder  # the page, which cannot use it, need not load it

        return UrlFolder(name)
    # a bundled name first: a folder that happens to have it is ./stories
    bundled, canonical = files("gpt2web.models"), _canonical(name)
    if name and isinstance(preset, str) and "/" not in canonical and (bundled / canonical).is_dir():
        return LocalFolder(str(bundled / canonical))
    if name and Path(preset).is_dir():
        return LocalFolder(preset)
    if canonical in PRESETS:
        raise CheckpointError(
            f"the weights of {name} do not come with gpt2web: give the path or URL of a folder "
            "that has them, with config.json, merges.txt and model.safetensors; "
            f"`python3 build.py model {canonical}` fetches them into models/{canonical}",
            code="checkpoint-missing",
        )
    raise CheckpointError(
        f"no model at {name!r}: wanted a bundled model (stories), or the path or URL of a folder "
        "with config.json, merges.txt and model.safetensors",
        code="checkpoint-missing",
    )


async def hold_to_manifest(
    folder: Folder, progress: DownloadProgress | None = None, paused: bool = False
) -> Folder:
    """The folder, held to its manifest.json where it has one. In the page its files are then
    downloaded and kept: `progress` is told, `paused` waits with it. Raises CheckpointError."""
    if sys.platform == "emscripten":
        from gpt2web import browser_folder

        return await browser_folder.hold_to_manifest(folder, progress, paused)
    from gpt2web.url_folder import UrlFolder

    held = await held_to_manifest(folder)
    if isinstance(held, ManifestFolder) and isinstance(folder, UrlFolder):
        manifest = held.manifest
        folder.hashed = {shard.file: shard.bytes for shard in manifest.files + manifest.weights}
    return held


def _canonical(name: str) -> str:
    """A preset's own name where an alias is given."""
    return preset_name(name) if name in ALIASES else name


async def read_config(folder: Folder) -> GPT2Config:
    try:
        text = await folder.read_text("config.json")
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no config.json: wanted a model folder in Hugging Face's layout "
            "(config.json, merges.txt, model.safetensors)",
            code="checkpoint-missing",
        ) from None
    fields = _parse_object(f"{folder.name}/config.json", text)
    try:
        return GPT2Config.from_hugging_face(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.name}/config.json: {error}", code="checkpoint-unsupported"
        ) from error


async def read_tokenizer(folder: Folder, config: GPT2Config) -> GPT2Tokenizer:
    """The tokenizer, from whichever files there are, and fitting the config."""
    merges = await _text_or_none(folder, "merges.txt")
    if merges is not None:
        vocabulary = await _text_or_none(folder, "vocab.json")
        added = await _text_or_none(folder, "added_tokens.json")
        tokenizer = from_merges(folder.name, merges, vocabulary, added)
        source = "merges.txt makes" if vocabulary is None else "vocab.json has"
    else:
        text = await _text_or_none(folder, "tokenizer.json")
        if text is None:
            raise CheckpointError(
                f"{folder.name} has no merges.txt, and no tokenizer.json: one of them is needed",
                code="checkpoint-missing",
            )
        tokenizer = from_tokenizer_json(f"{folder.name}/tokenizer.json", text)
        source = "tokenizer.json has"
    size = tokenizer.id_count()
    if not is_padded(size, config.vocabulary_size):
        raise CheckpointError(
            f"{folder.name}: {source} {size:,} tokens, config.json says vocab_size "
            f"{config.vocabulary_size:,}: the two are not of one model"
        )
    if size < config.vocabulary_size:
        await _check_end(folder, tokenizer, source)
    return tokenizer


def is_padded(tokens: int, size: int) -> bool:
    """Whether a model of `size` embeddings can be one of so many tokens: the same, or rounded up
    to a multiple of 8, 16, ... 1024, as many are trained.

    >>> is_padded(50257, 50304), is_padded(50257, 50300), is_padded(50257, 50256)
    (True, False, False)
    """
    return size == tokens or any(-(-tokens // n) * n == size for n in PADDED_TO)


async def _check_end(folder: Folder, tokenizer: GPT2Tokenizer, source: str) -> None:
    """Of a padded vocabulary: a tokenizer that is cut short would look just so."""
    text = await folder.read_text("config.json")
    end = _parse_object(f"{folder.name}/config.json", text).get("eos_token_id")
    if type(end) is int and end != tokenizer.end_token_id:
        raise CheckpointError(
            f"{folder.name}: {source} <|endoftext|> as {tokenizer.end_token_id:,}, config.json "
            f"says eos_token_id {end:,}: the two are not of one model"
        )


async def _text_or_none(folder: Folder, file: str) -> str | None:
    try:
        return await folder.read_text(file)
    except FileNotFoundError:
        return None


async def reads_start_token(folder: Folder) -> bool:
    """Whether the model was trained with <|endoftext|> before each text."""
    try:
        text = await folder.read_text("generation_config.json")
    except FileNotFoundError:
        return False
    fields = _parse_object(f"{folder.name}/generation_config.json", text)
    return bool(fields.get("add_start_token"))


def _parse_object(where: str, text: str) -> dict[str, Any]:
    fields = parse_json(where, text)
    if not isinstance(fields, dict):
        raise CheckpointError(f"{where}: wanted a JSON object, got {text[:40]!r}")
    return fields
