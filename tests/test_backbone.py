"""The model on the GPU, against what Transformers computed and against itself: however a prompt is
taken in (step by step, in chunks, in a batch), the same logits."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from adapters import load_backbone, new_device
from gpt2web import weights as weights_module
from gpt2web.backbone import GPT2Backbone
from gpt2web.blocking import block_on
from gpt2web.checkpoint import tensor_shapes
from gpt2web.decoder import Decoder
from gpt2web.gpu import MAX_ROWS, DeviceError
from gpt2web.kernels import CHUNK, SPLIT

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4  # of the largest logit: what is promised; about 1e-6 is seen


def assert_logits(got, wanted):
    worst = np.abs(got - wanted).max() / np.abs(wanted).max()  # NaN where any is missing
    assert worst <= TOLERANCE, f"off by {worst:.2g} of the largest logit"


@pytest.fixture(scope="module", params=reference.recorded_model_names())
def model(request):
    return reference.recorded_model(request.param)


def named(name):
    return reference.recorded_model(name)


def random_model(seed=1, **fields):
    config = SimpleNamespace(layer_norm_epsilon=1e-5, **fields)
    weights = reference.random_weights(config, seed)
    return SimpleNamespace(fields=fields, config=config, weights=weights)


def make_decoder(backbone, rows=1, length=None):
    device, weights = block_on(backbone.ready(), "ready")
    return Decoder(
        device, backbone.config, weights, rows, length or backbone.config.max_sequence_length
    )


def write_rows(decoder, rows):
    """(position, id) of each row, or None: finished."""
    words = [(0, 0, 0, 1) if row is None else (*row, 0, 0) for row in rows]
    decoder.device.write(decoder.state, b"".join(struct.pack("<4I", *map(int, w)) for w in words))


def step(decoder, rows, calls=None):
    """One token of each row: [(position, id)] -> logits [rows, vocabulary]."""
    write_rows(decoder, rows)
    last = max(row[0] for row in rows if row is not None)
    decoder.device.submit(calls or decoder.step(last))
    return decoder.logits.numpy()


def steps(decoder, ids, first):
    """ids at positions first.. of the only row, one by one: -> logits [n, vocabulary]. Read back
    once, at the end."""
    device, size = decoder.device, 4 * decoder.config.vocabulary_size
    readback = device.readback(size * len(ids))
    for index, token in enumerate(ids):
        write_rows(decoder, [(first + index, token)])
        copies = [(decoder.logits, 0, readback, index * size, size)]
        device.submit(decoder.step(first + index), copies=copies)
    readback.map()
    data = block_on(readback.take(size * len(ids)), "take")
    readback.destroy()
    return np.frombuffer(data, np.float32).reshape(len(ids), -1)


def prefill(decoder, *spans):
    """All of [(row, first position, ids)], in as many chunks as that takes. Returns how many."""
    left = [(row, first, [int(i) for i in ids]) for row, first, ids in spans if len(ids)]
    chunks = 0
    while left:
        left = decoder.prefill(left)
        chunks += 1
    return chunks


# ---- against Transformers ------------------------------------------------------------------------


def test_the_recorded_models_give_their_logits_step_by_step(device, model, tmp_path):
    backbone = load_backbone(device, model, tmp_path)
    decoder, count = make_decoder(backbone), len(model.ids)
    if "SwiftShader" in device.info["adapter"]:
        count = min(count, 12)  # it's slow
    assert_logits(steps(decoder, model.ids[:count], 0), model.logits[:count])


def test_the_recorded_models_give_their_last_logits_after_a_prefill(device, model, tmp_path):
    backbone = load_backbone(device, model, tmp_path)
    decoder, last = make_decoder(backbone), len(model.ids) - 1
    assert len(model.ids) == model.config.max_sequence_length  # to the context's end
    prefill(decoder, (0, 0, model.ids[:-1]))
    assert_logits(step(decoder, [(last, model.ids[-1])])[0], model.logits[-1])


NAMES = ["odd_everything", "heads_of_seven", "five_heads_of_64"]
PRECISIONS = [(name, "f16", "F32") for name in NAMES] + [
    *(("odd_everything", "int8", "packed"), ("five_heads_of_64", "int4", "packed")),
]


@pytest.mark.parametrize("name, precision, stored", PRECISIONS)
def test_a_precision_is_the_model_of_the_matrices_that_it_keeps(
    device, name, precision, stored, tmp_path
):
    model = named(name)
    kept = reference.kept(model.weights, precision)
    wanted = reference.forward(model.config, kept, model.ids)
    assert np.abs(wanted - model.logits).max() > TOLERANCE * np.abs(wanted).max()
    backbone = load_backbone(device, model, tmp_path, dtype=stored, precision=precision)
    decoder = make_decoder(backbone)
    end = len(model.ids) * 4 // 5
    prefill(decoder, (0, 0, model.ids[:end]))
    assert_logits(steps(decoder, model.ids[end:], end), wanted[end:])


def test_what_the_gpu_quantises_is_cached_as_it_is_uncached(device, tmp_path):
    """Steps read the weights through other kernels than prompts do."""
    model = named("heads_of_seven")
    decoder = make_decoder(load_backbone(device, model, tmp_path, precision="int4"))
    ids = model.ids[:20]
    alone = steps(decoder, ids, 0)
    assert np.abs(alone - model.logits[:20]).max() > TOLERANCE * np.abs(alone).max()
    for split in (3, 17):
        prefill(decoder, (0, 0, ids[:split]))
        assert_logits(steps(decoder, ids[split:], split), alone[split:])


@pytest.fixture(scope="module")
def stories():
    config, weights = reference.stories_model()
    return SimpleNamespace(fields=vars(config), config=config, weights=weights)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_stories_model_gives_the_recorded_logits(device, stories, precision, tmp_path):
    # the model is stored in F16: both precisions hold it exactly
    backbone = load_backbone(device, stories, tmp_path, dtype="F16", precision=precision)
    decoder = make_decoder(backbone)
    prompts = reference.recorded_stories().logits
    if "SwiftShader" in device.info["adapter"]:
        prompts = prompts[2:3]  # 4 steps, where it's slow
    for _, ids, positions, wanted in prompts:
        first = int(positions[0])
        prefill(decoder, (0, 0, ids[:first]))
        got = steps(decoder, ids[first:], first)
        assert_logits(got[positions - first], wanted)


# ---- cached equals uncached ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["five_heads_of_two", "heads_of_seven"])
def test_cached_equals_uncached_wherever_a_prompt_is_split(device, name, tmp_path):
    model = named(name)
    decoder = make_decoder(load_backbone(device, model, tmp_path))
    ids = model.ids[:34] if "llvmpipe" in device.info["adapter"] else model.ids[:18]
    for split in range(len(ids)):
        for layer in decoder.cache.layers:  # so that nothing is left of the last split
            device.write(layer, np.full(layer.shape, np.nan, np.float32))
        prefill(decoder, (0, 0, ids[:split]))
        assert_logits(steps(decoder, ids[split:], split), model.logits[split : len(ids)])


def test_a_prompt_may_come_in_many_prefills(device, tmp_path):
    model = named("four_heads_of_16")
    decoder = make_decoder(load_backbone(device, model, tmp_path))
    last = len(model.ids) - 1
    for first, end in [(0, 1), (1, 18), (18, 50), (50, 115), (115, last)]:
        prefill(decoder, (0, first, model.ids[first:end]))
    assert_logits(step(decoder, [(last, model.ids[last])])[0], model.logits[last])


# ---- batches -------------------------------------------------------------------------------------


def test_a_ragged_batch_equals_its_single_prompts(device, tmp_path):
    model = named("one_head_of_64")
    lengths = [1, 70, 16, 17, 33, 69, 68, 2, 64]
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.config.vocabulary_size, n) for n in lengths]
    backbone = load_backbone(device, model, tmp_path)
    batch = make_decoder(backbone, rows=len(prompts))
    chunks = prefill(batch, *((row, 0, ids[:-1]) for row, ids in enumerate(prompts)))
    assert chunks > 1 and sum(lengths) > CHUNK
    got = step(batch, [(len(ids) - 1, ids[-1]) for ids in prompts])
    single = make_decoder(backbone)
    for row, ids in enumerate(prompts):
        assert_logits(got[row], reference.forward(model.config, model.weights, ids)[-1])
        prefill(single, (0, 0, ids[:-1]))
        alone = step(single, [(len(ids) - 1, ids[-1])])[0]
        np.testing.assert_array_equal(got[row], alone)  # the same additions in the same order


def test_a_finished_row_is_left_alone_and_spoils_nothing(device, tmp_path):
    model = named("three_heads_of_two")
    decoder = make_decoder(load_backbone(device, model, tmp_path), rows=3)
    device.write(decoder.logits, np.full(decoder.logits.shape, np.nan, np.float32))
    for layer in decoder.cache.layers:
        device.write(layer, np.full(layer.shape, np.nan, np.float32))
    for position, token in enumerate(model.ids[:9]):
        rows = [(position, token), None, (position, token) if position < 5 else None]
        got = step(decoder, rows)
        assert_logits(got[0], model.logits[position])
        assert np.isnan(got[1]).all()
        assert_logits(got[2], model.logits[min(position, 4)])
    for layer in decoder.cache.layers:
        written = ~np.isnan(layer.numpy()).any(axis=(1, 3))  # [rows, length]
        assert written.sum(axis=1).tolist() == [9, 0, 5]


# ---- long caches ---------------------------------------------------------------------------------


def test_the_long_step_equals_the_short_one_and_the_model_beyond(device, tmp_path):
    model = random_model(
        vocabulary_size=31,
        num_layers=1,
        num_heads=2,
        hidden_dim=10,
        intermediate_dim=24,
        max_sequence_length=700,
    )
    ids = np.random.default_rng(2).integers(0, 31, 700)
    wanted = reference.forward(model.config, model.weights, ids)
    decoder = make_decoder(load_backbone(device, model, tmp_path))
    assert decoder.step(SPLIT - 1) is decoder.short_step
    assert decoder.step(SPLIT) is decoder.long_step is not decoder.short_step
    assert prefill(decoder, (0, 0, ids)) == 3
    for position in (0, 1, 254, 255):
        row = [(position, ids[position])]
        short = step(decoder, row, decoder.short_step)[0].copy()
        assert_logits(short, wanted[position])
        assert_logits(step(decoder, row, decoder.long_step)[0], short)
    for position in (256, 257, 511, 512, 698, 699):
        assert_logits(step(decoder, [(position, ids[position])])[0], wanted[position])


def test_a_cache_of_one_split_has_one_kind_of_step(device, tmp_path):
    decoder = make_decoder(load_backbone(device, named("odd_everything"), tmp_path))
    assert decoder.long_step is decoder.short_step


# ---- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_weights_that_exceed_a_limit_lie_in_parts_and_give_the_same_logits(
    precision, tmp_path, monkeypatch
):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 1 << 19)
    model = random_model(
        vocabulary_size=1601,
        num_layers=1,
        num_heads=2,
        hidden_dim=260,
        intermediate_dim=780,
        max_sequence_length=20,
    )
    ids = np.random.default_rng(2).integers(0, 1601, 20)
    ids[:4] = 0, 1600, 767, 768
    wanted = reference.forward(model.config, reference.kept(model.weights, precision), ids)
    # a chunk's q, k and v take 798,720 bytes
    device = new_device("llvmpipe", max_storage_buffer_binding_size=800_000)
    backbone = load_backbone(device, model, tmp_path, precision=precision)
    parts = [len(weight.parts) for weight in backbone.weights.matrices.values()]
    # wte, c_attn, attn.c_proj, c_fc, mlp.c_proj
    assert parts == ([3, 2, 1, 2, 2] if precision == "f32" else [2, 1, 1, 1, 1])
    decoder = make_decoder(backbone)
    assert_logits(steps(decoder, ids, 0), wanted)
    prefill(decoder, (0, 0, ids[:-1]))
    assert_logits(step(decoder, [(19, ids[19])])[0], wanted[19])
    device.destroy()


def test_a_tensor_that_no_parts_can_save_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(weights_module, "PIECE_BYTES", 1 << 15)
    device = new_device("llvmpipe", max_storage_buffer_binding_size=1 << 16)
    fits = GPT2Backbone(7, 1, 1, 64, 64, max_sequence_length=256, device=device)
    block_on(fits.ready(), "ready")
    before = dict(device.live)
    too_long = GPT2Backbone(7, 1, 1, 64, 64, max_sequence_length=1024, device=device)
    with pytest.raises(DeviceError, match=r"262,144 bytes.*65,536 \(max-storage-buffer-binding"):
        block_on(too_long.ready(), "ready")
    assert too_long.weights is None and device.live == before
    device.destroy()


# ---- sizes and weights that are refused ----------------------------------------------------------


def test_sizes_that_no_kernel_holds_are_refused(device):
    assert GPT2Backbone(7, 1, 1, 256, 8).config.head_dim == 256
    with pytest.raises(ValueError, match=r"head_dim is .* 257; .* at most 256"):
        GPT2Backbone(7, 1, 1, 257, 8)
    with pytest.raises(ValueError, match=r"vocabulary_size is 131,073; .* at most 131,072"):
        GPT2Backbone(131073, 1, 1, 4, 8)
    wide = GPT2Backbone(7, 1, 20, 2680, 8, max_sequence_length=2, device=device)
    with pytest.raises(DeviceError, match=r"hidden_dim is 2,680, .* holds 2,672"):
        block_on(wide.ready(), "ready")


@pytest.mark.parametrize(
    "rows, length, message",
    [
        (0, 3, "1 to 256 rows, got 0"),
        (MAX_ROWS + 1, 3, "1 to 256 rows, got 257"),
        (1, 0, "got 0"),
        (1, 4, "max_sequence_length, 3, got 4"),
    ],
)
def test_a_decoder_says_which_sizes_it_takes(device, rows, length, message):
    backbone = GPT2Backbone(7, 1, 1, 4, 8, max_sequence_length=3, device=device)
    _, weights = block_on(backbone.ready(), "ready")
    Decoder(device, backbone.config, weights, 1, 3).destroy()
    with pytest.raises(ValueError, match=message):
        Decoder(device, backbone.config, weights, rows, length)


def test_everything_that_is_made_is_freed(device, tmp_path):
    model = named("three_heads_of_two")
    block_on(device.settled(), "settled")  # makes a fence that stays
    before = dict(device.live)
    backbone = load_backbone(device, model, tmp_path)
    loaded = dict(device.live)
    assert len(loaded) == len(before) + len(tensor_shapes(backbone.config))
    decoder = make_decoder(backbone, rows=2)
    prefill(decoder, (0, 0, model.ids))
    assert len(device.live) > len(loaded)
    decoder.destroy()
    assert device.live == loaded
    backbone.destroy()
    assert device.live == before
