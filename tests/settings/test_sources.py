"""Sources: what each may say, which one wins, and what is said about what is wrong."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExitCode, SettingsError
from pipeline.settings import Hooks, Settings, Timeouts, load_settings, origins
from pipeline.settings.model import Source
from pipeline.speech_models import PRICES

FLAGS_ONLY = {"force", "redo_changed"}
EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory without settings; `home` is beside it."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


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
        settings.uploads.max,
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
    assert settings.prices == {**PRICES, "mine": 1, "yours": 2}
    assert settings.transcript == {
        "punctuate": True,
        "speaker_labels": True,
        "speakers_expected": 2,
        "language_detection": True,
    }


def test_names_of_speakers_merge_by_label(folder: Path) -> None:
    """Each speaker has the name of the strongest source, however that spells names and labels."""
    (folder / "overnight.toml").write_text("[speaker_names]\nA = 'One'\nb = 'Two'\n1a = 'Three'\n")
    environ = {"OVERNIGHT_SPEAKER_NAMES__A": "Ann, Dr."}
    flags = {"speaker_names": ["B=Ben, 2 = Control ", "Agent=Zoë"]}

    named = load_settings(flags, environ=environ, cwd=folder).speaker_names
    found = origins(flags, environ=environ, cwd=folder)
    in_one = load_settings({}, environ={"OVERNIGHT_SPEAKER_NAMES": "a=Ann"}, cwd=folder)
    as_json = load_settings({}, environ={"OVERNIGHT_SPEAKER_NAMES": '{"a": "Ann"}'}, cwd=folder)

    assert named == {"A": "Ann, Dr.", "B": "Ben", "1A": "Three", "2": "Control", "AGENT": "Zoë"}
    assert found["speaker_names.A"] == "OVERNIGHT_SPEAKER_NAMES__A"
    assert found["speaker_names.B"] == "--speaker-names"
    assert found["speaker_names.1A"] == str(folder / "overnight.toml")
    assert in_one == as_json
    assert in_one.speaker_names == {"A": "Ann", "B": "Two", "1A": "Three"}


@pytest.mark.parametrize("given", ["Ann", "A=", "=Ann", "A=Ann,", ""])
def test_what_is_no_name_of_a_speaker_is_refused(folder: Path, given: str) -> None:
    """A flag without a label or a name says how names are written."""
    with pytest.raises(
        SettingsError, match=r"`speaker_names` from --speaker-names: .*`A=Ann,B=Ben`"
    ):
        load_settings({"speaker_names": [given]}, environ={}, cwd=folder)


def test_config_is_read_instead_of_the_local_file(folder: Path) -> None:
    """`--config` stands in for ./overnight.toml."""
    (folder / "overnight.toml").write_text("uploads = 2\n")
    (folder / "other.toml").write_text("concurrency = 2\n")

    settings = load_settings({}, config=folder / "other.toml", environ={}, cwd=folder)

    assert (settings.uploads.max, settings.concurrency) == (16, 2)


def test_uploads_are_a_number_or_a_table(folder: Path) -> None:
    """A number of uploads is the most, wherever it stands, and the least may stand elsewhere."""
    (folder / "overnight.toml").write_text("[uploads]\nmin = 2\nmax = 20\n")
    table = load_settings({}, environ={"OVERNIGHT_UPLOADS__MIN": "3"}, cwd=folder).uploads
    flag = load_settings({"uploads": 1}, environ={}, cwd=folder).uploads
    (folder / "overnight.toml").write_text("uploads = 8\n")
    number = load_settings({}, environ={"OVERNIGHT_UPLOADS__MIN": "2"}, cwd=folder).uploads
    variable = load_settings({}, environ={"OVERNIGHT_UPLOADS": "4"}, cwd=folder).uploads

    assert (table.min, table.max) == (3, 20)
    assert (flag.min, flag.max) == (1, 1)
    assert (number.min, number.max) == (2, 8)
    assert (variable.min, variable.max) == (1, 4)


def test_missing_config_is_an_error(folder: Path) -> None:
    """A `--config` that is not there is not taken for an empty one."""
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load_settings({}, config=folder / "none.toml", environ={}, cwd=folder)


def test_base_url_of_the_sdk_counts_last(folder: Path) -> None:
    """`ASSEMBLYAI_BASE_URL` names the provider where nothing else does."""
    environ = {"ASSEMBLYAI_BASE_URL": "http://127.0.0.1:1"}

    assert load_settings({}, environ=environ, cwd=folder).provider == "http://127.0.0.1:1"
    (folder / "overnight.toml").write_text("provider = 'local'\n")
    assert load_settings({}, environ=environ, cwd=folder).provider == "local"


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
        ("uploads = 0", "`uploads.max`"),
        ("uploads = 65", "`uploads.max`"),
        ("[uploads]\nmin = 3\nmax = 2", "`min` is above `max`"),
        ("[uploads]\nmaxi = 2", "did you mean `uploads.max`?"),
        ("bwlimit = '08:00'", "write `10M`"),
        ("bwlimit = 10", "`off` is none"),
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
        ("webhook_url = 'https://host'", "need each other"),
        ("webhook_listen = 'host:1'", "need each other"),
        ("webhook_listen = 'host'", "HOST:PORT"),
        *(
            (f"webhook_listen = 'host:1'\nwebhook_url = '{url}'", words)
            for url, words in (
                ("ftp://host", "begins with http"),
                ("https://", "begins with http"),
                ("https://host:port", "begins with http"),
                ("https://[host", "begins with http"),
                ("https://host/a b", "begins with http"),
                ("https://host/#a", "no user, password"),
                ("https://me:secret@host", "no user, password"),
            )
        ),
        (
            "webhook_listen = 'host:1'\nwebhook_url = 'https://host'\nprovider = 'local'",
            "the embedded engine sends no webhooks",
        ),
        ("[transcript]\nwebhook_url = 'https://host'", "see `--webhook-url`"),
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


# ---------------------------------------------------------------- where a wrong key stands

TABLES = ["timeouts", "uploads", "backlog", "hooks", "prices", "transcript"]


@pytest.mark.parametrize("key", ["output", "limit", "max_cost", "order", "source"])
@pytest.mark.parametrize("table", TABLES)
def test_a_setting_in_a_table_is_said_to_stand_there(folder: Path, table: str, key: str) -> None:
    """A setting that was added below a table is named with the table, and where it belongs."""
    said = refusal(folder, f"[{table}]\n{key} = 'x'\n")

    assert f"it stands in the table `[{table}]`" in said
    assert f"the setting `{key}` belongs above all tables" in said
    assert "did you mean" not in said


@pytest.mark.parametrize("key", ["output", "limit", "state"])
def test_a_setting_in_a_rule_or_source_is_said_to_stand_there(folder: Path, key: str) -> None:
    """So it is in what is open at the end of a file by its nature."""
    rule = refusal(folder, f"[[rules]]\nmatch = '*'\n{key} = 'x'\n")
    option = refusal(folder, f"[[source]]\nfolder = '/a'\n[source.transcript]\n{key} = 'x'\n")

    assert f"the setting `{key}` belongs above all tables" in rule
    assert f"the setting `{key}` belongs above all tables" in option


def test_a_key_of_a_table_above_all_tables(folder: Path) -> None:
    """The key of a table that stands outside of it is told with its table."""
    for table, key in (("timeouts", "stall"), ("uploads", "min"), ("hooks", "on_finish")):
        assert f"did you mean `{table}.{key}`?" in refusal(folder, f"{key} = 1\n")


OF_A_SOURCE = sorted({*Source.model_fields} - {"folder"})


@pytest.mark.parametrize("key", OF_A_SOURCE)
def test_a_wrong_value_of_a_source_is_named(folder: Path, key: str) -> None:
    """What is wrong with one of several sources is told by its key and the source."""
    wrong = '""' if key == "name" else "[3]" if key != "transcript" else "3"
    text = f"[[source]]\nfolder = '/a'\n[[source]]\nfolder = '/b/calls'\n{key} = {wrong}\n"
    said = refusal(folder, text)
    (folder / "overnight.toml").write_text(text)

    assert f"`{key}` from {folder / 'overnight.toml'}, source `/b/calls`: " in said


@pytest.mark.parametrize("key", OF_A_SOURCE)
def test_a_misspelled_key_of_a_source_is_named(folder: Path, key: str) -> None:
    """A key that no source has is told by its name, with the one that was meant."""
    text = f"[[source]]\nfolder = '/a'\nname = 'calls'\n{key}x = 1\n"

    assert f"`{key}x` from {folder / 'overnight.toml'}, source `calls`, is not" in (
        said := refusal(folder, text)
    )
    assert f"did you mean `{key}`?" in said


def test_sources_that_are_none(folder: Path) -> None:
    """A source without its folder is told by its number, and a setting in one by its place."""
    assert ", source 2: " in refusal(folder, "[[source]]\nfolder = '/a'\n[[source]]\n")
    assert "belongs above all tables" in refusal(folder, "[[source]]\nfolder = '/a'\nlimit = 1\n")
    assert "`source` from " in refusal(folder, "source = 3\n")
    variable = {"OVERNIGHT_SOURCE": '[{"folder": "/a", "exclud": 1}]'}
    assert "`exclud` from OVERNIGHT_SOURCE, source" in refusal(folder, environ=variable)


@pytest.mark.parametrize("key", sorted(FLAGS_ONLY))
def test_what_pays_again_is_a_flag(folder: Path, key: str) -> None:
    """Consent to pay again is given by a flag; a file or variable would give it every night."""
    flag = f"--{key.replace('_', '-')}"
    variable = f"OVERNIGHT_{key.upper()}"
    (folder / "other.toml").write_text(f"{key} = true\n")

    assert getattr(load_settings({key: True}, environ={}, cwd=folder), key) is True
    for said in (
        refusal(folder, f"{key} = true\n"),
        refusal(folder, f"{key} = true\n", flags={key: True}),
        refusal(folder, environ={variable: "1"}),
        refusal(folder, environ=user_config(folder, f"{key} = true\n")),
    ):
        assert f"`{key}` from " in said
        assert f"say `{flag}` on the command line" in said


# ---------------------------------------------------------------- the example


def test_example_shows_every_key_with_its_default() -> None:
    """`config.example.toml` has all keys, and what is commented out there is the default."""
    text = EXAMPLE.read_text()
    keys = re.sub(r"(?m)^# (?=[a-z0-9_.-]+ = |\[\[)", "", text)
    example = tomllib.loads(keys)
    defaults = Settings()

    assert set(Settings.model_fields) - FLAGS_ONLY == set(example)
    assert set(Timeouts.model_fields) == set(example["timeouts"])
    assert set(Hooks.model_fields) == set(example["hooks"])
    # Examples of what has no default.
    del example["hooks"]["run"]
    shown_only = {"transcript", "rules", "ramp", "source", "backlog", "speaker_names"}
    shown_only |= {name for name in example if getattr(defaults, name) is None}
    for name in set(example) - shown_only:
        assert getattr(defaults, name) == getattr(Settings(**{name: example[name]}), name), name
    # What is shown only as an example is at least taken.
    del example["api_key_command"]
    Settings(**example)


SHOWN = re.findall(r"(?m)^# ([a-z0-9_.-]+) = (.+)$", EXAMPLE.read_text().partition("# [[")[0])


@pytest.mark.parametrize(("key", "value"), SHOWN, ids=[key for key, _ in SHOWN])
def test_what_is_added_at_the_end_of_the_example_counts(folder: Path, key: str, value: str) -> None:
    """Each line of the file that `init` writes may stand at its end, or be taken up where it is."""
    pairs = {
        "webhook_url": '\nwebhook_listen = "127.0.0.1:8787"',
        "webhook_listen": '\nwebhook_url = "https://calls.example.org/"',
    }
    line = f"{key} = {value}{pairs.get(key, '')}"
    example = EXAMPLE.read_text()
    alone = tomllib.loads(line)

    for text in (f"{example}{line}\n", example.replace(f"# {key} = {value}", line, 1)):
        (folder / "overnight.toml").write_text(text)

        assert tomllib.loads(text) == alone
        load_settings({}, environ={}, cwd=folder)


def test_example_as_it_is_changes_nothing(folder: Path) -> None:
    """The file that `overnight init` writes leaves all defaults in force."""
    settings = load_settings({}, config=EXAMPLE, environ={}, cwd=folder)

    assert Settings() == settings


# ---------------------------------------------------------------- files of other systems


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
def test_a_settings_file_made_on_windows(folder: Path, mark: str, line_end: str) -> None:
    """A byte order mark and CRLF are no part of a settings file, here or in the user's own."""
    text = line_end.join([f"{mark}limit = 7", "[timeouts]", 'stall = "9s"', ""])
    (folder / "overnight.toml").write_bytes(text.encode())
    environ = user_config(folder, f'{mark}poll_interval = "5s"\n')

    settings = load_settings({}, environ=environ, cwd=folder)

    assert (settings.limit, settings.timeouts.stall, settings.poll_interval) == (7, 9, 5)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no bom", "bom"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_settings_file_in_utf_16_is_named(folder: Path, encoding: str, mark: str) -> None:
    """UTF-16 is said to be what it is."""
    (folder / "other.toml").write_bytes(f"{mark}limit = 7\r\nforce = 1\r\n".encode(encoding))

    with pytest.raises(SettingsError, match=r"other\.toml .*UTF-16"):
        load_settings({}, config=folder / "other.toml", environ={}, cwd=folder)
