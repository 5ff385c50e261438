"""
`overnight reprocess --adopt`: what other tools transcribed counts as transcribed, and is not paid
for again.

    folders -> scan -> recordings  ┐
    archive -> answers in its JSON ┴> matched -> read, checked -> output folder -> ledger

In: settings, folders of recordings, a folder of JSON that is only read. Out: results where a run
would have put them, and a ledger that knows them. Nothing is sent. Cut off anywhere, it is finished
by doing it again: a result is durable before the ledger hears of it, and known once it has.
"""

import errno
import json
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from jobs.documents import Answer, answer_in, made_with
from jobs.finding import Finding, Tell
from jobs.matching import Document, Match, Names, decided
from jobs.session import Session, session
from jobs.shelf import files_below
from pipeline.durations import duration_of, is_as_long
from pipeline.errors import AnswerUnusable, DiskFull, ExitCode, RecordingError, SettingsError
from pipeline.events import Emit, Warned, printable
from pipeline.files import (
    in_thread,
    put_whole,
    sha256_of,
)
from pipeline.ledger import Reading
from pipeline.ledger.adoptions import Adoption, Adoptive
from pipeline.ledger.journal import Line, parse_line
from pipeline.models import Completion
from pipeline.names import derived, temporary
from pipeline.options import canonical
from pipeline.redaction import put_audio
from pipeline.settings import Settings
from pipeline.stages import kept_as
from pipeline.stages.scan import Listing, Scan, find_roots
from pipeline.stages.upload import Source
from pipeline.wire import redacted_suffix

__all__ = ["Adopted", "adopt"]

T = TypeVar("T")

_PAGE = 1000
_BATCH = 100
"""Results noted in one transition."""
_AT_ONCE = 8
_CHUNK_BYTES = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

_OF_A_STATE = (b"engine/", b"runs/", b"versions/")
"""What an old state folder of ours holds besides: nothing of it is the result of a recording."""


@dataclass(slots=True)
class Adopted:
    """What it came to."""

    dry_run: bool
    """Whether nothing was written: what is adopted is what would be."""
    recordings: int = 0
    """Found in the folders."""
    documents: int = 0
    """Completed transcripts in the archive."""
    adopted: int = 0
    """Results that are ours from here on."""
    plain: int = 0
    """Of those: made with no option, though some are asked for; they count all the same."""
    known: int = 0
    """Documents whose transcript its recording has already, and copies of one that was taken."""
    without: int = 0
    """Recordings that no result is known of: what a run would ask for."""
    findings: Counter[str] = field(default_factory=Counter)
    """How many documents were left, by kind."""

    @property
    def exit_code(self) -> ExitCode:
        """Whether there are documents that the user has to look at."""
        return ExitCode.PARTIAL if self.findings else ExitCode.DONE

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "adopted",
            "exit_code": int(self.exit_code),
            "dry_run": self.dry_run,
            "recordings": self.recordings,
            "documents": self.documents,
            "adopted": self.adopted,
            "plain": self.plain,
            "known": self.known,
            "without": self.without,
            "findings": dict(self.findings),
        }

    def __str__(self) -> str:
        left = ", ".join(f"{count} {kind}" for kind, count in self.findings.items())
        plain = (
            f"\n{self.plain} of them were made with no option: they count, whatever a run asks for;"
            " `overnight reprocess` makes them anew"
        )
        return (
            f"{self.adopted} results {'would be' if self.dry_run else 'are'} adopted,"
            f" {self.known} known before; documents left: {left or 'none'};"
            f" {self.without} of {self.recordings} recordings are without a result"
            f"{plain if self.plain else ''}"
        )


async def adopt(
    settings: Settings,
    folders: Sequence[Path],
    archive: Path,
    tell: Tell,
    *,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
) -> Adopted:
    """
    Take what lies in the archive for results of ours; each, and what is left, goes to `tell`.

    Raises:
        SettingsError: the archive or a folder cannot be read, or nothing says where results go.
        BatchError: as `session` does.
    """
    if not await anyio.Path(archive).is_dir():
        raise SettingsError(f"the archive `{archive}` is no folder that can be read")
    roots = await to_thread.run_sync(find_roots, [str(folder) for folder in folders])
    async with session(settings, roots=roots, is_offline=True, emit=emit, environ=environ) as run:
        work = _Work(run, os.fsencode(archive), tell)
        scan = Scan(
            settings,
            roots,
            listing=Listing(os.fsencode(settings.output or ""), run.started_at),
            leave_out=[os.fsencode(settings.output or ""), os.fsencode(settings.state_dir)],
        )
        await scan.run(run.context.ledger, _only_warnings(run.totals))
        await work.adopt()
    return work.adopted


def _only_warnings(emit: Emit) -> Emit:
    """What is found is no news here."""
    return lambda event: emit(event) if isinstance(event, Warned) else None


class _Work:
    """One adoption: what it holds in memory are names, ids and digests."""

    def __init__(self, run: Session, archive: bytes, tell: Tell) -> None:
        self.adopted = Adopted(dry_run=run.context.settings.dry_run)
        self._context = run.context
        self._settings = run.context.settings
        self._archive = archive
        self._tell = tell
        self._recordings: dict[int, Adoptive] = {}
        self._noted: dict[str, Line] = {}
        self._readings: dict[int, Reading] = {}

    async def adopt(self) -> None:
        """Match, check, save, note."""
        ledger, last = self._context.ledger, 0
        while page := await ledger.adoptive_after(last, _PAGE):
            self._recordings |= {each.recording_id: each for each in page}
            last = page[-1].recording_id
        documents = await self._documents()
        named, unnamed = self._by_name(documents)
        taken = await self._read_all(named)
        to_find = [*unnamed, *(each.document for each in named if each not in taken)]
        taken += await self._by_content([each for each in to_find if each.content], taken)
        matches = self._alike(taken)
        for at in range(0, len(matches), _BATCH):
            await self._take(matches[at : at + _BATCH])
        self.adopted.recordings = len(self._recordings)
        self.adopted.documents = len(documents)
        free = sum(each.why_not is None for each in self._recordings.values())
        self.adopted.without = free - self.adopted.adopted

    def _leave(self, kind: str, document: bytes, what: str, transcript_id: str = "") -> None:
        """Say of a document why it is not adopted."""
        self.adopted.findings[kind] += 1
        self._tell(Finding(kind, printable(document), what, transcript_id or None))

    def _label(self, recording_id: int) -> str:
        recording = self._recordings[recording_id]
        return f"`{self._context.label(recording.root, recording.path)}`"

    # --- documents --------------------------------------------------------------------------------

    async def _documents(self) -> list[Document]:
        """Every completed transcript in the archive."""
        state = os.fsencode(self._settings.state_dir)
        names = await to_thread.run_sync(_files, self._archive, state)
        journals = [name for name in names if name.endswith(b"/attempts.ndjson")]
        for name in journals:
            self._noted |= await _lines(os.path.join(self._archive, name))
        states = {name.rpartition(b"runs/")[0] for name in journals}
        no_results = tuple(state + inside for state in states for inside in _OF_A_STATE)
        documents: list[Document] = []
        for name in names:
            if name.endswith(b".json") and not name.startswith(no_results):
                try:
                    answer, digest, _ = await self._read(name)
                except AnswerUnusable as error:
                    self._leave("unusable", name, str(error))
                    continue
                content = answer.content
                if content is None and answer.head.id in self._noted:
                    content = self._noted[answer.head.id].content
                documents.append(Document(name, answer.head.id, digest, content))
        return documents

    async def _read(self, name: bytes) -> tuple[Answer, str, float]:
        """
        The answer in a document, its sha256, and when the document was last changed.

        Raises:
            AnswerUnusable: it cannot be read, or there is none in it.
        """
        try:
            return await _answer(os.path.join(self._archive, name), self._settings.max_answer)
        except OSError as error:
            raise AnswerUnusable(f"it cannot be read: {error.strerror}") from error

    # --- matching ---------------------------------------------------------------------------------

    def _by_name(self, documents: Iterable[Document]) -> tuple[list[Match], list[Document]]:
        """Which are of which recording by their names, and which may be found by content."""
        names = Names(
            (each.recording_id, (each.path, each.result.removesuffix(b".json")))
            for each in self._recordings.values()
        )
        has = {each.transcript_id for each in self._recordings.values() if each.why_not}
        matches: list[Match] = []
        to_find: list[Document] = []
        for document in documents:
            closeness, ids = names.of(document.name)
            free = [e for e in ids if self._recordings[e].takes(document.transcript_id)]
            if document.transcript_id in has and not free:
                self.adopted.known += 1
            elif len(ids) == 1 and free:
                matches.append(Match(document, free[0], closeness))
            elif document.content is not None:
                to_find.append(document)
            elif len(ids) == 1:
                (of,) = ids
                what = f"it is of {self._label(of)}, and {self._recordings[of].why_not}"
                self._leave("taken", document.name, what, document.transcript_id)
            elif ids:
                some = " and ".join(sorted(self._label(each) for each in ids)[:2])
                what = f"it may be of {some}"
                self._leave("ambiguous", document.name, what, document.transcript_id)
            else:
                what = "it is of no recording in the folders"
                self._leave("unmatched", document.name, what, document.transcript_id)
        return self._decided(matches), to_find

    def _decided(self, matches: Sequence[Match]) -> list[Match]:
        chosen, left = decided(matches)
        for match, other in left:
            what = f"{self._label(match.recording_id)} has `{printable(other.name)}` as well"
            self._leave("ambiguous", match.document.name, what, match.document.transcript_id)
        self.adopted.known += len(matches) - len(chosen) - len(left)
        return chosen

    async def _read_all(self, matches: Sequence[Match]) -> list[Match]:
        """Those whose recording can be read, and holds what the document notes, if it does."""
        recordings = [self._recordings[match.recording_id] for match in matches]
        await _each(self._note_reading, recordings)
        taken: list[Match] = []
        for match in matches:
            read, content = self._readings.get(match.recording_id), match.document.content
            if read is not None and content in (None, read.content):
                taken.append(match)
            elif content is None:
                what = f"{self._label(match.recording_id)} cannot be read"
                self._leave("mismatch", match.document.name, what, match.document.transcript_id)
        return taken

    async def _note_reading(self, recording: Adoptive) -> None:
        where = self._context.where(recording.root, recording.path)
        follow = self._settings.follow_links
        try:
            async with await Source.open(
                where, follow_links=follow, chunk_bytes=_CHUNK_BYTES
            ) as source:
                self._readings[recording.recording_id] = await source.read()
        except RecordingError as error:
            label = self._context.label(recording.root, recording.path)
            self._context.emit(Warned(message=f"{label}: {error}"))

    async def _by_content(
        self, documents: Sequence[Document], taken: Sequence[Match]
    ) -> list[Match]:
        """The same by what recordings hold: all others that can take a result are read for it."""
        if not documents:
            return []
        is_taken = {match.recording_id for match in taken}
        left = [
            each
            for each in self._recordings.values()
            if (each.why_not is None or each.is_lost) and each.recording_id not in is_taken
        ]
        await _each(self._note_reading, [e for e in left if e.recording_id not in self._readings])
        holding: defaultdict[str, list[int]] = defaultdict(list)
        for each in left:
            if read := self._readings.get(each.recording_id):
                holding[read.content].append(each.recording_id)
        matches: list[Match] = []
        for document in documents:
            alike = holding.get(document.content or "", ())
            free = [e for e in alike if self._recordings[e].takes(document.transcript_id)]
            matches += [Match(document, recording_id, 0) for recording_id in free]
            if not free:
                what = "no recording that lacks a result holds the bytes that it is of"
                self._leave("unmatched", document.name, what, document.transcript_id)
        return self._decided(matches)

    def _alike(self, matches: Sequence[Match]) -> list[Match]:
        """Without transcripts that would be of recordings which hold different bytes."""
        contents: defaultdict[str, set[str]] = defaultdict(set)
        for match in matches:
            read = self._readings[match.recording_id]
            contents[match.document.transcript_id].add(read.content)
        alike: list[Match] = []
        for match in matches:
            if len(contents[match.document.transcript_id]) == 1:
                alike.append(match)
            else:
                what = "another document has this transcript for other bytes"
                self._leave("ambiguous", match.document.name, what, match.document.transcript_id)
        return alike

    # --- taking -----------------------------------------------------------------------------------

    async def _take(self, matches: Sequence[Match]) -> None:
        """Put results where a run would have put them, then say so in the ledger."""
        ready: dict[int, Adoption] = {}

        async def prepare(match: Match) -> None:
            try:
                ready[match.recording_id] = await self._put(match)
            except AnswerUnusable as error:
                self._leave(
                    "mismatch", match.document.name, str(error), match.document.transcript_id
                )
            except OSError as error:
                if error.errno in _NO_ROOM:
                    raise DiskFull(f"no room for results: {error.strerror}") from error
                what = f"its result cannot be saved: {error.strerror}"
                self._leave("unsaved", match.document.name, what, match.document.transcript_id)

        await _each(prepare, matches)
        done = [match for match in matches if match.recording_id in ready]
        refused = await self._context.ledger.record_adopted(
            [ready[match.recording_id] for match in done]
        )
        for match, why_not in zip(done, refused, strict=True):
            document, recording = match.document, self._recordings[match.recording_id]
            if why_not:
                self._leave("taken", document.name, why_not, document.transcript_id)
                continue
            self.adopted.adopted += 1
            is_plain = ready[match.recording_id].is_plain
            self.adopted.plain += is_plain and recording.options != "{}"
            what = f"{self._label(match.recording_id)} has `{printable(document.name)}`"
            place = printable(recording.result)
            self._tell(Finding("adopted", place, what, document.transcript_id))

    async def _put(self, match: Match) -> Adoption:
        """
        A result that is durable, unless this is a dry run, and what the ledger is to know of it.

        Raises:
            AnswerUnusable: it is not what it was before, or speaks of another recording.
            OSError: it cannot be saved.
        """
        recording, document = self._recordings[match.recording_id], match.document
        answer, digest, changed_at = await self._read(document.name)
        if digest != document.digest:
            raise AnswerUnusable("it changed while it was being read")
        head, noted = answer.head, self._noted.get(document.transcript_id)
        asked = json.loads(recording.options)
        options = bytes(noted.options).decode() if noted else canonical(made_with(asked, answer))
        is_whole = not json.loads(options).keys() & {"audio_start_from", "audio_end_at"}
        if is_whole and head.audio_duration is not None:
            await self._check_seconds(match, head.audio_duration)
        adoption = Adoption(
            recording_id=recording.recording_id,
            read=self._readings[recording.recording_id],
            transcript_id=head.id,
            audio_url=head.audio_url,
            options=options,
            provider=noted.provider if noted else self._context.ledger.run.provider_kind,
            base_url=noted.base_url if noted else self._context.ledger.run.base_url,
            key_fingerprint=noted.key_fingerprint if noted else "",
            made_at=noted.accepted_at if noted else changed_at,
            completion=Completion(
                head.speech_model_used,
                head.audio_duration,
                None,  # it was paid, but not by us
                head.confidence,
                head.language_code,
                head.odd,
            ),
            size=len(answer.body),
            digest=digest,
        )
        # What the ledger refuses is told when it does; no file of it is left in that place.
        if self._settings.dry_run or await self._context.ledger.why_not_adopted(adoption):
            return adoption
        place = self._context.place(recording.result)
        if await sha256_of(place) != digest:
            await put_whole(
                answer.body, temporary(place), place, digest, kept_as(self._context, place)
            )
        if suffix := redacted_suffix(json.loads(options)):
            beside = os.path.join(self._archive, derived(document.name, suffix))
            audio = derived(place, suffix)
            await put_audio(beside, audio, kept_as(self._context, audio))
        return adoption

    async def _check_seconds(self, match: Match, said_s: float) -> None:
        recording = self._recordings[match.recording_id]
        where = self._context.where(recording.root, recording.path)
        try:
            duration = await duration_of(where, self._readings[match.recording_id].size)
        except OSError as error:
            raise AnswerUnusable(f"its recording cannot be read: {error.strerror}") from error
        if duration.is_probed and not is_as_long(duration.seconds, said_s):
            raise AnswerUnusable(
                f"it is of {said_s:.0f} s of audio, and {self._label(match.recording_id)} has"
                f" {duration.seconds:.0f} s"
            )


async def _each(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """The same work with each, a few at a time."""
    left = iter(items)

    async def go_on() -> None:
        for item in left:
            await work(item)

    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(go_on)


def _files(archive: bytes, state: bytes) -> list[bytes]:
    """What lies in the archive, but for our own state, in order."""
    return sorted(files_below(archive, os.path.realpath(state)))


@in_thread
def _answer(place: bytes, max_bytes: int) -> tuple[Answer, str, float]:
    with open(place, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size > max_bytes:
            raise AnswerUnusable(f"it is larger than an answer may be (`max_answer`, {max_bytes})")
        answer = answer_in(file.read())
    return answer, sha256(answer.body).hexdigest(), found.st_mtime


@in_thread
def _lines(journal: bytes) -> dict[str, Line]:
    """What a run of ours noted of the transcripts that it asked for, by their ids."""
    with open(journal, "rb") as file:
        lines = [line for line in map(parse_line, file) if line and not line.claimed]
    return {line.transcript_id: line for line in lines}
