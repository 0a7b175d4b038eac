"""Samplers under KerasHub's names: ways to choose ids (sampling.Sampling) with a seed.

In generate() the choosing happens on the GPU. Here are its twin on the CPU, which get_next_token
and the direct call use, and the base class of samplers of one's own. The two samplers that follow
several continuations of a prompt at once are in searchers.py.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from gpt2web.arguments import to_lists, to_rows, whole_number
from gpt2web.sampling import Sampling, choose, probabilities

# next(prompt, cache, index) -> logits [rows, vocabulary], hidden states [rows, hidden], cache
Next = Callable[[Any, Any, int], tuple[Any, Any, Any]]
LEAST_TEMPERATURE = 1e-6  # over 0: f32 logits tell no more apart


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
    """Chooses the next id from the whole distribution; the base of samplers of one's own.

    Args:
        temperature: what logits are divided by; 0 is greedy. One below 1e-6 counts as 1e-6.
        seed: 0 to 2^32 - 1. None draws one, which `seed` then holds; the config keeps the None.
        min_p, repetition_penalty: as in sampling.Sampling; None and 1 are off.

    A subclass overrides get_next_token(probabilities) and maybe get_config; generate() then brings
    the probabilities to the CPU for every id, which is slower than the samplers here.

    A new object with the same seed gives the same text; the n-th generate of an object continues
    its random numbers, and setting `seed` begins them anew. Row r of a batch is what it would be
    alone with seed + r.

    >>> class Last(Sampler):
    ...     def get_next_token(self, probabilities):
    ...         return [len(row) - 1 for row in probabilities]
    >>> Last().get_next_token([[0.2, 0.5, 0.3]])
    [2]
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        seed: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
    ) -> None:
        self.temperature = temperature
        self.min_p = min_p
        self.repetition_penalty = repetition_penalty
        self.seed = seed  # None draws one
        _ = self.sampling  # checks what was given

    @property
    def seed(self) -> int:
        """The seed in use."""
        return self._seed

    @seed.setter
    def seed(self, seed: int | None) -> None:
        self._asked_seed = check_seed(seed)
        self._seed = draw_seed() if self._asked_seed is None else self._asked_seed
        self.calls = 0  # generates so far

    @property
    def _shaping(self) -> Sampling:
        """What is done to the logits before anything is chosen."""
        temperature = self.temperature
        if isinstance(temperature, int | float) and 0 < temperature < LEAST_TEMPERATURE:
            temperature = LEAST_TEMPERATURE
        return Sampling(temperature, min_p=self.min_p, repetition_penalty=self.repetition_penalty)

    @property
    def sampling(self) -> Sampling:
        """How the GPU chooses. Raises ValueError and TypeError for options that make no sense."""
        return self._shaping

    @property
    def rows_per_prompt(self) -> int:
        """Rows of a batch on the GPU that a prompt takes."""
        return 1

    @property
    def chooses_itself(self) -> bool:
        """Whether a subclass overrides get_next_token: it is then asked at every step."""
        return type(self).get_next_token is not Sampler.get_next_token

    def compute_probabilities(self, logits: Any, seen: Any = None) -> list[list[float]]:
        """softmax(logits / temperature) of logits [rows, vocabulary], as lists: between repetition
        penalty, for the ids seen [rows, any], and min-p, where those are on.

        >>> [[round(p, 3) for p in row] for row in Sampler().compute_probabilities([[0.0, 1.0]])]
        [[0.269, 0.731]]
        """
        rows = to_lists(logits)
        seen = seen or [()] * len(rows)
        return [probabilities(row, self._shaping, ids) for row, ids in zip(rows, seen, strict=True)]

    def get_next_token(self, probabilities: Any) -> Any:
        """The next id of each row of probabilities [rows, vocabulary], as a list.

        A subclass may override it, to choose from what compute_probabilities gives; it may return a
        list or an array of ids. As it stands it chooses as the GPU does, with the random numbers of
        the next call.
        """
        sampling = self.sampling
        chosen = []
        for row, own in enumerate(to_lists(probabilities)):
            if sampling.temperature == 0:
                chosen.append(max(range(len(own)), key=own.__getitem__))
                continue
            logits = [math.log(p) if p > 0 else -math.inf for p in own]
            seed = (self.seed + row) & 0xFFFFFFFF
            as_is = replace(sampling, temperature=1.0, repetition_penalty=1.0)
            chosen.append(choose(logits, as_is, seed=seed, call=self.calls).id)
        self.calls += 1
        return chosen

    def __call__(
        self,
        next: Next,
        prompt: Any,
        cache: Any = None,
        index: int = 0,
        mask: Any = None,
        stop_token_ids: Any = None,
        hidden_states: Any = None,
        model: Any = None,
    ) -> Any:
        """KerasHub's loop, on the CPU: fill a prompt with a model of one's own.

        Args:
            next: next(prompt, cache, index) -> (logits [rows, vocabulary] of the id at column
                index, hidden states [rows, hidden] of the one before, cache), lists or arrays.
            prompt: ids [batch, length], a list of lists or an array; not changed.
            cache: handed to next, and replaced by what it returns.
            index: the column to begin at.
            mask: [batch, length], True where the prompt must stay.
            stop_token_ids: ids that end a row, where they are new.
            hidden_states: [batch, length, hidden] of the prompt, for ContrastiveSampler only.
            model: not used.

        Returns ids [batch, length] as lists.

        >>> def next(prompt, cache, index):
        ...     return [[0.0, 1.0, 0.0] for _ in prompt], None, cache
        >>> GreedySampler()(next, [[2, 0, 0, 0]], index=1)
        [[2, 1, 1, 1]]
        """
        rows, masks = prompt_and_mask(prompt, mask)
        stop_ids = stops(stop_token_ids)
        running = set(range(len(rows)))
        for column in range(index, len(rows[0]) if rows else 0):
            logits, _, cache = next(as_given(rows, prompt), cache, column)
            seen = [row[:column] for row in rows]
            found = self.compute_probabilities(
                rows_of(logits, len(rows)), seen if self.repetition_penalty != 1 else None
            )
            chosen = checked_ids(self.get_next_token(found), len(rows), len(found[0]))
            for row in sorted(running):
                if not masks[row][column]:
                    rows[row][column] = chosen[row]
                    if chosen[row] in stop_ids:
                        running.discard(row)
            if not running:
                break
        return rows

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "temperature": self.temperature,
            "seed": self._asked_seed,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A sampler of a config from get_config: its random numbers begin anew."""
        return cls(**config)


class GreedySampler(Sampler):
    """The most probable id; of equal ones the lowest.

    >>> GreedySampler().get_next_token([[0.2, 0.5, 0.3]])
    [1]
    """

    def __init__(self, temperature: float = 1.0, *, repetition_penalty: float = 1.0) -> None:
        super().__init__(temperature, seed=0, repetition_penalty=repetition_penalty)

    @property
    def sampling(self) -> Sampling:
        return replace(self._shaping, temperature=0.0)

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}


class RandomSampler(Sampler):
    """Any id, by its probability.

    >>> RandomSampler(seed=7).get_next_token([[0.0, 1.0, 0.0]])
    [1]
    """

    def __init__(
        self,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
    ) -> None:
        super().__init__(temperature, seed=seed, min_p=min_p, repetition_penalty=repetition_penalty)


class TopKSampler(Sampler):
    """One of the k most probable ids; of equally probable ones the lower are kept.

    >>> TopKSampler(k=1, seed=7).get_next_token([[0.2, 0.5, 0.3]])
    [1]
    """

    def __init__(
        self,
        k: int = 5,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
    ) -> None:
        self.k = whole_number(k, "k")
        super().__init__(temperature, seed=seed, min_p=min_p, repetition_penalty=repetition_penalty)

    @property
    def sampling(self) -> Sampling:
        return replace(self._shaping, top_k=self.k)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k} | super().get_config()


class TopPSampler(Sampler):
    """One of the fewest most probable ids that reach probability p; with k, of the k most probable
    ones, whose probabilities then add up to 1.

    >>> TopPSampler(p=0.6, k=2, seed=7).get_next_token([[0.2, 0.5, 0.3]])
    [1]
    """

    def __init__(
        self,
        p: float = 0.1,
        k: int | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
    ) -> None:
        self.p = p
        self.k = None if k is None else whole_number(k, "k")
        super().__init__(temperature, seed=seed, min_p=min_p, repetition_penalty=repetition_penalty)

    @property
    def sampling(self) -> Sampling:
        return replace(self._shaping, top_p=self.p, top_k=self.k)

    def get_config(self) -> dict[str, Any]:
        return {"p": self.p, "k": self.k} | super().get_config()


# What the direct calls share.


def checked_ids(ids: Any, rows: int, vocabulary: int) -> list[int]:
    """What a get_next_token returned, as `rows` ids. ValueError: anything else."""
    found = to_lists(ids)
    if not isinstance(found, list) or len(found) != rows:
        raise ValueError(f"get_next_token: wanted {rows} ids, one a row, got {ids!r}")
    for i in found:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocabulary:
            raise ValueError(f"get_next_token: wanted ids of 0 to {vocabulary - 1}, got {i!r}")
    return found


def prompt_and_mask(prompt: Any, mask: Any) -> tuple[list[list[int]], list[list[bool]]]:
    """prompt [batch, length] and its mask as lists; without a mask nothing of it need stay."""
    rows, batched = to_rows(prompt, "prompt")
    if not batched or len({len(row) for row in rows}) > 1:
        raise ValueError("prompt: wanted rows of one length, [batch, length]")
    if mask is None:
        return rows, [[False] * len(row) for row in rows]
    masks = [[bool(keep) for keep in row] for row in to_rows(mask, "mask")[0]]
    if [len(row) for row in masks] != [len(row) for row in rows]:
        raise ValueError("mask: wanted the shape of the prompt")
    return rows, masks


def stops(stop_token_ids: Any) -> frozenset[int]:
    """Stop ids, or one, or none, as a set."""
    if isinstance(stop_token_ids, set | frozenset):
        return frozenset(stop_token_ids)
    found = to_lists(stop_token_ids)
    return frozenset([] if found is None else found if isinstance(found, list) else [found])


def rows_of(values: Any, rows: int) -> list[Any]:
    """What `next` returned, [rows, ...] as lists; one row stands for all."""
    found = to_lists(values)
    if isinstance(found, list) and len(found) == 1:
        return found * rows
    if not isinstance(found, list) or len(found) != rows:
        raise ValueError(f"next: wanted {rows} rows of logits and hidden states, got {values!r}")
    return found


def as_given(rows: list[list[int]], prompt: Any) -> Any:
    """Rows of ids for `next`: a copy, and an array where the prompt is one."""
    if isinstance(prompt, list | tuple):
        return [list(row) for row in rows]
    array = prompt[[0] * len(rows)]
    array[...] = rows
    return array
