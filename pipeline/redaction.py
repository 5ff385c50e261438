"""
The redacted audio of a result: in, where a result lies; out, audio that goes where its JSON goes.

    call.wav.json          call.wav.redacted.mp3            what is current
    call.wav~3f2a.json     call.wav~3f2a.redacted.mp3       in `versions/`: what was

It tells what another transcript's audio may still tell: beside the wrong JSON it would be heard for
what that one says. So it leaves its place before the JSON does, and comes back before it.
"""

from collections.abc import Callable

from pipeline.files import copy_whole, keep_standing, put_in_place, remove, sha256_of
from pipeline.names import derived, temporary
from pipeline.spool import standing_head

__all__ = ["bring_audio_back", "put_audio", "put_audio_aside"]

KeptAs = Callable[[str], bytes]
"""Where a file is kept when it is replaced, by its sha256."""

_SUFFIXES = ("redacted.mp3", "redacted.wav")
"""
What audio may be called. That it is there tells, since an answer need not say of itself that it
has some: it was asked for.

Source: openapi.yml, TranscriptOptionalParams, `redact_pii_audio_quality`.
"""


async def put_audio_aside(result: bytes, kept_as: KeptAs, digest: str) -> None:
    """
    Keep the audio of what stands at the place of a result with that one, among the versions.

    It leaves its place, unless what is to be put there, which has the sha256 `digest`, is the same.

    Raises:
        OSError: it cannot be kept.
    """
    standing = await sha256_of(result)
    if standing in (None, digest):
        return
    if await standing_head(result) is None:
        return
    # Its JSON first: audio alone among the versions is nobody's, should this be all that is done.
    await keep_standing(result, digest, kept_as)
    version = kept_as(str(standing))
    for suffix in _SUFFIXES:
        await _move(derived(result, suffix), derived(version, suffix))


async def _move(audio: bytes, kept: bytes) -> None:
    if await keep_standing(audio, "", lambda _: kept):
        await remove(audio)


async def bring_audio_back(version: bytes, result: bytes) -> None:
    """
    Put a copy of a version's audio where its JSON goes, if it has any.

    Raises:
        OSError: there is no room for it.
    """
    if await standing_head(version) is None:
        return
    for suffix in _SUFFIXES:
        await put_audio(derived(version, suffix), derived(result, suffix))


async def put_audio(source: bytes, place: bytes, kept_as: KeptAs | None = None) -> None:
    """
    Put a copy of audio at a place, if there is any; with `kept_as` what stands there is kept.

    Raises:
        OSError: there is no room for it, or something is in the way.
    """
    fresh = temporary(place)
    try:
        digest, _ = await copy_whole(source, fresh)
    except FileNotFoundError:
        await remove(fresh)
        return
    if kept_as is not None:
        await keep_standing(place, digest, kept_as)
    await put_in_place(fresh, place)
