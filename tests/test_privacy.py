"""What leaves the tab: nothing, whoever tries it, and what the page tells of it.

Each way out is tried in the page, in its worker and from Python there, towards a second origin that
listens; and once more on a copy of the page without its policy, where each gets out.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Worker, expect

from browser import ROOT, TestServer, host, serve_folder
from desk import LOAD_MS, open_page, write

WEB = ROOT / "web"
HTML = (WEB / "index.html").read_text("utf-8")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; "
    "worker-src 'self' blob:; manifest-src 'self'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)

# --- what the page's files hold -----------------------------------------------------------------


def test_the_policy_is_in_the_page_before_all_else_and_nothing_is_inline() -> None:
    assert f'http-equiv="Content-Security-Policy" content="{POLICY}"' in HTML
    assert HTML.index("Content-Security-Policy") < HTML.index("no_webrtc.js") < HTML.index("<link")
    assert HTML.index("no_webrtc.js") < HTML.index('type="module"')
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", HTML)
    assert not re.search(r"(src|href)=\"(https?:)?//", HTML)


# What has no place in the page's programs: a pattern, and something that it must find.
AS_HTML = {
    r"(inner|outer)HTML|setHTML": "box.innerHTML = text",
    r"insertAdjacentHTML|createContextualFragment|DOMParser": 'box.insertAdjacentHTML("x", text)',
    r"document\.write": "document.writeln(text)",
    r"srcdoc": "frame.srcdoc = text",
    r"\beval\(|new Function|set(Timeout|Interval)\([\"'`]": "new Function(text)",
}
GOING_ELSEWHERE = {
    r"\blocation(\.\w+)?\s*=[^=]": "location.href = `${there}?${text}`",
    r"\blocation\.(assign|replace)|\bnavigation\.navigate": "window.location.replace(there)",
    r"\b(window|self|globalThis|parent|top)\.open\(": "window.open(there)",
    r"\.(href|action|formAction|ping|target)\s*=[^=]": "link.href = there",
    r"setAttribute\(\s*[\"'`](href|src|action|ping)": 'setAttribute("src", there)',
    r"\.(submit|requestSubmit)\(": "form.submit()",
    r"history\.(push|replace)State": 'history.pushState(null, "", `?${text}`)',
    r"[eE]lement\([\"'`](a|form|i?frame|object|embed|script|link|img|video|audio)[\"'`]": (
        'document.createElement("iframe")'
    ),
    r"new Image|\.src\s*=[^=]": "new Image().src = there",
}
OTHER_WAYS = {
    r"sendBeacon|fetchLater|XMLHttpRequest|importScripts": "navigator.sendBeacon(there, text)",
    r"WebSocket|EventSource|WebTransport": "new WebSocket(there)",
    r"RTC(?!/\.test)\w*Connection": "new RTCPeerConnection(options)",
    r"\bmethod:\s*[\"'`](?!GET)|\bbody:": 'fetch(here, { method: "POST" })',
    r"document\.cookie|cookieStore|localStorage|sessionStorage": "document.cookie = text",
}
# The one link, in save.js: to a blob of the tab itself, which the browser writes to the disk.
SAVE = """
  const address = URL.createObjectURL(new Blob([contents], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
"""
# What is kept of changes of the model: in this tab, which alone can read it.
KEPT = """const KEPT = {
  get: () => sessionStorage.getItem(NAME),
  set: (texts) => sessionStorage.setItem(NAME, texts),
};
"""
IN_HTML = {
    r"<(a|area|i?frame|object|embed|base)\b": '<a href="https://example.com">',
    r"http-equiv=\"refresh\"|\b(form)?action=|\bping=": '<meta http-equiv="refresh" content="1">',
}


@pytest.mark.parametrize("pattern", AS_HTML | GOING_ELSEWHERE | OTHER_WAYS)
def test_no_program_takes_text_as_html_or_has_a_way_to_carry_it_elsewhere(pattern: str) -> None:
    assert re.search(pattern, (AS_HTML | GOING_ELSEWHERE | OTHER_WAYS)[pattern])
    for file in WEB.glob("*.js"):
        text = re.sub(r"^\s*(//|\*|/\*).*$", "", file.read_text("utf-8"), flags=re.M)
        if file.name == "save.js":
            assert text.count(SAVE) == 1
            text = text.replace(SAVE, "")
        if file.name == "workshop.js":
            assert text.count(KEPT) == 1
            text = text.replace(KEPT, "")
        assert (file.name, re.search(pattern, text)) == (file.name, None)


@pytest.mark.parametrize("pattern", IN_HTML)
def test_the_page_has_no_link_frame_or_form_that_leads_elsewhere(pattern: str) -> None:
    assert re.search(pattern, IN_HTML[pattern])
    assert re.search(pattern, HTML) is None


def test_python_uses_no_more_of_the_browser_than_it_must() -> None:
    python = [file.read_text("utf-8") for file in (ROOT / "py").rglob("*.py")]
    used = {name for text in python for name in re.findall(r"\bjs\.([A-Za-z]\w*)", text)}
    of_the_language = {"Array", "ArrayBuffer", "JSON", "Object", "Promise", "Uint8Array"}
    addresses = {"decodeURIComponent", "encodeURIComponent"}
    assert used - of_the_language - addresses <= {"Blob", "crypto", "fetch", "navigator"}
    assert "fetch" in used
    (call,) = [call for text in python for call in re.findall(r"js\.fetch\((.*?)\)", text)]
    assert call == "url"  # no method, nothing in the body


# --- ways out -------------------------------------------------------------------------------------

ELEMENT = """
  const element = (name, attributes, parent = document.body) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  };
"""
# Those of any context; `to` is the second origin's address, with a slash.
ANYWHERE = {
    "fetch": "fetch(to + 'fetch')",
    "post": "fetch(to + 'post', { method: 'POST', mode: 'no-cors', body: 'text' })",
    "request": "{ const r = new XMLHttpRequest(); r.open('GET', to + 'request'); r.send(); }",
    "socket": "new WebSocket(to.replace('http', 'ws') + 'socket')",
    "events": "new EventSource(to + 'events')",
    "import": "import(to + 'import')",
}
OF_THE_PAGE = {
    "beacon": "navigator.sendBeacon(to + 'beacon', 'text')",
    "image": "new Image().src = to + 'image'",
    "background": "document.body.style.backgroundImage = `url(${to}background)`",
    "stylesheet": "element('link', { rel: 'stylesheet', href: to + 'stylesheet' })",
    "style": "element('style', {}).textContent = `@import url(${to}style);`",
    "font": "new FontFace('x', `url(${to}font)`).load()",
    "media": "element('video', { src: to + 'media', preload: 'auto' })",
    "script": "element('script', { src: to + 'script' })",
    "object": "element('object', { data: to + 'object' })",
    "form": "element('iframe', { name: 't' }),"
    " element('form', { action: to + 'form', target: 't' }).submit()",
    "prefetch": "element('link', { rel: 'prefetch', href: to + 'prefetch' })",
    "preload": "element('link', { rel: 'preload', as: 'image', href: to + 'preload' })",
    "modulepreload": "element('link', { rel: 'modulepreload', href: to + 'modulepreload' })",
    "rules": "element('script', { type: 'speculationrules' }).textContent ="
    " JSON.stringify({ prefetch: [{ source: 'list', urls: [to + 'rules'] }] })",
    "icon": "element('link', { rel: 'icon', href: to + 'icon' }, document.head)",
    "ping": "element('a', { href: '#x', ping: to + 'ping' }).click()",
    "document": "element('iframe', { srcdoc: `<img src='${to}document'>` })",
    # Last: Chromium opens a connection for a frame before it refuses it, and sends nothing over it.
    "frame": "element('iframe', { src: to + 'frame' })",
}
PYTHON = {
    "pyfetch": "await pyodide.http.pyfetch(to + 'pyfetch')",
    "pypost": "await pyodide.http.pyfetch(to + 'pypost', method='POST', body='text')",
    "open_url": "pyodide.http.open_url(to + 'open_url')",
    "package": "await pyodide_js.loadPackage(to + 'package-1-py3-none-any.whl')",
    "pysocket": "js.WebSocket.new(to.replace('http', 'ws') + 'pysocket')",
    "pyevents": "js.EventSource.new(to + 'pyevents')",
}
TRY = "try { Promise.resolve(%s).catch(() => {}); } catch {}"
START_PYTHON = """async (folder) => {
  const { loadPyodide } = await import(`${folder}pyodide/pyodide.mjs`);
  self.python = await loadPyodide({ indexURL: `${folder}pyodide/` });
  python.runPython("import pyodide.http, pyodide_js, js");
}"""


def script(ways: dict[str, str], before: str = "") -> str:
    tries = [TRY % (f"(() => {way})()" if way[0] == "{" else way) for way in ways.values()]
    return f"(to) => {{ {before} {' '.join(tries)} }}"


def try_all(page: Page, worker: Worker, folder: str, to: str) -> None:
    for name, ways in (("page", ANYWHERE | OF_THE_PAGE), ("worker", ANYWHERE)):
        context = page if name == "page" else worker
        context.evaluate(script(ways, ELEMENT if name == "page" else ""), f"{to}{name}/")
    worker.evaluate(START_PYTHON, folder)
    for way in PYTHON.values():
        attempt = f"try:\n    {way}\nexcept BaseException: pass"
        code = json.dumps(f"to = '{to}python/'\n{attempt}")
        worker.evaluate(f"() => python.runPythonAsync({code}).then(() => null)")


WANTED = {
    *(f"/page/{way}" for way in [*ANYWHERE, *OF_THE_PAGE]),
    *(f"/worker/{way}" for way in ANYWHERE),
    *(f"/python/{way}" for way in PYTHON),
}


def arrived(second_origin: TestServer) -> set[str]:
    """The ways that the second origin has heard of."""
    paths = [request.split()[1].rstrip("?") for request in second_origin.requests]
    return {path.removesuffix("-1-py3-none-any.whl") for path in paths}


def test_the_readme_says_how_many_ways_are_tried() -> None:
    assert f"Tests try {len(WANTED)} ways out" in (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def two_copies(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """dist/ in closed/, and in open/ without its policy and without no_webrtc.js."""
    folder = tmp_path_factory.mktemp("copies")
    for name in ("closed", "open"):
        shutil.copytree(dist, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    page = folder / "open/index.html"
    stripped = re.sub(r"<meta http-equiv=\"Content-Security-Policy\".*?>", "", page.read_text())
    page.write_text(stripped.replace('<script src="no_webrtc.js"></script>', ""))
    assert len(page.read_text()) < len(HTML) - len(POLICY) - 30
    server = serve_folder(folder)
    yield server
    server.stop()


def open_copy(context: BrowserContext, url: str) -> tuple[Page, Worker]:
    """A copy of the page and its worker, which is left waiting for the weights."""
    context.route("**/*.safetensors", lambda route: None)
    page = context.new_page()
    page.set_default_timeout(LOAD_MS)
    with page.expect_worker() as started:
        page.goto(url)
    return page, started.value


@pytest.mark.browser
def test_nothing_gets_out_of_page_worker_and_python_and_without_the_policy_all_does(
    quick_browser: Browser, two_copies: TestServer, second_origin: TestServer
) -> None:
    context = quick_browser.new_context(service_workers="block")
    url = f"{two_copies.url}closed/"
    page, worker = open_copy(context, url)
    try_all(page, worker, url, second_origin.url)
    page.wait_for_timeout(1000)
    assert second_origin.requests == []
    assert second_origin.connections <= 1  # that of the frame
    expect(page.locator("#left-refused")).to_contain_text("refused by the page’s policy")
    context.close()

    context = quick_browser.new_context(service_workers="block")
    url = f"{two_copies.url}open/"
    page, worker = open_copy(context, url)
    try_all(page, worker, url, second_origin.url)
    for _ in range(100):
        if arrived(second_origin) >= WANTED:
            break
        page.wait_for_timeout(100)
    assert WANTED - arrived(second_origin) == set()
    context.close()


DATAGRAMS = {
    "webrtc": """async ([, port]) => {
      const iceServers = [{ urls: `stun:127.0.0.1:${port}` }];
      const connection = new RTCPeerConnection({ iceServers });
      connection.createDataChannel("x");
      await connection.setLocalDescription(await connection.createOffer());
    }""",
    "webtransport": "([, port]) => { new WebTransport(`https://127.0.0.1:${port}/`); }",
}


@pytest.mark.browser
@pytest.mark.parametrize("way", DATAGRAMS)
def test_no_datagram_gets_out_either(
    quick_browser: Browser, two_copies: TestServer, way: str
) -> None:
    """Not over WebRTC, which no policy governs: the page has taken it away from itself."""
    came = {}
    for copy in ("closed", "open"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
            listening.bind(("127.0.0.1", 0))
            listening.settimeout(2 if copy == "closed" else 10)
            context = quick_browser.new_context(service_workers="block")
            context.route("**/app.js", lambda route: route.abort())
            page = context.new_page()
            page.goto(f"{two_copies.url}{copy}/")
            port = listening.getsockname()[1]
            page.evaluate(f"values => ({DATAGRAMS[way]})(values)?.catch?.(() => {{}})", ["", port])
            try:
                came[copy] = len(listening.recv(2000)) > 0
            except TimeoutError:
                came[copy] = False
            context.close()
    assert came == {"closed": False, "open": True}


@pytest.mark.browser
def test_no_text_is_compiled_in_page_and_worker_and_without_the_policy_it_is(
    quick_browser: Browser, two_copies: TestServer
) -> None:
    # Later: while the debugger itself evaluates, it lets eval through.
    attempt = """() => new Promise((resolve) => setTimeout(() => {
      resolve([() => eval("1"), () => new Function("return 1")()].map((compile) => {
        try { return compile(); } catch (error) { return error.name; }
      }));
    }))"""
    found = {}
    for copy in ("closed", "open"):
        context = quick_browser.new_context(service_workers="block")
        for place in open_copy(context, f"{two_copies.url}{copy}/"):
            found[copy, type(place).__name__] = place.evaluate(attempt)
        context.close()
    refused, done = ["EvalError", "EvalError"], [1, 1]
    assert found == {
        ("closed", "Page"): refused,
        ("closed", "Worker"): refused,
        ("open", "Page"): done,
        ("open", "Worker"): done,
    }


# --- the service worker, which the page's policy does not reach -----------------------------------


def test_the_service_worker_asks_for_files_of_its_folder_only() -> None:
    program = (WEB / "sw.js").read_text("utf-8")
    asked = set(re.findall(r"(?<![\w.])fetch\((.*?)(?:, \{.*)?\);", program))
    ours = 'path === "index.html" ? SCOPE : address'  # address: made by addressOf
    assert asked == {'addressOf("version.json")', ours, "event.request"}
    (where,) = re.findall(r"function addressOf\(path\) \{\n(.*?)\n\}", program, re.S)
    assert where.strip() == "return new URL(path, SCOPE).href;"
    # A page's own request is taken over only where it is for this folder.
    assert "origin !== SCOPE.origin || !pathname.startsWith(SCOPE.pathname)) return;" in program


@pytest.mark.browser
def test_with_the_service_worker_nothing_gets_out_and_its_requests_are_listed_too(
    quick_browser: Browser, own_server: TestServer, second_origin: TestServer
) -> None:
    context = quick_browser.new_context()
    context.route("**/*.safetensors", lambda route: route.fulfill(status=404))  # a load that ends
    page = context.new_page()
    page.goto(own_server.url)
    page.wait_for_function("() => navigator.serviceWorker.controller", timeout=LOAD_MS)
    (service,) = context.service_workers
    names = service.evaluate("() => performance.getEntriesByType('resource').map((e) => e.name)")
    assert len(names) > 20 and all(name.startswith(own_server.url) for name in names)

    unlisted = re.compile(
        r"icon|/sw\.js$|/manifest\.webmanifest$"
    )  # what the browser asks for itself
    paths = [request.removeprefix("GET ") for request in own_server.requests]
    seen = Counter(path for path in paths if not unlisted.search(path))
    assert max(seen.values()) > 1  # the page's and the service worker's
    for _ in range(50):
        if seen <= Counter(listed(page)):
            break
        page.wait_for_timeout(100)
    assert seen - Counter(listed(page)) == Counter()

    fetch = "url => fetch(url, { mode: 'no-cors' }).then(() => 'out', () => 'refused')"
    assert page.evaluate(fetch, second_origin.url) == "refused"
    assert second_origin.requests == []
    assert (
        service.evaluate(fetch, second_origin.url) == "out"
    )  # so what it asks for is tested above
    context.close()


# --- a visit, and what the page tells of it -------------------------------------------------------


class Visit(NamedTuple):
    """A loaded page, the server that it alone has used, and all that it asked for."""

    page: Page
    server: TestServer
    asked: list[str]  # addresses


@pytest.fixture(scope="module")
def visit(quick_browser: Browser, dist: Path) -> Iterator[Visit]:
    server = host(dist)
    context = quick_browser.new_context(service_workers="block")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    yield Visit(open_page(context, server.url), server, asked)
    context.close()
    if server._thread.is_alive():
        server.stop()


def listed(page: Page) -> list[str]:
    """The addresses in the panel, but for refused ones."""
    rows = page.locator("#left-rows tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return [address for _, how, address, _ in rows if how != "refused"]


@pytest.mark.browser
def test_the_panel_lists_every_request_that_the_server_had(visit: Visit) -> None:
    page, server, _ = visit
    seen = {request.removeprefix("GET ") for request in server.requests}
    assert len(seen) > 15 and all(path.startswith("/") for path in seen)  # all GET
    seen = {path for path in seen if not path.endswith("/icon.svg")}
    for _ in range(50):
        if seen <= set(listed(page)):
            break
        page.wait_for_timeout(100)
    assert seen - set(listed(page)) == set()
    assert any(path.endswith("stories/model.safetensors") for path in seen)  # the worker's
    assert listed(page).count(server.url.removeprefix(server.origin)) == 1  # the page itself
    total = page.inner_text("#left-total")
    assert re.match(r"\d\d requests since this page was opened, all to http://127", total)
    megabytes = float(re.search(r"([\d.]+) MB came in answer", total)[1])  # type: ignore[index]
    assert megabytes > 11.8  # the model's weights alone
    assert page.inner_text("#left-writing") == page.inner_text("#left-refused") == ""


@pytest.mark.browser
def test_it_asks_nobody_while_it_writes_says_so_and_writes_with_the_server_stopped(
    visit: Visit,
) -> None:
    page, server, asked = visit
    before = len(server.requests)
    page.fill("#max-new-tokens", "300")
    page.click("#generate")
    expect(page.locator("#left-writing")).to_have_text(
        "0 requests since you pressed Generate.", timeout=LOAD_MS
    )
    expect(page.locator("#written")).not_to_be_empty(timeout=LOAD_MS)
    page.evaluate("() => fetch('style.css?meanwhile', { cache: 'no-store' })")
    expect(page.locator("#left-writing")).to_have_text("1 request since you pressed Generate.")
    page.click("#stop")
    written = page.locator("#left-writing")
    expect(written).to_have_text("1 request while the last text was written.", timeout=LOAD_MS)
    assert len(server.requests) == before + 1  # the counter counts

    assert len(write(page, "A bird", 3)) > 3
    assert page.inner_text("#left-writing") == "0 requests while the last text was written."
    assert len(server.requests) == before + 1
    server.stop()
    assert len(write(page, "The moon", 3)) > 3
    assert any(url.endswith(".wasm") for url in asked)  # the worker's requests are among them
    assert any(url.endswith("model.safetensors") for url in asked)
    assert [url for url in asked if not url.startswith((server.url, "blob:"))] == []


@pytest.mark.browser
def test_no_cookie_is_set_and_nothing_is_kept_of_what_was_written(visit: Visit) -> None:
    page = visit.page
    write(page, "A secret word", 1)
    assert page.context.cookies() == []
    kept = page.evaluate("() => ({ ...localStorage, ...sessionStorage, ...history.state })")
    assert kept == {} and "secret" not in page.url


MARKUP = "<b>bold<img src=x onerror=alert(1)>"  # without a slash: it is a file's name too


@pytest.mark.browser
def test_prompts_file_names_and_what_models_are_called_are_shown_as_text(visit: Visit) -> None:
    page = visit.page
    elements = "() => document.querySelectorAll('b, img, script').length"
    before = page.evaluate(elements)
    write(page, MARKUP, 1)
    assert page.inner_text("#told") == MARKUP
    weights = {"name": f"{MARKUP}.safetensors", "mimeType": "", "buffer": b"1"}
    config = {"name": "config.json", "mimeType": "", "buffer": b"{}"}
    merges = {"name": "merges.txt", "mimeType": "", "buffer": b""}
    card = {"name": "MODEL_CARD.md", "mimeType": "", "buffer": f"# {MARKUP}\n\n{MARKUP}".encode()}
    page.set_input_files("#own-files", [weights, config, merges, card])  # type: ignore[list-item]
    expect(page.locator("#model option:checked")).to_have_text(f"{MARKUP} (your files)")
    expect(page.locator("#model-facts")).to_contain_text(f"{MARKUP}.safetensors")
    expect(page.locator("#model-card h3")).to_have_text(MARKUP)
    expect(page.locator("#model-card p")).to_have_text(MARKUP)
    assert page.evaluate(elements) == before
