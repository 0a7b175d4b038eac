"""Looking into a model: attention, the logit lens and what sampling makes of the next token,
against Transformers and the twins; and that nothing else notices."""

import asyncio
import gc

import numpy as np
import pytest

import gpu_counts
import reference
import small_models
from adapters import load_backbone, new_device
from gpt2web import GPT2Backbone, GPT2CausalLM, GPT2Config
from gpt2web.gpu import DeviceError
from gpt2web.limits import parameters
from gpt2web.precision import PRECISIONS
from gpt2web.sampling import Sampling, probabilities

pytestmark = pytest.mark.gpu

# f32 through a few layers against float64: what test_reference.py allows the GPU, of
# log-probabilities of up to about 20, and of weights of at most 1.
LENS = 1e-3
ATTENTION = 1e-4
TEXT = [int(i) for i in np.random.default_rng(5).integers(0, 256, 290)]  # beyond one split


@pytest.fixture(scope="module")
def lm(llvmpipe, tmp_path_factory):
    return small_models.load(
        llvmpipe, small_models.random_model(), tmp_path_factory.mktemp("random")
    )


def twin(model, ids, weights=None):
    """attention and lens of the last of ids, by the reference."""
    weights = model.weights if weights is None else weights
    config = GPT2Config(**model.fields)
    attention, stream = reference.looked_into(config, weights, np.array(ids))
    return attention, reference.lens(config, weights, stream)


def check(inspection, attention, lens):
    """An inspection against [layers, heads, n] and [layers + 1, vocabulary]."""
    got = inspection.attention.numpy()
    assert got.shape == attention.shape
    assert np.abs(got - attention).max() < ATTENTION
    assert np.abs(got.sum(axis=-1, dtype=np.float64) - 1).max() < 1e-6
    assert len(inspection.lens) == len(lens)
    for found, wanted in zip(inspection.lens, lens, strict=True):
        ids, logprobs = [i for i, _ in found], np.array([logprob for _, logprob in found])
        assert len(set(ids)) == len(ids)
        assert np.abs(logprobs - wanted[ids]).max() < LENS
        # no id that is left out is more probable than the last one listed
        assert np.delete(wanted, ids).max(initial=-np.inf) < logprobs.min() + LENS


# ---- what the model computed ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["five_heads_of_two", "four_heads_of_16"])
def test_attention_and_lens_are_those_of_transformers(device, name, tmp_path):
    model = reference.recorded_model(name)
    lm = GPT2CausalLM(load_backbone(device, model, tmp_path))
    for position, attention, lens in reference.recorded_inspections(name):
        inspection = lm.inspect(model.ids, position)
        assert (inspection.position, len(inspection.lens[0])) == (position, 10)
        assert inspection.token_ids == model.ids[: position + 1].tolist()
        check(inspection, attention, lens)
        inspection.close()
    lm.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_looked_into_as_it_is_kept(precision, tmp_path):
    """On an adapter whose buffers hold the f32 embedding in parts only."""
    fields = small_models.SIZES | {"max_sequence_length": 100}
    model = small_models.random_model()
    model.fields, model.weights = fields, reference.random_weights(GPT2Config(**fields), 1, 0.3)
    device = new_device("llvmpipe", max_storage_buffer_binding_size=2 * 100 * 24 * 4)
    lm = GPT2CausalLM(load_backbone(device, model, tmp_path, precision=precision))
    parts = lm.backbone.weights.matrices["wte.weight"].parts
    assert len(parts) == (2 if precision == "f32" else 1)
    for position in (20, 99):
        inspection = lm.inspect(TEXT[:100], position, top=100)
        kept = reference.kept(model.weights, precision)
        check(inspection, *twin(model, TEXT[: position + 1], kept))
    lm.close()
    device.destroy()


def test_positions_anywhere_in_a_text_and_its_cache(lm):
    """0, the context's end, both sides of a split; before and behind what the cache holds."""
    model = small_models.random_model()
    text = [*TEXT, *range(10)]
    context = small_models.SIZES["max_sequence_length"]
    assert len(text) == context
    for position in (100, 0, 255, context - 1, 256, -context, -1):
        inspection = lm.inspect(text, position, top=3)
        at = position % context
        assert inspection.position == at
        check(inspection, *twin(model, text[: at + 1]))
    other = [7, *text[1:50]]  # nothing of it is there
    check(lm.inspect(other, top=3), *twin(model, other))
    assert len(ids_of(lm, [[1, 2], [3, 4, 5]], max_new_tokens=3)) == 6  # nor behind a batch
    check(lm.inspect(other, top=3), *twin(model, other))


def test_the_lens_ends_with_what_the_model_says(lm):
    inspection = lm.inspect(TEXT, 40, top=100)
    logits = lm([TEXT[:41]]).numpy()[0, -1].astype(np.float64)
    said = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    ids = [i for i, _ in inspection.lens[-1]]
    assert np.abs(np.array([p for _, p in inspection.lens[-1]]) - said[ids]).max() < 1e-5
    assert ids == np.argsort(-logits, kind="stable")[:100].tolist()


def test_without_ids_to_list_there_is_no_lens(lm):
    inspection = lm.inspect(TEXT, 3, top=0)
    assert inspection.lens == []
    assert inspection.attention.shape == (2, 2, 4)


def test_ids_without_a_text_are_not_listed(llvmpipe, tmp_path):
    """A vocabulary rounded up from the tokenizer's 257 ids."""
    fields = small_models.SIZES | {"vocabulary_size": 272}
    model = small_models.random_model()
    model.fields, model.weights = fields, reference.random_weights(GPT2Config(**fields), 3)
    lm = small_models.load(llvmpipe, model, tmp_path)
    inspection = lm.inspect([1, 2, 3], top=100)
    assert {i for layer in inspection.lens for i, _ in layer} <= set(range(257))
    assert max(candidate.id for candidate in inspection.next_tokens(5.0, top=100)) < 257


# ---- what sampling makes of it -------------------------------------------------------------------

SETTINGS = [
    Sampling(),
    Sampling(0.7, 40),
    Sampling(1.3, None, 0.8),
    Sampling(0.9, 100, 0.95, 0.05, 1.4),
    Sampling(repetition_penalty=0.6, min_p=0.2),
    Sampling(0),
]


def settings_of(sampling):
    return {name: getattr(sampling, name) for name in Sampling.__dataclass_fields__}


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_next_tokens_are_those_of_the_cpu_twin_of_sampling(lm, sampling):
    ids = TEXT[:60]
    inspection = lm.inspect(ids)
    found = inspection.next_tokens(**settings_of(sampling), top=100)
    logits = lm([ids]).numpy()[0, -1].tolist()
    warm = Sampling(sampling.temperature, repetition_penalty=sampling.repetition_penalty)
    before, after = probabilities(logits, warm, ids), probabilities(logits, sampling, ids)
    for candidate in found:
        assert abs(candidate.logit - logits[candidate.id]) < 1e-4
        assert abs(candidate.after_temperature - before[candidate.id]) < 1e-5
        assert abs(candidate.after_cuts - after[candidate.id]) < 1e-5
        assert candidate.kept == (after[candidate.id] > 0)
    assert [c.after_temperature for c in found] == sorted(
        (c.after_temperature for c in found), reverse=True
    )
    assert found.kept == sum(p > 0 for p in after)
    listed = sum(candidate.after_cuts for candidate in found)
    assert abs(listed - 1) < 1e-9 if found.kept <= 100 else 0.5 < listed < 1
    tops = dict(inspection.lens[-1])
    for candidate in found:
        assert candidate.logprob == tops.get(candidate.id, candidate.logprob)  # the same bits
    assert found[0].text == lm.tokenizer.detokenize([found[0].id])


def test_next_tokens_and_generation_agree_to_the_last_bit(lm):
    """The position of each generated id, looked into: its log-probability and its alternatives."""

    async def generate():
        options = {"max_new_tokens": 12, "temperature": 1.5, "seed": 3, "logprobs": 5}
        return [piece async for piece in lm.stream(TEXT[:30], **options)]

    pieces = asyncio.run(generate())
    new = [i for piece in pieces for i in piece.ids]
    logprobs = [p for piece in pieces for p in piece.logprobs]
    tops = [top for piece in pieces for top in piece.top]
    assert len(new) == 12
    for n, id_ in enumerate(new):
        inspection = lm.inspect([*TEXT[:30], *new], 29 + n, top=100)
        says = dict(inspection.lens[-1])
        assert list(says.items())[:5] == tops[n]
        assert says.get(id_, logprobs[n]) == logprobs[n]
        drawn = {c.id: c for c in inspection.next_tokens(1.5, top=100)}
        assert id_ not in drawn or drawn[id_].kept


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_k": 0}, {"top_p": 2.0}, {"top": 0}, {"top": 101}]
)
def test_settings_that_sampling_refuses_are_refused(lm, settings):
    inspection = lm.inspect(TEXT[:5], top=0)
    with pytest.raises(ValueError):
        inspection.next_tokens(**settings)
    assert len(inspection.next_tokens(top=100)) == 100


# ---- nobody else notices -------------------------------------------------------------------------


def ids_of(lm, prompt, **options):
    options = {"temperature": 1.2, "seed": 1} | options

    async def collect():
        async with lm.stream(prompt, **options) as stream:
            return [i async for piece in stream for i in piece.ids]

    return asyncio.run(collect())


def cache_bits(lm):
    return [layer.numpy().tobytes() for layer in lm._decoder.cache.layers]


def test_a_text_goes_on_as_if_nobody_had_looked(lm):
    prompt = TEXT[:20]
    whole = ids_of(lm, prompt, max_new_tokens=60, temperature=0)
    half = ids_of(lm, prompt, max_new_tokens=30, temperature=0)
    text = prompt + half
    before, cached = cache_bits(lm), list(lm._decoder.cached[0])
    assert cached == text[:-1]
    for position in (0, 19, 25, 48):
        lm.inspect(text, position).close()
    assert lm._decoder.cached[0] == cached
    assert cache_bits(lm) == before  # to the last bit, also of the tokens that were looked at
    lm.inspect(text).close()  # whose last one was not in the cache
    assert lm._decoder.cached[0] == text
    assert half + ids_of(lm, text, max_new_tokens=30, temperature=0) == whole
    drawn = ids_of(lm, prompt, max_new_tokens=60)
    lm.inspect([9, 9, 9]).close()  # another text
    assert ids_of(lm, prompt, max_new_tokens=60) == drawn


def test_an_alternative_is_gone_on_from_with_the_prefix_kept(lm):
    prompt = TEXT[:40]
    new = ids_of(lm, prompt, max_new_tokens=10)
    inspection = lm.inspect(prompt + new, len(prompt) + 3)
    other = next(c.id for c in inspection.next_tokens() if c.id != new[4])
    taken = []
    prefill = lm._decoder.prefill

    def counted(spans):
        taken.append([len(ids) for _, _, ids in spans])
        return prefill(spans)

    lm._decoder.prefill = counted
    try:
        again = ids_of(lm, [*prompt, *new[:4], other], max_new_tokens=5)
    finally:
        del lm._decoder.prefill
    assert len(again) == 5
    assert taken == [[0]]  # nothing was read again


def test_a_stream_that_is_being_read_ends_first(lm):
    order = []

    async def write():
        async for piece in lm.stream(TEXT[:10], max_new_tokens=20, seed=2, steps_per_submit=1):
            order.append("piece" if piece.finish_reason is None else "end")

    async def look():
        await asyncio.sleep(0)  # the stream has its turn
        inspection = await lm.inspect_async(TEXT[:10])
        order.append("inspection")
        return inspection

    async def both():
        return await asyncio.gather(write(), look())

    _, inspection = asyncio.run(both())
    assert order[-2:] == ["end", "inspection"] and order.count("piece") > 1
    check(inspection, *twin(small_models.random_model(), TEXT[:10]))


def test_after_a_stop_and_beside_other_inspections(lm):
    async def stopped():
        stream = lm.stream(TEXT[:10], max_new_tokens=100, seed=2)
        async for _ in stream:
            stream.cancel()
        async with lm.stream(TEXT[:12], max_new_tokens=100, seed=2) as left:
            async for _ in left:
                break
        asked = [lm.inspect_async(TEXT[:n], top=3) for n in (10, 30, 12)]
        found = await asyncio.gather(*asked)
        sampled = [found[0].next_tokens_async(top_k=k, top=5) for k in (1, 2, 3)]
        return found, [listed.kept for listed in await asyncio.gather(*sampled)]

    found, kept = asyncio.run(stopped())
    for inspection, n in zip(found, (10, 30, 12), strict=True):
        check(inspection, *twin(small_models.random_model(), TEXT[:n]))
    assert kept == [1, 2, 3]


def test_one_given_up_while_it_waits_leaves_nothing(lm):
    async def give_up():
        stream = lm.stream(TEXT[:10], max_new_tokens=5, seed=2)
        await anext(stream)
        task = asyncio.ensure_future(lm.inspect_async(TEXT[:10]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        async for _ in stream:
            pass
        return task.cancelled()

    assert asyncio.run(give_up())
    assert len(lm.inspect(TEXT[:10]).lens) == 3


def test_what_is_given_up_on_the_way_hinders_nothing(lm):
    """At any moment: while the prompt is read, and while results come."""

    async def give_up(call, turns):
        task = asyncio.ensure_future(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def main():
        for turns in range(12):
            await give_up(lm.inspect_async([turns, *TEXT[:280]]), turns)
        inspection = await lm.inspect_async(TEXT[:40])
        wanted = await inspection.next_tokens_async(top_k=7)
        before = len(lm.backbone.device.live)
        for turns in range(12):
            await give_up(inspection.next_tokens_async(0.5), turns)
        assert len(lm.backbone.device.live) == before
        return inspection, wanted, await inspection.next_tokens_async(top_k=7)

    inspection, wanted, again = asyncio.run(main())
    check(inspection, *twin(small_models.random_model(), TEXT[:40]))
    assert again == wanted and again.kept == 7
    inspection.close()


# ---- what it costs -------------------------------------------------------------------------------


def step_costs(lm):
    """What 32 more ids of the same text cost, four to a submit."""
    ids_of(lm, TEXT[:20], max_new_tokens=9, steps_per_submit=4)
    counts = []
    for tokens in (9, 41):
        with gpu_counts.counting() as found:
            ids_of(lm, TEXT[:20], max_new_tokens=tokens, steps_per_submit=4)
        counts.append(found)
    return counts[1] - counts[0]


def live(lm):
    gc.collect()
    return dict(lm.backbone.device.live)


def test_closed_it_costs_nothing_and_leaves_nothing(llvmpipe, tmp_path):
    lm = small_models.load(llvmpipe, small_models.random_model(), tmp_path)
    untouched = step_costs(lm)
    assert gpu_counts.broken_rules(untouched, tokens=32, num_layers=2, steps_per_submit=4) == set()
    before = live(lm)
    with gpu_counts.counting() as first:
        inspection = lm.inspect(TEXT[:25])
        inspection.next_tokens()
    assert first["createBuffer"] > 5 and first["createBindGroup"] > 5  # it is seen
    assert len(live(lm)) > len(before)
    opened = step_costs(lm)  # open, it is not in a step either
    inspection.close()
    inspection.close()
    assert live(lm) == before
    assert step_costs(lm) == opened == untouched
    with pytest.raises(DeviceError, match="was closed") as raised:
        inspection.next_tokens()
    assert raised.value.code == "closed"
    lm.close()


def test_a_slider_costs_one_submit(lm):
    inspection = lm.inspect(TEXT[:25])
    inspection.next_tokens()
    with gpu_counts.counting() as counts:
        for temperature in (0.5, 0.7, 0.9):
            inspection.next_tokens(temperature)
    assert counts["submit"] == counts["beginComputePass"] == counts["writeBuffer"] == 3
    assert counts["dispatchWorkgroups"] == 9
    assert not any(counts[name] for name in gpu_counts.MADE)
    inspection.close()


def test_looking_costs_a_step_and_a_kernel_a_layer(lm):
    """Of a text in the cache: a step, the attention of each layer, the head over all layers; and
    not a pipeline the second time."""
    lm.inspect(TEXT[:25]).close()
    with gpu_counts.counting() as counts:
        inspection = lm.inspect(TEXT[:25])
    layers = small_models.SIZES["num_layers"]
    assert counts["dispatchWorkgroups"] == 5 * layers + 2 + layers + 3
    assert counts["submit"] == layers + 4
    assert counts["createComputePipeline"] == counts["createShaderModule"] == 0
    with gpu_counts.counting() as without:
        lm.inspect(TEXT[:25], top=0)
    assert without["dispatchWorkgroups"] == 5 * layers + 2 + layers
    inspection.close()


def test_what_is_dropped_is_freed(lm):
    before = live(lm)
    inspection = lm.inspect(TEXT[:25])
    inspection.next_tokens()
    assert len(live(lm)) > len(before)
    del inspection
    assert live(lm) == before


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([1, 2, 3], 3), "position: wanted a whole number of -3 to 2, got 3"),
        (([1, 2, 3], -4), "position: wanted a whole number of -3 to 2, got -4"),
        (([1, 2, 3], 0.5), "position: wanted a whole number of -3 to 2, got 0.5"),
        (([1, 257],), "token_ids: wanted ids of 0 to 256, got 257"),
        (([1, -1],), "token_ids: wanted ids of 0 to 256, got -1"),
        (([],), "token_ids: wanted a list of ids, at least one"),
        (([[1, 2]],), "token_ids: wanted a list of ids, at least one"),
        (("abc",), "token_ids: wanted a list"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(lm, arguments, text):
    with pytest.raises(ValueError) as raised:
        lm.inspect(*arguments)
    assert text in str(raised.value)
    assert getattr(raised.value, "code", "option-invalid") == "option-invalid"
    lm.inspect([1, 2, 3], 2, top=0).close()  # nothing is held


def test_a_text_beyond_the_context_is_too_long(lm):
    with pytest.raises(ValueError) as raised:
        lm.inspect([1] * 301)
    assert raised.value.code == "prompt-too-long"
    assert lm.inspect([1] * 300, top=0).position == 299


def test_a_closed_model_closes_what_looks_into_it(llvmpipe, tmp_path):
    lm = small_models.load(llvmpipe, small_models.random_model(), tmp_path)
    before = live(lm)
    inspection = lm.inspect(TEXT[:25], top=2)
    inspection.next_tokens()
    lm.close()
    assert inspection.closed and len(inspection.lens) == 3
    assert len(set(llvmpipe.live) - set(before)) == 0
    for call in (inspection.next_tokens, lambda: lm.inspect([1])):
        with pytest.raises(DeviceError, match="closed") as raised:
            call()
        assert raised.value.code == "closed"


def test_values_beyond_the_adapters_buffers_are_refused_with_both_numbers(tmp_path):
    model = small_models.random_model()
    fields = model.fields | {"num_layers": 60, "max_sequence_length": 300}
    model.fields, model.weights = fields, reference.random_weights(GPT2Config(**fields), 3)
    device = new_device("llvmpipe", max_storage_buffer_binding_size=2 * 300 * 24 * 4)
    lm = GPT2CausalLM(load_backbone(device, model, tmp_path))
    assert len(lm.inspect(TEXT, 100, top=1).lens) == 61  # the lens by rows
    with pytest.raises(DeviceError, match="136,800 bytes, the adapter allows 57,600") as raised:
        lm.inspect(TEXT, 284)
    assert raised.value.code == "device-limit"
    lm.close()
    device.destroy()


# ---- where the weights are -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_map_of_the_weights_adds_up(llvmpipe, precision):
    backbone = GPT2Backbone(**small_models.SIZES, precision=precision, device=llvmpipe)
    lm = GPT2CausalLM(backbone)
    before = live(lm)
    found = lm.parameters()
    backbone([[1]])  # makes the weights
    gc.collect()
    assert sum(p.gpu_bytes for p in found) == sum(
        size for key, size in live(lm).items() if key not in before
    )
    assert sum(p.parameters for p in found) == backbone.count_params()
    shapes = reference.weight_shapes(backbone.config)
    assert {p.name: p.shape for p in found} == shapes
    kept = {p.name: p.precision for p in found}
    assert kept["h.1.mlp.c_fc.weight"] == precision and kept["wpe.weight"] == "f32"
    assert kept["wte.weight"] == ("int8" if precision == "int4" else precision)
    lm.close()


def test_the_map_of_gpt2_is_124_million_parameters():
    found = parameters(GPT2Config.from_preset("gpt2"), "f16")
    assert sum(p.parameters for p in found) == 124_439_808
    wte = next(p for p in found if p.name == "wte.weight")
    assert (wte.shape, wte.precision, wte.gpu_bytes) == ((50257, 768), "f16", 50260 * 768 * 2)
