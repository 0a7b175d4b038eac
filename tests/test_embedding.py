"""docs/embedding.md and examples/: the pages run as they are, the document names what there is."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from browser import ROOT, DistHandler, TestServer, serve_folder
from test_types import accepted

EXAMPLES = ROOT / "examples"
DOCS = (ROOT / "docs/embedding.md").read_text("utf-8")
LOAD_MS = 120_000


@pytest.fixture(scope="module")
def host(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """An origin with dist/ at /gpt2web/ and the examples in another folder."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "gpt2web").symlink_to(dist)
    shutil.copytree(EXAMPLES, folder / "my/pages")
    (folder / "my/pages/blank.html").write_text("<!doctype html>")
    server = serve_folder(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def visitor(quick_browser: Browser) -> Iterator[BrowserContext]:
    """One reader: what a page has found out about the adapter, the next one need not."""
    context = quick_browser.new_context(service_workers="block")
    yield context
    context.close()


def open_example(
    visitor: BrowserContext, host: TestServer, name: str, text: str | None = None
) -> Page:
    """An example, or `text` in its place; what the policy refuses is in `refused`."""
    page = visitor.new_page()
    page.set_default_timeout(LOAD_MS)
    page.add_init_script("""
      window.refused = [];
      addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
        refused.push(`${effectiveDirective} ${blockedURI}`));
    """)
    if text is not None:
        html = "text/html"
        page.route(f"**/{name}", lambda route: route.fulfill(body=text, content_type=html))
    page.goto(f"{host.url}my/pages/{name}")
    return page


@pytest.mark.browser
def test_the_page_of_eleven_lines_writes_from_another_folder_under_its_strict_policy(
    visitor: BrowserContext, host: TestServer, second_origin: TestServer
) -> None:
    text = (EXAMPLES / "embed.html").read_text("utf-8")
    (script,) = re.findall(r"<script type=\"module\">(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text, "the policy must have the script's hash"
    assert len(text.splitlines()) == 12  # with the line that closes the model

    page = open_example(visitor, host, "embed.html")
    story = page.locator("#story")
    expect(story).not_to_have_text("Once upon a time", timeout=LOAD_MS)
    expect(story).to_have_text(re.compile("^Once upon a time[, ]"))
    assert page.evaluate("() => refused") == []
    out = page.evaluate("url => fetch(url).catch((error) => error.name)", second_origin.url)
    assert (out, second_origin.requests) == ("TypeError", [])
    page.close()


@pytest.mark.browser
def test_a_policy_without_the_workers_blob_is_an_error_that_says_so(
    visitor: BrowserContext, host: TestServer
) -> None:
    text = (EXAMPLES / "writer.html").read_text("utf-8")
    assert "; worker-src blob:" in text
    spoilt = text.replace("; worker-src blob:", "")
    page = open_example(visitor, host, "writer.html", spoilt)
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("alert")).to_contain_text("The worker failed")
    assert [line.split()[0] for line in page.evaluate("() => refused")] == ["worker-src"]
    page.close()


@pytest.mark.browser
def test_the_element_writes_under_its_strict_policy(
    visitor: BrowserContext, host: TestServer
) -> None:
    page = open_example(visitor, host, "writer.html")
    field = page.get_by_label("Your text")
    field.press("Control+Enter")
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(field).not_to_have_value("Once upon a time", timeout=LOAD_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    assert field.input_value().startswith("Once upon a time")
    assert page.evaluate("() => refused") == []
    page.evaluate("() => document.querySelector('gpt2-writer').remove()")
    for _ in range(100):
        if not page.workers:
            break
        page.wait_for_timeout(50)
    assert page.workers == []
    page.close()


class OpenDist(DistHandler):
    """dist/, which every origin may read."""

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()


@pytest.mark.browser
def test_from_another_origin_the_programs_load_and_models_are_refused(
    visitor: BrowserContext, host: TestServer, dist: Path
) -> None:
    page = open_example(visitor, host, "blank.html")
    other = TestServer(lambda *values: OpenDist(*values, directory=str(dist)))
    loading = """folder => import(folder + "gpt2web.js").then(({ load }) => load("stories")).then(
      () => null, ({ name, code, message }) => ({ name, code, message }))"""
    error = page.evaluate(loading, other.url)
    assert (error["name"], error["code"]) == ("CheckpointError", "download-refused")
    assert host.origin in error["message"] and other.origin in error["message"]
    assert [line for line in other.requests if not line.endswith(".js")] == []
    other.stop()
    page.close()


# --- the document ---------------------------------------------------------------------------------


def named(text: str) -> set[str]:
    """What stands in it as code: every word there."""
    code = re.findall(r"`([^`\n]+)`", text)
    return {word for part in code for word in re.findall(r"[\w$-]+", part)}


INTERFACES = ("Model", "ModelInfo", "Piece", "Timing", "StoredModel", "Gpt2Writer")
INTERFACES += ("Inspection", "LensToken", "NextTokens", "Candidate", "Parameter")


def missing(text: str) -> set[str]:
    """Names of the programs that are not in the text."""
    names = {name for of in accepted().values() for name in of}
    for file in ("gpt2web", "completions", "gpt2-writer"):
        types = (ROOT / f"web/{file}.d.ts").read_text("utf-8")
        for interface in INTERFACES:
            for body in re.findall(rf"(?:interface|class) {interface} .*?^}}", types, re.M | re.S):
                members = re.findall(r"^  (?:readonly |[gs]et )?(\w+)[?(:]", body, re.M)
                names |= set(members) - {"constructor", "addEventListener"}
        names |= set(re.findall(r"^export (?:function|class) (\w+)", types, re.M))
    element = (ROOT / "web/gpt2-writer.js").read_text("utf-8")
    names |= {name for part in re.findall(r'part: "([^"]+)"', element) for name in part.split()}
    names |= set(re.findall(r"--[\w-]+", element)) | set(re.findall(r'slot\("(\w+)"\)', element))
    names |= set(re.findall(r'^  "?([a-z-]+)"?: "[a-zA-Z]+",$', element, re.M)) - set(TEXTS)
    names |= set(re.findall(r'#tell\("(\w+)"', element))
    return names - named(text) - {"Gpt2Writer"}


TEXTS = ("label", "write", "stop", "loading", "writing", "stopped")


def test_the_document_names_every_export_option_event_and_part() -> None:
    assert missing(DOCS) == set()
    everything = missing("")
    assert len(everything) > 90
    assert {"onProgress", "topK", "tokenBytes", "max_tokens", "field", "finish"} <= everything
    assert {"--gpt2-writer-accent", "top-k", "removeModel", "gpuBytes"} <= everything


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", DOCS)
    assert len(links) > 2
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
