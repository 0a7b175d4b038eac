"""TensorFlow.js artifacts of a KerasHub GPT-2: model.json with a weightsManifest, and its shards.

Sources: tfjs-core/src/io/types.ts and weights_loader.ts for the format, tensorflowjs's
quantization.py for the steps of uint8 and uint16, keras_hub's gpt2_backbone.py,
transformer_decoder.py and cached_multi_head_attention.py for the names and shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2web.arguments import shown
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.convert.source import Floats, JoinedFiles, Span
from gpt2web.manifest import MAX_NUMBER
from gpt2web.safetensors import CheckpointError

MODEL_FILE = "model.json"
SHARD_NAME = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
MAX_NAME = 1000  # characters of a tensor's name
MAX_AXES = 8
MAX_F32 = 3.4028235e38
QUANTISED = {"uint8": "U8", "uint16": "U16", "float16": "F16"}
OTHER_BYTES = {"int32": 4, "bool": 1}  # a value's, of tensors that are no weights
SIZES = ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim")

EMBEDDINGS = {
    "token_embedding/embeddings": "wte.weight",
    "position_embedding/embeddings": "wpe.weight",
    "layer_norm/gamma": "ln_f.weight",
    "layer_norm/beta": "ln_f.bias",
}
BLOCK = {
    "self_attention_layer_norm/gamma": "ln_1.weight",
    "self_attention_layer_norm/beta": "ln_1.bias",
    "self_attention/query/kernel": "attn.c_attn.weight/0",
    "self_attention/key/kernel": "attn.c_attn.weight/1",
    "self_attention/value/kernel": "attn.c_attn.weight/2",
    "self_attention/query/bias": "attn.c_attn.bias/0",
    "self_attention/key/bias": "attn.c_attn.bias/1",
    "self_attention/value/bias": "attn.c_attn.bias/2",
    "self_attention/attention_output/kernel": "attn.c_proj.weight",
    "self_attention/attention_output/bias": "attn.c_proj.bias",
    "feedforward_layer_norm/gamma": "ln_2.weight",
    "feedforward_layer_norm/beta": "ln_2.bias",
    "feedforward_intermediate_dense/kernel": "mlp.c_fc.weight",
    "feedforward_intermediate_dense/bias": "mlp.c_fc.bias",
    "feedforward_output_dense/kernel": "mlp.c_proj.weight",
    "feedforward_output_dense/bias": "mlp.c_proj.bias",
}


def plain_name(name: str) -> str | None:
    """Hugging Face's name for one of KerasHub's, with or without a model's name before it; of q, k
    and v, which are apart, the part behind a slash. None: not a tensor of GPT-2.

    >>> plain_name("gpt2_backbone/transformer_layer_3/self_attention/key/kernel")
    'h.3.attn.c_attn.weight/1'
    """
    if len(name) > MAX_NAME:
        return None
    name = name.removesuffix(":0")
    block = re.fullmatch(r"(?:.*/)?transformer_layer_([0-9]{1,4})/(.*)", name)
    if block:
        found = BLOCK.get(block[2])
        return found and f"h.{int(block[1])}.{found}"
    return EMBEDDINGS.get("/".join(name.split("/")[-2:]))


class TfjsTensors:
    """A `Tensors` over artifacts; c_attn's columns are those of q, k and v."""

    def __init__(self, spans: dict[str, Span]) -> None:
        self._spans = spans

    def bits(self, name: str) -> int:
        return max(32 if span.dtype == "F32" else 16 for span in self._parts(name))

    def rows(self, name: str, first: int, count: int) -> Floats:
        parts = []
        for span in self._parts(name):
            # [hidden, heads, head_dim] and [heads, head_dim] end in two axes that are columns
            apart = ".c_attn." in name and len(span.shape) > name.endswith("weight") + 1
            width = math.prod(span.shape[-2:]) if apart else span.shape[-1]
            parts.append(span.values(first * width, count * width).reshape(count, width))
        return np.concatenate(parts, axis=1)

    def _parts(self, name: str) -> list[Span]:
        return [self._spans[part] for part in _parts(name)]


def _parts(name: str) -> list[str]:
    return [f"{name}/{part}" for part in range(3)] if ".c_attn." in name else [name]


def read_model(where: str, model: object) -> list[tuple[list[str], list[Any]]]:
    """The groups of a parsed model.json: the names of its files, and its weights.

    CheckpointError: not such a file, or a path that is not a plain name beside it.
    """
    groups = model.get("weightsManifest") if isinstance(model, dict) else None
    if not isinstance(groups, list) or not groups:
        raise CheckpointError(
            f"{where}: wanted a TensorFlow.js model, with a list of groups as weightsManifest, got "
            f"{shown(groups)}"
        )
    found = []
    for group in groups:
        match group:
            case {"paths": [_, *_] as paths, "weights": [*weights]}:
                names = [SHARD_NAME.fullmatch(path) for path in paths if isinstance(path, str)]
                if len(names) < len(paths) or not all(names):
                    raise CheckpointError(
                        f"{where}: wanted plain names of files beside it as paths, got "
                        f"{shown(paths)}"
                    )
                found.append(([name[1] for name in names if name], weights))
            case _:
                raise CheckpointError(
                    f"{where}: wanted groups with paths and weights, got {shown(group)}"
                )
    return found


def open_tfjs(
    path: Path, model: Mapping[str, Any], stated: GPT2Config | None
) -> tuple[GPT2Config, TfjsTensors]:
    """The artifacts at `path`, whose parsed model.json this is. The config is that in the model's
    topology, else the `stated` one, else it follows from the shapes.

    CheckpointError: a shard is missing or cut off; a tensor is missing, unknown, or of another
    shape or type; the number of heads can't be known.
    """
    where = f"{path.name}/{MODEL_FILE}"
    spans: dict[str, Span] = {}
    for names, weights in read_model(where, model):
        for name in names:
            if not (path / name).is_file():
                raise CheckpointError(
                    f"{path.name}/{name} is missing: {MODEL_FILE} lists it. Put it there."
                )
        for name, span in _group(path.name, names, weights, path).items():
            if name in spans:
                raise CheckpointError(f"{where}: tensor {name} is there twice. Keep one of them.")
            spans[name] = span
    try:
        config = backbone_config(model.get("modelTopology")) or stated or _config_of(where, spans)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    _check(where, spans, config)
    return config, TfjsTensors(spans)


def _group(folder: str, names: list[str], weights: list[Any], path: Path) -> dict[str, Span]:
    """The tensors of a group, which lie end to end in its files."""
    where = f"{folder}/{MODEL_FILE}"
    files = f"{folder}/{names[0]}" + (f" to {names[-1]}" if len(names) > 1 else "")
    file = JoinedFiles([path / name for name in names])
    spans: dict[str, Span] = {}
    offset = 0
    for weight in weights:
        stored, dtype, span = _span(where, weight, file, offset)
        name = plain_name(stored)
        if name is not None and span is not None and name not in spans:
            spans[name] = span
            offset += span.byte_length
        elif name is None and span is None:
            offset += math.prod(weight["shape"]) * OTHER_BYTES[dtype]
        else:
            why = "is there twice" if name in spans else "is not one of KerasHub's GPT2Backbone"
            if name is not None and span is None:
                why = f"is {dtype}, wanted float32"
            raise CheckpointError(f"{where}: tensor {stored} {why}. Take it out and save again.")
        if offset > file.size:
            raise CheckpointError(
                f"{files} cut off in tensor {stored}: wanted {offset:,} bytes or more, got "
                f"{file.size:,}. Fetch it again."
            )
    if offset != file.size:
        raise CheckpointError(
            f"{files}: wanted {offset:,} bytes, got {file.size:,}: the last belong to no tensor. "
            "Fetch it again."
        )
    return spans


def _span(
    where: str, weight: object, file: JoinedFiles, offset: int
) -> tuple[str, str, Span | None]:
    """A weight's name, type and place, which is None for what is no weight (int32, bool)."""
    match weight:
        case {"name": str(name), "shape": [*shape], "dtype": str(dtype), **more} if len(
            shape
        ) <= MAX_AXES and all(type(size) is int and 0 < size <= MAX_NUMBER for size in shape):
            pass
        case _:
            raise CheckpointError(
                f"{where}: wanted weights with name, shape and dtype, got {shown(weight)}"
            )
    match more.get("quantization"):
        case None if dtype == "float32":
            return name, dtype, Span(file, offset, "F32", tuple(shape))
        case None if dtype in OTHER_BYTES:
            return name, dtype, None
        case {"dtype": "float16"} if dtype == "float32":
            return name, dtype, Span(file, offset, "F16", tuple(shape))
        case {
            "dtype": "uint8" | "uint16" as steps,
            "scale": int() | float() as scale,
            "min": int() | float() as smallest,
        } if dtype == "float32" and all(abs(step) <= MAX_F32 for step in (scale, smallest)):
            # as floats: numpy would keep bytes times a whole number in bytes
            numbers = float(scale), float(smallest)
            return name, dtype, Span(file, offset, QUANTISED[steps], tuple(shape), *numbers)
        case quantization:
            raise CheckpointError(
                f"{where}: tensor {name}: wanted float32, as it is or as uint8, uint16 (with scale "
                f"and min) or float16, got {dtype} with quantization {shown(quantization)}"
            )


def backbone_config(value: object) -> GPT2Config | None:
    """The config of the GPT2Backbone that is somewhere in Keras's JSON. ValueError: it is none."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict) and all(size in found for size in SIZES):
            keys = (*SIZES, "max_sequence_length", "dropout")
            return GPT2Config(**{key: found[key] for key in keys if key in found})
        if isinstance(found, dict | list):
            waiting += found.values() if isinstance(found, dict) else found
    return None


def _config_of(where: str, spans: dict[str, Span]) -> GPT2Config:
    """The sizes that the tensors' shapes show."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in spans or len(spans[name].shape) != axes:
            got = list(spans[name].shape) if name in spans else "no such tensor"
            raise CheckpointError(
                f"{where}: the model's sizes can't be known: it has no topology, there is no "
                f"config.json or hparams.json beside it, and {_keras_name(name)} has not {axes} "
                f"axes but {got}. Put the config.json there."
            )
        return spans[name].shape

    vocabulary_size, hidden_dim = shape("wte.weight", 2)
    blocks = [int(name.split(".")[1]) for name in spans if name.startswith("h.")]
    return GPT2Config(
        vocabulary_size=vocabulary_size,
        num_layers=max(blocks, default=0) + 1,
        num_heads=shape("h.0.attn.c_attn.weight/0", 3)[1],
        hidden_dim=hidden_dim,
        intermediate_dim=shape("h.0.mlp.c_fc.weight", 2)[1],
        max_sequence_length=shape("wpe.weight", 2)[0],
    )


def _keras_name(name: str) -> str:
    """KerasHub's name for one of `plain_name`'s."""
    for theirs, ours in EMBEDDINGS.items():
        if name == ours:
            return theirs
    _, layer, rest = name.split(".", 2)
    theirs = next(theirs for theirs, ours in BLOCK.items() if ours == rest)
    return f"transformer_layer_{layer}/{theirs}"


def _check(where: str, spans: dict[str, Span], config: GPT2Config) -> None:
    """Every tensor of the config there, of its shape, with q, k and v apart, and no other."""
    left = dict(spans)
    heads = (config.num_heads, config.head_dim)
    for name, plain in tensor_shapes(config).items():
        wanted: set[tuple[int, ...]] = {plain}
        if ".c_attn." in name:
            wanted = {(*plain[:-1], config.hidden_dim), (*plain[:-1], *heads)}
        elif name.endswith("attn.c_proj.weight"):
            wanted.add((*heads, config.hidden_dim))
        for part in _parts(name):
            if part not in left:
                raise CheckpointError(
                    f"{where}: tensor {_keras_name(part)} is missing: wanted those of a KerasHub "
                    f"GPT2Backbone (num_layers {config.num_layers}). Save the whole model again."
                )
            found = left.pop(part).shape
            if found not in wanted:
                raise CheckpointError(
                    f"{where}: tensor {_keras_name(part)}: wanted shape "
                    f"{' or '.join(str(list(shape)) for shape in sorted(wanted))}, got "
                    f"{list(found)}. Use the config that came with these weights."
                )
    if left:
        raise CheckpointError(
            f"{where}: tensor {_keras_name(min(left))}: the config says num_layers "
            f"{config.num_layers}. Use the config that came with these weights."
        )
