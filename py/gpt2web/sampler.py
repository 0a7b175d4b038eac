"""Samplers under KerasHub's names. Each is a way to choose ids (sampling.Sampling) with a seed; the
choosing itself happens on the GPU.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from gpt2web.arguments import to_lists
from gpt2web.sampling import Sampling, choose


def check_seed(seed: Any) -> int | None:
    """seed as an int in 0..2^32 - 1; None stays None."""
    if seed is None:
        return None
    if isinstance(seed, bool):
        raise TypeError(f"seed must be an int or None, got {seed!r}")
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an int or None, got {seed!r}") from None
    if not 0 <= number < 1 << 32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {number}")
    return number


def draw_seed() -> int:
    """A seed from the system's randomness."""
    return int.from_bytes(os.urandom(4), "little")


class Sampler:
    """Chooses the next id.

    temperature, min_p, repetition_penalty: as in sampling.Sampling, for every sampler. The n-th
    generate of a sampler object continues its random numbers; a new object with the same seed
    begins them anew. seed None draws one, which `seed` then holds.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        seed: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        **cuts: Any,
    ) -> None:
        self.sampling = Sampling(
            temperature=temperature, min_p=min_p, repetition_penalty=repetition_penalty, **cuts
        )
        checked = check_seed(seed)
        self.seed = draw_seed() if checked is None else checked
        self.calls = 0  # generates so far

    @property
    def temperature(self) -> float:
        return self.sampling.temperature

    @property
    def chooses_itself(self) -> bool:
        """Whether a subclass overrides get_next_token: it is then asked at every step."""
        return type(self).get_next_token is not Sampler.get_next_token

    def get_next_token(self, probabilities: Any) -> list[int]:
        """The next id of each row of probabilities [rows, vocabulary], as lists.

        A subclass may override it, to choose from softmax(logits / temperature) after repetition
        penalty and min-p; it may return a list or an array of ids. As it stands it chooses as the
        GPU does, with the random numbers of the next call.
        """
        chosen = []
        for row, own in enumerate(to_lists(probabilities)):
            logits = [math.log(p) if p > 0 else -math.inf for p in own]
            seed = (self.seed + row) & 0xFFFFFFFF
            sampling = replace(self.sampling, temperature=float(self.sampling.temperature != 0))
            chosen.append(choose(logits, sampling, seed=seed, call=self.calls).id)
        self.calls += 1
        return chosen

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "temperature": self.sampling.temperature,
            "seed": self.seed,
            "min_p": self.sampling.min_p,
            "repetition_penalty": self.sampling.repetition_penalty,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**config)


class GreedySampler(Sampler):
    """The most probable id; of equal ones the lowest."""

    def __init__(self, temperature: float = 1.0, *, repetition_penalty: float = 1.0) -> None:
        super().__init__(temperature, seed=0)
        self.sampling = Sampling(temperature=0, repetition_penalty=repetition_penalty)
        self._temperature = temperature

    @property
    def temperature(self) -> float:
        return self._temperature

    def get_config(self) -> dict[str, Any]:
        return {
            "temperature": self._temperature,
            "repetition_penalty": self.sampling.repetition_penalty,
        }


class RandomSampler(Sampler):
    """Any id, by its probability."""


class TopKSampler(Sampler):
    """One of the k most probable ids."""

    def __init__(self, k: int = 5, seed: int | None = None, **options: Any) -> None:
        super().__init__(seed=seed, top_k=k, **options)
        self.k = k

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k} | super().get_config()


class TopPSampler(Sampler):
    """One of the fewest most probable ids that reach probability p, of the first k where given."""

    def __init__(
        self, p: float = 0.1, k: int | None = None, seed: int | None = None, **options: Any
    ) -> None:
        super().__init__(seed=seed, top_p=p, top_k=k, **options)
        self.p = p
        self.k = k

    def get_config(self) -> dict[str, Any]:
        return {"p": self.p, "k": self.k} | super().get_config()


def checked_ids(ids: Any, rows: int, vocabulary: int) -> list[int]:
    """What a get_next_token returned, as `rows` ids. ValueError: anything else."""
    found = to_lists(ids)
    if not isinstance(found, list) or len(found) != rows:
        raise ValueError(f"get_next_token: wanted {rows} ids, one a row, got {ids!r}")
    for i in found:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocabulary:
            raise ValueError(f"get_next_token: wanted ids of 0 to {vocabulary - 1}, got {i!r}")
    return found


SAMPLERS: dict[str, type[Sampler]] = {
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}


def get(identifier: str | Sampler) -> Sampler:
    """A sampler by name, or the one given."""
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, str):
        if identifier in SAMPLERS:
            return SAMPLERS[identifier]()
        raise ValueError(f"no sampler is named {identifier!r}; there are {', '.join(SAMPLERS)}")
    raise ValueError(f"a sampler is a name or a Sampler, got {identifier!r}")
