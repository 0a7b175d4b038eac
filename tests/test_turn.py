"""One call at a time, in the order they came: coroutines, blocked threads, and both."""

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest

from gpt2web.blocking import block_on
from gpt2web.turn import Turn


def is_free(turn):
    return not turn._taken


def taken_by(turn):
    """Takes a free turn and says so."""
    return block_on(turn.take(), "take")


def test_waiting_coroutines_get_their_turn_in_order():
    async def main():
        turn, order, inside = Turn(), [], 0

        async def call(name):
            nonlocal inside
            assert await turn.take()
            inside += 1
            assert inside == 1
            order.append(name)
            await asyncio.sleep(0.001)
            inside -= 1
            turn.give()

        await asyncio.gather(*(call(name) for name in range(8)))
        assert order == list(range(8))
        assert is_free(turn)

    asyncio.run(main())


def test_threads_and_loops_share_a_turn():
    turn, inside, most, done = Turn(), 0, 0, []

    def blocking(name):
        nonlocal inside, most
        block_on(turn.take(), "take")
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        inside -= 1
        done.append(name)
        turn.give()

    async def call(name):
        nonlocal inside, most
        await turn.take()
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.002)
        inside -= 1
        done.append(name)
        turn.give()

    async def several(name):
        await asyncio.gather(*(call(f"{name}/{i}") for i in range(5)))

    threads = [threading.Thread(target=blocking, args=(name,)) for name in range(5)]
    threads += [threading.Thread(target=lambda n=n: asyncio.run(several(n))) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 1 and len(done) == 15
    assert is_free(turn)


def test_blocking_on_a_turn_of_this_very_thread_is_refused():
    async def main():
        turn = Turn()
        await turn.take()
        with pytest.raises(RuntimeError, match=r"still open in this thread.*aclose\(\).*_async"):
            block_on(turn.take(), "take")
        turn.give()
        assert taken_by(turn)  # the refusal left nothing behind

    asyncio.run(main())


def test_blocking_behind_a_waiting_coroutine_of_this_very_thread_is_refused():
    """The holder, another thread, would hand the turn to a coroutine that could not run."""
    turn, holds, let_go = Turn(), threading.Event(), threading.Event()

    def hold():
        taken_by(turn)
        holds.set()
        let_go.wait(10)
        turn.give()

    async def main():
        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait(10)
        waiting = asyncio.create_task(turn.take())
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="still open in this thread"):
            block_on(turn.take(), "take")
        let_go.set()
        assert await waiting
        thread.join(10)
        turn.give()

    asyncio.run(main())
    assert is_free(turn)


def test_a_cancelled_wait_does_not_lose_the_turn():
    async def main():
        turn = Turn()
        await turn.take()
        first, second = (asyncio.create_task(turn.take()) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        turn.give()
        assert await asyncio.wait_for(second, 5)
        with pytest.raises(asyncio.CancelledError):
            await first
        turn.give()
        assert is_free(turn)

    asyncio.run(main())


def test_a_wait_cancelled_just_as_its_turn_came_passes_it_on():
    async def main():
        turn = Turn()
        await turn.take()
        first, second = (asyncio.create_task(turn.take()) for _ in range(2))
        await asyncio.sleep(0.001)
        turn.give()  # to the first
        first.cancel()  # which has not run since
        assert await asyncio.wait_for(second, 5)
        with pytest.raises(asyncio.CancelledError):
            await first
        turn.give()
        assert is_free(turn)

    asyncio.run(main())


def test_who_leaves_waits_no_longer_and_others_do():
    async def main():
        turn, leaver, other = Turn(), object(), object()
        assert await turn.take(other)
        left, stays = (asyncio.create_task(turn.take(who)) for who in (leaver, other))
        await asyncio.sleep(0.001)
        turn.leave(leaver)
        assert await asyncio.wait_for(left, 5) is False
        turn.leave(leaver)  # nobody waits: nothing happens
        assert not stays.done()
        turn.give()
        assert await asyncio.wait_for(stays, 5) is True
        turn.give()
        assert is_free(turn)

    asyncio.run(main())


def test_a_turn_given_back_within_take_is_not_missed(monkeypatch):
    """As by a finalizer, when the collector runs between take's look and its wait."""
    turn = Turn()

    def given_back_meanwhile():
        turn.give()
        return Future()

    async def main():
        assert await turn.take()
        monkeypatch.setattr("gpt2web.turn.Future", given_back_meanwhile)
        assert await asyncio.wait_for(turn.take(), 5)
        assert not is_free(turn)

    asyncio.run(main())


def test_a_turn_is_given_back_from_a_finalizer_inside_take():
    class Holder:
        def __init__(self, turn):
            self.turn = turn

        def __del__(self):
            self.turn.give()

    turn = Turn()
    assert taken_by(turn)
    holder = Holder(turn)
    with turn._lock:  # as when the collector runs within take
        del holder
    assert is_free(turn)
