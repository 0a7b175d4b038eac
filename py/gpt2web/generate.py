"""The generation loop: prompts in, ids out, with every step on the GPU.

A Session holds what a batch shape needs and is made once. A Run takes prompts through it: prefill,
then submits of K steps each, read back while the next are running. When the device is lost on the
way, a new Run takes the prompts and the ids so far through a new Session, and goes on: the random
numbers depend on an id's index alone.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gpt2web import kernels
from gpt2web.chunks import Span
from gpt2web.decoder import Decoder
from gpt2web.gpu import MAX_ROWS, DeviceError, DeviceLost, Dispatch, Readback
from gpt2web.progress import Report
from gpt2web.sampler import Sampler, checked_ids
from gpt2web.sampling import Sampling, bit_words
from gpt2web.turn import Turn

MAX_LOSSES = 3  # of the device in a row
RING_STEPS = 64  # steps whose ids the GPU keeps, and the most in one submit
SUBMIT_SECONDS = 0.1  # what a submit may take, so that cancelling is prompt


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
        self.in_flight: deque[Submit] = deque()

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
        """DeviceError after `destroy`: submitting freed buffers ends the process natively."""
        if self.destroyed:
            raise DeviceError(
                "the model was closed while it generated: load it again", code="closed"
            )

    def destroy(self) -> None:
        self.destroyed = True
        for tensor in (self.samplings, self.flags, self.scores, self.summaries, self.ring):
            tensor.destroy()
        for readback in [*self.free, *(submit.readback for submit in self.in_flight)]:
            readback.destroy()


class Submit(NamedTuple):
    """Steps under way to a readback, and when they were submitted."""

    readback: Readback
    steps: int
    time: float


class Run:
    """Prompts going through a session: `prefill` until done, then `read` while any row runs.

    ids: of each row, those that an earlier run generated; what this one does is added to them.
    ended: rows that are not to go on, whatever their ids.
    """

    def __init__(
        self,
        session: Session,
        requests: Sequence[Request],
        steps_per_submit: int | None = None,
        ids: list[list[int]] | None = None,
        ended: Sequence[int] = (),
    ) -> None:
        self.session = session
        self.requests = requests
        self.steps_per_submit = steps_per_submit
        self.ids: list[list[int]] = [[] for _ in requests] if ids is None else ids
        self.running = {
            row
            for row, (request, found) in enumerate(zip(requests, self.ids, strict=True))
            if len(found) < request.limit and request.stop_ids.isdisjoint(found)
        }.difference(ended)
        # those that this run takes through the model: all but those that ended in an earlier one
        self.rows = [row for row, found in enumerate(self.ids) if row in self.running or not found]
        # steps, those of earlier runs with them: a row that still runs has had them all
        self.submitted = max((len(self.ids[row]) for row in self.running), default=0)
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
            for row in self.rows:
                text = self._text(row)
                kept = common_length(decoder.cached[row], text[:-1])
                self._spans.append((row, kept, text[kept:-1]))
                decoder.cached[row] = text[:kept]
        self._spans = decoder.prefill(self._spans)
        left = {row: position for row, position, _ in self._spans}
        for row in self.rows:
            text = self._text(row)
            decoder.cached[row] = text[: left.get(row, len(text) - 1)]
        if self._spans:
            await decoder.device.settled()
            return False
        self._write_rows()
        return True

    def _text(self, row: int) -> list[int]:
        """The ids of a row: its prompt, and what has been generated."""
        return self.requests[row].prompt + self.ids[row]

    def _write_rows(self) -> None:
        session, decoder = self.session, self.session.decoder
        vocabulary = decoder.config.vocabulary_size
        states, samplings, flags = b"", b"", b""
        for row, request in enumerate(self.requests):
            text, step, done = self._text(row), len(self.ids[row]), int(row not in self.running)
            states += struct.pack("<4I", len(text) - 1, text[-1], step, done)
            samplings += request.sampling.pack(request.seed, request.call, request.limit)
            for ids in (text, request.stop_ids):
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
        readback = session.free[-1]
        session.decoder.device.submit(
            session.long_step if long else session.short_step,
            times=steps,
            copies=[(session.ring, slot * stride, readback, 0, steps * stride)],
        )
        readback.map(steps * stride)
        session.free.pop()  # not when the device is lost: it is freed with the others then
        session.in_flight.append(Submit(readback, steps, time.perf_counter()))
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
        for row in self.rows:
            # the last id has been chosen, but not been through the model
            session.decoder.cached[row] = self._text(row)[:-1]
        return chosen

    async def choose(self, sampler: Sampler) -> None:
        """One step whose ids a sampler chooses on the CPU."""
        decoder = self.session.decoder
        longest = max(len(request.prompt) for request in self.requests)
        decoder.device.submit(decoder.step(longest - 1 + self.submitted))
        self.submitted += 1
        vocabulary = decoder.config.vocabulary_size
        logits = (await decoder.logits.read()).cast("B").cast("f")
        rows = [logits[start : start + vocabulary] for start in range(0, len(logits), vocabulary)]
        seen = None
        if self.requests[0].sampling.repetition_penalty != 1:
            seen = [(*r.prompt, *ids) for r, ids in zip(self.requests, self.ids, strict=True)]
        found = sampler.compute_probabilities(rows, seen)
        chosen = checked_ids(sampler.get_next_token(found), len(rows), vocabulary)
        states = b""
        for row, id_ in enumerate(chosen):
            request, ids = self.requests[row], self.ids[row]
            if row in self.running:
                ids.append(id_)
                if id_ in request.stop_ids or len(ids) == request.limit:
                    self.running.discard(row)
                decoder.cached[row] = request.prompt + ids[:-1]
            position = len(request.prompt) - 1 + len(ids)
            done = int(row not in self.running)
            states += struct.pack("<4I", position, id_, len(ids), done)
        decoder.device.write(decoder.state, states)

    def _plan(self, done: Submit) -> None:
        """Choose K from how long the steps took."""
        now = time.perf_counter()
        seconds = (now - max(done.time, self.last_done)) / done.steps
        self.last_done = now
        if self.steps_per_submit is not None:
            self.steps = self.steps_per_submit
        else:
            fitting = int(SUBMIT_SECONDS / max(seconds, 1e-9))
            self.steps = max(1, min(2 * self.steps, fitting, RING_STEPS))


def common_length(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))


class Losses:
    """Counts devices that were lost in a row, with no id generated in between."""

    def __init__(self) -> None:
        self.count = 0
        self._generated = 0

    def add(self, error: DeviceLost, generated: int = 0) -> None:
        """One more, after so many ids in all. Raises DeviceError for the last that is borne."""
        self.count = self.count + 1 if generated == self._generated else 1
        self._generated = generated
        if self.count >= MAX_LOSSES:
            raise DeviceError(
                f"{error}. It was started again and lost {self.count} times in a row, so it is "
                "lost for good: restart the browser or program, update the graphics driver, or "
                "take a smaller model or precision",
                code="device-lost",
            ) from error


class Host(Protocol):
    """What a TextStream needs of a model."""

    turn: Turn

    async def session(self, rows: int, length: int, alternatives: int) -> Session:
        """Raises DeviceLost, also when a device was lost while it was put in another's place."""


class Tally:
    """Counts the ids of a batch, and of the others of its call, for whom `report` is not None.

    In all there are as many as the rows may have, less what those that end early leave out.
    """

    def __init__(self, report: Report | None, requests: Sequence[Request]) -> None:
        self._report = report
        self._counts = [0] * len(requests)
        self._limits = [request.limit for request in requests]
        self._first = 0

    def begin(self, first: int) -> None:
        """What is counted from now on are requests from this one on."""
        self._first = first

    def count(self, ids: Iterable[Sequence[int]], running: set[int]) -> None:
        """A batch's rows so far, and which of them go on."""
        if self._report is None:
            return
        for row, found in enumerate(ids):
            self._counts[self._first + row] = len(found)
            if row not in running:
                self._limits[self._first + row] = len(found)
        self._report(sum(self._counts), sum(self._limits))


async def collect(
    host: Host,
    requests: Sequence[Request],
    length: int,
    sampler: Sampler | None = None,
    tally: Tally | None = None,
) -> list[list[int]]:
    """The ids that a batch of prompts generates; a stop id is the last of its row.

    A sampler that chooses by a method of its own gets probabilities [rows, vocabulary] on the CPU
    at every step, which is slow; every other choice is made on the GPU.
    """
    if not requests or all(request.limit == 0 for request in requests):
        return [[] for _ in requests]
    ids: list[list[int]] = [[] for _ in requests]
    losses = Losses()
    await host.turn.take()
    try:
        while True:
            try:
                session = await host.session(len(requests), length, 0)
                chooses = sampler is not None and sampler.chooses_itself
                run = Run(session, requests, 1 if chooses else None, ids)
                while not await run.prefill():
                    pass
                while run.running:
                    if sampler is not None and chooses:
                        await run.choose(sampler)
                    else:
                        await run.read()
                    if tally is not None:
                        tally.count(ids, run.running)
                return ids
            except DeviceLost as error:
                losses.add(error, sum(map(len, ids)))
    finally:
        host.turn.give()
