"""Fetches a checkpoint from a static host; what breaks off goes on from there, also in the next
run. hub.py does the same with the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gpt2web.blocking import block_on
from gpt2web.convert.forms import OURS, TEXTS, find_form
from gpt2web.convert.progress import Progress
from gpt2web.manifest import MANIFEST_FILE, parse_manifest
from gpt2web.safetensors import MAX_TEXT_BYTES, CheckpointError
from gpt2web.url_folder import Replaced, UrlFolder, UrlStream

PIECE_BYTES = 1 << 20


class UrlPlace:
    """A folder at an http(s) address, of which this machine keeps what was fetched in `path`."""

    def __init__(self, url: str, path: Path) -> None:
        self.path = path
        self.url = url.rstrip("/") + "/"
        self.folder = UrlFolder(url)
        self.name = self.folder.name
        self._missing: set[str] = set()

    def has(self, file: str) -> bool:
        if file not in self._missing and (stream := self._open(file)) is not None:
            stream.close()
            return True
        return False

    def data(self, file: str) -> bytes | None:
        """Fetched anew in each run, which is soon done, so that no two versions mix."""
        if file in self._missing or (stream := self._open(file)) is None:
            return None
        try:
            if stream.size > MAX_TEXT_BYTES:
                raise CheckpointError(
                    f"{self.name}/{file}: wanted at most {MAX_TEXT_BYTES:,} bytes, got "
                    f"{stream.size:,}"
                )
            data = block_on(stream.read_bytes(stream.size), "read_bytes")
        finally:
            stream.close()
        (self.path / file).write_bytes(data)
        return data

    def _open(self, file: str) -> UrlStream | None:
        try:
            return block_on(self.folder.open(file), "open")
        except FileNotFoundError:
            self._missing.add(file)
            (self.path / file).unlink(missing_ok=True)  # of an earlier run
            return None


def fetch_file(
    folder: UrlFolder, url: str, target: Path, title: str, vouched: tuple[int, str] | None = None
) -> None:
    """The file at an address, into TARGET. CheckpointError: it is missing, the network has given
    up, or it is not the file of this size and SHA-256 that it is `vouched` to be, twice."""
    if vouched is None:
        _fetch(folder, url, target, title, None)
        return
    size, sha256 = vouched
    for _ in range(2):
        if target.is_file() and _sha256(target) == sha256:
            return
        target.unlink(missing_ok=True)
        _fetch(folder, url, target, title, size)
    if _sha256(target) != sha256:
        target.unlink()
        raise CheckpointError(
            f"{url} is not the file that it should be: twice, its SHA-256 was not {sha256}."
        )


def _fetch(folder: UrlFolder, url: str, target: Path, title: str, size: int | None) -> None:
    """TARGET.part until it is whole; TARGET.about says of which version it is. size: that of a file
    whose hash is known, so that no version of the server's is needed."""
    part, about = (target.with_name(target.name + end) for end in (".part", ".about"))
    known, version = _read_about(about)
    begun = part.stat().st_size if part.is_file() else 0
    if not 0 < begun < known or not (size == known or (version and size is None)):
        begun = 0
    try:
        stream = UrlStream(folder, url, size, (begun, known, version) if begun else None)
    except Replaced:
        part.unlink()
        _fetch(folder, url, target, title, size)
        return
    except FileNotFoundError:
        raise CheckpointError(f"{target.name} is missing: {url} is not there.") from None
    try:
        is_same = bool(version) and (known, version) == (stream.size, stream.version)
        if not begun and is_same and target.is_file() and target.stat().st_size == known:
            return
        target.unlink(missing_ok=True)
        about.write_text(json.dumps([stream.size, stream.version]), encoding="utf-8")
        with part.open("ab" if begun else "wb") as output:
            _copy(stream, output, begun, title)
    finally:
        stream.close()
    part.rename(target)


def _read_about(about: Path) -> tuple[int, str]:
    """(bytes, version) of a file that was begun; (0, "") where nothing is known."""
    try:
        size, version = json.loads(about.read_text(encoding="utf-8"))
        return int(size), str(version)
    except (OSError, TypeError, ValueError):
        return 0, ""


def _copy(stream: UrlStream, output: Any, begun: int, title: str) -> None:
    """The stream's rest; what has come is kept when it breaks off."""
    with Progress(title, stream.size, begun) as progress:
        done = begun
        while done < stream.size:
            count = min(PIECE_BYTES, stream.size - done)
            data = block_on(stream.read_bytes(count), "read_bytes")
            output.write(data)
            done += len(data)
            progress.at(done)


def fetch_url(url: str, cache: Path) -> Path:
    """The checkpoint at an address, in a folder of `cache` that is the address's own."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise CheckpointError(f"{url}: wanted an http:// or https:// address")
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", parts.path.rstrip("/").rpartition("/")[2])
    path = cache / digest / (last.strip(".-") or "model")
    path.mkdir(parents=True, exist_ok=True)
    place = UrlPlace(url, path)
    form = find_form(place)
    vouched: dict[str, tuple[int, str]] = {}
    if form.name == OURS:
        manifest = parse_manifest(MANIFEST_FILE, (path / MANIFEST_FILE).read_text("utf-8"))
        listed = (*manifest.files, *manifest.weights)
        vouched = {shard.file: (shard.bytes, shard.sha256) for shard in listed}
    else:
        for file in TEXTS:
            place.data(file)
    for number, file in enumerate(form.files, 1):
        title = f"{file} ({number} of {len(form.files)})"
        fetch_file(place.folder, place.url + quote(file), path / file, title, vouched.get(file))
    return path


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
