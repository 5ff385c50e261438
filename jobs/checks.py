"""
What is looked at before a run: in, what was found; out, a line of it each, and the exit code.

A run meets what keeps it from going on in an order: who has no key is not told of the lock, and
outside of the window no service is asked. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import ExitCode
from pipeline.lines import visible

__all__ = ["SOURCE", "Check", "Foreseen", "exit_code_of"]

SOURCE = "source"
"""The subject of what is found of one source: amiss, and no end of the others."""

_MET = (
    *(("sources",), ("prices",), ("key",), ("output",), ("state",), ("lock",)),
    *(("engine",), ("ledger",), ("proxy",), ("room", "window"), ("service",)),
)
"""Subjects in the order in which a run meets them; those beside each other at once."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    """One word; docs/output.md has them all."""
    what: str
    """How it is, and what to do where it is not as it should be."""
    exit_code: ExitCode = ExitCode.DONE
    """What a run would end with because of it, if nothing came before."""
    is_warning: bool = False
    """Whether it is not in order, though a run can work with it."""

    @property
    def state(self) -> Literal["ok", "warning", "failure"]:
        """In one word."""
        if self.exit_code is not ExitCode.DONE:
            return "failure"
        return "warning" if self.is_warning else "ok"

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "check",
            "subject": self.subject,
            "state": self.state,
            "what": self.what,
            "exit_code": int(self.exit_code),
        }

    def __str__(self) -> str:
        return visible(f"{self.state:<7}  {self.subject:<9} {self.what}")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What all of it comes to."""

    exit_code: ExitCode
    warnings: int
    failures: int

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "Foreseen":
        """What these come to."""
        states = [each.state for each in checks]
        return cls(exit_code_of(checks), states.count("warning"), states.count("failure"))

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "doctor",
            "exit_code": int(self.exit_code),
            "warnings": self.warnings,
            "failures": self.failures,
        }

    def __str__(self) -> str:
        if self.exit_code is ExitCode.DONE:
            return "a run that starts now can work"
        return f"a run that starts now ends with exit code {int(self.exit_code)}"


def exit_code_of(checks: Sequence[Check]) -> ExitCode:
    """What a run that starts now would end with, as far as that can be known before it works."""
    failed = [each for each in checks if each.exit_code is not ExitCode.DONE]
    subjects = {each.subject for each in failed}
    first = next((step for step in _MET if not subjects.isdisjoint(step)), ())
    return ExitCode.worst(*(each.exit_code for each in failed if each.subject in (*first, SOURCE)))
