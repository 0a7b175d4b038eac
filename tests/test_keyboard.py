"""The page by the keyboard alone: every control is reached in the order in which it is read, what
has the focus can be seen, and the focus is never lost to a button that goes away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import TestServer
from desk import WRITE_MS, open_everything, write

# What Tab should stop at, in the document's order: of a row of tokens one, of labels their fields.
STOPS = """() => [...document.querySelectorAll(
    "button, input, select, textarea, summary, a[href], [tabindex]")]
  .filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility())
  .map((one) => { one.dataset.stop ??= String(window.stops = (window.stops ?? 0) + 1); })
  .length"""
# Of what has the focus: which it is, and how its focus is to be seen.
FOCUS = """() => {
  const now = document.activeElement;
  const seen = now.matches("input.unseen") ? now.nextElementSibling : now; // its label shows it
  const styles = getComputedStyle(seen);
  const box = seen.getBoundingClientRect();
  const reach = parseFloat(styles.outlineWidth) + parseFloat(styles.outlineOffset);
  const cut = [];
  for (let around = seen.parentElement; around !== document.body; around = around.parentElement) {
    const { overflowX, overflowY } = getComputedStyle(around);
    const outer = around.getBoundingClientRect();
    const sideways = box.left - reach < outer.left - 1 || box.right + reach > outer.right + 1;
    const upright = box.top - reach < outer.top - 1 || box.bottom + reach > outer.bottom + 1;
    if ((overflowX !== "visible" && sideways) || (overflowY !== "visible" && upright)) {
      cut.push(around.id || around.className);
    }
  }
  const papers = [];
  for (let around = seen.parentElement; around; around = around.parentElement) {
    const colour = getComputedStyle(around).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") papers.push(colour);
  }
  const all = [...document.querySelectorAll("*")];
  return {
    name: now.id || now.textContent.trim().slice(0, 30), at: all.indexOf(now),
    outline: [styles.outlineStyle, parseFloat(styles.outlineWidth), styles.outlineColor],
    paper: papers[0], cut,
    inView: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}"""


def luminance(colour: str) -> float:
    """Of "rgb(29, 92, 80)", by WCAG 2.2's definition."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def focused(page: Page) -> str:
    """What has the focus: its id, or its words."""
    name: str = page.evaluate(
        "() => document.activeElement.id || document.activeElement.textContent.trim().slice(0, 30)"
    )
    lost = """() => {
      const { activeElement: now, body } = document;
      return now === body || !now.checkVisibility();
    }"""
    assert not page.evaluate(lost), "the focus is lost"
    return name


def keys(page: Page, *names: str) -> str:
    for name in names:
        page.keyboard.press(name)
    return focused(page)


def tab_to(page: Page, name: str, key: str = "Tab") -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(120):
        page.keyboard.press(key)
        if focused(page) == name:
            return
    raise AssertionError(f"{name} is not reached")


def ended(page: Page) -> None:
    expect(page.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tab_stops_at_every_control_in_the_order_of_reading_and_shows_where_it_is(
    desk: Page, scheme: Any
) -> None:
    desk.emulate_media(color_scheme=scheme)
    desk.check("#colour")
    write(desk, "The little fox", 3)
    open_everything(desk)
    expect(desk.locator("#history-list button").first).to_be_visible()
    count = desk.evaluate(STOPS)
    desk.locator("h1").click()  # the next Tab leads to the first control
    seen = []
    for _ in range(count):
        if seen and seen[-1]["name"] == "workshop-editor":  # where Tab alone indents
            desk.keyboard.press("Escape")
        desk.keyboard.press("Tab")
        seen.append(desk.evaluate(FOCUS))
    assert "workshop-editor" in [one["name"] for one in seen]
    places = [one["at"] for one in seen]
    assert places == sorted(set(places)), [one["name"] for one in seen]
    assert count > 60
    for one in seen:
        style, width, colour = one["outline"]
        assert style == "solid" and width >= 2, one
        assert contrast(colour, one["paper"]) >= 3, one
        assert one["inView"] and one["cut"] == [], one
    back = []
    for _ in range(5):
        desk.keyboard.press("Shift+Tab")
        back.append(desk.evaluate(FOCUS)["at"])
    assert back == places[-2:-7:-1]


@pytest.mark.browser
def test_an_outline_too_pale_or_cut_off_would_be_seen(desk: Page) -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(221, 221, 221)", "rgb(255, 253, 248)") < 3
    desk.evaluate("() => { document.querySelector('.examples').style.overflow = 'hidden'; }")
    desk.focus("#prompt")
    desk.keyboard.press("Tab")
    assert desk.evaluate(FOCUS)["cut"] != []
    desk.evaluate("() => document.querySelector('.examples').removeAttribute('style')")


@pytest.mark.browser
def test_the_text_is_written_stopped_continued_undone_and_edited_without_losing_the_focus(
    desk: Page,
) -> None:
    write(desk, "Once", 1)  # the model and its first text are there
    desk.fill("#max-new-tokens", "300")
    desk.focus("#prompt")
    desk.keyboard.press("Control+a")
    desk.keyboard.type("The little fox")
    tab_to(desk, "generate")
    assert keys(desk, "Enter") == "stop"
    expect(desk.locator("#written")).not_to_be_empty(timeout=WRITE_MS)
    assert keys(desk, "Enter") in ("stop", "generate")
    ended(desk)
    assert focused(desk) == "generate"

    desk.fill("#max-new-tokens", "2")
    desk.focus("#generate")
    tab_to(desk, "go-on")
    assert keys(desk, " ") == "stop-here"
    ended(desk)
    assert focused(desk) == "go-on"
    assert keys(desk, "Tab", "Enter") in ("stop-here", "retry")
    ended(desk)
    assert focused(desk) == "retry"
    tab_to(desk, "undo")
    while desk.is_enabled("#undo"):
        keys(desk, "Enter")
    assert focused(desk) == "redo"
    while desk.is_enabled("#redo"):
        keys(desk, "Enter")
    assert focused(desk) == "undo"

    tab_to(desk, "edit")
    assert keys(desk, "Enter") == "editor"
    desk.keyboard.type(" And then")
    assert keys(desk, "Escape") == "edit"
    assert keys(desk, "Enter", "Tab") == "edit-go-on"
    assert keys(desk, "Enter") == "stop-here"
    ended(desk)
    assert focused(desk) == "edit"
    assert " And then" in desk.inner_text("#story")


@pytest.mark.browser
def test_ways_on_are_written_read_and_taken_by_keys(desk: Page) -> None:
    write(desk, "A dog", 2)
    desk.fill("#max-new-tokens", "3")
    desk.focus("#branch")
    assert keys(desk, "Enter") == "stop-here"
    ended(desk)
    assert focused(desk) == "Take way 1"
    read = desk.evaluate(
        "() => document.getElementById(document.activeElement.getAttribute('aria-describedby'))"
        ".textContent"
    )
    assert read == desk.locator("#ways-list p").first.text_content() != ""
    tab_to(desk, "Take way 2")
    assert keys(desk, "Enter") == "go-on"

    desk.fill("#max-new-tokens", "200")
    desk.focus("#branch")
    keys(desk, "Enter")
    expect(desk.locator("#ways-list p").first).not_to_be_empty(timeout=WRITE_MS)
    tab_to(desk, "ways-none", "Shift+Tab")
    keys(desk, "Enter")  # while they are still being written
    ended(desk)
    assert focused(desk) == "branch"


@pytest.mark.browser
def test_a_token_s_alternatives_keep_the_focus_until_one_is_chosen_or_they_are_left(
    desk: Page,
) -> None:
    desk.check("#colour")
    write(desk, "The little fox", 4)
    tokens = desk.locator("#written [role=button]")
    words = tokens.last.inner_text().strip()
    desk.focus("#generate")
    assert keys(desk, "Tab") == words
    choices = desk.locator("#token-parts button")
    keys(desk, "Enter")
    expect(choices.first).to_be_focused()
    keys(desk, "ArrowUp")
    expect(choices.last).to_be_focused()
    keys(desk, "Tab")  # out of it: it is closed, and what follows the token has the focus
    expect(desk.locator("#token")).to_be_hidden()
    assert focused(desk) == "colour"
    assert keys(desk, "Shift+Tab", " ") != words
    expect(choices.first).to_be_focused()
    assert keys(desk, "Escape") == words
    keys(desk, "ArrowLeft", "Enter")
    expect(choices.first).to_be_focused()
    desk.fill("#max-new-tokens", "2")
    tokens.nth(2).focus()
    keys(desk, "Enter")
    expect(choices.first).to_be_focused()
    assert keys(desk, "ArrowDown", "Enter") == "stop-here"  # the token is gone
    ended(desk)
    assert focused(desk) == "go-on"
    tokens.last.focus()
    assert keys(desk, "Control+z") == "undo"  # so is this one


@pytest.mark.browser
def test_the_views_history_and_files_are_used_by_keys(desk: Page) -> None:
    write(desk, "A hen", 2)
    desk.fill("#max-new-tokens", "2")
    summary = desk.locator("#attention > summary")
    summary.focus()
    keys(desk, "Enter")
    expect(desk.locator("#attention svg")).to_be_visible(timeout=WRITE_MS)
    chosen = desk.locator("#look-tokens [aria-selected=true]")
    last = chosen.inner_text()
    assert keys(desk, "Shift+Tab") == last
    first = keys(desk, "Home", "Enter")
    expect(chosen).to_have_text(first)
    expect(desk.locator("#look-state")).to_contain_text("Token 1 of", timeout=WRITE_MS)
    assert keys(desk, "Tab", "Tab") == "attention-layer"
    keys(desk, "Home")
    expect(desk.locator("#attention svg")).to_have_attribute("aria-label", re.compile("layer 1 "))
    chosen.focus()
    keys(desk, "Control+Enter")  # the tokens are read anew behind the text that this writes
    ended(desk)
    expect(chosen).to_be_focused(timeout=WRITE_MS)

    desk.locator("#history > summary").focus()
    keys(desk, " ")
    rows = desk.locator("#history-list li")
    expect(rows.first).to_contain_text(desk.inner_text("#story").strip()[:20])
    assert rows.count() >= 2
    keys(desk, "Tab", "Tab", "Tab")
    expect(rows.nth(1).get_by_text("Open")).to_be_focused()
    assert keys(desk, "Enter") == "story-title"  # where the opened text stands
    assert keys(desk, "Tab") == "colour"
    remove = rows.nth(1).get_by_text("Delete")
    remove.focus()
    count = rows.count()
    # A text that is kept meanwhile makes the list anew.
    rows.first.evaluate("row => { row.dataset.old = ''; }")
    again = "() => ['off', 'on'].forEach(() => document.getElementById('keep-texts').click())"
    desk.evaluate(again)
    expect(desk.locator("[data-old]")).to_have_count(0)
    assert focused(desk) == "Delete"
    keys(desk, "Enter")
    expect(rows).to_have_count(count - 1)
    expect(rows.first.get_by_text("Open")).to_be_focused()
    desk.once("dialog", lambda dialog: dialog.accept())
    tab_to(desk, "delete-all")
    desk.keyboard.press("Enter")
    expect(rows).to_have_count(0)
    expect(desk.locator("#history > summary")).to_be_focused()

    tab_to(desk, "open-file")
    opens = """one => one.addEventListener("click", (event) => {
      event.preventDefault(); // the browser's dialog, of which no key would get out
      one.dataset.opened = "";
    }, { once: true })"""
    desk.locator("#open-file").evaluate(opens)
    desk.keyboard.press("Enter")
    expect(desk.locator("#open-file")).to_have_attribute("data-opened", "")


@pytest.mark.browser
def test_a_load_that_is_cancelled_and_taken_up_again_keeps_the_focus(
    quick_browser: Browser, server: TestServer
) -> None:
    page = quick_browser.new_page()
    page.goto(server.url)
    tab_to(page, "cancel-load")
    assert keys(page, "Enter") == "way-out"  # Load it after all
    assert keys(page, "Enter") == "cancel-load"
    assert keys(page, "Enter") == "way-out"
    ends = page.evaluate("""async () => {
      const { LoadProgress } = await import("./progress.js");
      const { Download } = await import("./gpt2web.js");
      const $ = (id) => document.getElementById(id);
      const ends = [];
      for (const ready of [true, false]) {
        const progress = new LoadProgress(new Download(), () => {});
        progress.show({ stage: "download", done: 1, total: 2 });
        $("pause").focus();
        progress.show({ stage: "prepare", done: 0, total: 0 });
        ends.push(document.activeElement.id);
        $("problem").hidden = ready;
        $("way-out").hidden = true;
        $("generate").disabled = !ready;
        progress.end();
        ends.push(document.activeElement.id);
      }
      return ends;
    }""")
    assert ends == ["cancel-load", "generate", "cancel-load", "problem-text"]
    page.context.close()
