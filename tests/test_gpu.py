"""Devices and tensors: what goes in comes out, what is freed is gone, each refusal says why."""

import gc

import numpy as np
import pytest

from adapters import ADAPTERS, new_device, upload
from gpt2web import gpu
from gpt2web.blocking import block_on
from gpt2web.gpu import DEFAULT_LIMITS, Device, DeviceError

pytestmark = pytest.mark.gpu

DOUBLE = """
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  values[id.x] *= 2u;
}
"""


@pytest.fixture
def shader(monkeypatch):
    """Puts a text in the place of every shader's; names must be new for each text."""
    return lambda text: monkeypatch.setattr(gpu, "shader_source", lambda name: text)


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4), (1, 1), (65, 64)])
@pytest.mark.parametrize("dtype", ["f32", "u32"])
def test_a_tensor_gives_back_what_was_written(device, shape, dtype):
    values = np.arange(np.prod(shape), dtype=np.float32 if dtype == "f32" else np.uint32)
    values = (values * 3 + 1).reshape(shape)
    tensor = device.tensor(shape, dtype)
    assert not tensor.numpy().any()  # zeros at first
    device.write(tensor, values)
    view = block_on(tensor.read(), "read")
    assert (view.shape, view.format) == (shape, "f" if dtype == "f32" else "I")
    assert view.tolist() == values.tolist()
    array = tensor.numpy()
    assert array.shape == shape and array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)
    assert repr(tensor) == f"Tensor(shape={shape}, dtype={dtype!r})"


def test_an_empty_tensor_reads_as_nothing(device):
    tensor = device.tensor((0, 3))
    assert tensor.size == 0
    assert block_on(tensor.read(), "read").tolist() == []
    assert tensor.numpy().shape == (0, 3)


def test_a_write_may_begin_anywhere(device):
    tensor = device.tensor((4,), "u32")
    device.write(tensor, np.uint32([7, 8]), offset=8)
    assert tensor.numpy().tolist() == [0, 0, 7, 8]
    assert np.asarray(tensor).tolist() == [0, 0, 7, 8]
    assert np.array(tensor, dtype=np.int64).dtype == np.int64


def test_live_counts_tensors_until_they_are_destroyed_or_forgotten(device):
    gc.collect()
    before, before_bytes = len(device.live), device.live_bytes
    tensors = [device.tensor((5,)), device.tensor((3,), "u32"), device.readback(64)]
    assert len(device.live) == before + 3
    assert device.live_bytes == before_bytes + 32 + 16 + 64
    tensors[0].destroy()
    tensors[0].destroy()  # harmless
    tensors[2].destroy()
    assert len(device.live) == before + 1
    del tensors
    assert len(device.live) == before and device.live_bytes == before_bytes


def test_a_destroyed_tensor_is_of_no_more_use(device):
    tensor = device.tensor((4,))
    tensor.destroy()
    with pytest.raises(DeviceError, match=r"Tensor\(shape=\(4,\), dtype='f32'\) was destroyed"):
        tensor.numpy()
    with pytest.raises(DeviceError, match="was destroyed"):
        device.write(tensor, np.float32([1]))
    with pytest.raises(DeviceError, match="was destroyed"):
        device.kernel("attention_reduce", {}, [tensor, tensor, tensor], (1,))


def test_a_recorded_call_keeps_its_tensors(device, shader):
    shader(DOUBLE)
    values = upload(device, np.uint32([1, 2, 3, 4]))
    call = device.kernel("double", {}, [values], (4,))
    live = len(device.live)
    del values
    gc.collect()
    assert len(device.live) == live
    device.submit([call], times=3)
    assert call.tensors[0].numpy().tolist() == [8, 16, 24, 32]


def test_a_readback_is_used_again_and_again(device, shader):
    shader(DOUBLE)
    values = upload(device, np.uint32([1, 2, 3, 4]))
    call = device.kernel("double", {}, [values], (4,))
    readback = device.readback(16)
    for turn in range(1, 4):
        device.submit([call], copies=[(values, 8, readback, 0, 8), (values, 0, readback, 8, 8)])
        readback.map()
        got = np.frombuffer(block_on(readback.take(16), "take"), np.uint32)
        assert got.tolist() == [n << turn for n in (3, 4, 1, 2)]


# ---- pipelines -----------------------------------------------------------------------------------


def test_a_pipeline_is_made_once_for_each_set_of_constants(device, shader):
    shader("override BY: u32 = 2u;\n" + DOUBLE.replace("*= 2u", "*= BY"))
    values = upload(device, np.uint32([1, 1]))
    calls = [device.kernel("by", {"BY": by}, [values], (2,)) for by in (3, 3, 5)]
    assert calls[0].pipeline is calls[1].pipeline is not calls[2].pipeline
    assert "by" in device.kernels
    device.submit(calls)
    assert values.numpy().tolist() == [45, 45]


def test_a_bad_shader_is_refused_by_name(device, shader):
    tensor = device.tensor((4,), "u32")
    shader(DOUBLE)
    device.kernel("good", {}, [tensor], (1,))
    shader(DOUBLE.replace("values[id.x]", "nothing[id.x]"))
    with pytest.raises(DeviceError, match=r"the kernel misspelt with .* failed"):
        device.kernel("misspelt", {}, [tensor], (1,))
    shader(DOUBLE)
    with pytest.raises(DeviceError, match=r"the kernel unknown with \{'NONE': 1\} failed"):
        device.kernel("unknown", {"NONE": 1}, [tensor], (1,))


def test_too_many_workgroups_are_refused_with_both_numbers(device, shader):
    shader(DOUBLE)
    tensor = device.tensor((4,), "u32")
    device.kernel("double", {}, [tensor], (65535,))
    with pytest.raises(DeviceError, match=r"\(1, 65536, 1\) workgroups, the adapter allows 65,535"):
        device.kernel("double", {}, [tensor], (1, 65536))


# ---- adapters and limits -------------------------------------------------------------------------


def test_a_device_has_the_default_limits_and_says_what_it_is(device):
    assert device.limits == DEFAULT_LIMITS
    info = device.info
    assert any(name in info["adapter"] for name in ADAPTERS)
    assert info["backend"] == "Vulkan" and info["software"] is True


def test_a_device_asks_for_larger_buffers_where_the_adapter_has_them():
    device = block_on(Device.request("SwiftShader"), "request")
    assert device.limits["max-storage-buffer-binding-size"] > 2**27
    others = DEFAULT_LIMITS.keys() - set(gpu.SIZE_LIMITS)
    assert all(device.limits[name] == DEFAULT_LIMITS[name] for name in others)
    device.destroy()


def test_the_environment_names_the_adapter(monkeypatch):
    for name in ADAPTERS:
        monkeypatch.setenv("GPT2WEB_ADAPTER", name.upper())
        device = block_on(Device.request(), "request")
        assert name in device.info["adapter"]
        device.destroy()


def test_an_unknown_adapter_is_refused_with_those_there_are():
    with pytest.raises(DeviceError, match=r"no adapter is named 'Voodoo 2'; found: .*llvm") as e:
        block_on(Device.request("Voodoo 2"), "request")
    assert "SwiftShader" in str(e.value)


def test_a_limit_that_no_adapter_has_is_refused():
    with pytest.raises(DeviceError, match=r"the adapter llvmpipe .* gave no device: "):
        block_on(
            Device.request("llvmpipe", limits={"max-compute-workgroup-storage-size": 2**31}),
            "request",
        )


@pytest.mark.parametrize("limit", gpu.SIZE_LIMITS)
def test_a_tensor_too_large_is_refused_with_both_numbers(limit):
    device = new_device("llvmpipe", **{limit.replace("-", "_"): 2**20})
    device.tensor((2**18,)).destroy()  # exactly as large
    message = rf"\(1024, 257\) takes 1,052,672 bytes, the adapter allows 1,048,576 \({limit}\)"
    with pytest.raises(DeviceError, match=message):
        device.tensor((1024, 257))
    assert not device.live
    device.destroy()


# ---- shaders -------------------------------------------------------------------------------------


def test_a_shader_stands_behind_what_it_includes():
    source = gpu.shader_source("embed")
    order = [source.index(part) for part in ("struct State", "fn load_weight", "fn main")]
    assert order == sorted(order) and source.count("struct State") == 1
    assert gpu.shader_source("gelu").startswith("// GELU")
