"""
What files in the output folder are called: in, a recording's path; out, names that fit and differ.

    2026/call.wav  ->  2026/call.wav.json         and, made from it, 2026/call.wav.srt
                       2026/.call.wav.json~overnight   while it is being written

Paths are bytes, as the file system spells them, with `/` between their parts.
"""

import unicodedata
from hashlib import sha256

__all__ = [
    "MAX_NAME_BYTES",
    "derived",
    "distinct",
    "fold",
    "is_temporary",
    "result_name",
    "temporary",
    "version",
]

MAX_NAME_BYTES = 255
"""Longest file name that Linux and macOS file systems take. Source: NAME_MAX of limits.h."""

_JSON = b".json"
_TEMPORARY = b"~overnight"


def result_name(path: bytes, prefix: bytes = b"") -> bytes:
    """Where the result of the recording at `path` goes, relative to the output folder."""
    folder, name = _split(prefix + path)
    if len(name) + len(_JSON) > MAX_NAME_BYTES:
        return distinct(prefix + path, path)
    return folder + name + _JSON


def distinct(path: bytes, identity: bytes) -> bytes:
    """
    The name of a result whose plain name is too long or taken.

    It carries the first eight hex digits of the sha256 of `identity`.
    """
    folder, name = _split(path)
    ending = b"~" + sha256(identity).hexdigest()[:8].encode() + _JSON
    return folder + _cut(name, MAX_NAME_BYTES - len(ending)) + ending


def fold(name: bytes) -> str:
    """
    Equal for names that a file system which ignores case or Unicode form takes for one.

    Source: https://www.unicode.org/versions/latest/core-spec/chapter-3/, D145, canonical caseless
    matching.
    """
    text = unicodedata.normalize("NFD", name.decode("utf-8", "backslashreplace"))
    return unicodedata.normalize("NFD", text.casefold())


def derived(result: bytes, suffix: str) -> bytes:
    """The file made from a JSON result, for example in `srt`."""
    folder, name = _split(result.removesuffix(_JSON))
    ending = b"." + suffix.encode()
    if len(name) + len(ending) > MAX_NAME_BYTES:
        ending = b"~" + sha256(name).hexdigest()[:8].encode() + ending
    return folder + _cut(name, MAX_NAME_BYTES - len(ending)) + ending


def temporary(name: bytes) -> bytes:
    """What a file is called, in the same folder, until it is whole."""
    folder, name = _split(name)
    if len(name) + 1 + len(_TEMPORARY) > MAX_NAME_BYTES:
        digits = sha256(name).hexdigest()[:8].encode()
        name = _cut(name, MAX_NAME_BYTES - 1 - len(_TEMPORARY) - len(digits)) + digits
    return folder + b"." + name + _TEMPORARY


def is_temporary(name: bytes) -> bool:
    """Whether a file name is one that `temporary` makes."""
    return name.startswith(b".") and name.endswith(_TEMPORARY)


def version(name: bytes, tag: str) -> bytes:
    """Where a file goes in `versions/` when a newer one takes its place, told apart by `tag`."""
    folder, name = _split(name)
    stem, dot, suffix = name.rpartition(b".")
    if not dot:
        stem, suffix = name, b""
    ending = b"~" + tag.encode() + dot + suffix
    return folder + _cut(stem, MAX_NAME_BYTES - len(ending)) + ending


def _split(path: bytes) -> tuple[bytes, bytes]:
    folder, slash, name = path.rpartition(b"/")
    return folder + slash, name


def _cut(name: bytes, length: int) -> bytes:
    """At most `length` bytes of a name, never half a character of UTF-8."""
    if len(name) <= length:
        return name
    while length and name[length] & 0xC0 == 0x80:  # the byte after the cut continues a character
        length -= 1
    return name[:length]
