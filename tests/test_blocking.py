"""Coroutines run to their end without an event loop, and refusals where only one can."""

import asyncio

import numpy as np
import pytest

from adapters import upload
from gpt2web import blocking
from gpt2web.blocking import block_on, is_blocking


@pytest.mark.gpu
def test_block_on_works_inside_a_running_loop(device):
    tensor = upload(device, np.uint32([1, 2, 3, 4]))

    async def cell():  # of a notebook, say
        blocked = tensor.numpy().tolist()
        awaited = (await tensor.read()).tolist()
        return blocked, awaited, is_blocking()

    assert asyncio.run(cell()) == ([1, 2, 3, 4], [1, 2, 3, 4], False)


def test_block_on_refuses_what_only_a_loop_can_do():
    async def pause():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match=r"use `await tensor.pause\(...\)`"):
        block_on(pause(), "tensor.pause")
    assert not is_blocking()


def test_block_on_passes_on_what_is_raised():
    async def fail():
        assert is_blocking()
        raise KeyError("x")

    with pytest.raises(KeyError):
        block_on(fail(), "fail")
    assert not is_blocking()


def test_block_on_names_the_twin_in_a_page(monkeypatch):
    ran = []

    async def read():
        ran.append(True)

    block_on(read(), "tensor.read")
    monkeypatch.setattr(blocking.sys, "platform", "emscripten")
    with pytest.raises(RuntimeError, match=r"cannot block: use `await tensor.read\(...\)`"):
        block_on(read(), "tensor.read")
    assert ran == [True]
