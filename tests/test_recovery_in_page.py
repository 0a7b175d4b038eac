"""Devices and workers lost in the middle of a text, no room, wrong kernels: the page goes on, or
says what it lacks. trouble.js stands before the worker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import CHROMIUM_FLAGS, TestServer, before_worker, launch, open_blank

pytestmark = pytest.mark.browser

TROUBLE = (Path(__file__).parent / "trouble.js").read_text("utf-8")
LOAD_MS = 120_000
RESTARTING = "The graphics card was lost; starting it again."
ENDED = "Python stopped running; starting it again."
PROMPT = "Once upon a time"
OPTIONS = {"temperature": 0.9, "topK": 50, "repetitionPenalty": 1.1, "seed": 7}
OPTIONS |= {"maxNewTokens": 24, "stepsPerSubmit": 4, "logprobs": 1, "stop": ["the zebra", "^"]}

# start(model, or a list of its files) -> info. write(prompt, options, orders, after) generates, and
# orders trouble behind every `after` pieces. told: what the reader is told.
HELPERS = """async (address) => {
  const { load } = await import(address + "gpt2web.js");
  const channel = new BroadcastChannel("trouble");
  window.order = (orders) => new Promise((resolve) => {
    channel.onmessage = ({ data }) => resolve(data);
    channel.postMessage(orders);
  });
  window.told = [];
  window.requests = [];
  const onProgress = ({ stage, notice }) => notice && told.push(`${stage}: ${notice}`);
  const onRequests = (more) => requests.push(...more.map((request) => request.address));
  const fileOf = async (name) => {
    const response = await fetch(`${address}models/stories/${name}`);
    return new File([await response.blob()], name);
  };
  window.start = async (model) => {
    const files = Array.isArray(model) ? { files: await Promise.all(model.map(fileOf)) } : {};
    try {
      window.lm = await load(files.files ? "own" : model, { onProgress, onRequests, ...files });
    } catch ({ name, code, message }) {
      return { name, code, message };
    }
    lm.addEventListener("change", () => told.push(lm.recovering));
    return lm.info;
  };
  window.write = async (prompt, options, orders = [], after = 1) => {
    const found = { text: "", ids: [], logprobs: [], seed: null, tokens: 0, error: null };
    let pieces = 0;
    try {
      const generation = lm.generate(prompt, options);
      for await (const { text, ids, logprobs, finishReason } of generation) {
        found.text += text;
        found.ids.push(...ids);
        found.logprobs.push(...(logprobs ?? []).map((value) => value.toFixed(3)));
        found.finish = finishReason;
        found.seed = generation.seed;
        found.tokens = generation.timing.tokens;
        pieces += 1;
        if (pieces === after && orders.length > 0) {
          channel.postMessage(orders.shift());
          pieces = 0;
        }
      }
    } catch ({ name, code, message }) {
      found.error = { name, code, message };
    }
    return found;
  };
}"""
FILES = ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "vocab.json"]


def in_trouble(context: BrowserContext, **plan: Any) -> None:
    """Every worker of the context meets this, from its start on."""
    program = TROUBLE.replace("const PLAN = {};", f"const PLAN = {json.dumps(plan)};")
    assert json.dumps(plan) in program
    before_worker(context, program)


def open_lab(browser: Browser, server: TestServer, **plan: Any) -> Page:
    """A blank page with gpt2web.js and HELPERS."""
    page = browser.new_context().new_page()
    in_trouble(page.context, **plan)
    open_blank(page, f"{server.origin}/lab.html")
    page.evaluate(HELPERS, server.url)
    return page


@pytest.fixture(scope="module")
def lab(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    page = open_lab(quick_browser, server)
    info = page.evaluate("() => start('stories')")
    assert info["model"] == "stories" and info["notice"] is None
    yield page
    page.context.close()


def write(
    page: Page,
    prompt: str = PROMPT,
    orders: list[dict[str, bool]] | None = None,
    after: int = 1,
    **options: Any,
) -> dict[str, Any]:
    given = [prompt, OPTIONS | options, orders or [], after]
    found: dict[str, Any] = page.evaluate("(given) => write(...given)", given)
    return found


@pytest.fixture(scope="module")
def wanted(lab: Page) -> dict[str, Any]:
    """The text of OPTIONS with nothing in its way."""
    found = write(lab)
    assert len(found["ids"]) == 24 and found["finish"] == "length"
    return found


def order(page: Page, **orders: Any) -> dict[str, Any]:
    seen: dict[str, Any] = page.evaluate("(orders) => order(orders)", orders)
    return seen


def forget(page: Page) -> None:
    """Another text in the cache: the prompt is read again."""
    write(page, "The", maxNewTokens=1)
    page.evaluate("() => told.splice(0)")


def test_a_text_goes_on_when_its_device_is_lost_with_the_prompt_and_then_again(
    lab: Page, wanted: dict[str, Any]
) -> None:
    forget(lab)
    before = order(lab)["lost"]
    order(lab, lose={"submit": [0], "mapAsync": [5]})
    assert write(lab) == wanted
    assert order(lab, lose={})["lost"] - before == 2
    told = lab.evaluate("() => told")
    assert told == [RESTARTING, None] * (len(told) // 2) and told


def test_a_device_lost_while_nothing_runs_is_replaced_by_the_next_text(
    lab: Page, wanted: dict[str, Any]
) -> None:
    forget(lab)
    order(lab, loseNow=True)
    assert lab.evaluate("() => lm.tokenize('The').then((ids) => [ids.length > 0, told])") == [
        True,
        [],
    ]
    assert write(lab) == wanted
    assert lab.evaluate("() => told") == [RESTARTING, None]


def test_a_text_goes_on_when_its_worker_dies_until_that_happens_again_and_again(
    quick_browser: Browser, server: TestServer
) -> None:
    """One that runs the reader's own files, which it gets again."""
    page = open_lab(quick_browser, server)
    assert page.evaluate("(files) => start(files)", FILES)["model"] == "own"
    count = len(page.evaluate("() => requests"))
    options = {key: value for key, value in OPTIONS.items() if key != "seed"}
    script = "([prompt, options, orders]) => write(prompt, options, orders, 2)"
    found = page.evaluate(script, [PROMPT, options, [{"throw": True}]])
    assert found["error"] is None and page.evaluate("() => told") == [ENDED, None]
    requests = page.evaluate("() => requests")[count:]
    assert any("worker.js" in address for address in requests)  # the new one's are listed, too
    whole = write(page, seed=found["seed"])
    assert found == whole  # also with a seed that the model has drawn; each piece once

    in_trouble(page.context, end=True)  # its next workers end at once
    page.evaluate("() => told.splice(0)")
    found = write(page, PROMPT, [{"end": True}], 2, seed=found["seed"])
    assert found["error"]["code"] == "runtime-lost" and found["error"]["name"] == "WorkerError"
    assert "stopped 3 times in a row (it was ended). What was" in found["error"]["message"]
    assert found["text"] and whole["text"].startswith(found["text"])
    assert page.evaluate("() => told") == [ENDED, None]  # one sentence for all
    closed = page.evaluate("() => [lm.closed.code, lm.recovering]")
    assert closed == ["runtime-lost", None]
    page.context.close()


def test_the_page_keeps_a_text_whose_worker_cannot_be_started_again_and_offers_the_model(
    quick_browser: Browser, server: TestServer
) -> None:
    """The server is out of reach, and there is no service worker."""
    context = quick_browser.new_context(service_workers="block")
    in_trouble(context)
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#generate:enabled", timeout=LOAD_MS)
    context.route("**/worker.js*", lambda route: route.abort())
    page.fill("#max-new-tokens", "200")
    page.click("#generate")
    expect(page.locator("#written")).not_to_be_empty(timeout=LOAD_MS)
    page.evaluate("new BroadcastChannel('trouble').postMessage({ end: true })")
    page.wait_for_selector("#problem:not([hidden]):not(.calm)", timeout=LOAD_MS)
    assert "could not be started again (" in page.inner_text("#problem-text")
    written = page.inner_text("#written")
    assert written and page.inner_text("#way-out") == "Load the model again"
    context.unroute("**/worker.js*")
    page.click("#way-out")
    page.wait_for_selector("#generate:enabled", timeout=LOAD_MS)
    assert page.inner_text("#written") == written
    context.close()


def test_a_load_goes_on_when_its_device_is_lost(
    quick_browser: Browser, server: TestServer, wanted: dict[str, Any]
) -> None:
    page = open_lab(quick_browser, server, lose={"submit": [2, 60]})
    info = page.evaluate("() => start('stories')")
    assert info.get("selfTest") == "passed", info
    assert order(page, lose={})["lost"] == 2
    assert f"check: {RESTARTING}" in page.evaluate("() => told")
    assert write(page) == wanted
    page.context.close()


def test_without_room_a_smaller_precision_is_taken_and_the_page_says_so(
    quick_browser: Browser, server: TestServer
) -> None:
    context = quick_browser.new_context()
    in_trouble(context, room=17_000_000)
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#generate:enabled, #problem:not([hidden])", timeout=LOAD_MS)
    assert page.inner_text("#problem-text").startswith(
        "There was no room on the GPU for the weights in f16: "
    )
    assert "kept in int8 instead" in page.inner_text("#running")
    assert page.locator("#problem.calm").count() == 1
    context.close()


def test_without_any_room_both_numbers_are_told(quick_browser: Browser, server: TestServer) -> None:
    page = open_lab(quick_browser, server, room=3_000_000)
    error = page.evaluate("() => start('stories')")
    assert (error["name"], error["code"]) == ("DeviceError", "device-memory")
    assert "in int4: " in error["message"] and " bytes were needed, " in error["message"]
    page.context.close()


def test_a_gpu_that_fails_in_f16_runs_in_f32_and_the_page_says_so(
    quick_browser: Browser, server: TestServer
) -> None:
    context = quick_browser.new_context()
    in_trouble(context, wrong=["unpack2x16float(", "-unpack2x16float("])
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#generate:enabled, #problem:not([hidden])", timeout=LOAD_MS)
    running = page.inner_text("#running")
    assert "passed in f32; f16 failed" in running and "weights in f32" in running
    context.close()


def test_a_gpu_that_fails_in_f32_too_is_refused_by_name(
    quick_browser: Browser, server: TestServer
) -> None:
    context = quick_browser.new_context()
    in_trouble(context, wrong=["tanh(", "-tanh("])
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#generate:enabled, #problem:not([hidden])", timeout=LOAD_MS)
    assert page.locator("#generate").is_disabled()
    text = page.inner_text("#problem-text")
    assert re.match(
        r".*swiftshader.* computes wrongly, so nothing can be generated on it. ", text, re.I
    )
    context.close()


def test_a_crash_of_the_gpu_process_is_survived(
    browser: Browser, server: TestServer, wanted: dict[str, Any]
) -> None:
    quick = launch(browser, [*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"])
    page = open_lab(quick, server)
    page.evaluate("() => start('stories')")
    page.evaluate("([p, o]) => { window.writing = write(p, o); }", [PROMPT, OPTIONS])
    quick.new_browser_cdp_session().send("Browser.crashGpuProcess")
    assert page.evaluate("() => writing") == wanted
    assert page.evaluate("() => told")[0] == RESTARTING
    quick.close()
