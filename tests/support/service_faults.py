"""Faults of the scripted service, as data: which request meets one, and what it does to the answer.

A fault stands between the request and its effect. It may answer without the effect, let
the effect happen and spoil the answer, or keep either waiting until it is released.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import anyio

from tests.support.service_account import NEGATIVE_BALANCE, NOT_FOUND

Kind = Literal["upload", "submit", "list", "get", "delete", "export", "*"]
Action = Literal[
    "answer",
    "big",
    "close_before",
    "cross_answers",
    "drop_after",
    "drop_before",
    "effect_then_answer",
    "foreign_audio_url",
    "garbage",
    "hold",
    "hold_before",
    "late",
    "list_down",
    "list_says_error",
    "negative_balance",
    "patch",
    "redirect",
    "reuse_spent_upload_url",
    "reuse_upload_url",
    "slow",
    "stall",
    "truncate",
    "unknown_id",
    "unknown_while_young",
]
Delivery = Literal["whole", "half", "slow", "dropped", "closed"]


ABSENT = object()
"""As the value of a patch: the field is not there."""


@dataclass(slots=True)
class Call:
    """One request as the service saw it: an entry of its log."""

    kind: str
    method: str
    path: str
    query: str
    key: str | None
    """The value of the Authorization header."""
    at: float
    peer: str
    """Address and port of the client's end: one for each connection."""
    transcript_id: str = ""
    audio_url: str = ""
    content: str = ""
    """sha256 of the content, once it is known."""
    beginning: str = ""
    """The first bytes of an upload, as Latin-1."""
    sent: Any = None
    """The JSON body of a submit."""
    status: int = 0
    """The HTTP status it was answered with; 0 while it is not answered, or was dropped."""
    fault: str = ""
    """The action of the fault it met."""


@dataclass(slots=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    slow_s: float = 0.0
    """How long a `slow` delivery takes."""

    @classmethod
    def of(cls, document: object, status: int = 200) -> Reply:
        return cls(status, json.dumps(document, ensure_ascii=False).encode())

    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to some requests of one kind. The README of all actions is the module
    `tests.support.service`."""

    on: Kind
    action: Action
    times: int | None = 1
    """How many requests meet it; None: all."""
    skip: int = 0
    """How many matching requests pass unharmed first."""
    match: str | Callable[[Call], bool] | None = None
    """Only these requests: a text in their path, query, audio_url, content or first bytes."""
    status: int = 503
    body: str = '{"error": "Service unavailable"}'
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    location: str = ""
    """Where `redirect` points to."""
    seconds: float = 1.0
    """How long `slow` takes over the whole body, `late` before the effect, and how old a transcript
    is before `unknown_while_young` knows it."""
    size_bytes: int = 8 * 1024 * 1024
    """What `big` adds to the body."""
    patch: dict[str, Any] = field(default_factory=dict)
    """What `patch` puts over the answer's JSON, in the list over each row; a function makes it of
    what stands there, and `ABSENT` takes it away."""
    rows: Collection[str] = ()
    """Of the list only the rows of these transcripts, if any are named."""
    met: int = field(default=0, init=False)
    """How many requests have met it."""

    def __post_init__(self) -> None:
        if self.action not in _ACTIONS or self.on not in get_args(Kind):
            raise ValueError(f"there is no fault {self.action} on {self.on}")

    def is_met_by(self, call: Call) -> bool:
        if self.on not in ("*", call.kind) or self.times == self.met:
            return False
        if callable(self.match):
            return self.match(call)
        seen = (call.path, call.query, call.audio_url, call.content, call.beginning)
        return self.match is None or any(self.match in text for text in seen)


class Faults:
    """The faults that are set, tried in the order they were added; a request meets one at most."""

    def __init__(self) -> None:
        self._set: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Sets a fault, and gives it back."""
        self._set.append(fault)
        return fault

    def clear(self) -> None:
        """Takes all faults away; what is held stays held."""
        self._set.clear()

    def take(self, call: Call) -> Fault | None:
        """The fault this request meets, counted as met."""
        for fault in self._set:
            if fault.is_met_by(call):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.met += 1
                call.fault = fault.action
                return fault
        return None


class Scene(Protocol):
    """What a fault can make happen."""

    call: Call
    fault: Fault

    async def effect(self, *, upload_url: str = "") -> Reply:
        """Lets the request do what it asks for."""
        ...

    async def hold(self) -> None:
        """Waits until a test releases it."""
        ...

    async def swap(self, reply: Reply) -> Reply:
        """Waits for a second reply, and gives each of the two requests the other's."""
        ...

    def other_transcript(self) -> Reply | None:
        """The newest transcript of the project but this one."""
        ...

    def last_upload_url(self) -> str:
        """The upload_url that was handed out last."""
        ...

    def spent_upload_url(self) -> str:
        """The upload_url that was submitted last."""
        ...

    def age_s(self) -> float:
        """How long ago the transcript that is asked for was created."""
        ...


async def play(scene: Scene) -> Reply:
    """The answer to a request that met a fault."""
    return await _ACTIONS[scene.fault.action](scene)


async def _answer(scene: Scene) -> Reply:
    fault = scene.fault
    return Reply(fault.status, fault.body.encode(), fault.content_type, dict(fault.headers))


async def _effect_then_answer(scene: Scene) -> Reply:
    await scene.effect()
    return await _answer(scene)


async def _redirect(scene: Scene) -> Reply:
    return Reply(307, b"", "text/plain", headers={"Location": scene.fault.location})


async def _negative_balance(scene: Scene) -> Reply:
    return Reply.of({"error": NEGATIVE_BALANCE}, 400)


async def _unknown_id(scene: Scene) -> Reply:
    return Reply.of({"error": NOT_FOUND}, 400)


async def _unknown_while_young(scene: Scene) -> Reply:
    young = scene.age_s() < scene.fault.seconds
    return await (_unknown_id(scene) if young else scene.effect())


async def _list_down(scene: Scene) -> Reply:
    return Reply(503, b"<html><body>Service Unavailable</body></html>", "text/html")


async def _drop_before(scene: Scene) -> Reply:
    return Reply(0, b"", delivery="dropped")


async def _close_before(scene: Scene) -> Reply:
    return Reply(0, b"", delivery="closed")


async def _drop_after(scene: Scene) -> Reply:
    await scene.effect()
    return Reply(0, b"", delivery="dropped")


async def _hold(scene: Scene) -> Reply:
    reply = await scene.effect()
    await scene.hold()
    return reply


async def _hold_before(scene: Scene) -> Reply:
    await scene.hold()
    return await scene.effect()


async def _late(scene: Scene) -> Reply:
    await anyio.sleep(scene.fault.seconds)
    return await scene.effect()


async def _truncate(scene: Scene) -> Reply:
    return dataclasses.replace(await scene.effect(), delivery="half")


async def _slow(scene: Scene) -> Reply:
    return dataclasses.replace(await scene.effect(), delivery="slow", slow_s=scene.fault.seconds)


async def _garbage(scene: Scene) -> Reply:
    await scene.effect()
    return Reply(200, b"<html><body>It works!</body></html>", "text/html")


async def _big(scene: Scene) -> Reply:
    document = (await scene.effect()).document()
    return Reply.of(document | {"x_padding": "x" * scene.fault.size_bytes})


async def _patch(scene: Scene) -> Reply:
    reply = await scene.effect()
    document = reply.document()
    for row in document.get("transcripts", [document]):
        if scene.fault.rows and row.get("id") not in scene.fault.rows:
            continue
        for name, new in scene.fault.patch.items():
            row[name] = new(row.get(name)) if callable(new) else new
            if new is ABSENT:
                del row[name]
    return dataclasses.replace(reply, body=Reply.of(document).body)


async def _foreign_audio_url(scene: Scene) -> Reply:
    scene.fault.patch = {"audio_url": "https://elsewhere.invalid/foreign.mp3"}
    return await _patch(scene)


async def _list_says_error(scene: Scene) -> Reply:
    scene.fault.patch = {"status": "error", "error": "Server error, developers have been alerted."}
    return await _patch(scene)


async def _reuse_upload_url(scene: Scene) -> Reply:
    return await scene.effect(upload_url=scene.last_upload_url())


async def _reuse_spent_upload_url(scene: Scene) -> Reply:
    return await scene.effect(upload_url=scene.spent_upload_url())


async def _cross_answers(scene: Scene) -> Reply:
    reply = await scene.effect()
    if scene.call.kind == "get":
        return scene.other_transcript() or reply
    return await scene.swap(reply)


_ACTIONS: dict[Action, Callable[[Scene], Awaitable[Reply]]] = {
    "answer": _answer,
    "big": _big,
    "close_before": _close_before,
    "cross_answers": _cross_answers,
    "drop_after": _drop_after,
    "drop_before": _drop_before,
    "effect_then_answer": _effect_then_answer,
    "foreign_audio_url": _foreign_audio_url,
    "garbage": _garbage,
    "hold": _hold,
    "hold_before": _hold_before,
    "late": _late,
    "list_down": _list_down,
    "list_says_error": _list_says_error,
    "negative_balance": _negative_balance,
    "patch": _patch,
    "redirect": _redirect,
    "reuse_spent_upload_url": _reuse_spent_upload_url,
    "reuse_upload_url": _reuse_upload_url,
    "slow": _slow,
    "stall": _hold_before,  # nothing reads the body meanwhile
    "truncate": _truncate,
    "unknown_id": _unknown_id,
    "unknown_while_young": _unknown_while_young,
}
