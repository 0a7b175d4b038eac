"""The page's words: all stand in index.html, and those that programs show are found there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from browser import ROOT, TestServer

WEB = ROOT / "web"
HTML = (WEB / "index.html").read_text("utf-8")
CARD_HEADING = '"What to expect"'  # in a model's card, under which models.js looks
STRING = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\\n])*`")


def imported_by(name: str, found: dict[str, Path] | None = None) -> dict[str, Path]:
    """A module of web/ and all that it imports, by name."""
    found = {} if found is None else found
    found[name] = WEB / name
    for other in re.findall(r'(?:from |import\()"\./([^"]+)"', found[name].read_text("utf-8")):
        if other not in found:
            imported_by(other, found)
    return found


# What gpt2web.js is made of is not the page's: it speaks to the programs of other pages, too.
PAGE = [
    file for name, file in imported_by("app.js").items() if name not in imported_by("gpt2web.js")
]


def strings(program: str) -> list[str]:
    """The string literals of a program, but for those in errors of ours and in style sheets, which
    no reader sees."""
    lines = without_comments(program)
    calls = r"throw new Error\(.*\);|(querySelector(All)?|closest)\(.*?\)"
    style_sheet = r"EditorView\.theme\(\{.*?\n\}\);"
    return STRING.findall(re.sub(calls, "", re.sub(style_sheet, "", lines, flags=re.S)))


def without_comments(program: str) -> str:
    return re.sub(r"^\s*(//|\*|/\*).*$|\s// .*$", "", program, flags=re.M)


def sentences(program: str) -> list[str]:
    """Those that have words with spaces between them."""
    found = [re.sub(r"\$\{[^{}]*\}", "", literal) for literal in strings(program)]
    return [literal for literal in found if re.search(r"[A-Za-z’]{2,},? [A-Za-z’]{2,}", literal)]


@pytest.mark.parametrize("file", PAGE, ids=lambda file: file.name)
def test_no_program_of_the_page_holds_a_sentence(file: Path) -> None:
    assert sentences(file.read_text("utf-8")) in ([], [CARD_HEADING])


def test_a_sentence_in_a_program_would_be_found() -> None:
    assert sentences('say("All is well.")') == ['"All is well."']
    assert sentences("say(`${name} was deleted`)") == ["` was deleted`"]
    assert sentences('text("all-is-well"); // all is well, "all is well"') == []
    assert len(PAGE) > 5


def names_asked_for() -> set[str]:
    """The names of texts in the programs, `*` where one is put together."""
    asked = {literal[1:-1] for file in PAGE for literal in strings(file.read_text("utf-8"))}
    asked |= {f"{name}-{number}" for name in asked for number in ("one", "many")}
    return {re.sub(r"\$\{[^{}]*\}", "*", name) for name in asked}


def test_every_text_is_asked_for_and_every_text_asked_for_is_there() -> None:
    names = re.findall(r'data-text="([^"]+)"', HTML)
    assert len(names) == len(set(names)) > 40
    patterns = {re.escape(name).replace(r"\*", ".+") for name in names_asked_for() if name != "*"}
    assert [name for name in names if not any(re.fullmatch(p, name) for p in patterns)] == []
    calls = [
        name
        for file in PAGE
        for call in re.findall(r"\btext\(([^{]*?)[,)]", without_comments(file.read_text("utf-8")))
        for name in re.findall(r'(?:^|[?:]\s*)"([^"]+)"', call)
    ]
    assert len(calls) > 30
    assert set(calls) - set(names) == set()


@pytest.mark.browser
def test_texts_are_filled_in_and_mistakes_are_errors(
    quick_browser: Browser, server: TestServer
) -> None:
    page = quick_browser.new_page()
    page.route("**/app.js", lambda route: route.abort())
    page.goto(server.url)
    found = page.evaluate("""async () => {
      const { counted, text } = await import("./texts.js");
      const calls = [
        () => text("loading-pace", { rate: "3 MB", left: "<b>$&</b>" }),
        () => counted("requests", 1, "1"),
        () => counted("requests", 1200, "1,200"),
        () => text("no-such-text"),
        () => text("loading-pace", { rate: "3 MB" }),
        () => text("paused", { rate: "3 MB" }),
        () => text("load-cancelled-kept"),
      ];
      const answer = (call) => { try { return call(); } catch (error) { return error.message; } };
      return calls.map(answer);
    }""")
    assert found == [
        "3 MB/s, about <b>$&</b> left",
        "1 request",
        "1,200 requests",
        'index.html has no text "no-such-text"',
        'the text "loading-pace" needs a value for {left}',
        'the text "paused" has no place for {rate}',
        "Loading was cancelled. What was downloaded so far is kept.",
    ]
    page.context.close()
