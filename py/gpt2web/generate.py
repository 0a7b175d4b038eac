"""The generation loop: prompts in, ids and text out, with every step on the GPU.

A Session holds what a batch shape needs and is made once. A Run takes prompts through it: prefill,
then submits of K steps each, read back while the next are running. A TextStream turns a run's ids
into text, piece by piece.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from gpt2web import kernels
from gpt2web.backbone import Decoder
from gpt2web.gpu import MAX_ROWS, Dispatch, Readback
from gpt2web.sampling import Sampling, bit_words
from gpt2web.tokenizer import GPT2Tokenizer
from gpt2web.turn import Turn

Span = tuple[int, int, list[int]]  # row, first position, ids

RING_STEPS = 64  # steps whose ids the GPU keeps, and the most in one submit
SUBMIT_SECONDS = 0.1  # what a submit may take, so that cancelling is prompt


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


@dataclass(frozen=True)
class Request:
    """What one row asks for. prompt: at least one id; limit: how many ids to generate."""

    prompt: list[int]
    sampling: Sampling
    seed: int
    call: int
    limit: int
    stop_ids: frozenset[int]


class Chosen(NamedTuple):
    """One generated id of one row."""

    row: int
    id: int
    logprob: float | None
    top: list[tuple[int, float]] | None


class Session:
    """A decoder with its sampling buffers: made once for (rows, length, alternatives)."""

    def __init__(self, decoder: Decoder, alternatives: int) -> None:
        device, rows = decoder.device, decoder.rows
        vocabulary = decoder.config.vocabulary_size
        self.decoder = decoder
        self.alternatives = alternatives
        # a ring entry: the id; with probabilities also its own, and pairs of alternatives
        self.entry_words = 1 if alternatives == 0 else 2 + 2 * alternatives
        self.samplings = device.tensor((MAX_ROWS, 8), "u32", uniform=True)
        self.flags = device.tensor((rows, 2, kernels.ceil_div(vocabulary, 32)), "u32")
        self.scores = device.tensor((rows, vocabulary))
        self.summaries = device.tensor((rows, kernels.ceil_div(vocabulary, 1024), 4))
        self.ring = device.tensor((RING_STEPS, rows, self.entry_words), "u32")
        size = 4 * RING_STEPS * rows * self.entry_words
        self.free = [device.readback(size), device.readback(size)]
        self.destroyed = False
        self.in_flight: deque[_Submit] = deque()

        state, logits = decoder.state, decoder.logits
        calls = [
            kernels.scores(
                device, state, self.samplings, logits, self.flags, self.scores, self.summaries
            )
        ]
        if alternatives:
            calls.append(kernels.alternatives(device, state, logits, self.summaries, self.ring))
        calls.append(
            kernels.select(
                device,
                state,
                self.samplings,
                logits,
                self.scores,
                self.summaries,
                self.flags,
                self.ring,
            )
        )
        self.short_step: list[Dispatch] = decoder.short_step + calls
        self.long_step: list[Dispatch] = decoder.long_step + calls

    async def drain(self) -> None:
        """Wait for what an earlier run left under way."""
        while self.in_flight:
            await self.in_flight[0].readback.take(4)
            self.free.append(self.in_flight.popleft().readback)

    def check(self) -> None:
        """RuntimeError after `destroy`: submitting freed buffers ends the process natively."""
        if self.destroyed:
            raise RuntimeError("the model was closed while it generated: load it again")

    def destroy(self) -> None:
        self.destroyed = True
        for tensor in (self.samplings, self.flags, self.scores, self.summaries, self.ring):
            tensor.destroy()
        for readback in [*self.free, *(submit.readback for submit in self.in_flight)]:
            readback.destroy()


class _Submit(NamedTuple):
    readback: Readback
    steps: int
    time: float


class Run:
    """Prompts going through a session: `prefill` until done, then `read` while any row runs."""

    def __init__(
        self, session: Session, requests: Sequence[Request], steps_per_submit: int | None = None
    ) -> None:
        self.session = session
        self.requests = requests
        self.steps_per_submit = steps_per_submit
        self.ids: list[list[int]] = [[] for _ in requests]
        self.running = {row for row, request in enumerate(requests) if request.limit > 0}
        self.submitted = 0  # steps
        self.steps = steps_per_submit or 1  # of the next submit
        self.most = max(request.limit for request in requests)  # steps
        self.last_done = 0.0  # when the last submit was seen to be done
        self._spans: list[Span] | None = None  # what is left to prefill

    async def prefill(self) -> bool:
        """Take a chunk of the prompts into the cache, but for their last ids, which the first step
        takes, and what the cache holds from the last run. True when nothing is left."""
        decoder = self.session.decoder
        if self._spans is None:
            await self.session.drain()
        self.session.check()
        if self._spans is None:
            self._spans = []
            for row, request in enumerate(self.requests):
                kept = _common(decoder.cached[row], request.prompt[:-1])
                self._spans.append((row, kept, request.prompt[kept:-1]))
                decoder.cached[row] = request.prompt[:kept]
        taken = decoder.prefill(self._spans) if any(ids for _, _, ids in self._spans) else 0
        for i, (row, position, ids) in enumerate(self._spans):
            here = min(taken, len(ids))
            taken -= here
            decoder.cached[row] += ids[:here]
            self._spans[i] = (row, position + here, ids[here:])
        if any(ids for _, _, ids in self._spans):
            await decoder.device.settled()
            return False
        self._write_rows()
        return True

    def _write_rows(self) -> None:
        session, decoder = self.session, self.session.decoder
        vocabulary = decoder.config.vocabulary_size
        states, samplings, flags = b"", b"", b""
        for request in self.requests:
            position, done = len(request.prompt) - 1, int(request.limit == 0)
            states += struct.pack("<4I", position, request.prompt[-1], 0, done)
            samplings += request.sampling.pack(request.seed, request.call, request.limit)
            for ids in (request.prompt, request.stop_ids):
                words = bit_words(ids, vocabulary)
                flags += struct.pack(f"<{len(words)}I", *words)
        decoder.device.write(decoder.state, states)
        decoder.device.write(session.samplings, samplings)
        decoder.device.write(session.flags, flags)

    def submit(self) -> None:
        """Encode and submit the next K steps; their ids are on their way back then."""
        session = self.session
        slot = self.submitted % RING_STEPS
        steps = min(self.steps, self.most - self.submitted, RING_STEPS - slot)
        longest = max(len(request.prompt) for request in self.requests)
        last_position = longest - 1 + self.submitted + steps - 1
        long = last_position >= kernels.SPLIT
        stride = 4 * session.decoder.rows * session.entry_words
        readback = session.free.pop()
        session.decoder.device.submit(
            session.long_step if long else session.short_step,
            times=steps,
            copies=[(session.ring, slot * stride, readback, 0, steps * stride)],
        )
        readback.map()
        session.in_flight.append(_Submit(readback, steps, time.perf_counter()))
        self.submitted += steps

    async def read(self) -> list[Chosen]:
        """The ids of the oldest submit, step by step; keeps the GPU busy with the next.

        A row that has met a stop id or its limit leaves `running`, as the GPU has it.
        """
        session = self.session
        session.check()
        # one submit ahead, but the first id is not kept waiting for the second step
        ahead = 2 if self.last_done else 1
        while len(session.in_flight) < ahead and self.submitted < self.most:
            self.submit()
        submit = session.in_flight[0]
        rows, words = session.decoder.rows, session.entry_words
        data = await submit.readback.take(4 * submit.steps * rows * words)
        session.in_flight.popleft()
        session.free.append(submit.readback)
        self._plan(submit)

        entries = data.cast("B").cast("I")
        floats = data.cast("B").cast("f")
        chosen = []
        for step in range(submit.steps):
            for row in sorted(self.running):
                at = (step * rows + row) * words
                id_, logprob, top = entries[at], None, None
                if words > 1:
                    logprob = floats[at + 1]
                    top = [(entries[n], floats[n + 1]) for n in range(at + 2, at + words, 2)]
                chosen.append(Chosen(row, id_, logprob, top))
                self.ids[row].append(id_)
                request = self.requests[row]
                if id_ in request.stop_ids or len(self.ids[row]) == request.limit:
                    self.running.discard(row)
        for row, ids in enumerate(self.ids):
            # the last id has been chosen, but not been through the model
            session.decoder.cached[row] = (self.requests[row].prompt + ids)[:-1]
        return chosen

    def _plan(self, done: _Submit) -> None:
        """Choose K from how long the steps took."""
        now = time.perf_counter()
        seconds = (now - max(done.time, self.last_done)) / done.steps
        self.last_done = now
        if self.steps_per_submit is not None:
            self.steps = self.steps_per_submit
        else:
            fitting = int(SUBMIT_SECONDS / max(seconds, 1e-9))
            self.steps = max(1, min(2 * self.steps, fitting, RING_STEPS))


def _common(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


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


class Host(Protocol):
    """What a TextStream needs of a model."""

    turn: Turn

    async def session(self, rows: int, length: int, alternatives: int) -> Session: ...


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


async def collect(host: Host, requests: Sequence[Request], length: int) -> list[list[int]]:
    """The ids that a batch of prompts generates; a stop id is the last of its row."""
    if not requests or all(request.limit == 0 for request in requests):
        return [[] for _ in requests]
    await host.turn.take()
    try:
        run = Run(await host.session(len(requests), length, 0), requests)
        while not await run.prefill():
            pass
        while run.running:
            await run.read()
        return run.ids
    finally:
        host.turn.give()
