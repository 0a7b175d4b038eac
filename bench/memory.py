"""What a page and its one worker hold in memory, counted from outside.

JavaScript heaps (used bytes and backing stores) come by the DevTools protocol; what is counted in
the worker itself, WebAssembly memory and GPU buffers, by count_memory.js, which `prelude` puts
before worker.js's own text. Not counted: the processes of the GPU, the network and the browser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

from tests.browser import before_worker

COUNT_MEMORY = Path(__file__).with_name("count_memory.js")


def prelude(context: BrowserContext) -> None:
    """Every worker.js that this context fetches from now on counts."""
    before_worker(context, COUNT_MEMORY.read_text("utf-8"))


class Memory:
    """Samples a page and its one worker. Made before the page is opened."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session = page.context.new_cdp_session(page)
        self.worker = ""  # the worker's session, once there is one
        self.answers: dict[int, dict[str, Any]] = {}
        self.asked = 0
        self.session.on("Target.attachedToTarget", self._attached)
        self.session.on("Target.receivedMessageFromTarget", self._received)
        attach = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": False}
        self.session.send("Target.setAutoAttach", attach)

    def _attached(self, event: dict[str, Any]) -> None:
        if event["targetInfo"]["type"] == "worker":
            self.worker = event["sessionId"]

    def _received(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if "id" in message:
            self.answers[message["id"]] = message.get("result", {})

    def ask(self, method: str, **options: Any) -> dict[str, Any]:
        """A command of the protocol to the worker, and its answer."""
        self.asked += 1
        message = json.dumps({"id": self.asked, "method": method, "params": options})
        target = {"sessionId": self.worker, "message": message}
        self.session.send("Target.sendMessageToTarget", target)
        while self.asked not in self.answers:
            self.page.wait_for_timeout(1)
        return self.answers.pop(self.asked)

    def sample(self) -> dict[str, float]:
        """Bytes: "page", "worker" (used and backing stores each) and "wasm"."""
        found = {"page": _bytes(self.session.send("Runtime.getHeapUsage")), "worker": 0, "wasm": 0}
        if self.worker:
            found["worker"] = _bytes(self.ask("Runtime.getHeapUsage"))
            found["wasm"] = self.evaluate("self.wasmBytes?.() ?? 0") or 0  # 0: not started yet
        return found

    def live(self) -> dict[str, float]:
        """What is still in use after everything else was collected: bytes "page" and "worker", and
        memoryUse() of count_memory.js."""
        for collect in (self.session.send, self.ask):
            collect("HeapProfiler.collectGarbage")
        return self.sample() | self.evaluate("memoryUse()")

    def evaluate(self, expression: str) -> Any:
        """In the worker; the value must be one that JSON can hold."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")


def _bytes(usage: dict[str, float]) -> float:
    return usage["usedSize"] + usage["backingStorageSize"]
