"""Weights on their way onto the GPU: every type and odd size, in pieces; and what is left when that
fails half-way."""

import asyncio
import gc
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from adapters import load_backbone
from gpt2web import weights as weights_module
from gpt2web.backbone import GPT2Backbone
from gpt2web.checkpoint import CheckpointError, LocalFolder, TensorEntry, open_checkpoint
from gpt2web.gpu import block_on
from gpt2web.precision import is_matrix
from gpt2web.weights import Weights

pytestmark = pytest.mark.gpu

# most tensors have an odd number of values: in F16 half a word is left
ODD = dict(
    vocabulary_size=5,
    num_layers=1,
    num_heads=1,
    hidden_dim=3,
    intermediate_dim=7,
    max_sequence_length=9,
)
WIDE = ODD | dict(vocabulary_size=517, hidden_dim=50, num_heads=5, intermediate_dim=111)


def random_model(fields):
    weights = reference.random_weights(SimpleNamespace(**fields), seed=3)
    return SimpleNamespace(fields=fields, weights=weights)


def on_gpu(backbone):
    """{checkpoint name: values} of what the kernels read."""
    weights = backbone.weights
    values = {name: tensor.numpy() for name, tensor in weights.vectors.items()}
    for name, weight in weights.matrices.items():
        columns = [
            reference.unpack(part.words.numpy(), (weight.k, part.columns), weight.bits)
            for part in weight.parts
        ]
        values[name] = np.concatenate(columns, axis=1)
        if name == "wte.weight":
            values[name] = values[name].T
    return values


def stored(values, dtype):
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        return (reference.to_bf16(values).astype(np.uint32) << 16).view(np.float32)
    return values


@pytest.mark.parametrize("fields", [ODD, WIDE], ids=["odd", "wide"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_every_tensor_arrives_whatever_its_type(
    device, fields, dtype, precision, tmp_path, monkeypatch
):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 4096)
    model = random_model(fields)
    backbone = load_backbone(device, model, tmp_path, dtype=dtype, precision=precision)
    got = on_gpu(backbone)
    assert got.keys() == model.weights.keys()
    for name, values in model.weights.items():
        wanted = stored(values, dtype)
        if precision == "f16" and is_matrix(name):  # may be rounded either way
            np.testing.assert_allclose(got[name], wanted, rtol=2.0**-10, atol=2.0**-24)
        else:
            np.testing.assert_array_equal(got[name], wanted, err_msg=name)


def test_tensors_larger_than_a_piece_come_in_several(device, monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 4096)
    backbone = GPT2Backbone(**WIDE, device=device)
    loader = weights_module._Loader(Weights(device, backbone.config, "f32"), 0, None)
    entry = TensorEntry("wte.weight", "F16", (517, 50), 517 * 50 * 2)
    pieces = loader.pieces(entry)
    assert len(pieces) > 5
    next_row = 0
    for first, rows, size in pieces:
        assert first == next_row and first % 32 == 0
        assert size == rows * 50 * 2 <= 4 * loader.source.size
        next_row += rows
    assert next_row == 517


async def load(backbone, folder, progress=None):
    await backbone.load(await open_checkpoint(LocalFolder(folder), backbone.config), progress)


def test_progress_rises_to_the_checkpoints_size(device, tmp_path):
    model = random_model(ODD)
    reference.write_safetensors(tmp_path / "model.safetensors", model.weights, "F16")
    seen = []
    backbone = GPT2Backbone(**ODD, device=device)
    block_on(load(backbone, tmp_path, lambda done, total: seen.append((done, total))), "load")
    total = sum(2 * values.size for values in model.weights.values())
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (total, total) and {total for _, total in seen} == {total}


class Truncated(LocalFolder):
    """A folder whose files end in the middle, after their headers were checked."""

    def __init__(self, path, most):
        super().__init__(path)
        self.left = most
        self.streams = []

    async def open(self, file):
        stream = await super().open(file)
        whole = stream.read_bytes

        async def read_bytes(count):
            self.left -= count
            return (await whole(count)) if self.left >= 0 else await whole(stream.size)

        stream.read_bytes = read_bytes
        self.streams.append(stream)
        return stream


def test_a_checkpoint_that_breaks_off_leaves_the_old_weights_and_no_tensor_behind(device, tmp_path):
    model = random_model(WIDE)
    backbone = load_backbone(device, model, tmp_path)
    other = SimpleNamespace(
        fields=WIDE, weights={name: 2 * values for name, values in model.weights.items()}
    )
    reference.write_safetensors(tmp_path / "model.safetensors", other.weights)
    size = (tmp_path / "model.safetensors").stat().st_size
    before, kept = dict(device.live), backbone.weights
    folder = Truncated(tmp_path, size // 2)

    async def break_off():
        await backbone.load(await open_checkpoint(folder, backbone.config))

    with pytest.raises(CheckpointError, match="ended early") as raised:
        block_on(break_off(), "load")
    assert raised.value is not None  # its traceback holds what load held, and yet:
    assert device.live == before
    assert all(stream._file.closed for stream in folder.streams)
    assert backbone.weights is kept
    for name, values in on_gpu(backbone).items():
        np.testing.assert_array_equal(values, model.weights[name])

    folder.left = 2 * size
    block_on(break_off(), "load")
    assert len(device.live) == len(before)
    for name, values in on_gpu(backbone).items():
        np.testing.assert_array_equal(values, other.weights[name])


def test_a_progress_callback_that_raises_leaves_no_tensor_behind(device, tmp_path):
    model = random_model(ODD)
    reference.write_safetensors(tmp_path / "model.safetensors", model.weights)
    backbone = GPT2Backbone(**ODD, device=device)
    gc.collect()  # what earlier tests have left in circles
    before = dict(device.live)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block_on(load(backbone, tmp_path, stop), "load")
    assert device.live == before and backbone.weights is None


def test_loading_awaits_in_an_event_loop_too(device, tmp_path):
    model = random_model(ODD)
    reference.write_safetensors(tmp_path / "model.safetensors", model.weights)
    backbone = GPT2Backbone(**ODD, device=device)
    asyncio.run(load(backbone, tmp_path))
    np.testing.assert_array_equal(on_gpu(backbone)["wpe.weight"], model.weights["wpe.weight"])


def test_untrained_weights_are_normal_and_the_same_every_time(device, monkeypatch):
    before = set(device._pipelines)
    first = GPT2Backbone(**WIDE, device=device)
    block_on(first.ready(), "ready")
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 4096)  # in other pieces
    second = GPT2Backbone(**WIDE, device=device)
    block_on(second.ready(), "ready")
    values, again = on_gpu(first), on_gpu(second)
    made = [name for name, _ in device._pipelines.keys() - before]
    assert made.count("random_normal") <= 1  # not one for each tensor
    for name, tensor in values.items():
        np.testing.assert_array_equal(tensor, again[name], err_msg=name)
        if ".ln_" in name or name.startswith("ln_"):
            assert (tensor == (1 if name.endswith("weight") else 0)).all()
        else:
            deviations = 0.02 / np.sqrt(tensor.size)
            assert abs(tensor.mean()) < 5 * deviations, name
            assert abs(tensor.std() - 0.02) < 5 * deviations, name
    c_attn, c_fc = values["h.0.attn.c_attn.weight"], values["h.0.mlp.c_fc.weight"]
    assert not (c_attn[:50, :100] == c_fc[:50, :100]).any()


def test_an_unknown_precision_is_refused(device):
    with pytest.raises(ValueError, match=r"precision must be one of f32, .*int4, got 'f64'"):
        block_on(GPT2Backbone(**ODD, device=device, precision="f64").ready(), "ready")
