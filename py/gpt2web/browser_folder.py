"""Model folders in the page: over `fetch` and, where there is a manifest, through its downloader.

The weights' bytes are JavaScript's from their first to their last: they go to the GPU without
passing through the WASM heap. No JavaScript object is held at module level, so that the module may
be part of a Pyodide memory snapshot.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import js
from pyodide.ffi import JsException, create_proxy

from gpt2web.checkpoint import SINGLE_FILE, CheckpointError, Folder, Stream
from gpt2web.manifest import (
    MANIFEST_FILE,
    DownloadProgress,
    Manifest,
    ManifestFolder,
    parse_manifest,
)


async def hold_to_manifest(
    folder: Folder, progress: DownloadProgress | None = None, paused: bool = False
) -> Folder:
    """The folder, held to its manifest where it is at an address and has one.

    Its files then come through web/downloads.js, if Pyodide was given that as the module
    gpt2web_downloads (worker.js does), else through the plain ManifestFolder, which keeps nothing.
    progress and paused are for the downloader. Raises CheckpointError.
    """
    if not isinstance(folder, FetchFolder):
        return folder
    try:
        text = await folder.read_text(MANIFEST_FILE)
    except FileNotFoundError:
        return folder
    manifest = parse_manifest(f"{folder.name}/{MANIFEST_FILE}", text)
    try:
        import gpt2web_downloads as downloads
    except ImportError:
        return ManifestFolder(folder, manifest)
    made = DownloadFolder(folder, manifest)
    await made.start(downloads, progress, paused)
    return made


class DownloadFolder(ManifestFolder):
    """A ManifestFolder whose files web/downloads.js fetches, keeps and verifies. Raises
    CheckpointError for what can't be fetched or is not what the manifest says."""

    def __init__(self, folder: FetchFolder, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._url = folder.url
        self._download: Any = None  # JavaScript's
        self._tell: Any = None  # the proxy that it calls
        self._downloads: Any = None
        self._progress: DownloadProgress | None = None
        self._paused = False
        self._opened = False  # the weights, whose stream ends its download when it is closed

    async def start(
        self, downloads: Any, progress: DownloadProgress | None, paused: bool = False
    ) -> None:
        """Looks what is stored. The weights start to come when they are opened."""
        self._downloads, self._progress, self._paused = downloads, progress, paused
        self._opened = False

        def tell(told: Any) -> None:
            if progress is not None:
                notice = str(told.notice) if isinstance(told.notice, str) else None
                progress(int(told.done), int(told.total), int(told.stored), notice)

        self._tell = create_proxy(tell)
        options = js.Object.new()
        options.tell, options.paused = self._tell, paused
        manifest = js.JSON.parse(json.dumps(asdict(self.manifest)))
        self._download = await _told(downloads.openDownload(self._url, manifest, options))

    async def read_text(self, file: str) -> str:
        self._listed(file)  # FileNotFoundError
        data = (await _told(self._download.read(file))).to_bytes()
        try:
            return str(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.name}/{file} is not UTF-8 text: {error}") from None

    async def open(self, file: str) -> Stream:
        if file != SINGLE_FILE:
            return await super().open(file)
        if self._opened:  # again, for a lost device: from what is stored, the rest is fetched
            self.close()
            await self.start(self._downloads, self._progress, self._paused)
        self._opened = True
        return DownloadStream(self._download.stream())

    def pause(self) -> None:
        self._paused = True
        self._download.pause()

    def resume(self) -> None:
        self._paused = False
        self._download.resume()

    def close(self) -> None:
        """Ends what is under way; harmless when done twice. What has come stays stored."""
        if self._tell is not None:
            self._download.close()
            self._tell.destroy()
            self._tell = None


class DownloadStream:
    """The weights: a `gpt2web.checkpoint.Stream` of JavaScript Uint8Arrays, each good until the
    next is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.size = int(stream.size)

    async def read(self, count: int) -> Any:
        if count < 0:
            raise ValueError(f"{count} bytes can't be read.")
        return await _told(self._stream.read(count))

    async def read_bytes(self, count: int) -> bytes:
        data: bytes = (await self.read(count)).to_bytes()
        return data

    def close(self) -> None:
        self._stream.close()


async def _told(promise: Any) -> Any:
    """What a promise of the downloader gives; its refusals as CheckpointErrors."""
    try:
        return await promise
    except JsException as error:
        if error.name in ("CheckpointError", "AbortError"):
            code = getattr(error, "code", None)  # a number, of what the browser itself raises
            raise CheckpointError(
                str(error.message), code=code if isinstance(code, str) else None
            ) from None
        raise


class FetchFolder:
    """A `gpt2web.checkpoint.Folder` at an address.

    url: the folder's absolute address. Raises CheckpointError, with the address and the number of
    bytes, where a server refuses or a transfer breaks, and FileNotFoundError for a file that isn't
    there: status 404 or 410, or a web page where a model's file should be, which is how hosts of
    single-page applications answer for it.
    """

    def __init__(self, url: str) -> None:
        self._url = url if url.endswith("/") else url + "/"
        self.name = str(js.decodeURIComponent(self._url.rstrip("/").rpartition("/")[2]))

    @property
    def url(self) -> str:
        """The folder's address, ending in a slash."""
        return self._url

    async def read_text(self, file: str) -> str:
        url, response = await self._fetch(file)
        try:
            text = str(await response.text())
        except JsException as error:
            raise CheckpointError(
                f"{url}: the transfer broke: {error.message}", code="download-broken"
            ) from None
        if text[:256].lstrip().lower().startswith(("<!doctype html", "<html")):
            raise FileNotFoundError(f"{url}: the server answers with a web page instead.")
        return text

    async def open(self, file: str) -> FetchStream:
        url, response = await self._fetch(file)
        length = response.headers.get("content-length")
        # Of a compressed answer, Content-Length counts the compressed bytes.
        coding = str(response.headers.get("content-encoding") or "identity")
        if length and coding == "identity":
            return FetchStream(url, response.body, int(length))
        try:
            blob = await response.blob()  # kept by the browser, outside the WASM heap
        except JsException as error:
            raise CheckpointError(
                f"{url}: the transfer broke: {error.message}", code="download-broken"
            ) from None
        return FetchStream(url, blob.stream(), int(blob.size))

    async def _fetch(self, file: str) -> tuple[str, Any]:
        url = self._url + "/".join(js.encodeURIComponent(part) for part in file.split("/"))
        try:
            response = await js.fetch(url)
        except JsException as error:
            raise CheckpointError(
                f"{url} could not be fetched: {error.message}", code="download-broken"
            ) from None
        status = int(response.status)
        if status in (404, 410):
            problem: Exception = FileNotFoundError(
                f"{url}: the server has no such file ({status})."
            )
        elif not response.ok:
            problem = CheckpointError(
                f"{url} could not be fetched: the server answered {status} {response.statusText}.",
                code="download-broken",
            )
        elif str(response.headers.get("content-type") or "").startswith("text/html"):
            problem = FileNotFoundError(f"{url}: the server answers with a web page instead.")
        else:
            return url, response
        if response.body:
            await response.body.cancel()
        raise problem


class FetchStream:
    """One file on its way: a `gpt2web.checkpoint.Stream` of JavaScript Uint8Arrays."""

    def __init__(self, url: str, body: Any, size: int) -> None:
        self.size = size
        self._url = url
        self._reader = body.getReader()
        self._chunk = js.Uint8Array.new(0)  # what has come and isn't handed out yet
        self._done = 0  # bytes handed out

    async def read(self, count: int) -> Any:
        """Exactly `count` bytes: a view of the chunk that holds them all, or a new array."""
        if count < 0:
            raise ValueError(f"{count} bytes can't be read.")
        if self._reader is None:
            raise ValueError(f"{self._url} is closed.")
        if self._chunk.byteLength == 0 and count:
            self._chunk = await self._next_chunk(0, count)
        if self._chunk.byteLength >= count:
            result, self._chunk = self._chunk.subarray(0, count), self._chunk.subarray(count)
        else:
            result = js.Uint8Array.new(count)
            filled = 0
            while True:
                taken = min(count - filled, int(self._chunk.byteLength))
                result.set(self._chunk.subarray(0, taken), filled)
                self._chunk = self._chunk.subarray(taken)
                filled += taken
                if filled == count:
                    break
                self._chunk = await self._next_chunk(filled, count)
        self._done += count
        return result

    async def read_bytes(self, count: int) -> bytes:
        data: bytes = (await self.read(count)).to_bytes()
        return data

    def close(self) -> None:
        """Ends the transfer; harmless when done twice."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._chunk = None
            reader.cancel().catch(lambda _: None)  # a broken transfer has told already

    async def _next_chunk(self, filled: int, count: int) -> Any:
        """The next chunk that isn't empty."""
        while True:
            try:
                part = await self._reader.read()
            except JsException as error:
                came = self._done + filled
                raise CheckpointError(
                    f"{self._url}: the transfer broke after {came} of {self.size} bytes: "
                    f"{error.message}",
                    code="download-broken",
                ) from None
            if self._reader is None:
                raise ValueError(f"{self._url} was closed while it was read.")
            if part.done:
                raise CheckpointError(
                    f"{self._url} ends after {self._done + filled} bytes, where {count} were "
                    f"wanted from byte {self._done} on: it is cut short, or not the right file."
                )
            if part.value.byteLength:
                return part.value
