"""A model folder in Hugging Face's layout: where it lies, and what it holds beside the weights."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from gpt2web.checkpoint import CheckpointError, Folder, LocalFolder
from gpt2web.config import GPT2Config
from gpt2web.safetensors import parse_json
from gpt2web.tokenizer import GPT2Tokenizer


def open_folder(preset: str | Path, base_url: str | None = None) -> Folder:
    """The folder of a bundled model's name, or of a path; in the page models/<name> at base_url."""
    if sys.platform == "emscripten":
        from gpt2web.webgpu import FetchFolder

        return FetchFolder(f"{base_url or ''}models/{preset}")
    if isinstance(preset, str) and "/" not in preset:
        bundled = files("gpt2web.models") / preset
        if bundled.is_dir():
            return LocalFolder(str(bundled))
    if Path(preset).is_dir():
        return LocalFolder(preset)
    raise CheckpointError(
        f"no model at {str(preset)!r}: wanted a bundled model (stories), or a folder with "
        "config.json, merges.txt and model.safetensors"
    )


async def read_config(folder: Folder) -> GPT2Config:
    try:
        text = await folder.read_text("config.json")
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no config.json: wanted a model folder in Hugging Face's layout "
            "(config.json, merges.txt, model.safetensors)"
        ) from None
    fields = parse_json(f"{folder.name}/config.json", text)
    try:
        return GPT2Config.from_hugging_face(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.name}/config.json: {error}") from error


async def read_tokenizer(folder: Folder, config: GPT2Config) -> GPT2Tokenizer:
    """The vocabulary follows from the merges; vocab.json is not needed."""
    try:
        merges = (await folder.read_text("merges.txt")).splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder.name} has no merges.txt: the tokenizer's merges are needed, a line each"
        ) from None
    try:
        tokenizer = GPT2Tokenizer(None, merges)
    except ValueError as error:
        raise CheckpointError(f"{folder.name}/merges.txt: {error}") from error
    size = tokenizer.vocabulary_size()
    if size != config.vocabulary_size:
        raise CheckpointError(
            f"{folder.name}: merges.txt makes {size:,} tokens, config.json says vocab_size "
            f"{config.vocabulary_size:,}: the two are not of one model"
        )
    return tokenizer


async def reads_start_token(folder: Folder) -> bool:
    """Whether the model was trained with <|endoftext|> before each text."""
    try:
        text = await folder.read_text("generation_config.json")
    except FileNotFoundError:
        return False
    return bool(parse_json(f"{folder.name}/generation_config.json", text).get("add_start_token"))
