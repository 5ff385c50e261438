"""What every test gets: asyncio as the loop, and a failure for any call that blocks it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Each start of the program reads whom this machine trusts, some 140 of them, whom no test asks: an
# authority of nobody's takes no time. `tests.support.runs` hands it on to commands.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support" / "authority.pem")
os.environ.pop("SSL_CERT_DIR", None)

# Thousands of tests and all they import are no garbage: they are looked through seldom, then never.
gc.set_threshold(20_000)


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of tests that have one")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread what may take long over the workers, each of which begins with it: none ends late."""
    long = [item for item in items if item.get_closest_marker("timeout")]
    short = [item for item in items if not item.get_closest_marker("timeout")]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = -(-len(short) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in long[worker::workers] + short[worker * share : (worker + 1) * share]
    ]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call on the event loop, made from our packages, fails the test that made it."""
    with blockbuster_ctx(["pipeline", "jobs"]) as guard:
        yield guard
