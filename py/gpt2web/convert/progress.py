"""One line on a terminal that says how far a long step is; elsewhere a line at each tenth."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

BAR = 24  # characters
REDRAW = 0.1  # seconds


class Progress:
    """Of `total` bytes: `with Progress("Converting", total) as progress: progress.at(done)`."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title = title
        self._total = max(1, total)
        self._first = self._done = done
        self._start = time.monotonic()
        self._drawn = -1.0
        self._tenth = 10 * done // self._total

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if sys.stderr.isatty():
            self._draw()
            print(file=sys.stderr)

    def at(self, done: int) -> None:
        """So many bytes are done."""
        self._done = done
        now = time.monotonic()
        if sys.stderr.isatty():
            if now - self._drawn >= REDRAW:
                self._drawn = now
                self._draw()
        elif 10 * done // self._total > self._tenth:
            self._tenth = 10 * done // self._total
            print(f"{self._title}: {self._tenth * 10} %", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        part = min(1.0, self._done / self._total)
        bar = "#" * int(part * BAR)
        rate = (self._done - self._first) / max(1e-3, time.monotonic() - self._start)
        left = (self._total - self._done) / rate if rate else 0.0
        text = (
            f"{self._title} [{bar:<{BAR}}] {self._done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB, "
            f"{rate / 1e6:.1f} MB/s, {left // 60:.0f}:{left % 60:02.0f} left"
        )
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
