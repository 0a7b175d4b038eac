"""The Python API in a PyScript page: examples/pyscript.html, with @pyscript/core from npm."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser import ROOT, TestServer, run_outside, serve_folder
from gpt2web import GPT2CausalLM
from gpt2web.gpu import Device

EXAMPLE = ROOT / "examples/pyscript.html"
PYSCRIPT = ROOT / "node_modules/@pyscript/core/dist"


@pytest.fixture
def host(dist: Path, tmp_path: Path) -> Iterator[TestServer]:
    """An origin with dist/ at /gpt2web/, PyScript at /pyscript/ and the example."""
    (tmp_path / "gpt2web").symlink_to(dist)
    (tmp_path / "pyscript").symlink_to(PYSCRIPT)
    shutil.copy(EXAMPLE, tmp_path)
    server = serve_folder(tmp_path)
    yield server
    server.stop()


@pytest.mark.browser
@pytest.mark.gpu
def test_a_pyscript_page_writes_what_is_written_natively_and_asks_its_own_origin_alone(
    quick_browser: Browser,
    host: TestServer,
    devices: list[Device],  # without the self-test
) -> None:
    page = quick_browser.new_context(service_workers="block").new_page()
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(host.url + "pyscript.html")
    story = page.locator("#story")
    expect(story).to_have_text(re.compile("^Once upon a time(?: \\S+){2}"), timeout=120_000)
    written = story.inner_text()
    page.context.close()
    assert {url for url in asked if not url.startswith((host.url, "blob:", "data:"))} == set()
    assert any(url.endswith("/pyodide/pyodide.mjs") for url in asked)
    assert any("/wheels/gpt2web-" in url for url in asked)

    async def natively() -> str:
        lm = await GPT2CausalLM.from_preset_async("stories", adapter="SwiftShader")
        text = "Once upon a time"
        async with lm.stream(text, max_new_tokens=60, top_k=40, seed=7) as stream:
            async for piece in stream:
                text += piece.text
                if len(text) >= len(written):
                    break
        lm.close()
        return text

    assert run_outside(natively()).startswith(written)


def test_the_document_shows_the_example_and_the_version_that_is_tested() -> None:
    text = (ROOT / "docs/pyscript.md").read_text("utf-8")
    (shown,) = re.findall(r"^```html\n(.*?)^```$", text, re.M | re.S)
    assert shown in EXAMPLE.read_text("utf-8")
    package = json.loads((PYSCRIPT.parent / "package.json").read_text("utf-8"))
    assert f"`@pyscript/core`\n{package['version']} " in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((ROOT / "docs" / link).is_file() for link in links)
