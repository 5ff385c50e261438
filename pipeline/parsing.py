"""
The JSON of others: in, bytes as they came; out, what of them is of use, and what is odd about them.

Nothing here decides what an answer means. What is well formed is decoded at once; only what is not
is read a second time, field by field, so that a field that is no use spoils no other. Pure: no I/O.
"""

import re
from functools import cache
from typing import Any, TypeVar

import msgspec

__all__ = ["UNREADABLE", "decoded", "sound"]

S = TypeVar("S", bound=msgspec.Struct)

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a body that is not the JSON that it should be raises, whatever is wrong with it."""

_NOT_STRICT = "it is no strict JSON"
_BLANKS = bytes(range(33))
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HALVES = re.compile(  # begins with what it can be looked for by: a body may have megabytes
    rb"\\(?:(\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""A backslash that stands for itself, two halves that are a character, or one that is none."""
_NO_NUMBER = re.compile(rb"-?(?:NaN|Infinity)(?=[\s,\]}])")
_STAND_IN = rb"\ufffd"
_ABSENT = msgspec.Raw(b"")


class _Nothing(msgspec.Struct):
    """An object that is only read through."""


def decoded(body: bytes | memoryview | msgspec.Raw, kind: type[S]) -> tuple[S, list[str]]:
    """
    An object as `kind`, and what is odd about it, a sentence each.

    A field that cannot be what it should be has its default; one that has none is taken as it came
    or not at all. Nothing of the body is held, unless
    `kind` asks for it with a field that is `msgspec.Raw`.

    Raises:
        One of `UNREADABLE`: it is no whole JSON, no object, or lacks a field without a default.
    """
    try:
        return msgspec.json.decode(body, type=kind), []
    except (msgspec.DecodeError, UnicodeDecodeError):
        found, odd = _by_field(body, kind)
    lacking = [each.name for each in _fields(kind) if each.required and each.name not in found]
    if lacking:
        found.clear()  # lets go of the body, which may be a map that is about to close
        raise msgspec.ValidationError(f"no `{lacking[0]}` that can be read")
    return kind(**found), odd


def sound(body: bytes | memoryview) -> bytes:
    """
    The same JSON as strict readers take it: without what many programs write and it does not know.

    That is a byte order mark, blanks of other kinds, halves of UTF-16 characters, and NaN.
    """
    text = bytes(body).strip(_BLANKS).removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)
    text = _HALVES.sub(lambda found: found[0] if found[1] else _STAND_IN, text)
    try:
        msgspec.json.decode(text, type=_Nothing)
    except msgspec.DecodeError:  # else it may be what was said
        return _NO_NUMBER.sub(b"null", text)
    return text


def _by_field(
    body: bytes | memoryview | msgspec.Raw, kind: type[msgspec.Struct]
) -> tuple[dict[str, Any], list[str]]:
    """The fields that can be read, and what is odd."""
    found, odd = dict[str, Any](), list[str]()
    try:
        parts = msgspec.json.decode(body, type=_unread(kind))
    except (msgspec.DecodeError, UnicodeDecodeError):
        parts = msgspec.json.decode(sound(memoryview(body)), type=_unread(kind))
        odd.append(_NOT_STRICT)
    for field in _fields(kind):
        part: msgspec.Raw = getattr(parts, field.name)
        if not memoryview(part) or (_is_name(field) and _STAND_IN in bytes(part)):
            continue
        try:
            found[field.name] = msgspec.json.decode(part, type=field.type)
        except UNREADABLE:
            odd.append(f"`{field.name}` cannot be read")
    return found, odd


def _is_name(field: msgspec.structs.FieldInfo) -> bool:
    """Whether it is a text that stands for something, where another character is another thing."""
    return field.required and field.type is str


_fields = cache(msgspec.structs.fields)


@cache
def _unread(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same fields, as they stand."""
    return msgspec.defstruct(
        "Unread", [(field.name, msgspec.Raw, _ABSENT) for field in _fields(kind)]
    )
