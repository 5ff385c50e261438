"""What every test gets: asyncio as the loop, and a failure for any call that blocks it."""

import gc
import os
from collections.abc import Iterator

import hypothesis
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Whom this machine trusts is not asked by any test, and each run of the program would read it all.
for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
    os.environ.pop(variable, None)

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
