"""The page in 320 CSS pixels less a scroll bar, which is also what is left of 1280 at a zoom of
400 %: nothing sticks out sideways in any state, and what is to be hit is large enough."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from desk import open_everything, press, write

LONG = "Donaudampfschifffahrtsgesellschaftskapitän" * 3
# What makes the page wider than its window; what scrolls by itself may be as wide as it likes.
STICKS_OUT = """() => {
  const page = document.documentElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  const scrolls = (one) => one !== document.body &&
    (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
  const out = [...document.querySelectorAll("body *")].filter((one) =>
    one.getBoundingClientRect().right > page.clientWidth + 1 && !scrolls(one.parentElement));
  return ["the page", ...out.map((one) => one.id || one.className || one.localName)];
}"""
# WCAG 2.2, 2.5.8: 24 by 24 CSS pixels, but for words in a text and what browsers draw themselves.
SMALL = """() => {
  const kinds = "button, select, input, textarea, summary, [role=option]";
  const targets = [...document.querySelectorAll(kinds)]
    .filter((one) => one.checkVisibility() && !one.classList.contains("unseen"))
    .map((one) => (one.type === "checkbox" ? one.closest("label") : one));
  return targets.filter((one) => {
    const { width, height } = one.getBoundingClientRect();
    return width < 24 || height < 24;
  }).map((one) => one.id || one.textContent.trim().slice(0, 30));
}"""


@pytest.mark.browser
def test_nothing_sticks_out_in_any_state_and_targets_are_large_enough(desk: Page) -> None:
    states = {}

    def look(state: str) -> None:
        for width in (1280, 640, 305):  # a zoom of 200 % and of 400 %
            desk.set_viewport_size({"width": width, "height": 720})
            states[state, width] = (desk.evaluate(STICKS_OUT), desk.evaluate(SMALL))

    desk.check("#colour")
    write(desk, f"{LONG} fox", 3)
    open_everything(desk)
    look("written")
    desk.click("#edit")
    look("edited")
    desk.click("#edit-done")
    desk.locator("#written [role=button]").first.click()
    expect(desk.locator("#token-parts button")).to_have_count(10)
    look("alternatives")
    desk.keyboard.press("Escape")
    press(desk, "#branch")
    look("ways")
    desk.click("#ways-none")
    desk.evaluate(
        """(long) => {
          const $ = (id) => document.getElementById(id);
          for (const id of ["loading", "pause", "problem", "no-webgpu"]) $(id).hidden = false;
          $("loading-pace").textContent = "123 MB/s, about 12 min left; 123 MB was here already";
          for (const id of ["load-model", "keep-model", "delete-model"]) {
            $(id).hidden = false;
          }
          $("model").append(new Option(long, long));
          $("model").value = long;
          $("model-facts").textContent = `${long}.safetensors`;
          $("problem-text").textContent = long;
          $("no-webgpu-reason").textContent = `/${long}`;
        }""",
        LONG,
    )
    look("loading, with a long name")
    desk.evaluate("""() => {
      const $ = (id) => document.getElementById(id);
      for (const id of ["loading", "pause", "problem", "no-webgpu"]) $(id).hidden = true;
      $("model").lastChild.remove();
      $("model").value = "stories";
      $("model").dispatchEvent(new Event("change"));
    }""")
    assert states == dict.fromkeys(states, ([], []))
    assert len(states) == 15


@pytest.mark.browser
def test_something_too_wide_and_too_small_would_be_seen(desk: Page) -> None:
    desk.set_viewport_size({"width": 305, "height": 720})
    desk.evaluate("""() => {
      const [wide, small] = [document.createElement("p"), document.createElement("button")];
      Object.assign(wide.style, { width: "400px", height: "1px" });
      Object.assign(small.style, { width: "20px", padding: 0 });
      wide.id = small.id = "wrong";
      document.querySelector(".story").append(wide, small);
    }""")
    found = (desk.evaluate(STICKS_OUT), desk.evaluate(SMALL))
    desk.evaluate("() => document.querySelectorAll('#wrong').forEach((one) => one.remove())")
    assert found == (["the page", "wrong"], ["wrong"])
