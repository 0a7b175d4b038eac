"""generate, generate_step, log-probabilities and perplexity as users of KerasHub call them: ids and
texts in, the same out, against a greedy loop in numpy."""

import json
import math

import numpy as np
import pytest

import reference
from gpt2web import GPT2Backbone, GPT2CausalLM, GPT2CausalLMPreprocessor, GPT2Tokenizer
from gpt2web.__main__ import main
from gpt2web.samplers import GreedySampler, RandomSampler
from test_api import assert_close, make_lm

pytestmark = pytest.mark.gpu

on_llvmpipe = pytest.mark.parametrize("device", ["llvmpipe"], indirect=True)
MERGES = ["Ġ a", "Ġ t", "Ġ i", "Ġ b", "a i", "p l", "n e", "Ġa t", "p o", "r t", "Ġt h", "ai r"]
MERGES += ["pl a", "po rt", "Ġai r", "Ġa i", "pla ne"]
VOCABULARY = {"!": 0, "air": 1, "Ġair": 2, "plane": 3, "Ġat": 4, "port": 5, "<|endoftext|>": 6}
END = 6
TEXT_SIZES = {
    "vocabulary_size": 7,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 16,
}


class TextModel:
    """A model of seven ids, and the numpy loop that says what it writes."""

    def __init__(self, device, **options):
        self.backbone = GPT2Backbone(**TEXT_SIZES, device=device)
        self.weights = reference.random_weights(self.backbone.config, 31, 0.5)
        self.backbone.load_weights(self.weights)
        self.tokenizer = GPT2Tokenizer(VOCABULARY, MERGES)
        options = {"sequence_length": 12} | options
        self.lm = GPT2CausalLM(self.backbone, GPT2CausalLMPreprocessor(self.tokenizer, **options))
        self.lm.compile("greedy")

    def ids_after(self, prompt, count, stops=()):
        return greedy(self.backbone.config, self.weights, prompt, count, stops)


def greedy(config, weights, prompt, count, stops=()):
    """The most probable ids, a whole forward pass each, through the first stop id."""
    ids = [int(i) for i in prompt]
    for _ in range(count):
        logits = reference.forward(config, weights, np.array(ids))[-1]
        second, first = np.sort(logits)[-2:]
        assert first - second > 1e-4  # what a GPU may get wrong
        ids.append(int(logits.argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.fixture
def text(device):
    return TextModel(device)


@pytest.fixture
def ids(device):
    lm, model = make_lm(device, "one_head_of_64")
    lm.compile("greedy")
    return lm, lambda prompt, count, stops=(): greedy(
        model.config, model.weights, prompt, count, stops
    )


def inputs_of(*prompts, length=12, fill=9):
    """Prompts at the begin of rows of `fill`, which is there to be seen."""
    return {
        "token_ids": [[*prompt, *[fill] * (length - len(prompt))] for prompt in prompts],
        "padding_mask": [[i < len(prompt) for i in range(length)] for prompt in prompts],
    }


PROMPTS = ([1, 2, 3], [40], [7, 30, 55, 96, 0, 11], [5] * 12)  # the last leaves no room


# ---- generate_step -------------------------------------------------------------------------------


def test_rows_are_filled_behind_their_prompts_which_stay(device, ids):
    lm, after = ids
    given = inputs_of(*PROMPTS)
    kept = json.dumps(given)
    output = lm.generate_step(given)
    assert json.dumps(given) == kept
    for row, prompt in enumerate(PROMPTS):
        assert output["token_ids"][row] == [*prompt, *after(prompt, 12 - len(prompt))]
        assert output["padding_mask"][row] == [True] * 12
        alone = lm.generate_step(inputs_of(prompt))
        assert {name: [values[row]] for name, values in output.items()} == alone


@on_llvmpipe
def test_a_row_stays_as_it_was_behind_its_first_new_stop_id(ids):
    lm, after = ids
    first = after(PROMPTS[0], 9)
    stop = next(i for i in first[1:] if i != first[0])
    # a stop id within a prompt stops nothing
    prompts = [*PROMPTS[:2], [stop, *PROMPTS[0]]]
    output = lm.generate_step(inputs_of(*prompts), [stop])
    lengths = []
    for row, prompt in enumerate(prompts):
        wanted = [*prompt, *after(prompt, 12 - len(prompt), [stop])]
        assert output["token_ids"][row] == wanted + [9] * (12 - len(wanted))
        assert output["padding_mask"][row] == [True] * len(wanted) + [False] * (12 - len(wanted))
        lengths.append(len(wanted))
    assert 3 < lengths[0] < 12  # it did stop, and not at once


@on_llvmpipe
def test_a_stop_id_may_be_the_very_first(ids):
    lm, after = ids
    (stop,) = after([1, 2, 3], 1)
    output = lm.generate_step(inputs_of([1, 2, 3]), [stop])
    assert output["token_ids"] == [[1, 2, 3, stop, *[9] * 8]]
    assert output["padding_mask"] == [[True] * 4 + [False] * 8]


@on_llvmpipe
def test_stop_ids_come_as_any_sequence_and_none_are_none(ids):
    lm, after = ids
    written = after([1, 2, 3], 9)
    stop = written[3]
    assert stop not in written[:3]
    prompt = inputs_of([1, 2, 3])
    stopped = lm.generate_step(prompt, [stop])
    for form in ((stop,), {stop}, np.array([stop]), [np.int64(stop)], frozenset([stop]), [stop, 0]):
        assert lm.generate_step(prompt, form) == stopped
        assert lm.generate(prompt, stop_token_ids=form) == stopped
    endless = lm.generate_step(prompt)
    assert endless["token_ids"] == [[1, 2, 3, *written]]
    for form in (None, [], (), np.array([], int)):
        assert lm.generate_step(prompt, form) == endless
        assert lm.generate(prompt, stop_token_ids=form) == endless


@on_llvmpipe
def test_ids_come_flat_or_as_arrays_too(ids):
    lm, _ = ids
    batch = inputs_of([1, 2, 3])
    output = lm.generate_step(batch)
    flat = {name: values[0] for name, values in batch.items()}
    assert lm.generate_step(flat) == {name: values[0] for name, values in output.items()}
    assert lm.generate_step({name: np.array(values) for name, values in batch.items()}) == output
    assert lm.generate_step({name: np.array(values) for name, values in flat.items()}) == {
        name: values[0] for name, values in output.items()
    }
    as_ints = batch | {"padding_mask": np.array(batch["padding_mask"]).astype(np.int32)}
    assert lm.generate_step(as_ints) == output
    assert lm.make_generate_function()(batch) == output


@on_llvmpipe
def test_an_empty_batch_stays_empty(ids, text):
    lm, _ = ids
    empty = {"token_ids": [], "padding_mask": []}
    assert lm.generate_step(empty) == empty
    assert lm.generate({"token_ids": np.zeros((0, 5), int), "padding_mask": np.zeros((0, 5))},
                       stop_token_ids=None) == empty  # fmt: skip
    assert text.lm.generate([]) == []
    assert text.lm.generate(["air"]) != []


@on_llvmpipe
def test_more_rows_than_a_batch_holds_are_taken_one_batch_after_another(device):
    lm, model = make_lm(device, "odd_everything")
    lm.compile("greedy")
    prompts = [[i % 5] for i in range(300)]
    output = lm.generate_step(inputs_of(*prompts, length=3, fill=0))
    for i in range(5):
        wanted = [i, *greedy(model.config, model.weights, [i], 2)]
        assert all(row == wanted for row in output["token_ids"][i::5])


BAD_PROMPTS = {
    "no mask": ({"token_ids": [[1, 9]]}, "wanted token_ids and padding_mask, got token_ids"),
    "more": (inputs_of([1]) | {"x": 1}, "got token_ids, padding_mask, x"),
    "left padding": (
        {"token_ids": [[9, 1]], "padding_mask": [[False, True]]},
        r"a prompt begins its row and has no holes; .* got \[False, True\]",
    ),
    "a hole": (
        {"token_ids": [[1, 9, 1, 9]], "padding_mask": [[1, 0, 1, 0]]},
        r"no holes; .* got \[True, False, True, False\]",
    ),
    "no prompt": ({"token_ids": [[9, 9]], "padding_mask": [[0, 0]]}, "at least the first id"),
    "an empty row": ({"token_ids": [[]], "padding_mask": [[]]}, "at least the first id"),
    "a short mask": ({"token_ids": [[1, 9]], "padding_mask": [[1]]}, "the same in the mask"),
    "ragged": (
        {"token_ids": [[1, 9], [1]], "padding_mask": [[1, 0], [1]]},
        "wanted rows of one length",
    ),
    "unknown ids": (inputs_of([257]), "token_ids: wanted ids of 0 to 256, got 257"),
    "too long": (inputs_of([1], length=71), "rows of 71 are longer than the model's context, 70"),
    "a number": ({"token_ids": 1, "padding_mask": 1}, "token_ids: wanted a list"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
@on_llvmpipe
def test_what_is_no_prompt_is_refused(ids, case):
    lm, _ = ids
    inputs, message = BAD_PROMPTS[case]
    lm.generate(inputs_of([1]), stop_token_ids=None)
    for call in (lm.generate_step, lambda x: lm.generate(x, stop_token_ids=None)):
        with pytest.raises(ValueError, match=message):
            call(inputs)


# ---- generate ------------------------------------------------------------------------------------


def text_after(model, prompt_ids, length, stops=(END,)):
    ids = [*prompt_ids, *model.ids_after(prompt_ids, length - len(prompt_ids), stops)]
    return model.tokenizer.detokenize([i for i in ids if i != END])


TEXTS = ["airplane at airport", "air", "plane at", ""]
TEXT_IDS = [[END, 1, 3, 4, 2, 5], [END, 1], [END, 3, 4], [END]]


def test_texts_come_back_as_they_went_in_with_what_follows(device, text):
    lm = text.lm
    wanted = [text_after(text, ids, 12) for ids in TEXT_IDS]
    assert all(w.startswith(t) and len(w) > len(t) for t, w in zip(TEXTS, wanted, strict=True))
    assert [lm.generate(t) for t in TEXTS] == wanted
    assert lm.generate(TEXTS) == wanted
    assert lm.generate(tuple(TEXTS)) == lm.generate(np.array(TEXTS)) == wanted
    assert lm.generate(t for t in TEXTS) == wanted
    assert lm.generate(TEXTS[:1]) == wanted[:1]


@on_llvmpipe
def test_a_dict_gives_ids_and_mask_of_one_row_or_several(text):
    lm, preprocessor = text.lm, text.lm.preprocessor
    for given in ("air", ["air", "plane at"]):
        prompt = preprocessor.generate_preprocess(given, 10)
        output = lm.generate(prompt, stop_token_ids=None)
        assert np.shape(output["token_ids"]) == np.shape(prompt["token_ids"])
        assert preprocessor.generate_postprocess(output) == lm.generate(given, 10, None)
        assert np.all(output["padding_mask"])


@on_llvmpipe
def test_strip_prompt_leaves_only_what_follows(text):
    lm = text.lm
    whole, stripped = lm.generate(TEXTS), lm.generate(TEXTS, strip_prompt=True)
    for t, w, s in zip(TEXTS, whole, stripped, strict=True):
        assert w == t + s and s
        assert lm.generate(t, strip_prompt=True) == s
    prompt = lm.preprocessor.generate_preprocess("air", 10)
    with_it = lm.generate(prompt, stop_token_ids=None)
    without = lm.generate(prompt, stop_token_ids=None, strip_prompt=True)
    assert without["token_ids"] == with_it["token_ids"]
    assert without["padding_mask"] == [False] * 2 + with_it["padding_mask"][2:]
    batch = {name: [values] for name, values in prompt.items()}
    assert lm.generate(batch, stop_token_ids=None, strip_prompt=True)["padding_mask"] == [
        without["padding_mask"]
    ]


@on_llvmpipe
def test_max_length_counts_prompt_and_start_token(text):
    lm = text.lm
    for length in (3, 7, 16):
        found = lm.generate("air", max_length=length, stop_token_ids=None)
        assert found == text_after(text, [END, 1], length, ())
    # None is the preprocessor's, which may be set, and at most the context
    for length in (8, 12, 16, 500):
        lm.preprocessor.sequence_length = length
        found = lm.generate("air", stop_token_ids=None)
        assert found == text_after(text, [END, 1], min(length, 16), ())
    assert lm.generate("air", max_length=np.int64(3)) == lm.generate("air", max_length=3)


@on_llvmpipe
def test_a_prompt_that_is_too_long_is_cut_and_nothing_follows(text):
    lm = text.lm
    assert lm.generate("airplane at airport", max_length=4) == "airplane at"
    assert lm.generate("airplane at airport", max_length=1) == ""
    prompt = {"token_ids": [[6, 1, 3, 4]], "padding_mask": [[True] * 4]}
    cut = {"token_ids": [[6, 1]], "padding_mask": [[True] * 2]}
    assert lm.generate(prompt, max_length=2) == cut
    longer = lm.generate(prompt, max_length=6, stop_token_ids=None)
    assert longer["token_ids"] == [[6, 1, 3, 4, *text.ids_after([6, 1, 3, 4], 2)]]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"max_length": 17}, ValueError, "max_length is 17, the model's context holds 16 tokens"),
        ({"max_length": 0}, ValueError, "max_length .* at least 1, got 0"),
        ({"max_length": True}, TypeError, "max_length must be a whole number .* got True"),
        ({"max_length": 3.0}, TypeError, "max_length must be a whole number .* got 3.0"),
        ({"stop_token_ids": "end"}, ValueError, "\"auto\", None or a list of ids, got 'end'"),
        ({"stop_token_ids": [[5]]}, ValueError, r"stop_token_ids: wanted ids .* got \[5\]"),
        ({"stop_token_ids": [7]}, ValueError, "stop_token_ids: wanted ids of 0 to 6, got 7"),
        ({"stop_token_ids": [True]}, ValueError, "stop_token_ids: wanted ids .* got True"),
        ({"max_lenght": 3}, TypeError, "max_lenght"),
    ],
)
@on_llvmpipe
def test_an_option_that_makes_no_sense_is_refused(text, options, error, message):
    text.lm.generate("air", max_length=16, stop_token_ids=[5])
    with pytest.raises(error, match=message):
        text.lm.generate("air", **options)


@pytest.mark.parametrize("inputs", [5, None, [1, 2], [None], b"air", [["air"], ["at"]]])
@on_llvmpipe
def test_what_is_no_text_is_refused(text, inputs):
    with pytest.raises(ValueError, match=r"string|segment"):
        text.lm.generate(inputs)


@on_llvmpipe
def test_auto_is_the_end_token_and_none_runs_to_max_length(text):
    lm, written = text.lm, text.ids_after([END, 1], 10)
    end = written.index(END)
    assert 0 < end < 9
    prompt = {"token_ids": [6, 1, *[0] * 10], "padding_mask": [True] * 2 + [False] * 10}
    stopped = lm.generate(prompt)
    assert stopped["token_ids"] == [6, 1, *written[: end + 1], *[0] * (9 - end)]
    assert stopped["padding_mask"] == [True] * (end + 3) + [False] * (9 - end)
    assert lm.generate(prompt, stop_token_ids="auto") == stopped
    assert lm.generate(prompt, stop_token_ids=None)["token_ids"] == [6, 1, *written]
    assert lm.generate("air") == "air" + text.tokenizer.detokenize(written[:end])
    everything = [i for i in written if i != END]
    assert lm.generate("air", stop_token_ids=None) == "air" + text.tokenizer.detokenize(everything)


@on_llvmpipe
def test_auto_without_a_preprocessor_says_what_to_pass(ids, text):
    lm, _ = ids
    with pytest.raises(ValueError, match=r'"auto" .* this model has none: pass ids, or None'):
        lm.generate(inputs_of([1]))
    lm.generate(inputs_of([1]), stop_token_ids=None)
    with pytest.raises(ValueError, match="no preprocessor: pass token_ids and padding_mask"):
        lm.generate("air", stop_token_ids=None)
    text.lm.preprocessor = None
    assert lm.preprocessor is None and text.lm.generate(inputs_of([1], fill=0), None, None)


@on_llvmpipe
def test_special_text_in_a_prompt_is_special_and_not_written(text):
    found = text.lm.generate("air<|endoftext|>plane", stop_token_ids=None)
    assert found == text_after(text, [END, 1, END, 3], 12, ())
    assert found.startswith("airplane")


@on_llvmpipe
def test_a_preprocessor_without_start_token_is_followed(device):
    text = TextModel(device, add_start_token=False)
    assert text.lm.generate("air", stop_token_ids=None) == text_after(text, [1], 12, ())
    assert text.lm.generate("", stop_token_ids=None) == text_after(text, [END], 12, ())
    with_it = TextModel(device)
    assert with_it.lm.generate("air", stop_token_ids=None) == text_after(text, [END, 1], 12, ())


@on_llvmpipe
def test_a_fresh_sampler_with_the_same_seed_writes_the_same_and_goes_on(text):
    lm = text.lm

    def three(sampler):
        lm.compile(sampler)
        return [lm.generate(["air", "plane"], stop_token_ids=None) for _ in range(3)]

    first = three(RandomSampler(seed=5))
    assert len({str(each) for each in first}) == 3
    assert three(RandomSampler(seed=5)) == first
    assert three(RandomSampler(seed=6)) != first
    lm.compile(GreedySampler())
    assert lm.generate("air", stop_token_ids=None) == text_after(text, [END, 1], 12, ())


def test_a_model_comes_back_from_its_config():
    backbone = GPT2Backbone(**TEXT_SIZES, dropout=0.2)
    preprocessor = GPT2CausalLMPreprocessor(
        GPT2Tokenizer(VOCABULARY, MERGES), sequence_length=9, add_start_token=False
    )
    lm = GPT2CausalLM(backbone, preprocessor)
    config = json.loads(json.dumps(lm.get_config()))
    again = GPT2CausalLM.from_config(config)
    assert again.get_config() == lm.get_config() == config
    assert again.backbone.config == backbone.config
    assert again.preprocessor(TEXTS) == preprocessor(TEXTS)
    assert lm.summary().splitlines()[0] == "GPT2Tokenizer: 7 tokens"
    assert lm.summary().endswith(backbone.summary())
    bare = GPT2CausalLM(backbone)
    assert GPT2CausalLM.from_config(bare.get_config()).preprocessor is None
    assert bare.get_config()["preprocessor"] is None
    padded = GPT2Backbone(**TEXT_SIZES | {"vocabulary_size": 8})  # 7 rounded up to a multiple of 8
    assert GPT2CausalLM(padded, preprocessor).preprocessor is preprocessor
    for other in (9, 6):
        with pytest.raises(ValueError, match=rf"the tokenizer has 7 ids, the model {other}"):
            GPT2CausalLM(GPT2Backbone(**TEXT_SIZES | {"vocabulary_size": other}), preprocessor)


# ---- log-probabilities and perplexity ------------------------------------------------------------


def losses_of(model, ids):
    """Of ids[1:], each after those before it."""
    logits = reference.forward(model.backbone.config, model.weights, np.array(ids[:-1]))
    return reference.token_loss(logits, np.array(ids[1:]))


@on_llvmpipe
def test_a_short_text_has_the_log_probabilities_of_the_reference(text):
    lm = text.lm
    for add, ids in ((False, [1, 3, 4, 2, 5]), (True, TEXT_IDS[0])):
        lm.add_start_token = add  # as its folder would say
        found = lm.log_probabilities("airplane at airport")
        assert [i for i, _ in found] == ids[1:]
        assert_close(np.array([p for _, p in found]), -losses_of(text, ids))
        mean = losses_of(text, ids).mean()
        assert lm.perplexity("airplane at airport") == pytest.approx(math.exp(mean), rel=1e-4)


@on_llvmpipe
def test_of_a_text_longer_than_the_context_each_id_counts_once(text):
    lm = text.lm
    long = "airplane" + " at airport" * 20
    ids = text.tokenizer.encode_plain(long)
    assert len(ids) > 3 * 16
    windows = [ids[at : at + 16] for at in range(0, len(ids), 16)]
    lm.add_start_token = True
    done = []
    found = lm.log_probabilities(long, lambda *counts: done.append(counts))
    assert [i for i, _ in found] == ids
    ends = [*range(16, len(ids), 16), len(ids)]
    assert done == [(end, len(ids)) for end in ends] and len(done) > 3
    wanted = np.concatenate([losses_of(text, [END, *window]) for window in windows])
    assert_close(np.array([p for _, p in found]), -wanted)
    lm.add_start_token = False
    found = lm.log_probabilities(long)
    assert [i for i, _ in found] == ids[1:]
    windows = [ids[at : at + 17] for at in range(0, len(ids) - 1, 16)]  # an id from before
    wanted = np.concatenate([losses_of(text, window) for window in windows])
    assert_close(np.array([p for _, p in found]), -wanted)
    assert lm.perplexity(long) == pytest.approx(math.exp(wanted.mean()), rel=1e-4)


@on_llvmpipe
def test_a_text_that_nothing_foretells_has_no_perplexity(text):
    lm = text.lm
    assert not lm.add_start_token
    for nothing in ("", "air"):
        assert lm.log_probabilities(nothing) == []
        with pytest.raises(ValueError, match="no token that another one foretells"):
            lm.perplexity(nothing)
    lm.add_start_token = True
    assert lm.perplexity("air") > 1


def test_the_bundled_model_has_the_recorded_loss():
    text, ids, losses = reference.recorded_stories().loss
    lm = GPT2CausalLM.from_preset("stories", adapter="llvmpipe")
    found = lm.log_probabilities(text)
    assert [i for i, _ in found] == ids[1:].tolist()
    assert_close(np.array([p for _, p in found]), -losses)
    assert lm.perplexity(text) == pytest.approx(math.exp(losses.mean()), rel=1e-4)
    assert len(lm.log_probabilities("<|endoftext|>")) > 1  # typed text, nothing special
    lm.close()


def test_the_command_line_prints_the_recorded_loss(tmp_path, monkeypatch, capsys):
    text, _, losses = reference.recorded_stories().loss
    (tmp_path / "text").write_text(text)
    monkeypatch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
    assert main(["score", str(tmp_path / "text")]) == 0
    tokens, nats, perplexity = [
        float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines()
    ]
    assert tokens == len(losses)
    assert nats == pytest.approx(losses.mean(), abs=2e-4)
    assert perplexity == pytest.approx(math.exp(losses.mean()), rel=2e-4)
