"""
What else there is to transcribe a folder with, each as its users would write it.

    ASSEMBLYAI_API_KEY=bench-key python bench/peers.py aiohttp FOLDER OUTPUT --url http://127.0.0.1:40801

In: the recordings of FOLDER. Out: a JSON file for each result in OUTPUT. The vendor's client does
it in its three ways, `aiohttp` is a script of twenty lines without it. All of them are told the
account's concurrency and the interval to poll at. None of them is durable, or resumes.

Source: the package assemblyai, 1.8.2
"""

import argparse
import asyncio
import json
import os
import sys
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp
    import assemblyai as aai


def plain_aiohttp(given: argparse.Namespace) -> None:
    """Upload, submit, ask for each id every interval, write: as many at once as the account has."""
    import aiohttp

    slots = asyncio.Semaphore(given.concurrency)

    async def transcribe(http: "aiohttp.ClientSession", path: Path) -> None:
        async with slots:
            with path.open("rb") as file:
                async with http.post("/v2/upload", data=file) as answer:
                    upload = await answer.json()
            body = {"audio_url": upload["upload_url"], "language_detection": True}
            async with http.post("/v2/transcript", json=body) as answer:
                transcript = await answer.json()
            while transcript["status"] not in ("completed", "error"):
                await asyncio.sleep(given.poll_s)  # noqa: TID251  (no anyio in a script of 20 lines)
                async with http.get(f"/v2/transcript/{transcript['id']}") as answer:
                    transcript = await answer.json()
            (given.output / f"{path.name}.json").write_text(json.dumps(transcript))

    async def main() -> None:
        headers = {"Authorization": given.key}
        async with aiohttp.ClientSession(
            given.url,
            headers=headers,
            raise_for_status=True,
            connector=aiohttp.TCPConnector(limit=0),
        ) as http:
            results = await asyncio.gather(  # noqa: TID251  (what such scripts are made of)
                *(transcribe(http, path) for path in recordings(given.folder)),
                return_exceptions=True,
            )
        _tell(result for result in results if isinstance(result, Exception))

    asyncio.run(main())


def sdk_group(given: argparse.Namespace) -> None:
    """`Transcriber.transcribe_group`: eight threads submit all, then each is waited for."""
    vendor = _vendor(given)
    group = vendor.transcribe_group(_paths(given.folder), return_failures=True)
    assert isinstance(group, tuple)
    for transcript in group[0]:
        _save(given.output, transcript)
    _tell(group[1])


def sdk_pool(given: argparse.Namespace) -> None:
    """`Transcriber.transcribe_async`: the vendor's threads, one for each transcript at work."""
    vendor, errors = _vendor(given, max_workers=given.concurrency), []
    futures = [vendor.transcribe_async(path) for path in _paths(given.folder)]
    for future in as_completed(futures):
        if error := future.exception():
            errors.append(error)
        else:
            _save(given.output, future.result())
    _tell(errors)


def sdk_async(given: argparse.Namespace) -> None:
    """`AsyncTranscriber.transcribe_group`, as many at once as the account has."""
    import assemblyai as aai

    async def main() -> None:
        async with aai.AsyncClient(settings=_settings(given)) as client:
            group = await aai.AsyncTranscriber(client=client).transcribe_group(
                list(_paths(given.folder)),
                return_failures=True,
                max_concurrency=given.concurrency,
            )
        assert isinstance(group, tuple)
        for transcript in group[0]:
            _save(given.output, transcript)
        _tell(group[1])

    asyncio.run(main())


PEERS = {
    "aiohttp": plain_aiohttp,
    "sdk-group": sdk_group,
    "sdk-pool": sdk_pool,
    "sdk-async": sdk_async,
}


def recordings(folder: Path) -> list[Path]:
    """What there is to transcribe, in order."""
    return sorted(folder.rglob("*.wav"))


def _paths(folder: Path) -> list[Any]:
    return [str(path) for path in recordings(folder)]


def _settings(given: argparse.Namespace) -> "aai.Settings":
    import assemblyai as aai

    return aai.Settings(api_key=given.key, base_url=given.url, polling_interval=given.poll_s)


def _vendor(given: argparse.Namespace, **options: Any) -> "aai.Transcriber":
    import assemblyai as aai

    return aai.Transcriber(client=aai.Client(settings=_settings(given)), **options)


def _save(output: Path, transcript: Any) -> None:
    (output / f"{transcript.id}.json").write_text(json.dumps(transcript.json_response))


def _tell(errors: Any) -> None:
    """The first error and their number, on stderr; then the exit code is 3."""
    found = list(errors)
    if found:
        print(f"{len(found)} failed, the first with {found[0]!r}", file=sys.stderr)
        raise SystemExit(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--poll-s", type=float, default=0.5)
    given = parser.parse_args()
    given.key = os.environ["ASSEMBLYAI_API_KEY"]
    given.output.mkdir(parents=True)
    PEERS[given.peer](given)


if __name__ == "__main__":
    main()
