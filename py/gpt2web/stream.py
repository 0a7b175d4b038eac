"""Text as it is generated: a run's ids turned into pieces, how one stops, and how it goes on when
the device is lost: nothing of what was held back here depends on the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from gpt2web.generate import Chosen, Host, Losses, Request, Run
from gpt2web.gpu import DeviceLost
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


class Sent(NamedTuple):
    """What the pieces of a row had that have been sent: ids, how many characters, and whether the
    last of them was there."""

    ids: list[int]
    characters: int
    finished: bool


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
        self.sent_ids = self.sent_characters = 0  # by another stream: not to be sent again

    def hold(self, chosen: Chosen) -> None:
        if self.count >= self.sent_ids:
            self.held.append((chosen, len(self.text)))
        self._push(chosen.id)

    def resume(self, sent: Sent, known: int) -> None:
        """Go on behind what has been sent. The first `known` ids of that will not be held."""
        self.sent_ids, self.sent_characters = len(sent.ids), sent.characters
        for id_ in sent.ids[:known]:
            self._push(id_)

    def _push(self, id_: int) -> None:
        text = self.decoder.push(id_)
        self.text += text[self.sent_characters :]
        self.sent_characters = max(0, self.sent_characters - len(text))
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

    seed: what the random numbers came from, also when it was drawn. prompts: of each row, the ids
    that it goes on from. `cancel()` ends it with a last
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
        self.tokenizer = tokenizer
        self.prompts = [request.prompt for request in requests]
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
        self._ids: list[list[int]] = [[] for _ in requests]
        self._losses = Losses()
        self._run: Run | None = None
        self._prefilled = False
        self._holds_turn = False
        self._cancelled = False
        self._advancing = False  # someone waits in __anext__
        for row, request in enumerate(requests):
            if request.limit == 0:  # the prompt fills the context
                self._ready.append(self._rows[row].finish(reasons[row]))

    def resume(self, sent: Sequence[Sent]) -> None:
        """Before it is read: go on where another stream of the same prompts and seed broke off.
        Raises ValueError where that would not have gone on."""
        if len(sent) != len(self._rows):
            raise ValueError(f"there are {len(self._rows)} rows, {len(sent)} are to go on")
        for row, done in zip(self._rows, sent, strict=True):
            row.finished = row.finished or done.finished
        going_on = [row.row for row in self._rows if not row.finished]
        if any(len(sent[row].ids) >= self._requests[row].limit for row in going_on):
            raise ValueError(f"there is nothing to go on with: {sent}")
        # Rows go on together, a step at a time: those that were ahead have some ids chosen again.
        known = min((len(sent[row].ids) for row in going_on), default=0)
        for row, done in zip(self._rows, sent, strict=True):
            self._ids[row.row] += done.ids if row.finished else done.ids[:known]
            if not row.finished:
                row.resume(done, known)
        self._ready = deque(piece for piece in self._ready if not sent[piece.row].finished)

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
        elif not self._holds_turn:
            self._holds_turn = await self._host.turn.take(self)
        else:
            try:
                await self._generate()
            except DeviceLost as error:
                self._losses.add(error, sum(map(len, self._ids)))
                self._run, self._prefilled = None, False  # from the ids so far, on another device

    async def _generate(self) -> None:
        if self._run is None:
            rows = len(self._requests)
            session = await self._host.session(rows, self._length, self._alternatives)
            ended = [row.row for row in self._rows if row.finished]
            self._run = Run(session, self._requests, self._steps_per_submit, self._ids, ended)
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
