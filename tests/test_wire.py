"""What the service's answers mean, on bytes alone."""

import json
import math
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import wire
from pipeline.errors import (
    AnswerUnusable,
    AttemptsExhausted,
    BalanceNegative,
    ConnectionLost,
    Intercepted,
    KeyRefused,
    NotTheService,
    OptionsRefused,
    PipelineError,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    TranscriptUnknown,
    TransientError,
    UploadInaccessible,
    trouble,
)
from pipeline.wire import Accepted, Ambiguous, Head, NotAccepted, Row, Webhook

UPLOAD_URL = "https://cdn.assemblyai.com/upload/aa11"
ACCEPTED: dict[str, Any] = {"id": "6f0b-2c1e_5d1a", "status": "queued", "audio_url": UPLOAD_URL}
COMPLETED: dict[str, Any] = ACCEPTED | {"status": "completed", "text": "Hello.", "words": []}

CERTAIN = [400, 401, 402, 403, 404, 405, 413, 415, 422, 429]
UNCERTAIN = [*range(300, 400), *(s for s in range(400, 600) if s not in CERTAIN)]

NOT_THE_JSON = {
    "nothing": b"",
    "HTML": b"<html><body>It works!</body></html>",
    "half": json.dumps(COMPLETED).encode()[:-20],
    "two documents": json.dumps(COMPLETED).encode() * 2,
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "not UTF-8": b'{"id": "\xff", "upload_url": "\xff", "transcripts": [{"id": "\xff"}]}',
    "half a surrogate": rb'{"id": "\ud800", "upload_url": "\ud800", "transcripts": "\ud800"}',
    "far too deep": b"[" * 200_000,
    "deep inside": b'{"id": "a", "x": ' + b'{"a":' * 200_000,
    "UTF-16": json.dumps(COMPLETED).encode("utf-16"),
}

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
known_keys = st.sampled_from(
    [
        "id",
        "status",
        "audio_url",
        "error",
        "text",
        "transcripts",
        "upload_url",
        "redacted_audio_url",
    ]
)
bodies = st.binary() | st.dictionaries(known_keys, any_json).map(json.dumps).map(str.encode)


# --- what became of a submit ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_whole_2xx_with_an_id_is_accepted(status: int) -> None:
    """Any 2xx counts that is whole and has an id; older services answered 201."""
    answer = wire.submission(status, {}, json.dumps(ACCEPTED).encode(), UPLOAD_URL)

    assert answer == Accepted("6f0b-2c1e_5d1a")


@pytest.mark.parametrize(
    "patch",
    [
        {"status": "completed"},
        {"status": "never heard of"},
        {"audio_url": None},
        {"words": [], "x_new": {"deep": [1, 2.5, None]}, "webhook_auth": False},
        {"status": 7, "text": 7},
    ],
    ids=str,
)
def test_what_else_is_in_it_does_no_harm(patch: dict[str, Any]) -> None:
    """Statuses and fields that nobody knows do not put an acceptance in doubt."""
    answer = wire.submission(200, {}, json.dumps(ACCEPTED | patch).encode(), UPLOAD_URL)

    assert answer == Accepted("6f0b-2c1e_5d1a")


@pytest.mark.parametrize("audio_url", [None, 5, [UPLOAD_URL], {"x": 1}, True])
def test_an_acceptance_need_not_echo(audio_url: Any) -> None:
    """An answer with an id is an acceptance, whatever stands where the `audio_url` should."""
    body = json.dumps({"id": "a", "audio_url": audio_url}).encode()

    assert wire.submission(200, {}, b'{"id": "a"}', UPLOAD_URL) == Accepted("a")
    assert wire.submission(200, {}, body, UPLOAD_URL) == Accepted("a")


@pytest.mark.parametrize("echo", ["https://cdn.assemblyai.com/upload/other", "", "\0", "x" * 9000])
def test_another_address_is_told_with_the_id(echo: str) -> None:
    """What a 2xx calls the upload is passed on: only who knows all uploads can judge it."""
    body = json.dumps(ACCEPTED | {"audio_url": echo}).encode()

    assert wire.submission(200, {}, body, UPLOAD_URL) == Accepted(ACCEPTED["id"], echo)


@pytest.mark.parametrize(
    "patch",
    [
        {"id": None},
        {"id": 5},
        {"id": ""},
        {"id": "a/../b"},
        {"id": "."},
        {"id": "a b"},
        {"id": "a\n"},
        {"id": "ä"},
        {"id": "a" * 65},
    ],
    ids=str,
)
def test_a_2xx_without_an_id_that_can_be_one_is_ambiguous(patch: dict[str, Any]) -> None:
    """An id that cannot be one leaves it open what was made."""
    answer = wire.submission(200, {}, json.dumps(ACCEPTED | patch).encode(), UPLOAD_URL)

    assert isinstance(answer, Ambiguous)


def test_a_2xx_without_id_is_ambiguous() -> None:
    """Without an id there is nothing to fetch, and yet it may have been accepted."""
    answer = wire.submission(200, {}, json.dumps({"status": "queued"}).encode(), UPLOAD_URL)

    assert isinstance(answer, Ambiguous)


@pytest.mark.parametrize("body", NOT_THE_JSON.values(), ids=NOT_THE_JSON)
def test_a_2xx_that_cannot_be_read_is_ambiguous(body: bytes) -> None:
    """A 2xx whose body is cut, garbled or of another kind leaves doubt, and raises nothing."""
    assert isinstance(wire.submission(200, {}, body, UPLOAD_URL), Ambiguous)


@pytest.mark.parametrize("body", [b'{"error": "no"}', b"", b"<html>", b"\xff", b"[" * 200_000])
@pytest.mark.parametrize("status", CERTAIN)
def test_the_closed_list_of_certain_refusals(status: int, body: bytes) -> None:
    """These statuses of a whole answer say that nothing was made, whatever the body is."""
    answer = wire.submission(status, {}, body, UPLOAD_URL)

    assert isinstance(answer, NotAccepted)


@pytest.mark.parametrize("status", UNCERTAIN)
def test_every_other_status_is_ambiguous(status: int) -> None:
    """Redirects, 408, 409, 425, 5xx and all the rest leave doubt, even with an id in the body."""
    answer = wire.submission(status, {}, json.dumps(ACCEPTED).encode(), UPLOAD_URL)

    assert isinstance(answer, Ambiguous)
    assert str(status) in answer.reason


@given(st.integers(100, 599), bodies)
def test_a_submission_always_has_an_outcome(status: int, body: bytes) -> None:
    """Whatever is answered is one of three outcomes; it is accepted only for a 2xx with an id."""
    answer = wire.submission(status, {}, body, UPLOAD_URL)

    assert isinstance(answer, NotAccepted) == (status in CERTAIN)
    if isinstance(answer, Accepted):
        assert 200 <= status < 300
        assert answer.transcript_id == json.loads(body)["id"]


def test_the_body_of_a_submit() -> None:
    """The request holds the `audio_url` and the options, and nothing else."""
    body = wire.submit_body(UPLOAD_URL, {"speech_models": ["universal-2"], "punctuate": False})

    assert json.loads(body) == {
        "audio_url": UPLOAD_URL,
        "speech_models": ["universal-2"],
        "punctuate": False,
    }


# --- errors by what to do about them --------------------------------------------------------------


@pytest.mark.parametrize("call", ["upload", "submit", "get", "list", "delete"])
@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, "format_text must be a Boolean", RequestRejected),
        (400, "Transcript creation error, audio_url not found", RequestRejected),
        (400, "Your current account balance is negative. Please top up.", BalanceNegative),
        (402, "Payment required", BalanceNegative),
        (400, "Transcript lookup error, transcript id not found", TranscriptUnknown),
        (404, "Transcript lookup error, transcript id not found", TranscriptUnknown),
        (401, "Authentication error, API token missing/invalid", KeyRefused),
        (403, "Cannot access uploaded file", UploadInaccessible),
        (403, "Forbidden", RequestRejected),
        (404, "Not found", RequestRejected),
        (405, "Method not allowed", RequestRejected),
        (413, "Request body is too large", RequestRejected),
        (415, "Unsupported media type", RequestRejected),
        (429, "Too Many Requests", RateLimited),
        (302, "Moved", ServiceUnavailable),
        (408, "Request timeout", ServiceUnavailable),
        (409, "Conflict", ServiceUnavailable),
        (425, "Too early", ServiceUnavailable),
        (500, "Internal Server Error", ServiceUnavailable),
        (503, "Service unavailable", ServiceUnavailable),
        (504, "Gateway timeout", ServiceUnavailable),
        (599, "Whatever", ServiceUnavailable),
    ],
)
def test_an_error_is_told_by_what_to_do(
    call: str, status: int, said: str, expected: type[PipelineError]
) -> None:
    """Each status and sentence becomes one error, the same whether its body is JSON or text."""
    for body in (json.dumps({"error": said, "status": "error"}).encode(), said.encode()):
        error = wire.error_from(call, status, {}, body)

        assert type(error) is expected
        assert said in str(error)


PAGES = [
    ({}, b"<!DOCTYPE html><title>Blocked</title>"),
    ({}, b"\xef\xbb\xbf \n<html>"),
    ({"Content-Type": "text/html; charset=utf-8"}, b"Blocked by your administrator"),
    ({"Content-Type": "Application/XHTML+xml"}, b""),
]


@pytest.mark.parametrize(("headers", "body"), PAGES)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 407, 413, 415, 451])
@pytest.mark.parametrize("call", ["upload", "submit", "get", "list", "delete"])
def test_a_page_is_nothing_that_the_service_said(
    call: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    """What is for people comes from a filter or a proxy: of no key, balance or recording."""
    expected = Intercepted if call in ("upload", "submit") else NotTheService

    assert type(wire.error_from(call, status, headers, body)) is expected


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title>", "Welcome to nginx!"),
        ("<html><!-- a\nlong comment --><h1>It works!</h1>more", "It works!"),
        (
            "<script>var a = 1 < 2;</script><style>p {}</style><p>Blocked &amp; told</p>",
            "Blocked & told",
        ),
        ('<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "AccessDenied"),
        ("\ufeff <html><title>\n  Sign in  \n</title>", "Sign in"),
        ("<html><title>\x1b[31mred&#27;[0m</title>", "\ufffd[31mred[0m"),
        ("<p>" + "long " * 5000, "long " * 16),
        ("<p" + " " * 10_000 + ">beyond", "<p"),
        ("<html></html>", "nothing"),
    ],
)
def test_a_page_is_told_by_its_first_words(page: str, words: str) -> None:
    """Of a page there is one line for people, whatever it is made of and however long it is."""
    told = {
        str(wire.error_from(call, 404, {}, page.encode())) for call in ("list", "upload", "submit")
    }
    for read in (wire.parse_list, wire.parse_upload, wire.parse_redacted_audio):
        with pytest.raises(NotTheService) as caught:
            read(page.encode())
        told.add(str(caught.value))

    assert all(each.endswith(f": a page that says {words!r}") for each in told)
    assert len(told) == 6


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionLost("list: refused", connected=False), "cannot be reached"),
        (NotTheService("list answered with a page"), "is reached, but does not speak the API"),
        (ServiceUnavailable("list answered with HTTP 503"), "is reached, but does not work"),
    ],
)
def test_what_a_service_does_is_told_apart(error: PipelineError, expected: str) -> None:
    """Nobody there, somebody else there, or out of order: also where the error is the last one."""
    last = AttemptsExhausted(f"{error} (tried 5 times)")
    last.__cause__ = error

    assert trouble(error) == trouble(last) == expected


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "text/html"}, b'{"error": "token"}'),
        ({"Content-Type": "text/plain"}, b"no"),
        ({}, b""),
    ],
)
def test_what_is_no_page_is_the_services(headers: dict[str, str], body: bytes) -> None:
    """JSON whatever it is called, plain text and nothing are answers of the service."""
    assert type(wire.error_from("submit", 401, headers, body)) is KeyRefused


@pytest.mark.parametrize("status", [407, 451, 406, 418])
def test_doubt_about_a_page_is_told(status: int) -> None:
    """Where nobody knows what became of a submit, it is known that the service did not say so."""
    answer = wire.submission(status, {}, b"<html>", UPLOAD_URL)

    assert isinstance(answer, Ambiguous)
    assert isinstance(answer.interception, Intercepted)


@pytest.mark.parametrize(
    ("call", "expected"),
    [("upload", ServiceUnavailable), ("submit", RequestRejected), ("get", RequestRejected)],
)
def test_422_is_a_hiccup_of_an_upload_alone(call: str, expected: type[PipelineError]) -> None:
    """A 422 is worth trying again for an upload, since a recording is never empty there."""
    body = b"Upload failed, please try again. If you continue to have issues please reach out"

    assert type(wire.error_from(call, 422, {}, body)) is expected


@pytest.mark.parametrize(
    "said",
    [
        'speech_model is deprecated. Use "speech_models" instead.',
        '"speech_models" must be a non-empty list containing one or more of: "universal-2"',
        'The "universal-3-pro" speech model(s) have been deprecated. Use speech_models: [...]',
        'Unknown speech model "loud". Supported models: "assemblyai-stt-3-7", "universal-2"',
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_speech_model_concerns_all(said: str, status: int) -> None:
    """A refusal of `speech_models` would come for every recording: it is no recording's fault."""
    error = wire.error_from("submit", status, {}, json.dumps({"error": said}).encode())

    assert type(error) is OptionsRefused


def test_a_rejection_carries_its_status() -> None:
    """What refused for good can be asked for the HTTP status."""
    error = wire.error_from("get", 413, {}, b"")

    assert isinstance(error, RequestRejected)
    assert error.status_code == 413


@given(st.integers(300, 599), bodies)
def test_any_error_body_becomes_a_short_sentence(status: int, body: bytes) -> None:
    """No body is too odd to be told, none makes a message of many lines or pages."""
    message = str(wire.error_from("get", status, {}, body))

    assert len(message) < 400


# --- Retry-After ----------------------------------------------------------------------------------

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("30", 30.0), (" 7 ", 7.0), ("0", 0.0), ("0086400", 86_400.0), ("9" * 5000, math.inf)],
    ids=lambda value: str(value)[:9],
)
def test_retry_after_in_seconds(value: str, expected: float) -> None:
    """The documented form is a number of seconds."""
    assert wire.retry_after_s({"Retry-After": value}) == expected


@pytest.mark.parametrize("our_clock_is_off", [timedelta(0), timedelta(days=400)])
@pytest.mark.parametrize(
    ("later_s", "expected"), [(90, 90.0), (0, 0.0), (-5, 0.0), (-1e9, 0.0), (1e11, 1e11)]
)
def test_retry_after_as_a_date(
    our_clock_is_off: timedelta, later_s: float, expected: float
) -> None:
    """A date is read against the answer's own `Date`, however wrong our clock is."""
    sent = NOON + our_clock_is_off
    headers = {
        "Date": format_datetime(sent, usegmt=True),
        "Retry-After": format_datetime(sent + timedelta(seconds=later_s), usegmt=True),
    }

    assert wire.retry_after_s(headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": ""},
        {"Retry-After": "soon"},
        {"Retry-After": "-5"},
        {"Retry-After": "1.5e"},
        {"Retry-After": "1e9"},
        {"Retry-After": "+5"},
        {"Retry-After": "\u0663"},
        {"Retry-After": "1_0"},
        {"Retry-After": "nan"},
        {"Retry-After": "inf"},
        {"Retry-After": "Fri, 31 Dec 99999 12:01:00 GMT", "Date": format_datetime(NOON)},
        {"Retry-After": f"Fri, 20 Nov 2026 12:01:00 +{10**20}", "Date": format_datetime(NOON)},
        {"Retry-After": format_datetime(NOON), "Date": f"Fri, 20 Nov 2026 12:01:00 +{10**20}"},
        {"Retry-After": "Fri, 20 Nov 2026 12:01:00 GMT"},
        {"Retry-After": "Fri, 20 Nov 2026 12:01:00 GMT", "Date": "today"},
        {"Retry-After": "Fri, 20 Nov 2026 12:01:00 -0000", "Date": format_datetime(NOON)},
    ],
    ids=str,
)
def test_a_retry_after_that_says_nothing(headers: dict[str, str]) -> None:
    """Without a number, or a date and the date to read it against, nothing is known."""
    assert wire.retry_after_s(headers) is None


@given(st.text(), st.text())
def test_no_retry_after_is_too_odd(value: str, date: str) -> None:
    """Whatever stands in the header, the answer is a pause or none."""
    pause_s = wire.retry_after_s({"Retry-After": value, "Date": date})

    assert pause_s is None or pause_s >= 0


def test_a_429_carries_the_pause() -> None:
    """What the service asked for travels with the error, None when it did not say."""
    told = wire.error_from("get", 429, {"Retry-After": "30"}, b"")
    untold = wire.error_from("get", 429, {}, b"")

    assert isinstance(told, RateLimited)
    assert isinstance(untold, RateLimited)
    assert (told.retry_after_s, untold.retry_after_s) == (30.0, None)


# --- what else is answered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "good", ["6f0b2c1e-5d1a-4f0e-9a55-0f3b1c7e1a01", "62npeahu2b-a8ea", "A_b", "x" * 64]
)
def test_ids_of_every_known_form_pass(good: str) -> None:
    """An id is opaque: UUIDs and the older forms are taken as they are."""
    assert wire.check_id(good) == good


@given(st.text())
def test_only_what_is_safe_in_a_path_passes(text: str) -> None:
    """Nothing but 1 to 64 letters, digits, `-` and `_` ever enters a path."""
    try:
        passed = wire.check_id(text)
    except AnswerUnusable:
        return
    assert passed == text
    assert text.isascii()
    assert text.replace("-", "x").replace("_", "x").isalnum()
    assert 1 <= len(text) <= 64


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a%2Fb", "a?b", "a#b", "a\n", "a" * 65])
def test_ids_that_would_change_a_path_are_refused(bad: str) -> None:
    """What could lead a request elsewhere is no id."""
    with pytest.raises(AnswerUnusable):
        wire.check_id(bad)


def test_an_upload_url_is_taken_as_it_is() -> None:
    """The `upload_url` is opaque, and what stands beside it does no harm."""
    body = json.dumps({"x_new": [1], "upload_url": UPLOAD_URL}).encode()

    assert wire.parse_upload(body) == UPLOAD_URL


ODD_VALUES = {
    "null": b"null",
    "bool": b"true",
    "int": b"7",
    "negative": b"-7",
    "huge int": b"9" * 5000,
    "float": b"0.5",
    "huge float": b"1e999",
    "not a number": b"NaN",
    "text": b'"7"',
    "huge text": b'"%s"' % (b"x" * 10_000),
    "half a character": b'"\\ud83d"',
    "no UTF-8": b'"\xff"',
    "list": b'["a",{}]',
    "object": b'{"a":[]}',
}
"""A value of each kind that JSON has, or that programs write into it."""

DELETED = [
    *(
        "http://deleted_by_user",
        "https://deleted_by_user",
        "http://deleted_by_user/",
        " //deleted_by_user",
    ),
    *("HTTP://Deleted_By_User:80", "http://deleted_by_user:443/x/y?z#w", "deleted_by_user"),
    *("http://deleted_by_user?a=b", "http://deleted%5Fby%5Fuser", "http://u:p@deleted_by_user./\n"),
]


@pytest.mark.parametrize("body", [*NOT_THE_JSON.values(), b"{}", b'{"upload_url": ""}'])
def test_an_upload_without_its_url_is_tried_again(body: bytes) -> None:
    """An answer to an upload that has no `upload_url` is no success."""
    with pytest.raises(ServiceUnavailable):
        wire.parse_upload(body)


def test_the_address_of_redacted_audio() -> None:
    """The address is taken as it is, signature and all, on whatever host it lies."""
    url = "https://s3.us-west-2.invalid/bucket/a.mp3?X-Amz-Signature=1%2F2"
    body = json.dumps({"status": "redacted_audio_ready", "redacted_audio_url": url}).encode()

    assert wire.parse_redacted_audio(body) == url


@pytest.mark.parametrize("body", [*NOT_THE_JSON.values(), b"{}", b'{"redacted_audio_url": 1}'])
def test_redacted_audio_without_an_address_is_tried_again(body: bytes) -> None:
    """An answer that has no address is no success."""
    with pytest.raises(ServiceUnavailable):
        wire.parse_redacted_audio(body)


@pytest.mark.parametrize("url", ["", "nowhere", "//x", "file:///etc/passwd", "ftp://a.invalid/b"])
def test_only_addresses_of_the_web_are_followed(url: str) -> None:
    """An address that does not begin as one is never asked for anything."""
    with pytest.raises(AnswerUnusable):
        wire.parse_redacted_audio(json.dumps({"redacted_audio_url": url}).encode())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, RequestRejected),
        (402, RequestRejected),
        (403, RequestRejected),
        (404, RequestRejected),
        (429, ServiceUnavailable),
        (503, ServiceUnavailable),
    ],
)
def test_another_host_refuses_no_key(status: int, expected: type[PipelineError]) -> None:
    """What the host of a download answers says nothing about our key, account or rate."""
    assert type(wire.error_from("download", status, {"Retry-After": "9"}, b"")) is expected


def test_a_page_of_the_list() -> None:
    """Rows come newest first as they stand, deleted and unknown ones too."""
    rows = [
        {"id": "b", "status": "never heard of", "audio_url": None, "x_new": 1},
        {"id": "a", "status": "completed", "audio_url": wire.DELETED_AUDIO_URL, "error": None},
        {"id": "0"},
    ]
    body = json.dumps({"page_details": {"limit": "odd"}, "transcripts": rows}).encode()

    assert wire.parse_list(body) == [
        Row("b", "never heard of"),
        Row("a", "completed", "http://deleted_by_user"),
        Row("0"),
    ]


NO_PAGES = [
    *NOT_THE_JSON.values(),
    b"{}",
    b'{"transcripts": null}',
    b'{"transcripts": {"id": "a"}}',
]


@pytest.mark.parametrize("body", [body for body in NO_PAGES if b'[{"id"' not in body])
def test_what_is_no_page_proves_nothing(body: bytes) -> None:
    """A list that cannot be read is an error, never an empty list."""
    with pytest.raises(ServiceUnavailable):
        wire.parse_list(body)


@pytest.mark.parametrize("value", ODD_VALUES, ids=ODD_VALUES)
@pytest.mark.parametrize("field", ["id", "status", "audio_url"])
def test_a_row_that_cannot_be_read_spoils_no_other(field: str, value: str) -> None:
    """Of a row each field is read by itself, and the others of the page stand in their places."""
    sound = {"id": "a", "status": "queued", "audio_url": UPLOAD_URL}
    fields = {key: json.dumps(said).encode() for key, said in sound.items()}
    row = b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items() if k != field)
    odd = b'{%s,"%s":%s}' % (row, field.encode(), ODD_VALUES[value])
    body = b'{"transcripts":[{"id":"0"},%s,{"id":"1"}]}' % odd

    first, found, last = wire.parse_list(body)

    assert (first.id, last.id) == ("0", "1")
    left_out = {"id": ("",), "status": ("", "\ufffd"), "audio_url": (None,)}[field]
    is_text = value in ("text", "huge text")
    assert all(getattr(found, key) == said for key, said in sound.items() if key != field)
    assert is_text or getattr(found, field) in left_out


@pytest.mark.parametrize("row", [*ODD_VALUES.values(), b"{}", b'{"id":"\xff"}'])
def test_a_row_that_is_none_keeps_its_place(row: bytes) -> None:
    """What is no row is nobody's, and stands where it stood: what is older is still below it."""
    page = wire.parse_list(b'{"transcripts":[%s,{"id":"1"}]}' % row)

    assert page == [Row(), Row("1")]


@pytest.mark.parametrize("address", DELETED)
def test_the_list_names_what_was_deleted_in_one_spelling(address: str) -> None:
    """Whatever spelling a row has for what was deleted, those who compare it see one."""
    row = {"id": "a", "audio_url": address}

    assert wire.parse_list(json.dumps({"transcripts": [row]}).encode()) == [
        Row("a", "", wire.DELETED_AUDIO_URL)
    ]


def test_the_head_of_a_transcript() -> None:
    """The fields to act on are read, whatever else the document holds."""
    document = COMPLETED | {"audio_duration": 2, "speech_model_used": "u2", "x_new": {"y": []}}

    assert wire.parse_head(json.dumps(document).encode()) == Head(
        id="6f0b-2c1e_5d1a",
        status="completed",
        audio_url=UPLOAD_URL,
        text="",
        has_words=True,
        audio_duration=2.0,
        speech_model_used="u2",
    )


@pytest.mark.parametrize(
    ("text", "has_words"),
    [
        *((b'""', False), (b'" "', False), (b'"\\n\\t\\u0020\\u00A0\\r"', False)),
        *((b'"\\u3000"', False), (b'"a"', True), (b'" . "', True), (b'"\\u0041"', True)),
        *((b'"\\\\n"', True), (b'"\\""', True), (b"null", False), (b"5", False), (b'["a"]', False)),
    ],
)
def test_a_text_without_words(text: bytes, has_words: bool) -> None:
    """Blanks in any spelling are no words, and what is no text has none."""
    body = json.dumps(COMPLETED | {"text": 0}).encode().replace(b'"text": 0', b'"text": ' + text)

    assert wire.parse_head(body).has_words is has_words


@pytest.mark.parametrize(
    "patch",
    [
        {"status": "never heard of"},
        {"status": "error", "error": None, "text": None},
        {"audio_url": None},
        {"audio_duration": 2.5},
        {"text": ""},
    ],
    ids=str,
)
def test_odd_transcripts_can_be_read(patch: dict[str, Any]) -> None:
    """Nulls, floats, silence and new statuses are no reason to lose a transcript."""
    head = wire.parse_head(json.dumps(COMPLETED | patch).encode())

    assert all(getattr(head, name) == value for name, value in patch.items())


@pytest.mark.parametrize("body", NOT_THE_JSON.values(), ids=NOT_THE_JSON)
def test_what_is_no_whole_transcript_is_asked_for_again(body: bytes) -> None:
    """The whole document is checked: one that is cut or garbled anywhere is not saved."""
    with pytest.raises(ServiceUnavailable):
        wire.parse_head(body)


def test_a_transcript_in_shared_memory_is_read_where_it_is() -> None:
    """A memory map can be parsed without a copy."""
    assert wire.parse_head(memoryview(json.dumps(COMPLETED).encode())).id == COMPLETED["id"]


def test_the_last_of_doubled_keys_counts() -> None:
    """A doubled key is read as most parsers read it, by its last value, in every place."""
    body = b'{"id": "a", "id": "b", "status": "completed", "status": "queued"}'

    assert wire.parse_head(body) == Head(id="b", status="queued")
    assert wire.submission(200, {}, body, UPLOAD_URL) == Accepted("b")


@given(bodies)
def test_nothing_else_is_raised_by_any_body(body: bytes) -> None:
    """Arbitrary bytes are read, or raise what says to try again; nothing else."""
    for parse in (
        wire.parse_head,
        wire.parse_list,
        wire.parse_upload,
        wire.parse_redacted_audio,
    ):
        with suppress(TransientError, AnswerUnusable):
            parse(body)


@pytest.mark.parametrize("address", DELETED)
def test_a_deleted_transcript_is_known_by_its_url(address: str) -> None:
    """What says `completed` and was deleted is told apart, by the host and not by the text."""
    deleted = json.dumps(COMPLETED | {"audio_url": address}).encode()

    assert wire.parse_head(deleted).is_deleted


@pytest.mark.parametrize("flag", ODD_VALUES)
def test_a_deleted_transcript_may_say_so(flag: str) -> None:
    """`is_deleted` counts where it is true; it is not always there, and nothing else means it."""
    deleted = json.dumps(COMPLETED)[:-1].encode() + b',"is_deleted":%s}' % ODD_VALUES[flag]

    assert wire.parse_head(deleted).is_deleted == (flag == "bool")


@pytest.mark.parametrize(
    "address",
    [
        *(UPLOAD_URL, "", "http://", "https://cdn.invalid/deleted_by_user", "http://[", "//"),
        *("https://cdn.invalid/?http://deleted_by_user", "http://deleted_by_user.invalid/x"),
        *("http://not_deleted_by_user/", "https://cdn.invalid/http%3A%2F%2Fdeleted_by_user"),
    ],
)
def test_what_is_not_deleted_is_not_taken_for_it(address: str) -> None:
    """Only the host says so: a path, a query or what was said may hold the same words."""
    spoken = json.dumps(COMPLETED | {"audio_url": address, "text": "Deleted by user."}).encode()

    assert not wire.parse_head(spoken).is_deleted


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Server error, developers have been alerted.", True),
        ("Internal server error. Please retry your request.", True),
        ("Download error, unable to download https://x. Please make sure the file exists", True),
        ("File does not appear to contain audio. File type is text/html.", False),
        ("Audio duration is too short.", False),
        ("language_detection cannot be performed on files with no spoken audio.", False),
        ("", False),
    ],
)
def test_the_services_own_faults_are_worth_asking_again(reason: str, expected: bool) -> None:
    """A failure is asked for again where its sentence blames the service, and only there."""
    assert wire.is_server_fault(reason) is expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"x","status":"completed","text":"a secret',
        b'{"id":5,"status":"completed","text":"a secret"}',
        b'{"id":"x","status":"completed","text":"a secret\x00"}',
        b'{"status":"completed","text":"a secret"}',
        b'{"id":"\xff","text":"a secret","status":"completed"}',
        b'{"id":"x","text":"a secret","status":"","words":' + b"[" * 10_000,
    ],
)
def test_no_error_quotes_what_was_said(body: bytes) -> None:
    """Why a transcript cannot be read is told without a word of it."""
    with pytest.raises(ServiceUnavailable) as raised:
        wire.parse_head(body)

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "odd",
    [
        *(b'"\\ud83d"', b'"\\udc00\\ud83d"', b'"\\\\ud83d \\ud83d"', b"NaN", b"[-Infinity,NaN ]"),
        *(b'"\xff\xfe"', b"1e999"),
    ],
)
@pytest.mark.parametrize("field", [b"text", b"words"])
def test_what_others_write_into_json_passes(field: bytes, odd: bytes) -> None:
    """A transcript that is whole is worth having, though some readers may stumble over it."""
    head = wire.parse_head(b'{"id":"x","status":"completed","%s":%s}' % (field, odd))

    assert (head.id, head.status) == ("x", "completed")


FIELDS = [name for name in wire._Transcript.__struct_fields__ if name not in ("id", "status")]


@pytest.mark.parametrize("value", ODD_VALUES, ids=ODD_VALUES)
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_spoils_what_is_paid(field: str, value: str) -> None:
    """Our id and `completed` are read, whatever any other field holds, and no number is wild."""
    fields = COMPLETED | {"audio_duration": 2, "text": "said"}
    others = json.dumps({key: said for key, said in fields.items() if key != field}).encode()

    for before, after in ((b"", b""), (b"\xef\xbb\xbf", b" \r\n\x00\x0c")):
        body = b'%s%s,"%s":%s}%s' % (before, others[:-1], field.encode(), ODD_VALUES[value], after)
        head = wire.parse_head(memoryview(body))

        assert (head.id, head.status) == (COMPLETED["id"], "completed")
        assert 0 <= (head.audio_duration or 0) <= 1e6
        assert 0 <= (head.confidence or 0) <= 1
        said = [head.error, head.speech_model_used, head.language_code, head.odd]
        assert all(each is None or each.isprintable() for each in said)
        assert bool(head.odd) or not before


@pytest.mark.parametrize(
    ("field", "value", "odd"),
    [
        ("audio_duration", b'"2"', "`audio_duration` cannot be read"),
        ("audio_duration", b"null", "it has no `audio_duration`"),
        ("audio_duration", b"-1", "it has no `audio_duration`"),
        ("error", b"{}", "`error` cannot be read"),
        ("speech_model_used", b"[]", "`speech_model_used` cannot be read"),
        ("text", b"null", "it has no `text`"),
        ("text", b"[]", "it has no `text`"),
        ("words", b"NaN", "it is no strict JSON"),
        ("words", b'"\\ud83d"', "it is no strict JSON"),
        ("words", b'"\\ud83d\\ude00"', None),
        ("speech_model_used", b"null", None),
        ("x_new", b"{}", None),
    ],
)
def test_what_is_odd_is_said(field: str, value: bytes, odd: str | None) -> None:
    """A completed transcript that is not as it should be says what is odd, and of what field."""
    fields = {"id": "x", "status": "completed", "text": "said", "audio_duration": 2}
    others = json.dumps({key: said for key, said in fields.items() if key != field}).encode()

    assert wire.parse_head(b'%s,"%s":%s}' % (others[:-1], field.encode(), value)).odd == odd


@pytest.mark.parametrize("value", ODD_VALUES, ids=ODD_VALUES)
def test_a_status_of_any_kind_is_not_the_end(value: str) -> None:
    """A status that is not known, and one that is none, say that a transcript is not finished."""
    head = wire.parse_head(b'{"id":"x","status":%s,"text":"said"}' % ODD_VALUES[value])

    assert head.status not in ("completed", "error")
    assert head.odd is None


@pytest.mark.parametrize("text", ["null", "5", "[]", '""', '"said"'])
def test_of_a_text_only_its_being_there_counts(text: str) -> None:
    """Whether there is a text is known, and the text itself is not held."""
    head = wire.parse_head(b'{"id":"x","status":"completed","text": %s}' % text.encode())

    assert head.text == ("" if text.startswith('"') else None)


def test_a_long_text_takes_no_memory() -> None:
    """What a transcript says is found without a copy of what was said."""
    body = b'{"id":"x","text":"' + b"word " * 4_000_000 + b'\xf0\x9f\x98\x80","status":"completed"}'
    tracemalloc.start()
    head = wire.parse_head(memoryview(body))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert head.status == "completed"
    assert peak < 100_000


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("error", "No\n\x1b[31m speech " * 1000, "No \ufffd[31m speech"),
        ("speech_model_used", "\x00" + "x" * 1000, "\ufffdxxx"),
        ("audio_duration", -1e300, None),
        ("audio_duration", 1e300, None),
        ("audio_duration", 36_000.5, 36_000.5),
    ],
)
def test_facts_do_no_harm_where_they_go(field: str, value: object, expected: object) -> None:
    """What ends up in names, sums, the ledger and on terminals is short and fit for it."""
    body = json.dumps({"id": "x", "status": "error", field: value}).encode()
    found = getattr(wire.parse_head(body), field)

    if isinstance(found, str) and isinstance(expected, str):
        assert found.startswith(expected)
        assert found.isprintable()
        assert len(found) <= 300
    else:
        assert found == expected


@pytest.mark.parametrize("bad", ["../x", "", "x" * 65, "a b", "a\x00"])
def test_an_id_that_is_none_makes_no_transcript(bad: str) -> None:
    """No transcript has an id that could lead a request elsewhere; other programs' rows may."""
    row = {"id": bad, "status": "completed"}
    with pytest.raises(AnswerUnusable):
        wire.parse_head(json.dumps(row).encode())

    page = wire.parse_list(json.dumps({"transcripts": [{"id": "good"}, row]}).encode())

    assert [listed.id for listed in page] == ["good", bad]


# --- webhooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://host/overnight", "https://host/overnight?attempt=17"),
        ("https://host/overnight?a=b%2Fc&d", "https://host/overnight?a=b%2Fc&d&attempt=17"),
        ("http://[::1]:81/x?attempt=1", "http://[::1]:81/x?attempt=1&attempt=17"),
    ],
)
def test_a_webhook_carries_its_attempt(url: str, asked: str) -> None:
    """The query of a URL is kept, with the attempt behind it; all three keys go together."""
    assert Webhook(url, "hush").options(17) == {
        "webhook_url": asked,
        "webhook_auth_header_name": "X-Overnight-Secret",
        "webhook_auth_header_value": "hush",
    }


def test_a_webhook_shows_no_secret() -> None:
    """Whoever prints it sees where notifications go, not with what."""
    shown = f"{Webhook('https://host/', 'hush')!r} {Webhook('https://host/', 'hush')}"

    assert "https://host/" in shown
    assert "hush" not in shown


@given(st.text(), bodies)
def test_a_notification_names_one_thing_at_most(attempt: str, body: bytes) -> None:
    """Whatever it is, it names an attempt, a transcript whose id can be one, or nothing."""
    named = wire.parse_notification(attempt, body)

    if isinstance(named, str):
        assert wire.check_id(named) == named
    assert named is None or isinstance(named, str) or 0 <= named < 10**18


@pytest.mark.parametrize("attempt", ["", "-1", "1.0", "\u0661", "1" * 19, "1 ", " 1", "0x1"])
@pytest.mark.parametrize("body", NOT_THE_JSON.values(), ids=NOT_THE_JSON)
def test_what_is_no_notification_names_nothing(attempt: str, body: bytes) -> None:
    """No number of ours in the query and no id in the body: nothing is named."""
    assert wire.parse_notification(attempt, body) is None
