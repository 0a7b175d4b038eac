"""The page's side: models in a worker of Chromium.

Linux only: what a thread has used of the CPU is read from /proc.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, CDPSession, Playwright, Worker, async_playwright

import build
from bench.procedure import MODELS, measure
from tests.browser import CHROMIUM_FLAGS, TestServer, serve_folder

HERE = Path(__file__).parent


class InWorker:
    """A model in a worker of a blank page on dist/'s origin."""

    def __init__(self, worker: Worker, stat: Path) -> None:
        self.worker = worker
        self.stat = stat  # of the worker's thread: nanoseconds on the CPU come first

    async def call(self, method: str, *arguments: Any) -> Any:
        script = "([method, values]) => call(method, values)"
        return json.loads(await self.worker.evaluate(script, [method, list(arguments)]))

    async def cpu_seconds(self) -> float:
        return int(self.stat.read_text().split()[0]) / 1e9

    async def count(self, on: bool) -> None:
        await self.worker.evaluate("on => count(on)", on)

    async def counted(self) -> Counter[str]:
        return Counter(await self.worker.evaluate("() => counted()"))


async def run() -> dict[str, Any]:
    """{"browser": its version, "python": the page's, "models": [...]}"""
    server = serve_folder(build.DIST)
    try:
        async with async_playwright() as playwright, chromium(playwright) as context:
            assert context.browser is not None
            version = context.browser.version
            place, python = await start_worker(context, server)
            models = [await measure(place, *model) for model in MODELS]
    finally:
        server.stop()
    return {"browser": f"Chromium {version}", "python": python, "models": models}


@asynccontextmanager
async def chromium(
    playwright: Playwright, profile: str | None = None, flags: Sequence[str] = ()
) -> AsyncIterator[BrowserContext]:
    """A context of Chromium on its software adapter; with a profile, one that keeps a cache."""
    options: Any = {"executable_path": build.find_chromium(), "args": [*CHROMIUM_FLAGS, *flags]}
    if profile is not None:
        context = await playwright.chromium.launch_persistent_context(profile, **options)
        yield context
        await context.close()
        return
    browser = await playwright.chromium.launch(**options)
    yield await browser.new_context()
    await browser.close()


async def start_worker(context: BrowserContext, server: TestServer) -> tuple[InWorker, str]:
    """The worker, and the version of its Python."""
    blank, script = f"{server.url}bench/blank.html", f"{server.url}bench/worker.js"
    await context.route(
        blank, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    await context.route(script, lambda route: route.fulfill(path=HERE / "worker.js"))
    page = await context.new_page()
    await page.goto(blank)
    async with page.expect_worker() as started:
        await page.evaluate("url => { new Worker(url, { type: 'module' }); }", script)
    worker = await started.value
    while not await worker.evaluate("() => 'boot' in self"):
        await page.wait_for_timeout(20)
    wheels = [wheel["file"] for wheel in json.loads((build.DIST / "wheels.json").read_text())]
    source = (HERE / "measure.py").read_text("utf-8")
    python = await worker.evaluate("values => boot(...values)", [wheels, source])
    assert context.browser is not None
    stat = await thread_of_worker(await context.browser.new_browser_cdp_session())
    return InWorker(worker, stat), python


async def thread_of_worker(session: CDPSession) -> Path:
    """/proc/.../schedstat of the one thread in this browser that runs a dedicated worker."""
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    names = [p for process in processes for p in Path(f"/proc/{process['id']}/task").glob("*/comm")]
    (name,) = [path for path in names if path.read_text().startswith("DedicatedWorker")]
    return name.with_name("schedstat")
