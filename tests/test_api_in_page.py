"""The core of the API in Chromium, from the wheels of dist/, without numpy: the functions of
in_page_api.py there, against the same natively and against the numpy reference."""

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import in_page_api
import reference
import test_preset
from browser import open_blank
from test_api_generate import greedy
from test_webgpu import BOOT

pytestmark = [pytest.mark.browser, pytest.mark.gpu]

RUN = """
async ([check, values]) => {
  const checks = pyodide.pyimport("in_page_api");
  return await checks.run(check, values);
}
"""


@pytest.fixture(scope="module")
def tiny():
    """The config and the weights of the model that the page finds at models/tiny."""
    config = SimpleNamespace(**test_preset.SIZES, layer_norm_epsilon=1e-5)
    return config, reference.random_weights(config, 4)


@pytest.fixture(scope="module")
def in_page(quick_browser, server, tiny, tmp_path_factory):
    """Runs a function of in_page_api.py in a page with dist/'s wheels: what it returns."""
    context = quick_browser.new_context(service_workers="block")
    page = context.new_page()
    blank = server.url + "blank/page.html"
    folder = test_preset.write_folder(tmp_path_factory.mktemp("models") / "tiny", tiny[1])

    def read(route):
        file = folder / route.request.url.rpartition("/")[2]
        route.fulfill(path=file) if file.is_file() else route.fulfill(status=404)

    page.route(f"{server.url}models/tiny/*", read)
    open_blank(page, blank)
    page.evaluate(BOOT)
    source = (Path(__file__).parent / "in_page_api.py").read_text("utf-8")
    page.evaluate("text => pyodide.FS.writeFile('in_page_api.py', text)", source)

    def run(check, **arguments):
        return json.loads(page.evaluate(RUN, [check, json.dumps(arguments)]))

    run.preset = run("preset", base_url=server.url)  # whose device the others use
    yield run
    context.close()


def natively(check, **arguments):
    """The same natively: in a thread, because Playwright's event loop counts as running here."""
    found = []

    def run():
        found.append(asyncio.run(in_page_api.run(check, json.dumps(arguments))))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return json.loads(found[0])


def as_lists(weights):
    return {name: values.tolist() for name, values in weights.items()}


def assert_close(got, wanted, tolerance=1e-4):
    got, wanted = np.array(got), np.array(wanted)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("check", ["tokenizers", "packers", "preprocessors", "configs"])
def test_text_and_configs_are_the_same_in_the_page(in_page, check):
    found = in_page(check)
    assert found == natively(check)
    known = {
        "tokenizers": ("ids", [1, 3, 4, 2, 5, 6]),
        "packers": ("left", ["", "<s>", "a", "b"]),
        "preprocessors": ("texts", ["airplane", "air"]),
        "configs": ("parameters", 124_439_808),
    }
    name, value = known[check]
    if check == "tokenizers":
        assert found["any text"] and found["ids"][:2] == value[:2] and found["ids"][-1] == 6
    else:
        assert found[name] == value


def test_a_model_is_loaded_from_where_the_page_lies_and_from_nowhere_else(in_page, server, tiny):
    config, weights = tiny
    found = in_page.preset
    assert_close(found["logits"], [reference.forward(config, weights, np.array([1, 2, 3]))])
    parameters = sum(values.size for values in weights.values())
    info = {"model": "tiny", "self_test": "passed", "parameters": parameters, "backend": "WebGPU"}
    assert found["info"] == info
    assert "swiftshader" in found["adapter"].lower()
    kind, text = found["http://127.0.0.1:1/models/tiny"]
    assert kind == "CheckpointError" and "is not of this page's origin" in text
    kind, text = found[server.url + "models/nowhere"]
    assert kind == "CheckpointError" and "nowhere has no config.json" in text


def test_a_model_is_the_same_function_in_the_page(in_page, tiny):
    config, weights = tiny
    ids = np.random.default_rng(1).integers(0, 259, (3, 16))
    mask = np.ones((3, 16), bool)
    mask[1, :5] = mask[2, [0, 3, 4, 9]] = False
    targets = np.roll(ids, -1, axis=1)
    found = in_page(
        "functions",
        fields=test_preset.SIZES,
        weights=as_lists(weights),
        ids=ids.tolist(),
        mask=mask.tolist(),
        targets=targets.tolist(),
        split=7,
    )
    for row in range(3):
        (columns,) = np.nonzero(mask[row])
        hidden = reference.hidden_states(config, weights, ids[row, columns], columns)
        assert_close(np.array(found["hidden"])[row, columns], hidden)
        logits = reference.forward(config, weights, ids[row, columns], columns)
        losses = reference.token_loss(logits, targets[row, columns])
        assert_close(np.array(found["losses"])[row, columns], losses)
        hidden = reference.hidden_states(config, weights, ids[row])
        assert_close(found["cached hidden"][row], hidden[7:])
        logits = reference.forward(config, weights, ids[row])
        assert_close(found["logits"][row], logits)
        assert_close(found["cached"][row], logits[7:])
        assert_close(found["from array"][row], logits[7:])
    assert found["scores"] == found["logits"]
    assert found["shapes"]["cache"] == [3, 1, 2, 16, 2, 4]
    assert found["shapes"]["logits"] == [3, 16, 259]
    assert (found["in place"], found["dtype"], found["no numpy"]) == (True, "f32", True)
    assert found["closed"] == ["DeviceError", "this model was closed: load it again"]


def test_every_sampler_writes_the_same_in_the_page(in_page, tiny, monkeypatch):
    config, weights = tiny
    merges = test_preset.MERGES.splitlines()
    arguments = {"fields": test_preset.SIZES, "weights": as_lists(weights), "merges": merges}
    found = in_page("generation", **arguments)
    monkeypatch.setenv("GPT2WEB_ADAPTER", "SwiftShader")
    native = natively("generation", **arguments)
    assert found.keys() == native.keys()
    assert len(found) == 16 and found["nothing left"]
    for name, value in found.items():
        if name in ("log-probabilities", "perplexity"):
            assert_close(value, native[name])
        elif name.startswith("BeamSampler"):
            texts = [[text for text, _ in beams] for beams in value]
            assert texts == [[text for text, _ in beams] for beams in native[name]]
        else:
            assert value == native[name], name
    wanted = [258, 257, *greedy(config, weights, [258, 257], 7)]
    assert found["row"] == {"token_ids": wanted, "padding_mask": [True] * 9}


def test_plain_forms_name_their_twins_and_start_nothing(in_page):
    found = in_page("blocking_forms", fields=test_preset.SIZES)
    assert found.pop("asked for no device") is True
    assert found.pop("numpy") is False
    assert len(found) == 11
    for twin, (kind, text) in found.items():
        assert kind == "RuntimeError"
        assert text == f"a browser page cannot block: use `await {twin}(...)` instead"
