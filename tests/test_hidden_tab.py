"""A tab behind another goes on writing, as quickly as its worker can: nothing waits for the page's
timers, which the browser slows down, nor for its frames, which stop.

What this establishes: Chromium's own hiding and its first throttling (timers once a second). Not
what it does after five minutes (timers once a minute), nor a browser that freezes or discards tabs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession

from bench.soak import with_small_model
from browser import CHROMIUM_FLAGS, find_chromium, serve_folder

# Playwright keeps its pages awake: by these flags, and by an emulated focus for each page that it
# knows. The tabs here are in a context that it doesn't.
AWAKE = [
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
]
TOKENS = 300
SECONDS = 2  # that timers are counted for

READY = """new Promise((resolve, reject) => {
  const look = () => {
    const $ = (id) => document.getElementById(id);
    if ($("problem") && !$("problem").hidden) reject($("problem").textContent);
    else if ($("generate")?.disabled === false) resolve();
    else setTimeout(look, 50);
  };
  look();
})"""
# Presses Generate; self.written resolves when it can be pressed again.
BEGIN = """(() => {
  const $ = (id) => document.getElementById(id);
  $("prompt").value = "Once upon a time";
  $("max-new-tokens").value = %d;
  $("seed").value = 3;
  $("generate").click();
  self.written = new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if ($("generate").disabled) return;
      observer.disconnect();
      const tokens = Number($("figure-tokens").textContent);
      resolve({ text: $("written").textContent, tokens, hidden: document.hidden });
    });
    observer.observe($("generate"), { attributes: true });
  });
})()"""
FIRST = """new Promise((resolve) => {
  const written = document.getElementById("written");
  const look = () => written.textContent && resolve(true);
  new MutationObserver(look).observe(written, { childList: true });
  look();
})"""
# Whether the tab is hidden, and what comes of 20 ms timers and of frames in so many seconds, which
# are counted without a timer.
TICKS = """new Promise((resolve) => {
  const seen = { timers: 0, frames: 0 };
  const timer = setInterval(() => (seen.timers += 1), 20);
  const frame = () => { seen.frames += 1; last = requestAnimationFrame(frame); };
  let last = requestAnimationFrame(frame);
  const { port1, port2 } = new MessageChannel();
  const begin = performance.now();
  port1.onmessage = () => {
    const seconds = (performance.now() - begin) / 1000;
    if (seconds < %d) return port2.postMessage(0);
    clearInterval(timer);
    cancelAnimationFrame(last);
    resolve({ hidden: document.hidden, seconds, ...seen });
  };
  port2.postMessage(0);
})"""


class Tab:
    """A tab that Playwright leaves alone, by the DevTools protocol."""

    def __init__(self, session: CDPSession, context: str, url: str) -> None:
        self.session = session
        self.answers: dict[int, dict[str, Any]] = {}
        self.asked = 0
        target = {"url": url, "browserContextId": context}
        self.id = session.send("Target.createTarget", target)["targetId"]
        attached = session.send("Target.attachToTarget", {"targetId": self.id, "flatten": False})
        self.attached = attached["sessionId"]
        session.on("Target.receivedMessageFromTarget", self._received)

    def _received(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if event["sessionId"] == self.attached and "id" in message:
            self.answers[message["id"]] = message

    def show(self) -> None:
        self.session.send("Target.activateTarget", {"targetId": self.id})

    def ask(self, method: str, **options: Any) -> dict[str, Any]:
        self.asked += 1
        message = json.dumps({"id": self.asked, "method": method, "params": options})
        target = {"sessionId": self.attached, "message": message}
        self.session.send("Target.sendMessageToTarget", target)
        while self.asked not in self.answers:
            self.session.send("Browser.getVersion")  # lets the answer in
        answer: dict[str, Any] = self.answers.pop(self.asked)["result"]
        return answer

    def evaluate(self, expression: str) -> Any:
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.ask("Runtime.evaluate", expression=expression, **options)
        wrong = answer.get("exceptionDetails")
        assert wrong is None, wrong["exception"].get("description", wrong)
        return answer["result"].get("value")


@pytest.fixture
def tabs(browser: Browser) -> Iterator[tuple[CDPSession, str]]:
    """A Chromium that hides tabs as it would for a reader: a session with it, and a context."""
    flags = [*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"]
    sleepy = browser.browser_type.launch(
        executable_path=find_chromium(), args=flags, ignore_default_args=AWAKE, timeout=60_000
    )
    session = sleepy.new_browser_cdp_session()
    yield session, session.send("Target.createBrowserContext")["browserContextId"]
    sleepy.close()


@pytest.mark.browser
def test_a_tab_behind_another_writes_the_same_text(
    tabs: tuple[CDPSession, str], dist: Any, tmp_path: Any
) -> None:
    with_small_model(dist, tmp_path / "dist")
    server = serve_folder(tmp_path / "dist")
    tab = Tab(*tabs, "about:blank")
    tab.show()
    tab.ask("Page.navigate", url=server.url)
    tab.evaluate(READY)
    tab.evaluate(BEGIN % TOKENS)
    wanted = tab.evaluate("self.written")
    assert wanted["tokens"] > 100 and not wanted["hidden"]
    awake = tab.evaluate(TICKS % SECONDS)
    assert not awake["hidden"] and awake["timers"] > 10 * SECONDS and awake["frames"] > 0

    tab.evaluate(BEGIN % TOKENS)
    tab.evaluate(FIRST)
    Tab(*tabs, "data:text/html,another").show()
    half = tab.evaluate("({ hidden: document.hidden, writing: generate.disabled })")
    assert half == {"hidden": True, "writing": True}  # hidden while it wrote
    assert tab.evaluate("self.written") == wanted | {"hidden": True}
    asleep = tab.evaluate(TICKS % SECONDS)
    assert asleep["hidden"] and asleep["frames"] == 0
    # one a second: the first comes at once, and one that a busy machine held up comes late
    assert asleep["timers"] <= asleep["seconds"] + 2

    tab.evaluate(BEGIN % TOKENS)  # and one that begins while it is hidden
    assert tab.evaluate("self.written") == wanted | {"hidden": True}
    tab.show()
    awake = tab.evaluate(TICKS % SECONDS)
    assert not awake["hidden"] and awake["timers"] > 10 * SECONDS
    server.stop()
