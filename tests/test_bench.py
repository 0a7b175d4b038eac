"""The bench: its counters count, idle generations leave no trace, tables say what was found."""

from collections import Counter
from collections.abc import Iterator
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import new_device  # noqa: F401  sets the environment before wgpu starts Vulkan
from bench import precision, report
from bench.footprint import footprint
from bench.native import Native, short_name
from bench.procedure import count, summary
from browser import run_outside
from gpt2web import GPT2CausalLM, GPT2Config
from gpt2web.convert.__main__ import main as convert
from gpt2web.gpu import Device
from gpt2web.precision import PRECISIONS

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


def test_the_tables_of_precisions_and_sizes_hold_the_figures() -> None:
    held = {"weights": 200_000_000, "cache": 75_000_000, "rest": 8_000_000}
    about = {"date": "2026-01-02", "commit": "abc1234", "machine": "a machine"}
    rows = [
        {"precision": name, "bytes": held, "stored_bytes": 5e6, "perplexity": p, "divergence": d}
        for name, p, d in (("f32", 4.0, 0.0), ("int4", 4.1, 0.0123))
    ]
    shapes = [{"model": "gpt2-xl", "precision": "int4", "bytes": held}]
    found = {"texts": 7, "tokens": 1234, "adapter": "A", "stories": rows, "shapes": shapes}
    text = report.markdown([about | {"precisions": found}])
    assert "on 7 stories that it was not trained on (1,234 tokens, " in text
    assert "| int4 | 200.0 MB | 5.0 MB | 4.1000 | +2.50 % | 0.012 |" in text
    assert "| f32 | 200.0 MB | 5.0 MB | 4.0000 | +0.00 % | 0 |" in text
    cells = "200.0 MB | 75.0 MB | 8.0 MB, 4.0 % | 283.0 MB |"
    assert f"| GPT-2 XL | int4 | {cells}" in text
    size = {
        **{"model": "gpt2-xl", "precision": "f16", "adapter": "A", "parameters": 1557611200},
        **{"bytes": held, "split": ["wte"], "logits_difference": 1.2e-5, "largest_logit": 4.36},
        **{"seconds_per_token": 1.48, "peak_rss_bytes": 4e9, "positions": 24},
        **{"binding_limit": 2**27, "load": 1.2},
    }
    text = report.markdown([about | {"sizes": [size]}])
    assert "on A, which computes on the CPU and binds 128 MiB at most" in text
    last = "wte | 1.2e-05 of 4.4 | 1.5 s | 4,000.0 MB |"
    assert f"| GPT-2 XL, f16 | 1,557,611,200 | {cells} {last}" in text
    assert text.count("Measured 2026-01-02 at commit abc1234: a machine.\n") == 1
    text = report.markdown([about | {"sizes": [size, size | {"load": 6.6}]}])
    assert "a machine. Other programs ran too (load 7 a core): times are long.\n" in text


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


def test_the_table_of_starts_holds_medians_and_says_when_the_machine_was_busy() -> None:
    about = {"date": "2026-01-02", "commit": "abc1234", "machine": "a machine"}
    visits = {"ready": [1.0, 5.0, 1.25], "first": [2.0, 1.5, 9.0], "gpu_cpu": [0.5, 0.75, 1.0]}
    start = {"setting": "as it is", "visit": "snapshot", **visits}
    found = {"browser": "Chromium 1", "load": 0.1, "page_bytes": 6_540_000, "starts": [start]}
    text = report.markdown([about | found])
    assert "| as it is | snapshot | 3 | 1.25 s | 2.00 s | 0.75 s |" in text
    assert "6.54 MB" in text and "Measured 2026-01-02 at commit abc1234: a machine.\n" in text
    text = report.markdown([about | found | {"load": 1.7}])
    assert "a machine. Other programs ran too (load 2 a core): times are long.\n" in text


def test_divergence_and_perplexity_are_those_of_known_distributions() -> None:
    halves, thirds = np.array([[0.0, 0.0, -np.inf]]), np.array([[5.0, 5.0, 5.0]])
    p, q = precision.log_softmax(halves[:, :2]), precision.log_softmax(thirds[:, :2])
    assert np.allclose(np.exp(p), 0.5) and (p == q).all()
    assert precision.divergence(p, q).tolist() == [0]
    base = precision.log_softmax(np.log([[0.9, 0.1], [0.5, 0.5]]))
    other = precision.log_softmax(np.log([[0.5, 0.5], [0.9, 0.1]]) + 100)  # any shift
    wanted = [0.9 * log(1.8) + 0.1 * log(0.2), 0.5 * log(5 / 9) + 0.5 * log(5)]
    np.testing.assert_allclose(precision.divergence(base, other), wanted)
    assert precision.perplexity(-np.log([0.25, 0.25, 0.25])) == pytest.approx(4)
    assert precision.perplexity(-np.log([0.5, 0.125])) == pytest.approx(4)


@pytest.mark.gpu
def test_precisions_are_measured_as_the_library_scores_a_text(devices: list[Device]) -> None:
    texts = [text for text in precision.stories() if len(text) < 400][:2]
    found = run_outside(precision.run("llvmpipe", texts, ("f32", "int4")))
    rows = {row["precision"]: row for row in found["stories"]}
    lm = GPT2CausalLM.from_preset("stories", precision="int4", adapter="llvmpipe")
    losses = [-logprob for text in texts for _, logprob in lm.log_probabilities(text)]
    lm.close()
    assert found["tokens"] == len(losses) > 100
    assert rows["int4"]["perplexity"] == pytest.approx(exp(np.mean(losses)), rel=1e-5)
    assert rows["f32"]["divergence"] == 0 and 1e-3 < rows["int4"]["divergence"] < 0.1
    assert rows["f32"]["bytes"]["weights"] > 5 * rows["int4"]["bytes"]["weights"]


@pytest.mark.parametrize("kept", PRECISIONS)
def test_what_a_folder_is_said_to_take_is_what_the_converter_writes(
    kept: str, tmp_path: Path
) -> None:
    stories = report.ROOT / "web/models/stories"
    assert convert([str(stories), "--precision", kept, "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    written = sum(path.stat().st_size for path in folder.glob("model*"))
    counted = precision.stored_bytes(GPT2Config.from_preset("stories"), kept)
    assert 0 < written - counted < 10_000  # a header


def test_the_held_out_text_is_whole_stories() -> None:
    texts = precision.stories()
    assert len(texts) == 158 and sum(map(len, texts)) > 100_000
    assert not any("<|" in text or text != text.strip("\n") or len(text) < 100 for text in texts)


SHAPES = {"gpt2": 124, "gpt2-medium": 355, "gpt2-large": 774, "gpt2-xl": 1558}  # million weights


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_of_gpt2_takes_its_weights_its_cache_and_a_tenth_at_most(name: str) -> None:
    config = GPT2Config.from_preset(name)
    bits = {"f32": 32, "f16": 16, "int8": 9, "int4": 5}  # with scales; the embedding has 9
    for kept, width in bits.items():
        held = footprint(config, kept)
        wte = 50257 * config.hidden_dim
        least = (SHAPES[name] * 1_000_000 - wte) * width / 8 + wte * max(width, 9) / 8
        assert 0.99 < held["weights"] / least < 1.05
        assert held["cache"] == 8 * config.num_layers * 1024 * config.hidden_dim
        assert held["rest"] < 0.1 * held["weights"]


def test_the_table_of_a_soak_says_what_grew_and_by_how_much() -> None:
    flat = {"level": 2_878_000, "per": 70_800, "low": -1_400, "high": 80_200, "verdict": "flat"}
    grows = {"level": 0.0031, "per": 0.2, "low": 0.171, "high": 0.237, "verdict": "grows"}
    slopes = {"page": flat, "wasm": {**flat, "verdict": ""}, "worker_cpu": grows}
    found = {"model": "small", "browser": "B", "tokens": 10_124, "samples": 86, "load": 1.0}
    found |= {"slopes": slopes, "control": {"tokens": 3069, "slopes": slopes}}
    about = {"date": "2026-01-02", "commit": "abc1234", "machine": "a machine"}
    text = report.markdown([about | {"soak": found}])
    assert "10,124 tokens in the page, a model of two layers, in B: " in text
    cells = "+70.8 kB (-1.4 to +80.2) | flat | +70.8 kB (-1.4 to +80.2) | flat |"
    assert f"| JavaScript heap, page | 2,878 kB | {cells}" in text
    assert "| CPU time, worker | 3.1 ms | +200 ms (+171 to +237) | grows |" in text
    assert "Other programs" not in text
    assert "(load 3 a core)." in report.markdown([about | {"soak": found | {"load": 2.6}}])
