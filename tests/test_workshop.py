"""Changing the model in the page: closed it costs nothing; a change runs beside the original, is
shown where it is wrong, is ended where it has no end, and reset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import TestServer
from desk import LISTENER, WRITE_MS, open_page, write
from gpt2web import sources
from in_node import in_node
from test_start import snapshot

TEXTS = sources.read()
SELECT = "gpt2web/shaders/select.wgsl"
RANDOM = "gpt2web/shaders/random.wgsl"
TURN = "gpt2web/turn.py"
GENERATE = "gpt2web/generate.py"
SAMPLING = "gpt2web/sampling.py"
FILES = ("workshop.js", "editor.js", "codemirror.js", "edits.js", "experiments.js", "compare.js")
RUN_MS = 120_000
GREEDY = """
from dataclasses import replace
_pack = Sampling.pack
Sampling.pack = lambda self, *given: _pack(replace(self, temperature=0.0), *given)
"""

# Takes a file of the page, which the service worker keeps, away until back() is called.
AWAY = """async () => {
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    const [request] = (await cache.keys()).filter(({ url }) => url.endsWith("/wheels.json"));
    if (!request) continue;
    const response = await cache.match(request);
    await cache.delete(request);
    window.back = () => cache.put(request, response);
  }
}"""


# --- which lines differ, without a page ----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "hunks"),
    [
        ("a b c", "a b c", []),
        ("a b c", "a x c", [(1, 2, 1)]),
        ("a b c", "a b x y c", [(2, 4, 0)]),
        ("a b c d", "a d", [(1, 1, 2)]),
        ("a b c d e", "x b c y z e", [(0, 1, 1), (3, 5, 1)]),
        ("a b", "b a", [(0, 0, 1), (1, 2, 0)]),
        ("", "a b", [(0, 2, 1)]),
        ("a a a", "a a", [(2, 2, 1)]),
    ],
)
def test_changed_lines_are_found(old: str, new: str, hunks: list[tuple[int, int, int]]) -> None:
    found = in_node(
        """const { differences } = await web("edits.js"); return differences(old, text);""",
        old=old.replace(" ", "\n"),
        text=new.replace(" ", "\n"),
    )
    assert [(hunk["from"], hunk["to"], hunk["removed"]) for hunk in found] == hunks


def test_what_was_kept_is_taken_back_but_for_what_is_no_file_here() -> None:
    found = in_node(
        """
        const { Edits } = await web("edits.js");
        const told = [];
        const begun = (kept) => {
          const edits = new Edits({ get: () => kept, set: (text) => told.push(text) });
          edits.begin({ "a.py": "one\\ntwo", "b.py": "" });
          return edits;
        };
        const edits = begun('{"a.py": "one\\\\n2", "gone.py": "x", "b.py": 7}');
        const all = [edits.all, edits.count("a.py"), edits.count("b.py")];
        edits.set("a.py", "one\\ntwo");
        const spoilt = ["{", "null", "[1]", null].map((kept) => begun(kept).all);
        return [all, edits.all, told, spoilt];
        """
    )
    assert found == [[{"a.py": "one\n2"}, 1, 0], {}, ["{}"], [{}] * 4]


def test_changes_hold_where_the_browser_keeps_nothing() -> None:
    found = in_node(
        """
        const { Edits } = await web("edits.js");
        const told = [];
        console.debug = (...words) => told.push(words.join(" "));
        const refused = () => { throw new Error("QuotaExceededError"); };
        const edits = new Edits({ get: refused, set: refused });
        edits.begin({ "a.py": "one" });
        let changes = 0;
        edits.addEventListener("change", () => changes++);
        edits.set("a.py", "two");
        return [edits.all, changes, told];
        """
    )
    assert found == [{"a.py": "two"}, 1, ["Error: QuotaExceededError"]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_two_texts_have_in_common_is_said_also_of_none(count: int) -> None:
    said = in_node(
        """
        const sentences = ["both-nothing", "both-same-one", "both-same-many"];
        const content = sentences.map((name) => ({ dataset: { text: name }, textContent: name }));
        const elements = {};
        const made = () => ({ parentElement: {}, replaceChildren() {} });
        globalThis.document = {
          getElementById: (id) => (elements[id] ??= id === "texts" ? TEXTS : made()),
          createElement: made,
        };
        const TEXTS = { content: { querySelectorAll: () => content } };
        content[2].textContent += " {count}";
        const { showBoth } = await web("compare.js");
        const written = { prompt: "", pieces: [], ids: Array(count).fill(7), finish: "stop" };
        showBoth(written, written);
        return elements["both-says"].textContent;
        """,
        count=count,
    )
    assert said == ["both-nothing", "both-same-one", "both-same-many 2"][count]


# --- in the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """The page with a text of the original, its panel still closed."""
    context = quick_browser.new_context(service_workers="block", accept_downloads=True)
    context.add_init_script(LISTENER)
    context.add_init_script("""
      window.violated = [];
      // The browser itself styles text that is typed over other: CodeMirror draws it anew.
      const isTyped = (place) => place.classList?.contains("cm-line");
      addEventListener("securitypolicyviolation", (event) => {
        if (!isTyped(event.composedPath()[0])) violated.push(event.violatedDirective);
      });
    """)
    page = open_page(context, server.url)
    page.set_default_timeout(RUN_MS)
    yield page
    context.close()


@pytest.fixture(scope="module")
def original(shop: Page) -> str:
    """What the original writes with the settings of this file."""
    shop.fill("#min-p", "0.01")
    return write(shop, "Once upon a time", 12)


def fetched(page: Page) -> set[str]:
    names: list[str] = page.evaluate(
        """() => performance.getEntriesByType("resource").map(({ name }) => name)"""
    )
    return {name.rpartition("/")[2] for name in names}


def run(page: Page) -> None:
    """Runs what is changed, to its end."""
    page.click("#workshop-run")
    ended(page)


def ended(page: Page) -> None:
    expect(page.locator("#workshop-stop")).to_be_disabled(timeout=RUN_MS)


def edit(page: Page, path: str, text: str) -> None:
    """Puts a text at the end of a file, as a reader does."""
    page.select_option("#workshop-file", path)
    page.locator(".cm-content").focus()
    page.keyboard.press("Control+End")
    page.keyboard.insert_text(text)


def put(page: Page, path: str, text: str) -> None:
    """Puts a text in place of a file's."""
    page.select_option("#workshop-file", path)
    page.locator(".cm-content").focus()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


@pytest.mark.browser
def test_a_closed_panel_fetches_and_asks_nothing(shop: Page, original: str) -> None:
    def asked() -> int:
        count: int = shop.evaluate("() => told.filter(({ type }) => type === 'sources').length")
        return count

    assert len(original) > 12
    assert fetched(shop).isdisjoint(FILES) and asked() == 0
    assert "looking.js" in fetched(shop)
    shop.focus("#workshop > summary")
    shop.keyboard.press("Enter")
    expect(shop.locator(".cm-content")).to_be_visible(timeout=WRITE_MS)
    assert fetched(shop) >= set(FILES) and asked() == 1
    assert shop.input_value("#workshop-file") == SELECT
    assert shop.locator(".cm-line").first.inner_text() == TEXTS[SELECT].split("\n")[0]
    values = shop.locator("#workshop-file option").evaluate_all("(all) => all.map((o) => o.value)")
    assert sorted(values) == sorted(TEXTS)
    assert shop.locator("#workshop-file optgroup").first.locator("option").count() == 13
    assert shop.is_disabled("#workshop-run") and shop.is_hidden("#changed")


@pytest.mark.browser
def test_the_keyboard_gets_into_the_editor_and_out_of_it(shop: Page, original: str) -> None:
    shop.focus("#workshop-file")
    shop.keyboard.press("Tab")
    assert shop.evaluate("() => document.activeElement.id") == "workshop-editor"
    shop.keyboard.press("Tab")  # indents
    assert shop.evaluate("() => document.activeElement.id") == "workshop-editor"
    expect(shop.locator("#workshop-lines")).to_have_text("1 line changed")
    shop.keyboard.press("Control+z")
    expect(shop.locator("#workshop-lines")).to_have_text("unchanged")
    assert shop.inner_text("#written") == original  # the page's own undo was not meant
    shop.keyboard.press("Escape")
    shop.keyboard.press("Tab")
    assert shop.evaluate("() => document.activeElement.id") != "workshop-editor"


@pytest.mark.browser
def test_a_file_that_is_dropped_on_the_editor_is_the_pages_and_no_text_of_the_program(
    shop: Page, original: str
) -> None:
    drop = """(name) => new Promise((resolve) => {
      const { shadowRoot } = document.getElementById("workshop-editor");
      const place = shadowRoot.querySelector(".cm-content");
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["dropped "], name, { type: "text/plain" }));
      const { left, top } = place.getBoundingClientRect();
      const at = { clientX: left + 9, clientY: top + 9 };
      const kind = { bubbles: true, composed: true, cancelable: true };
      place.dispatchEvent(new DragEvent("drop", { dataTransfer, ...at, ...kind }));
      setTimeout(resolve, 500);
    })"""
    shop.evaluate(drop, "model.txt")
    expect(shop.locator("#problem")).to_contain_text("model.txt")  # the page has looked at it
    expect(shop.locator("#workshop-lines")).to_have_text("unchanged")


@pytest.mark.browser
def test_python_that_is_none_is_shown_with_its_line_and_one_without_an_end_is_stopped(
    shop: Page, original: str
) -> None:
    edit(shop, TURN, "if True print(1)")
    shop.keyboard.press("Control+Enter")
    expect(shop.locator("#workshop-problem")).to_be_visible(timeout=RUN_MS)
    ended(shop)
    line = len(TEXTS[TURN].split("\n"))
    assert f"{TURN}, line {line}: SyntaxError: " in shop.inner_text("#workshop-problem-text")
    assert shop.inner_text(".cm-wrong") == "if True print(1)"
    shop.click("#workshop-traceback summary")
    assert "Traceback" in shop.inner_text("#workshop-detail")
    assert shop.inner_text("#both-original") == f"Once upon a time{original}"
    assert shop.input_value("#min-p") == "0.01"  # settings are the reader's, not the model's
    assert shop.is_disabled("#generate")  # there is no model until it is corrected or reset

    put(shop, TURN, f"{TEXTS[TURN]}\nwhile True: pass\n")
    shop.click("#workshop-run")
    expect(shop.locator("#workshop-state")).to_have_text("Starting Python with your change…")
    shop.wait_for_timeout(4000)
    shop.click("#workshop-stop")
    expect(shop.locator("#workshop-state")).to_have_text("Stopped.")
    expect(shop.locator("#load-model")).to_be_visible()
    expect(shop.locator("#workshop-problem")).to_be_hidden()
    shop.click("#workshop-reset-file")
    expect(shop.locator("#workshop-lines")).to_have_text("unchanged")


@pytest.mark.browser
def test_wgsl_that_is_none_is_shown_with_its_line(shop: Page, original: str) -> None:
    old = "return f32(bits >> 8u)"
    put(shop, RANDOM, TEXTS[RANDOM].replace(old, "return f64(bits >> 8u)"))
    run(shop)
    (line,) = [n for n, one in enumerate(TEXTS[RANDOM].splitlines(), 1) if old in one]
    told = shop.inner_text("#workshop-problem-text")
    assert f"{RANDOM}, line {line}: WGSL: " in told and "f64" in told
    assert "f64(bits" in shop.inner_text(".cm-wrong")
    shop.select_option("#workshop-file", SELECT)
    shop.click("#workshop-line")
    assert shop.input_value("#workshop-file") == RANDOM
    shop.click("#workshop-reset-file")


@pytest.mark.browser
def test_a_change_runs_beside_the_original_and_the_page_uses_it(
    shop: Page, original: str, tmp_path: Path
) -> None:
    edit(shop, SAMPLING, GREEDY.strip())
    expect(shop.locator("#workshop-lines")).to_have_text("3 lines changed")
    label = shop.locator(f"#workshop-file option[value='{SAMPLING}']").inner_text()
    assert label == "● The sampler again, in plain Python"
    run(shop)
    assert shop.is_hidden("#workshop-problem"), shop.inner_text("#workshop-problem")
    assert shop.inner_text("#both-original") == f"Once upon a time{original}"
    changed = shop.inner_text("#both-changed").removeprefix("Once upon a time")
    assert changed != original
    marked = shop.locator("#both mark").all_inner_texts()
    assert len(marked) == 2 and marked[0] != marked[1]
    assert "then they part." in shop.inner_text("#both-says")
    assert shop.inner_text("#left-writing").startswith("0 requests while")
    assert SAMPLING in shop.inner_text("#changed")
    running = shop.inner_text("#running")
    assert f"Changed files\n{SAMPLING}" in running
    assert "Self-test\nnot run, as files were edited" in running

    assert write(shop, "Once upon a time", 12) == changed  # the page itself
    shop.click("#share summary")
    with shop.expect_download() as started:
        shop.click("#save-all")
    saved = json.loads(Path(started.value.path()).read_text("utf-8"))
    assert [turn["edited"] for turn in saved["turns"]] == [[SAMPLING]]
    # what the original found likely, or would read, is not known of these
    unknown = [piece["ids"] for piece in saved["pieces"] if piece["by"] == "model"]
    assert unknown == [None] * len(unknown) and unknown
    assert "_pack" not in json.dumps(saved)
    assert shop.evaluate("() => violated") == []


@pytest.mark.browser
def test_a_step_without_an_end_is_ended_and_reset_brings_the_original_back(
    shop: Page, original: str
) -> None:
    changed = shop.inner_text("#both-changed")
    old = '        states, samplings, flags = b"", b"", b""\n'
    endless = "        while self.requests[0].limit > 1: pass\n"  # the load itself asks for one
    assert TEXTS[GENERATE].count(old) == 1
    put(shop, GENERATE, TEXTS[GENERATE].replace(old, old + endless))
    shop.click("#workshop-run")
    expect(shop.locator("#workshop-state")).to_have_text("Your change writes.", timeout=RUN_MS)
    assert shop.is_disabled("#generate") and shop.is_disabled("#go-on")
    shop.press("#prompt", "Control+Enter")
    expect(shop.locator("#problem-text")).to_have_text("The model is writing: stop it first.")
    shop.wait_for_timeout(500)
    shop.click("#workshop-stop")
    expect(shop.locator("#workshop-state")).to_contain_text("so its Python was ended")

    shop.focus("#workshop-reset")
    shop.keyboard.press("Enter")
    ended(shop)
    expect(shop.locator("#workshop-state")).to_contain_text("Everything is as it was.")
    expect(shop.locator("#changed")).to_be_hidden()
    assert (
        shop.evaluate(
            "() => sessionStorage.length && sessionStorage.getItem(sessionStorage.key(0))"
        )
        == "{}"
    )
    assert write(shop, "Once upon a time", 12) == original
    shop.fill("#temperature", "0")
    assert f"Once upon a time{write(shop, 'Once upon a time', 12)}" == changed
    shop.click("#workshop-back")
    expect(shop.locator("#workshop-back")).to_be_hidden()
    assert {GENERATE, SAMPLING} == set(shop.inner_text("#workshop-changed")[9:-1].split(", "))
    shop.click("#workshop-reset")  # the original is there: nothing is loaded
    expect(shop.locator("#workshop-changed")).to_be_empty()
    edit(shop, TURN, "# other")
    expect(shop.locator("#workshop-back")).to_be_hidden()
    said: list[Any] = shop.evaluate("() => heard.filter(({ type }) => type === 'died')")
    assert said == []


@pytest.mark.browser
def test_from_a_snapshot_and_offline_a_kept_change_waits_and_an_experiment_runs(
    quick_browser: Browser, own_server: TestServer
) -> None:
    context = quick_browser.new_context()
    page = open_page(context, own_server.url)
    snapshot(page)
    own_server.stop()
    page.reload()
    expect(page.locator("#generate")).to_be_enabled(timeout=RUN_MS)
    assert "from a snapshot" in page.inner_text("#running")
    text = write(page, "Once upon a time", 8)
    page.evaluate(AWAY)
    page.click("#workshop > summary")
    expect(page.locator("#workshop-empty")).to_contain_text("wheels.json", timeout=WRITE_MS)
    assert write(page, "Once upon a time", 8) == text  # what was asked for in vain does no harm
    page.evaluate("() => window.back()")
    page.click("#workshop > summary")
    page.click("#workshop > summary")
    expect(page.locator(".cm-content")).to_be_visible(timeout=WRITE_MS)
    second = page.locator("#experiments button").first
    second.click()
    expect(second).to_have_attribute("aria-pressed", "true")
    assert page.locator(".cm-changed").count() == 5
    page.reload()
    expect(page.locator("#generate")).to_be_enabled(timeout=RUN_MS)
    page.click("#workshop > summary")
    expect(second).to_have_attribute("aria-pressed", "true", timeout=WRITE_MS)
    expect(page.locator("#workshop-state")).to_contain_text("is here again")
    assert page.is_hidden("#changed")
    page.fill("#max-new-tokens", "8")
    run(page)
    assert page.is_visible("#changed") and SELECT in page.inner_text("#changed-files")
    assert page.locator("#both mark").count() == 2
    context.close()
