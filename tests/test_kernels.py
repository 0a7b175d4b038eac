"""Every kernel against its numpy twin, on both software adapters with WebGPU's default limits (the
device has no more, so a kernel that runs keeps within them); and every shader in Chromium.

Outputs start as NaN, with NaN behind them: what a kernel leaves out, or writes too much, shows.
"""

import functools
import itertools
import math
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from adapters import download, holding, is_untouched, new_device, untouched, upload
from gpt2web import gpu, kernels
from gpt2web.chunks import Chunks
from gpt2web.config import GPT2Config
from gpt2web.decoder import Decoder
from gpt2web.gpu import DEFAULT_LIMITS, DeviceError
from gpt2web.kernels import BLOCK, CHUNK, SPLIT, Norm, Weight, WeightPart, ceil_div
from gpt2web.precision import PRECISIONS, bits_of, is_matrix, is_packed
from gpt2web.sampling import Sampling, bit_words, penalized, probabilities
from gpt2web.weights import Weights, _Loader

pytestmark = pytest.mark.gpu

# One f32 operation is off by at most 2^-24 = 6e-8 of its result. A sum of K = 1280 products runs
# through chains of 20 (a slice) + 8 + 8 of them, a tile of matmul through 1280 in the worst case
# and about the root of that in practice; a layer norm before it adds about ten. So: 50 roundings,
# of the sum of the terms' magnitudes (of the sum itself, terms that cancel would leave no bound).
SUM = 3e-6
# Attention mixes values with weights exp(score - maximum): a score is off by some 1e-6 of its
# terms' magnitudes, which here are up to 20, and exp turns that into the weight's relative error.
# What is mixed is at most the largest value.
MIXED = 2e-5

HIDDEN_SIZES = [1, 2, 6, 65, 320]


def draw(*shape, seed=0):
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32)


def assert_close(got, wanted, magnitude, tolerance=SUM):
    worst = np.max(np.abs(got - wanted) / magnitude)  # NaN where anything was left out
    assert worst <= tolerance, f"off by {worst:.2g} of the magnitude, allowed {tolerance:.2g}"


def make_state(device, *rows):
    """(position, last id, done) of each row; the rows behind them are finished."""
    table = np.zeros((gpu.MAX_ROWS, 4), np.uint32)
    table[:, 3] = 1
    for row, (position, last_id, done) in enumerate(rows):
        table[row] = position, last_id, 0, done
    return upload(device, table, uniform=True)


def make_chunk(device, *blocks):
    """(row, position, count) of each block of 16 tokens."""
    table = np.zeros((CHUNK // BLOCK, 4), np.uint32)
    for index, block in enumerate(blocks):
        table[index, :3] = block
    return upload(device, table, uniform=True)


def make_weight(device, matrix, bits, *, parts=1):
    """A Weight of float32 [K, N] in so many parts, of odd widths; and the matrix as it is kept."""
    k, columns = matrix.shape
    edges = sorted({0, columns, *(columns * i // parts | 1 for i in range(1, parts))})
    weight_parts = [
        WeightPart(upload(device, reference.pack(matrix[:, first:end], bits)), first, end - first)
        for first, end in itertools.pairwise(edges)
    ]
    kept = reference.unpack(reference.pack(matrix, bits), matrix.shape, bits)
    return Weight(k, columns, bits, tuple(weight_parts)), kept


def make_norm(device, hidden):
    """A Norm, and its [weight, bias]: no value of them is 0 or 1."""
    weight, bias = 1.5 + 0.3 * draw(hidden, seed=1), draw(hidden, seed=2)
    return Norm(upload(device, weight), upload(device, bias)), (weight, bias)


def assert_embedded(got, kept, wpe, bits):
    """kept + wpe: one rounding; a scaled integer's product may have one of its own, or none."""
    if bits >= 16:
        np.testing.assert_array_equal(got, kept + wpe)
    else:
        assert_close(got, kept.astype(np.float64) + wpe, np.abs(kept) + np.abs(wpe), 2.0**-23)


def magnitude_of(x, matrix, bias=0.0):
    return np.abs(x) @ np.abs(matrix).astype(np.float64) + np.abs(bias)


def run(device, *calls):
    device.submit(list(calls))


# ---- decode ------------------------------------------------------------------------------------

ROWS = [(6, 3, 0), (0, 96, 0), (3, 5, 1), (63, 0, 0)]  # the third is finished
RUNNING = [0, 1, 3]
LENGTH = 64


EMBED_CASES = [
    *((hidden, bits, 1 + hidden % 3) for hidden in HIDDEN_SIZES for bits in (32, 16)),
    *((1, 4, 2), (6, 8, 1), (65, 8, 3), (65, 4, 2), (320, 8, 1)),
]


def check_embed(device, case):
    hidden, bits, parts = case
    wte, wpe = draw(97, hidden), draw(LENGTH, hidden)
    weight, kept = make_weight(device, wte.T, bits, parts=parts)
    x = untouched(device, (4, hidden))
    state, positions = make_state(device, *ROWS), upload(device, wpe)
    run(device, *(kernels.embed(device, state, weight, p, positions, x) for p in weight.parts))
    got = download(x)
    for row in RUNNING:
        position, last_id, _ = ROWS[row]
        assert_embedded(got[row], kept[:, last_id], wpe[position], bits)
    assert is_untouched(got[2]).all()


@pytest.mark.parametrize("case", EMBED_CASES)
def test_embed_adds_token_and_position_whichever_part_holds_the_id(device, case):
    check_embed(device, case)


def check_qkv(device, case):
    hidden, bits, parts = case
    x, matrix, bias = 3 + draw(4, hidden), draw(hidden, 3 * hidden), draw(3 * hidden)
    weight, kept = make_weight(device, matrix, bits, parts=parts)
    norm, (norm_weight, norm_bias) = make_norm(device, hidden)
    q, cache = untouched(device, (4, hidden)), untouched(device, (4, 2, LENGTH, hidden))
    state, source, b = make_state(device, *ROWS), upload(device, x), upload(device, bias)
    run(
        device,
        *(
            kernels.qkv(device, state, source, norm, 1e-5, weight, part, b, q, cache)
            for part in weight.parts
        ),
    )
    y = reference.layer_norm(x, norm_weight, norm_bias)
    wanted = reference.matmul(y, kept, bias)
    magnitude = magnitude_of(y, kept, bias)
    got_q, got_cache = download(q), download(cache)
    written = np.zeros(got_cache.shape, bool)
    for row in RUNNING:
        position = ROWS[row][0]
        got = np.concatenate([got_q[row], *got_cache[row, :, position]])
        assert_close(got, wanted[row], magnitude[row])
        written[row, :, position] = True
    np.testing.assert_array_equal(is_untouched(got_cache), ~written)
    assert is_untouched(got_q[2]).all()


MATRIX_CASES = [
    *((65, 16, 3), (6, 32, 2), (1, 16, 1), (2, 32, 1), (65, 32, 1), (320, 16, 1)),
    *((65, 8, 3), (6, 4, 2), (2, 8, 1), (33, 4, 1), (320, 4, 1)),
]


@pytest.mark.parametrize("case", MATRIX_CASES)
def test_qkv_normalises_multiplies_and_writes_one_slot_of_each_running_row(device, case):
    check_qkv(device, case)


def check_project(device, case):
    k, hidden, bits, parts = case
    x, source, matrix, bias = draw(4, hidden), draw(4, k), draw(k, hidden), draw(hidden, seed=1)
    weight, kept = make_weight(device, matrix, bits, parts=parts)
    output, state = holding(device, x), make_state(device, *ROWS)
    given, b = upload(device, source), upload(device, bias)
    run(
        device,
        *(kernels.project(device, state, given, weight, p, b, output) for p in weight.parts),
    )
    wanted = reference.residual(x, reference.matmul(source, kept, bias))
    got = download(output)
    magnitude = magnitude_of(source, kept, bias) + np.abs(x)
    assert_close(got[RUNNING], wanted[RUNNING], magnitude[RUNNING])
    np.testing.assert_array_equal(got[2], x[2])


PROJECT_CASES = [
    (7, 1, 16, 1),
    (1, 2, 32, 1),
    (24, 6, 16, 2),
    (63, 65, 32, 3),
    (129, 64, 16, 1),
    (1280, 320, 16, 1),
    (1281, 65, 32, 1),
    (1, 2, 8, 1),
    (31, 5, 4, 2),
    (65, 65, 8, 3),
    (63, 65, 4, 3),
    (1281, 66, 4, 1),
    (1280, 320, 8, 1),
]


@pytest.mark.parametrize("case", PROJECT_CASES)
def test_project_adds_to_the_running_rows(device, case):
    check_project(device, case)


def check_fc(device, case):
    hidden, columns, bits, parts = case
    x, matrix, bias = draw(4, hidden) - 2, draw(hidden, columns), draw(columns)
    weight, kept = make_weight(device, matrix, bits, parts=parts)
    norm, norm_values = make_norm(device, hidden)
    output, state = untouched(device, (4, columns)), make_state(device, *ROWS)
    source, b = upload(device, x), upload(device, bias)
    run(
        device,
        *(
            kernels.fc(device, state, source, norm, 1e-5, weight, part, b, output)
            for part in weight.parts
        ),
    )
    y = reference.layer_norm(x, *norm_values)
    wanted = reference.gelu(reference.matmul(y, kept, bias))
    got = download(output)
    # gelu's slope is at most 1.13; tanh itself may be off by a few units in its last place
    assert_close(got[RUNNING], wanted[RUNNING], magnitude_of(y, kept, bias)[RUNNING], 1.2 * SUM)
    assert is_untouched(got[2]).all()


FC_CASES = [
    *((6, 24, 16, 2), (65, 67, 32, 3), (1, 7, 16, 1), (2, 5, 32, 1), (320, 1280, 16, 1)),
    *((65, 67, 8, 3), (17, 7, 4, 1), (320, 1280, 4, 1)),
]


@pytest.mark.parametrize("case", FC_CASES)
def test_fc_normalises_multiplies_and_bends(device, case):
    check_fc(device, case)


def check_gelu(device, ends):
    """fc of a weight of zeros: gelu(bias)."""
    bias = np.float32([-ends, -60, -12, -5, -1, -1e-3, 0, 1e-3, 0.5, 2, 5, 12, 60, ends])
    weight, _ = make_weight(device, np.zeros((1, len(bias)), np.float32), 32)
    norm, _ = make_norm(device, 1)
    output = untouched(device, (1, len(bias)))
    state, x, b = make_state(device, (0, 0, 0)), upload(device, draw(1, 1)), upload(device, bias)
    run(device, kernels.fc(device, state, x, norm, 1e-5, weight, weight.parts[0], b, output))
    with np.errstate(over="ignore"):
        wanted = reference.gelu(bias)
    assert_close(download(output)[0], wanted, np.maximum(np.abs(bias), 1e-6), 1e-6)


def test_gelu_neither_overflows_nor_loses_its_ends(device):
    check_gelu(device, 1e30)


def check_head(device, case):
    hidden, vocabulary, bits, parts = case
    x, wte = draw(4, hidden) + 1, draw(vocabulary, hidden)
    weight, kept = make_weight(device, wte.T, bits, parts=parts)
    norm, norm_values = make_norm(device, hidden)
    logits, state = untouched(device, (4, vocabulary)), make_state(device, *ROWS)
    source = upload(device, x)
    run(
        device,
        *(kernels.head(device, state, source, norm, 1e-3, weight, p, logits) for p in weight.parts),
    )
    y = reference.layer_norm(x, *norm_values, epsilon=1e-3)
    got = download(logits)
    wanted, magnitude = reference.matmul(y, kept), magnitude_of(y, kept)
    assert_close(got[RUNNING], wanted[RUNNING], magnitude[RUNNING])
    assert is_untouched(got[2]).all()


HEAD_CASES = [
    *((6, 11, 16, 2), (65, 257, 32, 3), (1, 5, 16, 1), (2, 97, 32, 2), (320, 131, 16, 1)),
    *((65, 257, 8, 3), (6, 11, 4, 2), (320, 131, 8, 1)),
]


@pytest.mark.parametrize("case", HEAD_CASES)
def test_head_gives_logits_of_odd_vocabularies(device, case):
    check_head(device, case)


# ---- attention -----------------------------------------------------------------------------------


def make_attention(device, heads, head_dim, length, positions):
    """State, q and a cache that is NaN beyond each row's position; and the wanted [rows, hidden].
    The second row, where there are several, is finished."""
    hidden = heads * head_dim
    q, cache = 3 * draw(len(positions), hidden), draw(len(positions), 2, length, hidden)
    wanted = []
    for row, position in enumerate(positions):
        cache[row, :, position + 1 :] = np.nan
        keys, values = cache[row, :, : position + 1].reshape(2, -1, heads, head_dim)
        wanted.append(reference.attend(q[row].reshape(heads, head_dim), keys, values).ravel())
    rows = [(position, 0, row == 1) for row, position in enumerate(positions)]
    running = [row for row in range(len(positions)) if row != 1]
    tensors = make_state(device, *rows), upload(device, q), upload(device, cache)
    return *tensors, q, cache, np.array(wanted), running


def check_attention(device, case):
    heads, head_dim, length = case
    positions = sorted({0, 5, 6, 63, 64, length - 1} & set(range(length)))
    state, q, cache, _, values, wanted, running = make_attention(
        device, heads, head_dim, length, positions
    )
    attended = untouched(device, wanted.shape)
    run(device, kernels.attention(device, state, q, cache, attended, heads))
    got = download(attended)
    assert_close(got[running], wanted[running], np.nanmax(np.abs(values)), MIXED)
    assert is_untouched(np.delete(got, running, axis=0)).all()


ATTENTION_CASES = [
    (2, 3, 65),
    (1, 1, 1),
    (5, 2, 7),
    (3, 7, 64),
    (1, 64, 65),
    (5, 64, 256),
    (2, 72, 256),
    (1, 256, 65),
]


@pytest.mark.parametrize("case", ATTENTION_CASES)
def test_attention_sees_the_slots_up_to_its_position_and_no_further(device, case):
    check_attention(device, case)


POSITIONS = [0, 100, 255, 256, 257, 511, 600]


def check_split_attention(device, case):
    """Splits: what attention leaves in each, and what attention_reduce makes of them."""
    heads, head_dim, length = case
    positions = [position for position in POSITIONS if position < length]
    count = ceil_div(length, SPLIT)
    state, q, cache, queries, cached, wanted, running = make_attention(
        device, heads, head_dim, length, positions
    )
    splits = untouched(device, (len(positions), heads, count, head_dim + 2))
    attended = untouched(device, wanted.shape)
    run(
        device,
        kernels.attention(device, state, q, cache, splits, heads),
        kernels.attention_reduce(device, state, splits, attended),
    )
    got_splits, got = download(splits), download(attended)
    largest_value = np.nanmax(np.abs(cached))
    for row, position in enumerate(positions):
        for split in range(count):
            left = got_splits[row, :, split]
            slots = slice(split * SPLIT, min((split + 1) * SPLIT, position + 1))
            if row not in running or slots.start > position:
                assert is_untouched(left).all()
                continue
            keys, values = cached[row, :, slots].reshape(2, -1, heads, head_dim)
            largest, total, mixed = reference.attend_partial(
                queries[row].reshape(heads, head_dim), keys, values
            )
            assert_close(left[:, head_dim], largest, 20, SUM)
            assert_close(left[:, head_dim + 1], total, total, MIXED)
            assert_close(left[:, :head_dim], mixed, total[:, None] * largest_value, MIXED)
    assert_close(got[running], wanted[running], largest_value, MIXED)
    assert is_untouched(np.delete(got, running, axis=0)).all()


SPLIT_CASES = [(2, 7, 601), (5, 1, 257), (1, 64, 512), (1, 72, 601), (1, 256, 601)]


@pytest.mark.parametrize("case", SPLIT_CASES)
def test_attention_over_a_long_cache_is_the_same_in_splits(device, case):
    check_split_attention(device, case)


def check_attention_weights(device, case):
    """Each position alone, as its row is the first; q and cache have NaN beyond it."""
    heads, head_dim, length = case
    for position in sorted({0, 5, 255, 256, 600, length - 1} & set(range(length))):
        state, q, cache, queries, cached, _, _ = make_attention(
            device, heads, head_dim, length, [position]
        )
        weights = untouched(device, (heads, position + 1))
        run(device, kernels.attention_weights(device, state, q, cache, weights))
        keys = cached[0, 0, : position + 1].reshape(-1, heads, head_dim)
        wanted = reference.attention_weights(queries[0].reshape(heads, head_dim), keys)
        got = download(weights)
        assert_close(got, wanted, 1, MIXED)
        assert_close(got.sum(axis=-1, dtype=np.float64), 1, 1, SUM)


WEIGHTS_CASES = [(1, 1, 1), (3, 7, 64), (5, 2, 257), (2, 72, 256), (1, 256, 601)]


@pytest.mark.parametrize("case", WEIGHTS_CASES)
def test_attention_weights_are_what_attention_mixes_with(device, case):
    check_attention_weights(device, case)


# ---- prefill -------------------------------------------------------------------------------------


def check_embed_chunk(device, case):
    hidden, bits, parts = case
    wte, wpe = draw(97, hidden), draw(40, hidden)
    weight, kept = make_weight(device, wte.T, bits, parts=parts)
    blocks = [(1, 24, 16), (0, 0, 16), (2, 35, 5), (0, 16, 1)]
    ids = np.random.default_rng(1).integers(0, 97, CHUNK).astype(np.uint32)
    ids[:3] = 96, 0, 48
    x, chunk = untouched(device, (CHUNK, hidden)), make_chunk(device, *blocks)
    given, positions = upload(device, ids), upload(device, wpe)
    run(
        device,
        *(
            kernels.embed_chunk(device, chunk, given, weight, part, positions, x, 64)
            for part in weight.parts
        ),
    )
    got = download(x)
    for index, (_, position, count) in enumerate(blocks):
        tokens = slice(index * BLOCK, index * BLOCK + count)
        embeddings = kept[:, ids[tokens]].T
        assert_embedded(got[tokens], embeddings, wpe[position : position + count], bits)
    assert is_untouched(got[64:]).all()


@pytest.mark.parametrize("case", EMBED_CASES)
def test_embed_chunk_adds_token_and_position_of_every_block(device, case):
    check_embed_chunk(device, case)


def check_norm_chunk(device, case):
    hidden, tokens = case
    x = 2 + draw(tokens + 1, hidden)
    norm, norm_values = make_norm(device, hidden)
    normalized = untouched(device, (tokens + 1, hidden))
    run(device, kernels.norm_chunk(device, upload(device, x), norm, 1e-3, normalized, tokens))
    got = download(normalized)
    wanted = reference.layer_norm(x, *norm_values, epsilon=1e-3)
    # a norm of 2 + x loses to cancellation what the mean is larger than the spread
    spread = np.sqrt(x.var(axis=-1, keepdims=True, dtype=np.float64) + 1e-3)
    magnitude = np.abs(wanted) + (np.abs(x).max() + 2) / spread * np.abs(norm_values[0])
    assert_close(got[:tokens], wanted[:tokens], magnitude[:tokens])
    assert is_untouched(got[tokens:]).all()


NORM_CASES = [(1, 7), (2, 65), (6, 1), (65, 64), (255, 3), (320, 16), (2560, 2)]


@pytest.mark.parametrize("case", NORM_CASES)
def test_norm_chunk_normalises_every_token(device, case):
    check_norm_chunk(device, case)


EPILOGUES = [{}, {"gelu": True}, {"residual": True}]


def check_matmul(device, case):
    tokens, k, columns, bits, parts = case
    source, matrix, bias = draw(tokens, k), draw(k, columns), draw(columns)
    before = draw(tokens, columns, seed=3)
    weight, kept = make_weight(device, matrix, bits, parts=parts)
    given, b = upload(device, source), upload(device, bias)
    wanted = reference.matmul(source, kept, bias)
    magnitude = magnitude_of(source, kept, bias) + np.abs(before)
    for epilogue in EPILOGUES:
        # shorter than a row: the kernel takes its number of tokens from the buffers
        tail = min(9, columns - 1)
        if "residual" in epilogue:
            output, after = holding(device, before, tail), reference.residual(before, wanted)
        else:
            output = untouched(device, before.shape, tail=tail)
            after = reference.gelu(wanted) if "gelu" in epilogue else wanted
        run(
            device,
            *(
                kernels.matmul(device, given, weight, part, b, output, tokens, **epilogue)
                for part in weight.parts
            ),
        )
        assert_close(download(output), after, magnitude, 1.2 * SUM)


MATMUL_CASES = [
    (7, 6, 5, 16, 2),
    (65, 65, 195, 16, 3),
    (64, 1, 1, 32, 1),
    (130, 2, 66, 16, 1),
    (1, 15, 64, 32, 1),
    (64, 17, 65, 16, 1),
    (16, 1280, 320, 32, 2),
    (65, 65, 195, 8, 3),
    (8, 1, 5, 4, 2),
    (64, 31, 65, 4, 1),
    (3, 47, 6, 8, 1),
    (16, 1281, 320, 4, 2),
]


@pytest.mark.parametrize("case", MATMUL_CASES)
def test_matmul_in_its_three_epilogues(device, case):
    check_matmul(device, case)


def test_matmul_takes_the_padding_of_a_buffer_for_no_token(device):
    """A buffer is a multiple of 16 bytes: 7 tokens of one value lie in one of 8."""
    source, matrix = draw(7, 1), draw(1, 5)
    weight, _ = make_weight(device, matrix, 32)
    given, output = upload(device, source), untouched(device, (7, 5), tail=0)
    bias = upload(device, np.zeros(5))
    run(device, kernels.matmul(device, given, weight, weight.parts[0], bias, output, 7))
    assert_close(download(output), reference.matmul(source, matrix), magnitude_of(source, matrix))


BLOCKS = [(2, 0, 16), (2, 16, 7), (0, 45, 16), (0, 61, 3), (1, 0, 1), (1, 1, 0)]


def check_append_chunk(device, case):
    hidden = case
    qkv = draw(96, 3 * hidden)
    chunk, cache = make_chunk(device, *BLOCKS), untouched(device, (3, 2, LENGTH, hidden))
    run(device, kernels.append_chunk(device, chunk, upload(device, qkv), cache, 96))
    wanted = np.full((3, 2, LENGTH, hidden), np.nan)
    for index, (row, position, count) in enumerate(BLOCKS):
        tokens = qkv[index * BLOCK : index * BLOCK + count].reshape(count, 3, hidden)
        reference.append_to_cache(wanted, row, position, tokens[:, 1], tokens[:, 2])
    got = download(cache)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(is_untouched(got), np.isnan(wanted))


@pytest.mark.parametrize("case", HIDDEN_SIZES)
def test_append_chunk_writes_keys_and_values_and_leaves_padding_out(device, case):
    check_append_chunk(device, case)


def check_attention_chunk(device, case, shown=None):
    """shown [rows, length]: the slots that the mask does not hide; None: all."""
    heads, head_dim, length, blocks = case
    hidden, tokens = heads * head_dim, BLOCK * len(blocks)
    rows = 1 + max(row for row, _, _ in blocks)
    qkv, cache = draw(tokens, 3 * hidden), draw(rows, 2, length, hidden)
    qkv[:, :hidden] *= 3
    qkv[:, hidden:] = np.nan  # keys and values come from the cache
    for row in range(rows):  # nothing has been written beyond the row's last token
        end = max(position + count for r, position, count in blocks if r == row)
        cache[row, :, end:] = np.nan
    if shown is None:
        shown = np.ones((rows, length), bool)
    cache.transpose(0, 2, 1, 3)[~shown] = np.nan
    chunk, attended = make_chunk(device, *blocks), untouched(device, (tokens, hidden))
    run(
        device,
        kernels.attention_chunk(
            device,
            chunk,
            upload(device, qkv),
            upload(device, cache),
            upload(device, slot_bits(shown)),
            attended,
            heads,
            tokens,
        ),
    )
    got = download(attended)
    for index, (row, position, count) in enumerate(blocks):
        block = got[index * BLOCK : (index + 1) * BLOCK]
        q = qkv[index * BLOCK : index * BLOCK + count, :hidden].reshape(count, heads, head_dim)
        keys, values = cache[row].reshape(2, length, heads, head_dim)
        if count:
            wanted = reference.attend_chunk(q, keys, values, position, 16, shown[row])
            wanted = wanted.reshape(count, hidden)
            assert_close(block[:count], wanted, np.nanmax(np.abs(cache)), MIXED)
        assert is_untouched(block[count:]).all()


LONG_BLOCKS = [(1, 250, 16), (0, 584, 16), (0, 600, 1), (1, 266, 9)]


@pytest.mark.parametrize(
    "case",
    [
        (3, 7, 64, BLOCKS),
        (1, 1, 64, BLOCKS),
        (5, 2, 64, BLOCKS),
        (1, 64, 601, LONG_BLOCKS),
        (2, 72, 601, LONG_BLOCKS),
        (1, 256, 64, BLOCKS),
    ],
)
def test_attention_chunk_is_causal_for_ragged_blocks(device, case):
    check_attention_chunk(device, case)


def slot_bits(shown):
    """bool [rows, length] -> u32 [rows, length / 32]: a bit a slot"""
    padded = np.pad(shown, ((0, 0), (0, -shown.shape[1] % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint32)


def check_masked_attention_chunk(device, case):
    """Padding on the left over whole tiles, holes, and a row of which nothing is shown."""
    length = case[2]
    shown = np.ones((3, length), bool)
    shown[0, : length * 3 // 4] = False
    shown[1] = False
    shown[2] = np.random.default_rng(length).random(length) < 0.5
    check_attention_chunk(device, case, shown)


MASKED_BLOCKS = [(2, 250, 16), (0, 440, 16), (0, 456, 1), (1, 266, 9), (2, 0, 16)]


@pytest.mark.parametrize(
    "case", [(3, 7, 64, BLOCKS), (1, 1, 64, BLOCKS), (2, 72, 601, MASKED_BLOCKS)]
)
def test_what_a_hidden_slot_holds_reaches_nothing(device, case):
    check_masked_attention_chunk(device, case)


def check_scatter_chunk(device, case):
    width, first_position = case
    values = draw(96, width)
    blocks = [(row, first_position + column, count) for row, column, count in BLOCKS]
    output = untouched(device, (3, LENGTH, width))
    chunk, given = make_chunk(device, *blocks), upload(device, values)
    run(device, kernels.scatter_chunk(device, chunk, given, output, first_position, 96))
    wanted = np.full((3, LENGTH, width), np.nan)
    for index, (row, column, count) in enumerate(BLOCKS):
        reference.scatter(wanted, row, column, values[index * BLOCK : index * BLOCK + count])
    got = download(output)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(is_untouched(got), np.isnan(wanted))


@pytest.mark.parametrize("case", [(1, 0), (6, 37), (65, 1), (320, 900)])
def test_scatter_chunk_puts_every_token_in_its_column(device, case):
    check_scatter_chunk(device, case)


def check_token_loss(device, case):
    tokens, vocabulary = case
    logits = 5 * draw(tokens, vocabulary)
    logits[0] += 1e4  # exp would overflow
    logits[-1] -= 1e4
    targets = np.random.default_rng(vocabulary).integers(0, vocabulary, tokens).astype(np.uint32)
    targets[:2] = 0, vocabulary - 1
    loss = untouched(device, (tokens,))
    given = upload(device, logits), upload(device, targets)
    run(device, kernels.token_loss(device, *given, loss, tokens))
    magnitude = np.abs(logits).max(axis=1) + math.log(vocabulary)
    assert_close(download(loss), reference.token_loss(logits, targets), magnitude)


@pytest.mark.parametrize("case", [(3, 1), (7, 6), (5, 255), (3, 257), (16, 1601)])
def test_token_loss_is_the_cross_entropy_of_each_target(device, case):
    check_token_loss(device, case)


# ---- what sampling makes of logits ---------------------------------------------------------------


def check_candidates(device, case):
    """Two rows of different logits and settings, listed by `alternatives` as in Stages."""
    vocabulary, top, sampling = case
    logits = 3 * draw(2, vocabulary)
    logits[1] += 90 - 40 * (np.arange(vocabulary) % 3)  # gaps, weights of nothing, over exp's range
    samplings = [sampling, Sampling(temperature=0)]
    seen = [range(0, vocabulary, 2), []]
    state = upload(device, np.zeros((gpu.MAX_ROWS, 4), np.uint32), uniform=True)
    packed = np.zeros((gpu.MAX_ROWS, 8), np.uint32)
    flags = np.zeros((2, 2, ceil_div(vocabulary, 32)), np.uint32)
    for row in range(2):
        packed[row] = np.frombuffer(samplings[row].pack(0, 0, 0), np.uint32)
        flags[row, 0] = bit_words(seen[row], vocabulary)
    given = upload(device, packed, uniform=True)
    source, bits = upload(device, logits), upload(device, flags)
    scores = untouched(device, (2, vocabulary))
    summaries = untouched(device, (2, ceil_div(vocabulary, 1024), 4))
    highest = untouched(device, (1, 2, 2 + 2 * top), "u32")
    report = untouched(device, (2, 1 + top, 5), "u32")
    run(
        device,
        kernels.scores(device, state, given, source, bits, scores, summaries),
        kernels.alternatives(device, state, scores, summaries, highest),
        kernels.candidates(device, given, source, scores, summaries, highest, report),
    )
    got = download(report)
    for row in range(2):
        whole, kept, count = *(got[row, 0, [0, 2]] * 2.0**15 + got[row, 0, [1, 3]]), got[row, 0, 4]
        ids, weights, drawn = got[row, 1:, 0], got[row, 1:, 3], got[row, 1:, 4]
        penalty = samplings[row].repetition_penalty
        order = np.argsort(-np.array(penalized(list(logits[row]), samplings[row], seen[row])))
        assert ids.tolist() == order[:top].tolist()
        np.testing.assert_array_equal(got[row, 1:, 1].view(np.float32), logits[row, ids])
        exact = -reference.token_loss(np.repeat(logits[row : row + 1], top, 0), ids)
        assert_close(got[row, 1:, 2].view(np.float32), exact, np.abs(logits[row]).max())
        warm = Sampling(samplings[row].temperature, repetition_penalty=penalty)
        before = np.array(probabilities(list(logits[row]), warm, seen[row]))
        after = np.array(probabilities(list(logits[row]), samplings[row], seen[row]))
        # weights are whole steps of 2^-30, and exp((score - maximum) / temperature) is off by a few
        # ulp of its argument, here up to 30
        assert_close(weights / whole, before[ids], 1, 1e-5)
        assert_close(np.where(drawn, weights, 0) / kept, after[ids], 1, 1e-5)
        assert count == (after > after.max() * 2.0**-31).sum()
        assert drawn.tolist() == (after[ids] > after.max() * 2.0**-31).tolist()


CANDIDATE_CASES = [
    (1030, 20, Sampling(0.8, 50, 0.95, 0.02, 1.3)),
    (257, 100, Sampling(1.0, None, 0.9)),
    (97, 97, Sampling(2.0, 7)),
    (97, 5, Sampling(0.5, min_p=0.1, repetition_penalty=0.7)),
    (5, 5, Sampling()),
    (1, 1, Sampling(top_k=1, top_p=0.5)),
]


@pytest.mark.parametrize("case", CANDIDATE_CASES)
def test_candidates_have_the_probabilities_that_ids_are_drawn_with(device, case):
    check_candidates(device, case)


# ---- searches ------------------------------------------------------------------------------------


def check_copy_slots(device, case):
    hidden, moves = case
    given = draw(5, 2, 37, hidden)
    table = np.zeros((gpu.MAX_ROWS, 4), np.uint32)
    table[:, 0] = range(gpu.MAX_ROWS)
    wanted = given.copy()
    for row, (source, first, end) in moves.items():
        table[row, :3] = source, first, end
        wanted[row, :, first:end] = given[source, :, first:end]
    cache = holding(device, given)
    run(device, kernels.copy_slots(device, upload(device, table, uniform=True), cache))
    np.testing.assert_array_equal(download(cache), wanted)


MOVES = {0: (3, 5, 34), 1: (3, 0, 37), 4: (2, 36, 37)}


@pytest.mark.parametrize("case", [(1, MOVES), (65, MOVES), (320, {2: (0, 7, 7)}), (6, {})])
def test_copy_slots_is_an_exact_copy_and_leaves_all_else(device, case):
    check_copy_slots(device, case)


def check_similarity(device, case):
    hidden, length, rows = case  # rows: (position, last id, done), of two prompts
    own, states = draw(len(rows), hidden), draw(2, length, hidden, seed=1)
    states[:, length // 2] = 0
    for row, (position, *_) in enumerate(rows):
        states[row % 2, position:] = own[row]  # as alike as can be, but not before it
    similarities = untouched(device, (len(rows),))
    given = make_state(device, *rows), upload(device, own), upload(device, states)
    run(device, kernels.similarity(device, *given, similarities))
    got = download(similarities)
    for row, (position, _, done) in enumerate(rows):
        if done:
            assert is_untouched(got)[row]
        else:
            wanted = reference.similarity(states[row % 2, :position], own[row])
            # the terms of a cosine add up to at most 1; three sums go into it
            assert abs(got[row] - wanted) <= 3 * SUM


@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
@pytest.mark.parametrize(
    ("length", "rows"),
    [
        (7, [(3, 0, 0), (0, 0, 0), (3, 0, 1)]),
        (600, [(257, 0, 0), (512, 0, 0), (257, 0, 0), (512, 0, 0)]),
    ],
)
def test_similarity_is_the_largest_cosine_with_what_is_before(device, hidden, length, rows):
    check_similarity(device, (hidden, length, rows))


# ---- weights -------------------------------------------------------------------------------------


def as_stored(values, dtype):
    """What a checkpoint holds of float32 values: its bytes as whole words, and the values."""
    if dtype == "F32":
        data, kept = values.tobytes(), values
    elif dtype == "F16":
        data, kept = values.astype("<f2").tobytes(), values.astype(np.float16).astype(np.float32)
    else:
        halves = reference.to_bf16(values)
        data, kept = halves.tobytes(), (halves.astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data + b"\xff" * (-len(data) % 4), np.uint32), kept


def lay_out(device, tensor, dtype, weight, transposed, at_once):
    """A tensor in pieces of so many rows through pack or quantize: the words of each part."""
    outputs = [
        part._replace(words=holding(device, np.zeros(part.words.shape, np.uint32)))
        for part in weight.parts
    ]
    kernel = kernels.quantize if weight.bits < 16 else kernels.pack
    flaws = holding(device, FLAWLESS)
    about = dict(source_type=dtype, transposed=transposed)
    for first in range(0, len(tensor), at_once):
        rows = tensor[first : first + at_once]
        source = upload(device, as_stored(rows, dtype)[0])
        for part in outputs:
            piece = upload_piece(device, weight, part, first, rows)
            call = kernel(device, piece, source, weight, part, flaws, rows=len(rows), **about)
            run(device, call)
    np.testing.assert_array_equal(download(flaws), FLAWLESS)
    return [download(part.words) for part in outputs]


def upload_piece(device, weight, part, first, rows):
    about = kernels.piece_bytes(weight, part, first, len(rows), rows.shape[1], 0)
    return upload(device, np.frombuffer(about, np.uint32), uniform=True)


FLAWLESS = np.full(2, 2**32 - 1, np.uint32)


def check_pack(device, case):
    """A tensor in pieces of 8 rows into a weight in parts."""
    rows, columns, dtype, bits, transposed, parts = case
    tensor = draw(rows, columns)
    matrix = as_stored(tensor, dtype)[1]
    matrix = matrix.T if transposed else matrix
    weight, kept = make_weight(device, matrix, bits, parts=parts)
    found = lay_out(device, tensor, dtype, weight, transposed, 8)
    for part, words in zip(weight.parts, found, strict=True):
        assert not words[:, part.columns :].any()  # padding
        wanted = kept[:, part.first_column : part.first_column + part.columns]
        got = reference.unpack(words, wanted.shape, bits)
        if bits == 16 and dtype != "F16":
            # packing may round a half either way: one unit in its last place
            np.testing.assert_allclose(got, wanted, rtol=2.0**-10, atol=2.0**-24)
        else:
            np.testing.assert_array_equal(got, wanted)
        if bits == 16 and len(matrix) % 2:
            assert not (words[-1] >> 16).any()  # the half word beyond an odd K


PACK_CASES = [
    (7, 5, "F16", 16, False, 2),
    (65, 6, "BF16", 16, True, 3),
    (1, 1, "F16", 16, False, 1),
    (9, 3, "F16", 32, True, 2),
    (17, 65, "F32", 16, False, 3),
    (64, 7, "F32", 32, False, 1),
    (11, 2, "BF16", 32, False, 1),
    (97, 65, "F16", 16, True, 3),
    (5, 1, "F32", 32, True, 1),
]


@pytest.mark.parametrize("case", PACK_CASES)
def test_pack_lays_out_every_type_in_pieces_and_parts(device, case):
    check_pack(device, case)


def awkward_weights(k, columns):
    """Normal ones, and groups of zeros, of one value, and of tiny and large ones."""
    matrix = draw(k, columns)
    scales = np.float32([1, 0, 1e-9, 3e-4, 900, 1])
    matrix *= scales[np.arange(columns) % len(scales)]
    matrix[:, 5::6] = 0.25
    matrix[k // 2, 1::6] = -3
    return matrix


def check_quantize(device, case):
    """Against the twin: which of two steps a value is rounded to that lies between them, and which
    of two scales is taken that do equally well, is a matter of rounding."""
    k, columns, dtype, bits, transposed, parts = case
    matrix = awkward_weights(k, columns)
    tensor = np.ascontiguousarray(matrix.T if transposed else matrix)
    matrix = as_stored(tensor, dtype)[1]
    matrix = matrix.T if transposed else matrix
    weight, _ = make_weight(device, matrix, bits, parts=parts)
    at_once = 40 if transposed else 64
    same = 0
    for part, words in zip(
        weight.parts, lay_out(device, tensor, dtype, weight, transposed, at_once), strict=True
    ):
        x = matrix[:, part.first_column : part.first_column + part.columns].astype(np.float64)
        q, scales = reference.unpack_quantized(words, x.shape, bits)
        # nothing but these: zeros beyond K and the columns
        np.testing.assert_array_equal(reference.pack_quantized(q, scales, bits), words)
        wanted_q, wanted_scales = reference.quantize(x, bits)
        if bits == 8:
            np.testing.assert_allclose(scales, wanted_scales, rtol=4e-7)  # a division: 2.5 ULP
        # each value goes to the nearest step that there is; a division is off by 2.5 ULP of 127
        spread = np.repeat(scales, reference.GROUP[bits], axis=0)[:k].astype(np.float64)
        lowest, highest = (-127, 127) if bits == 8 else (-8, 7)
        steps = np.divide(x, spread, out=np.zeros(x.shape), where=spread != 0)
        assert np.abs(q - steps.clip(lowest, highest)).max() <= 0.5 + 1e-4
        error = squared_errors(x, reference.dequantize(q, scales, bits), bits)
        wanted = squared_errors(x, reference.dequantize(wanted_q, wanted_scales, bits), bits)
        unit = 4e-7 * np.abs(x).max(initial=0, axis=0)  # of the scales, times 127 or 8 at most
        assert (error <= wanted * (1 + 1e-3) + 32 * unit**2).all()
        same += (words == reference.pack(x, bits)).sum()
    count = sum(part.words.size for part in weight.parts)
    assert same >= 0.99 * count, f"{count - same} of {count} words differ from the twin's"


def squared_errors(x, kept, bits):
    """Of each group of each column."""
    group = reference.GROUP[bits]
    padded = np.pad(kept.astype(np.float64) - x, ((0, -len(x) % group), (0, 0)))
    return (padded**2).reshape(-1, group, x.shape[1]).sum(axis=1)


QUANTIZE_CASES = [
    (1, 1, "F32", 8, False, 1),
    (33, 66, "F16", 8, True, 3),
    (97, 7, "BF16", 8, False, 2),
    (1, 5, "F32", 4, True, 1),
    (50, 131, "F16", 4, False, 3),
    (129, 66, "F32", 4, False, 2),
    (65, 90, "BF16", 4, True, 2),
]


@pytest.mark.parametrize("case", QUANTIZE_CASES)
def test_quantize_finds_the_scales_and_integers_of_its_twin(device, case):
    check_quantize(device, case)


def check_copy_words(device, case):
    """Every bit pattern: of floats, many would be NaN."""
    k, columns, bits, parts = case
    weight, _ = make_weight(device, np.zeros((k, columns), np.float32), bits, parts=parts)
    rows, width = reference.pack(np.zeros((k, columns), np.float32), bits).shape
    tensor = np.random.default_rng(k).integers(0, 2**32, (rows, width), dtype=np.uint32)
    tensor[0, 0] = 0x7FC0BEEF
    outputs = [
        part._replace(words=holding(device, np.zeros(part.words.shape, np.uint32)))
        for part in weight.parts
    ]
    for first in range(0, rows, 5):
        given = tensor[first : first + 5]
        source, flaws = upload(device, given), holding(device, FLAWLESS)
        for part in outputs:
            piece = upload_piece(device, weight, part, first, given)
            call = device, piece, source, weight, part, flaws
            run(device, kernels.copy_words(*call, rows=len(given)))
    for part in outputs:
        words = download(part.words)[:, : part.columns]
        wanted = tensor[:, part.first_column : part.first_column + part.columns]
        np.testing.assert_array_equal(words, wanted)


COPY_CASES = [(1, 1, 4, 1), (65, 7, 8, 1), (65, 131, 4, 3), (33, 66, 8, 2)]


@pytest.mark.parametrize("case", COPY_CASES)
def test_copy_words_keeps_every_bit(device, case):
    check_copy_words(device, case)


def threefry(key, counter):
    """Random123's Threefry-2x32 with 20 rounds; keys and counters are pairs of uint32 arrays."""
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    keys = [np.uint32(key[0]), np.uint32(key[1])]
    keys.append(keys[0] ^ keys[1] ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        a, b = np.uint32(counter[0]) + keys[0], np.uint32(counter[1]) + keys[1]
        for index in range(20):
            rotation = np.uint32(rotations[index % 8])
            a = a + b
            b = (b << rotation | b >> np.uint32(32 - rotation)) ^ a
            if index % 4 == 3:
                block = index // 4 + 1
                a, b = a + keys[block % 3], b + keys[(block + 1) % 3] + np.uint32(block)
    return a, b


# Random123's kat_vectors: key, counter, result
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
ONE_THREEFRY = """
@group(0) @binding(0) var<storage, read_write> words: array<u32>;  // key, counter, result
@compute @workgroup_size(1) fn main() {
  let bits = threefry(vec2<u32>(words[0], words[1]), vec2<u32>(words[2], words[3]));
  words[4] = bits.x;
  words[5] = bits.y;
}
"""


@pytest.mark.parametrize("key, counter, result", KNOWN_ANSWERS)
def test_threefry_gives_the_known_answers(device, key, counter, result, monkeypatch):
    source = gpu.shader_source("random") + ONE_THREEFRY
    monkeypatch.setattr(gpu, "shader_source", lambda name: source)
    words = holding(device, np.uint32([*key, *counter, 0, 0]))
    run(device, device.kernel("one_threefry", {}, [words], (1,)))
    assert tuple(download(words)[4:]) == result
    assert threefry(key, counter) == result


def normals(seed, stream, first_pair, pairs):
    x, y = threefry((seed, stream), (first_pair + np.arange(pairs, dtype=np.uint32), 0))
    radius = np.sqrt(-2 * np.log(1 - (x >> np.uint32(8)) * 2.0**-24))
    angle = 2 * np.pi * (y >> np.uint32(8)) * 2.0**-24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def draw_normals(device, count, seed, stream, first_pair=0, scale=1.0):
    pairs = ceil_div(count, 2)
    piece = upload(device, np.uint32([first_pair, pairs, seed, stream]), uniform=True)
    values = untouched(device, (count + count % 2,))
    run(
        device,
        kernels.random_normal(device, piece, values, pairs=pairs, scale=scale),
    )
    return download(values)[:count]


def check_random_normal(device, case):
    count, seed, stream, first_pair = case
    got = draw_normals(device, count, seed, stream, first_pair, scale=0.02)
    wanted = 0.02 * normals(seed, stream, first_pair, ceil_div(count, 2))[:count]
    # WGSL lets cos and sin be off by 2^-11; a radius is at most sqrt(-2 log 2^-24) = 5.8
    np.testing.assert_allclose(got, wanted, atol=0.02 * 5.8 * 2.0**-11)


RANDOM_CASES = [(7, 0, 0, 0), (128, 2**32 - 1, 65, 0), (65, 2**32 - 2, 3, 1 << 21)]


@pytest.mark.parametrize("case", RANDOM_CASES)
def test_random_normal_is_the_twin_of_its_key_and_counter(device, case):
    check_random_normal(device, case)


def test_random_normal_has_the_moments_of_a_normal_variable_and_never_changes(device):
    values = draw_normals(device, 100_000, 1, 2).astype(np.float64)
    deviation = 1 / math.sqrt(len(values))
    assert abs(values.mean()) < 4 * deviation
    assert abs(values.var() - 1) < 4 * math.sqrt(2) * deviation
    assert abs((values**4).mean() - 3) < 4 * math.sqrt(96) * deviation
    assert abs((values[::2] * values[1::2]).mean()) < 4 * deviation
    np.testing.assert_array_equal(draw_normals(device, 1000, 1, 2), values[:1000])
    assert (draw_normals(device, 1000, 1, 3) != values[:1000]).mean() > 0.99


# ---- layers --------------------------------------------------------------------------------------


def check_gather(device, case):
    width, bits, parts = case
    table = draw(width, 97)
    weight, kept = make_weight(device, table, bits, parts=parts)
    ids = np.uint32([0, 96, 5, 5, 33, 95, 64])
    output = upload(device, np.full((len(ids), width), np.nan, np.float32))
    given = upload(device, ids)
    run(device, *(kernels.gather(device, given, weight, p, output) for p in weight.parts))
    np.testing.assert_array_equal(output.numpy(), kept[:, ids].T)  # of a product one rounding


GATHER_CASES = [(1, 32, 1), (6, 16, 2), (65, 32, 3), (64, 16, 1), (65, 8, 3), (33, 4, 2)]


@pytest.mark.parametrize("case", GATHER_CASES)
def test_gather_takes_the_column_that_each_id_names(device, case):
    check_gather(device, case)


ACTIVATION_TWINS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_approximate": reference.gelu,
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "soft_cap": lambda x: 3 * np.tanh(x / 3),
}


def check_activation(device, kind):
    x = np.concatenate([4 * draw(301), np.float32([0, -0.0, 40, -40, 1e30, -1e30])])
    values = upload(device, x)
    run(device, kernels.activation(device, values, kind, 3.0))
    with np.errstate(over="ignore"):
        wanted = ACTIVATION_TWINS[kind](x.astype(np.float64))
    assert_close(values.numpy(), wanted, np.abs(x) + 1.0)


@pytest.mark.parametrize("kind", ACTIVATION_TWINS)
def test_activation_is_its_twin(device, kind):
    check_activation(device, kind)


def check_attention_masked(device, case):
    rows, queries, heads, key_dim, value_dim, slots, causal = case
    q, keys = draw(rows, queries, heads, key_dim), draw(rows, slots, heads, key_dim)
    values = draw(rows, slots, heads, value_dim, seed=1)
    visible = draw(rows, heads, queries, slots, seed=2) > -0.5
    visible[0, 0, 0] = False  # a query that sees nothing
    horizon = slots - queries + 1 if causal else slots
    words = ceil_div(slots, 4)
    mask = np.zeros((rows, heads, queries, 4 * words), np.uint8)
    mask[..., :slots] = visible
    sizes = np.uint32(
        [
            *(slots, horizon, slots * heads * key_dim, slots * heads * value_dim, 0),
            *(heads * queries * words, queries * words, words),
        ]
    )
    if causal:
        visible &= np.arange(slots) < (horizon + np.arange(queries))[:, None]
    attended = untouched(device, (rows, queries, heads, value_dim))
    weights = untouched(device, (rows, heads, queries, slots))
    given = [upload(device, array) for array in (q, keys, values, mask.view(np.uint32))]
    table = upload(device, sizes, uniform=True)
    run(device, kernels.attention_masked(device, table, *given, attended, weights))

    scores = np.einsum("rqhd,rshd->rhqs", q.astype(np.float64), keys) / math.sqrt(key_dim)
    e = np.where(visible, np.exp(np.minimum(scores, 80)), 0)
    shares = e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-30)
    assert_close(download(weights), shares, 1.0, MIXED)
    wanted = np.einsum("rhqs,rshd->rqhd", shares, values)
    assert_close(download(attended), wanted, np.abs(values).max(), MIXED)


MASKED_CASES = [
    (1, 1, 1, 1, 1, 1, False),
    (2, 5, 3, 2, 7, 65, True),
    (3, 7, 1, 64, 65, 9, False),
    (1, 6, 2, 6, 3, 130, True),
]


@pytest.mark.parametrize("case", MASKED_CASES)
def test_attention_masked_sees_what_the_mask_shows(device, case):
    check_attention_masked(device, case)


# ---- the checks themselves -----------------------------------------------------------------------

# shader, what stands there, what is put in its place, the check that must fail, one of its cases
CORRUPTIONS = [
    ("embed", "wpe[row.position", "wpe[row.step", check_embed, (6, 16, 2)),
    ("embed_chunk", "+ token % 16u,", "+ token % 8u,", check_embed_chunk, (6, 16, 2)),
    ("qkv", "+ part - 1u)", "+ 2u - part)", check_qkv, (6, 32, 2)),
    ("qkv", "* scale * norm_weight", "* norm_weight", check_qkv, (6, 32, 2)),
    ("project", "i < 8u; i++", "i < 7u; i++", check_project, (63, 65, 32, 3)),
    ("project", "column] +=", "column] =", check_project, (7, 1, 16, 1)),
    ("fc", "0.044715", "0.0448", check_gelu, 1e30),
    ("head", "f32(HIDDEN) + EPSILON", "f32(HIDDEN) + 0.002", check_head, (6, 11, 16, 2)),
    ("attention", "f32(HEAD_DIM))", "f32(HEAD_DIM + 1u))", check_attention, (2, 3, 65)),
    ("attention", "position + 1u - first", "position - first", check_attention, (2, 3, 65)),
    ("attention", "+ 1u] = sum", "+ 1u] = 256.0", check_split_attention, (2, 7, 601)),
    ("attention_reduce", "/ 256u + 1u", "/ 256u", check_split_attention, (2, 7, 601)),
    ("norm_chunk", "centred * centred", "abs(centred)", check_norm_chunk, (65, 64)),
    ("matmul", "k < STEP; k++", "k < 15u; k++", check_matmul, (64, 17, 65, 16, 1)),
    ("matmul", "token < tokens && column", "column", check_matmul, (7, 6, 5, 16, 2)),
    ("append_chunk", ">= block.count", "> block.count", check_append_chunk, 6),
    (
        "attention_chunk",
        "position + i &&",
        "position &&",
        check_attention_chunk,
        (3, 7, 64, BLOCKS),
    ),
    ("attention_chunk", "&& shown", "", check_masked_attention_chunk, (3, 7, 64, BLOCKS)),
    (
        "attention_chunk",
        "if scores[i * 16u + t] != HIDDEN_SLOT",
        "if t < 16u",
        check_masked_attention_chunk,
        (3, 7, 64, BLOCKS),
    ),
    ("scatter_chunk", ">= block.count", "> block.count", check_scatter_chunk, (6, 37)),
    ("token_loss", "half > 0u", "half > 1u", check_token_loss, (7, 6)),
    ("attention_weights", "thread] += ", "thread] -= ", check_attention_weights, (3, 7, 64)),
    ("candidates", "&& is_kept", "|| is_kept", check_candidates, CANDIDATE_CASES[0]),
    (
        "candidates",
        "/ temperature) >= min_p",
        "/ 1.0) >= min_p",
        check_candidates,
        CANDIDATE_CASES[3],
    ),
    ("copy_slots", "slot < wanted.end", "slot <= wanted.end", check_copy_slots, (6, MOVES)),
    ("similarity", "t < state", "t <= state", check_similarity, (6, 7, [(3, 0, 0)])),
    ("attention_chunk", "sum *= scale", "sum *= 1.0", check_attention_chunk, (3, 7, 64, BLOCKS)),
    ("gather", "- FIRST_COLUMN;", "- 0u;", check_gather, (65, 32, 3)),
    ("activation", "1.061405429", "1.051405429", check_activation, "gelu"),
    ("attention_masked", "sum *= scale", "sum *= 1.0", check_attention_masked, MASKED_CASES[3]),
    (
        "attention_masked",
        "select(0.0, exp",
        "select(1.0, exp",
        check_attention_masked,
        MASKED_CASES[2],
    ),
    ("pack", "<< (16u * i)", "<< (16u * (1u - i))", check_pack, (7, 5, "F16", 16, False, 2)),
    ("quantize", "refits < 2u", "refits < 1u", check_quantize, QUANTIZE_CASES[5]),
    ("quantize", "first_word + word < k_words()", "true", check_quantize, QUANTIZE_CASES[1]),
    ("copy_words", "piece.first_column + id.x", "id.x", check_copy_words, COPY_CASES[2]),
    ("matmul", "k & 16u", "k & 0u", check_matmul, (64, 31, 65, 4, 1)),
    ("project", "first_k / 32u", "first_k / 64u", check_project, (65, 65, 8, 3)),
    ("random_normal", "6.283185307179586", "6.2", check_random_normal, (7, 0, 0, 0)),
]


@pytest.mark.parametrize("index", range(len(CORRUPTIONS)), ids=lambda i: CORRUPTIONS[i][0])
def test_a_corrupted_shader_is_noticed(index, monkeypatch):
    name, right, wrong, check, case = CORRUPTIONS[index]
    source = gpu.shader_source(name)
    assert right in source
    original = gpu.shader_source
    monkeypatch.setattr(
        gpu,
        "shader_source",
        lambda asked: source.replace(right, wrong, 1) if asked == name else original(asked),
    )
    device = new_device("SwiftShader")
    try:
        with pytest.raises(AssertionError):
            check(device, case)
    finally:
        device.destroy()


def test_every_kernel_is_checked_and_corrupted_once():
    sampling = {"scores", "alternatives", "select"}  # in test_sampling.py
    assert {name for name, *_ in CORRUPTIONS} | sampling == set(entry_points())


# ---- limits and variants -------------------------------------------------------------------------


def storage_buffers(count):
    lines = [
        f"@group(0) @binding({i}) var<storage, read_write> b{i}: array<u32>;" for i in range(count)
    ]
    sums = " + ".join(f"b{i}[1]" for i in range(count))
    return "\n".join([*lines, f"@compute @workgroup_size(1) fn main() {{ b0[0] = {sums}; }}"])


def test_a_ninth_storage_buffer_is_refused_under_the_default_limits(device, monkeypatch):
    monkeypatch.setattr(gpu, "shader_source", lambda name: storage_buffers(int(name[-1])))
    tensors = [holding(device, np.uint32([0, i])) for i in range(9)]
    run(device, device.kernel("buffers_8", {}, tensors[:8], (1,)))
    assert download(tensors[0])[0] == sum(range(8))
    with pytest.raises(DeviceError, match="the kernel buffers_9 with"):
        device.kernel("buffers_9", {}, tensors, (1,))


def entry_points():
    """The names of all shaders that are kernels, not only included."""
    folder = files("gpt2web.shaders")
    names = [file.name.removesuffix(".wgsl") for file in folder.iterdir()]
    return sorted(
        name
        for name in names
        if (folder / f"{name}.wgsl").is_file() and "@compute" in gpu.shader_source(name)
    )


class Recorder:
    """In a Device's place: makes nothing, and keeps each kernel's constants."""

    def __init__(self):
        self.limits = DEFAULT_LIMITS
        self.live_bytes = 0
        self.variants = {}

    def tensor(self, shape, dtype="f32", uniform=False):
        return SimpleNamespace(shape=tuple(shape), dtype=dtype, size=math.prod(shape))

    def kernel(self, name, constants, bindings, groups):
        assert max(groups) <= DEFAULT_LIMITS["max-compute-workgroups-per-dimension"]
        key = name, tuple((constant, float(value)) for constant, value in constants.items())
        self.variants.setdefault(key, len(bindings))

    def write(self, *_):
        pass

    submit = write


@functools.cache
def variants():
    """[(shader, constants)]: every variant that GPT-2 small and a tiny odd model use."""
    recorder = Recorder()
    for config in (
        GPT2Config(50257, 1, 12, 768, 3072),
        GPT2Config(97, 1, 3, 21, 50, max_sequence_length=65),
    ):
        for precision in PRECISIONS:
            weights = Weights(recorder, config, precision)
            decoder = Decoder(recorder, config, weights, 1, config.max_sequence_length)
            decoder.prefill([(0, 0, [0])])
            output = recorder.tensor((1, 3, config.hidden_dim))
            Chunks(decoder.cache, weights, output).run([(0, 0, [0])])
            kernels.token_loss(recorder, decoder.logits, decoder.state, decoder.x, 1)
            look = recorder.tensor((config.num_heads, 3))
            kernels.attention_weights(
                recorder, decoder.state, decoder.q, decoder.cache.layers[0], look
            )
            kernels.copy_slots(recorder, decoder.state, decoder.cache.layers[0])
            kernels.similarity(recorder, decoder.state, decoder.x, output, decoder.q)
            wte, heads = weights.matrices["wte.weight"], config.num_heads
            kernels.gather(recorder, decoder.state, wte, wte.parts[0], output)
            q = recorder.tensor((1, 3, heads, config.head_dim))
            for shape in ((1,), (1, heads, 3, 3)):
                kernels.attention_masked(recorder, *[q] * 6, recorder.tensor(shape))
            loader = _Loader(weights, 0, None)
            for name in ("wte.weight", "h.0.attn.c_attn.weight", "h.0.ln_1.bias"):
                for dtype in kernels.PIECE_TYPES:
                    shape = (config.vocabulary_size, config.hidden_dim)
                    loader.pack(SimpleNamespace(name=name, dtype=dtype, shape=shape), 0, 8)
                if is_packed(precision) and is_matrix(name):
                    dtype = f"INT{bits_of(name, precision)}"
                    loader.pack(SimpleNamespace(name=name, dtype=dtype, shape=shape), 0, 8)
        logits = decoder.logits
        state, flags, summaries = [recorder.tensor((1, 1, 1)) for _ in range(3)]
        for words in (1, 2, 12):
            ring = recorder.tensor((8, 1, words))
            kernels.scores(recorder, state, state, logits, flags, logits, summaries)
            kernels.select(recorder, state, state, logits, logits, summaries, flags, ring)
            if words > 2:
                kernels.alternatives(recorder, state, logits, summaries, ring)
        report = recorder.tensor((1, 21, 5))
        kernels.candidates(recorder, state, logits, logits, summaries, ring, report)
    kernels.random_normal(recorder, state, logits, pairs=2, scale=0.02)
    for kind in kernels.ACTIVATIONS:
        kernels.activation(recorder, logits, kind)
    return [(name, dict(constants)) for name, constants in recorder.variants]


FLAGS = {
    *("WEIGHT_BITS", "EPILOGUE", "SOURCE_TYPE", "TRANSPOSED", "SPLITS", "RING_WORDS"),
    *("KIND", "WEIGHTS"),
}


def kinds():
    """One variant of each kind: what only changes a size is the same code."""
    found = {}
    for name, constants in variants():
        flags = {constant: value for constant, value in constants.items() if constant in FLAGS}
        found.setdefault((name, *flags.items()), (name, constants))
    return list(found.values())


WIDTHS = {  # of those that do not only read wte, which has at least 8 bits
    "pack": {16, 32},
    "quantize": {4, 8},
    "copy_words": {4, 8},
    **{name: {4, 8, 16, 32} for name in ("qkv", "project", "fc", "matmul")},
}


def test_the_recorded_variants_cover_every_shader_and_what_it_can_be_set_to():
    assert {name for name, _ in variants()} == set(entry_points())
    seen = {}
    for name, constants in variants():
        for constant, value in constants.items():
            seen.setdefault((name, constant), set()).add(value)
    for (name, constant), values in seen.items():
        if constant == "WEIGHT_BITS":
            assert values == WIDTHS.get(name, {8, 16, 32}), name
    assert seen["matmul", "EPILOGUE"] == {0, 1, 2}
    for name in ("pack", "quantize"):
        assert seen[name, "TRANSPOSED"] == {0, 1}
        assert seen[name, "SOURCE_TYPE"] == {0, 1, 2}
    assert seen["attention", "SPLITS"] == {1, 4}


def test_every_variant_compiles_natively(device):
    for name, constants in kinds():
        module = device.device.create_shader_module(label=name, code=gpu.shader_source(name))
        stage = {"module": module, "entry_point": "main", "constants": constants}
        device.device.create_compute_pipeline(layout="auto", compute=stage)


COMPILE = """async ([sources, variants]) => {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice();  // the default limits
  const modules = {}, errors = [];
  for (const [name, code] of Object.entries(sources)) {
    modules[name] = device.createShaderModule({ code });
    const { messages } = await modules[name].getCompilationInfo();
    for (const message of messages.filter(({ type }) => type === "error"))
      errors.push(`${name}: ${message.lineNum}: ${message.message}`);
  }
  await Promise.all(variants.map(([name, constants]) =>
    device.createComputePipelineAsync({
      layout: "auto", compute: { module: modules[name], entryPoint: "main", constants },
    }).catch((error) => errors.push(`${name} ${JSON.stringify(constants)}: ${error.message}`))));
  device.destroy();
  return errors;
}"""


def compile_in_chromium(page, origin, sources, wanted):
    page.goto(origin.url)  # WebGPU needs a page of a web server
    return page.evaluate(COMPILE, [sources, wanted])


@pytest.mark.browser
def test_every_variant_compiles_in_chromium(quick_browser, second_origin):
    page = quick_browser.new_page()
    sources = {name: gpu.shader_source(name) for name in entry_points()}
    assert len(kinds()) > len(sources)
    assert compile_in_chromium(page, second_origin, sources, kinds()) == []


BARRIER_AFTER_A_BRANCH = """
@group(0) @binding(0) var<storage, read_write> done: array<u32>;
@compute @workgroup_size(64) fn main() {
  if done[0] != 0u { return; }
  workgroupBarrier();
  done[1] = 1u;
}
"""


@pytest.mark.browser
def test_chromium_refuses_a_shader_that_only_the_native_compiler_takes(
    page, second_origin, monkeypatch
):
    monkeypatch.setattr(gpu, "shader_source", lambda name: BARRIER_AFTER_A_BRANCH)
    device = new_device("llvmpipe")
    device.kernel("bad", {}, [upload(device, np.uint32([0, 0]))], (1,))
    device.destroy()
    sources = {"bad": BARRIER_AFTER_A_BRANCH}
    errors = compile_in_chromium(page, second_origin, sources, [("bad", {})])
    assert any("must only be called from uniform control flow" in error for error in errors)
