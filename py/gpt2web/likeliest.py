"""The most probable ids of rows of logits, by the kernels of generation's alternatives."""

from __future__ import annotations

import struct

from gpt2web import kernels
from gpt2web.chunks import logits_of
from gpt2web.gpu import MAX_ROWS, Device, Readback, Tensor, largest_tensor
from gpt2web.kernels import ceil_div
from gpt2web.sampling import Sampling
from gpt2web.weights import Weights

ROWS = 16  # of logits that are held together

Ranked = list[tuple[int, float]]  # ids with their natural log-probabilities, the highest first


def rows_at_once(device: Device, rows: int, vocabulary: int) -> int:
    """How many of so many rows to take together, in parts of about the same size."""
    most = min(ROWS, max(1, largest_tensor(device) // (4 * vocabulary)))
    return ceil_div(rows, ceil_div(rows, most))


class Likeliest:
    """Buffers and calls for `rows` rows at once: `logits` [rows, vocabulary] in, the `top` highest
    of each out."""

    def __init__(self, device: Device, rows: int, vocabulary: int, top: int) -> None:
        self.top = top
        self.row_bytes = 4 * (2 + 2 * top)  # what a row leaves in `found`
        self.state = device.tensor((MAX_ROWS, 4), "u32", uniform=True)  # zeros: every row runs
        self.logits = device.tensor((rows, vocabulary))
        samplings = device.tensor((MAX_ROWS, 8), "u32", uniform=True)
        no_flags = device.tensor((4,), "u32")  # not read without a repetition penalty
        scores = device.tensor((rows, vocabulary))
        summaries = device.tensor((rows, ceil_div(vocabulary, 1024), 4))
        self.found = device.tensor((1, rows, 2 + 2 * top), "u32")
        device.write(samplings, Sampling().pack(0, 0, 0) * rows)
        self.calls = [
            kernels.scores(device, self.state, samplings, self.logits, no_flags, scores, summaries),
            kernels.alternatives(device, self.state, self.logits, summaries, self.found),
        ]
        self._tensors = [
            self.state,
            self.logits,
            samplings,
            no_flags,
            scores,
            summaries,
            self.found,
        ]

    def copy(
        self, readback: Readback, first: int, count: int
    ) -> tuple[Tensor, int, Readback, int, int]:
        """What takes the first `count` rows to their place, `first`, in a readback of all rows."""
        return (self.found, 0, readback, first * self.row_bytes, count * self.row_bytes)

    def read(self, data: memoryview) -> list[Ranked]:
        """Of each row in a readback."""
        pairs = list(struct.iter_unpack("<If", data))  # the first of each row is not written
        return [pairs[n + 1 : n + 1 + self.top] for n in range(0, len(pairs), 1 + self.top)]

    def destroy(self) -> None:
        self.calls = []
        for tensor in self._tensors:
            tensor.destroy()


async def likeliest_of(weights: Weights, hidden: Tensor, top: int) -> list[Ranked]:
    """The `top` highest at each of hidden [1, n, hidden], states after the final norm."""
    device, (_, n, width) = hidden.device, hidden.shape
    vocabulary = weights.config.vocabulary_size
    at_once = rows_at_once(device, n, vocabulary)
    likeliest = Likeliest(device, at_once, vocabulary, top)
    part = device.tensor((at_once, width))
    readback = device.readback(n * likeliest.row_bytes)
    try:
        calls = [*logits_of(weights, part, likeliest.logits, at_once), *likeliest.calls]
        for first in range(0, n, at_once):
            count = min(at_once, n - first)
            device.submit([], copies=[(hidden, 4 * first * width, part, 0, 4 * count * width)])
            device.submit(calls, copies=[likeliest.copy(readback, first, count)])
            await device.settled()
        readback.map()
        return likeliest.read(await readback.take(n * likeliest.row_bytes))
    finally:
        part.destroy()
        likeliest.destroy()
        readback.destroy()
