"""How the page starts: from a snapshot of the interpreter, and without one that is any good."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import ROOT, TestServer, before_worker, open_blank
from gpt2web import gpu, preload, selftest
from gpt2web.gpu import Device, DeviceError, shader_source
from gpt2web.head_start import read_pipelines, write_pipelines

LOAD_MS = 120_000

# The one entry of the snapshot's cache: {address, bytes, sha256}, null while there is none.
ENTRY = """async () => {
  const name = (await caches.keys()).find((name) => name.startsWith("gpt2web snapshot "));
  if (!name) return null;
  const cache = await caches.open(name);
  const keys = await cache.keys();
  if (keys.length === 0) return null;
  if (keys.length > 1) throw new Error("more than one snapshot is kept");
  const response = await cache.match(keys[0]);
  const bytes = (await response.blob()).size;
  return { address: keys[0].url, bytes, sha256: response.headers.get("X-SHA-256") };
}"""

# Puts something else in its place. change: "a byte", "its head" (with the right hash), "its name"
SPOIL = """async (change) => {
  const name = (await caches.keys()).find((name) => name.startsWith("gpt2web snapshot "));
  const cache = await caches.open(name);
  const [{ url }] = await cache.keys();
  const response = await cache.match(url);
  const bytes = new Uint8Array(await response.arrayBuffer());
  let sha256 = response.headers.get("X-SHA-256");
  await cache.delete(url);
  if (change === "a byte") bytes[20_000_000] ^= 1;
  if (change === "its head") {
    bytes[0] ^= 1;
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    sha256 = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  const address = change === "its name" ? url.replace(/version=\\w+/, "version=older") : url;
  await cache.put(address, new Response(bytes, { headers: { "X-SHA-256": sha256 } }));
}"""


@pytest.fixture
def context(quick_browser: Browser) -> Iterator[BrowserContext]:
    context = quick_browser.new_context()
    yield context
    context.close()


def opened(page: Page) -> str:
    """Waits for the model; how Python came up."""
    expect(page.locator("#generate")).to_be_enabled(timeout=LOAD_MS)
    return page.locator("#running div", has_text="Python").locator("dd").inner_text()


def write(page: Page, seed: str) -> tuple[str, str]:
    """The text, and the seed that was used."""
    page.fill("#prompt", "Once upon a time")
    page.fill("#max-new-tokens", "4")
    page.fill("#seed", seed)
    page.click("#generate")
    expect(page.locator("#story-foot")).to_be_visible(timeout=LOAD_MS)
    return page.inner_text("#written"), page.inner_text("#figure-seed")


def snapshot(page: Page, other_than: str = "") -> dict[str, str]:
    """Waits until there is one, with another address and hash than before."""
    for _ in range(LOAD_MS // 200):
        entry: dict[str, str] | None = page.evaluate(ENTRY)
        if entry and other_than not in (entry["sha256"], entry["address"]):
            return entry
        page.wait_for_timeout(200)
    raise AssertionError("no snapshot was made")


@pytest.mark.browser
def test_a_snapshot_is_made_used_and_replaced_when_it_is_damaged_or_of_another_version(
    context: BrowserContext, server: TestServer
) -> None:
    page = context.new_page()
    page.goto(server.url)
    assert opened(page) == "started anew"
    text, _ = write(page, "5")
    first = snapshot(page)

    test = page.locator("#running div", has_text="Self-test").locator("dd")
    assert test.inner_text() == "passed"
    page.reload()
    assert opened(page) == "from a snapshot"
    assert test.inner_text() == "passed on an earlier visit"
    assert write(page, "5") == (text, "5")
    _, one_seed = write(page, "")
    other = context.new_page()
    other.goto(server.url)
    page.reload()  # both at once
    assert opened(other) == opened(page) == "from a snapshot"
    assert write(other, "5") == (text, "5")
    other.close()
    _, other_seed = write(page, "")
    assert one_seed != other_seed  # drawn from os.urandom: the state of `random` is in the snapshot

    for change in ("a byte", "its head", "its name"):
        page.evaluate(SPOIL, change)
        spoiled = page.evaluate(ENTRY)
        page.reload()
        assert opened(page) == "started anew", change
        assert write(page, "5") == (text, "5")
        other_than = spoiled["address"] if change == "its name" else spoiled["sha256"]
        again = snapshot(page, other_than)
        assert again["address"] == first["address"]
        if change == "a byte":
            page.reload()
            assert opened(page) == "from a snapshot"


# What is remembered, changed. how: its texts or addresses by [what, by what], or when it was left
CHANGE = """async ({ text, address, left }) => {
  const name = (await caches.keys()).find((name) => name.startsWith("gpt2web remembered "));
  const cache = await caches.open(name);
  for (const { url } of await cache.keys()) {
    const kept = await cache.match(url);
    const headers = { "X-Left": left ?? kept.headers.get("X-Left") };
    const body = (await kept.text()).replaceAll(...(text ?? ["", ""]));
    await cache.delete(url);
    await cache.put(url.replace(...(address ?? ["", ""])), new Response(body, { headers }));
  }
}"""
REMEMBERED = """async () => {
  const name = (await caches.keys()).find((name) => name.startsWith("gpt2web remembered "));
  return (await (await caches.open(name)).keys()).map(({ url }) => url);
}"""
PIPELINES = ("createComputePipeline", "createComputePipelineAsync")
NO_STORAGE = """
Object.defineProperty(self, "caches", { get() { throw new DOMException("", "SecurityError"); } });
"""


def load_and_write(page: Page) -> tuple[str, str, bool]:
    """The self-test, a text, and whether all pipelines were compiled before Python was up."""
    page.reload()
    found = page.evaluate(
        """async () => {
          const { load } = await import(address);
          const lm = await load("stories");
          let text = "";
          for await (const piece of lm.generate("One day", { maxNewTokens: 4, seed: 5 })) {
            text += piece.text;
          }
          const channel = new BroadcastChannel("count-gpu-calls");
          const counts = await new Promise((resolve) => {
            channel.onmessage = ({ data }) => resolve(data);
            channel.postMessage("");
          });
          lm.close();
          return [lm.info.selfTest, text, counts];
        }"""
    )
    self_test, text, counts = found
    afterwards, before = (counts[name] for name in PIPELINES)
    assert afterwards + before > 10
    return self_test, text, afterwards == 0


@pytest.mark.browser
def test_what_earlier_visits_found_out_is_used_and_found_out_anew_where_it_is_spoilt(
    quick_browser: Browser, server: TestServer
) -> None:
    context = quick_browser.new_context(service_workers="block")
    prelude = (ROOT / "tests/count_gpu_calls.js").read_text("utf-8")
    before_worker(context, prelude)
    context.add_init_script(f"self.address = {server.url + 'gpt2web.js'!r};")
    page = context.new_page()
    open_blank(page, f"{server.origin}/elsewhere.html")

    self_test, text, beforehand = load_and_write(page)
    assert (self_test, beforehand) == ("passed", False)
    anew, again = ("passed", text, False), ("passed on an earlier visit", text, True)
    assert load_and_write(page) == again
    kept = page.evaluate(REMEMBERED)
    assert len(kept) == 2

    page.evaluate(CHANGE, {"text": ["e", "E"]})  # no list, and no "passed"
    assert load_and_write(page) == anew
    page.evaluate(CHANGE, {"text": ["0.5", "0.75"]})  # sources that compile and are not ours
    assert load_and_write(page) == (again[0], text, False)
    page.evaluate(CHANGE, {"text": ["fn main(", "fn other("]})  # ... that do not compile
    assert load_and_write(page) == (again[0], text, False)
    page.evaluate(CHANGE, {"left": 0})  # too long ago
    assert load_and_write(page) == anew
    page.evaluate(CHANGE, {"address": ["version=", "version=0"]})
    assert load_and_write(page) == anew
    assert sorted(page.evaluate(REMEMBERED)) == sorted(kept)  # another version's are gone
    assert load_and_write(page) == again

    before_worker(context, prelude + NO_STORAGE)
    assert load_and_write(page) == anew
    context.close()


class Kept:
    """A Memory."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def recall(self, name: str) -> str:
        return self.texts.get(name, "")

    async def remember(self, name: str, text: str) -> None:
        self.texts[name] = text

    async def head_start(self) -> None:
        return None


@pytest.mark.gpu
def test_a_self_test_that_passed_is_not_run_again_until_anything_is_different(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, runs = Kept(), []
    compute = selftest.compute

    async def counted(device: Device, precision: str) -> dict[str, list[float]]:
        runs.append(precision)
        return await compute(device, precision)

    async def wrong(device: Device, precision: str) -> dict[str, list[float]]:
        return {name: [float("nan")] * 10_000 for name in selftest.recorded_answers()["int8"]}

    def run(precision: str) -> tuple[str, str]:
        return asyncio.run(selftest.run(device, precision, memory))

    monkeypatch.setattr(selftest, "compute", counted)
    assert run("f16") == ("f16", "passed")
    assert run("f16") == ("f16", "passed on an earlier visit")
    assert runs == ["f16"]
    assert run("f32") == ("f32", "passed")  # another precision
    monkeypatch.setitem(device.limits, "max-buffer-size", 1 << 28 | 256)  # another adapter
    assert run("f16") == ("f16", "passed")
    assert runs == ["f16", "f32", "f16"]

    memory.texts.clear()
    monkeypatch.setattr(selftest, "compute", wrong)
    with pytest.raises(DeviceError, match="computes wrongly"):
        run("f32")
    assert memory.texts == {}  # a failure is never remembered


@pytest.mark.gpu
def test_remembered_pipelines_are_read_only_as_they_were_written(device: Device) -> None:
    keys = [("copy_words", (("WEIGHT_BITS", 8.0),)), ("copy_words", (("WEIGHT_BITS", 4.0),))]
    device.used = dict.fromkeys(keys)
    text = write_pipelines(device)
    assert read_pipelines(text) == keys

    told = json.loads(text)
    for source in (shader_source("pack"), "", None):  # none of them what copy_words is
        assert read_pipelines(json.dumps(told | {"sources": {"copy_words": source}})) == []
    for name in ("gone", "../py/gpt2web/gpu", ""):
        assert read_pipelines(json.dumps(told | {"sources": {name: ""}})) == []
    for pipelines in (7, [7], [["copy_words", [1]]]):
        assert read_pipelines(json.dumps(told | {"pipelines": pipelines})) == []
    for spoilt in ("", "[", "7", "null", "{}", text[:-1]):
        assert read_pipelines(spoilt) == []


def test_a_preloaded_package_reads_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.shader_source.cache_clear()
    selftest.recorded_answers.cache_clear()
    preload.read_files()

    def refuse(*_: object) -> None:
        raise AssertionError("a snapshot has no file system")

    monkeypatch.setattr(gpu, "files", refuse)
    monkeypatch.setattr(selftest, "files", refuse)
    for path in (ROOT / "shaders").glob("*.wgsl"):
        assert gpu.shader_source(path.stem).endswith(path.read_text("utf-8"))
    assert selftest.recorded_answers()["int8"]
    gpu.shader_source.cache_clear()
    with pytest.raises(AssertionError, match="no file system"):
        gpu.shader_source("embed")


def test_only_modules_that_cannot_run_in_the_page_are_left_out() -> None:
    everything = {path.stem for path in (ROOT / "py/gpt2web").glob("*.py")} - {"__init__"}
    assert everything - set(preload.module_names()) == {"__main__", "notebook", "url_folder"}
