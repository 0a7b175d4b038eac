"""Small models over bytes, for tests of what stands on a model: one with random weights, one that
writes a given text whatever it is asked for."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np

import reference
from adapters import load_backbone
from gpt2web import GPT2CausalLM, GPT2CausalLMPreprocessor, GPT2Tokenizer
from gpt2web.convert.model_folder import FolderWriter

SIZES = {  # a context over one split of the cache (256), prompts over one chunk (256)
    "vocabulary_size": 257,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 40,
    "max_sequence_length": 300,
}


def tokenizer():
    """One id a byte, and <|endoftext|>."""
    return GPT2Tokenizer(None, [])


def random_model(seed=1):
    """Ids spread over all the vocabulary: a choice among 257 that are about as probable."""
    config = SimpleNamespace(**SIZES)
    return SimpleNamespace(fields=SIZES, weights=reference.random_weights(config, seed, 0.3))


def writer_model(script):
    """Whatever came before, position n is followed by script[n + 1], with probability over 0.99."""
    config = SimpleNamespace(**SIZES)
    weights = reference.random_weights(config, 2, 0.05)
    random = np.random.default_rng(0)
    wte = random.normal(size=(SIZES["vocabulary_size"], SIZES["hidden_dim"]))
    wte *= 8 / np.linalg.norm(wte, axis=1, keepdims=True)
    weights["wte.weight"] = wte.astype(np.float32)
    after = np.resize(np.array(script), SIZES["max_sequence_length"] + 1)[1:]
    weights["wpe.weight"] = (20 * wte[after]).astype(np.float32)
    weights["ln_f.weight"][:], weights["ln_f.bias"][:] = 1, 0
    return SimpleNamespace(fields=SIZES, weights=weights)


def load(device, model, folder):
    """A GPT2CausalLM on a device that outlives it."""
    backbone = load_backbone(device, model, folder)
    length = SIZES["max_sequence_length"]
    return GPT2CausalLM(backbone, GPT2CausalLMPreprocessor(tokenizer(), sequence_length=length))


def write_folder(folder, model):
    """The model as a folder in Hugging Face's layout."""
    folder.mkdir(exist_ok=True)
    names = {
        "vocabulary_size": "vocab_size",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "hidden_dim": "n_embd",
        "intermediate_dim": "n_inner",
        "max_sequence_length": "n_positions",
    }
    config = {names[name]: value for name, value in model.fields.items()}
    config |= {"model_type": "gpt2", "activation_function": "gelu_new"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    reference.write_safetensors(folder / "model.safetensors", model.weights)
    return folder


def add_to_page(dist, folder, model, name, title, **options):
    """Makes `folder` a copy of dist/ that has the model too; options: FolderWriter's."""
    shutil.copytree(dist, folder, copy_function=os.link)
    source = write_folder(folder.parent / name, model)
    shapes = {tensor: array.shape for tensor, array in model.weights.items()}
    about = {"title": title, "license": "none", "precision": "f32", "parameters": 22_376}
    with FolderWriter(folder / "models" / name, **about, context=300, **options) as writer:
        for file in ("config.json", "merges.txt"):
            writer.add_text(file, (source / file).read_text())
        writer.begin_weights([(tensor, "F32", shape) for tensor, shape in shapes.items()])
        for array in model.weights.values():
            writer.write(array.tobytes())
    fields = json.loads((folder / "models" / name / "manifest.json").read_text())
    size = sum(file["bytes"] for file in fields["files"] + fields["weights"])
    listed = json.loads((folder / "models.json").read_text())
    listed.append({key: fields[key] for key in listed[0] if key in fields} | {"bytes": size})
    (folder / "models.json").unlink()  # the other name of the file in dist
    (folder / "models.json").write_text(json.dumps(listed))
