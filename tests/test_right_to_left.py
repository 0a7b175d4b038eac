"""Text from right to left, such as Hebrew and Arabic: it runs in its own direction wherever it is
shown, does not turn the page's words around it, and the arrow keys follow it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from desk import WRITE_MS, open_views, press, write

HEBREW = "היה היה שועל קטן"
MIXED = "Der Fuchs sagte שלום עולם und ging"
# The horizontal middle of some letters of a text, as they stand on the page.
PLACES = """([id, words]) => {
  const walk = document.createTreeWalker(document.getElementById(id), NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walk.nextNode()) nodes.push(walk.currentNode);
  const whole = nodes.map((node) => node.data).join("");
  return words.map((word) => {
    let at = whole.indexOf(word);
    const node = nodes.find((one) => at < one.data.length || ((at -= one.data.length), false));
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    const { left, right } = range.getBoundingClientRect();
    return (left + right) / 2;
  });
}"""


def direction(page: Page, selector: str) -> str:
    way: str = page.locator(selector).first.evaluate("one => getComputedStyle(one).direction")
    return way


def middles(page: Page, selector: str) -> list[float]:
    boxes = (
        "all => all.map((one) => one.getBoundingClientRect()).map((box) => box.x + box.width / 2)"
    )
    found: list[float] = page.locator(selector).evaluate_all(boxes)
    return found


@pytest.mark.browser
def test_a_text_runs_from_right_to_left_where_it_is_read_edited_kept_and_saved(
    desk: Page, tmp_path: Path
) -> None:
    write(desk, HEBREW, 2)
    for place in ("#prompt", "#story"):
        assert direction(desk, place) == "rtl"
    first, second = desk.evaluate(PLACES, ["story", ["היה", "שועל"]])
    assert first > second
    box = desk.locator("#story").bounding_box()
    assert box and first > box["x"] + 0.8 * box["width"]  # it begins at the right
    desk.click("#edit")
    assert direction(desk, "#editor") == "rtl"
    desk.keyboard.press("Control+Home")
    desk.keyboard.press("ArrowLeft")  # forward
    at = desk.evaluate("() => document.getElementById('editor').selectionStart")
    assert at == 1
    desk.click("#edit-done")
    press(desk, "#branch")
    assert {direction(desk, f"#way-{row}") for row in (1, 2, 3)} <= {"rtl", "ltr"}
    assert desk.locator("#ways-list p[dir=auto]").count() == 3
    desk.click("#ways-none")
    desk.locator("#history > summary").click()
    expect(desk.locator("#history-list p").first).to_contain_text(HEBREW)
    assert direction(desk, "#history-list p") == "rtl"
    assert direction(desk, "#history-list p + p") == "ltr"
    desk.locator("#share > summary").click()
    for button, suffix in (("#save-text", ".txt"), ("#save-all", ".json")):
        with desk.expect_download() as download:
            desk.click(button)
        name = download.value.suggested_filename
        assert name == "היה-היה-שועל-קטן" + suffix or name.startswith("היה")
        download.value.save_as(tmp_path / f"saved{suffix}")
    story = desk.evaluate("() => document.getElementById('story').textContent")
    assert (tmp_path / "saved.txt").read_text("utf-8") == story  # no marks of ours in it
    assert json.loads((tmp_path / "saved.json").read_text("utf-8"))["text"] == story

    write(desk, MIXED, 2)
    assert direction(desk, "#story") == "ltr"
    before, one, other, after = desk.evaluate(PLACES, ["story", ["Fuchs", "שלום", "עולם", "ging"]])
    assert before < other < one < after
    write(desk, f"{MIXED}\n{HEBREW}\n", 2)  # each paragraph in its own direction
    latin, hebrew = desk.evaluate(PLACES, ["story", ["Der", "היה"]])
    box = desk.locator("#story").bounding_box()
    assert box and latin < box["x"] + 40 and hebrew > box["x"] + box["width"] - 40


@pytest.mark.browser
def test_tokens_pictures_and_sentences_follow_the_text_and_so_do_the_arrow_keys(
    desk: Page,
) -> None:
    desk.check("#colour")
    write(desk, HEBREW, 6)
    open_views(desk, "attention", "next-token", "lens")
    for view in ("attention", "next-token", "lens"):
        expect(desk.locator(f"#{view} svg")).to_be_visible(timeout=WRITE_MS)
    tokens = desk.locator("#look-tokens > *")
    count = tokens.count()
    assert direction(desk, "#look-tokens") == "rtl"
    line = middles(desk, "#look-tokens > *")[:4]
    assert line == sorted(line, reverse=True)
    words = middles(desk, "#attention-picture rect.shade")[:4]
    assert words == sorted(words, reverse=True)
    tokens.last.focus()
    desk.keyboard.press("ArrowRight")  # back, in this direction
    expect(tokens.nth(count - 2)).to_be_focused()
    desk.keyboard.press("ArrowLeft")
    expect(tokens.nth(count - 1)).to_be_focused()
    desk.keyboard.press("Home")
    desk.keyboard.press("ArrowLeft")
    desk.keyboard.press("ArrowLeft")
    desk.keyboard.press("Enter")
    letter = tokens.nth(2).inner_text()
    state = desk.locator("#look-state")
    expect(state).to_contain_text("Token 3 of", timeout=WRITE_MS)
    assert re.search("[א-ת]", letter)
    expect(state).to_have_text(f"Token 3 of {count}: “\u2068{letter}\u2069”.")
    assert direction(desk, "#look-state") == "ltr"
    label = desk.locator("#attention svg").get_attribute("aria-label") or ""
    assert f"“\u2068{letter}\u2069”" in label

    spans = desk.locator("#written [role=button]")
    spans.last.focus()
    desk.keyboard.press("ArrowRight")
    expect(spans.nth(spans.count() - 2)).to_be_focused()
    desk.keyboard.press("Enter")
    expect(desk.locator("#token-parts button").first).to_be_focused()
    box = desk.locator("#token").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 1280
    desk.keyboard.press("Escape")


@pytest.mark.browser
def test_words_from_left_to_right_get_no_marks(desk: Page) -> None:
    filled = """async (tokens) => {
      const { text } = await import("./texts.js");
      return tokens.map((token) => text("token-title", { token }));
    }"""
    plain, hebrew, arabic, number = desk.evaluate(filled, ["·fox", "·של", "هل", "12"])
    assert (plain, number) == ("Instead of “·fox”", "Instead of “12”")
    assert hebrew == "Instead of “\u2068·של\u2069”" and arabic == "Instead of “\u2068هل\u2069”"
