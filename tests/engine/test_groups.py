"""What fails in a task group of the engine comes out under its own name."""

import anyio
import pytest

from pipeline.engine.groups import first_failure

pytestmark = pytest.mark.anyio


async def test_failure_of_a_task_comes_out_alone() -> None:
    """A caller can catch what a task raised, without knowing of the group around it."""

    async def fail() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"), first_failure():
        async with anyio.create_task_group() as group:
            group.start_soon(fail)


async def test_what_is_no_group_passes() -> None:
    """An error that was raised beside the group is left as it is."""
    with pytest.raises(KeyError), first_failure():
        raise KeyError("beside")
