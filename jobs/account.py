"""
The account at the service: in, settings or a client; out, its whole list, newest first.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from anyio import to_thread

from jobs.budget import Budgets
from pipeline.client import Client
from pipeline.errors import AnswerUnusable, RecordingError, ServiceUnusable, SettingsError
from pipeline.retry import retry
from pipeline.settings import Settings, require_key
from pipeline.wire import Row, last_id

__all__ = ["account", "whole_list"]


@asynccontextmanager
async def account(
    settings: Settings,
    environ: Mapping[str, str] = os.environ,
    *,
    budgets: Budgets | None = None,
) -> AsyncIterator[Client]:
    """
    The account of these settings, to be read beside a run; `budgets` are those of this process.

    Raises:
        SettingsError: the provider is the embedded engine, whose transcripts cost nothing.
        KeyRefused: there is no API key.
    """
    if settings.base_url is None:
        raise SettingsError("`--remote` asks a service: the embedded engine has no account")
    key = await to_thread.run_sync(require_key, settings, environ)
    async with (budgets or Budgets()).client(settings, settings.base_url, key) as client:
        yield client


async def whole_list(client: Client) -> AsyncIterator[list[Row]]:
    """
    Every page of the list, down to its end; rows that cannot be read are as they are there.

    Raises:
        ServiceUnusable: a page could not be read, or is one of those before it again.
        BatchError: as `Client.list` does.
    """
    before_id, cursors = None, set[str]()
    try:
        while rows := await retry(partial(client.list, before_id=before_id)):
            before_id = last_id(rows)
            if before_id is None or before_id in cursors:
                raise AnswerUnusable("it does not go on")
            cursors.add(before_id)
            yield rows
    except RecordingError as error:
        raise ServiceUnusable(f"the account's list cannot be read: {error}") from error
