"""What test_webgpu.py runs in Chromium: functions that try one thing and return plain values."""

import array
import asyncio
import gc
import sys
import weakref

import js
import pyodide_js
import wgpu
from pyodide.ffi import JsProxy, create_proxy, to_js

from gpt2web import webgpu
from gpt2web.browser_folder import FetchFolder
from gpt2web.checkpoint import CheckpointError

USAGE = wgpu.BufferUsage
SCALE = """
override factor: u32 = 2u;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
    let i = id.x + n.x * (id.y + n.y * id.z);
    y[i] = factor * x[i];
}
"""


async def new_device(**wanted):
    adapter = await wgpu.gpu.request_adapter_async()
    return await adapter.request_device_async(**wanted)


async def failure(work):
    """The error that awaiting or calling `work` raises, as [type, text, notes]; None if none."""
    try:
        result = work if isinstance(work, wgpu.GPUPromise) or not callable(work) else work()
        if hasattr(result, "__await__"):
            await result
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "__notes__", [])]
    return None


async def pipeline_for(device, code=SCALE, entry_point="main", label="", **constants):
    return await device.create_compute_pipeline_async(
        label=label,
        layout="auto",
        compute={
            "module": device.create_shader_module(code=code, label="scale.wgsl"),
            "entry_point": entry_point,
            "constants": constants,
        },
    )


async def read(device, source, size=None):
    """The buffer's numbers, as u32."""
    size = source.size if size is None else size
    target = device.create_buffer(size=size, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    encoder = device.create_command_encoder()
    encoder.copy_buffer_to_buffer(source, 0, target, 0, size)
    device.queue.submit([encoder.finish()])
    await target.map_async("READ")
    numbers = list(target.read_mapped().cast("I"))
    target.unmap()
    target.destroy()
    return numbers


class Scaled:
    """A device, a pipeline, buffers of 8 numbers and their bind group."""

    @classmethod
    async def made(cls, **constants):
        self = cls()
        self.device = device = await new_device()
        self.pipeline = await pipeline_for(device, **constants)
        storage = USAGE.STORAGE | USAGE.COPY_DST | USAGE.COPY_SRC
        self.x = device.create_buffer_with_data(data=array.array("I", range(1, 9)), usage=storage)
        self.y = device.create_buffer(size=32, usage=storage)
        self.group = device.create_bind_group(
            layout=self.pipeline.get_bind_group_layout(0),
            entries=[
                {"binding": 0, "resource": self.x},
                {"binding": 1, "resource": {"buffer": self.y, "offset": 0, "size": 32}},
            ],
        )
        return self

    def run(self, dispatch):
        encoder = self.device.create_command_encoder()
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(self.pipeline)
        compute.set_bind_group(0, self.group)
        dispatch(compute)
        compute.end()
        self.device.queue.submit([encoder.finish()])


async def registered():
    device = await new_device(label="mine")
    return {
        "gpu is ours": wgpu.gpu is webgpu.gpu,
        "stub loaded": "wgpu.backends.js_webgpu" in sys.modules,
        "device": isinstance(device, wgpu.GPUDevice),
        "promise": isinstance(device.lost_async, wgpu.GPUPromise),
        "label": device.label,
        "held JavaScript objects": [
            name for name, value in vars(webgpu).items() if isinstance(value, JsProxy)
        ],
        "language features": sorted(wgpu.gpu.wgsl_language_features)[:1] != [],
        "info": dict(device.adapter_info),
        "fallback": device.adapter_info.is_fallback_adapter,
        "summary": device.adapter.summary,
        "adapters": [found.summary for found in await wgpu.gpu.enumerate_adapters_async()],
    }


async def limits():
    """Each limit's name in JavaScript and ours, both values; then what two devices are granted."""
    adapter = await wgpu.gpu.request_adapter_async()
    js_limits = adapter._internal.limits
    names = [n for n in dir(js_limits) if n.startswith(("max", "min"))]
    rows = [
        [name, webgpu._to_dashes(name), webgpu._to_camel(webgpu._to_dashes(name))] for name in names
    ]
    values = [[adapter.limits[ours], getattr(js_limits, name)] for name, ours, _ in rows]
    all_of_it = await adapter.request_device_async()
    less = await new_device(
        required_limits={
            "max-buffer-size": 2**29,
            "max_storage_buffer_binding_size": 2**28,
            "maxStorageBuffersPerShaderStage": None,
        }
    )
    wanted = ("max-buffer-size", "max-storage-buffer-binding-size")
    return {
        "rows": rows,
        "values": values,
        "all": all_of_it.limits == adapter.limits,
        "less": [less.limits[name] for name in wanted],
        "default": less.limits["max-storage-buffers-per-shader-stage"],
        "features": sorted((await new_device(required_features=["timestamp_query"])).features),
    }


async def refused_devices():
    adapter = await wgpu.gpu.request_adapter_async()
    ask = adapter.request_device_async
    found = {
        "feature": await failure(lambda: ask(required_features=["telepathy"])),
        "feature type": await failure(lambda: ask(required_features=[3])),
        "limit": await failure(lambda: ask(required_limits={"max-wishes": 3})),
        "queue": await failure(lambda: ask(default_queue={"name": "q"})),
        "too much": await failure(ask(required_limits={"max-bind-groups": 4000})),
    }
    found["first"] = await failure(ask())
    found["second"] = await failure(ask())
    return found


async def computes():
    """The shader's results by default, with an override, and for 3-D and indirect dispatches."""
    plain = await Scaled.made()
    plain.run(lambda compute: compute.dispatch_workgroups(8))
    tripled = await Scaled.made(factor=3)
    tripled.run(lambda compute: compute.dispatch_workgroups(2, 2, 2))
    indirect = await Scaled.made(factor=10)
    counts = indirect.device.create_buffer_with_data(
        data=array.array("I", [0, 5, 1, 1]), usage=USAGE.INDIRECT
    )
    indirect.run(lambda compute: compute.dispatch_workgroups_indirect(counts, 4))
    return [await read(made.device, made.y) for made in (plain, tripled, indirect)]


async def dynamic_offsets():
    """One bind group read at two offsets, given whole and as a part of a longer list."""
    device = await new_device()
    layout = device.create_bind_group_layout(
        entries=[
            wgpu.BindGroupLayoutEntry(
                binding=0,
                visibility="COMPUTE",
                buffer=wgpu.BufferBindingLayout(type="read-only-storage", has_dynamic_offset=True),
            ),
            {"binding": 1, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": "storage"}},
        ]
    )
    pipeline = device.create_compute_pipeline(
        layout=device.create_pipeline_layout(bind_group_layouts=[layout]),
        compute=wgpu.ProgrammableStage(
            module=device.create_shader_module(code=SCALE), entry_point="main"
        ),
    )
    step = device.limits["min-storage-buffer-offset-alignment"]
    source = device.create_buffer(size=3 * step, usage=USAGE.STORAGE | USAGE.COPY_DST)
    for i in range(3):
        device.queue.write_buffer(source, i * step, array.array("I", [i + 1]))
    target = device.create_buffer(size=4, usage=USAGE.STORAGE | USAGE.COPY_SRC)
    group = device.create_bind_group(
        layout=layout,
        entries=[
            {"binding": 0, "resource": {"buffer": source, "size": 4}},
            {"binding": 1, "resource": target},
        ],
    )

    async def result(*offsets):
        encoder = device.create_command_encoder()
        compute = encoder.begin_compute_pass(label="offsets")
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, group, *offsets)
        compute.dispatch_workgroups(1)
        compute.end()
        device.queue.submit([encoder.finish(label="done")])
        return (await read(device, target))[0]

    encoder = device.create_command_encoder()
    compute = encoder.begin_compute_pass()
    half = await failure(lambda: compute.set_bind_group(0, group, [0], 1))
    return [await result([step]), await result([0, 0, 2 * step], 2, 1), half]


async def written():
    """What reaches a buffer of zeros, 4 numbers, from each kind of data."""
    device = await new_device()
    usage = USAGE.COPY_DST | USAGE.COPY_SRC
    js_numbers = js.Uint32Array.new(to_js([7, 8, 9, 10, 11]))
    python_numbers = array.array("I", [7, 8, 9, 10, 11])
    cases = {
        "bytes": (0, python_numbers.tobytes()[:8]),
        "array": (4, python_numbers, 0, 12),
        "memoryview": (0, memoryview(python_numbers)[1:3]),
        "data_offset in bytes": (0, python_numbers, 8, 8),
        "Uint32Array": (8, js_numbers.subarray(1, 3)),
        "Uint32Array, data_offset in bytes": (0, js_numbers, 8, 8),
        "ArrayBuffer": (0, js_numbers.buffer, 4, 4),
        "DataView": (4, js.DataView.new(js_numbers.buffer, 4, 8)),
    }
    found = {}
    for name, arguments in cases.items():
        buffer = device.create_buffer(size=16, usage=usage)
        device.queue.write_buffer(buffer, *arguments)
        found[name] = await read(device, buffer)
    made = device.create_buffer_with_data(data=js_numbers.subarray(0, 3), usage=usage)
    found["create_buffer_with_data"] = await read(device, made)
    odd = device.create_buffer_with_data(data=b"\1\0\0\0\2", usage=usage)
    found["5 bytes"] = await read(device, odd)
    mapped = device.create_buffer(size=16, usage=usage, mapped_at_creation=True)
    mapped.write_mapped(js_numbers.subarray(0, 1))
    mapped.write_mapped(python_numbers[1:3], 8)
    mapped.unmap()
    found["write_mapped"] = await read(device, mapped)
    encoder = device.create_command_encoder()
    encoder.clear_buffer(mapped, 8, 4)
    device.queue.submit([encoder.finish()])
    found["clear_buffer"] = await read(device, mapped)
    return found


async def refused_arguments():
    device = await new_device()
    usage = USAGE.COPY_DST | USAGE.COPY_SRC
    buffer = device.create_buffer(size=16, usage=usage)
    target = device.create_buffer(size=16, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    write, encoder = device.queue.write_buffer, device.create_command_encoder()
    copy = encoder.copy_buffer_to_buffer
    layout = device.create_bind_group_layout(entries=[])
    return {
        name: await failure(work)
        for name, work in {
            "size 6": lambda: device.create_buffer(label="odd", size=6, usage=usage),
            "size 1 TiB": lambda: device.create_buffer(size=2**40, usage=usage),
            "write 3 bytes": lambda: write(buffer, 0, b"abc"),
            "write 3 bytes of JS": lambda: write(buffer, 0, js.Uint8Array.new(3)),
            "write at 2": lambda: write(buffer, 2, b"abcd"),
            "write beyond": lambda: write(buffer, 12, bytes(8)),
            "data_offset": lambda: write(buffer, 0, bytes(8), 12),
            "write a number": lambda: write(buffer, 0, 5),
            "write an object": lambda: write(buffer, 0, js.Object.new()),
            "copy size 3": lambda: copy(buffer, 0, target, 0, 3),
            "copy beyond": lambda: copy(buffer, 8, target, 0, 12),
            "copy from text": lambda: copy("x", 0, target, 0, 4),
            "clear beyond": lambda: encoder.clear_buffer(buffer, 4, 16),
            "map at 4": lambda: target.map_async("READ", 4),
            "map beyond": lambda: target.map_async("READ", 0, 20),
            "map mode": lambda: target.map_async("PEEK"),
            "read unmapped": lambda: target.read_mapped(),
            "unmap unmapped": lambda: target.unmap(),
            "read_buffer": lambda: device.queue.read_buffer(buffer),
            "resource": lambda: device.create_bind_group(
                layout=layout, entries=[{"binding": 0, "resource": 5}]
            ),
            "entry key": lambda: device.create_bind_group(
                layout=layout, entries=[{"bind": 0, "resource": buffer}]
            ),
            "sampler": lambda: device.create_bind_group_layout(
                entries=[{"binding": 0, "visibility": 4, "sampler": {}}]
            ),
            "layout": lambda: device.create_compute_pipeline(
                layout="automatic", compute={"module": None}
            ),
            "shader bytes": lambda: device.create_shader_module(code=b"\3\2#\7"),
            "texture": lambda: device.create_texture(size=(1, 1, 1), format="r8unorm", usage=1),
            "canvas": lambda: wgpu.gpu.get_canvas_context({}),
            "nothing wrong": lambda: write(buffer, 12, b"abcd"),
        }.items()
    }


async def blocking_forms():
    device = await new_device()
    buffer = device.create_buffer(size=16, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    module = device.create_shader_module(code=SCALE)
    found = {
        name: await failure(work)
        for name, work in {
            "request_adapter_async": lambda: wgpu.gpu.request_adapter_sync(),
            "enumerate_adapters_async": lambda: wgpu.gpu.enumerate_adapters_sync(),
            "request_device_async": lambda: device.adapter.request_device_sync(),
            "map_async": lambda: buffer.map_sync("READ"),
            "on_submitted_work_done_async": device.queue.on_submitted_work_done_sync,
            "get_compilation_info_async": module.get_compilation_info_sync,
            "pop_error_scope_async": device.pop_error_scope_sync,
            "lost_async": lambda: device.lost_sync,
        }.items()
    }
    found["still unmapped"] = buffer.map_state
    promise = device.queue.on_submitted_work_done_async()
    found["on_submitted_work_done_async()"] = await failure(promise.sync_wait)
    return found


async def mapping():
    device = await new_device()
    numbers = array.array("I", range(8))
    source = device.create_buffer_with_data(data=numbers, usage=USAGE.COPY_SRC)
    target = device.create_buffer(size=32, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    encoder = device.create_command_encoder()
    encoder.copy_buffer_to_buffer(source, 0, target, 0)
    device.queue.submit([encoder.finish()])
    states = [target.map_state]
    promise = target.map_async(wgpu.MapMode.READ, 8, 16)
    states.append(target.map_state)
    twice = await failure(target.map_async("READ"))
    await promise
    states.append(target.map_state)
    whole = target.read_mapped()
    part = target.read_mapped(16, 8, copy=False)
    outside = await failure(lambda: target.read_mapped(0, 8))
    write = await failure(lambda: target.write_mapped(b"abcd"))
    target.unmap()
    states.append(target.map_state)
    called = []
    target.map_async("READ").then(lambda _: called.append(target.map_state))
    await device.queue.on_submitted_work_done_async()
    await asyncio.sleep(0.01)
    return {
        "states": states,
        "whole": list(whole.cast("I")),
        "part": list(part.cast("I")),
        "read-only": part.readonly,
        "twice": twice,
        "outside": outside,
        "write": write,
        "then": called,
    }


async def late_errors():
    """A faulty submit fails the readback behind it, once; then the buffer and the device go on."""
    made = await Scaled.made()
    device = made.device
    target = device.create_buffer(size=32, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    made.run(lambda compute: compute.dispatch_workgroups(70_000))  # more than 65,535
    made.run(lambda compute: compute.set_bind_group(99, made.group))
    found = {"readback": await failure(target.map_async("READ")), "state": target.map_state}
    found["readback again"] = await failure(target.map_async("READ"))
    target.unmap()
    found["kept"] = [type(error).__name__ for error in device.uncaptured_errors]
    made.run(lambda compute: compute.dispatch_workgroups(80_000))
    found["work done"] = await failure(device.queue.on_submitted_work_done_async())
    made.run(lambda compute: compute.dispatch_workgroups(8))
    found["then"] = await read(device, made.y)
    found["map a buffer that can't be"] = await failure(made.x.map_async("READ"))
    for _ in range(20):
        device.create_buffer(size=4, usage=0)
    await failure(device.queue.on_submitted_work_done_async())
    found["kept at most"] = len(device.uncaptured_errors)
    return found


async def error_scopes():
    device = await new_device()
    device.push_error_scope("validation")
    device.create_buffer(size=4, usage=0)
    captured = await device.pop_error_scope_async()
    device.push_error_scope("validation")
    nothing = await device.pop_error_scope_async()
    return {
        "captured": [type(captured).__name__, captured.message],
        "nothing": nothing,
        "next await": await failure(device.queue.on_submitted_work_done_async()),
        "pop too many": await failure(device.pop_error_scope_async()),
    }


async def shader_errors():
    device = await new_device()
    bad = SCALE.replace("factor * x[i]", "factor * nosuch[i]")
    module = device.create_shader_module(code=bad)
    (message,) = (await module.get_compilation_info_async()).messages
    details = [message.type, message.line_num, message.line_pos, message.length, message.message]
    await failure(device.queue.on_submitted_work_done_async())  # this module's own report
    good = (await device.create_shader_module(code=SCALE).get_compilation_info_async()).messages
    found = {
        "message": details,
        "good": len(good),
        "does not compile": await failure(pipeline_for(device, bad, label="scale")),
        "raised once": await failure(device.queue.on_submitted_work_done_async()),
        "entry point": await failure(pipeline_for(device, entry_point="principal", label="scale")),
        "constant": await failure(pipeline_for(device, fcator=3)),
        "good pipeline": await failure(pipeline_for(device, factor=3)),
    }
    try:
        await pipeline_for(device, entry_point="principal")
    except wgpu.GPUError as error:
        found["reason"] = [isinstance(error, wgpu.GPUPipelineError), error.reason]
    # Not asynchronous: the error comes with the next await.
    module = device.create_shader_module(code=SCALE)
    device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "x"})
    found["synchronous"] = await failure(device.queue.on_submitted_work_done_async())
    return found


async def timestamps():
    device = await new_device(required_features=["timestamp-query"])
    queries = device.create_query_set(type="timestamp", count=2)
    target = device.create_buffer(size=16, usage=USAGE.QUERY_RESOLVE | USAGE.COPY_SRC)
    encoder = device.create_command_encoder()
    compute = encoder.begin_compute_pass(
        timestamp_writes={
            "query_set": queries,
            "beginning_of_pass_write_index": 0,
            "end_of_pass_write_index": 1,
        }
    )
    compute.push_debug_group("empty")
    compute.insert_debug_marker("here")
    compute.pop_debug_group()
    compute.end()
    encoder.resolve_query_set(queries, 0, 2, target, 0)
    device.queue.submit([encoder.finish()])
    low0, high0, low1, high1 = await read(device, target)
    queries.destroy()
    return [low0 + (high0 << 32), low1 + (high1 << 32)]


async def destroyed():
    device = await new_device()
    buffer = device.create_buffer(size=16, usage=USAGE.MAP_READ | USAGE.COPY_DST)
    before = device.lost_info
    pending = [buffer.map_async("READ"), device.queue.on_submitted_work_done_async()]
    device.destroy()
    failures = [await failure(promise) for promise in pending]
    info = await device.lost_async
    later = await failure(device.queue.on_submitted_work_done_async())
    return {
        "before": before,
        "pending": failures,
        "reason": info.reason,
        "again": (await device.lost_async).reason,
        "lost_info": device.lost_info.reason,
        "later": later,
    }


async def slow_mappings():
    """Empty submits while a mapping takes 30 ms and in the 30 ms behind it, where the browser looks
    slowly at what is done, and where it does not."""
    looks_slowly, found = webgpu.looks_slowly, {}
    for slowly in (True, False):
        webgpu.looks_slowly = {True: lambda _: True, False: lambda _: False}[slowly]
        device = await new_device()
        buffer = device.create_buffer(size=16, usage=USAGE.MAP_READ | USAGE.COPY_DST)
        queue, map_async, submits = device.queue._internal, buffer._internal.mapAsync, []
        wait = js.Promise.new(create_proxy(lambda done, _: js.setTimeout(done, 30)))
        buffer._internal.mapAsync = lambda *given, map_async=map_async, wait=wait: map_async(
            *given
        ).then(lambda _: wait)
        queue.submit = create_proxy(lambda lists, submits=submits: submits.append(len(lists)))
        await buffer.map_async("READ")
        during = len(submits)
        await asyncio.sleep(0.03)
        found[slowly] = [during, len(submits) - during, sorted(set(submits))]
        device.destroy()
    webgpu.looks_slowly = looks_slowly
    return [found[True], found[False]]


_watched = {}


async def watch_for_loss():
    device = await new_device()
    buffer = device.create_buffer(size=16, usage=USAGE.MAP_READ | USAGE.COPY_DST)

    async def keep_mapping():
        while True:
            await buffer.map_async("READ")
            buffer.unmap()
            await asyncio.sleep(0)

    _watched.update(device=device, task=asyncio.ensure_future(failure(keep_mapping())))
    await asyncio.sleep(0.01)
    return device.lost_info


async def after_loss():
    found = {"failure": await asyncio.wait_for(_watched["task"], 5)}
    info = await _watched["device"].lost_async
    found["info"] = [info.reason, info.message, info is _watched["device"].lost_info]
    made = await Scaled.made()
    made.run(lambda compute: compute.dispatch_workgroups(8))
    found["new device"] = await read(made.device, made.y)
    return found


async def leaves_nothing():
    """Live objects by wgpu's own count, before, during, after; whether the device is gone."""
    gc.collect()

    def counts():
        alive = wgpu.diagnostics.object_counts.get_dict()
        return {name: alive[name]["count"] for name in ("Device", "Buffer", "ComputePipeline")}

    before = counts()
    made = await Scaled.made()
    made.run(lambda compute: compute.dispatch_workgroups(8))
    await read(made.device, made.y)
    device = weakref.ref(made.device)
    during = counts()
    del made
    gc.collect()
    return {"before": before, "during": during, "after": counts(), "device gone": device() is None}


# --- FetchFolder ---------------------------------------------------------------------------------


async def fetched(url):
    """Reads across the borders of chunks; `numbers` holds byte i % 251 at i, in small chunks."""
    folder = FetchFolder(url + "odd")
    found = {"name": folder.name, "text": await folder.read_text("plain")}
    for file in ("numbers", "compressed", "no-length"):
        stream = await folder.open(file)
        pieces, position, kinds = [], 0, set()
        for count in (0, 1, 7, 30_000, 1, 60_000, 9_992):
            data = await stream.read(count)
            kinds.add(data.constructor.name)
            expected = bytes(i % 251 for i in range(position, position + count))
            pieces.append(bytes(data.to_bytes()) == expected)
            position += count
        tail = await stream.read_bytes(stream.size - position)
        pieces.append(tail == bytes(i % 251 for i in range(position, stream.size)))
        found[file] = [stream.size, all(pieces), sorted(kinds), await failure(stream.read(1))]
        stream.close()
        stream.close()
        found["closed"] = await failure(stream.read(1))
    return found


async def fetch_failures(url):
    folder = FetchFolder(url + "odd/")
    found = {
        "missing": await failure(folder.open("missing")),
        "missing text": await failure(folder.read_text("missing")),
        "page for all": await failure(folder.open("page")),
        "page as text": await failure(folder.read_text("page-as-text")),
        "broken server": await failure(folder.open("error")),
        "no server": await failure(FetchFolder("http://127.0.0.1:1/").open("x")),
        "odd name": await failure(folder.open("a b?#/c")),
    }
    stream = await folder.open("cut")
    found["cut size"] = stream.size
    found["cut begin"] = len(await stream.read_bytes(1000))
    await js.fetch(url + "odd/cut-now")
    found["cut"] = await failure(stream.read(90_000))
    stream.close()
    ending = await folder.open("numbers")
    found["end"] = await failure(ending.read(ending.size + 1))
    found["negative"] = await failure(ending.read(-1))
    try:
        await folder.open("error")
    except CheckpointError:
        found["CheckpointError"] = True
    return found


async def closes_early(url):
    """Opens an endless file, reads a little and closes it: the server sees the connection end."""
    stream = await FetchFolder(url + "odd").open("endless")
    data = await stream.read(100_000)
    reading = asyncio.ensure_future(failure(stream.read(1 << 30)))
    await asyncio.sleep(0.01)
    stream.close()
    return data.byteLength, await reading


async def weights_stay_outside(url):
    """Bytes by which the WASM heap grows for 64 MB sent to the GPU, then for the same in Python."""
    device = await new_device()

    def heap():
        return pyodide_js._module.HEAPU8.length

    folder, size = FetchFolder(url + "odd"), 64 << 20
    buffer = device.create_buffer(size=size, usage=USAGE.COPY_DST)
    stream = await folder.open("large")
    before = heap()
    for offset in range(0, size, size // 2):
        device.queue.write_buffer(buffer, offset, await stream.read(size // 2))
    await device.queue.on_submitted_work_done_async()
    direct = heap() - before
    data = await (await folder.open("large")).read_bytes(size)
    buffer.destroy()
    return {"direct": direct, "as bytes": heap() - before, "size": len(data)}
