"""
`overnight engine`: in, an address and a folder; out, the embedded engine, until a signal ends it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from jobs.console import aside, logs, tell, terminal
from jobs.leaving import run_stoppable, signals_heeded
from pipeline.errors import ExitCode, SettingsError, leaves

__all__ = ["engine"]


def engine(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 8765,
    state: Path | None = None,
    api_key_file: Path | None = None,
    engine_model: str | None = None,
    config: Path | None = None,
) -> int:
    """
    Serve the embedded engine, for the vendor's SDKs and other clients of the API.

    Parameters
    ----------
    host
        Address to listen at.
    port
        Port to listen at; 0 takes a free one.
    state
        Folder of uploads, transcripts and key.
    api_key_file
        File that holds the key that clients have to send, before ASSEMBLYAI_API_KEY.
    engine_model
        Speech model: a name, or a folder.
    config
        Settings file, instead of ./overnight.toml.
    """
    from functools import partial

    from pipeline.engine import EngineUnavailable
    from pipeline.settings import load_settings, read_api_key

    settings = load_settings(
        {"api_key_file": api_key_file, "engine_model": engine_model}, config=config
    )
    folder = state or _engine_state(os.environ)
    key = read_api_key(settings, os.environ)
    try:
        with aside(), logs(settings, terminal()[0]):
            run_stoppable(partial(_serve, folder, host, port, key, settings.engine_model))
    except* EngineUnavailable as group:
        raise SettingsError(*map(str, leaves(group))) from group
    return ExitCode.DONE


async def _serve(folder: Path, host: str, port: int, key: str | None, model: str) -> None:
    """Serve until a signal says so; what is unfinished then stays queued for the next start."""
    from anyio import open_signal_receiver, to_thread

    from pipeline.engine import serve, stored_key

    shown = "the one you gave"
    if key is None:
        is_new = not (folder / "key").exists()
        try:
            key = await to_thread.run_sync(stored_key, folder)
        except OSError as error:
            raise SettingsError(f"{folder} cannot hold the key: {error.strerror}") from error
        shown = key if is_new else f"in {folder / 'key'}"
    with open_signal_receiver(*signals_heeded()) as signals:
        async with serve(folder, host=host, port=port, keys=[key], model=model) as running:
            tell(f"{running.model} at {running.url}, state in {folder}")
            tell(f"key: {shown}")
            tell(f"SDK: assemblyai.settings.base_url = {running.url!r}, .api_key = the key")
            tell(f"CLI: overnight run FOLDER -o OUTPUT --provider {running.url}")
            if host not in ("127.0.0.1", "::1", "localhost"):
                tell(
                    f"warning: {host} is not only this machine, and what is sent there, the key "
                    "included, is not encrypted"
                )
            async for _ in signals:
                return


def _engine_state(environ: Mapping[str, str]) -> Path:
    """Where the engine keeps what it has. Source: XDG Base Directory Specification."""
    from pipeline.settings import home_of

    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else home_of(environ) / ".local" / "state") / "overnight" / "engine"
