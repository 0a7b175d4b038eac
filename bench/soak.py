"""`build.py bench soak`: ten thousand tokens over many generations in the page, what they leave.

The page is used as a reader uses it: text, length and seed go into the fields, Generate is pressed,
Stop in one generation of each round, and Undo after each. What is in use is sampled after every
round, with the garbage in both heaps and in Python collected: see memory.py. Time is taken from
Generate to the last word, and as time on the CPU of the worker's thread and of the browser's GPU
process, which other programs disturb less.

Judged is the slope over the last 80 % (slope.py): "flat" is only what can't grow by more than
LIMITS in ten thousand tokens, with 95 % confidence. A control, in the same page afterwards, leaks a
little of everything on purpose; the same judgement has to find each of its leaks.

On a software adapter the stories model takes 0.1 s of both cores for a token. The small model, of
two layers with random weights, writes ten thousand tokens in minutes by the same code; what a token
leaves behind does not depend on the weights. Linux only: CPU times are read from /proc.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

import build
from bench.download import write_model
from bench.memory import Memory, prelude
from bench.slope import slope
from gpt2web.config import GPT2Config
from tests.browser import CHROMIUM_FLAGS, serve_folder

TOKENS = 10_000
CONTROL_TOKENS = 3_000
LEAK = 256  # bytes a submit, in the control
# What may grow in 10,000 tokens, at most, and still be called flat: 10 bytes a token, less than an
# object kept for each. Heap snapshots show what the two heaps do gain: machine code that V8 makes
# of what runs often, and the browser's own records of slow frames, of which it keeps so many.
LIMITS: dict[str, float] = {
    "page": 100_000,
    "worker": 100_000,
    "python": 100_000,
    "gpu_buffers": 0,
    "gpu_bytes": 0,
}
SLOWER = 0.1  # of its level, for what is a time
SMALL = GPT2Config(
    vocabulary_size=512,
    num_layers=2,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    max_sequence_length=1024,
)
# The generations of a round: prompt, tokens, and whether Stop is pressed at the first of them. One
# has more than 256 tokens before it, the end of the cache's first split.
ROUND = [
    ("Once upon a time", 24, False),
    ("The dragon did not want to fight. He wanted to", 40, False),
    ("Once upon a time, Lily and her grandmother baked a cake, but", 300, True),
    ("A small fox found a red door in the forest. " * 20, 60, False),
]
GENERATION_MS = 600_000
LOAD_MS = 300_000

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
  if (stop) {
    const begun = seen($("written"), { childList: true }, () => $("written").textContent);
    Promise.race([begun, over]).then(() => $("stop").click());
  }
  const start = performance.now();
  $("generate").click();
  await over;
  const seconds = (performance.now() - start) / 1000;
  const problem = $("problem").hidden ? "" : $("problem-text").textContent;
  const written = Number($("figure-tokens").textContent);
  if (!$("undo").disabled) $("undo").click();
  return { seconds, problem, tokens: written };
}"""
# The control's leak in the page itself.
HOLD = "bytes => { (self.held ??= []).push(new Array(Math.ceil(bytes / 8)).fill(0.5)); }"


class Soaked:
    """Samples of one run, each taken at so many tokens since its start."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.values: dict[str, list[float]] = {}

    def add(self, tokens: int, sample: dict[str, float]) -> None:
        self.tokens.append(tokens)
        for name, value in sample.items():
            self.values.setdefault(name, []).append(value)

    def judged(self, limits: dict[str, float] = LIMITS) -> dict[str, Any]:
        """Each quantity's slope, its limit and what follows. "wasm" has no limit: WebAssembly's
        memory grows in steps and never shrinks; "python" says what of it is in use."""
        found: dict[str, Any] = {}
        for name, values in self.values.items():
            grown = slope(self.tokens, values)
            found[name] = asdict(grown)
            if name != "wasm":
                limit = limits.get(name, SLOWER * grown.level)
                found[name] |= {"limit": limit, "verdict": grown.verdict(limit)}
        return {"tokens": self.tokens[-1], "samples": len(self.tokens), "slopes": found}


def soak(
    page: Page,
    memory: Memory,
    tokens: int,
    leak: int = 0,
    rounds: Sequence[tuple[str, int, bool]] = ROUND,
    times: Callable[[], dict[str, float]] = dict,
) -> Soaked:
    """Writes that many tokens in the page, which has its model, round after round.

    leak: bytes a submit. times: CPU seconds so far, by name. RuntimeError for one that goes wrong.
    """
    soaked, written, number = Soaked(), 0, 0
    page.set_default_timeout(GENERATION_MS)
    memory.evaluate(f"self.leak = {leak}")
    while written < tokens:
        timed = 0
        spent = dict.fromkeys(("seconds", *times()), 0.0)
        for prompt, length, stop in rounds:
            number += 1
            before = times()
            done = page.evaluate(WRITE, [prompt, length, number, stop])
            after = times() | {"seconds": done["seconds"]}
            if done["problem"]:
                raise RuntimeError(f"generation {number} went wrong: {done}")
            written += done["tokens"]
            if leak:
                page.evaluate(HOLD, leak * done["tokens"])
            if not stop:
                timed += done["tokens"]
                for name, value in after.items():
                    spent[name] += value - before.get(name, 0.0)
        if timed == 0:
            raise RuntimeError(
                f"the page wrote nothing in the {len(rounds)} generations to {number}"
            )
        sample = memory.live() | {name: value / timed for name, value in spent.items()}
        soaked.add(written, sample)
        held = ", ".join(f"{name} {value:,.6g}" for name, value in sample.items())
        print(f"  {written} tokens: {held}", file=sys.stderr, flush=True)
    return soaked


def open_page(browser: Browser, url: str) -> tuple[Page, Memory]:
    """The page with the model ready, counted."""
    context = browser.new_context(service_workers="block")
    prelude(context)
    page = context.new_page()
    memory = Memory(page)
    page.goto(url)
    page.wait_for_selector("#generate:enabled", timeout=LOAD_MS)
    return page, memory


def with_small_model(dist: Path, folder: Path) -> None:
    """Makes `folder` a copy of dist/ whose page opens with the small model."""
    shutil.copytree(dist, folder, copy_function=build.link_or_copy)
    write_model(folder / "models" / "small", SMALL)
    index = folder / "index.html"
    text = index.read_text("utf-8")
    old, new = '<option value="stories">', '<option value="small">'
    if old not in text:
        raise ValueError(f"wanted {old} in index.html, where the page's first model stands")
    index.unlink()  # it is the other name of dist's
    index.write_text(text.replace(old, new), encoding="utf-8")


def run(model: str, tokens: int = TOKENS) -> dict[str, Any]:
    """The run and its control, judged. model: "stories" or "small"."""
    with tempfile.TemporaryDirectory() as place:
        root = build.DIST
        if model == "small":
            with_small_model(build.DIST, root := Path(place) / "dist")
        server = serve_folder(root)
        try:
            with sync_playwright() as playwright:
                # without zeroing workgroup memory the software adapter is five times faster
                flags = [*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"]
                path = build.find_chromium()
                browser = playwright.chromium.launch(executable_path=path, args=flags)
                page, memory = open_page(browser, server.url)
                times = cpu_times(browser)
                soaked = soak(page, memory, tokens, times=times)
                control = soak(page, memory, min(tokens, CONTROL_TOKENS), LEAK, times=times)
                version = browser.version
                browser.close()
        finally:
            server.stop()
    return {
        "model": model,
        "browser": f"Chromium {version}",
        "load": os.getloadavg()[0] / (os.cpu_count() or 1),  # programs that want a core, each
        **soaked.judged(),
        "control": control.judged(),
    }


def cpu_times(browser: Browser) -> Callable[[], dict[str, float]]:
    """Gives the CPU seconds so far of the workers' threads, and of the GPU's process."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]

    def times() -> dict[str, float]:
        found = {"worker_cpu": 0.0, "gpu_cpu": 0.0}
        for process in processes:
            for thread in Path(f"/proc/{process['id']}/task").glob("*"):
                try:
                    worker = (thread / "comm").read_text().startswith("DedicatedWorker")
                    if worker or process["type"] == "GPU":
                        seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
                        found["worker_cpu" if worker else "gpu_cpu"] += seconds
                except OSError:  # a thread that has just ended
                    continue
        return found

    return times
