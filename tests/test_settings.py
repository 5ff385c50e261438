"""Settings: what each source may say, which one wins, and what is said about what is wrong."""

import os
import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ExitCode, KeyRefused, SettingsError
from pipeline.render import FORMATS as RENDERED
from pipeline.settings import (
    FORMATS,
    PRICES,
    Rate,
    Settings,
    Timeouts,
    glob_pattern,
    key_fingerprint,
    load_settings,
    origins,
    parse_duration,
    parse_size,
    read_api_key,
    require_key,
)

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory without settings; `home` is beside it."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def made(**values: Any) -> Settings:
    """Settings as a file would spell them."""
    return Settings(**values)


def user_config(folder: Path, text: str) -> dict[str, str]:
    """Variables that lead to a user config with this text."""
    home = folder.parent / "home"
    place = "Library/Application Support" if sys.platform == "darwin" else ".config"
    path = home / place / "overnight" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return {"HOME": str(home)}


def refusal(folder: Path, toml: str = "", flags: Any = None, environ: Any = None) -> str:
    """What is said about settings that are wrong."""
    (folder / "overnight.toml").write_text(toml)
    with pytest.raises(SettingsError) as raised:
        load_settings(flags or {}, environ=environ or {}, cwd=folder)
    assert raised.value.exit_code is ExitCode.USAGE
    return str(raised.value)


# ---------------------------------------------------------------- where values come from


def test_stronger_sources_win(folder: Path) -> None:
    """Flags beat variables, those the local file, that the user's file, and that the defaults."""
    environ = user_config(folder, "uploads = 1\nconcurrency = 1\nshare = 0.1\nlimit = 1\n")
    (folder / "overnight.toml").write_text("uploads = 2\nconcurrency = 2\nshare = 0.2\n")
    environ |= {"OVERNIGHT_UPLOADS": "3", "OVERNIGHT_CONCURRENCY": "3"}

    settings = load_settings({"uploads": 4}, environ=environ, cwd=folder)

    assert (
        settings.uploads,
        settings.concurrency,
        settings.share,
        settings.limit,
        settings.poll_interval,
    ) == (4, 3, 0.2, 1, 3.0)


def test_origins_name_the_source_of_each_value(folder: Path) -> None:
    """Each value is traced to the flag, variable or file that set it, or to its default."""
    environ = user_config(folder, "limit = 1\n")
    (folder / "overnight.toml").write_text(
        "[timeouts]\nstall = 9\n[transcript]\npunctuate = true\n"
    )
    environ |= {"OVERNIGHT_TIMEOUTS__ANSWER": "3m", "ASSEMBLYAI_BASE_URL": "http://127.0.0.1:1"}

    found = origins({"formats": ["srt"], "set": ["disfluencies=true"]}, environ=environ, cwd=folder)

    assert str(folder / "overnight.toml") == found["timeouts.stall"]
    assert str(folder / "overnight.toml") == found["transcript.punctuate"]
    assert found["limit"].endswith("config.toml")
    assert found["timeouts.answer"] == "OVERNIGHT_TIMEOUTS__ANSWER"
    assert found["provider"] == "ASSEMBLYAI_BASE_URL"
    assert found["formats"] == "--format"
    assert found["transcript.disfluencies"] == "--set"
    assert found["uploads"] == "default"


def test_tables_merge_key_by_key(folder: Path) -> None:
    """A table of a stronger source adds to the weaker one's, and `--set` takes options back."""
    (folder / "overnight.toml").write_text(
        "[transcript]\npunctuate = true\nspeaker_labels = true\nlanguage_code = 'de'\n"
        "[timeouts]\nconnect = 1\nstall = 2\n[prices]\nmine = 1\n"
    )
    environ = {
        "OVERNIGHT_TIMEOUTS__STALL": "3s",
        "OVERNIGHT_TRANSCRIPT__SPEAKERS_EXPECTED": "2",
        "OVERNIGHT_PRICES": '{"yours": 2}',
    }

    settings = load_settings(
        {"set": ["language_code=null", "language_detection=true"]}, environ=environ, cwd=folder
    )

    assert Timeouts(connect=1, stall=3, answer=120) == settings.timeouts
    assert settings.prices == PRICES | {"mine": 1, "yours": 2}
    assert settings.transcript == {
        "punctuate": True,
        "speaker_labels": True,
        "speakers_expected": 2,
        "language_detection": True,
    }


def test_direct_construction_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(...)` takes what it is given, whatever the environment says."""
    monkeypatch.setenv("OVERNIGHT_UPLOADS", "3")

    assert Settings().uploads == 8


def test_settings_are_frozen() -> None:
    """A run cannot change what it was told."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().uploads = 3


def test_config_is_read_instead_of_the_local_file(folder: Path) -> None:
    """`--config` stands in for ./overnight.toml."""
    (folder / "overnight.toml").write_text("uploads = 2\n")
    (folder / "other.toml").write_text("concurrency = 2\n")

    settings = load_settings({}, config=folder / "other.toml", environ={}, cwd=folder)

    assert (settings.uploads, settings.concurrency) == (8, 2)


def test_missing_config_is_an_error(folder: Path) -> None:
    """A `--config` that is not there is not taken for an empty one."""
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load_settings({}, config=folder / "none.toml", environ={}, cwd=folder)


@pytest.mark.parametrize(
    ("stronger", "expected"),
    [("api_key_file", (Path("k"), None)), ("api_key_command", (None, "k"))],
)
def test_one_way_to_the_key_silences_the_other(
    folder: Path, stronger: str, expected: tuple[Path | None, str | None]
) -> None:
    """A flag that says where the key is beats a file that says it in the other way."""
    weaker = {"api_key_file": "api_key_command", "api_key_command": "api_key_file"}[stronger]
    (folder / "overnight.toml").write_text(f"{weaker} = 'other'\n")

    settings = load_settings({stronger: "k"}, environ={}, cwd=folder)

    assert expected == (settings.api_key_file, settings.api_key_command)


# ---------------------------------------------------------------- what is wrong


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    """One error names all that is wrong, each with where it stands and the nearest known name."""
    said = refusal(
        folder,
        "concurency = 3\nlimit = -1\n[timeouts]\nstal = 1\n[transcript]\nspeaker_label = true\n",
        {"provider": "asemblyai", "formats": ["vt"], "set": ["nonsense"]},
        {"OVERNIGHT_POLL_INTERVALL": "3"},
    )

    file = re.escape(str(folder / "overnight.toml"))
    for pattern in (
        rf"`concurency` from {file} is not a setting; did you mean `concurrency`\?",
        rf"`timeouts\.stal` from {file} is not a setting; did you mean `timeouts\.stall`\?",
        rf"`limit` from {file}: ",
        r"`provider` from --provider: .*did you mean `assemblyai`\?",
        r"`formats` from --format: `vt` .*did you mean `vtt`\?",
        r"`OVERNIGHT_POLL_INTERVALL` .* is not a setting; did you mean `poll_interval`\?",
        r"`--set`: .*KEY=VALUE",
    ):
        assert re.search(pattern, said), pattern
    assert said.startswith("7 settings are wrong")


def test_options_are_checked_with_their_origin(folder: Path) -> None:
    """An option that the service would refuse is refused here, and traced to its file or rule."""
    said = refusal(
        folder,
        "[transcript]\nspeaker_label = true\n[[rules]]\nmatch = 'a/*'\nspeakers_expected = 0\n",
    )

    assert "`speaker_label` is not an option; did you mean `speaker_labels`?" in said
    assert f"(from {folder / 'overnight.toml'})" in said
    assert "`speakers_expected`" in said
    assert "(in the rule for `a/*`)" in said


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("uploads = 0", "`uploads`"),
        ("uploads = 65", "`uploads`"),
        ("share = 0", "`share`"),
        ("share = 1.5", "`share`"),
        ("upload_chunk = '1k'", "`upload_chunk`"),
        ("upload_chunk = '5MiB'", "`upload_chunk`"),
        ("requests = '20000'", "requests/duration"),
        ("requests = '0/5s'", "at least one request"),
        ("poll_interval = 0", "`poll_interval`"),
        ("poll_interval = 'soon'", "not a duration"),
        ("settle = 'nevr'", "not a duration"),
        ("min_size = '1 parsec'", "not a size"),
        ("min_size = '2k'\nmax_size = '1k'", "nothing would be taken"),
        ("min_age = '2h'\nmax_age = '1h'", "nothing would be taken"),
        ("api_key_file = 'a'\napi_key_command = 'b'", "exclude each other"),
        ("provider = 'ftp://host'", "unknown provider"),
        ("provider = 'https://me:secret@host'", "no user, password"),
        ("[[rules]]\npunctuate = true", "match"),
        ("[[rules]]\nmatch = '[z-a]'", "no glob"),
        ("exclude = ['[z-a]']", "no glob"),
        ("transcript = 3", "`transcript`"),
        ("timeouts = 3", "`timeouts`"),
        ("follow_links = 'perhaps'", "`follow_links`"),
        ("= 3", "is not TOML"),
    ],
)
def test_values_out_of_range_are_refused(folder: Path, toml: str, words: str) -> None:
    """What cannot be meant is refused, with the words that help to mend it."""
    assert words in refusal(folder, toml + "\n")


def test_values_are_not_repeated_in_errors(folder: Path) -> None:
    """A secret that was put in a wrong place does not leave it through an error."""
    said = refusal(
        folder,
        "provider = 'https://me:hunter22@host'\napi_key_file = 3\nlimit = 'hunter22'\n",
        environ={"OVERNIGHT_UPLOADS": "hunter22", "OVERNIGHT_RULES": "hunter22"},
    )

    assert "hunter22" not in said


# ---------------------------------------------------------------- values


def test_example_shows_every_key_with_its_default() -> None:
    """`config.example.toml` has all keys, and what is commented out there is the default."""
    text = EXAMPLE.read_text()
    keys = re.sub(r"(?m)^# (?=[a-z0-9_-]+ = |\[\[)", "", text)
    example = tomllib.loads(keys)
    defaults = Settings()

    assert set(Settings.model_fields) == set(example)
    assert set(Timeouts.model_fields) == set(example["timeouts"])
    shown_only = {"transcript", "rules", "ramp"}  # an example of what has no default
    shown_only |= {name for name in example if getattr(defaults, name) is None}
    for name in set(example) - shown_only:
        assert getattr(defaults, name) == getattr(Settings(**{name: example[name]}), name), name
    # What is shown only as an example is at least taken.
    del example["api_key_command"]
    Settings(**example)


def test_example_as_it_is_changes_nothing(folder: Path) -> None:
    """The file that `overnight init` writes leaves all defaults in force."""
    settings = load_settings({}, config=EXAMPLE, environ={}, cwd=folder)

    assert Settings() == settings


def test_every_setting_says_what_it_is() -> None:
    """Each field has a description."""
    for model in (Settings, Timeouts):
        for name, field in model.model_fields.items():
            assert field.description, name


@given(
    st.tuples(*[st.integers(0, 10_000)] * 5),
    st.sampled_from(["", " "]),
)
def test_durations_add_up(counts: tuple[int, ...], around: str) -> None:
    """A duration written in several units is the sum of its parts."""
    written = "".join(f"{n}{unit}" for n, unit in zip(counts, "dhms", strict=False))
    expected = sum(n * s for n, s in zip(counts, (86400, 3600, 60, 1), strict=False))

    assert expected == parse_duration(around + written + around)
    assert expected == parse_duration(str(expected)) == parse_duration(expected)
    assert counts[4] == pytest.approx(1000 * parse_duration(f"{counts[4]}ms"))


@given(st.text() | st.floats() | st.booleans())
def test_durations_are_finite_or_refused(value: Any) -> None:
    """Whatever is written, a duration is 0 s or more, or refused."""
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert 0 <= seconds < float("inf")


@given(st.integers(0, 2**60), st.sampled_from(["", "k", "MB", "GB", "t", "KiB", "mib", "GiB", "B"]))
def test_sizes_are_exact(count: int, unit: str) -> None:
    """A whole number of units is exactly so many bytes: `k` is 1000, `Ki` is 1024."""
    power = " kmgt".index(unit[0].lower()) if unit and unit != "B" else 0

    assert count * (1024 if "i" in unit else 1000) ** power == parse_size(f"{count}{unit}")


@given(st.text() | st.floats() | st.booleans())
def test_sizes_are_whole_or_refused(value: Any) -> None:
    """Whatever is written, a size is a whole number of bytes, or refused."""
    try:
        size = parse_size(value)
    except ValueError:
        return
    assert isinstance(size, int)
    assert size >= 0


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_rates_are_read_as_they_are_shown(count: int, window_s: int) -> None:
    """A rate in its written form is the same rate."""
    assert Rate(count, window_s) == Rate.parse(f"{count}/{window_s}s")
    assert Rate(20_000, 300.0) == Rate.parse(str(Rate(20_000, 300.0))) == Rate.parse("20000/5m")


@pytest.mark.parametrize(
    ("given_formats", "expected"),
    [
        ([], ("json",)),
        (["srt"], ("json", "srt")),
        (["vtt,srt", "txt"], ("json", "txt", "srt", "vtt")),
        ("all", FORMATS),
        ("SRT, json", ("json", "srt")),
    ],
)
def test_formats_come_from_lists_and_always_hold_json(
    given_formats: Any, expected: tuple[str, ...]
) -> None:
    """Formats may be repeated and listed; each is there once, and `json` always is."""
    assert expected == made(formats=given_formats).formats


def test_formats_are_those_that_can_be_made() -> None:
    """Every format but `json` is one that `pipeline.render` makes, and none is left out."""
    assert ("json", *RENDERED) == FORMATS


@pytest.mark.parametrize(
    ("provider", "kept", "kind", "base_url", "ramps"),
    [
        ("assemblyai", "assemblyai", "assemblyai", "https://api.assemblyai.com", True),
        ("assemblyai-eu", "assemblyai-eu", "assemblyai", "https://api.eu.assemblyai.com", True),
        ("https://api.assemblyai.com/", "assemblyai", "assemblyai", None, True),
        ("local", "local", "local", None, False),
        ("http://127.0.0.1:80/v2/", "http://127.0.0.1:80", "custom", "http://127.0.0.1:80", False),
    ],
)
def test_provider_is_a_name_or_an_address(
    provider: str, kept: str, kind: str, base_url: str | None, ramps: bool
) -> None:
    """Names stand for addresses, and the vendor's addresses for the vendor: one identity."""
    settings = Settings(provider=provider)

    assert (kept, kind, ramps) == (settings.provider, settings.provider_kind, settings.ramps)
    if base_url is not None:
        assert base_url == settings.base_url


def test_base_url_of_the_sdk_counts_last(folder: Path) -> None:
    """`ASSEMBLYAI_BASE_URL` names the provider where nothing else does."""
    environ = {"ASSEMBLYAI_BASE_URL": "http://127.0.0.1:1"}

    assert load_settings({}, environ=environ, cwd=folder).provider == "http://127.0.0.1:1"
    (folder / "overnight.toml").write_text("provider = 'local'\n")
    assert load_settings({}, environ=environ, cwd=folder).provider == "local"


def test_never_settles() -> None:
    """`never` is no time, and a time is one."""
    assert made(settle="never").settle is None
    assert made(settle="1m30s").settle == 90


def test_a_quarter_more_is_kept_at_the_service() -> None:
    """In flight is the concurrency and a quarter, rounded up."""
    assert tuple(Settings(concurrency=n).in_flight for n in (200, 5, 1)) == (250, 7, 2)


def test_state_is_in_the_output_unless_said(folder: Path) -> None:
    """The state folder follows the output folder, and without either there is an error."""
    assert folder / ".overnight" == Settings(output=folder).state_dir
    assert folder / "s" == Settings(output=folder, state=folder / "s").state_dir
    with pytest.raises(SettingsError, match="--output"):
        _ = Settings().state_dir


def test_home_is_expanded() -> None:
    """`~` in a path is the home folder, also where no shell has seen it."""
    assert Path.home() / "x" == made(output="~/x").output


def test_later_rules_win_and_keys_merge() -> None:
    """The options of a path are those for all, then those of each rule that matches, in order."""
    settings = made(
        transcript={"punctuate": True, "language_code": "en"},
        rules=[
            {"match": "calls/**", "language_code": "de", "speaker_labels": True},
            {"match": "*.mp3", "language_code": "fr", "speaker_labels": None},
        ],
    )

    assert settings.options_for("a.wav") == {"punctuate": True, "language_code": "en"}
    assert settings.options_for("calls/2026/a.wav") == {
        "punctuate": True,
        "language_code": "de",
        "speaker_labels": True,
    }
    assert settings.options_for("calls/a.mp3") == {"punctuate": True, "language_code": "fr"}


@pytest.mark.parametrize(
    ("glob", "taken", "left"),
    [
        ("*.wav", ["a.wav", "x/y/a.wav", ".wav"], ["a.wavx", "a.wav/b"]),
        ("x/*.wav", ["x/a.wav"], ["a.wav", "x/y/a.wav", "z/x/a.wav"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "a", "yx/a"]),
        ("**/x/*", ["x/a", "z/x/a"], ["x", "x/y/a"]),
        ("x/**/a", ["x/a", "x/y/a", "x/y/z/a"], ["xa", "x/ya"]),
        ("**", ["a", "x/a"], []),
        ("?.wav", ["a.wav", "x/é.wav"], ["ab.wav", "/.wav"]),
        ("[a-c]*", ["apple", "x/c"], ["d", "A"]),
        ("[!a]", ["b", "x/b"], ["a", "ab"]),
        ("[]]", ["]"], ["[", "a"]),
        ("[!]", ["[!]"], ["!", "a"]),
        ("a[", ["a["], ["a"]),
        ("x/a.b+(c)", ["x/a.b+(c)"], ["x/aXb+(c)", "x/a.bb(c)"]),
        ("two\nlines*", ["two\nlines\nthree"], ["two lines"]),
    ],
)
def test_globs(glob: str, taken: list[str], left: list[str]) -> None:
    """A glob takes just the paths that it is documented to take."""
    pattern = glob_pattern(glob)

    assert (taken, []) == (
        [path for path in taken if pattern.fullmatch(path)],
        [path for path in left if pattern.fullmatch(path)],
    )


@given(st.text(st.sampled_from("ab/*?[]!.-^\\"), max_size=12), st.text("ab/.-", max_size=12))
def test_any_glob_means_something_or_is_refused(glob: str, path: str) -> None:
    """No glob, however odd, ends in anything but an answer or a `ValueError`."""
    try:
        glob_pattern(glob).fullmatch(path)
    except ValueError:
        assert "[" in glob


# ---------------------------------------------------------------- the key


def test_key_is_read_from_the_file_before_the_variable(folder: Path) -> None:
    """The file wins over `ASSEMBLYAI_API_KEY`, and white space around a key is none of it."""
    (folder / "key").write_text("  from-file\n")
    environ = {"ASSEMBLYAI_API_KEY": " from-variable\n"}

    assert read_api_key(Settings(api_key_file=folder / "key"), environ) == "from-file"
    assert read_api_key(Settings(), environ) == "from-variable"
    assert read_api_key(Settings(), {"ASSEMBLYAI_API_KEY": " "}) is None


def test_key_command_runs_without_a_shell_and_without_the_key(folder: Path) -> None:
    """The command gets its words as they are, and not the key that it does not need."""
    script = folder / "print key"
    script.write_text('#!/bin/sh\necho "$1-${ASSEMBLYAI_API_KEY:-unset}"\n')
    script.chmod(stat.S_IRWXU)
    settings = Settings(api_key_command=f"'{script}' '$HOME;key'")

    assert (
        read_api_key(settings, {**os.environ, "ASSEMBLYAI_API_KEY": "other"}) == "$HOME;key-unset"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'echo hunter22; exit 3'", "exit code 3"),
        ("no-such-program hunter22", "cannot be run"),
        ("'hunter22", "cannot be run"),
        ("", "cannot be run"),
        ("echo hunter22 hunter33", "more than one key"),
        ("true", "no key"),
        (r"printf '\377\376hunter22'", "cannot be run"),
    ],
)
def test_key_commands_that_fail_say_why_and_no_more(command: str, words: str) -> None:
    """A command that gives no key is an error that holds neither its words nor its output."""
    with pytest.raises(SettingsError, match=words) as raised:
        read_api_key(Settings(api_key_command=command), os.environ)
    assert "hunter" not in str(raised.value)


def test_missing_key_file_is_named(folder: Path) -> None:
    """A key file that is not there is named."""
    with pytest.raises(SettingsError, match="none cannot be read: No such file"):
        read_api_key(Settings(api_key_file=folder / "none"), {})


def test_without_a_key_the_way_without_one_is_named() -> None:
    """No key is exit code 4, and the message names `--provider local`."""
    with pytest.raises(KeyRefused, match=r"hint: `--provider local`") as raised:
        require_key(Settings(), {})
    assert ExitCode.REFUSED is raised.value.exit_code
    assert require_key(Settings(), {"ASSEMBLYAI_API_KEY": "k"}) == "k"


def test_fingerprints_tell_keys_apart() -> None:
    """Equal keys have equal fingerprints, others do not, and none holds its key."""
    assert key_fingerprint("a-key") == key_fingerprint("a-key") != key_fingerprint("b-key")
    assert re.fullmatch("[0-9a-f]{12}", key_fingerprint("a-key"))
