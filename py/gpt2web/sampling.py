"""How a row is sampled: the options, checked, and the CPU twin of the sampling kernels.

The twin follows shaders/scores.wgsl and select.wgsl step by step in plain Python, with the same
integer weights and the same random numbers, so that both choose the same id from the same logits.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WEIGHT_ONE = 1 << 30  # the weight of the most probable id, as an integer
LEAST_TOP_P = 2.0**-24  # keeps one id, as all below do; f32 would round those to 0


@dataclass(frozen=True)
class Sampling:
    """How to choose an id: repetition penalty, then temperature, top-k, top-p and min-p.

    temperature: at least 0; 0 is greedy.
    top_k: how many of the most probable ids stay; None for all.
    top_p: in (0, 1]: the fewest most probable ids that reach this probability stay; None for all.
    min_p: in (0, 1]: ids at least this many times as probable as the first stay; None for all.
    repetition_penalty: over 0; 1 is none. CTRL's (arXiv 1909.05858), once per distinct id seen.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        temperature = _number("temperature", self.temperature)
        if not (temperature == 0 or 1e-6 <= temperature <= 1e6):
            raise ValueError(
                f"temperature must be 0 (greedy) or between 1e-6 and 1e6, got {self.temperature}"
            )
        if self.top_k is not None:
            if isinstance(self.top_k, bool) or not isinstance(self.top_k, int):
                raise TypeError(f"top_k must be an int or None, got {self.top_k!r}")
            if self.top_k < 1:
                raise ValueError(f"top_k must be at least 1, or None for all ids, got {self.top_k}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < _number(name, value) <= 1:
                raise ValueError(f"{name} must be over 0 and at most 1, or None, got {value}")
        penalty = _number("repetition_penalty", self.repetition_penalty)
        if not 1e-6 <= penalty <= 1e6:
            raise ValueError(
                f"repetition_penalty must be between 1e-6 and 1e6 (1: none), got {penalty}"
            )

    def pack(self, seed: int, call: int, limit: int) -> bytes:
        """The row's struct Sampling of shaders/sampling.wgsl: 32 bytes."""
        return struct.pack(
            "<fIfffIII",
            self.temperature,
            min(self.top_k or 0, 0xFFFFFFFF),
            1.0 if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            self.min_p or 0.0,
            self.repetition_penalty,
            seed,
            call,
            limit,
        )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


class Choice(NamedTuple):
    """An id, and how far the decision was from another one.

    margin: the least distance of the draw, or of a cut, from a boundary, as a probability; for a
    greedy choice the gap between the two highest scores.
    """

    id: int
    margin: float


def choose(
    logits: Sequence[float],
    sampling: Sampling,
    *,
    seed: int = 0,
    call: int = 0,
    step: int = 0,
    seen: Collection[int] = (),
) -> Choice:
    """The id that the sampling kernels choose from a row of logits [vocabulary].

    seed: of the row. call and step: which generation of the sampler, which id of it. seen: the ids
    that the repetition penalty is for.
    """
    scores = penalized(logits, sampling, seen)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if sampling.temperature == 0:
        gap = scores[order[0]] - scores[order[1]] if len(order) > 1 else math.inf
        return Choice(order[0], gap)
    ratios = _ratios(scores, scores[order[0]], sampling)
    kept, margin = _cut(ratios, order, sampling)
    weights = {i: _weight(ratios[i]) for i in sorted(kept)}
    total = sum(weights.values())
    bits, _ = threefry((seed & 0xFFFFFFFF, call), (step, 0))
    goal = unit_interval(bits) * total
    cumulative = 0
    chosen = order[0]
    for i, weight in weights.items():
        if weight:
            chosen = i
            if cumulative + weight > goal:
                break
            cumulative += weight
    for edge in (cumulative, cumulative + weights[chosen]):
        if 0 < edge < total:  # the ends are no boundaries
            margin = min(margin, abs(edge - goal) / total)
    return Choice(chosen, margin)


def probabilities(
    logits: Sequence[float], sampling: Sampling, seen: Collection[int] = ()
) -> list[float]:
    """The exact distribution [vocabulary] that `choose` draws from; greedy is 1 for one id."""
    scores = penalized(logits, sampling, seen)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    weights = [0.0] * len(scores)
    if sampling.temperature == 0:
        weights[order[0]] = 1.0
        return weights
    ratios = _ratios(scores, scores[order[0]], sampling)
    for i in _cut(ratios, order, sampling)[0]:
        weights[i] = ratios[i]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def penalized(
    logits: Sequence[float], sampling: Sampling, seen: Collection[int] = ()
) -> Sequence[float]:
    """Logits after repetition penalty, in f32 as on the GPU: [vocabulary]."""
    scores = array("f", logits)
    (penalty,) = array("f", (sampling.repetition_penalty,))
    if penalty != 1:
        for i in set(seen):
            scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
    return scores


def _ratios(scores: Sequence[float], highest: float, sampling: Sampling) -> list[float]:
    """How probable each id is, over the most probable one."""
    (temperature,) = array("f", (sampling.temperature,))
    return [math.exp((score - highest) / temperature) for score in scores]


def _weight(ratio: float) -> int:
    return int(ratio * WEIGHT_ONE + 0.5)


def _cut(ratios: list[float], order: list[int], sampling: Sampling) -> tuple[list[int], float]:
    """The ids that top-k, top-p and min-p keep of `order`, and the margin of the nearest cut."""
    margin = 1.0
    kept = order
    if sampling.top_k is not None and sampling.top_k < len(order):
        kept = order[: sampling.top_k]
        last, next_one = (ratios[order[n]] for n in (sampling.top_k - 1, sampling.top_k))
        if last != next_one:
            margin = last - next_one
    if sampling.top_p is not None and sampling.top_p < 1:
        total = sum(_weight(ratios[i]) for i in kept)
        goal = sampling.top_p * total
        cumulative = 0
        for n, i in enumerate(kept):
            before, cumulative = cumulative, cumulative + _weight(ratios[i])
            if cumulative >= goal:
                margin = min(margin, (cumulative - goal) / total)
                if n:
                    margin = min(margin, (goal - before) / total)
                kept = kept[: n + 1]
                break
    if sampling.min_p is not None:
        margin = min([margin, *(abs(ratios[i] - sampling.min_p) for i in kept)])
        kept = [i for i in kept if ratios[i] >= sampling.min_p]
    return kept, margin


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011), as shaders/random.wgsl.

    >>> [hex(word) for word in threefry((0, 0), (0, 0))]
    ['0x6b200159', '0x99ba4efe']
    """
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a = (counter[0] + keys[0]) & 0xFFFFFFFF
    b = (counter[1] + keys[1]) & 0xFFFFFFFF
    for i in range(20):
        a = (a + b) & 0xFFFFFFFF
        b = ((b << rotations[i % 8]) | (b >> (32 - rotations[i % 8]))) & 0xFFFFFFFF ^ a
        if i % 4 == 3:
            n = i // 4 + 1
            a = (a + keys[n % 3]) & 0xFFFFFFFF
            b = (b + keys[(n + 1) % 3] + n) & 0xFFFFFFFF
    return a, b


def unit_interval(bits: int) -> float:
    """24 random bits as a number in [0, 1)."""
    return (bits >> 8) * 2.0**-24


def bit_words(ids: Iterable[int], vocabulary_size: int) -> list[int]:
    """A set of ids as u32 words, bit id % 32 of word id // 32.

    >>> bit_words([0, 33], 40)
    [1, 2]
    """
    words = [0] * (-(-vocabulary_size // 32))
    for i in ids:
        words[i // 32] |= 1 << (i % 32)
    return words
