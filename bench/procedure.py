"""How a model is measured, step by step; the same for every place where it runs.

What is drawn: counts of the GPU's API calls, the CPU's time for a token, tokens a second.
"""

from __future__ import annotations

import sys
from collections import Counter
from statistics import median
from typing import Any, Protocol

STEPS_PER_SUBMIT = (4, 16)
REPEATS = 3
# Ids of an idle generation, in multiples of both K. What is under way, two submits at most, has to
# stay on the same side of 256, the end of the cache's first split.
SHORT = (32, 160)
LONG = (288, 352)

# Tokens a second: (context, tokens, dropped). A software adapter takes a second for a token of
# GPT-2 small.
SPEEDS = {
    ("stories", True): [(16, 40, 8), (300, 40, 8)],
    ("stories", False): [(16, 144, 16), (224, 144, 16)],
    ("gpt2", True): [(16, 4, 1)],
    ("gpt2", False): [(16, 144, 16), (256, 144, 16), (512, 144, 16), (864, 144, 16)],
}
# A model as it comes, and one of GPT-2 small's shape whose weights are drawn on the GPU.
MODELS = [("stories", None), ("gpt2", "f32"), ("gpt2", "f16")]

# What of the API's calls belongs together, in the spelling of JavaScript.
ENCODERS = {"createCommandEncoder"}  # one for each submit, as the API wants it


class Place(Protocol):
    """Where a model runs: this process, or a worker in a browser."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of measure.Subject; "load" makes the subject."""

    async def cpu_seconds(self) -> float:
        """What Python has used of the CPU so far, with what it calls."""

    async def count(self, on: bool) -> None:
        """Count the calls of the GPU's API from now on, or no longer."""

    async def counted(self) -> Counter[str]:
        """Calls so far by name; "mapAsync bytes" and "copyBufferToBuffer bytes" what they took."""


async def measure(place: Place, model: str, precision: str | None) -> dict[str, Any]:
    """Everything about one model on one adapter."""
    print(f"  {model}{f', {precision}' if precision else ''} ...", file=sys.stderr, flush=True)
    await place.call("load", model, precision)
    try:
        info = await place.call("info")
        counts = await count(place)
        cpu = {steps: await cpu_per_token(place, steps) for steps in STEPS_PER_SUBMIT}
        speeds = [
            await place.call("speed", *arguments) for arguments in SPEEDS[model, info["software"]]
        ]
    finally:
        await place.call("close")
    return {
        "model": model,
        **{key: info[key] for key in ("adapter", "backend", "software", "precision")},
        **{key: info[key] for key in ("parameters", "context", "gpu_bytes")},
        "counts": counts,
        "cpu_seconds_per_token": cpu,
        "speeds": speeds,
    }


async def count(place: Place) -> dict[str, Any]:
    """Calls of the API per submit of K tokens, over a short and a long cache."""
    steps = STEPS_PER_SUBMIT[0]
    found: dict[str, Any] = {"steps_per_submit": steps}
    await place.call("start", steps)
    await place.count(True)
    at = 0
    for name, (begin, end) in {"short": SHORT, "long": LONG}.items():
        await place.call("advance", begin - at)
        before = await place.counted()
        await place.call("advance", end - begin)
        found[name] = summary(await place.counted() - before, (end - begin) // steps)
        at = end
    await place.count(False)
    await place.call("stop")
    return found


def summary(calls: Counter[str], submits: int) -> dict[str, float]:
    """Calls per submit: a fraction would show that not every submit is alike."""
    made = sum(calls[name] for name in calls if name.startswith(("create", "getBindGroupLayout")))
    groups = {
        "dispatches": calls["dispatchWorkgroups"] + calls["dispatchWorkgroupsIndirect"],
        "passes": calls["beginComputePass"],
        "submits": calls["submit"],
        "objects_made": made - sum(calls[name] for name in ENCODERS),
        "buffers_written": calls["writeBuffer"],
        "bytes_copied": calls["copyBufferToBuffer bytes"],
        "bytes_mapped": calls["mapAsync bytes"],
    }
    return {name: number / submits for name, number in groups.items()}


async def cpu_per_token(place: Place, steps: int) -> dict[str, float]:
    """Seconds of the CPU for a token, the median of some idle generations.

    Time on the CPU, so that waiting is not in it. In it is all that Python does for a token, with
    what that calls. Natively that is the whole process: wgpu-native with its encoding and checking,
    and the thread that waits for the GPU. In the page it is the worker's thread: Pyodide, the event
    loop and the browser's half of WebGPU in that process, but not the browser's GPU process.
    """
    found: dict[str, list[float]] = {"short": [], "long": []}
    for _ in range(REPEATS):
        await place.call("start", steps)
        at = 0
        for name, (begin, end) in {"short": SHORT, "long": LONG}.items():
            await place.call("advance", begin - at)
            before = await place.cpu_seconds()
            await place.call("advance", end - begin)
            found[name].append((await place.cpu_seconds() - before) / (end - begin))
            at = end
        await place.call("stop")
    return {name: median(values) for name, values in found.items()}
