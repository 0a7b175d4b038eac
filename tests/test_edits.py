"""`load` with `edits` in Chromium: changed Python and WGSL run, fail where they should, and nothing
is remembered of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import TestServer
from gpt2web import sources
from test_recovery_in_page import in_trouble
from test_start import snapshot

pytestmark = pytest.mark.browser

TEXTS = sources.read()
SAMPLING = "gpt2web/sampling.py"
SELECT = "gpt2web/shaders/select.wgsl"
MASK = "gpt2web/shaders/attention_weights.wgsl"
WINDOW = 4

# loaded(edits): closes the model before and loads another: its info, or the error. ids(): what it
# writes; orders: trouble, behind the fourth of them.
HELPERS = """async (address) => {
  const { load } = await import(address + "gpt2web.js");
  const channel = new BroadcastChannel("trouble");
  window.lm = null;
  window.told = [];
  window.trouble = (orders) => channel.postMessage(orders);
  window.loaded = async (edits, options = {}) => {
    lm?.close();
    lm = null;
    try {
      lm = await load("stories", { edits, ...options });
    } catch ({ name, code, message, place, detail }) {
      return { name, code, message, place, detail };
    }
    lm.addEventListener("change", () => told.push(lm.recovering));
    return lm.info;
  };
  window.ids = async (options = {}, orders = null) => {
    const found = [];
    try {
      const given = { seed: 7, maxNewTokens: 12, ...options };
      for await (const piece of lm.generate("Once upon a time", given)) {
        found.push(...piece.ids);
        if (orders && found.length === 4) trouble(orders);
      }
    } catch ({ name, code, message, place }) {
      return { name, code, message, place };
    }
    return found;
  };
}"""
KEPT = """async () => {
  const found = [];
  for (const name of await caches.keys()) {
    if (!name.startsWith("gpt2web remembered ") && !name.startsWith("gpt2web snapshot ")) continue;
    for (const { url } of await (await caches.open(name)).keys()) found.push(url);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def lab(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    page = quick_browser.new_context(service_workers="block").new_page()
    in_trouble(page.context)
    address = f"{server.origin}/lab.html"
    html = "<!doctype html>"
    page.route(address, lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(address)
    page.set_default_timeout(60_000)
    page.evaluate(HELPERS, server.url)
    yield page
    page.context.close()


def replaced(path: str, old: str, new: str) -> dict[str, str]:
    assert TEXTS[path].count(old) == 1
    return {path: TEXTS[path].replace(old, new)}


def load(page: Page, edits: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("(edits) => loaded(edits)", edits)
    return found


def write(page: Page, **options: Any) -> list[int]:
    found = page.evaluate("(options) => ids(options)", options)
    assert isinstance(found, list), found
    return found


@pytest.fixture(scope="module")
def original(lab: Page) -> tuple[list[int], list[int]]:
    """Ids of the model as it is, drawn and greedy; what it reads of itself is what is here."""
    info = load(lab)
    assert (info["edited"], info["selfTest"]) == ([], "passed")
    assert lab.evaluate("() => lm.sources()") == TEXTS
    return write(lab), write(lab, temperature=0)


def test_an_edited_sampler_writes_what_the_same_options_would(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    drawn, greedy = original
    assert drawn != greedy
    kept = lab.evaluate(KEPT)
    old = "            self.temperature,\n            min("
    info = load(lab, replaced(SAMPLING, old, old.replace("self.temperature", "0.0")))
    assert info["edited"] == [SAMPLING]
    assert info["selfTest"] == "not run, as files were edited"
    assert write(lab) == greedy
    assert old not in lab.evaluate("async () => (await lm.sources())['gpt2web/sampling.py']")
    assert kept and lab.evaluate(KEPT) == kept  # of the edited nothing was left


def test_an_edited_model_is_recovered_with_its_edits(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    """Its device first, then its worker."""
    for trouble in ({"loseNow": True}, {"end": True}):
        lab.evaluate("() => told.splice(0)")
        found = lab.evaluate("(orders) => ids({ stepsPerSubmit: 2, logprobs: 1 }, orders)", trouble)
        assert found == original[1], trouble
        assert len(lab.evaluate("() => told")) == 2
        assert lab.evaluate("() => lm.info.edited") == [SAMPLING]


def test_an_edited_mask_shows_in_the_attention(lab: Page) -> None:
    old = "score += query[d] * cache[t * HIDDEN + head * HEAD_DIM + d];\n    }\n"
    new = f"{old}    if t + {WINDOW}u < count {{\n      score = -3.0e38;\n    }}\n"
    info = load(lab, replaced(MASK, old, new))
    assert info["edited"] == [MASK]
    found = lab.evaluate("""async () => {
      const inspection = await lm.inspect(await lm.tokenize("The fox saw a red bird in the tree"));
      return { shape: inspection.shape, attention: [...inspection.attention] };
    }""")
    count = found["shape"][2]
    rows = [found["attention"][at : at + count] for at in range(0, len(found["attention"]), count)]
    assert len(rows) == 24 and count > WINDOW + 2
    assert all(row[:-WINDOW] == [0] * (count - WINDOW) for row in rows)
    assert all(abs(sum(row) - 1) < 1e-5 for row in rows)


def test_without_edits_it_is_the_original_again(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    info = load(lab)
    assert (info["edited"], info["selfTest"]) == ([], "passed on an earlier visit")
    assert (write(lab), write(lab, temperature=0)) == original


def line_of(path: str, text: str) -> int:
    (found,) = [n for n, line in enumerate(TEXTS[path].splitlines(), 1) if text in line]
    return found


def test_what_is_wrong_is_told_with_its_file_and_line(lab: Page) -> None:
    error = load(lab, {SAMPLING: "x = (\n"})
    assert (error["name"], error["code"]) == ("EditError", "edit-failed")
    assert error["place"] == {"file": SAMPLING, "line": 1}

    error = load(lab, replaced(SELECT, "var id = all.score_id;", "var id = all.score;"))
    assert error["code"] == "edit-failed", error
    assert error["place"] == {"file": SELECT, "line": line_of(SELECT, "var id = all.score_id;")}
    assert re.search(r"select\.wgsl, line \d+: WGSL: .*score", error["message"])

    random = "gpt2web/shaders/random.wgsl"  # of another kernel, by inclusion
    old = TEXTS[random].splitlines()[-2]
    error = load(lab, {random: TEXTS[random].replace(old, "  return nothing;")})
    assert error["place"]["file"] == random, error

    error = load(lab, {"gpt2web/nothing.py": ""})
    assert (error["name"], error["code"]) == ("ValueError", "option-invalid")
    assert "'gpt2web/nothing.py'" in error["message"]

    error = lab.evaluate("() => loaded({ 'gpt2web/turn.py': 7 })")
    assert error["name"] == "TypeError" and "edits" in error["message"]


def test_what_fails_in_a_step_is_told_with_its_file_and_line_too(lab: Page) -> None:
    old = '        states, samplings, flags = b"", b"", b""\n'
    generate = "gpt2web/generate.py"
    error = load(lab, replaced(generate, old, f"{old}        len(self.requests) // 0\n"))
    line = line_of(generate, old.strip()) + 1
    assert error["place"] == {"file": generate, "line": line}
    assert f"line {line}: ZeroDivisionError: " in error["message"]
    assert "Traceback" in error["detail"]


@pytest.mark.parametrize("path", [SAMPLING, "gpt2web/generate.py"])
def test_a_loop_without_an_end_is_given_up(lab: Page, path: str) -> None:
    """One at import, one in a step."""
    old = '        states, samplings, flags = b"", b"", b""\n'
    text = TEXTS[path].replace(old, f"{old}        while True: pass\n")
    edits = {path: text if text != TEXTS[path] else f"{text}\nwhile True: pass\n"}
    error = lab.evaluate("(edits) => loaded(edits, { signal: AbortSignal.timeout(6000) })", edits)
    assert error["name"] == "TimeoutError"


def test_from_a_snapshot_edits_run_and_sources_are_read(
    quick_browser: Browser, server: TestServer, original: tuple[list[int], list[int]]
) -> None:
    """Which has no files: they are unpacked again."""
    context = quick_browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    snapshot(page)
    page.close()
    page = context.new_page()
    page.route("**/app.js", lambda route: route.abort())
    page.goto(server.url)
    page.evaluate(HELPERS, server.url)
    assert load(page)["started"] == "snapshot"
    assert page.evaluate("() => lm.sources()") == TEXTS
    old = "            self.temperature,\n            min("
    info = load(page, replaced(SAMPLING, old, old.replace("self.temperature", "0.0")))
    assert (info["started"], info["edited"]) == ("snapshot", [SAMPLING])
    assert write(page) == original[1]
    context.close()
