"""What tests of a ledger begin with: an empty one, by a clock that they move."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.ledger import Ledger
from tests.ledger.ledgers import Clock, ledger_at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    async with ledger_at(tmp_path, clock=clock) as ledger:
        yield ledger
