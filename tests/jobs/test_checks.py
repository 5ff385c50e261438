"""What a run would end with, of all that was looked at."""

import pytest

from jobs.checks import Check, Foreseen, exit_code_of
from pipeline.errors import ExitCode


def checks(text: str) -> list[Check]:
    """`subject=code` for what is amiss, a subject alone for what is in order."""
    pairs = (each.partition("=") for each in text.split())
    return [Check(subject, "…", ExitCode(int(code or 0))) for subject, _, code in pairs]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ("", 0),
        ("sources key output state lock engine ledger window room service", 0),
        # each by itself
        ("output=2", 2),
        ("output=5", 5),
        ("key=4", 4),
        ("lock=11", 11),
        ("ledger=2", 2),
        ("engine=2", 2),
        ("prices=2", 2),
        ("proxy=2", 2),
        ("window=10", 10),
        ("room=5", 5),
        ("service=4", 4),
        ("service=5", 5),
        ("source=3", 3),
        ("sources=2", 2),
        # what comes first keeps a run from meeting the rest, though that would be worse
        ("key=4 lock=11", 4),
        ("lock=11 key=4", 4),
        ("key=4 ledger=2", 4),
        ("output=5 ledger=2", 5),
        ("output=5 key=4", 4),
        ("lock=11 ledger=2", 11),
        ("lock=11 service=4", 11),
        ("ledger=2 service=4", 2),
        ("sources=2 key=4 lock=11", 2),
        # outside of the window, and without room, no service is asked
        ("window=10 service=4", 10),
        ("window=10 service=5", 10),
        ("room=5 service=4", 5),
        ("window=10 room=5 service=4", 5),
        # a source that is gone ends nothing, and is told all the same
        ("source=3 source=3", 3),
        ("source=3 window=10", 3),
        ("source=3 service=5", 5),
        ("source=3 service=4", 4),
        ("source=3 key=4", 4),
        ("source=3 lock=11", 11),
    ],
)
def test_a_run_ends_with_what_it_meets_first(found: str, code: int) -> None:
    """The exit code is that of the first step that a run does not get over, or of a source."""
    assert exit_code_of(checks(found)) == code
    assert exit_code_of(checks(found)[::-1]) == code


def test_a_warning_is_no_end() -> None:
    """What a run can work with changes no exit code, and is counted."""
    found = [Check("hooks", "…", is_warning=True), Check("window", "…", ExitCode.WINDOW_CLOSED)]

    assert [each.state for each in found] == ["warning", "failure"]
    assert Foreseen.of(found[:1]) == Foreseen(ExitCode.DONE, warnings=1, failures=0)
    assert Foreseen.of(found) == Foreseen(ExitCode.WINDOW_CLOSED, warnings=1, failures=1)
    assert str(Foreseen.of(found[:1])) == "a run that starts now can work"
    assert str(Foreseen.of(found)) == "a run that starts now ends with exit code 10"


def test_a_line_holds_nothing_that_a_terminal_obeys() -> None:
    """Names of folders are shown, whatever is in them."""
    assert str(Check("source", "a\x1b[2J\nb")) == r"ok       source    a\u001b[2J\nb"
