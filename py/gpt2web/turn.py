"""One call at a time, in the order they came."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

from gpt2web.blocking import is_blocking


class Turn:
    """A fair lock that coroutines, of one event loop or several, and blocked threads share.

    Whoever takes it gives it back, from any thread, and also from a finalizer.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run inside take
        self._taken = False
        self._holder = 0  # the thread whose code drives the call that holds the turn
        self._waiting: deque[tuple[Future[bool], int, object]] = deque()

    async def take(self, caller: object = None) -> bool:
        """Wait for the turn. False: it was not waited for, because of `leave(caller)`.

        RuntimeError: a blocking call would wait for a stream that this very thread drives.
        """
        thread = threading.get_ident()
        with self._lock:
            if not self._taken:
                self._taken, self._holder = True, thread
                return True
            waiting = [waits for future, waits, _ in self._waiting if not future.done()]
            if is_blocking() and thread in (self._holder, *waiting):
                raise RuntimeError(
                    "a generation of this model is still open in this thread: read it to its end, "
                    "aclose() it, or await the _async form of this call"
                )
            future: Future[bool] = Future()
            self._waiting.append((future, thread, caller))
            if not self._taken:  # a finalizer gave it back since
                self._taken = True
                self.give()
        if is_blocking():
            return future.result()
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            with self._lock:
                came = future.done() and not future.cancelled() and future.result()
            if came:
                self.give()  # it came while this task was being cancelled
            raise

    def leave(self, caller: object) -> None:
        """Whoever waits as `caller` waits no longer; others are not affected."""
        with self._lock:
            for entry in [entry for entry in self._waiting if entry[2] is caller]:
                self._waiting.remove(entry)
                if entry[0].set_running_or_notify_cancel():
                    entry[0].set_result(False)

    def give(self) -> None:
        """Let the next one go."""
        with self._lock:
            while self._waiting:
                future, thread, _ = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    self._holder = thread
                    future.set_result(True)
                    return
            self._taken = False
