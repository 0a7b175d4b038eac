"""The page without its server, and from one version to the next: web/sw.js, version.json.

Versions are copies of dist/ that say what they are: the page and the worker by a `mark`, the wheel
by what it calls the self-test.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from playwright.sync_api import Error as PlaywrightError

from browser import SUB_PATH, TestServer, build, host

LOAD_MS = 120_000
OLD_TEST = '"self_test": origin.self_test if origin else "not run",'  # in causal_lm.py


@pytest.fixture
def deployed(dist: Path, tmp_path: Path) -> Path:
    """A copy of dist/ that a test may change."""
    return copy_of(dist, tmp_path / SUB_PATH)


def copy_of(dist: Path, target: Path) -> Path:
    shutil.copytree(dist, target, copy_function=os.link)
    return target


def replace(path: Path, data: bytes) -> None:
    path.unlink()  # the session's dist/ has the same file
    path.write_bytes(data)


def mark(dist: Path, name: str) -> None:
    """Makes another version of it, in page, worker and wheel."""
    for script in ("app.js", "worker.js"):
        text = (dist / script).read_text("utf-8") + f'\nself.mark = "{name}";\n'
        replace(dist / script, text.encode())
    (wheel,) = dist.glob("wheels/gpt2web-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    text = files["gpt2web/causal_lm.py"].decode()
    assert OLD_TEST in text
    files["gpt2web/causal_lm.py"] = text.replace(OLD_TEST, f'"self_test": "{name}",').encode()
    wheel.unlink()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    listed = json.loads((dist / "wheels.json").read_text("utf-8"))
    for entry in listed:
        if entry["name"] == "gpt2web":
            entry["sha256"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    replace(dist / "wheels.json", json.dumps(listed).encode())
    build.write_version(dist)


@pytest.fixture
def context(quick_browser: Browser) -> Iterator[BrowserContext]:
    context = quick_browser.new_context()
    yield context
    context.close()


def visit(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    ready(page)
    return page


def ready(page: Page) -> None:
    expect(page.locator("#generate")).to_be_enabled(timeout=LOAD_MS)


def kept(page: Page) -> None:
    """Waits until the service worker has all of the page, and answers for it."""
    page.wait_for_function("() => navigator.serviceWorker.controller", timeout=LOAD_MS)


def write(page: Page) -> str:
    page.fill("#prompt", "Once upon a time")
    page.fill("#max-new-tokens", "4")
    page.fill("#seed", "5")
    page.click("#generate")
    expect(page.locator("#story-foot")).to_be_visible(timeout=LOAD_MS)
    return page.inner_text("#written")


def parts(page: Page) -> set[Any]:
    """Of which versions the page, its worker and its wheel are; the first one has no mark."""
    page_mark, self_test = page.evaluate(
        """() => {
          const rows = [...document.querySelectorAll("#running div")];
          const test = rows.find((row) => row.firstChild.textContent === "Self-test");
          return [self.mark ?? null, test.lastChild.textContent];
        }"""
    )
    worker_mark = page.workers[-1].evaluate("() => self.mark ?? null")
    return {page_mark, worker_mark, None if self_test.startswith("passed") else self_test}


UPDATE = """async () => {
  const registration = await navigator.serviceWorker.ready;
  try {
    await registration.update();
  } catch ({ name }) {
    return name;
  }
  const coming = registration.installing ?? registration.waiting;
  if (!coming) return null;
  return new Promise((resolve) => {
    const look = () => ["activated", "redundant"].includes(coming.state) && resolve(coming.state);
    coming.onstatechange = look;
    look();
  });
}"""
CACHES = """async () => {
  const names = await caches.keys();
  return names.filter((name) => name.startsWith("gpt2web page ")).map((name) => name.split(" ")[3]);
}"""


def version_of(dist: Path) -> str:
    version: str = json.loads((dist / "version.json").read_text("utf-8"))["version"]
    return version


@pytest.mark.browser
def test_the_second_visit_needs_no_server_and_a_new_version_comes_whole_or_not_at_all(
    context: BrowserContext, deployed: Path, tmp_path: Path
) -> None:
    first = version_of(deployed)
    server = host(deployed)
    port = server.server_address[1]
    page = visit(context, server.url)
    text = write(page)
    kept(page)
    server.stop()

    page.reload()
    ready(page)
    assert write(page) == text
    assert parts(page) == {None}
    picker = page.locator("#model option")
    expect(picker).to_have_count(1)  # models.json and the manifest are there
    expect(page.locator("#model-card")).not_to_be_empty()

    old = copy_of(deployed, tmp_path / "old")
    mark(deployed, "two")
    second = version_of(deployed)
    finished = (deployed / "app.js").read_bytes()
    replace(deployed / "app.js", (old / "app.js").read_bytes())  # half of it is copied so far
    server = host(deployed, port)
    try:
        assert page.evaluate(UPDATE) == "redundant"
        other = visit(context, server.url)
        assert parts(other) == {None}
        other.close()

        replace(deployed / "app.js", finished)
        assert page.evaluate(UPDATE) == "activated"
        newer = visit(context, server.url)
        assert parts(newer) == {"two"}
        # the first tab starts another worker, and asks for another file: both are of its version
        own = page.evaluate(
            """async () => {
              const lm = await (await import("./gpt2web.js")).load("stories");
              return [lm.info.selfTest, await (await fetch("app.js")).text()];
            }"""
        )
        assert own[0].startswith("passed")
        assert own[1] == (old / "app.js").read_text("utf-8")
        assert page.workers[-1].evaluate("() => self.mark ?? null") is None
        assert set(page.evaluate(CACHES)) == {first, second}
        assert write(page) == text
        assert write(newer) == text

        page.close()
        server.stop()
        for _ in range(20):  # a client counts as there for 10 s after it began
            newer.reload()
            if newer.evaluate(CACHES) == [second]:
                break
            newer.wait_for_timeout(1000)
        assert newer.evaluate(CACHES) == [second]
        ready(newer)
        assert parts(newer) == {"two"}
    finally:
        if server._thread.is_alive():
            server.stop()


@pytest.mark.browser
def test_without_the_service_worker_the_second_visit_fails(
    quick_browser: Browser, own_server: TestServer
) -> None:
    context = quick_browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(own_server.url)
    expect(page.locator("#generate")).to_be_visible()
    own_server.stop()
    with pytest.raises(PlaywrightError, match="ERR_CONNECTION_REFUSED"):
        page.reload()
    context.close()


@pytest.mark.browser
def test_a_first_visit_during_a_deployment_says_that_the_page_has_changed(
    quick_browser: Browser, deployed: Path
) -> None:
    page_version = (deployed / "version.js").read_bytes()
    assert re.search(rb'VERSION = "[0-9a-f]{64}"', page_version)
    server = host(deployed)
    context = quick_browser.new_context(service_workers="block")
    page = context.new_page()

    def older(route: Any) -> None:  # what gpt2web.js got before the worker began
        route.fulfill(
            body=re.sub(rb"\w{64}", b"0" * 64, page_version), content_type="text/javascript"
        )

    page.route("**/version.js", older, times=1)
    page.goto(server.url)
    problem = page.locator("#problem-text")
    expect(problem).to_contain_text("the server got a new version of this page", timeout=LOAD_MS)
    expect(problem).to_contain_text("Reload the page")
    page.reload()
    loading = re.compile("Downloading|Testing|Loading|Preparing")
    expect(page.locator("#loading-label")).to_contain_text(loading, timeout=LOAD_MS)
    context.close()
    server.stop()


# --- what build.py lists ---------------------------------------------------------------------


def test_the_list_names_what_a_visit_needs_and_nothing_that_is_kept_elsewhere(dist: Path) -> None:
    listed = json.loads((dist / "version.json").read_text("utf-8"))
    text = json.dumps(listed["files"], separators=(",", ":"))
    assert listed["version"] == hashlib.sha256(text.encode()).hexdigest()
    for name in ("sw.js", "version.js"):
        assert f'const VERSION = "{listed["version"]}";' in (dist / name).read_text("utf-8")
    for path, sha256 in listed["files"].items():
        assert hashlib.sha256((dist / path).read_bytes()).hexdigest() == sha256
    everything = {p.relative_to(dist).as_posix() for p in dist.rglob("*") if p.is_file()}
    left_out = everything - set(listed["files"])
    model = {f"models/stories/{name}" for name in ("config.json", "merges.txt", "vocab.json")}
    micropip = {path for path in everything if path.startswith("wheels/micropip-")}
    types = {path for path in everything if path.endswith(".d.ts")}
    assert "gpt2web.d.ts" in types
    assert left_out == {
        *("sw.js", "version.js", "version.json", ".nojekyll", "LICENSES.txt"),
        *(model | micropip | types | {"models/stories/model.safetensors"}),
    }


def test_the_manifest_names_icons_of_their_sizes_and_the_policy_lets_it_be_read(dist: Path) -> None:
    manifest = json.loads((dist / "manifest.webmanifest").read_text("utf-8"))
    assert (manifest["start_url"], manifest["scope"], manifest["display"]) == (
        *("./", "./"),
        "standalone",
    )
    purposes = set()
    for icon in manifest["icons"]:
        data = (dist / icon["src"]).read_bytes()
        if icon["type"] == "image/png":
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            assert icon["sizes"] == f"{width}x{height}"
            purposes.add((icon.get("purpose", "any"), width))
    assert purposes == {(kind, size) for kind in ("any", "maskable") for size in (192, 512)}
    assert "manifest-src 'self'" in (dist / "index.html").read_text("utf-8")
