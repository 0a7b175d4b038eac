"""Writes data/forms/openai, openai-sharded, tfjs-uint8, tfjs-uint16 and tfjs-float16, and what
record_tfjs.mjs writes tfjs from.

    python3.11 tests/record_tensorflow.py tensors.json      # after record_transformers.py
    node tests/record_tfjs.mjs tensors.json

    pip install tensorflowjs==4.22.0 keras-hub regex tokenizers sentencepiece  # Python 3.11 only
    npm install @tensorflow/tfjs@4.22.0                                        # for the second

The checkpoint is TensorFlow's own, with the variables that OpenAI's src/model.py makes and what a
fine-tune leaves beside them. The weights and names of the artifacts are those of KerasHub, which
reads data/forms/transformers by itself; tensorflowjs quantises and writes them.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import keras_hub
import numpy as np
import tensorflow as tf
from tensorflowjs import write_weights

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "py"))
import reference
from forms import FIELDS, FORMS, MERGES, SEED, vocabulary

tf1 = tf.compat.v1


def variable(name: str, values: np.ndarray) -> None:
    """As src/model.py makes it: layer norms have g and b, conv1d's w is [1, inputs, outputs]."""
    path, _, parameter = name.rpartition(".")
    parts = path.replace("h.", "h", 1).split(".")
    if path in ("wte", "wpe"):
        leaf, parts = path, []
    elif parts[-1].startswith("ln_"):
        leaf = "g" if parameter == "weight" else "b"
    else:
        leaf = "w" if parameter == "weight" else "b"
        values = values[None] if leaf == "w" else values
    with tf1.variable_scope("/".join(["model", *parts])):
        tf1.get_variable(leaf, initializer=values)


def write_checkpoint(folder: Path, sharded: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights = reference.random_weights(SimpleNamespace(**FIELDS), SEED)
    devices = tf1.ConfigProto(device_count={"CPU": 2})
    with tf1.Graph().as_default(), tf1.Session(config=devices) as session:
        for number, (name, values) in enumerate(weights.items()):
            with tf1.device(f"/cpu:{number % 2 if sharded else 0}"):
                variable(name, values)
        tf1.get_variable("model/wpe/Adam", initializer=weights["wpe.weight"][:2])
        tf1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf1.global_variables_initializer())
        prefix = "model-7" if sharded else "model.ckpt"  # a fine-tune's name, and OpenAI's
        saver = tf1.train.Saver(sharded=sharded)
        saver.save(session, str(folder / prefix), write_meta_graph=False)
    state = (folder / "checkpoint").read_text().replace(str(FORMS), "/models")
    (folder / "checkpoint").write_text(state)
    sizes = ("vocabulary_size", "max_sequence_length", "hidden_dim", "num_heads", "num_layers")
    names = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    hparams = {name: FIELDS[size] for name, size in zip(names, sizes, strict=True)}
    (folder / "hparams.json").write_text(json.dumps(hparams))
    (folder / "encoder.json").write_text(json.dumps(vocabulary()))
    merges = "#version: 0.2\n" + "\n".join(MERGES) + "\n"
    (folder / "vocab.bpe").write_text(merges, encoding="utf-8")


def main(tensors: Path) -> None:
    write_checkpoint(FORMS / "openai", sharded=False)
    write_checkpoint(FORMS / "openai-sharded", sharded=True)
    backbone = keras_hub.models.GPT2Backbone.from_preset(str(FORMS / "transformers"))
    topology = {
        "keras_version": keras.__version__,
        "backend": "tensorflow",
        "model_config": json.loads(backbone.to_json()),
    }
    named = {weight.path: weight.numpy() for weight in backbone.weights}
    stored = {
        name: {"shape": values.shape, "values": values.ravel().tolist()}
        for name, values in named.items()
    }
    tensors.write_text(json.dumps({"topology": topology, "tensors": stored}))
    for dtype in ("uint8", "uint16", "float16"):
        folder = FORMS / f"tfjs-{dtype}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        entries = [{"name": name, "data": values} for name, values in named.items()]
        groups = [entries[:9], entries[9:]]
        manifest = write_weights.write_weights(
            groups,
            str(folder),
            shard_size_bytes=6000,
            write_manifest=False,
            quantization_dtype_map={dtype: True},
        )
        with_topology = {} if dtype == "uint8" else {"modelTopology": topology}
        model = {"format": "layers-model", **with_topology, "weightsManifest": manifest}
        (folder / "model.json").write_text(json.dumps(model))
        shutil.copyfile(FORMS / "transformers" / "merges.txt", folder / "merges.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
