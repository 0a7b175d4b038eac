"""Fixtures for tests in Chromium; conftest.py makes them known to every test.

server         dist/ at a sub-path of 127.0.0.1, without special headers; counts requests, can stop
second_origin  a server on another origin that answers everything and lets every origin read it
browser        one Chromium for the session, WebGPU on its software adapter
quick_browser  another, whose software adapter is five times faster
page           a fresh page in a fresh context, without service workers
A missing browser, dist/ or adapter fails the tests; nothing is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for build.py

import build  # noqa: E402

CHROMIUM_FLAGS = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-background-networking",  # no look-ups of its maker's hosts
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]
SUB_PATH = "some/where/below"  # dist/ must work from any folder of any host


class TestServer(build.Server):
    """A server in a thread that remembers its requests and, once stopped, is really gone."""

    __test__ = False

    def __init__(self, handler: Any, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self.url = self.origin + "/"
        self.requests: list[str] = []  # "GET /path" each, in order
        self.connections = 0  # of TCP, whether or not a request followed
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Ends listening and cuts kept-alive connections, as a stopped process would."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                self._open.discard(connection)
        self._thread.join()


class DistHandler(build.Handler):
    server: TestServer

    def send_head(self) -> Any:
        self.server.requests.append(f"{self.command} {self.path}")
        return super().send_head()


class OpenHandler(BaseHTTPRequestHandler):
    """Answers whatever is asked, and lets every origin read the answer."""

    server: TestServer

    def answer(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_response(200)
        for name in ("Origin", "Methods", "Headers"):
            self.send_header(f"Access-Control-Allow-{name}", "*")
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = answer

    def log_message(self, *values: object) -> None:
        pass


def serve_folder(folder: Path, port: int = 0) -> TestServer:
    def handler(*arguments: Any) -> DistHandler:
        return DistHandler(*arguments, directory=str(folder))

    return TestServer(handler, port)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built dist/, below SUB_PATH of an otherwise empty folder. Models of the
    developer's own, which can be gigabytes, are left out."""
    build.build()
    models = json.loads((ROOT / "dist/models.json").read_text("utf-8"))
    bundled = [model for model in models if (build.BUNDLED / model["name"]).is_dir()]
    own = {model["name"] for model in models if model not in bundled}
    copy = tmp_path_factory.mktemp("host") / SUB_PATH
    shutil.copytree(
        ROOT / "dist",
        copy,
        ignore=lambda path, names: own if Path(path) == ROOT / "dist/models" else (),
    )
    build.write_json(copy / "models.json", bundled)
    build.write_version(copy)
    return copy


def host(dist: Path, port: int = 0) -> TestServer:
    server = serve_folder(dist.parents[len(Path(SUB_PATH).parts) - 1], port)
    server.url = f"{server.origin}/{SUB_PATH}/"
    return server


@pytest.fixture(scope="session")
def server(dist: Path) -> Iterator[TestServer]:
    """dist/ served at server.url for the whole session: never stop this one."""
    server = host(dist)
    yield server
    server.stop()


@pytest.fixture
def own_server(dist: Path) -> Iterator[TestServer]:
    """dist/ served for one test, which may stop it."""
    server = host(dist)
    yield server
    if server._thread.is_alive():
        server.stop()


@pytest.fixture
def second_origin() -> Iterator[TestServer]:
    server = TestServer(OpenHandler)
    yield server
    server.stop()


def find_chromium() -> str:
    path = build.find_chromium()
    if path is None:
        pytest.fail("Chromium is not on the PATH: run `python3 build.py test`, which installs it.")
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=CHROMIUM_FLAGS, timeout=60_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def quick_browser(browser: Browser) -> Iterator[Browser]:
    """A Chromium that does not zero workgroup memory, which no kernel reads before it writes it.

    Zeroing it makes the software adapter five times slower; what the kernels do with it is tested
    elsewhere, here it is the page.
    """
    flags = [*CHROMIUM_FLAGS, "--enable-dawn-features=disable_workgroup_init"]
    with launch(browser, flags) as quick:
        yield quick


def launch(browser: Browser, flags: list[str]) -> Browser:
    return browser.browser_type.launch(executable_path=find_chromium(), args=flags, timeout=60_000)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(service_workers="block")  # so that nothing but the test fetches
    yield context.new_page()
    context.close()


def before_worker(context: BrowserContext, program: str) -> None:
    """Puts a program before the text of each worker.js that this context fetches from now on."""

    def longer(route: Route) -> None:
        worker = route.fetch()
        route.fulfill(response=worker, body=program + worker.text())

    context.route("**/worker.js*", longer)


def open_blank(page: Page, address: str) -> None:
    """Goes to an address of a server, where there is a page with nothing in it."""
    page.route(
        address, lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    page.goto(address)


def run_outside(coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, also in a test or fixture that uses the browser: see below."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return asyncio.run(coroutine)
    finally:
        asyncio._set_running_loop(loop)


@pytest.fixture(autouse=True)
def outside_of_playwrights_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright's loop stays "running" in this thread between its calls; asyncio.run would refuse.

    Tests that use the browser keep it, all others start without it.
    """
    if "browser" in request.fixturenames:
        yield
        return
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)
