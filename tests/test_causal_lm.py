"""GPT2CausalLM: from a folder to text; its options, its refusals, and its end."""

import asyncio
import json
import threading

import numpy as np
import pytest

import reference
import small_models
from gpt2web import GPT2Backbone, GPT2CausalLM, GPT2CausalLMPreprocessor, samplers, selftest
from gpt2web.blocking import block_on
from gpt2web.checkpoint import CheckpointError, LocalFolder
from gpt2web.gpu import Device, DeviceError

SCRIPT = "Zoë saw a 🦊 and 東京. The fox ran; the end. "


@pytest.fixture(scope="module")
def loaded(llvmpipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    return small_models.load(llvmpipe, small_models.random_model(), folder)


@pytest.fixture
def lm(loaded):
    """A model that chooses among all, as if just loaded."""
    loaded.compile("random")
    loaded.sampler.seed = 4
    loaded.add_start_token = False
    loaded.preprocessor.add_start_token = True
    return loaded


@pytest.fixture(scope="module")
def writer(llvmpipe, tmp_path_factory):
    """Writes SCRIPT behind a start token, over and over."""
    script = [256, *small_models.tokenizer().encode_plain(SCRIPT)]
    folder = tmp_path_factory.mktemp("writer")
    lm = small_models.load(llvmpipe, small_models.writer_model(script), folder)
    lm.compile("greedy")
    return lm


async def pieces_of(stream):
    return [piece async for piece in stream]


def text_of(stream):
    return "".join(piece.text for piece in asyncio.run(pieces_of(stream)))


def rows_of(stream):
    """The ids of each row."""
    rows = {}
    for piece in asyncio.run(pieces_of(stream)):
        rows.setdefault(piece.row, []).extend(piece.ids)
    return [rows[row] for row in sorted(rows)]


def ids_of(stream):
    return [i for piece in asyncio.run(pieces_of(stream)) for i in piece.ids]


# ---- generate ------------------------------------------------------------------------------------


def test_generate_continues_a_text_to_max_length(writer):
    assert writer.generate("Zoë", max_length=8) == "Zoë saw"[:6]  # start, 4 bytes, 3 more
    assert writer.generate("Zoë", max_length=8, strip_prompt=True) == " sa"
    assert writer.generate("Zoë", max_length=3) == "Zo"  # the prompt is cut
    assert writer.generate("", max_length=5) == "Zoë"
    assert writer.generate(["Zoë", ""], max_length=5) == ["Zoë", "Zoë"]
    assert writer.generate([], max_length=5) == []
    whole = writer.generate("Zoë", stop_token_ids=None)  # the start token is not part of the text
    assert whole.startswith(SCRIPT * 5) and len(whole.encode()) == 300 - 6
    writer.preprocessor.sequence_length = 12
    assert len(writer.generate("Zoë").encode()) == 11
    writer.preprocessor.sequence_length = 300


def test_generate_stops_at_stop_token_ids(writer):
    tokenizer = writer.preprocessor.tokenizer
    (period,) = tokenizer.encode_plain(".")
    text = writer.generate("Zoë", stop_token_ids=[period])
    assert text == SCRIPT[: SCRIPT.index(".") + 1]
    assert writer.generate("Zoë", max_length=20, stop_token_ids=None) == SCRIPT.encode()[
        :19
    ].decode(errors="replace")
    assert writer.generate("Zoë", max_length=20, stop_token_ids=[]) == writer.generate(
        "Zoë", max_length=20
    )


def test_generate_stops_at_the_end_token_unless_told_not_to(llvmpipe, tmp_path):
    ids = small_models.tokenizer().encode_plain("ab")
    script = [256, *ids, 256, *ids]
    lm = small_models.load(llvmpipe, small_models.writer_model(script), tmp_path)
    lm.compile("greedy")
    assert lm.generate("a", max_length=6) == "ab"
    assert lm.generate("a", max_length=6, stop_token_ids=None) == "abab"


def test_special_text_is_special_in_generate_and_typed_in_stream(lm):
    end = lm.preprocessor.tokenizer.end_token_id
    text = "a<|endoftext|>b"
    assert lm.prompt_ids(text, parse_special=True).count(end) == 1
    assert end not in lm.prompt_ids(text)
    assert len(lm.prompt_ids(text)) == len(text)
    assert lm.prompt_ids("") == [end] == lm.prompt_ids("", parse_special=True)
    options = {"seed": 5, "max_new_tokens": 12}
    parsed = ids_of(lm.stream(text, parse_special=True, **options))
    typed = ids_of(lm.stream(text, **options))
    assert parsed != typed
    lm.sampler.seed, lm.sampler.calls = 5, 0
    lm.preprocessor.add_start_token = False
    generated = lm.generate(text, max_length=15, strip_prompt=True)
    assert generated == lm.preprocessor.tokenizer.detokenize(parsed)


def test_the_start_token_stands_before_a_streamed_prompt_where_the_folder_says_so(lm):
    end = lm.preprocessor.tokenizer.end_token_id
    lm.add_start_token = True
    assert lm.prompt_ids("a") == [end, 64]
    assert lm.prompt_ids("") == [end]


def test_ids_are_continued_as_they_are(lm):
    options = {"seed": 5, "max_new_tokens": 12}
    texts = ["a story", "b", ""]
    together = rows_of(lm.stream(texts, **options))
    assert [len(ids) for ids in together] == [12, 12, 12]
    prompts = [lm.prompt_ids(text) for text in texts]
    assert rows_of(lm.stream(prompts, **options)) == together
    assert rows_of(lm.stream([prompts[0], "b", []], **options)) == together
    alone = ids_of(lm.stream(prompts[0], **options))
    assert alone == ids_of(lm.stream(np.array(prompts[0]), **options))
    assert alone == together[0]

    lm.add_start_token = True
    assert ids_of(lm.stream(prompts[0], **options)) == alone
    assert ids_of(lm.stream(texts[0], **options)) != alone


def test_a_samplers_generates_go_on_and_begin_again(lm):
    lm.sampler = samplers.RandomSampler(seed=9)
    first, second = (lm.generate("abc", max_length=40) for _ in range(2))
    assert first != second
    lm.sampler = samplers.RandomSampler(seed=9)
    assert [lm.generate("abc", max_length=40) for _ in range(2)] == [first, second]
    with pytest.raises(ValueError, match="max_length"):
        lm.generate("abc", max_length=0)
    assert lm.sampler.calls == 2  # a refusal is no call
    rows = lm.generate(["abc", "x", "abc"], max_length=40)
    lm.sampler = samplers.RandomSampler(seed=9 + 2)
    lm.sampler.calls = 2
    assert lm.generate("abc", max_length=40) == rows[2]
    lm.sampler = samplers.RandomSampler(seed=9)
    assert text_of(lm.stream("abc", seed=9, max_new_tokens=36)) != ""
    lm.preprocessor.add_start_token = False
    assert lm.generate("abc", max_length=39, strip_prompt=True) == text_of(
        lm.stream("abc", seed=9, max_new_tokens=36)
    )


def test_more_texts_than_a_batch_holds_are_several_batches(lm, monkeypatch):
    texts = [f"text {n}" for n in range(7)]
    wanted = lm.generate(texts, max_length=12)
    monkeypatch.setattr("gpt2web.causal_lm.MAX_ROWS", 3)
    lm.sampler.calls = 0
    assert lm.generate(texts, max_length=12) == wanted
    with pytest.raises(ValueError, match="stream takes 1 to 3 prompts, got 7"):
        lm.stream(texts)
    with pytest.raises(ValueError, match="stream takes 1 to 3 prompts, got 0"):
        lm.stream([])


def test_compile_takes_a_name_or_a_sampler(lm):
    lm.compile("greedy")
    greedy = lm.generate("abc", max_length=30)
    lm.compile(samplers.TopKSampler(k=1, seed=3))
    assert lm.generate("abc", max_length=30) == greedy
    lm.compile(samplers.TopPSampler(p=1e-9, seed=8))
    assert lm.generate("abc", max_length=30) == greedy
    with pytest.raises(ValueError, match=r"no sampler is named 'warm'; there are .*greedy"):
        lm.compile("warm")
    with pytest.raises(ValueError, match=r"a sampler is a name, .*, got 3"):
        lm.compile(3)


# ---- blocking ------------------------------------------------------------------------------------


def test_plain_generate_works_inside_a_running_loop(lm):
    wanted = lm.generate("abc", max_length=20)
    lm.sampler.calls = 0

    async def notebook():
        return lm.generate("abc", max_length=20)

    assert asyncio.run(notebook()) == wanted
    lm.sampler.calls = 0
    assert asyncio.run(lm.generate_async("abc", max_length=20)) == wanted


def test_plain_generate_under_an_open_stream_is_refused_rather_than_waiting_for_ever(lm):
    async def main():
        async with lm.stream("abc", seed=1) as stream:
            first = await anext(stream)
            with pytest.raises(RuntimeError, match=r"aclose\(\) it, or await the _async form"):
                lm.generate("abc", max_length=9)
            await anext(stream)  # unharmed
            assert first.ids
        assert lm.generate("abc", max_length=9)

    asyncio.run(main())


def test_an_awaited_generate_waits_for_a_stream_of_its_thread(lm):
    async def main():
        stream = lm.stream("abc", seed=1, max_new_tokens=30)
        await anext(stream)
        waiting = asyncio.create_task(lm.generate_async("abc", max_length=9))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await pieces_of(stream)
        assert await asyncio.wait_for(waiting, 20)

    asyncio.run(main())


def test_plain_generate_waits_for_a_stream_of_another_thread(lm):
    open_, let_go = threading.Event(), threading.Event()

    async def other():
        async with lm.stream("abc", seed=1) as stream:
            await anext(stream)
            open_.set()
            await asyncio.to_thread(let_go.wait, 10)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert open_.wait(10)
    threading.Timer(0.05, let_go.set).start()
    assert lm.generate("abc", max_length=9)
    thread.join(10)


# ---- seeds ---------------------------------------------------------------------------------------


def test_a_seed_that_was_drawn_is_told_and_gives_the_same_text_again(lm):
    stream = lm.stream("abc", max_new_tokens=30)
    ids = ids_of(stream)
    assert 0 <= stream.seed < 2**32
    assert ids_of(lm.stream("abc", seed=stream.seed, max_new_tokens=30)) == ids
    other = lm.stream("abc", max_new_tokens=30)
    assert other.seed != stream.seed and ids_of(other) != ids
    assert lm.stream("abc", seed=0).seed == 0
    assert lm.stream("abc", seed=2**32 - 1).seed == 2**32 - 1


def test_the_repetition_penalty_counts_the_prompt(lm):
    greedy = {"temperature": 0, "max_new_tokens": 1}
    (id_,) = ids_of(lm.stream("abc", **greedy))
    prompt = lm.preprocessor.tokenizer.detokenize([id_]) + "bc"
    if "\ufffd" not in prompt:
        plain = ids_of(lm.stream(prompt, **greedy))
        assert plain != ids_of(lm.stream(prompt, repetition_penalty=1e6, **greedy)) or plain[
            0
        ] not in lm.prompt_ids(prompt)
    ids = ids_of(lm.stream("abc", temperature=0, repetition_penalty=1e6, max_new_tokens=90))
    assert len(set(ids)) == len(ids) and not set(ids) & set(lm.prompt_ids("abc"))
    assert len(set(ids_of(lm.stream("abc", temperature=0, max_new_tokens=90)))) < 90


# ---- refusals ------------------------------------------------------------------------------------

REFUSALS = [
    ({"temperature": float("nan")}, ValueError, "temperature must be finite, got nan"),
    ({"temperature": -1}, ValueError, "temperature must be 0"),
    ({"temperature": None}, TypeError, "temperature must be a number, got None"),
    ({"top_k": 0}, ValueError, "top_k must be at least 1"),
    ({"top_p": 1.5}, ValueError, "top_p must be over 0 and at most 1"),
    ({"min_p": 0}, ValueError, "min_p must be over 0"),
    ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be between"),
    ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be a whole number of at least 1"),
    ({"max_new_tokens": -3}, ValueError, "at least 1, got -3"),
    ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens must be a whole number"),
    ({"max_new_tokens": True}, TypeError, "max_new_tokens must be a whole number"),
    ({"seed": -1}, ValueError, "seed must be at least 0 and below 2**32, got -1"),
    ({"seed": 2**32}, ValueError, "seed must be at least 0 and below 2**32"),
    ({"seed": 1.5}, TypeError, "seed must be an int or None"),
    ({"seed": True}, TypeError, "seed must be an int or None"),
    ({"logprobs": -1}, ValueError, "logprobs must be a whole number of at least 0"),
    ({"logprobs": 101}, ValueError, "at most 100, got 101"),
    ({"steps_per_submit": 0}, ValueError, "steps_per_submit must be a whole number"),
    ({"steps_per_submit": 65}, ValueError, "at most 64, got 65"),
    ({"stop": ""}, ValueError, "stop must be text that is not empty"),
    ({"stop": ["a", ""]}, ValueError, "stop must be text that is not empty"),
    ({"stop": 5}, TypeError, "stop must be a str or a list of them, got 5"),
    ({"stop": ["a", 5]}, TypeError, "stop must be a str or a list of them, got 5 in it"),
    ({"prompt": None}, TypeError, "a list of token ids, or a list of those, got None"),
    (
        {"prompt": b"abc"},
        TypeError,
        "prompt must be a str, a list of token ids, or a list of those",
    ),
    ({"prompt": ["a", 1]}, TypeError, "or a list of those, got 1 in it"),
    ({"prompt": [1, "a"]}, ValueError, "prompt: wanted ids of 0 to 256, got 'a'"),
    ({"prompt": [[1, 257]]}, ValueError, "prompt: wanted ids of 0 to 256, got 257"),
    ({"prompt": [[1, -1]]}, ValueError, "prompt: wanted ids of 0 to 256, got -1"),
    ({"prompt": [1, 1.5]}, ValueError, "prompt: wanted ids of 0 to 256, got 1.5"),
    ({"prompt": []}, ValueError, "stream takes 1 to 256 prompts, got 0"),
    ({"prompt": [0] * 301}, ValueError, "301 tokens, the model's context holds 300"),
    ({"prompt": "a\ud800b"}, ValueError, "surrogate"),
    ({"prompt": "x" * 301}, ValueError, "301 tokens, the model's context holds 300"),
    ({"top_n": 3}, TypeError, "top_n"),
    ({"max_tokens": 3}, TypeError, "max_tokens"),
]


@pytest.mark.parametrize("options, error, text", REFUSALS)
def test_a_bad_option_of_stream_is_refused_at_once_and_the_next_call_works(
    lm, options, error, text
):
    with pytest.raises(error) as raised:
        lm.stream(**{"prompt": "a", "max_new_tokens": 3} | options)
    assert text in str(raised.value)
    assert len(ids_of(lm.stream("a", seed=1, max_new_tokens=3))) == 3


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"max_length": 0}, ValueError, "max_length must be a whole number of at least 1"),
        ({"max_length": -5}, ValueError, "at least 1, got -5"),
        ({"max_length": 301}, ValueError, "max_length is 301, the model's context holds 300"),
        ({"max_length": 1.5}, TypeError, "max_length must be a whole number"),
        ({"stop_token_ids": [257]}, ValueError, "stop_token_ids: wanted ids of 0 to 256"),
        ({"stop_token_ids": [-1]}, ValueError, "stop_token_ids: wanted ids of 0 to 256"),
        ({"stop_token_ids": [1.5]}, ValueError, "stop_token_ids: wanted ids of 0 to 256, got 1.5"),
        ({"stop_token_ids": "all"}, ValueError, 'stop_token_ids is "auto", None or a list of ids'),
        ({"inputs": None}, ValueError, "string"),
        ({"inputs": [1, 2]}, ValueError, "string"),
        ({"inputs": "\udc00"}, ValueError, "surrogate"),
        ({"temperature": 1}, TypeError, "temperature"),
    ],
)
def test_a_bad_option_of_generate_is_refused_and_the_next_call_works(lm, options, error, text):
    with pytest.raises(error) as raised:
        lm.generate(**{"inputs": "a", "max_length": 9} | options)
    assert text in str(raised.value)
    assert lm.generate("a", max_length=9)


def test_an_error_on_the_way_lets_the_next_call_begin(lm, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gpt2web.generate.Run.submit", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lm.generate("abc", max_length=9)
        with pytest.raises(ZeroDivisionError):
            ids_of(lm.stream("abc"))
    assert lm.generate("abc", max_length=9)
    assert len(ids_of(lm.stream("abc", seed=1, max_new_tokens=5))) == 5


def test_an_interruption_while_it_waits_lets_the_next_call_begin(lm, monkeypatch):
    from gpt2web.gpu import Readback

    good, calls = Readback.take, []

    async def interrupted(readback, size):
        calls.append(size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return await good(readback, size)

    monkeypatch.setattr(Readback, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lm.generate("abc", max_length=60)
    lm.sampler.calls = 0
    text = lm.generate("abc", max_length=60)
    lm.sampler.calls = 0
    assert lm.generate("abc", max_length=60) == text


def test_a_tokenizer_of_another_model_is_refused(llvmpipe):
    preprocessor = GPT2CausalLMPreprocessor(small_models.tokenizer(), sequence_length=20)
    sizes = small_models.SIZES | {"vocabulary_size": 300}
    with pytest.raises(ValueError, match="the tokenizer has 257 ids, the model 300"):
        GPT2CausalLM(GPT2Backbone(**sizes, device=llvmpipe), preprocessor)


def test_text_without_a_preprocessor_is_refused(llvmpipe):
    lm = GPT2CausalLM(GPT2Backbone(**small_models.SIZES, device=llvmpipe))
    for call in (lm.stream, lm.generate):
        with pytest.raises(ValueError, match="this model has no preprocessor"):
            call("a")


# ---- from a folder, and the end ------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return small_models.write_folder(tmp_path / "small", small_models.random_model())


@pytest.fixture
def devices(monkeypatch):
    """The devices that were asked for. The self-test, which compiles everything, is left out."""
    asked, good = [], Device.request

    async def request(*arguments, **options):
        asked.append(await good(*arguments, **options))
        return asked[-1]

    async def passed(device, precision, memory):
        return precision, "passed"

    monkeypatch.setattr(Device, "request", request)
    monkeypatch.setattr(selftest, "run", passed)
    return asked


def load(folder, **options):
    return GPT2CausalLM.from_preset(folder, adapter="llvmpipe", **options)


def test_a_folder_becomes_a_model(folder, devices, lm):
    done = []
    loaded = load(folder, progress=lambda *bytes_: done.append(bytes_))
    assert done[-1][0] == done[-1][1] > 0 and done == sorted(done)
    options = {"seed": 3, "max_new_tokens": 20}
    assert ids_of(loaded.stream("abc", **options)) == ids_of(lm.stream("abc", **options))
    info = loaded.info
    assert (info["model"], info["precision"], info["context"]) == ("small", "f32", 300)
    assert info["parameters"] == loaded.backbone.config.num_parameters
    assert info["gpu_bytes"] == devices[0].live_bytes > 4 * info["parameters"]
    assert "llvmpipe" in info["adapter"] and info["software"] and info["backend"] == "Vulkan"
    assert {"select", "scores", "matmul", "head"} <= set(info["kernels"])
    assert info["self_test"] == "passed"
    loaded.close()
    assert loaded.info["gpu_bytes"] == 0


def test_the_folders_generation_config_is_followed(folder, devices):
    (folder / "generation_config.json").write_text('{"add_start_token": true}')
    lm = load(folder)
    assert lm.prompt_ids("a") == [256, 64]
    lm.close()
    (folder / "generation_config.json").write_text("{}")
    lm = load(folder)
    assert lm.prompt_ids("a") == [64]
    lm.close()
    (folder / "generation_config.json").write_text('["add_start_token"]')
    with pytest.raises(CheckpointError, match=r"generation_config.json: wanted a JSON object"):
        load(folder)


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def drop(name):
    return lambda folder: (folder / name).unlink()


def rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    "spoil, text",
    [
        (drop("config.json"), "small has no config.json"),
        (drop("merges.txt"), "small has no merges.txt"),
        (drop("model.safetensors"), "model.safetensors"),
        (rewrite("config.json", "{"), "small/config.json: wanted JSON"),
        (rewrite("config.json", "[]"), "small/config.json: wanted a JSON object"),
        (rewrite("generation_config.json", "{"), "generation_config.json: wanted JSON"),
        (rewrite("merges.txt", "#version: 0.2\na b c\n"), "small/merges.txt"),
        (
            rewrite("merges.txt", "#version: 0.2\na b\n"),
            "merges.txt makes 258 tokens, config.json says vocab_size 257",
        ),
        (lambda folder: change_config(folder, n_embd=22), "wte.weight"),
        (lambda folder: change_config(folder, n_embd=25), "config.json"),
        (lambda folder: change_config(folder, n_layer=3), "h.2."),
        (lambda folder: change_config(folder, n_positions=301), "wpe.weight"),
        (truncate, "model.safetensors"),
        (rewrite("model.safetensors", "no"), "model.safetensors"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_by_name(folder, devices, spoil, text):
    spoil(folder)
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    assert text in str(raised.value)
    assert not devices  # no device is asked for before the folder is right


class FailingFolder(LocalFolder):
    """Its weights break off after some reads, as a connection does."""

    def __init__(self, path, reads):
        super().__init__(path)
        self.reads = reads

    async def open(self, file):
        stream = await super().open(file)
        good = stream.read

        async def read(count):
            self.reads -= 1
            if self.reads < 0:
                raise CheckpointError("the connection broke")
            return await good(count)

        stream.read = read
        return stream


def test_weights_that_break_off_leave_nothing_on_the_device(folder, devices):
    for reads in (0, 1, 20):
        with pytest.raises(CheckpointError, match="the connection broke"):
            load(FailingFolder(folder, reads))
        assert devices.pop().live == {}
    lm = load(FailingFolder(folder, 10_000))  # a whole one does not break
    assert devices[0].live != {}
    lm.close()
    assert devices[0].live == {}


def test_no_such_model_says_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model at 'gpt9': wanted a bundled model \(sto"):
        load("gpt9")
    with pytest.raises(CheckpointError, match="no model at"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(TypeError):
        load(tmp_path, device="gpu")


def test_no_such_adapter_says_which_there_are(folder):
    with pytest.raises(DeviceError, match=r"no adapter is named 'voodoo'; found: .*llvmpipe"):
        GPT2CausalLM.from_preset(folder, adapter="voodoo")


def test_a_closed_model_says_so(folder, devices):
    lm = load(folder)
    ids_of(lm.stream("a", seed=1, max_new_tokens=3))
    lm.close()
    lm.close()
    with pytest.raises(DeviceError, match="this model was closed: load it again"):
        lm.generate("a")
    with pytest.raises(DeviceError, match="this model was closed: load it again"):
        ids_of(lm.stream("a"))
    assert len(devices) == 1  # and no random weights in its place


@pytest.mark.parametrize("after", [1, 2, 30])
def test_closing_a_model_ends_its_streams(folder, devices, after):
    lm = load(folder)

    async def main():
        stream = lm.stream("a", seed=1, steps_per_submit=1)
        for _ in range(after):
            await anext(stream)
        lm.close()
        with pytest.raises((RuntimeError, DeviceError), match="closed"):
            await pieces_of(stream)

    asyncio.run(main())
    assert not lm.turn._taken


def test_closing_a_model_while_its_stream_waits_for_the_gpu_ends_it(folder, devices):
    lm = load(folder)

    async def main():
        reading = asyncio.create_task(pieces_of(lm.stream("a", seed=1)))
        await asyncio.sleep(0.02)
        lm.close()
        with pytest.raises((RuntimeError, DeviceError), match="the model was closed while"):
            await asyncio.wait_for(reading, 20)

    asyncio.run(main())
    assert not lm.turn._taken


def test_the_bundled_model_tells_a_story():
    lm = GPT2CausalLM.from_preset("stories", adapter="llvmpipe")
    info = lm.info
    assert (info["model"], info["precision"], info["self_test"]) == ("stories", "f16", "passed")
    assert info["parameters"] == lm.backbone.config.num_parameters == 5_885_952
    assert lm.add_start_token
    text, ids, prompt, _ = reference.recorded_stories().greedy[0]
    assert lm.prompt_ids(text) == ids[:prompt].tolist()
    assert ids_of(lm.stream(text, temperature=0, max_new_tokens=8)) == ids[prompt:][:8].tolist()
    lm.compile("greedy")
    wanted = lm.preprocessor.tokenizer.detokenize(ids[1 : prompt + 8].tolist())
    assert lm.generate(text, max_length=prompt + 8) == wanted
    assert block_on(lm.generate_async(text, max_length=prompt), "generate_async") == text
    lm.close()
