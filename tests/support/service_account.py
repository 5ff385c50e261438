"""The account behind the scripted service: calls without HTTP in, transcripts and an oracle out.

    upload ─► submit ─► queued ─► processing ─► completed | error     (a clock of its own)

Nothing here knows HTTP or faults. What is true is worked out when somebody asks: every
question first moves each transcript to where the clock says it is, so no timer runs and
a stopped clock stops everything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from struct import unpack_from
from typing import Any
from urllib.parse import urlencode

from tests.support import service_options

UPLOADS = "https://cdn.scripted.invalid/upload/"
"""What every upload_url begins with; no such host exists, so nothing can fetch it."""

LISTED_FOR_S = 90 * 86_400.0
"""How long a transcript is listed. Source: AssemblyAI openapi.yml, listTranscripts."""

NOT_FOUND = "Transcript lookup error, transcript id not found"
NEGATIVE_BALANCE = (
    "Your current account balance is negative. Please top up to continue using the API."
)
UPLOAD_FAILED = (
    "Upload failed, please try again. If you continue to have issues please reach out to "
    "support@assemblyai.com"
)


class Refused(Exception):
    """The answer is an HTTP error: its status and its sentence."""

    def __init__(self, status: int, sentence: str, *, is_text: bool = False) -> None:
        super().__init__(f"{status} {sentence}")
        self.status = status
        self.sentence = sentence
        self.is_text = is_text


@dataclass(slots=True)
class Script:
    """What a content says about its own outcome, in `KEY:value` lines at its very beginning."""

    error: str = ""
    """`ERROR:sentence`: the transcript ends in `error` with this sentence."""
    audio_seconds: int | None = None
    """`SECONDS:n`: its `audio_duration`; else that of a WAV file; else one second for each 32,000
    bytes, rounded up."""
    words: int = 12
    """`WORDS:n`: how many words are said in it; 0 is a silent recording."""
    transcript_seconds: float | None = None
    """`TAKES:seconds`: how long it is processed; else the account's `transcript_seconds`."""
    language: str = ""
    """`LANGUAGE:code`: what is spoken in it; else the account's `language`."""

    @classmethod
    def read(cls, beginning: bytes) -> Script:
        script = cls()
        if beginning.startswith(b"RIFF") and len(beginning) >= 44:
            (bytes_per_s,), (size,) = (
                unpack_from("<I", beginning, 28),
                unpack_from("<I", beginning, 40),
            )
            script.audio_seconds = -(-size // bytes_per_s)
            return script
        for line in beginning.decode("utf-8", "replace").splitlines():
            key, colon, value = line.partition(":")
            if not colon:
                break
            if key == "ERROR":
                script.error = value
            elif key == "SECONDS":
                script.audio_seconds = int(value)
            elif key == "WORDS":
                script.words = int(value)
            elif key == "TAKES":
                script.transcript_seconds = float(value)
            elif key == "LANGUAGE":
                script.language = value
            else:
                break
        return script


@dataclass(slots=True)
class Upload:
    """A content that was sent: never its bytes, only what is needed to know it again."""

    upload_url: str
    project: str
    content: str
    """sha256 of the bytes, as hex."""
    size_bytes: int
    script: Script
    at: float


@dataclass(slots=True)
class Transcript:
    """One accepted submit."""

    id: str
    position: int
    """Its place in the order of creation."""
    project: str
    audio_url: str
    content: str
    """sha256 of what was uploaded; for an audio_url that is not an upload, that URL."""
    options: dict[str, Any]
    script: Script
    audio_duration: int
    created: float
    listed_from: float
    language: str = "en"
    """What was asked for, else what is spoken."""
    status: str = "queued"
    error: str = ""
    throttled: bool | None = None
    ends_at: float = math.inf
    completed: float | None = None
    is_billed: bool = False
    is_deleted: bool = False
    webhook_status_code: int | None = None
    """What a notification of it was answered with last."""

    @property
    def model_used(self) -> str | None:
        """The first of its models that knows its language."""
        return service_options.model_for(self.options["speech_models"], self.language)

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "error")


@dataclass(kw_only=True)
class Account:
    """The service without HTTP: its settings, its state, and what tests may ask about it."""

    keys: dict[str, str] = field(
        default_factory=lambda: {
            "scripted-key": "project-1",
            "second-key": "project-1",
            "foreign-key": "project-2",
        }
    )
    """API key → project. Transcripts and uploads belong to the project."""
    transcript_seconds: float = 0.0
    """How long each transcript is processed; `math.inf`: until `complete` or `fail`."""
    concurrency: int = 200
    """Transcripts processed at once; the others wait as `queued`, first in, first out."""
    first_status: str = "queued"
    """The status in the answer to a submit."""
    list_lag_s: float = 0.0
    """Seconds before a new transcript shows in the list."""
    upload_limit_bytes: int = 2_200_000_000
    """Above it an upload gets 413. Source: AssemblyAI FAQ, 2.2 GB."""
    upload_life_s: float = math.inf
    """Seconds an upload_url is good for; later its transcript ends in a download error."""
    requests_limit: int | None = None
    """Requests within `requests_window_s` for the whole account; above it 429."""
    requests_window_s: float = 300.0
    default_models: tuple[str, ...] = service_options.DEFAULT_SPEECH_MODELS
    """For submits that name none. Until 8 December 2026 accounts made before 17 November have
    `universal-3-5-pro` before `universal-2`."""
    language: str = "en"
    """What is spoken in recordings that say nothing of it."""
    retry_after: str = "seconds"
    """The form of Retry-After on a 429: `seconds`, `date` or `none`."""
    is_clock_manual: bool = False
    """True: time stands still at 2026-11-20 10:00 UTC and moves only by `advance`."""

    webhook_every_s: float = 10.0
    """Seconds between two attempts to deliver a notification; as much to wait for an answer."""

    uploads: dict[str, Upload] = field(init=False, default_factory=dict)
    transcripts: dict[str, Transcript] = field(init=False, default_factory=dict)
    """Every transcript there ever was, oldest first."""
    peak_processing: int = field(init=False, default=0)
    """The most transcripts that were processed at once."""
    peak_open: int = field(init=False, default=0)
    """The most that were queued or processed at once."""

    def __post_init__(self) -> None:
        self._rows: list[Transcript] = []
        self._waiting: deque[Transcript] = deque()
        self._running: list[tuple[float, int]] = []
        self._processing = 0
        self._open = 0
        self._failing: dict[str, deque[str]] = {}
        self._answered: deque[float] = deque()
        self.to_notify: deque[Transcript] = deque()
        """What has ended with a `webhook_url`, and nobody was told yet."""
        self._manual_now = datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
        self._wall = time.time() - time.monotonic()

    # What tests do to it.

    @property
    def key(self) -> str:
        """A key that is accepted."""
        return next(iter(self.keys))

    @property
    def foreign_key(self) -> str:
        """A key that is accepted, of another project than `key`."""
        mine = self.keys[self.key]
        return next(key for key, project in self.keys.items() if project != mine)

    def advance(self, seconds: float) -> None:
        """Moves the clock, if it is manual."""
        if not self.is_clock_manual:
            raise ValueError("only a manual clock can be moved")
        self._manual_now += seconds
        self.settle()

    def complete(self, transcript_id: str) -> None:
        """Ends this transcript now, by what its content says."""
        self._end(self.transcripts[transcript_id], self.now())

    def fail(self, transcript_id: str, sentence: str) -> None:
        """Ends this transcript now in `error` with this sentence."""
        transcript = self.transcripts[transcript_id]
        transcript.script = dataclasses.replace(transcript.script, error=sentence)
        self._end(transcript, self.now())

    def fail_content(self, content: bytes | str, sentence: str, times: int = 1) -> None:
        """Lets the next transcripts of this content (its bytes, or their sha256) end in `error`."""
        self._failing.setdefault(_sha256(content), deque()).extend([sentence] * times)

    def add_foreign(self, count: int, project: str | None = None) -> list[str]:
        """Adds completed transcripts of another program, in this project; their ids, oldest first.

        They are in the list at once, and in no figure of the oracle.
        """
        now, ids = self.now(), []
        for _ in range(count):
            transcript = self._new(
                project or self.keys[self.key],
                f"https://elsewhere.invalid/{uuid.uuid4()}.mp3",
                {"speech_models": ["universal-2"]},
            )
            transcript.status, transcript.completed, transcript.listed_from = "completed", now, now
            ids.append(transcript.id)
        return ids

    def expire_uploads(self) -> None:
        """Lets every upload so far be too old: its transcript ends in a download error."""
        for upload in self.uploads.values():
            upload.at = -math.inf
        self.upload_life_s = min(self.upload_life_s, 86_400.0)

    # What tests ask of it.

    @property
    def billable(self) -> Counter[str]:
        """Completed transcripts, per content: with no value above 1, all was paid once."""
        self.settle()
        return Counter(t.content for t in self._rows if t.is_billed)

    def accepted(self, content: bytes | str) -> list[Transcript]:
        """The transcripts accepted for this content (its bytes, or their sha256), oldest first."""
        self.settle()
        wanted = _sha256(content)
        return [t for t in self._rows if t.content == wanted]

    @property
    def statuses(self) -> Counter[str]:
        """How many transcripts are in each status now."""
        self.settle()
        return Counter(t.status for t in self._rows)

    # The service.

    def now(self) -> float:
        """Seconds since 1970, on the account's own clock, which never goes back."""
        return self._manual_now if self.is_clock_manual else self._wall + time.monotonic()

    def project_of(self, key: str | None) -> str:
        """The project of this key. Raises `Refused` 401 for any other text."""
        if key is None or key not in self.keys:
            raise Refused(401, "Authentication error, API token missing/invalid")
        return self.keys[key]

    def admit(self) -> float | None:
        """None for a request within the limit, else the seconds until there is room."""
        if self.requests_limit is None:
            return None
        now, answered = self.now(), self._answered
        while answered and answered[0] <= now - self.requests_window_s:
            answered.popleft()
        if len(answered) >= self.requests_limit:
            return answered[0] + self.requests_window_s - now
        answered.append(now)
        return None

    def add_upload(
        self, project: str, content: str, size_bytes: int, beginning: bytes, upload_url: str = ""
    ) -> Upload:
        """Takes in a content under a new upload_url, unless one is given."""
        url = upload_url or f"{UPLOADS}{uuid.uuid4()}"
        upload = Upload(url, project, content, size_bytes, Script.read(beginning), self.now())
        self.uploads[url] = upload
        return upload

    def submit(self, project: str, body: object) -> Transcript:
        """A new transcript; never an old one again, whatever was submitted before."""
        if not isinstance(body, dict):
            raise Refused(400, "Request body must be a JSON object")
        sentence = service_options.refusal(body)
        if sentence is not None:
            raise Refused(400, sentence)
        audio_url = body["audio_url"]
        upload = self.uploads.get(audio_url)
        if upload is not None and upload.project != project:
            raise Refused(403, "Cannot access uploaded file")
        self.settle()
        options = {name: value for name, value in body.items() if name != "audio_url"}
        options.setdefault("speech_models", [*self.default_models])
        transcript = self._new(project, audio_url, options, upload)
        self._waiting.append(transcript)
        self._open += 1
        self._start_waiting(transcript.created)
        if transcript.status == "queued":
            transcript.throttled = True
        self.peak_open = max(self.peak_open, self._open)
        return transcript

    def get(self, project: str, transcript_id: str) -> Transcript:
        """The transcript of this id. Raises `Refused` 400 if the project has none such."""
        self.settle()
        transcript = self.transcripts.get(transcript_id)
        if transcript is None or transcript.project != project:
            raise Refused(400, NOT_FOUND)
        return transcript

    def delete(self, project: str, transcript_id: str) -> Transcript:
        """The transcript, scrubbed; one still at work ends, and is paid for."""
        transcript = self.get(project, transcript_id)
        self._end(transcript, self.now())
        transcript.is_deleted = True
        transcript.status = "completed"
        self.uploads.pop(transcript.audio_url, None)
        return transcript

    def page(
        self, project: str, query: dict[str, str], url: str
    ) -> tuple[dict[str, Any], list[Transcript]]:
        """One page of the list: its page_details, and its transcripts, newest first."""
        self.settle()
        limit = _limit(query.get("limit", "10"))
        is_wanted = self._filter(project, query)
        before, after = (
            self._cursor(project, query.get(name)) for name in ("before_id", "after_id")
        )
        if before is not None and after is not None and after <= before:
            raise Refused(400, "'after_id' must be a newer transcript than 'before_id'")
        if after is not None:
            rows = self._take(range(after + 1, before or len(self._rows)), is_wanted, limit)[::-1]
        else:
            top = len(self._rows) if before is None else before
            rows = self._take(range(top - 1, -1, -1), is_wanted, limit)
        kept = {k: v for k, v in query.items() if k not in ("before_id", "after_id")}

        def link(**cursor: str) -> str:
            return f"{url}?{urlencode(kept | cursor)}"

        details = {
            "limit": limit,
            "result_count": len(rows),
            "current_url": f"{url}?{urlencode(query)}" if query else url,
            "prev_url": None,
            "next_url": None,
        }
        if rows and self._take(range(rows[-1].position - 1, -1, -1), is_wanted, 1):
            details["prev_url"] = link(before_id=rows[-1].id)
        if rows and self._take(range(rows[0].position + 1, len(self._rows)), is_wanted, 1):
            details["next_url"] = link(after_id=rows[0].id)
        return details, rows

    @property
    def next_end_in_s(self) -> float:
        """Seconds until the next transcript ends by itself, inf if only a test can bring it on."""
        if self.is_clock_manual or not self._running:
            return math.inf
        return max(0.0, self._running[0][0] - self.now())

    def settle(self) -> None:
        """Moves every transcript to where the clock says it is, in the order of the clock."""
        now = self.now()
        while self._running and self._running[0][0] <= now:
            ends_at, position = heapq.heappop(self._running)
            transcript = self._rows[position]
            if transcript.ends_at == ends_at:
                self._end(transcript, ends_at)
        self._start_waiting(now)

    # Its state over restarts.

    def snapshot(self) -> dict[str, Any]:
        """All uploads and transcripts, as JSON."""
        self.settle()
        return {
            "uploads": [dataclasses.asdict(upload) for upload in self.uploads.values()],
            "transcripts": [dataclasses.asdict(t) for t in self._rows],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes over a snapshot; what was at work begins again."""
        for row in snapshot["uploads"]:
            upload = Upload(**row | {"script": Script(**row["script"])})
            self.uploads[upload.upload_url] = upload
        for row in snapshot["transcripts"]:
            transcript = Transcript(**row | {"script": Script(**row["script"])})
            self.transcripts[transcript.id] = transcript
            self._rows.append(transcript)
            if not transcript.is_over:
                transcript.status, transcript.ends_at = "queued", math.inf
                self._waiting.append(transcript)
                self._open += 1
        self.settle()

    def _new(
        self, project: str, audio_url: str, options: dict[str, Any], upload: Upload | None = None
    ) -> Transcript:
        now = self.now()
        script = upload.script if upload else Script()
        seconds = math.ceil(upload.size_bytes / 32_000) if upload else 10
        if audio_url.startswith(UPLOADS) and (
            upload is None or now > upload.at + self.upload_life_s
        ):
            sentence = (
                f"Download error, unable to download {audio_url}. Please make sure the file "
                "exists and is accessible from the internet."
            )
            script = dataclasses.replace(script, error=sentence)
        transcript = Transcript(
            id=str(uuid.uuid4()),
            position=len(self._rows),
            project=project,
            audio_url=audio_url,
            content=upload.content if upload else audio_url,
            options=options,
            script=script,
            audio_duration=seconds if script.audio_seconds is None else script.audio_seconds,
            created=now,
            listed_from=now + self.list_lag_s,
            language=options.get("language_code") or script.language or self.language,
        )
        self._rows.append(transcript)
        self.transcripts[transcript.id] = transcript
        return transcript

    def _start_waiting(self, at: float) -> None:
        while self._waiting and self._processing < self.concurrency:
            transcript = self._waiting.popleft()
            if transcript.is_over:
                continue
            taken = transcript.script.transcript_seconds
            transcript.status = "processing"
            transcript.ends_at = at + (self.transcript_seconds if taken is None else taken)
            if transcript.throttled:
                transcript.throttled = False
            heapq.heappush(self._running, (transcript.ends_at, transcript.position))
            self._processing += 1
            self.peak_processing = max(self.peak_processing, self._processing)

    def _end(self, transcript: Transcript, at: float) -> None:
        if transcript.is_over:
            return
        if transcript.status == "processing":
            self._processing -= 1
        self._open -= 1
        failing = self._failing.get(transcript.content)
        transcript.error = failing.popleft() if failing else transcript.script.error
        if not transcript.error and transcript.model_used is None:
            # The sentence is ours; that there is no silent fallback is the vendor's.
            transcript.error = f"None of the speech_models supports '{transcript.language}'."
        transcript.ends_at = math.inf
        transcript.throttled = False if transcript.throttled is not None else None
        if transcript.error:
            transcript.status = "error"
        else:
            transcript.status = "completed"
            transcript.completed = at
            transcript.is_billed = True
        if transcript.options.get("webhook_url"):
            self.to_notify.append(transcript)
        self._start_waiting(at)

    def _filter(self, project: str, query: dict[str, str]) -> Callable[[Transcript], bool]:
        now = self.now()
        status, day = query.get("status"), query.get("created_on")
        is_throttled_only = query.get("throttled_only") == "true"
        if query.get("throttled_only", "false") not in ("true", "false"):
            raise Refused(400, "throttled_only must be a Boolean")
        if status not in (None, "queued", "processing", "completed", "error"):
            raise Refused(400, "status must be one of queued, processing, completed, error")
        try:
            wanted_day = None if day is None else date.fromisoformat(day)
        except ValueError:
            raise Refused(400, "created_on must be a date, YYYY-MM-DD") from None

        def is_wanted(row: Transcript) -> bool:
            if row.project != project or row.listed_from > now:
                return False
            if row.created < now - LISTED_FOR_S:
                return False
            if wanted_day and datetime.fromtimestamp(row.created, UTC).date() != wanted_day:
                return False
            if is_throttled_only:
                return row.throttled is True
            return status is None or row.status == status

        return is_wanted

    def _cursor(self, project: str, transcript_id: str | None) -> int | None:
        return None if transcript_id is None else self.get(project, transcript_id).position

    def _take(
        self, positions: range, is_wanted: Callable[[Transcript], bool], limit: int
    ) -> list[Transcript]:
        taken: list[Transcript] = []
        for position in positions:
            if is_wanted(self._rows[position]):
                taken.append(self._rows[position])
                if len(taken) == limit:
                    break
        return taken

    def __iter__(self) -> Iterator[Transcript]:
        self.settle()
        return iter(self._rows)


def _sha256(content: bytes | str) -> str:
    return content if isinstance(content, str) else hashlib.sha256(content).hexdigest()


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 200:
        raise Refused(400, "limit must be an integer between 1 and 200")
    return int(text)
