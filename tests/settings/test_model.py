"""The model: what each key takes and stands for."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import SettingsError
from pipeline.render import FORMATS as RENDERED
from pipeline.settings import FORMATS, Settings, Timeouts, Uploads, model


def made(**values: Any) -> Settings:
    """Settings as a file would spell them."""
    return Settings(**values)


def test_direct_construction_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(...)` takes what it is given, whatever the environment says."""
    monkeypatch.setenv("OVERNIGHT_UPLOADS", "3")

    assert Settings().uploads == Uploads(min=1, max=16)


def test_settings_are_frozen() -> None:
    """A run cannot change what it was told."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().uploads = Uploads(max=3)


def test_every_setting_says_what_it_is() -> None:
    """Below each field stands what it is."""
    source = ast.parse(inspect.getsource(model))
    for table in (Settings, Timeouts, Uploads):
        (body,) = (
            node.body
            for node in source.body
            if isinstance(node, ast.ClassDef) and node.name == table.__name__
        )
        described = {
            field.target.id
            for field, text in pairwise(body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        }
        assert described >= table.model_fields.keys()


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


VENDOR_SPELLED = [
    *("API.assemblyai.com", "api.assemblyai.com:443", "api.assemblyai.com/v2"),
    *("https://API.AssemblyAI.com", "HTTPS://api.assemblyai.com", "https://api.assemblyai.com:443"),
    *(
        "https://api.assemblyai.com//",
        "https://api.assemblyai.com./v2/",
        "http://api.assemblyai.com",
    ),
    " https://api.assemblyai.com:443/v2/ ",
]


@pytest.mark.parametrize(
    ("provider", "kept", "kind", "base_url", "ramps"),
    [
        ("assemblyai", "assemblyai", "assemblyai", "https://api.assemblyai.com", True),
        ("assemblyai-eu", "assemblyai-eu", "assemblyai", "https://api.eu.assemblyai.com", True),
        ("https://api.assemblyai.com/", "assemblyai", "assemblyai", None, True),
        ("local", "local", "local", None, False),
        ("http://127.0.0.1:80/v2/", "http://127.0.0.1", "custom", "http://127.0.0.1", False),
        ("http://[::1]:81/x/", "http://[::1]:81/x", "custom", "http://[::1]:81/x", False),
        (
            "https://api.assemblyai.com:8443",
            "https://api.assemblyai.com:8443",
            "custom",
            None,
            False,
        ),
        ("https://x.api.assemblyai.com", "https://x.api.assemblyai.com", "custom", None, False),
        *(
            (spelling, "assemblyai", "assemblyai", "https://api.assemblyai.com", True)
            for spelling in VENDOR_SPELLED
        ),
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


@pytest.mark.parametrize("name", ["Mars", "Europe", "../etc/passwd", "", "Europe/Berlin\0"])
def test_a_zone_that_is_none_is_told(name: str) -> None:
    """A name of a time zone that is not known here is an error of the settings, as any other."""
    with pytest.raises(ValidationError, match="not a time zone"):
        made(time_zone=name)


@pytest.mark.parametrize("provider", ["assemblyai", "assemblyai-eu", *VENDOR_SPELLED])
def test_the_vendor_is_given_time_to_list(provider: str) -> None:
    """A `settle` that would pay for what is only not listed yet is refused where things cost."""
    with pytest.raises(ValidationError, match="5s at least"):
        Settings(provider=provider, settle="4.9s")
    assert Settings(provider=provider, settle="5s").settle == 5
    assert Settings(provider=provider, settle="never").settle is None


@pytest.mark.parametrize("provider", ["local", "http://127.0.0.1:1"])
def test_others_may_settle_at_once(provider: str) -> None:
    """Anywhere else any `settle` is fine."""
    assert Settings(provider=provider, settle=0).settle == 0


def test_never_settles() -> None:
    """`never` is no time, and a time is one."""
    assert made(settle="never").settle is None
    assert made(settle="1m30s").settle == 90


def test_a_quarter_more_is_kept_at_the_service() -> None:
    """In flight is the concurrency and a quarter, rounded up."""
    assert tuple(Settings(concurrency=n).in_flight for n in (200, 5, 1)) == (250, 7, 2)


def test_state_is_in_the_output_unless_said(tmp_path: Path) -> None:
    """The state folder follows the output folder, and without either there is an error."""
    assert tmp_path / ".overnight" == Settings(output=tmp_path).state_dir
    assert tmp_path / "s" == Settings(output=tmp_path, state=tmp_path / "s").state_dir
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
    ("given", "kept"),
    [
        ("https://calls.example.org", "https://calls.example.org/overnight"),
        ("https://calls.example.org/?a=b%2Fc&d", "https://calls.example.org/overnight?a=b%2Fc&d"),
        ("http://[::1]:81/hooks/7?", "http://[::1]:81/hooks/7"),
        (" https://calls.example.org/overnight ", "https://calls.example.org/overnight"),
    ],
)
def test_a_webhook_url_gets_the_path_that_is_listened_at(given: str, kept: str) -> None:
    """A URL without a path gets ours, one with a path keeps it, and so it does its query."""
    settings = Settings(webhook_url=given, webhook_listen="127.0.0.1:8787")

    assert (settings.webhook_url, str(settings.webhook_listen)) == (kept, "127.0.0.1:8787")
