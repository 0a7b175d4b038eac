"""Files made to do harm: refused by name, soon, in little memory, in a message that does no harm.
Each case is beside one like it that loads. What was found by tests/fuzz_files.py is kept here."""

import asyncio
import json
import os
import struct
import time

import numpy as np
import pytest

import fuzz_files
import hostile
from adapters import ADAPTERS
from gpt2web import GPT2CausalLM
from gpt2web.config import MAX_LAYERS, MAX_SIZE
from gpt2web.convert.crc32c import crc32c, masked
from gpt2web.convert.forms import LocalPlace, find_form, prefix_of
from gpt2web.convert.tf_bundle import MAGIC, read_index
from gpt2web.precision import is_matrix, matrix_shape, packed_name, word_rows
from gpt2web.safetensors import MAX_JSON_VALUES, MAX_MESSAGE, CheckpointError, parse_json
from gpt2web.tokenizer_files import MAX_ADDED, MAX_RULES, from_merges

WHOLE = hostile.whole_folders()


class Folder:
    """A whole folder in which files can be changed."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def put(self, name, **changes):
        for file in self.path.iterdir():
            file.unlink()
        self.name = name
        for file, data in WHOLE[name].items():
            (self.path / file).write_bytes(data)

    def change(self, file, change):
        """change(what its JSON says), in place or anew."""
        value = json.loads(WHOLE[self.name][file])
        new = change(value)
        text = hostile.dump(value if new is None else new)
        (self.path / file).write_bytes(text.encode("utf-8", "surrogatepass"))

    def change_header(self, change):
        header, data = hostile.parts(WHOLE[self.name]["model.safetensors"])
        fields = json.loads(header)
        change(fields)
        self.put_header(hostile.dump(fields).encode("utf-8", "surrogatepass"), data)

    def put_header(self, header, data=b""):
        (self.path / "model.safetensors").write_bytes(hostile.with_header(header, data))

    def load(self):
        if self.name in hostile.CONVERTED:
            return hostile.convert(self.path)
        return asyncio.run(hostile.load(self.path))

    def refusal(self):
        """The message; with all that is asked of every refusal."""
        fuzz_files.forget_peak()
        before, start = fuzz_files.memory("VmRSS"), time.process_time()
        with pytest.raises(CheckpointError) as caught:
            self.load()
        assert time.process_time() - start < 2, "slow"
        assert fuzz_files.memory("VmHWM") - before < 150e6, "large"
        message = str(caught.value)
        assert fuzz_files.wrong_message(message, list(WHOLE[self.name])) is None
        message.encode("utf-8")
        return message


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "tiny")


@pytest.mark.parametrize("name", WHOLE)
def test_the_folders_that_are_changed_here_load(folder, name):
    folder.put(name)
    assert folder.load() == folder.load()


# ---- names and values in messages ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("x" * 5_000_000, "tensor xxx"),
        ("\u202e" * 1_000_000, r"tensor \u202e\u202e"),
        ("\n\x1b[2Jall is well", r"tensor \n\x1b[2Jall is well: not a tensor"),
        ("\u202egpj.\u2066", r"tensor \u202egpj.\u2066: not"),
        ("\ud800", r"tensor \ud800: not"),
        ("h." + "1" * 5000 + ".ln_1.weight", "tensor h.111"),
        ("h.999999999.ln_1.weight", "got layer 999999999"),
        ("h.\u0663\u0663.ln_1.weight", "got layer"),
    ],
    ids=["5 MB", "turned", "a terminal's", "bidi", "half", "digits", "a layer", "other digits"],
)
def test_a_tensor_s_name_is_harmless_in_the_message(folder, name, seen):
    folder.put("single")
    folder.change_header(lambda fields: fields.update({name: fields.pop("h.0.attn.bias")}))
    message = folder.refusal()
    assert message.startswith("tiny/model.safetensors: tensor ")
    assert seen in message and message.endswith(("GPT-2.", "weights."))


def test_a_message_keeps_its_beginning_and_its_end():
    assert str(CheckpointError("a" * MAX_MESSAGE)) == "a" * MAX_MESSAGE
    message = str(CheckpointError("where" + "\0" * 10**6 + "way out"))
    assert MAX_MESSAGE - 10 < len(message) <= MAX_MESSAGE
    assert message.startswith(r"where\x00") and message.endswith(r"\x00way out")


@pytest.mark.parametrize("deep", [90, 500, 900, 980])
@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("single", "config.json", "n_embd"),
        ("single", "config.json", "resid_pdrop"),
        ("single", "config.json", "activation_function"),
        ("manifest", "manifest.json", "version"),
        ("manifest", "manifest.json", "weights"),
        ("tokenizer.json", "tokenizer.json", "pre_tokenizer"),
        ("vocabulary", "vocab.json", "t"),
        ("tfjs", "model.json", "weightsManifest"),
    ],
)
def test_a_deep_value_is_refused_whether_or_not_it_can_be_parsed(folder, name, file, key, deep):
    folder.put(name)
    nested = hostile.Raw("[" * deep + "]" * deep)
    folder.change(file, lambda fields: fields.update({key: nested}))
    assert f"tiny/{file}: " in folder.refusal()


# ---- JSON ----------------------------------------------------------------------------------------


def test_a_header_is_utf_8_and_nothing_else(folder):
    folder.put("single")
    header, data = hostile.parts(WHOLE["single"]["model.safetensors"])
    folder.put_header(header, data)
    folder.load()
    text = header.decode()
    for encoded in (
        text.encode("utf-16"),
        text.encode("utf-32-le"),
        b"\xef\xbb\xbf" + header,
        header.replace(b"h.0.attn.bias", b"\xed\xa0\x80"),  # a surrogate, encoded
    ):
        folder.put_header(encoded, data)
        assert "tiny/model.safetensors: wanted JSON, got" in folder.refusal()


BOMBS = {
    "empty lists": b"[" + b"[]," * 5_000_000 + b"0]",
    "objects": b"[" + b'{"a":1},' * 1_900_000 + b"0]",
    "names": b"{" + b",".join(b'"%d":0' % n for n in range(1_200_000)) + b"}",
    "commas": b"," * 15_000_000,
    "depth": b"[" * 15_000_000,
    "a name": b'{"' + b"\xf0\x9f\x98\x80" * 3_500_000 + b'": 1}',
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_json_that_would_be_large_is_refused_before_it_is(folder, bomb, file):
    folder.put("single")
    if file == "config.json":
        (folder.path / file).write_bytes(BOMBS[bomb])
    else:
        folder.put_header(BOMBS[bomb])
    assert f"tiny/{file}" in folder.refusal()


def test_as_many_values_as_are_allowed_are_read():
    fitting = "[" + "0," * (MAX_JSON_VALUES - 1) + "0]"
    assert len(parse_json("a", fitting)) == MAX_JSON_VALUES
    with pytest.raises(CheckpointError, match="a: wanted at most 500,000 values, got about"):
        parse_json("a", "[" + "0," * MAX_JSON_VALUES + "0]")


def test_many_tensors_take_no_longer_than_their_header_is_long(folder):
    folder.put("single")

    def add(fields):
        end = max(f["data_offsets"][1] for name, f in fields.items() if name != "__metadata__")
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
        fields.update({f"h.{n}.attn.bias": empty for n in range(2, 60_000)})

    header, data = hostile.parts(WHOLE["single"]["model.safetensors"])
    fields = json.loads(header)
    add(fields)
    folder.put_header(hostile.to_json(fields), data)
    folder.load()
    folder.put_header(hostile.to_json(fields | {"h.7.attn.bias": {}}), data)
    assert "tensor h.7.attn.bias: wanted dtype, shape" in folder.refusal()


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_layer", 10**9, "num_layers: wanted at most 1,000, got 1000000000"),
        ("n_layer", MAX_LAYERS, "tensor h.2.ln_1.weight (and 11975 more) is missing"),
        ("vocab_size", 10**12, "vocabulary_size: wanted at most 2,147,483,647"),
        ("vocab_size", MAX_SIZE, "merges.txt makes 260 tokens, config.json says vocab_size 2,147"),
        ("n_positions", 10**400, "max_sequence_length: wanted at most"),
        ("n_positions", MAX_SIZE, "tensor wpe.weight: wanted shape [2147483647, 4]"),
        ("n_embd", 2**62, "hidden_dim: wanted at most"),
        ("n_embd", True, "n_embd: wanted a whole number"),
        ("n_inner", 2**31, "intermediate_dim: wanted at most"),
        ("n_head", 10**12, "num_heads: wanted at most"),
        ("n_embd", hostile.Raw("9" * 5000), "wanted JSON, got"),
        ("n_embd", hostile.Raw("1e999"), "n_embd: wanted a whole number"),
        ("resid_pdrop", hostile.Raw("NaN"), "dropout: wanted 0 or more"),
        ("layer_norm_epsilon", hostile.Raw("Infinity"), "layer_norm_epsilon: wanted"),
    ],
)
def test_a_config_that_asks_for_the_moon_gets_nothing(folder, key, value, message):
    folder.put("single")
    folder.change("config.json", lambda fields: fields.update({key: value}))
    assert message in folder.refusal()
    with pytest.raises(CheckpointError):  # before there is a device
        GPT2CausalLM.from_preset(folder.path, adapter="none of this name")


@pytest.mark.parametrize(
    "shape", [[2**62, 4], [10**4000, 10**4000], [0], [1] * 10_000, [260, 4, 1], [], [1040]]
)
def test_a_shape_is_the_config_s_or_refused(folder, shape):
    folder.put("half")
    folder.change_header(lambda fields: fields["wte.weight"].update(shape=shape))
    assert "tensor wte.weight: wanted shape [260, 4]" in folder.refusal()


@pytest.mark.parametrize("end", [10**4290, 2**64, 2**63, -1, -(10**4290)])
def test_offsets_of_any_size_are_refused(folder, end):
    folder.put("half")
    folder.change_header(lambda fields: fields["wte.weight"].update(data_offsets=[0, end]))
    assert "tensor wpe.weight overlaps" in (message := folder.refusal()) or "wte" in message


# ---- tokenizers ----------------------------------------------------------------------------------


def merges(count):
    """So many rules, each with a token of its own."""
    return "\n".join(f"{n % 997} {n // 997}" for n in range(count))


def test_merges_are_bounded(folder):
    assert len(from_merges("tiny", merges(MAX_RULES), None, None).merges) == MAX_RULES
    folder.put("single")
    (folder.path / "merges.txt").write_text(merges(3 * MAX_RULES))
    message = f"merges.txt: wanted at most {MAX_RULES:,} merges, got {3 * MAX_RULES - 1:,}"
    assert message in folder.refusal()
    (folder.path / "merges.txt").write_text("\n" * 15_999_999)  # as lines, a gigabyte
    assert "merges.txt: wanted at most" in folder.refusal()


def test_added_tokens_are_bounded(folder):
    def added(count):
        tokens = {f"<{n}>": 300 + n for n in range(count)}
        return from_merges("tiny", "", None, json.dumps(tokens))

    tokenizer = added(MAX_ADDED)
    assert tokenizer.tokenize("a<17>b<4999>") == [64, 317, 65, 5299]
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: wanted at most 5,000 added"):
        added(MAX_ADDED + 1)


def test_tokens_that_are_no_text_never_break_a_generation(folder):
    folder.put("vocabulary")
    folder.change("vocab.json", lambda fields: fields.update({"\ud800": fields.pop("the")}))
    folder.load()  # every id is decoded
    folder.put("vocabulary")
    folder.change("added_tokens.json", lambda fields: fields.update({"\ud800": 7}))
    assert r"added_tokens.json: '\ud800'" in folder.refusal()


# ---- files of a folder ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/x.safetensors",
        "a/b.safetensors",
        "C:x.safetensors",
        "..\\x.safetensors",
        "%2e%2e%2fx.safetensors",
        "https://example.org/x.safetensors",
        "x" * 300 + ".safetensors",
        "é" * 120 + ".safetensors",
        "\0.safetensors",
        ".safetensors",
        7,
        None,
        [],
    ],
)
def test_an_index_names_plain_files_beside_it(folder, name):
    folder.put("sharded")
    folder.change(hostile.INDEX_FILE, lambda index: index["weight_map"].update(wte=name))
    assert "tensor wte: wanted the name of a .safetensors file beside" in folder.refusal()
    fetched = find_form(LocalPlace(folder.path)).files  # under these names they are written
    assert fetched == tuple(sorted(f for f in WHOLE["sharded"] if f.endswith(".safetensors")))


@pytest.mark.parametrize("path", ["..", "../..", "/etc/passwd", "C:model", "..\\model", "x" * 300])
def test_a_state_file_names_a_plain_prefix(folder, path):
    folder.put("openai")
    (folder.path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    prefix = prefix_of(LocalPlace(folder.path))
    assert not set(prefix) & set('/\\:"') and len(prefix) < 100
    if prefix != "model.ckpt":
        assert f"tiny/{prefix}.index is missing" in folder.refusal()


@pytest.mark.parametrize("file", ["config.json", "merges.txt", "model.safetensors"])
def test_a_pipe_or_a_folder_in_a_file_s_place_is_refused(folder, file):
    folder.put("single")
    (folder.path / file).rename(folder.path / "beside")
    (folder.path / file).symlink_to("beside")  # as the hub's own cache has them
    folder.load()
    (folder.path / file).unlink()
    os.mkfifo(folder.path / file)
    assert f"tiny/{file}: wanted a file, got something else" in folder.refusal()
    (folder.path / file).unlink()
    (folder.path / file).mkdir()
    assert f"tiny/{file}: wanted a file, got a folder" in folder.refusal()
    (folder.path / file).rmdir()


# ---- other forms ---------------------------------------------------------------------------------


def number(value):
    """A base-128 number."""
    return (bytes([value & 127 | 128]) + number(value >> 7)) if value > 127 else bytes([value])


def block(*pairs):
    """A block of a LevelDB table, its checksum right: (bytes shared with the name before, name,
    value) each."""
    data = b"".join(
        number(shared) + number(len(name)) + number(len(value)) + name + value
        for shared, name, value in pairs
    )
    data += struct.pack("<2I", 0, 1)
    return data + b"\0" + struct.pack("<I", masked(crc32c(data + b"\0")))


def table(data, times):
    """An index whose data block is listed so many times."""
    handle = number(0) + number(len(data) - 5)
    top = block(*[(0, b"z", handle)] * times)
    footer = number(0) * 2 + number(len(data)) + number(len(top) - 5)
    return data + top + footer.ljust(40, b"\0") + MAGIC


HEADER = (0, b"", bytes([8, 1]))  # one data file


def test_an_index_s_blocks_are_read_once_and_its_names_stay_short():
    def read(pairs, times=1):
        start = time.process_time()
        try:
            return read_index("index", table(block(HEADER, *pairs), times))
        finally:
            assert time.process_time() - start < 2

    growing = [(shared, b"a", b"") for shared in range(40_000)]
    assert len(read(growing[:1000])[1]) == 1000
    with pytest.raises(CheckpointError, match="index is damaged: a name of 1001 bytes"):
        read(growing)  # 800 MB of names in 160 kB
    with pytest.raises(CheckpointError, match="index is damaged: its blocks overlap"):
        read(growing[:1000], times=20_000)
    with pytest.raises(CheckpointError, match="index is damaged: over 100,000 tensors"):
        read([(0, b"%d" % n, b"") for n in range(100_001)])


def slashes(count):
    return "transformer_layer_1/" * count + "\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [10**4000, 10**4000]}, "wanted weights with name, shape and dtype"),
        ({"shape": [2**31 - 1] * 250_000}, "wanted weights with name, shape and dtype"),
        ({"shape": [2**31 - 1] * 8}, "cut off in tensor"),
        ({"shape": [True, 4]}, "wanted weights with name, shape and dtype"),
        ({"name": slashes(50_000)}, "is not one of KerasHub's GPT2Backbone"),
        ({"name": "transformer_layer_" + "9" * 5000 + "/layer_norm/gamma"}, "is not one of"),
        ({"name": "transformer_layer_9999/feedforward_layer_norm/gamma"}, "is missing"),
        ({"quantization": {"dtype": "uint8", "scale": 10**400, "min": 0}}, "as uint8, uint16"),
        ({"quantization": {"dtype": "uint8", "scale": 1, "min": -1e39}}, "as uint8, uint16"),
    ],
    ids=["digits", "axes", "large", "a truth", "slashes", "a long layer", "a layer", "inf", "min"],
)
def test_a_tensor_of_model_json_that_lies_is_refused(folder, changes, message):
    folder.put("tfjs")

    def change(model):
        weights = model["weightsManifest"][0]["weights"]
        last = next(w for w in weights if w["name"].endswith("layer_norm/gamma"))
        last.update(changes)

    folder.change("model.json", change)
    assert message in folder.refusal()


def test_a_whole_number_as_scale_is_as_good_as_a_float(folder):
    folder.put("tfjs-uint8")

    def load(scale):
        def change(model):
            for group in model["weightsManifest"]:
                for weight in group["weights"]:
                    weight["quantization"].update(scale=scale, min=0)

        folder.change("model.json", change)
        return folder.load()

    assert load(1) != load(2) == load(2.0)
    assert load(260) == load(260.0)


# ---- weights that are no numbers -----------------------------------------------------------------

NAN, INFINITE = float("nan"), float("-inf")
PLACES = {  # the tensor, which of its values, and what it becomes
    "the first value": ("F32", "wte.weight", 0, NAN),
    "the last value": ("F32", "ln_f.bias", -1, INFINITE),
    "f16": ("F16", "h.1.mlp.c_proj.weight", -1, NAN),
    "a vector in f16": ("F16", "h.0.ln_1.weight", 1, INFINITE),
    "bf16": ("BF16", "wpe.weight", -1, INFINITE),
    "a scale of int8": ("int8", "wte.weight", -1, NAN),
    "a scale of int4": ("int4", "h.1.attn.c_proj.weight", -1, INFINITE),
}


def stored(kind, spoilt=None):
    """A folder's weights in a dtype or packed, with a value of one tensor spoilt."""
    tensor, at, value = spoilt or ("", 0, 0.0)
    weights = {name: values.copy() for name, values in hostile.WEIGHTS.items()}
    if kind not in ("int8", "int4"):
        if tensor:
            weights[tensor].flat[at] = value
        return weights
    packed = hostile.packed(kind)
    for name, values in weights.items():
        if not is_matrix(name):
            continue
        words = packed[packed_name(name, kind)]
        bits = int(packed_name(name, kind)[-1])
        scales = words[word_rows(matrix_shape(name, values.shape)[0], bits) :]
        one, width = (np.float32, 1) if bits == 8 else (np.float16, 2)
        numbers = np.full(scales.size * width, 0.01, one)
        if name == tensor:
            numbers[at] = value
        scales[:] = numbers.view(np.uint32).reshape(scales.shape)
    return packed


@pytest.mark.gpu
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_weights_that_are_no_numbers_are_refused_by_tensor(folder, adapter, devices, monkeypatch):
    async def no_warm_up(self):
        """It compiles everything that generates, for seconds."""

    monkeypatch.setattr(GPT2CausalLM, "_warm_up", no_warm_up)
    folder.put("single")

    def load(kind, spoilt=None):
        dtype = kind if kind[:3] != "int" else "F32"
        path = folder.path / "model.safetensors"
        if dtype == "BF16":
            hostile.reference.write_safetensors(path, stored(kind, spoilt), dtype)
        else:
            path.write_bytes(hostile.safetensors(stored(kind, spoilt), dtype))
        GPT2CausalLM.from_preset(folder.path, adapter=adapter).close()

    for kind, tensor, at, value in PLACES.values():
        load(kind)
        with pytest.raises(CheckpointError, match=f"tiny: tensor {tensor} holds values that are"):
            load(kind, (tensor, at, value))
    assert not any(device.live for device in devices) and len(devices) == 2 * len(PLACES)


# ---- the fuzzer itself ---------------------------------------------------------------------------


@pytest.fixture
def fuzzer(tmp_path):
    return fuzz_files.Fuzzer(tmp_path)


def test_the_fuzzer_finds_nothing_in_a_few_cases(fuzzer, monkeypatch):
    monkeypatch.setattr(fuzz_files, "HANGS", 0)  # pytest has no handler for its signal
    generator = fuzz_files.random.Random(7)
    for target in fuzzer.targets:
        for _ in range(3):
            decisions = generator.randbytes(fuzz_files.CASE_BYTES)
            assert fuzzer.case(target, decisions) is None
    assert 0 < sum(fuzzer.loaded.values()) < sum(fuzzer.cases.values())
    fuzzer.control()


def test_the_fuzzer_would_find_a_reader_that_fails_otherwise(fuzzer, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_files, "HANGS", 0)
    monkeypatch.setattr(fuzz_files, "SECONDS", 0.2)

    def told(error=None, seconds=0.0, megabytes=0):
        def read(name):
            held = bytearray(megabytes << 20)
            start = time.process_time()
            while time.process_time() - start < seconds:
                pass
            if error:
                raise error
            return bytes(held[:1])

        monkeypatch.setattr(fuzzer, "read", read)
        return fuzzer.case("index", b"") or ""

    assert told() == told(CheckpointError("tiny/config.json: no")) == ""
    assert told(ValueError("x")).startswith("ValueError in test_hostile_files.py")
    assert told(RecursionError("x")).startswith("RecursionError in ")
    assert told(CheckpointError("no")) == "nameless message: no"
    assert told(seconds=0.3).startswith("slow: 0.")
    monkeypatch.setattr(fuzz_files, "SECONDS", 30)  # clearing so much memory takes its time
    assert told(megabytes=200).startswith("large: ")
    assert "again: --case 'index'" in capsys.readouterr().out
