"""Beam and contrastive search over rows of the decoder: several continuations of each prompt.

A step takes every row one id on and reads back its most probable next ids, a few numbers a row;
logits and hidden states stay on the GPU. Which continuation goes on is decided here, and the rows
of the others take over its keys and values (shaders/copy_slots.wgsl).

Member m of prompt p is row m * prompts + p: a prompt is prefilled once, in the row of its first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gpt2web import kernels
from gpt2web.chunks import Chunks, Span
from gpt2web.generate import Host, Losses, Request, Session, Submit, Tally
from gpt2web.gpu import MAX_ROWS, DeviceLost, Readback, Tensor
from gpt2web.sampling import Sampling, bit_words
from gpt2web.searchers import BeamSampler, ContrastiveSampler, Ranked

Moves = dict[int, tuple[int, int, int]]  # row: source row, first slot, end
Copy = tuple[Tensor, int, Tensor | Readback, int, int]  # source, offset, target, offset, bytes


class Beam(NamedTuple):
    """A continuation: its ids, and the sum of their log-probabilities; row: of the decoder."""

    ids: list[int]
    score: float
    row: int = 0


class Step(NamedTuple):
    """What a row gives back: its next ids, best first, and how like its last id is to those before
    (contrastive search only)."""

    ranked: Ranked
    similarity: float


class Rows:
    """Rows of a session's decoder, and what a search records and holds beyond it.

    states: [prompts, length, hidden] after the final norm, for contrastive search.
    """

    def __init__(self, session: Session, sampling: Sampling, states: Tensor | None = None) -> None:
        decoder = session.decoder
        device, config, rows = decoder.device, decoder.config, decoder.rows
        self.session = session
        self.decoder = decoder
        self.sampling = sampling
        # by row: source row, first slot, end, unused
        self.moves = device.tensor((MAX_ROWS, 4), "u32", uniform=True)
        self.copy_slots = [
            kernels.copy_slots(device, self.moves, layer) for layer in decoder.cache.layers
        ]
        self.unshaped = device.tensor((MAX_ROWS, 8), "u32", uniform=True)
        device.write(session.samplings, sampling.pack(0, 0, 0) * rows)
        device.write(self.unshaped, Sampling().pack(0, 0, 0) * rows)

        state, flags, summaries = decoder.state, session.flags, session.summaries
        logits, shaped = decoder.logits, session.scores
        given = state, session.samplings, logits, flags, shaped, summaries
        calls = [kernels.scores(device, *given, tempered=True)]
        if sampling != Sampling():
            # summaries of what temperature and penalty made of the logits, which go back in place
            logits, shaped = shaped, logits
            calls.append(
                kernels.scores(device, state, self.unshaped, logits, flags, shaped, summaries)
            )
        calls.append(kernels.alternatives(device, state, logits, summaries, session.ring))
        self.hidden = self.similarities = None
        if states is not None:
            self.hidden = device.tensor((rows, config.hidden_dim))
            self.similarities = device.tensor((rows,))
            ln_f, epsilon = decoder.weights.norm("ln_f"), config.layer_norm_epsilon
            calls += [
                kernels.norm_chunk(device, decoder.x, ln_f, epsilon, self.hidden, rows),
                kernels.similarity(device, state, self.hidden, states, self.similarities),
            ]
        self.short_step = decoder.short_step + calls
        self.long_step = decoder.long_step + calls

    async def prefill(self, prompts: Sequence[list[int]], run: Callable[..., list[Span]]) -> None:
        """Take prompts into the rows of the first members, but for their last ids."""
        await self.session.drain()
        self.decoder.cached = [[] for _ in self.decoder.cached]  # rows will hold what they may
        spans: list[Span] = [(row, 0, prompt[:-1]) for row, prompt in enumerate(prompts)]
        while spans:
            spans = run(spans)
            await self.decoder.device.settled()

    async def step(self, texts: Mapping[int, list[int]]) -> dict[int, Step]:
        """Take rows one id on: {row: all its ids, the last of them not yet in the cache}."""
        session, decoder = self.session, self.decoder
        device, rows, words = decoder.device, decoder.rows, session.entry_words
        vocabulary = decoder.config.vocabulary_size
        last = max(len(ids) for ids in texts.values()) - 1
        states, flags = b"", b""
        for row in range(rows):
            ids = texts.get(row)
            states += struct.pack("<4I", len(ids) - 1, ids[-1], 0, 0) if ids else _DONE
            if self.sampling.repetition_penalty != 1:
                seen = bit_words(ids or (), vocabulary)
                flags += struct.pack(f"<{2 * len(seen)}I", *seen, *[0] * len(seen))
        device.write(decoder.state, states)
        if flags:
            device.write(session.flags, flags)

        size = 4 * rows * words  # the ring's first step
        readback = session.free[-1]
        copies: list[Copy] = [(session.ring, 0, readback, 0, size)]
        if self.similarities is not None:
            copies.append((self.similarities, 0, readback, size, 4 * rows))
            size += 4 * rows
        device.submit(self.short_step if last < kernels.SPLIT else self.long_step, copies=copies)
        readback.map(size)
        session.free.pop()
        session.in_flight.append(Submit(readback, 1, 0.0))
        data = await readback.take(size)
        session.in_flight.popleft()
        session.free.append(readback)

        entries, floats = data.cast("B").cast("I"), data.cast("B").cast("f")
        found = {}
        for row in texts:
            pairs = range(row * words + 2, (row + 1) * words, 2)
            # a vocabulary smaller than what was asked for ends in ids beyond it
            ranked = [(entries[n], floats[n + 1]) for n in pairs if entries[n] < vocabulary]
            similarity = 0.0 if self.similarities is None else floats[rows * words + row]
            found[row] = Step(ranked, similarity)
        return found

    def move(self, moves: Moves, copies: Iterable[Copy] = ()) -> None:
        """Rows take over slots of others, none of which takes over any itself; then `copies`."""
        table = b"".join(
            struct.pack("<4I", *moves.get(row, (row, 0, 0)), 0) for row in range(self.decoder.rows)
        )
        device = self.decoder.device
        device.write(self.moves, table)
        device.submit(self.copy_slots if moves else [], copies=copies)

    def destroy(self) -> None:
        for tensor in (self.moves, self.unshaped, self.hidden, self.similarities):
            if tensor is not None:
                tensor.destroy()


_DONE = struct.pack("<4I", 0, 0, 0, 1)


async def search(
    host: Host,
    requests: Sequence[Request],
    length: int,
    sampler: BeamSampler | ContrastiveSampler,
    tally: Tally,
) -> list[list[Beam]]:
    """The continuations of each prompt, best first; a stop id is the last of one.

    Beam search gives num_beams of them, the last one again where there are not so many;
    contrastive search gives one, with score 0.
    """
    found = [[Beam([], 0.0, row)] for row in range(len(requests))]
    if any(request.limit for request in requests):
        await host.turn.take()
        try:
            found = await _searched(host, requests, length, sampler, tally)
        finally:
            host.turn.give()
    wanted = sampler.num_beams if isinstance(sampler, BeamSampler) else 1
    return [beams + [beams[-1]] * (wanted - len(beams)) for beams in found]


async def _searched(
    host: Host,
    requests: Sequence[Request],
    length: int,
    sampler: BeamSampler | ContrastiveSampler,
    tally: Tally,
) -> list[list[Beam]]:
    """Begins again where the device is lost: nothing is drawn, so it finds the same."""
    width, losses = sampler.rows_per_prompt, Losses()
    while True:
        try:
            session = await host.session(width * len(requests), length, width)
            if isinstance(sampler, BeamSampler):
                return await _beam_search(session, requests, sampler, tally)
            return await _contrastive_search(session, requests, sampler, tally)
        except DeviceLost as error:
            losses.add(error)


async def _beam_search(
    session: Session, requests: Sequence[Request], sampler: BeamSampler, tally: Tally
) -> list[list[Beam]]:
    prompts = [request.prompt for request in requests]
    beams = [[Beam([], 0.0, row)] for row in range(len(prompts))]
    running = {row for row, request in enumerate(requests) if request.limit}
    rows = Rows(session, sampler.sampling)
    try:
        await rows.prefill(prompts, session.decoder.prefill)
        while running:
            texts = {beam.row: prompts[p] + beam.ids for p in running for beam in beams[p]}
            steps = await rows.step(texts)
            moves: Moves = {}
            for p in sorted(running):
                request, parents = requests[p], beams[p]
                best = sampler.best(
                    [beam.score for beam in parents], [steps[beam.row].ranked for beam in parents]
                )
                own_rows = range(p, session.decoder.rows, len(prompts))
                beams[p] = _children(parents, best, own_rows)
                if len(beams[p][0].ids) == request.limit or all(
                    not request.stop_ids.isdisjoint(beam.ids) for beam in beams[p]
                ):
                    running.discard(p)
                    continue
                # the first step has only the prompt's row: the others take over all of it
                first = len(prompts[p]) if parents[0].ids else 0
                end = len(prompts[p]) + len(parents[0].ids)
                for (_, parent, _), beam in zip(best, beams[p], strict=True):
                    if beam.row != parents[parent].row:
                        moves[beam.row] = (parents[parent].row, first, end)
            tally.count([own[0].ids for own in beams], running)
            if moves:
                rows.move(moves)
    finally:
        rows.destroy()
    return [
        [beam._replace(ids=_through_stop(beam.ids, request.stop_ids)) for beam in found]
        for request, found in zip(requests, beams, strict=True)
    ]


def _children(
    parents: Sequence[Beam], best: Sequence[tuple[float, int, int]], rows: Iterable[int]
) -> list[Beam]:
    """The beams that go on. A parent's first child stays in its row; the others get the rows of
    parents without children, so that no row is copied from and to."""
    kept = {parents[parent].row for _, parent, _ in best}
    free = [row for row in rows if row not in kept]
    children = []
    for score, parent, id_ in best:
        row = parents[parent].row
        if row in kept:
            kept.discard(row)
        else:
            row = free.pop(0)
        children.append(Beam([*parents[parent].ids, id_], score, row))
    return children


async def _contrastive_search(
    session: Session, requests: Sequence[Request], sampler: ContrastiveSampler, tally: Tally
) -> list[list[Beam]]:
    decoder = session.decoder
    device, hidden = decoder.device, decoder.config.hidden_dim
    prompts = [request.prompt for request in requests]
    count = len(prompts)
    ids: list[list[int]] = [[] for _ in prompts]
    running = {row for row, request in enumerate(requests) if request.limit}
    states = device.tensor((count, decoder.length, hidden))
    chunks = Chunks(decoder.cache, decoder.weights, states)
    rows = Rows(session, sampler.sampling, states)

    def keep(p: int, winner: int, position: int) -> Copy:
        """Adds the winner's hidden state to those of its prompt."""
        assert rows.hidden is not None
        place = (p * decoder.length + position) * hidden
        return (rows.hidden, 4 * winner * hidden, states, 4 * place, 4 * hidden)

    try:
        await rows.prefill(prompts, chunks.run)
        steps = await rows.step({p: prompts[p] for p in running})
        ranked = {p: steps[p].ranked for p in running}
        moves: Moves = {}
        copies: list[Copy] = []
        for p in running:
            copies.append(keep(p, p, len(prompts[p]) - 1))
            moves |= {r: (p, 0, len(prompts[p])) for r in range(p + count, decoder.rows, count)}
        while running:
            rows.move(moves, copies)
            moves.clear()
            copies.clear()
            steps = await rows.step(
                {
                    p + member * count: [*prompts[p], *ids[p], id_]
                    for p in running
                    for member, (id_, _) in enumerate(ranked[p])
                }
            )
            for p in sorted(running):
                own_rows = range(p, p + len(ranked[p]) * count, count)
                member = sampler.best(ranked[p], [steps[row].similarity for row in own_rows])
                position = len(prompts[p]) + len(ids[p])
                ids[p].append(ranked[p][member][0])
                if ids[p][-1] in requests[p].stop_ids or len(ids[p]) == requests[p].limit:
                    running.discard(p)
                    continue
                winner = own_rows[member]
                ranked[p] = steps[winner].ranked
                copies.append(keep(p, winner, position))
                others = (row for row in range(p, decoder.rows, count) if row != winner)
                moves |= {row: (winner, position, position + 1) for row in others}
            tally.count(ids, running)
    finally:
        rows.destroy()
        chunks.destroy()
        states.destroy()
    return [[Beam(found, 0.0, p)] for p, found in enumerate(ids)]


def _through_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    """ids through the first stop id."""
    for n, id_ in enumerate(ids):
        if id_ in stop_ids:
            return ids[: n + 1]
    return ids
