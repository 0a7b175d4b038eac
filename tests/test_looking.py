"""Seeing the model think: the text's colours and alternatives, the views, what they cost, and the
pictures that are saved. What a model answers is read where gpt2web.js hears it from its worker."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import TestServer
from desk import VIEWS, WRITE_MS, open_views, write
from gpt2web import GPT2CausalLM
from in_node import in_node

LAYERS, HEADS = 6, 4  # of the stories model

# --- tokens as people read them, without a page -------------------------------------------------


def test_a_character_of_several_tokens_is_shown_whole_with_the_part_that_each_is() -> None:
    tokens = in_node(
        """
        const { labelOf, tokensOf } = await web("tokens.js");
        const bytes = [[32, 97], [32, 0xf0, 0x9f], [0xa6], [0x8a, 33], [0xc3], [0xa9], [0xf0]];
        return tokensOf([5, 6, 7, 8, 9, 10, 11], bytes).map((token) => [token.id, labelOf(token)]);
        """
    )
    fox = ["·🦊! 1/3", "·🦊! 2/3", "·🦊! 3/3"]
    labels = ["·a", *fox, "é 1/2", "é 2/2", "\ufffd"]  # half a character at the end is one
    assert tokens == [[5 + at, label] for at, label in enumerate(labels)]


def test_half_characters_are_told_from_whole_ones_at_every_cut() -> None:
    cuts = in_node(
        """
        const { endsWithin, isWhole } = await web("tokens.js");
        const bytes = [...new TextEncoder().encode("aé—🦊b")];
        const heads = bytes.map((_, at) => bytes.slice(0, at + 1));
        return heads.map((head) => [endsWithin(head), isWhole(head)]);
        """
    )
    encoded = "aé—🦊b".encode()
    ends = {len("aé—🦊b"[:count].encode()) for count in range(1, 6)}
    assert cuts == [[at not in ends, at in ends] for at in range(1, len(encoded) + 1)]


@pytest.mark.parametrize(
    ("probability", "step", "words"),
    [(1, 0, "100.0 %"), (0.5, 0, "50.0 %"), (0.4999, 1, "50.0 %"), (0.05, 2, "5.0 %"),
     (0.0499, 3, "5.0 %"), (0.00042, 4, "0.042 %"), (1e-9, 4, "< 0.001 %"), (0, 4, "0 %")],
)  # fmt: skip
def test_probabilities_have_a_step_and_words(probability: float, step: int, words: str) -> None:
    program = "const t = await web('tokens.js'); return [t.stepOf(p), t.percent(p)];"
    assert in_node(program, p=probability) == [step, words]


def test_a_treemap_fills_its_box_with_areas_as_given_and_nothing_overlaps() -> None:
    amounts = [400, 200, 100, 50, 50, 25, 3, 1, 1]
    boxes = in_node(
        """
        const { treemap } = await web("treemap.js");
        return treemap(amounts, { x: 3, y: 5, width: 300, height: 200 });
        """,
        amounts=amounts,
    )
    for amount, box in zip(amounts, boxes, strict=True):
        assert box["width"] * box["height"] == pytest.approx(amount / sum(amounts) * 300 * 200)
        assert 3 - 1e-9 <= box["x"] <= box["x"] + box["width"] <= 303 + 1e-9
        assert 5 - 1e-9 <= box["y"] <= box["y"] + box["height"] <= 205 + 1e-9
    for at, one in enumerate(boxes):
        for other in boxes[:at]:
            over = [
                min(one[s] + one[z], other[s] + other[z]) - max(one[s], other[s])
                for s, z in (("x", "width"), ("y", "height"))
            ]
            assert min(over) < 1e-9


# --- the page -----------------------------------------------------------------------------------


@pytest.fixture
def written(desk: Page) -> Page:
    """The page with a text of eight tokens in colours, and all views closed."""
    desk.check("#colour")
    forget(desk)
    write(desk, "The little fox was 🦊", 8)
    return desk


def forget(page: Page) -> None:
    page.evaluate("() => { window.since = window.told.length; }")


def told(page: Page, *types: str) -> list[dict[str, Any]]:
    """What workers were told since `forget`, of these types or of all."""
    messages: list[dict[str, Any]] = page.evaluate("() => window.told.slice(window.since)")
    return [message for message in messages if not types or message["type"] in types]


def answer(page: Page, kind: str) -> Any:
    """What the last message of a type was answered."""
    settled(page)
    value = """(kind) => {
      const { id } = window.told.findLast(({ type }) => type === kind);
      const { value } = window.heard.find((one) => one.id === id && one.type === "result");
      return value.attention ? { ...value, attention: [...value.attention] } : value;
    }"""
    return page.evaluate(value, kind)


def settled(page: Page) -> None:
    """Waits until all is answered that is asked, also what follows from an answer."""
    page.wait_for_function("""() => {
      const asked = window.told.filter(({ type }) => ["inspect", "nextTokens"].includes(type));
      const answers = window.heard.filter(({ type }) => ["result", "error"].includes(type));
      const answered = new Set(answers.map(({ id }) => id));
      return asked.every(({ id }) => answered.has(id)) && performance.now() - window.last > 300;
    }""")


def pieces(page: Page) -> list[dict[str, Any]]:
    """The pieces of the last generation."""
    number = told(page, "generate")[-1]["id"]
    heard = page.evaluate("() => window.heard.filter(({ type }) => type === 'pieces')")
    return [piece for batch in heard if batch["id"] == number for piece in batch["pieces"]]


def percent(share: float) -> str:
    words: str = in_node("return (await web('tokens.js')).percent(share);", share=share)
    return words


def table(page: Page, rows: str) -> list[list[str]]:
    read = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    cells: list[list[str]] = page.locator(f"{rows} tr").evaluate_all(read)
    return cells


def looked(page: Page, picture: str) -> None:
    expect(page.locator(f"{picture} svg")).to_be_visible(timeout=WRITE_MS)
    expect(page.locator("#look-state")).to_contain_text("of ", timeout=WRITE_MS)


# --- what is closed costs nothing ---------------------------------------------------------------


@pytest.mark.browser
def test_what_is_closed_asks_the_model_and_the_gpu_for_nothing(written: Page) -> None:
    written.uncheck("#colour")
    forget(written)
    plain = cost_of_writing(written)
    types = {message["type"] for message in told(written)}
    assert types == {"generate", "tokenize"}  # the second for what the context holds
    assert told(written, "generate")[-1]["options"]["logprobs"] == 0

    open_views(written, *VIEWS)
    looked(written, "#lens-picture")
    looked(written, "#next-token-picture")
    expect(written.locator("#weights-picture svg")).to_be_visible(timeout=WRITE_MS)
    assert len(told(written, "inspect")) >= 1  # it would have been seen
    open_views(written)
    expect(written.locator("#look")).to_be_hidden()
    assert len(told(written, "closeInspection")) == len(told(written, "inspect"))

    forget(written)
    assert cost_of_writing(written) == plain
    assert {message["type"] for message in told(written)} == {"generate", "tokenize"}
    assert plain["dispatchWorkgroups"] > 0


def cost_of_writing(page: Page) -> dict[str, int]:
    """What eight tokens cost the GPU, with the same text in the cache before."""
    write(page, "A", 1)
    before = page.evaluate("() => gpuCalls()")
    write(page, "The little fox", 8)
    after = page.evaluate("() => gpuCalls()")
    names = ("dispatchWorkgroups", "createBindGroup", "createBuffer", "createComputePipelineAsync")
    return {name: after[name] - before[name] for name in names}


# --- the colours of the text --------------------------------------------------------------------


@pytest.mark.browser
def test_each_token_is_coloured_by_its_probability_which_it_says(written: Page) -> None:
    found = pieces(written)
    assert sum(len(piece["ids"]) for piece in found) == 8
    spans = written.locator("#written [role=button]")
    shown = spans.evaluate_all("all => all.map((one) => [one.title, one.className])")
    likely = [math.exp(min(piece["logprobs"])) for piece in found if piece["text"]]
    assert [title for title, _ in shown] == [percent(share) for share in likely]
    for share, (_, name) in zip(likely, shown, strict=True):
        step = sum(share < bound for bound in (0.5, 0.2, 0.05, 0.01))
        assert f"step-{step}" in name
    assert len({name for _, name in shown}) > 1
    written.uncheck("#colour")
    expect(written.locator("[class*=step-]:visible, #story [role=button]")).to_have_count(0)


@pytest.mark.browser
def test_an_alternative_is_chosen_by_keys_alone_and_the_text_goes_on_from_the_kept_prefix(
    written: Page,
) -> None:
    first = [piece for piece in pieces(written) if piece["text"]]
    prompt = told(written, "generate")[-1]["prompt"]
    ids = written.evaluate("() => window.heard.filter(({ type }) => type === 'result')")
    tokens = written.locator("#written [role=button]")
    tokens.last.focus()
    for _ in range(3):
        written.keyboard.press("ArrowLeft")
    place = tokens.count() - 4
    expect(tokens.nth(place)).to_be_focused()
    written.keyboard.press("Enter")
    choices = written.locator("#token-parts button")
    expect(choices).to_have_count(10)
    assert choices.locator("span:last-child").all_inner_texts() == [
        percent(math.exp(logprob)) for _, logprob in first[place]["top"][0]
    ]
    expect(written.locator("#token")).to_contain_text(
        percent(math.exp(first[place]["logprobs"][0]))
    )
    expect(choices.first).to_be_focused()
    written.keyboard.press("Escape")
    expect(written.locator("#token")).to_be_hidden()
    expect(tokens.nth(place)).to_be_focused()
    written.keyboard.press(" ")
    expect(choices.first).to_be_focused()
    written.keyboard.press("ArrowDown")
    written.keyboard.press("ArrowDown")
    other, _ = first[place]["top"][0][2]
    before = written.evaluate("() => gpuCalls()")
    written.keyboard.press("Enter")
    expect(written.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    after = written.evaluate("() => gpuCalls()")

    asked = told(written, "generate")[-1]
    kept = [id_ for piece in first[:place] for id_ in piece["ids"]]
    assert asked["prompt"][-len(kept) - 1 :] == [*kept, other]
    assert written.inner_text("#told") == prompt
    starts = "".join(piece["text"] for piece in first[:place])
    assert written.inner_text("#written").startswith(starts)
    assert tokens.nth(place).inner_text() != first[place]["text"]
    assert tokens.nth(place).get_attribute("title") == percent(
        math.exp(first[place]["top"][0][2][1])
    )
    # What was in the cache is not read again; another text of that length is.
    spent = after["dispatchWorkgroups"] - before["dispatchWorkgroups"]
    before = written.evaluate("() => gpuCalls()")
    write(written, "Now this is another one", 8)
    after = written.evaluate("() => gpuCalls()")
    assert spent < after["dispatchWorkgroups"] - before["dispatchWorkgroups"]
    assert ids != []


@pytest.mark.browser
def test_a_token_without_noted_alternatives_has_the_model_asked_for_them(written: Page) -> None:
    noted = [piece for piece in pieces(written) if piece["text"]]
    written.uncheck("#colour")
    write(written, "The little fox was 🦊", 8)  # the same seed: the same text
    written.check("#colour")
    token = written.locator("#written [role=button]").nth(2)
    assert token.inner_text() == noted[2]["text"]
    token.click()
    choices = written.locator("#token-parts button span:last-child")
    expect(choices).to_have_count(10, timeout=WRITE_MS)
    assert choices.all_inner_texts() == [
        percent(math.exp(logprob)) for _, logprob in noted[2]["top"][0]
    ]
    assert len(told(written, "closeInspection")) == len(told(written, "inspect")) == 1
    written.keyboard.press("Escape")
    expect(written.locator("#editing")).to_be_hidden()  # the click did not edit


@pytest.mark.browser
def test_what_was_written_without_colours_gets_them_and_the_readers_words_too(
    written: Page,
) -> None:
    noted = [piece for piece in pieces(written) if piece["text"]]
    written.uncheck("#colour")
    forget(written)
    write(written, "The little fox was 🦊", 8)  # the same seed: the same text
    assert told(written, "score") == []
    written.check("#colour")
    own = written.locator("#told [role=button]")
    words = ["The", " little", " fox", " was", " ", "🦊"]
    expect(own).to_have_text(words, timeout=WRITE_MS)
    assert written.inner_text("#told") == "The little fox was 🦊"
    tokens = written.locator("#written [role=button]")
    shown = [shares(title) for title in tokens.evaluate_all("all => all.map((one) => one.title)")]
    likely = [100 * math.exp(min(piece["logprobs"])) for piece in noted]
    assert shown == pytest.approx(likely, rel=0.06, abs=0.06)  # of two digits

    lm = GPT2CausalLM.from_preset("stories", adapter="llvmpipe")
    scored = lm.log_probabilities("The little fox was 🦊")
    groups = [[pair] for pair in scored[:5]] + [scored[5:]]
    lm.close()
    titles = own.evaluate_all("all => all.map((one) => one.title)")
    likely = [100 * math.exp(min(logprob for _, logprob in group)) for group in groups]
    assert [shares(title) for title in titles] == pytest.approx(likely, rel=0.06, abs=0.06)
    assert len(told(written, "score")) == 1

    own.nth(1).click()
    choices = written.locator("#token-parts button")
    expect(choices).to_have_count(10)
    assert len(told(written, "inspect")) == 0  # they came with the score
    other = choices.nth(1).locator("span").first.inner_text().replace("·", " ")
    choices.nth(1).click()
    expect(written.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    assert written.inner_text("#story").startswith(f"The{other}")
    written.uncheck("#colour")
    expect(written.locator("#story span span [role=button], #story [role=button]")).to_have_count(0)
    assert written.inner_text("#story").startswith(f"The{other}")


def shares(title: str) -> float:
    """ "12.3 %" -> 12.3"""
    return float(title.removeprefix("< ").removesuffix(" %"))


FAKE_MODEL = """
    const { scoreOf } = await web("scored.js");
    const bytesOf = (id) => new TextEncoder().encode(words[id]);
    const lm = {
      info: { model: "fake" },
      tokenize: async (text, { asPrompt } = {}) => {
        const ids = text.match(/ ?\\S+|\\s/g)?.map((word) => words.indexOf(word)) ?? [];
        return asPrompt && start ? [0, ...ids] : ids;
      },
      tokenBytes: async (ids) => ids.map(bytesOf),
      score: async (ids, { top }) =>
        ids.slice(1).map((id, at) => ({ id, logprob: -id - (at + 1) / 100, top: [[top, 0]] })),
    };
    const found = await scoreOf(lm, pieces, { top: 3, skip: ({ text }) => text === skipped });
    return [...found].map(([piece, parts]) => [pieces.indexOf(piece), parts]);
"""


@pytest.mark.parametrize("start", [True, False])
def test_parts_that_nobody_asked_about_are_scored_where_they_stand(start: bool) -> None:
    words = ["<|endoftext|>", "The", " fox", " ran", " home", "The fox", " in"]

    def piece(text: str, *ids: int, **more: Any) -> dict[str, Any]:
        own = {"ids": list(ids) or None, "model": "fake" if ids else None}
        return {"text": text, "logprobs": None, "top": None, **own, **more}

    def scored(text: str, begins: int, at: int, id_: int) -> dict[str, Any]:
        place = at + int(start)  # of its id, the start counted
        known = {"logprobs": [-id_ - place / 100], "top": [[[3, 0]]]} if place else {}
        return {"text": text, "at": begins, "ids": [id_], "model": "fake", "logprobs": None,
                "top": None, **known}  # fmt: skip

    def find(*pieces: dict[str, Any], skipped: str = "nothing") -> dict[int, Any]:
        values = {"words": words, "pieces": list(pieces), "start": start, "skipped": skipped}
        return dict(in_node(FAKE_MODEL, **values))

    # typed, where a token goes beyond the first piece; then the model's, of which one was noted
    found = find(
        piece("The fo"), piece("x"), piece(" ran", 3), piece(" home", 4, logprobs=[-1]),
        piece(" in", 6),
    )  # fmt: skip
    assert found[0] == [scored("The", 0, 0, 1), scored(" fo", 3, 1, 2)]
    assert found[1] == [scored("x", 3, 1, 2)]
    assert [{**found[at][0], "ids": None} for at in (2, 4)] == [
        {**scored(text, begins, at, id_), "ids": None}
        for text, begins, at, id_ in ((" ran", 7, 2, 3), (" in", 16, 4, 6))
    ]
    assert found.keys() == {0, 1, 2, 4}
    # another model's tokens are read anew; what is known is not asked again
    strange = piece("The", 77, model="another", logprobs=[-9])
    assert find(strange, piece(" fox")).keys() == {1}
    assert find(piece("The"), piece(" fox"), skipped=" fox") == {0: [scored("The", 0, 0, 1)]}
    assert find(piece("The"), skipped="The") == find(strange) == find() == {}


@pytest.mark.browser
def test_half_a_character_is_chosen_only_where_it_makes_a_whole_one(
    quick_browser: Browser, server: TestServer
) -> None:
    page = quick_browser.new_page()
    page.route("**/app.js", lambda route: route.abort())
    page.goto(server.url)
    page.evaluate("""async () => {
      document.getElementById("not-started").remove(); // it covers the page after a while
      const { Story } = await import("./story.js");
      const { StoryView } = await import("./story_view.js");
      const { Probabilities } = await import("./probabilities.js");
      const bytes = { 1: [0xf0, 0x9f], 2: [0xa6, 0x8a], 3: [0x90, 0xbb], 4: [32, 97], 5: [0xa6] };
      const info = { model: "one" };
      const lm = { info, tokenBytes: async (ids) => ids.map((id) => Uint8Array.from(bytes[id])) };
      const story = new Story();
      const view = new StoryView(story, { changed() {}, goOn() {} });
      const choose = (pieces) => { window.chosen = pieces; };
      new Probabilities(story, view, { lm, busy: false }, choose);
      document.getElementById("colour").click();
      const top = [[[1, -0.5], [4, -1]], [[2, -0.25], [3, -2], [5, -3], [4, -4]]];
      const logprobs = [-0.5, -0.25];
      const by = { by: "model", model: "one", turn: null };
      story.begin([{ text: "🦊", ids: [1, 2], logprobs, top, ...by }]);
    }""")
    token = page.locator("#story [role=button]")
    assert token.get_attribute("title") == percent(math.exp(-0.5))
    token.click()
    shown = page.locator("#token-parts button").evaluate_all(
        "all => all.map((one) => [one.firstChild.textContent, one.disabled])"
    )
    assert shown == [
        ["\ufffd", True], ["·a", False],
        ["🦊", False], ["🐻", False], ["\ufffd", True], ["\ufffd a", True],
    ]  # fmt: skip
    expect(page.locator("#token-parts h4")).to_have_text(
        ["Token 1 of 2 of this character", "Token 2 of 2 of this character"]
    )
    page.locator("#token-parts button").nth(3).click()
    (piece,) = page.evaluate("() => window.chosen")
    assert (piece["text"], piece["ids"], piece["logprobs"]) == ("🐻", [1, 3], [-0.5, -2])
    page.context.close()


# --- the views ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_attention_s_numbers_are_the_model_s_for_every_layer_head_and_token(written: Page) -> None:
    open_views(written, "attention")
    looked(written, "#attention-picture")
    found = answer(written, "inspect")
    layers, heads, length = found["shape"]
    assert [layers, heads, length] == [LAYERS, HEADS, found["position"] + 1]
    rows = [
        found["attention"][at : at + length] for at in range(0, layers * heads * length, length)
    ]
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in rows)
    assert len(told(written, "inspect")) == 1 and found["lens"] == []  # nothing that nobody sees

    def shown(layer: int, head: int | None) -> None:
        written.select_option("#attention-layer", str(layer))
        written.select_option("#attention-head", "mean" if head is None else str(head))
        mine = rows[(layer - 1) * heads : layer * heads]
        if head is not None:
            mine = [mine[head - 1]]
        means = [sum(column) / len(mine) for column in zip(*mine, strict=True)]
        order = sorted(range(length), key=lambda at: (-means[at], at))[:10]
        listed = table(written, "#attention-rows")
        assert [int(place) - 1 for _, place, _ in listed] == order
        assert [share for _, _, share in listed] == [percent(means[at]) for at in order]
        expect(written.locator("#attention-picture rect.shade")).to_have_count(length)

    shown(1, None)
    shown(LAYERS, 2)
    labels = written.locator("#look-tokens > *").all_inner_texts()
    assert "🦊 1/" in "".join(labels) and labels[-1] == labels[-1].strip()
    written.locator("#look-tokens [aria-selected=true]").focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "Enter"):
        written.keyboard.press(key)
    expect(written.locator("#look-state")).to_contain_text("Token 3 of", timeout=WRITE_MS)
    assert answer(written, "inspect")["shape"][2] == 3
    expect(written.locator("#attention-picture rect.shade")).to_have_count(3)
    assert written.input_value("#attention-head") == "2"
    written.locator("#attention-picture rect.shade").nth(1).click()
    expect(written.locator("#look-state")).to_contain_text("Token 2 of", timeout=WRITE_MS)


@pytest.mark.browser
def test_the_next_token_s_bars_follow_the_settings_and_add_up(written: Page) -> None:
    open_views(written, "next-token")
    for field, value in (("#temperature", "1"), ("#top-k", "")):
        written.fill(field, value)
    looked(written, "#next-token-picture")
    expect(written.locator("#next-token-says")).to_contain_text("any token can be drawn")
    found = answer(written, "nextTokens")["candidates"]
    rows = table(written, "#next-token-rows")
    assert [row[1] for row in rows] == [f"{one['logit']:.2f}" for one in found]
    assert [row[2] for row in rows] == [percent(math.exp(one["logprob"])) for one in found]
    assert [row[2] for row in rows] == [row[3] for row in rows] == [row[4] for row in rows]

    written.fill("#top-k", "5")
    written.fill("#top-p", "0.9")
    written.fill("#temperature", "0.7")
    cut = written.locator("#next-token-rows s")
    expect(written.locator("#next-token-says")).to_contain_text("Top-p leaves", timeout=WRITE_MS)
    expect(written.locator("#next-token-rows tr").nth(5)).to_contain_text("Top-k")
    found = answer(written, "nextTokens")["candidates"]
    kept = [one for one in found if one["kept"]]
    assert sum(one["afterCuts"] for one in kept) == pytest.approx(1, abs=1e-6)
    assert [row[4] for row in table(written, "#next-token-rows")][: len(kept)] == [
        percent(one["afterCuts"]) for one in kept
    ]
    assert cut.count() == len(found) - len(kept) >= 15
    expect(written.locator("#next-token-picture .strike")).to_have_count(cut.count())
    bars = written.locator("#next-token-picture rect.bar")
    assert bars.count() == 4 * len(found) - cut.count()
    says = re.findall(r"\d+", written.inner_text("#next-token-says"))
    assert [int(number) for number in says] == [5, len(kept)]

    written.fill("#temperature", "0")
    expect(written.locator("#next-token-says")).to_contain_text("nothing is drawn")
    written.select_option("#preset", "model")
    expect(written.locator("#next-token-says")).to_contain_text("40 tokens")


@pytest.mark.browser
def test_the_lens_ends_with_what_the_model_says(written: Page) -> None:
    written.select_option("#preset", "model")
    open_views(written, "lens", "next-token")
    looked(written, "#lens-picture")
    looked(written, "#next-token-picture")
    rows = table(written, "#lens-rows")
    assert [row[0] for row in rows] == ["Embedding", *(f"Layer {n + 1}" for n in range(LAYERS))]
    says = [f"{row[0]} {row[2]}" for row in table(written, "#next-token-rows")]
    assert rows[-1][1:] == says[: len(rows[-1]) - 1]
    assert rows[0][1:] != rows[-1][1:]
    shown = written.locator("#lens-picture .shade").count()
    assert shown % (LAYERS + 1) == 0 and shown > 0


@pytest.mark.browser
def test_the_map_has_every_tensor_and_all_of_their_bytes(written: Page) -> None:
    open_views(written, "weights-map")
    expect(written.locator("#weights-picture svg")).to_be_visible()
    tensors = answer(written, "parameters")
    assert sum(tensor["parameters"] for tensor in tensors) == 5_885_952
    boxes = written.locator("#weights-picture rect.tensor")
    assert boxes.count() == len(tensors) == len(table(written, "#weights-rows"))
    for row, tensor in zip(table(written, "#weights-rows"), tensors, strict=True):
        assert row == [
            tensor["name"], " × ".join(map(str, tensor["shape"])), f"{tensor['parameters']:,}",
            tensor["precision"], f"{tensor['gpuBytes']:,}",
        ]  # fmt: skip
    shares = re.findall(r"([\d.]+) %", written.inner_text("#weights-kinds"))
    assert len(shares) == 4 and sum(map(float, shares)) == pytest.approx(100, abs=0.2)
    expect(written.locator("#look")).to_be_hidden()  # the map is of the model, not of a text
    assert told(written, "inspect") == []


@pytest.mark.browser
def test_the_views_wait_while_the_model_writes_and_follow_the_text(written: Page) -> None:
    open_views(written, "attention")
    looked(written, "#attention-picture")
    asked = len(told(written, "inspect"))
    tokens = written.locator("#look-tokens > *")
    before = tokens.count()
    written.click("#go-on")
    expect(written.locator("#story-foot")).to_be_visible(timeout=WRITE_MS)
    words = written.inner_text("#look-state")
    looked(written, "#attention-picture")
    expect(tokens.last).to_have_attribute("aria-selected", "true")
    expect(written.locator("#look-state")).to_contain_text(f"of {tokens.count()}", timeout=WRITE_MS)
    assert len(told(written, "inspect")) == asked + 1, words
    written.click("#undo")
    expect(tokens).to_have_count(before, timeout=WRITE_MS)
    written.click("#undo")
    expect(written.locator("#look-state")).to_contain_text("of ", timeout=WRITE_MS)


# --- pictures as files --------------------------------------------------------------------------


def saved(page: Page, picture: str, kind: str) -> bytes:
    with page.expect_download() as waiting:
        page.locator(f"{picture} button", has_text=kind).click()
    return Path(waiting.value.path()).read_bytes()


@pytest.mark.browser
def test_pictures_are_saved_as_svg_that_stands_alone_and_as_png(written: Page) -> None:
    open_views(written, *VIEWS)
    for picture in ("#attention-picture", "#next-token-picture", "#lens-picture"):
        looked(written, picture)
    expect(written.locator("#weights-picture svg")).to_be_visible()
    alone = written.context.new_page()  # a page without our styles
    for picture in (
        "#attention-picture",
        "#next-token-picture",
        "#lens-picture",
        "#weights-picture",
    ):
        drawn = written.locator(f"{picture} svg")
        text = saved(written, picture, "SVG").decode()
        svg = ElementTree.fromstring(text)
        assert not re.search(r"class=|\sstyle=|href|url\(|var\(", text)
        words = [one.text for one in svg.iter("{http://www.w3.org/2000/svg}text")]
        assert words == drawn.locator("text").all_text_contents() != []
        title = svg.find("{http://www.w3.org/2000/svg}title")
        assert title is not None and title.text == drawn.get_attribute("aria-label")
        alone.set_content(text)
        colours = (
            "all => all.map((one) => [getComputedStyle(one).fill, getComputedStyle(one).stroke])"
        )
        inside = alone.locator("svg > :is(rect, path, text)").evaluate_all(colours)
        assert inside[1:] == drawn.locator(":is(rect, path, text)").evaluate_all(colours)

        png = saved(written, picture, "PNG")
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        size = struct.unpack(">II", png[16:24])
        assert size == tuple(math.ceil(2 * float(svg.attrib[side])) for side in ("width", "height"))
        # It looks as the SVG does: both painted small, the mean difference of their pixels.
        difference = alone.evaluate(DIFFERENCE, [text, list(png)])
        assert difference["between"] < 6 < difference["toBlank"], (picture, difference)
    alone.close()


DIFFERENCE = """async ([svg, png]) => {
  const pixels = async (contents, type) => {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([contents], { type }));
    await image.decode();
    const brush = new OffscreenCanvas(200, 200).getContext("2d");
    brush.drawImage(image, 0, 0, 200, 200);
    return brush.getImageData(0, 0, 200, 200).data;
  };
  const one = await pixels(svg, "image/svg+xml");
  const other = await pixels(Uint8Array.from(png), "image/png");
  const mean = (of) => one.reduce((sum, _, at) => sum + Math.abs(of(at)), 0) / one.length;
  const toBlank = mean((at) => one[at] - one[at % 4]);
  return { between: mean((at) => one[at] - other[at]), toBlank };
}"""
