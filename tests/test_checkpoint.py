import asyncio
import json
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import reference
from gpt2web.checkpoint import CheckpointError, LocalFolder, open_checkpoint, tensor_shapes
from gpt2web.config import GPT2Config

CONFIG = GPT2Config(
    vocabulary_size=11,
    num_layers=2,
    num_heads=2,
    hidden_dim=6,
    intermediate_dim=10,
    max_sequence_length=9,
)
WEIGHTS = reference.random_weights(CONFIG, seed=3)
FILE = "model.safetensors"
STORIES = Path(__file__).parents[1] / "web" / "models" / "stories"


def load(folder, config=CONFIG, piece=100):
    """Every tensor as float32, read in pieces as a consumer would; and the checkpoint."""

    async def run():
        checkpoint = await open_checkpoint(LocalFolder(folder), config)
        values = {}
        async for entry, stream in checkpoint.tensors():
            data = b""
            while len(data) < entry.byte_length:
                data += bytes(await stream.read(min(piece, entry.byte_length - len(data))))
            if entry.dtype == "BF16":
                array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                dtypes = {"F32": "<f4", "F16": "<f2", "INT8": "<u4", "INT4": "<u4"}
                array = np.frombuffer(data, dtypes[entry.dtype])
            if not entry.dtype.startswith("INT"):
                array = array.astype(np.float32)
            values[entry.name] = array.reshape(entry.shape)
        return values, checkpoint

    return asyncio.run(run())


def read_parts(path):
    blob = path.read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def write_parts(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def folder(tmp_path):
    """A model's folder that loads: what a refusal test then damages."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    reference.write_safetensors(folder / FILE, WEIGHTS)
    assert load(folder)[0].keys() == WEIGHTS.keys()
    return folder


def refusal(folder, config=CONFIG):
    with pytest.raises(CheckpointError) as caught:
        load(folder, config)
    return str(caught.value)


def assert_same(values, wanted):
    assert values.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(values[name], array, err_msg=name)


# ---- what loads --------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_every_tensor_arrives_whole_however_small_the_pieces(folder, piece):
    values, checkpoint = load(folder, piece=piece)
    assert_same(values, WEIGHTS)
    assert checkpoint.total_bytes == 4 * sum(array.size for array in WEIGHTS.values())
    assert [entry.name for entry in checkpoint.entries] == list(WEIGHTS)


def test_tensors_come_in_the_order_of_the_file_not_of_the_header(folder):
    header, data = read_parts(folder / FILE)
    write_parts(folder / FILE, dict(sorted(header.items(), reverse=True)), data)
    values, checkpoint = load(folder)
    assert [entry.name for entry in checkpoint.entries] == list(WEIGHTS)
    assert_same(values, WEIGHTS)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_handed_on_as_it_is(folder, dtype):
    reference.write_safetensors(folder / FILE, WEIGHTS, dtype)
    values, checkpoint = load(folder)
    assert {entry.dtype for entry in checkpoint.entries} == {dtype}
    assert_same(values, reference.read_safetensors(folder / FILE))


PACKED = {precision: reference.packed(WEIGHTS, precision) for precision in ("int8", "int4")}


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_packed_matrices_keep_their_plain_names_and_words(folder, precision, prefix):
    tensors = {prefix + name: values for name, values in PACKED[precision].items()}
    reference.write_safetensors(folder / FILE, tensors, "F16")
    values, checkpoint = load(folder)
    assert checkpoint.precision == precision and values.keys() == WEIGHTS.keys()
    entries = {entry.name: entry for entry in checkpoint.entries}
    for stored_name, words in PACKED[precision].items():
        if words.dtype == np.uint32:
            name, _, bits = stored_name.rpartition(".int")
            assert (entries[name].dtype, entries[name].shape) == (f"INT{bits}", words.shape)
            np.testing.assert_array_equal(values[name], words, err_msg=name)
        else:
            assert entries[stored_name].dtype == "F16"
    assert entries["wte.weight"].dtype == "INT8"  # also in int4
    assert entries["h.1.mlp.c_fc.weight"].dtype == precision.upper()
    assert checkpoint.total_bytes == sum(entry.byte_length for entry in checkpoint.entries)


@pytest.mark.parametrize("dtype, precision", [("F32", "f32"), ("F16", "f16"), ("BF16", "f32")])
def test_floats_have_the_precision_that_holds_them(folder, dtype, precision):
    reference.write_safetensors(folder / FILE, WEIGHTS, dtype)
    assert load(folder)[1].precision == precision


C_FC = "h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    "remove, add, message",
    [
        (f"{C_FC}.int4", {C_FC: WEIGHTS[C_FC]}, rf"{C_FC}: wanted {C_FC}\.int4, .* got F32"),
        (
            f"{C_FC}.int4",
            {f"{C_FC}.int8": PACKED["int8"][f"{C_FC}.int8"]},
            rf"tensor {C_FC}\.int8: wanted {C_FC}\.int4, .* in int4, got INT8",
        ),
        (
            "wte.weight.int8",
            {"wte.weight": WEIGHTS["wte.weight"]},
            r"tensor wte\.weight: wanted wte\.weight\.int8, .* got F32",
        ),
        (
            "wte.weight.int8",
            {"wte.weight.int4": reference.pack(WEIGHTS["wte.weight"].T, 4)},
            r"wte\.weight\.int4: wanted wte\.weight\.int8, .* got INT4",
        ),
        (None, {C_FC: WEIGHTS[C_FC]}, rf"{C_FC}(\.int4)? is there twice"),
        (
            f"{C_FC}.int4",
            {f"{C_FC}.int4": WEIGHTS[C_FC]},
            r"wanted U32 \[2, 12\], .* a \[6, 10\] matrix in int4, got F32 \[6, 10\]",
        ),
        (
            f"{C_FC}.int4",
            {f"{C_FC}.int4": PACKED["int4"][f"{C_FC}.int4"][:1]},
            r"wanted U32 \[2, 12\], .* got U32 \[1, 12\]",
        ),
        ("wpe.weight", {"wpe.weight.int8": np.zeros((4, 12), np.uint32)}, "not a tensor of GPT-2"),
        (f"{C_FC}.int4", {f"{C_FC}.int2": np.zeros((2, 12), np.uint32)}, "not a tensor of GPT-2"),
    ],
)
def test_packed_tensors_that_are_mixed_or_misshapen_are_refused_by_name(
    folder, remove, add, message
):
    tensors = dict(PACKED["int4"])
    reference.write_safetensors(folder / FILE, tensors)
    load(folder)
    tensors.pop(remove, None)
    reference.write_safetensors(folder / FILE, tensors | add)
    assert re.search(message, refusal(folder))


def test_a_packed_tensor_whose_bytes_are_not_its_shapes_is_refused(folder):
    tensors = dict(PACKED["int4"])
    tensors[f"{C_FC}.int4"] = tensors.pop(f"{C_FC}.int4")  # the last one
    reference.write_safetensors(folder / FILE, tensors)
    load(folder)
    header, data = read_parts(folder / FILE)
    header[f"{C_FC}.int4"]["data_offsets"][1] -= 4
    write_parts(folder / FILE, header, data[:-4])
    assert "wanted 96 bytes for U32 [2, 12], got 92" in refusal(folder)


def test_names_may_have_the_transformer_prefix(folder):
    named = {f"transformer.{name}": array for name, array in WEIGHTS.items()}
    reference.write_safetensors(folder / FILE, named)
    assert_same(load(folder)[0], WEIGHTS)


def test_a_tied_head_and_old_mask_buffers_are_read_over(folder):
    masks = {
        "h.0.attn.bias": np.tril(np.ones((1, 1, 9, 9), np.float32)),
        "transformer.h.1.attn.masked_bias": np.float32(-1e4),
    }
    head = {"lm_head.weight": WEIGHTS["wte.weight"]}
    reference.write_safetensors(folder / FILE, masks | head | WEIGHTS)
    assert_same(load(folder)[0], WEIGHTS)


@pytest.mark.parametrize("order", [["lm_head.weight", *WEIGHTS], [*WEIGHTS, "lm_head.weight"]])
def test_a_head_of_its_own_is_refused(folder, order):
    tensors = {"lm_head.weight": WEIGHTS["wte.weight"] + np.float32(1)} | WEIGHTS
    reference.write_safetensors(folder / FILE, {name: tensors[name] for name in order})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not wte\.weight"):
        load(folder)
    tensors["lm_head.weight"] = WEIGHTS["wte.weight"]
    reference.write_safetensors(folder / FILE, {name: tensors[name] for name in order})
    assert_same(load(folder)[0], WEIGHTS)


def test_a_tensor_left_unread_does_not_shift_the_next_one(folder):
    async def run():
        checkpoint = await open_checkpoint(LocalFolder(folder), CONFIG)
        return [await stream.read_bytes(4) async for _, stream in checkpoint.tensors()]

    assert asyncio.run(run()) == [array.ravel()[:1].tobytes() for array in WEIGHTS.values()]


def test_a_checkpoint_can_be_read_twice(folder):
    async def run():
        checkpoint = await open_checkpoint(LocalFolder(folder), CONFIG)
        return [
            [await stream.read_bytes(entry.byte_length) async for entry, stream in tensors]
            for tensors in (checkpoint.tensors(), checkpoint.tensors())
        ]

    first, second = asyncio.run(run())
    assert first == second == [array.tobytes() for array in WEIGHTS.values()]


def test_reading_past_a_tensor_is_refused(folder):
    async def run():
        checkpoint = await open_checkpoint(LocalFolder(folder), CONFIG)
        async for entry, stream in checkpoint.tensors():
            await stream.read(entry.byte_length)
            await stream.read(1)

    with pytest.raises(ValueError, match=r"read\(1\): the tensor has 0 bytes left"):
        asyncio.run(run())


def test_the_stories_model_loads():
    config = GPT2Config.from_hugging_face(json.loads((STORIES / "config.json").read_text()))
    values, checkpoint = load(STORIES, config, piece=1 << 16)
    assert checkpoint.total_bytes == 2 * config.num_parameters
    assert_same(values, reference.read_safetensors(STORIES / FILE))


def test_tensor_shapes_are_the_reference_models():
    assert tensor_shapes(CONFIG) == reference.weight_shapes(CONFIG)


# ---- sharded -----------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    """The same model in three files; it loads."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    weight_map = {}
    for shard in range(3):
        part = dict(list(WEIGHTS.items())[shard::3])
        file = f"model-0000{shard + 1}-of-00003.safetensors"
        reference.write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load(folder)[0], WEIGHTS)
    return folder


def test_of_a_sharded_model_one_file_is_open_at_a_time(sharded):
    opened = []

    class Counting(LocalFolder):
        async def open(self, file):
            stream = await super().open(file)
            opened.append(stream)
            return stream

    def count_open():
        return sum(not stream._file.closed for stream in opened)

    async def run():
        checkpoint = await open_checkpoint(Counting(sharded), CONFIG)
        assert count_open() == 1
        async for _ in checkpoint.tensors():
            assert count_open() == 1
        assert count_open() == 0
        (sharded / "model-00003-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError):
            await open_checkpoint(Counting(sharded), CONFIG)
        assert count_open() == 0

    asyncio.run(run())
    assert len(opened) == 3 + 2 + 2  # headers, the later two once more; then up to the missing one


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "sharded/model-00002-of-00003.safetensors is missing" in refusal(sharded)


def test_a_damaged_shard_is_found_before_any_tensor_is_handed_out(sharded):
    file = sharded / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    async def run():
        await open_checkpoint(LocalFolder(sharded), CONFIG)

    with pytest.raises(CheckpointError, match=f"sharded/{file.name} is cut off in tensor"):
        asyncio.run(run())


def test_a_tensor_in_two_shards_is_refused(sharded):
    file = sharded / "model-00002-of-00003.safetensors"
    again = reference.read_safetensors(file) | {"wte.weight": WEIGHTS["wte.weight"]}
    reference.write_safetensors(file, again)
    message = refusal(sharded)
    assert f"{file.name}: tensor wte.weight is there twice" in message
    assert "also as wte.weight in model-00001-of-00003.safetensors" in message


def test_an_index_that_disagrees_with_its_files_is_refused(sharded):
    file = sharded / f"{FILE}.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["wte.weight"] = "model-00002-of-00003.safetensors"
    file.write_text(json.dumps(index))
    assert "model-00002-of-00003.safetensors: tensor wte.weight is missing" in refusal(sharded)


@pytest.mark.parametrize("name", ["../model.safetensors", "/a.safetensors", "a.bin", 3, ""])
def test_an_index_cannot_name_a_file_elsewhere(sharded, name):
    file = sharded / f"{FILE}.index.json"
    file.write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    assert "wanted the name of a .safetensors file beside the index" in refusal(sharded)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 1}'])
def test_an_index_that_is_none_is_refused(sharded, text):
    (sharded / f"{FILE}.index.json").write_text(text)
    assert f"sharded/{FILE}.index.json: wanted" in refusal(sharded)


def test_an_index_that_is_not_text_is_refused(sharded):
    (sharded / f"{FILE}.index.json").write_bytes(b"\xff\xfe")
    assert f"sharded/{FILE}.index.json is not UTF-8 text" in refusal(sharded)


def test_a_shard_that_changes_between_check_and_load_is_refused(sharded):
    async def run(change):
        checkpoint = await open_checkpoint(LocalFolder(sharded), CONFIG)
        if change:
            file = sharded / "model-00002-of-00003.safetensors"
            reference.write_safetensors(file, reference.read_safetensors(file), "F16")
        return [entry async for entry, _ in checkpoint.tensors()]

    assert len(asyncio.run(run(change=False))) == len(WEIGHTS)
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors changed while"):
        asyncio.run(run(change=True))


# ---- refusals ----------------------------------------------------------------------------------


def test_a_folder_without_weights_says_what_was_looked_for(folder):
    (folder / FILE).unlink()
    message = refusal(folder)
    assert message.startswith(f"tiny holds no weights: looked for {FILE} and {FILE}.index.json")


def test_a_folder_that_is_none_is_refused(folder):
    assert "wanted the path of a model's folder, got a file" in refusal(folder / FILE)
    assert "wanted the path of a model's folder, got no such folder" in refusal(folder / "none")


@pytest.mark.parametrize("keep", [0, 7, 8, 100])
def test_a_file_cut_off_in_its_header_is_refused(folder, keep):
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:keep])
    message = refusal(folder)
    assert message.startswith(f"tiny/{FILE} is cut off") and f"got {keep}" in message
    assert "Fetch it again" in message


@pytest.mark.parametrize("missing", [1, 5, 1000])
def test_a_file_cut_off_in_its_tensors_is_refused(folder, missing):
    _, data = read_parts(folder / FILE)
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:-missing])
    message = refusal(folder)
    assert f"wanted {len(data)} bytes of tensors, got {len(data) - missing}" in message
    assert ("ln_f.bias" in message) == (missing < 24)


def test_bytes_after_the_last_tensor_are_refused(folder):
    with (folder / FILE).open("ab") as file:
        file.write(b"more")
    assert "the last 4 belong to no tensor" in refusal(folder)


def test_a_file_that_shrinks_while_it_is_read_is_refused(folder):
    async def run():
        checkpoint = await open_checkpoint(LocalFolder(folder), CONFIG)
        whole = (folder / FILE).read_bytes()
        (folder / FILE).write_bytes(whole[:-10])
        async for entry, stream in checkpoint.tensors():
            await stream.read(entry.byte_length)

    with pytest.raises(CheckpointError, match=f"tiny/{FILE} ended early: wanted 24 more bytes"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "start, hint",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x80\x02}q\x00X\x0e\x00more", "Put the right file there"),
    ],
)
def test_a_file_of_another_kind_is_refused(folder, start, hint):
    (folder / FILE).write_bytes(start * 40)
    message = refusal(folder)
    assert f"tiny/{FILE} is not a safetensors file" in message
    assert "at most 8000000 are allowed" in message and hint in message


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b"null", b'"x"', b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000]
)
def test_a_header_that_is_not_an_object_in_json_is_refused(folder, header):
    write_parts(folder / FILE, header, b"")
    message = refusal(folder)
    assert message.startswith(f"tiny/{FILE}: wanted ") and len(message) < 400


@pytest.mark.parametrize(
    "fields",
    [
        {},
        None,
        7,
        {"dtype": "F32", "shape": [6]},
        {"dtype": 4, "shape": [6], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": "6", "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6.0], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]},
        {"dtype": "F32", "shape": [6], "data_offsets": [-24, 0]},
        {"dtype": "F32", "shape": [6], "data_offsets": [0, 8, 24]},
    ],
)
def test_a_tensor_whose_listing_makes_no_sense_is_refused(folder, fields):
    header, data = read_parts(folder / FILE)
    write_parts(folder / FILE, header | {"ln_f.bias": fields}, data)
    message = refusal(folder)
    assert f"tiny/{FILE}: tensor ln_f.bias: wanted dtype, shape and data_offsets" in message


def test_a_tensor_listed_twice_is_refused(folder):
    header, data = read_parts(folder / FILE)
    text = json.dumps(header)
    write_parts(folder / FILE, (text[:-1] + ', "ln_f.bias": {}}').encode(), data)
    assert f"tiny/{FILE}: ln_f.bias is listed twice" in refusal(folder)


def test_a_tensor_under_both_its_names_is_refused(folder):
    both = WEIGHTS | {"transformer.ln_f.bias": WEIGHTS["ln_f.bias"]}
    reference.write_safetensors(folder / FILE, both)
    message = refusal(folder)
    assert "tensor transformer.ln_f.bias is there twice: also as ln_f.bias in" in message


def shift(folder, name, begin, end):
    header, data = read_parts(folder / FILE)
    old_begin, old_end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [old_begin + begin, old_end + end]
    write_parts(folder / FILE, header, data)


def test_overlapping_tensors_are_refused(folder):
    shift(folder, "h.0.ln_1.bias", -4, -4)
    assert "tensor h.0.ln_1.bias overlaps the one before" in refusal(folder)


def test_a_hole_between_tensors_is_refused(folder):
    shift(folder, "h.0.ln_1.bias", 4, 0)
    assert "tensor h.0.ln_1.bias leaves a hole before itself" in refusal(folder)


def test_a_hole_before_the_first_tensor_is_refused(folder):
    shift(folder, "wte.weight", 4, 0)
    assert "tensor wte.weight leaves a hole before itself" in refusal(folder)


def test_a_tensor_whose_bytes_are_not_its_shapes_is_refused(folder):
    header, data = read_parts(folder / FILE)
    header["ln_f.bias"]["dtype"] = "F16"
    write_parts(folder / FILE, header, data)
    assert "tensor ln_f.bias: wanted 12 bytes for F16 [6], got 24" in refusal(folder)


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "f32", ""])
def test_a_dtype_that_is_no_weights_is_refused(folder, dtype):
    header, data = read_parts(folder / FILE)
    header["h.1.mlp.c_fc.bias"]["dtype"] = dtype
    write_parts(folder / FILE, header, data)
    message = refusal(folder)
    assert f"tensor h.1.mlp.c_fc.bias: wanted dtype F32, F16, BF16, got {dtype}." in message


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "wpe.weight", "ln_f.weight"])
def test_a_mislabelled_shape_is_refused(folder, name):
    header, data = read_parts(folder / FILE)
    wanted = header[name]["shape"]
    header[name]["shape"] = got = [*wanted[::-1], 1]
    write_parts(folder / FILE, header, data)
    message = refusal(folder)
    assert f"tensor {name}: wanted shape {wanted} (" in message and f"got {got}" in message


def test_a_missing_tensor_is_named(folder):
    some = {name: array for name, array in WEIGHTS.items() if name != "h.1.ln_2.bias"}
    reference.write_safetensors(folder / FILE, some)
    message = refusal(folder)
    assert f"tiny/{FILE}: tensor h.1.ln_2.bias is missing: wanted 28 tensors" in message


@pytest.mark.parametrize(
    "name", ["score.weight", "h.0.attn.rotary", "lm_head.bias", "h.0.attn.biases", "xh.0.attn.bias"]
)
def test_an_unknown_tensor_is_refused_by_name(folder, name):
    reference.write_safetensors(folder / FILE, WEIGHTS | {name: np.zeros(1, np.float32)})
    assert f"tensor {name}: not a tensor of GPT-2" in refusal(folder)


def test_a_head_of_another_shape_is_refused(folder):
    head = {"lm_head.weight": np.zeros((12, 6), np.float32)}
    reference.write_safetensors(folder / FILE, WEIGHTS | head)
    assert "tensor lm_head.weight: wanted shape [11, 6]" in refusal(folder)


@pytest.mark.parametrize(
    "field, value, wanted",
    [
        ("vocabulary_size", 12, "tensor wte.weight: wanted shape [12, 6] (vocabulary_size 12"),
        ("hidden_dim", 8, "tensor wte.weight: wanted shape [11, 8]"),
        ("intermediate_dim", 24, "tensor h.0.mlp.c_fc.weight: wanted shape [6, 24]"),
        ("max_sequence_length", 10, "tensor wpe.weight: wanted shape [10, 6]"),
        ("num_layers", 3, "tensor h.2.ln_1.weight (and 11 more) is missing: wanted 40 tensors"),
        ("num_layers", 1, "wanted layers 0 to 0 (num_layers 1), got layer 1"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(folder, field, value, wanted):
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    message = refusal(folder, GPT2Config(**(fields | {field: value})))
    assert wanted in message and "Use the config.json that came with these weights" in message


def test_after_a_refusal_the_next_load_works(folder):
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:50])
    refusal(folder)
    (folder / FILE).write_bytes(whole)
    assert_same(load(folder)[0], WEIGHTS)


def test_a_header_with_wrong_bytes_loads_or_is_refused_but_nothing_else(folder):
    whole = (folder / FILE).read_bytes()
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    generator = random.Random(5)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(header_bytes)] = generator.choice(b'0159"{}[],: \\\x00\xff')
        (folder / FILE).write_bytes(damaged)
        try:
            load(folder, piece=1 << 20)
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"tiny/{FILE}") and len(str(error)) < 1000
    assert 300 < refused < 400  # what is left: a space for a space, a changed __metadata__
