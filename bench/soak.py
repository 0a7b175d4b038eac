"""`build.py bench soak`: ten thousand tokens over many generations, in the page and natively.

Memory and time are sampled after every round of generations. What is judged is the slope over the
last 80 % (see slope.py): "flat" is only what can't grow by more than LIMITS in ten thousand tokens,
with 95 % confidence. A control run leaks a little of everything on purpose; the same judgement has
to find every one of its leaks.

In the page the stories model is used as a reader uses it: text, length and seed are put into the
fields, Generate is pressed, and in one generation of each round Stop as well. Counted are what is
live after a collection of garbage in both heaps and in Python, and GPU buffers not destroyed. Time
is taken from Generate to the last word, and as time on the CPU of the worker's thread and of the
browser's GPU process, which others on the same machine disturb less. Linux only: that and the
native process's memory are read from /proc.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wgpu
from playwright.sync_api import Page, sync_playwright

import build
from bench.memory import Memory, prelude
from bench.slope import slope
from gpt2web.causal_lm import GPT2CausalLM
from tests.browser import CHROMIUM_FLAGS, serve_folder

TOKENS = 10_000
CONTROL_TOKENS = 2_000
LEAK = 128  # bytes a submit, in the control
# What may grow in 10,000 tokens, at most, and still be called flat.
LIMITS: dict[str, float] = {
    "page": 100_000,  # bytes
    "worker": 100_000,
    "wasm_live": 100_000,
    "gpu_buffers": 0,
    "gpu_bytes": 0,
    "rss": 1_000_000,
}
SLOWER = 0.1  # of its level, for what is a time
# The generations of a round: prompt, tokens, and whether Stop is pressed at the first of them. One
# has more than 256 tokens before it, the end of the cache's first split.
ROUND = [
    ("Once upon a time", 24, False),
    ("The dragon did not want to fight. He wanted to", 40, False),
    ("Once upon a time, Lily and her grandmother baked a cake, but", 300, True),
    ("A small fox found a red door in the forest. " * 20, 60, False),
]
GENERATION_SECONDS = 600

# One generation, driven by the page's own fields; resolves when Generate can be pressed again.
WRITE = """async ([prompt, tokens, seed, stop]) => {
  const $ = (id) => document.getElementById(id);
  const seen = (element, options, wanted) => new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (!wanted()) return;
      observer.disconnect();
      resolve();
    });
    observer.observe(element, options);
  });
  $("prompt").value = prompt;
  $("max-new-tokens").value = tokens;
  $("seed").value = seed;
  const over = seen($("generate"), { attributes: true }, () => !$("generate").disabled);
  const begun = seen($("written"), { childList: true }, () => $("written").textContent);
  const start = performance.now();
  $("generate").click();
  if (stop) begun.then(() => $("stop").click());
  await over;
  return {
    seconds: (performance.now() - start) / 1000,
    tokens: Number($("figure-tokens").textContent),
    problem: $("problem").hidden ? "" : $("problem-text").textContent,
  };
}"""
# The control's leak in the page itself.
HOLD = "bytes => { (self.held ??= []).push(new Array(Math.ceil(bytes / 8)).fill(0.5)); }"


class Soaked:
    """Samples of one run. `add` takes one, at so many tokens since the start."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.values: dict[str, list[float]] = {}

    def add(self, tokens: int, sample: dict[str, float]) -> None:
        self.tokens.append(tokens)
        for name, value in sample.items():
            self.values.setdefault(name, []).append(value)

    def judged(self) -> dict[str, Any]:
        """Each quantity's slope, its limit and what follows; the one that may only be reported
        is "wasm", which grows in steps and never shrinks."""
        found: dict[str, Any] = {}
        for name, values in self.values.items():
            grown = slope(self.tokens, values)
            result = asdict(grown) | {"first": values[0], "last": values[-1]}
            if name != "wasm":
                limit = LIMITS.get(name, SLOWER * grown.level)
                result |= {"limit": limit, "verdict": grown.verdict(limit)}
            found[name] = result
        return {"tokens": self.tokens[-1], "samples": len(self.tokens), "slopes": found}


def in_page(page: Page, memory: Memory, tokens: int, leak: int = 0, times: Any = None) -> Soaked:
    """Writes that many tokens in the page, which has its model, round after round.

    leak: bytes a submit. times: CPU seconds so far by name, if they are to be taken.
    """
    soaked, written, number = Soaked(), 0, 0
    memory.evaluate(f"self.leak = {leak}")
    while written < tokens:
        spent, seconds, timed = times() if times else {}, 0.0, 0
        for prompt, length, stop in ROUND:
            number += 1
            page.set_default_timeout(1000 * GENERATION_SECONDS)
            done = page.evaluate(WRITE, [prompt, length, number, stop])
            if done["problem"] or done["tokens"] == 0:
                raise RuntimeError(f"generation {number} failed: {done}")
            written += done["tokens"]
            if leak:
                page.evaluate(HOLD, leak * done["tokens"])
            if not stop:
                seconds, timed = seconds + done["seconds"], timed + done["tokens"]
        after = times() if times else {}
        cpu = {name: (after[name] - spent[name]) / timed for name in after}
        sample = memory.live()
        soaked.add(written, sample | ({"seconds": seconds / timed} | cpu if times else {}))
        report(written, sample, seconds / timed)
    return soaked


def report(written: int, sample: dict[str, float], seconds: float) -> None:
    held = ", ".join(f"{name} {value:,.0f}" for name, value in sample.items())
    print(f"  {written} tokens, {seconds:.3f} s each: {held}", file=sys.stderr, flush=True)


def run_page(tokens: int, leak: int) -> Soaked:
    server = serve_folder(build.DIST)
    flags = [*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"]
    try:
        with sync_playwright() as playwright:
            chromium = build.find_chromium()
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            context = browser.new_context(service_workers="block")
            prelude(context)
            page = context.new_page()
            memory = Memory(page)
            page.goto(server.url)
            page.wait_for_selector("#generate:enabled", timeout=120_000)
            session = browser.new_browser_cdp_session()
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            soaked = in_page(page, memory, tokens, leak, lambda: cpu_seconds(processes))
            browser.close()
    finally:
        server.stop()
    return soaked


def cpu_seconds(processes: list[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds so far of the one worker's thread, and of the GPU's process."""
    found = {"worker_cpu": 0.0, "gpu_cpu": 0.0}
    for process in processes:
        for thread in Path(f"/proc/{process['id']}/task").iterdir():
            worker = (thread / "comm").read_text().startswith("DedicatedWorker")
            if worker or process["type"] == "GPU":
                seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
                found["worker_cpu" if worker else "gpu_cpu"] += seconds
    return found


# --- natively -------------------------------------------------------------------------------------


async def natively(adapter: str, tokens: int, leak: int) -> Soaked:
    """The same rounds in this process, by lm.stream."""
    lm = await GPT2CausalLM.from_preset_async("stories", adapter=adapter)
    device = lm.backbone.device
    assert device is not None
    soaked, written, number = Soaked(), 0, 0
    held: list[Any] = []
    while written < tokens:
        began, spent, timed = time.perf_counter(), time.process_time(), written
        for prompt, length, stop in ROUND:
            number += 1
            stream = lm.stream(prompt[-700:], max_new_tokens=length, top_k=40, seed=number)
            async with stream:
                async for piece in stream:
                    written += len(piece.ids)
                    if leak:
                        held += [bytearray(40 * leak), device.tensor((leak // 4,))]
                    if stop and piece.ids:
                        stream.cancel()
        seconds = (time.perf_counter() - began) / (written - timed)
        cpu = (time.process_time() - spent) / (written - timed)
        gc.collect()
        sample = {"rss": resident(), "objects": sys.getallocatedblocks(), "gpu_buffers": buffers()}
        soaked.add(written, sample | {"seconds": seconds, "cpu": cpu})
        report(written, sample, seconds)
    lm.close()
    return soaked
