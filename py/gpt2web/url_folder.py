"""A model folder at an http(s) address, natively; the page has webgpu.FetchFolder."""

from __future__ import annotations

from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from gpt2web.checkpoint import CheckpointError

TIMEOUT = 60  # seconds without a byte


class UrlFolder:
    """A Folder at an http(s) address, natively."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"
        self.name = url.rstrip("/").rpartition("/")[2]

    async def read_text(self, file: str) -> str:
        stream = await self.open(file)
        try:
            return (await stream.read_bytes(stream.size)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._url}{file} is not UTF-8 text: {error}") from error
        finally:
            stream.close()

    async def open(self, file: str) -> UrlStream:
        url = self._url + quote(file)
        try:
            return UrlStream(url, urlopen(url, timeout=TIMEOUT))
        except HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(f"{url} is not there") from None
            raise CheckpointError(f"{url}: the server answers {error.code}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise CheckpointError(f"{url} cannot be read: {error}") from error


class UrlStream:
    """A checkpoint.Stream over a response."""

    def __init__(self, url: str, response: Any) -> None:
        self._url = url
        self._response = response
        length = response.headers.get("Content-Length")
        if length is None:
            response.close()
            raise ValueError("the server gives no Content-Length")
        self.size = int(length)

    async def read(self, count: int) -> bytes:
        return await self.read_bytes(count)

    async def read_bytes(self, count: int) -> bytes:
        try:
            data: bytes = self._response.read(count)
        except (OSError, HTTPException) as error:
            raise CheckpointError(f"{self._url}: the transfer broke: {error}") from error
        if len(data) < count:
            raise CheckpointError(
                f"{self._url} ends early: wanted {count:,} more bytes, got {len(data):,}"
            )
        return data

    def close(self) -> None:
        self._response.close()
