"""Whoever works for one account in this process does it within one budget."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from jobs.account import account
from jobs.budget import Budgets
from jobs.session import session
from pipeline.client import Client
from pipeline.settings import Settings
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio

ADDRESS, ELSEWHERE = "http://one.invalid", "http://two.invalid"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


async def ask(client: Client, times: int) -> None:
    """One request after the other."""
    for _ in range(times):
        await client.list()


async def test_clients_of_one_account_share_its_budget() -> None:
    """It is the address and the key that make an account; another has a budget of its own."""
    budgets, settings = Budgets(), Settings()
    one = budgets.client(settings, ADDRESS, "key")
    same = budgets.client(settings, ADDRESS, "key")
    another_key = budgets.client(settings, ADDRESS, "other")
    another_address = budgets.client(settings, ELSEWHERE, "key")

    limiters = [each.limiter for each in (one, same, another_key, another_address)]

    assert limiters[0] is limiters[1]
    assert len({id(limiter) for limiter in limiters}) == 3


async def test_jobs_side_by_side_stay_within_one_budget(archive: Archive) -> None:
    """Two sessions and a look at the account come to no more in a window than one may send."""
    budgets = Budgets()
    settings = archive.settings(requests="40/2s", share=1.0)
    beside = archive.settings(requests="40/2s", share=1.0, output=archive.root / "beside")

    async with (
        session(settings, budgets=budgets, emit=lambda _: None) as first,
        session(beside, budgets=budgets, emit=lambda _: None) as second,
        account(settings, budgets=budgets) as third,
        anyio.create_task_group() as group,
    ):
        for client in (first.context.client, second.context.client, third):
            for _ in range(5):
                group.start_soon(ask, client, 5)

    # Half a window, since a request may take its time to get there.
    assert (len(archive.service.log), archive.service.peak_requests(1.0)) == (75, 40)


async def test_the_next_session_knows_what_the_last_one_sent(archive: Archive) -> None:
    """The window goes on over runs: who has sent its share has nothing left in the next one."""
    settings = archive.settings(requests="10/60s", share=1.0)
    async with session(settings, emit=lambda _: None) as first:
        await ask(first.context.client, 10)

    async with session(settings, emit=lambda _: None) as second:
        with anyio.move_on_after(0.5) as scope:
            await ask(second.context.client, 1)

    assert scope.cancelled_caught
    assert len(archive.service.log) == 10
