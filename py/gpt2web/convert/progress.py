"""How far a long step is: tqdm's bar on a terminal; elsewhere, in a log, a line at each tenth."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """Of `total` bytes: `with Progress("Converting", total) as progress: progress.at(done)`."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title = title
        self._total = max(1, total)
        self._first = done
        self._tenth = 10 * done // self._total
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._title,
                total=self._total,
                initial=self._first,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, done: int) -> None:
        """So many bytes are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif 10 * done // self._total > self._tenth:
            self._tenth = 10 * done // self._total
            print(f"{self._title}: {self._tenth * 10} %", file=sys.stderr, flush=True)
