"""Weights on their way onto the GPU: every type and odd size, in pieces; and what is left when that
fails half-way."""

import asyncio
import gc
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from adapters import load_backbone, new_device
from gpt2web import weights as weights_module
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import block_on
from gpt2web.checkpoint import CheckpointError, LocalFolder, TensorEntry, open_checkpoint
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


@pytest.mark.parametrize("dtype, precision", [("F16", "int8"), ("BF16", "int4"), ("F32", "int4")])
def test_the_gpu_quantises_while_it_loads(device, dtype, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 4096)
    model = random_model(WIDE)
    got = on_gpu(load_backbone(device, model, tmp_path, dtype=dtype, precision=precision))
    source = {name: stored(values, dtype) for name, values in model.weights.items()}
    for name, wanted in reference.kept(source, precision).items():
        # but for ties, of which test_kernels.py takes care
        same = np.isclose(got[name], wanted, rtol=1e-6, atol=0)
        assert same.all() if not is_matrix(name) else same.mean() > 0.99, name


# wide enough for parts under a limit that still holds 32 rows on their way
LARGE = ODD | dict(vocabulary_size=801, hidden_dim=260, num_heads=5, intermediate_dim=780)


def test_packed_tensors_arrive_word_for_word_also_in_parts(tmp_path, monkeypatch):
    """The embedding in int8, the blocks in int4."""
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 4096)
    model = random_model(LARGE)
    packed = reference.packed(model.weights, "int4")
    random = np.random.default_rng(1)
    words = {name[:-5]: array for name, array in packed.items() if array.dtype == np.uint32}
    for name, array in words.items():  # any bits: of floats, many would be NaN
        k = model.weights[name].T.shape[0] if name == "wte.weight" else len(model.weights[name])
        numbers = array[: len(array) - -(-k // 32)]  # but for the rows of scales
        numbers[:] = random.integers(0, 2**32, numbers.shape, dtype=np.uint32)
    reference.write_safetensors(tmp_path / "model.safetensors", packed)
    device = new_device("llvmpipe", max_storage_buffer_binding_size=110_000)
    backbone = GPT2Backbone(**LARGE, device=device, precision="int4")
    block_on(load(backbone, tmp_path), "load")
    parts = [len(weight.parts) for weight in backbone.weights.matrices.values()]
    assert parts == [3, 2, 1, 2, 2]  # wte, c_attn, attn.c_proj, c_fc, mlp.c_proj
    for name, array in words.items():
        for part in backbone.weights.matrices[name].parts:
            got = np.frombuffer(block_on(part.words.read(), "read"), np.uint32)
            got = got.reshape(part.words.shape)[:, : part.columns]
            columns = slice(part.first_column, part.first_column + part.columns)
            np.testing.assert_array_equal(got, array[:, columns], err_msg=name)
    backbone.destroy()
    device.destroy()


def test_packed_tensors_of_another_precision_are_refused(device, tmp_path):
    model = random_model(ODD)
    load_backbone(device, model, tmp_path, dtype="packed", precision="int8")
    gc.collect()
    before = dict(device.live)
    for precision in ("f32", "int4"):
        backbone = GPT2Backbone(**ODD, device=device, precision=precision)
        wanted = f"is stored in int8, the backbone has the precision {precision}"
        with pytest.raises(ValueError, match=wanted):
            block_on(load(backbone, tmp_path), "load")
        assert backbone.weights is None and device.live == before


# ---- values that no kernel can multiply with -----------------------------------------------------

ANY_NAME = "h.0.mlp.c_proj.weight"


def refusal(device, folder, precision, weights, dtype="F32"):
    """What loading says; nothing stays on the GPU."""
    reference.write_safetensors(folder / "model.safetensors", weights, dtype)
    backbone = GPT2Backbone(**ODD, device=device, precision=precision)
    gc.collect()
    block_on(device.settled(), "settled")
    before = dict(device.live)
    with pytest.raises(CheckpointError) as caught:
        block_on(load(backbone, folder), "load")
    assert device.live == before and backbone.weights is None
    return str(caught.value)


def with_value(weights, name, value):
    """Weights with a value in a tensor's last place."""
    changed = {key: values.copy() for key, values in weights.items()}
    changed[name].flat[-1] = value
    return changed


@pytest.mark.parametrize(
    "name, dtype, precision, value",
    [
        ("wte.weight", "F32", "int4", np.nan),
        ("wte.weight", "F16", "f16", np.inf),
        ("h.0.ln_1.bias", "F32", "f16", -np.inf),
        ("wpe.weight", "BF16", "int8", np.nan),
        (ANY_NAME, "BF16", "f32", np.inf),
        (ANY_NAME, "F16", "int8", np.nan),
        (ANY_NAME, "F32", "int4", -np.inf),
    ],
)
def test_values_that_are_not_finite_are_refused_by_name(
    device, name, dtype, precision, value, tmp_path
):
    weights = random_model(ODD).weights
    weights = with_value(weights, "ln_f.bias", np.nan)  # the first one is named
    with np.errstate(invalid="ignore"):
        message = refusal(device, tmp_path, precision, with_value(weights, name, value), dtype)
    assert f"{tmp_path.name}: tensor {name} holds values that are NaN or infinite" in message
    largest = 65504.0  # of F16
    weights = with_value(random_model(ODD).weights, name, largest)
    load_backbone(
        device,
        SimpleNamespace(fields=ODD, weights=weights),
        tmp_path,
        dtype=dtype,
        precision=precision,
    )


def test_values_too_large_for_a_precision_are_refused_by_name(device, tmp_path):
    weights = random_model(ODD).weights
    for precision, largest, too_large in (("f16", 65_504, 65_505), ("int4", 524_032, 524_033)):
        message = refusal(device, tmp_path, precision, with_value(weights, ANY_NAME, too_large))
        assert f"tensor {ANY_NAME} holds values too large for {precision}" in message
        for other, value in ((precision, largest), ("int8", too_large), ("f32", too_large)):
            model = SimpleNamespace(fields=ODD, weights=with_value(weights, ANY_NAME, value))
            load_backbone(device, model, tmp_path, precision=other)


@pytest.mark.parametrize(
    "precision, name, scale, good",
    [
        ("int8", "wte.weight.int8", 0x7FC00000, 0x7B000000),
        ("int8", f"{ANY_NAME}.int8", 0xFF800000, 0xFB000000),
        ("int8", f"{ANY_NAME}.int8", 0x7C000000, 0x7B7FFFFF),  # 127 of it are infinite
        ("int4", f"{ANY_NAME}.int4", 0x00007E00, 0x00007BFF),
        ("int4", f"{ANY_NAME}.int4", 0xFC000000, 0xFBFF0000),
    ],
)
def test_packed_scales_that_are_not_finite_are_refused_by_name(
    device, precision, name, scale, good, tmp_path
):
    packed = reference.packed(random_model(ODD).weights, precision)
    packed[name][-1, 0] = scale
    message = refusal(device, tmp_path, precision, packed)
    assert f"tensor {name[:-5]} holds values that are NaN or infinite" in message
    packed[name][-1, 0] = good
    reference.write_safetensors(tmp_path / "model.safetensors", packed)
    backbone = GPT2Backbone(**ODD, device=device, precision=precision)
    block_on(load(backbone, tmp_path), "load")


def test_arrays_that_are_not_finite_are_value_errors_and_change_nothing(device):
    weights = random_model(ODD).weights
    backbone = GPT2Backbone(**ODD, device=device)
    backbone.load_weights(weights)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"weights: tensor h\.0\.ln_1\.bias holds"):
            backbone.load_weights(with_value(weights, "h.0.ln_1.bias", value))
    np.testing.assert_array_equal(on_gpu(backbone)["h.0.ln_1.bias"], weights["h.0.ln_1.bias"])


# ---- pieces --------------------------------------------------------------------------------------


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
