"""The samplers that follow several continuations of a prompt at once: beam and contrastive search.

Here is which continuation goes on, and the search on the CPU for the direct call; search.py has the
rows on the GPU that generate() uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gpt2web.arguments import to_lists, whole_number
from gpt2web.sampler import Next, Sampler, as_given, prompt_and_mask, rows_of, stops
from gpt2web.sampling import Sampling, penalized

Ranked = Sequence[tuple[int, float]]  # (id, log-probability), the most probable first
NEVER = -1e9  # score of the beams that only the first step has too many of


class Searcher(Sampler):
    """What both have in common: no random numbers, and no choice one row at a time."""

    def __init__(self, temperature: float, repetition_penalty: float) -> None:
        super().__init__(temperature, seed=0, repetition_penalty=repetition_penalty)

    @property
    def sampling(self) -> Sampling:
        if self.temperature == 0:
            raise ValueError(
                f"{type(self).__name__} compares probabilities, so temperature must be over 0; "
                "temperature 0 is GreedySampler"
            )
        return self._shaping

    def get_next_token(self, probabilities: Any) -> NoReturn:
        """Not for a search. NotImplementedError: it chooses among continuations, not ids."""
        raise NotImplementedError(
            f"{type(self).__name__} follows several continuations of a prompt at once: it has no "
            "next id for a row alone; call the sampler itself, or generate()"
        )

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}

    def _ranked(self, logits: Sequence[float], seen: Sequence[int], count: int) -> Ranked:
        """The `count` most probable ids of a row of logits, of equal ones the lower first. What
        has no probability in a float has -inf, as KerasHub's logarithm of it: less than NEVER."""
        shaping = self._shaping
        scores = [score / shaping.temperature for score in penalized(logits, shaping, seen)]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        highest = scores[order[0]]
        log_sum = highest + math.log(math.fsum(math.exp(score - highest) for score in scores))
        logprobs = ((i, scores[i] - log_sum) for i in order[:count])
        return [(i, logprob if math.exp(logprob) > 0 else -math.inf) for i, logprob in logprobs]


class BeamSampler(Searcher):
    """Beam search: at every id, the num_beams continuations of a prompt whose log-probabilities
    add up to the most; of equal ones those of the better beam, then of the lower id.

    A score is the sum of log softmax(logits / temperature) over every id generated, whatever the
    length. A beam that has met a stop id goes on like the others, and its score with it, until all
    beams of its prompt have met one or the length is reached; what it returns ends at its first new
    stop id. Each prompt of a batch ends by itself, so it gets what it would get alone.

    Args:
        num_beams: at least 1; 1 is greedy.
        return_all_beams: generate() then gives, for a text, a list of (text, score), the best
            first; for token_ids [batch, length], {"token_ids": [batch, beams, length],
            "padding_mask": the same, "scores": [batch, beams]}.
        temperature: over 0. repetition_penalty: as in sampling.Sampling, for each beam's own ids.

    >>> after = {0: [-9.0, 0.1, 0.0], 1: [0.0, 0.0, 0.0], 2: [-9.0, -9.0, 5.0]}
    >>> def next(prompt, cache, index):
    ...     return [after[row[index - 1]] for row in prompt], None, cache
    >>> BeamSampler(num_beams=2)(next, [[0, 0, 0]], index=1)  # greedy would take 1 first
    [[0, 2, 2]]
    """

    def __init__(
        self,
        num_beams: int = 5,
        return_all_beams: bool = False,
        temperature: float = 1.0,
        *,
        repetition_penalty: float = 1.0,
    ) -> None:
        self.num_beams = whole_number(num_beams, "num_beams")
        if not isinstance(return_all_beams, bool):
            raise TypeError(f"return_all_beams must be a bool, got {return_all_beams!r}")
        self.return_all_beams = return_all_beams
        super().__init__(temperature, repetition_penalty)

    @property
    def rows_per_prompt(self) -> int:
        return self.num_beams

    def best(
        self, scores: Sequence[float], candidates: Sequence[Ranked]
    ) -> list[tuple[float, int, int]]:
        """The continuations to go on with, best first: (score, beam, id) from the beams' scores and
        the candidates of each; fewer than num_beams where there are no more."""
        found = [
            (score + logprob, beam, i)
            for beam, (score, ranked) in enumerate(zip(scores, candidates, strict=True))
            for i, logprob in ranked
        ]
        return sorted(found, key=lambda one: (-one[0], *one[1:]))[: self.num_beams]

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
        """Beam search on the CPU: arguments as Sampler's; next gets batch * num_beams rows, the
        beams of a prompt side by side, and a cache of lists or arrays with as many.

        Returns the best beams [batch, length]; with return_all_beams all of them
        [batch, num_beams, length], the best first, and their scores [batch, num_beams].
        """
        width = self.num_beams
        prompts, masks = prompt_and_mask(prompt, mask)
        stop_ids = stops(stop_token_ids)
        beams = [[list(row) for _ in range(width)] for row in prompts]
        scores = [[0.0] + [NEVER] * (width - 1) for _ in prompts]
        stopped = [[False] * width for _ in prompts]
        cache = take_rows(cache, [row for row in range(len(prompts)) for _ in range(width)])
        for column in range(index, len(prompts[0]) if prompts else 0):
            flat = [beam for group in beams for beam in group]
            logits, _, cache = next(as_given(flat, prompt), cache, column)
            ranked = [
                self._ranked(own, beam[:column], width)
                for own, beam in zip(rows_of(logits, len(flat)), flat, strict=True)
            ]
            parents = list(range(len(flat)))
            for row, group in enumerate(beams):
                if masks[row][column] or all(stopped[row]):
                    continue
                first = row * width
                best = self.best(scores[row], ranked[first : first + width])
                beams[row] = [[*group[b][:column], i, *group[b][column + 1 :]] for _, b, i in best]
                stopped[row] = [stopped[row][b] or i in stop_ids for _, b, i in best]
                scores[row] = [score for score, _, _ in best]
                parents[first : first + width] = [first + b for _, b, _ in best]
            cache = take_rows(cache, parents)
            if all(all(row) for row in stopped):
                break
        return (beams, scores) if self.return_all_beams else [group[0] for group in beams]

    def get_config(self) -> dict[str, Any]:
        own = {"num_beams": self.num_beams, "return_all_beams": self.return_all_beams}
        return own | super().get_config()


class ContrastiveSampler(Searcher):
    """Contrastive search (Su et al. 2022, arXiv 2202.06417): of the k most probable ids the one
    with the highest (1 - alpha) * probability - alpha * similarity.

    Similarity is the largest cosine between the hidden state of the id, after the final norm, and
    those of all tokens before it, prompt included. Of equal ones the more probable id. k 1 and
    alpha 0 are greedy.

    Args:
        k: at least 1. alpha: 0 to 1.
        temperature: over 0. repetition_penalty: as in sampling.Sampling.
        seed: accepted for configs that have one; nothing here is drawn.

    >>> def next(prompt, cache, index):
    ...     states = [[1.0, 0.0] if row[index - 1] == 0 else [0.0, 1.0] for row in prompt]
    ...     return [[1.0, 0.9] for _ in prompt], states, cache
    >>> ContrastiveSampler(k=2)(next, [[0, 0]], index=1, hidden_states=[[[1.0, 0.0], [0.0, 0.0]]])
    [[0, 1]]
    """

    def __init__(
        self,
        k: int = 5,
        alpha: float = 0.6,
        temperature: float = 1.0,
        *,
        seed: int | None = None,
        repetition_penalty: float = 1.0,
    ) -> None:
        self.k = whole_number(k, "k")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise TypeError(f"alpha must be a number, got {alpha!r}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be at least 0 and at most 1, got {alpha}")
        self.alpha = alpha
        super().__init__(temperature, repetition_penalty)
        self.seed = seed

    @property
    def rows_per_prompt(self) -> int:
        return self.k

    def best(self, ranked: Ranked, similarities: Sequence[float]) -> int:
        """Which of the candidates to take, from the similarity of each."""
        scores = [
            (1 - self.alpha) * math.exp(logprob) - self.alpha * similarity
            for (_, logprob), similarity in zip(ranked, similarities, strict=True)
        ]
        return max(range(len(scores)), key=scores.__getitem__)

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
        """Contrastive search on the CPU: arguments as Sampler's, with the hidden_states
        [batch, length, hidden] of the prompt, or a ValueError. next is first called with the prompt
        at `index`, then with k rows for each prompt, side by side, one column on.
        """
        if hidden_states is None:
            raise ValueError("ContrastiveSampler needs the prompt's hidden_states, got None")
        prompts, masks = prompt_and_mask(prompt, mask)
        stop_ids = stops(stop_token_ids)
        states = to_lists(hidden_states)
        running = set(range(len(prompts)))
        length = len(prompts[0]) if prompts else 0
        if index < length:
            found, _, cache = next(as_given(prompts, prompt), cache, index)
            logits = rows_of(found, len(prompts))
        for column in range(index, length):
            rows, candidates = [], []  # of all prompts, side by side
            for row, ids in enumerate(prompts):
                ranked = self._ranked(logits[row], ids[:column], self.k)
                candidates.append(ranked)
                stays = masks[row][column] or row not in running
                rows += [
                    [*ids[:column], ids[column] if stays else i, *ids[column + 1 :]]
                    for i, _ in ranked
                ]
            width = len(rows) // len(prompts)
            cache = take_rows(cache, [row for row in range(len(prompts)) for _ in range(width)])
            found, hidden, cache = next(as_given(rows, prompt), cache, column + 1)
            logits, hidden = rows_of(found, len(rows)), rows_of(hidden, len(rows))
            winners = []
            for row, ranked in enumerate(candidates):
                before = states[row][:column]
                own = hidden[row * width : (row + 1) * width]
                similarities = [max((_cosine(h, s) for s in before), default=-1.0) for h in own]
                winners.append(row * width + self.best(ranked, similarities))
            logits = [logits[winner] for winner in winners]
            cache = take_rows(cache, winners)
            for row, winner in enumerate(winners):
                prompts[row] = rows[winner]
                states[row][column] = hidden[winner]
                if not masks[row][column] and rows[winner][column] in stop_ids:
                    running.discard(row)
            if not running:
                break
        return prompts

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k, "alpha": self.alpha, "seed": self._asked_seed} | super().get_config()


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norms = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def take_rows(value: Any, rows: Sequence[int]) -> Any:
    """A cache of these rows: a list or an array, or a tuple or dict of them.

    >>> take_rows(([[1], [2]], {"a": [[3], [4]]}, None), [1, 1])
    ([[2], [2]], {'a': [[4], [4]]}, None)
    """
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(take_rows(part, rows) for part in value)
    if isinstance(value, Mapping):
        return {name: take_rows(part, rows) for name, part in value.items()}
    if isinstance(value, list):
        return [value[row] for row in rows]
    return value[list(rows)]
