"""The page for everyone: axe-core, an independent checker, finds nothing wrong with it; what screen
readers hear while the model loads and writes; names with numbers; less movement, fixed colours."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import ROOT, TestServer
from desk import VIEWS, WRITE_MS, open_everything, open_views, press, write
from in_node import in_node
from test_keyboard import contrast

AXE = ROOT / "node_modules/axe-core/axe.min.js"
# Notes every change of what screen readers announce by themselves, as they find it once the
# program has come to rest: [place, words].
HEAR = """() => {
  window.announced = [];
  const places = ":is([role=status], [role=alert], [role=log], [aria-live], output)";
  const live = [...document.querySelectorAll(`${places}:not([aria-live=off])`)];
  const before = new Map(live.map((one) => [one, one.checkVisibility() ? one.textContent : ""]));
  const look = () => {
    for (const one of live) {
      const words = one.checkVisibility() ? one.textContent : "";
      const place = one.id || one.getAttribute("for");
      if (words !== before.get(one)) window.announced.push([place, words]);
      before.set(one, words);
    }
  };
  window.hearing?.disconnect();
  window.hearing = new MutationObserver(look);
  const all = { subtree: true, childList: true, characterData: true, attributes: true };
  window.hearing.observe(document.body, all);
  return live.map((one) => one.id);
}"""


@pytest.fixture
def shown(desk: Page) -> Page:
    """The page with a text in colours, and all that can be opened open."""
    desk.check("#colour")
    write(desk, "The little fox", 2)
    open_everything(desk)
    desk.evaluate(AXE.read_text("utf-8"))
    return desk


def findings(page: Page) -> list[tuple[str, list[Any]]]:
    """What axe finds, by rule: the elements it is about."""
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


@pytest.mark.browser
def test_axe_finds_nothing_wrong_in_any_state(shown: Page) -> None:
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in (320, 1280):
            shown.set_viewport_size({"width": width, "height": 800})
            assert findings(shown) == []
    shown.locator("#written [role=button]").first.click()
    expect(shown.locator("#token-parts button")).to_have_count(10)
    assert findings(shown) == []
    shown.keyboard.press("Escape")
    shown.click("#edit")
    assert findings(shown) == []
    shown.click("#edit-done")
    shown.fill("#max-new-tokens", "2")
    press(shown, "#branch")
    assert findings(shown) == []
    shown.evaluate("fragment => { window.location.hash = fragment; }", "nothing")
    expect(shown.locator("#problem")).to_be_visible()
    shown.evaluate("() => { document.getElementById('loading').hidden = false; }")
    assert findings(shown) == []
    shown.evaluate("() => { document.getElementById('loading').hidden = true; }")


@pytest.mark.browser
def test_axe_would_find_a_word_too_pale_and_a_field_without_a_name(shown: Page) -> None:
    shown.evaluate("""() => {
      const [word, field] = [document.createElement("p"), document.createElement("input")];
      word.textContent = "pale";
      word.style.color = "#ddd";
      word.className = field.className = "wrong";
      document.querySelector(".think").append(word, field);
    }""")
    assert {name for name, _ in findings(shown)} >= {"color-contrast", "label"}
    shown.evaluate("() => document.querySelectorAll('.wrong').forEach((one) => one.remove())")


# --- what screen readers hear ---------------------------------------------------------------------


def test_sentences_are_told_whole_once_each_and_at_the_pace_of_speech() -> None:
    told = in_node(
        """
        const { Narrator } = await web("narrator.js");
        const told = [];
        let now = 0;
        const narrator = new Narrator((words) => told.push([now, words]), () => now);
        narrator.begins("Writing.");
        for (const [at, text] of texts) {
          now = at;
          narrator.wrote(text);
        }
        narrator.ends("The end.");
        narrator.begins("Writing.");
        narrator.ends("Stopped.");
        return told;
        """,
        texts=[
            [100, "One"],  # "Writing." is still being spoken
            [200, " fox. Tw"],
            [600, "o foxes"],  # now it is not: the sentence that has ended
            [700, "! Three"],
            [800, " foxes? "],
            [1200, "Four"],  # both that have ended meanwhile
            [9000, " foxes,"],
            [9100, " and"],
        ],
    )
    assert told == [
        [0, "Writing."],
        [600, "One fox."],
        [1200, "Two foxes! Three foxes?"],
        [9100, "Four foxes, and… The end."],
        [9100, "Writing."],
        [9100, "Stopped."],
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He said: “Go!” Then", "He said: “Go!”"),
        ("שלום עולם. ועוד", "שלום עולם."),
        ("هل أنت هنا؟ نعم", "هل أنت هنا؟"),
        ("昔々。ある", "昔々。"),
        ("A line\nand", "A line"),
        ("3.5 foxes", None),
        ("\n\n", None),
    ],
)
def test_sentences_end_as_their_script_has_it(text: str, sentences: str | None) -> None:
    told = in_node(
        """
        const { Narrator } = await web("narrator.js");
        const told = [];
        new Narrator((words) => told.push(words), () => 0).wrote(text);
        return told;
        """,
        text=text,
    )
    assert told == ([] if sentences is None else [sentences])


@pytest.mark.browser
def test_sixty_tokens_are_a_few_announcements_and_none_begins_anew(desk: Page) -> None:
    places = desk.evaluate(HEAR)
    assert {"status", "loading-notice", "problem"} <= set(places)
    written = write(desk, "The little fox", 60)
    heard = desk.evaluate("() => window.announced")
    assert {place for place, _ in heard} == {"status"}
    words = [one for _, one in heard]
    assert words[0] == "Writing." and words[-1].endswith("Stopped at the length that you set.")
    assert 2 <= len(words) <= 2 + len(re.findall(r"[.!?\n]", written))
    # Said one after the other they are the text, each of its words once.
    said = " ".join(words[1:]).removesuffix("Stopped at the length that you set.").replace("…", "")
    assert said.split() == written.split()

    desk.evaluate("() => { window.announced = []; }")
    desk.fill("#temperature", "0.5")  # the slider says this itself
    desk.select_option("#preset", "daring")
    assert desk.evaluate("() => window.announced") == []
    desk.click("#undo")
    desk.click("#redo")
    desk.click("#undo")
    said = [one.strip("\u00a0") for _, one in desk.evaluate("() => window.announced")]
    assert said == ["Undone.", "Redone.", "Undone."]


@pytest.mark.browser
def test_a_line_for_every_token_would_be_heard(desk: Page) -> None:
    """What the test before would have found, had the text itself been a live region."""
    desk.evaluate("() => document.getElementById('story').setAttribute('aria-live', 'polite')")
    desk.evaluate(HEAR)
    write(desk, "The little fox", 8)
    heard = [words for place, words in desk.evaluate("() => window.announced") if place == "story"]
    desk.evaluate("() => document.getElementById('story').removeAttribute('aria-live')")
    assert len(heard) > 5
    assert any(after.startswith(before) for before, after in itertools.pairwise(heard))


@pytest.mark.browser
def test_a_load_is_told_by_its_stages_and_quarters(
    quick_browser: Browser, server: TestServer
) -> None:
    page = quick_browser.new_page()
    page.route("**/app.js", lambda route: route.abort())
    page.goto(server.url)
    page.evaluate(HEAR)
    heard = page.evaluate("""async () => {
      const { LoadProgress } = await import("./progress.js");
      const { Download } = await import("./gpt2web.js");
      const progress = new LoadProgress(new Download(), () => {});
      const rest = () => new Promise((resolve) => setTimeout(resolve));
      await rest();
      for (let done = 0; done <= 500; done++) {
        progress.show({ stage: "download", done, total: 500 });
        await rest();
      }
      for (const stage of ["check", "check", "model", "model", "prepare"]) {
        progress.show({ stage, done: 0, total: 0 });
        await rest();
      }
      return window.announced;
    }""")
    assert heard == [
        ["status", words]
        for words in (
            "Starting Python.", "Downloading.", "Downloaded 25 %.", "Downloaded 50 %.",
            "Downloaded 75 %.", "Downloading.", "Testing the arithmetic.", "Loading the model.",
            "Preparing to write.",
        )
    ]  # fmt: skip
    page.context.close()


@pytest.mark.browser
def test_pictures_say_their_greatest_numbers_which_the_tables_have(shown: Page) -> None:
    cells = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    columns = {"attention": (0, 2), "next-token": (0, 4)}
    for view in VIEWS:
        name = shown.locator(f"#{view} svg").get_attribute("aria-label") or ""
        rows = shown.locator(f"#{view} tbody tr").evaluate_all(cells)
        if view in columns:
            first, share = columns[view]
            numbers = [f"{row[first]}: {row[share]}" for row in rows[:3]]
        elif view == "lens":
            numbers = [": ".join(cell.split(" ", 1)) for cell in rows[-1][1:4]]
        else:
            rows.sort(key=lambda row: -int(row[4].replace(",", "")))
            numbers = [f"{row[0]}: " for row in rows[:3]]
        for number in numbers:
            assert number in name, view
        assert re.search(r"\d %", name), view


@pytest.mark.browser
def test_headings_are_an_outline_and_fields_say_what_they_stand_at(shown: Page) -> None:
    session = shown.context.new_cdp_session(shown)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()

    def all_of(role: str) -> list[dict[str, Any]]:
        return [one for one in nodes if not one["ignored"] and one["role"]["value"] == role]

    def properties(node: dict[str, Any]) -> dict[str, Any]:
        return {one["name"]: one["value"].get("value") for one in node["properties"]}

    levels = [properties(one)["level"] for one in all_of("heading")]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) == {1, 2, 3, 4}
    for role in ("button", "checkbox", "textbox", "combobox", "slider", "spinbutton", "image"):
        found = all_of(role)
        assert found and all(one["name"]["value"].strip() for one in found), role
    # The tree has a slider's number; what is said instead stands beside it in the element.
    sliders = shown.locator("input[type=range]")
    said = sliders.evaluate_all("all => all.map((one) => one.getAttribute('aria-valuetext'))")
    assert said == ["0.80", "off", "off", "off"]
    (listbox,) = all_of("listbox")
    assert listbox["name"]["value"] == "The text as the model reads it"
    chosen = [one for one in all_of("option") if properties(one).get("selected")]
    tokens = shown.locator("#look-tokens > *").all_inner_texts()
    assert tokens[-1] in [one["name"]["value"] for one in chosen]
    for landmark in ("banner", "main", "contentinfo"):
        assert len(all_of(landmark)) == 1
    assert shown.get_attribute("html", "lang") == "en" and "gpt2web" in shown.title()


# --- movement, colours, paper ---------------------------------------------------------------------


@pytest.mark.browser
def test_with_less_movement_asked_for_nothing_moves(desk: Page) -> None:
    moving = """() => {
      document.getElementById("loading").hidden = false; // its bar does not know yet how far it is
      document.getElementById("loading-bar").removeAttribute("value");
      const all = [...document.querySelectorAll("*")];
      const animations = document.getAnimations().map((one) => one.effect.getTiming().duration);
      const smooth = all.filter((one) => getComputedStyle(one).scrollBehavior === "smooth");
      document.getElementById("loading").hidden = true;
      return [animations.filter((time) => time > 0).length, smooth.length];
    }"""
    # What browsers draw inside of a bar has no computed style of its own: the rules are read.
    transitions = """() => {
      const found = (rules) => [...rules].flatMap((rule) => {
        if (rule.media) return matchMedia(rule.media.mediaText).matches ? found(rule.cssRules) : [];
        return rule.style?.transition ? [[rule.selectorText, rule.style.transition]] : [];
      });
      return Object.fromEntries(found(document.styleSheets[0].cssRules));
    }"""
    desk.click("#generate")
    expect(desk.locator("#written")).not_to_be_empty(timeout=WRITE_MS)
    usual = desk.evaluate(moving)
    bar = "progress::-webkit-progress-value"
    assert set(desk.evaluate(transitions)) == {bar}
    desk.emulate_media(reduced_motion="reduce")
    less = desk.evaluate(moving)
    assert desk.evaluate(transitions) == {bar: "none"}
    desk.keyboard.press("Escape")
    expect(desk.locator("#generate")).to_be_enabled(timeout=WRITE_MS)
    assert usual == [2, 0]  # the cursor and the bar
    assert less == [0, 0]


@pytest.mark.browser
def test_steps_of_likelihood_differ_by_more_than_colour_also_in_fixed_colours(shown: Page) -> None:
    lines = """() => [...document.querySelectorAll(".legend span")].map((one) => {
      const styles = getComputedStyle(one);
      return ["Line", "Style", "Thickness"].map((what) => styles[`textDecoration${what}`]).join();
    })"""
    for forced in ("none", "active"):
        shown.emulate_media(forced_colors=forced)  # type: ignore[arg-type]
        assert len(set(shown.evaluate(lines))) == 5
    selected = shown.locator("#look-tokens [aria-selected=true]")
    assert selected.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"


@pytest.mark.browser
@pytest.mark.parametrize("forced", ["none", "active"])
def test_how_far_a_bar_is_can_be_seen_also_in_fixed_colours(desk: Page, forced: Any) -> None:
    desk.emulate_media(forced_colors=forced)
    write(desk, "The little fox", 1)
    desk.evaluate(
        "() => { const bar = document.getElementById('context-bar'); bar.value = bar.max / 2; }"
    )
    picture = desk.locator("#context-bar").screenshot()
    # The colours at a quarter and at three quarters of the bar, half way down.
    filled, rest = desk.evaluate(
        """async (bytes) => {
          const image = await createImageBitmap(new Blob([Uint8Array.from(bytes)]));
          const brush = new OffscreenCanvas(image.width, image.height).getContext("2d");
          brush.drawImage(image, 0, 0);
          return [0.25, 0.75].map((part) => {
            const { data } = brush.getImageData(part * image.width, image.height / 2, 1, 1);
            return `rgb(${data[0]},${data[1]},${data[2]})`;
          });
        }""",
        list(picture),
    )
    assert contrast(filled, rest) >= 3


@pytest.mark.browser
def test_on_paper_stand_the_text_and_the_views_that_are_open(desk: Page) -> None:
    write(desk, "The little fox", 2)
    desk.emulate_media(media="print")
    for gone in ("#prompt", "#go-on", "#preset", "#models", ".think:not(.change)", ".change"):
        expect(desk.locator(gone)).to_be_hidden()
    expect(desk.locator("#story")).to_be_visible()
    open_views(desk, "weights-map")
    expect(desk.locator("#weights-map svg")).to_be_visible()
    expect(desk.locator("#attention")).to_be_hidden()
