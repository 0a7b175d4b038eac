"""<gpt2-writer>, over a scripted gpt2web.js; test_embedding.py has it over the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import TestServer

pytestmark = pytest.mark.browser

# Pieces come when the test calls `come`; a load waits for `ready`, or fails with `problem`.
SCRIPTED = """
window.calls = [];
window.opened = window.ended = 0;
window.come = () => {};
window.ready = Promise.resolve();
export async function load(name, { onProgress, signal, precision }) {
  calls.push({ load: name, precision });
  onProgress({ stage: "download", done: 3, total: 12 });
  await Promise.race([ready, new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  })]);
  if (window.problem) throw Object.assign(new Error(window.problem), { code: "device-missing" });
  opened++;
  return new Scripted();
}
class Scripted extends EventTarget {
  info = { model: "scripted" };
  closed = null;
  recovering = null;
  close() { ended++; }
  generate(prompt, { signal, ...options }) {
    calls.push({ prompt, options });
    const pieces = async function* () {
      for (;;) {
        const text = await new Promise((resolve) => {
          window.come = resolve;
          signal.addEventListener("abort", () => resolve(null));
        });
        const finishReason = text === null ? "cancelled" : text === "" ? "length" : null;
        yield { text: text ?? "", ids: [], finishReason };
        if (finishReason) return;
      }
    };
    return Object.assign(pieces(), { seed: 7, timing: { tokens: 2 } });
  }
}
"""
POLICY = "default-src 'none'; script-src 'self'"
BODY = """<!doctype html><html lang="en"><title>A page</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<script type="module" src="gpt2-writer.js"></script>
<form><fieldset><gpt2-writer name="story" prompt="A fox" seed="3" top-k="40" stop-text="." min-p="">
  <span slot="write">Schreib weiter</span></gpt2-writer></fieldset></form>"""


@pytest.fixture
def page(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """A page with the element, under a policy that allows scripts of its own origin alone."""
    page = quick_browser.new_context(service_workers="block").new_page()
    page.set_default_timeout(10_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))

    def serve(name: str, body: str, kind: str) -> None:
        page.route(f"**/{name}", lambda route: route.fulfill(body=body, content_type=kind))

    serve("gpt2web.js", SCRIPTED, "text/javascript")
    serve("element.html", BODY.format(policy=POLICY), "text/html")
    page.goto(server.url + "element.html")
    page.evaluate("""() => {
      window.writer = document.querySelector("gpt2-writer");
      window.heard = [];
      for (const name of ["progress", "ready", "piece", "finish", "error"])
        writer.addEventListener(name, ({ detail }) => heard.push([name, detail]));
      for (const name of ["input", "change"])
        document.addEventListener(name, ({ target }) => heard.push([name, target === writer]));
    }""")
    yield page
    page.context.close()
    assert problems == []


def comes(page: Page, *texts: str) -> None:
    for text in texts:
        page.evaluate("text => new Promise((done) => { come(text); setTimeout(done, 20); })", text)


def form(page: Page) -> Any:
    return page.evaluate("() => Object.fromEntries(new FormData(document.forms[0]))")


def test_it_loads_when_asked_and_goes_on_from_the_text(page: Page) -> None:
    field = page.get_by_label("Your text")
    expect(field).to_have_value("A fox")
    assert page.evaluate("() => calls") == []
    assert form(page) == {"story": "A fox"}
    field.fill("A dog")
    page.get_by_role("button", name="Schreib weiter").click()
    expect(field).not_to_be_editable()
    expect(page.get_by_role("status")).to_have_text("Writing.")
    expect(page.locator("gpt2-writer:state(working)")).to_be_visible()
    comes(page, " ran. It", " fell", "")
    expect(page.get_by_role("status")).to_have_text("Written.")
    expect(field).to_have_value("A dog ran. It fell")
    expect(field).to_be_editable()
    assert form(page) == {"story": "A dog ran. It fell"}
    calls = page.evaluate("() => calls")
    options = {"maxNewTokens": 60, "seed": 3, "topK": 40, "stop": "."}
    assert calls[0] == {"load": None, "precision": None}
    assert calls[1] == {"prompt": "A dog", "options": options}
    heard = page.evaluate("() => heard")
    written = ["input", "piece"]
    told = ["input", "change", "progress", "ready", *written, *written, "piece", "change", "finish"]
    assert [name for name, _ in heard] == told
    assert [detail for name, detail in heard if name in ("input", "change")] == [True] * 5
    assert heard[-1][1] == {
        "text": " ran. It fell",
        "finishReason": "length",
        "seed": 7,
        "timing": {"tokens": 2},
    }


def test_screen_readers_hear_whole_sentences_once(page: Page) -> None:
    page.evaluate("() => { writer.write(); }")
    log = page.get_by_role("log")
    comes(page, " ran", " away")
    expect(log).to_have_text("")
    comes(page, ". It", " was")
    expect(log).to_have_text(" ran away.")
    comes(page, "")
    assert log.locator("span").all_text_contents() == [" ran away.", " It was"]
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_writes_and_stops_and_a_load_is_given_up(page: Page) -> None:
    page.evaluate("() => { window.ready = new Promise(() => {}); writer.focus(); }")
    page.keyboard.press("Control+Enter")
    bar = page.get_by_role("progressbar", name="Loading the model.")
    expect(bar).to_be_visible()
    assert bar.evaluate("bar => bar.value") == 0.25
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(bar).to_be_hidden()
    page.evaluate("() => { window.ready = Promise.resolve(); }")
    page.keyboard.press("Control+Enter")
    comes(page, " ran")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_label("Your text")).to_have_value("A fox ran")
    assert page.evaluate("() => heard.at(-1)[1].finishReason") == "cancelled"
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_focus_goes_to_the_button_that_can_be_pressed(page: Page) -> None:
    write, stop = page.get_by_role("button").all()
    write.focus()
    page.keyboard.press("Enter")
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(write).to_be_focused()


def test_an_error_is_shown_as_text_and_told(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 500})
    sentence = "There is <b>no</b> WebGPU. See http://localhost/" + "deep/" * 30
    page.evaluate("sentence => { window.problem = sentence; }", sentence)
    assert page.evaluate("() => writer.write()") is None
    expect(page.get_by_role("alert")).to_have_text(sentence)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
    assert page.evaluate("() => heard.at(-1)[0]") == "error"
    page.evaluate("() => { delete window.problem; writer.write(); }")
    comes(page, " ran", "")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_label("Your text")).to_have_value("A fox ran")


def test_it_closes_its_own_model_when_it_is_removed_and_no_other(page: Page) -> None:
    opened, moved, removed, changed, shared = page.evaluate("""async () => {
      const later = () => new Promise((resolve) => setTimeout(resolve));
      await writer.load();
      const first = opened;
      document.body.append(writer);
      await later();
      const moved = ended;
      writer.remove();
      await later();
      const removed = ended;
      document.body.append(writer);
      await writer.load();
      writer.setAttribute("model", "another");
      const changed = [opened, ended, writer.lm];
      const lm = await writer.load();
      const other = document.createElement("gpt2-writer");
      document.body.append(other);
      other.lm = lm;
      other.remove();
      await later();
      return [first, moved, removed, changed, [opened, ended, calls.at(-1).load]];
    }""")
    assert (opened, moved, removed) == (1, 0, 1)
    assert changed == [2, 2, None]
    assert shared == [3, 2, "another"]


def test_it_tells_of_a_recovery_and_loads_again_what_ended_by_itself(page: Page) -> None:
    page.evaluate("""async () => {
      const lm = await writer.load();
      lm.recovering = "The graphics device was lost.";
      lm.dispatchEvent(new Event("change"));
    }""")
    expect(page.get_by_role("status")).to_have_text("The graphics device was lost.")
    loaded = page.evaluate("""async () => {
      const lm = writer.lm;
      lm.recovering = null;
      lm.dispatchEvent(new Event("change"));
      const same = (await writer.load()) === lm;
      lm.closed = new Error("It is of no use any more.");
      return [same, (await writer.load()) === lm, opened];
    }""")
    assert loaded == [True, False, 2]
    expect(page.get_by_role("status")).to_have_text("")


def test_it_is_a_field_of_its_form(page: Page) -> None:
    found = page.evaluate("""async () => {
      const [form] = document.forms, set = form.querySelector("fieldset"), found = [];
      const button = writer.shadowRoot.querySelector("[part~=write]");
      found.push(writer.form === form, form.elements.story === writer);
      writer.value = "mine";
      writer.setAttribute("prompt", "of the page");
      found.push(writer.value);
      form.reset();
      found.push(writer.value);
      set.disabled = true;
      found.push(button.disabled, await writer.write(), [...new FormData(form)].length);
      set.disabled = false;
      return [...found, button.disabled];
    }""")
    assert found == [True, True, "mine", "of the page", True, None, 0, False]
