"""What the page is told about a model's inside, with a real model, natively."""

import asyncio
import struct

import pytest

import small_models
from adapters import new_device
from gpt2web import page as page_module

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A page with a model, and what it posts."""
    device = new_device("llvmpipe")
    answers = []
    page = page_module.Page("", answers.append)
    page.lm = small_models.load(
        device, small_models.random_model(), tmp_path_factory.mktemp("random")
    )
    yield page, answers
    page.close()
    device.destroy()


def ask(loaded, *messages):
    """The answers to messages that all come while the model is still busy."""
    page, answers = loaded
    answers.clear()

    async def main():
        await page.lm.turn.take()
        tasks = []
        for number, message in enumerate(messages):
            tasks.append(asyncio.ensure_future(page.handle({"id": number, **message})))
            await asyncio.sleep(0)
        page.lm.turn.give()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    return {answer["id"]: answer.get("value", answer.get("error")) for answer in answers}


def inspect(number, ids, **options):
    return {"type": "inspect", "inspection": number, "tokenIds": ids, "options": options}


def next_tokens(number, **options):
    return {"type": "nextTokens", "inspection": number, "options": options}


def close(number):
    return {"type": "closeInspection", "inspection": number}


def test_inspections_are_open_until_they_are_closed(loaded):
    page, _ = loaded
    live = dict(page.lm.backbone.device.live)
    made = ask(loaded, inspect(1, [5, 6, 7], top=2), inspect(2, [5, 6], top=0))
    assert made[0]["shape"] == [2, 2, 3] and made[1]["shape"] == [2, 2, 2]
    assert made[0]["attention"].format == "f" and len(made[0]["attention"]) == 12
    assert [len(layer) for layer in made[0]["lens"]] == [2, 2, 2] and made[1]["lens"] == []
    assert set(made[0]["lens"][0][0]) == {"id", "text", "logprob"}
    found = ask(loaded, next_tokens(1, top_k=3, top=4), next_tokens(2, top=1))
    assert [c["kept"] for c in found[0]["candidates"]] == [True] * 3 + [False]
    assert (found[0]["kept"], found[1]["kept"]) == (3, 257)
    ask(loaded, close(1))
    found = ask(loaded, next_tokens(1), close(2), close(2), close(77), next_tokens(2))
    assert [found[n]["code"] for n in (0, 4)] == ["closed", "closed"]
    assert page.views.open == {} and page.views.under_way == {}
    more = page.lm.backbone.device.live.keys() - live.keys()
    assert len(more) <= len(page.lm._decoder.cache.layers) + 20  # the decoder, made by the first


def test_one_closed_before_it_is_there_leaves_nothing(loaded):
    page, _ = loaded
    ask(loaded, inspect(1, [5, 6]), close(1))
    before = len(page.lm.backbone.device.live)
    found = ask(loaded, inspect(3, [5, 6, 7]), inspect(4, [5, 6, 7]), close(3))
    assert found[0] is None and found[1]["position"] == 2
    assert list(page.views.open) == [4] and page.views.under_way == {}
    ask(loaded, close(4))
    assert len(page.lm.backbone.device.live) == before


def test_refusals_are_answers(loaded):
    found = ask(
        loaded,
        inspect(1, [5, 600]),
        inspect(2, [5], position=3),
        inspect(3, [5] * 301),
        inspect(4, [5], depth=1),
        inspect(5, [5, 6]),
    )
    codes = ["option-invalid", "option-invalid", "prompt-too-long", "option-invalid"]
    assert [found[n]["code"] for n in range(4)] == codes
    assert found[4]["position"] == 1
    assert ask(loaded, next_tokens(5, temperature=-1.0))[0]["code"] == "option-invalid"
    ask(loaded, close(5))


def test_a_text_is_scored_as_in_python(loaded):
    page, _ = loaded
    text, ids = "Once upon a time", page.lm.prompt_ids("Once upon a time")
    score = {"type": "score", "text": text, "options": {"top": 3}}
    answers = ask(
        loaded,
        score,
        score | {"text": ids},
        score | {"options": {"top": 0}},
        score | {"text": [5, 600]},
    )
    scored, by_ids, bare, refused = (answers[number] for number in range(4))
    found = page.lm.log_probabilities(text, top=3)
    assert [(one["id"], one["logprob"], one["top"]) for one in scored] == found
    assert by_ids == scored and [one["id"] for one in scored] == ids[1:]
    assert {one["top"] for one in bare} == {None}
    assert [one["logprob"] for one in bare] == [one["logprob"] for one in scored]
    assert refused["code"] == "option-invalid"


def test_the_map_of_the_weights(loaded):
    (found,) = ask(loaded, {"type": "parameters"}).values()
    page, _ = loaded
    assert sum(p["parameters"] for p in found) == page.lm.count_params()
    assert found[0] == {
        "name": "wte.weight",
        "shape": [257, 24],
        "parameters": 257 * 24,
        "precision": "f32",
        "gpuBytes": 4 * 260 * 24,
    }


def test_what_is_told_is_flat_f32(loaded):
    page, _ = loaded
    found = ask(loaded, inspect(6, [1, 2, 3, 4]))[0]
    values = struct.unpack("<16f", found["attention"].tobytes())
    assert all(abs(sum(values[row : row + 4]) - 1) < 1e-6 for row in range(0, 16, 4))
    ask(loaded, close(6))
    assert page.views.open == {}
