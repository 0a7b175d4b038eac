"""TensorFlow.js artifacts: names, configs from everywhere, and a refusal for each way to be bad.
TensorFlow.js and its converter wrote what is read here, under KerasHub's names:
record_tensorflow.py, record_tfjs.mjs."""

import json

import numpy as np
import pytest

import forms
from gpt2web.convert.forms import config_json, open_source
from gpt2web.convert.tfjs import plain_name
from gpt2web.safetensors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    return forms.copy("tfjs", tmp_path)


def edit(folder, change):
    """model.json after change(its value)."""
    model = json.loads((folder / "model.json").read_text())
    change(model)
    (folder / "model.json").write_text(json.dumps(model))


def weights(model, group=0):
    return model["weightsManifest"][group]["weights"]


def refused(folder, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        open_source(folder)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("token_embedding/embeddings", "wte.weight"),
        ("gpt2_causal_lm/gpt2_backbone/position_embedding/embeddings:0", "wpe.weight"),
        ("layer_norm/beta", "ln_f.bias"),
        ("a/transformer_layer_11/self_attention/value/bias", "h.11.attn.c_attn.bias/2"),
        ("transformer_layer_0/self_attention_layer_norm/gamma", "h.0.ln_1.weight"),
        ("transformer_layer_0/layer_norm/gamma", None),
        ("self_attention_layer_norm/gamma", None),
        ("token_embedding/reverse_embeddings", None),
    ],
)
def test_names_are_keras_hub_s_with_or_without_a_model_s_before_them(theirs, ours):
    assert plain_name(theirs) == ours


def test_recorded_artifacts_have_names_of_both_kinds():
    def names(form):
        model = json.loads((forms.FORMS / form / "model.json").read_text())
        return [w["name"] for group in model["weightsManifest"] for w in group["weights"]]

    assert names("tfjs")[0] == "gpt2_causal_lm/gpt2_backbone/token_embedding/embeddings"
    assert names("tfjs-uint8")[0] == "token_embedding/embeddings"
    assert len(names("tfjs")) == len(names("tfjs-uint8")) == 4 + 2 * 16


def test_a_tensor_that_lies_in_two_shards_is_read_whole():
    folder = forms.FORMS / "tfjs-uint16"
    assert (folder / "group1-shard1of2.bin").stat().st_size == 6000  # in the middle of wte
    got = open_source(folder).tensors.rows("wte.weight", 240, 20)
    assert np.abs(got - forms.model().weights["wte.weight"][240:]).max() < 1e-5


def test_the_config_is_that_of_the_topology_or_beside_it_or_of_the_shapes(folder):
    wanted = open_source(folder).config
    assert wanted.dropout == 0.1
    edit(folder, lambda model: model.pop("modelTopology"))
    hparams = (forms.FORMS / "openai" / "hparams.json").read_text()
    keras = {"class_name": "GPT2Backbone", "config": forms.FIELDS | {"name": "gpt2_backbone"}}
    beside = {"config.json": [config_json(wanted), json.dumps(keras)], "hparams.json": [hparams]}
    for file, texts in beside.items():
        for text in texts:
            (folder / file).write_text(text)
            assert open_source(folder).config == wanted
        (folder / file).write_text(text.replace("24", "25"))
        refused(folder, r"position_embedding/embeddings: wanted shape \[25, 12\], got \[24, 12\]")
        (folder / file).unlink()
    assert open_source(folder).config == wanted


def test_kernels_without_an_axis_of_heads_need_a_config(folder):
    def flatten(model):
        model.pop("modelTopology")
        for weight in weights(model):
            if "/self_attention/" in weight["name"]:
                is_kernel = weight["name"].endswith("kernel")
                weight["shape"] = [12, 12] if is_kernel else [12]

    wanted = open_source(folder)
    edit(folder, flatten)
    refused(
        folder,
        r"the model's sizes can't be known: .*/query/kernel has not 3 axes but \[12, 12\]\. Put",
    )
    (folder / "config.json").write_text(config_json(wanted.config))
    got = open_source(folder).tensors
    for name in ("h.1.attn.c_attn.weight", "h.1.attn.c_proj.weight", "h.0.attn.c_attn.bias"):
        rows = 1 if name.endswith("bias") else 12
        assert np.array_equal(got.rows(name, 0, rows), wanted.tensors.rows(name, 0, rows))


def rename(model, old, new):
    (weight,) = (weight for weight in weights(model) if weight["name"].endswith(old))
    weight["name"] = weight["name"].replace(old, new)


BAD_MODELS = {
    "no manifest": (lambda m: m.pop("weightsManifest"), "wanted a TensorFlow.js model, .* None"),
    "no groups": (lambda m: m.update(weightsManifest=[]), "wanted a TensorFlow.js model"),
    "no paths": (
        lambda m: m["weightsManifest"][0].update(paths=[]),
        "wanted groups with paths and weights",
    ),
    "a path up": (
        lambda m: m["weightsManifest"][0].update(paths=["../model.weights.bin"]),
        r"wanted plain names of files beside it as paths, got \['\.\./model",
    ),
    "an address": (
        lambda m: m["weightsManifest"][0].update(paths=["https://example.org/a.bin"]),
        "wanted plain names",
    ),
    "a missing shard": (
        lambda m: m["weightsManifest"][0].update(paths=["other.bin"]),
        r"tfjs/other\.bin is missing: model\.json lists it",
    ),
    "a missing tensor": (
        lambda m: weights(m).pop(),
        r"model\.weights\.bin: wanted \d+,\d+ bytes, got 28,800: the last belong to no tensor",
    ),
    "an unknown tensor": (
        lambda m: weights(m)[-1].update(name="dense/kernel"),
        r"tensor dense/kernel is not one of KerasHub's GPT2Backbone",
    ),
    "a tensor twice": (
        lambda m: rename(m, "transformer_layer_1/self_attention/key/bias", "x/layer_norm/gamma"),
        r"layer_norm/gamma is there twice",
    ),
    "another layer": (
        lambda m: [
            w.update(name=w["name"].replace("transformer_layer_1/", "transformer_layer_2/"))
            for w in weights(m)
        ],
        r"tensor transformer_layer_1/self_attention_layer_norm/gamma is missing: .*num_layers 2",
    ),
    "a wrong shape": (
        lambda m: weights(m)[2].update(shape=[12, 3, 4]),
        r"query/kernel: wanted shape \[12, 2, 6\] or \[12, 12\], got \[12, 3, 4\]",
    ),
    "a large shape": (
        lambda m: weights(m)[0].update(shape=[2**40, 2**40]),
        r"model\.weights\.bin cut off in tensor \S+embeddings: wanted \d[\d,]+ bytes or more",
    ),
    "a negative shape": (
        lambda m: weights(m)[0].update(shape=[-1, 12]),
        "wanted weights with name",
    ),
    "integers": (
        lambda m: weights(m)[0].update(dtype="int32"),
        "embeddings is int32, wanted float32",
    ),
    "strings": (
        lambda m: weights(m)[0].update(dtype="string"),
        "wanted float32, .* got string with quantization None",
    ),
    "unknown quantisation": (
        lambda m: weights(m)[0].update(quantization={"dtype": "int4", "scale": 1, "min": 0}),
        r"wanted float32, as it is or as uint8, .* got float32 with quantization {'dtype': 'int4'",
    ),
    "a topology that is none": (
        lambda m: m["modelTopology"]["model_config"]["config"].update(num_heads=5),
        "hidden_dim must be divisible by num_heads, got hidden_dim 12 and num_heads 5",
    ),
    "no scale": (
        lambda m: weights(m)[0].update(quantization={"dtype": "uint8", "min": 0.0}),
        r"uint8, uint16 \(with scale and min\)",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_bad_model_json_is_refused(folder, change, sentence):
    open_source(folder)
    edit(folder, change)
    refused(folder, sentence)


def test_a_shard_that_is_cut_off_or_too_long_is_refused(tmp_path):
    folder = forms.copy("tfjs-uint8", tmp_path)
    shard = folder / "group2-shard1of1.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    refused(
        folder, r"tfjs-uint8/group2-shard1of1\.bin cut off in tensor \S+: wanted 3,180 bytes or"
    )
    shard.write_bytes(data + b"\0")
    refused(folder, r"group2-shard1of1\.bin: wanted 3,180 bytes, got 3,181: the last belong to no")
    shard.write_bytes(data)
    open_source(folder)


def test_what_is_no_weight_is_read_over(folder):
    """A counter or a generator's state, as Keras models have beside their weights."""
    edit(
        folder,
        lambda m: weights(m).insert(1, {"name": "dropout/seed", "shape": [2], "dtype": "int32"}),
    )
    data = (folder / "model.weights.bin").read_bytes()
    at = 260 * 12 * 4
    (folder / "model.weights.bin").write_bytes(data[:at] + bytes(8) + data[at:])
    got = open_source(folder).tensors.rows("wpe.weight", 0, 24)
    assert np.array_equal(got, forms.model().weights["wpe.weight"])


def test_no_tokenizer_is_refused(folder):
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    open_source(folder)
    (folder / "vocab.bpe").unlink()
    refused(folder, "tfjs has no merges.txt")
