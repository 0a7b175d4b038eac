"""Quantises matrices in numpy, as shaders/quantize.wgsl does on the GPU; precision.py says how they
lie in words.

8 bits: groups of 32 K-values, scale = max |x| / 127 in f32. 4 bits: groups of 16, scale in f16, the
best of 16: those that put the value of largest magnitude at 6.5 to 8 steps on one side or the
other, and the least-squares refit of each, sum(q x) / sum(q q). A scale may be negative, as -8 has
no positive twin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpt2web.convert.source import Floats
from gpt2web.precision import GROUPS, SCALED, word_rows

Words = NDArray[np.uint32]

SMALLEST = np.float32(1e-36)  # a group below it is 0: its scale's reciprocal would overflow
F16_OVERFLOW = 65520  # what rounds to infinity
STEPS = (-8, -7.5, -7, -6.5, 8, 7.5, 7, 6.5)  # where the value of largest magnitude is put
AT_ONCE = 1 << 16  # values; what is made of them stays in the processor's cache


def quantize(values: Floats, bits: int) -> tuple[Words, Words]:
    """K-values [k, columns] in 8 or 4 bits: words [word_rows(k), columns] and scales
    [k / 32, columns], both rounded up. Of a matrix in pieces, all but the last have whole 32s.

    Values must be finite. A group of 4 bits whose scale overflows f16 is an OverflowError.
    """
    k, columns = values.shape
    scale_rows = -(-k // SCALED)
    words = np.zeros((scale_rows * bits, columns), np.uint32)  # 32 K-values are as many words
    scales = np.zeros((scale_rows, columns), np.uint32)
    width = max(1, AT_ONCE // SCALED)
    for row in range(scale_rows):
        piece = values[row * SCALED : (row + 1) * SCALED]
        for first in range(0, columns, width):
            x = np.zeros((SCALED, min(width, columns - first)), np.float32)
            x[: len(piece)] = piece[:, first : first + width]
            part = slice(first, first + width)
            groups = x.reshape(-1, GROUPS[bits], x.shape[1])  # [1 or 2, 32 or 16, columns]
            if bits == 8:
                found = _scales8(groups)
                scales[row, part] = found[0].view(np.uint32)
            else:
                halves = _best_scales4(groups)
                low, high = halves.view(np.uint16).astype(np.uint32)
                scales[row, part] = low | high << 16
                found = halves.astype(np.float32)
            q = _quantized(groups, found, bits).astype(np.int32).view(np.uint32)
            words[row * bits : (row + 1) * bits, part] = _packed(q.reshape(x.shape), bits)
    return words[: word_rows(k, bits)], scales


def _quantized(x: Floats, scales: Floats, bits: int) -> Floats:
    """[groups, values, columns] and [groups, columns] -> the integers, as floats"""
    each = scales[:, None]
    q = np.divide(x, each, out=np.zeros_like(x), where=each != 0)
    np.rint(q, out=q)
    least, most = (-127, 127) if bits == 8 else (-8, 7)
    return np.clip(q, least, most, out=q)


def _scales8(x: Floats) -> Floats:
    magnitude = np.abs(x).max(axis=1)
    return np.where(magnitude > SMALLEST, magnitude / np.float32(127), np.float32(0))


def _best_scales4(x: Floats) -> NDArray[np.float16]:
    """[groups, 16, columns] -> [groups, columns]"""
    which = np.abs(x).argmax(axis=1)
    largest = np.take_along_axis(x, which[:, None], axis=1)[:, 0]
    if np.abs(largest).max() / 8 >= F16_OVERFLOW:
        raise OverflowError("a group's scale is more than f16 holds")
    best = np.zeros(largest.shape, np.float16)
    least = np.full(largest.shape, np.inf, np.float32)
    for steps in STEPS:
        wanted = largest / np.float32(steps)
        for refit in (True, False):
            with np.errstate(over="ignore"):
                scales = wanted.astype(np.float16)
            q = _quantized(x, scales.astype(np.float32), 4)
            if refit:
                squares = (q * q).sum(axis=1)
                wanted = np.divide(
                    (q * x).sum(axis=1), squares, out=np.zeros_like(squares), where=squares > 0
                )
            with np.errstate(invalid="ignore"):  # 0 times an infinite scale
                q *= scales.astype(np.float32)[:, None]
            q -= x
            q *= q
            error = q.sum(axis=1)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, scales, best)
    return best + np.float16(0)  # no -0


def _packed(q: Words, bits: int) -> Words:
    """[32, columns] -> [bits, columns]: 32 / bits of a column to a word, low bits first"""
    per = 32 // bits
    fields = (q & np.uint32((1 << bits) - 1)).reshape(bits, per, -1)
    shifts = np.arange(per, dtype=np.uint32)[:, None] * np.uint32(bits)
    packed: Words = np.bitwise_or.reduce(fields << shifts, axis=1)
    return packed
