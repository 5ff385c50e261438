"""
`overnight doctor` and `overnight init`: out, what is in place, and a file of settings.
"""

import os
from pathlib import Path

from jobs.console import say, tell
from jobs.flags import ACCESS, Access
from pipeline.errors import ExitCode, SettingsError

__all__ = ["doctor", "init"]

_PACKAGE = Path(__file__).parent.parent
_EXAMPLES = (
    _PACKAGE / "config.example.toml",  # in the wheel
    _PACKAGE.parent / "config.example.toml",  # in a source tree
)


def doctor(*, access: Access = ACCESS) -> int:
    """What is in place, what is not, and where each setting comes from. Costs nothing."""
    from jobs.doctor import examine
    from pipeline.settings import origins

    settings = access.settings()
    worst = ExitCode.DONE
    for finding in examine(settings, origins(access.given(), config=access.config), os.environ):
        say(str(finding))
        worst = ExitCode.worst(worst, finding.exit_code)
    return worst


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
