"""Whether a quantity that was sampled again and again stays level, or grows.

The slope is Theil and Sen's: the median of the slopes between all pairs of samples, which a few
samples gone astray don't move. Its interval holds the true one with 95 % confidence if the samples
don't hang together (P. K. Sen, 1968, "Estimates of the regression coefficient based on Kendall's
tau").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, floor, sqrt
from statistics import median

PART = 0.8  # of the samples' range, the last of it: what warms up comes before
PER = 10_000  # tokens that a slope is given for
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Slope:
    """Growth in PER tokens: the estimate, and the ends of its interval; level: the median value."""

    level: float
    per: float
    low: float
    high: float
    samples: int

    def verdict(self, limit: float) -> str:
        """ "flat": the whole interval is at or below the limit; "grows": all of it above."""
        if self.high <= limit:
            return "flat"
        return "grows" if self.low > limit else "unclear"


def slope(tokens: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope over the last PART of the tokens. ValueError for fewer than 8 samples there."""
    begin = tokens[0] + (1 - PART) * (tokens[-1] - tokens[0])
    points = [(at, value) for at, value in zip(tokens, values, strict=True) if at >= begin]
    count = len(points)
    if count < 8:
        raise ValueError(
            f"a slope needs 8 samples or more, and here are {count}: take them oftener"
        )
    found = sorted(PER * (y - v) / (x - u) for (u, v), (x, y) in combinations(points, 2))
    spread = NORMAL_95 * sqrt(count * (count - 1) * (2 * count + 5) / 18)
    first = max(0, floor((len(found) - spread) / 2) - 1)
    last = min(len(found) - 1, ceil((len(found) + spread) / 2))
    level = median(value for _, value in points)
    return Slope(level, median(found), found[first], found[last], count)
