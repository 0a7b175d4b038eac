"""Text as it is generated: a run's ids turned into pieces, and how one stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gpt2web.generate import Chosen, Host, Request, Run
from gpt2web.tokenizer import GPT2Tokenizer


@dataclass(frozen=True)
class Piece:
    """Some text of one row as it is generated.

    ids are those whose text it holds; logprobs (of the raw logits, natural) and top (the most
    probable ids with theirs) stand beside the ids when asked for. finish_reason comes with a row's
    last piece: "stop", "length", "context" or "cancelled".
    """

    text: str
    ids: list[int]
    logprobs: list[float] | None = None
    top: list[list[tuple[int, float]]] | None = None
    row: int = 0
    finish_reason: str | None = None


class _RowText:
    """Text of one row: holds back half characters and what may become a stop string."""

    def __init__(
        self, row: int, tokenizer: GPT2Tokenizer, stop: tuple[str, ...], with_logprobs: bool
    ) -> None:
        self.row = row
        self.with_logprobs = with_logprobs
        self.decoder = tokenizer.stream_decoder()
        self.stop = stop
        self.text = ""  # not yet sent
        self.held: list[tuple[Chosen, int]] = []  # ids not yet sent, and where their text begins
        self.count = 0  # ids so far
        self.finished = False

    def hold(self, chosen: Chosen) -> None:
        self.held.append((chosen, len(self.text)))
        self.text += self.decoder.push(chosen.id)
        self.count += 1

    def take(self) -> Piece | None:
        """What can be sent now, if anything; a stop string ends the row."""
        piece = self._stopped()
        if piece is not None:
            return piece
        length = len(self.text) - self._withheld()
        if length == 0:
            return None
        piece = self._piece(self.text[:length], [h for h in self.held if h[1] < length], None)
        self.held = [(chosen, at - length) for chosen, at in self.held if at >= length]
        self.text = self.text[length:]
        return piece

    def finish(self, reason: str) -> Piece:
        """The last piece, with all that was held back."""
        self.text += self.decoder.flush()
        piece = self._stopped()
        if piece is None:
            self.finished = True
            piece = self._piece(self.text, self.held, reason)
        return piece

    def _stopped(self) -> Piece | None:
        found = [at for at in (self.text.find(stop) for stop in self.stop) if at >= 0]
        if not found:
            return None
        self.finished = True
        end = min(found)
        return self._piece(self.text[:end], [h for h in self.held if h[1] < end], "stop")

    def _withheld(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self.stop):
                return length
        return 0

    def _piece(self, text: str, held: list[tuple[Chosen, int]], reason: str | None) -> Piece:
        chosen = [c for c, _ in held]
        logprobs = [c.logprob for c in chosen if c.logprob is not None]
        top = [c.top for c in chosen if c.top is not None]
        return Piece(
            text,
            [c.id for c in chosen],
            logprobs if self.with_logprobs else None,
            top if self.with_logprobs else None,
            self.row,
            reason,
        )


class TextStream:
    """An async iterator of Piece: `async for piece in lm.stream(prompt)`.

    seed: what the random numbers came from, also when it was drawn. `cancel()` ends it with a last
    piece; leave it early only through `aclose()` or `async with`, or drop it.
    """

    def __init__(
        self,
        host: Host,
        tokenizer: GPT2Tokenizer,
        requests: Sequence[Request],
        *,
        reasons: Sequence[str],
        stop: tuple[str, ...] = (),
        alternatives: int = 0,
        steps_per_submit: int | None = None,
        seed: int = 0,
        length: int,
    ) -> None:
        self.seed = seed
        self._host = host
        self._requests = requests
        self._reasons = reasons  # what a row's own limit means: "length" or "context"
        self._alternatives = alternatives
        self._steps_per_submit = steps_per_submit
        self._length = length
        self._rows = [
            _RowText(row, tokenizer, stop, alternatives > 0) for row in range(len(requests))
        ]
        self._ready: deque[Piece] = deque()
        self._run: Run | None = None
        self._prefilled = False
        self._holds_turn = False
        self._cancelled = False
        self._advancing = False  # someone waits in __anext__
        for row, request in enumerate(requests):
            if request.limit == 0:  # the prompt fills the context
                self._ready.append(self._rows[row].finish(reasons[row]))

    def cancel(self) -> None:
        """Stop generating, or waiting to; the last piece of each row says "cancelled"."""
        self._cancelled = True
        self._host.turn.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if self._advancing:
            raise RuntimeError("this stream is already being read: one reader at a time")
        while not self._ready:
            if all(row.finished for row in self._rows):
                self._release()
                raise StopAsyncIteration
            self._advancing = True
            try:
                await self._advance()
            except BaseException:
                self._end()  # without its turn it must not go on
                self._release()
                raise
            finally:
                self._advancing = False
        if all(row.finished for row in self._rows):
            self._release()
        return self._ready.popleft()

    async def _advance(self) -> None:
        if self._cancelled:
            self._ready += [row.finish("cancelled") for row in self._rows if not row.finished]
        elif self._run is None:
            self._holds_turn = await self._host.turn.take(self)
            if self._cancelled or not self._holds_turn:
                return
            rows = len(self._requests)
            session = await self._host.session(rows, self._length, self._alternatives)
            self._run = Run(session, self._requests, self._steps_per_submit)
        elif not self._prefilled:
            self._prefilled = await self._run.prefill()
        else:
            for chosen in await self._run.read():
                if not self._cancelled and not self._rows[chosen.row].finished:
                    self._accept(chosen)

    def _accept(self, chosen: Chosen) -> None:
        """Turn an id into text. A stop id ends its row and is not part of it."""
        row, request = self._rows[chosen.row], self._requests[chosen.row]
        if chosen.id in request.stop_ids:
            self._ready.append(row.finish("stop"))
            return
        row.hold(chosen)
        last = row.count == request.limit
        piece = row.finish(self._reasons[chosen.row]) if last else row.take()
        if piece is not None:
            self._ready.append(piece)

    def _release(self) -> None:
        if self._holds_turn:
            self._holds_turn = False
            self._host.turn.give()

    def _end(self) -> None:
        for row in self._rows:
            row.finished = True
        self._ready.clear()

    async def aclose(self) -> None:
        """Leave early: the next call may begin."""
        self._end()
        self._host.turn.leave(self)
        if not self._advancing:  # else its reader lets go, once what it waits for is there
            self._release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._release()
