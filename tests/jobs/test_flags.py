"""Flags are settings, under the same names."""

from dataclasses import fields

from jobs.flags import Flags
from pipeline.settings import Settings


def test_every_setting_has_a_flag_or_is_for_files_only() -> None:
    """Flags are called as the keys of the settings file are, and none is left out by mistake."""
    flags = {field.name for field in fields(Flags)}
    files_only = {
        *("transcript", "rules", "prices", "timeouts", "source", "backlog", "hooks"),
        *("stop_grace", "max_answer", "upload_chunk", "shrink"),
    }

    assert flags - {"config", "set"} == set(Settings.model_fields) - files_only
