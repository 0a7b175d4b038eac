"""Generation in Chromium: what a token costs in real WebGPU calls, and the same ids as natively."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from adapters import new_device  # noqa: F401  sets the environment before wgpu starts Vulkan
from browser import TestServer, before_worker, open_blank, run_outside
from gpt2web import GPT2CausalLM

pytestmark = pytest.mark.browser

LAYERS = 6  # of stories
STEPS = 4  # per submit
OBJECTS = (
    *("createBuffer", "createBindGroup", "createShaderModule"),
    *("createComputePipeline", "createComputePipelineAsync"),
)
# The prompts' ids are in the cache from the generation before, so that only steps are counted.
SHORT_PROMPT = "Once upon a time there was a"
LONG_PROMPT = "The dog ran to the tree and the cat ran to the house. " * 19  # beyond one split

OPTIONS: dict[str, Any] = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.02}
OPTIONS |= {"repetition_penalty": 1.1, "seed": 7, "max_new_tokens": 24}

HELPERS = """async (address) => {
  const { load } = await import(address);
  window.lm = await load("stories");
  const channel = new BroadcastChannel("count-gpu-calls");
  window.counts = () => new Promise((resolve) => {
    channel.onmessage = ({ data }) => resolve(data);
    channel.postMessage("");
  });
  window.generate = async (prompt, options) => {
    const before = await counts();
    const ids = [];
    for await (const piece of lm.generate(prompt, options)) ids.push(...piece.ids);
    const after = await counts();
    const spent = Object.fromEntries(Object.keys(after).map((k) => [k, after[k] - before[k]]));
    return { ids, spent };
  };
}"""
PRELUDE = (Path(__file__).parent / "count_gpu_calls.js").read_text("utf-8")


def open_counted(browser: Browser, server: TestServer, change: tuple[str, str] = ("", "")) -> Page:
    """A page with a model whose worker's WebGPU calls are counted; `change` spoils the prelude."""
    page = browser.new_context(service_workers="block").new_page()
    before_worker(page.context, PRELUDE.replace(*change))
    open_blank(page, f"{server.origin}/elsewhere.html")
    page.evaluate(HELPERS, server.url + "gpt2web.js")
    return page


@pytest.fixture(scope="module")
def counted(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    page = open_counted(quick_browser, server)
    yield page
    page.context.close()


def cost(page: Page, prompt: str, tokens: int) -> dict[str, float]:
    """What `tokens` more ids of the same generation cost, in all."""
    few, many = 2 * STEPS, 2 * STEPS + tokens
    script = "([prompt, n, k]) => generate(prompt, { maxNewTokens: n, stepsPerSubmit: k, seed: 1 })"
    page.evaluate(script, [prompt, 1, STEPS])  # the prompt is in the cache after this
    less = page.evaluate(script, [prompt, few, STEPS])
    more = page.evaluate(script, [prompt, many, STEPS])
    assert len(more["ids"]) - len(less["ids"]) == tokens
    return {name: more["spent"][name] - less["spent"][name] for name in more["spent"]}


def check(spent: dict[str, float], tokens: int, dispatches: int) -> list[str]:
    """The rules that a count breaks."""
    wrong = [f"{name} is {spent[name]}" for name in OBJECTS if spent[name] != 0]
    if not 0 < spent["dispatchWorkgroups"] <= dispatches * tokens:
        wrong.append(f"dispatchWorkgroups is {spent['dispatchWorkgroups']}")
    for name in ("submit", "beginComputePass", "mapAsync"):
        if spent[name] != tokens / STEPS:
            wrong.append(f"{name} is {spent[name]}")
    if spent["writeBuffer"] != 0:
        wrong.append(f"writeBuffer is {spent['writeBuffer']}")
    if not 0 < spent["bytesRead"] <= 8 * tokens:
        wrong.append(f"bytesRead is {spent['bytesRead']}")
    return wrong


def test_a_token_costs_five_dispatches_a_layer_and_five_more(counted: Page) -> None:
    spent = cost(counted, SHORT_PROMPT, 8)
    assert check(spent, 8, 5 * LAYERS + 5) == []


def test_with_a_long_cache_it_costs_six_a_layer(counted: Page) -> None:
    spent = cost(counted, LONG_PROMPT, 8)
    assert check(spent, 8, 6 * LAYERS + 5) == []
    assert spent["dispatchWorkgroups"] > 8 * (5 * LAYERS + 5)  # it was long indeed


@pytest.mark.parametrize("rule", [*OBJECTS, "submit", "beginComputePass", "mapAsync"])
def test_a_count_too_many_breaks_the_rules(counted: Page, rule: str) -> None:
    fine = dict.fromkeys(OBJECTS, 0) | {"writeBuffer": 0, "bytesRead": 32, "mapAsync": 2}
    fine |= {"submit": 2, "beginComputePass": 2, "dispatchWorkgroups": 8 * (5 * LAYERS + 5)}
    assert check(fine, 8, 5 * LAYERS + 5) == []
    assert check(fine | {rule: fine[rule] + 1}, 8, 5 * LAYERS + 5) == [
        f"{rule} is {fine[rule] + 1}"
    ]
    # and the counter of each rule does count: loading makes all of these
    total = counted.evaluate("() => counts()")
    assert total["createBuffer"] > 100 and total["createBindGroup"] > 100
    assert total["createShaderModule"] > 10 and total["writeBuffer"] > 100
    assert total["createComputePipeline"] + total["createComputePipelineAsync"] > 10


def test_many_generations_leave_the_buffers_as_they_were(counted: Page) -> None:
    script = """async () => {
      const spent = [];
      for (let i = 0; i < 13; i++) spent.push((await generate("One", { maxNewTokens: 1 })).spent);
      return spent.slice(1);
    }"""
    for spent in counted.evaluate(script):
        assert spent["createBuffer"] == spent["destroy"] == 0
        assert spent["submit"] > 0


def test_an_inspection_makes_its_buffers_and_leaves_none_and_a_token_as_it_was(
    counted: Page,
) -> None:
    before = cost(counted, SHORT_PROMPT, STEPS)
    script = """async (prompt) => {
      const ids = await lm.tokenize(prompt, { asPrompt: true });
      const seen = [await counts()];
      const inspection = await lm.inspect(ids);
      for (const temperature of [0.5, 0.6, 0.7]) {
        await inspection.nextTokens({ temperature });
        seen.push(await counts());
      }
      inspection.close();
      await lm.tokenize(""); // the worker has heard of it then
      seen.push(await counts());
      return seen.slice(1).map((now, i) =>
        Object.fromEntries(Object.keys(now).map((name) => [name, now[name] - seen[i][name]])));
    }"""
    first, *others, closing = counted.evaluate(script, SHORT_PROMPT)
    assert first["createBuffer"] > 10 and first["createBindGroup"] > 10  # they do count
    for spent in others:  # a movement of a slider
        assert [spent[name] for name in OBJECTS] == [0] * len(OBJECTS)
        assert spent["submit"] == spent["writeBuffer"] == spent["mapAsync"] == 1
        assert spent["dispatchWorkgroups"] == 3
    assert first["destroy"] + closing["destroy"] == first["createBuffer"]
    assert closing["submit"] == 0
    assert cost(counted, SHORT_PROMPT, STEPS) == before


def test_the_same_seed_gives_the_same_ids_as_natively_on_swiftshader(counted: Page) -> None:
    camel = {"maxNewTokens": OPTIONS["max_new_tokens"], "repetitionPenalty": 1.1, "seed": 7}
    camel |= {"temperature": 0.9, "topK": 50, "topP": 0.95, "minP": 0.02}
    in_page = counted.evaluate("(o) => generate('The old king', o)", camel)["ids"]

    async def natively() -> list[int]:
        lm = await GPT2CausalLM.from_preset_async("stories", adapter="SwiftShader")
        ids = [i async for p in lm.stream("The old king", **OPTIONS) for i in p.ids]
        lm.close()
        return ids

    assert run_outside(natively()) == in_page
    assert len(in_page) == OPTIONS["max_new_tokens"]
