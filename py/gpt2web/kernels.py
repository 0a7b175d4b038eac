"""One function per shader of the same name: shapes, bindings, dispatch size, nothing else.

Each records a call (gpu.Dispatch) on tensors that exist already. Decode kernels take `state`, a row
of the batch per dispatch row; chunk kernels take `chunk`, blocks of 16 prompt tokens.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gpt2web.gpu import Device, Dispatch, Tensor
from gpt2web.precision import SCALED

SPLIT = 256  # cache slots that one workgroup of attention.wgsl takes
BLOCK = 16  # tokens of a block of a chunk
CHUNK = 256  # tokens of a chunk
TILE = 64  # columns of a tile of matmul.wgsl: parts of a matrix are whole tiles
MAX_HEAD_DIM = 256  # of attention_chunk.wgsl
# f32 of workgroup memory that qkv, fc and head use beside a row: sums, slices and segments
NORM_SCRATCH = 256 + 16 + 4 * 256 + 4 * 32
MAX_VOCABULARY = 131072  # of select.wgsl: sums of weights are two u32
PIECE_TYPES = {"F32": 0, "F16": 1, "BF16": 2}


class WeightPart(NamedTuple):
    """Columns first_column..+columns of a weight matrix, in words as weights.wgsl lays them."""

    words: Tensor  # u32 precision.packed_shape: with the rows of scales, where it has them
    first_column: int
    columns: int


class Weight(NamedTuple):
    """A weight matrix [k, columns], in as many parts as the device's buffers ask for."""

    k: int
    columns: int
    bits: int
    parts: tuple[WeightPart, ...]


class Norm(NamedTuple):
    """A layer norm's parameters, f32 [hidden] each."""

    weight: Tensor
    bias: Tensor


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _part(weight: Weight, part: WeightPart) -> dict[str, float]:
    return {
        "WEIGHT_BITS": weight.bits,
        "K": weight.k,
        "COLUMNS": part.columns,
        "FIRST_COLUMN": part.first_column,
    }


# Decode: one token a row.


def embed(
    device: Device, state: Tensor, wte: Weight, part: WeightPart, wpe: Tensor, x: Tensor
) -> Dispatch:
    """x [rows, hidden] = wte[:, last_id] + wpe[position], for ids in this part of wte."""
    rows, hidden = x.shape
    constants = {
        "WEIGHT_BITS": wte.bits,
        "HIDDEN": hidden,
        "COLUMNS": part.columns,
        "FIRST_COLUMN": part.first_column,
    }
    bindings = [state, part.words, wpe, x]
    return device.kernel("embed", constants, bindings, (ceil_div(hidden, 64), rows))


def qkv(
    device: Device,
    state: Tensor,
    x: Tensor,
    norm: Norm,
    epsilon: float,
    weight: Weight,
    part: WeightPart,
    bias: Tensor,
    q: Tensor,
    cache: Tensor,
) -> Dispatch:
    """q [rows, hidden], and cache [rows, 2, length, hidden] at each row's position."""
    rows, hidden = x.shape
    constants = _part(weight, part) | {
        "HIDDEN": hidden,
        "EPSILON": epsilon,
        "CACHE_LENGTH": cache.shape[2],
    }
    bindings = [state, x, norm.weight, norm.bias, part.words, bias, q, cache]
    return device.kernel("qkv", constants, bindings, (ceil_div(part.columns, 16), rows))


def attention(
    device: Device, state: Tensor, q: Tensor, cache: Tensor, attended: Tensor, num_heads: int
) -> Dispatch:
    """attended [rows, hidden] over a cache of one split, or, when it has the shape
    [rows, heads, splits, head_dim + 2], what attention_reduce joins."""
    rows, hidden = q.shape
    splits = attended.shape[2] if len(attended.shape) == 4 else 1
    constants = {
        "HIDDEN": hidden,
        "HEAD_DIM": hidden // num_heads,
        "CACHE_LENGTH": cache.shape[2],
        "SPLITS": splits,
    }
    bindings = [state, q, cache, attended]
    return device.kernel("attention", constants, bindings, (num_heads, splits, rows))


def attention_reduce(device: Device, state: Tensor, splits: Tensor, attended: Tensor) -> Dispatch:
    """attended [rows, hidden] from splits [rows, heads, splits, head_dim + 2]."""
    rows, num_heads, count, _ = splits.shape
    hidden = attended.shape[1]
    constants = {"HIDDEN": hidden, "HEAD_DIM": hidden // num_heads, "SPLITS": count}
    bindings = [state, splits, attended]
    return device.kernel("attention_reduce", constants, bindings, (num_heads, rows))


def project(
    device: Device,
    state: Tensor,
    source: Tensor,
    weight: Weight,
    part: WeightPart,
    bias: Tensor,
    x: Tensor,
) -> Dispatch:
    """x [rows, hidden] += source [rows, k] . weight + bias"""
    rows, hidden = x.shape
    constants = _part(weight, part) | {"HIDDEN": hidden}
    bindings = [state, source, part.words, bias, x]
    return device.kernel("project", constants, bindings, (ceil_div(part.columns, 16), rows))


def fc(
    device: Device,
    state: Tensor,
    x: Tensor,
    norm: Norm,
    epsilon: float,
    weight: Weight,
    part: WeightPart,
    bias: Tensor,
    hidden_units: Tensor,
) -> Dispatch:
    """hidden_units [rows, intermediate] = gelu(layernorm(x) . weight + bias)"""
    rows, hidden = x.shape
    constants = _part(weight, part) | {
        "HIDDEN": hidden,
        "EPSILON": epsilon,
        "INTERMEDIATE": hidden_units.shape[1],
    }
    bindings = [state, x, norm.weight, norm.bias, part.words, bias, hidden_units]
    return device.kernel("fc", constants, bindings, (ceil_div(part.columns, 16), rows))


def head(
    device: Device,
    state: Tensor,
    x: Tensor,
    norm: Norm,
    epsilon: float,
    wte: Weight,
    part: WeightPart,
    logits: Tensor,
    tokens: int | None = None,
) -> Dispatch:
    """logits [rows, vocabulary] = layernorm(x) . wte, and -1e30 for ids from `tokens` on"""
    rows, hidden = x.shape
    constants = _part(wte, part) | {
        "HIDDEN": hidden,
        "EPSILON": epsilon,
        "VOCABULARY": logits.shape[1],
        "TOKENS": logits.shape[1] if tokens is None else tokens,
    }
    bindings = [state, x, norm.weight, norm.bias, part.words, logits]
    return device.kernel("head", constants, bindings, (ceil_div(part.columns, 16), rows))


# Sampling.


def scores(
    device: Device,
    state: Tensor,
    samplings: Tensor,
    logits: Tensor,
    flags: Tensor,
    scores: Tensor,
    summaries: Tensor,
    *,
    tempered: bool = False,
) -> Dispatch:
    """scores [rows, vocabulary] and summaries [rows, blocks, 4] of logits [rows, vocabulary];
    flags u32 [rows, 2, words]: bits of seen ids, and of ids that stop the row. tempered: divided
    by the temperature already."""
    rows, vocabulary = logits.shape
    bindings = [state, samplings, logits, flags, scores, summaries]
    groups = (ceil_div(vocabulary, 1024), rows)
    constants = {"VOCABULARY": vocabulary, "TEMPERED": tempered}
    return device.kernel("scores", constants, bindings, groups)


def alternatives(
    device: Device, state: Tensor, logits: Tensor, summaries: Tensor, ring: Tensor
) -> Dispatch:
    """The most probable ids into ring u32 [steps, rows, 2 + 2 * alternatives]."""
    rows, vocabulary = logits.shape
    constants = {
        "VOCABULARY": vocabulary,
        "ALTERNATIVES": ring.shape[2] // 2 - 1,
        "RING_STEPS": ring.shape[0],
        "RING_WORDS": ring.shape[2],
    }
    return device.kernel("alternatives", constants, [state, logits, summaries, ring], (1, rows))


def select(
    device: Device,
    state: Tensor,
    samplings: Tensor,
    logits: Tensor,
    scores: Tensor,
    summaries: Tensor,
    flags: Tensor,
    ring: Tensor,
) -> Dispatch:
    """Chooses each row's id into ring u32 [steps, rows, words] and steps state."""
    rows, vocabulary = logits.shape
    constants = {
        "VOCABULARY": vocabulary,
        "RING_STEPS": ring.shape[0],
        "RING_WORDS": ring.shape[2],
    }
    bindings = [state, samplings, logits, scores, summaries, flags, ring]
    return device.kernel("select", constants, bindings, (1, rows))


# Looking on: what a text's last token attends to, and what sampling makes of its logits.


def attention_weights(
    device: Device, state: Tensor, q: Tensor, cache: Tensor, weights: Tensor
) -> Dispatch:
    """weights [heads, position + 1] of the first row of q [rows, hidden] over cache [rows, 2,
    length, hidden]."""
    num_heads, hidden = weights.shape[0], q.shape[1]
    constants = {"HIDDEN": hidden, "HEAD_DIM": hidden // num_heads}
    return device.kernel("attention_weights", constants, [state, q, cache, weights], (num_heads,))


def candidates(
    device: Device,
    samplings: Tensor,
    logits: Tensor,
    scores: Tensor,
    summaries: Tensor,
    highest: Tensor,
    report: Tensor,
) -> Dispatch:
    """report u32 [rows, 1 + candidates, 5] of the ids in highest u32 [1, rows, 2 + 2 * candidates],
    which `alternatives` makes of the scores; candidates.wgsl says what is where."""
    rows, vocabulary = logits.shape
    constants = {"VOCABULARY": vocabulary, "CANDIDATES": report.shape[1] - 1}
    bindings = [samplings, logits, scores, summaries, highest, report]
    return device.kernel("candidates", constants, bindings, (1, rows))


# Searches: several rows for each prompt.


def copy_slots(device: Device, moves: Tensor, cache: Tensor) -> Dispatch:
    """Rows of cache [rows, 2, length, hidden] take over slots of others, in place, as moves u32
    [MAX_ROWS, 4] says: source row, first slot, end, 0. No row is both a source and a target."""
    rows, _, length, hidden = cache.shape
    constants = {"HIDDEN": hidden, "CACHE_LENGTH": length}
    return device.kernel("copy_slots", constants, [moves, cache], (ceil_div(hidden, 64), 32, rows))


def similarity(
    device: Device, state: Tensor, hidden: Tensor, states: Tensor, similarities: Tensor
) -> Dispatch:
    """similarities [rows]: the largest cosine of each of hidden [rows, hidden] with the states
    [prompts, length, hidden] of the tokens before its position; row r is of prompt r % prompts."""
    rows, width = hidden.shape
    prompts, length, _ = states.shape
    constants = {"HIDDEN": width, "PROMPTS": prompts, "LENGTH": length}
    return device.kernel("similarity", constants, [state, hidden, states, similarities], (rows,))


# Prefill: a chunk of prompt tokens. `tokens` are those in use, a multiple of BLOCK.


def embed_chunk(
    device: Device,
    chunk: Tensor,
    ids: Tensor,
    wte: Weight,
    part: WeightPart,
    wpe: Tensor,
    x: Tensor,
    tokens: int,
) -> Dispatch:
    """x [CHUNK, hidden] = wte[:, ids] + wpe[positions], for ids in this part of wte."""
    hidden = x.shape[1]
    constants = {
        "WEIGHT_BITS": wte.bits,
        "HIDDEN": hidden,
        "POSITIONS": wpe.shape[0],
        "COLUMNS": part.columns,
        "FIRST_COLUMN": part.first_column,
    }
    bindings = [chunk, ids, part.words, wpe, x]
    return device.kernel("embed_chunk", constants, bindings, (ceil_div(hidden, 64), tokens))


def norm_chunk(
    device: Device, x: Tensor, norm: Norm, epsilon: float, normalized: Tensor, tokens: int
) -> Dispatch:
    """normalized [CHUNK, hidden] = layernorm(x)"""
    constants = {"HIDDEN": x.shape[1], "EPSILON": epsilon}
    return device.kernel(
        "norm_chunk", constants, [x, norm.weight, norm.bias, normalized], (tokens,)
    )


def matmul(
    device: Device,
    source: Tensor,
    weight: Weight,
    part: WeightPart,
    bias: Tensor,
    output: Tensor,
    tokens: int,
    *,
    gelu: bool = False,
    residual: bool = False,
) -> Dispatch:
    """output [n, columns] = source [n, k] . weight + bias, through gelu, or added to output."""
    constants = _part(weight, part) | {
        "OUTPUT_COLUMNS": weight.columns,
        "EPILOGUE": 1 if gelu else 2 if residual else 0,
    }
    groups = (ceil_div(part.columns, 64), ceil_div(tokens, 64))
    return device.kernel("matmul", constants, [source, part.words, bias, output], groups)


def append_chunk(
    device: Device, chunk: Tensor, qkv: Tensor, cache: Tensor, tokens: int
) -> Dispatch:
    """cache [rows, 2, length, hidden] gets k and v of qkv [CHUNK, 3 * hidden]."""
    hidden = cache.shape[3]
    constants = {"HIDDEN": hidden, "CACHE_LENGTH": cache.shape[2]}
    groups = (ceil_div(2 * hidden, 64), tokens)
    return device.kernel("append_chunk", constants, [chunk, qkv, cache], groups)


def attention_chunk(
    device: Device,
    chunk: Tensor,
    qkv: Tensor,
    cache: Tensor,
    mask: Tensor,
    attended: Tensor,
    num_heads: int,
    tokens: int,
) -> Dispatch:
    """attended [CHUNK, hidden]: each token over the cache up to its own position, but for slots
    that mask u32 [rows, length / 32] has a 0 bit for."""
    hidden = cache.shape[3]
    constants = {
        "HIDDEN": hidden,
        "HEAD_DIM": hidden // num_heads,
        "CACHE_LENGTH": cache.shape[2],
    }
    groups = (num_heads, ceil_div(tokens, BLOCK))
    return device.kernel("attention_chunk", constants, [chunk, qkv, cache, mask, attended], groups)


def scatter_chunk(
    device: Device, chunk: Tensor, values: Tensor, output: Tensor, first_position: int, tokens: int
) -> Dispatch:
    """output [rows, length, width] gets values [CHUNK, width]; column 0 is first_position."""
    _, length, width = output.shape
    constants = {"WIDTH": width, "LENGTH": length, "FIRST_POSITION": first_position}
    groups = (ceil_div(width, 64), tokens)
    return device.kernel("scatter_chunk", constants, [chunk, values, output], groups)


def token_loss(
    device: Device, logits: Tensor, targets: Tensor, loss: Tensor, tokens: int
) -> Dispatch:
    """loss [n] = cross-entropy of targets u32 [n] under logits [n, vocabulary]"""
    constants = {"VOCABULARY": logits.shape[1]}
    return device.kernel("token_loss", constants, [logits, targets, loss], (tokens,))


# Layers called one by one (layers.py).

ACTIVATIONS = {"relu": 0, "gelu_approximate": 1, "gelu": 2, "soft_cap": 3}


def activation(device: Device, values: Tensor, kind: str, cap: float = 1.0) -> Dispatch:
    """values = f(values), in place; cap is that of "soft_cap"."""
    constants = {"KIND": ACTIVATIONS[kind], "CAP": cap}
    return device.kernel("activation", constants, [values], _flat(values.size))


def attention_masked(
    device: Device,
    sizes: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    attended: Tensor,
    weights: Tensor,
) -> Dispatch:
    """attended [rows, queries, heads, value_dim] of q [rows, queries, heads, key_dim] over keys and
    values as sizes u32 [8] says where they lie; and, unless it is a mere place holder of one axis,
    weights [rows, heads, queries, slots]."""
    rows, queries, heads, key_dim = q.shape
    constants = {
        "KEY_DIM": key_dim,
        "VALUE_DIM": attended.shape[3],
        "WEIGHTS": len(weights.shape) == 4,
    }
    bindings = [sizes, q, keys, values, mask, attended, weights]
    return device.kernel("attention_masked", constants, bindings, (queries, heads, rows))


def gather(
    device: Device, ids: Tensor, table: Weight, part: WeightPart, output: Tensor
) -> Dispatch:
    """output [n, k] = table[:, ids] of ids u32 [n], for ids in this part of the table."""
    constants = _part(table, part)
    bindings = [ids, part.words, output]
    return device.kernel("gather", constants, bindings, _flat(output.size))


def _flat(count: int) -> tuple[int, int]:
    """Workgroups (x, y) of 64 threads for so many elements."""
    groups = ceil_div(count, 64)
    y = ceil_div(groups, 65535)
    return ceil_div(groups, y), y


# Weights.


def piece_bytes(
    weight: Weight, part: WeightPart, first_row: int, rows: int, source_columns: int, tensor: int
) -> bytes:
    """What tensor_rows.wgsl reads of rows first_row..+rows of a tensor [.., source_columns] that go
    into a part of a weight."""
    where = weight.k, part.columns, part.first_column, part.words.shape[-1]
    return struct.pack("<8I", first_row, rows, tensor, source_columns, *where)


def pack(
    device: Device,
    piece: Tensor,
    source: Tensor,
    weight: Weight,
    part: WeightPart,
    flaws: Tensor,
    *,
    source_type: str,
    transposed: bool,
    rows: int,
) -> Dispatch:
    """Packs `rows` rows of a checkpoint tensor (F32, F16 or BF16) into a part of a weight of 32 or
    16 bits. piece: piece_bytes; flaws u32 [2]: the least number of a tensor with a value that is
    not finite, and of one with a value that the bits cannot hold."""
    constants = _row_constants(weight, source_type, transposed)
    groups = _row_groups(weight, part, transposed, rows, 32 // weight.bits)
    return device.kernel("pack", constants, [piece, source, part.words, flaws], groups)


def quantize(
    device: Device,
    piece: Tensor,
    source: Tensor,
    weight: Weight,
    part: WeightPart,
    flaws: Tensor,
    *,
    source_type: str,
    transposed: bool,
    rows: int,
) -> Dispatch:
    """What pack does, for a weight of 8 or 4 bits: its words, and their scales. The tensor's first
    row is a multiple of 32, unless it is transposed; `rows` too, but for the last piece."""
    constants = _row_constants(weight, source_type, transposed)
    groups = _row_groups(weight, part, transposed, rows, SCALED)
    return device.kernel("quantize", constants, [piece, source, part.words, flaws], groups)


def copy_words(
    device: Device,
    piece: Tensor,
    source: Tensor,
    weight: Weight,
    part: WeightPart,
    flaws: Tensor,
    *,
    rows: int,
) -> Dispatch:
    """Lays `rows` rows of a tensor that a file holds packed into a part of a weight of 8 or 4 bits,
    bit for bit."""
    constants = {"WEIGHT_BITS": weight.bits}
    groups = (ceil_div(part.columns, 64), rows)
    return device.kernel("copy_words", constants, [piece, source, part.words, flaws], groups)


def _row_constants(weight: Weight, source_type: str, transposed: bool) -> dict[str, float]:
    return {
        "WEIGHT_BITS": weight.bits,
        "SOURCE_TYPE": PIECE_TYPES[source_type],
        "TRANSPOSED": transposed,
    }


def _row_groups(
    weight: Weight, part: WeightPart, transposed: bool, rows: int, per_thread: int
) -> tuple[int, int]:
    """Workgroups of 64 columns for rows of a tensor, so many k-values to a thread."""
    columns, values = (rows, weight.k) if transposed else (part.columns, rows)
    return ceil_div(columns, 64), ceil_div(values, per_thread)


def random_normal(
    device: Device, piece: Tensor, values: Tensor, *, pairs: int, scale: float
) -> Dispatch:
    """values [2 * pairs] = scale * normal variables; piece u32 [4]: first pair, pairs, seed,
    stream."""
    groups = ceil_div(pairs, 64)
    y = ceil_div(groups, 65535)
    return device.kernel(
        "random_normal", {"SCALE": scale}, [piece, values], (ceil_div(groups, y), y)
    )
