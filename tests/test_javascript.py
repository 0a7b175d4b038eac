"""What other pages' programs call beyond text from a prompt: ids, batches, signals, completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import TestServer

pytestmark = pytest.mark.browser

HELPERS = """async (folder) => {
  window.gpt2web = await import(folder + "gpt2web.js");
  window.lm = await gpt2web.load("stories");
  window.rows = async (generation) => {
    const rows = [];
    for await (const { row, text, ids, finishReason } of generation) {
      rows[row] ??= { text: "", ids: [], finishReason: null };
      rows[row].text += text;
      rows[row].ids.push(...ids);
      rows[row].finishReason = finishReason;
    }
    return rows;
  };
  window.problem = async (call) => {
    try { await call(); } catch ({ name, code, message }) { return { name, code, message }; }
    return null;
  };
}"""


@pytest.fixture(scope="module")
def other_page(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """A page elsewhere on the same origin, with the model."""
    page = quick_browser.new_context(service_workers="block").new_page()
    address = f"{server.origin}/another/page.html"
    page.route(
        address, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    page.goto(address)
    page.evaluate(HELPERS, server.url)
    yield page
    page.context.close()


def test_rows_of_a_batch_are_their_texts_or_ids_alone_each_with_its_seed(other_page: Page) -> None:
    ids, plain, special, together, alone = other_page.evaluate("""async () => {
      const options = { maxNewTokens: 3, temperature: 0.9, seed: 11 };
      const ids = await lm.tokenize("The fox", { asPrompt: true });
      const together = await rows(lm.generate(["The fox", ids], options));
      const alone = await rows(lm.generate(ids, options));
      alone.push(...await rows(lm.generate("The fox", { ...options, seed: 12 })));
      const special = await lm.tokenize("The<|endoftext|>", { parseSpecial: true });
      return [ids, await lm.tokenize("The fox"), special, together, alone];
    }""")
    assert together == alone
    assert together[0]["ids"] != together[1]["ids"]
    assert [(len(row["ids"]), row["finishReason"]) for row in together] == [(3, "length")] * 2
    assert ids == [4095, *plain] and 4095 not in plain  # stories begins with <|endoftext|>
    assert special[-1] == 4095 and len(special) == 2


def test_a_batch_is_cancelled_row_by_row(other_page: Page) -> None:
    script = """async () => {
      const stop = new AbortController();
      const options = { maxNewTokens: 300, seed: 1, signal: stop.signal };
      const generation = lm.generate(["Once", "A dog"], options);
      await generation.next();
      stop.abort();
      return rows(generation);
    }"""
    found = other_page.evaluate(script)
    assert [row["finishReason"] for row in found] == ["cancelled"] * 2
    assert sum(len(row["ids"]) for row in found) < 200


def test_bytes_of_tokens_and_texts_of_lists(other_page: Page) -> None:
    text = "a fox 🦊"
    of_tokens, texts = other_page.evaluate(
        """async (text) => {
          const ids = await lm.tokenize(text);
          const bytes = await lm.tokenBytes([...ids, 99999]);
          return [bytes.map((of) => [...of]), await lm.detokenize(ids.map((id) => [id]))];
        }""",
        text,
    )
    assert bytes(byte for of in of_tokens for byte in of) == text.encode()
    assert of_tokens[-1] == []
    assert texts[0] == "a" and "\ufffd" in texts[-1]  # part of the fox


SIGNALLED = [
    "gpt2web.load('stories', { signal })",
    "gpt2web.models({ signal })",
    "gpt2web.removeModel('stories', { signal })",
    "gpt2web.keepOffline({ signal })",
    "lm.tokenize('a', { signal })",
    "lm.detokenize([1], { signal })",
    "lm.tokenBytes([1], { signal })",
]


@pytest.mark.parametrize("call", SIGNALLED)
def test_what_waits_takes_a_signal_and_fails_with_its_reason(other_page: Page, call: str) -> None:
    script = f"""async () => {{
      const later = new AbortController();
      const reason = new DOMException("changed my mind", "AbortError");
      const onTheWay = (({{ signal }}) => problem(() => {call}))(later);
      later.abort(reason);
      const before = ((signal) => problem(() => {call}))(AbortSignal.abort(reason));
      return [await onTheWay, await before];
    }}"""
    found = other_page.evaluate(script)
    assert [error and error["message"] for error in found] == ["changed my mind"] * 2


def test_every_call_that_waits_is_among_these(other_page: Page) -> None:
    """But `generate`, whose signal ends it with a piece, and `close`, which does not wait."""
    names: list[Any] = other_page.evaluate("""() => [
      ...Object.getOwnPropertyNames(Object.getPrototypeOf(lm)), ...Object.keys(gpt2web),
    ]""")
    called = {call.partition("(")[0].rpartition(".")[2] for call in SIGNALLED}
    others = {"constructor", "generate", "close", "Download"}
    assert set(names) - called == others, "give it a signal, and a line in SIGNALLED"
