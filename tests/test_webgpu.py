"""The browser's backend: its signatures against wgpu-py's, and its behaviour in Chromium."""

import ast
import gzip
import json
import threading
from pathlib import Path

import pytest
import wgpu

from browser import SUB_PATH, DistHandler, TestServer

ROOT = Path(__file__).parents[1]
OURS = ROOT / "py" / "gpt2web" / "webgpu.py"
THEIRS = Path(wgpu.__file__).with_name("_classes.py")
NUMBERS = bytes(i % 251 for i in range(150_000))

# Textures and rendering, and what wgpu-py itself leaves out or answers in its base class.
LEFT_OUT = {
    "GPU.get_preferred_canvas_format",
    "GPUBuffer.get_mapped_range",
    "GPUCommandEncoder.begin_render_pass",
    "GPUCommandEncoder.copy_buffer_to_texture",
    "GPUCommandEncoder.copy_texture_to_buffer",
    "GPUCommandEncoder.copy_texture_to_texture",
    "GPUComputePassEncoder.set_immediates",
    "GPUDevice.create_render_bundle_encoder",
    "GPUDevice.create_render_pipeline",
    "GPUDevice.create_render_pipeline_async",
    "GPUDevice.create_sampler",
    "GPUDevice.create_texture",
    "GPUDevice.import_external_texture",
    "GPUDevice.onuncapturederror",
    "GPUQueue.copy_external_image_to_texture",
    "GPUQueue.read_texture",
    "GPUQueue.write_texture",
}
ADDED = {
    "GPU.adopt_device",
    "GPUDevice.adopt_compute_pipeline",
    "GPUDevice.forget_errors",
    "GPUDevice.lost_info",
    "GPUDevice.uncaptured_errors",
}


# --- Signatures ----------------------------------------------------------------------------------
# webgpu.py can't be imported here, and a stub of js would say nothing; so the two sources are
# compared, which also shows the methods that wgpu-py deletes from its classes (error scopes, lost).


def classes_of(source):
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def methods_of(classes, name):
    """Every method of a class, its bases' included: {name: node}."""
    found = {}
    for base in reversed(classes[name].bases):
        base_name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        if base_name in classes and base_name != name:
            found |= methods_of(classes, base_name)
    found |= {node.name: node for node in classes[name].body if isinstance(node, ast.FunctionDef)}
    return found


def signature(method):
    """Kinds, names and defaults of the arguments, and whether it is a property; no annotations."""
    arguments = method.args
    names = [[item.arg for item in kind] for kind in (arguments.args, arguments.kwonlyargs)]
    defaults = [
        [item and ast.dump(item) for item in kind]
        for kind in (arguments.defaults, arguments.kw_defaults)
    ]
    is_property = any(getattr(d, "id", "") == "property" for d in method.decorator_list)
    return names, defaults, arguments.vararg, arguments.kwarg, is_property


def differences(ours):
    """What our source declares otherwise than wgpu-py's, and which of its methods it lacks."""
    our_classes, their_classes = classes_of(ours), classes_of(THEIRS.read_text())
    wrong, lacking, compared = set(), set(), 0
    for name in our_classes.keys() & their_classes.keys():
        our_methods = methods_of(our_classes, name)
        their_methods = methods_of(their_classes, name)
        for method, node in our_methods.items():
            if method.startswith("_"):
                continue
            compared += 1
            theirs = their_methods.get(method)
            if theirs is None or signature(node) != signature(theirs):
                wrong.add(f"{name}.{method}")
        for method, node in their_methods.items():
            stub = any(isinstance(line, ast.Raise) for line in node.body)
            if stub and method not in our_methods and not method.startswith("_"):
                lacking.add(f"{name}.{method}")
    return wrong - ADDED, lacking, compared


def test_every_method_is_declared_as_in_wgpu_py():
    wrong, lacking, compared = differences(OURS.read_text())
    assert compared > 50
    assert wrong == set()
    assert lacking - LEFT_OUT == set()


@pytest.mark.parametrize(
    ("written", "changed", "where"),
    [
        ("mapped_at_creation: bool = False", "mapped: bool = False", "GPUDevice.create_buffer"),
        ("workgroup_count_z: int = 1", "workgroup_count_z: int = 0", None),
        ("def end(self)", "def end(self, now)", "GPUComputePassEncoder.end"),
        ("def submit(self, command", "def submit(self, *, command", "GPUQueue.submit"),
        ("def clear_buffer(", "def zero_buffer(", "GPUCommandEncoder.zero_buffer"),
    ],
)
def test_the_comparison_sees_a_changed_signature(written, changed, where):
    source = OURS.read_text()
    assert written in source
    wrong, lacking, _ = differences(source.replace(written, changed))
    assert wrong == {where or "GPUComputePassEncoder.dispatch_workgroups"}
    assert ("GPUCommandEncoder.clear_buffer" in lacking) == ("zero" in changed)


# --- In Chromium ---------------------------------------------------------------------------------


class OddHandler(DistHandler):
    """dist/, a blank page, and below odd/ answers as awkward hosts and networks give them."""

    def send_head(self):
        prefix = f"/{SUB_PATH}/odd/"
        if not self.path.startswith(prefix):
            return super().send_head()
        answer = getattr(self, "odd_" + self.path.removeprefix(prefix).replace("-", "_"), None)
        if answer is None:
            self.send_error(404)
        else:
            answer()
        return None

    def answer(self, body, status=200, length=None, kind="application/octet-stream", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is None:
            length = len(body)
        if length:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def chunks(self, pieces):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def odd_blank(self):
        self.answer(b"<!doctype html><title>blank</title>", kind="text/html")

    def odd_plain(self):
        self.answer("grüße\n".encode(), kind="text/plain")

    def odd_numbers(self):
        self.answer(b"", length=len(NUMBERS))
        for begin in range(0, len(NUMBERS), 4099):
            self.wfile.write(NUMBERS[begin : begin + 4099])
            self.wfile.flush()

    def odd_compressed(self):
        self.answer(gzip.compress(NUMBERS), Content_Encoding="gzip")

    def odd_no_length(self):
        self.chunks(NUMBERS[begin : begin + 4099] for begin in range(0, len(NUMBERS), 4099))

    def odd_page(self):
        self.answer(b"<!doctype html><p>An application", kind="text/html; charset=utf-8")

    def odd_page_as_text(self):
        self.answer(b"\n<!DOCTYPE html><p>An application", kind="text/plain")

    def odd_error(self):
        self.answer(b"sorry", status=503)

    def odd_cut(self):
        self.answer(NUMBERS[:50_000], length=len(NUMBERS))
        self.server.cut.wait(5)
        self.close_connection = True

    def odd_cut_now(self):
        self.server.cut.set()
        self.answer(b"cut", kind="text/plain")

    def odd_endless(self):
        self.answer(b"", length=1 << 40)
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            self.server.left.set()
        self.close_connection = True

    def odd_large(self):
        self.answer(b"", length=64 << 20)
        for _ in range(64):
            self.wfile.write(bytes(1 << 20))


BOOT = """
async () => {
  const here = new URL("../", location.href);
  const { loadPyodide } = await import(new URL("pyodide/pyodide.mjs", here));
  self.pyodide = await loadPyodide();
  for (const { file } of await (await fetch(new URL("wheels.json", here))).json()) {
    const wheel = await fetch(new URL(`wheels/${file}`, here));
    pyodide.unpackArchive(await wheel.arrayBuffer(), "wheel");
  }
}
"""
RUN = """
async ([module, check, values]) => {
  const checks = pyodide.pyimport(module);
  const result = await checks[check](...values);
  const json = pyodide.pyimport("json");
  return json.dumps(result);
}
"""


@pytest.fixture(scope="module")
def odd_server(dist):
    root = dist.parents[len(Path(SUB_PATH).parts) - 1]
    server = TestServer(lambda *arguments: OddHandler(*arguments, directory=str(root)))
    server.url = f"{server.origin}/{SUB_PATH}/"
    server.left, server.cut = threading.Event(), threading.Event()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def in_page(browser, odd_server):
    """Runs a function of in_page_webgpu.py in a page with dist/'s wheels: what it returns."""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(odd_server.url + "odd/blank")
    page.evaluate(BOOT)
    source = (Path(__file__).parent / "in_page_webgpu.py").read_text()
    page.evaluate("text => pyodide.FS.writeFile('in_page_webgpu.py', text)", source)

    def run(check, *values):
        return json.loads(page.evaluate(RUN, ["in_page_webgpu", check, list(values)]))

    yield run
    context.close()


browser_test = pytest.mark.browser  # all below


@browser_test
def test_importing_it_makes_wgpu_gpu_the_browsers(in_page):
    found = in_page("registered")
    info = found.pop("info")
    assert found == {
        "gpu is ours": True,
        "stub loaded": False,
        "device": True,
        "promise": True,
        "label": "mine",
        "held JavaScript objects": ["js"],
        "language features": True,
        "fallback": True,
        "summary": "google swiftshader (CPU) via WebGPU",
        "adapters": ["google swiftshader (CPU) via WebGPU"],
    }
    assert info["vendor"] == "google"
    assert info["architecture"] == "swiftshader"
    assert info["subgroup_min_size"] == 4


@browser_test
def test_limits_are_spelled_and_granted_as_wgpu_native_does(in_page):
    from wgpu.backends.wgpu_native._helpers import to_snake_case

    found = in_page("limits")
    assert len(found["rows"]) > 25
    for name, ours, back in found["rows"]:
        assert ours == to_snake_case(name, "-")
        assert back == name
    assert all(ours == theirs for ours, theirs in found["values"])
    assert found["all"]
    assert found["less"] == [2**29, 2**28]
    assert found["default"] == 8
    assert "timestamp-query" in found["features"]


@browser_test
def test_a_device_that_cannot_be_had_is_refused_by_name(in_page):
    found = in_page("refused_devices")
    assert found["feature"][:2] == ["KeyError", "\"Unknown feature: 'telepathy'\""]
    assert found["feature type"][:2] == ["TypeError", "Features must be given as str."]
    assert found["limit"][:2] == ["KeyError", "\"Unknown limit name 'max-wishes'\""]
    assert found["queue"][:2] == ["ValueError", "Invalid keys in QueueDescriptor: {'name'}"]
    kind, text, _ = found["too much"]
    assert kind == "RuntimeError"
    assert text.startswith("Request device failed:")
    assert "4000" in text
    assert found["first"] is None
    kind, text, _ = found["second"]
    assert kind == "RuntimeError"
    assert "consumed" in text


@browser_test
def test_shaders_compute_with_overrides_and_every_kind_of_dispatch(in_page):
    plain, tripled, indirect = in_page("computes")
    assert plain == [2, 4, 6, 8, 10, 12, 14, 16]
    assert tripled == [3, 6, 9, 12, 15, 18, 21, 24]
    assert indirect == [10, 20, 30, 40, 50, 0, 0, 0]


@browser_test
def test_dynamic_offsets_reach_the_shader(in_page):
    at_step, from_list, half = in_page("dynamic_offsets")
    assert (at_step, from_list) == (4, 6)
    assert half[0] == "ValueError"


@browser_test
def test_buffers_take_python_and_javascript_data(in_page):
    assert in_page("written") == {
        "bytes": [7, 8, 0, 0],
        "array": [0, 7, 8, 9],
        "memoryview": [8, 9, 0, 0],
        "data_offset in bytes": [9, 10, 0, 0],
        "Uint32Array": [0, 0, 8, 9],
        "Uint32Array, data_offset in bytes": [9, 10, 0, 0],
        "ArrayBuffer": [8, 0, 0, 0],
        "DataView": [0, 8, 9, 0],
        "create_buffer_with_data": [7, 8, 9],
        "5 bytes": [1, 2],
        "write_mapped": [7, 0, 8, 9],
        "clear_buffer": [7, 0, 0, 9],
    }


REFUSALS = {
    "size 6": ("ValueError", "multiple of 4 bytes, but odd has 6: round it up to 8."),
    "size 1 TiB": ("GPUValidationError", "1099511627776 bytes"),
    "write 3 bytes": ("ValueError", "multiples of 4 bytes"),
    "write 3 bytes of JS": ("ValueError", "multiples of 4 bytes"),
    "write at 2": ("ValueError", "offset 2"),
    "write beyond": ("ValueError", "bytes 12 to 20 are not in the buffer's 16"),
    "data_offset": ("ValueError", "not in the data's 8"),
    "write a number": ("TypeError", "bytes-like object"),
    "write an object": ("TypeError", "got a JavaScript Object"),
    "copy size 3": ("ValueError", "multiples of 4 bytes"),
    "copy beyond": ("ValueError", "source: bytes 8 to 20 are not in the buffer's 16"),
    "copy from text": ("TypeError", "source must be a GPUBuffer"),
    "clear beyond": ("ValueError", "bytes 4 to 20"),
    "map at 4": ("ValueError", "multiple of 8"),
    "map beyond": ("ValueError", "beyond total buffer size"),
    "map mode": ("ValueError", "PEEK"),
    "read unmapped": ("RuntimeError", "if its mapped"),
    "unmap unmapped": ("RuntimeError", "currently mapped"),
    "read_buffer": ("RuntimeError", "map_async"),
    "resource": ("TypeError", "Unexpected resource type"),
    "entry key": ("ValueError", "Invalid keys in BindGroupEntry: {'bind'}"),
    "sampler": ("NotImplementedError", "binds only buffers"),
    "layout": ("TypeError", "'auto'"),
    "shader bytes": ("TypeError", "WGSL"),
    "texture": ("NotImplementedError", ""),
    "canvas": ("NotImplementedError", "computes only"),
}


@browser_test
def test_wrong_arguments_are_refused_at_once_and_clearly(in_page):
    found = in_page("refused_arguments")
    assert found.pop("nothing wrong") is None
    assert found.keys() == REFUSALS.keys()
    for name, (kind, text) in REFUSALS.items():
        assert found[name][0] == kind, name
        assert text in found[name][1], name


@browser_test
def test_blocking_forms_name_their_async_twin_and_start_nothing(in_page):
    found = in_page("blocking_forms")
    assert found.pop("still unmapped") == "unmapped"
    for twin, (kind, text, _) in found.items():
        assert kind == "RuntimeError"
        assert twin in text


@browser_test
def test_a_buffer_maps_reads_and_unmaps_as_in_wgpu_native(in_page):
    found = in_page("mapping")
    assert found["states"] == ["unmapped", "pending", "mapped", "unmapped"]
    assert found["whole"] == [2, 3, 4, 5]
    assert found["part"] == [4, 5]
    assert found["read-only"]
    assert found["twice"][0] == "RuntimeError"
    assert found["outside"][0] == "ValueError"
    assert found["write"][0] == "RuntimeError"
    assert found["then"] == ["mapped"]


@browser_test
def test_errors_the_browser_reports_late_are_raised_by_the_next_await(in_page):
    found = in_page("late_errors")
    kind, text, notes = found["readback"]
    assert kind == "GPUValidationError"
    assert "70000" in text
    assert any("99" in note for note in notes)
    assert found["state"] == "unmapped"
    assert found["readback again"] is None
    assert found["kept"] == ["GPUValidationError"] * (1 + len(notes))
    assert "80000" in found["work done"][1]
    assert found["then"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert "MapRead" in found["map a buffer that can't be"][1]
    assert found["kept at most"] == 16


@browser_test
def test_error_scopes_keep_what_they_capture(in_page):
    found = in_page("error_scopes")
    kind, text = found["captured"]
    assert kind == "GPUValidationError"
    assert "usage" in text.lower()
    assert found["nothing"] is None
    assert found["next await"] is None
    assert found["pop too many"][0] == "GPUValidationError"


@browser_test
def test_a_shaders_errors_come_with_line_and_text(in_page):
    found = in_page("shader_errors")
    assert found["message"] == ["error", 8, 21, 6, "unresolved value 'nosuch'"]
    assert found["good"] == 0
    kind, text, _ = found["does not compile"]
    assert kind == "GPUValidationError"
    assert text.splitlines() == [
        "Shader 'scale.wgsl' does not compile:",
        "  line 8, column 21: unresolved value 'nosuch'",
        "        y[i] = factor * nosuch[i];",
    ]
    assert found["raised once"] is None
    kind, text, notes = found["entry point"]
    assert kind == "GPUPipelineError"
    assert "principal" in text
    assert notes == ["while creating the compute pipeline scale"]
    assert found["reason"] == [True, "validation"]
    assert "fcator" in found["constant"][1]
    assert found["good pipeline"] is None
    assert found["synchronous"][0] == "GPUValidationError"


@browser_test
def test_a_pass_can_be_timed(in_page):
    begin, end = in_page("timestamps")
    assert 0 < begin <= end


@browser_test
def test_a_browser_that_looks_slowly_is_woken_while_a_mapping_is_awaited(in_page):
    (during, behind, lists), others = in_page("slow_mappings")
    assert during >= 3 and behind <= 1 and lists == [0]
    assert others == [0, 0, []]


@browser_test
def test_a_destroyed_device_fails_what_waits_for_it(in_page):
    found = in_page("destroyed")
    assert found["before"] is None
    for kind, text, _ in [*found["pending"], found["later"]]:
        assert kind == "GPUError"
        assert text.startswith("The GPU device was lost (destroyed)")
    assert found["reason"] == found["again"] == found["lost_info"] == "destroyed"


@browser_test
def test_a_crashed_gpu_process_is_noticed_and_a_new_device_works(browser, in_page):
    assert in_page("watch_for_loss") is None
    browser.new_browser_cdp_session().send("Browser.crashGpuProcess")
    found = in_page("after_loss")
    reason, message, same = found["info"]
    assert reason == "unknown"
    assert same
    assert found["failure"][:2] == ["GPUError", f"The GPU device was lost (unknown): {message}"]
    assert found["new device"] == [2, 4, 6, 8, 10, 12, 14, 16]


@browser_test
def test_objects_go_with_their_last_reference(in_page):
    found = in_page("leaves_nothing")
    more = {name: count - found["before"][name] for name, count in found["during"].items()}
    assert more == {"Device": 1, "Buffer": 2, "ComputePipeline": 1}
    assert found["after"] == found["before"]
    assert found["device gone"]


@browser_test
def test_a_stream_gives_exactly_the_bytes_asked_for(in_page, odd_server):
    found = in_page("fetched", odd_server.url)
    assert found["name"] == "odd"
    assert found["text"] == "grüße\n"
    for file in ("numbers", "compressed", "no-length"):
        size, right, kinds, beyond = found[file]
        assert size == len(NUMBERS), file
        assert right, file
        assert kinds == ["Uint8Array"]
        assert beyond[0] == "CheckpointError"
        assert f"odd/{file} ends after 150000 bytes, where 1 were wanted" in beyond[1]
    assert found["closed"][0] == "ValueError"


@browser_test
def test_what_a_server_lacks_or_breaks_off_is_told_with_its_address(in_page, odd_server):
    found = in_page("fetch_failures", odd_server.url)
    for name in ("missing", "missing text", "page for all", "page as text", "odd name"):
        assert found[name][0] == "FileNotFoundError", name
    assert f"{odd_server.url}odd/missing" in found["missing"][1]
    assert "web page" in found["page for all"][1]
    assert "odd/a%20b%3F%23/c" in found["odd name"][1]
    assert found["broken server"][0] == "CheckpointError"
    assert "503" in found["broken server"][1]
    assert found["CheckpointError"]
    assert found["no server"][0] == "CheckpointError"
    assert "http://127.0.0.1:1/x" in found["no server"][1]
    assert (found["cut size"], found["cut begin"]) == (len(NUMBERS), 1000)
    kind, text, _ = found["cut"]
    assert kind == "CheckpointError"
    assert f"{odd_server.url}odd/cut: the transfer broke after " in text
    assert "of 150000 bytes" in text
    assert found["end"][0] == "CheckpointError"
    assert found["negative"][0] == "ValueError"


@browser_test
def test_closing_a_stream_ends_the_transfer(in_page, odd_server):
    held, interrupted = in_page("closes_early", odd_server.url)
    assert held == 100_000
    assert interrupted[0] == "ValueError"
    assert "was closed while it was read" in interrupted[1]
    assert odd_server.left.wait(5)


@browser_test
def test_weights_never_pass_through_the_wasm_heap(in_page, odd_server):
    found = in_page("weights_stay_outside", odd_server.url)
    assert found["direct"] == 0
    assert found["size"] == 64 << 20
    assert found["as bytes"] >= 32 << 20  # the control: Python's own bytes do need the room
