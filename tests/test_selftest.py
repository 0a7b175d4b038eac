"""The self-test: its answers are the reference's, it passes in every precision, and a kernel that
computes wrongly is found out."""

import json

import pytest

import record_answers
from adapters import new_device
from gpt2web import gpu, selftest
from gpt2web.blocking import block_on
from gpt2web.gpu import DeviceError
from gpt2web.precision import PRECISIONS


def test_the_recorded_answers_are_the_references():
    recorded = json.loads(record_answers.ANSWERS.read_text(encoding="utf-8"))
    found = record_answers.answers()
    assert recorded.keys() == found.keys() == {selftest.answers_of(each) for each in PRECISIONS}
    for precision, answers in found.items():
        assert recorded[precision].keys() == answers.keys()
        for name, values in answers.items():
            assert recorded[precision][name] == pytest.approx(values, rel=1e-6, abs=1e-9), name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_passes_in_every_precision(precision):
    device = new_device("SwiftShader")
    assert block_on(selftest.run(device, precision), "run") == (precision, "passed")
    device.destroy()


def corrupt(monkeypatch, shader, right, wrong):
    original = gpu.shader_source
    source = original(shader)
    assert right in source
    broken = source.replace(right, wrong, 1)
    monkeypatch.setattr(
        gpu, "shader_source", lambda name: broken if name == shader else original(name)
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shader, right, wrong",
    [
        ("quantize", "low | (high << 16u)", "low | (low << 16u)"),
        ("project", "k & 16u", "k & 0u"),
        ("matmul", "tile_k / 32u", "tile_k / 64u"),
    ],
)
def test_a_kernel_that_is_wrong_in_int4_alone_leaves_f32(monkeypatch, shader, right, wrong):
    corrupt(monkeypatch, shader, right, wrong)
    device = new_device("SwiftShader")
    precision, told = block_on(selftest.run(device, "int4"), "run")
    assert precision == "f32" and told.startswith("passed in f32; int4 failed (")
    device.destroy()


@pytest.mark.gpu
def test_a_gpu_that_computes_wrongly_in_f32_too_is_refused_by_name(monkeypatch):
    corrupt(monkeypatch, "head", "select(sums[i]", "select(sums[3u - i]")
    device = new_device("SwiftShader")
    with pytest.raises(DeviceError, match=r"SwiftShader.* computes wrongly.* project or head: "):
        block_on(selftest.run(device, "int8"), "run")
    device.destroy()
