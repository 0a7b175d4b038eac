"""The layers against numpy twins of their own, on both software adapters.

The twins follow the papers and Keras's documentation, not our code; the weights are all different
and none is 0, masked inputs are NaN. The mistakes of TensorFlow.js's layers each have a test: a
shared layer norm, no causal mask by default, an unqualified squeeze, the wrong GELU.
"""

import asyncio
import itertools
import math
import struct
import sys

import numpy as np
import pytest

from adapters import download, new_device, untouched, upload
from gpt2web import embedding, kernels, layer, layers
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import block_on
from gpt2web.checkpoint import tensor_shapes
from gpt2web.gpu import Device, DeviceError, Tensor
from gpt2web.kernels import Weight, WeightPart
from gpt2web.layers import (
    CachedMultiHeadAttention,
    PositionEmbedding,
    ReverseEmbedding,
    TransformerDecoder,
    compute_causal_mask,
    merge_padding_and_attention_mask,
)
from gpt2web.variables import INITIALIZERS, Variable, draw

pytestmark = pytest.mark.gpu

# Values are of the order of 1, sums of some tens of products: f32 is off by some 1e-6 there, and
# a layer norm may enlarge that by the few times that it enlarges what it normalises.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def draws(*shape, seed=0):
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32)


def randomize(layer, seed=0, scale=0.4):
    """Gives a built layer weights that are all different; {name: float64 array}."""
    random = np.random.default_rng(seed)
    arrays = {
        name: (
            random.standard_normal(weight.shape) * scale + (1.3 if name.endswith("gamma") else 0)
        ).astype(np.float32)
        for name, weight in layer.named_weights.items()
    }
    layer.set_weights(list(arrays.values()))
    return {name: array.astype(np.float64) for name, array in arrays.items()}


# ---- twins -------------------------------------------------------------------------------------


def attend(w, query, value, key=None, mask=None, prefix=""):
    """Keras's multi-head attention in einsums: (output, weights [batch, heads, queries, keys])."""

    def project(x, name, equation):
        bias = w.get(f"{prefix}{name}/bias", 0.0)
        return np.einsum(equation, x, w[f"{prefix}{name}/kernel"]) + bias

    q = project(query, "query", "btd,dhc->bthc")
    k = project(value if key is None else key, "key", "bsd,dhc->bshc")
    v = project(value, "value", "bsd,dhc->bshc")
    return mix(w, q, k, v, mask, prefix)


def mix(w, q, k, v, mask=None, prefix=""):
    scores = np.einsum("bthc,bshc->bhts", q, k) / np.sqrt(q.shape[-1])
    mask = np.broadcast_to(True if mask is None else np.asarray(mask, bool), scores.shape)
    scores = np.where(mask, scores, -np.inf)
    shares = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e9))
    total = shares.sum(-1, keepdims=True)
    weights = np.divide(shares, total, where=total > 0, out=np.zeros_like(shares))
    attended = np.einsum("bhts,bshc->bthc", weights, v)
    kernel = w[f"{prefix}attention_output/kernel"]
    output = np.tensordot(attended, kernel, 2) + w.get(f"{prefix}attention_output/bias", 0.0)
    return output, weights


def norm(w, name, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * w[f"{name}/gamma"] + w[f"{name}/beta"]


def gelu_with_erf(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_with_tanh(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


TWINS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu_with_erf,
    "gelu_approximate": gelu_with_tanh,
    "gelu_new": gelu_with_tanh,
}


def decode(w, x, activation="relu", first=False, epsilon=1e-5, mask=None):
    """A decoder block; mask [batch, 1, queries, keys], causal unless given."""
    x = x.astype(np.float64)
    if mask is None:
        mask = np.tril(np.ones((x.shape[1], x.shape[1]), bool))

    def feed_forward(y):
        inner, outer = "feedforward_intermediate_dense", "feedforward_output_dense"
        y = TWINS[activation](y @ w[f"{inner}/kernel"] + w[f"{inner}/bias"])
        return y @ w[f"{outer}/kernel"] + w[f"{outer}/bias"]

    def attention(y):
        return attend(w, y, y, mask=mask, prefix="self_attention/")[0]

    def one(y):
        return norm(w, "self_attention_layer_norm", y, epsilon)

    def two(y):
        return norm(w, "feedforward_layer_norm", y, epsilon)

    if first:
        x = x + attention(one(x))
        return x + feed_forward(two(x))
    x = one(x + attention(x))
    return two(x + feed_forward(x))


def assert_close(got, wanted):
    if isinstance(got, Tensor):
        got = got.numpy()
    np.testing.assert_allclose(got, wanted, **CLOSE)


# ---- kernels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_approximate", "soft_cap"])
def test_activation_follows_its_formula_and_stops_at_the_end(device, kind):
    x = np.concatenate([np.linspace(-12, 12, 4099), [0, -0.0, 1e4, -1e4]]).astype(np.float32)
    values = upload(device, x)
    device.submit([kernels.activation(device, values, kind, 5.0)])
    with np.errstate(over="ignore", under="ignore"):
        twin = TWINS.get(kind, lambda x: 5 * np.tanh(x / 5))(x.astype(np.float64))
    # the erf here is a polynomial that is off by 1.5e-7, times half the argument
    np.testing.assert_allclose(values.numpy(), twin, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("bits", [32, 16])
def test_gather_takes_columns_from_whichever_part_holds_them(device, bits):
    import reference

    table = draws(13, 7).T  # [k, columns]
    edges = [0, 5, 13]
    parts = tuple(
        WeightPart(upload(device, reference.pack(table[:, a:b], bits)), a, b - a)
        for a, b in itertools.pairwise(edges)
    )
    weight = Weight(7, 13, bits, parts)
    kept = reference.unpack(reference.pack(table, bits), table.shape, bits)
    ids = np.uint32([12, 0, 4, 5, 5])
    output, given = untouched(device, (5, 7), tail=0), upload(device, ids)
    device.submit([kernels.gather(device, given, weight, part, output) for part in parts])
    np.testing.assert_array_equal(download(output), kept.T[ids])


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("rows", "queries", "heads", "slots", "key_dim", "value_dim"),
    [(1, 1, 1, 1, 1, 1), (2, 3, 3, 65, 6, 70), (1, 2, 2, 130, 64, 64), (2, 1, 1, 7, 3, 2)],
)
def test_masked_attention_reads_no_hidden_slot_and_writes_nothing_else(
    device, rows, queries, heads, slots, key_dim, value_dim, weighed
):
    q = draws(rows, queries, heads, key_dim)
    k, v = draws(rows, slots, heads, key_dim), draws(rows, slots, heads, value_dim, seed=1)
    mask = np.random.default_rng(slots).random((rows, queries, slots)) < 0.6
    mask[:, :, -1] |= ~mask.any(-1)
    hidden = ~mask.any(1)  # by every query of the row
    k[hidden], v[hidden] = np.nan, np.nan
    words = -(-slots // 4)
    data = np.zeros((rows, queries, 4 * words), np.uint8)
    data[..., :slots] = mask
    strides = (words * queries, 0, words)
    row, value_row = slots * heads * key_dim, slots * heads * value_dim
    sizes = upload(device, np.uint32([slots, slots, row, value_row, 0, *strides]), uniform=True)
    attended = untouched(device, (rows, queries, heads, value_dim))
    weights = untouched(device, (rows, heads, queries, slots) if weighed else (1,))
    inputs = [upload(device, x) for x in (q, k, v, data.view(np.uint32))]
    device.submit([kernels.attention_masked(device, sizes, *inputs, attended, weights)])
    k[hidden], v[hidden] = 0, 0
    identity = np.eye(heads * value_dim).reshape(heads, value_dim, -1)
    names = {"attention_output/kernel": identity}
    twin, shares = mix(names, *(x.astype(np.float64) for x in (q, k, v)), mask[:, None])
    assert_close(download(attended), twin.reshape(rows, queries, heads, value_dim))
    if weighed:
        assert_close(download(weights), shares)


# ---- CachedMultiHeadAttention ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "heads", "key_dim", "queries", "keys", "options"),
    [
        (1, 1, 4, 1, 1, {}),
        (1, 2, 3, 4, 4, {}),
        (2, 1, 6, 3, 5, {}),
        (3, 3, 2, 2, 70, {"value_dim": 5}),
        (2, 2, 4, 3, 3, {"use_bias": False}),
        (2, 2, 4, 3, 2, {"output_shape": 5}),
        (1, 2, 4, 3, 3, {"output_shape": (2, 3), "value_dim": 3}),
    ],
)
def test_attention_is_kerass_for_any_batch_and_any_heads(
    device, batch, heads, key_dim, queries, keys, options
):
    layer = CachedMultiHeadAttention(heads, key_dim, device=device, **options)
    layer.build((batch, queries, 6), (batch, keys, 7), (batch, keys, 9))
    w = randomize(layer)
    query, value, key = draws(batch, queries, 6), draws(batch, keys, 7), draws(batch, keys, 9)
    output, scores = layer(query, value, key, return_attention_scores=True)
    twin, shares = attend(w, query, value, key)
    assert output.shape == twin.shape
    assert scores.shape == (batch, heads, queries, keys)
    assert_close(output, twin)
    assert_close(scores, shares)
    assert_close(layer(query, value, key), twin)


def test_attention_without_key_takes_the_value_for_it(device):
    layer = CachedMultiHeadAttention(2, 3, device=device)
    x, y = draws(2, 3, 6), draws(2, 4, 5)
    layer.build(x.shape, y.shape)
    w = randomize(layer)
    assert_close(layer(x, y), attend(w, x, y)[0])
    assert np.abs(layer(x, y).numpy() - layer(x, y, key=y[:, ::-1]).numpy()).max() > 0.01


@pytest.mark.parametrize(
    "shape", [(4, 5), (2, 4, 5), (1, 4, 5), (2, 1, 5), (2, 4, 1), (2, 3, 4, 5), (2, 1, 4, 5)]
)
def test_attention_masks_broadcast_as_kerass(device, shape):
    layer = CachedMultiHeadAttention(3, 2, device=device)
    query, value = draws(2, 4, 6), draws(2, 5, 6)
    layer.build(query.shape)
    w = randomize(layer)
    mask = np.random.default_rng(len(shape)).random(shape) < 0.5
    expanded = mask[:, None] if mask.ndim == 3 else mask
    wanted, shares = attend(w, query, value, mask=np.broadcast_to(expanded, (2, 3, 4, 5)))
    for given in (mask, mask.tolist(), mask.astype(np.float32), upload(device, mask)):
        output, scores = layer(query, value, attention_mask=given, return_attention_scores=True)
        assert_close(output, wanted)
        assert_close(scores, shares)


def test_a_query_that_sees_nothing_gets_the_bias_and_no_nan(device):
    layer = CachedMultiHeadAttention(2, 3, device=device)
    x = draws(2, 3, 6)
    layer.build(x.shape)
    w = randomize(layer)
    mask = np.ones((2, 3, 3), bool)
    mask[1, 2] = False
    output, scores = layer(x, x, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(output.numpy()[1, 2], w["attention_output/bias"], rtol=1e-6)
    assert_close(output, attend(w, x, x, mask=mask[:, None])[0])
    assert (scores.numpy()[1, :, 2] == 0).all()
    np.testing.assert_allclose(scores.numpy()[0].sum(-1), 1, rtol=1e-6)


def cache_of(layer, batch, slots, seed=3):
    return draws(batch, 2, slots, layer.num_heads, layer.key_dim, seed=seed)


def test_a_static_cache_is_attended_to_in_place_of_the_inputs(device):
    layer = CachedMultiHeadAttention(2, 3, device=device)
    layer.build((2, 3, 6))
    w = randomize(layer)
    query, cache = draws(2, 3, 6), cache_of(layer, 2, 5)
    nothing = np.full((2, 1, 6), np.nan)
    output, kept = layer(query, nothing, cache=cache)
    q = np.einsum("btd,dhc->bthc", query, w["query/kernel"]) + w["query/bias"]
    assert_close(output, mix(w, q, cache[:, 0], cache[:, 1])[0])
    np.testing.assert_array_equal(kept.numpy(), cache)


@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (1, 3), (3, 1), (2, 2)])
def test_an_updated_cache_gets_keys_and_values_at_the_index_and_nowhere_else(device, batch, heads):
    layer = CachedMultiHeadAttention(heads, 4, device=device)
    layer.build((batch, 2, 6))
    w = randomize(layer)
    x, cache = draws(batch, 2, 6), cache_of(layer, batch, 7)
    before = upload(device, cache)
    wanted = cache.astype(np.float64)
    for part, name in enumerate(("key", "value")):
        projected = np.einsum("btd,dhc->bthc", x, w[f"{name}/kernel"]) + w[f"{name}/bias"]
        wanted[:, part, 3:5] = projected
    q = np.einsum("btd,dhc->bthc", x, w["query/kernel"]) + w["query/bias"]
    mask = np.tril(np.ones((2, 7), bool), 3)
    for given in (cache, before):
        output, scores, kept = layer(
            x,
            x,
            cache=given,
            cache_update_index=3,
            attention_mask=mask,
            return_attention_scores=True,
        )
        assert kept.shape == cache.shape
        assert_close(kept, wanted)
        untouched_slots = [0, 1, 2, 5, 6]
        np.testing.assert_array_equal(
            kept.numpy()[:, :, untouched_slots], cache[:, :, untouched_slots]
        )
        twin, shares = mix(w, q, wanted[:, 0], wanted[:, 1], mask)
        assert_close(output, twin)
        assert_close(scores, shares)
    np.testing.assert_array_equal(before.numpy(), cache)  # a new one came back


CHUNKINGS = [[6], [1] * 6, [2, 4], [5, 1], [1, 2, 3]]


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_attention_over_a_cache_is_attention_without_one_for_any_chunking(device, chunks):
    layer = CachedMultiHeadAttention(2, 3, device=device)
    x = draws(2, 6, 6)
    layer.build(x.shape)
    w = randomize(layer)
    mask = np.tril(np.ones((6, 6)))
    wanted = attend(w, x, x, mask=mask)[0]
    assert_close(layer(x, x, attention_mask=mask), wanted)
    cache, first, outputs = np.full((2, 2, 6, 2, 3), np.nan), 0, []
    for count in chunks:
        part = x[:, first : first + count]
        output, cache = layer(
            part,
            part,
            cache=cache,
            cache_update_index=first,
            attention_mask=mask[first : first + count],
        )
        outputs.append(output.numpy())
        first += count
    assert_close(np.concatenate(outputs, axis=1), wanted)


X = draws(2, 3, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_update_index": 0}, "there is no cache to write to"),
        (
            {"cache": np.zeros((2, 2, 4, 2, 3)), "cache_update_index": 2},
            "beyond the cache's end, 4",
        ),
        ({"cache": np.zeros((2, 2, 4, 2, 3)), "cache_update_index": -1}, "0 or more, got -1"),
        ({"cache": np.zeros((2, 2, 4, 3, 2))}, r"wanted the shape \[2, 2, slots, 2, 3\]"),
        ({"cache": np.zeros((1, 2, 4, 2, 3))}, r"got \[1, 2, 4, 2, 3\]"),
        ({"value": X[:1]}, "wanted one batch"),
        ({"key": X[:, :2]}, "wanted one length"),
        ({"query": X[0, 0]}, r"query: wanted the shape \[batch, length, width\]"),
        ({"query": X[:, :0]}, "none of them 0"),
        ({"query": X[..., :4]}, "built for a width of 6, got 4"),
        ({"query": [[[1.0] * 6] * 2 + [[1.0] * 5]] * 2}, "query: wanted an array"),
        ({"attention_mask": np.ones((3, 4))}, r"attention_mask: wanted the shape \[2, 3, 3\]"),
        ({"attention_mask": np.ones(3)}, r"got \[3\]"),
        (
            {"attention_mask": [[[1, 1, 1], [1, 1], [1, 1, 1]]] * 2},
            "attention_mask: wanted an array",
        ),
    ],
)
def test_attention_refuses_what_does_not_fit(device, arguments, message):
    layer = CachedMultiHeadAttention(2, 3, device=device)
    assert layer(X, X).shape == X.shape
    with pytest.raises(ValueError, match=message):
        layer(**{"query": X, "value": X} | arguments)


def test_one_cache_cannot_hold_keys_and_values_of_different_sizes(device):
    layer = CachedMultiHeadAttention(2, 3, value_dim=4, device=device)
    assert layer(X, X).shape == X.shape
    with pytest.raises(ValueError, match="key_dim, 3, and value_dim, 4, must be equal"):
        layer(X, X, cache=np.zeros((2, 2, 4, 2, 3)), cache_update_index=0)


# ---- TransformerDecoder ------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("activation", list(TWINS))
def test_the_decoder_is_a_block_with_two_norms(device, activation, first):
    decoder = TransformerDecoder(
        9, 3, activation=activation, layer_norm_epsilon=1e-3, normalize_first=first, device=device
    )
    x = draws(2, 5, 6) * 2
    decoder.build(x.shape)
    w = randomize(decoder)
    wanted = decode(w, x, activation, first, 1e-3)
    assert_close(decoder(x), wanted)
    shared = {
        name: w[name.replace("feedforward_layer", "self_attention_layer")] for name in w
    }  # TensorFlow.js's mistake
    assert np.abs(decode(shared, x, activation, first, 1e-3) - wanted).max() > 0.1


def test_gelu_with_erf_and_gelu_with_tanh_are_told_apart(device):
    results = {}
    x = draws(2, 5, 6) * 2
    for activation in ("gelu", "gelu_approximate", "gelu_new"):
        decoder = TransformerDecoder(
            9, 3, activation=activation, normalize_first=True, device=device
        )
        decoder.build(x.shape)
        w = randomize(decoder, scale=0.8)
        results[activation] = decoder(x).numpy()
        other = "gelu" if activation != "gelu" else "gelu_new"
        assert np.abs(decode(w, x, other, True) - results[activation]).max() > 2e-4
        assert_close(results[activation], decode(w, x, activation, True))
    np.testing.assert_array_equal(results["gelu_approximate"], results["gelu_new"])


@pytest.mark.parametrize(("batch", "heads", "hidden"), [(1, 1, 1), (1, 2, 6), (3, 1, 4), (2, 4, 4)])
def test_the_decoder_takes_any_batch_and_any_heads(device, batch, heads, hidden):
    decoder = TransformerDecoder(3, heads, normalize_first=True, device=device)
    x = draws(batch, 4, hidden)
    decoder.build(x.shape)
    w = randomize(decoder)
    assert_close(decoder(x), decode(w, x, first=True))
    one_row = decoder(x[0])
    assert one_row.shape == (4, hidden)
    np.testing.assert_array_equal(one_row.numpy(), decoder(x[:1]).numpy()[0])


def decoder_for(x, device, **options):
    decoder = TransformerDecoder(7, 2, device=device, **options)
    decoder.build(x.shape)
    return decoder, randomize(decoder)


def test_the_decoder_does_not_see_ahead_unless_told_to(device):
    x = draws(2, 5, 6)
    changed = x.copy()
    changed[:, 3:] = 9
    decoder, w = decoder_for(x, device)
    np.testing.assert_array_equal(decoder(x).numpy()[:, :3], decoder(changed).numpy()[:, :3])
    everything = np.ones((5, 5), bool)
    seeing = decoder(x, use_causal_mask=False)
    assert_close(seeing, decode(w, x, mask=everything))
    later = decoder(changed, use_causal_mask=False).numpy()
    assert np.abs(seeing.numpy()[:, :3] - later[:, :3]).max() > 0.01


def test_rows_of_different_length_and_holes_give_what_they_give_alone(device):
    x = draws(3, 6, 6)
    mask = np.bool_([[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    x[~mask] = np.nan
    decoder, w = decoder_for(x, device, normalize_first=True)
    output = decoder(x, decoder_padding_mask=mask).numpy()
    for row in range(3):
        alone = x[row : row + 1, mask[row]]  # a hole leaves the others' order as it is
        assert_close(output[row, mask[row]], decode(w, alone, first=True)[0])
    x[~mask] = 9
    np.testing.assert_array_equal(decoder(x, decoder_padding_mask=mask).numpy()[mask], output[mask])
    assert np.abs(decoder(x).numpy() - output)[1, 2].max() > 0.01  # without it, they get through


def test_padding_attention_and_causal_mask_hold_together(device):
    x = draws(2, 4, 6)
    decoder, w = decoder_for(x, device)
    padding = np.bool_([[1, 1, 1, 0], [0, 1, 1, 1]])
    attention = np.random.default_rng(0).random((2, 4, 4)) < 0.7
    for causal in (True, False):
        merged = padding[:, None] & attention
        if causal:
            merged = merged & np.tril(np.ones((4, 4), bool))
        output = decoder(
            x,
            decoder_padding_mask=padding.tolist(),
            decoder_attention_mask=attention,
            use_causal_mask=causal,
        )
        assert_close(output, decode(w, x, mask=merged[:, None]))


def test_a_row_that_is_masked_throughout_gives_finite_numbers(device):
    x = draws(2, 3, 6)
    decoder, w = decoder_for(x, device)
    mask = np.bool_([[0, 0, 0], [1, 1, 1]])
    output = decoder(x, decoder_padding_mask=mask).numpy()
    assert np.isfinite(output).all()
    assert_close(output[1:], decode(w, x[1:]))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_the_decoder_over_a_cache_is_the_decoder_without_one(device, chunks, first):
    x = draws(2, 6, 6)
    decoder, w = decoder_for(x, device, normalize_first=first)
    cache, start, outputs = np.full((2, 2, 8, 2, 3), np.nan), 0, []
    for count in chunks:
        output, cache = decoder(
            x[:, start : start + count],
            self_attention_cache=cache,
            self_attention_cache_update_index=start,
        )
        outputs.append(output.numpy())
        start += count
    assert_close(np.concatenate(outputs, axis=1), decode(w, x, first=first))
    whole = decoder(
        x, self_attention_cache=np.zeros((2, 2, 8, 2, 3)), self_attention_cache_update_index=0
    )[1].numpy()
    np.testing.assert_allclose(cache.numpy()[:, :, :6], whole[:, :, :6], rtol=1e-5, atol=1e-6)
    assert np.isnan(cache.numpy()[:, :, 6:]).all()


def test_a_padding_mask_with_a_cache_covers_its_slots(device):
    x = draws(2, 5, 6)
    mask = np.bool_([[1, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]])
    x[~mask[:, :5]] = np.nan
    decoder, w = decoder_for(x, device)
    cache, outputs = np.full((2, 2, 7, 2, 3), np.nan), []
    for part, start in ((x[:, :3], 0), (x[:, 3:], 3)):
        output, cache = decoder(
            part,
            decoder_padding_mask=mask,
            self_attention_cache=cache,
            self_attention_cache_update_index=start,
        )
        outputs.append(output.numpy())
    got = np.concatenate(outputs, axis=1)
    for row in range(2):
        keep = mask[row, :5]
        assert_close(got[row, keep], decode(w, x[row : row + 1, keep])[0])
    with pytest.raises(ValueError, match=r"wanted \[2, 7\] for padding"):
        decoder(
            x[:, 3:],
            decoder_padding_mask=mask[:, :2],
            self_attention_cache=cache,
            self_attention_cache_update_index=3,
        )


def test_a_static_cache_of_the_decoder_is_read_only(device):
    x = draws(2, 1, 6)
    decoder, _ = decoder_for(x, device)
    cache = upload(device, cache_of(decoder.self_attention, 2, 4))
    before = cache.numpy()
    output, kept = decoder(x, self_attention_cache=cache, use_causal_mask=False)
    other, _ = decoder(
        x,
        self_attention_cache=cache,
        use_causal_mask=False,
        decoder_padding_mask=[[1, 1, 1, 0]] * 2,
    )
    np.testing.assert_array_equal(kept.numpy(), before)
    assert np.abs(output.numpy() - other.numpy()).max() > 1e-3  # the cache is what is looked at


@pytest.mark.parametrize(
    "argument",
    [
        "encoder_sequence",
        "encoder_padding_mask",
        "encoder_attention_mask",
        "cross_attention_cache",
        "cross_attention_cache_update_index",
    ],
)
def test_cross_attention_is_refused(device, argument):
    decoder = TransformerDecoder(4, 2, device=device)
    assert decoder(X).shape == X.shape
    with pytest.raises(ValueError, match=f"{argument}: this decoder has no cross-attention"):
        decoder(X, **{argument: 0})
    with pytest.raises(ValueError, match="encoder_sequence"):
        decoder(X, X)  # KerasHub's second argument


@pytest.mark.parametrize(("hidden", "heads"), [(2, 3), (6, 4)])
def test_heads_that_do_not_divide_the_width_are_refused(hidden, heads):
    with pytest.raises(ValueError, match=f"width is {hidden}, num_heads {heads}"):
        TransformerDecoder(4, heads)(draws(1, 2, hidden))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"self_attention_cache_update_index": 1}, "there is no cache to write to"),
        ({"decoder_padding_mask": [[1, 1, 1]]}, r"masks: wanted \[2, 3\] for padding"),
        ({"decoder_padding_mask": [1, 1, 1]}, r"padding_mask: wanted the shape \[batch, keys\]"),
        (
            {"decoder_attention_mask": np.ones((3, 3))},
            r"attention_mask: wanted the shape \[batch, q",
        ),
        ({"decoder_sequence": X[..., :4]}, "built for a width of 6, got 4"),
        ({"decoder_sequence": X.tolist()[0][0]}, r"decoder_sequence: wanted the shape"),
    ],
)
def test_the_decoder_refuses_what_does_not_fit(device, arguments, message):
    decoder = TransformerDecoder(4, 2, device=device)
    decoder(X)
    with pytest.raises(ValueError, match=message):
        decoder(**{"decoder_sequence": X} | arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_initializer": "Invalid"}, "kernel_initializer: wanted one of constant, zeros"),
        ({"bias_initializer": {"class_name": "Nothing"}}, "bias_initializer: wanted one of"),
        ({"activation": "softmax"}, "activation: wanted one of relu, gelu, gelu_approximate"),
        ({"activation": np.tanh}, "activation: a function cannot run on the GPU"),
        ({"dropout": 1.5}, "dropout: wanted a number from 0 to 1"),
        ({"intermediate_dim": 0}, "intermediate_dim: wanted a whole number"),
        ({"num_heads": 1.5}, "num_heads: wanted a whole number"),
        ({"dtype": "float16"}, "all arithmetic is in float32"),
        ({"encoder_sequence_shape": (2, 3, 6)}, "no cross-attention"),
    ],
)
def test_a_decoder_of_wrong_arguments_is_refused(options, message):
    right = {"intermediate_dim": 4, "num_heads": 2}
    assert TransformerDecoder(**right).num_heads == 2
    with pytest.raises(ValueError, match=message):
        TransformerDecoder(**right | options)


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="PositionEmbedding has no argument 'seq_axis'"):
        PositionEmbedding(4, seq_axis=1)
    with pytest.raises(TypeError, match="no argument 'kernel_regularizer'"):
        CachedMultiHeadAttention(2, 2, kernel_regularizer="l2")
    assert CachedMultiHeadAttention(2, 2, kernel_regularizer=None).key_dim == 2
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        TransformerDecoder(4, 2)(X, mask=None)


def test_dropout_is_kept_and_does_nothing(device):
    with_it, w = decoder_for(X, device, dropout=0.9)
    assert with_it.get_config()["dropout"] == 0.9
    assert_close(with_it(X, training=False), decode(w, X))
    with pytest.raises(ValueError, match=r"training: this is inference, in which dropout \(0.9\)"):
        with_it(X, training=True)
    without, _ = decoder_for(X, device)
    assert_close(without(X, training=True), decode(w, X))


def test_the_layers_make_up_gpt_2(device):
    config = {"num_heads": 2, "hidden_dim": 6, "intermediate_dim": 10}
    backbone = GPT2Backbone(11, 2, **config, max_sequence_length=8, device=device)
    w = {
        name: draws(*shape, seed=i) * 0.5
        for i, (name, shape) in enumerate(tensor_shapes(backbone.config).items())
    }
    backbone.load_weights(w)
    ids, mask = [[1, 5, 0, 10, 3], [7, 2, 2, 0, 0]], [[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]]
    token, position = ReverseEmbedding(backbone), PositionEmbedding(8, device=device)
    position.set_weights([w["wpe.weight"]])
    x = token(ids, reverse=False).numpy() + position(np.zeros((2, 5, 6))).numpy()
    for i in range(2):
        block = TransformerDecoder(
            10, 2, activation="gelu_approximate", normalize_first=True, device=device
        )
        attention = []
        kernels_and_biases = zip(
            np.split(w[f"h.{i}.attn.c_attn.weight"], 3, axis=1),
            np.split(w[f"h.{i}.attn.c_attn.bias"], 3),
            strict=True,
        )
        for kernel, bias in kernels_and_biases:
            attention += [kernel, bias]  # [hidden, hidden], which Keras has as [hidden, 2, 3]
        attention += [w[f"h.{i}.attn.c_proj.{part}"] for part in ("weight", "bias")]
        rest = [
            w[f"h.{i}.{name}.{part}"]
            for name in ("ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
            for part in ("weight", "bias")
        ]
        block.build(x.shape)
        block.set_weights(attention + rest)
        x = block(x, decoder_padding_mask=mask)
    centred = x.numpy() - x.numpy().mean(-1, keepdims=True)
    last = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    last = last * w["ln_f.weight"] + w["ln_f.bias"]
    keep = np.bool_(mask)
    hidden = backbone({"token_ids": ids, "padding_mask": mask})
    assert_close(hidden.numpy()[keep], last[keep])
    assert_close(token(hidden), hidden.numpy() @ w["wte.weight"].T)
    backbone.destroy()


# ---- weights -----------------------------------------------------------------------------------

KERAS_NAMES = {
    "self_attention/query/kernel": (6, 2, 3),
    "self_attention/query/bias": (2, 3),
    "self_attention/key/kernel": (6, 2, 3),
    "self_attention/key/bias": (2, 3),
    "self_attention/value/kernel": (6, 2, 3),
    "self_attention/value/bias": (2, 3),
    "self_attention/attention_output/kernel": (2, 3, 6),
    "self_attention/attention_output/bias": (6,),
    "self_attention_layer_norm/gamma": (6,),
    "self_attention_layer_norm/beta": (6,),
    "feedforward_intermediate_dense/kernel": (6, 4),
    "feedforward_intermediate_dense/bias": (4,),
    "feedforward_output_dense/kernel": (4, 6),
    "feedforward_output_dense/bias": (6,),
    "feedforward_layer_norm/gamma": (6,),
    "feedforward_layer_norm/beta": (6,),
}


def test_weights_have_kerass_order_and_shapes():
    decoder = TransformerDecoder(4, 2)
    assert decoder.get_weights() == [] and not decoder.built
    decoder.build((None, None, 6))
    assert {name: weight.shape for name, weight in decoder.named_weights.items()} == KERAS_NAMES
    assert decoder.count_params() == sum(math.prod(shape) for shape in KERAS_NAMES.values())
    untied = ReverseEmbedding(5, 3, tie_weights=False)
    assert [weight.shape for weight in untied.get_weights()] == [(5, 3), (3, 5)]
    attention = CachedMultiHeadAttention(2, 3, use_bias=False)
    attention.build((1, 1, 6))
    assert [w.shape for w in attention.get_weights()] == [(6, 2, 3)] * 3 + [(2, 3, 6)]


def test_weights_go_in_and_come_out_as_they_are(device):
    decoder = TransformerDecoder(4, 2, device=device)
    arrays = [draws(*shape, seed=i) for i, shape in enumerate(KERAS_NAMES.values())]
    decoder.set_weights(arrays)  # builds it
    for got, array in zip(decoder.get_weights(), arrays, strict=True):
        np.testing.assert_array_equal(got, array)
    first = decoder(X).numpy()
    flat = [a.reshape(a.shape[0], -1) if a.shape == (6, 2, 3) else a for a in arrays]
    flat[6], flat[1] = flat[6].reshape(6, 6), flat[1].reshape(6)  # as matrices: the same
    nested = TransformerDecoder(4, 2, device=device)
    nested.build(X.shape)
    nested.set_weights([a.tolist() for a in flat])
    np.testing.assert_array_equal(nested(X).numpy(), first)
    copy = TransformerDecoder(4, 2, device=device)
    copy.set_weights(decoder.get_weights())
    np.testing.assert_array_equal(copy(X).numpy(), first)


def test_a_weight_can_be_set_by_name_and_the_next_call_uses_it(device):
    decoder, w = decoder_for(X, device)
    before = decoder(X).numpy()
    name = "feedforward_layer_norm/beta"
    decoder.set_weights({name: w[name] + 1})
    np.testing.assert_allclose(decoder(X).numpy(), before + 1, rtol=1e-5, atol=1e-5)
    decoder.named_weights[name].assign(w[name])
    np.testing.assert_array_equal(decoder(X).numpy(), before)
    np.testing.assert_array_equal(np.asarray(decoder.named_weights[name]), np.float32(w[name]))
    for name in w:  # each one counts, the norms' own too; but for the bias of the keys: softmax
        if name == "self_attention/key/bias":
            continue
        changed = w | {name: w[name] + np.arange(w[name].size).reshape(w[name].shape)}
        decoder.set_weights(changed)
        assert np.abs(decoder(X).numpy() - before).max() > 1e-3, name
        assert_close(decoder(X), decode(changed, X))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.ones((6, 3))], "has 16 weights"),
        ({"gamma": np.ones(6)}, "has no weight 'gamma'; it has self_attention/query/kernel"),
        (
            {"self_attention/query/bias": np.ones((3, 2))},
            r"wanted the shape \[2, 3\], got \[3, 2\]",
        ),
        ({"self_attention_layer_norm/beta": ["a"] * 6}, "wanted an array of numbers"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(weights, message):
    decoder = TransformerDecoder(4, 2)
    decoder.build((1, 1, 6))
    before = [bytes(w) for w in decoder.get_weights()]
    if isinstance(weights, dict):
        weights = {"feedforward_layer_norm/beta": np.full(6, 5.0)} | weights
    with pytest.raises(ValueError, match=message):
        decoder.set_weights(weights)
    assert [bytes(w) for w in decoder.get_weights()] == before


def test_weights_of_an_unbuilt_layer_that_do_not_fit_leave_it_unbuilt(device):
    position = PositionEmbedding(3, device=device)
    with pytest.raises(ValueError, match=r"wanted the shape \[3, 4\], got \[2, 4\]"):
        position.set_weights([np.ones((2, 4))])
    assert not position.built
    with pytest.raises(ValueError, match="none before it is built"):
        position.set_weights({"position_embeddings": np.ones((3, 4))})
    with pytest.raises(ValueError, match="has no weights yet"):
        position.position_embeddings  # noqa: B018
    assert position(np.zeros((1, 2, 5))).shape == (1, 2, 5)


def test_weights_are_a_list_in_keras_order_and_by_name():
    decoder = TransformerDecoder(5, 2)
    assert decoder.weights == decoder.trainable_weights == []
    decoder.build((1, 1, 6))
    assert [weight.name for weight in decoder.weights] == list(decoder.named_weights)
    assert decoder.weights[0] is decoder.named_weights["self_attention/query/kernel"]
    assert decoder.weights[0].name == "self_attention/query/kernel"
    assert [len(w.shape) for w in decoder.weights[-2:]] == [1, 1]
    assert decoder.variables == decoder.trainable_variables == decoder.trainable_weights
    assert decoder.trainable_weights == decoder.weights and decoder.non_trainable_weights == []
    decoder.trainable = False
    assert decoder.trainable_weights == decoder.trainable_variables == []
    assert decoder.non_trainable_weights == decoder.non_trainable_variables == decoder.variables


def test_output_shapes_are_known_before_a_call(device):
    attention = CachedMultiHeadAttention(2, 3)
    assert attention.compute_output_shape((None, 4, 6), (None, 5, 7)) == (None, 4, 6)
    attention = CachedMultiHeadAttention(2, 3, output_shape=(8, 9), device=device)
    shape = attention.computeOutputShape(queryShape=[2, 4, 6], valueShape=[2, 5, 7])
    assert shape == (2, 4, 8, 9) == attention(draws(2, 4, 6), draws(2, 5, 7)).shape
    assert TransformerDecoder(5, 2).compute_output_shape([2, None, 6]) == (2, None, 6)
    assert PositionEmbedding(3).computeOutputShape([2, 3, 6]) == (2, 3, 6)
    table = ReverseEmbedding(5, 3)
    assert table.compute_output_shape((2, None)) == (2, None, 3)
    assert table.compute_output_shape((2, None, 3), reverse=True) == (2, None, 5)
    assert ReverseEmbedding(table).compute_output_shape((2, 4, 3)) == (2, 4, 5)


def test_apply_calls_with_keywords_in_tensorflowjs_way_too(device):
    layer = ReverseEmbedding(5, 3, device=device)
    x = draws(2, 3)
    for logits in (layer.apply(x, reverse=True), layer.apply(x, {"reverse": True})):
        assert_close(logits, layer(x, reverse=True).numpy())


def test_dtypes_of_the_name_float32_are_taken():
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    for dtype in (None, "float32", np.float32, np.dtype("float32"), policy, {"name": "float32"}):
        assert PositionEmbedding(3, dtype=dtype).get_config()["dtype"] == "float32"
    for wrong in (np.float16, "mixed_float16", {"config": {"name": "bfloat16"}}, {}, 32):
        with pytest.raises(ValueError, match="dtype: all arithmetic is in float32, got"):
            PositionEmbedding(3, dtype=wrong)


def test_each_name_of_the_embedding_is_its_default_name():
    assert ReverseEmbedding(5, 3).name == "reverse_embedding"
    assert layers.ReversibleEmbedding(5, 3).name == "reversible_embedding"
    assert isinstance(ReverseEmbedding(5, 3), layers.ReversibleEmbedding)


@pytest.mark.parametrize("piece", [4 << 20, 100])  # rows of 24 bytes: at once, or by fours
def test_a_backbones_table_is_read_from_the_gpu(device, monkeypatch, piece):
    monkeypatch.setattr(embedding, "PIECE_BYTES", piece)
    backbone = GPT2Backbone(11, 1, 2, 6, 8, max_sequence_length=4, device=device)
    layer = backbone.token_embedding
    rows = layer(np.arange(11)).numpy()
    table = layer.embeddings
    assert table.shape == (11, 6)
    np.testing.assert_array_equal(table.numpy(), rows)
    np.testing.assert_array_equal(np.asarray(asyncio.run(table.read())), rows)
    assert_close(ReverseEmbedding(table)(rows), rows @ rows.T)  # tied as to the backbone
    with pytest.raises(ValueError, match="use the backbone's load_weights"):
        layer.embeddings = rows
    copied = ReverseEmbedding(11, 6, device=device)
    copied.embeddings = table
    np.testing.assert_array_equal(copied.embeddings.numpy(), rows)
    backbone.destroy()


def statistics(initializer, shape=(60, 70)):
    values = np.frombuffer(draw(initializer, shape, "x"), np.float32)
    return float(values.mean()), float(values.std()), float(np.abs(values).max())


def test_initializers_draw_what_keras_documents():
    assert statistics("zeros") == (0, 0, 0)
    assert statistics("Ones") == (1, 0, 1)
    assert statistics({"class_name": "Constant", "config": {"value": 2.5}}) == (2.5, 0, 2.5)
    limit = math.sqrt(6 / 130)
    wanted = {  # standard deviation, largest
        "glorot_uniform": (limit / math.sqrt(3), limit),
        "glorotUniform": (limit / math.sqrt(3), limit),
        "glorot_normal": (math.sqrt(2 / 130), 2 * math.sqrt(2 / 130) / 0.8796),
        "HeNormal": (math.sqrt(2 / 60), 2 * math.sqrt(2 / 60) / 0.8796),
        "lecun_uniform": (math.sqrt(1 / 60), math.sqrt(3 / 60)),
        "uniform": (0.05 / math.sqrt(3), 0.05),
        "truncated_normal": (0.05 * 0.8796, 0.1),
    }
    for name, (deviation, largest) in wanted.items():
        mean, std, most = statistics(name)
        assert abs(mean) < 0.05 * deviation and abs(std / deviation - 1) < 0.04, name
        assert 0.97 * largest < most <= largest * (1 + 1e-4), name
    assert abs(statistics("random_normal")[1] / 0.05 - 1) < 0.04
    assert set(INITIALIZERS) >= {"random_normal", "variance_scaling"}


def test_an_initializers_options_are_kept_and_not_rebuilt_from_its_name():
    """TensorFlow.js makes 0.05 of a standard deviation of 0.02."""
    narrow = {"class_name": "RandomNormal", "config": {"mean": 1.0, "stddev": 0.02, "seed": None}}
    decoder = TransformerDecoder(50, 2, kernel_initializer=narrow, bias_initializer="ones")
    decoder.build((1, 1, 40))
    for name, weight in decoder.named_weights.items():
        values = weight.numpy()
        if name.endswith("kernel"):
            assert abs(values.std() / 0.02 - 1) < 0.1 and abs(values.mean() - 1) < 0.01, name
        else:
            assert (values == (0 if name.endswith("beta") else 1)).all()
    again = TransformerDecoder.from_config(decoder.get_config())
    again.build((1, 1, 40))
    assert [bytes(w) for w in again.get_weights()] == [bytes(w) for w in decoder.get_weights()]
    with pytest.raises(ValueError, match="random_normal has no option 'sd'"):
        PositionEmbedding(3, {"class_name": "RandomNormal", "config": {"sd": 1}})
    with pytest.raises(ValueError, match="mode is one of fan_in, fan_out, fan_avg, got 'x'"):
        PositionEmbedding(3, {"class_name": "VarianceScaling", "config": {"mode": "x"}})


def test_no_two_weights_of_a_layer_are_drawn_alike_and_a_seed_repeats():
    def weights(**options):
        layer = CachedMultiHeadAttention(2, 3, use_bias=False, **options)
        layer.build((1, 1, 6))
        return [bytes(w) for w in layer.get_weights()]

    assert len(set(weights())) == 4
    assert weights() == weights()
    seeded = {"class_name": "glorot_uniform", "config": {"seed": 7}}
    assert not set(weights(kernel_initializer=seeded)) & set(weights())


def test_a_function_may_initialize(device):
    layer = PositionEmbedding(
        4, lambda shape: np.arange(np.prod(shape)).reshape(shape), device=device
    )
    wanted = np.broadcast_to(np.arange(12).reshape(4, 3), (2, 4, 3))
    np.testing.assert_array_equal(layer(np.zeros((2, 4, 3))).numpy(), wanted)
    wrong = PositionEmbedding(4, lambda shape: [1.0], device=device)
    with pytest.raises(ValueError, match=r"gave the shape \[1\], wanted \[4, 3\]"):
        wrong(np.zeros((2, 4, 3)))


@pytest.mark.parametrize(
    "layer",
    [
        PositionEmbedding(40, {"class_name": "RandomNormal", "config": {"stddev": 0.3}}, name="p"),
        ReverseEmbedding(9, 4, False, "HeNormal", reverse_dtype="float16", logit_soft_cap=30.0),
        CachedMultiHeadAttention(2, 3, 4, 0.1, False, (2, 3), seed=1, bias_initializer="ones"),
        TransformerDecoder(4, 2, 0.1, "gelu_new", 1e-6, "he_uniform", "ones", True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_makes_the_same_layer_again(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    plain = type(layer)(*[3] * (1 + (type(layer) is not PositionEmbedding)))
    assert plain.get_config() != config
    assert layer.getConfig() == type(layer).fromConfig(config).getConfig() == config


def test_a_config_of_keras_is_understood():
    decoder = TransformerDecoder.from_config(
        {
            "name": "transformer_layer_0",
            "trainable": True,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
            },
            "intermediate_dim": 4,
            "num_heads": 2,
            "dropout": 0.1,
            "activation": {"class_name": "function", "config": "gelu_approximate"},
            "layer_norm_epsilon": 1e-5,
            "kernel_initializer": {
                "module": "keras.initializers",
                "class_name": "RandomNormal",
                "config": {"mean": 0.0, "stddev": 0.02, "seed": None},
                "registered_name": None,
            },
            "bias_initializer": "zeros",
            "normalize_first": True,
            "decoder_sequence_shape": (None, None, 6),
            "encoder_sequence_shape": None,
        }
    )
    assert decoder.built and decoder.activation == "gelu_approximate"


# ---- PositionEmbedding -------------------------------------------------------------------------


def positions_of(device, length=7, features=3):
    layer = PositionEmbedding(length, device=device)
    table = draws(length, features)
    layer.position_embeddings = table
    return layer, table


@pytest.mark.parametrize("shape", [(4, 3), (2, 7, 3), (1, 1, 3), (2, 3, 5, 3), (2, 0, 3)])
def test_positions_are_looked_up_for_inputs_of_any_rank(device, shape):
    layer, table = positions_of(device)
    output = layer(np.full(shape, np.nan))
    assert output.shape == shape
    np.testing.assert_array_equal(output.numpy(), np.broadcast_to(table[: shape[-2]], shape))
    np.testing.assert_array_equal(np.asarray(layer.position_embeddings), table)


def test_positions_start_where_they_are_told_to(device):
    layer, table = positions_of(device)
    for start in range(7):
        got = layer(np.zeros((2, 1, 3)), start_index=start).numpy()
        np.testing.assert_array_equal(got, np.broadcast_to(table[start], (2, 1, 3)))
    np.testing.assert_array_equal(layer(upload(device, X[..., :3]), 4).numpy()[1], table[4:])


@pytest.mark.parametrize(
    "positions",
    [[6, 0, 3], [[6, 0, 3]], [[6, 0, 3], [1, 1, 2]], [[5], [2]], np.float32([[1, 2, 3]] * 2)],
)
def test_positions_can_be_given_one_by_one(device, positions):
    layer, table = positions_of(device)
    wanted = np.broadcast_to(table[np.asarray(positions, int)], (2, 3, 3))
    np.testing.assert_array_equal(layer(np.zeros((2, 3, 3)), positions=positions).numpy(), wanted)
    tensor = upload(device, np.uint32(positions))
    np.testing.assert_array_equal(layer(np.zeros((2, 3, 3)), positions=tensor).numpy(), wanted)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((2, 8, 3), {}, "positions 0 to 7 are wanted, sequence_length is 7"),
        ((2, 3, 3), {"start_index": 5}, "positions 5 to 7 are wanted"),
        ((2, 3, 3), {"start_index": -1}, "start_index: wanted a whole number of 0 or more"),
        ((2, 3, 3), {"positions": [0, 1, 7]}, "positions: wanted whole numbers of 0 to 6, got 7"),
        ((2, 3, 3), {"positions": [0, 1, 1.5]}, "got 1.5"),
        ((2, 3, 3), {"positions": [0, 1]}, r"broadcasts to \[2, 3\], got \[2\]"),
        ((2, 3, 4), {}, "built for 3 features, got 4"),
        ((3,), {}, r"wanted the shape \[..., length, features\], got \[3\]"),
    ],
)
def test_positions_outside_of_the_table_are_refused(device, inputs, options, message):
    layer, _ = positions_of(device)
    assert layer(np.zeros((2, 7, 3))).shape == (2, 7, 3)
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(inputs), **options)


def test_a_position_embedding_needs_a_length():
    for arguments in ((), (None,), (0,), ("seven",)):
        with pytest.raises(ValueError, match="sequence_length"):
            PositionEmbedding(*arguments)


# ---- ReverseEmbedding --------------------------------------------------------------------------


def test_an_embedding_runs_both_ways(device):
    layer = ReverseEmbedding(5, 3, device=device)
    table = draws(5, 3)
    layer.embeddings.assign(table)
    ids = np.array([[4, 0], [2, 2]])
    np.testing.assert_array_equal(layer(ids).numpy(), table[ids])
    np.testing.assert_array_equal(layer(4).numpy(), table[4])
    np.testing.assert_array_equal(layer([[1.0], [3.0]]).numpy(), table[[[1], [3]]])
    assert layer(np.zeros((2, 0), int)).shape == (2, 0, 3)
    vectors = draws(2, 4, 3)
    assert_close(layer(vectors, reverse=True), vectors @ table.T)
    assert_close(layer(upload(device, vectors[0, 0]), reverse=True), table @ vectors[0, 0])
    assert layer(np.zeros((2, 0, 3)), reverse=True).shape == (2, 0, 5)


def test_logits_can_be_capped_and_untied(device):
    table = np.array([[0.0, 0.0], [2.0, 2.0], [3.0, 3.0]])
    layer = ReverseEmbedding(3, 2, logit_soft_cap=5, device=device)
    layer.embeddings = table
    assert_close(layer([[1.0, 1.0]], reverse=True), [[0.0, 3.320184, 4.168273]])
    untied = ReverseEmbedding(3, 2, tie_weights=False, device=device)
    untied.set_weights([table, [[1, 2, 3], [4, 5, 6]]])
    assert_close(untied([[1.0, 1.0]], reverse=True), [[5, 7, 9]])
    assert_close(untied([1]), table[[1]])
    untied.reverse_embeddings = np.ones((2, 3))
    assert_close(untied([[1.0, 1.0]], reverse=True), [[2, 2, 2]])


def test_a_head_tied_to_an_embedding_follows_it(device):
    embedding = ReverseEmbedding(5, 3, device=device)
    heads = [
        ReverseEmbedding(embedding, device=device),
        ReverseEmbedding(embedding=embedding.embeddings, device=device),
    ]
    for seed in range(2):
        table, x = draws(5, 3, seed=seed), draws(2, 3)
        embedding.embeddings.assign(table)
        for head in heads:
            assert_close(head(x), x @ table.T)  # TensorFlow.js's call: always in reverse
            assert_close(head([3], reverse=False), table[[3]])
    copied = ReverseEmbedding(table, device=device)
    embedding.embeddings.assign(table + 1)
    assert_close(copied(x), x @ table.T)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_head_can_be_tied_to_a_backbone(device, precision):
    backbone = GPT2Backbone(11, 1, 2, 6, 8, max_sequence_length=4, device=device)
    backbone.precision = precision
    head = ReverseEmbedding(backbone)
    assert (head.input_dim, head.output_dim, head.get_weights()) == (11, 6, [])
    identity = np.eye(6, dtype=np.float32)
    columns = head(identity).numpy()
    rows = head(np.arange(11), reverse=False).numpy()
    assert np.abs(rows).max() > 0.01
    np.testing.assert_allclose(columns.T, rows, rtol=1e-6)
    with pytest.raises(ValueError, match="has 0 weights"):
        head.set_weights([rows])
    backbone.destroy()


def test_a_table_larger_than_a_buffer_is_split():
    small = new_device("llvmpipe", max_storage_buffer_binding_size=4096, max_buffer_size=8192)
    layer = ReverseEmbedding(200, 15, device=small)  # 12,000 bytes
    table, x = draws(200, 15), draws(4, 15)
    layer.embeddings = table
    assert_close(layer(x, reverse=True), x @ table.T)
    ids = [0, 63, 64, 199]
    np.testing.assert_array_equal(layer(ids).numpy(), table[ids])
    with pytest.raises(DeviceError, match="4,096"):
        layer(draws(6, 15), reverse=True)
    small.destroy()


@pytest.mark.parametrize(
    ("inputs", "reverse", "message"),
    [
        ([5], False, "whole numbers of 0 to 4, got 5"),
        ([-1], False, "got -1"),
        ([[0.5]], False, "got 0.5"),
        ([float("nan")], False, "got nan"),
        ([["a"]], False, "wanted an array"),
        (np.ones((2, 4)), True, r"wanted vectors \[..., 3\], got the shape \[2, 4\]"),
        (1.0, True, r"wanted vectors \[..., 3\], got the shape \[\]"),
    ],
)
def test_ids_outside_of_the_vocabulary_and_wrong_vectors_are_refused(
    device, inputs, reverse, message
):
    layer = ReverseEmbedding(5, 3, device=device)
    assert layer([4]).shape == (1, 3)
    with pytest.raises(ValueError, match=message):
        layer(inputs, reverse=reverse)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "input_dim"),
        ((5, 0), {}, "output_dim"),
        ((np.ones(3),), {}, r"embedding: wanted a ReverseEmbedding, .* got the shape \[3\]"),
        ((5, 2), {"embedding": np.ones((5, 3))}, r"wanted the shape \[5, 2\], got \[5, 3\]"),
        ((5, 3), {"logit_soft_cap": 0}, "logit_soft_cap: wanted more than 0"),
        ((5, 3), {"mask_zero": True}, "mask_zero: tensors carry no mask"),
    ],
)
def test_a_reverse_embedding_of_wrong_arguments_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ReverseEmbedding(*arguments, **options)


# ---- masks -------------------------------------------------------------------------------------


def test_a_causal_mask_lets_no_query_look_ahead():
    assert compute_causal_mask(1, 2, 2) == [[[1, 0], [1, 1]]]
    assert compute_causal_mask(2, 8, 1, cache_index=5) == [[[True] * 6 + [False] * 2]] * 2
    assert compute_causal_mask(batch_size=1, input_length=3, output_length=2, cache_index=1) == [
        [[True, True, False], [True, True, True]]
    ]
    assert layers.computeCausalMask(batchSize=1, inputLength=1, outputLength=1, cacheIndex=0)
    mask = compute_causal_mask(2, 2, 2)
    mask[0][0][0] = False
    assert mask[1][0][0] is True  # rows are lists of their own
    with pytest.raises(ValueError, match="output_length: wanted a whole number of 0 or more"):
        compute_causal_mask(1, 2, -1)


def test_padding_and_attention_masks_merge():
    padding, attention = [[1, 1, 0]], [[[0, 0, 1], [0, 1, 0], [1, 0, 0]]]
    merged = merge_padding_and_attention_mask(X, padding, attention)
    assert merged == [[[0, 0, 0], [0, 1, 0], [1, 0, 0]]]
    arrays = (np.bool_(padding), np.bool_(attention))
    assert merge_padding_and_attention_mask(X, *arrays) == merged
    assert merge_padding_and_attention_mask(None, padding, None) == [[[1, 1, 0]]]
    assert merge_padding_and_attention_mask(None, None, attention) == attention
    assert merge_padding_and_attention_mask(None, None, None) is None
    assert (
        layers.mergePaddingAndAttentionMask(inputs=X, paddingMask=padding, attentionMask=attention)
        == merged
    )


@pytest.mark.parametrize(
    ("padding", "attention", "message"),
    [
        ([[[1, 1, 0], [1, 0, 0]]], [[0, 0, 1], [0, 1, 0]], "padding_mask: wanted the shape"),
        ([[1, 1, 0]], [[0, 0, 1], [1, 0, 0]], "attention_mask: wanted the shape"),
        ([1, 1, 0], None, r"padding_mask: wanted the shape \[batch, keys\], got \[3\]"),
        ([[1, 1, 0]], [[[0, 1], [1, 0]]], "wanted the same"),
        ([[1, 0], [1, 1]], [[[0, 1], [1, 0]]], "wanted the same"),
        ([[1, 0], [1]], None, "padding_mask: wanted an array"),
    ],
)
def test_masks_of_wrong_shapes_are_refused(padding, attention, message):
    with pytest.raises(ValueError, match=message):
        merge_padding_and_attention_mask(X, padding, attention)


# ---- inputs, devices, calls --------------------------------------------------------------------


def test_keywords_may_be_spelled_as_in_tensorflow_js(device):
    snake = TransformerDecoder(4, 2, normalize_first=True, layer_norm_epsilon=1e-3, device=device)
    camel = TransformerDecoder(
        intermediateDim=4, numHeads=2, normalizeFirst=True, layerNormEpsilon=1e-3, device=device
    )
    mask = [[1, 0, 1], [1, 1, 0]]
    first = snake(X, decoder_padding_mask=mask, use_causal_mask=False).numpy()
    second = camel.call(X, decoderPaddingMask=mask, useCausalMask=False).numpy()
    np.testing.assert_array_equal(first, second)
    assert PositionEmbedding(sequenceLength=3).sequence_length == 3
    with pytest.raises(TypeError, match="'num_heads' in two spellings"):
        TransformerDecoder(4, num_heads=2, numHeads=2)


def test_arrays_lists_and_tensors_are_taken_alike_and_tensors_left_as_they_are(device):
    decoder, w = decoder_for(X, device)
    tensor = upload(device, X)
    for given in (X, X.astype(np.float64), X.tolist(), tensor):
        assert_close(decoder(given), decode(w, X))
    np.testing.assert_array_equal(tensor.numpy(), X)
    twice = decoder(decoder(tensor))
    assert_close(twice, decode(w, decode(w, X)))
    with pytest.raises(ValueError, match="wanted numbers of f32"):
        decoder(upload(device, np.ones((2, 3, 6), np.uint32)))


def test_nothing_stays_behind_on_the_gpu(device):
    decoder, w = decoder_for(X, device)
    position, head = PositionEmbedding(5, device=device), ReverseEmbedding(7, 6, device=device)
    cache = upload(device, np.zeros((2, 2, 4, 2, 3), np.float32))

    def everything():
        x = decoder(X)
        decoder(x, self_attention_cache=cache, self_attention_cache_update_index=1)
        decoder.self_attention(x, x, return_attention_scores=True)
        position(x)
        head(head([[1, 2]]), reverse=True)
        with pytest.raises(ValueError, match="beyond the cache's end"):
            decoder(x, self_attention_cache=cache, self_attention_cache_update_index=2)

    everything()
    before = dict(device.live)
    everything()
    assert device.live == before
    for one in (decoder, position, head):
        one.destroy()
    assert len(device.live) < len(before)
    assert_close(decoder(X), decode(w, X))  # the weights are still there


def test_layers_without_a_device_follow_their_inputs_and_share_one(monkeypatch):
    monkeypatch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
    requests = []
    request = Device.request

    async def counted(*arguments, **options):
        requests.append(arguments)
        return await request(*arguments, **options)

    monkeypatch.setattr(layer.Device, "request", counted)
    layers.set_default_device(None)
    decoder, position = TransformerDecoder(4, 2), PositionEmbedding(4)
    first = decoder(X)
    assert position(X).device is first.device is decoder(first).device
    assert len(requests) == 1
    other = new_device("llvmpipe")
    second = decoder(upload(other, X))
    assert second.device is other
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    with pytest.raises(ValueError, match="a tensor of another device"):
        CachedMultiHeadAttention(2, 3)(first, second)
    with pytest.raises(ValueError, match="a tensor of another device"):
        PositionEmbedding(4, device=other)(first)
    device = first.device
    layers.set_default_device(None)
    for one in (other, device):
        one.destroy()


def test_two_first_calls_at_once_share_a_device(monkeypatch):
    monkeypatch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
    layers.set_default_device(None)

    async def both():
        return await asyncio.gather(*(PositionEmbedding(4).call_async(X) for _ in range(2)))

    first, second = asyncio.run(both())
    assert first.device is second.device
    layers.set_default_device(None)


def test_a_call_blocks_inside_a_running_loop_too(device):
    decoder, w = decoder_for(X, device)

    async def inside():
        return decoder(X), await decoder.call_async(X)

    for output in asyncio.run(inside()):
        assert_close(output, decode(w, X))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PositionEmbedding(3),
        lambda: layers.ReversibleEmbedding(3, 2),
        lambda: CachedMultiHeadAttention(2, 3),
        lambda: TransformerDecoder(4, 2),
    ],
    ids=[
        "PositionEmbedding",
        "ReversibleEmbedding",
        "CachedMultiHeadAttention",
        "TransformerDecoder",
    ],
)
def test_in_the_page_the_plain_call_names_its_twin(monkeypatch, make):
    layer = make()
    monkeypatch.setattr(sys, "platform", "emscripten")
    inputs = (X, X) if isinstance(layer, CachedMultiHeadAttention) else (X,)
    with pytest.raises(RuntimeError, match=rf"await {type(layer).__name__}.call_async\("):
        layer(*inputs)
    layer.build((2, 3, 6))
    layer.set_weights(layer.get_weights())  # needs no GPU


def test_a_variable_reads_like_an_array(device):
    weight = Variable("w", (2, 3), "ones", 2)
    assert weight.value.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert np.asarray(weight, np.float64).dtype == np.float64
    with pytest.raises(TypeError):
        weight.value[0, 0] = 2
    copied = weight.matrix(device)
    assert weight.matrix(device) is copied
    weight.assign(np.arange(6).reshape(2, 3))
    words = block_on(weight.matrix(device).parts[0].words.read(), "read")
    assert struct.unpack("<8f", words.cast("B"))[:3] == (0, 1, 2)
