"""Calls beside the event loop: finished once begun, few wake-ups, threads that end."""

import gc
import threading

import anyio
import pytest
from anyio import to_thread

from pipeline.threads import Threads

pytestmark = pytest.mark.anyio


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_each_call_comes_to_its_own_end() -> None:
    """Of many calls under way each has its own result or error."""
    threads, told = Threads(3, "test-calls"), dict[int, int]()

    async def divide(number: int) -> None:
        try:
            told[number] = await threads.run(lambda: 6 // number)
        except ZeroDivisionError:
            told[number] = -1

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(divide, number)

    assert told == {0: -1} | {number: 6 // number for number in range(1, 200)}


async def test_no_more_threads_than_allowed_are_started() -> None:
    """However many calls wait, at most so many are made at once; one at a time needs one thread."""
    threads, open_ = Threads(3, "few"), threading.Event()
    for _ in range(5):
        await threads.run(lambda: None)
    assert len(named("few")) == 1

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(threads.run, open_.wait)
        await anyio.wait_all_tasks_blocked()
        assert len(named("few")) == 3
        open_.set()


async def test_a_call_that_has_begun_is_finished_also_when_cancelled() -> None:
    """The scope is left only when the thread is done, and then what was cancelled stays so."""
    threads, begun, open_ = Threads(1, "test-calls"), threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> None:
        begun.set()
        open_.wait()
        finished.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, work)
        await to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
        open_.set()

    assert finished == [True]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_who_waits_for_a_thread_that_never_returns_can_be_let_go(is_cancelled: bool) -> None:
    """Who waits for what is abandoned is cancelled, or has an error where that is all there is."""
    threads, begun, open_ = Threads(2, "test-calls"), threading.Event(), threading.Event()
    ends: list[str] = []

    def hang() -> None:
        begun.set()
        open_.wait()

    async def wait() -> None:
        try:
            await threads.run(hang)
        except OSError as error:
            ends.append(str(error.strerror))
        finally:
            ends.append("left")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await to_thread.run_sync(begun.wait)
        if is_cancelled:
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
        assert ends == []
        threads.abandon()

    assert ends == ["left"] if is_cancelled else ["it does not come to an end", "left"]
    open_.set()


def test_a_call_that_outlives_its_loop_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was abandoned may still come to an end, long after the loop that had asked for it."""
    threads, begun, open_ = Threads(1, "outlives"), threading.Event(), threading.Event()
    faults: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)

    def hang() -> None:
        begun.set()
        open_.wait()

    async def leave(threads: Threads) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, hang)
            await to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()
            threads.abandon()

    anyio.run(leave, threads)
    (thread,) = named("outlives")
    open_.set()
    del threads
    gc.collect()  # what was cancelled holds on to them, in a circle
    thread.join()

    assert faults == []


async def test_what_is_cancelled_before_begins_nothing() -> None:
    """In a scope that is cancelled no call is handed over."""
    threads, made = Threads(1, "test-calls"), list[bool]()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.run(lambda: made.append(True))

    assert scope.cancelled_caught
    assert made == []


async def test_threads_end_with_their_owner() -> None:
    """Once nobody holds them any more the threads end by themselves."""
    threads = Threads(2, "short-lived")
    await threads.run(lambda: None)
    started = named("short-lived")

    del threads
    for thread in started:
        await to_thread.run_sync(thread.join)

    assert started
    assert named("short-lived") == []
