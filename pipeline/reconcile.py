"""
What became of attempts whose answer was lost: in, pages of the service's list; out, who is adopted.

The service takes no idempotency key, but each upload has an address of its own, and the list
echoes it, in whatever spelling. So one walk of the list answers for all lost answers: newest first,
without a filter, down past the oldest row that was known before any of them was sent. Position is
what counts, not clocks. A row is taken once a GET of its id says the same. What no complete walk
shows once `settle` has passed was not accepted, and is due again. A list that cannot be walked
proves nothing, nor does a row that cannot be read of those that are older than it.

Source: https://github.com/AssemblyAI/assemblyai-api-spec, openapi.yml, listTranscripts: order by
creation, `before_id` for older rows, `audio_url` required in each.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio

from pipeline.addresses import address_path, same_upload
from pipeline.client import Client
from pipeline.errors import (
    AnswerUnusable,
    AttemptsExhausted,
    BatchError,
    RecordingError,
    TranscriptUnknown,
)
from pipeline.events import Emit, Submitted, Warned, label
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.ledger.books import other_key
from pipeline.models import Unresolved
from pipeline.outages import Outages
from pipeline.wire import Row, check_id, first_id, last_id, parse_head

__all__ = ["UNKNOWN_ANCHOR", "Reconciler", "next_look_s"]

UNKNOWN_ANCHOR = "?"
"""
An anchor that no row has: of a submit when nobody knew what the list held. Such a walk goes to the
end of the list, and an empty list proves nothing.
"""

_LOOKS_S = (0.0, 5.0, 15.0, 60.0)
_LOOK_EVERY_S = 60.0
_PAGES_PER_S = 10.0
_TRIES = 3
_NEVER_SETTLED = "nobody knows whether the service accepted it (`--settle never`)"
_CLAIMED = (
    "its answer gave the id {id}, which may be that of another upload: nothing is asked for until"
    " the list shows what became of it, or you say so with `overnight verify --claim {id}=PATH` or"
    " `--disclaim {id}`"
)
_MOST_SIGHTED = 20  # of one attempt: more are shown only where addresses tell uploads badly apart
_MOST_ASKED = 20  # rows that do not say what they are of, in a walk
_label = partial(label, {})
_UNREAD_ROW = "the service's list cannot be read: a newer row does not say what it is of"
_RANK = {"completed": 0, "error": 2}  # of several, the likeliest to be paid; all else is not over


def next_look_s(age_s: float, settle_s: float | None) -> float:
    """
    The age, seconds, at which an attempt is looked for next.

    Looks come at 0, 5, 15 and 60 s, then every minute, and one at `settle_s`, after which a
    complete look is the last; None never settles.
    """
    looks = [at for at in _LOOKS_S if at > age_s]
    following = looks[0] if looks else (age_s // _LOOK_EVERY_S + 1) * _LOOK_EVERY_S
    return following if settle_s is None or age_s >= settle_s else min(following, settle_s)


@dataclass(slots=True)
class _Search:
    """What this run knows of one lost answer."""

    # By a clock that nobody sets: one that jumps ahead must not prove that a row is not there.
    # So what an earlier run left settles anew, beside the work of this one.
    since: float
    looked_at: float | None = None
    sighted: dict[str, Row] = field(default_factory=dict)
    """Rows that some page has shown, by id. One that is not listed any more was accepted too."""
    doubts: set[str] = field(default_factory=set)
    """Why rows that may be of it are not taken, as far as that was told."""

    def due_s(self, now: float, settle_s: float | None) -> float:
        """Seconds until the next look."""
        if self.looked_at is None:
            return 0.0
        return self.since + next_look_s(self.looked_at - self.since, settle_s) - now


class Reconciler:
    """Resolves the ambiguous attempts of a ledger; holds no worker and no place meanwhile."""

    def __init__(
        self,
        ledger: Ledger,
        client: Client,
        intake: Intake,
        outages: Outages,
        emit: Emit,
        settle_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        label: Callable[[str, bytes], str] = _label,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._intake = intake
        self._outages = outages
        self._outages_over = outages.over["list"]
        self._emit = emit
        self._settle_s = settle_s
        self._patience_s = _LOOKS_S[-1] if settle_s is None else settle_s
        self._clock = clock
        self._label = label
        self._addresses: dict[str, str | None] = {}  # of rows that did not say it, by id
        self._searches: dict[str, _Search] = {}  # by upload_url
        self._by_path: defaultdict[str, list[str]] = defaultdict(list)  # the same urls
        self._rests_until = clock()
        self._woken = anyio.Event()
        self._is_finished = False
        self.newest_listed: str | None = None
        """Id of the newest transcript that is known to be listed."""

    def seen(self, rows: Sequence[Row], *, is_newest: bool) -> None:
        """Take note of a page, whoever has read it; `is_newest` if the list begins so."""
        if is_newest and (newest := first_id(rows)):
            self.newest_listed = newest
        for row in rows if self._searches else ():
            for upload_url in self._alike(row.audio_url):
                search = self._searches[upload_url]
                if row.id not in search.sighted and len(search.sighted) < _MOST_SIGHTED:
                    search.sighted[row.id] = row
                    search.looked_at = None
                    self.wake()

    def _alike(self, audio_url: str | None) -> list[str]:
        """Which of the uploads that are looked for an address may be that of."""
        if audio_url is None or audio_url in self._searches:
            return [] if audio_url is None else [audio_url]
        alike = self._by_path.get(address_path(audio_url), ())
        return [each for each in alike if same_upload(each, audio_url)]

    def wake(self) -> None:
        """There may be an answer to look for."""
        self._woken.set()

    def finish(self) -> None:
        """Nothing can become ambiguous any more."""
        self._is_finished = True
        self.wake()

    async def run(self) -> None:
        """Look for lost answers until `finish`; park what cannot be decided in this run."""
        while not self._is_finished and self._intake.collects:
            self._woken = anyio.Event()
            unresolved = await self._ledger.unresolved()
            wait_s = self._wait_s(unresolved)
            if wait_s > 0:
                with anyio.move_on_after(wait_s):
                    await self._woken.wait()
                continue
            with self._intake.fetching():
                await self._look(unresolved)
            self._intake.changed()

    def _wait_s(self, unresolved: Sequence[Unresolved]) -> float:
        """Seconds until a look is due for any of these."""
        now, known = self._clock(), self._searches
        urls = [each.upload_url for each in unresolved]
        self._searches = {url: known.get(url) or _Search(now) for url in urls}
        self._by_path.clear()
        for url in urls:
            self._by_path[address_path(url)].append(url)
        due_s = [search.due_s(now, self._settle_s) for search in self._searches.values()]
        return max(min(due_s, default=_LOOK_EVERY_S), self._rests_until - now)

    async def _look(self, unresolved: Sequence[Unresolved]) -> None:
        """One walk for all: adopt what it shows, conclude on what it does not."""
        began = self._clock()
        for search in self._searches.values():
            search.looked_at = began
        try:
            found, unproven = await self._walk(unresolved)
        except RecordingError as error:
            await self._give_up(unresolved, error)
        except BatchError as error:
            self._intake.end(error)
            await self._give_up(unresolved, error)
        else:
            await self._conclude(unresolved, found, unproven, began)

    async def _walk(
        self, unresolved: Sequence[Unresolved]
    ) -> tuple[dict[str, list[Row]], set[str]]:
        """
        The rows of every lost attempt, by `audio_url`; returns only when the walk was complete.

        And the addresses of those whose absence it does not prove: above their anchor is a row of
        which nobody knows what it is of.

        Raises:
            RecordingError: a page could not be read, or is one of those before it again; or there
                is none, though an anchor was listed.
        """
        anchors = {each.anchor for each in unresolved}
        found: dict[str, list[Row]] = {each.upload_url: [] for each in unresolved}
        before_id, cursors, unproven = None, set[str](), set[str]()
        most = len(self._addresses) + _MOST_ASKED

        def doubt() -> None:
            unproven.update(each.upload_url for each in unresolved if each.anchor in anchors)

        while True:
            # A long list is walked less often: nothing else waits long for its own requests.
            self._rests_until = max(self._rests_until, self._clock()) + 1 / _PAGES_PER_S
            rows = await self._outages.retry(
                "list", partial(self._client.list, before_id=before_id)
            )
            if not rows and not cursors and any(anchors):
                raise AnswerUnusable("the list is empty, and was not")
            self.seen(rows, is_newest=before_id is None)
            for row in rows:
                anchors.discard(row.id)
                if row.audio_url is None and anchors:
                    row.audio_url = await self._address(row.id, most)
                if row.audio_url is None:
                    doubt()
                for upload_url in self._alike(row.audio_url):
                    found[upload_url].append(row)
            before_id = last_id(rows)
            if rows and before_id is None:  # what is below them cannot be asked for
                doubt()
            # Every anchor passed: whatever is further down was there before the first of them.
            if not anchors or before_id is None:
                return found, unproven
            if before_id in cursors:
                raise AnswerUnusable("the list does not go on")
            cursors.add(before_id)

    async def _address(self, transcript_id: str, most: int) -> str | None:
        """
        What a row is of that does not say it, None if it cannot be known.

        A GET of its id is asked, once, while fewer than `most` are known so.
        """
        if transcript_id not in self._addresses and len(self._addresses) < most:
            try:
                self._addresses[transcript_id] = await self._outages.retry(
                    "get", partial(self._said, transcript_id)
                )
            except AttemptsExhausted:
                return None  # it says nothing: the next walk asks again
            except RecordingError:
                self._addresses[transcript_id] = None
        return self._addresses.get(transcript_id)

    async def _conclude(
        self,
        unresolved: Sequence[Unresolved],
        found: dict[str, list[Row]],
        unproven: set[str],
        began: float,
    ) -> None:
        """What a complete walk that began then says of each; `unproven` is nobody's absence."""
        doubtful: dict[str, list[Unresolved]] = {}
        self._begin_anew()
        for attempt in unresolved:
            search = self._searches[attempt.upload_url]
            rows = found[attempt.upload_url] or list(search.sighted.values())
            why_not = await self._adopt(attempt, rows)
            if why_not is None or began - search.since < self._patience_s:
                continue
            elif why_not:
                doubtful.setdefault(why_not, []).append(attempt)
            elif attempt.claimed_id is not None:
                reason = _CLAIMED.format(id=attempt.claimed_id)
                doubtful.setdefault(reason, []).append(attempt)
            elif attempt.upload_url in unproven:  # whatever rows of others may look like its own
                doubtful.setdefault(_UNREAD_ROW, []).append(attempt)
            elif not attempt.is_ours:
                doubtful.setdefault(other_key(attempt.key_fingerprint), []).append(attempt)
            elif self._settle_s is None:
                doubtful.setdefault(_NEVER_SETTLED, []).append(attempt)
            else:
                tries = None if self._outages.is_down("submit") else _TRIES
                await self._ledger.record_not_accepted(attempt.attempt_id, tries)
                self._intake.allowance.release(attempt.attempt_id)
                self._outages.decided(attempt.attempt_id)
        for reason, attempts in doubtful.items():
            await self._park(attempts, reason)

    def _begin_anew(self) -> None:
        """Count only time in which the list answers: after an outage of it from the beginning."""
        if self._outages_over != self._outages.over["list"]:
            self._outages_over = self._outages.over["list"]
            for search in self._searches.values():
                search.since = self._clock()

    async def _give_up(self, unresolved: Sequence[Unresolved], error: Exception) -> None:
        """What a list that cannot be walked leaves: time may mend it, but not for ever."""
        if self._outages.is_total:
            return
        now, undecided = self._clock(), []
        for attempt in unresolved:
            search = self._searches[attempt.upload_url]
            if now - search.since < self._patience_s:
                continue
            if await self._adopt(attempt, list(search.sighted.values())) is not None:
                undecided.append(attempt)
        await self._park(undecided, f"the service's list cannot be read: {error}")

    async def _adopt(self, attempt: Unresolved, rows: list[Row]) -> str | None:
        """
        Take the best of the rows of one upload, newest first, and tell the others.

        None once one is taken; else why those are not that may be of it, "" where there are none.
        """
        exact_first = sorted(
            [
                row
                for row in rows[::-1]
                if attempt.attempt_id in await self._named(attempt, row.audio_url, row.id)
            ],
            key=lambda row: (row.audio_url != attempt.upload_url, _RANK.get(row.status, 1)),
        )
        why_not = ""
        for best in exact_first:
            doubt = await self._doubt(attempt, best)
            if doubt is None:
                self._taken(attempt, best, [row for row in exact_first if row is not best])
                return None
            why_not = why_not or doubt
        if why_not and why_not not in (told := self._searches[attempt.upload_url].doubts):
            told.add(why_not)
            self._emit(Warned(message=why_not))
        return why_not

    async def _named(
        self, attempt: Unresolved, audio_url: str | None, transcript_id: str
    ) -> list[int]:
        """Whose upload an address of a transcript may be; asks nobody where it is exact."""
        if audio_url == attempt.upload_url:
            return [attempt.attempt_id]
        return await self._ledger.named_by(audio_url or "", transcript_id)

    async def _doubt(self, attempt: Unresolved, row: Row) -> str | None:
        """Why a row is not taken for that of an attempt; None once the ledger has noted its id."""
        ledger, ours = self._ledger, [attempt.attempt_id]
        if await self._named(attempt, row.audio_url, row.id) != ours:
            return f"the service lists {row.id} with an address that several uploads may have"
        try:
            said = self._addresses.get(row.id) or await self._outages.retry(
                "get", partial(self._said, check_id(row.id))
            )
        except (RecordingError, BatchError) as error:
            if isinstance(error, BatchError):
                self._intake.end(error)
            return f"the service lists {row.id}, which cannot be looked at: {error}"
        if said is None and row.audio_url != attempt.upload_url:
            return f"the service lists {row.id}, and does not say of what upload that is"
        if said is not None and await self._named(attempt, said, row.id) != ours:
            return f"the service lists {row.id}, and says then that it is of another upload"
        if not await ledger.record_accepted(attempt.attempt_id, row.id):
            return f"the service lists {row.id} for two uploads"
        return None

    async def _said(self, transcript_id: str) -> str | None:
        """The address that a transcript says it is of; None where it says none, or is gone."""
        try:
            head = parse_head(await self._client.answer(transcript_id))
        except TranscriptUnknown:
            return None
        if head.id != transcript_id:
            raise AnswerUnusable(f"the service answered with the transcript {head.id}")
        return None if head.is_deleted else head.audio_url

    def _taken(self, attempt: Unresolved, best: Row, others: Sequence[Row]) -> None:
        named = self._label(attempt.root, attempt.path)
        self._emit(Submitted(recording=named, transcript_id=best.id))
        self._intake.entered(attempt.attempt_id)
        self._outages.decided(attempt.attempt_id)
        self._ledger.trust_key(attempt.key_fingerprint)  # one list, one project
        for other in others:
            self._emit(
                Warned(
                    message=f"the service lists one upload twice: transcript {other.id}"
                    f" is not used, {best.id} is"
                )
            )

    async def _park(self, attempts: Sequence[Unresolved], reason: str) -> None:
        if attempts:
            await self._ledger.park([each.attempt_id for each in attempts], reason)
            for each in attempts:  # it may well be paid
                self._intake.allowance.settle(each.attempt_id, None, None)
                self._outages.decided(each.attempt_id)
