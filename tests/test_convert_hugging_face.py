"""Safetensors as Transformers writes them, and what is refused in them when converting."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest

import forms
import reference
import small_models
from gpt2web.convert.forms import open_source
from gpt2web.safetensors import CheckpointError


@pytest.fixture
def model():
    small = small_models.random_model()
    return SimpleNamespace(fields=small.fields, weights=dict(small.weights))


def open_model(tmp_path, model, dtype="F32"):
    folder = small_models.write_folder(tmp_path / "model", model)
    reference.write_safetensors(folder / "model.safetensors", model.weights, dtype)
    return open_source(folder)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_prefix_masks_and_a_tied_head_are_read_over(tmp_path, model, dtype):
    """Also n_inner, which here is not 4 * n_embd."""
    wanted = model.weights
    mask = np.ones((1, 1, 3, 3), np.float32)
    model.weights = {
        **{f"transformer.{name}": values for name, values in wanted.items()},
        "transformer.h.0.attn.bias": mask,
        "transformer.h.1.attn.masked_bias": mask[0, 0, 0, :1],
        "lm_head.weight": wanted["wte.weight"],
    }
    source = open_model(tmp_path, model, dtype)
    assert source.config.intermediate_dim == 40
    tolerance = {"F32": 0, "F16": 2**-11, "BF16": 2**-8}[dtype]
    for name, values in wanted.items():
        rows = source.tensors.rows(name, 0, values.size // values.shape[-1])
        assert np.abs(rows.reshape(values.shape) - values).max() <= tolerance * 2
        assert source.tensors.bits(name) == (32 if dtype == "F32" else 16)


def test_a_head_of_its_own_is_refused(tmp_path, model):
    model.weights["lm_head.weight"] = model.weights["wte.weight"].copy()
    assert open_model(tmp_path, model).config.num_layers == 2
    model.weights["lm_head.weight"][256, 5] += 1
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not wte\.weight: from row 0"):
        open_model(tmp_path, model)


def test_a_missing_tensor_and_a_wrong_shape_are_refused(tmp_path, model):
    bias = model.weights.pop("h.1.mlp.c_fc.bias")
    with pytest.raises(CheckpointError, match=r"tensor h\.1\.mlp\.c_fc\.bias is missing"):
        open_model(tmp_path, model)
    model.weights["h.1.mlp.c_fc.bias"] = bias[:-1]
    with pytest.raises(CheckpointError, match=r"c_fc\.bias: wanted shape \[40\] .* got \[39\]"):
        open_model(tmp_path, model)
    model.weights["h.1.mlp.c_fc.bias"] = bias
    open_model(tmp_path, model)


def test_a_shard_that_is_cut_off_or_missing_is_refused_by_name(tmp_path):
    folder = forms.copy("transformers-sharded", tmp_path)
    shard = folder / "model-00002-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is cut off in t"):
        open_source(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing"):
        open_source(folder)
    shard.write_bytes(data)
    open_source(folder)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    folder = forms.copy("transformers", tmp_path)
    source = open_source(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors ended early: wanted 48 more"):
        source.tensors.rows("wte.weight", 3, 1)


@pytest.mark.parametrize("path", ["../model-1.safetensors", "/etc/a.safetensors", "a.bin"])
def test_an_index_that_points_elsewhere_is_refused(tmp_path, path):
    folder = forms.copy("transformers-sharded", tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["transformer.wte.weight"] = path
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"wanted the name of a \.safetensors file"):
        open_source(folder)


def test_a_header_that_lies_is_refused(tmp_path):
    folder = forms.copy("transformers", tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        open_source(folder)
