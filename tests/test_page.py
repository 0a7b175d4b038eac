"""The page, gpt2web.js and gpt2web.page: first page.py alone, then all of it in Chromium."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import small_models
from bad_server import bad_server, stall, wrong_bytes
from browser import CHROMIUM_FLAGS, TestServer, launch, open_blank
from desk import LOAD_MS, WRITE_MS, open_page, write
from gpt2web import page as page_module
from gpt2web.checkpoint import CheckpointError
from gpt2web.gpu import DeviceError
from gpt2web.stream import Piece

# --- page.py alone, with a model that says what it is told to ---------------------------------


class ScriptedStream:
    """Yields its texts; None among them is a wait for the GPU."""

    def __init__(self, texts: list[str | None]) -> None:
        self.texts, self.seed, self.cancelled = texts, 7, False

    def cancel(self) -> None:
        self.cancelled = True

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for number, text in enumerate(self.texts):
            if self.cancelled:
                yield Piece("", [], None, None, 0, "cancelled")
                return
            if text is None:
                await asyncio.sleep(0.001)
                continue
            last = number + 1 == len(self.texts)
            yield Piece(text, [number], None, None, 0, "length" if last else None)


class ScriptedModel:
    """The prompt names the texts, separated by bars; "wait" waits, "fail" raises."""

    def stream(self, prompt: str, **options: Any) -> ScriptedStream:
        if prompt == "fail":
            raise ValueError("the prompt fails")
        return ScriptedStream([None if word == "wait" else word for word in prompt.split("|")])


def answers_to(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What a page with the scripted model posts when these messages come in together."""
    posted: list[dict[str, Any]] = []

    async def run() -> None:
        page = page_module.Page("http://localhost/", posted.append)
        page.lm = ScriptedModel()  # type: ignore[assignment]
        await asyncio.gather(*(page.handle(message) for message in messages))
        assert page.under_way == {}

    asyncio.run(run())
    return posted


def generate(number: int, prompt: str) -> dict[str, Any]:
    return {"type": "generate", "id": number, "prompt": prompt, "options": {}}


def text_of(answers: list[dict[str, Any]], number: int) -> str:
    batches = [a["pieces"] for a in answers if a["type"] == "pieces" and a["id"] == number]
    return "".join(piece["text"] for batch in batches for piece in batch)


def test_pieces_that_came_without_a_wait_travel_in_one_message() -> None:
    started, first, second = answers_to(generate(1, "a|wait|b|c|d"))
    assert started == {"type": "started", "id": 1, "seed": 7}
    assert [piece["text"] for piece in first["pieces"]] == ["a"]
    assert [piece["text"] for piece in second["pieces"]] == ["b", "c", "d"]
    assert [piece["finishReason"] for piece in second["pieces"]] == [None, None, "length"]
    timing = second["timing"]
    assert timing["tokens"] == 4
    assert 0 <= timing["firstToken"] < timing["seconds"]


def test_cancel_reaches_the_generation_it_names_and_ignores_others() -> None:
    cancel = {"type": "cancel", "id": 1}
    answers = answers_to(generate(1, "a|wait|b"), generate(2, "c|wait|d"), cancel)
    assert "b" not in text_of(answers, 1)
    assert [a for a in answers if a["id"] == 1][-1]["pieces"][-1]["finishReason"] == "cancelled"
    assert text_of(answers, 2) == "cd"
    assert answers_to({"type": "cancel", "id": 9}) == []


def test_an_error_is_an_answer_and_the_next_generation_runs() -> None:
    answers = answers_to(generate(1, "fail"), generate(2, "a"), {"type": "nonsense", "id": 3})
    error = next(a for a in answers if a["id"] == 1)["error"]
    assert (error["name"], error["message"]) == ("ValueError", "the prompt fails")
    assert "Traceback" in error["detail"]
    assert text_of(answers, 2) == "a"
    assert "nonsense" in next(a for a in answers if a["id"] == 3)["error"]["message"]


@pytest.mark.parametrize("kind", [CheckpointError, DeviceError, TypeError, ValueError])
def test_public_errors_keep_their_name_and_text(kind: type[Exception]) -> None:
    described = page_module.describe(kind("what was wrong"))
    assert (described["name"], described["message"]) == (kind.__name__, "what was wrong")


def test_a_special_value_error_is_a_value_error_and_an_internal_error_says_it_is_one() -> None:
    with pytest.raises(UnicodeEncodeError) as raised:
        "\ud800".encode()
    assert page_module.describe(raised.value)["name"] == "ValueError"
    assert (
        "should not have (ZeroDivisionError: by zero)"
        in (page_module.describe(ZeroDivisionError("by zero"))["message"])
    )


# --- the writing page in Chromium -------------------------------------------------------------


@pytest.mark.browser
def test_the_page_writes_is_stopped_half_way_and_writes_again(desk: Page) -> None:
    first = write(desk, "Once upon a time", 4)
    assert len(first) > 4
    assert desk.inner_text("#told") == "Once upon a time"
    assert desk.inner_text("#finish") == "Stopped at the length that you set."
    assert desk.inner_text("#figure-tokens") == "4"
    assert desk.inner_text("#figure-seed") == "5"
    assert float(desk.inner_text("#figure-speed")) > 0

    desk.fill("#max-new-tokens", "300")
    desk.click("#generate")
    expect(desk.locator("#written")).not_to_be_empty(timeout=WRITE_MS)
    desk.click("#stop")
    expect(desk.locator("#finish")).to_have_text("Stopped by you.", timeout=WRITE_MS)
    assert int(desk.inner_text("#figure-tokens")) < 300

    assert write(desk, "Once upon a time", 4) == first


@pytest.mark.browser
def test_the_keyboard_is_enough(desk: Page) -> None:
    desk.fill("#max-new-tokens", "300")
    desk.focus("#prompt")
    desk.keyboard.press("Control+Enter")
    expect(desk.locator("#written")).not_to_be_empty(timeout=WRITE_MS)
    desk.keyboard.press("Escape")
    expect(desk.locator("#finish")).to_have_text("Stopped by you.", timeout=WRITE_MS)


@pytest.mark.browser
def test_stopping_before_the_first_token_is_no_problem(desk: Page) -> None:
    desk.fill("#prompt", "The fox " * 60)  # the prompt itself takes a while
    desk.keyboard.press("Control+Enter")
    desk.keyboard.press("Escape")
    expect(desk.locator("#generate")).to_be_enabled(timeout=WRITE_MS)
    expect(desk.locator("#problem")).to_be_hidden()
    expect(desk.locator("#figure-first")).to_have_text("–")


@pytest.mark.browser
def test_the_seed_that_was_drawn_can_be_used_again(desk: Page) -> None:
    desk.fill("#seed", "")
    desk.fill("#max-new-tokens", "3")
    desk.click("#generate")
    expect(desk.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    text, seed = desk.inner_text("#written"), desk.inner_text("#figure-seed")
    desk.click("#keep-seed")
    assert desk.input_value("#seed") == seed
    assert write(desk, desk.input_value("#prompt"), 3, int(seed)) == text


@pytest.mark.browser
def test_the_panel_says_what_is_running_and_that_it_is_software(desk: Page) -> None:
    running = desk.inner_text("#running")
    assert re.search(r"Parameters\s+5,885,952\b", running)
    assert re.search(r"Context\s+384 tokens", running)
    assert re.search(r"GPU memory\s+\d+\.\d MB", running)
    for name in ("Adapter", "Precision", "Kernels", "Self-test"):
        assert re.search(rf"{name}\s+\w+", running), name
    assert "swiftshader" in desk.inner_text("#software").lower()
    assert desk.input_value("#temperature") == "0.8"  # generation_config.json's
    assert desk.input_value("#top-k") == "40"
    assert "lose their thread" in desk.inner_text("#model-limits")
    assert "5,885,952" in (desk.text_content("#model-card table") or "")


@pytest.mark.browser
def test_a_prompt_too_long_gives_a_choice(desk: Page) -> None:
    desk.fill("#prompt", "The cat sat on the mat. " * 100)
    desk.fill("#max-new-tokens", "3")
    desk.click("#generate")
    expect(desk.locator("#way-out")).to_be_visible(timeout=WRITE_MS)
    assert re.search(r"has \d{3} tokens.* holds 384", desk.inner_text("#problem-text"))
    desk.click("#way-out")
    expect(desk.locator("#stop")).to_be_enabled()
    assert not desk.is_visible("#problem")
    kept = desk.input_value("#prompt")
    assert kept.endswith("The cat sat on the mat. ") and 800 < len(kept) < 1600
    desk.keyboard.press("Escape")  # to read it all would take the software adapter long
    expect(desk.locator("#finish")).to_have_text("Stopped by you.", timeout=WRITE_MS)


@pytest.mark.browser
def test_a_field_that_is_not_valid_is_refused_and_the_next_try_works(desk: Page) -> None:
    desk.fill("#prompt", "Once")
    for field, value in (("#top-k", "0"), ("#max-new-tokens", "-1"), ("#seed", "4294967296")):
        before = desk.input_value(field)
        desk.fill(field, value)
        desk.click("#generate")
        assert desk.is_enabled("#generate")
        assert desk.evaluate("() => '#' + document.activeElement.id") == field
        desk.fill(field, before)
    assert write(desk, "Once", 1) != ""


@pytest.mark.browser
def test_every_field_and_button_has_a_name(desk: Page) -> None:
    fields = desk.locator("input, textarea, select")
    assert fields.count() == 23
    assert fields.evaluate_all("all => all.filter((one) => one.labels.length === 0).length") == 0
    buttons = desk.locator("button:visible")
    assert all(name.strip() for name in buttons.all_inner_texts())


# --- how a load goes, in words ------------------------------------------------------------------


@pytest.fixture(scope="module")
def asleep(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """The page without its program."""
    page = quick_browser.new_page()
    page.route("**/app.js", lambda route: route.abort())
    page.goto(server.url)
    yield page
    page.context.close()


@pytest.mark.browser
def test_amounts_are_written_as_a_reader_would(asleep: Page) -> None:
    sizes, durations = asleep.evaluate("""async () => {
      const { size, duration } = await import("./show.js");
      const bytes = [95504, 11778392, 548105171, 6231500000];
      return [bytes.map(size), [0.2, 47, 125, 8000].map(duration)];
    }""")
    assert sizes == ["96 kB", "11.8 MB", "548 MB", "6.2 GB"]
    assert durations == ["1 s", "47 s", "2 min", "2.2 h"]


@pytest.mark.browser
def test_a_download_says_how_far_it_is_how_fast_and_how_long_it_takes(asleep: Page) -> None:
    said = asleep.evaluate("""async () => {
      const { LoadProgress } = await import("./progress.js");
      const { Download } = await import("./gpt2web.js");
      let now = 0;
      performance.now = () => now;
      const text = (id) => document.getElementById(id).textContent;
      const said = () => ["loading-label", "loading-pace", "pause", "status"].map(text);
      const heard = [];
      const progress = new LoadProgress(new Download(), () => heard.push("cancelled"));
      const show = (done, notice = null) =>
        progress.show({ stage: "download", done, total: 78e6, stored: 31e6, notice });
      show(31e6);
      for (let second = 1; second <= 9; second++) {
        now = 1000 * second;
        show(31e6 + (second < 5 ? 1e6 : 1e6 + 2e6 * (second - 5))); // 2 MB/s in the last seconds
      }
      heard.push(said());
      document.getElementById("pause").click();
      heard.push(said());
      document.getElementById("pause").click();
      now += 100_000; // no part of the rate
      show(40e6);
      now += 1000;
      show(43e6, "No room.");
      heard.push(said(), text("loading-notice"));
      progress.show({ stage: "prepare", done: 0, total: 0 });
      heard.push(said(), document.getElementById("pause").hidden);
      document.getElementById("cancel-load").click();
      return heard;
    }""")
    running, paused, again, notice, prepare, hidden, cancelled = said
    assert running[:3] == [
        "Downloading: 40.0 MB of 78.0 MB",
        "1.6 MB/s, about 24 s left; 31.0 MB was here already",
        "Pause",
    ]
    assert running[3] == "Downloaded 50 %."
    assert paused[1:] == ["Paused", "Resume", "The download is paused."]
    assert again[1] == "3.0 MB/s, about 12 s left; 31.0 MB was here already"
    assert (notice, prepare[0], prepare[1], hidden) == ("No room.", "Preparing to write", "", True)
    assert cancelled == "cancelled"


# --- the model panel: what there is, what a load takes, what is kept ----------------------------


@pytest.fixture(scope="module")
def two_models(quick_browser: Browser, dist: Path, tmp_path_factory: Any) -> Iterator[Any]:
    """The page with the stories model loaded, and its server, which has another in 8 shards."""
    folder = tmp_path_factory.mktemp("two") / "page"
    model = small_models.random_model()
    title = "The <b>other</b>"
    small_models.add_to_page(dist, folder, model, "other", title, shard_bytes=12_000)
    with bad_server(folder) as server:
        context = quick_browser.new_context(service_workers="block")
        yield open_page(context, server.url), server
        context.close()


PART = "model-00003-of-00008.part"


def ready(page: Page, name: str) -> None:
    expect(page.locator("#generate")).to_be_enabled(timeout=LOAD_MS)
    expect(page.locator("#running")).to_contain_text(re.compile(rf"Model\s*{name}"))
    expect(page.locator("#loading")).to_be_hidden()


def load_model(page: Page, name: str) -> None:
    """Loads a model, if another is running."""
    page.select_option("#model", name)
    if page.is_visible("#load-model"):
        page.click("#load-model")
    ready(page, name)


@pytest.mark.browser
def test_what_a_load_takes_is_said_before_it_starts(two_models: Any) -> None:
    page, server = two_models
    facts, kept = page.locator("#model-facts"), page.locator("#model-kept")
    expect(facts).to_have_text(
        "5.9 million parameters, f16, 11.8 MB, context of 384 tokens, license MIT."
    )
    expect(kept).to_have_text("Kept on this machine.")
    expect(page.locator("#load-model")).to_be_hidden()
    page.select_option("#model", "other")
    assert page.locator("#model option:checked").inner_text() == "The <b>other</b>"
    expect(facts).to_have_text(re.compile("context of 300 tokens, license none"))
    expect(kept).to_have_text("Will download 92 kB.")
    expect(page.locator("#load-model")).to_be_visible()
    expect(page.locator("#delete-model")).to_be_hidden()
    page.wait_for_timeout(200)
    assert server.count(PART) == 0
    assert page.is_enabled("#generate")  # the one before goes on


@pytest.mark.browser
def test_a_download_is_paused_goes_on_and_is_cancelled_and_what_came_is_kept(
    two_models: Any,
) -> None:
    page, server = two_models
    label, pace = page.locator("#loading-label"), page.locator("#loading-pace")
    server.faults[PART] = [stall(after=5_000)]
    page.select_option("#model", "other")
    page.click("#load-model")
    expect(label).to_have_text(re.compile(r"Downloading: 8\d kB of 92 kB"), timeout=LOAD_MS)
    assert page.is_disabled("#generate")
    assert len(page.workers) == 1  # the model before has gone, with its worker
    page.click("#pause")
    expect(pace).to_have_text(re.compile("^Paused"))
    page.wait_for_timeout(500)
    assert server.count(PART) == 1
    page.click("#cancel-load")
    expect(page.locator("#problem-text")).to_have_text(
        "Loading was cancelled. What was downloaded so far is kept."
    )
    expect(page.locator("#model-kept")).to_have_text(
        re.compile(r"Will download \d+ kB: \d\d kB of 92 kB is on this machine already\.")
    )
    server.faults[PART] = [stall(after=5_000)]
    page.click("#way-out")
    expect(pace).to_have_text(re.compile(r"\d\d kB was here already"), timeout=LOAD_MS)
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Resume")
    page.click("#pause")
    ready(page, "other")
    ranges = [seen.range for seen in server.seen(PART)]
    assert ranges[0] in (None, "bytes=0-") and ranges[-1].startswith("bytes=")
    assert len(page.workers) == 1


@pytest.mark.browser
def test_a_kept_model_loads_without_the_network_and_can_be_deleted(two_models: Any) -> None:
    page, server = two_models
    kept = page.locator("#model-kept")
    load_model(page, "other")
    page.select_option("#model", "stories")
    expect(kept).to_have_text("Kept on this machine: nothing to download.")
    server.forget()
    page.click("#load-model")
    ready(page, "stories")
    assert server.count("model.safetensors") == 0
    page.click("#keep-model")
    expect(page.locator("#keep-answer")).to_have_text(re.compile("The browser (will|makes no)"))
    page.select_option("#model", "other")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click("#delete-model")
    expect(kept).to_have_text("Kept on this machine: nothing to download.")
    assert "Delete The <b>other</b> (92 kB)" in asked[0]
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#delete-model")
    expect(kept).to_have_text("Will download 92 kB.")
    expect(page.locator("#delete-model")).to_be_hidden()


@pytest.mark.browser
def test_a_load_that_fails_says_why_and_the_next_try_runs_also_without_room(
    two_models: Any,
) -> None:
    page, server = two_models
    server.faults[PART] = [wrong_bytes(at=7), wrong_bytes(at=7), stall(after=1_000)]
    page.select_option("#model", "other")
    page.click("#load-model")
    expect(page.locator("#problem-text")).to_contain_text(PART, timeout=LOAD_MS)
    assert "Traceback" not in page.inner_text("#problem")
    assert page.inner_text("#running-empty") == "Nothing: no model is loaded."
    quota = {"origin": server.origin, "quotaSize": 20_000}  # less than is kept already
    page.context.new_cdp_session(page).send("Storage.overrideQuotaForOrigin", quota)
    page.click("#way-out")
    expect(page.locator("#loading-notice")).to_contain_text("no room here", timeout=LOAD_MS)
    server.released.set()
    ready(page, "other")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#model-kept")).to_have_text(re.compile("is on this machine|Not kept"))


# --- where it can't run -------------------------------------------------------------------------


@pytest.mark.browser
def test_without_webgpu_it_says_what_to_do(browser: Browser, server: TestServer) -> None:
    flags = [flag for flag in CHROMIUM_FLAGS if "webgpu" not in flag]
    with launch(browser, [*flags, "--disable-gpu"]) as other:
        page = other.new_page()
        page.goto(server.url)
        expect(page.locator("#no-webgpu")).to_be_visible(timeout=LOAD_MS)
        said = page.inner_text("main")
        assert "Firefox" in said and "Safari" in said and "graphics acceleration" in said
        assert not re.search(r"Traceback|Error|\.js:|\.py", said)
        assert not page.is_visible("#problem") and not page.is_visible("#loading")
        assert page.is_disabled("#generate")
        assert "lose their thread" in page.inner_text("#model-limits")  # the rest still works


@pytest.mark.browser
def test_opened_as_a_file_it_says_in_one_sentence_what_to_do(page: Page, dist: Path) -> None:
    page.goto((dist / "index.html").as_uri())
    expect(page.locator("#not-started")).to_be_visible()
    assert (
        page.inner_text("#not-started").count(".")
        == page.inner_text("#not-started").count("http.server") + 1
    )
    assert "python3 -m http.server" in page.inner_text("#not-started")
    assert not page.is_visible("#generate")


@pytest.mark.browser
def test_the_sentence_for_files_is_not_seen_when_served(desk: Page) -> None:
    assert desk.locator("#not-started").count() == 0


# --- gpt2web.js from another page -----------------------------------------------------------------

HELPERS = """async (address) => {
  window.gpt2web = await import(address);
  window.stages = [];
  window.lm = await gpt2web.load("stories", { onProgress: (progress) => stages.push(progress) });
  window.collect = async (generation) => {
    const pieces = [];
    for await (const piece of generation) pieces.push(piece);
    return pieces;
  };
  window.problem = async (call) => {
    try { await call(); } catch (error) {
      const { name, code, message } = error;
      return { name, code, message, isTypeError: error instanceof TypeError };
    }
    return null;
  };
}"""


@pytest.fixture(scope="module")
def other_page(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """A bare page elsewhere on the same origin that has loaded a model with gpt2web.js."""
    page = quick_browser.new_page()
    open_blank(page, f"{server.origin}/quite/elsewhere.html")
    page.evaluate(HELPERS, server.url + "gpt2web.js")
    yield page
    page.context.close()


@pytest.mark.browser
def test_another_page_loads_it_and_hears_of_progress(other_page: Page) -> None:
    info, stages = other_page.evaluate("() => [lm.info, stages]")
    assert info["parameters"] == 5_885_952
    assert info["software"] is True
    assert {"adapter", "precision", "kernels", "selfTest", "gpuBytes", "context"} <= info.keys()
    named = [stage["stage"] for stage in stages]
    assert list(dict.fromkeys(named)) == ["runtime", "download", "check", "model", "prepare"]
    download = [stage for stage in stages if stage["stage"] == "download"]
    assert download[0] | {"done": 0} == download[0]
    assert download[-1]["done"] == download[-1]["total"] > 11_000_000
    assert (download[-1]["stored"], download[-1]["notice"]) == (0, None)
    model = [stage for stage in stages if stage["stage"] == "model"]
    assert model[-1]["done"] == model[-1]["total"] > 10_000_000
    done = [stage["done"] for stage in model]
    assert done == sorted(done) and len(done) > 1


@pytest.mark.browser
def test_pieces_have_what_was_asked_for_and_a_seed_repeats_them(other_page: Page) -> None:
    script = """async () => {
      const generation = lm.generate("Once upon a time",
        { maxNewTokens: 3, temperature: 0.9, topK: 30, seed: 7, logprobs: 2 });
      const pieces = await collect(generation);
      return { pieces, seed: generation.seed, timing: generation.timing };
    }"""
    first, second = other_page.evaluate(script), other_page.evaluate(script)
    assert first["pieces"] == second["pieces"]
    assert first["seed"] == 7
    assert first["timing"]["tokens"] == 3
    assert 0 < first["timing"]["firstToken"] <= first["timing"]["seconds"]
    pieces = first["pieces"]
    assert [piece["finishReason"] for piece in pieces][-1] == "length"
    assert all(piece["finishReason"] is None for piece in pieces[:-1])
    assert sum(len(piece["ids"]) for piece in pieces) == 3
    assert all(value <= 0 for piece in pieces for value in piece["logprobs"])
    assert all(len(top) == 2 for piece in pieces for top in piece["top"])


@pytest.mark.browser
def test_two_at_once_come_in_order_and_none_is_lost(other_page: Page) -> None:
    ids = """pieces => pieces.flatMap((piece) => piece.ids)"""
    script = f"""async () => {{
      const ids = {ids};
      const options = {{ maxNewTokens: 10, seed: 3 }};
      const alone = [ids(await collect(lm.generate("A dog", options))),
                     ids(await collect(lm.generate("A cat", options)))];
      const order = [];
      const both = await Promise.all(["A dog", "A cat"].map(async (prompt) => {{
        const pieces = [];
        for await (const piece of lm.generate(prompt, options)) {{
          pieces.push(piece);
          order.push(prompt);
        }}
        return ids(pieces);
      }}));
      return {{ alone, both, order }};
    }}"""
    result = other_page.evaluate(script)
    assert result["both"] == result["alone"]
    assert result["order"] == sorted(result["order"], reverse=True)


@pytest.mark.browser
def test_a_signal_and_a_break_cancel(other_page: Page) -> None:
    result = other_page.evaluate("""async () => {
      const stop = new AbortController();
      const pieces = [];
      const options = { maxNewTokens: 300, seed: 1, signal: stop.signal };
      for await (const piece of lm.generate("Once", options)) {
        pieces.push(piece);
        stop.abort();
      }
      const running = collect(lm.generate("Once", { maxNewTokens: 3 }));
      const waitingStop = new AbortController();
      const waiting = collect(lm.generate("Once", { signal: waitingStop.signal }));
      waitingStop.abort();
      const queued = [await running, await waiting];
      const before = await collect(lm.generate("Once", { signal: AbortSignal.abort() }));
      const whole = lm.generate("Once", { maxNewTokens: 4, seed: 1 });
      await collect(whole);
      const started = performance.now();
      for await (const piece of lm.generate("Once", { maxNewTokens: 300, seed: 1 })) break;
      await collect(lm.generate("Once", { maxNewTokens: 1 }));
      const tokens = (performance.now() - started) / 1000 / (whole.timing.seconds / 4);
      return { pieces, queued, before, tokens };
    }""")
    assert result["pieces"][-1]["finishReason"] == "cancelled"
    assert sum(len(piece["ids"]) for piece in result["pieces"]) < 100
    assert [pieces[-1]["finishReason"] for pieces in result["queued"]] == ["length", "cancelled"]
    assert [piece["finishReason"] for piece in result["before"]] == ["cancelled"]
    assert result["tokens"] < 100  # the time that so many tokens take; uncancelled it is over 300


@pytest.mark.browser
@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        ('lm.generate("a", { topk: 1 })', "TypeError", 'no option "topk"'),
        ("lm.generate(7)", "TypeError", "or an array of those, not number"),
        ("lm.generate([1, 'a'])", "TypeError", "not an array of other things"),
        ("lm.tokenize('a', { special: true })", "TypeError", "Its options are asPrompt, "),
        ('gpt2web.load("stories", { onprogress() {} })', "TypeError", "onprogress"),
        ('collect(lm.generate("a", { temperature: NaN }))', "ValueError", "temperature"),
        ('collect(lm.generate("a", { topK: 0 }))', "ValueError", "top_k"),
        ('collect(lm.generate("a", { topP: 0 }))', "ValueError", "top_p"),
        ('collect(lm.generate("a", { maxNewTokens: -1 }))', "ValueError", "max_new_tokens"),
        ('collect(lm.generate("a", { seed: 2 ** 32 }))', "ValueError", "seed"),
        (r'collect(lm.generate("a\ud800b"))', "ValueError", "surrogate"),
        ('collect(lm.generate("a b ".repeat(500)))', "ValueError", "384"),
    ],
)
def test_bad_input_is_one_clear_error_and_the_next_call_works(
    other_page: Page, call: str, name: str, words: str
) -> None:
    problem = other_page.evaluate(f"() => problem(() => {call})")
    assert problem["name"] == name
    assert words in problem["message"]
    assert "Traceback" not in problem["message"] and "\n" not in problem["message"]
    assert problem["isTypeError"] == (name == "TypeError")
    assert problem["code"] == ("prompt-too-long" if words == "384" else "option-invalid")
    assert other_page.evaluate('() => collect(lm.generate("a", { maxNewTokens: 1 }))')


@pytest.mark.browser
def test_an_empty_prompt_is_fine(other_page: Page) -> None:
    pieces = other_page.evaluate('() => collect(lm.generate("", { maxNewTokens: 1, seed: 2 }))')
    assert sum(len(piece["ids"]) for piece in pieces) == 1


@pytest.mark.browser
def test_tokens_and_text_go_both_ways(other_page: Page) -> None:
    text = "Once upon a time, «ça» 🦊 <|endoftext|>"
    ids = other_page.evaluate("text => lm.tokenize(text)", text)
    assert 4095 not in ids  # typed text is plain
    assert other_page.evaluate("ids => lm.detokenize(ids)", ids) == text


@pytest.mark.browser
def test_the_page_never_freezes_while_it_writes(other_page: Page) -> None:
    longest, ticks = other_page.evaluate("""async () => {
      let last = performance.now(), longest = 0, ticks = 0;
      const timer = setInterval(() => {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
        ticks += 1;
      }, 10);
      await collect(lm.generate("Once", { maxNewTokens: 4, seed: 1 }));
      clearInterval(timer);
      return [longest, ticks];
    }""")
    assert ticks > 10
    assert longest < 500  # ms, on two cores that also play the GPU


@pytest.mark.browser
def test_a_load_can_be_given_up_and_a_closed_model_says_so(other_page: Page) -> None:
    workers = len(other_page.workers)
    result = other_page.evaluate("""async () => {
      const stop = new AbortController();
      const options = { signal: stop.signal, onProgress: () => stop.abort() };
      const given = await problem(() => gpt2web.load("stories", options));
      const missing = await problem(() => gpt2web.load("no-such-model"));
      const running = problem(() => collect(lm.generate("Once", { maxNewTokens: 300 })));
      lm.close();
      return [given, missing, await running, await problem(() => collect(lm.generate("a")))];
    }""")
    given, missing, running, later = result
    assert given["name"] == "AbortError"
    assert (missing["name"], missing["code"]) == ("CheckpointError", "checkpoint-missing")
    assert "no-such-model" in missing["message"]
    assert running["name"] == later["name"] == "ClosedError"
    assert running["code"] == later["code"] == "closed"
    # Closing ends the worker, and loads that fail leave none behind; Playwright hears of it later.
    for _ in range(100):
        if len(other_page.workers) < workers:
            break
        other_page.wait_for_timeout(50)
    assert len(other_page.workers) == workers - 1
