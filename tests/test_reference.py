"""The numpy reference against Transformers, so that what is tested against it is tested against
Transformers; and each twin against the plain formula."""

import hashlib
import json
import math

import numpy as np
import pytest

import reference

# PyTorch's float32 against float64 here: up to 4e-6 of the largest logit when recorded. A tenth of
# what the GPU is allowed, so that what is tested against the one is tested against the other.
TOLERANCE = 1e-5
GPU_TOLERANCE = 1e-4


def worst(logits, wanted):
    """The largest difference, as a part of the largest logit."""
    return np.abs(logits - wanted).max() / np.abs(wanted).max()


@pytest.fixture(scope="module")
def stories():
    return reference.stories_model()


# ---- against Transformers ------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.recorded_model_names())
def test_random_models_give_the_recorded_logits(name):
    model = reference.recorded_model(name)
    logits = reference.forward(model.config, model.weights, model.ids)
    assert np.ptp(model.logits, axis=-1).mean() > 1
    assert worst(logits, model.logits) < TOLERANCE


@pytest.mark.parametrize("name", ["three_heads_of_two", "five_heads_of_two"])
def test_padding_is_the_same_as_no_tokens_there(name):
    """What a mask hides might as well not be there, as long as the others keep their positions."""
    model, padded = reference.recorded_model(name), reference.recorded_padded(name)
    assert (~padded.mask).sum(axis=1).min() == 0 and (~padded.mask[1:]).sum(axis=1).min() > 0
    for ids, mask, wanted in zip(padded.ids, padded.mask, padded.hidden, strict=True):
        (columns,) = np.nonzero(mask)
        got = reference.hidden_states(model.config, model.weights, ids[columns], columns)
        assert worst(got, wanted[columns]) < TOLERANCE


def erf_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


# Not the model of hidden size 2: a norm of two values leaves little but their order, so that it
# barely feels a GELU.
@pytest.mark.parametrize("name", reference.recorded_model_names()[1:])
@pytest.mark.parametrize("mistake", ["erf gelu", "no causal mask", "one norm for two", "epsilon"])
def test_a_wrong_model_does_not_give_the_recorded_logits(name, mistake, monkeypatch):
    model = reference.recorded_model(name)
    if mistake == "erf gelu":
        monkeypatch.setattr(reference, "gelu", erf_gelu)
    elif mistake == "no causal mask":
        monkeypatch.setattr(reference, "causal_mask", lambda n: np.ones((n, n), dtype=bool))
    elif mistake == "one norm for two":
        for weight in [name for name in model.weights if ".ln_2." in name]:
            model.weights[weight] = model.weights[weight.replace("ln_2", "ln_1")]
    else:
        model.config.layer_norm_epsilon = 1e-4
    logits = reference.forward(model.config, model.weights, model.ids)
    assert worst(logits, model.logits) > GPU_TOLERANCE


def test_a_recorded_model_whose_weights_differ_is_refused(monkeypatch):
    name = reference.recorded_model_names()[0]
    assert reference.recorded_model(name).weights
    made = reference.random_weights
    monkeypatch.setattr(reference, "random_weights", lambda config, seed: made(config, seed + 1))
    with pytest.raises(ValueError, match="are not those that were recorded"):
        reference.recorded_model(name)


def test_the_stories_model_is_the_one_that_was_recorded():
    data = (reference.STORIES / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == reference.recorded_stories().sha256


@pytest.mark.parametrize("index", range(4))
def test_the_stories_model_gives_the_recorded_logits(stories, index):
    _, ids, positions, wanted = reference.recorded_stories().logits[index]
    logits = reference.forward(*stories, ids)
    assert worst(logits[positions], wanted) < TOLERANCE


@pytest.mark.parametrize("index", range(2))
def test_the_stories_model_gives_the_recorded_greedy_ids(stories, index):
    config, weights = stories
    weights = {name: values.astype(np.float64) for name, values in weights.items()}  # once
    _, ids, prompt, gaps = reference.recorded_stories().greedy[index]
    cache = reference.new_cache(config, batch=1, length=len(ids))
    logits = reference.forward_cached(config, weights, ids[:prompt], cache, 0, 0)[-1]
    for position, gap in zip(range(prompt, len(ids)), gaps, strict=True):
        second, first = np.argsort(logits)[-2:]
        # The ids were chosen so that no two logits nearly tie: none has to be excused.
        assert first == ids[position], f"step {position - prompt}: recorded gap {gap}"
        assert logits[first] - logits[second] == pytest.approx(gap, abs=1e-4)
        step = ids[position : position + 1]
        logits = reference.forward_cached(config, weights, step, cache, 0, position)[0]


def test_the_stories_model_has_the_recorded_loss(stories):
    _, ids, losses = reference.recorded_stories().loss
    logits = reference.forward(*stories, ids)[:-1]
    chances = reference.softmax(logits)[np.arange(len(logits)), ids[1:]]
    np.testing.assert_allclose(-np.log(chances), losses, atol=1e-4)
    assert 2.5 < losses.mean() < 2.7


# ---- the twins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["five_heads_of_two", "heads_of_seven"])
def test_cached_equals_uncached_wherever_the_text_is_split(name):
    model = reference.recorded_model(name)
    config, weights, ids = model.config, model.weights, model.ids[:20]
    wanted = reference.forward(config, weights, ids)
    for split in range(1, len(ids)):
        cache = reference.new_cache(config, batch=2, length=len(ids))
        first = reference.forward_cached(config, weights, ids[:split], cache, 1, 0, block=4)
        rest = reference.forward_cached(config, weights, ids[split:], cache, 1, split, block=4)
        np.testing.assert_allclose(np.concatenate([first, rest]), wanted, atol=1e-11)
        assert all(np.isnan(layer[0]).all() for layer in cache)  # the other row is untouched


@pytest.mark.parametrize("length", [1, 7, 64, 65])
@pytest.mark.parametrize("split", [1, 16, 64])
def test_attention_in_parts_is_attention(length, split):
    draw = np.random.default_rng(length).standard_normal
    q, keys, values = draw((3, 5)), draw((length, 3, 5)), draw((length, 3, 5))
    q *= 50  # scores far apart: a softmax without its largest taken off would overflow
    wanted = reference.attend(q, keys, values)
    np.testing.assert_allclose(reference.attend_split(q, keys, values, split), wanted, atol=1e-12)


@pytest.mark.parametrize("position", [0, 1, 63])
@pytest.mark.parametrize("block", [1, 16, 100])
def test_chunk_attention_is_attention_of_each_of_its_queries(position, block):
    draw = np.random.default_rng(position).standard_normal
    q, keys, values = draw((9, 3, 5)), draw((80, 3, 5)), draw((80, 3, 5))
    keys[position + 9 :] = values[position + 9 :] = np.nan  # not written yet
    mixed = reference.attend_chunk(q, keys, values, position, block)
    for i in range(9):
        seen = position + i + 1
        wanted = reference.attend(q[i], keys[:seen], values[:seen])
        np.testing.assert_allclose(mixed[i], wanted, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (7, 5), (64, 65)])
def test_packing_puts_pairs_of_a_column_into_words_low_half_first(shape):
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    rows, columns = shape
    words = reference.pack(matrix, 32)
    assert words.shape == (rows, -(-columns // 4) * 4) and words.dtype == np.uint32
    np.testing.assert_array_equal(reference.unpack(words, shape, 32), matrix)
    assert not words[:, columns:].any()

    words = reference.pack(matrix, 16)
    assert words.shape == (-(-rows // 2), -(-columns // 4) * 4) and words.dtype == np.uint32
    halves = matrix.astype(np.float16)
    np.testing.assert_array_equal(reference.unpack(words, shape, 16), halves.astype(np.float32))
    for k in range(rows):
        for n in range(columns):
            half = int(words[k // 2, n]) >> 16 * (k % 2) & 0xFFFF
            assert half == halves[k, n].view(np.uint16)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_written_weights_are_read_back(tmp_path, dtype):
    weights = {"a": np.float32([[1, -2.5], [3e-3, 7]]), "b": np.float32([0.1])}
    reference.write_safetensors(tmp_path / "x.safetensors", weights, dtype)
    back = reference.read_safetensors(tmp_path / "x.safetensors")
    bits = {"F32": 24, "F16": 11, "BF16": 8}[dtype]
    for name, values in weights.items():
        np.testing.assert_allclose(back[name], values, rtol=2.0**-bits)


def test_random_weights_are_the_same_everywhere_and_never_degenerate():
    model = reference.recorded_model("three_heads_of_two")
    assert model.weights.keys() == reference.weight_shapes(model.config).keys()
    for name, values in model.weights.items():
        assert values.std() > 0.1 and len(np.unique(values)) > values.size / 2, name
    assert json.dumps(model.fields)  # plain numbers: GPT2Config(**fields) takes them
