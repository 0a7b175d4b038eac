"""docs/errors.md: its codes are those of the program, and each one is provoked here for real."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wgpu
from playwright.sync_api import Browser, Page

import small_models
from adapters import new_device
from browser import ROOT, TestServer
from gpt2web import GPT2CausalLM, gpu, selftest
from gpt2web import page as page_module
from gpt2web.blocking import block_on
from gpt2web.checkpoint import LocalFolder
from gpt2web.convert.model_folder import FolderWriter
from gpt2web.gpu import Device
from gpt2web.manifest import held_to_manifest
from gpt2web.preset import read_config
from gpt2web.url_folder import UrlFolder

DOCS = (ROOT / "docs/errors.md").read_text("utf-8")
CODE = re.compile(
    r'"((?:device|checkpoint|download|storage|runtime|option|prompt)-[a-z-]+|busy|closed'
    r'|edit-failed|internal)"'
)
SELF_TEST = selftest.run  # the fixture `devices` leaves it out


def documented() -> dict[str, list[str]]:
    """code -> the names it comes under; every row is whole."""
    table = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \|$", DOCS, re.M)
    assert len(table) == DOCS.count("\n|") - 2
    for _, _, meaning, way_out in table:
        assert meaning.endswith(".") and way_out.endswith(".")
    return {code: names.split(", ") for code, names, _, _ in table}


def codes_in(sources: list[str]) -> set[str]:
    """Those of the programs; what the page says by a name of its own (texts.js) is no code."""
    without_texts = [re.sub(r"\btext\([^()]*\)", "", source) for source in sources]
    return {code for source in without_texts for code in CODE.findall(source)}


def test_the_table_has_the_programs_codes_and_no_others() -> None:
    files = [*(ROOT / "py").rglob("*.py"), *(ROOT / "web").glob("*.js")]
    assert codes_in([file.read_text("utf-8") for file in files]) == documented().keys()
    spread = ['failure("X", "y", "device-new")', 'code="closed"', 'text("download-paused")']
    assert codes_in(spread) == {"device-new", "closed"}


def test_each_code_is_provoked_in_this_file() -> None:
    assert sorted([*NATIVE, *IN_THE_PAGE]) == sorted(documented())


def told(code: str, name: str, message: str) -> None:
    names = documented()[code]
    assert name in names or names == ["any other name"]
    assert len(message) > 20 and "Traceback" not in message


# --- natively -----------------------------------------------------------------------------------


def run(coroutine: Any) -> Any:
    return block_on(coroutine, "test")


def no_such_adapter(**_: Any) -> None:
    run(Device.request("no such adapter"))


def too_large_a_tensor(**_: Any) -> None:
    device = new_device("SwiftShader")
    try:
        device.tensor((1 << 26,))
    finally:
        device.destroy()


def no_room(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    device = new_device("SwiftShader")

    def full(**options: Any) -> None:
        raise wgpu.GPUOutOfMemoryError("the driver has no more")

    monkeypatch.setattr(device.device, "create_buffer", full)
    try:
        device.tensor((4,))
    finally:
        device.destroy()


def corrupt(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    original = gpu.shader_source
    assert right in original("head")
    monkeypatch.setattr(gpu, "shader_source", lambda name: original(name).replace(right, wrong))


def self_test() -> None:
    device = new_device("SwiftShader")
    try:
        run(SELF_TEST(device, "f32"))
    finally:
        device.destroy()


def wrong_kernel(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    corrupt(monkeypatch, "select(sums[i]", "select(sums[3u - i]")
    self_test()


def broken_kernel(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    corrupt(monkeypatch, "select(sums[i]", "choose(sums[i]")
    self_test()


def model_folder(tmp_path: Path) -> Path:
    return small_models.write_folder(tmp_path / "model", small_models.random_model())


def no_such_model(**_: Any) -> None:
    GPT2CausalLM.from_preset("no-such-model")


def cut_short(tmp_path: Path, **_: Any) -> None:
    folder = model_folder(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    GPT2CausalLM.from_preset(folder)


def another_architecture(tmp_path: Path, **_: Any) -> None:
    folder = model_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    run(read_config(LocalFolder(folder)))


def nobody_listens(**_: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/model"
        run(UrlFolder(address).read_text("config.json"))


def another_file(tmp_path: Path, **_: Any) -> None:
    folder = tmp_path / "m"
    about: dict[str, Any] = {"title": "M", "license": "MIT", "precision": "f32"}
    with FolderWriter(folder, **about, parameters=1, context=8) as writer:
        writer.add_text("config.json", "{}")
        writer.begin_weights([("w", "F32", (1,))])
        writer.write(b"1234")
    (folder / "config.json").write_text("[]")
    run(run(held_to_manifest(LocalFolder(folder))).read_text("config.json"))


def loaded(tmp_path: Path) -> GPT2CausalLM:
    return GPT2CausalLM.from_preset(model_folder(tmp_path))


def of_a_model(call: Callable[[GPT2CausalLM], Any]) -> Callable[..., None]:
    def provoke(tmp_path: Path, devices: Any, **_: Any) -> None:
        lm = loaded(tmp_path)
        try:
            call(lm)
        finally:
            lm.close()

    return provoke


def after_closing(lm: GPT2CausalLM) -> None:
    lm.close()
    asyncio.run(lm.stream("a").__anext__())


def a_bug(**_: Any) -> None:
    raise ZeroDivisionError("by zero")


def lost_under_us(**_: Any) -> None:
    device = new_device("SwiftShader")
    device.device.destroy()
    device.tensor((4,))


NATIVE: dict[str, Callable[..., None]] = {
    "device-lost": lost_under_us,
    "device-missing": no_such_adapter,
    "device-limit": too_large_a_tensor,
    "device-memory": no_room,
    "device-wrong": wrong_kernel,
    "device-failed": broken_kernel,
    "checkpoint-missing": no_such_model,
    "checkpoint-damaged": cut_short,
    "checkpoint-unsupported": another_architecture,
    "download-broken": nobody_listens,
    "download-refused": another_file,
    "option-invalid": of_a_model(lambda lm: lm.stream("a", temperature=-1.0)),
    "prompt-too-long": of_a_model(lambda lm: lm.stream("a" * 301)),
    "closed": of_a_model(after_closing),
    "internal": a_bug,
}


@pytest.mark.gpu
@pytest.mark.parametrize("code", NATIVE)
def test_natively(code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, devices: Any) -> None:
    monkeypatch.setenv("GPT2WEB_ADAPTER", "SwiftShader")
    with pytest.raises(Exception) as raised:
        NATIVE[code](monkeypatch=monkeypatch, tmp_path=tmp_path, devices=devices)
    assert code == "internal" or raised.traceback[-1].path.is_relative_to(ROOT / "py/gpt2web")
    described = page_module.describe(raised.value)
    assert described["code"] == code, raised.value
    assert getattr(raised.value, "code", code) == code
    told(code, described["name"], described["message"])


# --- in the page ----------------------------------------------------------------------------------

LOADING = """() => import("./gpt2web.js").then(({ load }) => load("stories")).then(
  (lm) => lm.close(), ({ name, code, message }) => ({ name, code, message }))"""


def other_wheel(page: Page) -> Any:
    page.context.route("**/wheels/gpt2web-*", lambda route: route.fulfill(body=b"not a wheel"))
    return page.evaluate(LOADING)


def no_answer(page: Page) -> Any:
    page.context.route("**/wheels.json", lambda route: route.abort())
    return page.evaluate(LOADING)


def no_such_folder(page: Page) -> Any:
    return page.evaluate("""async () => {
      const { removeModel } = await import("./gpt2web.js");
      return removeModel("nobody").catch(({ name, code, message }) => ({ name, code, message }));
    }""")


def in_use(page: Page) -> Any:
    return page.evaluate("""async () => {
      const { loadLock } = await import("./store.js");
      const { removeModel } = await import("./gpt2web.js");
      const lock = loadLock(new URL("models/stories/", location).href);
      return navigator.locks.request(lock, () => removeModel("stories").then(
        () => null, ({ name, code, message }) => ({ name, code, message })));
    }""")


READ_BACK = """
  const { openDownload } = await import(folder + "downloads.js");
  const url = folder + "models/stories/";
  const manifest = await (await fetch(url + "manifest.json")).json();
  const download = await openDownload(url, manifest);
  Blob.prototype.stream = function () { return new Response("x".repeat(this.size)).body; };
  const told = ({ name, code, message }) => ({ name, code, message });
  postMessage(await download.read("config.json").then(() => null, told));
"""


def other_bytes_each_time(page: Page) -> Any:
    return page.evaluate(
        """script => new Promise((resolve) => {
          const folder = new URL("./", location).href;
          const parts = [`const folder = "${folder}";`, script];
          const url = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
          const worker = new Worker(url, { type: "module" });
          worker.onmessage = ({ data }) => resolve(data);
        })""",
        READ_BACK,
    )


def worker_that_ends(page: Page) -> Any:
    ends = """postMessage({ type: "ready" }); setTimeout(close, 200);"""
    kind = "text/javascript"
    page.context.route("**/worker.js*", lambda route: route.fulfill(body=ends, content_type=kind))
    return page.evaluate(LOADING)


def an_edit_that_is_no_python(page: Page) -> Any:
    edits = '{ "gpt2web/turn.py": "while True print()" }'
    return page.evaluate(
        LOADING.replace('load("stories")', f'load("stories", {{ edits: {edits} }})')
    )


IN_THE_PAGE: dict[str, Callable[[Page], Any]] = {
    "edit-failed": an_edit_that_is_no_python,
    "runtime-damaged": other_wheel,
    "runtime-lost": worker_that_ends,
    "busy": in_use,
    "storage-damaged": other_bytes_each_time,
}


def folder_that_has_gone(page: Page) -> Any:
    return page.evaluate("""async () => {
      const { filesOf } = await import("./own_files.js");
      const gone = new DOMException("A requested file could not be found.", "NotFoundError");
      const entry = { isFile: true, name: "gpt2", file: (found, failed) => failed(gone) };
      return filesOf({ items: [{ kind: "file", webkitGetAsEntry: () => entry }] }).then(
        () => null, ({ name, code, message }) => ({ name, code, message }));
    }""")


ALSO = [  # natively, and here
    ("download-broken", no_answer),
    ("checkpoint-missing", no_such_folder),
    ("checkpoint-missing", folder_that_has_gone),
]


@pytest.mark.browser
@pytest.mark.parametrize(("code", "provoke"), [*IN_THE_PAGE.items(), *ALSO])
def test_in_the_page(
    code: str, provoke: Callable[[Page], Any], quick_browser: Browser, server: TestServer
) -> None:
    page = quick_browser.new_page()
    page.goto(f"{server.url}icon.svg")
    page.set_default_timeout(60_000)
    error = provoke(page)
    page.context.close()
    assert error["code"] == code, error
    told(code, error["name"], error["message"])
