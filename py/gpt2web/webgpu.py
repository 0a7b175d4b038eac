"""The browser's half of the seam to the GPU: wgpu-py's API over `navigator.gpu`.

wgpu-py 0.32 has no browser backend (its `js_webgpu` is a stub). Importing this module registers one
through `wgpu.backends._register_backend`, after which `wgpu.gpu` works under Pyodide with wgpu-py's
own classes, method names, keywords and defaults, for everything compute needs; textures and
rendering are left out and raise NotImplementedError as in wgpu-py's base classes. Never import
`wgpu.backends.auto` in a page: it would register the stub. No JavaScript object is held at module
level, so that the module may be part of a Pyodide memory snapshot.

Where a browser forces a difference from wgpu-native:

- Nothing can block. `*_sync` methods, and `sync_wait()` of any promise, raise RuntimeError naming
  the `*_async` twin; `GPUQueue.read_buffer` is refused likewise.
- Errors arrive late. What Python can see is raised on the spot (sizes, alignment, ranges, unknown
  names); the rest the browser reports by `uncapturederror`. The device keeps those errors, and its
  next promise to be settled (`map_async`, `on_submitted_work_done_async`) raises the oldest, the
  others as notes: in Chromium they precede the promises of later calls, so a faulty submit fails
  the readback behind it. `GPUDevice.uncaptured_errors` shows the last 16. Error scopes work, under
  wgpu-py's hidden names (`push_error_scope`, `pop_error_scope_async`), and what they capture is not
  raised again.
- `create_compute_pipeline_async` raises the shader's own errors, with lines, as GPUValidationError,
  and otherwise GPUPipelineError, which is a GPUError here.
- A lost device: `lost_async` resolves to GPUDeviceLostInfo, and `lost_info` is that, or None while
  all is well. Promises pending then, or made later, raise a GPUError that begins with "The GPU
  device was lost".
- Firefox looks for finished mappings about every 100 ms unless something is submitted: there, and
  only there, empty submits a millisecond apart wake it while one is awaited (gpt2web.nudge).
- A browser's adapter gives one device only: ask for a new adapter for the next.
- `gpu.adopt_device` and `GPUDevice.adopt_compute_pipeline` take what JavaScript has made already.

`write_buffer`, `write_mapped` and `create_buffer_with_data` also take JavaScript typed arrays and
ArrayBuffers, which never pass through the WASM heap.

Source: https://www.w3.org/TR/webgpu/, and wgpu-py's `_classes.py` and `wgpu_native/_api.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

import js
from pyodide.ffi import JsException, JsProxy, create_proxy, to_js
from wgpu import classes, enums, flags, structs
from wgpu._coreutils import ArrayLike, CanvasLike, str_flag_to_int
from wgpu.backends import _register_backend

from gpt2web.nudge import Nudge, looks_slowly

T = TypeVar("T")

ERRORS_KEPT = 16
LOSS_DELAY = 1.0  # seconds at most; a lost device rejects what is pending before it says it is lost
# What browsers call adapters that compute on the CPU, where they don't say so by isFallbackAdapter.
SOFTWARE_ADAPTERS = ("swiftshader", "llvmpipe", "lavapipe", "basic render")


# --- Names, descriptors, errors ------------------------------------------------------------------


def _to_dashes(name: str) -> str:
    """maxTextureDimension1D, max_texture_dimension_1d -> max-texture-dimension-1d."""
    dashed = ""
    for before, letter in zip(" " + name, name, strict=False):
        if letter.isupper() and before.isdigit():  # 1D
            dashed = f"{dashed[:-1]}-{before}"
        elif letter.isupper() and dashed:
            dashed += "-"
        dashed += letter.lower()
    return dashed.replace("_", "-")


def _to_camel(name: str) -> str:
    """max-texture-dimension-1d, max_texture_dimension_1d -> maxTextureDimension1D."""
    first, *others = name.replace("_", "-").split("-")
    camel = first + "".join(part.capitalize() for part in others)
    return camel[:-1] + "D" if camel.endswith(("1d", "2d", "3d")) else camel


def _plain(value: Any) -> Any:
    """Structs and dicts with JavaScript's keys and without None; GPU objects as JavaScript's."""
    if isinstance(value, classes.GPUObjectBase):
        return value._internal
    if isinstance(value, (structs.Struct, dict)):
        pairs = {key: value[key] for key in value}
        return {_to_camel(k): _plain(v) for k, v in pairs.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _descriptor(**fields: Any) -> Any:
    """The JavaScript object for these fields; an empty label is left out."""
    if not fields.get("label"):
        fields.pop("label", None)
    return to_js(_plain(fields), dict_converter=js.Object.fromEntries)


def _check_struct(name: str, value: Any) -> None:
    """As wgpu-native's backend: a struct of this name, or a dict with only its keys."""
    struct = getattr(structs, name)
    if isinstance(value, struct):
        return
    if not isinstance(value, dict):
        raise TypeError(f"Expecting {name} or dict, but got {value!r}")
    invalid = set(value).difference(struct.__annotations__)
    if invalid:
        raise ValueError(f"Invalid keys in {name}: {invalid}")


def _flags(kind: Any, value: Any) -> int:
    return int(str_flag_to_int(kind, value) if isinstance(value, str) else value)


def _call(function: Any, *arguments: Any) -> Any:
    """Calls into JavaScript; what it throws becomes wgpu-py's or Python's error."""
    try:
        return function(*arguments)
    except JsException as thrown:
        raise _python_error(thrown) from None


def _python_error(thrown: Any) -> Exception:
    """A DOMException or Error, thrown or rejected with."""
    name, message = str(thrown.name), str(thrown.message).strip()
    match name:
        case "GPUPipelineError":
            return GPUPipelineError(message, {"reason": str(thrown.js_error.reason)})
        case "TypeError":
            return TypeError(message)
        case "RangeError":
            return classes.GPUOutOfMemoryError(message)
        case "OperationError":
            return classes.GPUValidationError(message)
    return RuntimeError(f"{name}: {message}")


def _gpu_error(error: Any) -> classes.GPUError:
    """A JavaScript GPUError as wgpu-py's class of the same name."""
    kind = getattr(classes, str(error.constructor.name), classes.GPUError)
    return kind(str(error.message).strip())


def _refuse_sync(twin: str) -> NoReturn:
    raise RuntimeError(f"A browser can't block until this is done: use `await {twin}` instead.")


def _byte_view(data: Any) -> Any:
    """A JavaScript Uint8Array of any Python buffer, typed array, DataView or ArrayBuffer.

    Python's bytes are copied; JavaScript's are only viewed.
    """
    if not isinstance(data, JsProxy):
        return to_js(memoryview(data).cast("B"))
    if js.ArrayBuffer.isView(data):
        return js.Uint8Array.new(data.buffer, data.byteOffset, data.byteLength)
    if data.constructor.name in ("ArrayBuffer", "SharedArrayBuffer"):
        return js.Uint8Array.new(data)
    raise TypeError(f"Expected bytes or a typed array, got a JavaScript {data.constructor.name}.")


# --- Promises ------------------------------------------------------------------------------------


class GPUPromise(classes.GPUPromise[T], Generic[T]):
    def _sync_wait(self) -> NoReturn:
        _refuse_sync(f"{self._title}_async()")


class _Health:
    """What a device reports by itself: errors that nobody captured, and its loss."""

    def __init__(self) -> None:
        self.recent: deque[classes.GPUError] = deque(maxlen=ERRORS_KEPT)
        self.unraised: list[classes.GPUError] = []
        self.lost: GPUDeviceLostInfo | None = None
        self._waiting: dict[Callable[[], None], asyncio.Handle] = {}  # for the loss, or its timer

    def on_lost(self, info: GPUDeviceLostInfo) -> None:
        self.lost = info
        for call in list(self._waiting):
            self._tell(call)

    def _tell(self, call: Callable[[], None]) -> None:
        self._waiting.pop(call).cancel()
        call()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Calls back once, when the device is lost, or a while later where it is not."""
        if self.lost is not None:
            call()
            return
        loop = asyncio.get_running_loop()
        self._waiting[call] = loop.call_later(LOSS_DELAY, self._tell, call)

    def on_uncaptured_error(self, event: Any) -> None:
        error = _gpu_error(event.error)
        self.recent.append(error)
        if len(self.unraised) < ERRORS_KEPT:
            self.unraised.append(error)

    def take_error(self) -> Exception | None:
        """The error to raise now, if any; it is raised once."""
        if self.unraised:
            first, *later = self.unraised
            self.unraised = []
            for error in later:
                first.add_note(f"followed by: {error}")
            return first
        if self.lost is not None:
            return classes.GPUError(
                f"The GPU device was lost ({self.lost.reason}): {self.lost.message}"
            )
        return None


def _settle(
    title: str,
    js_promise: Any,
    handler: Callable[[Any], Any] | None = None,
    *,
    health: _Health | None = None,
    explain: Callable[[Exception], Exception] = lambda error: error,
    undo: Callable[[], object] | None = None,
) -> GPUPromise[Any]:
    """The GPUPromise for a JavaScript promise.

    health: the device's; its errors come before the promise's own result. undo: called when that
    happens to a fulfilled promise. explain: makes the promise's own error a better one.
    """
    promise: GPUPromise[Any] = GPUPromise(title, handler)

    def fulfilled(result: Any) -> None:
        error = health.take_error() if health else None
        if error is None:
            promise._set_input(result)
            return
        if undo is not None:
            undo()
        promise._set_error(error)

    def rejected(reason: Any) -> None:
        if health is not None and reason.name == "AbortError":
            health.when_lost(lambda: reject(reason))
        else:
            reject(reason)

    def reject(reason: Any) -> None:
        error = health.take_error() if health else None
        promise._set_error(error or explain(_python_error(reason)))

    js_promise.then(fulfilled, rejected)
    return promise


# --- GPU, adapter --------------------------------------------------------------------------------


class GPU(classes.GPU):
    def request_adapter_async(
        self,
        *,
        feature_level: str = "core",
        power_preference: enums.PowerPreferenceEnum | None = None,
        force_fallback_adapter: bool = False,
        canvas: CanvasLike | None = None,
    ) -> GPUPromise[GPUAdapter]:
        gpu = _navigator_gpu()
        if gpu is None:
            promise: GPUPromise[GPUAdapter] = GPUPromise("request_adapter", None)
            promise._set_error(RuntimeError("Request adapter failed: this browser has no WebGPU."))
            return promise
        options = _descriptor(
            feature_level=feature_level,
            power_preference=power_preference,
            force_fallback_adapter=bool(force_fallback_adapter),
        )

        def handler(adapter: Any) -> GPUAdapter:
            if not adapter:
                raise RuntimeError("Request adapter failed: WebGPU finds no suitable adapter here.")
            return _adapter(adapter)

        return _settle("request_adapter", _call(gpu.requestAdapter, options), handler)

    def request_adapter_sync(
        self,
        *,
        feature_level: str = "core",
        power_preference: enums.PowerPreferenceEnum | None = None,
        force_fallback_adapter: bool = False,
        canvas: CanvasLike = None,
    ) -> GPUAdapter:
        _refuse_sync("gpu.request_adapter_async()")

    def enumerate_adapters_async(self) -> GPUPromise[list[GPUAdapter]]:
        """What a browser gives for each preference, without doubles, the default first."""
        promise: GPUPromise[list[GPUAdapter]] = GPUPromise("enumerate_adapters", None)
        gpu = _navigator_gpu()
        wanted: list[dict[str, Any]] = [
            {},
            {"power_preference": "high-performance"},
            {"power_preference": "low-power"},
            {"force_fallback_adapter": True},
        ]

        def found(results: Any) -> None:
            adapters: list[GPUAdapter] = []
            for result in results:
                adapter = _adapter(result) if result else None
                if adapter and adapter.info not in [known.info for known in adapters]:
                    adapters.append(adapter)
            promise._set_input(adapters)

        if gpu is None:
            promise._set_input([])
            return promise
        asked = [gpu.requestAdapter(_descriptor(**options)) for options in wanted]
        js.Promise.all(to_js(asked)).then(
            found, lambda reason: promise._set_error(_python_error(reason))
        )
        return promise

    def enumerate_adapters_sync(self) -> list[GPUAdapter]:
        _refuse_sync("gpu.enumerate_adapters_async()")

    def adopt_device(self, adapter: Any, device: Any) -> GPUDevice:
        """The GPUDevice for one that JavaScript has got from an adapter: JavaScript's objects."""
        return _device(_adapter(adapter), device)

    @property
    def wgsl_language_features(self) -> set[str]:
        gpu = _navigator_gpu()
        return set() if gpu is None else {str(name) for name in gpu.wgslLanguageFeatures}

    def get_canvas_context(self, present_info: dict[str, Any]) -> NoReturn:
        raise NotImplementedError("This backend computes only: it has no canvas context.")


def _navigator_gpu() -> Any:
    try:
        return getattr(js.navigator, "gpu", None)
    except JsException:  # while a memory snapshot is made, Pyodide's js is a stand-in
        return None


def _limits(js_limits: Any) -> dict[str, int]:
    """GPUSupportedLimits in wgpu-py's spelling: {"max-buffer-size": 268435456, ...}."""
    names = js.Object.getOwnPropertyNames(js.Object.getPrototypeOf(js_limits))
    return {
        _to_dashes(name): int(getattr(js_limits, name))
        for name in sorted(names)
        if name.startswith(("max", "min"))
    }


def _adapter(adapter: Any) -> GPUAdapter:
    """The GPUAdapter for a JavaScript one.

    Browsers leave `device` empty; it then holds what they do tell, for `summary` and messages.
    """
    told = adapter.info
    info = {name: str(getattr(told, name, "")) for name in ("vendor", "architecture")}
    description = str(getattr(told, "description", ""))
    named = " ".join(filter(None, info.values()))
    info["device"] = str(getattr(told, "device", "")) or description or named
    info["description"] = description
    fallback = getattr(told, "isFallbackAdapter", getattr(adapter, "isFallbackAdapter", False))
    called = " ".join(info.values()).lower()
    software = fallback or any(name in called for name in SOFTWARE_ADAPTERS)
    details: dict[str, Any] = {
        **info,
        "adapter_type": "CPU" if software else "unknown",
        "backend_type": "WebGPU",
    }
    for name in ("subgroup_min_size", "subgroup_max_size"):
        size = getattr(told, _to_camel(name), None)
        if size is not None:
            details[name] = int(size)
    features = {str(name) for name in adapter.features}
    return GPUAdapter(adapter, features, _limits(adapter.limits), GPUAdapterInfo(details))


def _device(adapter: GPUAdapter, device: Any, label: str = "") -> GPUDevice:
    """The GPUDevice for a JavaScript one."""
    queue = GPUQueue("", device.queue, None)
    features = {str(name) for name in device.features}
    return GPUDevice(label, device, adapter, features, _limits(device.limits), queue)


class GPUAdapterInfo(classes.GPUAdapterInfo):
    pass


class GPUAdapter(classes.GPUAdapter):
    def request_device_async(
        self,
        *,
        label: str = "",
        required_features: Sequence[enums.FeatureNameEnum] = (),
        required_limits: dict[str, int | None] | None = None,
        default_queue: structs.QueueDescriptorStruct | None = None,
    ) -> GPUPromise[GPUDevice]:
        """A limit not named is the adapter's, as in wgpu-native; None asks for the default."""
        if default_queue:
            _check_struct("QueueDescriptor", default_queue)
        names = [self._feature_name(feature) for feature in required_features]
        # The limits of render stages stay out: asked for, they raise those of every stage.
        limits: dict[str, int | None] = {
            name: value
            for name, value in self._limits.items()
            if not name.endswith(("-in-vertex-stage", "-in-fragment-stage"))
        }
        for name, value in (required_limits or {}).items():
            limits[self._limit_name(name)] = value
        descriptor = _descriptor(
            label=label,
            required_features=names,
            required_limits=limits,
            default_queue=default_queue,
        )

        def handler(device: Any) -> GPUDevice:
            return _device(self, device, label)

        def explain(error: Exception) -> Exception:
            return RuntimeError(f"Request device failed: {error}")

        asked = _call(self._internal.requestDevice, descriptor)
        return _settle("request_device", asked, handler, explain=explain)

    def request_device_sync(
        self,
        *,
        label: str = "",
        required_features: Sequence[enums.FeatureNameEnum] = (),
        required_limits: dict[str, int | None] | None = None,
        default_queue: structs.QueueDescriptorStruct | None = None,
    ) -> GPUDevice:
        _refuse_sync("adapter.request_device_async()")

    def _feature_name(self, feature: str) -> str:
        if not isinstance(feature, str):
            raise TypeError("Features must be given as str.")
        name = _to_dashes(feature)
        if name not in enums.FeatureName and name not in self._features:
            raise KeyError(f"Unknown feature: '{name}'")
        return name

    def _limit_name(self, name: str) -> str:
        dashed = _to_dashes(name)
        if dashed not in self._limits:
            raise KeyError(f"Unknown limit name '{name}'")
        return dashed


# --- Device --------------------------------------------------------------------------------------


class GPUDevice(classes.GPUDevice):
    def __init__(
        self,
        label: str,
        internal: Any,
        adapter: GPUAdapter,
        features: set[str],
        limits: dict[str, int],
        queue: GPUQueue,
    ) -> None:
        super().__init__(label, internal, adapter, features, limits, queue)
        # The listeners hold these two, not the device, which would never be collected otherwise.
        self._health = health = _Health()
        self._lost = lost = GPUPromise[GPUDeviceLostInfo]("lost", None)
        self._listener = create_proxy(health.on_uncaptured_error)
        internal.addEventListener("uncapturederror", self._listener)

        def on_lost(info: Any) -> None:
            told = GPUDeviceLostInfo(str(info.reason), str(info.message).strip())
            lost._set_input(told)
            health.on_lost(told)

        internal.lost.then(on_lost)
        self._nudge: Nudge | None = None
        if looks_slowly(str(js.navigator.userAgent)):
            self._nudge = Nudge(
                lambda: internal.queue.submit(js.Array.new()), asyncio.get_running_loop().call_later
            )

    @property
    def uncaptured_errors(self) -> list[classes.GPUError]:
        """The last 16 errors reported outside any error scope, the oldest first, raised or not."""
        return list(self._health.recent)

    def forget_errors(self) -> None:
        """Drops the errors that no promise has raised yet: whoever knows their cause has told."""
        self._health.unraised.clear()

    @property
    def lost_info(self) -> GPUDeviceLostInfo | None:
        """Why the device was lost ("destroyed" after destroy()); None while it works."""
        return self._health.lost

    @property
    def lost_async(self) -> GPUPromise[GPUDeviceLostInfo]:
        return self._get_lost_async()

    @property
    def lost_sync(self) -> GPUDeviceLostInfo:
        _refuse_sync("device.lost_async")

    def _get_lost_async(self) -> GPUPromise[GPUDeviceLostInfo]:
        return self._lost

    def destroy(self) -> None:
        self._internal.destroy()

    def _release(self) -> None:
        listener = getattr(self, "_listener", None)  # absent when __init__ failed
        if listener is not None:
            self._listener = None
            self._internal.removeEventListener("uncapturederror", listener)
            listener.destroy()

    def create_buffer(
        self,
        *,
        label: str = "",
        size: int,
        usage: flags.BufferUsageFlags,
        mapped_at_creation: bool = False,
    ) -> GPUBuffer:
        """Raises ValueError for a size that isn't a multiple of 4 bytes."""
        size, usage = int(size), _flags(flags.BufferUsage, usage)
        if size < 0 or size % 4:
            raise ValueError(
                f"A buffer's size must be a multiple of 4 bytes, but {label or 'this one'} has "
                f"{size}: round it up to {max(size + 3, 0) // 4 * 4}."
            )
        largest = self._limits["max-buffer-size"]
        if size > largest:
            raise classes.GPUValidationError(
                f"A buffer of {size} bytes ({label or 'unlabelled'}) exceeds this device's "
                f"max-buffer-size, {largest}: split it, or ask for more in required_limits."
            )
        mapped = bool(mapped_at_creation)
        descriptor = _descriptor(label=label, size=size, usage=usage, mapped_at_creation=mapped)
        buffer = _call(self._internal.createBuffer, descriptor)
        state = enums.BufferMapState.mapped if mapped else enums.BufferMapState.unmapped
        return GPUBuffer(label, buffer, self, size, usage, state)

    def create_buffer_with_data(
        self, *, label: str = "", data: ArrayLike, usage: flags.BufferUsageFlags
    ) -> GPUBuffer:
        if not isinstance(data, JsProxy):
            buffer: GPUBuffer = super().create_buffer_with_data(label=label, data=data, usage=usage)
            return buffer
        size = (int(_byte_view(data).byteLength) + 3) & ~3
        buffer = self.create_buffer(label=label, size=size, usage=usage, mapped_at_creation=True)
        buffer.write_mapped(data)
        buffer.unmap()
        return buffer

    def create_bind_group_layout(
        self, *, label: str = "", entries: Sequence[structs.BindGroupLayoutEntryStruct]
    ) -> GPUBindGroupLayout:
        made = []
        for entry in entries:
            _check_struct("BindGroupLayoutEntry", entry)
            if entry.get("buffer") is None:
                raise NotImplementedError("This backend computes only: it binds only buffers.")
            _check_struct("BufferBindingLayout", entry["buffer"])
            visibility = _flags(flags.ShaderStage, entry["visibility"])
            made.append({**entry, "visibility": visibility})
        descriptor = _descriptor(label=label, entries=made)
        layout = _call(self._internal.createBindGroupLayout, descriptor)
        return GPUBindGroupLayout(label, layout, self)

    def create_bind_group(
        self,
        *,
        label: str = "",
        layout: GPUBindGroupLayout,
        entries: Sequence[structs.BindGroupEntryStruct],
    ) -> GPUBindGroup:
        made = []
        for entry in entries:
            _check_struct("BindGroupEntry", entry)
            resource = entry["resource"]
            if isinstance(resource, GPUBuffer):
                resource = {"buffer": resource}
            elif isinstance(resource, (structs.BufferBinding, dict)):
                _check_struct("BufferBinding", resource)
            else:
                raise TypeError(f"Unexpected resource type {type(resource)}")
            made.append({"binding": int(entry["binding"]), "resource": resource})
        descriptor = _descriptor(label=label, layout=layout, entries=made)
        return GPUBindGroup(label, _call(self._internal.createBindGroup, descriptor), self)

    def create_pipeline_layout(
        self,
        *,
        label: str = "",
        bind_group_layouts: Sequence[GPUBindGroupLayout],
        immediate_size: int = 0,
    ) -> GPUPipelineLayout:
        descriptor = _descriptor(
            label=label,
            bind_group_layouts=list(bind_group_layouts),
            immediate_size=immediate_size or None,
        )
        layout = _call(self._internal.createPipelineLayout, descriptor)
        return GPUPipelineLayout(label, layout, self)

    def create_shader_module(
        self,
        *,
        label: str = "",
        code: str,
        compilation_hints: Sequence[structs.ShaderModuleCompilationHintStruct] = (),
    ) -> GPUShaderModule:
        if not isinstance(code, str):
            raise TypeError(f"Shader code must be WGSL in a str, not {type(code).__name__}.")
        module = _call(self._internal.createShaderModule, _descriptor(label=label, code=code))
        return GPUShaderModule(label, module, self, code)

    def create_compute_pipeline(
        self,
        *,
        label: str = "",
        layout: GPUPipelineLayout | enums.AutoLayoutModeEnum,
        compute: structs.ProgrammableStageStruct,
    ) -> GPUComputePipeline:
        descriptor = self._compute_pipeline_descriptor(label, layout, compute)
        pipeline = _call(self._internal.createComputePipeline, descriptor)
        return GPUComputePipeline(label, pipeline, self)

    def create_compute_pipeline_async(
        self,
        *,
        label: str = "",
        layout: GPUPipelineLayout | enums.AutoLayoutModeEnum,
        compute: structs.ProgrammableStageStruct,
    ) -> GPUPromise[GPUComputePipeline]:
        descriptor = self._compute_pipeline_descriptor(label, layout, compute)
        module, health = compute["module"], self._health

        def handler(pipeline: Any) -> GPUComputePipeline:
            return GPUComputePipeline(label, pipeline, self)

        promise: GPUPromise[GPUComputePipeline] = GPUPromise("create_compute_pipeline", handler)

        def rejected(reason: Any) -> None:
            failed = _python_error(reason)
            failed.add_note(f"while creating the compute pipeline {label or '(unlabelled)'}")

            def told(info: GPUCompilationInfo) -> None:
                # The browser reported a module that does not compile on its own already.
                reported = health.take_error()
                promise._set_error(module._compile_error(info) or reported or failed)

            module.get_compilation_info_async().then(told, promise._set_error)

        _call(self._internal.createComputePipelineAsync, descriptor).then(
            promise._set_input, rejected
        )
        return promise

    def adopt_compute_pipeline(self, label: str, pipeline: Any) -> GPUComputePipeline:
        """The GPUComputePipeline for one that JavaScript has had compiled on this device."""
        return GPUComputePipeline(label, pipeline, self)

    def _compute_pipeline_descriptor(
        self,
        label: str,
        layout: GPUPipelineLayout | enums.AutoLayoutModeEnum,
        compute: structs.ProgrammableStageStruct,
    ) -> Any:
        _check_struct("ProgrammableStage", compute)
        if not isinstance(layout, GPUPipelineLayout) and layout != enums.AutoLayoutMode.auto:
            raise TypeError(
                "create_compute_pipeline() 'layout' arg must be a GPUPipelineLayout or 'auto'"
            )
        stage = {"module": compute["module"], "entry_point": compute.get("entry_point")}
        descriptor = _descriptor(label=label, layout=layout, compute=stage)
        constants = compute.get("constants")
        if constants:  # its keys are the shader's names, to be left as they are
            pairs = [[str(key), float(value)] for key, value in constants.items()]
            descriptor.compute.constants = js.Object.fromEntries(to_js(pairs))
        return descriptor

    def create_command_encoder(self, *, label: str = "") -> GPUCommandEncoder:
        create = self._internal.createCommandEncoder
        encoder = create(_descriptor(label=label)) if label else create()
        return GPUCommandEncoder(label, encoder, self)

    def create_query_set(
        self, *, label: str = "", type: enums.QueryTypeEnum, count: int
    ) -> GPUQuerySet:
        descriptor = _descriptor(label=label, type=type, count=int(count))
        query_set = _call(self._internal.createQuerySet, descriptor)
        return GPUQuerySet(label, query_set, self, type, count)

    def push_error_scope(self, filter: enums.ErrorFilterEnum) -> None:
        _call(self._internal.pushErrorScope, filter)

    def pop_error_scope_sync(self) -> classes.GPUError:
        _refuse_sync("device.pop_error_scope_async()")

    def pop_error_scope_async(self) -> GPUPromise[classes.GPUError]:
        """Resolves to the first error captured since the matching push, or None."""

        def handler(error: Any) -> classes.GPUError | None:
            return _gpu_error(error) if error else None

        return _settle("pop_error_scope", _call(self._internal.popErrorScope), handler)


# --- Resources -----------------------------------------------------------------------------------


class GPUBuffer(classes.GPUBuffer):
    def __init__(
        self, label: str, internal: Any, device: GPUDevice, size: int, usage: int, map_state: str
    ) -> None:
        super().__init__(label, internal, device, size, usage, map_state)
        self._mapped: Any = None  # the whole mapped range: WebGPU hands out each byte only once
        self._mapped_status = 0, 0, 0  # begin, end, mode
        if map_state == enums.BufferMapState.mapped:
            self._on_mapped(0, size, flags.MapMode.WRITE)

    def _on_mapped(self, offset: int, size: int, mode: int) -> None:
        self._mapped = _call(self._internal.getMappedRange, offset, size)
        self._mapped_status = offset, offset + size, mode
        self._map_state = enums.BufferMapState.mapped

    def _on_unmapped(self) -> None:
        self._mapped = None
        self._mapped_status = 0, 0, 0
        self._map_state = enums.BufferMapState.unmapped

    def _check_range(self, offset: int | None, size: int | None) -> tuple[int, int]:
        begin, end, mode = self._mapped_status if self._mapped_status[2] else (0, self.size, 0)
        offset = begin if offset is None else int(offset)
        size = end - offset if size is None else int(size)
        if offset < 0:
            raise ValueError("Mapped offset must not be smaller than zero.")
        if offset % 8:
            raise ValueError("Mapped offset must be a multiple of 8.")
        if size < 1:
            raise ValueError("Mapped size must be larger than zero.")
        if size % 4:
            raise ValueError("Mapped size must be a multiple of 4.")
        if offset + size > self.size:
            raise ValueError("Mapped range must not extend beyond total buffer size.")
        if mode and not begin <= offset <= offset + size <= end:
            raise ValueError(
                f"Bytes {offset} to {offset + size} are not in the mapped range, {begin} to {end}."
            )
        return offset, size

    def map_async(
        self, mode: flags.MapModeFlags, offset: int = 0, size: int | None = None
    ) -> GPUPromise[None]:
        bits = _flags(flags.MapMode, mode)
        offset, length = self._check_range(offset, size)
        if self._map_state != enums.BufferMapState.unmapped:
            promise: GPUPromise[None] = GPUPromise("map", None)
            promise._set_error(
                RuntimeError(
                    f"Can only map a buffer if its currently unmapped, not {self._map_state!r}"
                )
            )
            return promise

        def undo() -> None:
            self._internal.unmap()
            self._on_unmapped()

        def explain(error: Exception) -> Exception:
            self._on_unmapped()
            return RuntimeError(f"Could not map buffer {self._label or self._uid}: {error}")

        mapping = _call(self._internal.mapAsync, bits, offset, length)
        nudge = self._device._nudge
        if nudge is not None:
            nudge.begin()
            mapping.then(lambda _: nudge.end(), lambda _: nudge.end())
        self._map_state = enums.BufferMapState.pending
        return _settle(
            "map",
            mapping,
            lambda _: self._on_mapped(offset, length, bits),
            health=self._device._health,
            explain=explain,
            undo=undo,
        )

    def map_sync(self, mode: flags.MapModeFlags, offset: int = 0, size: int | None = None) -> None:
        _refuse_sync("buffer.map_async()")

    def unmap(self) -> None:
        if self._map_state != enums.BufferMapState.mapped:
            raise RuntimeError("Can only unmap a buffer if its currently mapped.")
        self._internal.unmap()
        self._on_unmapped()

    def read_mapped(
        self,
        buffer_offset: int | None = None,
        size: int | None = None,
        *,
        copy: bool = True,
    ) -> memoryview:
        """Always a copy, as Python can't see JavaScript's memory; read-only if copy is False."""
        if self._map_state != enums.BufferMapState.mapped:
            raise RuntimeError("Can only read from a buffer if its mapped.")
        begin, _, mode = self._mapped_status
        if not mode & flags.MapMode.READ:
            raise RuntimeError("Can only read from a buffer if its mapped in read mode.")
        offset, length = self._check_range(buffer_offset, size)
        data = js.Uint8Array.new(self._mapped, offset - begin, length).to_memoryview()
        return data if copy else data.toreadonly()

    def write_mapped(self, data: ArrayLike, buffer_offset: int | None = None) -> None:
        """data: any Python buffer, JavaScript typed array or ArrayBuffer."""
        if self._map_state != enums.BufferMapState.mapped:
            raise RuntimeError("Can only write to a buffer if its mapped.")
        begin, _, mode = self._mapped_status
        if not mode & flags.MapMode.WRITE:
            raise RuntimeError("Can only write from a buffer if its mapped in write mode.")
        view = _byte_view(data)
        offset, _ = self._check_range(buffer_offset, (int(view.byteLength) + 3) & ~3)
        js.Uint8Array.new(self._mapped).set(view, offset - begin)

    def destroy(self) -> None:
        self._internal.destroy()
        self._on_unmapped()


class GPUBindGroupLayout(classes.GPUBindGroupLayout):
    pass


class GPUBindGroup(classes.GPUBindGroup):
    pass


class GPUPipelineLayout(classes.GPUPipelineLayout):
    pass


class GPUShaderModule(classes.GPUShaderModule):
    def __init__(self, label: str, internal: Any, device: GPUDevice, code: str) -> None:
        super().__init__(label, internal, device)
        self._code = code  # to show the line an error is in

    def get_compilation_info_async(self) -> GPUPromise[GPUCompilationInfo]:
        asked = _call(self._internal.getCompilationInfo)
        return _settle("get_compilation_info", asked, GPUCompilationInfo)

    def get_compilation_info_sync(self) -> GPUCompilationInfo:
        _refuse_sync("shader_module.get_compilation_info_async()")

    def _compile_error(self, info: GPUCompilationInfo) -> classes.GPUValidationError | None:
        lines = self._code.splitlines()
        told = []
        for found in info.messages:
            if found.type == "error":
                told.append(f"  line {found.line_num}, column {found.line_pos}: {found.message}")
                told += [f"    {line}" for line in lines[found.line_num - 1 : found.line_num]]
        if not told:
            return None
        name = f"'{self._label}'" if self._label else "(unlabelled)"
        return classes.GPUValidationError("\n".join([f"Shader {name} does not compile:", *told]))


class GPUComputePipeline(classes.GPUComputePipeline):
    def get_bind_group_layout(self, index: int) -> GPUBindGroupLayout:
        layout = _call(self._internal.getBindGroupLayout, index)
        return GPUBindGroupLayout("", layout, self._device)


class GPUQuerySet(classes.GPUQuerySet):
    def destroy(self) -> None:
        self._internal.destroy()


# --- Commands ------------------------------------------------------------------------------------


class GPUCommandBuffer(classes.GPUCommandBuffer):
    pass


class GPUDebugCommandsMixin(classes.GPUDebugCommandsMixin):
    _internal: Any

    def push_debug_group(self, group_label: str) -> None:
        self._internal.pushDebugGroup(group_label)

    def pop_debug_group(self) -> None:
        self._internal.popDebugGroup()

    def insert_debug_marker(self, marker_label: str) -> None:
        self._internal.insertDebugMarker(marker_label)


class GPUCommandEncoder(GPUDebugCommandsMixin, classes.GPUCommandEncoder):
    def begin_compute_pass(
        self,
        *,
        label: str = "",
        timestamp_writes: structs.ComputePassTimestampWritesStruct | None = None,
    ) -> GPUComputePassEncoder:
        begin = self._internal.beginComputePass
        if timestamp_writes is not None:
            _check_struct("ComputePassTimestampWrites", timestamp_writes)
        if label or timestamp_writes is not None:
            encoder = _call(begin, _descriptor(label=label, timestamp_writes=timestamp_writes))
        else:
            encoder = begin()
        return GPUComputePassEncoder(label, encoder, self._device)

    def clear_buffer(self, buffer: GPUBuffer, offset: int = 0, size: int | None = None) -> None:
        length = buffer.size - offset if size is None else size
        _check_span("clear_buffer()", buffer, offset, length)
        self._internal.clearBuffer(buffer._internal, offset, length)

    def copy_buffer_to_buffer(
        self,
        source: GPUBuffer,
        source_offset: int,
        destination: GPUBuffer,
        destination_offset: int,
        size: int | None = None,
    ) -> None:
        if not isinstance(source, GPUBuffer):
            raise TypeError("copy_buffer_to_buffer() source must be a GPUBuffer.")
        if not isinstance(destination, GPUBuffer):
            raise TypeError("copy_buffer_to_buffer() destination must be a GPUBuffer.")
        length = source.size - source_offset if size is None else size
        _check_span("copy_buffer_to_buffer() source", source, source_offset, length)
        _check_span("copy_buffer_to_buffer() destination", destination, destination_offset, length)
        self._internal.copyBufferToBuffer(
            source._internal, source_offset, destination._internal, destination_offset, length
        )

    def resolve_query_set(
        self,
        query_set: GPUQuerySet,
        first_query: int,
        query_count: int,
        destination: GPUBuffer,
        destination_offset: int,
    ) -> None:
        self._internal.resolveQuerySet(
            query_set._internal, first_query, query_count, destination._internal, destination_offset
        )

    def finish(self, *, label: str = "") -> GPUCommandBuffer:
        finish = self._internal.finish
        commands = finish(_descriptor(label=label)) if label else finish()
        return GPUCommandBuffer(label, commands, self._device)


def _check_span(what: str, buffer: GPUBuffer, offset: int, size: int) -> None:
    if offset % 4 or size % 4:
        raise ValueError(f"{what}: offset {offset} and size {size} must be multiples of 4 bytes.")
    if offset < 0 or size < 0 or offset + size > buffer.size:
        raise ValueError(
            f"{what}: bytes {offset} to {offset + size} are not in the buffer's {buffer.size}."
        )


class GPUComputePassEncoder(GPUDebugCommandsMixin, classes.GPUComputePassEncoder):
    """The only calls made for every kernel, so JavaScript's methods are bound once per pass.

    Arguments that JavaScript itself refuses raise its JsException.
    """

    def __init__(self, label: str, internal: Any, device: GPUDevice) -> None:
        super().__init__(label, internal, device)
        self._set_pipeline = internal.setPipeline
        self._set_bind_group = internal.setBindGroup
        self._dispatch = internal.dispatchWorkgroups

    def set_pipeline(self, pipeline: GPUComputePipeline) -> None:
        self._set_pipeline(pipeline._internal)

    def set_bind_group(
        self,
        index: int,
        bind_group: GPUBindGroup,
        dynamic_offsets_data: Sequence[int] = (),
        dynamic_offsets_data_start: int | None = None,
        dynamic_offsets_data_length: int | None = None,
    ) -> None:
        if dynamic_offsets_data_start is None and dynamic_offsets_data_length is None:
            if not dynamic_offsets_data:
                self._set_bind_group(index, bind_group._internal)
                return
            start, end = 0, len(dynamic_offsets_data)
        elif dynamic_offsets_data_start is None or dynamic_offsets_data_length is None:
            raise ValueError("Dynamic offsets start and length must be both set or both None.")
        else:
            start, end = dynamic_offsets_data_start, dynamic_offsets_data_length
            if start < 0 or end < 0:
                raise ValueError("Dynamic offsets start and length must be non-negative.")
            end += start
        offsets = to_js([int(offset) for offset in dynamic_offsets_data[start:end]])
        self._set_bind_group(index, bind_group._internal, offsets)

    def dispatch_workgroups(
        self,
        workgroup_count_x: int,
        workgroup_count_y: int = 1,
        workgroup_count_z: int = 1,
    ) -> None:
        self._dispatch(workgroup_count_x, workgroup_count_y, workgroup_count_z)

    def dispatch_workgroups_indirect(
        self, indirect_buffer: GPUBuffer, indirect_offset: int
    ) -> None:
        self._internal.dispatchWorkgroupsIndirect(indirect_buffer._internal, indirect_offset)

    def end(self) -> None:
        self._internal.end()


class GPUQueue(classes.GPUQueue):
    def submit(self, command_buffers: Sequence[GPUCommandBuffer]) -> None:
        self._internal.submit(to_js([commands._internal for commands in command_buffers]))

    def write_buffer(
        self,
        buffer: GPUBuffer,
        buffer_offset: int,
        data: ArrayLike,
        data_offset: int = 0,
        size: int | None = None,
    ) -> None:
        """data: any Python buffer, JavaScript typed array or ArrayBuffer.

        data_offset, size: in bytes, whatever the elements of data, as in wgpu-native's backend.
        """
        view = _byte_view(data)
        held = int(view.byteLength)
        length = int(size) if size else held - data_offset
        if not 0 <= data_offset <= data_offset + length <= held:
            raise ValueError(
                f"write_buffer(): bytes {data_offset} to {data_offset + length} are not in the "
                f"data's {held}."
            )
        _check_span("write_buffer()", buffer, buffer_offset, length)
        _call(
            self._internal.writeBuffer, buffer._internal, buffer_offset, view, data_offset, length
        )

    def read_buffer(
        self, buffer: GPUBuffer, buffer_offset: int = 0, size: int | None = None
    ) -> NoReturn:
        raise RuntimeError(
            "queue.read_buffer() would block, which a browser can't: copy to a buffer with "
            "MAP_READ, then `await buffer.map_async('READ')` and `buffer.read_mapped()`."
        )

    def on_submitted_work_done_async(self) -> GPUPromise[None]:
        done = self._internal.onSubmittedWorkDone()
        health = self._device._health
        return _settle("on_submitted_work_done", done, lambda _: None, health=health)

    def on_submitted_work_done_sync(self) -> None:
        _refuse_sync("queue.on_submitted_work_done_async()")


# --- Errors and information ----------------------------------------------------------------------


class GPUDeviceLostInfo(classes.GPUDeviceLostInfo):
    pass


class GPUPipelineError(classes.GPUPipelineError, classes.GPUError):
    """Also a GPUError, as what wgpu-native raises for a faulty pipeline is."""

    @property
    def reason(self) -> str:
        """ "validation" or "internal"."""
        return str(self._options["reason"])


class GPUCompilationMessage(classes.GPUCompilationMessage):
    def __init__(self, message: Any) -> None:
        self._message = message  # JavaScript's

    @property
    def message(self) -> str:
        return str(self._message.message)

    @property
    def type(self) -> str:
        return str(self._message.type)

    @property
    def line_num(self) -> int:
        return int(self._message.lineNum)

    @property
    def line_pos(self) -> int:
        return int(self._message.linePos)

    @property
    def offset(self) -> int:
        return int(self._message.offset)

    @property
    def length(self) -> int:
        return int(self._message.length)


class GPUCompilationInfo(classes.GPUCompilationInfo):
    def __init__(self, info: Any) -> None:
        self._messages = [GPUCompilationMessage(message) for message in info.messages]

    @property
    def messages(self) -> list[GPUCompilationMessage]:
        return self._messages


gpu = GPU()
_register_backend(gpu)
