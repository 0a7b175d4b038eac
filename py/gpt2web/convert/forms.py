"""Which form of a checkpoint lies in a place, and the checkpoint read from a folder.

A place is a folder on this machine, at an address or on the hub. The same look at it says which
files are to be fetched and, once they are here, how they are to be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpt2web.blocking import block_on
from gpt2web.checkpoint import INDEX_FILE, SHARD_NAME, SINGLE_FILE, LocalFolder
from gpt2web.config import GPT2Config
from gpt2web.convert.hugging_face import open_hugging_face
from gpt2web.convert.model_folder import TEXT_FILES, texts_to_list
from gpt2web.convert.openai import (
    HPARAMS_FILE,
    PREFIX,
    STATE_FILE,
    data_file,
    hugging_face_config,
    open_openai,
    prefix_in,
)
from gpt2web.convert.source import Source, Tensors
from gpt2web.convert.tf_bundle import read_index
from gpt2web.convert.tfjs import MODEL_FILE, backbone_config, open_tfjs, read_model
from gpt2web.manifest import MANIFEST_FILE, ManifestFolder, held_to_manifest, parse_manifest
from gpt2web.preset import read_config, read_tokenizer
from gpt2web.safetensors import MAX_TEXT_BYTES, CheckpointError, Stream, parse_json

# Under what name of ours a text may lie elsewhere, the first that is there.
ALSO_CALLED = {
    "MODEL_CARD.md": ("MODEL_CARD.md", "README.md"),
    "merges.txt": ("merges.txt", "vocab.bpe"),
    "vocab.json": ("vocab.json", "encoder.json", "vocabulary.json"),
}
TEXTS = (
    *(name for file in TEXT_FILES for name in ALSO_CALLED.get(file, (file,))),
    *(MANIFEST_FILE, INDEX_FILE, HPARAMS_FILE, STATE_FILE, MODEL_FILE),
)
# What holds the weights where no form can be read, and what to do then.
SAVE_AS_SAFETENSORS = (
    "Load it in Transformers and save it as safetensors: "
    "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)."
)
OTHER_WEIGHTS = {
    "pytorch_model.bin": f"a pickle, which can run anything when it is read. {SAVE_AS_SAFETENSORS}",
    "pytorch_model.bin.index.json": f"pickles, which can run anything. {SAVE_AS_SAFETENSORS}",
    "tf_model.h5": f"HDF5. {SAVE_AS_SAFETENSORS}",
    "flax_model.msgpack": f"Flax's. {SAVE_AS_SAFETENSORS}",
    "model.weights.h5": "Keras's HDF5. Export it to Hugging Face's layout in KerasHub: "
    "model.export_to_transformers(...).",
}


class Place(Protocol):
    """A folder, wherever it lies."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def has(self, file: str) -> bool: ...

    def data(self, file: str) -> bytes | None:
        """A small file's bytes, at most MAX_TEXT_BYTES; None: it isn't there."""


class LocalPlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    def has(self, file: str) -> bool:
        return (self.path / file).is_file()

    def data(self, file: str) -> bytes | None:
        if not self.has(file):
            return None
        size = (self.path / file).stat().st_size
        if size > MAX_TEXT_BYTES:
            raise CheckpointError(
                f"{self.name}/{file}: wanted at most {MAX_TEXT_BYTES:,} bytes, got {size:,}"
            )
        return (self.path / file).read_bytes()


@dataclass(frozen=True)
class Form:
    """The form of a checkpoint, and the files of its weights."""

    name: str
    files: tuple[str, ...]


OURS = "a model folder of gpt2web"
SAFETENSORS = "Hugging Face safetensors"
TENSORFLOW = "OpenAI's TensorFlow checkpoint"
TFJS = "TensorFlow.js artifacts"


def find_form(place: Place) -> Form:
    """The form of what lies there, and the files of its weights. CheckpointError: none that can be
    read, with the way out; or the file that lists the weights is not what it should be."""
    if (data := place.data(MANIFEST_FILE)) is not None:
        text = text_of(place, MANIFEST_FILE, data)
        manifest = parse_manifest(f"{place.name}/{MANIFEST_FILE}", text)
        return Form(OURS, tuple(shard.file for shard in (*manifest.files, *manifest.weights)))
    if place.has(SINGLE_FILE):
        return Form(SAFETENSORS, (SINGLE_FILE,))
    if (data := place.data(INDEX_FILE)) is not None:
        index = parse_json(f"{place.name}/{INDEX_FILE}", data)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        names = weight_map.values() if isinstance(weight_map, dict) else []
        # open_checkpoint says what is wrong with the others
        return Form(SAFETENSORS, tuple(sorted({n for n in names if is_shard_name(n)})))
    if (data := place.data(MODEL_FILE)) is not None:
        where = f"{place.name}/{MODEL_FILE}"
        groups = read_model(where, parse_json(where, data))
        return Form(TFJS, tuple(dict.fromkeys(name for names, _ in groups for name in names)))
    if place.has(HPARAMS_FILE) or place.has(f"{PREFIX}.index"):
        prefix = prefix_of(place)
        if (data := place.data(f"{prefix}.index")) is None:
            raise CheckpointError(
                f"{place.name}/{prefix}.index is missing: {HPARAMS_FILE} is that of OpenAI's "
                "GPT-2, whose TensorFlow checkpoint should lie beside it. Put it there.",
                code="checkpoint-missing",
            )
        shards, _ = read_index(f"{place.name}/{prefix}.index", data)
        parts = (data_file(prefix, shard, shards) for shard in range(shards))
        return Form(TENSORFLOW, (f"{prefix}.index", *parts))
    for file, what in OTHER_WEIGHTS.items():
        if place.has(file):
            raise CheckpointError(
                f"{place.name} has its weights in {file}: {what}", code="checkpoint-unsupported"
            )
    raise CheckpointError(
        f"{place.name} holds no weights: looked for {MANIFEST_FILE}, {SINGLE_FILE}, {INDEX_FILE} "
        f"(Hugging Face), {HPARAMS_FILE} with {PREFIX}.index (OpenAI) and {MODEL_FILE} "
        "(TensorFlow.js).",
        code="checkpoint-missing",
    )


def is_shard_name(name: object) -> bool:
    return isinstance(name, str) and SHARD_NAME.fullmatch(name) is not None


def prefix_of(place: Place) -> str:
    state = place.data(STATE_FILE)
    return PREFIX if state is None else prefix_in(text_of(place, STATE_FILE, state))


def text_of(place: Place, file: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{place.name}/{file} is not UTF-8 text: {error}") from None


def open_source(path: Path) -> Source:
    """The checkpoint in the folder at `path`: checked, and its texts as a model folder has them.

    CheckpointError: `find_form`'s, those of each form, no config, or no tokenizer that fits it.
    """
    place = LocalPlace(path)
    form = find_form(place)
    return block_on(_open(place, form), "open_source")  # asyncio.run would put Ctrl-C off


async def _open(place: LocalPlace, form: Form) -> Source:
    folder = await held_to_manifest(LocalFolder(place.path))
    if isinstance(folder, ManifestFolder):
        listed = [shard.file for shard in folder.manifest.files]
        texts = {file: await folder.read_text(file) for file in listed}
    else:
        texts = _texts(place)
    tensors: Tensors
    if form.name in (OURS, SAFETENSORS):
        config = await read_config(folder)
        tensors = await open_hugging_face(place.path, folder, config)
    elif form.name == TENSORFLOW:
        stated = _stated_config(place)
        if stated is None:
            raise CheckpointError(
                f"{place.name} has no {HPARAMS_FILE}, which says the model's sizes. Put it there."
            )
        config = stated
        tensors = open_openai(place.path, prefix_of(place), config)
    else:
        model = parse_json(f"{place.name}/{MODEL_FILE}", place.data(MODEL_FILE) or b"")
        config, tensors = open_tfjs(place.path, model, _stated_config(place))
    if form.name in (TENSORFLOW, TFJS):
        texts["config.json"] = config_json(config)
    await read_tokenizer(TextFolder(place.name, texts), config)
    needed = {file: texts[file] for file in texts_to_list(texts)}
    return Source(place.name, form.name, config, tensors, needed)


def _texts(place: LocalPlace) -> dict[str, str]:
    """The texts that lie there, under our names."""
    texts = {}
    for file in TEXT_FILES:
        for name in ALSO_CALLED.get(file, (file,)):
            if file not in texts and (data := place.data(name)) is not None:
                # a card is for people, and does not stop a model that has it in another encoding
                card = file == "MODEL_CARD.md"
                texts[file] = (
                    data.decode("utf-8", "replace") if card else text_of(place, name, data)
                )
    return texts


def _stated_config(place: LocalPlace) -> GPT2Config | None:
    """The config that hparams.json or config.json says, Hugging Face's or KerasHub's."""
    for file in (HPARAMS_FILE, "config.json"):
        if (data := place.data(file)) is None:
            continue
        where = f"{place.name}/{file}"
        fields = parse_json(where, data)
        try:
            if file == HPARAMS_FILE:
                return GPT2Config.from_hugging_face(hugging_face_config(where, fields))
            return backbone_config(fields) or GPT2Config.from_hugging_face(fields)
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
    return None


def config_json(config: GPT2Config) -> str:
    """The config as Hugging Face's config.json."""
    fields = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocabulary_size,
        "n_positions": config.max_sequence_length,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_dim,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
    }
    return json.dumps(fields, indent=2) + "\n"


class TextFolder:
    """A `checkpoint.Folder` of texts that are in memory."""

    def __init__(self, name: str, texts: dict[str, str]) -> None:
        self.name = name
        self._texts = texts

    async def read_text(self, file: str) -> str:
        if file not in self._texts:
            raise FileNotFoundError(f"{self.name}/{file} is not there")
        return self._texts[file]

    async def open(self, file: str) -> Stream:
        raise FileNotFoundError(f"{self.name}/{file}: only texts are here")
