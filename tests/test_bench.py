"""The bench: its counters count, idle generations leave no trace, tables say what was found."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from adapters import new_device  # noqa: F401  sets the environment before wgpu starts Vulkan
from bench import report
from bench.native import Native, short_name
from bench.procedure import count, summary
from browser import run_outside

LAYERS = 6  # of stories
COUNTS = {
    "passes": 1,
    "submits": 1,
    "objects_made": 0,
    "buffers_written": 0,
    "bytes_copied": 16,  # 4 ids
}


@pytest.fixture(scope="module")
def place() -> Iterator[Native]:
    place = Native("llvmpipe")
    run_outside(place.call("load", "stories", None))
    yield place
    run_outside(place.call("close"))


@pytest.mark.gpu
def test_a_submit_of_four_tokens_is_counted_call_by_call(place: Native) -> None:
    found = run_outside(count(place))
    for name, layer in {"short": 5, "long": 6}.items():
        wanted = COUNTS | {"dispatches": 4 * (layer * LAYERS + 4)}
        assert {key: found[name][key] for key in wanted} == wanted


@pytest.mark.gpu
def test_what_is_made_or_written_for_a_submit_is_seen(place: Native) -> None:
    assert place.subject is not None
    device = place.subject.lm.backbone.device
    assert device is not None

    def submit(*arguments: Any, **options: Any) -> None:
        device.write(device.tensor((4,)), bytes(16))
        type(device).submit(device, *arguments, **options)

    device.submit = submit  # type: ignore[method-assign]
    try:
        found = run_outside(count(place))
    finally:
        del device.submit  # type: ignore[method-assign]
    assert (found["short"]["objects_made"], found["short"]["buffers_written"]) == (1, 1)


@pytest.mark.gpu
def test_an_idle_generation_leaves_the_model_as_it_was(place: Native) -> None:
    assert place.subject is not None
    lm = place.subject.lm

    async def text() -> str:
        return "".join([p.text async for p in lm.stream("Once", max_new_tokens=8, temperature=0)])

    before = run_outside(text())
    run_outside(count(place))
    assert run_outside(text()) == before
    assert len(before) > 8


def test_calls_that_differ_from_submit_to_submit_show_as_a_fraction() -> None:
    assert summary(Counter(submit=3, createBuffer=1, createCommandEncoder=2), 2) == {
        "dispatches": 0,
        "passes": 0,
        "submits": 1.5,
        "objects_made": 0.5,
        "buffers_written": 0,
        "bytes_copied": 0,
        "bytes_mapped": 0,
    }


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("wgpuDeviceCreateBuffer", "createBuffer"),
        ("wgpuComputePassEncoderDispatchWorkgroups", "dispatchWorkgroups"),
        ("wgpuBufferGetMappedRange", "getMappedRange"),
        ("wgpuDevicePoll", "poll"),
        ("wgpuRenderPassEncoderDraw", ""),
        ("_error_handler", ""),
    ],
)
def test_functions_are_called_as_in_javascript(name: str, short: str) -> None:
    assert short_name(name) == short


def model(**other: Any) -> dict[str, Any]:
    counts = {"dispatches": 136, **COUNTS, "bytes_mapped": 16}
    return {
        "model": "stories",
        "place": "native, somewhere",
        "precision": "f16",
        "software": True,
        "gpu_bytes": 19_400_000,
        "counts": {"steps_per_submit": 4, "short": counts, "long": counts | {"dispatches": 160}},
        "cpu_seconds_per_token": {"4": {"short": 0.0002, "long": 0.00031}},
        "speeds": [{"context": 16, "tokens_per_second": 123.4, "first_token_seconds": 0.0567}],
    } | other


def test_the_tables_hold_the_figures() -> None:
    result = {"date": "2026-01-02", "commit": "abc1234", "machine": "a machine"}
    text = report.markdown([result | {"models": [model()]}])
    assert "Measured 2026-01-02 at commit abc1234: a machine." in text
    cells = "34 / 40 | 1, 1 | 0, 0 | 4, 4 | 0.20 / 0.31 ms |"
    assert f"| stories, f16 | native, somewhere | {cells}" in text
    assert "| stories, f16 | native, somewhere | 19 MB | 16 | 123 | 0.0567 s |" in text
    assert "No figure of a real GPU" in text
    other = report.markdown([result | {"models": [model(), model(software=False)]}])
    assert "No figure of a real GPU" not in other
    assert report.markdown([]) == report.NOTHING
