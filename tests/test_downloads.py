"""The page's downloads in Chromium, against a server whose transfers go wrong as told.

Most tests run web/downloads.js alone, in a worker on a blank page (download_worker.js); the
last ones run all of the page.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Worker

from bad_server import (
    BadHandler,
    BadServer,
    bad_server,
    cut,
    no_length,
    no_range,
    stall,
    status,
    wrong_bytes,
    wrong_length,
    wrong_range,
)
from bench import download
from browser import build
from gpt2web.config import GPT2Config
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
    entry = {"name": "m", "title": "M", "bytes": Model(folder / "models" / "m").total}
    (folder / "models.json").write_text(json.dumps([entry]))
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
    assert seen["error"] is None, seen["error"]["message"]
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


# --- Transfers that break -----------------------------------------------------------------------


def at_stall(tab: Tab, model: Model, left: int) -> Any:
    """Until all is here but the bytes that a stalled transfer leaves."""
    return tab.wait(f"seen.last?.done === {model.total - left}")


def ranges(server: BadServer, file: str) -> list[str | None]:
    return [request.range for request in server.seen(file)]


ENDINGS = {
    "reload": lambda tab: tab.page.reload(),
    "closed tab": lambda tab: tab.page.close(),
    "ended worker": lambda tab: tab.page.evaluate("() => worker.terminate()"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_load_that_ended_in_mid_shard_goes_on_there(context, server, model, ending) -> None:
    shard = model.shards[2]
    server.faults[shard.file] = [stall(after=100_000)]
    tab = Tab(context, server)
    tab.begin()
    at_stall(tab, model, left=200_000)
    ENDINGS[ending](tab)
    seen = Tab(context, server).load()
    assert seen["sha256"] == model.sha256
    assert seen["last"]["stored"] == model.total - 200_000
    assert ranges(server, shard.file) == [None, "bytes=100000-"]
    assert server.sent(shard.file) == shard.bytes
    assert sum(server.count(other.file) for other in model.shards) == len(model.shards) + 1


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (no_range(), [None, "bytes=100000-"]),
        (wrong_range(start=1), [None, "bytes=100000-", None]),
        (wrong_range(total=1), [None, "bytes=100000-", None]),
        (status(416), [None, "bytes=100000-", None]),
    ],
    ids=["no Range", "another start", "another total", "416"],
)
def test_a_server_that_cannot_go_on_costs_one_shard(
    context, server, model, answer, requests
) -> None:
    shard = model.shards[2]
    server.faults[shard.file] = [stall(after=100_000), answer]
    seen = Tab(context, server).load(stall=300)
    assert seen["sha256"] == model.sha256
    assert ranges(server, shard.file) == requests
    assert sum(server.count(other.file) for other in model.shards) == 7 + len(requests)


def test_a_wrong_shard_is_fetched_once_more(context, server, model) -> None:
    shard = model.shards[1]
    server.faults[shard.file] = [wrong_bytes(at=7)]
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert ranges(server, shard.file) == [None, None]


@pytest.mark.parametrize(
    ("fault", "got"),
    [
        (wrong_bytes(at=7), "got SHA-256 "),
        (wrong_length(by=-1), "got a file of 299,999 bytes"),
        (wrong_length(by=1), "got a file of 300,001 bytes"),
        (wrong_length(by=1) | no_length(), "got more than 300,000 bytes"),
    ],
    ids=["a byte", "shorter", "longer", "longer, unsaid"],
)
def test_a_shard_that_stays_wrong_is_refused_by_name_and_not_kept(
    context, server, model, fault, got
) -> None:
    shard = model.shards[1]
    server.faults[shard.file] = itertools.repeat(fault)
    tab = Tab(context, server)
    error = tab.load()["error"]
    assert error["name"] == "CheckpointError"
    assert f"m/{shard.file}" in error["message"]
    assert f"wanted SHA-256 {shard.sha256}, {got}" in error["message"]
    assert server.count(shard.file) == 2
    assert not [name for name, size in files_of(tab.page).items() if shard.sha256 in name and size]
    server.forget()  # all is well again: what was right is still here
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert server.count(shard.file) == 1
    assert server.count(model.shards[0].file) == 0


def test_a_transfer_that_falls_silent_is_made_again_from_there(context, server, model) -> None:
    shard = model.shards[4]
    server.faults[shard.file] = [stall(after=1000), stall(after=2000)]
    seen = Tab(context, server).load(stall=300)
    assert seen["sha256"] == model.sha256
    assert ranges(server, shard.file) == [None, "bytes=1000-", "bytes=3000-"]


def test_a_connection_that_is_cut_costs_no_more_than_what_was_on_its_way(
    context, server, model
) -> None:
    shard = model.shards[5]
    server.faults[shard.file] = [cut(after=200_000)]
    assert Tab(context, server).load()["sha256"] == model.sha256
    first, second = ranges(server, shard.file)
    assert first is None
    assert second is None or 0 < int(second[6:-1]) <= 200_000


def test_tries_are_counted_anew_after_progress_and_end_without(context, server, model) -> None:
    moving, dead = model.shards[3], model.shards[6]
    server.faults[moving.file] = [stall(after=1000)] * 6
    assert Tab(context, server).load(stall=200)["sha256"] == model.sha256
    assert server.count(moving.file) == 7  # without progress it would have been given up after 4
    remove(context, server)
    server.forget()
    server.faults[dead.file] = [stall(after=1000), *[status(503)] * 9]
    error = Tab(context, server).load(stall=200)["error"]
    assert error["name"] == "CheckpointError"
    assert f"m/{dead.file} could not be fetched: the server answered 503" in error["message"]
    assert "1,000 of 300,000 bytes are here after 4 tries" in error["message"]
    assert server.count(dead.file) == 4
    server.forget()
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert ranges(server, dead.file) == ["bytes=1000-"]


def test_what_no_later_try_can_mend_is_told_at_once(context, server, model) -> None:
    server.faults[model.shards[5].file] = itertools.repeat(status(404))
    error = Tab(context, server).load()["error"]
    assert error["name"] == "CheckpointError"
    assert f"m/{model.shards[5].file}: the server answered 404" in error["message"]
    assert server.count(model.shards[5].file) == 1


class RedirectHandler(BadHandler):
    """Sends who asks for a shard to where `server.other` says."""

    def do_GET(self) -> None:
        if not self.path.endswith(".part"):
            super().do_GET()
            return
        self.send_response(302)
        self.send_header("Location", self.server.other)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_redirect_to_another_origin_is_not_followed(context, folder, second_origin) -> None:
    server = BadServer(folder, handler=RedirectHandler)
    try:
        server.other = second_origin.url
        error = Tab(context, server).load()["error"]
        assert error["name"] == "CheckpointError"
        assert "redirects it to another origin" in error["message"]
        assert second_origin.connections == 0
        tab = Tab(context, server)
        tab.page.evaluate("url => fetch(url)", second_origin.url)  # the control: it can be reached
        assert second_origin.connections == 1
    finally:
        server.stop()


# --- Two tabs -----------------------------------------------------------------------------------


def test_two_tabs_at_once_fetch_each_byte_once(context, server, model) -> None:
    server.speed = 1e6  # bytes a second and connection
    tabs = [Tab(context, server), Tab(context, server)]
    for tab in tabs:
        tab.begin()
    for tab in tabs:
        seen = tab.end()
        assert seen["sha256"] == model.sha256
        assert seen["last"]["done"] == model.total
        assert len({told["done"] for told in tab.worker.evaluate("() => told()")}) > 3
    for shard in model.shards:
        assert (server.count(shard.file), server.sent(shard.file)) == (1, shard.bytes)


def test_a_tab_takes_over_from_one_that_is_closed(context, server, model) -> None:
    stalled = model.shards[:4]
    for shard in stalled:
        server.faults[shard.file] = [stall(after=100_000)]
    first = Tab(context, server)
    first.begin()
    first.wait("seen.last?.done > 400_000")
    second = Tab(context, server)
    second.begin()
    second.wait("seen.last?.done > 400_000")  # what the first has brought
    assert [server.count(shard.file) for shard in model.shards] == [1] * 4 + [0] * 4
    first.page.close()
    assert second.end()["sha256"] == model.sha256
    for shard in stalled:
        assert ranges(server, shard.file) == [None, "bytes=100000-"]
        assert server.sent(shard.file) == shard.bytes


# --- Pausing ------------------------------------------------------------------------------------


def test_a_paused_download_rests_and_goes_on_from_its_bytes(context, server, model) -> None:
    for shard in model.shards[:4]:
        server.faults[shard.file] = [stall(after=100_000)]
    tab = Tab(context, server)
    tab.begin()
    tab.wait("seen.last?.done > 400_000")
    tab.worker.evaluate("() => pause()")
    tab.page.wait_for_timeout(300)
    assert [server.count(shard.file) for shard in model.shards] == [1] * 4 + [0] * 4
    tab.worker.evaluate("() => resume()")
    assert tab.end()["sha256"] == model.sha256
    for shard in model.shards[:4]:
        assert ranges(server, shard.file) == [None, "bytes=100000-"]


def test_one_that_is_paused_from_the_start_fetches_nothing(context, server, model) -> None:
    tab, other = Tab(context, server), Tab(context, server)
    tab.begin(paused=True)
    tab.wait("seen.last !== null")
    tab.page.wait_for_timeout(200)
    assert all(server.count(file["file"]) == 0 for file in model.files)
    assert other.load()["sha256"] == model.sha256  # another tab goes on with it
    tab.worker.evaluate("() => resume()")
    assert tab.end()["sha256"] == model.sha256
    assert all(server.count(file["file"]) == 1 for file in model.files)


# --- Where there is no room, or nowhere to keep files ---------------------------------------------


def set_quota(tab: Tab, server: BadServer, quota: int | None) -> None:
    session = tab.page.context.new_cdp_session(tab.page)
    limit = {} if quota is None else {"quotaSize": quota}
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.origin, **limit})


def test_without_room_it_says_so_and_runs_from_memory_four_shards_ahead(
    context, server, model
) -> None:
    tab = Tab(context, server, "?without=room")  # a quota of 1 MB
    tab.begin(limit=1000)
    seen = tab.wait("seen.read > 0")
    needed = f"{model.total / 1e6:.1f} MB more are needed, 1.0 MB are free"
    assert needed in seen["last"]["notice"]
    tab.page.wait_for_timeout(200)
    assert [server.count(shard.file) for shard in model.shards] == [1] * 4 + [0] * 4
    tab.worker.evaluate("() => readOn()")
    assert tab.seen()["sha256"] == model.sha256
    assert [server.count(shard.file) for shard in model.shards] == [1] * 8
    assert sum(files_of(tab.page).values()) < 1_000_000


def test_when_room_runs_out_in_the_middle_the_rest_goes_to_memory(context, server, model) -> None:
    shard = model.shards[6]
    server.faults[shard.file] = [stall(after=100_000)]
    tab = Tab(context, server)
    tab.begin()
    assert at_stall(tab, model, left=200_000)["last"]["notice"] is None
    set_quota(tab, server, 1_000_000)
    server.released.set()
    seen = tab.end()
    assert seen["error"] is None, seen["error"]["message"]
    assert seen["sha256"] == model.sha256
    assert "0.2 MB more are needed, 0.0 MB are free" in seen["last"]["notice"]
    assert server.count(shard.file) == 1
    set_quota(tab, server, None)
    seen = Tab(context, server).load()  # with room again, only what had none is fetched
    assert (seen["sha256"], seen["last"]["notice"]) == (model.sha256, None)
    assert sum(server.count(other.file) for other in model.shards) == 9


def test_without_opfs_the_cache_api_keeps_it(context, server, folder) -> None:
    weights = np.random.default_rng(5).bytes(6_000_000)
    write_model(folder / "models" / "two", weights, shard_bytes=4_000_000)
    two = Model(folder / "models" / "two")
    file = two.shards[0].file
    server.faults[file] = [stall(after=2_500_000), stall(after=100_000)]
    tab = Tab(context, server, "?without=opfs")
    tab.begin("two")
    at_stall(tab, two, left=1_500_000)
    tab.page.reload()
    tab = Tab(context, server, "?without=opfs")
    tab.begin("two")
    tab.wait("seen.last?.done > seen.last?.stored")
    first, second = ranges(server, file)
    begin = int(second.removeprefix("bytes=").removesuffix("-"))
    assert first is None
    assert 1_000_000 < begin < 2_500_000  # whole pieces
    at_stall(tab, two, left=4_000_000 - begin - 100_000)
    tab.worker.evaluate("() => { pause(); resume(); }")  # keeps also what is no whole piece
    assert tab.end()["sha256"] == two.sha256
    assert ranges(server, file)[2:] == [f"bytes={begin + 100_000}-"]
    assert files_of(tab.page) == {}
    server.forget()
    seen = Tab(context, server, "?without=opfs").load("two")
    assert (seen["sha256"], seen["last"]["stored"]) == (two.sha256, two.total)
    assert not server.count(file)
    remove(context, server, "two")
    Tab(context, server, "?without=opfs").load("two")
    assert server.count(file) == 1


def test_without_any_storage_it_runs_from_memory(context, server, model) -> None:
    for _ in range(2):  # nothing is kept: the second load fetches all of it again
        seen = Tab(context, server, "?without=opfs&without=caches").load()
        assert seen["sha256"] == model.sha256
        assert "This browser keeps nothing for this page" in seen["last"]["notice"]
        assert seen["last"]["stored"] == 0
    assert [server.count(shard.file) for shard in model.shards] == [2] * 8


# --- Files that were damaged on disk --------------------------------------------------------------

DAMAGE = """async ([name, keep, at]) => {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("gpt2web");
  const file = await folder.getFileHandle(name);
  const writer = await file.createWritable({ keepExistingData: true });
  const data = new Uint8Array([1, 2, 3]);
  if (at !== null) await writer.write({ type: "write", position: at, data });
  if (keep !== null) await writer.truncate(keep);
  await writer.close();
}"""


@pytest.mark.parametrize(
    ("keep", "at"), [(None, 1000), (200_000, None)], ids=["three bytes", "its end"]
)
def test_a_stored_shard_that_was_damaged_is_fetched_anew(context, server, model, keep, at) -> None:
    tab = Tab(context, server)
    tab.load()
    tab.page.evaluate(DAMAGE, [model.shards[3].sha256, keep, at])
    server.forget()
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert [server.count(shard.file) for shard in model.shards] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert files_of(tab.page)[model.shards[3].sha256] == model.shards[3].bytes
    server.forget()
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert server.count(model.shards[3].file) == 0


def test_a_damaged_part_costs_its_shard(context, server, model) -> None:
    shard = model.shards[2]
    server.faults[shard.file] = [stall(after=100_000)]
    tab = Tab(context, server)
    tab.begin()
    at_stall(tab, model, left=200_000)
    tab.page.evaluate("() => worker.terminate()")
    tab.page.evaluate(DAMAGE, [f"{shard.sha256}.part", None, 500])
    assert Tab(context, server).load()["sha256"] == model.sha256
    assert ranges(server, shard.file) == [None, "bytes=100000-", None]


# --- models(), removeModel() --------------------------------------------------------------------


STORED = """async () => {
  const { models } = await import("./gpt2web.js");
  return (await models()).map(({ stored }) => stored);
}"""
REMOVE = """async (model) => {
  try {
    await (await import("./gpt2web.js")).removeModel(model);
  } catch ({ name, message }) {
    return { name, message };
  }
}"""


def test_models_say_what_is_stored_and_removing_frees_it(context, server, model) -> None:
    tab = Tab(context, server)
    assert tab.page.evaluate(STORED) == [0]
    tab.load()
    (entry,) = tab.page.evaluate("async () => (await import('./gpt2web.js')).models()")
    assert entry == {"name": "m", "title": "M", "bytes": model.total, "stored": model.total}
    assert tab.page.evaluate(REMOVE, "m") is None
    assert tab.page.evaluate(STORED) == [0]
    assert files_of(tab.page) == {}


def test_a_model_that_is_being_loaded_is_not_removed(context, server, model) -> None:
    server.faults[model.shards[2].file] = [stall(after=1000)]
    loading, other = Tab(context, server), Tab(context, server)
    loading.begin()
    loading.wait("seen.last?.done > 1_000_000")
    refused = other.page.evaluate(REMOVE, "m")
    assert refused["name"] == "BusyError"
    assert "in another tab" in refused["message"]
    assert loading.seen()["error"] is None
    loading.page.close()
    assert other.page.evaluate(REMOVE, "m") is None  # the half that had come is gone as well
    assert files_of(other.page) == {}


def remove(context: BrowserContext, server: BadServer, model: str = "m") -> None:
    page = context.new_page()
    page.goto(server.url + "blank.html")
    assert page.evaluate(REMOVE, model) is None
    page.close()


def files_of(page: Page) -> dict[str, int]:
    """What lies in OPFS: {name: bytes}."""
    return page.evaluate("""async () => {
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle("gpt2web", { create: true });
      const found = {};
      for await (const [name, handle] of folder.entries()) {
        const file = await handle.getFile().catch((error) => {
          if (error.name !== "NotFoundError") throw error; // else it was deleted just now
        });
        if (file) found[name] = file.size;
      }
      return found;
    }""")


# --- All of the page ----------------------------------------------------------------------------

LOAD_MS = 120_000  # Pyodide and the model, on an adapter in software
WEIGHTS_FILE = "stories/model.safetensors"
START = """async () => {
  self.gpt2web = await import("./gpt2web.js");
  self.start = () => {
    self.told = [];
    self.stop = new AbortController();
    self.download = new gpt2web.Download();
    const onProgress = (progress) => told.push(progress);
    const loading = gpt2web.load("stories", { onProgress, signal: stop.signal, download });
    self.loading = loading.then(
      (lm) => ({ info: lm.info, closed: lm.close() }),
      ({ name, message }) => ({ name, message }),
    );
  };
  self.here = () => told.findLast(({ stage }) => stage === "download")?.done ?? 0;
}"""


@pytest.fixture
def whole_page(context: BrowserContext, dist: Path) -> Iterator[tuple[Page, BadServer]]:
    """A page of dist/'s origin with gpt2web.js, and the server that it alone has."""
    with bad_server(dist) as server:
        page = context.new_page()
        page.set_default_timeout(LOAD_MS)
        page.goto(server.url + "icon.svg")
        page.evaluate(START)
        yield page, server


def test_the_page_pauses_gives_up_refuses_and_goes_on(whole_page) -> None:
    page, server = whole_page
    server.faults[WEIGHTS_FILE] = [stall(after=5_000_000), stall(after=2_000_000)]
    page.evaluate("() => start()")
    page.wait_for_function("() => here() > 5_000_000")
    page.evaluate("() => download.pause()")
    page.wait_for_timeout(300)
    assert server.count(WEIGHTS_FILE) == 1
    assert page.evaluate("() => download.paused")
    page.evaluate("() => download.resume()")
    page.wait_for_function("() => here() > 7_000_000")
    page.evaluate("() => stop.abort()")
    assert page.evaluate("() => loading")["name"] == "AbortError"
    (stories,) = page.evaluate("() => gpt2web.models()")
    assert 7_000_000 < stories["stored"] < stories["bytes"]

    server.faults[WEIGHTS_FILE] = itertools.repeat(wrong_bytes(at=9_000_000))
    page.evaluate("() => start()")
    error = page.evaluate("() => loading")
    assert error["name"] == "CheckpointError"
    assert "stories/model.safetensors is not the file that manifest.json lists" in error["message"]
    requests = [None, "bytes=5000000-", "bytes=7000000-", None]
    assert ranges(server, WEIGHTS_FILE) == requests
    (stories,) = page.evaluate("() => gpt2web.models()")
    assert 0 < stories["stored"] < 1_000_000  # the texts

    server.forget()
    page.evaluate("() => start()")
    assert page.evaluate("() => loading")["info"]["parameters"] == 5_885_952
    assert server.count(WEIGHTS_FILE) == 1
    (stories,) = page.evaluate("() => gpt2web.models()")
    assert stories["stored"] == stories["bytes"]


@pytest.mark.parametrize("call", ['load("m", { download: {} })', 'removeModel("no-such-model")'])
def test_wrong_arguments_are_refused(whole_page, call) -> None:
    page, _ = whole_page
    error = page.evaluate(
        f"() => gpt2web.{call}.catch(({{ name, message }}) => name + ': ' + message)"
    )
    wanted = {
        "load": "TypeError: The option download must be a Download, not object.",
        "removeModel": "LoadError: models/no-such-model/manifest.json could not be fetched: "
        "the server answered 404. Look whether the name is right, and whether the whole folder is "
        "there as it was built.",
    }
    assert error == wanted[call.partition("(")[0]]


def test_weights_come_to_the_gpu_without_staying_in_memory(context, dist, tmp_path) -> None:
    """64 MB of weights, one layer of a wide model; `build.py bench download` does it with 500."""
    config = GPT2Config(
        vocabulary_size=300,
        num_layers=1,
        num_heads=16,
        hidden_dim=1152,
        intermediate_dim=4608,
        max_sequence_length=8,
    )
    shutil.copytree(dist, tmp_path / "dist", copy_function=build.link_or_copy)
    size = download.write_model(tmp_path / "dist" / "models" / "wide", config)
    assert size > 64e6
    with bad_server(tmp_path / "dist") as server:
        page = context.new_page()
        found, memory = download.measure(page, server.origin, "wide")
        # 32 MB of WebAssembly, 18 of scripts and their like, a shard of 16 in its buffer: and no
        # second shard
        assert found["samples"] > 20
        assert 45e6 < found["peak"] < 100e6, found
        # the control: what either would hold is seen
        before = memory.sample()
        page.evaluate("() => { self.held = new Uint8Array(64e6); }")
        for held in ("new Uint8Array(200e6)", "new WebAssembly.Memory({ initial: 1000 })"):
            memory.ask("Runtime.evaluate", expression=f"(self.held ??= []).push({held})")
        after = memory.sample()
        assert after["page"] - before["page"] > 60e6
        assert after["worker"] - before["worker"] > 100e6  # less what was collected
        assert after["wasm"] - before["wasm"] == 1000 << 16
        page.close()
