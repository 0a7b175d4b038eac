"""What test_api_in_page.py runs in Chromium, and natively too: the public API as one would use it,
on lists alone. Each function returns plain values."""

import json
import sys

from gpt2web import (
    BytePairTokenizer,
    CheckpointError,
    GPT2Backbone,
    GPT2CausalLM,
    GPT2CausalLMPreprocessor,
    GPT2Config,
    GPT2Preprocessor,
    GPT2Tokenizer,
    StartEndPacker,
    samplers,
)

MERGES = ["Ġ a", "Ġ t", "Ġ i", "Ġ b", "a i", "p l", "n e", "Ġa t", "p o", "r t", "Ġt h", "ai r"]
MERGES += ["pl a", "po rt", "Ġai r", "Ġa i", "pla ne"]
VOCABULARY = {"!": 0, "air": 1, "Ġair": 2, "plane": 3, "Ġat": 4, "port": 5, "<|endoftext|>": 6}


async def run(check, arguments):
    """The JSON of what a function here returns for the JSON of its arguments."""
    return json.dumps(await globals()[check](**json.loads(arguments)))


# ---- text ----------------------------------------------------------------------------------------


async def tokenizers():
    tokenizer = GPT2Tokenizer(VOCABULARY, MERGES)
    pieces = BytePairTokenizer(VOCABULARY, MERGES, dtype="string", sequence_length=4)
    anything = GPT2Tokenizer(None, [])
    text = "naïve 🐉\n\n 'tis 123"
    return {
        "ids": tokenizer("airplane at airport<|endoftext|>"),
        "batch": tokenizer(["air", "plane at"]),
        "pieces": pieces(["airplane at airport", "air"]),
        "text": tokenizer.detokenize([[1, 3], [4, 2, 5]]),
        "any text": anything.detokenize(anything.tokenize(text)) == text,
        "names": [tokenizer.id_to_token(4), tokenizer.token_to_id("port")],
        "again": GPT2Tokenizer.from_config(as_json(tokenizer.get_config()))("airport"),
    }


async def packers():
    pack = StartEndPacker(6, start_value=[1, 2], end_value=9, return_padding_mask=True)
    left = StartEndPacker(5, start_value="<s>", padding_side="left")
    return {
        "one": pack([5, 6, 7]),
        "batch": pack([[5], [6, 7, 8, 9]], add_end_value=False),
        "left": left(["a", "b"], sequence_length=4),
        "again": StartEndPacker.from_config(as_json(left.get_config()))([["a"], []]),
    }


async def preprocessors():
    tokenizer = GPT2Tokenizer(VOCABULARY, MERGES)
    causal = GPT2CausalLMPreprocessor(tokenizer, sequence_length=7)
    prompt = causal.generate_preprocess(["airplane", "air"])
    bare = GPT2CausalLMPreprocessor(tokenizer, 4, add_start_token=False)
    return {
        "packed": GPT2Preprocessor(tokenizer, 8)("airplane at airport"),
        "labelled": causal(["airplane", "air"]),
        "prompt": prompt,
        "texts": causal.generate_postprocess(prompt),
        "again": GPT2CausalLMPreprocessor.from_config(as_json(bare.get_config()))("air"),
    }


async def configs():
    config = GPT2Config.from_preset("gpt2_base_en")
    backbone = GPT2Backbone.from_config(config, precision="f16")
    lm = GPT2CausalLM(backbone)
    made = [samplers.get(name) for name in sorted(samplers.NAMES)]
    return {
        "parameters": config.num_parameters,
        "backbone": GPT2Backbone.from_config(as_json(backbone.get_config())).get_config(),
        "model": GPT2CausalLM.from_config(as_json(lm.get_config())).get_config(),
        "summary": lm.summary().splitlines()[-1],
        "samplers": [
            samplers.get(as_json(samplers.serialize(sampler))).get_config() for sampler in made
        ],
    }


def as_json(config):
    return json.loads(json.dumps(config))


# ---- the model -----------------------------------------------------------------------------------

shared = {}  # "device": that of the page's model, which has made its pipelines


async def preset(base_url):
    """A model by its name, from where the page lies; and what does not lie there."""
    lm = await GPT2CausalLM.from_preset_async("tiny", base_url=base_url)
    shared["device"] = lm.backbone.device
    found = {
        "logits": await values_of(await lm.call_async([[1, 2, 3]])),
        "info": {name: lm.info[name] for name in ("model", "self_test", "parameters", "backend")},
        "adapter": lm.info["adapter"],
    }
    for address in ("http://127.0.0.1:1/models/tiny", base_url + "models/nowhere"):
        found[address] = await failure(
            GPT2CausalLM.from_preset_async(address, base_url=base_url), CheckpointError
        )
    return found


async def failure(call, kind=Exception):
    try:
        await call
    except kind as error:
        return [type(error).__name__, str(error)]
    return None


async def values_of(tensor):
    return (await tensor.read()).tolist()


async def backbone_of(fields, weights):
    backbone = GPT2Backbone(**fields, device=shared.get("device"))
    await backbone.load_weights_async(weights)
    return backbone


async def functions(fields, weights, ids, mask, targets, split):
    """A model's outputs for a batch, whole and by way of caches of its first `split` columns."""
    lm = GPT2CausalLM(await backbone_of(fields, weights))
    n = len(ids[0])
    found = {
        "hidden": await lm.backbone.call_async({"token_ids": ids, "padding_mask": mask}),
        "logits": await lm.call_async({"token_ids": ids}),
        "scores": await lm.score_async(ids, scoring_mode="logits"),
        "losses": await lm.score_async(ids, mask, "loss", targets),
    }
    padded = [row[:split] + [0] * (n - split) for row in ids]
    rest = [row[split:] for row in ids]
    _, cache = await lm.build_cache_async(padded)
    as_array = await values_of(cache)
    found["cached"], found["cached hidden"], again = await lm.call_with_cache_async(
        rest, cache, split
    )
    found["from array"], _, _ = await lm.call_with_cache_async(rest, as_array, split)
    try:
        found["logits"].numpy()
    except ModuleNotFoundError:
        no_numpy = True
    values = {name: await values_of(tensor) for name, tensor in found.items()}
    values["shapes"] = {name: list(tensor.shape) for name, tensor in found.items()}
    values["shapes"]["cache"] = list(cache.shape)
    values["in place"] = again is cache
    values["dtype"] = found["logits"].dtype
    values["no numpy"] = no_numpy
    lm.close()
    values["closed"] = await failure(lm.call_async(ids))
    return values


async def generation(fields, weights, merges):
    """Texts and ids that every sampler writes."""
    backbone = await backbone_of(fields, weights)
    tokenizer = GPT2Tokenizer(None, merges)
    lm = GPT2CausalLM(backbone, GPT2CausalLMPreprocessor(tokenizer, sequence_length=9))
    lm.compile("greedy")
    prompt = lm.preprocessor.generate_preprocess(["the", "of"])
    found = {
        "text": await lm.generate_async("the", stop_token_ids=None),
        "texts": await lm.generate_async(["the", "of"], 7, [5], True),
        "ids": await lm.generate_async(prompt, stop_token_ids=[5, 6]),
        "row": await lm.generate_step_async({name: rows[0] for name, rows in prompt.items()}),
        "nothing": await lm.generate_async([]),
        "log-probabilities": await lm.log_probabilities_async("of the other"),
        "perplexity": await lm.perplexity_async("of the other"),
    }
    for sampler in (
        samplers.GreedySampler(),
        samplers.TopKSampler(k=3, seed=7),
        samplers.TopPSampler(p=0.9, k=5, seed=7, temperature=1.5),
        samplers.RandomSampler(seed=7),
        samplers.RandomSampler(seed=7, min_p=0.05, repetition_penalty=1.3),
        samplers.BeamSampler(num_beams=3, return_all_beams=True),
        samplers.ContrastiveSampler(k=3, alpha=0.4),
        Last(),
    ):
        lm.compile(sampler)
        name = f"{type(sampler).__name__} {len(found)}"
        found[name] = await lm.generate_async(["the", "of"], stop_token_ids=None)
    live = backbone.device.live
    before = dict(live)
    await lm.generate_async(["the", "of"], stop_token_ids=None)
    found["nothing left"] = live == before
    lm.close()
    return found


class Last(samplers.Sampler):
    """A class of one's own."""

    def get_next_token(self, probabilities):
        return [max(i for i, p in enumerate(row) if p > 0.004) for row in probabilities]


# ---- what a page is without ----------------------------------------------------------------------


async def blocking_forms(fields):
    """What each plain form raises in a page: {twin that should be named: [type, text]}."""
    lm = GPT2CausalLM(GPT2Backbone(**fields))
    ids, prompt = [[1, 2]], {"token_ids": [[1, 0]], "padding_mask": [[True, False]]}
    calls = {
        "GPT2CausalLM.from_preset_async": lambda: GPT2CausalLM.from_preset("stories"),
        "GPT2CausalLM.call_async": lambda: lm(ids),
        "GPT2CausalLM.call_async ": lambda: lm.call(ids),
        "GPT2CausalLM.call_with_cache_async": lambda: lm.call_with_cache(ids, None, 0),
        "GPT2CausalLM.build_cache_async": lambda: lm.build_cache(ids),
        "GPT2CausalLM.generate_async": lambda: lm.generate(prompt, stop_token_ids=None),
        "GPT2CausalLM.generate_step_async": lambda: lm.generate_step(prompt),
        "GPT2CausalLM.score_async": lambda: lm.score(ids),
        "GPT2CausalLM.log_probabilities_async": lambda: lm.log_probabilities("a"),
        "GPT2CausalLM.perplexity_async": lambda: lm.perplexity("a"),
        "GPT2Backbone.call_async": lambda: lm.backbone(ids),
        "GPT2Backbone.load_weights_async": lambda: lm.backbone.load_weights({}),
    }
    found = {}
    for twin, call in calls.items():
        try:
            call()
        except RuntimeError as error:
            found[twin.strip()] = [type(error).__name__, str(error)]
    found["asked for no device"] = lm.backbone.device is None
    found["numpy"] = "numpy" in sys.modules
    return found
