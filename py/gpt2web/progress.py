"""How far a long call is: a bar by tqdm, a callback, or nothing.

Calls that may take long have `progress`: None shows a bar to whoever can see one, on a terminal or
in a notebook, once a second has passed; False never; True always; a callable is called with (done,
in all), whose units are the call's. In the page there is no tqdm: it gives a callable.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[int, int], object]  # done, in all
Progress = bool | Report | None

DELAY = 1.0  # seconds before a bar is shown


@contextmanager
def shown(progress: Progress, title: str, unit: str = "token") -> Iterator[Report | None]:
    """What to call with (done, in all) while it lasts; None where nobody wants to know.

    unit: what is counted; "B", bytes, gets a prefix. Raises TypeError for what is no `progress`,
    ModuleNotFoundError where a bar must be shown and tqdm is not installed.
    """
    if callable(progress):
        yield progress
        return
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress is None, False, True or a callable, got {progress!r}")
    if progress is False or (progress is None and not is_watched()):
        yield None
        return
    bar = Bar(title, unit, always=progress is True)
    try:
        yield bar.report
    finally:
        bar.close()


class Bar:
    """A bar that is made when it is first shown: most calls are over before, and then tqdm is not
    even imported. always: shown at once, and left there; else it is taken away at the end."""

    def __init__(self, title: str, unit: str, *, always: bool) -> None:
        self._title, self._unit, self._always = title, unit, always
        self._start = time.time()  # seconds, of tqdm's clock
        self._bar: Any = None
        self._missing = False
        if always:
            self._open(0, None)

    def report(self, done: int, total: int) -> None:
        """So much is done, of so much."""
        if self._bar is None and not self._missing and time.time() - self._start >= DELAY:
            self._open(done, total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.refresh()  # what follows, as compiling, is not counted

    def _open(self, done: int, total: int | None) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a notebook without ipywidgets: text will do
                from tqdm.auto import tqdm
        except ModuleNotFoundError:
            if self._always:
                raise ModuleNotFoundError(
                    "progress=True shows a bar by tqdm, which is not installed: pip install tqdm, "
                    "or pass a callable, which is called with (done, in all)",
                    name="tqdm",
                ) from None
            self._missing = True
            return
        self._bar = tqdm(
            desc=self._title,
            total=total,
            unit=self._unit,
            unit_scale=self._unit == "B",
            leave=self._always,
            dynamic_ncols=True,
        )
        self._bar.start_t = self._start
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def is_watched() -> bool:
    """Whether somebody can see a bar: on a terminal, or in a notebook. A page has no tqdm."""
    if sys.platform == "emscripten":
        return False
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this Python is the kernel of a notebook. IPython is asked where it is loaded."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython(), "kernel") if ipython else False
