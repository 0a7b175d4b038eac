"""The GPU: a device, tensors, pipelines made once, and recorded programs that are replayed.

The one module that imports wgpu. Natively wgpu-py drives wgpu-native; in the page gpt2web.webgpu
registers the browser's navigator.gpu behind the same API. Everything that waits for the GPU is a
coroutine, which gpt2web.blocking can run to its end without an event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from gpt2web.blocking import block_on, is_blocking, waited

if sys.platform == "emscripten":
    import gpt2web.webgpu  # noqa: F401  registers the browser's backend
try:
    import wgpu
except ModuleNotFoundError:  # all but the GPU works without it; _request_adapter says what to do
    wgpu = None

MAX_ROWS = 256  # rows of a batch: what state.wgsl and sampling.wgsl declare
T = TypeVar("T")

# WebGPU's default limits, as far as compute goes: https://www.w3.org/TR/webgpu/#limit-default
DEFAULT_LIMITS = {
    "max-bind-groups": 4,
    "max-bindings-per-bind-group": 1000,
    "max-uniform-buffers-per-shader-stage": 12,
    "max-storage-buffers-per-shader-stage": 8,
    "max-uniform-buffer-binding-size": 65536,
    "max-storage-buffer-binding-size": 134217728,
    "max-buffer-size": 268435456,
    "min-uniform-buffer-offset-alignment": 256,
    "min-storage-buffer-offset-alignment": 256,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-compute-workgroup-size-z": 64,
    "max-compute-workgroups-per-dimension": 65535,
}
SIZE_LIMITS = ("max-storage-buffer-binding-size", "max-buffer-size")


class DeviceError(Exception):
    """No adapter, a limit too small, a device lost for good, or a failed self-test."""

    code = "device-failed"  # unless another is given: what can be done about it (docs/errors.md)

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class DeviceLost(DeviceError):
    """The device is gone, with all that was on it; another one may be had."""

    code = "device-lost"


class OutOfMemory(DeviceError):
    """No room on the GPU for a buffer. In bytes: `needed`, what was to lie there together, and
    `had`, what did."""

    code = "device-memory"

    def __init__(self, message: str, needed: int, had: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.had = had


class ShaderError(Exception):
    """A shader that is no kernel of this GPU: its name, and the line of shader_source(name)."""

    def __init__(self, name: str, line: int, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.line = line


async def finished(promise: Awaitable[T]) -> T:
    """The result of a wgpu promise: awaited, or, under block_on, waited for.

    Raises DeviceError for what the GPU reports; in the page, errors of earlier calls come here too.
    """
    try:
        return await waited(promise)
    except wgpu.GPUError as error:
        raise DeviceError(f"the GPU reports: {error}") from error


PipelineKey = tuple[str, tuple[tuple[str, float], ...]]  # a kernel, and its constants


class Dispatch(NamedTuple):
    """One kernel call, recorded: everything in it was made before."""

    pipeline: Any
    bind_group: Any
    x: int  # workgroups
    y: int
    z: int
    kernel: str
    tensors: tuple[Tensor, ...]  # kept alive: submitting a freed one ends the process natively


class Tensor:
    """An array in GPU memory: `shape` of `dtype` "f32" or "u32", row-major."""

    def __init__(self, device: Device, buffer: Any, shape: tuple[int, ...], dtype: str) -> None:
        self.device = device
        self.shape = shape
        self.dtype = dtype
        self._buffer = buffer

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype!r})"

    def __del__(self) -> None:
        self.destroy()

    @property
    def buffer(self) -> Any:
        """The GPUBuffer. Raises DeviceError once it is destroyed, DeviceLost with its device."""
        if self._buffer is None:
            freed = DeviceError(f"{self} was destroyed: its GPU memory is free", code="closed")
            raise self.device.failure(freed)
        return self._buffer

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    def destroy(self) -> None:
        """Free the GPU memory now; later uses fail. Does nothing the second time."""
        if self._buffer is not None:
            self.device.forget(self)
            self._buffer.destroy()
            self._buffer = None

    async def read(self) -> Any:
        """The values, copied to the CPU: a memoryview of `shape`, format "f" or "I"."""
        data = await self.device.read(self, 4 * self.size)
        return shaped(data, self.shape, "f" if self.dtype == "f32" else "I")

    def numpy(self) -> Any:
        """The values as a numpy array (natively, where numpy is installed)."""
        import numpy

        return numpy.asarray(block_on(self.read(), "tensor.read")).reshape(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """`numpy()[key]`: every use reads the whole tensor, so read it once for many."""
        return self.numpy()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What numpy.asarray(tensor) gives: `numpy()`, always a copy."""
        if copy is False:
            raise ValueError("a tensor lies on the GPU: its values cannot be had without a copy")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)


class Device:
    """One GPU device: makes tensors and kernel calls, keeps each pipeline, counts what is alive."""

    def __init__(self, adapter: Any, device: Any) -> None:
        self.adapter = adapter
        self.device = device
        self.queue = device.queue
        self.limits: dict[str, int] = {name: device.limits[name] for name in DEFAULT_LIMITS}
        self.live: dict[int, int] = {}  # id of a live tensor -> bytes
        self.destroyed = False
        self._lost: str | None = None
        # in the page: bytes of buffers just made, and what will say whether there was room
        self._unsure: list[tuple[int, Any]] = []
        self._fences: list[tuple[Tensor, Readback]] = []  # of settled(): those free
        self._modules: dict[str, Any] = {}
        self._pipelines: dict[PipelineKey, Any] = {}
        self._coming: dict[PipelineKey, Any] = {}  # promises
        self.compiled: set[PipelineKey] = set()  # of those that were to come
        self.used: dict[PipelineKey, None] = {}  # by kernel(), in the order of first use

    @classmethod
    async def request(
        cls, adapter_name: str | None = None, *, limits: dict[str, int] | None = None
    ) -> Device:
        """Ask for a device: a named adapter (part of its name, also from the environment variable
        GPT2WEB_ADAPTER; natively only), else the fastest.

        It gets WebGPU's default limits, but the adapter's own for the sizes of buffers; `limits`
        lowers or raises single ones. Raises DeviceError when there is none.
        """
        adapter = await _request_adapter(adapter_name or os.environ.get("GPT2WEB_ADAPTER"))
        wanted = dict(DEFAULT_LIMITS)
        for name in SIZE_LIMITS:
            wanted[name] = adapter.limits[name]
        wanted.update(limits or {})
        try:
            device = await finished(adapter.request_device_async(required_limits=wanted))
        except Exception as error:
            raise DeviceError(
                f"the adapter {describe(adapter)} gave no device: {error}", code="device-missing"
            ) from error
        return cls(adapter, device)

    @classmethod
    def adopt(
        cls, adapter: Any, device: Any, pipelines: Iterable[tuple[PipelineKey, Any]] = ()
    ) -> Device:
        """A device that the page has asked for already, with the limits of `request`, and promises
        of pipelines: JavaScript's objects."""
        adopted = wgpu.gpu.adopt_device(adapter, device)
        made = cls(adopted.adapter, adopted)
        made._coming = dict(pipelines)
        return made

    @property
    def identity(self) -> str:
        """All that the adapter says of itself, and the limits in use."""
        return f"{dict(sorted(self.adapter.info.items()))} {self.limits}"

    @property
    def info(self) -> dict[str, Any]:
        """Adapter name, backend, and whether it computes on the CPU."""
        info = self.adapter.info
        kind = str(info.get("adapter_type", ""))
        name = describe(self.adapter)
        software = kind == "CPU" or any(
            word in name.lower() for word in ("swiftshader", "llvmpipe", "software", "basic render")
        )
        return {
            "adapter": name,
            "backend": str(info.get("backend_type", "")),
            "software": software,
        }

    @property
    def lost(self) -> str | None:
        """Why the device was lost; None while it works, and when it was destroyed on purpose.

        The page is told by the browser. Natively nobody tells: it shows when something fails.
        """
        if self._lost is None and sys.platform == "emscripten" and not self.destroyed:
            told = self.device.lost_info
            self._lost = f"{told.message} ({told.reason})" if told else None
        return self._lost

    def failure(self, error: Exception) -> Exception:
        """What to raise for an error of the GPU: DeviceLost where the device is gone, OutOfMemory,
        DeviceError for others of the GPU; what is none of these as it is."""
        if self.lost is None and sys.platform != "emscripten" and not self.destroyed:
            try:
                self.device.create_buffer(size=16, usage=wgpu.BufferUsage.COPY_DST).destroy()
            except wgpu.GPUOutOfMemoryError:
                pass
            except wgpu.GPUError as told:
                self._lost = str(told).strip().splitlines()[-1].strip()
        if self.lost is not None:
            return DeviceLost(f"{describe(self.adapter)} was lost: {self.lost}")
        if isinstance(error, DeviceError):
            return error
        if self.destroyed:
            return DeviceError("the model was closed: load it again", code="closed")
        if isinstance(error, wgpu.GPUOutOfMemoryError):
            return self._no_room(0, str(error))
        if isinstance(error, wgpu.GPUError):
            return DeviceError(f"the GPU reports: {error}")
        return error

    @property
    def live_bytes(self) -> int:
        return sum(self.live.values())

    def tensor(self, shape: Sequence[int], dtype: str = "f32", *, uniform: bool = False) -> Tensor:
        """A tensor of zeros. Raises DeviceError when it is larger than the device allows."""
        shape = tuple(shape)
        size = self.tensor_bytes(shape)
        usage = wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.STORAGE
        if uniform:
            usage |= wgpu.BufferUsage.UNIFORM
        tensor = Tensor(self, self._buffer(size, usage), shape, dtype)
        self.live[id(tensor)] = size
        return tensor

    def tensor_bytes(self, shape: Sequence[int]) -> int:
        """What a tensor takes. Raises DeviceError when that is more than the device allows."""
        count = 1
        for length in shape:
            count *= length
        size = max(16, -(-4 * count // 16) * 16)
        for limit in SIZE_LIMITS:
            if size > self.limits[limit]:
                raise DeviceError(
                    f"a tensor of shape {tuple(shape)} takes {size:,} bytes, the adapter allows "
                    f"{self.limits[limit]:,} ({limit}): use a smaller precision, batch or length",
                    code="device-limit",
                )
        return size

    def readback(self, size: int) -> Readback:
        """A buffer of `size` bytes that results are read through."""
        return Readback(
            self, self._buffer(size, wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST), size
        )

    def _buffer(self, size: int, usage: int) -> Any:
        scoped = sys.platform == "emscripten"  # where a lack of memory is told of later
        if scoped:
            self.device.push_error_scope("out-of-memory")
        try:
            return self.device.create_buffer(size=size, usage=usage)
        except wgpu.GPUOutOfMemoryError as error:
            said = " ".join(str(error).split())  # several lines natively
            failed = f"no GPU memory for {size:,} bytes: {said}"
            raise OutOfMemory(failed, self.live_bytes + size, self.live_bytes) from error
        except wgpu.GPUError as error:
            raise self.failure(error) from error
        finally:
            if scoped:
                self._unsure.append((size, self.device.pop_error_scope_async()))

    async def allocated(self) -> None:
        """Wait until it is known whether there was room for every buffer made so far.

        Raises OutOfMemory, in the page; natively the one who made it had the error at once.
        """
        if not self._unsure:
            return
        unsure, self._unsure = self._unsure, []
        try:
            missing = sum([size for size, told in unsure if await told is not None])
            if not missing:
                return
            # What was done with the missing buffers failed too: that has been told of by now.
            self.device.push_error_scope("validation")
            await self.device.pop_error_scope_async()
            self.device.forget_errors()
        except Exception as error:
            raise self.failure(error) from error
        raise self._no_room(missing, "")

    def _no_room(self, missing: int, said: str) -> OutOfMemory:
        needed, had = self.live_bytes, self.live_bytes - missing
        numbers = f"{needed:,} bytes were needed, {had:,} could be had"
        told = f"{numbers} ({said})" if said else numbers
        return OutOfMemory(
            f"the GPU has no more memory: {told}. Close other tabs and programs that use it, or "
            "take a smaller precision, batch or model",
            needed,
            had,
        )

    def forget(self, tensor: Tensor | Readback) -> None:
        self.live.pop(id(tensor), None)

    def write(self, tensor: Tensor, data: Any, offset: int = 0) -> None:
        """Write bytes (anything with the buffer protocol, or a JavaScript array) at `offset`."""
        try:
            self.queue.write_buffer(tensor.buffer, offset, data)
        except wgpu.GPUError as error:
            raise self.failure(error) from error

    async def read(self, tensor: Tensor, size: int) -> memoryview:
        """The tensor's first `size` bytes."""
        staging = self.readback(max(size, 4))
        try:
            self.submit([], copies=[(tensor, 0, staging, 0, -(-size // 4) * 4)])
            staging.map()
            return (await staging.take(max(size, 4)))[:size]
        finally:
            staging.destroy()

    async def settled(self) -> None:
        """Wait until all that is submitted has been done.

        Through a readback: on_submitted_work_done_async of wgpu-py 0.32.0 does not work natively.
        """
        # several may wait at once
        fence = self._fences.pop() if self._fences else (self.tensor((4,)), self.readback(16))
        source, readback = fence
        try:
            self.submit([], copies=[(source, 0, readback, 0, 16)])
            readback.map()
            await readback.take(16)
        except DeviceError:
            source.destroy()
            readback.destroy()
            raise
        self._fences.append(fence)  # not when cancelled: its mapping is still under way

    def kernel(
        self,
        name: str,
        constants: Mapping[str, float],
        bindings: Sequence[Tensor],
        groups: tuple[int, ...],
    ) -> Dispatch:
        """Record a call of shaders/<name>.wgsl: tensors in binding order, workgroups (x, y, z).

        Raises DeviceError when the shader does not compile or needs more than the device has.
        """
        key = (name, tuple(constants.items()))
        self.used[key] = None
        pipeline = self._pipelines.get(key)
        if pipeline is None:
            try:
                if name not in self._modules:
                    self._modules[name] = self.device.create_shader_module(
                        label=name, code=shader_source(name)
                    )
                pipeline = self.device.create_compute_pipeline(
                    label=name,
                    layout="auto",
                    compute={
                        "module": self._modules[name],
                        "entry_point": "main",
                        "constants": dict(constants),
                    },
                )
            except wgpu.GPUError as error:
                failure = self.failure(error)
                if isinstance(failure, DeviceLost):
                    raise failure from error
                raise DeviceError(f"the kernel {name} with {constants} failed: {error}") from error
            self._pipelines[key] = pipeline
        entries = [
            {"binding": i, "resource": {"buffer": tensor.buffer, "offset": 0}}
            for i, tensor in enumerate(bindings)
        ]
        try:
            bind_group = self.device.create_bind_group(
                label=name, layout=pipeline.get_bind_group_layout(0), entries=entries
            )
        except wgpu.GPUError as error:
            raise self.failure(error) from error
        x, y, z = (*groups, 1, 1)[:3]
        most = self.limits["max-compute-workgroups-per-dimension"]
        if max(x, y, z) > most:
            raise DeviceError(
                f"the kernel {name} needs {(x, y, z)} workgroups, the adapter allows {most:,} "
                "per dimension: use a smaller model or batch",
                code="device-limit",
            )
        return Dispatch(pipeline, bind_group, x, y, z, name, tuple(bindings))

    async def check_shader(self, name: str) -> None:
        """Compile shaders/<name>.wgsl, and make a pipeline of it, with its own constants, and a
        bind group, in the page. Raises ShaderError."""
        source = shader_source(name)
        self.device.push_error_scope("validation")  # else a later promise raised it, too
        module = self.device.create_shader_module(label=name, code=source)
        await finished(self.device.pop_error_scope_async())
        info = await finished(module.get_compilation_info_async())
        for found in info.messages:
            if found.type == "error":
                raise ShaderError(name, found.line_num, found.message)

        lines = source.splitlines()
        main = [number for number, line in enumerate(lines, 1) if line.startswith("fn main(")]
        begin = main[-1] if main else max(1, len(lines))
        stage = {"module": module, "entry_point": "main", "constants": {}}
        self.device.push_error_scope("validation")
        pipeline = self.device.create_compute_pipeline(label=name, layout="auto", compute=stage)
        wrong = await finished(self.device.pop_error_scope_async())
        if wrong is not None:
            raise ShaderError(name, begin, str(wrong).splitlines()[0])

        declared = {  # binding -> its line
            int(found[1]): number
            for number, line in enumerate(lines, 1)
            if (found := re.match(r"@group\(0\) @binding\((\d+)\)", line))
        }
        # As large as a uniform may be: a buffer that is too small is wrong as well.
        tensor = self.tensor((self.limits["max-uniform-buffer-binding-size"] // 4,), uniform=True)
        resource = {"buffer": tensor.buffer, "offset": 0}
        self.device.push_error_scope("validation")
        self.device.create_bind_group(
            label=name,
            layout=pipeline.get_bind_group_layout(0),
            entries=[{"binding": binding, "resource": resource} for binding in declared],
        )
        wrong = await finished(self.device.pop_error_scope_async())
        tensor.destroy()
        if wrong is not None:
            said = str(wrong).splitlines()[0].rstrip(".")
            told = re.search(r"binding (?:index )?(\d+)", said)  # browsers word it differently
            line = declared.get(int(told[1]), begin) if told else begin
            rule = "every binding that a kernel declares must be used in it"
            raise ShaderError(name, line, f"{said}: {rule}")

    async def pipelines(self, *kernels: str) -> None:
        """Wait for those that are being compiled: of these kernels, or all. `kernel` compiles what
        could not be, and says what is wrong with it."""
        for key in list(self._coming):
            if not kernels or key[0] in kernels:
                pipeline = await self._coming.pop(key)
                if pipeline is not None:
                    self._pipelines[key] = self.device.adopt_compute_pipeline(key[0], pipeline)
                    self.compiled.add(key)

    def submit(
        self,
        dispatches: Sequence[Dispatch],
        *,
        times: int = 1,
        copies: Iterable[tuple[Tensor, int, Tensor | Readback, int, int]] = (),
    ) -> None:
        """Run a recorded list `times` over in one compute pass and one submit.

        copies: (source, offset, target, offset, bytes), made after the pass.
        """
        for call in dispatches:  # natively a freed buffer would end the process
            for tensor in call.tensors:
                if tensor._buffer is None:
                    freed = DeviceError(
                        f"the kernel {call.kernel} was recorded on memory that has been freed: the "
                        "model was closed, or its weights were replaced",
                        code="closed",
                    )
                    raise self.failure(freed)
        try:
            encoder = self.device.create_command_encoder()
            compute_pass = encoder.begin_compute_pass()
            set_pipeline = compute_pass.set_pipeline
            set_bind_group = compute_pass.set_bind_group
            dispatch_workgroups = compute_pass.dispatch_workgroups
            for _ in range(times):
                for pipeline, bind_group, x, y, z, _kernel, _tensors in dispatches:
                    set_pipeline(pipeline)
                    set_bind_group(0, bind_group)
                    dispatch_workgroups(x, y, z)
            compute_pass.end()
            for source, source_offset, target, target_offset, size in copies:
                encoder.copy_buffer_to_buffer(
                    source.buffer, source_offset, target.buffer, target_offset, size
                )
            self.queue.submit([encoder.finish()])
        except wgpu.GPUError as error:
            raise self.failure(error) from error

    @property
    def kernels(self) -> list[str]:
        """Names of the kernels that have a pipeline."""
        return sorted({name for name, _ in self._pipelines})

    def destroy(self) -> None:
        """Free the device and everything on it."""
        self.destroyed = True
        self._fences.clear()
        self._unsure.clear()
        self._pipelines.clear()
        self._coming.clear()
        self._modules.clear()
        self.device.destroy()


class Readback:
    """A mappable buffer, used again and again: submit a copy into it, map, take."""

    def __init__(self, device: Device, buffer: Any, size: int) -> None:
        self.device = device
        self.buffer = buffer
        self.size = size
        self._mapped: Any = None
        device.live[id(self)] = size

    def map(self, size: int | None = None) -> None:
        """Ask for the first `size` bytes, a multiple of 4, as they will be after all that is
        submitted now; None asks for all."""
        size = self.size if size is None else size
        if sys.platform == "emscripten":
            self._mapped = self.buffer.map_async(wgpu.MapMode.READ, 0, size)
            return
        # wgpu-py finds the running event loop by these hooks, and reports to it even once it is
        # closed. This promise belongs to no loop: who takes it may run in another.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            # As wgpu-py's own read_buffer does: READ would submit an empty command buffer first.
            self._mapped = self.buffer.map_async("READ_NOSYNC", 0, size)
        except Exception as error:  # of a lost device no GPUError
            raise self.device.failure(error) from error
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def take(self, size: int) -> memoryview:
        """Wait for the mapping, copy its first `size` bytes and unmap. Raises DeviceLost, and
        OutOfMemory where a buffer made before had no room."""
        await self.device.allocated()
        promise = self._mapped
        if sys.platform != "emscripten" and not is_blocking():
            promise = asyncio.get_running_loop().run_in_executor(None, promise.sync_wait)
        try:
            await waited(promise)
            data = memoryview(self.buffer.read_mapped(0, size))
            self.buffer.unmap()
            return data
        except Exception as error:
            if self.buffer is None:
                closed = "the model was closed while its results were on their way"
                raise self.device.failure(DeviceError(closed, code="closed")) from error
            failure = self.device.failure(error)
            if failure is error:
                raise
            raise failure from error

    def destroy(self) -> None:
        if self.buffer is not None:
            self.device.forget(self)
            self.buffer.destroy()
            self.buffer = None

    def __del__(self) -> None:
        self.destroy()


def largest_tensor(device: Device) -> int:
    """Bytes of the largest tensor that the device allows."""
    return min(device.limits[name] for name in SIZE_LIMITS)


def shaped(data: memoryview, shape: tuple[int, ...], format: str) -> Any:
    """Bytes as a memoryview of a shape; flat where a length is 0, which memoryview cannot have."""
    flat = data.cast("B")
    return flat.cast(format) if 0 in shape else flat.cast(format, shape)  # type: ignore[call-overload]


@cache
def shader_source(name: str) -> str:
    """The text of shaders/<name>.wgsl behind the files its first line includes."""
    *included, (_, source) = _shader_parts(name)
    return "\n".join(text for _, text in included) + source


def shader_file(name: str, line: int) -> tuple[str, int]:
    """The file, and its own line, that a line of shader_source(name) comes from."""
    *included, (own, _) = _shader_parts(name)
    begin = 0  # lines before the file
    for number, (file, text) in enumerate(included, 1):
        lines = text.count("\n") + (
            number < len(included)
        )  # the last one is not joined by a newline
        if line <= begin + lines:
            return file, line - begin
        begin += lines
    return own, line - begin


def _shader_parts(name: str) -> list[tuple[str, str]]:
    """(file, text) of each that its first line includes, and of shaders/<name>.wgsl itself."""
    folder = files("gpt2web.shaders")
    source = (folder / f"{name}.wgsl").read_text(encoding="utf-8")
    first, _, _ = source.partition("\n")
    included = first.removeprefix("// include:").split() if first.startswith("// include:") else []
    parts = [(file, (folder / file).read_text(encoding="utf-8")) for file in included]
    return [*parts, (f"{name}.wgsl", source)]


def describe(adapter: Any) -> str:
    """The adapter's name as a person would say it."""
    info = adapter.info
    words = [str(info.get(key, "")) for key in ("device", "description")]
    name = " / ".join(word for word in words if word)
    if not name:
        name = " ".join(str(info.get(key, "")) for key in ("vendor", "architecture")).strip()
    return name or "unnamed adapter"


async def _request_adapter(name: str | None) -> Any:
    if wgpu is None:
        raise DeviceError("wgpu is not installed: pip install wgpu==0.32.0", code="device-missing")
    try:
        if sys.platform != "emscripten":
            importlib.import_module("wgpu.backends.auto")  # loads wgpu-native
        if name is None:
            adapter = await finished(
                wgpu.gpu.request_adapter_async(power_preference="high-performance")
            )
            if adapter is not None:
                return adapter
            raise DeviceError("WebGPU gave no adapter" + _WAY_OUT, code="device-missing")
        adapters = await finished(wgpu.gpu.enumerate_adapters_async())
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(
            f"no GPU adapter was found ({error})" + _WAY_OUT, code="device-missing"
        ) from error
    # the same GPU may also come by way of OpenGL: that last
    adapters = sorted(adapters, key=lambda a: "OpenGL" in str(a.info.get("backend_type", "")))
    for adapter in adapters:
        if name.lower() in describe(adapter).lower():
            return adapter
    found = ", ".join(describe(adapter) for adapter in adapters) or "none"
    raise DeviceError(f"no adapter is named {name!r}; found: {found}", code="device-missing")


_WAY_OUT = (
    ": a graphics driver with Vulkan, Metal or Direct3D 12 is needed; on a machine without a GPU, "
    "install a software one (Debian: apt-get install mesa-vulkan-drivers)"
)
