"""A generation as a whole: its text with what the model thought of each token, for programs and for
people, whom a notebook shows it in colours, while it is written and afterwards."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt2web.blocking import is_blocking
from gpt2web.progress import in_notebook
from gpt2web.stream import Piece, TextStream
from gpt2web.tokenizer import GPT2Tokenizer


class Alternative(NamedTuple):
    """An id that could have come, its text in that place, and its natural log-probability."""

    id: int
    text: str
    logprob: float


class Token(NamedTuple):
    """An id of a generation.

    text: the characters that are complete with it: of several ids that make up one, the last has
    it, the others "". logprob (of the raw logits, natural) and top, the most probable ids.
    """

    id: int
    text: str
    logprob: float
    top: list[Alternative]


@dataclass(frozen=True)
class Generation:
    """What a model wrote behind a prompt. Made by `GPT2CausalLM.write`.

    prompt: its text. prompt_ids: what the model read. text: what follows it, the tokens' texts
    joined. finish_reason: "stop", "length", "context" or "cancelled". settings: `lm.write(
    prompt_ids, **settings)` writes it again, also a row of a batch, which has a seed of its own.
    seconds: from the start of the call to its last token. model: the model's name.

    In a notebook it is shown in colours, elsewhere `str()` is its text.
    """

    prompt: str
    prompt_ids: list[int]
    text: str
    tokens: list[Token]
    finish_reason: str
    settings: dict[str, Any]
    seconds: float
    model: str
    _live: Any = field(default=None, repr=False, compare=False)

    @property
    def seed(self) -> int:
        """What the random numbers came from."""
        seed: int = self.settings["seed"]
        return seed

    @property
    def token_ids(self) -> list[int]:
        """Prompt and text, for `inspect` or to go on from: a prompt of another `write`."""
        return [*self.prompt_ids, *(token.id for token in self.tokens)]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Generation: {_short(self.prompt, -24)} … {_short(self.text, 60)}, {_about(self)}>"

    def _repr_html_(self) -> str:
        return _result([self])


class Generations(list[Generation]):
    """Those of several prompts, the rows of a batch, in their order."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))

    def _repr_html_(self) -> str:
        return _result(self)


async def write(
    stream: TextStream,
    prompts: Sequence[str],
    settings: dict[str, Any],
    model: str,
    show: bool | None,
) -> Generations:
    """Read a stream to its end, and show it meanwhile: see GPT2CausalLM.write."""
    if show is not None and not isinstance(show, bool):
        raise TypeError(f"show is None, False or True, got {show!r}")
    notebook = in_notebook()
    view: _Notebook | _Terminal | None = None
    if show or (show is None and notebook):
        view = _Notebook() if notebook else _Terminal(len(prompts))
    rows = [_Row(stream, row, prompt, settings, model) for row, prompt in enumerate(prompts)]
    with _cancelled_by_interrupt(stream) as interrupted:
        async with stream:
            async for piece in stream:
                rows[piece.row].add(piece)
                if view is not None:
                    view.update(rows, piece)
    found = Generations(row.generation(view) for row in rows)
    if view is not None:
        view.finish(found)
    if interrupted and view is None:
        raise KeyboardInterrupt  # nobody saw what was written: whoever called is to stop
    return found


class _Row:
    """One row while it is written."""

    def __init__(
        self, stream: TextStream, row: int, prompt: str, settings: dict[str, Any], model: str
    ) -> None:
        self.prompt, self.prompt_ids = prompt, stream.prompts[row]
        self.settings = {**settings, "seed": (stream.seed + row) & 0xFFFFFFFF}
        self.model = model
        self.tokenizer = stream.tokenizer
        self.start = self.last = time.monotonic()  # seconds
        self.pieces: list[Piece] = []

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.last = time.monotonic()

    def generation(self, view: _Notebook | _Terminal | None = None) -> Generation:
        text = "".join(piece.text for piece in self.pieces)
        return Generation(
            self.prompt,
            self.prompt_ids,
            text,
            tokens_of(self.tokenizer, self.pieces, text),
            (self.pieces[-1].finish_reason if self.pieces else None) or "",
            self.settings,
            self.last - self.start,
            self.model,
            view.live if isinstance(view, _Notebook) else None,
        )


def tokens_of(tokenizer: GPT2Tokenizer, pieces: Iterable[Piece], text: str) -> list[Token]:
    """The ids of pieces with the part of their text that each completes. A stop string may end the
    text within a token, and a last character may be without its last bytes."""
    decoder = tokenizer.stream_decoder()
    tokens: list[Token] = []
    begun: list[int] = []  # ids of a character that is not complete
    at = 0
    for piece in pieces:
        assert piece.logprobs is not None and piece.top is not None
        for id_, logprob, top in zip(piece.ids, piece.logprobs, piece.top, strict=True):
            own = decoder.push(id_)
            # as text in this place: behind the bytes that stand before it
            others = [
                Alternative(other, tokenizer.detokenize([*begun, other]), value)
                for other, value in top
            ]
            tokens.append(Token(id_, text[at : at + len(own)], logprob, others))
            at += len(own)
            begun = [] if own else [*begun, id_]
    if tokens and at < len(text):
        tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + text[at:])
    return tokens


# What is seen of it.


class _Notebook:
    """In colours, a few times a second."""

    def __init__(self) -> None:
        from gpt2web.notebook import Live

        self.live = Live()

    def update(self, rows: Sequence[_Row], piece: Piece) -> None:
        if self.live.due():
            self._show([row.generation() for row in rows])

    def finish(self, found: Sequence[Generation]) -> None:
        self._show(found)

    def _show(self, found: Sequence[Generation]) -> None:
        self.live.show(_html(found), "\n\n".join(one.prompt + one.text for one in found))


class _Terminal:
    """As text: one row as it comes, of several each as a whole."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.begun = False

    def update(self, rows: Sequence[_Row], piece: Piece) -> None:
        if self.rows == 1:
            self._write(("" if self.begun else rows[0].prompt) + piece.text)
            self.begun = True

    def finish(self, found: Sequence[Generation]) -> None:
        if self.rows == 1:
            self._write("\n")
        else:
            self._write("".join(f"{one.prompt}{one.text}\n\n" for one in found))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _cancelled_by_interrupt(stream: TextStream) -> Iterator[list[int]]:
    """While a blocking call reads it, Ctrl-C (in a notebook: interrupting the kernel) ends a stream
    as `cancel` does, between two steps of the GPU; the second time it raises KeyboardInterrupt.
    Left alone: event loops and programs with a handler of their own, which cancel in their way."""
    interrupts: list[int] = []
    if (
        not is_blocking()
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupts
        return

    def interrupt(number: int, frame: Any) -> None:
        interrupts.append(number)
        stream.cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


ENDS = {
    "stop": "ended by itself or by a stop text",
    "length": "ended at its length",
    "context": "ended where the context is full",
    "cancelled": "interrupted",
    "": "being written",
}


def _about(generation: Generation) -> str:
    return (
        f"{len(generation.tokens)} tokens in {generation.seconds:.1f} s, "
        f"{ENDS[generation.finish_reason]}; {generation.model}, seed {generation.seed}"
    )


def _short(text: str, most: int) -> str:
    """A text's beginning, or with a negative number its end."""
    if len(text) <= abs(most):
        return repr(text)
    return repr(text[:most] if most > 0 else text[most:])


def _result(found: Sequence[Generation]) -> str:
    for one in found:
        if one._live is not None:
            one._live.hand_over()
    return _html(found)


def _html(found: Sequence[Generation]) -> str:
    from gpt2web.notebook import Other, Part, Written, text_html

    rows = []
    for one in found:
        parts: list[Part] = []
        group: list[Token] = []
        for token in one.tokens:
            group.append(token)
            if token.text or token is one.tokens[-1]:
                others = [
                    [Other(text, value, id_ == of.id) for id_, text, value in of.top]
                    for of in group
                ]
                parts.append(Part(token.text, [of.logprob for of in group], others))
                group = []
        rows.append(Written(one.prompt, parts, _about(one)))
    return text_html(rows)
