"""How a notebook shows what the API gives: coloured texts, bars, tables, a heat map.

Numbers and texts in, HTML out, complete: no script, nothing from a network, every text escaped.
Classes show themselves through this in `_repr_html_`; whoever shows nothing never imports it, and
so the page does not. The five steps of probability, their colours and lines are those of the page
(web/style.css); with a theme that is not known to be dark the light ones are taken, with dark ink
on them, which can be read on any ground.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

UPDATE_SECONDS = 0.25  # between two states of a display that grows
BOUNDS = (0.5, 0.2, 0.05, 0.01)  # probabilities: the least of each step but the last
LEGEND = ("50 % or more", "20 to 50 %", "5 to 20 %", "1 to 5 %", "less than 1 %")
LIGHT = ("#dcebe0", "#eaf0cf", "#fbeebc", "#fbd8b0", "#f7c1b5")
DARK = ("#203c30", "#37401f", "#4a3d15", "#5a3516", "#632822")
LINES = ("none", "dotted 1px", "dashed 1px", "solid 1.5px", "double 2px")
INK, DARK_INK = "#26221b", "#ebe5da"
DARK_THEMES = ('[data-jp-theme-light="false"]', ".vscode-dark", 'html[theme="dark"]')
ROWS = 12  # of a table at its beginning, and at its end; the others are told of
COLUMNS = 48  # tokens of a heat map: those nearest to the one looked at
SPACES = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


class Other(NamedTuple):
    """A token that could have stood there. taken: it does."""

    text: str
    logprob: float
    taken: bool


class Part(NamedTuple):
    """Some text that stands for itself, of one token or of several, a character's bytes: the
    log-probability of each, and the likeliest in its place."""

    text: str
    logprobs: list[float]
    others: list[list[Other]]


class Written(NamedTuple):
    """A prompt, what was written behind it, and a line about that."""

    prompt: str
    parts: list[Part]
    about: str


def text_html(rows: Iterable[Written]) -> str:
    """Texts below each other, coloured; pointing at a part shows its probability and the likeliest
    others where the legend stands."""
    texts = "".join(
        f'<div class="text" dir="auto"><b>{escape(row.prompt)}</b>'
        f"{''.join(map(_part, row.parts))}</div>"
        f'<div class="about">{escape(row.about)}</div>'
        for row in rows
    )
    legend = "".join(f'<li><span class="s{n}">{name}</span></li>' for n, name in enumerate(LEGEND))
    hint = "How likely the model found each token; point at one for what else could have come."
    return _whole(f'{texts}<div class="legend">{hint}<ul>{legend}</ul></div>')


def _part(part: Part) -> str:
    # the least likely of several, as in the page
    step = step_of(math.exp(min(part.logprobs)))
    kind = "s{} break" if part.text and not part.text.strip("\r\n") else "s{}"
    lines = []
    for n, (logprob, others) in enumerate(zip(part.logprobs, part.others, strict=True)):
        of = f" {n + 1} of {len(part.logprobs)}" if len(part.logprobs) > 1 else ""
        share = percent(math.exp(logprob))
        lines.append(f"<b>{_shown(part.text)}</b>{of}: <b>{share}</b>. Likeliest: ")
        lines.append(", ".join(map(_other, others)))
        lines.append(". ")
    card = f'<span class="card" dir="ltr" hidden>{"".join(lines).strip()}</span>'
    return f'<span class="{kind.format(step)}" tabindex="0">{escape(part.text)}{card}</span>'


def _other(other: Other) -> str:
    text = f"{_shown(other.text)} {percent(math.exp(other.logprob))}"
    return f"<u>{text}</u>" if other.taken else text


def bars_html(title: str, names: Sequence[str], columns: Mapping[str, Sequence[float]]) -> str:
    """A table of tokens with their probabilities [columns][rows], as bars and numbers."""
    most = max((value for values in columns.values() for value in values), default=0.0) or 1.0
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    rows = ""
    for n, name in enumerate(names):
        cells = "".join(_bar(values[n], values[n] / most) for values in columns.values())
        rows += f'<tr><th scope="row">{_shown(name)}</th>{cells}</tr>'
    return _whole(_table(title, f'<tr><th scope="col">token</th>{head}</tr>{rows}'))


def _bar(value: float, part: float) -> str:
    style = f"width:{80 * part:.1f}px"  # of 80 pixels
    return f'<td><span class="bar" style="{style}"></span> {percent(value)}</td>'


def table_html(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, the first column as its rows' names; a long one is cut in the middle."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    left_out = len(rows) - 2 * ROWS
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    ]
    if left_out > 0:
        gap = f'<tr><td colspan="{len(head)}">… {left_out:,} more …</td></tr>'
        lines = [*lines[:ROWS], gap, *lines[-ROWS:]]
    return _whole(_table(title, f"<tr>{names}</tr>{''.join(lines)}"))


def _table(title: str, rows: str) -> str:
    return f'<div class="wide"><table><caption>{escape(title)}</caption>{rows}</table></div>'


def heat_html(title: str, names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Shares [row][column] from 0 to 1 as an SVG, a square each, whose title has the number.
    names: of the columns, of which the last COLUMNS are shown."""
    size, left = 16, 44  # pixels
    first = max(0, len(names) - COLUMNS)
    squares, top = [], 90
    for r, row in enumerate(rows):
        y = top + r * size
        squares.append(f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{r}</text>')
        for c, share in enumerate(row[first:]):
            name = escape(visible(names[first + c]))
            squares.append(
                f'<rect x="{left + c * size}" y="{y}" width="{size - 1}" height="{size - 1}" '
                f'fill-opacity="{share:.3f}"><title>head {r}, {name}: {percent(share)}</title>'
                "</rect>"
            )
    for c, name in enumerate(names[first:]):
        at = f"{left + c * size + 12} {top - 6}"
        squares.append(
            f'<text transform="translate({at}) rotate(-60)">{escape(visible(name))}</text>'
        )
    width = left + size * (len(names) - first) + 60
    height = top + size * len(rows) + 4
    drawing = (
        f'<svg role="img" aria-label="{escape(title)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(squares)}</svg>'
    )
    return _whole(f'<div class="wide"><div>{escape(title)}</div>{drawing}</div>')


def joined(pieces: Iterable[str]) -> str:
    """Several of what the functions here give, below each other."""
    return "".join(pieces)


def step_of(probability: float) -> int:
    """From 0, likely, to 4, a great surprise: as web/tokens.js has it."""
    return next((n for n, bound in enumerate(BOUNDS) if probability >= bound), len(BOUNDS))


def percent(probability: float) -> str:
    """
    >>> percent(0.8712), percent(0.00042), percent(1e-7)
    ('87.1 %', '0.042 %', '< 0.001 %')
    """
    share = 100 * probability
    if share == 0:
        return "0 %"
    if share < 0.001:
        return "< 0.001 %"
    return f"{share:.1f} %" if share >= 0.1 else f"{share:#.2g} %"


def visible(text: str) -> str:
    """A text whose white space can be seen.

    >>> visible(" fox\\n")
    '·fox↵'
    """
    return re.sub(r"^ +| +$|[\n\t\r]", lambda m: "".join(SPACES[c] for c in m[0]), text) or "∅"


def _shown(text: str) -> str:
    """A token's text within a sentence, also where it runs from right to left."""
    return f"<bdi>{escape(visible(text))}</bdi>"


def _whole(body: str) -> str:
    return f'<div class="gpt2web"><style>{STYLE}</style>{body}</div>'


def _style() -> str:
    """Everything below .gpt2web; what stands around it is left alone."""
    lines = [
        ".gpt2web{position:relative;max-width:60em;line-height:1.7;"
        f"{_colours(LIGHT, INK)}--card:#fff}}",
        f"{','.join(f'{theme} .gpt2web' for theme in DARK_THEMES)}"
        f"{{{_colours(DARK, DARK_INK)}--card:#1f1d1a}}",
        ".gpt2web .text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:1.05em}",
        ".gpt2web .about,.gpt2web .legend{font-size:.85em;opacity:.85}",
        ".gpt2web .legend{min-height:5.2em;margin-top:.4em}",
        ".gpt2web ul{display:flex;flex-wrap:wrap;gap:.4em;margin:.3em 0;padding:0;list-style:none}",
        ".gpt2web li{margin:0}",
        "".join(f".gpt2web .s{n}{{background:var(--s{n})}}" for n in range(len(LIGHT))),
        "".join(
            f".gpt2web .s{n}{{text-decoration:underline {line} var(--ink)}}"
            for n, line in enumerate(LINES)
            if line != "none"
        ),
        ".gpt2web [class^=s]{color:var(--ink);border-radius:.2em;text-underline-offset:.22em}",
        ".gpt2web li span{padding:.1em .35em}",
        ".gpt2web .break::before{content:'↵'}",
        ".gpt2web .text>span:is(:hover,:focus){outline:2px solid #91877a}",
        ".gpt2web .text>span:is(:hover,:focus) .card{display:block;z-index:1}",
        ".gpt2web .text>span:hover .card{z-index:2}",
        ".gpt2web .card{position:absolute;bottom:0;left:0;right:0;height:5.2em;overflow:auto;"
        "font-size:.81em;white-space:normal;background:var(--card);color:var(--ink)}",
        ".gpt2web .wide{overflow-x:auto;margin-bottom:.6em}",
        ".gpt2web table{border-collapse:collapse;font-size:.9em}",
        ".gpt2web table caption{text-align:start;font-weight:600;white-space:nowrap}",
        ".gpt2web table :is(th,td){text-align:start;padding:.1em .7em .1em 0;font-weight:400;"
        "white-space:pre;background:none}",
        ".gpt2web .bar{display:inline-block;height:.75em;background:#3d8f7d}",
        ".gpt2web svg{font-size:11px;fill:currentColor}.gpt2web rect{fill:#2f8f7a}",
    ]
    return "".join(lines)


def _colours(steps: Sequence[str], ink: str) -> str:
    named = "".join(f"--s{n}:{colour};" for n, colour in enumerate(steps))
    return f"{named}--ink:{ink};"


STYLE = _style()


class Live:
    """A display that grows in the cell that runs. When the cell's result is the same thing it is
    shown there, as the result, and no longer here."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = 0.0  # seconds
        self._cell = cell()

    def due(self) -> bool:
        """Whether it is time for the next state."""
        return time.monotonic() - self._last >= UPDATE_SECONDS

    def show(self, html: str, plain: str) -> None:
        """The next state, or the first."""
        bundle = {"text/html": html, "text/plain": plain}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
        self._last = time.monotonic()

    def hand_over(self) -> None:
        """Its content is about to be shown as a result: of this cell it must not be there twice."""
        if self._handle is not None and self._cell == cell():
            self.show("", "")
            self._handle = None


def cell() -> int | None:
    """The number of the cell that runs; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell.execution_count if shell else None
