"""GPT-2's four widths, in one layer, on devices whose buffers hold none of its matrices whole; what
the bench says of a model that is not right; and devices too small for a model at all."""

import asyncio

import numpy as np
import pytest
import wgpu

import reference
import small_models
from adapters import new_device
from bench import sizes
from gpt2web import GPT2Backbone, GPT2CausalLM, GPT2Config
from gpt2web.blocking import block_on
from gpt2web.chunks import KVCache
from gpt2web.gpu import Device, DeviceError
from gpt2web.kernels import NORM_SCRATCH
from gpt2web.limits import weights_bytes
from gpt2web.precision import PRECISIONS, bits_of, packed_shape
from gpt2web.weights import Weights

pytestmark = pytest.mark.gpu

HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # as published
MATRICES = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "wte"]


def one_layer(width):
    """A vocabulary as large as its width and no whole number of words or tiles."""
    return GPT2Config(
        vocabulary_size=width + 5,
        num_layers=1,
        num_heads=HEADS[width],
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=40,
    )


def examine(device, config, precision="f32"):
    """What the bench does with a model."""
    shapes = reference.weight_shapes(config).values()
    parameters = sum(int(np.prod(shape)) for shape in shapes)
    return asyncio.run(sizes.examine(device, config, precision, parameters))


@pytest.mark.parametrize(
    ("adapter", "width", "precision"),
    [
        ("llvmpipe", 768, "f32"),
        ("llvmpipe", 1024, "int8"),
        ("llvmpipe", 1280, "f16"),
        ("llvmpipe", 1600, "int4"),
        ("SwiftShader", 768, "int8"),
        ("SwiftShader", 1024, "int4"),
    ],
)
def test_a_width_of_gpt2_computes_what_numpy_does_with_every_matrix_in_parts(
    adapter, width, precision
):
    rows, columns = packed_shape(width, width, bits_of("h.0.attn.c_proj.weight", precision))
    device = with_limit(4 * rows * columns - 16, adapter)  # the smallest matrix is too large
    found = examine(device, one_layer(width), precision)
    device.destroy()
    assert found["split"] == MATRICES
    assert found["positions"] == sizes.PROMPT + sizes.GENERATED
    assert found["largest_logit"] > 1


def with_limit(count, adapter="llvmpipe"):
    """A device whose buffers are of `count` bytes at most."""
    return new_device(adapter, max_storage_buffer_binding_size=count, max_buffer_size=count)


# ---- the bench notices what is wrong -------------------------------------------------------------

SMALL = GPT2Config(23, 1, 2, 8, 12, max_sequence_length=40)


def test_a_model_that_is_not_as_published_ends_the_bench(monkeypatch):
    device = new_device("llvmpipe")
    count = examine(device, SMALL)["parameters"]
    assert count == SMALL.num_parameters
    with pytest.raises(sizes.Wrong, match=rf"^{count:,} parameters on the GPU, {count + 1:,} were"):
        asyncio.run(sizes.examine(device, SMALL, "f32", count + 1))
    shapes = sizes.tensor_shapes(SMALL) | {"wpe.weight": (41, 8)}
    monkeypatch.setattr(sizes, "tensor_shapes", lambda config: shapes)
    with pytest.raises(sizes.Wrong, match=r"^wpe.weight is \(40, 8\) .*, should be \(41, 8\)"):
        examine(device, SMALL)
    device.destroy()


def test_logits_and_ids_that_numpy_does_not_agree_with_end_the_bench():
    wanted = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    sure = [2 - np.log(np.exp([0, 1, 2]).sum()), 3 - np.log(np.exp([3, 1, 0]).sum())]
    logits = wanted.copy()
    logits[1, 2] = 1e-4
    assert sizes.compare(logits, wanted, [2, 0], sure) == pytest.approx(1e-4)
    logits[1, 2] = 4e-4  # over 1e-4 of 3
    with pytest.raises(sizes.Wrong, match=r"^logits differ from numpy's by 0\.0004, allowed are"):
        sizes.compare(logits, wanted, [2, 0], sure)
    logits[1, 2] = np.nan
    with pytest.raises(sizes.Wrong, match=r"^logits differ from numpy's by nan"):
        sizes.compare(logits, wanted, [2, 0], sure)
    with pytest.raises(sizes.Wrong, match=r"^id 1 was generated .* and 2 as the most probable"):
        sizes.compare(wanted, wanted, [1, 0], [sure[0] - 1, sure[1]])
    with pytest.raises(sizes.Wrong, match=r"^id 0 was generated with log-probability -0\.5"):
        sizes.compare(wanted, wanted, [2, 0], [sure[0], -0.5])


def test_a_tensor_that_was_not_drawn_or_was_not_counted_ends_the_bench():
    device = new_device("llvmpipe")
    weights = ready(device, SMALL, "f32").weights
    found = block_on(sizes.values(weights, "wpe.weight"), "values")
    assert abs(found.std() - 0.02) < 0.002
    device.write(weights.vectors["wpe.weight"], np.zeros(320, np.float32))
    with pytest.raises(sizes.Wrong, match=r"^wpe.weight is not what was drawn: mean 0, std 0"):
        block_on(sizes.values(weights, "wpe.weight"), "values")
    weights.destroy()
    examine(device, SMALL)
    more = device.tensor((4,))
    with pytest.raises(sizes.Wrong, match=r"^on the GPU are .* bytes, footprint.py counts"):
        examine(device, SMALL)
    more.destroy()
    device.destroy()


# ---- devices too small for a model ---------------------------------------------------------------

LONG = GPT2Config(40, 1, 2, 128, 1024, max_sequence_length=40)
DEEP = GPT2Config(40, 8, 2, 64, 256, max_sequence_length=40)


def ready(device, config, precision):
    """A backbone with random weights."""
    backbone = GPT2Backbone.from_config(config, precision=precision, device=device)
    block_on(backbone.ready(), "ready")
    return backbone


def test_a_tile_that_does_not_fit_is_refused_with_the_precision_that_would():
    tile = 4 * 64 * 1024  # bytes of 64 columns of the tallest matrix; half of it in f16
    device = with_limit(tile - 16)
    with pytest.raises(
        DeviceError,
        match=r"^64 columns of h\.0\.mlp\.c_proj\.weight takes 262,144 bytes in f32, the adapter "
        r"allows 262,128 \(max-.*-size\): load the model in f16$",
    ):
        ready(device, LONG, "f32")
    assert device.live == {}
    ready(device, LONG, "f16").destroy()
    device.destroy()
    larger = with_limit(tile)
    ready(larger, LONG, "f32").destroy()
    larger.destroy()


@pytest.mark.parametrize(
    ("config", "what", "needed"),
    [
        (LONG, r"32 rows of h\.0\.mlp\.c_fc\.weight, on their way to the GPU,", 131_072),
        (GPT2Config(9, 1, 2, 8, 12, max_sequence_length=1000), r"wpe\.weight", 32_000),
    ],
    ids=["staging", "positions"],
)
def test_where_no_precision_would_fit_the_refusal_says_so(config, what, needed):
    device = with_limit(needed - 16)
    for precision in ("int8", "int4"):
        with pytest.raises(
            DeviceError,
            match=rf"^{what} takes {needed:,} bytes in {precision}, the adapter allows "
            rf"{needed - 16:,} \(max-.*-size\): no precision makes it fit, so use a smaller model",
        ):
            ready(device, config, precision)
    assert device.live == {}
    device.destroy()
    larger = with_limit(needed)
    ready(larger, config, "int4").destroy()
    larger.destroy()


def test_keys_and_values_that_do_not_fit_are_refused_with_the_batch_that_would():
    device = with_limit(3 * 8 * 40 * 128)  # a layer of three texts
    KVCache(device, LONG, 3, 40).destroy()
    with pytest.raises(
        DeviceError,
        match=r"^keys and values of a batch of 4, 40 tokens each, take 163,840 bytes a layer in "
        r"every precision; the adapter allows 122,880 \(max-.*-size\), enough for a batch of 3: ",
    ):
        KVCache(device, LONG, 4, 40)
    with pytest.raises(DeviceError, match=r"of 1, 121 tokens .* for 120 tokens: use a model with"):
        KVCache(device, LONG, 1, 121)
    assert device.live == {}
    device.destroy()


def test_a_context_that_does_not_fit_is_refused_before_anything_is_loaded(
    devices, monkeypatch, tmp_path
):
    folder = small_models.write_folder(tmp_path / "small", small_models.random_model())
    cache = 8 * 300 * 24  # bytes of a layer
    limits = {}
    request, load, loaded = Device.request, Weights.load, []

    async def small(adapter):
        return await request("llvmpipe", limits=limits)

    async def remembered(weights, *arguments):
        loaded.append(weights)
        await load(weights, *arguments)

    monkeypatch.setattr(Device, "request", small)
    monkeypatch.setattr(Weights, "load", remembered)
    limits["max-storage-buffer-binding-size"] = cache - 16
    with pytest.raises(DeviceError, match=r"a batch of 1, 300 .* 57,600 .* 57,584 .* 299 tokens"):
        GPT2CausalLM.from_preset(folder)
    assert not loaded and not devices[0].live
    limits["max-storage-buffer-binding-size"] = cache
    GPT2CausalLM.from_preset(folder).close()
    assert len(loaded) == 1


def test_a_row_that_workgroup_memory_does_not_hold_is_refused_with_the_width_that_it_does():
    device = new_device("llvmpipe", max_compute_workgroup_storage_size=8192)
    fits = 8192 // 4 - NORM_SCRATCH
    wide = GPT2Config(9, 1, 4, fits + 4, 8, max_sequence_length=9)
    with pytest.raises(
        DeviceError,
        match=rf"^hidden_dim is {fits + 4}, which takes 8,208 bytes of workgroup memory in every "
        rf"precision; the adapter allows 8,192 \(max-.*\), which holds {fits}: ",
    ):
        ready(device, wide, "int4")
    ready(device, GPT2Config(9, 1, 4, fits, 8, max_sequence_length=9), "int4").destroy()
    device.destroy()


class FullGPU:
    """A device's create_buffer, until `left` bytes are taken."""

    def __init__(self, device, left):
        self.create = device.device.create_buffer
        self.left = left

    def __call__(self, *, size, usage):
        if size > self.left:
            raise wgpu.GPUOutOfMemoryError("Not enough\n memory left.")
        self.left -= size
        return self.create(size=size, usage=usage)


def test_memory_that_ends_names_what_was_wanted_and_the_precision_that_would_fit(monkeypatch):
    device = new_device("llvmpipe")
    cache = 8 * 8 * 40 * 64
    needed = {precision: weights_bytes(DEEP, precision) + cache for precision in PRECISIONS}
    assert list(needed.values()) == sorted(needed.values(), reverse=True)
    largest = 4 * 64 * 256  # bytes of one buffer
    for least, way_out in (
        (needed["f16"], f"load the model in f16, which takes {needed['f16']:,} "),
        (needed["int8"], f"load the model in int8, which takes {needed['int8']:,} "),
        (0, f"the least, int4, takes {needed['int4']:,}, so use a smaller model "),
    ):
        monkeypatch.setattr(device.device, "create_buffer", FullGPU(device, least + largest))
        with pytest.raises(
            DeviceError,
            match=rf"^the GPU's memory ended after [0-9,]+ bytes; in f32 the model takes "
            rf"{needed['f32']:,}, with its keys and values: {way_out}"
            r"\(no GPU memory for [0-9,]+ bytes: Not enough memory left\.\)$",
        ):
            ready(device, DEEP, "f32")
        assert device.live == {}
        monkeypatch.undo()
    backbone = ready(device, DEEP, "f32")
    assert sum(device.live.values()) == weights_bytes(DEEP, "f32")
    backbone.destroy()
    device.destroy()
