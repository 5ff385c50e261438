"""
`overnight doctor` and `overnight init`: out, what is in place, and a file of settings.
"""

import os
from pathlib import Path
from typing import Annotated

from jobs.console import tell, teller
from jobs.flags import ACCESS, Access, Switch
from pipeline.errors import ExitCode, SettingsError

__all__ = ["doctor", "init"]

_DISK_S = 10.0
_PACKAGE = Path(__file__).parent.parent
_EXAMPLES = (
    _PACKAGE / "config.example.toml",  # in the wheel
    _PACKAGE.parent / "config.example.toml",  # in a source tree
)


def doctor(*, access: Access = ACCESS, json: Annotated[bool, Switch] = False) -> int:
    """
    What is in place, what is not, and where each setting comes from. Costs nothing.

    Its exit code is that of a run that would start now, as far as can be known before it works.

    Parameters
    ----------
    json
        As one JSON object a line.
    """
    from jobs.checks import Foreseen
    from jobs.doctor import examine
    from jobs.leaving import answered
    from jobs.nightly import NIGHTLY
    from pipeline.settings import origins

    # Names of sources are those that links lead to, on disks that may not answer.
    (settings,) = answered([access.settings], _DISK_S)
    if settings is None:
        raise SettingsError(
            f"no answer in {_DISK_S:g} s from a folder that the settings name: is its disk there?"
        )
    if settings.source:  # what counts is a night
        settings = access.settings(defaults=NIGHTLY)
    tell_of, checks = teller(json), []
    for check in examine(settings, origins(access.given(), config=access.config), os.environ):
        tell_of(check)
        checks.append(check)
    foreseen = Foreseen.of(checks)
    tell_of(foreseen)
    return foreseen.exit_code


def init() -> int:
    """Write overnight.toml, all settings with their defaults, into this folder."""
    example = next(place for place in _EXAMPLES if place.is_file())
    target = Path("overnight.toml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(example.read_text(encoding="utf-8"))
    except FileExistsError:
        raise SettingsError(f"`{target}` is there already, and is left as it is") from None
    except OSError as error:
        raise SettingsError(f"`{target}` cannot be written: {error.strerror}") from error
    tell(f"wrote {target}")
    return ExitCode.DONE
