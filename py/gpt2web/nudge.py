"""Firefox looks for finished mappings about every 100 ms, unless something is submitted: then at
once. Measured there, an empty submit a millisecond apart brings a mapping from 103 ms to 1.4 ms.
"""

from __future__ import annotations

from collections.abc import Callable

EVERY = 0.001  # seconds


def looks_slowly(user_agent: str) -> bool:
    """Whether a browser is built on Firefox's engine. Others say "like Gecko".

    >>> looks_slowly("Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0")
    True
    """
    return "Gecko/" in user_agent


class Nudge:
    """Calls `submit`, which submits nothing, every millisecond while mappings are awaited.

    call_later: takes seconds and what to call then.
    """

    def __init__(
        self,
        submit: Callable[[], object],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._submit = submit
        self._call_later = call_later
        self._awaited = 0
        self._scheduled = False

    def begin(self) -> None:
        """One more mapping is awaited."""
        self._awaited += 1
        self._schedule()

    def end(self) -> None:
        """One of them is there, or will never be."""
        self._awaited -= 1

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_later(EVERY, self._nudge)

    def _nudge(self) -> None:
        self._scheduled = False
        if self._awaited > 0:
            self._submit()
            self._schedule()
