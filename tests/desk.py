"""The writing page in Chromium, opened and waited for; and one that many test modules share.

desk  the page with the stories model, loaded once for the session and as a reader finds it at the
      start of each test: everything closed, the model's own settings, no colours, the reader's own
      texts apart, which stay. What goes to its worker and comes from it is noted, and what the
      worker asks of the GPU: see LISTENER
conftest.py makes it known to every test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import TestServer, before_worker

LOAD_MS = 120_000  # Pyodide, the model, every pipeline in software; more when the machine is busy
WRITE_MS = 30_000
VIEWS = ("attention", "next-token", "lens", "weights-map")
COUNTER = (Path(__file__).parent / "count_gpu_calls.js").read_text("utf-8")
# Notes what goes to workers, window.told, and what comes from them, window.heard.
LISTENER = """
  window.told = [];
  window.heard = [];
  window.since = 0; // what of window.told is of the test
  const post = Worker.prototype.postMessage;
  const listening = new WeakSet();
  Worker.prototype.postMessage = function (message, ...rest) {
    window.told.push(message);
    if (!listening.has(this)) {
      listening.add(this);
      this.addEventListener("message", ({ data }) => {
        window.heard.push(data);
        window.last = performance.now();
      });
    }
    return post.call(this, message, ...rest);
  };
  const channel = new BroadcastChannel("count-gpu-calls");
  window.gpuCalls = () => new Promise((resolve) => {
    channel.onmessage = ({ data }) => resolve(data);
    channel.postMessage(null);
  });
"""
# As a reader finds it, but for the text: the settings' panel open, the others' insides closed.
PUT_BACK = """() => {
  const $ = (id) => document.getElementById(id);
  const set = (id, value, event) => {
    $(id).value = value;
    $(id).dispatchEvent(new Event(event, { bubbles: true }));
  };
  for (const each of document.querySelectorAll("details")) {
    each.open = each.classList.contains("panel") && each.id !== "history";
  }
  if ($("token").matches(":popover-open")) $("token").hidePopover();
  if (!$("editing").hidden) $("edit-done").click();
  if (!$("ways").hidden) $("ways-none").click();
  for (const [id, wanted] of [["colour", false], ["link-text", false], ["keep-texts", true]]) {
    if ($(id).checked !== wanted) $(id).click();
  }
  set("preset", "model", "change");
  set("stop-at", "", "input");
  set("when-full", "stop", "change");
  $("problem").hidden = true;
  document.activeElement.blur();
  window.scrollTo(0, 0);
}"""


def open_page(context: BrowserContext, url: str) -> Page:
    """The page with the model ready; fails with what the page says where it is not."""
    page = context.new_page()
    page.goto(url)
    end = "#generate:enabled, #problem:not([hidden]), #no-webgpu:not([hidden])"
    page.wait_for_selector(end, timeout=LOAD_MS)
    assert page.is_enabled("#generate"), page.inner_text("main")
    return page


def write(page: Page, prompt: str, length: int, seed: int = 5) -> str:
    """Generates to the end and gives what was written."""
    page.fill("#prompt", prompt)
    page.fill("#max-new-tokens", str(length))
    page.fill("#seed", str(seed))
    page.click("#generate")
    expect(page.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    return page.inner_text("#written")


def press(page: Page, button: str) -> str:
    """Has the model write by a button, to the end, and gives the text."""
    page.click(button)
    expect(page.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    return page.inner_text("#story")


def open_views(page: Page, *names: str) -> None:
    """Opens these views, and closes the others."""
    opened = "([all, open]) => all.forEach((id) => { $(id).open = open.includes(id); })"
    page.evaluate(opened.replace("$", "document.getElementById"), [VIEWS, names])


def open_everything(page: Page) -> None:
    """Opens all that can be opened, and waits until it is drawn."""
    page.evaluate(
        "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    for view in VIEWS:
        expect(page.locator(f"#{view} svg")).to_be_visible(timeout=WRITE_MS)
    expect(page.locator(".cm-content")).to_be_visible(timeout=WRITE_MS)


@pytest.fixture(scope="session")
def loaded_desk(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    context = quick_browser.new_context(service_workers="block", accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.origin)
    before_worker(context, COUNTER)
    context.add_init_script(LISTENER)
    yield open_page(context, server.url)
    context.close()


@pytest.fixture
def desk(loaded_desk: Page) -> Iterator[Page]:
    loaded_desk.set_viewport_size({"width": 1280, "height": 720})
    loaded_desk.emulate_media(
        color_scheme="light", reduced_motion="no-preference", forced_colors="none", media="screen"
    )
    loaded_desk.evaluate(PUT_BACK)
    loaded_desk.fill("#max-new-tokens", "200")
    loaded_desk.fill("#seed", "")
    yield loaded_desk
    if loaded_desk.is_enabled("#stop"):
        loaded_desk.keyboard.press("Escape")
        expect(loaded_desk.locator("#generate")).to_be_enabled(timeout=WRITE_MS)
