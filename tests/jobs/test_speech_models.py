"""Speech models over the life of an archive: new defaults, old names, unknown prices, refusals."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Completed, Warned
from pipeline.progress import render_summary
from pipeline.speech_models import DEFAULT_SPEECH_MODELS
from tests.support.nights import sound
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

OLD = "universal-3-5-pro"
CONTENTS = {"a.wav": sound(3600, "one"), "b/b.wav": sound(1800, "two")}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        yield archive


def did_the_work(model: str | None) -> Fault:
    """From now on the service says of what is finished that this model did it."""
    return Fault(on="get", action="patch", patch={"speech_model_used": model}, times=None)


def used(archive: Archive) -> dict[str, str]:
    """The model of each result, by its recording."""
    return {
        name.removesuffix(".json"): json.loads(result)["speech_model_used"]
        for name, result in archive.results().items()
    }


# --- a new default --------------------------------------------------------------------------------


async def test_the_default_models_are_asked_for_by_name(archive: Archive) -> None:
    """What the account's own default is does not matter: each request names its models."""
    archive.service.default_models = (OLD, "universal-2")

    await archive.run()

    for content in CONTENTS.values():
        (transcript,) = archive.service.accepted(content)
        assert transcript.options["speech_models"] == list(DEFAULT_SPEECH_MODELS)
    assert used(archive) == dict.fromkeys(CONTENTS, DEFAULT_SPEECH_MODELS[0])


@pytest.mark.parametrize("is_finished", [True, False])
async def test_a_new_default_pays_for_nothing_again(archive: Archive, is_finished: bool) -> None:
    """What was made or asked for while another model was the default is as asked for still."""
    archive.service.faults.add(did_the_work(OLD))
    if is_finished:
        await archive.run()
    else:
        archive.service.transcript_seconds = 1e9
        async with anyio.create_task_group() as group:
            group.start_soon(archive.run)
            while len(archive.service.transcripts) < len(CONTENTS):
                await archive.service.changed.wait()
            group.cancel_scope.cancel()
        for transcript_id in archive.service.transcripts:
            archive.service.complete(transcript_id)
    before, asked = archive.results(), archive.service.requests["submit"]

    outcome = await archive.run(redo_changed=True)

    assert archive.service.requests["submit"] == asked == len(CONTENTS)
    assert (outcome.summary.kept, outcome.summary.exit_code) == (0, ExitCode.DONE)
    assert used(archive) == dict.fromkeys(CONTENTS, OLD)
    assert before in (archive.results(), {})
    # As every release had it: the bytes, what the user set, and the kind of provider.
    keys = {key for (key,) in await archive.rows("SELECT request_key FROM recordings")}
    assert keys == {
        sha256(f"{sha256(content).hexdigest()}\n{{}}\ncustom".encode()).hexdigest()
        for content in CONTENTS.values()
    }


@pytest.mark.parametrize(
    ("given", "used_model"),
    [
        ({}, "universal-2"),
        ({"transcript": {"speech_models": ["assemblyai-stt-3-7"]}}, None),
    ],
)
async def test_nothing_falls_back_to_what_was_not_asked_for(
    archive: Archive, given: dict[str, Any], used_model: str | None
) -> None:
    """A language that only the last of the default models knows is its own price, else an error."""
    archive.service.language = "uk"

    outcome = await archive.run(**given)

    assert used(archive) == (dict.fromkeys(CONTENTS, used_model) if used_model else {})
    assert outcome.summary.cost_usd == pytest.approx(1.5 * 0.15 if used_model else 0)
    assert outcome.summary.failed == (0 if used_model else 2)
    assert all("'uk'" in reason for reason in outcome.summary.reasons.get("failed", {}))
    assert archive.service.billable.total() == (2 if used_model else 0)


# --- a price that nobody knows --------------------------------------------------------------------


async def test_a_model_without_a_price_makes_the_cost_unknown(archive: Archive) -> None:
    """What did the work and has no price is told once, and no sum pretends to know it."""
    archive.service.faults.add(did_the_work("unheard-of"))

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.cost_usd) == (2, None)
    assert [each.cost_usd for each in outcome.of(Completed)] == [None, None]
    (warned,) = outcome.of(Warned)
    assert "`unheard-of` did the work, and has no price here" in warned.message
    assert "$0.21 an hour" in warned.message
    assert "at an unknown cost" in render_summary(outcome.summary)


async def test_a_model_of_no_name_is_no_unknown_model(archive: Archive) -> None:
    """What did the work and is not said counts as what was asked for, without a word."""
    archive.service.faults.add(did_the_work(None))

    outcome = await archive.run(max_cost=5)

    assert (outcome.summary.written, outcome.summary.cost_usd) == (2, None)
    assert outcome.of(Warned) == []


async def test_what_an_unknown_model_costs_counts_against_the_cap_of_a_run(
    archive: Archive,
) -> None:
    """Under a cap it counts at the dearest price known: nobody knows that it is cheaper."""
    for number in range(10):
        archive.add(f"{number}.wav", sound(3600, f"{number}"))
    archive.service.faults.add(did_the_work("unheard-of"))
    as_expected = 12 * 0.21

    outcome = await archive.run(max_cost=as_expected, prices={"dear": 1}, uploads=1, concurrency=1)

    assert outcome.summary.exit_code == ExitCode.CAP_REACHED
    assert 0 < outcome.summary.written < 6


@pytest.mark.parametrize(
    ("prices", "goes_on"), [({"dear": 0.4}, False), ({"dear": 0.4, "unheard-of": 0.3}, True)]
)
async def test_what_an_unknown_model_cost_counts_in_the_month(
    archive: Archive, prices: dict[str, float], goes_on: bool
) -> None:
    """The next run counts it so as well, unless somebody has said meanwhile what it costs."""
    archive.service.faults.add(did_the_work("unheard-of"))
    await archive.run(limit=1)

    outcome = await archive.run(max_cost_month=0.5, prices=prices)

    assert outcome.summary.written == int(goes_on)
    assert outcome.summary.exit_code == (ExitCode.DONE if goes_on else ExitCode.CAP_REACHED)


@pytest.mark.parametrize("cap", ["max_cost", "max_cost_month"])
@pytest.mark.parametrize(
    "given",
    [
        {"transcript": {"speech_models": ["universal-2", "unheard-of"]}},
        {"transcript": {"+speech_models": ["unheard-of"]}},
        {"rules": [{"match": "b/*", "speech_models": ["unheard-of"]}]},
    ],
)
async def test_a_cap_on_cost_needs_the_price_of_what_is_asked_for(
    archive: Archive, given: dict[str, Any], cap: str
) -> None:
    """A model without a price that is asked for is refused before anything is sent."""
    with pytest.raises(SettingsError, match=r"`unheard-of`.* `\[prices\]`") as refused:
        await archive.run(**given, **{cap: 1})

    assert refused.value.exit_code == ExitCode.USAGE
    assert archive.service.requests == {}


# --- names that are going -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {}),
        ({"transcript": {"speech_models": ["universal-2"]}}, {}),
        ({"transcript": {"speech_models": [OLD, "universal-2"]}}, {OLD: "deprecated"}),
        ({"transcript": {"+speech_models": [OLD]}}, {OLD: "deprecated"}),
        ({"rules": [{"match": "b/*", "speech_models": [OLD]}] * 2}, {OLD: "deprecated"}),
        (
            {"transcript": {"speech_models": [OLD, "universal-3-pro"]}, "dry_run": True},
            {OLD: "deprecated", "universal-3-pro": "retired"},
        ),
    ],
)
async def test_a_name_that_is_going_is_told_once(
    archive: Archive, given: dict[str, Any], told: dict[str, str]
) -> None:
    """A run says once of each deprecated or retired name that it may ask for that it is one."""
    outcome = await archive.run(**given)

    warned = [warning.message for warning in outcome.of(Warned)]
    assert len(warned) == len(told)
    for said, (name, state) in zip(warned, told.items(), strict=True):
        assert f"the speech model `{name}` is {state} since" in said
    assert outcome.summary.exit_code == ExitCode.DONE


# --- names that are refused -----------------------------------------------------------------------

LISTS = '"speech_models" must be a non-empty list containing one or more of: "stt-4", "universal-2"'


def refuses(*lists: list[str], said: str = LISTS, status: int = 400) -> Fault:
    """The service takes none of these lists any more."""
    return Fault(
        on="submit",
        action="answer",
        times=None,
        status=status,
        body=json.dumps({"error": said}),
        match=lambda call: call.sent["speech_models"] in lists,
    )


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"transcript": {"punctuate": False}},
        {"rules": [{"match": "b/*", "punctuate": False}, {"match": "a*", "format_text": False}]},
    ],
)
async def test_refused_models_are_one_cause(
    archive: Archive, given: dict[str, Any], status: int
) -> None:
    """The first refusal ends the intake, whatever else differs; it says names and the setting."""
    for number in range(20):
        archive.add(f"b/{number}.wav", b"%d" % number)
    refusal = refuses(list(DEFAULT_SPEECH_MODELS), status=status)
    archive.service.faults.add(refusal)

    outcome = await archive.run(uploads=1, concurrency=1, **given)

    assert (outcome.summary.exit_code, outcome.summary.failed) == (ExitCode.USAGE, 0)
    assert outcome.summary.reason is not None
    assert LISTS in outcome.summary.reason
    assert ", ".join(DEFAULT_SPEECH_MODELS) in outcome.summary.reason
    assert "change `speech_models` in `[transcript]`" in outcome.summary.reason
    assert refusal.met <= 2
    assert archive.service.requests["upload"] < 8


async def test_a_changed_setting_goes_on_where_models_were_refused(archive: Archive) -> None:
    """Nothing is failed for the refusal: with names that are taken all is asked for, once."""
    archive.service.faults.add(refuses(list(DEFAULT_SPEECH_MODELS)))
    await archive.run()

    outcome = await archive.run(transcript={"speech_models": ["universal-2"]})

    assert (outcome.summary.written, outcome.summary.exit_code) == (2, ExitCode.DONE)
    assert max(archive.service.billable.values()) == 1


async def test_models_that_are_refused_for_a_language_end_what_is_in_it(archive: Archive) -> None:
    """A refusal that speaks of another option of the recording is not that of all who lack it."""
    for number in range(6):
        archive.add(f"uk/{number}.wav", b"%d" % number)
    refusal = refuses(
        list(DEFAULT_SPEECH_MODELS), said="None of the speech_models supports this language."
    )
    refusal.match = lambda call: call.sent.get("language_code") == "uk"
    archive.service.faults.add(refusal)
    rules = [{"match": "uk/*", "language_code": "uk"}, {"match": "b/*", "punctuate": False}]

    outcome = await archive.run(rules=rules, uploads=1, concurrency=1)

    assert sorted(archive.results()) == ["a.wav.json", "b/b.wav.json"]
    assert (outcome.summary.failed, outcome.summary.exit_code) == (6, ExitCode.PARTIAL)
    assert refusal.met < 6


@pytest.mark.parametrize("both", [False, True])
async def test_refused_models_of_some_end_what_asks_for_them(archive: Archive, both: bool) -> None:
    """Recordings that ask for others go on, until nothing is left that could be taken."""
    for number in range(6):
        archive.add(f"b/{number}.wav", b"%d" % number)
    archive.add("a2.wav", b"a2")
    rules = [
        {"match": "b/*", "speech_models": ["universal-2"]},
        {"match": "b/[0-2].wav", "punctuate": False},
    ]
    refused = [["universal-2"], *([list(DEFAULT_SPEECH_MODELS)] if both else [])]
    refusal = refuses(*refused)
    archive.service.faults.add(refusal)

    outcome = await archive.run(rules=rules, uploads=1, concurrency=1)

    assert sorted(archive.results()) == ([] if both else ["a.wav.json", "a2.wav.json"])
    assert outcome.summary.exit_code == (ExitCode.USAGE if both else ExitCode.PARTIAL)
    assert refusal.met < 6
    asked = {f"Asked for were {', '.join(models)}: change `speech_models`" for models in refused}
    for reason in outcome.summary.reasons.get("failed", {}):
        assert any(each in reason for each in asked)
        assert "`[[rules]]`" in reason


# --- what an older model wrote --------------------------------------------------------------------


def line(archive: Archive, command: str, *more: str) -> list[str | Path]:
    """A command line over the archive, quick about it."""
    quick = ("--provider", archive.service.url, "--poll-interval", "50ms", "--settle", "1s")
    return [command, "--output", archive.output, *quick, *more]


async def test_reprocess_finds_what_an_older_model_wrote(archive: Archive) -> None:
    """`--model` means what that model did by default; `--force` pays for it again, just once."""
    old = did_the_work(OLD)
    archive.service.faults.add(old)
    await archive.run()
    archive.service.faults.clear()
    archive.add("new.wav", sound(60, "new"))
    await archive.run()
    reprocess = line(archive, "reprocess", "--model", OLD)

    as_asked = await archive.command(*reprocess, "--dry-run", "--json")
    told = await archive.command(*reprocess, "--dry-run")
    first = await archive.command(*reprocess, "--force", "--yes", "--limit", "1")
    rest = await archive.command(*reprocess, "--force", "--yes")
    nothing = await archive.command(*reprocess, "--force", "--dry-run", "--json")
    asked = archive.service.requests["submit"]
    outcome = await archive.run()

    assert (as_asked.summary["recordings"], as_asked.summary["left_out"]["as_asked"]) == (0, 2)
    assert "`--force` asks for them again" in told.stdout.decode()
    assert (first.exit_code, rest.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert used(archive) == dict.fromkeys([*CONTENTS, "new.wav"], DEFAULT_SPEECH_MODELS[0])
    assert nothing.summary["recordings"] == sum(nothing.summary["left_out"].values()) == 0
    assert [len(archive.service.accepted(content)) for content in CONTENTS.values()] == [2, 2]
    assert len(archive.service.accepted(sound(60, "new"))) == 1
    assert (outcome.summary.already_written, archive.service.requests["submit"]) == (3, asked)
