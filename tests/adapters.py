"""The GPU in tests: both software adapters, and tensors that show what a kernel should not touch.

device     Mesa's llvmpipe, then SwiftShader, each with exactly WebGPU's default limits
llvmpipe   one of them alone, for what is the same on every adapter; its own for each module
devices    those that from_preset asked for in this test
conftest.py makes them known to every test. A missing adapter fails the tests; nothing is skipped.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for build.py

import build

# As build.py's test command does, for a plain pytest; before wgpu starts Vulkan.
if "VK_DRIVER_FILES" not in os.environ:
    _found = [str(path) for path in build.find_vulkan_drivers().values() if path]
    os.environ["VK_DRIVER_FILES"] = os.pathsep.join(_found)
if "XDG_RUNTIME_DIR" not in os.environ:
    _runtime = tempfile.TemporaryDirectory()  # Mesa warns without one
    atexit.register(_runtime.cleanup)
    os.environ["XDG_RUNTIME_DIR"] = _runtime.name

from gpt2web import selftest
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import block_on
from gpt2web.checkpoint import LocalFolder, open_checkpoint
from gpt2web.gpu import DEFAULT_LIMITS, Device, DeviceError, Tensor
from gpt2web.head_start import Memory

ADAPTERS = ("llvmpipe", "SwiftShader")
# Two NaNs, told apart by their bits, which arithmetic keeps
UNTOUCHED = 0x7FC0DEAD  # nothing was written here
NOT_GIVEN = 0x7FC0BEEF  # behind the end of an input


def new_device(adapter: str, **limits: int) -> Device:
    """A device of its own; `limits`, with underscores, in place of single default ones."""
    wanted = DEFAULT_LIMITS | {name.replace("_", "-"): value for name, value in limits.items()}
    try:
        device = block_on(Device.request(adapter, limits=wanted), "Device.request")
    except DeviceError as error:
        pytest.fail(f"{error}\nInstall {adapter}: run `python3 build.py test`, or {_install()}")
    if device.info["backend"] != "Vulkan":  # llvmpipe also comes by way of OpenGL
        pytest.fail(
            f"the Vulkan driver of {adapter} is missing (VK_DRIVER_FILES is "
            f"{os.environ['VK_DRIVER_FILES']!r}): run `python3 build.py test`, or {_install()}"
        )
    return device


def _install() -> str:
    return f"`sudo {build.APT_INSTALL}`"


@pytest.fixture(scope="session", params=ADAPTERS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """Each software adapter in turn, with WebGPU's default limits and no more."""
    device = new_device(request.param)
    assert device.limits == DEFAULT_LIMITS
    yield device
    device.destroy()


@pytest.fixture(scope="module")
def llvmpipe() -> Iterator[Device]:
    device = new_device("llvmpipe")
    yield device
    device.destroy()


def upload(device: Device, values: Any, *, uniform: bool = False) -> Tensor:
    """An input: float32 or uint32 values, and NaN behind them as far as the buffer goes."""
    values = np.ascontiguousarray(values)
    if values.dtype != np.uint32:
        values = values.astype(np.float32)
    dtype = "u32" if values.dtype == np.uint32 else "f32"
    tensor = device.tensor(values.shape, dtype, uniform=uniform)
    _fill(tensor, NOT_GIVEN)
    device.write(tensor, values)
    return tensor


def untouched(device: Device, shape: tuple[int, ...], dtype: str = "f32", tail: int = 9) -> Tensor:
    """An output: filled with UNTOUCHED, and at least `tail` more of it behind its end."""
    tensor = device.tensor((int(np.prod(shape)) + tail,), dtype)
    tensor.shape = shape
    _fill(tensor, UNTOUCHED)
    return tensor


def holding(device: Device, values: np.ndarray, tail: int = 9) -> Tensor:
    """An output that holds values already, with UNTOUCHED behind its end."""
    dtype = "u32" if values.dtype == np.uint32 else "f32"
    tensor = untouched(device, values.shape, dtype, tail)
    device.write(tensor, np.ascontiguousarray(values))
    return tensor


def _fill(tensor: Tensor, nan: int) -> None:
    words = tensor.device.live[id(tensor)] // 4
    tensor.device.write(tensor, np.full(words, nan, np.uint32))


def download(tensor: Tensor) -> np.ndarray:
    """An output's values; fails when anything was written behind its end."""
    data = block_on(tensor.device.read(tensor, tensor.device.live[id(tensor)]), "read")
    words = np.frombuffer(data, np.uint32)
    behind = words[tensor.size :]
    assert (behind == UNTOUCHED).all(), f"written behind the end: {behind.view(np.float32)}"
    values = words[: tensor.size].reshape(tensor.shape)
    return values if tensor.dtype == "u32" else values.view(np.float32)


def is_untouched(values: np.ndarray) -> np.ndarray:
    """Which elements of `download` nothing was written to."""
    return values.view(np.uint32) == UNTOUCHED


def load_backbone(
    device: Device, model: Any, folder: Path, *, dtype: str = "F32", precision: str = "f32"
) -> GPT2Backbone:
    """A backbone with the weights of a recorded model (its .fields and .weights), by way of a
    checkpoint of `dtype` in `folder`; "packed": in int8 or int4 already."""
    weights = model.weights
    if dtype == "packed":
        weights, dtype = reference.packed(weights, precision), "F32"
    reference.write_safetensors(folder / "model.safetensors", weights, dtype)
    backbone = GPT2Backbone(**model.fields, device=device, precision=precision)
    block_on(_load(backbone, folder), "load")
    return backbone


async def _load(backbone: GPT2Backbone, folder: Path) -> None:
    await backbone.load(await open_checkpoint(LocalFolder(folder), backbone.config))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """The devices that from_preset asked for. The self-test, which is slow, is left out."""
    asked: list[Device] = []
    request = Device.request

    async def remembered(*arguments: Any, **options: Any) -> Device:
        asked.append(await request(*arguments, **options))
        return asked[-1]

    async def passed(device: Device, precision: str, memory: Memory | None) -> tuple[str, str]:
        return precision, "passed"

    monkeypatch.setattr(Device, "request", remembered)
    monkeypatch.setattr(selftest, "run", passed)
    return asked
