"""Beam and contrastive search on the GPU, against searches in numpy over reference.forward."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from gpt2web import GPT2CausalLM, samplers
from gpt2web.backbone import GPT2Backbone
from gpt2web.kernels import SPLIT
from gpt2web.preprocessor import GPT2CausalLMPreprocessor
from gpt2web.samplers import BeamSampler, ContrastiveSampler, GreedySampler
from gpt2web.search import Beam, _children
from gpt2web.tokenizer import GPT2Tokenizer

pytestmark = pytest.mark.gpu

# Between what goes on and what does not, in log-probability or score: 100 times what f32 is off by
# (reference.py computes in float64). A case that is closer fails, and has to be chosen anew.
MARGIN = 1e-4

on_llvmpipe = pytest.mark.parametrize("device", ["llvmpipe"], indirect=True)
on_both = pytest.mark.parametrize("device", ["llvmpipe", "SwiftShader"], indirect=True)


def random_model(seed=1, **fields):
    config = SimpleNamespace(layer_norm_epsilon=1e-5, **fields)
    return SimpleNamespace(
        fields=fields, config=config, weights=reference.random_weights(config, seed)
    )


SMALL = random_model(
    vocabulary_size=27,
    num_layers=2,
    num_heads=3,
    hidden_dim=12,
    intermediate_dim=20,
    max_sequence_length=24,
)
LONG = random_model(
    vocabulary_size=40,
    num_layers=1,
    num_heads=2,
    hidden_dim=8,
    intermediate_dim=16,
    max_sequence_length=300,
)


def make_lm(device, model, preprocessor=None):
    backbone = GPT2Backbone(**model.fields, device=device)
    backbone.load_weights(model.weights)
    return GPT2CausalLM(backbone, preprocessor)


@pytest.fixture
def small(device):
    lm = make_lm(device, SMALL)
    yield lm
    free(lm)


def free(lm):
    """All of a model but its device, which the tests share."""
    lm._drop_decoder()
    lm.backbone.destroy()


def rows_of(prompts, length):
    """Prompts as rows of ids and masks."""
    return {
        "token_ids": [prompt + [0] * (length - len(prompt)) for prompt in prompts],
        "padding_mask": [[True] * len(p) + [False] * (length - len(p)) for p in prompts],
    }


def generated(lm, prompts, length, sampler, stop=None):
    """The ids behind each prompt."""
    lm.compile(sampler)
    out = lm.generate(rows_of(prompts, length), stop_token_ids=stop)
    rows = zip(prompts, out["token_ids"], out["padding_mask"], strict=True)
    return [ids[len(prompt) : sum(mask)] for prompt, ids, mask in rows]


def all_beams(lm, prompts, length, stop=None, **options):
    """[(ids behind the prompt, score)] of each prompt."""
    lm.compile(BeamSampler(return_all_beams=True, **options))
    out = lm.generate(rows_of(prompts, length), stop_token_ids=stop)
    return [
        [
            (row[len(prompt) : sum(m)], score)
            for row, m, score in zip(ids, masks, scores, strict=True)
        ]
        for prompt, ids, masks, scores in zip(
            prompts, out["token_ids"], out["padding_mask"], out["scores"], strict=True
        )
    ]


# ---- the searches in numpy -----------------------------------------------------------------------


def hidden_states(model, ids):
    """After the final norm: [n] -> [n, hidden]"""
    config, weights = model.config, model.weights
    x = reference.embed(weights, np.array(ids), np.arange(len(ids)))
    for index in range(config.num_layers):
        layer = reference.layer_weights(weights, index)
        x = x + reference.self_attention(config, layer, reference.norm(config, layer, "ln_1", x))
        x = x + reference.feed_forward(layer, reference.norm(config, layer, "ln_2", x))
    return reference.norm(config, weights, "ln_f", x)


def log_probabilities(model, ids, temperature=1.0, penalty=1.0):
    """Of the next id: [vocabulary]"""
    logits = hidden_states(model, ids)[-1] @ model.weights["wte.weight"].T.astype(np.float64)
    for i in set(ids):
        logits[i] = logits[i] / penalty if logits[i] > 0 else logits[i] * penalty
    logits = logits / temperature
    return logits - logits.max() - np.log(np.sum(np.exp(logits - logits.max())))


def beam_twin(model, prompt, steps, width, *, stop=(), **options):
    """[(ids, score)] best first, from whole forward passes."""
    beams = [([], 0.0)]
    for _ in range(steps):
        found = []
        for ids, score in beams:
            scores = score + log_probabilities(model, prompt + ids, **options)
            found += [([*ids, i], s) for i, s in enumerate(scores)]
        found.sort(key=lambda one: -one[1])
        gaps = [a[1] - b[1] for a, b in itertools.pairwise(found[: width + 1])]
        assert min(gaps) > MARGIN, f"a margin of {min(gaps):.2g}"
        beams = found[:width]
        if all(set(ids) & set(stop) for ids, _ in beams):
            break
    return [(cut(ids, stop), score) for ids, score in beams]


def cut(ids, stop):
    for n, i in enumerate(ids):
        if i in stop:
            return ids[: n + 1]
    return ids


def contrastive_twin(model, prompt, steps, k, alpha, *, stop=(), **options):
    """The ids, from whole forward passes."""
    ids = list(prompt)
    while len(ids) < len(prompt) + steps:
        scores = []
        logprobs = log_probabilities(model, ids, **options)
        for i in np.argsort(-logprobs, kind="stable")[:k]:
            states = hidden_states(model, [*ids, i])
            states /= np.linalg.norm(states, axis=1, keepdims=True)
            similarity = np.max(states[:-1] @ states[-1])
            scores.append(((1 - alpha) * np.exp(logprobs[i]) - alpha * similarity, int(i)))
        scores.sort(reverse=True)
        if k > 1:
            gap = scores[0][0] - scores[1][0]
            assert gap > MARGIN, f"a margin of {gap:.2g}"
        ids.append(scores[0][1])
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


PROMPTS = [[3], [5, 1, 20, 6, 5], [7, 11, 2, 2, 19, 26, 0, 3, 4]]


def check_beams(got, wanted):
    assert [ids for ids, _ in got] == [ids for ids, _ in wanted]
    np.testing.assert_allclose([s for _, s in got], [s for _, s in wanted], atol=1e-4)


# ---- beam search ---------------------------------------------------------------------------------


@on_both
def test_all_beams_of_ragged_prompts_are_those_of_whole_forward_passes(small):
    found = all_beams(small, PROMPTS, 15, num_beams=4)
    for prompt, beams in zip(PROMPTS, found, strict=True):
        check_beams(beams, beam_twin(SMALL, prompt, 15 - len(prompt), 4))
    assert len({len({tuple(ids) for ids, _ in beams}) for beams in found}) == 1  # all different


@on_llvmpipe
def test_a_batch_is_its_prompts_alone(small):
    together = all_beams(small, PROMPTS, 15, num_beams=4, stop=[7, 9])
    for prompt, beams in zip(PROMPTS, together, strict=True):
        (alone,) = all_beams(small, [prompt], 15, num_beams=4, stop=[7, 9])
        check_beams(beams, alone)


@on_llvmpipe
@pytest.mark.parametrize(
    ("options", "twin"),
    [
        ({"temperature": 0.4}, {"temperature": 0.4}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"repetition_penalty": 1.5}, {"penalty": 1.5}),
        (
            {"repetition_penalty": 0.8, "temperature": 1.5},
            {"penalty": 0.8, "temperature": 1.5},
        ),
    ],
)
def test_temperature_and_repetition_penalty_change_the_scores_as_in_the_reference(
    small, options, twin
):
    plain = all_beams(small, PROMPTS[1:2], 12, num_beams=3)
    (found,) = all_beams(small, PROMPTS[1:2], 12, num_beams=3, **options)
    check_beams(found, beam_twin(SMALL, PROMPTS[1], 7, 3, **twin))
    assert abs(found[0][1] - plain[0][0][1]) > 0.01  # the options do something


@on_llvmpipe
def test_a_stopped_beam_goes_on_until_all_have_stopped(small):
    prompt, stop = PROMPTS[1], [0, 23]
    wanted = beam_twin(SMALL, prompt, 12, 4, stop=stop)
    (found,) = all_beams(small, [prompt], 17, num_beams=4, stop=stop)
    check_beams(found, wanted)
    lengths = [len(ids) for ids, _ in found]
    assert min(lengths) < max(lengths) < 12
    assert {ids[-1] for ids, _ in found} <= {*stop}
    # one that stopped early has the score of what came after, too
    early = min(found, key=lambda one: len(one[0]))
    logprobs = [log_probabilities(SMALL, prompt + early[0][:n]) for n in range(len(early[0]))]
    own = sum(row[i] for row, i in zip(logprobs, early[0], strict=True))
    assert early[1] < own - 0.1


@on_llvmpipe
def test_beams_that_hold_every_sequence_find_the_most_probable_one(small):
    (found,) = all_beams(small, [[2]], 3, num_beams=27)  # every id, then every pair
    first = log_probabilities(SMALL, [2])
    totals = np.array([first[i] + log_probabilities(SMALL, [2, i]) for i in range(27)])
    best = np.unravel_index(np.argsort(-totals, axis=None)[:5], totals.shape)
    assert [tuple(ids) for ids, _ in found[:5]] == list(zip(*map(list, best), strict=True))
    # more beams than ids: the first step has no more than 27, the second has
    (more,) = all_beams(small, [[2]], 3, num_beams=29)
    np.testing.assert_allclose([s for _, s in more[:27]], [s for _, s in found], atol=1e-4)
    assert len({tuple(ids) for ids, _ in more}) == 29
    # and where there are no more, the last one again
    (few,) = all_beams(small, [[2, 1]], 3, num_beams=29)
    assert len({tuple(ids) for ids, _ in few}) == 27
    assert few[26:] == [few[26]] * 3


@on_llvmpipe
def test_one_beam_is_greedy_and_the_best_beam_is_what_generate_gives(small):
    greedy = generated(small, PROMPTS, 15, "greedy")
    assert generated(small, PROMPTS, 15, BeamSampler(num_beams=1)) == greedy
    beams = all_beams(small, PROMPTS, 15, num_beams=5)
    assert generated(small, PROMPTS, 15, "beam") == [found[0][0] for found in beams]
    # and by its score it is no worse than greedy
    for prompt, ids, found in zip(PROMPTS, greedy, beams, strict=True):
        score = beam_twin(SMALL, prompt, len(ids), 1)[0][1]
        assert found[0][1] >= score - 1e-4
    assert any(ids != found[0][0] for ids, found in zip(greedy, beams, strict=True))


@on_llvmpipe
def test_a_cache_of_several_splits_is_searched_too(device):
    lm = make_lm(device, LONG)
    prompt = [(7 * i) % 40 for i in range(SPLIT - 4)]
    (found,) = all_beams(lm, [prompt], len(prompt) + 9, num_beams=3)
    check_beams(found, beam_twin(LONG, prompt, 9, 3))
    wanted = contrastive_twin(LONG, prompt, 7, 3, 0.5)
    assert generated(lm, [prompt], len(prompt) + 7, ContrastiveSampler(k=3, alpha=0.5)) == [wanted]
    free(lm)


@on_llvmpipe
def test_more_prompts_than_a_batch_has_rows_for(small):
    prompts = [[i % 27, i % 7] for i in range(60)]
    found = all_beams(small, prompts, 4, num_beams=5)  # 300 rows
    for n in (0, 50, 51, 59):
        check_beams(found[n], beam_twin(SMALL, prompts[n], 2, 5))
    with pytest.raises(ValueError, match="257 continuations of a prompt at once, a batch has at"):
        all_beams(small, prompts[:1], 4, num_beams=257)


def test_a_child_keeps_its_parents_row_and_no_row_is_copied_from_and_to():
    parents = [Beam([n], 0.0, row) for n, row in enumerate((4, 1, 7, 10))]
    best = [(0.0, 2, 5), (0.0, 2, 6), (0.0, 0, 7), (0.0, 2, 8)]
    children = _children(parents, best, [1, 4, 7, 10])
    assert [(beam.ids, beam.row) for beam in children] == [
        ([2, 5], 7),
        ([2, 6], 1),
        ([0, 7], 4),
        ([2, 8], 10),
    ]
    targets = {
        c.row for c, (_, p, _) in zip(children, best, strict=True) if c.row != parents[p].row
    }
    assert targets == {1, 10} and targets.isdisjoint({4, 7})


# ---- contrastive search --------------------------------------------------------------------------


@on_both
def test_contrastive_search_of_ragged_prompts_is_that_of_whole_forward_passes(small):
    sampler = ContrastiveSampler(k=4, alpha=0.6)
    found = generated(small, PROMPTS, 14, sampler)
    wanted = [contrastive_twin(SMALL, p, 14 - len(p), 4, 0.6) for p in PROMPTS]
    assert found == wanted
    assert found != generated(small, PROMPTS, 14, "greedy")


@on_llvmpipe
@pytest.mark.parametrize(
    ("k", "alpha", "options", "twin"),
    [
        (2, 0.3, {}, {}),
        (5, 1.0, {}, {}),
        (3, 0.5, {"temperature": 0.3}, {"temperature": 0.3}),
        (4, 0.4, {"repetition_penalty": 1.4}, {"penalty": 1.4}),
        (30, 0.9, {}, {}),  # of 27 ids
    ],
)
def test_contrastive_options_are_those_of_the_reference(small, k, alpha, options, twin):
    sampler = ContrastiveSampler(k=k, alpha=alpha, **options)
    found = generated(small, PROMPTS[1:], 13, sampler)
    assert found == [contrastive_twin(SMALL, p, 13 - len(p), k, alpha, **twin) for p in PROMPTS[1:]]


@on_llvmpipe
def test_k_1_and_alpha_0_are_greedy(small):
    greedy = generated(small, PROMPTS, 15, GreedySampler())
    assert generated(small, PROMPTS, 15, ContrastiveSampler(k=1)) == greedy
    assert generated(small, PROMPTS, 15, ContrastiveSampler(alpha=0)) == greedy


@on_llvmpipe
def test_contrastive_search_ends_a_row_at_its_stop_id_and_a_batch_is_its_prompts_alone(small):
    whole = generated(small, PROMPTS, 15, "contrastive")
    stop = [whole[0][4], whole[2][1]]
    found = generated(small, PROMPTS, 15, "contrastive", stop)
    assert found == [cut(ids, stop) for ids in whole]
    assert len({len(ids) for ids in found}) > 1
    for prompt, ids in zip(PROMPTS, found, strict=True):
        assert generated(small, [prompt], 15, "contrastive", stop) == [ids]


# ---- both ----------------------------------------------------------------------------------------


@on_llvmpipe
@pytest.mark.parametrize("sampler", ["beam", "contrastive"])
def test_nothing_is_left_on_the_gpu_and_an_id_more_creates_nothing(device, sampler, monkeypatch):
    lm = make_lm(device, SMALL)
    before = dict(device.live)
    created = []
    for name in ("create_buffer", "create_bind_group", "create_compute_pipeline"):
        original = getattr(device.device, name)

        def counted(*arguments, _name=name, _original=original, **options):
            created.append(_name)
            return _original(*arguments, **options)

        monkeypatch.setattr(device.device, name, counted)
    counts, sizes = [], []
    for length in (15, 15, 12, 15):  # the first makes the decoder
        created.clear()
        generated(lm, PROMPTS, length, sampler)
        counts.append(len(created))
        sizes.append(len(device.live))
    assert counts[1] == counts[2] == counts[3] > 0
    assert len(set(sizes)) == 1 and sizes[0] > len(before)
    lm._drop_decoder()
    assert device.live == before
    free(lm)


@on_llvmpipe
@pytest.mark.parametrize("sampler", ["beam", "contrastive"])
def test_a_prompt_without_room_and_a_search_between_others_change_nothing(small, sampler):
    greedy = generated(small, PROMPTS, 15, "greedy")
    full = [7, 11, 2, 2, 19, 26, 0, 3, 4, 9, 9, 9]
    alone = generated(small, PROMPTS[:2], 12, sampler)
    assert generated(small, [full], 12, sampler) == [[]]
    assert generated(small, [PROMPTS[0], full, PROMPTS[1]], 12, sampler) == [
        alone[0],
        [],
        alone[1],
    ]
    assert generated(small, [], 12, sampler) == []
    assert generated(small, PROMPTS, 15, "greedy") == greedy  # the cache says what it holds


@on_llvmpipe
def test_texts_come_with_their_scores_and_ids_with_their_beams(device):
    vocabulary = {chr(ord("a") + i): i for i in range(26)} | {"<|endoftext|>": 26}
    preprocessor = GPT2CausalLMPreprocessor(GPT2Tokenizer(vocabulary, []), sequence_length=12)
    lm = make_lm(device, SMALL, preprocessor)
    lm.compile(BeamSampler(num_beams=3, return_all_beams=True))
    one = lm.generate("cab")
    wanted = beam_twin(SMALL, [26, 2, 0, 1], 8, 3, stop=[26])
    texts = ["cab" + "".join(chr(97 + i) for i in ids if i < 26) for ids, _ in wanted]
    assert [text for text, _ in one] == texts
    assert [score for _, score in one] == pytest.approx([s for _, s in wanted], abs=1e-4)
    many = lm.generate(["cab", "x"])
    assert len(many) == 2 and len(many[1]) == 3
    assert [text for text, _ in many[0]] == texts
    stripped = lm.generate(["cab"], strip_prompt=True)
    assert [text for text, _ in stripped[0]] == [text[3:] for text in texts]
    assert lm.generate([]) == []

    flat = lm.generate({"token_ids": [2, 0, 0, 0], "padding_mask": [True, True, False, False]})
    assert np.shape(flat["token_ids"]) == np.shape(flat["padding_mask"]) == (3, 4)
    assert np.shape(flat["scores"]) == (3,)
    batch = lm.generate(rows_of(PROMPTS[:2], 7), strip_prompt=True)
    assert np.shape(batch["token_ids"]) == np.shape(batch["padding_mask"]) == (2, 3, 7)
    assert np.shape(batch["scores"]) == (2, 3)
    for row, prompt in enumerate(PROMPTS[:2]):
        for ids, mask in zip(batch["token_ids"][row], batch["padding_mask"][row], strict=True):
            assert ids[: len(prompt)] == prompt and not any(mask[: len(prompt)])
    assert lm.generate([], strip_prompt=True) == []

    lm.compile(BeamSampler(num_beams=3))
    assert lm.generate(["cab", "x"]) == [found[0][0] for found in many]
    assert lm.generate("cab") == texts[0]
    free(lm)


@on_llvmpipe
def test_the_gpu_and_the_direct_call_find_the_same(small):
    """The direct call, over whole forward passes as `next`."""

    def next(prompt, cache, index):
        hidden = np.array([hidden_states(SMALL, row[:index])[-1] for row in prompt])
        return hidden @ SMALL.weights["wte.weight"].T.astype(np.float64), hidden, cache

    prompt = PROMPTS[1]
    for sampler in (
        samplers.get("greedy"),
        BeamSampler(num_beams=3, temperature=0.7, repetition_penalty=1.2),
        ContrastiveSampler(k=3, temperature=0.7, repetition_penalty=1.2),
    ):
        states = np.zeros((1, 12, SMALL.config.hidden_dim))
        states[0, : len(prompt)] = hidden_states(SMALL, prompt)
        row = [prompt + [0] * (12 - len(prompt))]
        (found,) = sampler(next, row, index=len(prompt), hidden_states=states)
        assert found[len(prompt) :] == generated(small, [prompt], 12, sampler)[0]
