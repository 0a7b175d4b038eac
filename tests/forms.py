"""The one small model that lies in data/forms/ in every form a checkpoint comes in; record_*.py
wrote them, with the tools whose forms they are."""

import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import reference
from gpt2web import GPT2Config
from gpt2web.vocabulary import read_merges, vocabulary_of_merges

FORMS = Path(__file__).parent / "data" / "forms"
SEED = 5
MERGES = ["Ġ t", "h e", "Ġt he"]
FIELDS = {
    "vocabulary_size": 260,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 48,
    "max_sequence_length": 24,
}


def vocabulary() -> dict[str, int]:
    return vocabulary_of_merges(read_merges(MERGES), ["<|endoftext|>"])


def model() -> SimpleNamespace:
    """.fields, .config, .weights as they were before any rounding."""
    config = GPT2Config(**FIELDS)
    weights = reference.random_weights(config, SEED)
    return SimpleNamespace(fields=FIELDS, config=config, weights=weights)


def copy(name: str, to: Path) -> Path:
    """A form in a folder of one's own, to be broken."""
    return Path(shutil.copytree(FORMS / name, to / name))


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """{name: float32 values} of a model folder, quantised matrices as a kernel sees them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    blob = b"".join((folder / shard["file"]).read_bytes() for shard in manifest["weights"])
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    del header["__metadata__"]
    weights = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype = {"F32": "<f4", "F16": "<f2", "U32": "<u4"}[entry["dtype"]]
        values = np.frombuffer(blob[begin:end], dtype).reshape(entry["shape"])
        plain, _, bits = name.partition(".int")
        if bits:
            shape = reference.weight_shapes(model_config(folder))[plain]
            is_embedding = plain == "wte.weight"
            values = reference.unpack(values, shape[::-1] if is_embedding else shape, int(bits))
            values = values.T if is_embedding else values
        weights[plain] = values.astype(np.float32)
    return weights


def model_config(folder: Path) -> GPT2Config:
    return GPT2Config.from_hugging_face(json.loads((folder / "config.json").read_text()))
