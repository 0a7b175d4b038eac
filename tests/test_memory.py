"""Nothing grows from generation to generation, in the page: bench/soak.py in short. What the page
and its worker hold is counted from outside, and judged as in the long soak, beside a control."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from bench import soak
from bench.memory import Memory
from bench.slope import Slope, slope
from browser import serve_folder

# Bytes in ten thousand tokens, a thousand each: fewer tokens say less, while code that runs often
# is still being compiled. The long soak allows ten a token.
LIMITS = soak.LIMITS | {"page": 10_000_000, "worker": 10_000_000, "python": 10_000_000}
ROUND = [("Once upon a time", 12, False), ("A small fox", 60, True)]
TOKENS = 200
LEAK = 32_768  # bytes a submit
WARM_UP = 100  # tokens


@pytest.fixture(scope="module")
def opened(
    quick_browser: Browser, dist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Page, Memory]]:
    """The writing page with the soak's small model."""
    folder = tmp_path_factory.mktemp("soak") / "dist"
    soak.with_small_model(dist, folder)
    server = serve_folder(folder)
    page, memory = soak.open_page(quick_browser, server.url)
    yield page, memory
    page.context.close()
    server.stop()


def judged(opened: tuple[Page, Memory], leak: int) -> dict[str, Any]:
    browser = opened[0].context.browser
    assert browser is not None
    soaked = soak.soak(*opened, TOKENS, leak, ROUND, soak.cpu_times(browser))
    found: dict[str, Any] = soaked.judged(LIMITS)["slopes"]
    return found


@pytest.mark.browser
def test_generations_leave_no_memory_behind_and_a_leak_of_each_kind_is_found(
    opened: tuple[Page, Memory],
) -> None:
    soak.soak(*opened, WARM_UP, rounds=ROUND)
    flat = judged(opened, leak=0)
    assert {name: flat[name]["verdict"] for name in LIMITS} == dict.fromkeys(LIMITS, "flat"), flat
    assert flat["gpu_buffers"]["level"] > 20 and flat["gpu_bytes"]["level"] > 100_000
    assert flat["python"]["level"] > 5_000_000 and flat["wasm"]["level"] > 20_000_000
    assert flat["worker_cpu"]["verdict"] != "grows", flat
    leaky = judged(opened, LEAK)
    names = dict.fromkeys([*LIMITS, "worker_cpu"], "grows")
    assert {name: leaky[name]["verdict"] for name in names} == names, leaky


def test_a_slope_is_found_in_noise_with_the_interval_that_holds_it() -> None:
    draw = random.Random(3)
    tokens = range(0, 10_000, 100)

    def found(growth: float, stray: float = 0.0) -> Slope:
        """1000 and some growth in 10,000 tokens, with noise; the warm-up is steep."""
        values = [
            1000 + growth * at / 10_000 + draw.gauss(0, 5) - max(0, 1800 - at) for at in tokens
        ]
        values[50] += stray
        return slope(tokens, values)

    for growth in (0.0, 40.0, -40.0):
        for _ in range(20):
            one = found(growth, stray=1e6)  # one sample gone astray moves nothing
            assert one.low < one.per < one.high
            assert abs(one.per - growth) < 8 and one.high - one.low < 16
            assert (one.samples, round(one.level / 100)) == (80, 10)
    held = sum(one.low <= 40 <= one.high for one in (found(40.0) for _ in range(200)))
    assert (
        180 <= held <= 199
    )  # 95 % of 200, and not all: an interval that held always would be idle


def test_flat_is_only_what_cannot_grow_by_more_than_the_limit() -> None:
    one = Slope(level=1000, per=5, low=-10, high=20, samples=30)
    assert [one.verdict(limit) for limit in (19, 20, -11)] == ["unclear", "flat", "grows"]
    level = slope(range(20), [7.0] * 20)
    assert (level.per, level.low, level.high, level.verdict(0)) == (0, 0, 0, "flat")
    assert slope(range(20), [float(n // 5) for n in range(20)]).verdict(0) == "grows"


def test_a_slope_of_too_few_samples_is_refused() -> None:
    assert slope(range(10), [1.0] * 10).samples == 8
    with pytest.raises(ValueError, match="needs 8 samples or more, and here are 6"):
        slope(range(8), [1.0] * 8)
