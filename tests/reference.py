"""GPT-2 in numpy, to be read and to be right: the model, a twin of every kernel, test weights, and
what was recorded of Transformers.

Weights are float32 (the checkpoint's own values); all arithmetic is float64, so that a comparison
shows the other side's rounding, not ours. Formulas follow OpenAI's model.py
(https://github.com/openai/gpt-2/blob/master/src/model.py); tensors have their Hugging Face names.
`config` is anything with GPT2Config's fields.
"""

import hashlib
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np

DATA = Path(__file__).parent / "data"
STORIES = Path(__file__).parents[1] / "web" / "models" / "stories"

# ---- the model --------------------------------------------------------------------------------


def forward(config, weights, ids, positions=None):
    """Logits after every token: ids [n] at positions [n], None: 0.. -> [n, vocabulary]."""
    return head(config, weights, blocks(config, weights, ids, positions))


def looked_into(config, weights, ids):
    """What the last of ids [n] attends to, [layers, heads, n], and the residual stream behind the
    embedding and every layer, [layers + 1, hidden]; lens of it is the logit lens."""
    x = embed(weights, ids, np.arange(len(ids)))
    attention, stream = [], [x[-1]]
    for index in range(config.num_layers):
        layer = layer_weights(weights, index)
        y = norm(config, layer, "ln_1", x)
        qkv = matmul(y, layer["attn.c_attn.weight"], layer["attn.c_attn.bias"])
        q, k, _ = split_qkv(qkv, config.num_heads)
        attention.append(attention_weights(q[-1], k))
        x = x + self_attention(config, layer, y)
        x = x + feed_forward(layer, norm(config, layer, "ln_2", x))
        stream.append(x[-1])
    return np.array(attention), np.array(stream)


def lens(config, weights, stream):
    """The head's log-probabilities right behind a stream: [n, hidden] -> [n, vocabulary]"""
    logits = head(config, weights, stream)
    largest = logits.max(axis=-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))


def hidden_states(config, weights, ids, positions=None):
    """What the head sees, after the final norm: [n], [n] -> [n, hidden]"""
    return norm(config, weights, "ln_f", blocks(config, weights, ids, positions))


def blocks(config, weights, ids, positions=None):
    """[n], [n] -> [n, hidden]"""
    x = embed(weights, ids, np.arange(len(ids)) if positions is None else positions)
    for index in range(config.num_layers):
        layer = layer_weights(weights, index)
        x = x + self_attention(config, layer, norm(config, layer, "ln_1", x))
        x = x + feed_forward(layer, norm(config, layer, "ln_2", x))
    return x


def embed(weights, ids, positions):
    """[n], [n] -> [n, hidden]"""
    wte, wpe = weights["wte.weight"], weights["wpe.weight"]
    return wte[ids].astype(np.float64) + wpe[positions]


def norm(config, weights, name, x):
    """[n, hidden] -> [n, hidden]"""
    return layer_norm(
        x, weights[f"{name}.weight"], weights[f"{name}.bias"], config.layer_norm_epsilon
    )


def self_attention(config, layer, x):
    """[n, hidden] -> [n, hidden]"""
    qkv = matmul(x, layer["attn.c_attn.weight"], layer["attn.c_attn.bias"])  # [n, 3*hidden]
    q, k, v = split_qkv(qkv, config.num_heads)  # [n, heads, head_dim] each
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])  # [heads, n, n]
    scores = np.where(causal_mask(len(x)), scores, -np.inf)
    mixed = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(x.shape)
    return matmul(mixed, layer["attn.c_proj.weight"], layer["attn.c_proj.bias"])


def feed_forward(layer, x):
    """[n, hidden] -> [n, hidden]"""
    inner = gelu(matmul(x, layer["mlp.c_fc.weight"], layer["mlp.c_fc.bias"]))  # [n, intermediate]
    return matmul(inner, layer["mlp.c_proj.weight"], layer["mlp.c_proj.bias"])


def head(config, weights, x):
    """The final norm and the head, which is wte again: [n, hidden] -> [n, vocabulary]"""
    return norm(config, weights, "ln_f", x) @ weights["wte.weight"].T.astype(np.float64)


def layer_weights(weights, index):
    """{"ln_1.weight": ..., ...} of one layer."""
    prefix = f"h.{index}."
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


def causal_mask(n):
    """[n, n]: may query (row) see key (column)?"""
    return np.tril(np.ones((n, n), dtype=bool))


def softmax(x):
    with np.errstate(under="ignore"):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# ---- a twin for each kernel --------------------------------------------------------------------


def layer_norm(x, weight, bias, epsilon=1e-5):
    """Over the last axis; the variance is the biased one, as in GPT-2."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * weight + bias


def matmul(x, weight, bias=None):
    """[n, K], [K, N], [N] -> [n, N]; the matrix-vector kernel is the case n == 1."""
    y = np.asarray(x, np.float64) @ weight.astype(np.float64)
    return y if bias is None else y + bias


def gelu(x):
    """The tanh form of https://arxiv.org/abs/1606.08415, which is GPT-2's."""
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def residual(x, y):
    return np.asarray(x, np.float64) + y


def split_qkv(qkv, num_heads):
    """[n, 3*hidden] -> q, k, v: [n, heads, head_dim] each"""
    n, width = qkv.shape
    return np.moveaxis(qkv.reshape(n, 3, num_heads, width // 3 // num_heads), 1, 0)


def append_to_cache(cache, row, position, k, v):
    """Writes k and v [n, heads, head_dim] to slots position.. of cache [batch, 2, length, heads,
    head_dim], in place."""
    cache[row, 0, position : position + len(k)] = k
    cache[row, 1, position : position + len(v)] = v


def attend(q, keys, values):
    """One query over a slice of a cache: [heads, head_dim], [n, heads, head_dim] twice ->
    [heads, head_dim]"""
    return np.einsum("hk,khd->hd", attention_weights(q, keys), values)


def attention_weights(q, keys):
    """What `attend` mixes values with: [heads, head_dim], [n, heads, head_dim] -> [heads, n]"""
    return softmax(np.einsum("hd,khd->hk", np.asarray(q, np.float64), keys) / np.sqrt(q.shape[-1]))


def attend_partial(q, keys, values):
    """One split's part of `attend`: the largest score [heads], the sum of the exponentials over it
    [heads], and the values summed with them [heads, head_dim]."""
    scores = np.einsum("hd,khd->hk", np.asarray(q, np.float64), keys) / np.sqrt(q.shape[-1])
    largest = scores.max(axis=-1)
    with np.errstate(under="ignore"):
        e = np.exp(scores - largest[:, None])
    return largest, e.sum(axis=-1), np.einsum("hk,khd->hd", e, values)


def attend_reduce(largest, total, mixed):
    """Parts of all splits -> `attend`: [splits, heads] twice, [splits, heads, head_dim] ->
    [heads, head_dim]"""
    with np.errstate(under="ignore"):
        scale = np.exp(largest - largest.max(axis=0))  # [splits, heads]
    return (scale[..., None] * mixed).sum(axis=0) / (scale * total).sum(axis=0)[:, None]


def attend_split(q, keys, values, split):
    """`attend` by way of parts of `split` slots; the last may be shorter."""
    parts = [
        attend_partial(q, keys[start : start + split], values[start : start + split])
        for start in range(0, len(keys), split)
    ]
    return attend_reduce(*(np.stack(part) for part in zip(*parts, strict=True)))


def attend_chunk(q, keys, values, position, block, visible=None):
    """Causal attention of a chunk over its cache, a block of slots at a time with a running
    softmax: q [n, heads, head_dim] at slots position.., keys and values [length, heads, head_dim]
    -> [n, heads, head_dim]. Query i sees slots 0 to position + i, but for those that visible
    [length] is False for, whatever they hold; zeros, when there is none left."""
    n, heads, head_dim = q.shape
    if visible is None:
        visible = np.ones(len(keys), dtype=bool)
    keys, values = (np.where(visible[:, None, None], part, 0) for part in (keys, values))
    largest = np.full((heads, n, 1), -1e300)
    total = np.zeros((heads, n, 1))
    mixed = np.zeros((heads, n, head_dim))
    for start in range(0, position + n, block):
        slots = np.arange(start, min(start + block, position + n))
        scores = np.einsum("qhd,khd->hqk", np.asarray(q, np.float64), keys[slots])
        seen = visible[slots] & (slots <= position + np.arange(n)[:, None])  # [n, slots]
        scores = np.where(seen, scores / np.sqrt(head_dim), -np.inf)
        larger = np.maximum(largest, scores.max(axis=-1, keepdims=True))
        with np.errstate(under="ignore"):
            e, scale = np.exp(scores - larger), np.exp(largest - larger)
        total = total * scale + e.sum(axis=-1, keepdims=True)
        mixed = mixed * scale + np.einsum("hqk,khd->hqd", e, values[slots])
        largest = larger
    return np.moveaxis(mixed / np.maximum(total, 1e-300), 0, 1)


def scatter(output, row, column, values):
    """Writes values [n, width] to columns column.. of output [rows, length, width], in place."""
    output[row, column : column + len(values)] = values


def token_loss(logits, targets):
    """Cross-entropy, in nats: [n, vocabulary], [n] -> [n]"""
    logits = np.asarray(logits, np.float64)
    largest = logits.max(axis=-1)
    with np.errstate(under="ignore"):
        total = np.exp(logits - largest[:, None]).sum(axis=-1)
    return largest + np.log(total) - np.take_along_axis(logits, targets[:, None], -1)[:, 0]


def forward_cached(config, weights, ids, cache, row, position, block=16):
    """`forward` of a chunk that stands at slots position.. of its row's cache, out of the twins
    alone; fills the cache."""
    x = embed(weights, ids, position + np.arange(len(ids)))
    for index in range(config.num_layers):
        layer = layer_weights(weights, index)
        y = norm(config, layer, "ln_1", x)
        qkv = matmul(y, layer["attn.c_attn.weight"], layer["attn.c_attn.bias"])
        q, k, v = split_qkv(qkv, config.num_heads)
        append_to_cache(cache[index], row, position, k, v)
        keys, values = cache[index][row]
        if len(ids) == 1:
            mixed = attend_split(q[0], keys[: position + 1], values[: position + 1], block)
        else:
            mixed = attend_chunk(q, keys, values, position, block)
        y = matmul(mixed.reshape(x.shape), layer["attn.c_proj.weight"], layer["attn.c_proj.bias"])
        x = residual(x, y)
        x = residual(x, feed_forward(layer, norm(config, layer, "ln_2", x)))
    return head(config, weights, x)


def new_cache(config, batch, length):
    """One [batch, 2, length, heads, head_dim] per layer, NaN where nothing has been written."""
    head_dim = config.hidden_dim // config.num_heads
    shape = (batch, 2, length, config.num_heads, head_dim)
    return [np.full(shape, np.nan) for _ in range(config.num_layers)]


def pack(matrix, bits):
    """Weights as the kernels store them: [K, N] -> uint32 [ceil(K / per), N padded to 4], and for 8
    and 4 bits rows of scales behind them, one u32 for each column and 32 K-values.

    A word holds `per` = 32 / bits consecutive K-values of one column, the first in its low bits.
    bits 32: float32; 16: float16; 8 and 4: the signed integers of `quantize`, with a float32 scale,
    or two float16, the first in the low half. Padding is zero.
    """
    if bits < 16:
        return pack_quantized(*quantize(matrix, bits), bits)
    per = 32 // bits
    rows, columns = matrix.shape
    values = np.zeros((-(-rows // per) * per, -(-columns // 4) * 4), np.float32)
    values[:rows, :columns] = matrix
    if bits == 32:
        return values.view(np.uint32)
    halves = values.astype(np.float16).view(np.uint16).astype(np.uint32)
    return halves[0::2] | halves[1::2] << 16


def unpack(words, shape, bits):
    """The float32 [K, N] that `pack` made words from, rounded to what the bits can hold."""
    if bits < 16:
        q, scales = unpack_quantized(words, shape, bits)
        return dequantize(q, scales, bits)
    if bits == 32:
        return words.view(np.float32)[: shape[0], : shape[1]].copy()
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).astype(np.uint16)
    values = halves.view(np.float16).astype(np.float32).reshape(-1, words.shape[1])
    return values[: shape[0], : shape[1]].copy()


GROUP = {8: 32, 4: 16}  # K-values that share a scale


def quantize(matrix, bits):
    """[K, N] -> q int8 [K, N], scales float32 [ceil(K / group), N]; scale * q is about the matrix.

    8 bits: the largest magnitude is 127 steps. 4 bits: of the scales that make the value of largest
    magnitude -8, -7.5, -7, -6.5, 8 ... steps, and each one's least-squares refit, the one of the
    smallest squared error; scales are rounded to float16 before anything is measured by them.
    """
    group = GROUP[bits]
    rows, columns = matrix.shape
    x = np.zeros((-(-rows // group) * group, columns))
    x[:rows] = matrix
    x = x.reshape(-1, group, columns)  # [groups, group, N]
    at = np.abs(x).argmax(axis=1)[:, None]
    largest = np.take_along_axis(x, at, axis=1)  # [groups, 1, N]
    if bits == 8:
        scales = (np.abs(largest) / 127).astype(np.float32)
        q = np.rint(_divide(x, scales)).clip(-127, 127)
        return q.reshape(-1, columns)[:rows].astype(np.int8), scales[:, 0]
    best = np.full(largest.shape, np.inf)
    best_q, best_scales = np.zeros(x.shape), np.zeros(largest.shape, np.float32)
    for steps in (-8, -7.5, -7, -6.5, 8, 7.5, 7, 6.5):
        scales = largest / steps
        for _ in range(2):  # as it is, and refitted
            scales = scales.astype(np.float16).astype(np.float32)
            q = np.rint(_divide(x, scales)).clip(-8, 7)
            error = ((q * scales - x) ** 2).sum(axis=1, keepdims=True)
            better = error < best
            best = np.where(better, error, best)
            best_q = np.where(better, q, best_q)
            best_scales = np.where(better, scales, best_scales)
            scales = _divide((q * x).sum(axis=1, keepdims=True), (q * q).sum(axis=1, keepdims=True))
    return best_q.reshape(-1, columns)[:rows].astype(np.int8), best_scales[:, 0] + 0.0  # no -0


def dequantize(q, scales, bits):
    """q [K, N], scales [ceil(K / group), N] -> float32 [K, N]"""
    return np.repeat(scales, GROUP[bits], axis=0)[: len(q)] * q.astype(np.float32)


def pack_quantized(q, scales, bits):
    """q [K, N], scales [ceil(K / group), N] -> uint32, words and then scales; see `pack`."""
    per, width = 32 // bits, -(-q.shape[1] // 4) * 4
    numbers = np.zeros((-(-len(q) // per), per, width), np.uint32)
    padded = np.zeros((numbers.shape[0] * per, width), np.int8)
    padded[: len(q), : q.shape[1]] = q
    numbers[:] = padded.reshape(numbers.shape).astype(np.uint32) & (2**bits - 1)
    words = np.zeros((len(numbers), width), np.uint32)
    for i in range(per):
        words |= numbers[:, i] << np.uint32(bits * i)
    all_scales = np.zeros((-(-len(q) // 32) * 32 // GROUP[bits], width), np.float32)
    all_scales[: len(scales), : scales.shape[1]] = scales
    if bits == 8:
        return np.concatenate([words, all_scales.view(np.uint32)])
    halves = all_scales.astype(np.float16).view(np.uint16).astype(np.uint32)
    return np.concatenate([words, halves[0::2] | halves[1::2] << 16])


def unpack_quantized(words, shape, bits):
    """What `pack_quantized` made words from: q int8 [K, N], scales float32 [ceil(K / group), N]."""
    rows, columns = shape
    per, groups = 32 // bits, -(-rows // GROUP[bits])
    count = -(-rows // per)  # rows of words
    shifts = np.arange(32 - bits, -1, -bits, dtype=np.uint32)  # to the top, and back with the sign
    q = (words[:count, None] << shifts[None, :, None]).view(np.int32) >> (32 - bits)
    q = q.reshape(-1, words.shape[1])[:rows, :columns].astype(np.int8)
    scales = words[count:]
    if bits == 4:
        halves = np.stack([scales & 0xFFFF, scales >> 16], axis=1).astype(np.uint16)
        scales = halves.view(np.float16).astype(np.float32).reshape(-1, words.shape[1])
    return q, scales.view(np.float32)[:groups, :columns].copy()


def bits_in(name, precision):
    """Bits of a tensor in f32, f16, int8 or int4; int4 leaves 8 to the embedding."""
    if name != "wte.weight" and not (".c_" in name and name.endswith(".weight")):
        return 32
    bits = {"f32": 32, "f16": 16, "int8": 8, "int4": 4}[precision]
    return max(bits, 8) if name == "wte.weight" else bits


def packed(weights, precision):
    """A file's tensors in int8 or int4: matrices as words, under names that say so."""
    tensors = {}
    for name, values in weights.items():
        bits = bits_in(name, precision)
        if bits < 16:
            matrix = values.T if name == "wte.weight" else values
            tensors[f"{name}.int{bits}"] = pack(matrix, bits)
        else:
            tensors[name] = values
    return tensors


def kept(weights, precision):
    """Weights as a precision holds them."""
    return {
        name: kept_matrix(name, values, bits_in(name, precision))
        for name, values in weights.items()
    }


def kept_matrix(name, values, bits):
    matrix = values.T if name == "wte.weight" else values
    if bits == 32:
        return values
    matrix = unpack(pack(matrix, bits), matrix.shape, bits)
    return matrix.T if name == "wte.weight" else matrix


def _divide(a, b):
    """a / b; 0 where b is."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def similarity(states, own):
    """The largest cosine of a hidden state [hidden] with those before it [n, hidden]: 0 with one of
    zeros, -1 where there are none."""
    states = np.asarray(states, np.float64)
    norms = np.linalg.norm(states, axis=1) * np.linalg.norm(np.asarray(own, np.float64))
    cosines = np.divide(states @ own, norms, out=np.zeros(len(states)), where=norms > 0)
    return cosines.max(initial=-1.0)


# ---- weights for tests --------------------------------------------------------------------------


def weight_shapes(config):
    """Every tensor of a GPT-2: {Hugging Face name: shape}."""
    hidden, inner = config.hidden_dim, config.intermediate_dim
    layer = {
        "ln_1.weight": (hidden,),
        "ln_1.bias": (hidden,),
        "attn.c_attn.weight": (hidden, 3 * hidden),
        "attn.c_attn.bias": (3 * hidden,),
        "attn.c_proj.weight": (hidden, hidden),
        "attn.c_proj.bias": (hidden,),
        "ln_2.weight": (hidden,),
        "ln_2.bias": (hidden,),
        "mlp.c_fc.weight": (hidden, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, hidden),
        "mlp.c_proj.bias": (hidden,),
    }
    return {
        "wte.weight": (config.vocabulary_size, hidden),
        "wpe.weight": (config.max_sequence_length, hidden),
        **{f"h.{i}.{name}": s for i in range(config.num_layers) for name, s in layer.items()},
        "ln_f.weight": (hidden,),
        "ln_f.bias": (hidden,),
    }


def random_weights(config, seed, std=None):
    """Seeded float32 weights that no mistake can hide behind: evenly distributed, no tensor all
    zero or all one, a std (by default the larger of 0.2 and hidden ** -0.5) at which logits spread
    over more than 1. The same bits on every machine and numpy: only PCG64's raw integers are drawn.
    """
    std = max(0.2, config.hidden_dim**-0.5) if std is None else std
    generator = np.random.PCG64(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        raw = generator.random_raw(int(np.prod(shape))) >> np.uint64(11)
        values = (raw * 2.0**-53 - 0.5) * (std * 12**0.5)
        is_gain = name.rsplit(".", 2)[-2].startswith("ln_") and name.endswith(".weight")
        weights[name] = (values + is_gain).astype(np.float32).reshape(shape)
    return weights


def checksum(weights):
    """SHA-256 of all values, in the order of `weight_shapes`."""
    digest = hashlib.sha256()
    for values in weights.values():
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()


def to_bf16(values):
    """float32 -> the uint16 of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(
        np.uint16
    )


def write_safetensors(path, weights, dtype="F32"):
    """Writes {name: float32 array} as F32, F16 or BF16; uint32 arrays as U32."""
    convert = {
        "F32": lambda values: values.astype("<f4"),
        "F16": lambda values: values.astype("<f2"),
        "BF16": to_bf16,
    }[dtype]
    header, data = {"__metadata__": {"format": "pt"}}, []
    offset = 0
    for name, values in weights.items():
        words = np.asarray(values).dtype == np.uint32
        data.append(values.tobytes() if words else convert(np.asarray(values)).tobytes())
        end = offset + len(data[-1])
        header[name] = {
            "dtype": "U32" if words else dtype,
            "shape": list(np.shape(values)),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of 8, as the library writes them
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def read_safetensors(path):
    """{name: float32 array} of a file that is trusted to be whole."""
    blob = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8 : 8 + length])
    header.pop("__metadata__", None)
    weights = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(blob[begin:end], "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(blob[begin:end], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        weights[name] = values.astype(np.float32).reshape(entry["shape"])
    return weights


# ---- what Transformers computed: recorded by record_reference.py ---------------------------------


def recorded_model_names():
    with np.load(DATA / "random_models.npz") as data:
        return [str(name) for name in data["names"]]


def recorded_model(name):
    """A model with random weights: .fields (GPT2Config's arguments), .config, .weights, .ids [n],
    .logits [n, vocabulary]."""
    with np.load(DATA / "random_models.npz") as data:
        about = json.loads(str(data[f"{name}/config"]))
        ids, logits = data[f"{name}/ids"], data[f"{name}/logits"]
    seed, digest = about.pop("seed"), about.pop("checksum")
    config = SimpleNamespace(**about)
    weights = random_weights(config, seed)
    if checksum(weights) != digest:
        raise ValueError(f"{name}: the weights of seed {seed} are not those that were recorded")
    return SimpleNamespace(fields=about, config=config, weights=weights, ids=ids, logits=logits)


def recorded_padded(name):
    """A batch with padding through a recorded model: .ids and .mask [4, n], .hidden [4, n, hidden]
    after the final norm, .losses [4, n] of the next column's id."""
    with np.load(DATA / "padded.npz") as data:
        return SimpleNamespace(
            **{part: data[f"{name}/{part}"] for part in ("ids", "mask", "hidden", "losses")}
        )


def recorded_inspections(name):
    """A recorded model looked into: [(position, attention [layers, heads, position + 1], lens
    [layers + 1, vocabulary])]"""
    with np.load(DATA / "inspections.npz") as data:
        return [
            (int(p), data[f"{name}/attention/{p}"], data[f"{name}/lens/{p}"])
            for p in data[f"{name}/positions"]
        ]


def stories_model():
    """The bundled model: its config (GPT2Config's fields) and its weights."""
    stored = json.loads((STORIES / "config.json").read_text())
    config = SimpleNamespace(
        vocabulary_size=stored["vocab_size"],
        num_layers=stored["n_layer"],
        num_heads=stored["n_head"],
        hidden_dim=stored["n_embd"],
        intermediate_dim=stored["n_inner"] or 4 * stored["n_embd"],
        max_sequence_length=stored["n_positions"],
        layer_norm_epsilon=stored["layer_norm_epsilon"],
    )
    return config, read_safetensors(STORIES / "model.safetensors")


def recorded_stories():
    """The bundled model's outputs: .logits [(text, ids, positions, logits)], .greedy [(text, ids
    with the prompt, tokens of the prompt, top-2 gaps)], .loss (text, ids, losses)."""
    with np.load(DATA / "stories.npz") as data:
        about = json.loads(str(data["about"]))
        return SimpleNamespace(
            sha256=about["sha256"],
            logits=[
                (text, *(data[f"logits/{i}/{part}"] for part in ("ids", "positions", "logits")))
                for i, text in enumerate(about["prompts"])
            ],
            greedy=[
                (
                    text,
                    data[f"greedy/{i}/ids"],
                    int(data[f"greedy/{i}/prompt"]),
                    data[f"greedy/{i}/gaps"],
                )
                for i, text in enumerate(about["greedy"])
            ],
            loss=(about["loss"], data["loss/ids"], data["loss/losses"]),
        )
