"""Exclusions: what several scans left out, as the summary has it."""

from pipeline.events import Summary
from pipeline.exclusions import Exclusions, PassedOver, passed_over
from pipeline.progress import render_summary


def test_a_glob_that_matched_in_one_source_is_not_told() -> None:
    """What sources share has matched nothing only where it did so in all of them."""
    first, second = Exclusions(["a.wav", "b.wav", "c.wav"]), Exclusions(["a.wav", "b.wav"])

    assert first.match("x/a.wav")
    assert second.match("b.wav")
    assert passed_over([(PassedOver(), first), (PassedOver(), second)])["unmatched"] == ["c.wav"]


def test_the_summary_names_what_was_not_taken() -> None:
    """Suffixes and folders stand in it by their counts, and what is a slip of the pen."""
    one, other = PassedOver(), PassedOver()
    for suffix, count in {"vox": 3, "qta": 1, "": 2}.items():
        for _ in range(count):
            one.ignore("a", suffix)
    other.ignore("a", "qta")
    other.ignore("a", None)  # a pipe
    one.exclude_in("old/", 2)
    other.exclude_in("b/old/", 3)
    other.exclude_in("empty/", 0)
    for number in range(6):  # and one of them by its name
        other.exclude(f"{number}.wav")
    one.hide(".a")
    other.hide(".b/")
    other.leave_link("c")
    exclusions = Exclusions(["d000"])
    fields = passed_over([(one, exclusions), (other, exclusions)])

    said = render_summary(Summary(run_id="r", exit_code=0, **fields)).splitlines()

    assert "8 files ignored: .vox 3, .qta 2, no suffix 2" in said
    assert "6 recordings excluded: b/old/ 3, old/ 2" in said
    assert "2 hidden names not looked at" in said
    assert "1 link not followed" in said
    assert "`--exclude d000` matched nothing" in said


def test_the_summary_names_only_the_first() -> None:
    """Of many suffixes the most frequent are named."""
    passed = PassedOver()
    for number in range(20):
        for _ in range(number + 1):
            passed.ignore("a", f"s{number}")
    said = render_summary(
        Summary(run_id="r", exit_code=0, **passed_over([(passed, Exclusions([]))]))
    )

    assert "210 files ignored: .s19 20, .s18 19, " in said
    assert said.count(".s") == 8
    assert ", and others" in said
