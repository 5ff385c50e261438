"""
What stands on the screen when: in, turns of speakers; out, captions, and their lines.

The rules are those of broadcasters, each with its source. Pure.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from pipeline.phrases import Turn, Word, is_pause, joined, strain, width

__all__ = ["READING_CHARS_PER_S", "Caption", "captions", "in_lines", "shown_name"]

# Sources of the caption rules:
# Netflix: Timed Text Style Guide, https://partnerhelp.netflixstudios.com/hc/en-us/articles/
#   215758617 (General Requirements), 217350977 (English), 360051554394 (Subtitle Timing)
# BBC: Subtitle Guidelines, https://www.bbc.co.uk/accessibility/forproducts/guides/subtitles/
_LINE_WIDTH: Final = 42
"""Characters in a line; one of a wide script (Chinese, Japanese, Korean) takes the room of two.
Source: Netflix, English. The BBC (3.1) takes 37 for teletext, and online a width on the screen."""
_LINES: Final = 2
"""Source: Netflix, General Requirements 4; BBC 3.3."""
_MIN_CAPTION_MS: Final = 833
"""Source: Netflix, General Requirements 1: five sixths of a second."""
_MAX_CAPTION_MS: Final = 7_000
"""Source: Netflix, General Requirements 1."""
_GAP_MS: Final = 80
"""Between one caption and the next. Source: Netflix, Subtitle Timing: two frames, here of 40 ms."""
_CHAIN_MS: Final = 500
"""A gap this short would flicker, so the caption before it stays. Source: Netflix, Subtitle Timing:
half a second. The BBC (4.5) wants none below a whole one."""
READING_CHARS_PER_S: Final = 17
"""Source: BBC 4: 160 to 180 words a minute, which are 16 to 18 characters a second in English.
Netflix allows 20 to adults and 17 to children."""
_CAPTION_PAUSE_MS: Final = 800
"""A silence that no caption spans. Ours: about what a reader takes for the end of a thought."""
_WAIT_MS: Final = 1_000
"""How late a caption may come for the sake of one that is still being read. Ours; the BBC (5.4)
bears two seconds."""

_NAMELESS: Final[Mapping[str, str]] = MappingProxyType({})


class Caption(NamedTuple):
    """What stands on the screen at one time: words of one speaker, for two lines."""

    start: int
    """ms from the start of the recording."""
    end: int
    """ms, after `start` and not after the start of the next caption."""
    speaker: str
    words: Sequence[Word]


def captions(turns: Iterable[Turn], names: Mapping[str, str] = _NAMELESS) -> list[Caption]:
    """
    Captions for the turns, in order of time, none overlapping another.

    Every word stands in exactly one caption and those of a turn in their order. A caption fits
    two lines of 42 characters with the speaker's name before it, or is one word. It ends at a
    pause or the end of a sentence where it can, then of a clause, then of a phrase. It stays for
    0.83 to 7 s, long enough to be read at 17 characters/s where what follows leaves the time, and
    until 80 ms before the next one if that comes within half a second. Where speakers talk at
    once, the later caption waits for the earlier to be read, up to a second.

    Args:
        turns: in any order; their words in theirs.
        names: of speakers who are shown by another name than theirs.

    Source: Netflix Timed Text Style Guide; BBC Subtitle Guidelines.
    """
    spoken = [
        Caption(words[0].start, words[-1].end, turn.speaker, words)
        for turn in turns
        for words in _cut(turn.words, shown_name(turn.speaker, names))
    ]
    spoken.sort(key=lambda caption: caption.start)

    starts = list(_starts(spoken))

    timed = []
    for caption, start, limit in itertools.zip_longest(spoken, starts, starts[1:]):
        end = max(caption.end, start + _MIN_CAPTION_MS, start + _reading_ms(caption.words))
        if limit is not None:
            if limit - end < _CHAIN_MS:
                end = limit
            # The gap gives way before the caption becomes too short to be seen.
            end = min(end, max(limit - _GAP_MS, min(limit, start + _MIN_CAPTION_MS)))
        end = min(end, start + _MAX_CAPTION_MS)
        timed.append(caption._replace(start=start, end=end))
    return timed


def shown_name(speaker: str, names: Mapping[str, str]) -> str:
    """A name if there is one, else `Speaker A` for the letters and channels of the service."""
    if not speaker or speaker in names:
        return names.get(speaker, "")
    return f"Speaker {speaker}" if re.fullmatch(r"\d*[A-Z]{0,2}", speaker) else speaker


def in_lines(words: Sequence[Word]) -> list[str]:
    """One line if the words fit it, else two, cut where it hurts least, and of like length."""
    whole = joined(words)
    if width(whole) <= _LINE_WIDTH or len(words) == 1:
        return [whole]

    def cost(at: int) -> tuple[bool, int]:
        top, bottom = (width(joined(part)) for part in (words[:at], words[at:]))
        is_too_wide = (top > _LINE_WIDTH and at > 1) or (
            bottom > _LINE_WIDTH and at + 1 < len(words)
        )
        # A break after a clause is worth lines that differ by half a line more than after any
        # word, and the longer line is rather the lower one.
        # Source: BBC 3.4, sense before shape; Netflix, General Requirements 4.
        unlike = abs(top - bottom) + 2 * (top > bottom)
        return is_too_wide, unlike + _LINE_WIDTH // 4 * strain(words[at - 1], words[at])

    at = min(range(1, len(words)), key=cost)
    return [joined(words[:at]), joined(words[at:])]


def _reading_ms(words: Sequence[Word]) -> int:
    return math.ceil(width(joined(words)) * 1000 / READING_CHARS_PER_S)


def _cut(words: Sequence[Word], label: str) -> Iterator[Sequence[Word]]:
    """
    The words of a turn, cut into captions at the least cost.

    `costs[n]` is the least that the first n words can cost, `begins[n]` where the last caption of
    that cut begins. A caption holds a handful of words, so the time grows with their number only.
    """
    widths = [width(word.text) for word in words]
    label_width = width(f"{label}: ") if label else 0
    costs = [0.0] + [math.inf] * len(words)
    begins = [0] * len(costs)
    for first, word in enumerate(words):
        # Room for the name is kept in each: any may come after a caption of another speaker.
        total = label_width
        lines, line = (1, label_width) if label_width else (0, _LINE_WIDTH)
        for last in range(first, len(words)):
            lead = len(words[last].lead) if last > first else 0
            total += lead + widths[last]
            line += lead + widths[last]
            if line > _LINE_WIDTH:
                lines, line = lines + 1, widths[last]
            is_long = lines > _LINES or words[last].end - word.start > _MAX_CAPTION_MS
            is_broken = last > first and is_pause(words[last - 1], words[last], _CAPTION_PAUSE_MS)
            if last > first and (is_long or is_broken):
                break
            cost = costs[first] + _caption_cost(words, first, last, total)
            if cost < costs[last + 1]:
                costs[last + 1], begins[last + 1] = cost, first

    cuts = [len(words)]
    while cuts[-1]:
        cuts.append(begins[cuts[-1]])
    for first, end in itertools.pairwise(reversed(cuts)):
        yield words[first:end]


def _caption_cost(words: Sequence[Word], first: int, last: int, total: int) -> float:
    """
    What a caption of these words costs, in captions.

    One for being there, up to one more for being full (the square makes neighbours alike), and
    what is lost by where it ends or by passing too quickly.
    """
    fullness = total / (_LINES * _LINE_WIDTH)
    cost = 1 + fullness * fullness
    ends_turn = last + 1 == len(words)
    if ends_turn or is_pause(words[last], words[last + 1], _CAPTION_PAUSE_MS):
        return cost
    if words[last].end - words[first].start < _MIN_CAPTION_MS:
        cost += 2
    return cost + strain(words[last], words[last + 1])


def _starts(spoken: Iterable[Caption]) -> Iterator[int]:
    """When captions come up: as they are spoken, or once the one before has had its time."""
    due = wished = 0
    for caption in spoken:
        start = max(caption.start, due, min(wished, caption.start + _WAIT_MS))
        yield start
        length_ms = max(caption.end - caption.start, 1)
        due = start + min(length_ms, _MIN_CAPTION_MS)
        wished = start + min(length_ms, _reading_ms(caption.words))
