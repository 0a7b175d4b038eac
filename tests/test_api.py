"""GPT2Backbone and GPT2CausalLM as functions of ids: against the numpy reference, against what
Transformers computed of padded batches, and against themselves."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from adapters import new_device
from gpt2web import DeviceError, GPT2Backbone, GPT2CausalLM, GPT2Config
from gpt2web import weights as weights_module
from gpt2web.blocking import block_on
from gpt2web.chunks import KVCache
from gpt2web.gpu import MAX_ROWS

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4  # of the largest value: what is promised; about 1e-6 is seen
PADDED = ["three_heads_of_two", "five_heads_of_two"]
on_llvmpipe = pytest.mark.parametrize("device", ["llvmpipe"], indirect=True)


def assert_close(got, wanted):
    got = got.numpy() if hasattr(got, "numpy") else got
    assert got.shape == wanted.shape
    worst = np.abs(got - wanted).max() / np.abs(wanted).max()  # NaN where any is missing
    assert worst <= TOLERANCE, f"off by {worst:.2g} of the largest value"


def make_lm(device, name="three_heads_of_two"):
    model = reference.recorded_model(name) if isinstance(name, str) else name
    backbone = GPT2Backbone(**model.fields, device=device)
    backbone.load_weights(model.weights)
    return GPT2CausalLM(backbone), model


@pytest.fixture
def lm(device):
    return make_lm(device)[0]


@pytest.fixture
def model():
    return reference.recorded_model("three_heads_of_two")


def random_ids(rows, n, vocabulary, seed=1):
    return np.random.default_rng(seed).integers(0, vocabulary, (rows, n))


# ---- the backbone --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.recorded_model_names())
def test_hidden_states_and_logits_are_those_of_the_models(device, name):
    lm, model = make_lm(device, name)
    ids = model.ids if "llvmpipe" in device.info["adapter"] else model.ids[:9]
    hidden = lm.backbone({"token_ids": ids[None]})
    assert_close(hidden, reference.hidden_states(model.config, model.weights, ids)[None])
    assert_close(lm({"token_ids": ids[None]}), model.logits[None, : len(ids)])


@pytest.mark.parametrize("name", PADDED)
def test_padding_and_holes_give_what_transformers_gives_at_the_columns_that_count(device, name):
    lm, _ = make_lm(device, name)
    padded = reference.recorded_padded(name)
    ids, mask = padded.ids, padded.mask
    inputs = {"token_ids": ids, "padding_mask": mask}
    hidden = lm.backbone(inputs).numpy()
    assert np.isfinite(hidden).all()  # also where there is nothing to attend to
    assert_close(hidden[mask], padded.hidden[mask])
    unpadded = lm.backbone(ids).numpy()
    assert np.abs(unpadded[mask] - padded.hidden[mask]).max() > 0.1  # the mask does something
    losses = lm.score(ids, mask, "loss", np.roll(ids, -1, axis=1)).numpy()
    assert_close(losses[mask], padded.losses[mask])


@on_llvmpipe
def test_what_stands_at_masked_columns_reaches_no_other(device):
    lm, _ = make_lm(device)
    padded = reference.recorded_padded("three_heads_of_two")
    first = lm.backbone({"token_ids": padded.ids, "padding_mask": padded.mask}).numpy()
    others = np.where(padded.mask, padded.ids, 96 - padded.ids)
    again = lm.backbone({"token_ids": others, "padding_mask": padded.mask}).numpy()
    np.testing.assert_array_equal(first[padded.mask], again[padded.mask])
    without = lm.backbone({"token_ids": others}).numpy()
    assert np.abs(first[padded.mask] - without[padded.mask]).max() > 0.1


@on_llvmpipe
def test_a_mask_may_be_lists_of_ints_or_a_flat_row_and_all_of_it_true_is_none(device):
    lm, model = make_lm(device)
    ids = [list(map(int, model.ids[:5]))]
    plain = lm.backbone(ids).numpy()
    for mask in (None, [[True] * 5], ((1, 1, 1, 1, 1),), np.ones((1, 5)), [1] * 5):
        given = lm.backbone({"token_ids": ids, "padding_mask": mask}).numpy()
        np.testing.assert_array_equal(given, plain)
    holes = lm.backbone({"token_ids": ids, "padding_mask": [[1, 0, 1, 1, 1]]}).numpy()
    assert np.abs(holes[0, 4] - plain[0, 4]).max() > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 5])
@on_llvmpipe
def test_a_batch_is_its_rows_alone(device, rows):
    lm, model = make_lm(device, "one_head_of_64")
    ids = random_ids(rows, 70, 257)  # five rows are more than one chunk
    together = lm.backbone(ids).numpy()
    for row in range(rows):
        np.testing.assert_array_equal(together[row], lm.backbone(ids[row : row + 1]).numpy()[0])
        wanted = reference.hidden_states(model.config, model.weights, ids[row])
        assert_close(together[row], wanted)


@on_llvmpipe
def test_the_largest_batch_is_taken(device):
    lm, _ = make_lm(device, "odd_everything")
    ids = random_ids(MAX_ROWS, 1, 5)
    assert_close(lm(ids), lm(ids[:, ::-1]).numpy())
    with pytest.raises(ValueError, match=r"at most 256 rows, got 257"):
        lm(random_ids(MAX_ROWS + 1, 1, 5))


@on_llvmpipe
def test_results_are_tensors_to_read_or_to_have_as_arrays(lm):
    hidden, logits = lm.backbone([[1, 2, 3]]), lm([[1, 2, 3]])
    assert (hidden.shape, hidden.dtype) == ((1, 3, 6), "f32")
    assert logits.shape == (1, 3, 97)
    view = block_on(logits.read(), "read")
    assert (view.shape, view.format) == ((1, 3, 97), "f")
    assert view.tolist() == logits.numpy().tolist()
    assert lm.call([[1, 2, 3]]).numpy().tolist() == view.tolist()


IDS = [[1, 2, 3]]
BAD_INPUTS = {
    "flat": ([1, 2], r"token_ids: wanted a batch of rows of one length, .* got \[1, 2\]"),
    "no rows": ([], "wanted a batch"),
    "an empty row": ([[]], "wanted a batch"),
    "ragged": ([[1, 2], [3]], "wanted a batch of rows of one length"),
    "text": ("abc", "wanted a batch"),
    "nothing": (None, "wanted a batch"),
    "floats": (np.array([[1.5]]), "wanted ids of 0 to 96, got 1.5"),
    "booleans": ([[True]], "wanted ids of 0 to 96, got True"),
    "negative": ([[1, -1]], "wanted ids of 0 to 96, got -1"),
    "beyond the vocabulary": ([[97]], "wanted ids of 0 to 96, got 97"),
    "deeper": ([[[1]]], r"wanted ids of 0 to 96, got \[1\]"),
    "too long": ([[1] * 18], r"a sequence of 18 is longer than max_sequence_length, 17"),
    "no ids": ({"padding_mask": [[1]]}, "wanted token_ids and padding_mask, got padding_mask"),
    "more": ({"token_ids": IDS, "segment_ids": IDS}, "got token_ids, segment_ids"),
    "a short mask": ({"token_ids": IDS, "padding_mask": [[1, 1]]}, r"\[1, 3\], got rows of \[2\]"),
    "a wide mask": ({"token_ids": IDS, "padding_mask": [[1] * 3] * 2}, r"got rows of \[3, 3\]"),
    "no mask": ({"token_ids": IDS, "padding_mask": True}, "padding_mask: wanted a list"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
@on_llvmpipe
def test_inputs_that_are_none_are_refused_with_what_was_wanted(lm, case):
    lm.backbone({"token_ids": IDS, "padding_mask": [[1, 1, 0]]})
    inputs, message = BAD_INPUTS[case]
    for call in (lm, lm.backbone):
        with pytest.raises(ValueError, match=message):
            call(inputs)


def test_a_backbone_says_its_sizes_and_comes_back_from_its_config():
    fields = {
        "vocabulary_size": 10,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 2,
        "intermediate_dim": 4,
        "dropout": 0.3,
        "max_sequence_length": 5,
    }
    backbone = GPT2Backbone(**fields)
    assert {name: getattr(backbone, name) for name in fields} == fields
    assert backbone.name == "gpt2_backbone"
    assert backbone.count_params() == 142
    config = backbone.get_config()
    keras = {"name": "gpt2_backbone", "trainable": True, "dtype": "float32"}
    assert config == {**keras, **fields, "layer_norm_epsilon": 1e-5}
    assert GPT2Backbone(**fields, name="b", dtype="float16").precision == "f16"
    with pytest.raises(ValueError, match="dtype is one of float32, float16, got 'int8'"):
        GPT2Backbone(**fields, dtype="int8")
    for again in (GPT2Backbone.from_config(config), GPT2Backbone.from_config(backbone.config)):
        assert again.config == backbone.config
    with pytest.raises(TypeError, match="num_lairs"):
        GPT2Backbone.from_config({**config, "num_lairs": 3})
    with pytest.raises(ValueError, match="divisible by num_heads, got hidden_dim 2 and num_heads "):
        GPT2Backbone(**{**fields, "num_heads": 3})
    with pytest.raises(ValueError, match="dropout: wanted 0 or more and less than 1"):
        GPT2Backbone(**{**fields, "dropout": 1.0})


def column_of(table, at):
    return [line.split()[at] for line in table.splitlines()[2:] if line]


@pytest.mark.parametrize(
    "config, total",
    [
        (GPT2Config.from_preset("gpt2"), 124_439_808),
        (GPT2Config(10, 2, 2, 2, 4, max_sequence_length=5), 142),
    ],
)
def test_a_summary_is_a_table_whose_parameters_add_up(config, total):
    table = GPT2Backbone.from_config(config).summary()
    *parts, last = [int(n.replace(",", "")) for n in column_of(table, -1)]
    assert sum(parts) == last == total
    assert column_of(table, 0)[:3] == ["wte", "wpe", "h.0.ln_1"]
    assert len(parts) == 2 + 6 * config.num_layers + 1
    assert len({len(line) for line in table.splitlines()}) == 1
    assert GPT2CausalLM(GPT2Backbone.from_config(config)).summary() == table


@on_llvmpipe
def test_dropout_is_kept_and_does_nothing(device, model):
    found = []
    for dropout in (0.0, 0.9):
        backbone = GPT2Backbone(**model.fields, dropout=dropout, device=device)
        backbone.load_weights(model.weights)
        assert backbone.get_config()["dropout"] == dropout
        found.append(backbone([[1, 2, 3]]).numpy())
    np.testing.assert_array_equal(*found)


@on_llvmpipe
def test_a_new_model_has_the_same_random_weights_each_time(device, model):
    ids = model.ids[None]
    first, second = (GPT2Backbone(**model.fields, device=device)(ids).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first.std(axis=-1) - 1).max() < 0.1  # the final norm is 1 and 0 ...
    assert np.abs(first.mean(axis=-1)).max() < 1e-5
    assert np.abs(first[0, 0] - first[0, 1]).max() > 0.1  # ... of what is not all the same


@on_llvmpipe
def test_the_token_embedding_is_a_layer_on_the_models_own_table(device):
    lm, model = make_lm(device)
    embedding = lm.backbone.token_embedding
    np.testing.assert_array_equal(
        embedding([[5, 96]]).numpy(), model.weights["wte.weight"][[[5, 96]]]
    )
    hidden = lm.backbone([[1, 2, 3]])
    np.testing.assert_array_equal(embedding(hidden, reverse=True).numpy(), lm([[1, 2, 3]]).numpy())


# ---- loading arrays ------------------------------------------------------------------------------


def with_prefix(weights):
    return {f"transformer.{name}": values for name, values in weights.items()}


def as_lists(weights):
    return {name: values.tolist() for name, values in weights.items()}


def as_saved_by_transformers(weights):
    extra = {
        "lm_head.weight": weights["wte.weight"],
        "transformer.h.0.attn.bias": np.ones((1, 1, 17, 17), np.uint8),
        "transformer.h.1.attn.masked_bias": np.float32(-1e4),
    }
    return with_prefix(weights) | extra


def in_double(weights):
    return {name: values.astype(np.float64) for name, values in weights.items()}


@pytest.mark.parametrize("change", [with_prefix, as_lists, as_saved_by_transformers, in_double])
@on_llvmpipe
def test_weights_come_under_their_names_as_arrays_or_lists(device, model, change):
    backbone = GPT2Backbone(**model.fields, device=device)
    backbone.load_weights(change(model.weights))
    assert_close(GPT2CausalLM(backbone)(model.ids[None]), model.logits[None])


def less(name):
    return lambda weights: {n: values for n, values in weights.items() if n != name}


def more(name, values):
    return lambda weights: weights | {name: values}


BAD_WEIGHTS = {
    "missing": (less("h.1.mlp.c_fc.bias"), r"the 28 tensors .* h\.1\.mlp\.c_fc\.bias is missing"),
    "unknown": (more("h.2.ln_1.bias", np.ones(6)), r"h\.2\.ln_1\.bias is no tensor of it"),
    "transposed": (
        lambda weights: weights | {"h.0.mlp.c_fc.weight": weights["h.0.mlp.c_fc.weight"].T},
        r"h\.0\.mlp\.c_fc\.weight has the shape \(24, 6\), wanted \(6, 24\)",
    ),
    "ragged": (
        more("wpe.weight", [[1.0] * 6, [1.0]] + [[1.0] * 6] * 15),
        r"wpe\.weight: wanted an array of the shape \[17, 6\], got lists of other lengths",
    ),
    "text": (more("ln_f.bias", ["a"] * 6), r"ln_f\.bias: must be real number"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@on_llvmpipe
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(device, model, case):
    backbone = GPT2Backbone(**model.fields, device=device)
    backbone.load_weights(model.weights)
    change, message = BAD_WEIGHTS[case]
    before = dict(device.live)
    with pytest.raises(ValueError, match=message):
        backbone.load_weights(change(model.weights))
    assert device.live == before
    assert_close(GPT2CausalLM(backbone)(model.ids[None]), model.logits[None])


PROMPT = {"token_ids": [[1, 2, 3, *[0] * 9]], "padding_mask": [[True] * 3 + [False] * 9]}


@on_llvmpipe
def test_new_weights_hold_from_then_on_for_generation_too(device, lm, model):
    lm.compile("greedy")
    before = lm.generate(PROMPT, stop_token_ids=None)
    others = reference.random_weights(model.config, 99)
    fresh, _ = make_lm(device, SimpleNamespace(fields=model.fields, weights=others))
    fresh.compile("greedy")
    lm.backbone.load_weights(others)
    after = lm.generate(PROMPT, stop_token_ids=None)
    assert after != before
    assert after == fresh.generate(PROMPT, stop_token_ids=None)


# ---- with a cache --------------------------------------------------------------------------------


def chunkings(n, seed):
    """Where a row of n is cut: at random, and not at all."""
    rng = np.random.default_rng(seed)
    cuts = sorted(set(rng.integers(1, n, size=rng.integers(0, 6)).tolist()))
    return list(zip([0, *cuts], [*cuts, n], strict=True))


def empty_cache(model, rows, length):
    config = model.config
    head_dim = config.hidden_dim // config.num_heads
    return np.zeros((rows, config.num_layers, 2, length, config.num_heads, head_dim), np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["five_heads_of_two", "one_head_of_64"])
@on_llvmpipe
def test_any_chunking_of_any_batch_equals_the_uncached_forward(device, name, seed):
    lm, model = make_lm(device, name)
    rows, n = 1 + seed % 4, len(model.ids)
    ids = random_ids(rows, n, model.config.vocabulary_size, seed)
    wanted_logits, wanted_hidden = lm(ids).numpy(), lm.backbone(ids).numpy()
    cache = empty_cache(model, rows, n)
    given = cache
    for first, end in chunkings(n, seed):
        logits, hidden, cache = lm.call_with_cache(ids[:, first:end], cache, first)
        assert isinstance(cache, KVCache)
        assert_close(logits, wanted_logits[:, first:end])
        assert_close(hidden, wanted_hidden[:, first:end])
    assert not given.any()  # an array is copied, and a KVCache then filled in place
    assert not np.isnan(cache.numpy()).any()


def test_a_cache_that_was_built_goes_on_where_the_prompt_ends(device):
    lm, model = make_lm(device)
    n = len(model.ids)
    padded = [[*map(int, model.ids[:7]), *[0] * (n - 7)]]
    hidden, cache = lm.build_cache(padded)
    wanted = reference.hidden_states(model.config, model.weights, model.ids)
    assert hidden.shape == (1, n, 6)
    assert_close(hidden.numpy()[0, :7], wanted[:7])
    for column in range(7, n):
        logits, hidden, again = lm.call_with_cache([[int(model.ids[column])]], cache, column)
        assert again is cache
        assert_close(logits.numpy()[0, 0], model.logits[column])
        assert_close(hidden.numpy()[0, 0], wanted[column])


@on_llvmpipe
def test_a_cache_reads_in_kerashubs_layout_and_is_taken_back_from_it(device):
    lm, model = make_lm(device)
    ids = random_ids(3, 9, 97)
    _, cache = lm.build_cache(ids)
    assert cache.shape == (3, 2, 2, 9, 3, 2)
    wanted = reference.new_cache(model.config, 3, 9)
    for row in range(3):
        reference.forward_cached(model.config, model.weights, ids[row], wanted, row, 0)
    assert_close(cache, np.stack(wanted, axis=1))
    values = block_on(cache.read(), "read")
    assert values.shape == cache.shape
    next_ids = [[1], [2], [3]]
    longer = np.pad(cache.numpy(), [(0, 0)] * 3 + [(0, 4)] + [(0, 0)] * 2)
    logits = lm(np.concatenate([ids, next_ids], axis=1)).numpy()[:, 9:]
    for array in (longer, longer.tolist(), longer.astype(np.float64)):
        assert_close(lm.call_with_cache(next_ids, array, 9)[0], logits)
    # as it was read, and over it: the last column again
    last = lm.call_with_cache(ids[:, 8:], values, 8)[0]
    assert_close(last, lm(ids).numpy()[:, 8:])


BAD_CACHES = {
    "beyond the end": ((IDS, 1, 3), ValueError, "3 tokens at cache_update_index 3 go beyond .* 5"),
    "negative": ((IDS, 1, -1), ValueError, "cache_update_index .* at least 0, got -1"),
    "a fraction": ((IDS, 1, 0.5), TypeError, "cache_update_index .* whole number .* got 0.5"),
    "other rows": ((IDS, 2, 0), ValueError, "token_ids has 1 rows, the cache 2"),
    "no cache": ((IDS, None, 0), ValueError, r"wanted the shape \[batch, 2, 2, length, 3, 2\]"),
    "one layer's": (
        (IDS, np.zeros((1, 2, 5, 3, 2)), 0),
        ValueError,
        r"length, 3, 2\], got \[1, 2, 5, 3, 2\]",
    ),
    "other heads": ((IDS, np.zeros((1, 2, 2, 5, 2, 3)), 0), ValueError, r"got \[1, 2, 2, 5, 2, 3"),
    "ragged": (
        (IDS, [[[[[[0.0] * 2] * 3] * 5] * 2] * 2, [0]], 0),
        ValueError,
        "got lists of other lengths",
    ),
    "no ids": (([[]], 1, 0), ValueError, "token_ids: wanted a batch"),
}


@pytest.mark.parametrize("case", BAD_CACHES)
@on_llvmpipe
def test_a_cache_that_does_not_fit_is_refused(lm, model, case):
    (ids, cache, index), error, message = BAD_CACHES[case]
    lm.call_with_cache(IDS, empty_cache(model, 1, 5), 2)
    cache = empty_cache(model, cache, 5) if isinstance(cache, int) else cache
    with pytest.raises(error, match=message):
        lm.call_with_cache(ids, cache, index)


@on_llvmpipe
def test_a_cache_of_another_model_or_one_that_is_gone_is_refused(device, lm):
    _, cache = lm.build_cache(IDS)
    other, _ = make_lm(device, "five_heads_of_two")
    with pytest.raises(ValueError, match="cache: another model's"):
        other.call_with_cache(IDS, cache, 0)
    lm.call_with_cache(IDS, cache, 0)
    cache.destroy()
    with pytest.raises(DeviceError, match="was destroyed"):
        lm.call_with_cache(IDS, cache, 0)


@on_llvmpipe
def test_a_cache_longer_than_the_context_is_used_up_to_its_end(lm, model):
    cache = empty_cache(model, 1, 40)
    lm.call_with_cache(IDS, cache, 14)
    with pytest.raises(ValueError, match="cache_update_index 15 go beyond the cache's 17"):
        lm.call_with_cache(IDS, cache, 15)


# ---- scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
@on_llvmpipe
def test_scores_are_logits_or_the_losses_under_them(device, rows):
    lm, model = make_lm(device, "four_heads_of_16")
    ids = random_ids(rows, 130, 101)  # 390 tokens: two chunks of losses
    logits = lm.score(ids)
    np.testing.assert_array_equal(logits.numpy(), lm(ids).numpy())
    targets = np.roll(ids, -1, axis=1)
    losses = lm.score(token_ids=ids, scoring_mode="loss", target_ids=targets)
    assert losses.shape == (rows, 130)
    for row in range(rows):
        wanted = reference.forward(model.config, model.weights, ids[row])
        assert_close(losses.numpy()[row], reference.token_loss(wanted, targets[row]))


@pytest.fixture
def narrow(monkeypatch):
    """A model whose logits [40, 1601] take 256,160 bytes, on a device that allows 65,536."""
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 1 << 15)
    device = new_device(
        "llvmpipe", max_storage_buffer_binding_size=1 << 16, max_buffer_size=1 << 16
    )
    fields = {
        "vocabulary_size": 1601,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 16,
        "max_sequence_length": 40,
    }
    config = SimpleNamespace(layer_norm_epsilon=1e-5, **fields)
    model = SimpleNamespace(
        fields=fields, config=config, weights=reference.random_weights(config, 3)
    )
    yield make_lm(device, model)
    device.destroy()


def test_losses_never_hold_the_logits(narrow):
    lm, model = narrow
    (ids,) = random_ids(1, 40, 1601)
    targets = np.roll(ids, -1)
    losses = lm.score([ids], None, "loss", [targets]).numpy()
    wanted = reference.forward(model.config, model.weights, ids)
    assert_close(losses[0], reference.token_loss(wanted, targets))


def test_logits_that_do_not_fit_are_refused_with_both_numbers_and_cost_nothing(narrow):
    lm, _ = narrow
    assert lm([[1] * 10]).shape == (1, 10, 1601)
    before = dict(lm.backbone.device.live)
    cache = lm.build_cache([[1] * 40])[1]
    filled = cache.numpy()
    for call in (
        lambda: lm([[1] * 40]),
        lambda: lm.score([[1] * 20, [2] * 20]),
        lambda: lm.call_with_cache([[2] * 40], cache, 0),
    ):
        with pytest.raises(DeviceError, match=r"takes 256,160 bytes, the adapter allows 65,536"):
            call()
    np.testing.assert_array_equal(cache.numpy(), filled)
    cache.destroy()
    assert lm.backbone.device.live == before


BAD_SCORES = {
    "mode": (dict(scoring_mode="los"), ValueError, '"logits" or "loss", got \'los\''),
    "no targets": (dict(scoring_mode="loss"), ValueError, '"loss" wants target_ids'),
    "targets' shape": (
        dict(scoring_mode="loss", target_ids=[[1, 2]]),
        ValueError,
        r"target_ids: wanted the shape of token_ids, \[1, 3\], got \[1, 2\]",
    ),
    "a target": (
        dict(scoring_mode="loss", target_ids=[[1, 2, 97]]),
        ValueError,
        "target_ids: wanted ids of 0 to 96, got 97",
    ),
    "a mask": (dict(padding_mask=[[1]]), ValueError, "padding_mask: wanted the shape"),
    "an option": (dict(scoring="loss"), TypeError, "scoring"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
@on_llvmpipe
def test_a_score_that_makes_no_sense_is_refused(lm, case):
    options, error, message = BAD_SCORES[case]
    lm.score(IDS, [[1, 1, 1]], "loss", [[2, 3, 4]])
    with pytest.raises(error, match=message):
        lm.score(IDS, **options)


# ---- calls at once, and what they leave ----------------------------------------------------------


@on_llvmpipe
def test_calls_at_once_are_queued_and_give_what_they_give_alone(device):
    model = reference.recorded_model("three_heads_of_two")
    new = GPT2CausalLM(GPT2Backbone(**model.fields, device=device))

    async def at_once():
        new.compile("greedy")
        loading = new.backbone.load_weights_async(model.weights)
        calls = [new.call_async(model.ids[None]) for _ in range(3)]
        calls += [new.generate_async(PROMPT, stop_token_ids=None) for _ in range(2)]
        calls += [new.score_async(IDS, None, "loss", IDS), new.build_cache_async(IDS)]
        return (await asyncio.gather(loading, *calls))[1:]

    *logits, first, second, losses, (hidden, cache) = asyncio.run(at_once())
    lm, _ = make_lm(device)
    lm.compile("greedy")
    for each in logits:
        assert_close(each, model.logits[None])
    assert first == second == lm.generate(PROMPT, stop_token_ids=None)
    np.testing.assert_array_equal(losses.numpy(), lm.score(IDS, None, "loss", IDS).numpy())
    np.testing.assert_array_equal(hidden.numpy(), lm.backbone(IDS).numpy())
    assert cache.shape == (1, 2, 2, 3, 3, 2)


@on_llvmpipe
def test_a_new_models_first_calls_at_once_make_one_set_of_weights(device, model):
    backbone = GPT2Backbone(**model.fields, device=device)

    async def at_once():
        return await asyncio.gather(*(backbone.call_async(IDS) for _ in range(3)))

    one, two, three = [tensor.numpy() for tensor in asyncio.run(at_once())]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    before = dict(device.live)
    backbone(IDS)
    assert device.live == before


@on_llvmpipe
def test_a_call_that_is_cancelled_leaves_the_next_ones_right(lm, model):
    lm.compile("greedy")
    wanted = lm.generate(PROMPT, stop_token_ids=None)

    async def cancelled(call, after):
        task = asyncio.create_task(call)
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return 1
        return 0

    async def run():
        count = 0
        for after in range(0, 12, 3):
            count += await cancelled(lm.call_async(model.ids[None]), after)
            count += await cancelled(lm.generate_async(PROMPT, stop_token_ids=None), after)
            assert_close(
                np.array((await (await lm.call_async(model.ids[None])).read()).tolist()),
                model.logits[None],
            )
            assert await lm.generate_async(PROMPT, stop_token_ids=None) == wanted
        return count

    assert asyncio.run(run()) >= 4


@on_llvmpipe
def test_plain_calls_work_inside_a_running_loop(lm, model):
    async def cell():
        return lm(model.ids[None])

    assert_close(asyncio.run(cell()), model.logits[None])


def calls_that_leave_nothing(lm):
    ids = random_ids(2, 17, 97)
    return {
        "backbone": lambda: lm.backbone(ids),
        "mask": lambda: lm.backbone({"token_ids": ids, "padding_mask": ids > 20}),
        "call": lambda: lm(ids),
        "build_cache": lambda: lm.build_cache(ids),
        "call_with_cache": lambda: lm.call_with_cache(ids, np.zeros((2, 2, 2, 17, 3, 2)), 0),
        "logits": lambda: lm.score(ids),
        "loss": lambda: lm.score(ids, None, "loss", ids),
        "generate": lambda: lm.generate(PROMPT, stop_token_ids=None),
        "token_embedding": lambda: lm.backbone.token_embedding(ids),
        "numpy": lambda: lm(ids).numpy(),
    }


def test_no_call_leaves_anything_on_the_gpu(device, lm):
    for call in calls_that_leave_nothing(lm).values():
        call()  # pipelines, a fence, the decoder of the last batch
    before = dict(device.live)
    for name, call in calls_that_leave_nothing(lm).items():
        result = call()
        if name not in ("generate", "numpy"):
            assert device.live != before, name  # the result is there, while it is kept
        del result
        assert device.live == before, name


def test_a_closed_model_refuses_every_call_and_is_gone_from_the_gpu():
    device = new_device("llvmpipe")
    block_on(device.settled(), "settled")
    before = dict(device.live)
    lm, model = make_lm(device)
    lm(IDS)
    lm.generate(PROMPT, stop_token_ids=None)
    backbone = lm.backbone
    lm.close()
    lm.close()
    assert device.live == before
    for call in (
        lambda: lm(IDS),
        lambda: backbone(IDS),
        lambda: backbone.load_weights(model.weights),
        lambda: lm.build_cache(IDS),
        lambda: lm.score(IDS, None, "loss", IDS),
        lambda: lm.generate(PROMPT, stop_token_ids=None),
    ):
        with pytest.raises(DeviceError, match="this model was closed: load it again"):
            call()
    assert lm.info["adapter"] == "" and lm.info["gpu_bytes"] == 0
    make_lm(device)[0](IDS)  # the device was given, so it stays
    device.destroy()


def test_info_says_what_runs(device, lm):
    assert "adapter" in GPT2CausalLM(GPT2Backbone(10, 1, 1, 2, 4)).info
    lm(IDS)
    info = lm.info
    assert info["adapter"] == device.info["adapter"] and info["software"] is True
    assert (info["model"], info["precision"], info["context"]) == ("gpt2_causal_lm", "f32", 17)
    assert info["parameters"] == lm.backbone.config.num_parameters
    assert {"attention_chunk", "matmul"} <= set(info["kernels"])
    assert info["gpu_bytes"] >= 4 * info["parameters"]
