"""What other pages' programs call beyond text from a prompt: ids, batches, signals, completions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from adapters import new_device  # noqa: F401  sets the environment before wgpu starts Vulkan
from browser import TestServer, open_blank, run_outside
from gpt2web import GPT2CausalLM

pytestmark = pytest.mark.browser

HELPERS = """async (folder) => {
  window.gpt2web = await import(folder + "gpt2web.js");
  const { Completions } = await import(folder + "completions.js");
  window.lm = await gpt2web.load("stories");
  window.client = { completions: new Completions(lm) };
  // One over a model that tells what it was asked, and says what it is told to.
  window.told = (pieces, bytes = {}) => {
    const asked = [];
    const generate = (...call) => {
      asked.push(call);
      return (async function* () { yield* pieces; })();
    };
    const tokenBytes = async (ids) => ids.map((id) => Uint8Array.from(bytes[id]));
    const info = { model: "told" };
    const tokenize = async () => [1, 2];
    const detokenize = async (ids) => `ids ${ids}`;
    return [new Completions({ info, generate, tokenize, detokenize, tokenBytes }), asked];
  };
  window.rows = async (generation) => {
    const rows = [];
    for await (const { row, text, ids, finishReason } of generation) {
      rows[row] ??= { text: "", ids: [], finishReason: null };
      rows[row].text += text;
      rows[row].ids.push(...ids);
      rows[row].finishReason = finishReason;
    }
    return rows;
  };
  window.problem = async (call) => {
    try { await call(); } catch ({ name, code, message }) { return { name, code, message }; }
    return null;
  };
}"""


@pytest.fixture(scope="module")
def other_page(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """A page elsewhere on the same origin, with the model."""
    page = quick_browser.new_context(service_workers="block").new_page()
    open_blank(page, f"{server.origin}/another/page.html")
    page.evaluate(HELPERS, server.url)
    yield page
    page.context.close()


def test_rows_of_a_batch_are_their_texts_or_ids_alone_each_with_its_seed(other_page: Page) -> None:
    ids, plain, special, together, alone = other_page.evaluate("""async () => {
      const options = { maxNewTokens: 3, temperature: 0.9, seed: 11 };
      const ids = await lm.tokenize("The fox", { asPrompt: true });
      const together = await rows(lm.generate(["The fox", ids], options));
      const alone = await rows(lm.generate(ids, options));
      alone.push(...await rows(lm.generate("The fox", { ...options, seed: 12 })));
      const special = await lm.tokenize("The<|endoftext|>", { parseSpecial: true });
      return [ids, await lm.tokenize("The fox"), special, together, alone];
    }""")
    assert together == alone
    assert together[0]["ids"] != together[1]["ids"]
    assert [(len(row["ids"]), row["finishReason"]) for row in together] == [(3, "length")] * 2
    assert ids == [4095, *plain] and 4095 not in plain  # stories begins with <|endoftext|>
    assert special[-1] == 4095 and len(special) == 2


def test_a_batch_is_cancelled_row_by_row(other_page: Page) -> None:
    script = """async () => {
      const stop = new AbortController();
      const options = { maxNewTokens: 300, seed: 1, signal: stop.signal };
      const generation = lm.generate(["Once", "A dog"], options);
      await generation.next();
      stop.abort();
      return rows(generation);
    }"""
    found = other_page.evaluate(script)
    assert [row["finishReason"] for row in found] == ["cancelled"] * 2
    assert sum(len(row["ids"]) for row in found) < 200


def test_bytes_of_tokens_and_texts_of_lists(other_page: Page) -> None:
    text = "a fox 🦊"
    of_tokens, texts = other_page.evaluate(
        """async (text) => {
          const ids = await lm.tokenize(text);
          const bytes = await lm.tokenBytes([...ids, 99999]);
          return [bytes.map((of) => [...of]), await lm.detokenize(ids.map((id) => [id]))];
        }""",
        text,
    )
    assert bytes(byte for of in of_tokens for byte in of) == text.encode()
    assert of_tokens[-1] == []
    assert texts[0] == "a" and "\ufffd" in texts[-1]  # part of the fox


SETTINGS: dict[str, Any] = {"temperature": 0.8, "topK": 40, "topP": 0.9, "minP": 0.02}
SETTINGS |= {"repetitionPenalty": 1.2, "top": 30}


def test_the_model_is_looked_into_with_the_very_numbers_of_the_python_api(other_page: Page) -> None:
    text = "The old king had a dog."
    found = other_page.evaluate(
        """async ([text, settings]) => {
          const ids = await lm.tokenize(text, { asPrompt: true });
          const first = await lm.inspect(Uint32Array.from(ids), { position: 4, top: 3 });
          const last = await lm.inspect(ids);
          const next = await last.nextTokens(settings);
          const plain = await last.nextTokens();
          const told = ({ attention, ...rest }) =>
            ({ ...rest, kind: attention.constructor.name, attention: [...attention] });
          first.close();
          const closed = await problem(() => first.nextTokens());
          last.close();
          return { ids, first: told(first), last: told(last), next, plain, closed };
        }""",
        [text, SETTINGS],
    )
    parameters = other_page.evaluate("() => lm.parameters()")

    async def natively() -> None:
        lm = await GPT2CausalLM.from_preset_async("stories", adapter="SwiftShader")
        ids = lm.prompt_ids(text)
        assert found["ids"] == ids
        for name, position, top in (("first", 4, 3), ("last", len(ids) - 1, 10)):
            inspection = await lm.inspect_async(ids, position, top=top)
            told = found[name]
            assert told["tokenIds"] == ids[: position + 1] and told["position"] == position
            assert told["shape"] == [6, 4, position + 1] and told["kind"] == "Float32Array"
            attention = (await inspection.attention.read()).cast("B").cast("f")
            assert told["attention"] == attention.tolist()
            lens = [[(c["id"], c["logprob"]) for c in layer] for layer in told["lens"]]
            assert lens == inspection.lens
            of_ids = [lm.tokenizer.detokenize([c["id"]]) for c in told["lens"][-1]]
            assert [c["text"] for c in told["lens"][-1]] == of_ids
        settings = {snake(name): value for name, value in SETTINGS.items()}
        for name, options in (("next", settings), ("plain", {})):
            listed = await inspection.next_tokens_async(**options)
            assert found[name]["kept"] == listed.kept
            told = [{snake(key): c[key] for key in c} for c in found[name]["candidates"]]
            assert told == [asdict(candidate) for candidate in listed]
        listed = [{snake(key): p[key] for key in p} for p in parameters]
        assert listed == [p._asdict() | {"shape": list(p.shape)} for p in lm.parameters()]
        lm.close()

    run_outside(natively())
    assert 1 < found["next"]["kept"] <= 40
    assert abs(sum(c["afterCuts"] for c in found["next"]["candidates"]) - 1) < 0.2
    assert found["closed"]["code"] == "closed"


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), name)


def test_an_inspection_waits_for_the_text_and_can_be_given_up(other_page: Page) -> None:
    order, given_up, refused, lens = other_page.evaluate("""async () => {
      const order = [];
      const text = rows(lm.generate("Once", { maxNewTokens: 12, seed: 1 }));
      const writing = text.then(() => order.push("text"));
      const stop = new AbortController();
      const givenUp = problem(() => lm.inspect([1, 2], { signal: stop.signal }));
      const looking = lm.inspect([1, 2, 3], { top: 2 });
      const refused = [
        await problem(() => lm.inspect("text")),
        await problem(() => lm.inspect([1], { depth: 2 })),
        await problem(() => lm.inspect([1, 99999])),
        await problem(() => lm.inspect([1], { position: 1 })),
      ];
      stop.abort();
      const inspection = await looking;
      order.push("inspection");
      await writing;
      inspection.close();
      return [order, (await givenUp).name, refused.map(({ code }) => code), inspection.lens.length];
    }""")
    assert order == ["text", "inspection"]
    assert given_up == "AbortError"
    assert refused == ["option-invalid"] * 4
    assert lens == 7


SIGNALLED = [
    "gpt2web.load('stories', { signal })",
    "gpt2web.models({ signal })",
    "gpt2web.removeModel('stories', { signal })",
    "gpt2web.keepOffline({ signal })",
    "lm.tokenize('a', { signal })",
    "lm.detokenize([1], { signal })",
    "lm.tokenBytes([1], { signal })",
    "lm.score([1, 2], { signal })",
    "lm.inspect([1, 2], { signal })",
    "lm.parameters({ signal })",
    "lm.sources({ signal })",
]


@pytest.mark.parametrize("call", SIGNALLED)
def test_what_waits_takes_a_signal_and_fails_with_its_reason(other_page: Page, call: str) -> None:
    script = f"""async () => {{
      const later = new AbortController();
      const reason = new DOMException("changed my mind", "AbortError");
      const onTheWay = (({{ signal }}) => problem(() => {call}))(later);
      later.abort(reason);
      const before = ((signal) => problem(() => {call}))(AbortSignal.abort(reason));
      return [await onTheWay, await before];
    }}"""
    found = other_page.evaluate(script)
    assert [error and error["message"] for error in found] == ["changed my mind"] * 2


def test_every_call_that_waits_is_among_these(other_page: Page) -> None:
    """But `generate`, whose signal ends it with a piece, and what does not wait."""
    names: list[Any] = other_page.evaluate("""() => [
      ...Object.getOwnPropertyNames(Object.getPrototypeOf(lm)), ...Object.keys(gpt2web),
    ]""")
    called = {call.partition("(")[0].rpartition(".")[2] for call in SIGNALLED}
    others = {"constructor", "generate", "close", "closed", "Download"}
    assert set(names) - called == others, "give it a signal, and a line in SIGNALLED"


# --- completions.js -------------------------------------------------------------------------------

# The response that OpenAI documents for POST /v1/completions; logprobs as its schema has them.
DOCUMENTED = {
    "id": "cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7",
    "object": "text_completion",
    "created": 1589478378,
    "model": "gpt-3.5-turbo-instruct",
    "system_fingerprint": "fp_44709d6fcb",
    "choices": [
        {
            "text": "\n\nThis is indeed a test",
            "index": 0,
            "logprobs": {
                "tokens": ["\n\n"],
                "token_logprobs": [-0.1],
                "top_logprobs": [{"\n\n": -0.1}],
                "text_offset": [19],
            },
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}
ANY_KEY = {"top_logprobs"}  # their keys are tokens


def shape(value: Any, name: str = "") -> Any:
    """Keys and types of a response; of a list those of its first entry."""
    if isinstance(value, dict) and name not in ANY_KEY:
        return {key: shape(of, key) for key, of in value.items()}
    return [shape(value[0], name)] if isinstance(value, list) else type(value).__name__


def test_a_completion_has_the_documented_shape_and_the_numbers_of_generate(
    other_page: Page,
) -> None:
    whole, parts, generated, ids = other_page.evaluate("""async () => {
      const texts = ["The fox", "The 🦊 and the dog"];
      const parameters = { prompt: texts, max_tokens: 2, logprobs: 2, seed: 5 };
      const whole = await client.completions.create(parameters);
      const parts = [];
      const streaming = { ...parameters, stream: true, stream_options: { include_usage: true } };
      for await (const part of await client.completions.create(streaming)) parts.push(part);
      const options = { maxNewTokens: 2, temperature: 1, topP: 1, logprobs: 2, seed: 5 };
      const generated = [];
      for await (const piece of lm.generate(texts, options)) {
        const row = (generated[piece.row] ??= { text: "", ids: [], logprobs: [], top: [] });
        row.text += piece.text;
        for (const name of ["ids", "logprobs", "top"]) row[name].push(...piece[name]);
      }
      const ids = texts.map((text) => lm.tokenize(text, { asPrompt: true }));
      return [whole, parts, generated, await Promise.all(ids)];
    }""")
    assert shape(whole) == shape(DOCUMENTED)
    assert whole["id"].startswith("cmpl-") and whole["model"] == "stories"
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert [len(row["ids"]) for row in generated] == [2, 2]
    prompt, completion = sum(map(len, ids)), 4
    assert whole["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    for choice, row in zip(whole["choices"], generated, strict=True):
        logprobs = choice["logprobs"]
        assert choice["text"] == row["text"]
        assert logprobs["token_logprobs"] == row["logprobs"]
        begin = 18 if choice["index"] else 7  # UTF-16 units of the prompts
        assert logprobs["text_offset"][0] == begin
        for token, top, logprob, most, offset in zip(
            *(logprobs[name] for name in ("tokens", "top_logprobs", "token_logprobs")),
            row["top"],
            logprobs["text_offset"],
            strict=True,
        ):
            assert set(top.values()) == {logprob, *(value for _, value in most)}
            assert top[token] == logprob
            if not token.startswith("bytes:"):
                assert choice["text"][offset - begin :].startswith(token)

    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == whole["usage"]
    streamed: dict[int, list[dict[str, Any]]] = {}
    for part in parts[:-1]:
        assert (part["usage"], part["id"]) == (None, parts[0]["id"])
        (choice,) = part["choices"]
        streamed.setdefault(choice["index"], []).append(choice)
    for choice in whole["choices"]:
        pieces = streamed[choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1]["finish_reason"] == choice["finish_reason"] == "length"
        for name, values in choice["logprobs"].items():
            assert [value for piece in pieces for value in piece["logprobs"][name]] == values


def test_defaults_are_those_that_openai_documents(other_page: Page) -> None:
    (prompts, options), null, several = other_page.evaluate("""async () => {
      const [completions, asked] = told([{ text: "", ids: [], row: 0, finishReason: "stop" }]);
      await completions.create({ prompt: "a", user: null });
      const none = { prompt: null, max_tokens: null, temperature: undefined };
      await completions.create({ ...none, best_of: 1, suffix: "", logit_bias: {} });
      await completions.create({ prompt: ["a", [1, 2]], n: 2 });
      return [asked[0], asked[1][0], asked[2][0]];
    }""")
    assert prompts == ["a"]
    assert options["maxNewTokens"] == 16
    assert (options["temperature"], options["topP"], options["logprobs"]) == (1, 1, 0)
    assert (options["stop"], options["seed"]) == (None, None)
    assert null == [""]
    assert several == ["a", "a", [1, 2], [1, 2]]


def test_echo_half_characters_and_the_contexts_end(other_page: Page) -> None:
    whole, asked = other_page.evaluate("""async () => {
      const bytes = { 1: [0xe6, 0x9d], 2: [0xb1], 3: [0x61], 4: [0xe6] };
      const top = [[[1, -1], [4, -2]], [[2, -1], [3, -2]]];
      const first = { text: "東", ids: [1, 2], logprobs: [-1, -1], top, row: 0 };
      const last = { text: "a", ids: [3], logprobs: [-3], top: [[[2, -0.5], [4, -2]]], row: 0 };
      const [completions, asked] = told([first, { ...last, finishReason: "context" }], bytes);
      const chosen = await completions.create({ prompt: [7, 8], logprobs: 0, model: "told" });
      const most = await completions.create({ prompt: "ab", logprobs: 2 });
      const echo = await completions.create({ prompt: [7, 8], echo: true });
      return [[chosen, most, echo].map(({ choices, usage }) => ({ ...choices[0], usage })), asked];
    }""")
    chosen, most, echo = whole
    assert [call[0] for call in asked] == [[[7, 8]], ["ab"], [[7, 8]]]
    assert [call[1]["logprobs"] for call in asked] == [1, 2, 0]
    tokens = ["bytes:\\xe6\\x9d", "bytes:\\xb1", "a"]
    assert chosen["logprobs"]["tokens"] == tokens
    assert chosen["logprobs"]["top_logprobs"] == [{tokens[0]: -1}, {tokens[1]: -1}, {"a": -3}]
    assert most["logprobs"]["top_logprobs"][0] == {tokens[0]: -1, "bytes:\\xe6": -2}
    assert most["logprobs"]["top_logprobs"][2] == {tokens[1]: -0.5, "bytes:\\xe6": -2, "a": -3}
    assert most["logprobs"]["text_offset"] == [2, 2, 3]
    assert echo["text"] == "ids 7,8東a" and echo["logprobs"] is None
    assert {choice["finish_reason"] for choice in whole} == {"length"}
    assert [choice["usage"]["prompt_tokens"] for choice in whole] == [2, 2, 2]


@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        ("{ best_of: 3 }", "best_of", "does not support best_of. Ask for n"),
        ("{ presence_penalty: 0.5 }", "presence_penalty", "repetitionPenalty"),
        ("{ frequency_penalty: -1 }", "frequency_penalty", "repetitionPenalty"),
        ("{ logit_bias: { 50256: -100 } }", "logit_bias", "sampler of your own"),
        ("{ suffix: 'end' }", "suffix", "only goes on"),
        ("{ user: 'me' }", "user", "no server"),
        ("{ top_k: 4 }", "top_k", 'has no parameter "top_k"'),
        ("{ toString: 4 }", "toString", "has no parameter"),
        ("{ model: 'gpt-4' }", "model", '"told", not "gpt-4"'),
        ("{ max_tokens: 0 }", "max_tokens", "at least 1, not 0"),
        ("{ n: 1.5 }", "n", "at least 1, not 1.5"),
        ("{ echo: true, logprobs: 1 }", "echo", "echo together with logprobs"),
        ("{ stream: 'yes' }", "stream", "true or false, not string"),
        ("{ stream_options: { include_usage: true } }", "stream_options", "for stream: true"),
        ("{ stream: true, stream_options: { a: 1 } }", "stream_options", 'no "a"'),
        ("7", None, "an object of parameters, not number"),
    ],
)
def test_what_it_can_not_do_is_refused_by_name(
    other_page: Page, parameters: str, param: str | None, words: str
) -> None:
    error = other_page.evaluate(f"""async () => {{
      const [completions, asked] = told([]);
      const error = await completions.create({parameters}).catch((error) => error);
      const {{ name, code, param, message }} = error;
      return {{ name, code, param, message, asked }};
    }}""")
    assert (error["name"], error["code"]) == ("TypeError", "option-invalid")
    assert error.get("param") == param
    assert words in error["message"] and error["asked"] == []


def test_a_completion_is_given_up_with_its_signals_reason(other_page: Page) -> None:
    at_once, streamed, parts, wrong = other_page.evaluate("""async () => {
      const create = (parameters, signal) => client.completions.create(parameters, { signal });
      const atOnce = await problem(() => create({ prompt: "a" }, AbortSignal.abort()));
      const stop = new AbortController();
      let parts = 0;
      const streamed = await problem(async () => {
        for await (const part of await create({ stream: true, max_tokens: 300 }, stop.signal)) {
          parts++;
          stop.abort();
        }
      });
      const wrong = await problem(() => create({ prompt: "a", top_p: 2 }));
      return [atOnce, streamed, parts, wrong];
    }""")
    assert at_once["name"] == streamed["name"] == "AbortError"
    assert 0 < parts < 100
    assert (wrong["name"], wrong["code"]) == ("ValueError", "option-invalid")
    assert "top_p must be over 0 and at most 1" in wrong["message"]
