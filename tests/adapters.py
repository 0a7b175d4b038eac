"""The GPU in tests: both software adapters, and tensors that show what a kernel should not touch.

device     Mesa's llvmpipe, then SwiftShader, each with exactly WebGPU's default limits
conftest.py makes it known to every test. A missing adapter fails the tests; nothing is skipped.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for build.py

import build  # noqa: E402

# As build.py's test command does, for a plain pytest; before wgpu starts Vulkan.
if "VK_DRIVER_FILES" not in os.environ:
    _found = [str(path) for path in build.find_vulkan_drivers().values() if path]
    os.environ["VK_DRIVER_FILES"] = os.pathsep.join(_found)
if "XDG_RUNTIME_DIR" not in os.environ:
    _runtime = tempfile.TemporaryDirectory()  # Mesa warns without one
    atexit.register(_runtime.cleanup)
    os.environ["XDG_RUNTIME_DIR"] = _runtime.name

from gpt2web.gpu import DEFAULT_LIMITS, Device, DeviceError, Tensor, block_on  # noqa: E402

ADAPTERS = ("llvmpipe", "SwiftShader")
UNTOUCHED = 0x7FC0DEAD  # a NaN, as bits that no computation gives


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


@functools.cache
def shared_device(adapter: str) -> Device:
    """The device that tests share: its pipelines are compiled once."""
    return new_device(adapter)


@pytest.fixture(scope="session", params=ADAPTERS)
def device(request: pytest.FixtureRequest) -> Device:
    """Each software adapter in turn, with WebGPU's default limits and no more."""
    device = shared_device(request.param)
    assert device.limits == DEFAULT_LIMITS
    return device


def on_adapters(argument: str, cases: list[Any], *, on_swiftshader: int) -> pytest.MarkDecorator:
    """parametrize `argument` with all cases on llvmpipe and the first few on SwiftShader, which
    takes 5 to 20 times as long where there are barriers."""
    sets = [("llvmpipe", case) for case in cases]
    sets += [("SwiftShader", case) for case in cases[:on_swiftshader]]
    ids = [f"{adapter}-{'-'.join(map(str, np.ravel(case)))}" for adapter, case in sets]
    return pytest.mark.parametrize(f"device, {argument}", sets, indirect=["device"], ids=ids)


def upload(device: Device, values: Any, *, uniform: bool = False) -> Tensor:
    """A tensor of float32 or uint32 values; beyond them NaN, as far as the buffer goes."""
    values = np.ascontiguousarray(values)
    if values.dtype != np.uint32:
        values = values.astype(np.float32)
    dtype = "u32" if values.dtype == np.uint32 else "f32"
    tensor = device.tensor(values.shape, dtype, uniform=uniform)
    if not uniform:
        fill(tensor)
    device.write(tensor, values)
    return tensor


def untouched(device: Device, shape: tuple[int, ...], dtype: str = "f32", tail: int = 9) -> Tensor:
    """A tensor filled with UNTOUCHED, and at least `tail` more of it behind its end."""
    tensor = device.tensor((int(np.prod(shape)) + tail,), dtype)
    tensor.shape = shape
    fill(tensor)
    return tensor


def fill(tensor: Tensor) -> None:
    words = tensor.device.live[id(tensor)] // 4
    tensor.device.write(tensor, np.full(words, UNTOUCHED, np.uint32))


def download(tensor: Tensor) -> np.ndarray:
    """The values; fails when anything was written behind the end."""
    data = block_on(tensor.device.read(tensor, tensor.device.live[id(tensor)]), "read")
    words = np.frombuffer(data, np.uint32)
    behind = words[tensor.size :]
    assert (behind == UNTOUCHED).all(), f"written behind the end: {behind.view(np.float32)}"
    values = words[: tensor.size].reshape(tensor.shape)
    return values if tensor.dtype == "u32" else values.view(np.float32)


def is_untouched(values: np.ndarray) -> np.ndarray:
    """Which elements of `download` nothing was written to."""
    return values.view(np.uint32) == UNTOUCHED
