"""What memory a download takes in the page: a model of 500 MB that comes through web/downloads.js.

Counted are the JavaScript heaps of page and worker and every WebAssembly memory in the worker (see
memory.py), at the same moment, as often as the answers come (about every 0.1 s on 2 cores). A
worker at work answers late: the longest time between two answers is reported as well.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import build
from bench.memory import Memory, prelude
from gpt2web.bpe import BYTE_TO_CHARACTER
from gpt2web.checkpoint import tensor_shapes
from gpt2web.config import GPT2Config
from gpt2web.convert.model_folder import FolderWriter
from tests.browser import CHROMIUM_FLAGS, serve_folder

EVERY = 50  # milliseconds
VALUES = 1_000_003  # of the random numbers that the weights repeat: no two shards are the same
LOAD_SECONDS = 600


def write_model(folder: Path, config: GPT2Config, **options: Any) -> int:
    """A model folder of this config in f32, its weights random; returns its bytes."""
    shapes = tensor_shapes(config)
    letters = BYTE_TO_CHARACTER.values()
    words = [
        "#version: 0.2",
        *(f"{a} {b}" for a in letters for b in letters),
    ][: config.vocabulary_size - 256]
    fields = {
        "vocab_size": config.vocabulary_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_embd": config.hidden_dim,
        "n_inner": config.intermediate_dim,
        "n_positions": config.max_sequence_length,
        "model_type": "gpt2",
        "activation_function": "gelu_new",
    }
    draw = random.Random(1)
    block = memoryview(array("f", (draw.gauss(0, 0.02) for _ in range(VALUES)))).cast("B")
    about: dict[str, Any] = {
        "title": folder.name,
        "license": "none",
        "precision": "f32",
        "parameters": config.num_parameters,
        "context": config.max_sequence_length,
    }
    with FolderWriter(folder, **about, **options) as writer:
        writer.add_text("config.json", json.dumps(fields))
        writer.add_text("merges.txt", "\n".join(words) + "\n")
        writer.begin_weights([(name, "F32", shape) for name, shape in shapes.items()])
        left = 4 * config.num_parameters
        while left:
            writer.write(block[:left])
            left -= min(left, len(block))
    return sum(file.stat().st_size for file in folder.iterdir())


LOAD = """name => {
  self.over = null;
  self.stage = "";
  const onProgress = ({ stage }) => (self.stage = stage);
  import("/gpt2web.js").then(({ load }) => load(name, { onProgress })).then(
    (lm) => { self.over = "loaded"; },
    (error) => { self.over = error.message; },
  );
}"""


def measure(page: Page, origin: str, name: str) -> tuple[dict[str, Any], Memory]:
    """Loads models/<name> in a blank page on dist/'s origin, and samples until it is there."""
    context, blank = page.context, f"{origin}/bench/blank.html"
    prelude(context)
    context.route(
        blank, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    page.goto(blank)
    memory = Memory(page)
    page.evaluate(LOAD, name)
    start = last = time.monotonic()
    found: dict[str, float] = {}
    peak: dict[str, float] = {}
    gap, samples, over = 0.0, 0, None
    while over is None and time.monotonic() - start < LOAD_SECONDS:
        found = memory.sample()
        now = time.monotonic()
        over, stage = page.evaluate("() => [self.over, self.stage]")
        if stage in ("download", "model"):
            gap = max(gap, now - last)
        last, samples = now, samples + 1
        if sum(found.values()) > sum(peak.values()):
            peak = found
        page.wait_for_timeout(max(0.0, EVERY - 1000 * (time.monotonic() - now)))
    if over != "loaded":
        raise RuntimeError(f"{name} was not loaded: {over}")
    result = {
        "peak": sum(peak.values()),
        "at_peak": peak,
        "at_the_end": found,
        "seconds": round(time.monotonic() - start, 1),
        "samples": samples,
        "longest_gap": round(gap, 2),  # seconds between two samples, while bytes came
    }
    return result, memory


def run(config: GPT2Config | None = None) -> dict[str, Any]:
    """Writes the model, of GPT-2's shape, and loads it in a fresh profile, and once more."""
    config = config or GPT2Config.from_preset("gpt2")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "dist"
        shutil.copytree(build.DIST, root, copy_function=build.link_or_copy)
        found: dict[str, Any] = {"bytes": write_model(root / "models" / "large", config)}
        server = serve_folder(root)
        try:
            with sync_playwright() as playwright:
                context = playwright.chromium.launch_persistent_context(
                    f"{place}/profile",
                    executable_path=build.find_chromium(),
                    args=[*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"],
                )
                for visit in ("downloaded", "from the store"):
                    page = context.new_page()
                    found[visit], _ = measure(page, server.origin, "large")
                    page.close()
                context.close()
        finally:
            server.stop()
    return found
