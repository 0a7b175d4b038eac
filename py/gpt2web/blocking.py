"""The plain forms of methods that wait: `generate` beside `generate_async`.

wgpu's promises can be awaited, or waited for without an event loop. `block_on` runs a coroutine of
this package so, natively also within a running loop (Jupyter); in the page nothing can block.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_blocking: ContextVar[bool] = ContextVar("blocking", default=False)


def is_blocking() -> bool:
    """Whether this code runs under block_on."""
    return _blocking.get()


async def waited(promise: Awaitable[T]) -> T:
    """What a promise of wgpu gives: awaited, or, under block_on, waited for."""
    if is_blocking():
        result: T = promise.sync_wait()  # type: ignore[attr-defined]
        return result
    return await promise


def block_on(coroutine: Coroutine[Any, Any, T], twin: str) -> T:
    """Run a coroutine of this package to its end, also inside a running event loop (Jupyter).

    Raises RuntimeError naming the async twin where blocking is impossible: in the page.
    """
    if sys.platform == "emscripten":
        coroutine.close()
        raise RuntimeError(f"a browser page cannot block: use `await {twin}(...)` instead")
    token = _blocking.set(True)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        _blocking.reset(token)
        coroutine.close()
    raise RuntimeError(
        f"cannot block on something only an event loop can do: use `await {twin}(...)`"
    )


def blocking(coroutine_function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The plain form of an _async function or method: `generate = blocking(generate_async)`."""

    @wraps(coroutine_function)
    def plain(*arguments: P.args, **options: P.kwargs) -> T:
        twin = coroutine_function.__qualname__
        return block_on(coroutine_function(*arguments, **options), twin)

    plain.__name__ = coroutine_function.__name__.removesuffix("_async")
    return plain
