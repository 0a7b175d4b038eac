"""The samplers: names, configs, arguments; the direct call on a model of four lines, as KerasHub's
own tests do it; classes of one's own through generate() on the GPU."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from gpt2web import GPT2CausalLM, samplers
from gpt2web.backbone import GPT2Backbone
from gpt2web.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
)
from gpt2web.sampling import Sampling, probabilities

CLASSES = {
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}
on_llvmpipe = pytest.mark.parametrize("device", ["llvmpipe"], indirect=True)


# ---- by name and by config -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_sampler_comes_by_name_by_config_by_class_and_as_it_is(name):
    made = samplers.get(name)
    assert type(made) is CLASSES[name]
    assert samplers.get(made) is made
    assert type(samplers.get(CLASSES[name])) is CLASSES[name]
    config = samplers.serialize(made)
    assert config == {"class_name": CLASSES[name].__name__, "config": made.get_config()}
    for class_name in (name, CLASSES[name].__name__, f"keras_hub>{CLASSES[name].__name__}"):
        again = samplers.get({"class_name": class_name, "config": made.get_config()})
        assert type(again) is CLASSES[name]
        assert again.get_config() == made.get_config()
        assert type(samplers.get({"class_name": class_name})) is CLASSES[name]


def test_a_config_as_kerashub_writes_it():
    found = samplers.get(
        {
            "module": "keras_hub.samplers",
            "class_name": "TopPSampler",
            "config": {"temperature": 0.5, "p": 0.3, "k": None, "seed": None},
            "registered_name": "keras_hub>TopPSampler",
        }
    )
    assert (found.p, found.k, found.temperature) == (0.3, None, 0.5)


def test_none_is_none_as_kerashub_has_it():
    assert samplers.get(None) is None


@pytest.mark.parametrize(
    "identifier",
    [
        "GREEDY",
        "Greedy",
        "GreedySampler",
        "speculative",
        "",
        7,
        ["greedy"],
        int,
        len,
        {},
        {"config": {}},
        {"class_name": "greed"},
        {"class_name": ["greedy"]},
        {"class_name": "greedy", "config": 3},
    ],
)
def test_what_is_no_sampler_is_refused(identifier):
    with pytest.raises(ValueError, match="sampler"):
        samplers.get(identifier)
    with pytest.raises(ValueError, match="Sampler"):
        samplers.serialize(identifier)


FULL = [
    GreedySampler(temperature=0.5, repetition_penalty=1.1),
    RandomSampler(seed=3, temperature=0.5, min_p=0.1, repetition_penalty=1.1),
    TopKSampler(k=7, seed=3, temperature=0.5, min_p=0.1, repetition_penalty=1.1),
    TopPSampler(p=0.7, k=9, seed=3, temperature=0.5, min_p=0.1, repetition_penalty=1.1),
    BeamSampler(num_beams=3, return_all_beams=True, temperature=0.5, repetition_penalty=1.1),
    ContrastiveSampler(k=3, alpha=0.2, temperature=0.5, seed=4, repetition_penalty=1.1),
]


@pytest.mark.parametrize("sampler", FULL, ids=lambda sampler: type(sampler).__name__)
def test_every_argument_makes_the_round_trip_through_the_config(sampler):
    config = sampler.get_config()
    assert set(config) == set(inspect.signature(type(sampler)).parameters)
    assert 0.5 in config.values() and 1.1 in config.values()
    for again in (
        type(sampler).from_config(config),
        samplers.deserialize(samplers.serialize(sampler)),
    ):
        assert type(again) is type(sampler)
        assert again.get_config() == config
        assert again.sampling == sampler.sampling and again.seed == sampler.seed


def test_a_seed_that_was_drawn_stays_out_of_the_config():
    sampler = TopKSampler()
    assert sampler.get_config()["seed"] is None
    assert 0 <= sampler.seed < 1 << 32
    assert len({TopKSampler().seed for _ in range(4)}) > 1
    assert TopKSampler.from_config(sampler.get_config()).seed != sampler.seed
    assert TopKSampler(seed=sampler.seed).get_config()["seed"] == sampler.seed


class Last(Sampler):
    """The highest id below `below`."""

    def __init__(self, below, **options):
        super().__init__(**options)
        self.below = below

    def get_next_token(self, probabilities):
        return [self.below - 1 for _ in probabilities]

    def get_config(self):
        return super().get_config() | {"below": self.below}


def test_a_class_of_ones_own_makes_the_round_trip_with_custom_objects():
    config = samplers.serialize(Last(3, temperature=2.0))
    again = samplers.deserialize(config, custom_objects={"Last": Last})
    assert type(again) is Last and again.get_config() == config["config"]
    with pytest.raises(ValueError, match=r"no sampler is named 'Last'.*custom_objects"):
        samplers.deserialize(config)


# ---- arguments -----------------------------------------------------------------------------------


def test_arguments_come_in_kerashubs_order():
    assert TopKSampler(7, 8).get_config() == TopKSampler(k=7, seed=8).get_config()
    assert TopPSampler(0.5, 7, 8).get_config() == TopPSampler(p=0.5, k=7, seed=8).get_config()
    assert RandomSampler(8).get_config() == RandomSampler(seed=8).get_config()
    assert (
        BeamSampler(7, True).get_config()
        == BeamSampler(num_beams=7, return_all_beams=True).get_config()
    )
    assert (
        ContrastiveSampler(7, 0.5).get_config() == ContrastiveSampler(k=7, alpha=0.5).get_config()
    )
    assert (TopKSampler().k, TopPSampler().p, TopPSampler().k) == (5, 0.1, None)
    assert (BeamSampler().num_beams, BeamSampler().return_all_beams) == (5, False)
    assert (ContrastiveSampler().k, ContrastiveSampler().alpha) == (5, 0.6)
    assert TopKSampler(np.int64(3)).k == 3
    for made in CLASSES.values():
        assert made().temperature == 1.0


def test_the_options_reach_the_gpu():
    assert TopKSampler(k=7, temperature=0.5).sampling == Sampling(0.5, top_k=7)
    assert TopPSampler(p=0.7, k=9, min_p=0.2).sampling == Sampling(1, 9, 0.7, 0.2)
    assert RandomSampler(repetition_penalty=1.2).sampling == Sampling(repetition_penalty=1.2)
    assert GreedySampler(temperature=0.5).sampling == Sampling(0)
    sampler = TopKSampler()
    sampler.k, sampler.temperature = 3, 2.0
    assert sampler.sampling == Sampling(2.0, 3)
    assert RandomSampler(temperature=1e-9).sampling == Sampling(1e-6)  # KerasHub's tests have it


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TopKSampler(0), ValueError, "k: wanted a whole number of 1 or more, got 0"),
        (lambda: TopKSampler(2.5), ValueError, "k: wanted a whole number"),
        (lambda: TopKSampler(None), ValueError, "k: wanted a whole number"),
        (lambda: TopPSampler(k=0), ValueError, "k: wanted a whole number"),
        (lambda: TopPSampler(0), ValueError, "p must be over 0"),
        (lambda: TopPSampler(1.1), ValueError, "p must be over 0 and at most 1"),
        (lambda: TopPSampler("0.5"), TypeError, "p must be a number"),
        (lambda: RandomSampler(-1), ValueError, "seed must be at least 0"),
        (lambda: RandomSampler(1 << 32), ValueError, "seed must be at least 0 and below"),
        (lambda: RandomSampler(0.5), TypeError, "seed must be an int or None"),
        (lambda: RandomSampler(temperature=-1), ValueError, "temperature must be 0"),
        (lambda: GreedySampler(float("nan")), ValueError, "temperature must be finite"),
        (lambda: GreedySampler("1"), TypeError, "temperature must be a number"),
        (lambda: GreedySampler(k=3), TypeError, "'k'"),
        (lambda: TopKSampler(p=0.5), TypeError, "'p'"),
        (lambda: RandomSampler(top_k=5), TypeError, "'top_k'"),
        (lambda: RandomSampler(min_p=0), ValueError, "min_p must be over 0"),
        (lambda: RandomSampler(repetition_penalty=0), ValueError, "repetition_penalty must"),
        (lambda: BeamSampler(0), ValueError, "num_beams: wanted a whole number of 1 or more"),
        (lambda: BeamSampler(2, 1), TypeError, "return_all_beams must be a bool"),
        (lambda: BeamSampler(temperature=0), ValueError, "temperature must be over 0"),
        (lambda: BeamSampler(seed=1), TypeError, "'seed'"),
        (lambda: ContrastiveSampler(0), ValueError, "k: wanted a whole number"),
        (lambda: ContrastiveSampler(alpha=1.5), ValueError, "alpha must be at least 0 and at most"),
        (lambda: ContrastiveSampler(alpha="1"), TypeError, "alpha must be a number"),
        (lambda: ContrastiveSampler(temperature=0), ValueError, "temperature must be over 0"),
        (lambda: ContrastiveSampler(seed=-1), ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- one choice ----------------------------------------------------------------------------------

ROWS = [[0.05, 0.4, 0.25, 0.3], [0.7, 0.1, 0.15, 0.05]]


def shares(sampler, rows, draws=2000):
    """How often each id comes, [rows, ids]."""
    counts = np.zeros(np.shape(rows))
    for _ in range(draws):
        counts[range(len(rows)), sampler.get_next_token(rows)] += 1
    return counts / draws


def test_get_next_token_is_greedy():
    assert GreedySampler().get_next_token(ROWS) == [1, 0]
    assert GreedySampler().get_next_token(np.array([[0.5, 0.5]])) == [0]
    assert RandomSampler(temperature=0).get_next_token(ROWS) == [1, 0]
    # what f32 logarithms could not tell apart
    assert GreedySampler().get_next_token([[0.5 - 1e-12, 0.5, 1e-12]]) == [1]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (RandomSampler(seed=5), ROWS),
        (RandomSampler(seed=5, min_p=0.6), [[0, 40 / 95, 25 / 95, 30 / 95], [1, 0, 0, 0]]),
        (TopKSampler(k=2, seed=5), [[0, 4 / 7, 0, 3 / 7], [14 / 17, 0, 3 / 17, 0]]),
        (TopKSampler(k=9, seed=5), ROWS),
        (TopPSampler(p=0.6, seed=5), [[0, 4 / 7, 0, 3 / 7], [1, 0, 0, 0]]),
        (TopPSampler(p=0.6, k=2, seed=5), [[0, 4 / 7, 0, 3 / 7], [1, 0, 0, 0]]),
        (TopPSampler(p=0.9, k=2, seed=5), [[0, 4 / 7, 0, 3 / 7], [14 / 17, 0, 3 / 17, 0]]),
    ],
)
def test_get_next_token_draws_from_what_its_name_says(sampler, expected):
    found = shares(sampler, ROWS)
    # five standard deviations of a share of 2000 draws
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / 2000**0.5)
    assert ((found > 0) == (np.array(expected) > 0)).all()


def test_the_same_seed_gives_the_same_ids_and_a_row_is_what_it_is_alone():
    def draws(sampler, rows):
        return [sampler.get_next_token(rows) for _ in range(30)]

    uniform = [[0.25] * 4] * 3
    first = draws(RandomSampler(seed=9), uniform)
    assert draws(RandomSampler(seed=9), uniform) == first
    assert draws(RandomSampler(seed=10), uniform[:1]) == [[ids[1]] for ids in first]
    sampler = RandomSampler(seed=9)
    draws(sampler, uniform)
    assert draws(sampler, uniform) != first  # its numbers go on
    sampler.seed = 9
    assert draws(sampler, uniform) == first


def test_a_search_has_no_single_choice():
    for sampler in (BeamSampler(), ContrastiveSampler()):
        with pytest.raises(NotImplementedError, match="several continuations"):
            sampler.get_next_token(ROWS)


def test_probabilities_are_softmax_of_logits_over_temperature():
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1e9]])
    wanted = reference.softmax(logits / 0.5)
    found = GreedySampler(temperature=0.5).compute_probabilities(logits)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert TopKSampler(k=1, temperature=0.5).compute_probabilities(logits.tolist()) == found
    penalized = Sampler(repetition_penalty=2.0).compute_probabilities([[1.0, -2.0]], [[0, 0, 1]])
    assert penalized == [probabilities([0.5, -4.0], Sampling())]


# ---- the direct call, as KerasHub's tests do it --------------------------------------------------

LETTERS = 26


def ids_of(text):
    return [ord(letter) - ord("a") for letter in text]


def text_of(ids):
    return "".join(chr(i + ord("a")) for i in np.asarray(ids).tolist())


class Model:
    """`next` whose most probable letter is the cache's at the index; lists or arrays."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __call__(self, prompt, cache, index):
        assert isinstance(prompt, np.ndarray) == self.arrays
        rows = len(prompt)
        letters = [row[index] for row in cache] if cache is not None else [0] * rows
        logits = np.zeros((rows, LETTERS))
        logits[range(rows), letters] = 1e9
        hidden = np.ones((rows, 3))
        if self.arrays:
            return logits, hidden, cache
        return logits.tolist(), hidden.tolist(), cache


def call(sampler, text, *, cache=None, arrays=False, **options):
    """The sampler on prompts of one length, letters in and out."""
    texts = [text] if isinstance(text, str) else text
    prompt = [ids_of(one) for one in texts]
    caches = None if cache is None else [ids_of(cache)] * len(texts)
    if arrays:
        prompt, caches = np.array(prompt), None if caches is None else np.array(caches)
    hidden = np.ones((len(texts), len(texts[0]), 3))
    out = sampler(Model(arrays), prompt, cache=caches, hidden_states=hidden, **options)
    assert isinstance(out, list)
    assert [text_of(row) for row in np.asarray(prompt)] == texts  # not changed
    found = [text_of(row) for row in out]
    return found[0] if isinstance(text, str) else found


# TopP keeps one letter, and so do the rest where one has all of the probability
EVERY = [
    GreedySampler,
    RandomSampler,
    TopKSampler,
    TopPSampler,
    BeamSampler,
    lambda: ContrastiveSampler(alpha=0.2),
]


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("make", EVERY, ids=CLASSES)
def test_every_sampler_follows_the_model(make, arrays):
    assert call(make(), "z" * 12, arrays=arrays, index=5) == "zzzzzaaaaaaa"
    # one letter more: contrastive search looks one column ahead
    cache = "sequentiallyy"
    assert call(make(), "s" * 12, cache=cache, arrays=arrays) == "sequentially"
    stopped = {"cache": cache, "arrays": arrays, "stop_token_ids": ids_of("t")}
    assert call(make(), "s" * 12, **stopped) == "sequentsssss"
    assert call(make(), "z" * 12, **stopped | {"stop_token_ids": ids_of("tn")}) == "sequenzzzzzz"
    batch = call(make(), ["z" * 12, "b" * 12], **stopped)
    assert batch == ["sequentzzzzz", "sequentbbbbb"]


@pytest.mark.parametrize("make", EVERY, ids=CLASSES)
def test_a_mask_keeps_the_prompt_and_a_stop_id_in_it_does_not_count(make):
    mask = [[True] * 4 + [False] * 8, [True] * 6 + [False] * 6]
    options = {"cache": "sequentiallyy", "mask": mask, "index": 4}
    assert call(make(), ["tttzzzzzzzzz", "abcdetzzzzzz"], **options) == [
        "tttzentially",
        "abcdettially",
    ]
    # a row alone is what it is beside others
    found = call(make(), ["tttzzzzzzzzz", "abcdetzzzzzz"], stop_token_ids=ids_of("ti"), **options)
    assert found == ["tttzentzzzzz", "abcdettzzzzz"]


def falling(prompt, cache, index):
    """Each letter less probable than the one before."""
    return [[float(n) for n in range(LETTERS, 0, -1)]], np.ones((len(prompt), 3)), cache


def test_only_the_ids_that_a_sampler_keeps_are_drawn():
    prompt = [ids_of("z" * 60)]
    states = np.ones((1, 60, 3))
    for sampler, most in [
        (TopKSampler(k=5), 5),
        (TopPSampler(p=1, k=5), 5),
        (TopPSampler(p=0.7), 2),  # 0.63, 0.23, ...
        (ContrastiveSampler(k=5, alpha=0.2), 5),
        (GreedySampler(), 1),
        (RandomSampler(temperature=1e-5), 1),
        (TopPSampler(p=0.5, temperature=1e-9), 1),
    ]:
        (found,) = sampler(falling, prompt, index=1, hidden_states=states)
        assert set(found[1:]) <= set(range(most)), sampler
    (found,) = RandomSampler(seed=1)(falling, prompt)
    assert len(set(found)) > 2


def test_all_beams_come_with_their_scores_best_first():
    sampler = BeamSampler(num_beams=5, return_all_beams=True)
    prompts = [ids_of("z" * 12)] * 2
    beams, scores = sampler(Model(False), prompts, cache=[ids_of("sequentially")] * 2)
    assert np.shape(beams) == (2, 5, 12) and np.shape(scores) == (2, 5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert text_of(beams[1][0]) == "sequentially" and scores[1][0] == 0


def test_a_beam_search_finds_what_greedy_misses():
    after = {0: [-9.0, 0.1, 0.0], 1: [0.0, 0.0, 0.0], 2: [-9.0, -9.0, 5.0]}

    def next(prompt, cache, index):
        return [after[row[index - 1]] for row in prompt], None, None

    assert GreedySampler()(next, [[0] * 3], index=1) == [[0, 1, 0]]
    assert BeamSampler(num_beams=1)(next, [[0] * 3], index=1) == [[0, 1, 0]]
    assert BeamSampler(num_beams=2)(next, [[0] * 3], index=1) == [[0, 2, 2]]


def test_the_cache_of_a_beam_follows_its_ids():
    """A model that reads all but the last id from its cache only."""
    table = np.random.default_rng(3).normal(size=(4, 4, 4))

    def with_cache(prompt, cache, index):
        cache = cache.copy()
        cache[:, index - 1] = prompt[:, index - 1]
        sums = cache[:, :index].sum(axis=1) % 4
        return table[prompt[:, index - 1], sums], None, cache

    def without(prompt, cache, index):
        return table[prompt[:, index - 1], prompt[:, :index].sum(axis=1) % 4], None, None

    sampler = BeamSampler(num_beams=3, return_all_beams=True)
    prompt = np.array([[1, 0, 0, 0, 0, 0, 0]] * 2)
    wanted = sampler(without, prompt, index=1)
    assert sampler(with_cache, prompt, cache=np.zeros((2, 7), int), index=1) == wanted
    assert len({tuple(ids) for ids in wanted[0][0]}) == 3

    # the cache of tuples and dicts is taken apart
    def nested(prompt, cache, index):
        logits, hidden, array = with_cache(prompt, cache["a"][0], index)
        return logits, hidden, {"a": (array, None)}

    assert sampler(nested, prompt, cache={"a": (np.zeros((2, 7), int), None)}, index=1) == wanted


def test_alpha_turns_contrastive_search_away_from_what_it_has_seen():
    best = ids_of("h")[0]

    def next(prompt, cache, index):
        logits = np.ones((len(prompt), LETTERS))
        logits[:, best] = 1e9
        hidden = np.random.default_rng(index).uniform(size=(len(prompt), 3))
        hidden[prompt[:, index - 1] == best] = 1.0
        return logits, hidden, cache

    prompt, states = np.array([ids_of("z" * 12)]), np.ones((1, 12, 3))
    run = {"index": 5, "hidden_states": states}
    assert text_of(ContrastiveSampler(alpha=0.2)(next, prompt, **run)[0]) == "zzzzzhhhhhhh"
    assert "h" not in text_of(ContrastiveSampler(alpha=1)(next, prompt, **run)[0])
    with pytest.raises(ValueError, match="hidden_states"):
        ContrastiveSampler()(next, prompt, index=5)


def test_a_direct_call_is_refused_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        GreedySampler()(falling, [0, 0])
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        GreedySampler()(falling, [[0, 0], [0]])
    with pytest.raises(ValueError, match="mask: wanted the shape"):
        GreedySampler()(falling, [[0, 0]], mask=[[True]])
    with pytest.raises(ValueError, match="next: wanted 3 rows"):
        GreedySampler()(lambda *_: ([[1.0], [1.0]], None, None), [[0], [0], [0]])
    assert GreedySampler()(falling, [[0, 0]], mask=[[True, False]]) == [[0, 0]]


def test_a_direct_call_penalizes_what_is_before_the_column():
    (found,) = GreedySampler(repetition_penalty=1.5)(falling, [[1, 9, 9, 9, 9]], index=1)
    assert found == [1, 0, 2, 3, 4]


# ---- through generate() --------------------------------------------------------------------------

FIELDS = {  # the sizes of test_search.py, whose pipelines it shares
    "vocabulary_size": 27,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 24,
}
CONFIG = SimpleNamespace(layer_norm_epsilon=1e-5, **FIELDS)
WEIGHTS = reference.random_weights(CONFIG, 4)
PROMPTS = [[3], [5, 1, 20, 6, 5], [7, 11, 2]]


@pytest.fixture
def lm(device):
    backbone = GPT2Backbone(**FIELDS, device=device)
    backbone.load_weights(WEIGHTS)
    lm = GPT2CausalLM(backbone)
    yield lm
    lm._drop_decoder()
    backbone.destroy()


def generate(lm, sampler, prompts=PROMPTS, length=12, stop=None):
    """The ids behind each prompt."""
    lm.compile(sampler)
    rows = [prompt + [0] * (length - len(prompt)) for prompt in prompts]
    masks = [[True] * len(p) + [False] * (length - len(p)) for p in prompts]
    out = lm.generate({"token_ids": rows, "padding_mask": masks}, stop_token_ids=stop)
    found = zip(prompts, out["token_ids"], out["padding_mask"], strict=True)
    return [ids[len(prompt) : sum(mask)] for prompt, ids, mask in found]


class Custom(Sampler):
    """Greedy but for some ids, as in KerasHub's documentation; keeps what it was given."""

    def __init__(self, forbidden=(), convert=list, **options):
        super().__init__(**options)
        self.forbidden = list(forbidden)
        self.convert = convert
        self.given = []

    def get_next_token(self, probabilities):
        self.given.append(probabilities)
        allowed = np.array(probabilities)
        allowed[:, self.forbidden] = 0
        return self.convert(allowed.argmax(axis=-1))


@on_llvmpipe
@pytest.mark.gpu
@pytest.mark.parametrize("convert", [lambda ids: ids, np.ndarray.tolist], ids=["array", "list"])
def test_a_class_of_ones_own_chooses_from_the_probabilities(lm, convert):
    greedy = generate(lm, "greedy")
    assert generate(lm, Custom(convert=convert)) == greedy
    forbidden = [greedy[0][0], greedy[1][2]]
    sampler = Custom(forbidden, convert, temperature=0.5)
    found = generate(lm, sampler)
    assert not set(forbidden) & {i for ids in found for i in ids}
    for prompt, ids in zip(PROMPTS, found, strict=True):
        text = list(prompt)
        for step, i in enumerate(ids):
            logits = reference.forward(CONFIG, WEIGHTS, np.array(text))[-1]
            row = PROMPTS.index(prompt)
            wanted = reference.softmax(logits / 0.5)
            np.testing.assert_allclose(sampler.given[step][row], wanted, atol=1e-5)
            wanted[forbidden] = 0
            assert i == wanted.argmax()
            text.append(i)
    for prompt, ids in zip(PROMPTS, found, strict=True):
        assert generate(lm, Custom(forbidden, convert), [prompt]) == [ids]


@on_llvmpipe
@pytest.mark.gpu
def test_stop_ids_and_penalty_hold_for_a_class_of_ones_own(lm):
    whole = generate(lm, Custom(repetition_penalty=1.8))
    assert whole == generate(lm, GreedySampler(repetition_penalty=1.8)) != generate(lm, Custom())
    stop = [whole[0][3], whole[1][1]]
    wanted = [next((ids[: n + 1] for n, i in enumerate(ids) if i in stop), ids) for ids in whole]
    assert generate(lm, Custom(repetition_penalty=1.8), stop=stop) == wanted
    assert len({len(ids) for ids in wanted}) > 1


@on_llvmpipe
@pytest.mark.gpu
def test_a_subclass_of_a_builtin_sampler_gets_the_whole_distribution(lm):
    class Second(GreedySampler):
        def get_next_token(self, probabilities):
            assert np.allclose(np.sum(probabilities, axis=1), 1) and np.max(probabilities) < 1
            return np.argsort(probabilities, axis=1)[:, -2]

    class AsItIs(TopKSampler):
        def get_next_token(self, probabilities):
            return super().get_next_token(probabilities)

    assert generate(lm, Second()) != generate(lm, "greedy")
    assert generate(lm, AsItIs(k=1)) == generate(lm, "greedy")
    assert generate(lm, AsItIs(k=3, seed=2)) == generate(lm, AsItIs(k=3, seed=2))


@on_llvmpipe
@pytest.mark.gpu
@pytest.mark.parametrize(
    "wrong", [[1, 2], [1, 2, 27], [1, 2, -1], [1.0, 2.0, 3.0], 5, [[1], [2], [3]], None]
)
def test_what_is_not_an_id_a_row_is_refused_and_the_model_goes_on(lm, wrong):
    with pytest.raises(ValueError, match="get_next_token: wanted"):
        generate(lm, Custom(convert=lambda _: wrong))
    assert generate(lm, Custom(convert=lambda ids: [int(i) for i in ids])) == generate(lm, "greedy")


@on_llvmpipe
@pytest.mark.gpu
@pytest.mark.parametrize(
    "make",
    [
        lambda seed: RandomSampler(seed),
        lambda seed: TopKSampler(k=6, seed=seed, temperature=1.3),
        lambda seed: TopPSampler(p=0.8, k=20, seed=seed),
        lambda seed: RandomSampler(seed, min_p=0.05, repetition_penalty=1.2),
    ],
)
def test_a_seed_gives_the_text_again_and_its_numbers_go_on(lm, make):
    sampler = make(40)
    first, second = generate(lm, sampler), generate(lm, sampler)
    assert first != second
    again = make(40)
    assert [generate(lm, again), generate(lm, again)] == [first, second]
    assert generate(lm, samplers.get(samplers.serialize(sampler))) == first
    assert generate(lm, make(41)) != first
    for row, prompt in enumerate(PROMPTS):
        assert generate(lm, make(40 + row), [prompt]) == [first[row]]


@on_llvmpipe
@pytest.mark.gpu
def test_compile_takes_every_form_that_get_takes(lm):
    greedy = generate(lm, "greedy")
    assert generate(lm, GreedySampler) == greedy
    assert generate(lm, {"class_name": "keras_hub>GreedySampler", "config": {}}) == greedy
    assert generate(lm, TopKSampler(k=1)) == greedy
    for default in ((), (None,)):
        lm.compile("greedy")
        lm.compile(*default)
        assert type(lm.sampler) is TopKSampler
    with pytest.raises(ValueError, match="no sampler is named 'Greedy'"):
        lm.compile("Greedy")
