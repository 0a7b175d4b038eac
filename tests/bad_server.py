"""A server of files that can go wrong, for native tests and for tests in Chromium.

    server = BadServer(folder)                        # or BadServer(folder, sub_path="a/b")
    server.faults["model-2.part"] = [cut(after=1000), None, status(503)]  # one for each request
    server.faults["model-3.part"] = itertools.repeat(cut(after=10) | no_range())  # for all
    server.url, server.count("model-2.part"), server.sent("model-2.part"), server.seen(...)
    server.stop()

Without faults it is a good server: ranges, strong ETags, If-Range, HEAD, lengths. A file is named
by the end of its path, of as many parts as it takes. Faults are of GET requests.

`with bad_server(folder) as server:` stops it. HubServer, and `hub_server`, answer as the Hugging
Face hub does (HF_ENDPOINT is its `origin`), with the same faults.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from browser import TestServer, build

PIECE = 1 << 16  # bytes sent at once


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer; `|` joins two."""

    cut_after: int | None = None  # bytes of the body, then the connection is closed
    stall_after: int | None = None  # bytes of the body, then nothing, until the server stops
    ignores_range: bool = False  # 200 with everything
    start_off: int = 0  # added to Content-Range's start, and to its end
    total_off: int = 0  # added to Content-Range's total
    wrong_byte: int | None = None  # where in the file a byte is another
    status: int | None = None  # this status, and no file
    location: str | None = None  # where a redirection leads
    no_length: bool = False  # no Content-Length: the end of the connection is the end of the file
    length_off: int = 0  # added to Content-Length, and so many bytes sent more or fewer

    def __or__(self, other: Fault) -> Self:
        changed = {f.name: getattr(other, f.name) for f in fields(other)}
        given = {name: value for name, value in changed.items() if value != getattr(Fault(), name)}
        return type(self)(**{f.name: getattr(self, f.name) for f in fields(self)} | given)


def cut(after: int) -> Fault:
    return Fault(cut_after=after)


def stall(after: int) -> Fault:
    return Fault(stall_after=after)


def no_range() -> Fault:
    return Fault(ignores_range=True)


def wrong_range(start: int = 0, total: int = 0) -> Fault:
    """A Content-Range that is off by so much, with the bytes that were asked for."""
    return Fault(start_off=start, total_off=total)


def wrong_bytes(at: int = 0) -> Fault:
    """One wrong byte at this place of the file, when the answer holds that place."""
    return Fault(wrong_byte=at)


def status(code: int) -> Fault:
    return Fault(status=code)


def redirect(to: str) -> Fault:
    return Fault(status=302, location=to)


def no_length() -> Fault:
    return Fault(no_length=True)


def wrong_length(by: int) -> Fault:
    """A file that is so much longer, or shorter."""
    return Fault(length_off=by)


@dataclass
class Seen:
    """A request for a file, and what became of it."""

    method: str
    range: str | None  # the Range header
    if_range: str | None
    status: int = 0
    sent: int = 0  # bytes of the body


class BadServer(TestServer):
    """Serves `folder` at `url`, which is /sub_path/ of its origin."""

    def __init__(self, folder: Path, sub_path: str = "", handler: Any = None) -> None:
        self.folder = Path(folder)
        self.base = f"/{sub_path.strip('/')}/" if sub_path.strip("/") else "/"
        self.faults: dict[str, Iterable[Fault | None]] = {}
        self.speed: float | None = None  # bytes a second, for each connection
        self.etags = "strong"  # or "weak", or "none"
        self.released = threading.Event()  # set it, and what stalls goes on
        self._seen: dict[str, list[Seen]] = {}
        super().__init__(handler or BadHandler)
        self.url = self.origin + self.base

    def seen(self, file: str) -> list[Seen]:
        """The requests for a file, in order."""
        return [request for path, all in self._seen.items() if _is(file, path) for request in all]

    def count(self, file: str, method: str = "GET") -> int:
        return sum(request.method == method for request in self.seen(file))

    def sent(self, file: str) -> int:
        """The bytes of a file that went out, of all requests together."""
        return sum(request.sent for request in self.seen(file))

    def forget(self) -> None:
        """Counts from here on, and no faults any more."""
        self._seen.clear()
        self.faults.clear()
        self.requests.clear()

    def note(self, path: str, request: Seen) -> None:
        self._seen.setdefault(path, []).append(request)

    def next_fault(self, path: str) -> Fault:
        plan = next((plan for file, plan in self.faults.items() if _is(file, path)), [])
        if isinstance(plan, list):
            return (plan.pop(0) if plan else None) or Fault()
        return next(iter(plan), None) or Fault()

    def path_of(self, url_path: str) -> Path | None:
        """The file that an address stands for."""
        if not url_path.startswith(self.base):
            return None
        path = (self.folder / url_path.removeprefix(self.base)).resolve()
        path = path / "index.html" if path.is_dir() else path
        return path if path.is_file() and path.is_relative_to(self.folder.resolve()) else None

    def headers_of(self, path: Path) -> dict[str, str]:
        """What is said of a file beside its length and type."""
        if self.etags == "none":
            return {}
        tag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
        return {"ETag": f"W/{tag}" if self.etags == "weak" else tag}

    def stop(self) -> None:
        self.released.set()
        super().stop()


def _is(file: str, path: str) -> bool:
    return path == file or path.endswith(f"/{file}")


class BadHandler(build.Handler):
    server: BadServer

    def log_message(self, *values: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        url_path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {self.path}")
        seen = Seen(self.command, self.headers["Range"], self.headers["If-Range"])
        self.server.note(url_path, seen)
        fault = self.server.next_fault(url_path) if with_body else Fault()
        path = self.server.path_of(url_path)
        if fault.status is not None or path is None:
            seen.status = fault.status or 404
            self.refuse(seen.status, {"Location": fault.location} if fault.location else None)
            return
        headers = self.server.headers_of(path)
        data = _changed(path.read_bytes(), fault)
        span = None if fault.ignores_range else self._range(len(data), headers.get("ETag"))
        start, end = span or (0, len(data))
        if start >= end and data:
            seen.status = 416
            self.refuse(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        seen.status = 206 if span else 200
        self.send_response(seen.status)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in headers.items():
            self.send_header(name, value)
        if span:
            first, last = start + fault.start_off, end - 1 + fault.start_off
            total = len(data) + fault.total_off
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        if fault.no_length:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if with_body:
            self._send(data[start:end], fault, seen)

    def _send(self, body: bytes, fault: Fault, seen: Seen) -> None:
        stops = [n for n in (fault.cut_after, fault.stall_after) if n is not None]
        self._write(body[: min(stops, default=len(body))], seen)
        if fault.stall_after is not None:
            self.server.released.wait()
        if fault.cut_after is not None:
            self.close_connection = True
        elif fault.stall_after is not None:
            self._write(body[fault.stall_after :], seen)

    def _write(self, data: bytes, seen: Seen) -> None:
        speed = self.server.speed
        size = PIECE if speed is None else min(PIECE, max(1, int(speed / 20)))
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            seen.sent += len(piece)  # before anybody can have read it
            self.wfile.write(piece)
            if speed is not None:
                time.sleep(len(piece) / speed)

    def _range(self, size: int, etag: str | None) -> tuple[int, int] | None:
        """[start, end) of the Range that was asked for; None for the whole file."""
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"] or "")
        if wanted is None or wanted[0] == "bytes=-":
            return None
        condition = self.headers["If-Range"]
        if condition is not None and (condition != etag or condition.startswith("W/")):
            return None
        first, last = wanted.groups()
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size

    def refuse(self, code: int, headers: dict[str, str] | None = None) -> None:
        body = f"{code} {HTTPStatus(code).phrase}\n".encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _changed(data: bytes, fault: Fault) -> bytes:
    """What the server takes for the file."""
    if fault.wrong_byte is not None:
        at = fault.wrong_byte
        data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    if fault.length_off < 0:
        data = data[: fault.length_off]
    return data + b"\0" * fault.length_off


@contextmanager
def bad_server(folder: Path, sub_path: str = "") -> Iterator[BadServer]:
    server = BadServer(folder, sub_path)
    try:
        yield server
    finally:
        server.stop()


# ---- the Hugging Face hub ------------------------------------------------------------------------


class HubServer(BadServer):
    """`folder/<owner>/<model>/` as the hub serves them, at the one commit COMMIT."""

    COMMIT = hashlib.sha1(b"gpt2web").hexdigest()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, handler=HubHandler)

    def path_of(self, url_path: str) -> Path | None:
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", url_path)
        if found is None or found[2] not in ("main", self.COMMIT):
            return None
        return super().path_of(f"/{found[1]}/{found[3]}")

    def headers_of(self, path: Path) -> dict[str, str]:
        return {**super().headers_of(path), "X-Repo-Commit": self.COMMIT}


class HubHandler(BadHandler):
    server: HubServer

    def _answer(self, with_body: bool) -> None:
        asked = urlsplit(self.path)
        found = re.fullmatch(
            r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([\w.-]+))?", unquote(asked.path)
        )
        if found is None:
            super()._answer(with_body)
            return
        self.server.requests.append(f"{self.command} {self.path}")
        folder = self.server.folder / found[1]
        if not folder.is_dir():
            self.refuse(404, {"X-Error-Code": "RepoNotFound"})
        elif found[3] not in (None, "main", self.server.COMMIT):
            self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            self._say(
                self._tree(folder, files) if found[2] == "tree" else self._about(found, files)
            )

    def _tree(self, folder: Path, files: list[Path]) -> object:
        return [
            {
                "type": "file",
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
                "path": path.relative_to(folder).as_posix(),
            }
            for path in files
        ]

    def _about(self, found: re.Match[str], files: list[Path]) -> object:
        folder = self.server.folder / found[1]
        return {
            "id": found[1],
            "modelId": found[1],
            "sha": self.server.COMMIT,
            "private": False,
            "gated": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files],
        }

    def _say(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, headers: dict[str, str] | None = None) -> None:
        missing = {"X-Error-Code": "EntryNotFound"} if code == 404 else {}
        super().refuse(code, missing | (headers or {}))


@contextmanager
def hub_server(folder: Path) -> Iterator[HubServer]:
    server = HubServer(folder)
    try:
        yield server
    finally:
        server.stop()
