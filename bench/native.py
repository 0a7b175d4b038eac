"""The native command's side: wgpu-native, on each adapter there is or on the one that is named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import wgpu.backends.auto
from wgpu.backends.wgpu_native import _api

from bench.measure import Subject
from bench.procedure import MODELS, measure
from gpt2web.gpu import describe

LIBRARY = _api.libf  # every call of wgpu-native goes through here
BYTES = {"copyBufferToBuffer": 5, "mapAsync": 3}  # which argument is a number of bytes
CLASSES = ("Device", "Queue", "CommandEncoder", "ComputePassEncoder", "Buffer", "ComputePipeline")


class Native:
    """A model in this process. adapter: part of its name."""

    def __init__(self, adapter: str | None) -> None:
        self.adapter = adapter
        self.subject: Subject | None = None
        self.calls: Counter[str] = Counter()
        self.counting: Any = None

    async def call(self, method: str, *arguments: Any) -> Any:
        if method == "load":
            self.subject = await Subject.load(*arguments, self.adapter)
            return None
        result = getattr(self.subject, method)(*arguments)
        return await result if hasattr(result, "__await__") else result

    async def cpu_seconds(self) -> float:
        return time.process_time()

    async def count(self, on: bool) -> None:
        if on:
            self.counting = count_calls(self.calls)
            self.counting.__enter__()
        else:
            self.counting.__exit__(None, None, None)

    async def counted(self) -> Counter[str]:
        return self.calls.copy()


@contextmanager
def count_calls(calls: Counter[str]) -> Iterator[None]:
    """Counts the calls of wgpu-native's own functions, under the names they have in JavaScript."""
    plain = {name: function for name, function in vars(LIBRARY).items() if short_name(name)}

    def counted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            if name in BYTES:
                calls[f"{name} bytes"] += int(arguments[BYTES[name]])
            return function(*arguments)

        return call

    for name, function in plain.items():
        setattr(LIBRARY, name, counted(function, short_name(name)))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(LIBRARY, name, function)


def short_name(name: str) -> str:
    """wgpuDeviceCreateBuffer -> createBuffer; nothing for what is not counted."""
    for kind in CLASSES:
        method = name.removeprefix(f"wgpu{kind}")
        if method != name and not method.startswith("Encoder"):
            return method[0].lower() + method[1:]
    return ""


def adapters() -> list[str]:
    """The names of the adapters there are, but for OpenGL's doubles of them."""
    found = wgpu.gpu.enumerate_adapters_sync()
    names = [describe(each) for each in found if "GL" not in each.info["backend_type"]]
    return list(dict.fromkeys(names))


async def run(adapter: str | None) -> list[dict[str, Any]]:
    return [await measure(Native(adapter), *model) for model in MODELS]
