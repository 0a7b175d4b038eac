"""One call at a time, in the order they came."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

from gpt2web.gpu import is_blocking


class Turn:
    """A fair lock that coroutines, of one event loop or several, and blocked threads share.

    Whoever takes it gives it back, from any thread, and also from a finalizer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run inside take
        self._taken = False
        self._holder = 0  # the thread whose code drives the call that holds the turn
        self._waiting: deque[tuple[Future[None], int]] = deque()

    async def take(self) -> None:
        """Wait for the turn.

        RuntimeError: a blocking call would wait for a stream that this very thread drives.
        """
        thread = threading.get_ident()
        with self._lock:
            if not self._taken:
                self._taken, self._holder = True, thread
                return
            if is_blocking() and self._holder == thread:
                raise RuntimeError(
                    "a generation of this model is still open in this thread: read it to its end, "
                    "aclose() it, or await the _async form of this call"
                )
            future: Future[None] = Future()
            self._waiting.append((future, thread))
        if is_blocking():
            future.result()
            return
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give()  # it came while this task was being cancelled
            raise

    def give(self) -> None:
        """Let the next one go."""
        with self._lock:
            while self._waiting:
                future, thread = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    self._holder = thread
                    future.set_result(None)
                    return
            self._taken = False
