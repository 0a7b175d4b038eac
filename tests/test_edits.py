"""`load` with `edits` in Chromium: changed Python and WGSL run, fail where they should, and nothing
is remembered of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import TestServer, open_blank
from gpt2web import sources
from in_node import in_node
from test_recovery_in_page import in_trouble

pytestmark = pytest.mark.browser

TEXTS = sources.read()
SAMPLING = "gpt2web/sampling.py"
SELECT = "gpt2web/shaders/select.wgsl"

# loaded(edits): closes the model before and loads another: its info, or the error. ids(): what it
# writes; orders: trouble, behind the fourth of them.
HELPERS = """async (address) => {
  const { load } = await import(address + "gpt2web.js");
  const channel = new BroadcastChannel("trouble");
  window.lm = null;
  window.told = [];
  window.trouble = (orders) => channel.postMessage(orders);
  window.loaded = async (edits, options = {}) => {
    lm?.close();
    lm = null;
    try {
      lm = await load("stories", { edits, ...options });
    } catch ({ name, code, message, place, detail }) {
      return { name, code, message, place, detail };
    }
    lm.addEventListener("change", () => told.push(lm.recovering));
    return lm.info;
  };
  window.ids = async (options = {}, orders = null) => {
    const found = [];
    try {
      const given = { seed: 7, maxNewTokens: 12, ...options };
      for await (const piece of lm.generate("Once upon a time", given)) {
        found.push(...piece.ids);
        if (orders && found.length === 4) trouble(orders);
      }
    } catch ({ name, code, message, place }) {
      return { name, code, message, place };
    }
    return found;
  };
}"""
KEPT = """async () => {
  const found = [];
  for (const name of await caches.keys()) {
    if (!name.startsWith("gpt2web remembered ") && !name.startsWith("gpt2web snapshot ")) continue;
    for (const { url } of await (await caches.open(name)).keys()) found.push(url);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def lab(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    page = quick_browser.new_context(service_workers="block").new_page()
    in_trouble(page.context)
    open_blank(page, f"{server.origin}/lab.html")
    page.set_default_timeout(60_000)
    page.evaluate(HELPERS, server.url)
    yield page
    page.context.close()


def replaced(path: str, old: str, new: str) -> dict[str, str]:
    assert TEXTS[path].count(old) == 1
    return {path: TEXTS[path].replace(old, new)}


def load(page: Page, edits: dict[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("(edits) => loaded(edits)", edits)
    return found


def write(page: Page, **options: Any) -> list[int]:
    found = page.evaluate("(options) => ids(options)", options)
    assert isinstance(found, list), found
    return found


@pytest.fixture(scope="module")
def original(lab: Page) -> tuple[list[int], list[int]]:
    """Ids of the model as it is, drawn and greedy; what it reads of itself is what is here."""
    info = load(lab)
    assert (info["edited"], info["selfTest"]) == ([], "passed")
    assert lab.evaluate("() => lm.sources()") == TEXTS
    return write(lab), write(lab, temperature=0)


def test_an_edited_sampler_writes_what_the_same_options_would(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    drawn, greedy = original
    assert drawn != greedy
    kept = lab.evaluate(KEPT)
    old = "            self.temperature,\n            min("
    info = load(lab, replaced(SAMPLING, old, old.replace("self.temperature", "0.0")))
    assert info["edited"] == [SAMPLING]
    assert info["selfTest"] == "not run, as files were edited"
    assert write(lab) == greedy
    assert old not in lab.evaluate("async () => (await lm.sources())['gpt2web/sampling.py']")
    assert kept and lab.evaluate(KEPT) == kept  # of the edited nothing was left


def test_an_edited_model_is_recovered_with_its_edits(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    """Its device first, then its worker."""
    for trouble in ({"loseNow": True}, {"end": True}):
        lab.evaluate("() => told.splice(0)")
        found = lab.evaluate("(orders) => ids({ stepsPerSubmit: 2, logprobs: 1 }, orders)", trouble)
        assert found == original[1], trouble
        assert len(lab.evaluate("() => told")) == 2
        assert lab.evaluate("() => lm.info.edited") == [SAMPLING]


# --- the page's experiments ---------------------------------------------------------------------

EXPERIMENTS: list[dict[str, Any]] = in_node('return (await web("experiments.js")).EXPERIMENTS')
FOX = "The fox saw a red red bird in the tree"


def experiment(*names: str) -> dict[str, str]:
    """The files with these experiments in them, as the page puts them in."""
    edits: dict[str, str] = in_node(
        """
        const { EXPERIMENTS, isApplied, toggled } = await web("experiments.js");
        const texts = { ...originals };
        const textOf = (path) => texts[path];
        for (const name of names) {
          const experiment = EXPERIMENTS.find((one) => one.name === name);
          Object.assign(texts, toggled(experiment, textOf));
          if (!isApplied(experiment, textOf)) throw new Error(name);
          for (const [path, text] of Object.entries(toggled(experiment, textOf)))
            if (text !== originals[path]) throw new Error(`${name} does not come out of ${path}`);
        }
        const changed = Object.entries(texts).filter(([path, text]) => text !== originals[path]);
        return Object.fromEntries(changed);
        """,
        originals=TEXTS,
        names=names,
    )
    return edits


def inspected(page: Page, text: str) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """async (text) => {
          const ids = await lm.tokenize(text);
          const { shape, attention, lens } = await lm.inspect(ids, { top: 3 });
          return { ids, shape, attention: [...attention], lens };
        }""",
        text,
    )
    return found


def rows_of(found: dict[str, Any]) -> list[list[float]]:
    """[layers * heads][tokens]"""
    count = found["shape"][2]
    values = found["attention"]
    return [values[at : at + count] for at in range(0, len(values), count)]


def test_every_experiment_still_finds_its_lines_once() -> None:
    changes = [change for each in EXPERIMENTS for change in each["changes"]]
    assert len(EXPERIMENTS) == 5 and len(changes) > 8
    for change in changes:
        assert TEXTS[change["path"]].count(change["find"]) == 1, change
        assert change["replace"] not in TEXTS[change["path"]]


def test_without_e_with_four_tokens_in_sight_and_without_the_third_layer(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    assert "e" in lab.evaluate("(ids) => lm.detokenize(ids)", original[0]).lower()
    edits = experiment("no-e", "short-sight", "no-layer")
    assert sorted(load(lab, edits)["edited"]) == sorted(edits)
    ids = write(lab, maxNewTokens=40)
    text = lab.evaluate("(ids) => lm.detokenize(ids)", ids)
    assert len(ids) == 40 and "e" not in text.lower() and len(set(text)) > 8
    found = inspected(lab, FOX)
    rows = rows_of(found)
    assert len(rows) == 24 and len(rows[0]) > 6
    assert all(row[:-4] == [0] * (len(row) - 4) for row in rows)
    assert all(abs(sum(row) - 1) < 1e-5 and row[-4] > 0 for row in rows)
    said = [[(one["id"], one["logprob"]) for one in layer] for layer in found["lens"]]
    same = [layer for layer in range(1, 7) if said[layer] == said[layer - 1]]
    assert same == [3]


def test_the_second_likeliest_each_time_and_no_order(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    load(lab, experiment("second", "no-order"))
    found = lab.evaluate("""async () => {
      const [ids, second] = [[], []];
      for await (const piece of lm.generate("Once", { seed: 7, maxNewTokens: 12, logprobs: 2 })) {
        ids.push(...piece.ids);
        second.push(...piece.top.map((top) => top[1][0]));
      }
      return [ids, second];
    }""")
    assert found[0] == found[1] and len(found[0]) == 12
    assert write(lab, temperature=0) == write(lab) == write(lab, seed=8) != original[1]
    found = inspected(lab, FOX)
    first = found["ids"].index(next(i for i in found["ids"] if found["ids"].count(i) == 2))
    places = [at for at, one in enumerate(found["ids"]) if one == found["ids"][first]]
    heads = rows_of(found)[:4]  # of the first layer, which sees nothing but token and place
    assert len(places) == 2
    assert all(abs(row[places[0]] - row[places[1]]) < 1e-6 for row in heads)


def test_without_edits_it_is_the_original_again(
    lab: Page, original: tuple[list[int], list[int]]
) -> None:
    info = load(lab)
    assert (info["edited"], info["selfTest"]) == ([], "passed on an earlier visit")
    assert (write(lab), write(lab, temperature=0)) == original


def line_of(path: str, text: str) -> int:
    (found,) = [n for n, line in enumerate(TEXTS[path].splitlines(), 1) if text in line]
    return found


def test_what_is_wrong_is_told_with_its_file_and_line(lab: Page) -> None:
    error = load(lab, {SAMPLING: "x = (\n"})
    assert (error["name"], error["code"]) == ("EditError", "edit-failed")
    assert error["place"] == {"file": SAMPLING, "line": 1}

    error = load(lab, replaced(SELECT, "var id = all.score_id;", "var id = all.score;"))
    assert error["code"] == "edit-failed", error
    assert error["place"] == {"file": SELECT, "line": line_of(SELECT, "var id = all.score_id;")}
    assert re.search(r"select\.wgsl, line \d+: WGSL: .*score", error["message"])

    random = "gpt2web/shaders/random.wgsl"  # of another kernel, by inclusion
    old = TEXTS[random].splitlines()[-2]
    error = load(lab, {random: TEXTS[random].replace(old, "  return nothing;")})
    assert error["place"]["file"] == random, error

    embed = "gpt2web/shaders/embed.wgsl"  # these compile
    binding = line_of(embed, "@binding(2) var<storage, read> wpe")
    error = load(lab, replaced(embed, "token + wpe[row.position * HIDDEN + channel]", "token"))
    assert (error["name"], error["code"]) == ("EditError", "edit-failed"), error
    assert error["place"] == {"file": embed, "line": binding}, error
    assert re.search(r"binding index 2.*: every binding .* must be used in it\.", error["message"])
    error = load(lab, replaced(embed, "@workgroup_size(64)", "@workgroup_size(1024)"))
    assert error["code"] == "edit-failed", error
    assert error["place"] == {"file": embed, "line": line_of(embed, "fn main(")}
    assert "1024" in error["message"]
    error = load(lab, {SELECT: ""})
    assert error["code"] == "edit-failed" and error["place"] == {"file": SELECT, "line": 1}, error

    error = load(lab, {SAMPLING: TEXTS[SAMPLING] + "\nraise SystemExit('enough')\n"})
    assert (error["name"], error["code"]) == ("EditError", "edit-failed"), error
    assert "ended by itself" in error["message"] and "without edits" in error["message"]

    error = load(lab, {"gpt2web/nothing.py": ""})
    assert (error["name"], error["code"]) == ("ValueError", "option-invalid")
    assert "'gpt2web/nothing.py'" in error["message"]

    error = lab.evaluate("() => loaded({ 'gpt2web/turn.py': 7 })")
    assert error["name"] == "TypeError" and "edits" in error["message"]


def test_every_kernel_as_it_is_passes_the_check_of_edited_ones(lab: Page) -> None:
    edits = {path: text for path, text in TEXTS.items() if path.endswith(".wgsl")}
    assert load(lab, edits)["edited"] == list(edits)


def test_what_fails_in_a_step_is_told_with_its_file_and_line_too(lab: Page) -> None:
    old = '        states, samplings, flags = b"", b"", b""\n'
    generate = "gpt2web/generate.py"
    error = load(lab, replaced(generate, old, f"{old}        len(self.requests) // 0\n"))
    line = line_of(generate, old.strip()) + 1
    assert error["place"] == {"file": generate, "line": line}
    assert f"line {line}: ZeroDivisionError: " in error["message"]
    assert "Traceback" in error["detail"]
