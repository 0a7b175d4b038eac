"""`build.py bench starts`: how long a visit to the page waits for its first token.

Three kinds of visit with the stories model, in Chromium on its software adapter, served from the
same machine: cold (a fresh profile); warm (the service worker has the page, and earlier visits have
left what they found out about the GPU, but Python starts anew); and from a snapshot of Python. Each
in Chromium as it is, and where it does not zero workgroup memory: a software adapter takes several
times longer to compile what zeroes it, which says nothing of a GPU.

Beside the times stands what Chromium's GPU process has used of the CPU meanwhile. Nearly all of it
is the software adapter, which compiles pipelines and computes there.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from playwright.async_api import BrowserContext, CDPSession, Page, Playwright, async_playwright

import build
from bench.page import chromium
from tests.browser import serve_folder

ROUNDS = 3  # profiles
WARM, SNAPSHOT = 2, 4  # visits of a profile
PROMPT = "Once upon a time"
QUICK = "--enable-dawn-features=disable_workgroup_init"
REST = 1.0  # seconds between two visits
LONGEST = 600  # seconds that a visit may take, on a busy machine

# Presses Generate as soon as it can be pressed, and takes the time of that and of the first text,
# in milliseconds since the visit began; then presses Stop.
VISIT = """
addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  if ($("generate") === null) return;
  $("prompt").value = %s;
  new MutationObserver(() => {
    if (self.ready || $("generate").disabled) return;
    self.ready = performance.now();
    $("generate").click();
  }).observe($("generate"), { attributes: true });
  new MutationObserver(() => {
    if (self.first || !$("written").textContent) return;
    self.first = performance.now();
    $("stop").click();
  }).observe($("written"), { childList: true, subtree: true, characterData: true });
});
"""
IS_KEPT = "() => Boolean(navigator.serviceWorker.controller)"
HAS_SNAPSHOT = """async () => {
  const name = (await caches.keys()).find((name) => name.startsWith("gpt2web snapshot "));
  return Boolean(name) && (await (await caches.open(name)).keys()).length > 0;
}"""
DROP_SNAPSHOT = """async () => {
  const names = (await caches.keys()).filter((name) => name.startsWith("gpt2web snapshot "));
  await Promise.all(names.map((name) => caches.delete(name)));
}"""
PYTHON = """() => [...document.querySelectorAll("#running div")]
  .find((row) => row.firstChild.textContent === "Python").lastChild.textContent"""


def run() -> dict[str, Any]:
    """{"browser", "load" of a core before, "page_bytes", "starts": [{"setting", "visit", and of all
    such visits "ready", "first", "gpu_cpu": seconds}]}"""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    browser, starts = asyncio.run(measure())
    page_bytes = build.page_bytes(build.DIST)
    return {"browser": browser, "load": load, "page_bytes": page_bytes, "starts": starts}


async def measure() -> tuple[str, list[dict[str, Any]]]:
    server = serve_folder(build.DIST)
    try:
        async with async_playwright() as playwright:
            found: dict[tuple[str, str], list[dict[str, float]]] = {}
            for setting, flags in (("without zeroing", [QUICK]), ("as it is", [])):
                for _ in range(ROUNDS):
                    version, visits = await one_profile(playwright, server.url, flags)
                    for which, times in visits:
                        found.setdefault((setting, which), []).append(times)
    finally:
        server.stop()
    return f"Chromium {version}", [
        {
            "setting": setting,
            "visit": which,
            **{key: [visit[key] for visit in visits] for key in visits[0]},
        }
        for (setting, which), visits in found.items()
    ]


async def one_profile(
    playwright: Playwright, url: str, flags: list[str]
) -> tuple[str, list[tuple[str, dict[str, float]]]]:
    """The browser's version, and each visit's kind and times."""
    found = []
    with tempfile.TemporaryDirectory() as profile:
        async with chromium(playwright, profile, flags) as context:
            await context.add_init_script(VISIT % json.dumps(PROMPT))
            assert context.browser is not None
            version = context.browser.version
            session = await context.browser.new_browser_cdp_session()
            for which, python in kinds():
                await asyncio.sleep(REST)
                page, times = await visit(context, session, url)
                started = await page.evaluate(PYTHON)
                assert started == python, f"{which}: Python was {started}, wanted {python}"
                found.append((which, times))
                await until(page, HAS_SNAPSHOT if len(found) == WARM + 1 else IS_KEPT)
                if len(found) <= WARM:
                    await page.evaluate(DROP_SNAPSHOT)
                await page.close()
    return version, found


def kinds() -> Iterator[tuple[str, str]]:
    """Each visit's kind, and how Python comes up in it."""
    yield "cold", "started anew"
    yield from [("warm", "started anew")] * WARM
    yield from [("snapshot", "from a snapshot")] * SNAPSHOT


async def visit(
    context: BrowserContext, session: CDPSession, url: str
) -> tuple[Page, dict[str, float]]:
    """The page, and seconds to "ready" (Generate can be pressed) and to the "first" token, with
    those that the GPU process has been on the CPU."""
    page = await context.new_page()
    before = await gpu_seconds(session)
    await page.goto(url, wait_until="commit")
    await until(page, "() => self.first")
    used = await gpu_seconds(session) - before
    times = await page.evaluate("() => ({ ready, first })")
    return page, {key: value / 1000 for key, value in times.items()} | {"gpu_cpu": used}


async def until(page: Page, condition: str) -> None:
    """Asks seldom: each animation frame, as Playwright would, costs a core a tenth of its time."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        if await page.evaluate(condition):
            return
        await asyncio.sleep(0.1)
    told = await page.evaluate("() => document.body.innerText")
    raise TimeoutError(f"{condition} does not hold after {LONGEST} s. The page says:\n{told}")


async def gpu_seconds(session: CDPSession) -> float:
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    return sum(process["cpuTime"] for process in processes if process["type"] == "GPU")
