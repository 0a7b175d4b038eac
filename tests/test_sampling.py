"""The sampling kernels against their CPU twin, both against an independent one in numpy, and the
frequencies of what is drawn against the exact distribution."""

import math
import struct

import numpy as np
import pytest

from adapters import new_device, upload
from gpt2web import gpu, kernels
from gpt2web.gpu import MAX_ROWS
from gpt2web.sampling import (
    Sampling,
    bit_words,
    choose,
    probabilities,
    threefry,
    unit_interval,
)

NO_LIMIT = 0xFFFFFFFF
RUNNING, STOPPED, LIMITED = 0, 1, 2  # Row.done of state.wgsl
DRAW_MARGIN = 1e-5  # of a draw or a cut from a boundary, as a probability
GREEDY_MARGIN = 1e-4  # of the highest two scores


only_llvmpipe = pytest.mark.parametrize("device", ["llvmpipe"], indirect=True)


def on_adapters(argument, cases, *, on_swiftshader):
    """All cases on llvmpipe, the first few on SwiftShader, which is many times slower."""
    sets = [("llvmpipe", case) for case in cases]
    sets += [("SwiftShader", case) for case in cases[:on_swiftshader]]
    return pytest.mark.parametrize(f"device, {argument}", sets, indirect=["device"])


class SamplingKernels:
    """scores, alternatives and select over logits that stand in a tensor, as in a step."""

    def __init__(self, device, rows, vocabulary, *, ring_steps=4, alternatives=0):
        self.device, self.rows, self.vocabulary = device, rows, vocabulary
        self.ring_shape = (ring_steps, rows, 2 + 2 * alternatives if alternatives else 1)
        words = kernels.ceil_div(vocabulary, 32)
        self.state = upload(device, np.zeros((MAX_ROWS, 4), np.uint32), uniform=True)
        self.samplings = upload(device, np.zeros((MAX_ROWS, 8), np.uint32), uniform=True)
        self.logits = upload(device, np.zeros((rows, vocabulary)))
        self.flags = upload(device, np.zeros((rows, 2, words), np.uint32))
        self.scores = upload(device, np.full((rows, vocabulary), np.nan))
        self.summaries = upload(device, np.full((rows, -(-vocabulary // 1024), 4), np.nan))
        self.ring = upload(device, np.zeros(self.ring_shape, np.uint32))
        shared = (self.state, self.samplings, self.logits)
        self.calls = [kernels.scores(device, *shared, self.flags, self.scores, self.summaries)]
        if alternatives:
            self.calls.append(
                kernels.alternatives(device, self.state, self.logits, self.summaries, self.ring)
            )
        self.calls.append(
            kernels.select(device, *shared, self.scores, self.summaries, self.flags, self.ring)
        )

    def write(self, logits, samplings, *, seeds=0, calls=0, steps=0, seen=(), stop=(), limits=None):
        """The rows' inputs: one for all, or a list with one a row."""
        rows = self.rows

        def each(value):
            return value if isinstance(value, (list, np.ndarray)) else [value] * rows

        logits = np.broadcast_to(np.asarray(logits, np.float32), (rows, self.vocabulary))
        self.device.write(self.logits, np.ascontiguousarray(logits))
        states, packed, flags = b"", b"", []
        inputs = (samplings, seeds, calls, steps, limits or NO_LIMIT, seen, stop)
        for sampling, seed, call, step, limit, ids, stops in zip(*map(each, inputs), strict=True):
            states += struct.pack("<4I", 7, 1, int(step), RUNNING)
            packed += sampling.pack(int(seed), int(call), int(limit))
            flags += bit_words(ids, self.vocabulary) + bit_words(stops, self.vocabulary)
        self.device.write(self.state, states)
        self.device.write(self.samplings, packed)
        self.device.write(self.flags, np.array(flags, np.uint32))
        self.device.write(self.ring, np.full(self.ring_shape, 0xDEAD, np.uint32))

    def run(self, times=1):
        self.device.submit(self.calls, times=times)

    def read_ring(self):
        """[ring_steps, rows, words]"""
        return self.ring.numpy().copy()

    def read_state(self):
        """[rows, 4]: position, last id, step, done"""
        return self.state.numpy()[: self.rows].copy()

    def read_seen(self):
        """The ids that each row's repetition penalty is for."""
        bits = self.flags.numpy()[:, 0].copy()
        shifted = (bits[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
        return [set(np.flatnonzero(row)) for row in shifted.reshape(self.rows, -1)]


def distribution(logits, sampling, seen=()):
    """The exact distribution [vocabulary], from the definition, in float64: what `probabilities`
    is checked against. Each cut is taken on renormalised probabilities."""
    scores = np.asarray(logits, np.float64).copy()
    for i in set(seen):
        factor = sampling.repetition_penalty
        scores[i] = scores[i] / factor if scores[i] > 0 else scores[i] * factor
    order = np.lexsort((np.arange(len(scores)), -scores))  # of equal ones the lower id first
    p = np.zeros(len(scores))
    if sampling.temperature == 0:
        p[order[0]] = 1
        return p
    with np.errstate(under="ignore"):
        p = np.exp((scores - scores.max()) / sampling.temperature)
    p /= p.sum()
    if sampling.top_k is not None:
        p[order[sampling.top_k :]] = 0
        p /= p.sum()
    if sampling.top_p is not None:
        cumulative = np.cumsum(p[order])
        crossing = int(np.argmax(cumulative >= sampling.top_p * (1 - 1e-12)))
        p[order[crossing + 1 :]] = 0
        p /= p.sum()
    if sampling.min_p is not None:
        p[p < sampling.min_p * p.max() * (1 - 1e-12)] = 0
        p /= p.sum()
    return p


# ---- the same id as the twin, from the same logits -----------------------------------------------


def logits_of(shape, vocabulary, random):
    """Logits [vocabulary] of a named shape."""
    normal = random.normal(size=vocabulary)
    if shape == "normal":
        return 3 * normal
    if shape == "like GPT-2's":  # far below zero: the softmax must not feel it
        return 4 * normal - 100
    if shape == "peaked":
        normal[random.integers(vocabulary)] += 12
        return normal
    if shape == "equal":
        return np.full(vocabulary, -2.5)
    if shape == "ties":
        return np.round(2 * normal)
    if shape == "signed zeros":
        return np.where(random.random(vocabulary) < 0.5, -0.0, 0.0) - (normal > 1)
    if shape == "huge spread":
        return normal * 10.0 ** random.integers(-3, 30, vocabulary)
    if shape == "negative":
        return -np.abs(20 * normal) - 1
    assert shape == "some -inf"
    logits = np.where(random.random(vocabulary) < 0.4, -np.inf, 2 * normal)
    logits[random.integers(vocabulary)] = 1.0
    return logits


SHAPES = (
    "normal",
    "like GPT-2's",
    "peaked",
    "equal",
    "ties",
    "signed zeros",
    "huge spread",
    "negative",
    "some -inf",
)


def options_of(vocabulary, random):
    """Options [many]: each alone at several values, then random ones all together."""
    ks = sorted({1, 2, 3, 40, max(1, vocabulary - 1), vocabulary, vocabulary + 1, 10**6})
    options = [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0, repetition_penalty=1.3),
        *(Sampling(temperature=t) for t in (0.05, 0.7, 1.9, 50)),
        *(Sampling(top_k=k) for k in ks),
        *(Sampling(top_p=p) for p in (1e-30, 1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)),
        *(Sampling(min_p=p) for p in (1e-30, 1e-3, 0.05, 0.5, 1.0)),
        *(Sampling(repetition_penalty=r) for r in (0.5, 1.1, 3)),
    ]
    for _ in range(24):
        options.append(
            Sampling(
                temperature=float(random.choice([0.3, 0.8, 1, 1.3])),
                top_k=int(random.integers(1, vocabulary + 2)) if random.random() < 0.8 else None,
                top_p=float(random.choice([0.2, 0.6, 0.95, 0.9999])),
                min_p=float(random.choice([0.001, 0.02, 0.3])) if random.random() < 0.5 else None,
                repetition_penalty=float(random.choice([1, 0.8, 1.2, 1.7])),
            )
        )
    return options


def near_misses(device, vocabulary, rounds, seed=0):
    """Draws on the GPU and by the twin: (margins where the ids differ, margins where they are
    equal). Greedy gaps count in units of a draw's margin."""
    random = np.random.default_rng(seed)
    rows = 64
    on_gpu = SamplingKernels(device, rows, vocabulary)
    different, equal = [], []
    for _ in range(rounds):
        options = options_of(vocabulary, random)
        samplings = [options[i] for i in random.permutation(len(options))[:rows]]
        samplings += [options[i] for i in random.integers(len(options), size=rows - len(samplings))]
        shapes = [SHAPES[i % len(SHAPES)] for i in range(rows)]
        logits = np.array([logits_of(s, vocabulary, random) for s in shapes], np.float32)
        seeds, calls = random.integers(2**32, size=(2, rows))
        steps = random.integers(2**20, size=rows)
        seen = [set(random.integers(vocabulary, size=random.integers(20))) for _ in range(rows)]
        on_gpu.write(logits, samplings, seeds=seeds, calls=calls, steps=steps, seen=seen)
        on_gpu.run()
        ids = on_gpu.read_state()[:, 1]
        for row in range(rows):
            choice = choose(
                logits[row].tolist(),
                samplings[row],
                seed=int(seeds[row]),
                call=int(calls[row]),
                step=int(steps[row]),
                seen=seen[row],
            )
            margin = choice.margin
            if samplings[row].temperature == 0:
                margin *= DRAW_MARGIN / GREEDY_MARGIN
            (equal if ids[row] == choice.id else different).append(margin)
            if ids[row] != choice.id:
                print(f"{shapes[row]} {samplings[row]}: {ids[row]}, not {choice}")
    return different, equal


# vocabulary, rounds of 64 rows: the larger, the slower the twin
SIZES = [(97, 8), (1025, 3), (1, 1), (2, 3), (5, 6), (257, 4), (1024, 3), (5000, 2), (50257, 1)]


@on_adapters("case", SIZES, on_swiftshader=2)
def test_the_gpu_chooses_the_twins_id(device, case):
    vocabulary, rounds = case
    different, equal = near_misses(device, vocabulary, rounds)
    print(f"{len(different)} of {len(different) + len(equal)} differ, margins {different}")
    assert all(margin < DRAW_MARGIN for margin in different)
    assert len(different) <= 0.01 * len(equal)
    assert sum(margin >= DRAW_MARGIN for margin in equal) > 0.2 * len(equal)


# What each constant is for: ties, random bits, exact top-k, a whole cut, the draw, the penalty.
CORRUPTIONS = [
    ("select", "0xffffffu - id", "id"),
    ("random", "i < 20u", "i < 19u"),
    ("random", "0x1bd11bdau", "0x1bd11bdbu"),
    ("select", "cut(COUNT, sampling.top_k,", "cut(COUNT, sampling.top_k + 1u,"),
    ("select", "level < 7u", "level < 3u"),
    ("select", "share * at.whole", "share * at.whole * 1.01"),
    ("select", "0x80000000u, ~bits", "0u, ~bits"),
    ("scores", "logit > 0.0", "logit < 0.0"),
]


@pytest.mark.parametrize("kernel, text, wrong", CORRUPTIONS, ids=[c[2] for c in CORRUPTIONS])
def test_one_wrong_constant_is_noticed(kernel, text, wrong, monkeypatch):
    good = gpu.shader_source

    def corrupted(name):
        source = good(name)
        if text not in source:
            assert name != kernel
        return source.replace(text, wrong)

    monkeypatch.setattr(gpu, "shader_source", corrupted)
    device = new_device("llvmpipe")
    different, _ = near_misses(device, 97, 2)
    assert sum(margin >= DRAW_MARGIN for margin in different) > 0
    device.destroy()


# ---- exactly what is kept ------------------------------------------------------------------------


def draw_many(device, cases):
    """12 rows x 8 draws of each (logits, options): the ids drawn of each. One vocabulary for all:
    the shorter ones end in -inf."""
    vocabulary, rows = max(len(logits) for logits, _ in cases), 12
    padded = np.full((len(cases), vocabulary), -np.inf)
    for i, (logits, _) in enumerate(cases):
        padded[i, : len(logits)] = logits
    on_gpu = SamplingKernels(device, rows * len(cases), vocabulary, ring_steps=8)
    samplings = [sampling for _, sampling in cases for _ in range(rows)]
    on_gpu.write(np.repeat(padded, rows, axis=0), samplings, seeds=np.arange(rows * len(cases)))
    on_gpu.run(times=8)
    ids = on_gpu.read_ring()[:, :, 0]  # [8, cases * rows]
    return [set(of_case.ravel().tolist()) for of_case in np.split(ids, len(cases), axis=1)]


def p(*shares):
    """Logits of probabilities."""
    return np.log(np.array(shares) / sum(shares))


# name, logits, options, the ids that are kept
KEPT = [
    ("top-k keeps k of equals, the lowest", [1, 1, 1, 1, 1], Sampling(top_k=3), {0, 1, 2}),
    ("a tie at the cut", [0, 2, 1, 1, 1, 3], Sampling(top_k=3), {1, 2, 5}),
    ("-0 is 0", [-0.0, 0.0, -0.0, -1], Sampling(top_k=2), {0, 1}),
    ("k over V", [0, 1], Sampling(top_k=3), {0, 1}),
    ("k of 1 under a tie", [2, 2], Sampling(top_k=1), {0}),
    ("half of two", [3, 3], Sampling(top_p=0.5), {0}),
    ("half of four", [3, 3, 3, 3], Sampling(top_p=0.5), {0, 1}),
    ("just over half of four", [3, 3, 3, 3], Sampling(top_p=0.5001), {0, 1, 2}),
    ("the id that crosses p", p(5, 3, 2), Sampling(top_p=0.6), {0, 1}),
    ("p of nearly nothing", p(3, 4, 3), Sampling(top_p=1e-45), {1}),
    ("p of less than a float holds", p(3, 4, 3), Sampling(top_p=1e-300), {1}),
    ("p of 1", p(9, 4, 3), Sampling(top_p=1.0), {0, 1, 2}),
    ("min-p", p(40, 30, 19, 11), Sampling(min_p=0.5), {0, 1}),
    ("min-p 1 keeps equals", [1, 2, 2, 0], Sampling(min_p=1.0), {1, 2}),
    ("p is of what k left", p(30, 25, 24, 21), Sampling(top_k=2, top_p=0.5), {0}),
    ("p would be two alone", p(30, 25, 24, 21), Sampling(top_p=0.5), {0, 1}),
    # a bin that holds one id after top-k must not bring its neighbours back
    ("k stays under p", p(40, 20, 19, 11, 10), Sampling(top_k=2, top_p=0.99), {0, 1}),
    ("k stays under a lone one", [8.0, 7.0, 6.9, 6.8], Sampling(top_k=2, top_p=0.9999), {0, 1}),
    (
        "temperature comes before p",
        p(4, 2, 1, 1),
        Sampling(temperature=0.5, top_p=0.7),
        {0},  # 16 of 22 is 0.73; before the temperature it were 0.5
    ),
    (
        "temperature comes before min-p",
        p(4, 2, 1, 1),
        Sampling(temperature=0.5, min_p=0.3),
        {0},
    ),
    (
        "min-p comes last",
        p(50, 20, 15, 15),
        Sampling(top_p=0.6, min_p=0.35),
        {0, 1},  # 20 of 50 is 0.4
    ),
]


def test_what_is_kept_is_drawn_and_nothing_else(device):
    for name, logits, sampling, kept in KEPT:
        logits = np.asarray(logits, np.float32)
        assert set(np.flatnonzero(distribution(logits, sampling))) == kept, name
        assert set(np.flatnonzero(probabilities(logits.tolist(), sampling))) == kept, name
    drawn = draw_many(device, [(logits, sampling) for _, logits, sampling, _ in KEPT])
    for (name, *_, kept), ids in zip(KEPT, drawn, strict=True):
        assert ids == kept, name


def test_the_penalty_comes_before_top_k_and_counts_an_id_once(device):
    # id 0 is halved, id 3 doubled: halved twice, id 0 would stand behind id 2
    logits = np.array([4.0, 1.9, 1.5, -0.5, -0.9], np.float32)
    two, four = (Sampling(repetition_penalty=2, top_k=k) for k in (2, 4))
    cases = [(two, [0, 0, 0, 3], {0, 1}), (four, [3], {0, 1, 2, 4}), (four, [], {0, 1, 2, 3})]
    on_gpu = SamplingKernels(device, 40, 5)
    for sampling, seen, kept in cases:
        assert set(np.flatnonzero(distribution(logits, sampling, seen))) == kept
        drawn = set()
        for call in range(3):  # one step each: what is drawn would be seen in the next
            on_gpu.write(logits, sampling, seeds=np.arange(40), calls=call, seen=[seen] * 40)
            on_gpu.run()
            drawn |= set(on_gpu.read_state()[:, 1].tolist())
        assert drawn == kept


def test_generated_ids_join_those_of_the_prompt(device):
    on_gpu = SamplingKernels(device, 1, 70)
    logits = np.arange(70, dtype=np.float32) / 10
    on_gpu.write(logits, Sampling(temperature=0, repetition_penalty=100), seen=[{69, 3}])
    on_gpu.run(times=3)
    # 69 is of the prompt; 68, 67 and 66 follow one another out of the running
    assert on_gpu.read_ring()[:3, 0, 0].tolist() == [68, 67, 66]
    assert on_gpu.read_seen() == [{69, 3, 68, 67, 66}]


def test_the_twins_distribution_is_the_definitions():
    random = np.random.default_rng(3)
    for vocabulary in (1, 2, 5, 97, 300):
        for sampling in options_of(vocabulary, random):
            logits = logits_of("normal", vocabulary, random).astype(np.float32)
            seen = set(random.integers(vocabulary, size=10).tolist())
            ours = probabilities(logits.tolist(), sampling, seen)
            # scores are float32: 1e-7 of scores up to 200 (temperature 0.05)
            np.testing.assert_allclose(
                ours, distribution(logits, sampling, seen), rtol=1e-4, atol=1e-7
            )


def test_options_together_follow_the_order_of_the_definition():
    logits = p(30, 25, 24, 21).tolist()
    both = Sampling(top_k=3, top_p=0.7)
    assert np.count_nonzero(probabilities(logits, both)) == 3  # 55 of 79 is 0.696
    assert np.count_nonzero(probabilities(logits, Sampling(top_p=0.7))) == 3
    assert np.count_nonzero(probabilities(logits, Sampling(top_k=3, top_p=0.69))) == 2
    assert np.count_nonzero(distribution(logits, Sampling(top_p=0.69))) == 3


# ---- how often each id is drawn ------------------------------------------------------------------


def chi_squared_score(counts, wanted):
    """How many standard deviations the counts are off the distribution `wanted` (Wilson and
    Hilferty's normal approximation of chi-squared); inf when one is drawn that cannot be."""
    draws = counts.sum()
    if (counts[wanted == 0] > 0).any():
        return math.inf
    expected = wanted * draws
    rare = expected < 8  # too few for the statistic: counted together
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    if freedom == 0:
        return 0.0
    statistic = ((observed - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


# fixed seeds: a right distribution passes always, at 4 standard deviations (1 in 30,000)
LIMIT = 4
FREQUENCIES = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(temperature=2.0),
    Sampling(top_k=10),
    Sampling(top_p=0.8),
    Sampling(min_p=0.05),
    Sampling(temperature=1.4, top_k=30, top_p=0.9, min_p=0.02),
    Sampling(top_k=96),
]


def frequencies(device, vocabulary, logits, samplings, submits, steps=64):
    """Counts [len(samplings), vocabulary] of 256 / len(samplings) rows x steps x submits."""
    each = MAX_ROWS // len(samplings)
    on_gpu = SamplingKernels(device, MAX_ROWS, vocabulary, ring_steps=steps)
    rows = [sampling for sampling in samplings for _ in range(each)]
    on_gpu.write(logits, rows, seeds=np.arange(MAX_ROWS))
    counts = np.zeros((len(samplings), vocabulary))
    for _ in range(submits):
        on_gpu.run(times=steps)
        ids = on_gpu.read_ring()[:, :, 0]  # [steps, 256]
        for i in range(len(samplings)):
            drawn = ids[:, i * each : (i + 1) * each].ravel()
            counts[i] += np.bincount(drawn, minlength=vocabulary)
    return counts


@only_llvmpipe
def test_ids_are_drawn_as_often_as_they_should_be(device):
    logits = np.random.default_rng(11).normal(size=97).astype(np.float32) * 2
    counts = frequencies(device, 97, logits, FREQUENCIES, submits=2)
    assert (counts.sum(axis=1) == 32 * 64 * 2).all()
    for sampling, row in zip(FREQUENCIES, counts, strict=True):
        for wanted in (
            distribution(logits, sampling),
            np.array(probabilities(logits.tolist(), sampling)),
        ):
            score = chi_squared_score(row, wanted)
            print(f"{sampling}: {score:.2f}")
            assert abs(score) < LIMIT


@only_llvmpipe
def test_chi_squared_notices_one_id_too_few_and_one_too_many(device):
    logits = np.random.default_rng(11).normal(size=97).astype(np.float32) * 2
    cases = [Sampling(top_k=k) for k in (9, 10, 11, 12)]
    counts = frequencies(device, 97, logits, cases, submits=1)
    wanted = distribution(logits, Sampling(top_k=10))
    scores = [chi_squared_score(row, wanted) for row in counts]
    assert scores[0] > LIMIT and scores[2] > LIMIT and scores[3] > LIMIT
    assert abs(scores[1]) < LIMIT


@only_llvmpipe
def test_a_large_vocabulary_is_drawn_from_evenly(device):
    vocabulary = 5000
    logits = np.zeros(vocabulary, np.float32)
    logits[::2] = math.log(3)
    counts = frequencies(device, vocabulary, logits, [Sampling()], 1, steps=24)[0]
    by_block = counts.reshape(100, 50).sum(axis=1)
    assert abs(chi_squared_score(by_block, np.full(100, 0.01))) < LIMIT
    by_parity = counts.reshape(-1, 2).sum(axis=0)
    assert abs(chi_squared_score(by_parity, np.array([0.75, 0.25]))) < LIMIT


# ---- random numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, counter, wanted",  # Random123's known answers, kat_vectors: threefry2x32, 20 rounds
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, wanted):
    assert threefry(key, counter) == wanted


def test_the_gpus_random_bits_are_threefrys(device):
    # among 2^k ids of one probability the draw is the highest k bits, exactly
    edges = [0, 1, 2**31, 2**32 - 1]
    random = np.random.default_rng(5)
    keys = np.array([(a, b, c) for a in edges for b in edges for c in edges])
    keys = np.concatenate([keys, random.integers(2**32, size=(MAX_ROWS - len(keys), 3))])
    for bits in (1, 10):
        on_gpu = SamplingKernels(device, MAX_ROWS, 1 << bits)
        on_gpu.write(np.zeros(1 << bits), Sampling(), seeds=keys[:, 0], calls=keys[:, 1])
        state = np.array([(0, 0, step, RUNNING) for step in keys[:, 2]], np.uint32)
        device.write(on_gpu.state, state)
        on_gpu.run()
        wanted = [threefry((int(a), int(b)), (int(c), 0))[0] >> (32 - bits) for a, b, c in keys]
        assert on_gpu.read_state()[:, 1].tolist() == wanted


def test_unit_interval_is_below_one():
    assert unit_interval(0) == 0
    assert unit_interval(0xFFFFFFFF) == 1 - 2**-24


# ---- log-probabilities and alternatives ----------------------------------------------------------


@on_adapters("vocabulary", [1025, 5, 97, 50257], on_swiftshader=1)
def test_log_probabilities_are_of_the_raw_logits(device, vocabulary):
    random = np.random.default_rng(vocabulary)
    rows, alternatives = 9, min(7, vocabulary)
    on_gpu = SamplingKernels(device, rows, vocabulary, alternatives=alternatives)
    logits = np.array(
        [logits_of(SHAPES[i % len(SHAPES)], vocabulary, random) for i in range(rows)], np.float32
    )
    sampling = Sampling(temperature=1.7, top_k=3, repetition_penalty=1.8)
    on_gpu.write(logits, sampling, seeds=np.arange(rows), seen=[set(range(0, vocabulary, 2))] * 9)
    on_gpu.run()
    ring = on_gpu.read_ring()[0]
    ids, floats = on_gpu.read_state()[:, 1], ring.view(np.float32)
    for row in range(rows):
        scores = logits[row].astype(np.float64)
        with np.errstate(under="ignore"):
            log_sum = scores.max() + np.log(np.exp(scores - scores.max()).sum())
        order = np.lexsort((np.arange(vocabulary), -scores))[:alternatives]
        assert ring[row, 0] == ids[row]
        assert ring[row, 2::2].tolist() == order.tolist()
        # float32 of the logits, and exp and log of two drivers
        close = {"rtol": 2e-6, "atol": 5e-5}
        np.testing.assert_allclose(floats[row, 1], scores[ids[row]] - log_sum, **close)
        np.testing.assert_allclose(floats[row, 3::2], scores[order] - log_sum, **close)


def test_alternatives_to_the_end_of_a_vocabulary_with_minus_infinities(device):
    on_gpu = SamplingKernels(device, 1, 6, alternatives=6)
    on_gpu.write([-np.inf, 1, 2, 1, -np.inf, -3.4e38], Sampling(temperature=0))
    on_gpu.run()
    ring = on_gpu.read_ring()[0, 0]
    assert ring[2::2].tolist() == [2, 1, 3, 5, 0, 4]
    assert np.isneginf(ring.view(np.float32)[[11, 13]]).all()


# ---- state ---------------------------------------------------------------------------------------


def test_a_step_advances_the_state_and_the_ring_wraps(device):
    on_gpu = SamplingKernels(device, 3, 40, ring_steps=4)
    logits = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    on_gpu.write(logits, Sampling(temperature=1.5), seeds=[5, 6, 7], calls=2)
    on_gpu.run(times=6)
    wanted = np.array(
        [
            [
                choose(
                    logits[row].tolist(), Sampling(temperature=1.5), seed=5 + row, call=2, step=n
                ).id
                for row in range(3)
            ]
            for n in range(6)
        ]
    )
    ring = on_gpu.read_ring()[:, :, 0]
    assert ring.tolist() == wanted[[4, 5, 2, 3]].tolist()
    state = on_gpu.read_state()
    assert state.tolist() == [[7 + 6, wanted[5, row], 6, RUNNING] for row in range(3)]


def test_a_stop_id_or_the_limit_ends_a_row_which_then_stays_as_it_is(device):
    on_gpu = SamplingKernels(device, 4, 33, alternatives=2)
    logits = np.zeros((4, 33))
    logits[:, 32] = 9
    limits = [100, 2, 1, 100]
    stop = [{32}, set(), {32}, {31}]
    on_gpu.write(logits, Sampling(temperature=0), limits=limits, stop=stop, seen=[set()] * 4)
    on_gpu.run(times=4)
    state = on_gpu.read_state()
    assert state[:, 3].tolist() == [STOPPED, LIMITED, STOPPED, RUNNING]
    assert state[:, 2].tolist() == [1, 2, 1, 4]
    assert state[:, 0].tolist() == [8, 9, 8, 11]
    ring = on_gpu.read_ring()
    written = (ring[:, :, 0] != 0xDEAD).sum(axis=0)
    assert written.tolist() == [1, 2, 1, 4]
    assert ((ring != 0xDEAD).sum(axis=(0, 2)) == written * 6).all()
    scores = on_gpu.scores.numpy().copy()
    on_gpu.run(times=2)
    assert (on_gpu.read_state()[:3] == state[:3]).all()
    assert (on_gpu.read_ring()[:, :3] == ring[:, :3]).all()
    assert (on_gpu.scores.numpy()[:3] == scores[:3]).all()


def test_rows_of_a_dispatch_do_not_touch_each_other(device):
    random = np.random.default_rng(8)
    samplings = [Sampling(top_k=4), Sampling(temperature=0), Sampling(top_p=0.3), Sampling()]
    logits = random.normal(size=(4, 300)).astype(np.float32)
    together = SamplingKernels(device, 4, 300)
    together.write(logits, samplings, seeds=np.arange(4))
    together.run(times=4)
    alone = SamplingKernels(device, 1, 300)
    for row in range(4):
        alone.write(logits[row : row + 1], [samplings[row]], seeds=[row])
        alone.run(times=4)
        assert (alone.read_ring()[:, 0] == together.read_ring()[:, row]).all()


def test_the_same_seed_gives_the_same_ids_again_and_others_do_not(device):
    on_gpu = SamplingKernels(device, 1, 1000, ring_steps=64)
    texts = []
    for seed, call in [(1, 0), (1, 0), (2, 0), (1, 1)]:
        on_gpu.write(np.zeros(1000), Sampling(), seeds=seed, calls=call)
        on_gpu.run(times=64)
        texts.append(on_gpu.read_ring().ravel().tolist())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2] and texts[0] != texts[3] and texts[2] != texts[3]


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"temperature": math.nan}, ValueError, "temperature must be finite, got nan"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite"),
        ({"temperature": -1}, ValueError, "temperature must be 0 (greedy) or between"),
        ({"temperature": 1e-9}, ValueError, "temperature must be 0 (greedy) or between"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
        ({"temperature": True}, TypeError, "temperature must be a number"),
        ({"temperature": None}, TypeError, "temperature must be a number"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, or None for all ids, got 0"),
        ({"top_k": -1}, ValueError, "top_k must be at least 1"),
        ({"top_k": 1.5}, TypeError, "top_k must be an int or None, got 1.5"),
        ({"top_k": True}, TypeError, "top_k must be an int or None, got True"),
        ({"top_p": 0}, ValueError, "top_p must be over 0 and at most 1, or None, got 0"),
        ({"top_p": 1.1}, ValueError, "top_p must be over 0 and at most 1"),
        ({"top_p": math.nan}, ValueError, "top_p must be finite"),
        ({"top_p": "0.5"}, TypeError, "top_p must be a number"),
        ({"min_p": 0}, ValueError, "min_p must be over 0"),
        ({"min_p": -0.1}, ValueError, "min_p must be over 0"),
        ({"min_p": 2}, ValueError, "min_p must be over 0 and at most 1"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be between"),
        ({"repetition_penalty": -1}, ValueError, "repetition_penalty must be between"),
        ({"repetition_penalty": math.inf}, ValueError, "repetition_penalty must be finite"),
        ({"repetition_penalty": "1"}, TypeError, "repetition_penalty must be a number"),
    ],
)
def test_a_bad_option_is_refused_with_its_value(options, error, text):
    with pytest.raises(error) as raised:
        Sampling(**options)
    assert text in str(raised.value)


def test_good_options_are_taken():
    Sampling(temperature=0)
    Sampling(temperature=1e6, top_k=10**12, top_p=1, min_p=1.0, repetition_penalty=1e-3)
    Sampling(top_p=1e-300).pack(2**32 - 1, 2**32 - 1, 2**32 - 1)
