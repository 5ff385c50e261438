"""
What a scan leaves out, and what it passes over: in, globs and names; out, a verdict, counts, and
lines of the log for whoever wants to know of each.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from logging import DEBUG
from typing import Any

from pipeline.logs import log
from pipeline.settings import glob_pattern

__all__ = ["Exclusions", "PassedOver", "passed_over"]

_MOST_NAMED = 100
"""Folders or suffixes that are named: the rest is counted only, however many there are."""


class Exclusions:
    """
    Globs of what is left out. One that matches a folder leaves out all that is below it.

    `name` is a file or folder in whatever folder, `/name` one right in the root, `name/` a folder;
    `name/**` is `/name/`. Source: https://git-scm.com/docs/gitignore#_pattern_format, but for its
    `!`, `#` and backslashes, which are characters like others here.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = [(glob, *_compiled(glob)) for glob in globs]
        self.globs = frozenset(globs)
        self.unmatched = set(globs)
        """Those that have matched nothing yet."""

    def __bool__(self) -> bool:
        return bool(self._globs)

    def match(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a file or folder is left out, by its path relative to the root, no `/` behind."""
        is_out = False
        for glob, pattern, folders_only in self._globs:
            if is_out and glob not in self.unmatched:
                continue  # it is asked only which others would have done it, too
            if (is_folder or not folders_only) and pattern.fullmatch(path):
                self.unmatched.discard(glob)
                is_out = True
        return is_out


def _compiled(glob: str) -> tuple[re.Pattern[str], bool]:
    """What matches a path, and whether it has to be that of a folder."""
    below = glob.removesuffix("/**")
    if below != glob and below.strip("/"):
        return glob_pattern("/" + below.removeprefix("/")), True
    return glob_pattern(glob.rstrip("/") or glob), glob.endswith("/")


@dataclass(slots=True)
class PassedOver:
    """What lies in the folders and is not taken."""

    ignored: int = 0
    """Files that are no recordings."""
    suffixes: Counter[str] = field(default_factory=Counter)
    """Those of ignored files."""
    excluded: int = 0
    """Recordings that are left out because of `exclude`."""
    folders: Counter[str] = field(default_factory=Counter)
    """Those of them that are in an excluded folder, by its path in the results."""
    hidden: int = 0
    """Files and folders whose names begin with a dot."""
    links: int = 0
    """Symbolic links that are not followed, or lead nowhere."""

    def ignore(self, path: str, suffix: str | None) -> None:
        """One more file that is no recording by its name; without a suffix by its kind."""
        self.ignored += 1
        if suffix is not None:
            _add(self.suffixes, suffix, 1)
        log(DEBUG, "scan.ignored", path=path)

    def exclude(self, path: str) -> None:
        """One more recording that is excluded."""
        self.excluded += 1
        log(DEBUG, "scan.excluded", path=path)

    def exclude_in(self, folder: str, count: int) -> None:
        """So many of those are in a folder that is excluded."""
        if count:
            _add(self.folders, folder, count)

    def hide(self, path: str) -> None:
        """One more that is hidden."""
        self.hidden += 1
        log(DEBUG, "scan.hidden", path=path)

    def leave_link(self, path: str) -> None:
        """One more link that is not followed."""
        self.links += 1
        log(DEBUG, "scan.link", path=path)


def _add(named: Counter[str], name: str, count: int) -> None:
    if name in named or len(named) < _MOST_NAMED:
        named[name] += count


def passed_over(scans: Iterable[tuple[PassedOver, Exclusions]]) -> dict[str, Any]:
    """The fields of a summary that say what was not taken by any of these scans."""
    made, unmatched, matched = PassedOver(), set[str](), set[str]()
    for passed, exclusions in scans:
        made.ignored += passed.ignored
        made.suffixes += passed.suffixes
        made.excluded += passed.excluded
        made.folders += passed.folders
        made.hidden += passed.hidden
        made.links += passed.links
        unmatched |= exclusions.unmatched
        matched |= exclusions.globs - exclusions.unmatched
    return {
        "ignored": made.ignored,
        "ignored_suffixes": dict(made.suffixes.most_common()),
        "excluded": made.excluded,
        "excluded_folders": dict(made.folders.most_common()),
        "hidden": made.hidden,
        "links": made.links,
        "unmatched": sorted(unmatched - matched),
    }
