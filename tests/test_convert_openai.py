"""OpenAI's TensorFlow checkpoint: its index and checksums, and a refusal for each way to be bad.
TensorFlow itself wrote what is read here: record_tensorflow.py."""

import functools
import json
import random

import numpy as np
import pytest

import forms
from gpt2web.convert.crc32c import LANE_BYTES, crc32c, masked
from gpt2web.convert.forms import open_source
from gpt2web.convert.openai import openai_name, prefix_in
from gpt2web.convert.tf_bundle import FOOTER_BYTES, MAGIC, read_index
from gpt2web.safetensors import CheckpointError

INDEX = (forms.FORMS / "openai" / "model.ckpt.index").read_bytes()


# --- checksums -----------------------------------------------------------------------------------


def test_checksums_are_those_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def by_bits(data):
    def step(register, byte):
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        return register

    return functools.reduce(step, data, 0xFFFFFFFF) ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [1, 3, LANE_BYTES - 1, LANE_BYTES, 3 * LANE_BYTES + 5])
def test_checksums_of_lanes_are_those_of_bits(length):
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == by_bits(data)
    for cut in (0, length // 3, length):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)
    changed = bytes([data[0] ^ 1]) + data[1:]
    assert crc32c(changed) != crc32c(data)


# --- the index -----------------------------------------------------------------------------------


def test_the_index_lists_every_variable_that_tensorflow_saved():
    shards, entries = read_index("index", INDEX)
    assert shards == 1
    names = [openai_name(name) for name in forms.model().weights]
    assert set(entries) == {*names, "model/wpe/Adam", "global_step"}
    assert entries["model/h1/attn/c_attn/w"].shape == (1, 12, 36)
    assert entries["model/wte"].dtype == "F32" and entries["global_step"].dtype == "type 9"
    sizes = sum(entry.byte_length for entry in entries.values())
    assert sizes == (forms.FORMS / "openai" / "model.ckpt.data-00000-of-00001").stat().st_size


def test_checksums_in_the_index_are_those_of_the_data():
    data = (forms.FORMS / "openai" / "model.ckpt.data-00000-of-00001").read_bytes()
    _, entries = read_index("index", INDEX)
    for entry in entries.values():
        part = data[entry.offset : entry.offset + entry.byte_length]
        assert masked(crc32c(part)) == entry.crc


def first_block_end(index):
    """Where the trailer of the only data block is: its handle is the last entry's value of the
    index block, which the footer names."""
    blocks = [at for at in range(len(index) - 5) if index[at] == 0 and is_block_end(index, at)]
    return blocks[0]


def is_block_end(index, end):
    return masked(crc32c(index[: end + 1])) == int.from_bytes(index[end + 1 : end + 5], "little")


def with_trailer(index, end, kind):
    """The block that ends there, called compressed, with a checksum that is right."""
    crc = masked(crc32c(index[:end] + bytes([kind])))
    return index[:end] + bytes([kind]) + crc.to_bytes(4, "little") + index[end + 5 :]


BAD_INDEXES = {
    "empty": (b"", "is not the index of a TensorFlow checkpoint, or is cut off"),
    "cut off": (INDEX[:-1], "is not the index of a TensorFlow checkpoint, or is cut off"),
    "a web page": (b"<html>" * 20, "is not the index of a TensorFlow checkpoint"),
    "Snappy": (
        with_trailer(INDEX, first_block_end(INDEX), 1),
        r"wanted uncompressed blocks, .* got compression 1 \(Snappy\)",
    ),
    "foreign": (
        with_trailer(INDEX, first_block_end(INDEX), 77),
        r"got compression 77 \(unknown\)",
    ),
    "a wrong byte": (
        INDEX[:9] + bytes([INDEX[9] ^ 1]) + INDEX[10:],
        "is damaged: the checksum of its block at byte 0 is wrong",
    ),
    "handles past the end": (
        INDEX[:-FOOTER_BYTES] + b"\xff\xff\xff\x7f" * 4 + bytes(24) + MAGIC,
        "is cut off: a block ends at byte",
    ),
    "handles without end": (
        INDEX[:-FOOTER_BYTES] + b"\xff" * 40 + MAGIC,
        "is damaged: a number is too long",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_bad_index_is_refused(data, sentence):
    with pytest.raises(CheckpointError, match=f"^124M/model.ckpt.index.*{sentence}"):
        read_index("124M/model.ckpt.index", data)
    read_index("index", with_trailer(INDEX, first_block_end(INDEX), 0))


def test_no_bytes_make_the_index_s_reader_fail_otherwise():
    """A byte that changes is either refused by name or changes nothing that is read."""
    _, wanted = read_index("index", INDEX)
    refused = 0
    places = [*range(0, len(INDEX) - FOOTER_BYTES, 7), *range(len(INDEX) - 80, len(INDEX))]
    for at in places:
        data = INDEX[:at] + bytes([INDEX[at] ^ (1 << at % 8)]) + INDEX[at + 1 :]
        try:
            assert read_index("index", data)[1] == wanted
        except CheckpointError:
            refused += 1
    assert 0.7 * len(places) < refused < len(places)  # the footer's padding is nobody's


# --- the folder ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return forms.copy("openai", tmp_path)


def refused(folder, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        open_source(folder)


def change_hparams(folder, **changes):
    fields = json.loads((folder / "hparams.json").read_text()) | changes
    kept = {name: value for name, value in fields.items() if value is not None}
    (folder / "hparams.json").write_text(json.dumps(kept))


def test_a_checkpoint_file_names_the_prefix():
    assert prefix_in('model_checkpoint_path: "model.ckpt"\nall: "x"\n') == "model.ckpt"
    assert prefix_in('model_checkpoint_path: "C:\\\\models\\\\run-9"\n') == "run-9"
    assert prefix_in("") == "model.ckpt"


def test_without_a_checkpoint_file_the_prefix_is_openai_s(folder):
    (folder / "checkpoint").unlink()
    assert open_source(folder).form == "OpenAI's TensorFlow checkpoint"
    (folder / "model.ckpt.index").unlink()
    refused(folder, r"openai/model\.ckpt\.index is missing: hparams\.json is that of OpenAI's")


def test_a_missing_data_file_is_refused_by_name(tmp_path):
    folder = forms.copy("openai-sharded", tmp_path)
    (folder / "model-7.data-00001-of-00003").unlink()
    refused(folder, r"model-7\.data-00001-of-00003 is missing: model-7\.index .* 3 of its kind")


def test_a_data_file_that_is_cut_off_is_refused_by_tensor(folder):
    data = folder / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-400])
    refused(folder, r"tensor model/\S+ ends at byte 2\d,\d{3} of data file 0, .* cut off at 28,504")


def test_a_wrong_byte_of_the_data_is_refused_by_tensor_when_it_is_read(folder):
    data = bytearray((folder / "model.ckpt.data-00000-of-00001").read_bytes())
    _, entries = read_index("index", INDEX)
    data[entries["model/h1/mlp/c_fc/w"].offset + 5] ^= 1
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    tensors = open_source(folder).tensors
    good = tensors.rows("wte.weight", 0, 4)
    assert (good == forms.model().weights["wte.weight"][:4]).all()
    with pytest.raises(CheckpointError, match="tensor model/h1/mlp/c_fc/w: its checksum is wrong"):
        tensors.rows("h.1.mlp.c_fc.weight", 0, 1)


def test_sizes_that_do_not_fit_are_refused(folder):
    change_hparams(folder, n_layer=3)
    refused(folder, r"tensor model/h2/ln_1/g is missing: wanted .* n_layer 3")
    change_hparams(folder, n_layer=1)
    refused(folder, "hparams.json says n_layer 1, but there is model/h1/ln_1/g")
    change_hparams(folder, n_layer=2, n_ctx=25)
    refused(folder, r"tensor model/wpe: wanted shape \[25, 12\], got \[24, 12\]")
    change_hparams(folder, n_ctx=24, n_embd=16)
    refused(folder, r"tensor model/wte: wanted shape \[260, 16\], got \[260, 12\]")
    change_hparams(folder, n_embd=None)
    refused(folder, r"openai/hparams\.json has no n_embd: wanted n_vocab")
    change_hparams(folder, n_embd=12)
    assert open_source(folder).config.num_layers == 2


def test_no_sizes_at_all_are_refused(folder):
    (folder / "hparams.json").unlink()
    refused(folder, "openai has no hparams.json, which says the model's sizes")
    (folder / "hparams.json").write_text("[1]")
    refused(folder, r"openai/hparams\.json")


def test_rows_can_be_read_anywhere():
    tensors = open_source(forms.FORMS / "openai-sharded").tensors
    wanted = forms.model().weights["h.0.attn.c_attn.weight"]
    for first, count in ((11, 1), (0, 12), (3, 4)):
        got = tensors.rows("h.0.attn.c_attn.weight", first, count)
        assert np.array_equal(got, wanted[first : first + count])
