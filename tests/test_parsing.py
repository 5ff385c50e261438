"""The JSON of others: whole or not, odd or not, one field at a time."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parsing import UNREADABLE, decoded, sound


class Named(msgspec.Struct):
    name: str
    size: int | None = None
    note: str = ""
    rest: msgspec.Raw = msgspec.Raw(b"null")


def test_what_is_as_it_should_be_is_decoded_at_once() -> None:
    """Nothing is odd about a sound object, whatever else it holds."""
    found, odd = decoded(b'{"name":"a","size":2,"x":[1],"rest":{"y":1}}', Named)

    assert (found.name, found.size, bytes(found.rest), odd) == ("a", 2, b'{"y":1}', [])


@pytest.mark.parametrize(
    ("body", "odd"),
    [
        (b'{"name":"a","size":"2"}', ["`size` cannot be read"]),
        (b'{"name":"a","size":%s}' % (b"9" * 5000), ["`size` cannot be read"]),
        (
            b'{"size":[],"name":"a","note":"\xff"}',
            ["`size` cannot be read", "`note` cannot be read"],
        ),
        (b'{"name":5,"name":"a","note":null}', ["`note` cannot be read"]),
        (b'\xef\xbb\xbf {"name":"a"}\n\0', ["it is no strict JSON"]),
        (b'{"name":"a","size":NaN}', ["it is no strict JSON"]),
        (b'{"name":"a","x":"\\udc00"}', ["it is no strict JSON"]),
    ],
)
def test_a_field_that_is_no_use_spoils_no_other(body: bytes, odd: list[str]) -> None:
    """What cannot be read has its default, and it is said what that is."""
    found, said = decoded(memoryview(body), Named)

    assert (found.name, found.size, found.note, said) == ("a", None, "", odd)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"5", b"null", b"{}", b'{"name":5}', b'{"name":"a"', b'{"name":"a"}{}'),
        *(b'{"name":"\\ud800"}', b'{"name":"\xff"}', b'{"name":"a\x00"}', b"[" * 200_000),
    ],
)
def test_what_is_no_such_object_is_refused(body: bytes) -> None:
    """What is not whole, is none, or lacks what it cannot do without is an error."""
    with pytest.raises(UNREADABLE):
        decoded(body, Named)


@pytest.mark.parametrize("body", [b'{"name":5,"rest":{}}', b'{"rest":[1],"name":"\xff"}'])
def test_nothing_holds_what_was_refused(body: bytes) -> None:
    """A memory map can be closed while the error is still on its way."""
    with memoryview(body) as view, pytest.raises(UNREADABLE):
        decoded(view, Named)


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda said: "\ufffd" not in said))
def test_sound_text_stays_as_it_is(said: str) -> None:
    """Whole characters, and backslashes before what looks like half of one, are left alone."""
    for escapes in (True, False):
        body = json.dumps({"said": said}, ensure_ascii=escapes).encode()

        assert json.loads(sound(b"\xef\xbb\xbf" + body))["said"] == said
