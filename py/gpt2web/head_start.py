"""What the page has done on the GPU before Python is up, from what an earlier visit remembered.

web/head_start.js asks for the device while Python starts, and begins to compile the pipelines that
the last load of the same model needed. They are taken over here, and remembered for the next visit.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from gpt2web.gpu import Device, PipelineKey, shader_source


class HeadStart(Protocol):
    """JavaScript's own objects."""

    adapter: Any
    device: Any
    name: str  # under which the pipelines are remembered
    text: str  # what was remembered
    pipelines: Any  # a promise for each, of None where it could not be compiled


class Memory(Protocol):
    """Short texts that earlier visits left, of this version of the shaders and this browser; and
    what the page has made of them."""

    async def recall(self, name: str) -> str:
        """What was left under a name; "" where nothing was."""

    async def remember(self, name: str, text: str) -> object:
        """Leave a text."""

    async def head_start(self) -> HeadStart | None:
        """What has been begun; None where it has been taken, or nothing was."""


async def open_device(adapter: str | None, memory: Memory | None) -> tuple[Device, str | None]:
    """The device, and what its pipelines are to be remembered under; None: not at all. Raises
    DeviceError as Device.request does."""
    begun = await memory.head_start() if memory is not None else None
    if not begun:  # None, or JavaScript's null
        return await Device.request(adapter), None
    keys = read_pipelines(begun.text)
    device = Device.adopt(begun.adapter, begun.device, zip(keys, begun.pipelines, strict=False))
    return device, begun.name


def write_pipelines(device: Device) -> str:
    """The pipelines in use, with the text of their shaders."""
    sources = {name: shader_source(name) for name, _ in device.used}
    return json.dumps({"sources": sources, "pipelines": list(device.used)})


def read_pipelines(text: str) -> list[PipelineKey]:
    """Those of write_pipelines; none where it is not all as it was written."""
    try:
        told = json.loads(text or '{"sources": {}, "pipelines": []}')
        if any(shader_source(name) != source for name, source in told["sources"].items()):
            return []
        listed = told["pipelines"]
        return [(str(name), tuple((str(c), v) for c, v in constants)) for name, constants in listed]
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return []
