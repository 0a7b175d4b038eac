"""Model folders that lie: whole ones to start from, and what is done to their files.

tests/fuzz_files.py makes cases of it by the million, tests/test_hostile_files.py a few by hand.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import reference
from gpt2web.checkpoint import LocalFolder, open_checkpoint
from gpt2web.config import GPT2Config
from gpt2web.manifest import held_to_manifest
from gpt2web.precision import PRECISIONS, is_matrix, matrix_shape, packed_name, packed_shape
from gpt2web.preset import read_config, read_tokenizer, reads_start_token

CONFIG = GPT2Config(
    vocabulary_size=260,
    num_layers=2,
    num_heads=2,
    hidden_dim=4,
    intermediate_dim=8,
    max_sequence_length=6,
)
WEIGHTS = reference.random_weights(CONFIG, seed=3)
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FORMS = Path(__file__).parent / "data" / "forms"  # TensorFlow's and TensorFlow.js's, recorded
CONVERTED = ("openai", "tfjs", "tfjs-uint8")  # of them, which the converter reads here
RULES = ["t h", "th e", "Ġ the"]

Files = dict[str, bytes]


# ---- whole folders -------------------------------------------------------------------------------


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


def texts() -> Files:
    """The files of a folder beside its weights, as Transformers 4 writes them."""
    config = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": CONFIG.vocabulary_size,
        "n_layer": CONFIG.num_layers,
        "n_head": CONFIG.num_heads,
        "n_embd": CONFIG.hidden_dim,
        "n_inner": CONFIG.intermediate_dim,
        "n_positions": CONFIG.max_sequence_length,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "eos_token_id": 259,
    }
    return {
        "config.json": to_json(config),
        "merges.txt": "\n".join(["#version: 0.2", *RULES]).encode(),
        "generation_config.json": to_json({"add_start_token": True, "eos_token_id": 259}),
    }


def vocabulary() -> dict[str, int]:
    from gpt2web.tokenizer import GPT2Tokenizer

    return GPT2Tokenizer(None, RULES).vocabulary or {}


def safetensors(weights: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    """A file of float tensors, or, where they are that, of uint32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in weights.items():
        stored = values if values.dtype == np.uint32 else values.astype("<f4")
        if dtype == "F16" and values.dtype != np.uint32:
            stored = values.astype("<f2")
        header[name] = {
            "dtype": "U32" if values.dtype == np.uint32 else dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + stored.nbytes],
        }
        data += stored.tobytes()
    return with_header(to_json(header), data)


def with_header(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def parts(file: bytes) -> tuple[bytes, bytes]:
    """A safetensors file's header and data."""
    end = 8 + int.from_bytes(file[:8], "little")
    return file[8:end], file[end:]


def packed(precision: str) -> dict[str, np.ndarray]:
    """The tensors of a folder stored in int8 or int4: random words for the matrices."""
    random = np.random.default_rng(4)
    found: dict[str, np.ndarray] = {}
    for name, values in WEIGHTS.items():
        stored = name
        if is_matrix(name):
            stored = packed_name(name, precision)
            bits = int(stored[-1])
            shape = packed_shape(*matrix_shape(name, values.shape), bits)
            values = random.integers(0, 2**32, shape, np.uint32)
        found[stored] = values
    return found


def sharded() -> Files:
    """Two files of weights and their index."""
    files, weight_map = {}, {}
    for number in range(2):
        part = dict(list(WEIGHTS.items())[number::2])
        file = f"model-0000{number + 1}-of-00002.safetensors"
        files[file] = safetensors(part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    return files | {INDEX_FILE: to_json(index)}


def with_manifest() -> Files:
    """A folder of gpt2web's own, its weights in shards."""
    weights = safetensors(WEIGHTS, "F16")
    size = -(-len(weights) // 4)
    cuts = {f"model-{n}.part": weights[n * size : (n + 1) * size] for n in range(4)}

    def listed(files: Files) -> list[dict[str, object]]:
        return [
            {"file": file, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for file, data in files.items()
        ]

    manifest = {
        "format": "gpt2web-model",
        "version": 1,
        "name": "tiny",
        "title": "Tiny",
        "license": "MIT",
        "precision": PRECISIONS[0],
        "parameters": CONFIG.num_parameters,
        "context": CONFIG.max_sequence_length,
        "files": listed(texts()),
        "weights": listed(cuts),
    }
    return texts() | cuts | {"manifest.json": to_json(manifest)}


def tokenizer_json() -> bytes:
    """The tokenizer alone, as Transformers 5 writes it."""
    added = {"id": 259, "content": "<|endoftext|>", "special": True, "lstrip": False}
    model = {"type": "BPE", "dropout": None, "vocab": vocabulary()}
    model["merges"] = [rule.split(" ") for rule in RULES]
    splitter = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    fields = {"version": "1.0", "added_tokens": [added], "normalizer": None}
    return to_json(fields | {"pre_tokenizer": splitter, "model": model})


def recorded(form: str) -> Files:
    return {path.name: path.read_bytes() for path in sorted((FORMS / form).iterdir())}


def whole_folders() -> dict[str, Files]:
    """Every kind of folder, by name; all of them load."""
    weights = {WEIGHTS_FILE: safetensors(WEIGHTS)}
    masks = {"h.0.attn.bias": np.zeros((1, 1, 6, 6), np.float32)}
    head = {"lm_head.weight": WEIGHTS["wte.weight"]}
    parted = {
        "vocab.json": to_json(vocabulary()),
        "added_tokens.json": to_json({"<|endoftext|>": 259}),
    }
    alone = {file: data for file, data in texts().items() if file != "merges.txt"}
    folders = {
        "single": texts() | {WEIGHTS_FILE: safetensors(masks | head | WEIGHTS)},
        "half": texts() | {WEIGHTS_FILE: safetensors(WEIGHTS, "F16")},
        "int8": texts() | {WEIGHTS_FILE: safetensors(packed("int8"))},
        "int4": texts() | {WEIGHTS_FILE: safetensors(packed("int4"))},
        "sharded": texts() | sharded(),
        "vocabulary": texts() | parted | weights,
        "tokenizer.json": alone | {"tokenizer.json": tokenizer_json()} | weights,
        "manifest": with_manifest(),
    }
    return folders | {form: recorded(form) for form in CONVERTED}


# ---- what reads them -----------------------------------------------------------------------------


async def load(path: Path) -> bytes:
    """What from_preset reads of a folder, all of it; a hash over what it gives to the model."""
    folder = await held_to_manifest(LocalFolder(path))
    config = await read_config(folder)
    tokenizer = await read_tokenizer(folder, config)
    told = hashlib.sha256(f"{config} {await reads_start_token(folder)}".encode())
    for text in ("the other", "<|endoftext|>"):
        ids = tokenizer.tokenize(text)
        told.update(repr((ids, tokenizer.detokenize(ids))).encode("utf-8", "backslashreplace"))
    tokenizer.detokenize(sorted((tokenizer.vocabulary or {}).values())[:1000])
    checkpoint = await open_checkpoint(folder, config)
    async for entry, stream in checkpoint.tensors():
        told.update(repr(entry).encode())
        left = entry.byte_length
        while left:
            piece = bytes(await stream.read(min(left, 1000)))
            assert len(piece) == min(left, 1000), f"{entry.name}: {len(piece)} bytes"
            left -= len(piece)
            told.update(piece)
    return told.digest()


def convert(path: Path) -> bytes:
    """What the converter reads of a folder."""
    from gpt2web.checkpoint import tensor_shapes
    from gpt2web.convert.forms import open_source

    source = open_source(path)
    told = hashlib.sha256(repr((source.form, source.config, source.texts)).encode())
    with np.errstate(all="ignore"):
        for name, shape in tensor_shapes(source.config).items():
            values = source.tensors.rows(name, 0, 1 if len(shape) == 1 else shape[0])
            assert values.dtype == np.float32 and values.size == np.prod(shape), name
            told.update(values.tobytes())
    return told.digest()


# ---- choices, and what is done by them -----------------------------------------------------------


class Choices:
    """A fuzzer's bytes as decisions; when they are used up, always the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        size = 1 if count <= 256 else 4
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % count

    def pick(self, items: Any) -> Any:
        return items[self.below(len(items))]


class Raw(str):
    """Text that stands in the JSON as it is."""


LONG = 2_000_000
HOSTILE_TEXTS = [
    "",
    "..",
    "../model.safetensors",
    "/etc/passwd",
    "C:",
    "C:\\x",
    "a:b",
    "a/b",
    "%2e%2e%2fx",
    "https://example.org/x",
    "//example.org/x",
    "CON",
    ".",
    "a\x00b",
    "\n\x1b[2J",
    "\u202egpj.\u2066",
    "\ud800",
    "\udfff\ud800",
    "é",
    "e\u0301",
    "😀",
    "\u2028",
    "\ufeff",
    "a b",
    "#version: 1",
    "<|endoftext|>",
    "<|pad|>",
    "x" * 300,
    "x" * 129 + ".safetensors",
    "\u202e" * 5000,
    "h." + "1" * 5000 + ".ln_1.weight",
    "h.999999999.ln_1.weight",
    "h.٣.attn.bias",
    "h.0.attn.bias",
    "h.1.attn.c_attn.weight.int4",
    "wte.weight.int8",
    "wte.weight.INT8",
    "transformer.transformer.wte.weight",
    "transformer_layer_" + "9" * 5000 + "/layer_norm/gamma",
    "transformer_layer_99999/feedforward_layer_norm/gamma",
    "F64",
    "U32",
    "I8",
    "BF16",
    "F16",
    "F32",
    "int8",
    "uint8",
    "gelu",
]
HOSTILE_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    255,
    259,
    260,
    65_504,
    2**24,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64 - 1,
    10**9,
    10**12,
    10**400,
    10**4290,
    -(10**4290),
    Raw("9" * 5000),
    Raw("-0"),
    Raw("-0.0"),
    Raw("1e999"),
    Raw("-1e999"),
    Raw("1e-999"),
    Raw("NaN"),
    Raw("-Infinity"),
    Raw("1." + "0" * 5000),
    0.5,
    1e-320,
    3.0,
    [],
    {},
    [[]],
    [None],
    [0, 0],
    [2**62, 4],
    [10**4000, 10**4000],
    [-1, -1],
    [0] * 64,
    {"": ""},
    {"a": {"a": {"a": {}}}},
    [{"file": 1}],
    Raw('{"a": 1, "a": 2}'),
    Raw("[" * 90 + "]" * 90),
    Raw("[" * 900 + "]" * 900),
    Raw('{"a":' * 480 + "1" + "}" * 480),
    Raw("[" * 990 + "]" * 990),
    Raw("[" * 3000 + "]" * 3000),
    Raw("[" * 100_000),
    Raw("'a'"),
    Raw("0x10"),
    Raw("01"),
    Raw("\\"),
    Raw('"\\ud800"'),
    Raw('"\x01"'),
]
RARE_VALUES: list[Any] = [  # heavy: one case in many
    "x" * LONG,
    "\u202e" * LONG,
    Raw("[" + "0," * LONG + "0]"),
    Raw("[" + "[]," * (LONG // 4) + "0]"),
    Raw("[" + '{"a":1},' * (LONG // 8) + "0]"),
    Raw("[" + "1" * 4000 + ("," + "1" * 4000) * 2000 + "]"),
    Raw("{" + ",".join(f'"{n}":{n}' for n in range(LONG // 8)) + "}"),
]


def dump(value: Any) -> str:
    """JSON's text, with Raw in it and lists of pairs (Pairs) where a name may come twice."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{dump(str(name))}:{dump(part)}" for name, part in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value)


class Pairs(list[tuple[str, Any]]):
    """An object whose names may come twice."""


def as_pairs(value: Any) -> Any:
    """A parsed value, made of lists that can be changed."""
    if isinstance(value, dict):
        return Pairs((name, as_pairs(part)) for name, part in value.items())
    return [as_pairs(part) for part in value] if isinstance(value, list) else value


def containers(value: Any) -> Iterator[list[Any]]:
    """The value and all within it that holds others, from the outside in."""
    waiting = [value]
    for part in waiting:
        if isinstance(part, list):
            yield part
            waiting += [item[1] for item in part] if isinstance(part, Pairs) else part


def hostile_value(choices: Choices) -> Raw:
    """As text, so that no two places hold one list."""
    kind = choices.below(256)
    if kind == 255:
        return Raw(dump(choices.pick(RARE_VALUES)))
    return Raw(dump(choices.pick(HOSTILE_TEXTS if kind < 100 else HOSTILE_VALUES)))


def change_json(choices: Choices, text: bytes) -> bytes:
    """One to three changes to what a JSON text says."""
    value = as_pairs(json.loads(text))
    for _ in range(1 + choices.below(3)):
        held = list(containers(value))
        if not held:
            break
        part = held[choices.below(len(held))] if choices.below(2) else held[0]
        if not part:
            part.append(("a", hostile_value(choices)) if isinstance(part, Pairs) else 0)
            continue
        at = choices.below(len(part))
        named = isinstance(part, Pairs)
        name, old = part[at] if named else (None, part[at])

        def put(new: Any, name: Any = name, named: bool = named) -> Any:
            return (name, new) if named else new

        match choices.below(9):
            case 0 | 1 | 2:
                part[at] = put(hostile_value(choices))
            case 3:
                del part[at]
            case 4:  # twice, or the same with another value
                new = Raw(dump(old)) if choices.below(2) else hostile_value(choices)
                part.insert(choices.below(len(part) + 1), put(new))
            case 5 if named:
                part[at] = (choices.pick(HOSTILE_TEXTS), old)
            case 6 if type(old) is int:
                part[at] = put(old + choices.pick((1, -1, 2, -2, 4, -4, 8, 100, -100, 2**32)))
            case 7:  # what stands elsewhere
                other = choices.pick(held)
                if other and other is not part:
                    new = choices.pick(other)
                    part[at] = put(Raw(dump(new[1] if isinstance(new, tuple) else new)))
            case _:
                if choices.below(16) == 15:
                    count = choices.pick((1000, 30_000))
                    many = dump(old)
                    names = (f'"{n}":' if named else "" for n in range(count))
                    all_of_it = ",".join(name + many for name in names)
                    if len(all_of_it) < 16_000_000:
                        value_text = dump(value)
                        return (value_text[:-1] + "," + all_of_it + value_text[-1]).encode()
                part.reverse()
    return dump(value).encode("utf-8", "surrogatepass")


def change_bytes(choices: Choices, data: bytes) -> bytes:
    """Changes that know nothing of the format."""
    changed = bytearray(data)
    for _ in range(1 + choices.below(4)):
        at = choices.below(len(changed) + 1)
        match choices.below(14):
            case 0 | 1 | 2 | 3 if at < len(changed):
                changed[at] ^= 1 << choices.below(8)
            case 4 | 5:
                changed[at : at + 1] = bytes([choices.below(256)])
            case 6:
                del changed[at:]
            case 7:
                del changed[at : at + 1 + choices.below(64)]
            case 8:
                changed[at:at] = changed[at // 2 : at][:1000]
            case 9:
                changed[:0] = b"\xef\xbb\xbf"
            case 10:
                whole = choices.pick(
                    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",)
                )
                changed[:] = choices.pick((whole, b"", b"\0" * 50, b"<!doctype html>", b"\xff\xfe"))
            case 11:
                changed[at:at] = choices.pick(HOSTILE_TEXTS).encode("utf-8", "surrogatepass")
            case 12:
                changed[:] = changed.decode("latin-1").encode(choices.pick(("utf-16", "utf-32")))
            case _:
                changed += choices.pick((b"\0", b"\n", b" x", b"a b\n" * 10, b"}"))
    return bytes(changed)


def change_safetensors(choices: Choices, file: bytes) -> bytes:
    header, data = parts(file)
    match choices.below(8):
        case 0:
            length = choices.pick((0, 7, 2**63, 2**64 - 1, 10**8, len(header) - 1, len(header) + 1))
            return struct.pack("<Q", length) + header + data
        case 1:
            at = choices.below(len(data) + 1)
            return with_header(header, choices.pick((data[:at], data + data[:at], b"")))
        case 2:
            return with_header(change_bytes(choices, header), data)
        case _:
            return with_header(change_json(choices, header), data)


def change_lines(choices: Choices, text: bytes) -> bytes:
    """Changes to merges.txt."""
    lines = text.decode("utf-8").split("\n")
    for _ in range(1 + choices.below(3)):
        at = choices.below(len(lines))
        match choices.below(6):
            case 0:
                lines[at] = choices.pick(HOSTILE_TEXTS)
            case 1:
                lines[at] += choices.pick((" x", " ", "\t", "\r", "\u2028a b", "\x00", "\x85"))
            case 2:
                del lines[at:]
            case 3:
                lines.insert(at, lines[-1])
            case 4:
                lines.insert(at, f"{choices.pick(HOSTILE_TEXTS)} {choices.pick(HOSTILE_TEXTS)}")
            case _:
                if choices.below(16) == 15:
                    count = choices.pick((1000, 159_000, 3_000_000))
                    lines += [f"{n % 997} x" for n in range(count)]
                lines.reverse()
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_manifest(choices: Choices, text: bytes) -> bytes:
    """Half the time only the numbers and hashes of one listed file, so that the rest is read."""
    if choices.below(2):
        return change_json(choices, text)
    fields = json.loads(text)
    listed = choices.pick(fields[choices.pick(("files", "weights"))])
    match choices.below(4):
        case 0:
            listed["bytes"] += choices.pick((1, -1, 2**24, 10**9))
        case 1:
            listed["sha256"] = "0" * 64
        case 2:
            listed["file"] = choices.pick(["config.json", "model-1.part", *HOSTILE_TEXTS])
        case _:
            fields["weights"].reverse()
    return dump(fields).encode("utf-8", "surrogatepass")


def change_table(choices: Choices, index: bytes) -> bytes:
    """Changes to a TensorFlow checkpoint's index, with the checksums made right again."""
    from gpt2web.convert.tf_bundle import _table

    entries = list(_table("index", index))
    for _ in range(1 + choices.below(3)):
        at = choices.below(len(entries))
        key, value = entries[at]
        match choices.below(5):
            case 0 | 1:
                entries[at] = key, change_bytes(choices, value)
            case 2:
                entries[at] = change_bytes(choices, key), value
            case 3:
                del entries[at]
            case _:
                entries.insert(at, entries[choices.below(len(entries))])
        if not entries:
            break
    return write_table(choices, entries)


def write_table(choices: Choices, entries: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB table, which may lie about where its blocks are and what they share."""
    from gpt2web.convert.crc32c import crc32c, masked
    from gpt2web.convert.tf_bundle import MAGIC

    def number(value: int) -> bytes:
        digits = b""
        while value >= 128:
            digits += bytes([value & 127 | 128])
            value >>= 7
        return digits + bytes([value])

    def block(pairs: list[tuple[int, bytes, bytes]]) -> bytes:
        data = b"".join(
            number(shared) + number(len(key)) + number(len(value)) + key + value
            for shared, key, value in pairs
        )
        data += struct.pack("<2I", 0, 1)
        return data + b"\0" + struct.pack("<I", masked(crc32c(data + b"\0")))

    lie = choices.below(16)
    pairs = [(0, key, value) for key, value in entries]
    if lie == 1:  # keys that grow by a byte each: n * n / 2 bytes of them
        pairs += [(shared, b"a", b"") for shared in range(0, 40_000)]
    if lie == 2:
        pairs = [(choices.below(9), key, value) for key, value in entries]
    data = block(pairs)
    handle = number(0) + number(len(data) - 5)
    handles = [(0, b"z", handle)]
    if lie == 3:  # the same block again and again
        handles = [(0, b"z", handle)] * 20_000
    if lie == 4:
        handles = [(0, b"z", number(2**62) + number(choices.below(99)))]
    if lie == 5:
        handles = [(0, b"z", number(len(data)) + number(0)), *handles]
    top = block(handles)
    footer = number(0) * 2 + number(len(data)) + number(len(top) - 5)
    return data + top + footer.ljust(40, b"\0") + MAGIC


Change = Callable[[Choices, bytes], bytes]


def targets() -> dict[str, tuple[str, str, Change]]:
    """{reader: (folder, file, what is done to it)}: every file that anything is read from."""
    return {
        "safetensors": ("single", WEIGHTS_FILE, change_safetensors),
        "safetensors f16": ("half", WEIGHTS_FILE, change_safetensors),
        "safetensors int8": ("int8", WEIGHTS_FILE, change_safetensors),
        "safetensors int4": ("int4", WEIGHTS_FILE, change_safetensors),
        "a shard": ("sharded", "model-00002-of-00002.safetensors", change_safetensors),
        "index": ("sharded", INDEX_FILE, change_json),
        "manifest": ("manifest", "manifest.json", change_manifest),
        "a manifest's shard": ("manifest", "model-3.part", change_bytes),
        "config.json": ("single", "config.json", change_json),
        "merges.txt": ("single", "merges.txt", change_lines),
        "vocab.json": ("vocabulary", "vocab.json", change_json),
        "added_tokens.json": ("vocabulary", "added_tokens.json", change_json),
        "tokenizer.json": ("tokenizer.json", "tokenizer.json", change_json),
        "generation_config.json": ("single", "generation_config.json", change_json),
        "TensorFlow index": ("openai", "model.ckpt.index", change_table),
        "TensorFlow state": ("openai", "checkpoint", change_lines),
        "hparams.json": ("openai", "hparams.json", change_json),
        "TensorFlow.js": ("tfjs", "model.json", change_json),
        "TensorFlow.js uint8": ("tfjs-uint8", "model.json", change_json),
    }
