"""The page's downloads in Chromium, against a server whose transfers go wrong as told.

Most tests run web/downloads.js alone, in a worker on a blank page (download_worker.js); the
last ones run all of the page.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Worker

from bad_server import BadServer, bad_server, stall
from gpt2web.convert.model_folder import FolderWriter

HERE = Path(__file__).parent
SHARD = 300_000  # bytes
WEIGHTS = np.random.default_rng(4).bytes(8 * SHARD - 100_000)  # 8 shards, the last one shorter
BLANK = "<!doctype html><meta charset=utf-8><title>blank</title>"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dist/'s JavaScript, a blank page, and models/m: random bytes in 8 shards."""
    folder = tmp_path_factory.mktemp("downloads")
    for script in dist.glob("*.js"):
        shutil.copy(script, folder)
    shutil.copytree(dist / "hash-wasm", folder / "hash-wasm")
    shutil.copy(HERE / "download_worker.js", folder)
    (folder / "blank.html").write_text(BLANK)
    write_model(folder / "models" / "m", WEIGHTS)
    return folder


def write_model(folder: Path, weights: bytes, shard_bytes: int = SHARD) -> None:
    """A model folder whose weights file is one tensor of these bytes."""
    about: dict[str, Any] = {"title": "M", "license": "MIT", "precision": "f32"}
    with FolderWriter(
        folder, **about, parameters=len(weights) // 4, context=8, shard_bytes=shard_bytes
    ) as writer:
        writer.add_text("config.json", "{}")
        writer.begin_weights([("w", "F32", (len(weights) // 4,))])
        writer.write(weights)


class Model:
    """The shards of a written model."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.shards = [SimpleNamespace(**shard) for shard in manifest["weights"]]
        self.files = manifest["files"] + manifest["weights"]
        self.total = sum(file["bytes"] for file in self.files)
        joined = b"".join((folder / shard.file).read_bytes() for shard in self.shards)
        self.sha256 = hashlib.sha256(joined).hexdigest()


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder / "models" / "m")


@pytest.fixture
def server(folder: Path) -> Iterator[BadServer]:
    with bad_server(folder) as server:
        yield server


@pytest.fixture
def context(quick_browser: Browser) -> Iterator[BrowserContext]:
    context = quick_browser.new_context()
    yield context
    context.close()


class Tab:
    """A blank page with the worker in it."""

    def __init__(self, context: BrowserContext, server: BadServer, without: str = "") -> None:
        self.page = context.new_page()
        self.page.goto(server.url + "blank.html")
        script = server.url + "download_worker.js" + without
        with self.page.expect_worker() as started:
            self.page.evaluate(
                """url => new Promise((resolve) => {
                  self.worker = new Worker(url, { type: "module" });
                  worker.onmessage = resolve;
                })""",
                script,
            )
        self.worker: Worker = started.value

    def begin(self, model: str = "m", **options: Any) -> None:
        """Starts a load and doesn't wait for it."""
        script = "([model, options]) => { self.loading = self.begin(model, options); }"
        self.worker.evaluate(script, [model, options])

    def seen(self) -> Any:
        return self.worker.evaluate("() => self.seen()")

    def load(self, model: str = "m", **options: Any) -> Any:
        """A load, to its end or its error."""
        self.begin(model, **options)
        return self.end()

    def end(self) -> Any:
        self.worker.evaluate("() => self.loading")
        return self.seen()

    def wait(self, condition: str) -> Any:
        """Until a condition of what is `seen` is true."""
        for _ in range(1000):
            if self.worker.evaluate(f"() => {{ const seen = self.seen(); return {condition}; }}"):
                return self.seen()
            self.page.wait_for_timeout(10)
        raise AssertionError(f"{condition} never came; seen: {self.seen()}")


def test_all_files_come_once_and_a_second_visit_fetches_nothing(context, server, model) -> None:
    seen = Tab(context, server).load()
    assert seen["error"] is None
    assert seen["sha256"] == model.sha256
    for shard in model.shards:
        assert (server.count(shard.file), server.sent(shard.file)) == (1, shard.bytes)
    assert seen["last"] == {
        "done": model.total,
        "total": model.total,
        "stored": 0,
        "notice": None,
    }
    server.forget()
    seen = Tab(context, server).load()
    assert seen["sha256"] == model.sha256
    assert seen["last"]["stored"] == model.total
    assert all(server.count(file["file"]) == 0 for file in model.files)


# --- models(), removeModel() --------------------------------------------------------------------


@pytest.fixture
def listed(server: BadServer, folder: Path, model: Model) -> Iterator[None]:
    """models.json names the model, as build.py would."""
    entry = {"name": "m", "title": "M", "bytes": model.total}
    (folder / "models.json").write_text(json.dumps([entry]))
    yield
    (folder / "models.json").unlink()


STORED = (
    """async () => (await (await import("./gpt2web.js")).models()).map(({ stored }) => stored)"""
)
REMOVE = """async () => {
  try {
    await (await import("./gpt2web.js")).removeModel("m");
  } catch ({ name, message }) {
    return { name, message };
  }
}"""


def test_models_say_what_is_stored_and_removing_frees_it(context, server, listed, model) -> None:
    tab = Tab(context, server)
    assert tab.page.evaluate(STORED) == [0]
    tab.load()
    (entry,) = tab.page.evaluate("async () => (await import('./gpt2web.js')).models()")
    assert entry == {"name": "m", "title": "M", "bytes": model.total, "stored": model.total}
    assert tab.page.evaluate(REMOVE) is None
    assert tab.page.evaluate(STORED) == [0]
    assert files_of(tab.page) == {}


def test_a_model_that_is_being_loaded_is_not_removed(context, server, listed, model) -> None:
    server.faults[model.shards[2].file] = [stall(after=1000)]
    loading, other = Tab(context, server), Tab(context, server)
    loading.begin()
    loading.wait("seen.last?.done > 1_000_000")
    refused = other.page.evaluate(REMOVE)
    assert refused["name"] == "BusyError"
    assert "in another tab" in refused["message"]
    assert loading.seen()["error"] is None
    loading.page.close()
    assert other.page.evaluate(REMOVE) is None  # the half that had come is gone as well
    assert files_of(other.page) == {}


def files_of(page: Page) -> dict[str, int]:
    """What lies in OPFS: {name: bytes}."""
    return page.evaluate("""async () => {
      const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("gpt2web");
      const found = {};
      for await (const [name, file] of folder.entries()) found[name] = (await file.getFile()).size;
      return found;
    }""")
