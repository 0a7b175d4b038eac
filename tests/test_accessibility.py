"""The page for everyone: axe-core, an independent checker, finds nothing wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import ROOT, TestServer
from test_page import WRITE_MS, open_page, write

AXE = ROOT / "node_modules/axe-core/axe.min.js"
VIEWS = ("attention", "next-token", "lens", "weights-map")


@pytest.fixture(scope="module")
def shown(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """The page with a text in colours, and all that can be opened open."""
    context = quick_browser.new_context(service_workers="block", bypass_csp=True)  # for axe alone
    page = open_page(context, server.url)
    page.check("#colour")
    write(page, "The little fox", 4)
    page.evaluate(
        "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    for view in VIEWS:
        expect(page.locator(f"#{view} svg")).to_be_visible(timeout=WRITE_MS)
    page.evaluate(AXE.read_text("utf-8"))
    yield page
    context.close()


def findings(page: Page) -> list[tuple[str, list[Any]]]:
    """What axe finds, by rule: the elements it is about."""
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing_wrong(shown: Page, width: int, scheme: Any) -> None:
    shown.emulate_media(color_scheme=scheme)
    shown.set_viewport_size({"width": width, "height": 800})
    assert findings(shown) == []
    assert shown.evaluate("() => document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_axe_finds_nothing_wrong_with_the_alternatives_of_a_token(shown: Page) -> None:
    shown.locator("#written [role=button]").first.click()
    expect(shown.locator("#token-parts button")).to_have_count(10)
    assert findings(shown) == []
    shown.keyboard.press("Escape")


@pytest.mark.browser
def test_axe_would_find_a_word_too_pale_and_a_field_without_a_name(shown: Page) -> None:
    shown.emulate_media(color_scheme="light")
    shown.evaluate("""() => {
      const [word, field] = [document.createElement("p"), document.createElement("input")];
      word.textContent = "pale";
      word.style.color = "#ddd";
      word.id = "pale";
      document.querySelector(".think").append(word, field);
    }""")
    assert {name for name, _ in findings(shown)} >= {"color-contrast", "label"}
