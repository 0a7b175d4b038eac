"""What a notebook is given to show: escaped, complete in itself, with the page's colours and the
numbers that it was given."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from browser import ROOT
from gpt2web import notebook
from gpt2web.limits import Parameter, Parameters
from gpt2web.next_tokens import Candidate, NextTokens
from gpt2web.notebook import Other, Part, Written
from in_node import in_node

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Read(HTMLParser):
    """Elements as (name, attributes, text in them), and a check that each is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in VOID
        self.open.append((tag, dict(attrs), []))
        self.found.append(self.open[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def texts(self, name: str, kind: str | None = None) -> list[str]:
        """The texts of elements, in order; kind: with this class."""
        return [
            "".join(texts)
            for tag, attributes, texts in self.found
            if tag == name and (kind is None or kind in (attributes.get("class") or "").split())
        ]


def part(text: str, probability: float, *others: tuple[str, float, bool]) -> Part:
    found = [Other(name, math.log(share), taken) for name, share, taken in others]
    return Part(text, [math.log(probability)], [found])


HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)>&amp;'


def every_kind() -> str:
    """One of everything that is shown, with a hostile text wherever one can be."""
    candidates = [Candidate(1, HOSTILE, 1.5, -0.5, 0.6, 1.0, True)]
    return "".join(
        [
            notebook.text_html([Written(HOSTILE, [part(HOSTILE, 0.3, (HOSTILE, 0.3, True))], "x")]),
            notebook.heat_html(HOSTILE, [HOSTILE], [[1.0]]),
            notebook.table_html(HOSTILE, [HOSTILE], [[HOSTILE]]),
            NextTokens(candidates, 7)._repr_html_(),
            Parameters([Parameter(HOSTILE, (2, 3), 6, "f32", 32)])._repr_html_(),
        ]
    )


def test_a_token_that_is_markup_comes_out_as_text() -> None:
    html = every_kind()
    names = {tag for tag, _, _ in Read(html).found}
    assert names.isdisjoint({"script", "img"}) and names >= {"div", "span", "table", "svg", "rect"}
    assert Read(html).texts("th").count(HOSTILE) == 4
    assert Read(notebook.text_html([Written(HOSTILE, [], "")])).texts("b") == [HOSTILE]
    # the reader of this test sees a script where one is
    script = HOSTILE[: HOSTILE.index("<img")]
    assert {tag for tag, _, _ in Read(f"<div>{script}</div>").found} == {"div", "script"}


def test_it_needs_no_script_and_no_network() -> None:
    html = every_kind().replace(notebook.escape(HOSTILE), "")
    assert not re.search(r"https?:|//|url\(|@import|\bsrc=|\bhref=|\bon\w+=|javascript:", html)
    assert re.search(r"\bonerror=", every_kind())  # escaped, which the line above would have found


def test_a_text_has_the_colours_and_words_of_the_page() -> None:
    style = (ROOT / "web/style.css").read_text("utf-8")
    colours = re.findall(r"--step-\d: (#\w+);", style)
    assert [*notebook.LIGHT, *notebook.DARK] == colours
    lines = re.findall(r"^\.step-\d .*underline (\w+ [\d.]+px) ", style, re.M)
    assert list(notebook.LINES[1:]) == lines
    page = (ROOT / "web/index.html").read_text("utf-8")
    assert re.findall(r'<span class="step-\d">(.*?)</span>', page) == list(notebook.LEGEND)


def test_numbers_and_white_space_are_written_as_in_the_page() -> None:
    shares = [1, 0.5, 0.49999, 0.2, 0.05, 0.0499, 0.01, 0.00999, 0.00104, 0.001, 4.2e-4, 1e-5]
    shares += [9.9e-6, 1e-9, 0]
    texts = [" fox", "a b ", "\n\n", "", "\ta\r\n", "  x  y  "]
    page = in_node(
        """const { percent, stepOf, visible } = await web("tokens.js");
        return [shares.map(percent), shares.map(stepOf), texts.map(visible)];""",
        shares=shares,
        texts=texts,
    )
    assert [notebook.percent(share) for share in shares] == page[0]
    assert [notebook.step_of(share) for share in shares] == page[1]
    assert [notebook.visible(text) for text in texts] == page[2]


def test_parts_are_told_from_the_prompt_and_from_each_other() -> None:
    parts = [
        part(" a", 0.6, (" a", 0.6, True), (" b", 0.25, False)),
        part("\n", 0.009, ("x", 0.5, False)),
        Part("🦊", [math.log(0.3), math.log(0.04)], [[Other("\ufffd", -1.0, True)]] * 2),
    ]
    html = notebook.text_html([Written("An", parts, "three"), Written("שלום", [], "none")])
    read = Read(html)
    spans = [
        (attributes["class"], "".join(texts))
        for tag, attributes, texts in read.found
        if tag == "span" and "tabindex" in attributes
    ]
    assert [kind for kind, _ in spans] == ["s0", "s4 break", "s3"]  # of two, the less likely's
    cards = read.texts("span", "card")
    assert cards[0] == "·a: 60.0 %. Likeliest: ·a 60.0 %, ·b 25.0 %."
    assert cards[1] == "↵: 0.9 %. Likeliest: x 50.0 %."
    assert cards[2].startswith("🦊 1 of 2: 30.0 %. ") and " 🦊 2 of 2: 4.0 %. " in cards[2]
    assert read.texts("u") == ["·a 60.0 %", "�" + " 36.8 %", "�" + " 36.8 %"]
    hidden = [attributes for _, attributes, _ in read.found if attributes.get("class") == "card"]
    assert all("hidden" in attributes for attributes in hidden)
    # the text itself, as it would be copied: what is hidden is none of it
    bare = re.sub(r'<span class="card".*?</span>', "", html)
    assert Read(bare).texts("div", "text") == ["An a\n🦊", "שלום"]
    assert all(
        attributes.get("dir") == "auto"
        for _, attributes, _ in read.found
        if attributes.get("class") == "text"
    )
    assert read.texts("div", "about") == ["three", "none"]


def test_a_long_table_is_cut_in_the_middle_and_says_so() -> None:
    rows = [[f"row {n}", str(n)] for n in range(40)]
    read = Read(notebook.table_html("Numbers", ["name", "number"], rows))
    names = [text for text in read.texts("th") if text.startswith("row")]
    assert names == [f"row {n}" for n in [*range(12), *range(28, 40)]]
    assert "… 16 more …" in read.texts("td")
    assert "more" not in notebook.table_html("Numbers", ["name", "number"], rows[:24])


def test_a_heat_map_has_a_square_for_each_share_of_the_last_tokens() -> None:
    names = [f"t{n}" for n in range(60)]
    shares = [[n / 100 for n in range(60)], [0.0] * 60]
    read = Read(notebook.heat_html("Heads", names, shares))
    titles = read.texts("title")
    assert len(titles) == 2 * notebook.COLUMNS
    assert titles[0] == "head 0, t12: 12.0 %" and titles[47] == "head 0, t59: 59.0 %"
    opacities = [float(a["fill-opacity"] or 0) for tag, a, _ in read.found if tag == "rect"]
    assert opacities[:48] == pytest.approx([n / 100 for n in range(12, 60)], abs=5e-4)
