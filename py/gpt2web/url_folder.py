"""A model folder at an http(s) address, natively, over a network that breaks; the page has its own.

A transfer that breaks, or falls silent, goes on where it stopped (RFC 9110, section 14), after
pauses that grow. Two versions of a file never mix: where no hash of the file is known, the server
has to vouch, by a strong ETag or an old enough Last-Modified, that it is still the same.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from time import sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from gpt2web.safetensors import MAX_TEXT_BYTES, SKIP_BYTES, CheckpointError

TIMEOUT = 60.0  # seconds without a byte
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each new try
PROGRESS = 1 << 18  # bytes after which a break counts as the first again
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others in a moment


class UrlFolder:
    """A Folder at an http(s) address, natively."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"
        self.name = url.rstrip("/").rpartition("/")[2]
        # {file: bytes} of the files whose bytes their reader checks by hash: they can be resumed
        # whatever the server says of versions.
        self.hashed: dict[str, int] = {}
        self.answered = False  # whether anybody was ever heard at this address

    async def read_text(self, file: str) -> str:
        stream = await self.open(file)
        try:
            if stream.size > MAX_TEXT_BYTES:
                raise CheckpointError(
                    f"{self._url}{file}: wanted a text file of at most {MAX_TEXT_BYTES:,} bytes, "
                    f"got {stream.size:,}"
                )
            return (await stream.read_bytes(stream.size)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._url}{file} is not UTF-8 text: {error}") from error
        finally:
            stream.close()

    async def open(self, file: str) -> UrlStream:
        return UrlStream(self, self._url + quote(file), self.hashed.get(file))


class Replaced(CheckpointError):
    """The file at the address is not the one that was begun."""


class _Broken(Exception):
    """A transfer that another try may mend."""


class UrlStream:
    """A checkpoint.Stream over as many responses as it takes.

    size: of a file whose hash is known to the reader; None where only the server knows the file.
    begun: bytes that were read earlier, and the file's size and version then.
    """

    def __init__(
        self,
        folder: UrlFolder,
        url: str,
        size: int | None,
        begun: tuple[int, int, str] | None = None,
    ) -> None:
        self._folder = folder
        self._url = url
        self._hashed = size is not None
        self._at = 0  # bytes that were read
        self._mended_at = 0  # the place of the last break
        self._failures = 0  # since then
        self._ranges = True  # whether the server can be asked for the rest
        self._version = ""  # a strong validator: two answers with the same are of the same bytes
        self._response: Any = None
        self.size = -1 if size is None else size
        if begun is not None:
            self._at, self.size, self._version = begun
            self._mended_at = self._at
        self._until_it_works(self._begin if begun is None else self._go_on)

    @property
    def version(self) -> str:
        """What the server vouches by that the file is the same, or ""."""
        return self._version

    async def read(self, count: int) -> bytes:
        return await self.read_bytes(count)

    async def read_bytes(self, count: int) -> bytes:
        if self._at + count > self.size:
            raise CheckpointError(
                f"{self._url} ends early: wanted {count:,} bytes from {self._at:,}, got "
                f"{self.size - self._at:,}"
            )
        data = bytearray()
        while len(data) < count:
            try:
                data += self._receive(count - len(data))
            except _Broken as broken:
                self._until_it_works(self._go_on, broken)
        return bytes(data)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _receive(self, most: int) -> bytes:
        """What comes next, of at least one byte."""
        try:
            piece: bytes = self._response.read1(min(most, SKIP_BYTES))
        except TimeoutError:
            raise _Broken(f"no byte came for {TIMEOUT:g} s") from None
        except (OSError, HTTPException) as error:
            raise _Broken(f"{error or type(error).__name__}") from None
        if not piece:
            raise _Broken("it was cut short")
        self._at += len(piece)
        return piece

    def _until_it_works(self, attempt: Any, broken: _Broken | None = None) -> None:
        """Tries after each pause; broken: how what went before it failed."""
        if self._at - self._mended_at >= PROGRESS:
            self._failures = 0
        self._mended_at = self._at
        while True:
            if broken is not None:
                self.close()
                if self._failures == len(PAUSES) or not self._folder.answered:
                    raise CheckpointError(self._given_up(broken), code="download-broken")
                sleep(PAUSES[self._failures])
                self._failures += 1
            try:
                attempt()
                return
            except _Broken as again:
                broken = again

    def _given_up(self, broken: _Broken) -> str:
        tries = f", after {self._failures + 1} tries" if self._failures else ""
        if self._at:
            return (
                f"{self._url}: the transfer broke at byte {self._at:,} of {self.size:,}: "
                f"{broken}{tries}. Load the model again when the network is better."
            )
        return f"{self._url} cannot be read: {broken}{tries}"

    def _begin(self) -> None:
        """Asks for the file from its first byte."""
        response = self._ask({})
        length = response.headers.get("Content-Length")
        if length is not None and length.isdecimal():
            size = int(length)
        elif self._hashed:
            size = self.size
        else:
            response.close()
            raise CheckpointError(
                f"{self._url} cannot be read: the server gives no Content-Length, so that a file "
                "that is cut short could not be told from a whole one",
                code="download-broken",
            )
        self._response, self.size, self._version = response, size, _version(response.headers)

    def _go_on(self) -> None:
        """Asks for the rest; for the whole file where the server can't, reading over the start."""
        if not (self._hashed or self._version or self._at == 0):
            raise CheckpointError(
                f"{self._url}: the transfer broke at byte {self._at:,} of {self.size:,}, and the "
                "server says nothing by which the file could be known again (a strong ETag). Load "
                "the model again.",
                code="download-broken",
            )
        headers = {}
        if self._ranges and self._at:
            headers["Range"] = f"bytes={self._at}-"
            if not self._hashed:
                headers["If-Range"] = self._version
        try:
            response = self._ask(headers)
        except _RangeRefused:
            self._ranges = False
            raise _Broken("the server refuses to send the rest alone") from None
        self._response = response
        rest = response.status == 206
        if rest and not self._is_the_rest(response.headers.get("Content-Range", "")):
            self._ranges = False  # not to be believed
            raise _Broken("the server sent another part than was asked for")
        length = response.headers.get("Content-Length")
        wanted = self.size - self._at if rest else self.size
        version = _version(response.headers)
        other_length = length is not None and length != str(wanted)
        other_version = not self._hashed and self._at > 0 and version != self._version
        if (other_length and not self._hashed) or other_version:
            raise Replaced(
                f"{self._url} was replaced by another version while it was being read. "
                "Load the model again.",
                code="download-broken",
            )
        if other_length:
            raise _Broken(f"the server says {length} bytes where {wanted} were expected")
        self._version = version
        if not rest:
            self._read_over(self._at)

    def _is_the_rest(self, content_range: str) -> bool:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range.strip())
        return found is not None and [int(number) for number in found.groups()] == [
            self._at,
            self.size - 1,
            self.size,
        ]

    def _read_over(self, count: int) -> None:
        """Of an answer with the whole file, what was read before."""
        at, self._at = self._at, 0
        try:
            while self._at < count:
                self._receive(count - self._at)
        finally:
            self._at = at

    def _ask(self, headers: dict[str, str]) -> Any:
        """The response, if it is one with the file."""
        try:
            response = urlopen(Request(self._url, headers=headers), timeout=TIMEOUT)
        except HTTPError as error:
            self._folder.answered = True
            error.close()
            if error.code in (404, 410):
                raise FileNotFoundError(f"{self._url} is not there") from None
            if error.code in PASSING:
                raise _Broken(f"the server answers {error.code}") from None
            if error.code == 416 and headers:
                raise _RangeRefused from None
            raise CheckpointError(
                f"{self._url}: the server answers {error.code}", code="download-broken"
            ) from None
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            what = f"no byte came for {TIMEOUT:g} s" if isinstance(cause, TimeoutError) else cause
            raise _Broken(f"{what}") from None
        except ValueError as error:
            raise CheckpointError(
                f"{self._url} cannot be read: {error}", code="download-broken"
            ) from None
        self._folder.answered = True
        coding = response.headers.get("Content-Encoding", "identity")
        if coding != "identity":
            response.close()
            raise CheckpointError(
                f"{self._url}: wanted the file as it is, the server sends it coded as {coding}. "
                "Have it serve model folders uncompressed.",
                code="download-broken",
            )
        return response


class _RangeRefused(Exception):
    """416, for a range that the file should have."""


def _version(headers: Any) -> str:
    """A strong validator of an answer, for If-Range, or "".

    Last-Modified is one if the answer is at least a minute younger (RFC 9110, section 8.8.2.2).
    """
    tag: str = headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    modified: str = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return ""
    return modified if age.total_seconds() >= 60 else ""
