"""Counts what is asked of WebGPU, and the rules that a decoded token must keep.

The rules take counts under WebGPU's own method names, so that a count made in the page by another
means can be held to the same ones.
"""

from collections import Counter
from contextlib import contextmanager

import wgpu
from wgpu.backends.wgpu_native import _api

COUNTED = {
    "createBuffer": (_api.GPUDevice, "create_buffer"),
    "createBindGroup": (_api.GPUDevice, "create_bind_group"),
    "createBindGroupLayout": (_api.GPUDevice, "create_bind_group_layout"),
    "createComputePipeline": (_api.GPUDevice, "create_compute_pipeline"),
    "createShaderModule": (_api.GPUDevice, "create_shader_module"),
    "writeBuffer": (_api.GPUQueue, "write_buffer"),
    "submit": (_api.GPUQueue, "submit"),
    "beginComputePass": (_api.GPUCommandEncoder, "begin_compute_pass"),
    "dispatchWorkgroups": (_api.GPUComputePassEncoder, "dispatch_workgroups"),
}
MADE = [name for name in COUNTED if name.startswith("create")]


@contextmanager
def counting():
    """A Counter of calls from here on; "bytesRead" are those copied to where they can be mapped."""
    counts = Counter()
    originals = {name: getattr(owner, method) for name, (owner, method) in COUNTED.items()}
    copy = _api.GPUCommandEncoder.copy_buffer_to_buffer

    def counted(name):
        def call(*arguments, **options):
            counts[name] += 1
            return originals[name](*arguments, **options)

        return call

    def counted_copy(encoder, source, source_offset, target, target_offset, size=None):
        counts["bytesRead"] += size if target.usage & wgpu.BufferUsage.MAP_READ else 0
        return copy(encoder, source, source_offset, target, target_offset, size)

    for name, (owner, method) in COUNTED.items():
        setattr(owner, method, counted(name))
    _api.GPUCommandEncoder.copy_buffer_to_buffer = counted_copy
    try:
        yield counts
    finally:
        for name, (owner, method) in COUNTED.items():
            setattr(owner, method, originals[name])
        _api.GPUCommandEncoder.copy_buffer_to_buffer = copy


def broken_rules(counts, *, tokens, num_layers, steps_per_submit, long=False):
    """Which rules the counts of `tokens` decoded tokens break, by name."""
    submits = -(-tokens // steps_per_submit)
    dispatches = ((6 if long else 5) * num_layers + 5) * tokens
    most = {"beginComputePass": submits, "submit": submits, "dispatchWorkgroups": dispatches}
    most |= {"writeBuffer": 0, "bytesRead": 8 * tokens} | dict.fromkeys(MADE, 0)
    least = {"beginComputePass": 1, "submit": 1, "dispatchWorkgroups": num_layers * tokens}
    return {name for name, limit in most.items() if counts[name] > limit} | {
        name for name, limit in least.items() if counts[name] < limit
    }
