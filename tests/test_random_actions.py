"""Whatever a reader does, whatever is lost, and in whatever order: the page is never wedged. Bursts
of seeded random actions, quicker than any hand, with lost devices and dead workers among them;
after each an undisturbed generation gives the text that it gave at the start. More seeds than the
one here: GPT2WEB_ACTION_SEEDS=1,2,3 (240 actions each).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import CDPSession

from bench.download import write_model
from bench.soak import SMALL, with_small_model
from browser import serve_folder
from test_hidden_tab import READY, Tab, tabs  # noqa: F401  a fixture

TROUBLE = (Path(__file__).parent / "trouble.js").read_text("utf-8")
SEEDS = os.environ.get("GPT2WEB_ACTION_SEEDS")
ACTIONS, BURST = (240, 30) if SEEDS else (60, 30)
WEDGED_MS = 180_000 if SEEDS else 60_000

PAGE = """
const $ = (id) => document.getElementById(id);
const put = (id, value) => {
  $(id).value = value;
  for (const type of ["input", "change"]) $(id).dispatchEvent(new Event(type, { bubbles: true }));
};
const key = (key, more) => document.dispatchEvent(new KeyboardEvent("keydown", { key, ...more }));
const click = (id) => $(id)?.click();
const any = (list) => list[Math.floor(at * list.length)];
const models = () => ["small", "second"];
const order = (trouble) => { // see trouble.js; sessionStorage outlives a reload
  const channel = new BroadcastChannel("trouble");
  channel.onmessage = ({ data: { lost = 0 } }) => {
    sessionStorage.lost = Number(sessionStorage.lost ?? 0) + lost;
  };
  channel.postMessage(trouble);
};
"""
# What a reader can do: JavaScript, with a number from 0 to 1 as `at`; by how often it is done.
DONE_IN_PAGE = {
    'click("generate")': 6,
    'click("stop")': 5,
    'key("Enter", { ctrlKey: true })': 2,
    'key("Escape")': 3,
    'put("prompt", any(["", "Once", "The fox ".repeat(40), "\\u{1f98a} \\u00e9\\u0301"]))': 4,
    'click(any(["go-on", "retry", "branch", "undo", "redo", "ways-none", "stop-here"]))': 8,
    'click("edit"); if (!$("editing").hidden) put("editor", $("editor").value + " And")': 2,
    'click(any(["edit-done", "edit-go-on"]))': 2,
    'put("temperature", any(["0", "1", "2"]))': 2,
    'put("max-new-tokens", any(["1", "30", "-1", "", "200"]))': 3,
    'put("top-k", any(["", "5", "0"])); put("seed", any(["", "3", "-7"]))': 3,
    'put("preset", any(["careful", "daring", "likeliest"]))': 1,
    'put("model", any(models())); click("load-model")': 1,
    'click("cancel-load")': 1,
    'const panel = any([...document.querySelectorAll("details")]); panel.open = !panel.open': 4,
    'click("way-out")': 1,
    "order({ loseNow: true })": 2,
    "order(any([{ end: true }, { throw: true }]))": 2,
}
# Done by the browser itself.
DONE_OUTSIDE = {"resize": 3, "hide": 2, "show": 3, "reload": 1}
CALM = """(async () => {
  %s
  const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const until = async (what, is) => {
    const end = Date.now() + %d;
    while (!is()) {
      const page = document.body.innerText;
      if (Date.now() > end) throw new Error(`wedged: waited for ${what}; ${page}`);
      await later(20);
    }
  };
  await until("the page", () => document.readyState === "complete" && $("prompt"));
  const busy = () => !$("stop").disabled || !$("loading").hidden;
  if (!$("stop").disabled) click("stop");
  await until("an end of what went on", () => !busy());
  if ($("generate").disabled) click("load-model"); // a load was cancelled
  await until("a model", () => !$("generate").disabled);
  if (!$("editing").hidden) click("edit-done");
  const fields = { prompt: "Once upon a time", "max-new-tokens": 12, seed: 3, stop: "" };
  Object.assign(fields, { temperature: 1, "top-k": "", "top-p": 1, "min-p": 0 });
  put("repetition-penalty", 1);
  for (const [id, value] of Object.entries(fields)) put(id, value);
  click("generate");
  await until("the generation's beginning", () => $("generate").disabled);
  await until("its end", () => !$("generate").disabled);
  const model = $("running").querySelector("dd").textContent;
  return [model, $("written").textContent, $("problem").hidden];
})()"""
# A fault: the next message that asks for a text does not arrive.
SWALLOW = """(() => {
  const { postMessage } = Worker.prototype;
  Worker.prototype.postMessage = function (message, ...rest) {
    if (message.type !== "generate") return postMessage.call(this, message, ...rest);
    Worker.prototype.postMessage = postMessage;
  };
})()"""


class Reader:
    """Does what a seed says in a tab, and looks whether it still writes."""

    def __init__(self, tab: Tab, other: Tab, seed: int) -> None:
        self.tab, self.other, self.draw = tab, other, random.Random(seed)
        self.done: list[str] = []
        self.known: dict[str, str] = {}  # model -> what it writes undisturbed

    def burst(self, count: int) -> None:
        weights = DONE_IN_PAGE | DONE_OUTSIDE
        for action in self.draw.choices(list(weights), list(weights.values()), k=count):
            self.act(action, self.draw.random())
            time.sleep(self.draw.choice((0, 0, 0.01, 0.1, 0.4)))

    def act(self, action: str, at: float) -> None:
        self.done.append(f"{action} at {at:.2f}")
        if action == "resize":
            size = {"width": 300 + int(1000 * at), "height": 300 + int(500 * at)}
            options = {"deviceScaleFactor": 1, "mobile": False}
            self.tab.ask("Emulation.setDeviceMetricsOverride", **size, **options)
        elif action in ("hide", "show"):
            (self.other if action == "hide" else self.tab).show()
        elif action == "reload":
            self.tab.ask("Page.reload")
            self.tab.evaluate(READY)  # what a reload interrupts is gone with the page
        else:
            self.tab.evaluate(f"(() => {{ const at = {at}; {PAGE} {action}; }})()")

    def look(self, wedged_ms: int = WEDGED_MS) -> None:
        """AssertionError for a page that does not write, or something else than it did."""
        self.tab.show()
        model, text, fine = self.tab.evaluate(CALM % (PAGE, wedged_ms))
        assert fine and text, (model, text, self.done)
        assert self.known.setdefault(model, text) == text, (model, self.done)


@pytest.fixture
def url(dist: Path, tmp_path: Path) -> Iterator[str]:
    """dist/ with two small models, and a worker that meets trouble when it is ordered."""
    root = tmp_path / "dist"
    with_small_model(dist, root)
    worker = (root / "worker.js").read_text("utf-8")
    (root / "worker.js").unlink()  # the other name of the file in dist
    (root / "worker.js").write_text(TROUBLE + worker, encoding="utf-8")
    write_model(root / "models" / "second", SMALL)
    listed = json.loads((root / "models.json").read_text("utf-8"))
    for name in ("small", "second"):
        fields = json.loads((root / "models" / name / "manifest.json").read_text("utf-8"))
        size = sum(file["bytes"] for file in fields["files"] + fields["weights"])
        entry = {key: fields[key] for key in listed[0] if key in fields} | {"bytes": size}
        listed.append(entry)
    (root / "models.json").unlink()  # the other name of the file in dist
    (root / "models.json").write_text(json.dumps(listed), encoding="utf-8")
    server = serve_folder(root)
    yield server.url
    server.stop()


def reader(tabs: tuple[CDPSession, str], url: str, seed: int) -> Reader:  # noqa: F811
    other = Tab(*tabs, "data:text/html,another")
    tab = Tab(*tabs, "about:blank")
    tab.show()
    tab.ask("Page.navigate", url=url)
    tab.evaluate(READY)
    return Reader(tab, other, seed)


@pytest.mark.browser
@pytest.mark.parametrize("seed", [int(seed) for seed in (SEEDS or "1").split(",")])
def test_random_actions_never_wedge_the_page_and_a_swallowed_message_does(
    seed: int,
    tabs: tuple[CDPSession, str],  # noqa: F811
    url: str,
) -> None:
    one: Any = reader(tabs, url, seed)
    one.look()
    for _ in range(ACTIONS // BURST):
        one.burst(BURST)
        one.look()
    assert int(one.tab.evaluate("sessionStorage.lost ?? 0")) > 0, "no device was lost"
    one.tab.evaluate(SWALLOW)
    with pytest.raises(AssertionError, match="waited for its end"):
        one.look(wedged_ms=8_000)
