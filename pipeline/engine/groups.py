"""Task groups whose failures come out alone.

In: the exception group of a task group. Out: the first failure in it, so that callers
can name what they catch. The others are of the same cause or came after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["first_failure"]


@contextmanager
def first_failure() -> Iterator[None]:
    """
    Put around `async with create_task_group()`: its first failure is raised as it is.

    Raises:
        BaseException: Whatever the first task that failed raised.
    """
    try:
        yield
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
