"""The writing tool in the page: going on, trying again, editing, ways on, presets, stops, the
context's end, links, files, the history."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import small_models
from browser import TestServer, serve_folder
from desk import LOAD_MS, WRITE_MS, open_page, press, write
from test_own_files import drag

SCRIPT = "The quick brown fox jumps over the lazy dog, and runs away into the wood. " * 5


@pytest.fixture(scope="module")
def served(dist: Path, tmp_path_factory: Any) -> Iterator[TestServer]:
    """dist/ with a second model, which writes SCRIPT: its character n at position n."""
    folder = tmp_path_factory.mktemp("writing") / "page"
    model = small_models.writer_model(small_models.tokenizer()(SCRIPT))
    small_models.add_to_page(dist, folder, model, "scripted", "Scripted")
    server = serve_folder(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def scripted(quick_browser: Browser, served: TestServer) -> Iterator[Page]:
    """The page with the scripted model, which always takes the likeliest."""
    context = quick_browser.new_context(service_workers="block")
    page = open_page(context, served.url)
    page.select_option("#model", "scripted")
    page.click("#load-model")
    expect(page.locator("#running")).to_contain_text("scripted", timeout=LOAD_MS)
    expect(page.locator("#generate")).to_be_enabled()
    page.select_option("#preset", "likeliest")
    yield page
    context.close()


def counted(page: Page) -> int:
    """The tokens that the page says the text has."""
    words = page.locator("#context-words")
    expect(words).to_have_text(re.compile(r"\d"))
    page.wait_for_timeout(250)  # typed text is counted a moment later
    return int(re.findall(r"\d+", words.inner_text())[0])


# --- writing on -----------------------------------------------------------------------------------


@pytest.mark.browser
def test_continue_goes_on_as_if_it_had_not_stopped(scripted: Page) -> None:
    written = write(scripted, SCRIPT[:6], 10)
    assert written == SCRIPT[6:16]
    assert counted(scripted) == 16
    assert press(scripted, "#go-on") == SCRIPT[:26]
    assert press(scripted, "#go-on") == SCRIPT[:36]
    assert counted(scripted) == 36


@pytest.mark.browser
def test_each_go_is_one_step_to_undo_and_to_redo(scripted: Page) -> None:
    write(scripted, SCRIPT[:6], 4)
    press(scripted, "#go-on")
    texts = [scripted.inner_text("#story")]
    for button in ("#undo", "#redo", "#undo"):
        scripted.click(button)
        texts.append(scripted.inner_text("#story"))
    assert texts == [SCRIPT[:14], SCRIPT[:10], SCRIPT[:14], SCRIPT[:10]]
    press(scripted, "#go-on")
    expect(scripted.locator("#redo")).to_be_disabled()


@pytest.mark.browser
def test_a_click_into_the_text_edits_it_and_the_model_goes_on_from_the_cursor(
    scripted: Page,
) -> None:
    write(scripted, SCRIPT[:6], 10)
    scripted.locator("#written span").nth(3).click()
    editor = scripted.locator("#editor")
    expect(editor).to_be_focused()
    at = scripted.evaluate("() => document.getElementById('editor').selectionStart")
    assert at in (9, 10)  # before or behind that character
    scripted.keyboard.press("Control+Home")
    scripted.keyboard.type("Lo, t")
    scripted.keyboard.press("Delete")
    assert counted(scripted) == 20  # as it is typed
    scripted.click("#edit-done")
    changed = "Lo, t" + SCRIPT[1:16]
    assert scripted.inner_text("#story") == changed
    assert counted(scripted) == len(changed)

    scripted.click("#edit")
    for _ in range(6):
        scripted.keyboard.press("ArrowLeft")
    scripted.keyboard.press("Control+Enter")
    expect(scripted.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    kept = changed[:-6]
    assert scripted.inner_text("#story") == kept + SCRIPT[len(kept) : len(kept) + 10]
    scripted.click("#undo")
    assert scripted.inner_text("#story") == changed
    scripted.click("#undo")
    assert scripted.inner_text("#story") == SCRIPT[:16]


@pytest.mark.browser
def test_a_text_that_would_come_stops_it(scripted: Page) -> None:
    scripted.fill("#stop-at", "\\n\nfox jumps")
    assert write(scripted, SCRIPT[:6], 40) == SCRIPT[6 : SCRIPT.index("fox jumps")]
    expect(scripted.locator("#finish")).to_have_text(re.compile("a text that you set"))
    scripted.fill("#stop-at", "")
    assert write(scripted, SCRIPT[:6], 40) == SCRIPT[6:46]


@pytest.mark.browser
def test_at_the_context_s_end_it_stops_or_slides_as_the_reader_chooses(scripted: Page) -> None:
    prompt = SCRIPT[:290]
    assert write(scripted, prompt, 20) == SCRIPT[290:300]
    expect(scripted.locator("#finish")).to_contain_text("context is full")
    expect(scripted.locator("#context-words")).to_contain_text("only the last 225")
    # Its last 225 tokens are read as positions 0 to 224, behind which the script goes on.
    expect(scripted.locator("#go-on")).to_have_text("Continue from the last 225 tokens")
    scripted.fill("#max-new-tokens", "7")
    assert press(scripted, "#go-on") == prompt + SCRIPT[290:300] + SCRIPT[225:232]

    scripted.select_option("#when-full", "slide")
    written = write(scripted, prompt, 20)
    assert written == SCRIPT[290:300] + SCRIPT[225:235]
    assert scripted.inner_text("#figure-tokens") == "20"
    scripted.select_option("#when-full", "stop")
    scripted.click("#undo")
    assert scripted.inner_text("#story") == prompt + SCRIPT[290:300] + SCRIPT[225:232]


@pytest.mark.browser
def test_another_try_has_another_seed_and_the_seed_that_was_shown_gives_it_again(
    desk: Page,
) -> None:
    first = write(desk, "Once upon a time", 4, seed=5)
    again = press(desk, "#retry")
    seed = desk.inner_text("#figure-seed")
    assert seed != "5" and again.startswith("Once upon a time")
    desk.click("#undo")
    assert desk.inner_text("#written") == first
    assert desk.inner_text("#figure-seed") == "5"
    desk.click("#redo")
    desk.click("#keep-seed")
    assert "Once upon a time" + write(desk, "Once upon a time", 4, int(seed)) == again


@pytest.mark.browser
def test_of_three_ways_on_one_is_taken_and_each_is_what_its_seed_gives(desk: Page) -> None:
    write(desk, "A dog", 2, seed=5)
    before = desk.inner_text("#story")
    desk.fill("#max-new-tokens", "3")
    press(desk, "#branch")
    ways = desk.locator("#ways-list li")
    expect(ways).to_have_count(3)
    texts = ways.locator("p").all_inner_texts()
    assert desk.inner_text("#story") == before
    ways.nth(1).locator("button").click()
    expect(desk.locator("#ways")).to_be_hidden()
    taken = desk.inner_text("#story")
    assert taken.startswith(before) and taken[len(before) :].strip() == texts[1].strip()
    assert desk.inner_text("#figure-seed") == "6"
    desk.click("#undo")
    desk.fill("#seed", "6")
    assert press(desk, "#go-on") == taken


@pytest.mark.browser
def test_a_preset_sets_the_fields_and_a_field_of_one_s_own_is_said_to_be(desk: Page) -> None:
    fields = ("temperature", "top-k", "top-p", "min-p", "repetition-penalty")

    def values() -> list[str]:
        return [desk.input_value(f"#{field}") for field in fields]

    assert desk.input_value("#preset") == "model"
    own = values()
    desk.select_option("#preset", "daring")
    assert values() == ["1.2", "", "1", "0.05", "1.05"]
    expect(desk.locator("#about-preset")).to_contain_text("unlikely turns")
    desk.fill("#temperature", "0.65")
    assert desk.input_value("#preset") == "own"
    desk.select_option("#preset", "model")
    assert values() == own == ["0.8", "40", "1", "0", "1"]


# --- links ----------------------------------------------------------------------------------------


def copied(page: Page) -> str:
    page.click("#copy-link")
    expect(page.locator("#share-answer")).to_contain_text("Copied")
    return str(page.evaluate("() => navigator.clipboard.readText()"))


def follow(page: Page, fragment: str) -> None:
    """Opens a link in the tab that has the page already."""
    page.evaluate("fragment => { window.location.hash = fragment; }", fragment)
    page.wait_for_timeout(50)


@pytest.mark.browser
def test_a_link_brings_the_settings_and_the_text_only_if_asked_and_asks_no_server(
    desk: Page, server: TestServer
) -> None:
    write(desk, "Once <i>upon</i> a time", 2, seed=5)
    story = desk.inner_text("#story")
    desk.select_option("#preset", "careful")
    desk.fill("#stop-at", "The end\n# & 100%")
    desk.locator("#share summary").click()
    bare = copied(desk)
    desk.check("#link-text")
    whole = copied(desk)
    desk.uncheck("#link-text")
    assert bare.startswith(server.url + "#") and "Once" not in bare
    assert "model=stories" in bare and "seed=5" in bare

    desk.select_option("#preset", "daring")
    desk.fill("#stop-at", "")
    desk.fill("#seed", "9")
    write(desk, "Another", 1, seed=9)
    before = len(server.requests)
    follow(desk, bare.partition("#")[2])
    assert desk.input_value("#preset") == "careful"
    assert desk.input_value("#stop-at") == "The end\n# & 100%"
    assert desk.input_value("#seed") == "5"
    assert desk.inner_text("#told") == "Another"
    follow(desk, whole.partition("#")[2])
    assert desk.inner_text("#story") == story
    desk.click("#undo")
    assert desk.inner_text("#told") == "Another"
    asked = {request.rpartition("/")[2] for request in server.requests[before:]}
    assert asked <= {"icon.svg"}  # which the browser asks for again
    desk.fill("#stop-at", "")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("fragment", "words"),
    [
        ("somewhere", "no link that this page has made"),
        ("gpt2web=1&seed=7", "was cut off"),
        ("gpt2web=1&seed=-1&end=1", "“-1” can’t be the value of “seed”"),
        ("gpt2web=1&temperature=9&end=1", "“9” can’t be the value of “temperature”"),
        ("gpt2web=1&top-k=1e9x&end=1", "“1e9x” can’t be the value of “top-k”"),
        ("gpt2web=1&when-full=jump&end=1", "“jump” can’t be the value of “when-full”"),
        ("gpt2web=1&prompt=<b>&end=1", "names “prompt”"),
        ("gpt2web=1&model=gpt9&end=1", "“gpt9”, which is not here"),
    ],
)
def test_a_link_that_is_not_right_is_refused_in_a_sentence(
    desk: Page, fragment: str, words: str
) -> None:
    before = [desk.input_value(f"#{field}") for field in ("seed", "temperature", "top-k")]
    follow(desk, "gpt2web=1")  # so that the next one is another
    follow(desk, fragment)
    expect(desk.locator("#problem-text")).to_contain_text(words)
    if "not here" not in words:
        after = [desk.input_value(f"#{field}") for field in ("seed", "temperature", "top-k")]
        assert after == before


@pytest.mark.browser
def test_a_link_opened_anew_keeps_its_settings_when_the_model_s_own_come(
    quick_browser: Browser, served: TestServer
) -> None:
    context = quick_browser.new_context(service_workers="block")
    page = context.new_page()
    fragment = "gpt2web=1&temperature=0.35&top-p=0.9&seed=3&model=scripted&text=Once&end=1"
    page.goto(f"{served.url}#{fragment}")
    expect(page.locator("#problem-text")).to_contain_text("made with the model Scripted")
    expect(page.locator("#way-out")).to_have_text("Load")
    expect(page.locator("#model-card")).not_to_be_empty()
    page.wait_for_timeout(300)
    bad = context.new_page()
    bad.goto(f"{served.url}#gpt2web=1&temperature=0.35")
    expect(bad.locator("#problem-text")).to_contain_text("was cut off")
    assert page.input_value("#temperature") == "0.35" and page.input_value("#top-k") == ""
    assert page.inner_text("#told") == "Once"
    context.close()


# --- files and the history ------------------------------------------------------------------------


@pytest.mark.browser
def test_a_saved_file_is_opened_and_the_same_text_is_written_again(
    desk: Page, tmp_path: Path
) -> None:
    write(desk, "The fox", 3, seed=8)
    press(desk, "#go-on")
    story = desk.inner_text("#story")
    saved = {}
    desk.locator("#share > summary").click()
    for button in ("#save-text", "#save-all"):
        with desk.expect_download() as download:
            desk.click(button)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        saved[path.suffix] = path
    assert saved[".txt"].name.startswith("the-fox")
    assert saved[".txt"].read_text("utf-8") == story
    file = json.loads(saved[".json"].read_text("utf-8"))
    assert file["text"] == story
    assert [turn["seed"] for turn in file["turns"]] == [8, 8]
    assert file["turns"][0]["prompt"] == "The fox"
    ids = [each for piece in file["pieces"][1:] for each in piece["ids"]]
    assert ids == file["turns"][0]["ids"] + file["turns"][1]["ids"]
    assert {"precision", "adapter", "kernels", "title"} <= file["model"].keys()
    hashes = {one["file"]: one["sha256"] for one in file["model"]["files"]}
    assert re.fullmatch("[0-9a-f]{64}", hashes["model.safetensors"])
    assert re.fullmatch("[0-9a-f]{64}", file["page"])

    write(desk, "Another", 1, seed=9)
    desk.set_input_files("#open-file", saved[".json"])
    expect(desk.locator("#problem-text")).to_contain_text("Opened: last written")
    assert desk.inner_text("#story") == story
    assert desk.input_value("#seed") == "8"
    desk.click("#way-out")
    expect(desk.locator("#problem-text")).to_have_text(
        "The same 3 tokens came out.", timeout=WRITE_MS
    )

    file["turns"][1]["ids"][1] += 1
    saved[".json"].write_text(json.dumps(file))
    desk.set_input_files("#open-file", saved[".json"])
    desk.click("#way-out")
    expect(desk.locator("#problem-text")).to_contain_text("From token 2 on", timeout=WRITE_MS)

    saved[".txt"].write_text("{")
    desk.set_input_files("#open-file", saved[".txt"])
    expect(desk.locator("#problem-text")).to_contain_text("The file is no JSON")

    write(desk, "Another", 1, seed=9)
    for file in (saved[".json"], tmp_path / "config.json"):
        if not file.exists():
            file.write_text('{"n_layer": 2}')  # no story: it could be of a model
        for kind in ("dragEnter", "dragOver", "drop"):
            drag(desk, kind, "h1", [file])
        words = "Opened: last written" if file in saved.values() else "There are no weights among"
        expect(desk.locator("#problem-text")).to_contain_text(words)
        assert desk.inner_text("#story") == story


@pytest.mark.browser
def test_texts_are_kept_on_this_machine_opened_again_and_deleted(desk: Page) -> None:
    def rows() -> list[str]:
        return desk.locator("#history-list li p:first-child").all_inner_texts()

    desk.locator("#history > summary").click()
    expect(desk.locator("#history-where")).to_contain_text("in this browser on this machine")
    write(desk, "A hen", 2, seed=1)
    hen = desk.inner_text("#story")
    expect(desk.locator("#history-list li p").first).to_have_text(hen.strip())
    write(desk, "A cow", 2, seed=1)
    press(desk, "#go-on")
    cow = desk.inner_text("#story")
    expect(desk.locator("#history-list li p").first).to_have_text(cow.strip())
    assert [text[:5] for text in rows()[:2]] == ["A cow", "A hen"]

    desk.locator("#history-list li").nth(1).get_by_text("Open").click()
    assert desk.inner_text("#story") == hen
    press(desk, "#go-on")  # it is the same text that goes on, not another
    expect(desk.locator("#history-list li p").first).to_have_text(desk.inner_text("#story").strip())
    assert [text[:5] for text in rows()[:2]] == ["A hen", "A cow"]

    count = len(rows())
    desk.locator("#history-list li").nth(1).get_by_text("Delete").click()
    expect(desk.locator("#history-list li")).to_have_count(count - 1)
    assert rows()[0].startswith("A hen") and not any(row.startswith("A cow") for row in rows())

    desk.uncheck("#keep-texts")
    write(desk, "A pig", 1, seed=1)
    desk.wait_for_timeout(800)
    assert rows()[0].startswith("A hen")
    desk.check("#keep-texts")
    expect(desk.locator("#history-list li p").first).to_contain_text("A pig")
    desk.once("dialog", lambda dialog: dialog.accept())
    desk.click("#delete-all")
    expect(desk.locator("#history-list li")).to_have_count(0)
    databases = "async () => (await indexedDB.databases()).map(({ name }) => name)"
    assert any("texts" in name for name in desk.evaluate(databases))


@pytest.mark.browser
def test_where_nothing_can_be_kept_the_history_says_so_and_lasts_as_long_as_the_tab(
    quick_browser: Browser, served: TestServer
) -> None:
    context = quick_browser.new_context(service_workers="block")
    page = context.new_page()
    page.add_init_script(
        "indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); }"
    )
    page.goto(served.url)
    kept = page.evaluate("""async () => {
      const { openHistory } = await import("./history.js");
      const { Story, typed } = await import("./story.js");
      const story = new Story();
      openHistory(story, { about: () => ({ settings: {}, model: null, when: "", page: "" }) });
      const beside = { logprobs: null, top: null, turn: null };
      const piece = { text: "!", by: "model", ids: [1], model: "m", ...beside };
      story.begin([...typed("A goat"), piece]);
      document.getElementById("history").open = true;
      await new Promise((resolve) => setTimeout(resolve, 1200));
      return [
        document.getElementById("history-where").textContent,
        document.getElementById("history-list").textContent,
      ];
    }""")
    assert "keeps nothing for this page" in kept[0]
    assert "A goat!" in kept[1]
    context.close()
